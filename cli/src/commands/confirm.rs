//! Asks a person before something that cannot be taken back.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};

use crate::exit::{Code, Failure, Result};

/// Asks, unless that was answered on the command line; whoever agrees types `word`. `unasked` is what a script hears that did not say
/// it.
pub fn confirmed(yes: bool, question: &str, word: &str, unasked: Failure) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(unasked);
    }
    let lost = |e: std::io::Error| Failure::new(Code::Failure, format!("nothing is signed: the answer could not be read: {e}"));
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "{question}: ").and_then(|()| err.flush());
    let mut answer = String::new();
    std::io::stdin().lock().take(64).read_line(&mut answer).map_err(lost)?;
    if answer.trim() == word {
        return Ok(());
    }
    Err(Failure::new(Code::Failure, "nothing is signed: it was not confirmed"))
}
