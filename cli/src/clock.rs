//! The rim: the one place where this program reads the clock and draws randomness.

use exhibit_evidence::Timestamp;

/// The wall clock.
#[allow(clippy::disallowed_methods, reason = "the program's one reading of the wall clock")]
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ns(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Ten random bytes for an id, from the kernel.
pub fn random_10() -> std::io::Result<[u8; 10]> {
    random()
}

/// The seed of a key, from the kernel.
pub fn random_32() -> std::io::Result<[u8; 32]> {
    random()
}

fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    use std::io::Read as _;
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
