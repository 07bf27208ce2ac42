//! Exit codes and failures. The codes are stable; the numbers from 64 up are those of sysexits(3).

use std::process::ExitCode;

use exhibit_proto::transport::NEEDS_A_PERSON;
use exhibit_proto::transport::client::describe;

/// How the program ends. `exhibit --help` and `docs/operations/exit-codes.md` list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// The command failed for a reason that the message names.
    Failure = 1,
    /// The command ran, but a collection did not end as sealed, an item could not be had, or an approved destruction is not finished.
    Incomplete = 2,
    /// The command line is wrong.
    Usage = 64,
    /// Input that was given (a file, an id, a value) cannot be used.
    Input = 65,
    /// The coordinator cannot be reached.
    Unavailable = 69,
    /// Something could not be written here.
    CannotCreate = 73,
    /// Evidence does not match its digest.
    Damaged = 74,
    /// The coordinator, or the file system, does not permit it.
    NotPermitted = 77,
    /// The configuration in EXHIBIT_HOME is missing or wrong.
    Config = 78,
    /// Ended by Ctrl-C (128 + SIGINT), as shells count.
    Interrupted = 130,
    /// Ended by SIGTERM (128 + SIGTERM).
    Terminated = 143,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// Why a command failed, for a person.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// What happened, escaped where it came from outside.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// True when something of that name is there already: the others can still be written.
    pub exists: bool,
}

/// What commands return.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, exists: false }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Of a call that changes something: when the connection was lost meanwhile, nobody here knows whether `what` came true. `look` is the
    /// command that shows it.
    #[must_use]
    pub fn unsure(self, what: &str, look: &str) -> Self {
        if self.code != Code::Unavailable {
            return self;
        }
        // The coordinator said so itself, and whether it is to be given again.
        if self.message.contains(NOT_KNOWN) {
            return self.hint(format!("look first: {look}"));
        }
        let message = format!("{}; {NOT_KNOWN} {what}", self.message);
        Self::new(Code::Unavailable, message).hint(format!(
            "when the coordinator answers again, look first: {look}; give this command again only where that does not show it"
        ))
    }

    /// Adds what to do next by the words that stand in the message; the first that do count.
    #[must_use]
    pub fn hint_from(self, table: &[(&str, &str)]) -> Self {
        match table.iter().find(|(words, _)| self.message.contains(words)) {
            Some((_, next)) => self.hint(*next),
            None => self,
        }
    }
}

/// Begins what is said of a call of which nobody here knows what became.
const NOT_KNOWN: &str = "it is not known whether";

/// What the coordinator does not find, and where the others are listed.
const LISTS: &[(&str, &str)] = &[
    ("there is no case ", "exhibit case list"),
    ("there is no order ", "exhibit collections"),
    ("there is no collection ", "exhibit collections"),
    ("has no collection ", "exhibit collections --case CASE"),
    ("there is no agent ", "exhibit agents"),
];

/// What to do when the coordinator itself says that it cannot now.
const ELSEWHERE: &str = "the same command again in a moment; where there are several coordinators, name each of them in \
                         EXHIBIT_HOME/config.toml: coordinator = [\"HOST:PORT\", ...]";

/// What to do when it says so of what does not pass by itself; its message names what helps.
const SEEN_TO: &str = "tell whoever runs the coordinator, because it does not pass by itself; then the same command again";

/// What to do when something is not as it was written. A command that only asked, or signs, wrote no file.
const DAMAGED: &str = "sign nothing by it, and use no file that this command wrote; verify the case with exhibit-verify";

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code as C;
        // A status that the coordinator sent has no source; one that has was made here, because the connection broke.
        let broke = std::error::Error::source(&status).is_some();
        if status.code() == C::Unavailable && !broke && !status.message().is_empty() {
            let needs_a_person = status.metadata().contains_key(NEEDS_A_PERSON);
            let message = exhibit_evidence::text::escape_bounded(status.message(), 2_000);
            return Self::new(Code::Unavailable, message).hint(if needs_a_person { SEEN_TO } else { ELSEWHERE });
        }
        if broke || status.code() == C::Unavailable {
            let message = format!("the connection to the coordinator was lost: {}", without_links(&describe(&status)));
            return Self::new(Code::Unavailable, message)
                .hint("the same command again in a moment; where that fails too, see whether the coordinator runs and what its log says");
        }
        let message = in_options(&exhibit_evidence::text::escape_bounded(status.message(), 2_000));
        match status.code() {
            C::PermissionDenied | C::Unauthenticated => Self::new(Code::NotPermitted, message),
            C::NotFound => Self::new(Code::Input, message).hint_from(LISTS),
            C::InvalidArgument | C::OutOfRange => Self::new(Code::Input, message),
            C::DataLoss => Self::new(Code::Damaged, message).hint(DAMAGED),
            _ => Self::new(Code::Failure, message),
        }
    }
}

