//! C2SP tlog-tiles: the tree as static objects. A tile holds up to 256 consecutive hashes of the tree at one height; the
//! hashes of level `l + 1` are the roots of full tiles of level `l`. An entry bundle holds up to 256 entries.
//!
//! ```text
//! tile/<level>/<index>[.p/<width>]     32 bytes per hash
//! tile/entries/<index>[.p/<width>]     per entry: its length in 2 bytes, big-endian, then its bytes
//! ```
//!
//! `<index>` is written in groups of three digits, all but the last with an `x` before them: `x001/x234/067`.
//! Tiles follow from the entries: whoever has the entries can make them again.

use super::merkle::{leaf_hash, node_hash};
use crate::digest::Digest;

/// Hashes in a full tile, entries in a full bundle.
pub const TILE_WIDTH: u64 = 256;
/// Bytes of a full hash tile.
pub const TILE_BYTES: u64 = TILE_WIDTH * 32;
/// Bytes of the largest entry bundle: 256 entries of 65,535 bytes, each with its length.
pub const BUNDLE_BYTES_MAX: u64 = TILE_WIDTH * (65_535 + 2);
/// The highest level: level 7 is over 2^56 entries each.
const LEVEL_MAX: u8 = 7;

/// Which layer of the tree a tile is cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// Hashes of subtrees of 256^level entries, level 0 to 7.
    Hashes(u8),
    /// The entries themselves.
    Entries,
}

/// One tile. Its text form is the C2SP path below the log's folder, `tile/0/x001/067.p/12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    layer: Layer,
    index: u64,
    width: u16,
}

impl Tile {
    /// Tile `index` of a layer as a tree of `size` entries has it: full, partial, or `None` where it has nothing.
    #[must_use]
    pub fn of(layer: Layer, index: u64, size: u64) -> Option<Self> {
        let height = match layer {
            Layer::Hashes(level) if level <= LEVEL_MAX => u32::from(level) * 8,
            Layer::Hashes(_) => return None,
            Layer::Entries => 0,
        };
        let begin = index.checked_mul(TILE_WIDTH)?;
        let width = (size >> height).checked_sub(begin).filter(|n| *n > 0)?.min(TILE_WIDTH);
        Some(Self { layer, index, width: width as u16 })
    }

    /// The tile that holds hash `n` of a level. A hash that the tree lacks is looked for in a full tile, and not found.
    pub(super) fn holding(level: u8, n: u64, size: u64) -> Self {
        let (layer, index) = (Layer::Hashes(level), n / TILE_WIDTH);
        Self::of(layer, index, size).unwrap_or(Self { layer, index, width: TILE_WIDTH as u16 })
    }

    /// The layer.
    #[must_use]
    pub const fn layer(&self) -> Layer {
        self.layer
    }

    /// Number of the tile in its layer.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// Hashes or entries in it, 1 to 256.
    #[must_use]
    pub const fn width(&self) -> u64 {
        self.width as u64
    }

    /// True for a tile that will never grow.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.width() == TILE_WIDTH
    }

    /// The largest size of its object in bytes.
    #[must_use]
    pub const fn bytes_max(&self) -> u64 {
        match self.layer {
            Layer::Hashes(_) => self.width() * 32,
            Layer::Entries => BUNDLE_BYTES_MAX,
        }
    }

    /// Reads the path that the text form writes, and no other spelling of it.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let (layer, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let layer = match layer {
            "entries" => Layer::Entries,
            level => Layer::Hashes(level.parse().ok().filter(|l| *l <= LEVEL_MAX)?),
        };
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, width.parse().ok().filter(|w| (1..TILE_WIDTH as u16).contains(w))?),
            None => (rest, TILE_WIDTH as u16),
        };
        let mut number = 0_u64;
        for group in index.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            let value: u64 = (digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())??;
            number = number.checked_mul(1_000)?.checked_add(value)?;
        }
        // Bounded so that no arithmetic on it can overflow, far above every log.
        let tile = Some(Self { layer, index: number, width }).filter(|t| t.index < 1 << 48)?;
        (tile.to_string() == path).then_some(tile)
    }

    /// True for the path of a folder that tiles lie in.
    #[must_use]
    pub fn is_folder(path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let ["tile", rest @ ..] = parts.as_slice() else { return false };
        let [layer, groups @ ..] = rest else { return true };
        let layer_is_known = *layer == "entries" || layer.parse::<u8>().is_ok_and(|l| l <= LEVEL_MAX && l.to_string() == *layer);
        let three = |g: &str| g.len() == 3 && g.bytes().all(|b| b.is_ascii_digit());
        let groups_are = groups.iter().enumerate().all(|(i, group)| {
            let is_last = i + 1 == groups.len();
            group.strip_prefix('x').is_some_and(three) || (is_last && group.strip_suffix(".p").is_some_and(three))
        });
        layer_is_known && groups_are && groups.len() <= 6
    }
}

