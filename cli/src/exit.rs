//! Exit codes and failures. The codes are stable; the numbers from 64 up are those of sysexits(3).

use std::process::ExitCode;

/// How the program ends. `exhibit --help` and `docs/operations/exit-codes.md` list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// The command failed for a reason that the message names.
    Failure = 1,
    /// The command ran, but a collection did not end as sealed, or an item could not be had.
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
}

/// What commands return.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code as C;
        let message = exhibit_evidence::text::escape_bounded(status.message(), 2_000);
        let because = std::error::Error::source(&status).map(|e| format!(": {}", chain(e))).unwrap_or_default();
        match status.code() {
            C::Unavailable => Self::new(Code::Unavailable, format!("the coordinator cannot be reached: {message}{because}"))
                .hint("check that it runs and that the address in EXHIBIT_HOME/config.toml is right"),
            C::PermissionDenied | C::Unauthenticated => Self::new(Code::NotPermitted, message),
            C::InvalidArgument | C::NotFound | C::OutOfRange => Self::new(Code::Input, message),
            C::DataLoss => Self::new(Code::Damaged, message).hint("do not use what was written; verify the case with exhibit-verify"),
            _ => Self::new(Code::Failure, format!("{message}{because}")),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = exhibit_evidence::text::escape_bounded(&error.to_string(), 500);
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = exhibit_evidence::text::escape_bounded(&cause.to_string(), 500);
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
