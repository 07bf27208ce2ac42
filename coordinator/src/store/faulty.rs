//! A store that fails on purpose: before the operation, after it was applied, late, never answering, or with altered bytes.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::Digest;
use tokio::sync::watch;

use super::{Answer, Kind, Page, Payload, Store, StoreError, Stored};

/// An operation of the trait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// `put_new` and `put_over`
    PutNew,
    /// `put_head`
    PutHead,
    /// `get`, `get_range` and `get_version`
    Get,
    /// `size`
    Size,
    /// `list` and `folders`
    List,
    /// `destroy`
    Destroy,
}

impl Op {
    /// All operations.
    pub const ALL: [Self; 6] = [Self::PutNew, Self::PutHead, Self::Get, Self::Size, Self::List, Self::Destroy];
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation is not done, the caller gets this kind.
    Before(Kind),
    /// The operation is not done, because the store does not know who asks: credentials that expired.
    Unheard,
    /// The operation is done and the caller gets this kind nevertheless.
    After(Kind),
    /// The operation is done after a while.
    Delay(Duration),
    /// A read answers without its last byte.
    Short,
    /// A read answers with its middle byte flipped.
    Corrupt,
    /// The operation is not done and never answers, as for a process that dies before it; [`FaultyStore::died`] says so.
    DieBefore,
    /// The operation is done and never answers, as for a process that dies behind it; [`FaultyStore::died`] says so.
    DieAfter,
}

#[derive(Debug)]
struct Rule {
    op: Op,
    name_has: String,
    skip: u32,
    times: u32,
    fault: Fault,
}

#[derive(Debug, Default)]
struct Plan {
    rules: Vec<Rule>,
    random: Option<(Digest, u32)>,
    calls: Vec<(Op, String)>,
}

/// What is to fail, and what was called. Cloning shares it, also with the wrapper of the process that follows a dead one.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

impl Faults {
    /// Lets the operation fail `times` times on names that contain `name_has`, after it worked `skip` times on them.
    pub fn fail(&self, op: Op, name_has: &str, skip: u32, times: u32, fault: Fault) {
        self.plan().rules.push(Rule { op, name_has: name_has.to_owned(), skip, times, fault });
    }

    /// From now on every write fails with [`Kind::Retry`] with the given chance, half of the time after it was applied.
    /// The same seed and the same calls fail the same way.
    pub fn fail_at_random(&self, seed: u64, per_mille: u32) {
        self.plan().random = Some((Digest::of(&seed.to_le_bytes()), per_mille));
    }

    /// Nothing fails from now on.
    pub fn heal(&self) {
        let mut plan = self.plan();
        plan.rules.clear();
        plan.random = None;
    }

    /// The calls so far, with the names.
    #[must_use]
    pub fn calls(&self) -> Vec<(Op, String)> {
        self.plan().calls.clone()
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, op: Op, name: &str) -> Option<Fault> {
        let mut plan = self.plan();
        plan.calls.push((op, name.to_owned()));
        if let (Some((state, per_mille)), Op::PutNew | Op::PutHead) = (&mut plan.random, op) {
            *state = Digest::of(state.as_bytes());
            let [a, b, c, ..] = *state.as_bytes();
            if u32::from(u16::from_le_bytes([a, b])) % 1_000 < *per_mille {
                return Some(if c & 1 == 0 { Fault::Before(Kind::Retry) } else { Fault::After(Kind::Retry) });
            }
        }
        let rule = plan.rules.iter_mut().find(|r| r.op == op && r.times > 0 && name.contains(&r.name_has))?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times -= 1;
        Some(rule.fault)
    }
}

/// The wrapper. Cloning shares the faults.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    /// What is to fail.
    pub faults: Faults,
    died: watch::Sender<bool>,
}

impl FaultyStore {
    /// Wraps a store; until told otherwise nothing fails.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self::with(inner, Faults::default())
    }

    /// Wraps a store with these faults.
    #[must_use]
    pub fn with(inner: Arc<dyn Store>, faults: Faults) -> Self {
        Self { inner, faults, died: watch::Sender::new(false) }
    }

    /// Waits until an operation came that never answers.
    pub async fn died(&self) {
        let mut died = self.died.subscribe();
        // The sender lives as long as `self`.
        let _ = died.wait_for(|d| *d).await;
    }

    async fn die<T>(&self) -> Result<T, StoreError> {
        self.died.send_replace(true);
        std::future::pending().await
    }

    async fn apply<T>(&self, op: Op, name: &str, work: Answer<'_, T>) -> Result<(T, Option<Fault>), StoreError> {
        let injected = |kind| StoreError::new(kind, format!("injected fault at {op:?} '{name}'"), "none: this is a test");
        let fault = self.faults.draw(op, name);
        match fault {
            Some(Fault::Before(kind)) => return Err(injected(kind)),
            Some(Fault::Unheard) => return Err(StoreError::unheard(format!("injected fault at {op:?} '{name}'"), "none: this is a test")),
            Some(Fault::DieBefore) => return self.die().await,
            Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
            _ => {}
        }
        let value = work.await;
        match fault {
            // Done, or refused for a reason of its own: the caller learns neither.
            Some(Fault::After(kind)) => Err(injected(kind)),
            Some(Fault::DieAfter) => self.die().await,
            _ => value.map(|v| (v, fault)),
        }
    }
}

