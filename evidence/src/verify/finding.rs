//! What a verification has to say: findings, each with a stable code, a severity and somebody to ask.

use serde::Serialize;

use super::Code;

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The evidence, or a statement about it, is not what was signed.
    Error,
    /// Something does not belong here or does not fit; what was signed still holds.
    Warning,
    /// Worth knowing; does not change the verdict.
    Note,
}

impl Severity {
    /// The text used in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Whose part of the system must explain a finding. It says where to ask first, not who is guilty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blame {
    /// The host that was collected from, or the agent on it.
    Host,
    /// The coordinator that received, checked and sealed.
    Coordinator,
    /// The store, a medium or a copy on the way: bytes changed, vanished or appeared after sealing.
    Store,
    /// A person who gave orders, managed keys or ran this program.
    Operator,
    /// The facts do not tell.
    Unknown,
}

impl Blame {
    /// The text used in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Coordinator => "coordinator",
            Self::Store => "store",
            Self::Operator => "operator",
            Self::Unknown => "unknown",
        }
    }

    /// The same for people.
    #[must_use]
    pub const fn shown(self) -> &'static str {
        match self {
            Self::Host => "the collected host or its agent",
            Self::Coordinator => "the coordinator",
            Self::Store => "the store, the medium or the transport of the copy",
            Self::Operator => "an operator",
            Self::Unknown => "not determined",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable code, e.g. `segment.digest`.
    pub code: Code,
    /// How much it weighs.
    pub severity: Severity,
    /// Where to ask first.
    pub blame: Blame,
    /// The object it is about, relative to the case folder; an item is named by its id.
    pub object: String,
    /// What was found: one sentence with the facts. Untrusted text in it is escaped.
    pub message: String,
    /// What it means for the evidence, for counsel.
    pub meaning: &'static str,
    /// The finding that this one is a consequence of; `blame` is that one's then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follows_from: Option<Cause>,
}

/// A finding that others follow from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// Its code.
    pub code: Code,
    /// The object that it is about.
    pub object: String,
}

/// Collects findings in bounded memory: the first [`Findings::KEPT_MAX`] are kept, all are counted.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    kept: Vec<Finding>,
    /// The first record that is lost or altered: what the others say cannot be whole without it.
    history: Option<Cause>,
    /// What the findings that are made now follow from.
    because: Option<Cause>,
    errors: u64,
    warnings: u64,
    notes: u64,
}

impl Findings {
    /// Findings that are kept with their text: at about 500 bytes each, half a megabyte.
    pub const KEPT_MAX: usize = 1_000;
    /// Longest object name and message kept, in characters.
    const CHARS_MAX: usize = 2_000;

    /// Adds a finding with the severity of its code.
    pub(super) fn add(&mut self, code: Code, object: impl AsRef<str>, message: impl AsRef<str>) {
        self.add_as(code, code.severity(), object, message);
    }

    /// Adds a finding about a record that is lost or altered; what cannot be shown without the record follows from it.
    pub(super) fn add_broken_history(&mut self, code: Code, object: impl AsRef<str>, message: impl AsRef<str>) {
        self.add(code, &object, message);
        self.history.get_or_insert_with(|| Cause { code, object: bounded(object.as_ref()) });
    }

    /// Says what the findings from now on follow from.
    pub(super) fn because(&mut self, cause: Option<Cause>) {
        self.because = cause;
    }

    fn cause_of(&self, code: Code) -> Option<Cause> {
        self.because.as_ref().or_else(|| self.history.as_ref().filter(|_| code.needs_whole_history())).cloned()
    }

    /// A place to which a later [`Findings::insert`] can go back.
    pub(super) const fn mark(&self) -> usize {
        self.kept.len()
    }

    /// Adds a finding before those that were made since the mark: a cause that was found after its consequences.
    pub(super) fn insert(&mut self, mark: usize, code: Code, object: impl AsRef<str>, message: impl AsRef<str>) {
        let before = self.kept.len();
        self.add(code, object, message);
        if self.kept.len() > before
            && let Some(tail) = self.kept.get_mut(mark..)
        {
            tail.rotate_right(1);
        }
    }

    /// Adds a finding with another severity.
    pub(super) fn add_as(&mut self, code: Code, severity: Severity, object: impl AsRef<str>, message: impl AsRef<str>) {
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
            Severity::Note => &mut self.notes,
        };
        *count = count.saturating_add(1);
        if self.kept.len() < Self::KEPT_MAX {
            let follows_from = self.cause_of(code);
            self.kept.push(Finding {
                code,
                severity,
                blame: follows_from.as_ref().map_or(code, |cause| cause.code).blame(),
                object: bounded(object.as_ref()),
                message: bounded(message.as_ref()),
                meaning: code.meaning(),
                follows_from,
            });
        }
    }

    /// Findings in the order in which they were made; their causes come before their consequences.
    #[must_use]
    pub fn kept(&self) -> &[Finding] {
        &self.kept
    }

    /// How many errors, warnings and notes there were, kept or not.
    #[must_use]
    pub const fn counts(&self) -> (u64, u64, u64) {
        (self.errors, self.warnings, self.notes)
    }

    /// How many are not in [`Findings::kept`].
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.errors.saturating_add(self.warnings).saturating_add(self.notes).saturating_sub(self.kept.len() as u64)
    }
}

/// Cuts text that is already escaped.
fn bounded(text: &str) -> String {
    if text.chars().count() <= Findings::CHARS_MAX {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(Findings::CHARS_MAX - 3).collect();
    cut.push_str("...");
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_and_a_bounded_part_is_kept() {
        let mut findings = Findings::default();
        for i in 0..1_500 {
            findings.add(Code::SegmentDigest, format!("object {i}"), "x".repeat(3_000));
        }
        findings.add(Code::OrderOpen, "o", "m");
        assert_eq!((findings.kept().len(), findings.counts(), findings.left_out()), (1_000, (1_500, 0, 1), 501));
        assert!(findings.kept().iter().all(|f| f.message.chars().count() == 2_000));
    }
}
