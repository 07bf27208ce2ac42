//! What a log in the store is for whoever reads it without opening it: found by the functions that open one, and nothing is written and
//! nobody is told. So `store verify` and `store attest` come to what `reindex` and a coordinator come to.

use std::sync::Arc;

use bytes::Bytes;
use exhibit_evidence::layout::{self, CaseObject, LogName};
use exhibit_evidence::log::{NOTE_BYTES_MAX, Tile};

use super::opening::{Tiles, examine, is_right, tiles_of};
use super::{Head, Keys, Kind, Known, LedgerError, News, View, heads};
use crate::store::Store;

/// A log as whoever opens it finds it.
#[derive(Debug, Clone)]
pub struct Look {
    /// The folder of its records, with a slash at the end.
    seq: String,
    /// Records of it.
    pub size: u64,
    /// Its newest head, where something else is what a reader gets.
    pub head: Option<Bytes>,
    /// What is wrong with its heads, in words, as far as none of its records says it.
    pub wrong_heads: Vec<String>,
    /// What an opening would tell.
    pub news: Vec<News>,
    /// What its records say.
    pub view: Arc<View>,
    /// What its tiles must be.
    tiles: Arc<Tiles>,
}

impl Look {
    /// True of an object in a record's place that is no part of the log: beyond its last record, where no head and nothing that was
    /// published reaches.
    #[must_use]
    pub fn is_beside(&self, object: &str) -> bool {
        object.starts_with(&self.seq) && matches!(layout::parse(object), Some((_, CaseObject::Slot(n))) if n >= self.size)
    }

    /// Whether a tile is what the records give; none of one over records that the log has not.
    #[must_use]
    pub fn gives(&self, tile: &Tile, bytes: &[u8]) -> Option<bool> {
        let there = Tile::of(tile.layer(), tile.index(), self.size)?;
        (tile.width() <= there.width()).then(|| is_right(&self.tiles, tile, bytes))
    }

    /// Those of the heads that are of another history than the newest one: a log does not simply go on past them.
    pub fn contradictions(&self) -> impl Iterator<Item = &String> {
        self.wrong_heads.iter().filter(|wrong| wrong.contains(heads::CONTRADICTS))
    }
}

/// Looks at a log; `published` is a head that it must hold. What is hidden in the store is to be recalled before.
///
/// # Errors
/// As [`super::Ledger::open`]: [`Kind::Damaged`] of a log that nobody could open.
pub async fn look(store: &Arc<dyn Store>, name: &LogName, keys: &Keys, published: Option<Head>) -> Result<Look, LedgerError> {
    let nothing = Known::default();
    let examined = Box::pin(examine(store, name, keys, (published, &nothing))).await?;
    let head = match examined.heads.beneath() {
        Some(version) => Some(store.get_version(&name.checkpoint(), version, NOTE_BYTES_MAX as u64).await?),
        None => None,
    };
    let (size, wrong_heads, news) = (examined.size(), examined.wrong_heads(), examined.news());
    let view = examined.into_view();
    let tiles = Arc::new(tiles_of(&view));
    Ok(Look { seq: format!("{}/seq/", name.folder()), size, head, wrong_heads, news, view: Arc::new(view), tiles })
}

/// Of how many records the head is that a reader gets; none where there is none, or what lies there is no head of this log.
///
/// # Errors
/// As the store fails.
pub async fn top(store: &dyn Store, name: &LogName, keys: &Keys) -> Result<Option<u64>, LedgerError> {
    match heads::read(store, name, keys).await {
        Ok(top) => Ok(top.map(|top| top.size)),
        Err(e) if e.kind() == Kind::Damaged => Ok(None),
        Err(e) => Err(e),
    }
}
