//! Sets of registers, kept without their zeros: of the kilobytes that a processor saves for a thread most are zeros, and a process
//! may have thousands of threads.

/// A set as the kernel gave it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    bytes: usize,
    /// A bit for each word, the lowest bit of a byte first, then the words whose bit is set.
    packed: Box<[u8]>,
}

const WORD_BYTES: usize = 8;

impl Set {
    /// Packs it.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut packed = vec![0_u8; marks(bytes.len())];
        for (n, word) in bytes.chunks(WORD_BYTES).enumerate() {
            if word.iter().all(|b| *b == 0) {
                continue;
            }
            if let Some(mark) = packed.get_mut(n / 8) {
                *mark |= bit(n);
            }
            packed.extend_from_slice(word);
        }
        Self { bytes: bytes.len(), packed: packed.into_boxed_slice() }
    }

    /// Bytes of the set.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.bytes
    }

    /// Bytes that it takes.
    #[must_use]
    pub const fn packed_bytes(&self) -> usize {
        self.packed.len()
    }

    /// The set.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = vec![0_u8; self.bytes];
        let Some((marks, mut words)) = self.packed.split_at_checked(marks(self.bytes)) else { return all };
        for (n, to) in all.chunks_mut(WORD_BYTES).enumerate() {
            if marks.get(n / 8).is_none_or(|mark| mark & bit(n) == 0) {
                continue;
            }
            if let Some((word, rest)) = words.split_at_checked(to.len()) {
                to.copy_from_slice(word);
                words = rest;
            }
        }
        all
    }
}

/// Bytes of the marks of so many bytes.
const fn marks(bytes: usize) -> usize {
    bytes.div_ceil(WORD_BYTES).div_ceil(8)
}

const fn bit(n: usize) -> u8 {
    1 << (n % 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn zeros_take_a_bit_a_word() {
        let mut bytes = vec![0; 2_696];
        assert_eq!(Set::new(&bytes).packed_bytes(), 43);
        bytes[100] = 1;
        bytes[2_695] = 2;
        let set = Set::new(&bytes);
        assert_eq!((set.packed_bytes(), set.size(), set.bytes()), (43 + 16, 2_696, bytes));
    }

    proptest! {
        #[test]
        fn every_byte_comes_back(bytes in proptest::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..400)) {
            let set = Set::new(&bytes);
            prop_assert_eq!(set.bytes(), bytes);
        }
    }
}
