//! One 512-byte header block of POSIX ustar: the few fields that we use, in the one form that we write.

/// Bytes in a tar block.
pub(super) const BLOCK: usize = 512;

/// The largest value of a 12-byte octal field (11 digits).
pub(super) const OCTAL_11_MAX: u64 = 0o777_7777_7777;
/// The largest value of an 8-byte octal field (7 digits).
pub(super) const OCTAL_7_MAX: u32 = 0o777_7777;

/// Type flags that a stream may hold.
pub(super) mod flag {
    pub const FILE: u8 = b'0';
    pub const HARDLINK: u8 = b'1';
    pub const SYMLINK: u8 = b'2';
    pub const DIRECTORY: u8 = b'5';
    pub const PAX: u8 = b'x';
}

const NAME: (usize, usize) = (0, 100);
const MODE: (usize, usize) = (100, 8);
const UID: (usize, usize) = (108, 8);
const GID: (usize, usize) = (116, 8);
const SIZE: (usize, usize) = (124, 12);
const MTIME: (usize, usize) = (136, 12);
const CHECKSUM: (usize, usize) = (148, 8);
const TYPE: (usize, usize) = (156, 1);
const LINK: (usize, usize) = (157, 100);
const MAGIC: (usize, usize) = (257, 8);
const DEVICE_MAJOR: (usize, usize) = (329, 8);
const DEVICE_MINOR: (usize, usize) = (337, 8);

const MAGIC_VALUE: &[u8; 8] = b"ustar\x0000";

/// The fields of a header block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    /// At most 100 bytes; longer values are cut by [`Fields::to_block`].
    pub name: &'a [u8],
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: u64,
    pub flag: u8,
    /// At most 100 bytes; longer values are cut by [`Fields::to_block`].
    pub link: &'a [u8],
}

/// Why a block is not a header that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockFault {
    Magic,
    Checksum,
    Field(&'static str),
}

fn put(block: &mut [u8; BLOCK], (at, len): (usize, usize), bytes: &[u8]) {
    if let Some(field) = block.get_mut(at..at.saturating_add(len)) {
        for (to, from) in field.iter_mut().zip(bytes) {
            *to = *from;
        }
    }
}

/// Octal digits, as many as the field has room for before its NUL. The caller keeps to the field's largest value.
fn put_octal(block: &mut [u8; BLOCK], (at, len): (usize, usize), mut value: u64) {
    if let Some(field) = block.get_mut(at..at.saturating_add(len).saturating_sub(1)) {
        for place in field.iter_mut().rev() {
            *place = b'0' + (value & 7) as u8;
            value >>= 3;
        }
    }
}

fn field(block: &[u8; BLOCK], (at, len): (usize, usize)) -> &[u8] {
    block.get(at..at.saturating_add(len)).unwrap_or_default()
}

/// Sum of all bytes, the checksum field counted as spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u32::from(*b)).fold(0, u32::wrapping_add);
    sum(block).wrapping_sub(sum(field(block, CHECKSUM))).wrapping_add(8 * u32::from(b' '))
}

