//! The one switch of a running collection: whoever wants it to end says so here, and every wait of its threads ends.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::capture::Stop;
use crate::clock;

/// Shared by the session, the capture thread and the uploader of one collection.
#[derive(Debug)]
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    stop: Option<Stop>,
    /// On the clock of [`clock::monotonic`].
    deadline: Option<Duration>,
    at_once: bool,
}

impl State {
    fn check(&self) -> Result<(), Stop> {
        match (&self.stop, self.deadline) {
            (Some(why), _) => Err(why.clone()),
            (None, Some(deadline)) if clock::monotonic() >= deadline => Err(Stop::Deadline),
            _ => Ok(()),
        }
    }
}

impl Control {
    /// A collection that runs until its deadline (a moment of [`clock::monotonic`]), if it has one.
    #[must_use]
    pub const fn new(deadline: Option<Duration>) -> Self {
        Self { state: Mutex::new(State { stop: None, deadline, at_once: false }), changed: Condvar::new() }
    }

    /// Tells the collection to end. The first reason stands.
    pub fn stop(&self, why: Stop) {
        self.lock().stop.get_or_insert(why);
        self.changed.notify_all();
    }

    /// Tells a collection that was told to end that what it has in memory is not waited for either: somebody asked twice.
    pub fn at_once(&self) {
        self.lock().at_once = true;
        self.changed.notify_all();
    }

    /// Whether a collection that was told to end may still write what it has in memory.
    #[must_use]
    pub fn may_close(&self) -> bool {
        !self.lock().at_once
    }

    /// Takes from the time until the deadline what an earlier process of the agent used of it.
    pub fn used(&self, time: Duration) {
        let mut state = self.lock();
        state.deadline = state.deadline.map(|at| at.saturating_sub(time));
        drop(state);
        self.changed.notify_all();
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// The [`Stop`] that was given, or [`Stop::Deadline`].
    pub fn check(&self) -> Result<(), Stop> {
        self.lock().check()
    }

    /// Waits, but not longer than until somebody tells the collection to end.
    ///
    /// # Errors
    /// As [`Control::check`].
    pub fn wait(&self, duration: Duration) -> Result<(), Stop> {
        let until = clock::monotonic().saturating_add(duration);
        let mut guard = self.lock();
        loop {
            guard.check()?;
            let now = clock::monotonic();
            let end = guard.deadline.map_or(until, |d| until.min(d));
            if now >= until {
                return Ok(());
            }
            guard = self.changed.wait_timeout(guard, end.saturating_sub(now)).map_or_else(|e| e.into_inner().0, |(g, _)| g);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each value is replaced whole, so a thread that died while holding the lock left nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_and_a_cancel_end_a_wait() {
        let begin = clock::monotonic();
        let by_deadline = Control::new(Some(begin + Duration::from_millis(30)));
        assert_eq!(by_deadline.wait(Duration::from_mins(1)), Err(Stop::Deadline));

        let control = std::sync::Arc::new(Control::new(None));
        let other = std::sync::Arc::clone(&control);
        let thread = std::thread::spawn(move || other.wait(Duration::from_mins(1)));
        control.stop(Stop::Cancelled("first".into()));
        control.stop(Stop::Cancelled("second".into()));
        assert_eq!(thread.join().expect("thread"), Err(Stop::Cancelled("first".into())));
        assert!(clock::monotonic().saturating_sub(begin) < Duration::from_secs(30));
        assert_eq!(Control::new(None).wait(Duration::from_millis(1)), Ok(()));

        let taken_up = Control::new(Some(begin + Duration::from_hours(1)));
        assert_eq!(taken_up.check(), Ok(()));
        taken_up.used(Duration::from_hours(1));
        assert_eq!(taken_up.check(), Err(Stop::Deadline), "an earlier process used it");
    }
}
