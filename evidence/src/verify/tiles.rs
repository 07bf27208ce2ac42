//! The tiles over the records: they follow from the records, so each one that is there must be what the records give.
//! A copy without any is as good: whoever has the records can make them again. Where some lie, one that the checkpoint needs and that is
//! missing is noted.

use std::collections::BTreeSet;

use super::{CaseFiles, Code, Findings, read_bounded, unreadable};
use crate::digest::Digest;
use crate::log::{Layer, TILE_WIDTH, Tile, bundle_entries, complete_root, hash_tiles};

/// Compares every tile with the hashes of the records, and looks for those that the checkpoint over `covered` records needs.
pub(super) fn check(files: &dyn CaseFiles, leaves: &[Digest], tiles: &BTreeSet<Tile>, covered: Option<u64>, findings: &mut Findings) {
    if tiles.is_empty() {
        return;
    }
    // One longer than the records is a finding of its own.
    if let Some(size) = covered.filter(|size| *size <= leaves.len() as u64) {
        missing(tiles, size, findings);
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

/// One finding for all of them: a log has a tile for every 256 records, and what is told of each would hide what else is found.
fn missing(tiles: &BTreeSet<Tile>, size: u64, findings: &mut Findings) {
    let mut gone = hash_tiles(size).filter(|tile| !tiles.contains(tile));
    let Some(first) = gone.next() else { return };
    let more = gone.count();
    let others = if more > 0 { format!(", and {more} more") } else { String::new() };
    let object = format!("log/{first}");
    let message = format!("'{object}' is not there{others}, and the checkpoint of {size} records needs it");
    findings.add(Code::LogTileMissing, &object, message);
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
