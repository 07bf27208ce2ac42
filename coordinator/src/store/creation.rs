//! Whether a store can be written, and keeps a name that is taken from being created again, tried on the probes of every start.

use bytes::Bytes;

use super::encryption::Encryption;
use super::patience::{Asked, Patience};
use super::{Kind, PROBE_HEAD, PROBE_SLOT, Store, StoreError};

/// Why a store did not pass.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It let a name be created twice.
    Overwrites(StoreError),
    /// It does not encrypt as it was asked to.
    Unencrypted(StoreError),
    /// It gave back something else than what was written.
    Alters(StoreError),
    /// None of it could be seen: it refused, or did not answer.
    Unseen(StoreError),
}

impl From<StoreError> for Unfit {
    fn from(e: StoreError) -> Self {
        Self::Unseen(e)
    }
}

impl From<Unfit> for StoreError {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Overwrites(e) | Unfit::Unencrypted(e) | Unfit::Alters(e) | Unfit::Unseen(e) => e,
        }
    }
}

/// What the probe that is written again holds.
const FIRST: &[u8] = b"first\n";

/// Writes a probe of a few bytes, the one that every start writes: to see whether a store that had no room has some again.
pub(crate) async fn can_write(store: &dyn Store) -> Result<(), StoreError> {
    store.put_head(PROBE_HEAD, Bytes::from_static(FIRST)).await
}

/// All of [`super::self_test`] but the lock, which [`super::check`] looks at in its own way.
pub(crate) async fn creates_only(store: &dyn Store, patience: &Patience) -> Result<(), StoreError> {
    try_creation(store, patience).await.map_err(StoreError::from)
}

/// The same, and what it is that the store does not keep.
pub(super) async fn try_creation(store: &dyn Store, patience: &Patience) -> Result<(), Unfit> {
    let asked = Asked { store, patience };
    let (a, b) = (Bytes::from_static(FIRST), Bytes::from_static(b"second\n"));
    let at = |step: &'static str| move |e: StoreError| e.during(step);
    asked.replace(PROBE_HEAD, a.clone()).await.map_err(at("the start-up test could not write to the store"))?;
    let back = match asked.read(PROBE_HEAD, 64).await.map_err(at("the start-up test could not read back what it wrote")) {
        // Longer or shorter than what was written.
        Err(e) if e.kind() == Kind::Damaged => return Err(Unfit::Alters(e)),
        other => other?,
    };
    if back != a {
        let message = format!("{}: what was written reads back differently", store.describe());
        return Err(Unfit::Alters(StoreError::new(Kind::Damaged, message, "use another store")));
    }
    if let Some(s3) = store.attestable()
        && let Some(encryption) = s3.vault.encryption()
    {
        let what = format!("look at the encryption of '{PROBE_HEAD}' in {}", store.describe());
        let seen = patience.answer(&what, s3.vault.encryption_of(PROBE_HEAD)).await;
        let seen = seen.map_err(at("the start-up test could not look at the encryption"))?;
        encryption.compare(&seen).map_err(|why| Unfit::Unencrypted(Encryption::refused(&why)))?;
    }
    match asked.create(PROBE_SLOT, &a).await {
        // Other content under the probe's name means that a creation overwrote it at an earlier start.
        Err(e) if e.kind() == Kind::Conflict => return Err(overwrites(store)),
        other => other.map_err(at("the start-up test could not create an object"))?,
    };
    match asked.create(PROBE_SLOT, &b).await {
        Err(e) if e.kind() == Kind::Conflict => {}
        Err(e) => return Err(Unfit::Unseen(e.during("the start-up test could not try a second creation"))),
        Ok(_) => return Err(overwrites(store)),
    }
    // The refusal must also be true: the first content is still there.
    let kept = asked.read(PROBE_SLOT, 64).await.map_err(at("the start-up test could not read back what it created"))?;
    if kept == a { Ok(()) } else { Err(overwrites(store)) }
}

fn overwrites(store: &dyn Store) -> Unfit {
    Unfit::Overwrites(StoreError::new(
        Kind::Denied,
        format!("{}: an object that exists can be overwritten; evidence would not be safe here", store.describe()),
        "use a store that honours create-only writes (If-None-Match: * on S3); switch off what ignores them and try again",
    ))
}
