//! The tiles over the records: they follow from the records, so each one that is there must be what the records give.
//! One that is missing is no finding: whoever has the records can make it again.

use std::collections::BTreeSet;

use super::{CaseFiles, Code, Findings, read_bounded, unreadable};
use crate::digest::Digest;
use crate::log::{Layer, TILE_WIDTH, Tile, bundle_entries, complete_root};

/// Compares every tile with the hashes of the records.
pub(super) fn check(files: &dyn CaseFiles, leaves: &[Digest], tiles: &BTreeSet<Tile>, findings: &mut Findings) {
    if tiles.is_empty() {
        return;
    }
    let rows = rows(leaves);
    let mut buffer = Vec::new();
    for tile in tiles {
        let object = format!("log/{tile}");
        let level = match tile.layer() {
            Layer::Hashes(level) => level,
            Layer::Entries => 0,
        };
        let first = tile.index().saturating_mul(TILE_WIDTH) as usize;
        let expected = rows.get(usize::from(level)).and_then(|row| row.get(first..first.saturating_add(tile.width() as usize)));
        let Some(expected) = expected else {
            findings.add(Code::LogTile, &object, format!("'{object}' lies beyond the {} records", leaves.len()));
            continue;
        };
        if let Err(e) = read_bounded(files, &object, tile.bytes_max(), &mut buffer) {
            findings.add(unreadable(&e, Code::LogTile), &object, format!("'{object}' cannot be read: {e}"));
            continue;
        }
        let is_right = match tile.layer() {
            Layer::Hashes(_) => buffer.len() == expected.len() * 32 && buffer.chunks(32).zip(expected).all(|(a, b)| a == b.as_bytes()),
            Layer::Entries => bundle_entries(&buffer)
                .is_some_and(|entries| entries.len() == expected.len() && entries.iter().zip(expected).all(|((_, hash), b)| hash == b)),
        };
        if !is_right {
            findings.add(Code::LogTile, &object, format!("'{object}' is not what the records give"));
        }
    }
}

/// The hashes of each level: those of the records, then the roots of 256 of them at a time, and so on.
fn rows(leaves: &[Digest]) -> Vec<Vec<Digest>> {
    let mut rows = vec![leaves.to_vec()];
    while let Some(row) = rows.last().filter(|row| row.len() as u64 >= TILE_WIDTH) {
        let next = row.chunks_exact(TILE_WIDTH as usize).map(complete_root).collect();
        rows.push(next);
    }
    rows
}