fn alter(bytes: Bytes, fault: Option<Fault>) -> Bytes {
    let mut out = bytes.to_vec();
    match fault {
        Some(Fault::Short) => {
            out.pop();
        }
        Some(Fault::Corrupt) => {
            let middle = out.len() / 2;
            if let Some(byte) = out.get_mut(middle) {
                *byte ^= 1;
            }
        }
        _ => return bytes,
    }
    Bytes::from(out)
}

impl Store for FaultyStore {
    fn describe(&self) -> String {
        format!("{} with injected faults", self.inner.describe())
    }

    fn put_new<'a>(&'a self, name: &'a str, content: Payload, sha256: Digest) -> Answer<'a, Stored> {
        let (this, name) = (self.clone(), name.to_owned());
        Box::pin(async move {
            // As a thread or a far server does: a put that was asked for goes on when nobody waits for it any more.
            let put = tokio::spawn(async move { this.apply(Op::PutNew, &name, this.inner.put_new(&name, content, sha256)).await });
            put.await.map_err(|e| StoreError::bug(format!("a put ended badly: {e}")))?.map(|(put, _)| put)
        })
    }

    fn put_head<'a>(&'a self, name: &'a str, content: Bytes) -> Answer<'a, ()> {
        Box::pin(async move { self.apply(Op::PutHead, name, self.inner.put_head(name, content)).await.map(|((), _)| ()) })
    }

    fn get<'a>(&'a self, name: &'a str, bytes_max: u64) -> Answer<'a, Bytes> {
        Box::pin(async move {
            let (bytes, fault) = self.apply(Op::Get, name, self.inner.get(name, bytes_max)).await?;
            Ok(alter(bytes, fault))
        })
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> Answer<'a, Bytes> {
        Box::pin(async move {
            let (bytes, fault) = self.apply(Op::Get, name, self.inner.get_range(name, range)).await?;
            Ok(alter(bytes, fault))
        })
    }

    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, u64> {
        Box::pin(async move { Ok(self.apply(Op::Size, name, self.inner.size(name)).await?.0) })
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        Box::pin(async move { Ok(self.apply(Op::List, folder, self.inner.list(folder, after)).await?.0) })
    }

    fn folders<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>> {
        Box::pin(async move { Ok(self.apply(Op::List, folder, self.inner.folders(folder)).await?.0) })
    }

    fn destroy<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { self.apply(Op::Destroy, name, self.inner.destroy(name)).await.map(|((), _)| ()) })
    }

    fn free_bytes(&self) -> Answer<'_, Option<u64>> {
        self.inner.free_bytes()
    }

    fn protect(&self, case: &exhibit_evidence::CaseId, protection: super::Protection) {
        self.inner.protect(case, protection);
    }

    fn require(&self, expected: super::Expected) {
        self.inner.require(expected);
    }

    fn troubles(&self) -> Vec<super::Trouble> {
        self.inner.troubles()
    }

    fn hides(&self, name: &str) -> bool {
        self.inner.hides(name)
    }

    fn foreign(&self, folder: &str) -> Vec<String> {
        self.inner.foreign(folder)
    }

    fn get_version<'a>(&'a self, name: &'a str, version: &'a str, bytes_max: u64) -> Answer<'a, Bytes> {
        Box::pin(async move {
            let (bytes, fault) = self.apply(Op::Get, name, self.inner.get_version(name, version, bytes_max)).await?;
            Ok(alter(bytes, fault))
        })
    }

    fn choose(&self, name: &str, version: &str) {
        self.inner.choose(name, version);
    }

    fn put_over<'a>(&'a self, name: &'a str, content: Payload, sha256: Digest) -> Answer<'a, Stored> {
        let (this, name) = (self.clone(), name.to_owned());
        Box::pin(async move {
            let put = tokio::spawn(async move { this.apply(Op::PutNew, &name, this.inner.put_over(&name, content, sha256)).await });
            put.await.map_err(|e| StoreError::bug(format!("a put ended badly: {e}")))?.map(|(put, _)| put)
        })
    }

    fn attestable(&self) -> Option<super::attest::Attestable> {
        self.inner.attestable()
    }
}
