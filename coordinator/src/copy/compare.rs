//! Two stores side by side: what one lacks, found from their listings. A page of each is in memory, whatever lies in them, and of each
//! case its name.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use exhibit_evidence::Timestamp;
use exhibit_evidence::key::PublicKey;
use exhibit_evidence::layout;
use exhibit_evidence::log::{Checkpoint, NOTE_BYTES_MAX};
use exhibit_evidence::text::escape_bounded;

use super::strangers::Strangers;
use crate::store::{Entry, Kind, Store, StoreError};

/// Cases of a store, and folders beside them, that are compared. Of each its name is in memory twice meanwhile, and of each that
/// differs some counts, together about 400 bytes: 100 MiB when all of them do.
const CASES_MAX: usize = 1 << 18;

/// How far a copy is behind.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Lag {
    /// Objects that are not in the copy yet, heads that are older there among them.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the oldest of them was written, by the clock of the first store.
    pub oldest: Option<Timestamp>,
    /// Objects that are in both and differ.
    pub differ: u64,
    /// Objects of the copy that the store has not: the store lost them, somebody put them there, or a disposal is not finished.
    pub only_in_copy: u64,
}

impl Lag {
    /// One object more that is missing.
    pub fn add(&mut self, entry: &Entry) {
        self.objects = self.objects.saturating_add(1);
        self.bytes = self.bytes.saturating_add(entry.size);
        self.oldest = Some(self.oldest.map_or(entry.modified, |oldest| oldest.min(entry.modified)));
    }

    /// These as well.
    pub fn join(&mut self, other: &Self) {
        self.objects = self.objects.saturating_add(other.objects);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.oldest = self.oldest.into_iter().chain(other.oldest).min();
        self.differ = self.differ.saturating_add(other.differ);
        self.only_in_copy = self.only_in_copy.saturating_add(other.only_in_copy);
    }

    /// So much of what was missing is there now; when the oldest of the rest was written is told by the next comparison.
    pub(super) fn less(&mut self, objects: u64, bytes: u64) {
        self.objects = self.objects.saturating_sub(objects);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// For people.
    #[must_use]
    pub fn text(&self, now: Timestamp) -> String {
        let age = |oldest: Timestamp| now.unix_ns().saturating_sub(oldest.unix_ns()) / 1_000_000_000;
        let behind = match self.oldest {
            None => "everything is in it".to_owned(),
            Some(oldest) => {
                format!("{} objects, {} bytes, are not in it yet; the oldest is {} s old", self.objects, self.bytes, age(oldest))
            }
        };
        let other = |count: u64, what: &str| if count > 0 { format!("; {count} {what}") } else { String::new() };
        format!("{behind}{}{}", other(self.differ, "differ"), other(self.only_in_copy, "are in the copy alone"))
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The copy lacks it.
    Missing(Entry),
    /// It is in both, and has another size in the copy.
    Differs(Entry, u64),
    /// Only the copy has it.
    OnlyInCopy(Entry),
    /// A head of the store, and its size in the copy: it is written again under its name, so what it says must be compared. Heads
    /// that witnesses vouch for are told only when they are missing or of another size.
    Head(Entry, Option<u64>),
}

/// True for what is written again under its name: it is copied by its own rule.
#[must_use]
pub fn is_head(name: &str) -> bool {
    name.ends_with("/log/checkpoint") || name.contains("/log/cosigned/")
}

/// The differences below one folder, in the order of the names.
pub struct Differences<'a> {
    first: Listing<'a>,
    copy: Listing<'a>,
}

impl<'a> Differences<'a> {
    /// Nothing is listed yet.
    #[must_use]
    pub fn below(folder: &str, first: &'a dyn Store, copy: &'a dyn Store) -> Self {
        Self { first: Listing::of(first, folder), copy: Listing::of(copy, folder) }
    }

    /// The next one.
    ///
    /// # Errors
    /// As a store cannot be listed.
    pub async fn next(&mut self) -> Result<Option<Difference>, StoreError> {
        loop {
            let (here, there) = (self.first.peek().await?, self.copy.peek().await?);
            let order = match (here, there) {
                (None, None) => return Ok(None),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(here), Some(there)) => here.name.cmp(&there.name),
            };
            let here = if order.is_le() { self.first.take() } else { None };
            let there = if order.is_ge() { self.copy.take() } else { None };
            // What a deletion hides in the copy is put there again. What one hides in the store counts as gone there, though it is read.
            let there = there.filter(|there| !self.copy.store.hides(&there.name));
            match (here, there) {
                (Some(here), Some(there)) if self.first.store.hides(&here.name) => return Ok(Some(Difference::OnlyInCopy(there))),
                (Some(here), None) if is_head(&here.name) => return Ok(Some(Difference::Head(here, None))),
                (Some(here), None) => return Ok(Some(Difference::Missing(here))),
                (None, Some(there)) => return Ok(Some(Difference::OnlyInCopy(there))),
                (Some(here), Some(there)) if is_head(&here.name) && (here.size != there.size || here.name.ends_with("/log/checkpoint")) => {
                    return Ok(Some(Difference::Head(here, Some(there.size))));
                }
                (Some(here), Some(there)) if here.size != there.size => return Ok(Some(Difference::Differs(here, there.size))),
                _ => {}
            }
        }
    }
}

