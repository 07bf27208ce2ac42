//! What lists show of a case that its log alone knows. Of a log that was closed it is kept, so that a list of many cases opens none again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use exhibit_evidence::age::Recipients;
use exhibit_evidence::custody::Disposed;
use exhibit_evidence::id::CollectionId;
use exhibit_evidence::layout::LogName;

use super::{Head, Ledger, View};

/// Cases, recipients and destroyed collections that are kept of closed logs: some 500 bytes each, so 50 MB at worst. Logs for which
/// there is no room are opened for each list.
const FACTS_MAX: usize = 100_000;

/// What a case's log says, as far as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brief {
    /// The head of the log of which this is true.
    pub head: Head,
    /// Every order needs a second person's approval.
    pub two_person: bool,
    /// To whom the case's contents are encrypted.
    pub encrypt_to: Recipients,
    /// The collections that are not kept.
    pub disposed: BTreeMap<CollectionId, Gone>,
}

/// A collection that was destroyed, or is about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// Who decided it, and whether it is done.
    pub disposed: Disposed,
    /// The place of the certificate in the log.
    pub certificate_n: Option<u64>,
}

impl Brief {
    fn of(view: &View) -> Self {
        let custody = view.custody();
        let gone = |(id, disposed): (&CollectionId, Disposed)| {
            let certificate_n = disposed.destroyed.and_then(|(_, certificate)| view.find(&certificate));
            (id.clone(), Gone { disposed, certificate_n })
        };
        Self {
            head: view.head(),
            two_person: custody.two_person(),
            encrypt_to: custody.encrypt_to().clone(),
            disposed: custody.disposed().map(gone).collect(),
        }
    }

    /// How much of [`FACTS_MAX`] it takes.
    fn facts(&self) -> usize {
        self.encrypt_to.as_slice().len().saturating_add(self.disposed.len()).saturating_add(1)
    }
}

impl Ledger {
    /// What the log says now, as far as lists show it.
    #[must_use]
    pub fn brief(&self) -> Brief {
        Brief::of(&self.view())
    }
}

/// What logs said when they were closed.
#[derive(Debug, Default)]
pub(super) struct Briefs {
    by_log: HashMap<LogName, Arc<Brief>>,
    facts: usize,
}

impl Briefs {
    pub(super) fn get(&self, name: &LogName) -> Option<Arc<Brief>> {
        self.by_log.get(name).cloned()
    }

    /// Keeps what a case's log says that is being closed, where there is room. Not of one whose head is still to be published, which its
    /// opening does.
    pub(super) fn keep(&mut self, ledger: &Ledger) {
        if !matches!(ledger.name(), LogName::Case(_)) || !ledger.is_settled() {
            return;
        }
        let brief = ledger.brief();
        let facts = self.facts.saturating_add(brief.facts());
        if facts <= FACTS_MAX {
            self.facts = facts;
            self.by_log.insert(ledger.name().clone(), Arc::new(brief));
        }
    }

    /// The log is being opened: from here on it speaks for itself.
    pub(super) fn forget(&mut self, name: &LogName) {
        if let Some(brief) = self.by_log.remove(name) {
            self.facts = self.facts.saturating_sub(brief.facts());
        }
    }
}
