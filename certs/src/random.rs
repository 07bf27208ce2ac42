//! The one place of this crate that draws randomness.

use zeroize::Zeroizing;

/// 32 bytes from which an evidence key is made; wiped on drop.
pub type Seed = Zeroizing<[u8; 32]>;

/// The system's random generator failed. Nothing secret may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random number generator failed; no key can be made")]
pub struct NoRandomness;

/// Draws a seed.
///
/// # Errors
/// [`NoRandomness`]
pub fn seed() -> Result<Seed, NoRandomness> {
    let mut seed = Zeroizing::new([0_u8; 32]);
    aws_lc_rs::rand::fill(seed.as_mut_slice()).map_err(|_| NoRandomness)?;
    Ok(seed)
}

/// Random bytes; wiped on drop.
///
/// # Errors
/// [`NoRandomness`]
pub fn bytes(len: usize) -> Result<Zeroizing<Vec<u8>>, NoRandomness> {
    let mut bytes = Zeroizing::new(vec![0_u8; len]);
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// A certificate serial number: 127 random bits, so that it is positive and always 16 bytes.
pub(crate) fn serial() -> Result<[u8; 16], NoRandomness> {
    let mut serial = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| NoRandomness)?;
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x3f) | 0x40;
    }
    Ok(serial)
}
