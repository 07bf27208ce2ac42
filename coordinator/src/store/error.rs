//! What can go wrong with a store, by what to do about it.

use std::fmt;

/// What an error asks of whoever sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The store or the way to it is disturbed: repeat the same call later. A `put` may have happened.
    Retry,
    /// The store does not let us: rights, credentials or settings need a person.
    Denied,
    /// No room: free space or enlarge the quota. Nothing was overwritten.
    Full,
    /// The store holds something else than what was put there: an incident, look before doing anything.
    Damaged,
    /// There is no such object. Only this kind means absence.
    NotFound,
    /// The name is taken by other content. Nothing was overwritten.
    Conflict,
    /// The caller broke the contract: a bug of this program.
    Bug,
}

impl Kind {
    /// A stable word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Denied => "denied",
            Self::Full => "full",
            Self::Damaged => "damaged",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Bug => "bug",
        }
    }
}

/// How a store said why it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It is no refusal, or nobody looked.
    Unknown,
    /// Without a word, as in every answer to HEAD.
    Unsaid,
    /// In a code of its own.
    Coded,
}

/// An error of a store: its kind, what happened and what helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    kind: Kind,
    message: String,
    remedy: String,
    /// The store did not come to look at what it was asked for.
    is_unheard: bool,
    /// Whether a store that refused said why.
    why: Why,
    /// A lock was not read, so nobody can say what it is.
    is_unread: bool,
    /// What was asked of the store, without the name of an object; empty where that is not known.
    asked: String,
}

impl StoreError {
    /// Makes an error. `message` says what was tried and what happened, `remedy` what a person can do.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (message, remedy, asked) = (message.into(), remedy.into(), String::new());
        Self { kind, message, remedy, is_unheard: false, why: Why::Unknown, is_unread: false, asked }
    }

    pub(crate) fn bug(message: impl Into<String>) -> Self {
        Self::new(Kind::Bug, message, "this is a defect of the coordinator; please report it with this text")
    }

    /// The store refuses who asks, when or where, whatever was asked: credentials that expired, a wrong clock or region. The same call may
    /// succeed once a person or the machine's role has seen to it, and nothing may be concluded of the object: so it is [`Kind::Retry`].
    pub(crate) fn unheard(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { is_unheard: true, ..Self::new(Kind::Retry, message, remedy) }
    }

    /// Marks a refusal of which the store says no word why.
    pub(super) fn wordless(self) -> Self {
        Self { why: Why::Unsaid, ..self }
    }

    /// True when the store refused and said no word why: it may be rights, or whoever asks.
    pub(super) const fn is_wordless(&self) -> bool {
        matches!(self.why, Why::Unsaid)
    }

    /// Marks a refusal of which the store says why in a code of its own.
    pub(super) fn coded(self) -> Self {
        Self { why: Why::Coded, ..self }
    }

    /// True when the store refused what was asked, in a code of its own: nobody else spoke in its place.
    pub(super) const fn is_coded(&self) -> bool {
        matches!(self.why, Why::Coded)
    }

    /// Marks the error of a lock that was not read.
    pub(super) fn unread(self) -> Self {
        Self { is_unread: true, ..self }
    }

    /// True when a lock was not read: it may be as it should be.
    pub(super) const fn is_unread(&self) -> bool {
        self.is_unread
    }

    /// Notes what was asked: in words of this program, and without what changes from one object to the next.
    pub(super) fn asked(self, what: &str) -> Self {
        Self { asked: what.to_owned(), ..self }
    }

    pub(super) fn not_found(name: &str) -> Self {
        Self::new(
            Kind::NotFound,
            format!("there is no object '{name}'"),
            "nothing to do if it was never written; otherwise an object was lost",
        )
    }

    pub(super) fn conflict(name: &str) -> Self {
        Self::new(Kind::Conflict, format!("'{name}' exists with other content"), "nothing was overwritten; find out who wrote it")
    }

    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// True when it says nothing about the object that was asked for, so that nothing may be concluded of it: the store is disturbed, or it
    /// refuses whoever asks, with credentials that expired for example.
    #[must_use]
    pub const fn says_nothing(&self) -> bool {
        matches!(self.kind, Kind::Retry)
    }

    /// True when waiting alone will hardly help: the store refuses whoever asks.
    #[must_use]
    pub const fn needs_a_person(&self) -> bool {
        self.is_unheard || matches!(self.kind, Kind::Denied)
    }

    /// True when the same call may succeed later without anybody doing anything.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        self.says_nothing() && !self.needs_a_person()
    }

    /// A stable word for logs and metrics: that of its kind, and `denied` for whoever is not heard.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        if self.is_unheard { Kind::Denied.as_str() } else { self.kind.as_str() }
    }

    /// What the reason is in substance: the same as long as the same is to be done about it. Messages name objects, requests and numbers
    /// that change with each try; what helps is one of few texts of this program. Of a right that is missing it says little, so what was
    /// asked belongs to it: whoever gave one right is to hear of the next. Who is not heard at all lacks the same whatever is asked.
    #[must_use]
    pub fn reason(&self) -> String {
        if self.kind == Kind::Denied && !self.asked.is_empty() {
            return format!("{} to {}: {}", self.word(), self.asked, self.remedy);
        }
        format!("{}: {}", self.word(), self.remedy)
    }

    /// What happened.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What a person can do.
    #[must_use]
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// Puts what was being done in front of the message.
    #[must_use]
    pub fn during(mut self, step: &str) -> Self {
        self.message = format!("{step}: {}", self.message);
        self
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.remedy)
    }
}

impl std::error::Error for StoreError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_what_is_to_be_done_and_for_a_missing_right_what_was_asked() {
        let denied =
            |name: &str, what: &str| StoreError::new(Kind::Denied, format!("could not {what} '{name}': 403"), "compare").asked(what);
        assert_eq!(denied("a", "list the versions in").reason(), denied("b", "list the versions in").reason(), "whichever object");
        assert_ne!(denied("a", "list the versions in").reason(), denied("a", "ask for the lock of").reason(), "another right");
        assert_eq!(denied("a", "list").during("the start").reason(), denied("a", "list").reason());
        assert_eq!(StoreError::new(Kind::Denied, "403", "compare").reason(), "denied: compare");
        let unheard = |what: &str| StoreError::unheard("401", "renew").asked(what).reason();
        assert_eq!(unheard("list"), unheard("read"), "the credentials are the same");
    }
}
