//! `/proc/iomem`: which physical addresses are RAM, and where in it the kernel's own image lies.
//! Format: `Documentation/filesystems/proc.rst`; two blanks of indentation a level, inclusive ends, hexadecimal.

use super::ranges::{Range, normal};
use crate::capture::live::{Read, lines};

/// What the table says of RAM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Iomem {
    /// All System RAM.
    pub ram: Vec<Range>,
    /// The kernel's code and constants.
    pub kernel_code: Vec<Range>,
    /// The kernel's data and bss.
    pub kernel_data: Vec<Range>,
    /// Lines that are not in the form.
    pub bad_lines: u64,
    /// Why the table is not whole, if it is not: what it lists behind that is not known.
    pub cut: Option<String>,
    /// Every address was zero: the reader lacks CAP_SYS_ADMIN.
    pub hidden: bool,
}

impl Iomem {
    /// Reads the table as it came.
    #[must_use]
    pub fn of(read: &Read) -> Self {
        let whole = match &read.cut {
            // The last line may have lost its end.
            Some(_) => read.bytes.iter().rposition(|b| *b == b'\n').map_or(0, |n| n.saturating_add(1)),
            None => read.bytes.len(),
        };
        Self { cut: read.cut.clone(), ..Self::parse(read.bytes.get(..whole).unwrap_or_default()) }
    }

    /// What makes the table less than the truth about RAM, in words.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.hidden {
            found.push("/proc/iomem shows only zeros: the agent lacks CAP_SYS_ADMIN, so it is not known where memory is".to_owned());
        }
        if let Some(cut) = &self.cut {
            found.push(format!("/proc/iomem: {cut}: System RAM that it lists behind that is in no map"));
        }
        if self.bad_lines > 0 {
            found.push(format!("{} lines of /proc/iomem have an unknown form: System RAM that they list is in no map", self.bad_lines));
        }
        found
    }

    /// Reads a whole table.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let mut found = Self::default();
        let (mut ram, mut code, mut data) = (Vec::new(), Vec::new(), Vec::new());
        let (mut all, mut zero) = (0_u64, 0_u64);
        for line in lines(text) {
            let Some((range, name)) = parse_line(line) else {
                found.bad_lines = found.bad_lines.saturating_add(1);
                continue;
            };
            all = all.saturating_add(1);
            if range.start == 0 && range.end == 1 {
                zero = zero.saturating_add(1);
                continue;
            }
            // Memory that was added later stands below its device, as `System RAM (kmem)` or `(virtio_mem)`.
            if name == b"System RAM" || name.starts_with(b"System RAM (") {
                ram.push(range);
            } else if name == b"Kernel code" || name == b"Kernel rodata" {
                code.push(range);
            } else if name == b"Kernel data" || name == b"Kernel bss" {
                data.push(range);
            }
        }
        found.hidden = all > 0 && all == zero;
        found.ram = normal(ram);
        found.kernel_code = normal(code);
        found.kernel_data = normal(data);
        found
    }
}

fn parse_line(line: &[u8]) -> Option<(Range, &[u8])> {
    let text = line.trim_ascii_start();
    let colon = text.windows(3).position(|w| w == b" : ")?;
    let (span, name) = (text.get(..colon)?, text.get(colon.checked_add(3)?..)?);
    let dash = span.iter().position(|b| *b == b'-')?;
    let start = digits(span.get(..dash)?)?;
    let last = digits(span.get(dash.checked_add(1)?..)?)?;
    let end = last.checked_add(1)?;
    (end > start).then_some((Range { start, end }, name))
}

/// Hexadecimal without sign or prefix.
fn digits(text: &[u8]) -> Option<u64> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_hexdigit);
    if plain { u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: fn(u64, u64) -> Range = |start, end| Range { start, end };

    #[test]
    fn a_table_is_read_to_the_byte() {
        let table = b"00000000-00000fff : Reserved\n00001000-0009fbff : System RAM\n000f0000-000fffff : System ROM\n\
            00100000-1fffffff : System RAM\n  01000000-02209987 : Kernel code\n  02400000-02e09fff : Kernel rodata\n  03000000-0327c0ff : Kernel data\n\
            100000000-10fffffff : virtio0\n  104000000-107ffffff : System RAM (virtio_mem)\nnonsense\n  5-4 : System RAM\n";
        let found = Iomem::parse(table);
        assert_eq!(found.ram, [R(0x1000, 0x9fc00), R(0x10_0000, 0x2000_0000), R(0x1_0400_0000, 0x1_0800_0000)]);
        assert_eq!(found.kernel_code, [R(0x100_0000, 0x220_9988), R(0x240_0000, 0x2e0_a000)]);
        assert_eq!(found.kernel_data, [R(0x300_0000, 0x327_c100)]);
        assert_eq!((found.bad_lines, found.hidden), (2, false));
    }

    #[test]
    fn zeros_mean_that_it_is_hidden() {
        let found = Iomem::parse(b"00000000-00000000 : Reserved\n00000000-00000000 : System RAM\n");
        assert!(found.hidden && found.ram.is_empty());
        assert!(!Iomem::parse(b"").hidden);
    }

    #[test]
    fn what_is_not_whole_is_said() {
        let read = |cut: Option<&str>| Read {
            bytes: b"00001000-0009ffff : System RAM\n00100000-1fffffff : System RAM".to_vec(),
            cut: cut.map(str::to_owned),
        };
        let (whole, cut) = (Iomem::of(&read(None)), Iomem::of(&read(Some("longer than 62 bytes: cut there"))));
        assert_eq!((whole.ram.len(), whole.problems()), (2, vec![]));
        assert_eq!(cut.ram, [R(0x1000, 0xa_0000)], "a number may have lost digits");
        assert!(cut.problems()[0].contains("cut there"), "{:?}", cut.problems());
        assert!(Iomem::parse(b"nonsense\n").problems()[0].contains("1 lines"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_handled(bytes: Vec<u8>) {
            let _ = Iomem::parse(&bytes);
        }

        #[test]
        fn whatever_is_written_is_read_back(mut ends in proptest::collection::vec(1_u64..u64::MAX, 0..12)) {
            ends.sort_unstable();
            ends.dedup();
            let ranges: Vec<Range> = ends.chunks_exact(2).map(|w| R(w[0], w[1])).collect();
            let lines: Vec<String> = ranges.iter().map(|r| format!("{:08x}-{:08x} : System RAM", r.start, r.end - 1)).collect();
            proptest::prop_assert_eq!(Iomem::parse(lines.join("\n").as_bytes()).ram, normal(ranges));
        }
    }
}
