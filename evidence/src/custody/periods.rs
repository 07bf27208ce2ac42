//! Who held a collection in which period, and how it was stored: derived from the log without gap or overlap, because each
//! period begins with the record that ends the one before.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::id::CollectionId;
use crate::time::Timestamp;

/// A place in the log with the time that its record states. Places are exact; times are claims of different clocks, and a
/// claim that lies before an earlier one is moved to it, so that no period ends before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Record number.
    pub n: u64,
    /// When.
    pub at: Timestamp,
}

/// How evidence was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// In the store, create-only; its collection is not sealed yet.
    Arriving,
    /// In the store, create-only, sealed.
    Sealed,
    /// Sealed, and its destruction was approved: parts may be gone.
    Condemned,
}

impl Storage {
    /// The text used on screen.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Arriving => "arriving",
            Self::Sealed => "sealed",
            Self::Condemned => "condemned",
        }
    }
}

/// One period of a collection: nothing of what is said here changed in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Period {
    /// The collection.
    pub collection: CollectionId,
    /// The record that begins it.
    pub from: Moment,
    /// The record that ends it; `None` while it lasts.
    pub to: Option<Moment>,
    /// Who has custody: the coordinator that received it, then whoever accepted it.
    pub custodian: String,
    /// How it is stored.
    pub storage: Storage,
    /// A hold stands.
    pub held: bool,
    /// Retention ends not before.
    pub retained_until: Option<Timestamp>,
}

impl Period {
    fn same_but_time(&self, other: &Self) -> bool {
        let Self { custodian, storage, held, retained_until, .. } = self;
        (custodian, storage, held, retained_until) == (&other.custodian, &other.storage, &other.held, &other.retained_until)
    }
}

/// The periods of a case while they are being made.
#[derive(Debug, Default)]
pub(super) struct Periods {
    all: Vec<Period>,
    /// The newest one of each collection, as a place in `all`.
    newest: BTreeMap<CollectionId, usize>,
}

impl Periods {
    pub fn all(&self) -> &[Period] {
        &self.all
    }

    /// Says what holds for a collection from `next.from` on. When it is the same as before, the period goes on; when the last
    /// one has ended for good, nothing follows.
    pub fn change(&mut self, next: Period) {
        let last = self.newest.get(&next.collection).and_then(|i| self.all.get_mut(*i));
        match last {
            Some(last) if last.to.is_some() || last.same_but_time(&next) => return,
            Some(last) => last.to = Some(next.from),
            None => {}
        }
        self.newest.insert(next.collection.clone(), self.all.len());
        self.all.push(next);
    }

    /// Ends the last period of a collection for good.
    pub fn end(&mut self, collection: &CollectionId, at: Moment) {
        if let Some(last) = self.newest.get(collection).and_then(|i| self.all.get_mut(*i)) {
            last.to.get_or_insert(at);
        }
    }
}
