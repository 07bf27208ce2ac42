//! How `exhibit-agent` ends: what a script can rely on.

/// Exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed for a reason that may pass: coordinator unreachable, disk full.
    Failed = 1,
    /// The collection ended early; what was taken is kept.
    Partial = 2,
    /// The coordinator, the pin or the token says no: repeating the same command does not help.
    Refused = 3,
    /// A configuration, a policy, an option or the state folder is not usable; nothing was done.
    Usage = 64,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
