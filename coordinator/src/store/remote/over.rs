//! Writing on top of what somebody else put under a name of ours.

use object_store::{PutMode, PutOptions, UpdateVersion};

use super::{RemoteStore, locked};
use crate::store::{Kind, Payload, StoreError, Stored};

impl RemoteStore {
    /// Order: 1. look what a reader sees under the name; 2. one PUT with its lock that succeeds only as long as that is what is there,
    /// so that of several writers one wins; 3. the lock is read back and set where it is missing.
    ///
    /// Died between 2 and 3: the version is there and attestation locks it.
    pub(super) async fn write_over(&self, name: &str, content: Payload) -> Result<Stored, StoreError> {
        if self.locks.is_none() {
            return Err(StoreError::conflict(name));
        }
        let lock = self.lock_now(name);
        let mode = match self.look(name, None).await {
            Ok(there) => PutMode::Update(UpdateVersion { e_tag: there.e_tag, version: there.version }),
            // All of it is gone, or a deletion lies on top.
            Err(e) if e.kind() == Kind::NotFound => PutMode::Create,
            Err(e) => return Err(e),
        };
        let options = PutOptions { mode, ..locked(lock) };
        let stored = match self.inner.put_opts(&self.path(name), content, options).await {
            Ok(result) => Stored { existed: false, version: result.version },
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                return Err(StoreError::conflict(name));
            }
            Err(e) => return Err(self.map(&e, "write on top of", name)),
        };
        if let Some(lock) = lock {
            self.ensure_locked(name, stored.version.as_deref(), &lock).await?;
        }
        Ok(stored)
    }
}
