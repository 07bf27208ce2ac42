//! The tiles of a log: derived from the slots, written before the checkpoint that promises them, made again when they are
//! gone.
//!
//! An append of one record writes one tile (the incomplete one of level 0, at most 8 KiB); every 256th one also a tile of
//! the level above and the entry bundle. A full tile is never written again. The incomplete entry bundle is written only
//! when the case is closed: it would cost up to 255 records at every append, and its records lie in their slots.

use std::sync::PoisonError;

use bytes::Bytes;
use exhibit_evidence::Digest;
use exhibit_evidence::log::{Layer, TILE_WIDTH, Tile, put_in_bundle};
use exhibit_evidence::text::one_line;
use futures::{StreamExt as _, TryStreamExt as _};

use super::error::LET_OVER;
use super::log::{Inner, READS_IN_FLIGHT};
use super::news::SQUATTED;
use super::slots::{self, READ_MAX, ROUNDS_MAX, squat};
use super::{Kind, LedgerError};
use crate::store::{self, Payload, history};

impl Inner {
    /// Writes the tiles of the tree of `size` records that are not known to be there: the full ones with their bundles
    /// first, then the incomplete ones. Each write may be repeated.
    pub(super) async fn write_tiles(&self, size: u64) -> Result<(), LedgerError> {
        let (tiles, closing) = {
            let view = self.view();
            let is_new = |n: u64| (self.published()..size).contains(&n);
            (view.tiles(), view.case_closed().is_some_and(|e| is_new(e.n)))
        };
        for (tile, bytes) in tiles {
            let full_of_entries = tile.is_full() && tile.layer() == Layer::Hashes(0);
            if let Some(bundle) = full_of_entries.then(|| Tile::of(Layer::Entries, tile.index(), size)).flatten() {
                self.write_bundle(bundle).await?;
            }
            self.write_tile(&tile, Bytes::from(bytes)).await?;
        }
        let last = Tile::of(Layer::Entries, size / TILE_WIDTH, size).filter(|_| closing);
        if let Some(bundle) = last {
            self.write_bundle(bundle).await?;
        }
        self.view.write().unwrap_or_else(PoisonError::into_inner).tiles_are_stored(size);
        Ok(())
    }

    /// Looks for the tiles that the published checkpoint promises and makes those again that are gone. The content of
    /// those that are there is not read: every proof that is made of them is checked before it is given away.
    pub(super) async fn restore_tiles(&self) -> Result<(), LedgerError> {
        let (size, head) = (self.published(), self.view().size());
        let promised = self.view().tiles().into_iter().filter(|(tile, _)| {
            let now = Tile::of(tile.layer(), tile.index(), size);
            now == Some(*tile)
        });
        let promised: Vec<(Tile, Vec<u8>)> = promised.collect();
        let missing: Vec<(Tile, Option<Vec<u8>>)> = futures::stream::iter(promised)
            .map(|(tile, bytes)| async move {
                let mut missing = Vec::new();
                if tile.is_full() && tile.layer() == Layer::Hashes(0) {
                    let bundle = Tile::of(Layer::Entries, tile.index(), head);
                    if let Some(bundle) = bundle
                        && !self.has(&bundle, None).await?
                    {
                        missing.push((bundle, None));
                    }
                }
                if !self.has(&tile, Some(bytes.len() as u64)).await? {
                    missing.push((tile, Some(bytes)));
                }
                Ok::<_, LedgerError>(missing)
            })
            .buffered(READS_IN_FLIGHT)
            .try_concat()
            .await?;
        let mut missing = missing;
        missing.extend(self.lost_closing_bundle(size).await?.map(|bundle| (bundle, None)));
        if !missing.is_empty() {
            tracing::info!(log = %self.name.folder(), tiles = missing.len(), "making tiles that are not there");
        }
        for (tile, bytes) in missing {
            match bytes {
                Some(bytes) => self.write_tile(&tile, Bytes::from(bytes)).await?,
                None => self.write_bundle(tile).await?,
            }
        }
        self.view.write().unwrap_or_else(PoisonError::into_inner).tiles_are_stored(size);
        Ok(())
    }

