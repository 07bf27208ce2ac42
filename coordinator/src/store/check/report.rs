//! What was tried, line by line, and how an error becomes a line. A refusal counts only in a code of the store: one without any may be that
//! of a proxy or a firewall, or of whoever asks, and whoever comes by another way is not refused.

use std::borrow::Cow;
use std::fmt::Write as _;

use exhibit_evidence::text::escape_bounded;

use super::super::{Kind, LockPolicy, StoreError};

const DETAIL_CHARS_MAX: usize = 600;
const WITHOUT_A_WORD: &str = "look at what stands between this machine and the store (a proxy, a firewall), whose answer it may be, and ask whoever provides the store for answers that say why";

const DONE_AND_NOT: &str = "the answer says that it did what it did not: look at what stands between this machine and the store (a proxy, a firewall), whose answer it may be, and ask whoever provides the store for refusals that say so";

const THERE_AND_NOT: &str = "what was just written is not there, says the answer: look at what stands between this machine and the store (a proxy, a firewall), whose answer it may be, and ask whoever provides the store why it says so";

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was tried, and it is as it should be.
    Holds,
    /// It was tried, and evidence is not protected against it.
    Missing,
    /// It could not be tried, or what came back proves nothing.
    Untested,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// A stable word; of the copy in a second store it begins with `copy:`.
    pub what: Cow<'static, str>,
    /// How it ended.
    pub state: State,
    /// What was seen.
    pub detail: String,
    /// What to do where it does not hold; empty otherwise.
    pub remedy: Cow<'static, str>,
}

/// What the store keeps, and what it does not.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CheckReport {
    /// Where the store is.
    pub store: String,
    /// The lock of the configuration.
    pub lock: Option<LockPolicy>,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

