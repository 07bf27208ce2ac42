//! Physical memory that can be asked for any address: an image in a file, or the pages of one that passed by.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::lime::{self, HEADER_BYTES, Range};
use super::{Malformed, PAGE_BYTES};
use crate::exit::{Code, Failure, Result};

/// Physical memory.
pub trait Physical {
    /// Fills `into` from a physical address; false when a byte of it is not there.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;

    /// A little-endian number.
    fn u64(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    /// `len` bytes.
    fn bytes(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read(address, &mut bytes).then_some(bytes)
    }
}

/// A LiME image in a file.
#[derive(Debug)]
pub struct LimeFile {
    file: File,
    /// Each range with the place of its first byte in the file.
    ranges: Vec<(Range, u64)>,
}

impl LimeFile {
    /// Opens an image: its headers are read, and must reach to the end of the file.
    ///
    /// # Errors
    /// A file that cannot be read, or is no LiME image.
    pub fn open(path: &std::path::Path) -> Result<Self> {
        let cannot = |e: std::io::Error| Failure::new(Code::Input, format!("cannot read {}: {e}", path.display()));
        let file = File::open(path).map_err(cannot)?;
        let size = file.metadata().map_err(cannot)?.len();
        let (mut at, mut after, mut ranges) = (0_u64, 0_u64, Vec::new());
        while at < size {
            let mut header = [0; HEADER_BYTES];
            let here = at;
            let bad = move |problem| Failure::from(Malformed::new("LiME image", here, problem));
            file.read_exact_at(&mut header, at).map_err(|_| bad("ends within a header"))?;
            let range = lime::range(&header, at, after)?;
            let data = at.saturating_add(HEADER_BYTES as u64);
            at = data.saturating_add(range.len);
            if at > size {
                return Err(bad("ends in the middle of a range"));
            }
            if ranges.len() >= lime::RANGES_MAX {
                return Err(bad("more ranges than a machine has"));
            }
            after = range.end();
            ranges.push((range, data));
        }
        Ok(Self { file, ranges })
    }

    /// Calls `each` with the physical address and the text of every VMCOREINFO at the beginning of a page, where kernels keep theirs
    /// (`vmcoreinfo_note`). Copies of it lie about, in whatever read it, and so may any number that somebody planted.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn each_vmcoreinfo(&self, mut each: impl FnMut(u64, &[u8])) -> Result<()> {
        let mut buffer = vec![0; 1 << 20];
        for (range, _) in &self.ranges {
            let mut address = range.start.next_multiple_of(PAGE_BYTES);
            while address < range.end() {
                let want = (range.end() - address).min(buffer.len() as u64) as usize;
                let piece = buffer.get_mut(..want).unwrap_or_default();
                if !self.read(address, piece) {
                    return Err(Failure::new(Code::Input, format!("the image cannot be read at {address:#x}")));
                }
                for (page, text) in piece.chunks(PAGE_BYTES as usize).enumerate().filter_map(|(n, page)| Some((n, note_text(page)?))) {
                    each(address.saturating_add(page as u64 * PAGE_BYTES), text);
                }
                address = address.saturating_add(want as u64);
            }
        }
        Ok(())
    }
}

/// The text of the VMCOREINFO at a physical address.
pub fn vmcoreinfo_at(memory: &dyn Physical, address: u64) -> Option<Vec<u8>> {
    // What is behind its page need not be there.
    [2 * PAGE_BYTES, PAGE_BYTES].iter().find_map(|len| note_text(&memory.bytes(address, *len as usize)?).map(<[u8]>::to_vec))
}

/// The text in a page that begins with a VMCOREINFO note.
fn note_text(page: &[u8]) -> Option<&[u8]> {
    const BEGIN: &[u8] = b"\x0b\0\0\0";
    if !page.starts_with(BEGIN) {
        return None;
    }
    super::notes::vmcoreinfo(page).filter(|text| text.starts_with(b"OSRELEASE="))
}

impl Physical for LimeFile {
    fn read(&self, mut address: u64, mut into: &mut [u8]) -> bool {
        // Ranges may touch: a read may go from one into the next.
        while !into.is_empty() {
            let number = self.ranges.partition_point(|(range, _)| range.end() <= address);
            let Some((range, data)) = self.ranges.get(number).filter(|(range, _)| range.start <= address) else { return false };
            let take = (range.end() - address).min(into.len() as u64) as usize;
            let Some((now, rest)) = into.split_at_mut_checked(take) else { return false };
            if self.file.read_exact_at(now, data.saturating_add(address - range.start)).is_err() {
                return false;
            }
            address = address.saturating_add(take as u64);
            into = rest;
        }
        true
    }
}

