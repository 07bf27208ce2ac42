//! Readers of memory images and of what a kernel says about itself. Everything here came from a host that may have been hostile:
//! bounded, typed, without a panic.

pub mod image;
pub mod lime;
pub mod notes;
pub mod paging;
pub mod vmcoreinfo;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}, byte {at}: {problem}")]
pub struct Malformed {
    /// The thing that was read.
    pub what: &'static str,
    /// Where in it, in bytes from its beginning.
    pub at: u64,
    /// What is wrong there.
    pub problem: &'static str,
}

impl Malformed {
    /// One of `what` at a place.
    pub const fn new(what: &'static str, at: u64, problem: &'static str) -> Self {
        Self { what, at, problem }
    }
}

impl From<Malformed> for crate::exit::Failure {
    fn from(e: Malformed) -> Self {
        Self::new(crate::exit::Code::Input, e.to_string())
    }
}

/// Bytes of a page: kernels on x86-64 have no other.
pub const PAGE_BYTES: u64 = 4_096;

/// The number at a place of a buffer, little-endian; none beyond its end.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

/// The number at a place of a buffer, little-endian; none beyond its end.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}