impl CheckReport {
    /// True when nothing is missing and everything could be tried.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.checks.iter().all(|c| c.state == State::Holds)
    }

    /// How a check ended; `None` for one that this kind of store does not have.
    #[must_use]
    pub fn state(&self, what: &str) -> Option<State> {
        self.checks.iter().find(|c| c.what == what).map(|c| c.state)
    }

    /// The table for people.
    #[must_use]
    pub fn text(&self) -> String {
        let lock = self.lock.map_or_else(|| "none in the configuration".to_owned(), |lock| lock.to_string());
        let mut out = format!("Store: {}\nLock:  {lock}\n\n", self.store);
        for check in &self.checks {
            let state = match check.state {
                State::Holds => "holds",
                State::Missing => "MISSING",
                State::Untested => "untested",
            };
            let _ = writeln!(out, "  {state:<9} {:<20} {}", check.what, check.detail);
            if !check.remedy.is_empty() {
                let _ = writeln!(out, "  {:<30} -> {}", "", check.remedy);
            }
        }
        let _ = writeln!(out, "\n{}", self.end());
        out
    }

    fn end(&self) -> &'static str {
        if self.holds() {
            "Everything that was tried is as it should be."
        } else if self.checks.iter().any(|c| c.state == State::Missing) {
            "Evidence is not safe from what is listed as missing."
        } else {
            "Of what is untested nobody knows whether evidence is safe from it."
        }
    }

    pub(crate) fn add(&mut self, what: &'static str, state: State, detail: impl Into<String>, remedy: &'static str) {
        let remedy = if state == State::Holds { "" } else { remedy };
        self.push(what, state, &detail.into(), Cow::Borrowed(remedy));
    }

    fn push(&mut self, what: &'static str, state: State, detail: &str, remedy: Cow<'static, str>) {
        let detail = escape_bounded(detail, DETAIL_CHARS_MAX);
        self.checks.push(Check { what: Cow::Borrowed(what), state, detail, remedy });
    }

    /// With the remedy of the error.
    pub(super) fn add_own(&mut self, what: &'static str, state: State, e: &StoreError) {
        self.push(what, state, e.message(), Cow::Owned(e.remedy().to_owned()));
    }

    /// What the store refused without a word. `beside` is what was seen all the same.
    fn add_wordless(&mut self, what: &'static str, beside: &str, e: &StoreError) {
        let detail = format!("refused without a word why, which proves nothing{beside}: {}", e.message());
        self.push(what, State::Untested, &detail, Cow::Borrowed(WITHOUT_A_WORD));
    }

    /// For what could not be tried. What the store did not come to look at has a remedy of its own; where it refuses, that is this one.
    pub(super) fn untried(&mut self, what: &'static str, e: &StoreError, remedy: &'static str) {
        if e.is_wordless() {
            self.add_wordless(what, "", e);
        } else if e.says_nothing() {
            self.add_own(what, State::Untested, e);
        } else {
            self.add(what, State::Untested, e.to_string(), remedy);
        }
    }

    /// For what must be allowed: a refusal is what is missing, in words.
    pub(super) fn not_allowed(&mut self, what: &'static str, e: &StoreError) {
        if e.is_wordless() {
            self.add_wordless(what, "", e);
        } else {
            let state = if e.says_nothing() { State::Untested } else { State::Missing };
            self.add_own(what, state, e);
        }
    }

    /// For what everything else hangs on, so that nothing is tried after it. What is only refused or not answered is not `state`.
    pub(super) fn ended(&mut self, what: &'static str, state: State, e: &StoreError) {
        if e.is_wordless() {
            return self.add_wordless(what, "; nothing else was tried", e);
        }
        let state = if e.says_nothing() { State::Untested } else { state };
        self.push(what, state, &format!("nothing else was tried: {}", e.message()), Cow::Owned(e.remedy().to_owned()));
    }

    /// For what keeps a store from being a copy: with `remedy` where that was seen. Nobody knows it where there was no answer, which `silent`
    /// helps against, no word why, or no right to look.
    pub(crate) fn unfit(&mut self, what: &'static str, e: &StoreError, silent: &'static str, remedy: &'static str) {
        if e.is_wordless() {
            self.add_wordless(what, "", e);
        } else if e.is_unread() || (e.says_nothing() && e.needs_a_person()) {
            self.add_own(what, State::Untested, e);
        } else if e.says_nothing() {
            self.add(what, State::Untested, e.to_string(), silent);
        } else {
            self.add(what, State::Missing, e.to_string(), remedy);
        }
    }

    /// For what came back and is no refusal by the store. `beside` is what was seen all the same.
    fn unproven(&mut self, what: &'static str, beside: &str, e: &StoreError) {
        if e.is_wordless() {
            self.add_wordless(what, beside, e);
        } else if e.kind() == Kind::NotFound {
            let detail = format!("answered as if it were not there, which proves nothing{beside}: {}", e.message());
            self.push(what, State::Untested, &detail, Cow::Borrowed(THERE_AND_NOT));
        } else {
            self.add_own(what, State::Untested, e);
        }
    }

    /// For what must be refused: success is what is missing, and a refusal of whoever asks is none of what was asked.
    pub(super) fn refused(&mut self, what: &'static str, tried: &Result<(), StoreError>, allowed: &str, remedy: &'static str) {
        match tried {
            Ok(()) => self.add(what, State::Missing, allowed, remedy),
            Err(e) if e.is_coded() => self.add(what, State::Holds, "refused", remedy),
            Err(e) => self.unproven(what, "", e),
        }
    }

    /// For what must be refused on a lock, where `kept` was seen afterwards. That something was kept which nobody came to try proves nothing.
    pub(super) fn kept(&mut self, what: &'static str, tried: &Result<(), StoreError>, kept: &str) {
        match tried {
            // A page of a proxy says that too, and whoever comes by another way is not stopped by it.
            Ok(()) => {
                let detail = format!("the answer says that it was done, and it was not, which proves nothing about the lock; {kept}");
                self.add(what, State::Untested, detail, DONE_AND_NOT);
            }
            Err(e) if e.is_coded() => self.add(what, State::Holds, format!("refused: {kept}"), ""),
            Err(e) => self.unproven(what, &format!(" about the lock; {kept}"), e),
        }
    }

    /// What was tried on the copy, after what was tried on the store.
    pub(crate) fn add_copy(&mut self, of_copy: Self) {
        let named = of_copy.checks.into_iter().map(|check| Check { what: format!("copy:{}", check.what).into(), ..check });
        self.checks.extend(named);
    }
}