/// Exactly `digits` octal digits followed by one NUL.
fn octal(bytes: &[u8]) -> Option<u64> {
    let (end, digits) = bytes.split_last()?;
    if *end != 0 || digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Octal, or GNU base-256: 0x80 and eleven bytes big-endian, of which the first three are zero.
fn size_value(bytes: &[u8]) -> Option<u64> {
    match bytes {
        [0x80, 0, 0, 0, rest @ ..] => Some(u64::from_be_bytes(rest.try_into().ok()?)),
        _ => octal(bytes),
    }
}

/// Bytes up to the first NUL.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

impl<'a> Fields<'a> {
    /// The block. A size above 8 GiB - 1 becomes GNU base-256.
    pub(super) fn to_block(self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        put(&mut block, NAME, self.name);
        put_octal(&mut block, MODE, u64::from(self.mode));
        put_octal(&mut block, UID, u64::from(self.uid));
        put_octal(&mut block, GID, u64::from(self.gid));
        if self.size <= OCTAL_11_MAX {
            put_octal(&mut block, SIZE, self.size);
        } else {
            put(&mut block, SIZE, &[0x80, 0, 0, 0]);
            put(&mut block, (SIZE.0 + 4, 8), &self.size.to_be_bytes());
        }
        put_octal(&mut block, MTIME, self.mtime);
        put(&mut block, TYPE, &[self.flag]);
        put(&mut block, LINK, self.link);
        put(&mut block, MAGIC, MAGIC_VALUE);
        put(&mut block, DEVICE_MAJOR, b"0000000");
        put(&mut block, DEVICE_MINOR, b"0000000");
        let sum = checksum(&block);
        // Six digits, NUL, space.
        put_octal(&mut block, (CHECKSUM.0, CHECKSUM.1 - 1), u64::from(sum));
        put(&mut block, (CHECKSUM.0 + CHECKSUM.1 - 1, 1), b" ");
        block
    }

    /// Reads the fields that matter; that the rest is as we write it is checked by writing it again.
    pub(super) fn parse(block: &'a [u8; BLOCK]) -> Result<Self, BlockFault> {
        if field(block, MAGIC) != MAGIC_VALUE {
            return Err(BlockFault::Magic);
        }
        let stated = field(block, CHECKSUM).strip_suffix(b" ").and_then(octal);
        if stated != Some(u64::from(checksum(block))) {
            return Err(BlockFault::Checksum);
        }
        let small = |at, name| octal(field(block, at)).and_then(|v| u32::try_from(v).ok()).ok_or(BlockFault::Field(name));
        Ok(Self {
            name: text(field(block, NAME)),
            mode: small(MODE, "mode")?,
            uid: small(UID, "uid")?,
            gid: small(GID, "gid")?,
            size: size_value(field(block, SIZE)).ok_or(BlockFault::Field("size"))?,
            mtime: octal(field(block, MTIME)).ok_or(BlockFault::Field("mtime"))?,
            flag: field(block, TYPE).first().copied().unwrap_or_default(),
            link: text(field(block, LINK)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_comes_back() {
        for size in [0, 1, OCTAL_11_MAX, OCTAL_11_MAX + 1, u64::MAX] {
            let fields = Fields {
                name: &[b'n'; 100],
                mode: 0o7777,
                uid: OCTAL_7_MAX,
                gid: 0,
                size,
                mtime: OCTAL_11_MAX,
                flag: flag::FILE,
                link: b"l",
            };
            let block = fields.to_block();
            assert_eq!(Fields::parse(&block), Ok(fields));
        }
    }

    // The sum of an otherwise empty ustar block, by hand: 8 spaces = 256; 'ustar' 117+115+116+97+114 = 559; '00' = 96;
    // five fields of 7 zeros (mode, uid, gid, two devices) = 5 * 7 * 48 = 1680; two of 11 zeros = 1056; '0' = 48. Total 3695 = 0o7157.
    #[test]
    fn checksum_by_hand() {
        let block = Fields { name: b"", mode: 0, uid: 0, gid: 0, size: 0, mtime: 0, flag: flag::FILE, link: b"" }.to_block();
        assert_eq!(&block[148..156], b"007157\0 ");
    }

    proptest::proptest! {
        #[test]
        fn any_block_is_handled(bytes in proptest::collection::vec(proptest::num::u8::ANY, BLOCK), fix: bool) {
            let mut block: [u8; BLOCK] = bytes.try_into().expect("length");
            if fix {
                put(&mut block, MAGIC, MAGIC_VALUE);
                let sum = checksum(&block);
                put(&mut block, CHECKSUM, format!("{sum:06o}\0 ").as_bytes());
            }
            let _ = Fields::parse(&block);
        }
    }
}