/// The pages of a window of physical memory.
#[derive(Debug)]
pub struct Pages {
    window: std::ops::Range<u64>,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Pages {
    /// None yet of a window.
    pub fn new(window: std::ops::Range<u64>) -> Self {
        Self { window, pages: BTreeMap::new() }
    }

    /// Keeps what of a piece lies in the window.
    pub fn keep(&mut self, mut address: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() && address < self.window.end {
            let page = address - address % PAGE_BYTES;
            let place = (address - page) as usize;
            let take = (PAGE_BYTES as usize - place).min(bytes.len());
            let (now, rest) = bytes.split_at_checked(take).unwrap_or((bytes, &[]));
            if self.window.contains(&page) {
                let kept = self.pages.entry(page).or_default();
                // A page comes from its beginning on; one that does not is not whole, and is not kept.
                if kept.len() == place {
                    kept.extend_from_slice(now);
                }
            }
            address = address.saturating_add(take as u64);
            bytes = rest;
        }
    }
}

impl Physical for Pages {
    fn read(&self, mut address: u64, mut into: &mut [u8]) -> bool {
        while !into.is_empty() {
            let page = address - address % PAGE_BYTES;
            let place = (address - page) as usize;
            let take = (PAGE_BYTES as usize - place).min(into.len());
            let Some(bytes) = self.pages.get(&page).and_then(|p| p.get(place..place + take)) else { return false };
            let Some((now, rest)) = into.split_at_mut_checked(take) else { return false };
            now.copy_from_slice(bytes);
            address = address.saturating_add(take as u64);
            into = rest;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_can_be_asked() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("i");
        std::fs::write(&path, lime::tests::image(&[(0x1000, b"abcd"), (0x1004, b"efgh"), (0x9000, b"z")])).expect("write");
        let image = LimeFile::open(&path).expect("good");
        assert_eq!(image.bytes(0x1002, 4).as_deref(), Some(&b"cdef"[..]));
        assert_eq!(image.bytes(0x9000, 1).as_deref(), Some(&b"z"[..]));
        for outside in [0, 0xfff, 0x1008, 0x9001] {
            assert!(image.bytes(outside, 1).is_none(), "{outside:x}");
        }
        assert!(image.bytes(0x1007, 2).is_none());
        std::fs::write(&path, &lime::tests::image(&[(0x1000, b"abcd")])[..35]).expect("write");
        assert!(LimeFile::open(&path).is_err());
    }

    proptest::proptest! {
        #[test]
        fn an_altered_image_is_refused_or_read_within_itself((at, byte) in (0_usize..200, proptest::num::u8::ANY), cut in proptest::bool::ANY) {
            let dir = tempfile::tempdir().expect("folder");
            let path = dir.path().join("i");
            let mut bytes = lime::tests::image(&[(0x1000, b"abcdefgh"), (0x3000, b"ijkl")]);
            let at = at % bytes.len();
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
            std::fs::write(&path, &bytes).expect("write");
            if let Ok(image) = LimeFile::open(&path) {
                let held: u64 = image.ranges.iter().map(|(range, _)| range.len).sum();
                proptest::prop_assert!(held <= bytes.len() as u64);
                image.each_vmcoreinfo(|_, _| {}).expect("all of it is there");
            }
        }
    }

    #[test]
    fn a_window_is_kept() {
        let mut pages = Pages::new(0x2000..0x4000);
        let data: Vec<u8> = (0..0x4000).map(|i| (i / 7) as u8).collect();
        for (i, piece) in data.chunks(1_000).enumerate() {
            pages.keep(0x1000 + i as u64 * 1_000, piece);
        }
        assert_eq!(pages.bytes(0x2fff, 2).as_deref(), Some(&data[0x1fff..0x2001]));
        assert_eq!(pages.bytes(0x2000, 0x2000).as_deref(), Some(&data[0x1000..0x3000]));
        assert!(pages.bytes(0x1fff, 1).is_none() && pages.bytes(0x3fff, 2).is_none());
    }

    #[test]
    fn the_note_is_found_in_its_page() {
        let mut memory = vec![0; 3 * 4096];
        let note = crate::memory::notes::write(b"VMCOREINFO", 0, b"OSRELEASE=6.1\n").expect("small");
        memory[8_192..8_192 + note.len()].copy_from_slice(&note);
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("i");
        std::fs::write(&path, lime::tests::image(&[(0x800, &memory[..4_096]), (0x3000, &memory[4_096..])])).expect("write");
        let found = |path| {
            let mut all = Vec::new();
            LimeFile::open(path).expect("good").each_vmcoreinfo(|at, text| all.push((at, text.to_vec()))).expect("readable");
            all
        };
        assert_eq!(found(&path), [(0x4000, b"OSRELEASE=6.1\n".to_vec())]);
        let image = LimeFile::open(&path).expect("good");
        assert_eq!(vmcoreinfo_at(&image, 0x4000).as_deref(), Some(&b"OSRELEASE=6.1\n"[..]));
        assert_eq!((vmcoreinfo_at(&image, 0x3000), vmcoreinfo_at(&image, 0x9000)), (None, None));
        // However many there are, each is handed on.
        let page = |n: u64| {
            let note = crate::memory::notes::write(b"VMCOREINFO", 0, format!("OSRELEASE={n}\n").as_bytes()).expect("small");
            [&note[..], &vec![0; 4096 - note.len()]].concat()
        };
        let pages: Vec<u8> = (0..300).flat_map(page).collect();
        std::fs::write(&path, lime::tests::image(&[(0x1000, &pages)])).expect("write");
        let all = found(&path);
        assert_eq!((all.len(), all.last()), (300, Some(&(0x1000 + 299 * 4096, b"OSRELEASE=299\n".to_vec()))));
    }
}
