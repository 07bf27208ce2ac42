//! Rights that one coordinator has at a time: to add to a log, to write a collection's objects and its end, to do the chores.
//!
//! A right is kept by asking for it again and again. Whoever could not ask in time has lost it, by its own monotonic clock
//! earlier than by the database's: a process that was held up does not begin a write that somebody else may be making.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::Outbox;
use crate::catalog::CatalogError;
use crate::catalog::peers::{Grant, Peers};

/// Life of a right that is not asked for again. When a coordinator falls silent without its connection to the database
/// ending (a machine that is stopped, a network that is cut), others wait for so long.
const LIFE: Duration = Duration::from_mins(1);
/// How often it is asked for again.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// A write begins only while the right lasts at least so long.
const MARGIN: Duration = Duration::from_secs(20);
/// Waits between two tries to take a right that another has.
const TRY_MIN: Duration = Duration::from_millis(5);
const TRY_MAX: Duration = Duration::from_millis(250);
/// Time between two tries to give back what was let go of.
const GIVE_AGAIN: Duration = Duration::from_secs(1);

/// The rights of this process, and its way to the others.
#[derive(Debug, Default)]
pub struct Leases {
    peers: Option<Arc<dyn Peers>>,
    outbox: Outbox,
    /// Rights that several tasks of this process use together.
    shared: Mutex<HashMap<String, Weak<Lease>>>,
    let_go: Arc<LetGo>,
}

/// Rights that this process let go of and that the database does not know to be given back yet. Nobody uses them any more, so whoever asks
/// here for one need not wait until its life is over. By name, with the token of its taking: the right that somebody else took since
/// has another one, and stays theirs. There are no more than the process held at once, because without the database none is taken.
#[derive(Debug, Default)]
struct LetGo(Mutex<HashMap<String, (i64, Instant)>>);

impl LetGo {
    fn note(&self, name: &str, token: i64) {
        let (now, mut rights) = (Instant::now(), self.lock());
        // Those ended by themselves.
        rights.retain(|_, (_, at)| now.duration_since(*at) < LIFE);
        rights.insert(name.to_owned(), (token, now));
    }

    fn token(&self, name: &str) -> Option<i64> {
        self.lock().get(name).map(|(token, _)| *token)
    }