/// A store's names below a folder, page by page.
struct Listing<'a> {
    store: &'a dyn Store,
    folder: String,
    page: VecDeque<Entry>,
    after: Option<String>,
    more: bool,
}

impl<'a> Listing<'a> {
    fn of(store: &'a dyn Store, folder: &str) -> Self {
        Self { store, folder: folder.to_owned(), page: VecDeque::new(), after: None, more: true }
    }

    async fn peek(&mut self) -> Result<Option<&Entry>, StoreError> {
        while self.page.is_empty() && self.more {
            let page = self.store.list(&self.folder, self.after.as_deref()).await?;
            self.more = page.more && !page.entries.is_empty();
            self.after = page.entries.last().map(|e| e.name.clone()).or_else(|| self.after.take());
            self.page = page.entries.into();
        }
        Ok(self.page.front())
    }

    fn take(&mut self) -> Option<Entry> {
        self.page.pop_front()
    }
}

/// The folders that are copied: the deployment's and those of all cases that either store has.
///
/// # Errors
/// [`Kind::Damaged`] when a store has more than [`CASES_MAX`]; otherwise as a store cannot be listed.
pub async fn folders(first: &dyn Store, copy: &dyn Store) -> Result<Vec<String>, StoreError> {
    let mut cases = few_enough(first, first.folders("cases").await?)?;
    cases.extend(few_enough(copy, copy.folders("cases").await?)?);
    cases.sort_unstable();
    cases.dedup();
    let cases = cases.into_iter().map(|case| format!("cases/{case}"));
    Ok(std::iter::once("deployment".to_owned()).chain(cases).collect())
}

fn few_enough(store: &dyn Store, cases: Vec<String>) -> Result<Vec<String>, StoreError> {
    if cases.len() <= CASES_MAX {
        return Ok(cases);
    }
    let message = format!("{}: 'cases' has {} folders, and at most {CASES_MAX} are compared", store.describe(), cases.len());
    Err(StoreError::new(Kind::Damaged, message, "look for folders that do not belong there; logs that grow are copied nevertheless"))
}

/// How far the copy is behind, from the listings and the heads of the logs. Without the log's key an older head is believed to be
/// one; that it is one of this history, and no fork, is what the copying coordinator looks at.
///
/// # Errors
/// As a store cannot be listed.
pub async fn lag(first: &dyn Store, copy: &dyn Store) -> Result<Lag, StoreError> {
    let mut lag = Lag::default();
    for folder in folders(first, copy).await? {
        lag.join(&lag_below(&folder, first, copy, (None, None)).await?.0);
    }
    Ok(lag)
}

/// [`lag`] by folder, of those that have one, or something that is none of ours and that is to be told. The log's key and the judge are
/// those of the copying coordinator, so what is none of ours does not count as missing.
///
/// # Errors
/// As a store cannot be listed.
pub(super) async fn by_folder(
    first: Arc<dyn Store>,
    copy: Arc<dyn Store>,
    key: PublicKey,
    strangers: Strangers,
) -> Result<BTreeMap<String, Lag>, StoreError> {
    let mut lags = BTreeMap::new();
    for folder in folders(&*first, &*copy).await? {
        let (lag, is_strange) = lag_below(&folder, &*first, &*copy, (Some(&key), Some(&strangers))).await?;
        if is_strange || lag != Lag::default() {
            lags.insert(folder, lag);
        }
    }
    Ok(lags)
}