    /// The incomplete bundle that ended with the record that closed the case, where it is gone and no full one took its place.
    async fn lost_closing_bundle(&self, size: u64) -> Result<Option<Tile>, LedgerError> {
        let closed = self.view().case_closed().map(|e| e.n.saturating_add(1)).filter(|closed| *closed <= size);
        let Some(closed) = closed.filter(|closed| size / TILE_WIDTH == closed / TILE_WIDTH) else { return Ok(None) };
        let Some(bundle) = Tile::of(Layer::Entries, closed / TILE_WIDTH, closed) else { return Ok(None) };
        Ok(if self.has(&bundle, None).await? { None } else { Some(bundle) })
    }

    async fn has(&self, tile: &Tile, size: Option<u64>) -> Result<bool, LedgerError> {
        match self.store.size(&self.name.tile(tile)).await {
            Ok(found) if size.is_none_or(|size| size == found) => Ok(true),
            // It is written again, on top of what lies there.
            Ok(_) if history::is_kept(&*self.store) => Ok(false),
            Ok(found) => Err(LedgerError::incident(&self.name.folder(), format!("'{tile}' has {found} bytes"))),
            Err(e) if e.kind() == store::Kind::NotFound => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    async fn write_tile(&self, tile: &Tile, bytes: Bytes) -> Result<(), LedgerError> {
        let digest = Digest::of(&bytes);
        match self.store.put_new(&self.name.tile(tile), Payload::from(bytes.clone()), digest).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == store::Kind::Conflict && history::is_kept(&*self.store) => self.write_past(tile, &bytes, digest).await,
            Err(e) if e.kind() == store::Kind::Conflict => {
                Err(LedgerError::incident(&self.name.folder(), format!("'{tile}' is there and is not what the records give")))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Writes a tile under whose name something else lies: as a record, [`Inner::write_slot`], but what a tile must be is known.
    async fn write_past(&self, tile: &Tile, bytes: &Bytes, digest: Digest) -> Result<(), LedgerError> {
        let name = self.name.tile(tile);
        for _ in 0..ROUNDS_MAX {
            let versions = history::of(&*self.store, &name).await?.unwrap_or_default();
            let (mut squats, mut found) = (Vec::new(), false);
            for version in versions.iter().take(READ_MAX) {
                match self.store.get_version(&name, &version.version, tile.bytes_max()).await {
                    Ok(there) if there == *bytes => {
                        self.store.choose(&name, &version.version);
                        found = true;
                        break;
                    }
                    Err(e) if e.kind() == store::Kind::NotFound => {}
                    Err(e) if e.kind() != store::Kind::Damaged => return Err(e.into()),
                    _ => squats.push(squat(&name, Some(version), "it is not what the records give")),
                }
            }
            if !squats.is_empty() {
                self.known.news().tell(&self.name, SQUATTED, slots::squats(&squats));
            }
            if found {
                return Ok(());
            }
            match self.store.put_over(&name, Payload::from(bytes.clone()), digest).await {
                Err(e) if e.kind() == store::Kind::Denied => {
                    let why = one_line(&format!("{}; and nothing can be written on top of it: {e}", squats.join("; ")), 1_000);
                    return Err(LedgerError::squatted(&self.name.folder(), format_args!("'{tile}'"), why, LET_OVER));
                }
                Err(e) if e.kind() != store::Kind::Conflict => return Err(e.into()),
                _ => {}
            }
        }
        Err(LedgerError::new(Kind::Retry, format!("somebody else writes under '{name}' at the same time; the same call is repeated")))
    }

    /// Writes an entry bundle from the slots. They are read back, so that no record has to stay in memory.
    async fn write_bundle(&self, bundle: Tile) -> Result<(), LedgerError> {
        let first = bundle.index().saturating_mul(TILE_WIDTH);
        let mut reads = futures::stream::iter(first..first.saturating_add(bundle.width()))
            .map(|n| async move {
                let known = self.view().entry(n).map(|e| e.digest);
                let known = known.ok_or_else(|| LedgerError::new(Kind::Bug, format!("record {n} of a bundle is not in the log")))?;
                self.read_record(n, known).await
            })
            .buffered(READS_IN_FLIGHT);
        let mut bytes = Vec::new();
        while let Some(envelope) = reads.try_next().await? {
            put_in_bundle(&mut bytes, envelope.as_bytes())
                .ok_or_else(|| LedgerError::new(Kind::Bug, "a record is longer than an entry of a log can be"))?;
        }
        self.write_tile(&bundle, Bytes::from(bytes)).await
    }
}