impl std::fmt::Display for Tile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.layer {
            Layer::Hashes(level) => write!(f, "tile/{level}/")?,
            Layer::Entries => f.write_str("tile/entries/")?,
        }
        let mut groups = vec![self.index % 1_000];
        let mut rest = self.index / 1_000;
        while rest > 0 {
            groups.push(rest % 1_000);
            rest /= 1_000;
        }
        for (i, group) in groups.iter().enumerate().rev() {
            write!(f, "{}{group:03}{}", if i > 0 { "x" } else { "" }, if i > 0 { "/" } else { "" })?;
        }
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

/// Every hash tile that a tree of `size` entries has, level by level.
pub fn hash_tiles(size: u64) -> impl Iterator<Item = Tile> {
    (0..=LEVEL_MAX).flat_map(move |level| {
        let hashes = size >> (u32::from(level) * 8);
        (0..hashes.div_ceil(TILE_WIDTH)).filter_map(move |index| Tile::of(Layer::Hashes(level), index, size))
    })
}

/// Makes the hash tiles of a growing tree. It keeps the hashes of the incomplete tiles only: at most 255 a level.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tiler {
    size: u64,
    /// The hashes of the incomplete tile of each level.
    levels: Vec<Vec<Digest>>,
}

impl Tiler {
    /// The empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Entries so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Appends an entry by its leaf hash; `full` gets each tile that this completes, with its bytes.
    pub fn append(&mut self, leaf: Digest, full: &mut dyn FnMut(Tile, Vec<u8>)) {
        self.size = self.size.saturating_add(1);
        let mut hash = leaf;
        for level in 0..=LEVEL_MAX {
            if self.levels.len() <= usize::from(level) {
                self.levels.push(Vec::new());
            }
            let Some(hashes) = self.levels.get_mut(usize::from(level)) else { return };
            hashes.push(hash);
            if (hashes.len() as u64) < TILE_WIDTH {
                return;
            }
            let index = (self.size >> (u32::from(level) * 8)) / TILE_WIDTH;
            if let Some(tile) = Tile::of(Layer::Hashes(level), index.saturating_sub(1), self.size) {
                full(tile, bytes_of(hashes));
            }
            hash = complete_root(hashes);
            hashes.clear();
        }
    }

    /// The incomplete tiles of the tree as it is now, with their bytes: at most one a level.
    #[must_use]
    pub fn partial(&self) -> Vec<(Tile, Vec<u8>)> {
        let tile = |(level, hashes): (usize, &Vec<Digest>)| {
            let level = level as u8;
            let index = (self.size >> (u32::from(level) * 8)) / TILE_WIDTH;
            let tile = (!hashes.is_empty()).then(|| Tile::of(Layer::Hashes(level), index, self.size))??;
            Some((tile, bytes_of(hashes)))
        };
        self.levels.iter().enumerate().filter_map(tile).collect()
    }
}

fn bytes_of(hashes: &[Digest]) -> Vec<u8> {
    hashes.iter().flat_map(|h| *h.as_bytes()).collect()
}

/// The root over a power of two of hashes.
pub(crate) fn complete_root(hashes: &[Digest]) -> Digest {
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row
            .chunks(2)
            .map(|pair| match pair {
                [left, right] => node_hash(left, right),
                rest => rest.first().copied().unwrap_or_else(|| Digest::of(b"")),
            })
            .collect();
    }
    row.first().copied().unwrap_or_else(|| Digest::of(b""))
}

/// Adds an entry to the bytes of a bundle. `None`, and nothing is added, when it is longer than 65,535 bytes.
#[must_use]
pub fn put_in_bundle(bundle: &mut Vec<u8>, entry: &[u8]) -> Option<()> {
    let length = u16::try_from(entry.len()).ok()?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Some(())
}

