//! What the catalog knows of a log: the newest head that this deployment published. A folder of the store that was put back to an older
//! state holds together in itself, so nothing in it shows what is gone; who remembers does.
//!
//! It is no proof: that the catalog was put back as well is seen by a witness alone.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use exhibit_evidence::layout::LogName;

use super::news::{DAMAGED, Newsdesk};
use super::{Head, Kind, LedgerError};
use crate::catalog::{CatalogError, Published, SharedCatalog};

/// What is known of logs, and which of them are refused for it.
#[derive(Debug, Default)]
pub struct Known {
    catalog: Option<SharedCatalog>,
    /// One at most for each log, some 500 bytes.
    refused: Mutex<HashMap<LogName, Refused>>,
    /// What else is to be told of logs.
    news: Newsdesk,
}

/// A log that is shorter than, or another one than, what is known of it.
#[derive(Debug)]
struct Refused {
    why: String,
    /// An incident says so.
    told: bool,
}

impl Known {
    /// What this catalog knows.
    #[must_use]
    pub fn of(catalog: SharedCatalog) -> Self {
        Self { catalog: Some(catalog), refused: Mutex::default(), news: Newsdesk::default() }
    }

    /// The newest head that is known. To be asked before the store is: what is published meanwhile is in the store first.
    pub(super) async fn head(&self, name: &LogName) -> Result<Option<Head>, LedgerError> {
        let Some(catalog) = &self.catalog else { return Ok(None) };
        let known = catalog.published(name.folder()).await?;
        Ok(known.map(|Published { size, root }| Head { size, root }))
    }

    /// Keeps a head that is durable in the store.
    pub(super) async fn keep(&self, name: &LogName, Head { size, root }: Head) -> Result<(), CatalogError> {
        let Some(catalog) = &self.catalog else { return Ok(()) };
        catalog.set_published(name.folder(), Published { size, root }).await
    }

    /// From now on nothing is added to this log, until it was found whole again ([`Known::accept`]).
    pub fn refuse(&self, name: &LogName, what: impl fmt::Display) -> LedgerError {
        let why = format!(
            "the log '{}' was put back to an older state, or another one: {what} (this is an incident: nothing is added to it; copy its \
             folder as it is, then bring the missing records back from the second store or a backup; only if they are lost for good, \
             'exhibit-coordinator reindex' makes a catalog that begins with what the store shows: docs/operations/stores.md)",
            name.folder()
        );
        self.lock().entry(name.clone()).or_insert_with(|| Refused { why: why.clone(), told: false });
        LedgerError::new(Kind::Damaged, why)
    }

    /// The log holds all that is known of it.
    pub fn accept(&self, name: &LogName) {
        self.lock().remove(name);
    }

    /// Whether the log may be used.
    ///
    /// # Errors
    /// [`Kind::Damaged`] while it is refused.
    pub(super) fn check(&self, name: &LogName) -> Result<(), LedgerError> {
        match self.lock().get(name) {
            Some(refused) => Err(LedgerError::new(Kind::Damaged, refused.why.clone())),
            None => Ok(()),
        }
    }

    /// What is to be told of logs beside those that are refused.
    #[must_use]
    pub const fn news(&self) -> &Newsdesk {
        &self.news
    }

    /// How a log was used: that it is not as it was written is an incident, whoever ran into it. That it is refused is told as that.
    pub(super) fn note_use<T>(&self, name: &LogName, used: &Result<T, LedgerError>) {
        self.news.note_use(name, used);
        if let Err(e) = used
            && e.kind() == Kind::Damaged
            && self.check(name).is_ok()
        {
            self.news.tell(name, DAMAGED, e.to_string());
        }
    }

    /// The refused logs of which no incident speaks yet, and why they are refused.
    #[must_use]
    pub fn untold(&self) -> Vec<(LogName, String)> {
        self.lock().iter().filter(|(_, refused)| !refused.told).map(|(name, refused)| (name.clone(), refused.why.clone())).collect()
    }

    /// An incident says that the log is refused.
    pub fn note_told(&self, name: &LogName) {
        if let Some(refused) = self.lock().get_mut(name) {
            refused.told = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LogName, Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
