//! Two stores side by side: what one lacks, found from their listings. A page of each is in memory, whatever lies in them.

use std::collections::VecDeque;

use exhibit_evidence::Timestamp;
use exhibit_evidence::text::escape_bounded;

use crate::store::{Entry, Store, StoreError};

/// How far a copy is behind.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Lag {
    /// Objects that are not in the copy yet.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the oldest of them was written, by the clock of the first store.
    pub oldest: Option<Timestamp>,
    /// Objects that are in both and differ.
    pub differ: u64,
    /// Objects of the copy that the store has not: the store lost them, or a disposal is not finished.
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
        format!("{behind}{}{}", other(self.differ, "differ"), other(self.only_in_copy, "are not in the store any more"))
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

    /// The next one; heads are left out.
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
            match (here, there) {
                (Some(here), None) if !is_head(&here.name) => return Ok(Some(Difference::Missing(here))),
                (None, Some(there)) if !is_head(&there.name) => return Ok(Some(Difference::OnlyInCopy(there))),
                (Some(here), Some(there)) if here.size != there.size && !is_head(&here.name) => {
                    return Ok(Some(Difference::Differs(here, there.size)));
                }
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
/// As a store cannot be listed.
pub async fn folders(first: &dyn Store, copy: &dyn Store) -> Result<Vec<String>, StoreError> {
    let mut cases = first.folders("cases").await?;
    cases.extend(copy.folders("cases").await?);
    cases.sort_unstable();
    cases.dedup();
    let cases = cases.into_iter().map(|case| format!("cases/{case}"));
    Ok(std::iter::once("deployment".to_owned()).chain(cases).collect())
}

/// How far the copy is behind, from listings alone.
///
/// # Errors
/// As a store cannot be listed.
pub async fn lag(first: &dyn Store, copy: &dyn Store) -> Result<Lag, StoreError> {
    let mut lag = Lag::default();
    for folder in folders(first, copy).await? {
        let mut differences = Differences::below(&folder, first, copy);
        while let Some(difference) = differences.next().await? {
            match difference {
                Difference::Missing(entry) => lag.add(&entry),
                Difference::Differs(..) => lag.differ = lag.differ.saturating_add(1),
                Difference::OnlyInCopy(entry) if is_gone(first, &entry.name).await? => {
                    lag.only_in_copy = lag.only_in_copy.saturating_add(1);
                }
                Difference::OnlyInCopy(_) => {}
            }
        }
    }
    Ok(lag)
}

/// True when the store itself says so: an object that was written after its page was listed is there.
///
/// # Errors
/// As the store answers with anything but that it is there or not.
pub async fn is_gone(first: &dyn Store, name: &str) -> Result<bool, StoreError> {
    match first.size(name).await {
        Ok(_) => Ok(false),
        Err(e) if e.kind() == crate::store::Kind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

/// A name for a message.
pub(super) fn shown(name: &str) -> String {
    escape_bounded(name, 200)
}
