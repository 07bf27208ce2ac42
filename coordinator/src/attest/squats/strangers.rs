//! Whether what lies under a name of the layout is ours at all: tiles over records that do not exist, and what lies in the folder of a
//! sealed collection without being named by what was signed. What cannot be told is taken for ours.

use exhibit_evidence::layout::{CaseObject, LogName};
use exhibit_evidence::log::{Layer, TILE_WIDTH, Tile};

use super::{Logs, later};
use crate::seal::named;
use crate::several;
use crate::store::attest::Judge as _;
use crate::store::{Kind, StoreError};

impl Logs {
    /// Why nothing that was signed speaks of an object, in words for a message.
    pub(super) async fn why_strange(&self, log: &LogName, object: &CaseObject) -> Result<Option<String>, StoreError> {
        match object {
            CaseObject::Tile(tile) => self.beyond_head(log, tile).await,
            CaseObject::Segment(..) | CaseObject::Manifest(..) => self.unsealed(log, object).await,
            CaseObject::Checkpoint | CaseObject::Slot(_) | CaseObject::Cosigned(..) | CaseObject::Timestamp(..) => Ok(None),
        }
    }

    /// A process that died between a tile and the head leaves tiles beyond it. The records below them are there.
    async fn beyond_head(&self, log: &LogName, tile: &Tile) -> Result<Option<String>, StoreError> {
        if covers(tile, self.remembered(log)) {
            return Ok(None);
        }
        let size = self.published(log).await?;
        if covers(tile, size) {
            return Ok(None);
        }
        if let Some(last) = last_record(tile) {
            let is_there = match self.store.size(&log.slot(last)).await {
                Ok(_) => true,
                Err(e) if e.kind() == Kind::NotFound => false,
                Err(e) if e.kind() == Kind::Retry => return Err(e),
                Err(_) => return Ok(None),
            };
            if is_there && self.squats(log, last).await?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(format!("it is a tile over records that are not there: the log has {}", several::count(size, "record"))))
    }

    async fn unsealed(&self, log: &LogName, object: &CaseObject) -> Result<Option<String>, StoreError> {
        let (LogName::Case(case), CaseObject::Segment(collection, ..) | CaseObject::Manifest(collection, _)) = (log, object) else {
            return Ok(None);
        };
        // What was sealed stays so; what was not is asked for again with the next object.
        let known = self.sealed().as_ref().filter(|known| known.is_of(case, collection)).map(|known| known.allows(object));
        let allowed = match known {
            Some(allowed) => allowed,
            None => match named(&*self.catalog, case, collection).await.map_err(|e| later(&e))? {
                Some(found) => {
                    let allowed = found.allows(object);
                    *self.sealed() = Some(found);
                    allowed
                }
                None => true,
            },
        };
        Ok((!allowed).then(|| "the collection is sealed, and no signed manifest of it names this".to_owned()))
    }
}

/// Whether a tree of so many records has a tile, or has it wider.
fn covers(tile: &Tile, size: u64) -> bool {
    Tile::of(tile.layer(), tile.index(), size).is_some_and(|there| tile.width() <= there.width())
}

/// The last record that a tile covers.
fn last_record(tile: &Tile) -> Option<u64> {
    let each = match tile.layer() {
        Layer::Hashes(level) => TILE_WIDTH.checked_pow(u32::from(level))?,
        Layer::Entries => 1,
    };
    let hashes = tile.index().checked_mul(TILE_WIDTH)?.checked_add(tile.width())?;
    hashes.checked_mul(each)?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_needs_its_last_record() {
        for (path, last) in [
            ("tile/0/000.p/1", Some(0)),
            ("tile/0/000", Some(255)),
            ("tile/0/999", Some(255_999)),
            ("tile/entries/001.p/2", Some(257)),
            ("tile/1/000.p/2", Some(511)),
        ] {
            let tile = Tile::parse(path).expect("a tile");
            assert_eq!(last_record(&tile), last, "{path}");
            let size = last.expect("a record") + 1;
            assert!(covers(&tile, size) && !covers(&tile, size - 1), "{path}");
        }
    }
}
