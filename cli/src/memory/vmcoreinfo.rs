//! VMCOREINFO: lines `KEY=VALUE` that a kernel keeps for whoever reads its memory (Linux `kernel/vmcore_info.c`, described in
//! `Documentation/admin-guide/kdump/vmcoreinfo.rst`).

use std::collections::BTreeMap;

/// The kernel has one page for it; this is sixteen.
pub const TEXT_BYTES_MAX: usize = 65_536;
/// Where kernels on x86-64 map their own image (`__START_KERNEL_map`).
pub const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// What the kernel says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmcoreInfo {
    values: BTreeMap<String, String>,
}

impl VmcoreInfo {
    /// Reads the text; lines that are none of ours are passed over. None when it does not begin as every kernel's does, or is longer
    /// than [`TEXT_BYTES_MAX`].
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX || !text.starts_with(b"OSRELEASE=") {
            return None;
        }
        let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        let mut values = BTreeMap::new();
        for line in text.get(..end).unwrap_or_default().split(|b| *b == b'\n') {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            if let Some((key, value)) = line.split_once('=') {
                values.entry(key.to_owned()).or_insert_with(|| value.to_owned());
            }
        }
        Some(Self { values })
    }

    /// A value as it is written.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// The kernel's release.
    pub fn release(&self) -> &str {
        self.text("OSRELEASE").unwrap_or_default()
    }

    /// The address of a symbol as the kernel ran, with its slide.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        hexadecimal(self.text(&format!("SYMBOL({name})"))?)
    }

    /// All symbols that are named, as the kernel ran.
    pub fn symbols(&self) -> impl Iterator<Item = (&str, u64)> {
        self.values.iter().filter_map(|(key, value)| Some((key.strip_prefix("SYMBOL(")?.strip_suffix(')')?, hexadecimal(value)?)))
    }

    /// A number. Kernels write some as signed and some as unsigned; both come as 64 bits.
    pub fn number(&self, name: &str) -> Option<u64> {
        let text = self.text(&format!("NUMBER({name})"))?;
        text.parse::<u64>().ok().or_else(|| text.parse::<i64>().ok().map(|n| n as u64))
    }

    /// How far the kernel's image was moved (KASLR).
    pub fn slide(&self) -> Option<u64> {
        hexadecimal(self.text("KERNELOFFSET")?)
    }

    /// Where an address inside the kernel's own image lies in physical memory: it is there in one piece.
    pub fn image_address(&self, address: u64) -> Option<u64> {
        let base = self.number("phys_base")?;
        Some(address.checked_sub(KERNEL_MAP)?.wrapping_add(base)).filter(|a| *a <= super::lime::ADDRESS_MAX)
    }

    /// The address of the top page table, in physical memory.
    pub fn top_table(&self) -> Option<u64> {
        self.symbol("swapper_pg_dir").or_else(|| self.symbol("init_top_pgt")).and_then(|a| self.image_address(a))
    }

    /// True when the kernel ran with page tables of five levels (LA57).
    pub fn five_levels(&self) -> bool {
        self.number("pgtable_l5_enabled") == Some(1)
    }
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &[u8] = b"OSRELEASE=6.1.0-56-cloud-amd64\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffff9e410000\n\
        NUMBER(phys_base)=-12582912\nNUMBER(pgtable_l5_enabled)=1\nKERNELOFFSET=1c000000\nnonsense\n\0\0\0";

    #[test]
    fn what_a_kernel_says() {
        let info = VmcoreInfo::parse(TEXT).expect("good");
        assert_eq!(info.release(), "6.1.0-56-cloud-amd64");
        assert_eq!(info.slide(), Some(0x1c00_0000));
        assert_eq!(info.number("phys_base"), Some(0x00c0_0000_u64.wrapping_neg()));
        // 0x1e410000 above the map, 0xc00000 below: by hand.
        assert_eq!(info.top_table(), Some(0x1d81_0000));
        assert!(info.five_levels());
        assert_eq!(info.symbols().collect::<Vec<_>>(), [("swapper_pg_dir", 0xffff_ffff_9e41_0000)]);
        assert!(VmcoreInfo::parse(b"something else").is_none());
        assert!(VmcoreInfo::parse(&[b"OSRELEASE=".as_slice(), &vec![b'a'; TEXT_BYTES_MAX]].concat()).is_none());
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(rest in "(SYMBOL|NUMBER|KERNELOFFSET|[a-z()=\n0-9-]){0,60}") {
            if let Some(info) = VmcoreInfo::parse(format!("OSRELEASE={rest}").as_bytes()) {
                let _ = (info.top_table(), info.slide(), info.five_levels(), info.symbols().count());
            }
        }
    }
}
