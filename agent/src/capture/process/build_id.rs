//! The build id of a program: the note by which debuggers and distributors find the source and symbols that belong to it
//! (`NT_GNU_BUILD_ID`, ELF). Any bytes in, never a panic; what is not understood is no build id.

use std::os::fd::AsFd;

use rustix::io::pread;

use crate::capture::live::to_hex;

/// Program headers looked at; a program has about a dozen.
const PHDRS_MAX: usize = 128;
/// Bytes of one segment of notes that are read.
const NOTES_BYTES_MAX: usize = 64 << 10;
/// The longest id: SHA-512. Usual are 20 bytes.
const ID_BYTES_MAX: usize = 64;
const PT_NOTE: u64 = 4;
const NT_GNU_BUILD_ID: u64 = 3;

/// Reads the id of an open program, as hexadecimal digits.
pub fn read(file: impl AsFd) -> Option<String> {
    find(&|offset, buffer| pread(&file, buffer, offset).unwrap_or(0))
}

/// How a file says its numbers.
#[derive(Clone, Copy)]
struct Form {
    wide: bool,
    big: bool,
}

impl Form {
    /// The number of so many bytes at a place.
    fn number(self, bytes: &[u8], at: usize, width: usize) -> Option<u64> {
        let field = bytes.get(at..at.checked_add(width)?)?;
        let add = |n: u64, b: &u8| (n << 8) | u64::from(*b);
        Some(if self.big { field.iter().fold(0, add) } else { field.iter().rev().fold(0, add) })
    }
}

fn find(read: &dyn Fn(u64, &mut [u8]) -> usize) -> Option<String> {
    let bytes_at = |offset: u64, length: usize| {
        let mut buffer = vec![0; length];
        let got = read(offset, &mut buffer);
        buffer.truncate(got);
        buffer
    };
    let ehdr = bytes_at(0, 64);
    let form = match ehdr.get(..6)? {
        [0x7f, b'E', b'L', b'F', class @ (1 | 2), data @ (1 | 2)] => Form { wide: *class == 2, big: *data == 2 },
        _ => return None,
    };
    let (phoff, size, count) = if form.wide {
        (form.number(&ehdr, 32, 8)?, form.number(&ehdr, 54, 2)?, form.number(&ehdr, 56, 2)?)
    } else {
        (form.number(&ehdr, 28, 4)?, form.number(&ehdr, 42, 2)?, form.number(&ehdr, 44, 2)?)
    };
    let size = usize::try_from(size).ok().filter(|s| (32..=256).contains(s))?;
    let count = usize::try_from(count).ok()?.min(PHDRS_MAX);
    let table = bytes_at(phoff, size.checked_mul(count)?);
    table.chunks_exact(size).find_map(|p| {
        if form.number(p, 0, 4)? != PT_NOTE {
            return None;
        }
        let (offset, length) =
            if form.wide { (form.number(p, 8, 8)?, form.number(p, 32, 8)?) } else { (form.number(p, 4, 4)?, form.number(p, 16, 4)?) };
        in_notes(&bytes_at(offset, usize::try_from(length).ok()?.min(NOTES_BYTES_MAX)), form)
    })
}

fn in_notes(mut notes: &[u8], form: Form) -> Option<String> {
    loop {
        let field = |at| form.number(notes, at, 4).and_then(|n| usize::try_from(n).ok());
        let (name_bytes, id_bytes, kind) = (field(0)?, field(4)?, form.number(notes, 8, 4)?);
        let name_end = 12_usize.checked_add(name_bytes)?;
        let id_at = name_end.checked_next_multiple_of(4)?;
        let id_end = id_at.checked_add(id_bytes)?;
        if kind == NT_GNU_BUILD_ID && notes.get(12..name_end)? == b"GNU\0" && (1..=ID_BYTES_MAX).contains(&id_bytes) {
            return notes.get(id_at..id_end).map(to_hex);
        }
        notes = notes.get(id_end.checked_next_multiple_of(4)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(bytes: &[u8]) -> Option<String> {
        find(&|offset, buffer| {
            let rest = usize::try_from(offset).ok().and_then(|o| bytes.get(o..)).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            count
        })
    }

    #[test]
    fn readelf_says_the_same() {
        let program = std::fs::read("/bin/sleep").expect("sleep");
        let said = std::process::Command::new("readelf").args(["-n", "/bin/sleep"]).output().expect("readelf");
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let theirs = said.lines().find_map(|l| l.trim().strip_prefix("Build ID: ")).map(str::to_owned);
        assert_eq!(of(&program), theirs);
        assert_eq!(read(std::fs::File::open("/bin/sleep").expect("open")), theirs);
    }

    #[test]
    fn both_widths_and_both_orders() {
        for (wide, big) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut elf = vec![0_u8; 512];
            let mut put = |at: usize, width: usize, n: u64| {
                for i in 0..width {
                    let shift = 8 * if big { width - 1 - i } else { i };
                    elf[at + i] = (n >> shift) as u8;
                }
            };
            put(if wide { 32 } else { 28 }, if wide { 8 } else { 4 }, 64);
            put(if wide { 54 } else { 42 }, 2, if wide { 56 } else { 32 });
            put(if wide { 56 } else { 44 }, 2, 1);
            put(64, 4, 4);
            put(64 + if wide { 8 } else { 4 }, if wide { 8 } else { 4 }, 256);
            put(64 + if wide { 32 } else { 16 }, if wide { 8 } else { 4 }, 64);
            for (at, n) in [(256, 4), (260, 4), (264, 1), (276, 4), (280, 3), (284, 3)] {
                put(at, 4, n);
            }
            elf[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1 + u8::from(wide), 1 + u8::from(big)]);
            elf[268..272].copy_from_slice(b"GNU\0");
            elf[288..292].copy_from_slice(b"GNU\0");
            elf[292..295].copy_from_slice(&[0xab, 0xcd, 0xef]);
            assert_eq!(of(&elf).as_deref(), Some("abcdef"), "wide {wide}, big {big}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>) {
            let _ = of(&bytes);
        }

        #[test]
        fn damage_is_taken(at in 0_usize..2000, byte: u8) {
            let mut program = std::fs::read("/bin/sleep").expect("sleep");
            program[at] = byte;
            let _ = of(&program);
        }
    }
}