/// The entries of a bundle with their leaf hashes; `None` when the bytes end inside one.
#[must_use]
pub fn bundle_entries(mut bundle: &[u8]) -> Option<Vec<(&[u8], Digest)>> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let (length, rest) = bundle.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push((entry, leaf_hash(entry)));
        bundle = rest;
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        // C2SP tlog-tiles: index 1234067, and the tiles of a tree of 70,000 entries.
        let tile = Tile { layer: Layer::Hashes(0), index: 1_234_067, width: 256 };
        assert_eq!(tile.to_string(), "tile/0/x001/x234/067");
        let tiles: Vec<Tile> = hash_tiles(70_000).collect();
        let count = |level, full| tiles.iter().filter(|t| t.layer == Layer::Hashes(level) && t.is_full() == full).count();
        assert_eq!([count(0, true), count(0, false), count(1, true), count(1, false), count(2, false)], [273, 1, 1, 1, 1]);
        let widths: Vec<u64> = tiles.iter().filter(|t| !t.is_full()).map(Tile::width).collect();
        assert_eq!(widths, [112, 17, 1]);
        assert_eq!(Tile::of(Layer::Entries, 273, 70_000).map(|t| t.to_string()).as_deref(), Some("tile/entries/273.p/112"));
        for tile in tiles {
            assert_eq!(Tile::parse(&tile.to_string()), Some(tile));
        }
        for bad in [
            "tile/0/67",
            "tile/0/067.p/0",
            "tile/0/067.p/256",
            "tile/00/067",
            "tile/0/x067",
            "tile/0/x000/067",
            "tile/8/000",
            "tile/0/000.p/01",
            "tile/x/000",
            "tile/0/",
            "tile",
            "tile/0/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(Tile::parse(bad), None, "{bad}");
        }
        for folder in ["tile", "tile/0", "tile/entries", "tile/0/x001", "tile/0/x001/067.p", "tile/entries/000.p"] {
            assert!(Tile::is_folder(folder) && Tile::parse(folder).is_none(), "{folder}");
        }
        for bad in ["tile/9", "tile/0/001", "tile/0/000.p/3", "tile/0/000.p/000.p", "tiles", "tile/0/xabc"] {
            assert!(!Tile::is_folder(bad), "{bad}");
        }
    }

    #[test]
    fn a_growing_tree_makes_exactly_its_tiles() {
        let mut tiler = Tiler::new();
        let mut made = std::collections::BTreeMap::new();
        let leaf = |n: u64| leaf_hash(&n.to_le_bytes());
        for n in 0..66_000_u64 {
            tiler.append(leaf(n), &mut |tile, bytes| assert!(made.insert(tile, bytes).is_none()));
            if n % 997 == 0 || n > 65_500 {
                let now: std::collections::BTreeSet<Tile> =
                    made.keys().copied().chain(tiler.partial().into_iter().map(|(t, _)| t)).collect();
                assert_eq!(now, hash_tiles(n + 1).collect(), "{n}");
            }
        }
        made.extend(tiler.partial());
        for (tile, bytes) in &made {
            assert_eq!(bytes.len() as u64, tile.width() * 32);
            let Layer::Hashes(level) = tile.layer() else { panic!("hashes") };
            let span = 1_u64 << (8 * u32::from(level));
            let first: Vec<Digest> = (0..span).map(|i| leaf(tile.index() * 256 * span + i)).collect();
            assert_eq!(&bytes[..32], complete_root(&first).as_bytes(), "{tile}");
        }
    }

    #[test]
    fn bundles_are_read_as_they_were_written() {
        let mut bundle = Vec::new();
        for entry in [b"".as_slice(), b"one", &vec![7; 65_535]] {
            put_in_bundle(&mut bundle, entry).expect("short enough");
        }
        assert!(put_in_bundle(&mut bundle, &vec![0; 65_536]).is_none());
        let entries = bundle_entries(&bundle).expect("whole");
        assert_eq!(entries.iter().map(|(e, _)| e.len()).collect::<Vec<_>>(), [0, 3, 65_535]);
        assert_eq!(bundle_entries(&bundle[..bundle.len() - 1]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_path_is_handled(path in "(tile/)?[0-9x/.p]{0,40}") {
            if let Some(tile) = Tile::parse(&path) {
                proptest::prop_assert_eq!(tile.to_string(), path);
            }
        }
    }
}
