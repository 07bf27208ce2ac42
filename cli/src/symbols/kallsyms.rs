//! The kernel's symbols as `/proc/kallsyms` lists them (Linux `kernel/kallsyms.c`): `ADDRESS TYPE NAME`, and `[MODULE]` for those that are
//! not of the kernel itself.

use std::collections::BTreeMap;

use crate::memory::vmcoreinfo::VmcoreInfo;

/// The largest list that is read; 200,000 symbols take 10 MiB.
pub const BYTES_MAX: usize = 128 << 20;
/// The longest name (`KSYM_NAME_LEN`).
pub const NAME_BYTES_MAX: usize = 512;
/// Where the kernel's half of the address space begins; below are numbers that are not moved: offsets of variables that each processor
/// has of its own.
const KERNEL_HALF: u64 = 1 << 63;
/// Where kernels on x86-64 are linked to run (`CONFIG_PHYSICAL_START` above the map of the kernel's image), if they are not moved.
const LINKED_AT: u64 = 0xffff_ffff_8100_0000;

/// Symbols of the kernel itself: the first address of each name, and how often a name came again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Symbols {
    /// Name to address.
    pub addresses: BTreeMap<String, u64>,
    /// Names that came again, with another address: static functions of the same name. Only the first is kept.
    pub repeated: u64,
    /// Symbols of modules, which are left out: what is described is the kernel.
    pub of_modules: u64,
}

/// What a list of symbols is.
#[derive(Debug, PartialEq, Eq)]
pub enum Listing {
    /// Symbols with addresses.
    Symbols(Symbols),
    /// The kernel wrote zeros for the addresses (`kptr_restrict`), or nothing.
    Hidden,
}

impl Symbols {
    /// Adds one; the first of a name stays.
    pub fn add(&mut self, name: &str, address: u64) {
        if let Some(known) = self.addresses.get(name) {
            self.repeated = self.repeated.saturating_add(u64::from(*known != address));
        } else {
            self.addresses.insert(name.to_owned(), address);
        }
    }

    /// The address of a symbol.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.addresses.get(name).copied()
    }

    /// Takes the slide of the kernel's image out of the addresses.
    pub fn unslide(&mut self, slide: u64) {
        for address in self.addresses.values_mut().filter(|a| **a >= KERNEL_HALF) {
            *address = address.saturating_sub(slide);
        }
    }

    /// What the slide must be when nobody says: how far the kernel's beginning is from where it is linked. None if that is no slide that
    /// a kernel can have (they are moved by multiples of 2 MiB, by less than 1 GiB).
    pub fn guess_slide(&self) -> Option<u64> {
        let start = self.get("_text").or_else(|| self.get("_stext"))?;
        let slide = start.checked_sub(LINKED_AT)?;
        (slide < 1 << 30 && slide.is_multiple_of(2 << 20)).then_some(slide)
    }

    /// A symbol that VMCOREINFO has at another address: then the two are not of the same boot.
    pub fn disagrees<'a>(&self, info: &'a VmcoreInfo) -> Option<&'a str> {
        info.symbols().find(|(name, address)| self.get(name).is_some_and(|ours| ours != *address && *address >= LINKED_AT)).map(|s| s.0)
    }
}

/// Reads a list; lines that are none are passed over.
pub fn read(text: &[u8]) -> Listing {
    let (mut symbols, mut any) = (Symbols::default(), false);
    for line in text.split(|b| *b == b'\n') {
        let Some((address, name, of_module)) = one(line) else { continue };
        any |= address != 0;
        if of_module {
            symbols.of_modules = symbols.of_modules.saturating_add(1);
        } else {
            symbols.add(name, address);
        }
    }
    if any { Listing::Symbols(symbols) } else { Listing::Hidden }
}

fn one(line: &[u8]) -> Option<(u64, &str, bool)> {
    let line = std::str::from_utf8(line.get(..line.len().min(2 * NAME_BYTES_MAX))?).ok()?;
    let mut words = line.split_ascii_whitespace();
    let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
    let address = u64::from_str_radix(address, 16).ok()?;
    (kind.len() == 1 && name.len() < NAME_BYTES_MAX).then_some((address, name, words.next().is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIST: &str = "0000000000000000 A fixed_percpu_data\n0000000000001000 d cpu_debug_store\nffffffffb8a00000 T _text\n\
        ffffffffb8a00000 T _stext\nffffffffb8a00100 t same\nffffffffb8a00200 t same\nffffffffc0200000 t probe\t[virtio]\nnot a line\n";

    #[test]
    fn symbols_of_the_kernel_without_its_slide() {
        let Listing::Symbols(mut symbols) = read(LIST.as_bytes()) else { panic!("symbols") };
        assert_eq!((symbols.addresses.len(), symbols.repeated, symbols.of_modules), (5, 1, 1));
        assert_eq!(symbols.guess_slide(), Some(0x37a0_0000));
        let info = |text: &str| VmcoreInfo::parse(format!("OSRELEASE=6\nSYMBOL(_stext)={text}\n").as_bytes()).expect("good");
        assert_eq!(symbols.disagrees(&info("ffffffffb8a00000")), None);
        assert_eq!(symbols.disagrees(&info("ffffffffb8c00000")), Some("_stext"));
        symbols.unslide(0x37a0_0000);
        assert_eq!((symbols.get("_text"), symbols.get("same")), (Some(LINKED_AT), Some(LINKED_AT + 0x100)));
        assert_eq!(symbols.get("cpu_debug_store"), Some(0x1000), "what each processor has of its own is not moved");
        assert_eq!(read(b"0000000000000000 T _text\n"), Listing::Hidden);
        assert_eq!(read(b""), Listing::Hidden);
    }

    #[test]
    fn this_kernels_symbols_can_be_read() {
        let Ok(text) = std::fs::read("/proc/kallsyms") else { return };
        if let Listing::Symbols(symbols) = read(&text) {
            assert!(symbols.addresses.len() > 1_000);
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(text in proptest::collection::vec(prop_oneof![Just(b' '), Just(b'\n'), Just(b'f'), Just(b'['), any::<u8>()], 0..300)) {
            if let Listing::Symbols(mut symbols) = read(&text) {
                symbols.unslide(u64::MAX);
                let _ = symbols.guess_slide();
            }
        }
    }
}