    fn forget(&self, name: &str, token: i64) {
        let mut rights = self.lock();
        if rights.get(name).is_some_and(|(known, _)| *known == token) {
            rights.remove(name);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (i64, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A right that is held. Dropped, it is given back soon.
#[derive(Debug)]
pub struct Lease {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    peers: Arc<dyn Peers>,
    name: String,
    grant: Grant,
    epoch: u64,
    /// When it ends unless it is asked for again; in the past once it was lost.
    until: Arc<Mutex<Instant>>,
    keeper: tokio::task::JoinHandle<()>,
    given: bool,
    let_go: Arc<LetGo>,
}

impl Leases {
    /// Of a coordinator that is alone: it has every right.
    #[must_use]
    pub fn of_one() -> Arc<Self> {
        Arc::default()
    }

    /// Of a coordinator among these.
    #[must_use]
    pub fn among(peers: Arc<dyn Peers>, outbox: Outbox) -> Arc<Self> {
        Arc::new(Self { peers: Some(peers), outbox, shared: Mutex::default(), let_go: Arc::default() })
    }

    /// Where notices to the others are put.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The other coordinators, if there can be any.
    #[must_use]
    pub fn peers(&self) -> Option<&Arc<dyn Peers>> {
        self.peers.as_ref()
    }

    /// Waits at most `wait` until this right is this task's alone.
    ///
    /// # Errors
    /// [`CatalogError::Busy`] when another has it all that time; the database's errors.
    pub async fn alone(&self, name: &str, wait: Duration) -> Result<Lease, CatalogError> {
        let Some(peers) = &self.peers else { return Ok(Lease { held: None }) };
        let give_up = Instant::now() + wait;
        let mut pause = TRY_MIN;
        loop {
            if let Some(token) = self.let_go.token(name)
                && peers.give(name.to_owned(), token, None).await.is_ok()
            {
                self.let_go.forget(name, token);
            }
            let (asked, epoch) = (Instant::now(), peers.epoch());
            let refused = match peers.take(name.to_owned(), LIFE).await {
                Ok(Some(grant)) => {
                    let (peers, let_go) = (Arc::clone(peers), Arc::clone(&self.let_go));
                    return Ok(Lease { held: Some(Held::keep(peers, name, (grant, epoch), asked + LIFE, let_go)) });
                }
                Ok(None) => CatalogError::Busy(format!("another coordinator is at work on '{name}'")),
                Err(e @ CatalogError::Busy(_)) => e,
                Err(e) => return Err(e),
            };
            if Instant::now() + pause > give_up {
                return Err(refused);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(TRY_MAX);
        }
    }

    /// As [`Leases::alone`], but tasks of this process have the right together: it is given back when the last one drops it.
    ///
    /// # Errors
    /// As [`Leases::alone`].
    pub async fn shared(&self, name: &str, wait: Duration) -> Result<Arc<Lease>, CatalogError> {
        if self.peers.is_none() {
            return Ok(Arc::new(Lease { held: None }));
        }
        let give_up = Instant::now() + wait;
        loop {
            if let Some(lease) = self.held(name) {
                return Ok(lease);
            }
            match self.alone(name, Duration::ZERO).await {
                Ok(lease) => {
                    let lease = Arc::new(lease);
                    let mut shared = self.lock();
                    shared.retain(|_, lease| lease.strong_count() > 0);
                    shared.insert(name.to_owned(), Arc::downgrade(&lease));
                    return Ok(lease);
                }
                // Another task of this process may have it since, or be giving it back.
                Err(CatalogError::Busy(_)) if Instant::now() + TRY_MAX < give_up => tokio::time::sleep(TRY_MAX / 4).await,
                Err(e) => return Err(e),
            }
        }
    }

    /// A shared right that this process has now.
    fn held(&self, name: &str) -> Option<Arc<Lease>> {
        self.lock().get(name).and_then(Weak::upgrade).filter(|lease| lease.lasts())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Weak<Lease>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn keep(peers: Arc<dyn Peers>, name: &str, (grant, epoch): (Grant, u64), until: Instant, let_go: Arc<LetGo>) -> Self {
        let until = Arc::new(Mutex::new(until));
        let keeper = tokio::spawn(renew(Arc::clone(&peers), name.to_owned(), grant.token, Arc::clone(&until)));
        Self { peers, name: name.to_owned(), grant, epoch, until, keeper, given: false, let_go }
    }
}

/// Asks for the right again until it is lost.
async fn renew(peers: Arc<dyn Peers>, name: String, token: i64, until: Arc<Mutex<Instant>>) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let asked = Instant::now();
        match peers.renew(name.clone(), token, LIFE).await {
            Ok(true) => *until.lock().unwrap_or_else(PoisonError::into_inner) = asked + LIFE,
            Ok(false) => {
                *until.lock().unwrap_or_else(PoisonError::into_inner) = asked;
                tracing::warn!(name, "a right was lost to another coordinator");
                return;
            }
            // The next time may do; until then it lasts as long as it was last granted for.
            Err(error) => tracing::warn!(name, %error, "a right could not be asked for again"),
        }
    }
}

/// Gives a right back that was let go of, also after the database was away for a moment: others would wait until its life is over. The
/// token sees to it that it is still that taking of it. Between two tries nothing is held, because the process may be at its end.
async fn give_back(peers: Arc<dyn Peers>, name: String, token: i64, let_go: Arc<LetGo>) {
    let (give_up, known) = (Instant::now() + LIFE, Arc::downgrade(&peers));
    let mut next = Some(peers);
    while let Some(peers) = next {
        let given = peers.give(name.clone(), token, None).await;
        drop(peers);
        let Err(error) = given else {
            let_go.forget(&name, token);
            return;
        };
        if Instant::now() >= give_up || let_go.token(&name) != Some(token) {
            tracing::debug!(name, %error, "a right could not be given back; it ends by itself, or another task here took it again");
            return;
        }
        tokio::time::sleep(GIVE_AGAIN).await;
        next = known.upgrade();
    }
}

impl Lease {
    /// True while a write that begins now ends before anybody else may begin one, if it ends soon.
    #[must_use]
    pub fn lasts(&self) -> bool {
        self.held.as_ref().is_none_or(|held| {
            let until = *held.until.lock().unwrap_or_else(PoisonError::into_inner);
            held.peers.epoch() == held.epoch && Instant::now() + MARGIN < until
        })
    }

    /// What the holder before left; `None` when nothing is known. Of a coordinator that is alone: nothing.
    #[must_use]
    pub fn mark(&self) -> Option<u64> {
        self.held.as_ref().and_then(|held| held.grant.mark)
    }

    /// True when others can have it: what this process knows may be old.
    #[must_use]
    pub const fn is_shared_out(&self) -> bool {
        self.held.is_some()
    }

    /// Gives the right back now and leaves a mark. That it could not be given back is no error: it ends by itself, and who
    /// comes then finds no mark of this holder and looks.
    pub async fn give(mut self, mark: Option<u64>) {
        if let Some(held) = &mut self.held {
            held.given = held.peers.give(held.name.clone(), held.grant.token, mark).await.is_ok();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.keeper.abort();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.given {
            let (name, token) = (std::mem::take(&mut self.name), self.grant.token);
            self.let_go.note(&name, token);
            runtime.spawn(give_back(Arc::clone(&self.peers), name, token, Arc::clone(&self.let_go)));
        }
    }
}
