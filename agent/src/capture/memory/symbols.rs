//! The address of one of the kernel's symbols, from `/proc/kallsyms`.

use std::io::{BufRead as _, BufReader};

/// The longest line that is looked at; the kernel's names have up to 512 bytes.
const LINE_BYTES_MAX: usize = 1_024;
/// Bytes that are looked at; a kernel's list with that of its modules has some 10 MiB.
const BYTES_MAX: u64 = 128 << 20;

/// Where a symbol of the kernel is; none where addresses are hidden (`kptr_restrict`).
#[must_use]
pub fn address(name: &str) -> Option<u64> {
    let file = std::fs::File::open("/proc/kallsyms").ok()?;
    find(std::io::Read::take(BufReader::with_capacity(64 << 10, file), BYTES_MAX), name)
}

/// Goes through a list, a line at a time.
fn find(mut list: impl std::io::BufRead, name: &str) -> Option<u64> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let got = std::io::Read::take(&mut list, LINE_BYTES_MAX as u64).read_until(b'\n', &mut line).ok()?;
        if got == 0 {
            return None;
        }
        let mut words = line.trim_ascii().split(|b| *b == b' ');
        let (address, _, found) = (words.next()?, words.next(), words.next());
        if found == Some(name.as_bytes()) {
            let address = u64::from_str_radix(std::str::from_utf8(address).ok()?, 16).ok()?;
            return (address != 0).then_some(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_is_found_and_a_hidden_one_is_not() {
        let list = b"ffffffff81000000 T _text\nffffffff82a0a000 D init_top_pgt\nffffffffc0000000 t init_top_pgt\t[evil]\n";
        assert_eq!(find(&list[..], "init_top_pgt"), Some(0xffff_ffff_82a0_a000));
        assert_eq!(find(&list[..], "init_top"), None);
        assert_eq!(find(&b"0000000000000000 D init_top_pgt\n"[..], "init_top_pgt"), None);
        assert_eq!(find(&vec![b'x'; 5000][..], "x"), None);
    }

    proptest::proptest! {
        #[test]
        fn a_symbol_is_found_behind_any_others_and_any_bytes_are_handled(
            others in proptest::collection::vec("[0-9a-f]{16} [a-zA-Z] [a-z_]{1,30}(\t\\[[a-z]{1,9}\\])?", 0..20),
            address in 1_u64..u64::MAX,
            noise in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        ) {
            let list: Vec<String> = others.into_iter().chain([format!("{address:016x} D Sought")]).collect();
            proptest::prop_assert_eq!(find(list.join("\n").as_bytes(), "Sought"), Some(address));
            let _ = find(&noise[..], "x");
        }
    }
}