/// What the copy lacks of a folder, and whether something of it is none of ours by the judge.
async fn lag_below(
    folder: &str,
    first: &dyn Store,
    copy: &dyn Store,
    (key, strangers): (Option<&PublicKey>, Option<&Strangers>),
) -> Result<(Lag, bool), StoreError> {
    let (mut lag, mut is_strange) = (Lag::default(), false);
    let mut differences = Differences::below(folder, first, copy);
    while let Some(difference) = differences.next().await? {
        match difference {
            // It is not copied, so nothing is behind for it.
            Difference::Missing(entry) | Difference::Head(entry, None) if is_foreign(&entry.name) => {}
            // Whoever looks at the folder tells it. That it cannot be told now is no reason not to count it.
            Difference::Missing(entry) if is_stranger(strangers, &entry.name).await => is_strange = true,
            Difference::Missing(entry) | Difference::Head(entry, None) => lag.add(&entry),
            Difference::Differs(..) => lag.differ = lag.differ.saturating_add(1),
            Difference::Head(entry, Some(size)) => match head_is(&entry, size, first, copy, key).await? {
                HeadIs::Same => {}
                HeadIs::Older => lag.add(&entry),
                HeadIs::Wrong => lag.differ = lag.differ.saturating_add(1),
            },
            Difference::OnlyInCopy(entry) if is_gone(first, &entry.name).await? => {
                lag.only_in_copy = lag.only_in_copy.saturating_add(1);
            }
            Difference::OnlyInCopy(_) => {}
        }
    }
    Ok((lag, is_strange))
}

async fn is_stranger(strangers: Option<&Strangers>, name: &str) -> bool {
    match strangers {
        Some(strangers) => strangers.why(name).await.is_ok_and(|why| why.is_some()),
        None => false,
    }
}

/// What a head of the copy is to that of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeadIs {
    Same,
    /// One that the log had before.
    Older,
    /// Of another log, of more records than the store has, or no head at all.
    Wrong,
}

async fn head_is(entry: &Entry, size: u64, first: &dyn Store, copy: &dyn Store, key: Option<&PublicKey>) -> Result<HeadIs, StoreError> {
    if !entry.name.ends_with("/log/checkpoint") {
        return Ok(if size < entry.size { HeadIs::Older } else { HeadIs::Wrong });
    }
    // In this order: what is in the copy was in the store before.
    let there = read_head(copy, &entry.name).await?;
    let here = read_head(first, &entry.name).await?;
    Ok(match (here, there) {
        (Some(here), Some(there)) => judge(&here, &there, key),
        _ => HeadIs::Older,
    })
}

fn judge(here: &[u8], there: &[u8], key: Option<&PublicKey>) -> HeadIs {
    if here == there {
        return HeadIs::Same;
    }
    let read = |bytes: &[u8]| {
        let read = key.map_or_else(|| Checkpoint::parse_unverified(bytes), |key| Checkpoint::verify(bytes, key));
        read.ok()
    };
    match (read(here), read(there)) {
        // Of as many records: witnesses vouched for it since.
        (Some(here), Some(there)) if here.origin == there.origin && (there.size < here.size || there == here) => HeadIs::Older,
        _ => HeadIs::Wrong,
    }
}

/// The bytes under a head's name; nothing of what is larger than any head.
///
/// # Errors
/// As the store cannot be read.
pub(super) async fn read_head(store: &dyn Store, name: &str) -> Result<Option<Bytes>, StoreError> {
    match store.get(name, NOTE_BYTES_MAX as u64).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == Kind::NotFound => Ok(None),
        Err(e) if e.kind() == Kind::Damaged => Ok(Some(Bytes::new())),
        Err(e) => Err(e),
    }
}

/// True when the store itself says so: an object that was written after its page was listed is there. One that a deletion hides is
/// gone for whoever knows no version of it, though this process may remember the genuine one and read that.
///
/// # Errors
/// As the store answers with anything but that it is there or not.
pub async fn is_gone(first: &dyn Store, name: &str) -> Result<bool, StoreError> {
    match first.size(name).await {
        Ok(_) => is_hidden(first, name).await,
        Err(e) if e.kind() == Kind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

async fn is_hidden(first: &dyn Store, name: &str) -> Result<bool, StoreError> {
    let Some(found) = first.attestable() else { return Ok(false) };
    match found.vault.versions_of(name).await {
        Ok(versions) => Ok(!versions.is_empty() && !versions.iter().any(|v| v.latest && !v.marker)),
        Err(e) if e.kind() == Kind::Retry => Err(e),
        // Not every store lets its versions be listed; one that locks is told of by attestation then.
        Err(_) => Ok(false),
    }
}

/// True for what nobody of ours wrote into the store, by its name. It is not copied: it would be locked in the copy for the whole term.
pub(super) fn is_foreign(name: &str) -> bool {
    layout::parse(name).is_none()
}

/// A name for a message.
pub(super) fn shown(name: &str) -> String {
    escape_bounded(name, 200)
}

#[cfg(test)]
mod tests;
