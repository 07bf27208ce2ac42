//! A start that waits for a store that is disturbed, as a coordinator that runs waits for it.
//!
//! Meanwhile monitors hear that it lives, does not serve, and why; agents and people are sent away as soon as something takes longer than a
//! moment, so that they go to another coordinator instead of waiting for this one.

use std::convert::Infallible;
use std::fmt::Display;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a start waits: as long as for a PostgreSQL server that is starting (`catalog/postgres/first.rs`).
pub const WITHIN: Duration = Duration::from_mins(5);
/// A try that lasts longer is said to whoever asks, and agents and people are sent away meanwhile: a quick start is over by then.
const SOON: Duration = Duration::from_secs(2);
/// A try that lasts longer is told in the log as well: longer than one call of the start-up test may be silent ([`crate::store::ANSWERS_WITHIN`]), which says more.
const LASTS: Duration = Duration::from_secs(40);
/// Time between two tries.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Pause when no connection can be accepted, e.g. because no file can be opened any more.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What a start waits for just now. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Awaited(watch::Sender<Option<String>>);

impl Default for Awaited {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Awaited {
    /// In words; `None` while nothing is waited for.
    #[must_use]
    pub fn now(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    fn set(&self, what: Option<String>) {
        self.0.send_replace(what);
    }
}

/// Tries again for up to [`WITHIN`] as long as the error `passes`; `what` says what is waited for. A try that lasts is told as well, and
/// goes on: a large store takes its time.
///
/// # Errors
/// That of the last try; [`given_up`] has the words for one that passes.
pub async fn patient<T, E, F>(awaited: &Awaited, what: &str, passes: impl Fn(&E) -> bool, mut attempt: impl FnMut() -> F) -> Result<T, E>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let (begun, mut told, mut lasted) = (Instant::now(), false, false);
    let done = loop {
        let tell = |since: Duration| {
            let lasts = format!("{what}: not done after {} s", since.as_secs());
            if since < LASTS {
                // Why the try before failed says more.
                if awaited.now().is_none() {
                    awaited.set(Some(lasts));
                }
                return;
            }
            tracing::warn!(what, "waiting: not done after {} s, nobody is served before; SIGTERM ends it", since.as_secs());
            awaited.set(Some(lasts));
            lasted = true;
        };
        let done = lasting(Box::pin(attempt()), tell).await;
        let why = done.as_ref().err().filter(|&e| passes(e) && begun.elapsed() < WITHIN).map(ToString::to_string);
        let Some(why) = why else { break done };
        if !told {
            tracing::warn!(what, %why, "waiting: it is tried again for up to {} s, nobody is served before; SIGTERM ends it", WITHIN.as_secs());
            told = true;
        }
        awaited.set(Some(format!("{what}: {why}")));
        tokio::time::sleep(ASK_AGAIN).await;
    };
    awaited.set(None);
    if (told || lasted) && done.is_ok() {
        tracing::info!(what, "no longer waiting: the start goes on");
    }
    done
}

/// Does `work`, and tells how long it has lasted after [`SOON`] and each time that [`LASTS`] went by.
async fn lasting<F: Future + Unpin>(mut work: F, mut tell: impl FnMut(Duration)) -> F::Output {
    let begun = Instant::now();
    let mut lasted = SOON;
    loop {
        if let Ok(done) = tokio::time::timeout_at(begun + lasted, &mut work).await {
            return done;
        }
        tell(lasted);
        lasted = if lasted < LASTS { LASTS } else { lasted + LASTS };
    }
}

/// What is said of an error that would pass and did not in the time.
#[must_use]
pub fn given_up(e: &dyn Display) -> String {
    format!("{e}; it was tried again for {} s: start again when the cause is gone", WITHIN.as_secs())
}

/// Does `start`, and meanwhile answers monitors, and sends agents and people away while something is waited for.
pub async fn attended<T>(awaited: &Awaited, (listener, http): (&TcpListener, Option<&TcpListener>), start: impl Future<Output = T>) -> T {
    tokio::select! {
        done = start => done,
        never = send_away(listener, awaited) => match never {},
        never = crate::http::serve_starting(http, awaited) => match never {},
    }
}

/// Who comes while nothing is waited for is served in a moment and stays in the queue.
async fn send_away(listener: &TcpListener, awaited: &Awaited) -> Infallible {
    let mut waiting = awaited.0.subscribe();
    loop {
        // The sender outlives this.
        let _ = waiting.wait_for(Option::is_some).await;
        let cannot = tokio::select! {
            accepted = listener.accept() => accepted.is_err(),
            _ = waiting.wait_for(Option::is_none) => false,
        };
        if cannot {
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpStream;

    use super::*;
    use crate::store::{Kind, StoreError};

    fn passes(e: &StoreError) -> bool {
        e.kind() == Kind::Retry
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_waited_for_and_what_does_not_is_told_at_once() {
        let (awaited, tries) = (Awaited::default(), Cell::new(0_u32));
        let failing = |kind: Kind, times: u32| {
            tries.set(0);
            let (awaited, tries) = (&awaited, &tries);
            move || {
                let n = tries.get();
                // From the second try on it is known what is waited for.
                assert_eq!(awaited.now().is_some(), n > 0);
                tries.set(n + 1);
                std::future::ready(if n < times { Err(StoreError::new(kind, "refused", "look")) } else { Ok(n) })
            }
        };
        let begun = Instant::now();
        assert_eq!(patient(&awaited, "the store", passes, failing(Kind::Retry, 3)).await, Ok(3));
        assert!(begun.elapsed() >= ASK_AGAIN * 3 && begun.elapsed() < ASK_AGAIN * 4);
        assert_eq!(awaited.now(), None);
        for kind in [Kind::Denied, Kind::Full, Kind::Damaged] {
            let e = patient(&awaited, "the store", passes, failing(kind, 1)).await.expect_err("at once");
            assert_eq!((e.kind(), tries.get()), (kind, 1));
        }
        let begun = Instant::now();
        let e = patient(&awaited, "the store", passes, failing(Kind::Retry, u32::MAX)).await.expect_err("not for ever");
        assert!(begun.elapsed() >= WITHIN && begun.elapsed() < WITHIN + ASK_AGAIN * 2);
        assert!(given_up(&e).starts_with("refused (look); it was tried again for 300 s"), "{}", given_up(&e));
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_lasts_is_told_and_goes_on() {
        let awaited = Awaited::default();
        let slow = || async {
            tokio::time::sleep(ASK_AGAIN).await;
            assert_eq!(awaited.now(), None, "a quick start is left alone");
            for (more, told) in [(SOON, "2 s"), (LASTS.saturating_sub(SOON), "40 s"), (LASTS, "80 s")] {
                tokio::time::sleep(more).await;
                assert_eq!(awaited.now(), Some(format!("the store: not done after {told}")));
            }
            Ok::<_, StoreError>(7)
        };
        assert_eq!(patient(&awaited, "the store", passes, slow).await, Ok(7));
        assert_eq!(awaited.now(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_tried_again_the_error_before_is_what_is_said() {
        let (awaited, tries) = (Awaited::default(), Cell::new(0_u32));
        let silent_again = || async {
            tries.set(tries.get() + 1);
            if tries.get() == 1 {
                return Err(StoreError::new(Kind::Retry, "no answer within 30 s", "look"));
            }
            tokio::time::sleep(SOON * 2).await;
            assert_eq!(awaited.now().as_deref(), Some("the store: no answer within 30 s (look)"));
            Ok(tries.get())
        };
        assert_eq!(patient(&awaited, "the store", passes, silent_again).await, Ok(2));
    }

    #[tokio::test]
    async fn who_comes_while_the_first_try_is_silent_is_sent_away_before_it_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let awaited = Awaited::default();
        let silent = patient(&awaited, "the store", passes, std::future::pending::<Result<(), StoreError>>);
        let early = async {
            let mut early = TcpStream::connect(address).await.expect("queued");
            let closed = tokio::time::timeout(LASTS / 2, early.read(&mut [0; 1])).await.expect("sent away");
            assert_eq!(awaited.now().as_deref(), Some("the store: not done after 2 s"));
            closed.unwrap_or(0)
        };
        let start = async {
            tokio::select! {
                _ = silent => None,
                read = early => Some(read),
            }
        };
        assert_eq!(attended(&awaited, (&listener, None), start).await, Some(0));
    }

    #[tokio::test]
    async fn who_comes_while_it_waits_is_sent_away_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let awaited = Awaited::default();
        let read = async {
            let mut early = TcpStream::connect(address).await.expect("queued");
            let mut bytes = [0; 1];
            tokio::time::timeout(Duration::from_millis(300), early.read(&mut bytes)).await.expect_err("nothing is waited for: it stays");
            awaited.set(Some("the store".to_owned()));
            tokio::time::timeout(Duration::from_secs(10), early.read(&mut bytes)).await.expect("sent away").unwrap_or(0)
        };
        assert_eq!(attended(&awaited, (&listener, None), read).await, 0);
    }
}
