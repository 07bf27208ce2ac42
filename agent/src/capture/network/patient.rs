//! Questions that may never be answered, because the file system of a server lies on the way: asked one after the other, on a thread
//! that can be left behind.

use std::fmt;
use std::time::Duration;

use crate::capture::patience::{Kept, NotDone};

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Threads that may be left behind.
const STUCK_MAX: u32 = 4;
/// Why nothing is asked any more.
const NO_MORE: &str = "not asked: too many others did not answer";

/// Asks.
#[derive(Default)]
pub struct Patient {
    thread: Option<Kept<()>>,
    stuck: u32,
}

impl fmt::Debug for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patient").field("stuck", &self.stuck).finish_non_exhaustive()
    }
}

impl Patient {
    /// Asks.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn ask<T: Send + 'static>(&mut self, question: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        self.ask_for(PATIENCE, question)
    }

    fn ask_for<T: Send + 'static>(&mut self, patience: Duration, question: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        if self.stuck >= STUCK_MAX {
            return Err(NO_MORE.to_owned());
        }
        let mut thread = match self.thread.take() {
            Some(thread) => thread,
            None => Kept::new((), patience).map_err(|_| "no thread for it".to_owned())?,
        };
        match thread.ask(move |()| question()) {
            Ok(answer) => {
                self.thread = Some(thread);
                Ok(answer)
            }
            // That thread is left behind; the next question has a new one.
            Err(NotDone::Late) => {
                self.stuck = self.stuck.saturating_add(1);
                Err(format!("it did not answer within {} s", patience.as_secs()))
            }
            Err(NotDone::Ended | NotDone::NoThread) => Err("no thread for it".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_keeps_nobody_else_waiting_and_not_often() {
        let short = Duration::from_millis(50);
        let mut patient = Patient::default();
        let mut held = Vec::new();
        for _ in 0..STUCK_MAX {
            assert_eq!(patient.ask_for(short, || 7), Ok(7));
            let (hold, wait) = std::sync::mpsc::channel::<()>();
            held.push(hold);
            let late = patient.ask_for(short, move || wait.recv().is_ok());
            assert!(late.is_err_and(|why| why.contains("did not answer")));
        }
        assert_eq!(patient.ask_for(short, || 7), Err(NO_MORE.to_owned()));
    }
}