/// What the coordinator calls a field, and what a person gave it as.
const FIELDS: [(&str, &str); 26] = [
    ("accountable", "--accountable"),
    ("case_closed", "the case"),
    ("case_id", "--case"),
    ("case_opened", "the case"),
    ("captures", "--capture"),
    ("collections", "COLLECTION"),
    ("expires_at", "--expires"),
    ("from", "--from"),
    ("items", "ITEM"),
    ("key", "your evidence key"),
    ("labels", "--label"),
    ("legal_basis", "--legal-basis"),
    ("limits.deadline_s", "--deadline"),
    ("limits.read_bytes_per_s", "--read-rate"),
    ("limits.send_bytes_per_s", "--send-rate"),
    ("note", "--note"),
    ("path_globs", "--path"),
    ("profile", "--profile"),
    ("reason", "--reason"),
    ("record", "--record"),
    ("size", "--size"),
    ("statuses", "--status"),
    ("targets", "--agent"),
    ("title", "--title"),
    ("to", "--to"),
    ("ttl_s", "--ttl"),
];

/// The coordinator names the field that is wrong; here it has the name of an option.
fn in_options(message: &str) -> String {
    let bare = message.strip_prefix("field ").unwrap_or(message);
    let option = bare.split_once(": ").and_then(|(field, rest)| FIELDS.iter().find(|(name, _)| *name == field).map(|(_, o)| (o, rest)));
    option.map_or_else(|| message.to_owned(), |(option, rest)| format!("{option}: {rest}"))
}

/// Libraries put addresses of their manuals into their errors; a responder has no use for them.
fn without_links(text: &str) -> String {
    let kept: Vec<&str> = text.split(": ").filter(|part| !part.starts_with("https://")).collect();
    kept.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_options_and_links_are_left_out() {
        assert_eq!(in_options("ttl_s: 1: expected 60"), "--ttl: 1: expected 60");
        assert_eq!(in_options("field case_id: give one"), "--case: give one");
        assert_eq!(in_options("something else: x"), "something else: x");
        assert_eq!(without_links("peer closed: https://docs.rs/rustls/latest: cut"), "peer closed: cut");
    }

    #[test]
    fn what_is_not_there_is_told_with_the_list_of_what_is() {
        let hint = |text: &str| Failure::from(tonic::Status::not_found(text)).hint;
        assert_eq!(hint("case: there is no case case-1").as_deref(), Some("exhibit case list"));
        assert_eq!(hint("collections: case-1 has no collection col-1").as_deref(), Some("exhibit collections --case CASE"));
        assert_eq!(hint("agent: there is no agent agt-1").as_deref(), Some("exhibit agents"));
        assert_eq!(hint("col-1 was destroyed at noon"), None);
    }

    #[test]
    fn what_was_being_changed_when_the_connection_broke_is_not_known() {
        let unsure = |status| Failure::from(status).unsure("the hold stands", "exhibit case custody case-1");
        let lost = unsure(tonic::Status::unavailable("gone"));
        assert!(lost.message.ends_with("gone; it is not known whether the hold stands"), "{}", lost.message);
        let hint = lost.hint.expect("a hint");
        assert!(lost.code == Code::Unavailable && hint.contains("look first: exhibit case custody case-1;"), "{hint}");
        let said = unsure(tonic::Status::unavailable("it is not known whether the hold stands: the disk is full"));
        assert_eq!(said.message, "it is not known whether the hold stands: the disk is full", "once");
        assert_eq!(said.hint.as_deref(), Some("look first: exhibit case custody case-1"));
        // Nor was anything written here when a log was found damaged.
        let damaged = unsure(tonic::Status::data_loss("the log was put back"));
        assert_eq!((damaged.code, damaged.hint.as_deref()), (Code::Damaged, Some(DAMAGED)));
        // What was refused did not happen.
        let refused = unsure(tonic::Status::permission_denied("no"));
        assert_eq!((refused.code, refused.message.as_str()), (Code::NotPermitted, "no"));
    }

    #[test]
    fn only_what_the_coordinator_said_is_its_answer() {
        let said = Failure::from(tonic::Status::internal("a defect"));
        assert_eq!((said.code, said.message.as_str()), (Code::Failure, "a defect"));
        // It said so: no connection was lost, and another one may do it.
        let later = Failure::from(tonic::Status::unavailable("the coordinator is stopping"));
        assert_eq!((later.code, later.message.as_str()), (Code::Unavailable, "the coordinator is stopping"));
        assert_eq!(later.hint.as_deref(), Some(ELSEWHERE));
        // Nor does another one: they have one store.
        let mut refused = tonic::Status::unavailable("could not create 'a': ExpiredToken (the credentials are expired: renew them)");
        refused.metadata_mut().insert(NEEDS_A_PERSON, tonic::metadata::MetadataValue::from_static("true"));
        let refused = Failure::from(refused);
        assert_eq!((refused.code, refused.hint.as_deref()), (Code::Unavailable, Some(SEEN_TO)));
        assert!(refused.message.ends_with("(the credentials are expired: renew them)"), "{}", refused.message);
        let mut broken = tonic::Status::internal("h2 protocol error");
        broken.set_source(std::sync::Arc::new(std::io::Error::other("reset")));
        assert_eq!(Failure::from(broken).code, Code::Unavailable);
    }
}
