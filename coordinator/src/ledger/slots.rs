//! The places of records in the store. The signed tree is the truth and a slot only carries a record: where the store keeps and locks
//! versions, the record of a place is the oldest version under its name that can be one, by its signature and by what this log holds
//! before it. Every reader comes to the same, now and after any restart, so what somebody put there before or after it takes nothing away.

use bytes::Bytes;
use exhibit_evidence::Digest;
use exhibit_evidence::dsse::{ENVELOPE_BYTES_MAX, Envelope};
use exhibit_evidence::layout::LogName;
use exhibit_evidence::text::{escape_bounded, one_line};

use super::error::{LET_OVER, TAKE_AWAY};
use super::log::Inner;
use super::news::{RECORD, SQUATTED};
use super::{Kind, LedgerError};
use crate::several;
use crate::store::attest::Attestable;
use crate::store::{self, Payload, Store, Version, history};

/// Versions of one slot that are read, of 64 KiB each.
pub(super) const READ_MAX: usize = 1_000;
/// How often a slot is looked at anew because somebody else writes there at the same time.
pub(super) const ROUNDS_MAX: usize = 4;

/// Records of one log that are remembered to have been tried, 32 bytes each. Beyond it all are forgotten, and may be told as unknown.
const TRIED_MAX: usize = 4_096;

/// What the versions under a slot's name are.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// The record, which was taken.
    pub(super) record: Option<Envelope>,
    /// What lies beneath it and is none, in words; all of them where there is no record.
    pub(super) squats: Vec<String>,
}

/// Finds the record of slot `n` among the versions of its name, the oldest first: the first one that `take` takes. The store reads that
/// one from then on.
///
/// # Errors
/// As the store fails; [`Kind::Damaged`] when there are more than can be looked at.
pub(super) async fn judge(
    store: &dyn Store,
    (name, n): (&LogName, u64),
    versions: &[Version],
    take: &mut (dyn FnMut(&Envelope) -> Result<(), String> + Send),
) -> Result<Judged, LedgerError> {
    let (slot, mut judged) = (name.slot(n), Judged::default());
    for version in versions.iter().take(READ_MAX) {
        let read = match store.get_version(&slot, &version.version, ENVELOPE_BYTES_MAX as u64).await {
            Ok(bytes) => Envelope::parse(&bytes).map_err(|e| e.to_string()),
            Err(e) if e.kind() == store::Kind::Damaged => Err("it is larger than any record".to_owned()),
            // Destroyed since it was listed.
            Err(e) if e.kind() == store::Kind::NotFound => continue,
            Err(e) => return Err(e.into()),
        };
        match read.and_then(|envelope| take(&envelope).map(|()| envelope)) {
            Ok(envelope) => {
                if versions.len() > 1 {
                    store.choose(&slot, &version.version);
                }
                judged.record = Some(envelope);
                return Ok(judged);
            }
            Err(why) => judged.squats.push(squat(&slot, Some(version), &why)),
        }
    }
    if versions.len() > READ_MAX {
        let why = format!("{} versions, and none of the oldest {READ_MAX} is a record of this place", versions.len());
        return Err(LedgerError::squatted(&name.folder(), format_args!("record {n}"), why, TAKE_AWAY));
    }
    Ok(judged)
}

/// What is none of ours, in words that name it: whoever reads the incident finds it, and the same is not told twice.
pub(super) fn squat(object: &str, version: Option<&Version>, why: &str) -> String {
    let (object, why) = (escape_bounded(object, 300), escape_bounded(why, 200));
    match version {
        Some(v) => format!("'{object}', version '{}' of {}: {why}", escape_bounded(&v.version, 80), v.modified),
        None => format!("'{object}': {why}"),
    }
}

/// What is told of them.
pub(super) fn squats(found: &[String]) -> String {
    let found = several::listed(found, 0, "; ", several::DETAIL_BYTES);
    format!("what is none of this deployment's was put in the place of a part of the log; the log goes on past it: {found}")
}

impl Inner {
    /// Takes the record that lies in the next slot, if one does. What else lies there is no record, and the log ends before it.
    pub(super) async fn take_next(&self) -> Result<Option<Envelope>, LedgerError> {
        let n = self.view().size();
        match history::of(&*self.store, &self.name.slot(n)).await {
            Ok(Some(versions)) => Ok(self.judge(n, &versions).await?.record),
            Err(e) if e.says_nothing() => Err(e.into()),
            // That versions cannot be listed is told by attestation, and keeps from writing.
            Ok(None) | Err(_) => match self.store.get(&self.name.slot(n), ENVELOPE_BYTES_MAX as u64).await {
                Ok(bytes) => {
                    let incident = |why: String| LedgerError::incident(&self.name.folder(), format!("record {n}: {why}"));
                    let envelope = Envelope::parse(&bytes).map_err(|e| incident(e.to_string()))?;
                    self.take_own(&envelope).map_err(incident)?;
                    Ok(Some(envelope))
                }
                Err(e) if e.kind() == store::Kind::NotFound => Ok(None),
                Err(e) => Err(e.into()),
            },
        }
    }

    /// Takes the records that lie in the next slots. One that this process tried to write is told as recorded; any other one, where nobody
    /// else may add to the log (`is_alone`), as one that nobody is known to have written.
    pub(super) async fn take_all(&self, is_alone: bool) -> Result<(), LedgerError> {
        loop {
            let n = self.view().size();
            let Some(there) = self.take_next().await? else { return Ok(()) };
            let was_tried = self.tried().remove(&there.digest());
            if was_tried {
                self.tell_recorded(n, &there);
            } else if is_alone {
                self.known.news().tell(&self.name, RECORD, self.unknown(n, &there));
            }
        }
    }

    /// A record of the log is locked as the store is told to: where its writing failed it may not be.
    ///
    /// # Errors
    /// As the store fails; [`Kind::Denied`] where more than the record lies under its name, for nothing is put on top of that here.
    pub(super) async fn lock_again(&self, digest: Digest) -> Result<(), LedgerError> {
        let Some(found) = self.store.attestable().filter(Attestable::locks) else { return Ok(()) };
        let size = self.view().size();
        let n = self.view().find(&digest).unwrap_or(size);
        let (slot, envelope) = (self.name.slot(n), self.read_record(n, digest).await?);
        let versions = Box::pin(found.vault.versions_of(&slot)).await?;
        // On top of a deletion it would be created a second time.
        if versions.len() != 1 || versions.iter().any(|version| version.marker || !version.latest) {
            let why = format!("'{slot}': whether it is locked is not known: other versions lie under its name; attestation looks at it");
            return Err(LedgerError::new(Kind::Denied, why));
        }
        let payload = Payload::from(Bytes::copy_from_slice(envelope.as_bytes()));
        self.store.put_new(&slot, payload, digest).await?;
        Ok(())
    }

    /// Writes the next slot; false when another record is there, which is part of the log now.
    ///
    /// Where the store keeps versions: 1. those under the name are looked at, hidden ones too, because a creation succeeds on top of a
    /// deletion; 2. where there is none, the record is created; where there is one that is a record, that is the next one; where there
    /// are others, the record is put on top of them; 3. then from 1, so that of two that were put there the older one counts for both.
    /// Died in between: what was put there is the record of this place for whoever looks next.
    pub(super) async fn write_slot(&self, envelope: &Envelope) -> Result<bool, LedgerError> {
        let n = self.view().size();
        let (slot, content) = (self.name.slot(n), Bytes::copy_from_slice(envelope.as_bytes()));
        let payload = || Payload::from(content.clone());
        for _ in 0..ROUNDS_MAX {
            let Some(versions) = history::of(&*self.store, &slot).await.map_err(|e| unlisted(&slot, &e))? else {
                return self.create_slot(n, envelope).await;
            };
            if versions.is_empty() {
                self.begin(envelope);
                match self.store.put_new(&slot, payload(), envelope.digest()).await {
                    Ok(_) => return self.took(n, envelope),
                    Err(e) if e.kind() == store::Kind::Conflict => continue,
                    Err(e) => return Err(e.into()),
                }
            }
            let judged = self.judge(n, &versions).await?;
            if !judged.squats.is_empty() {
                self.known.news().tell(&self.name, SQUATTED, squats(&judged.squats));
            }
            if let Some(there) = judged.record {
                return Ok(self.is_it(n, &there, envelope));
            }
            self.begin(envelope);
            match self.store.put_over(&slot, payload(), envelope.digest()).await {
                Ok(_) => {}
                Err(e) if e.kind() == store::Kind::Conflict => {}
                Err(e) if e.kind() == store::Kind::Denied => {
                    let why = format!("{}; and nothing can be written on top of it: {e}", judged.squats.join("; "));
                    let why = one_line(&why, 1_000);
                    return Err(LedgerError::squatted(&self.name.folder(), format_args!("record {n}"), why, LET_OVER));
                }
                Err(e) => return Err(e.into()),
            }
        }
        Err(LedgerError::new(Kind::Retry, format!("somebody else writes under '{slot}' at the same time; the same call is repeated")))
    }

    /// Has told what lies in the next place and is none of this log's, in the words with which the next record is written past it, so that it is
    /// told once, whoever comes to it first. True when what lies in place `n` is told here, or was a short time ago.
    pub(super) async fn tells_squat(&self, n: u64) -> Result<bool, LedgerError> {
        let slot = self.name.slot(n);
        let size = self.view().size();
        if n == size && !self.known.news().names(&slot) {
            let versions = history::of(&*self.store, &slot).await?.unwrap_or_default();
            let mut ring = self.view().key_ring().clone();
            let mut take = |envelope: &Envelope| self.view().can_take(&self.name, envelope, &mut ring);
            let judged = judge(&*self.store, (&self.name, n), &versions, &mut take).await?;
            if judged.record.is_none() && !judged.squats.is_empty() {
                self.known.news().tell(&self.name, SQUATTED, squats(&judged.squats));
            }
        }
        Ok(self.known.news().names(&slot))
    }

    /// Record `n`, which has this digest: from beneath, where something else is what a reader gets.
    pub(super) async fn read_record(&self, n: u64, digest: Digest) -> Result<Envelope, LedgerError> {
        let read = self.read_slot(n).await;
        let is_other = read.as_ref().map_or_else(|e| e.kind() == Kind::Damaged, |envelope| envelope.digest() != digest);
        if !is_other {
            return read;
        }
        if let Some(genuine) = self.find_beneath(n, digest).await? {
            return Ok(genuine);
        }
        read.and_then(|_| Err(LedgerError::incident(&self.name.folder(), format!("record {n} was altered"))))
    }

    /// The version of slot `n` that has this digest; the store reads that one from then on. What lies on top of it attestation tells.
    async fn find_beneath(&self, n: u64, digest: Digest) -> Result<Option<Envelope>, LedgerError> {
        let slot = self.name.slot(n);
        let versions = match history::of(&*self.store, &slot).await {
            Err(e) if e.says_nothing() => return Err(e.into()),
            found => found.ok().flatten().unwrap_or_default(),
        };
        for version in versions.iter().take(READ_MAX) {
            let bytes = match self.store.get_version(&slot, &version.version, ENVELOPE_BYTES_MAX as u64).await {
                Ok(bytes) => bytes,
                Err(e) if e.says_nothing() => return Err(e.into()),
                Err(_) => continue,
            };
            if let Ok(envelope) = Envelope::parse(&bytes)
                && envelope.digest() == digest
            {
                self.store.choose(&slot, &version.version);
                return Ok(Some(envelope));
            }
        }
        Ok(None)
    }

    /// The versions of slot `n`, which is the next one.
    async fn judge(&self, n: u64, versions: &[Version]) -> Result<Judged, LedgerError> {
        judge(&*self.store, (&self.name, n), versions, &mut |envelope: &Envelope| self.take_own(envelope)).await
    }

    /// The next slot of a store that keeps no versions.
    async fn create_slot(&self, n: u64, envelope: &Envelope) -> Result<bool, LedgerError> {
        let content = Payload::from(Bytes::copy_from_slice(envelope.as_bytes()));
        self.begin(envelope);
        match self.store.put_new(&self.name.slot(n), content, envelope.digest()).await {
            Ok(_) => self.took(n, envelope),
            Err(e) if e.kind() == store::Kind::Conflict => {
                // Something else lies there, so it does not.
                self.tried().remove(&envelope.digest());
                let squatted = |why: String| LedgerError::squatted(&self.name.folder(), format_args!("record {n}"), why, TAKE_AWAY);
                let there = match self.store.get(&self.name.slot(n), ENVELOPE_BYTES_MAX as u64).await {
                    Ok(bytes) => Envelope::parse(&bytes).map_err(|e| squatted(e.to_string()))?,
                    Err(e) if e.kind() == store::Kind::Damaged => return Err(squatted(e.to_string())),
                    Err(e) => return Err(e.into()),
                };
                self.take_own(&there).map_err(squatted)?;
                Ok(self.is_it(n, &there, envelope))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The record may lie in the store from now on, whatever is said of its writing.
    fn begin(&self, envelope: &Envelope) {
        let mut tried = self.tried();
        if tried.len() >= TRIED_MAX {
            tried.clear();
        }
        tried.insert(envelope.digest());
    }

    /// A record that this process wrote into slot `n`.
    fn took(&self, n: u64, envelope: &Envelope) -> Result<bool, LedgerError> {
        self.take(n, envelope)?;
        self.tried().remove(&envelope.digest());
        self.tell_recorded(n, envelope);
        Ok(true)
    }

    /// Whether the record of slot `n`, which was taken, is the one that was to be written.
    fn is_it(&self, n: u64, there: &Envelope, envelope: &Envelope) -> bool {
        let is_it = there.digest() == envelope.digest();
        let was_tried = self.tried().remove(&there.digest());
        if is_it || was_tried {
            self.tell_recorded(n, there);
        }
        if !is_it {
            tracing::info!(log = %self.name.folder(), n, "a record was there that this process did not know of");
            if !was_tried {
                self.known.news().tell(&self.name, RECORD, self.unknown(n, there));
            }
        }
        is_it
    }

    /// What is told of a record that nobody who may add to this log is known to have put there: whoever holds the right to add had read all
    /// that was there before.
    fn unknown(&self, n: u64, there: &Envelope) -> String {
        let kind = self.view().entry(n).map_or("unknown", |entry| entry.kind);
        format!(
            "'{}': in the next place of the log lay a {kind} record, {}, that no coordinator of this deployment is known to have written \
             there; it is signed by an enrolled key and no other log's, so it is record {n} now. Who may write into the store can copy a \
             signed record there: compare it with the other logs, and replace the credentials (docs/operations/stores.md)",
            self.name.slot(n),
            there.digest()
        )
    }
}

/// A name counts as free only when nothing lies under it, and where that cannot be seen nothing is written.
fn unlisted(slot: &str, e: &store::StoreError) -> LedgerError {
    let what = "whether something lies under it cannot be seen, so nothing is written there";
    // Of who asks, or a store that is disturbed, the error says itself what helps.
    let right = if e.kind() == store::Kind::Denied { " (the credentials need the right to list versions)" } else { "" };
    LedgerError::from(e.clone()).said(format!("'{slot}': {what}{right}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[test]
    fn of_a_log_whose_names_may_not_be_listed_nothing_is_concluded() {
        let refused = || StoreError::new(store::Kind::Denied, "could not list: 403", "check that the credentials may list");
        let told = LedgerError::unlisted(refused());
        assert!(told.kind() == Kind::Retry && told.needs_a_person() && told.to_string().contains("may list"), "{told}");
        assert_eq!(LedgerError::from(refused()).kind(), Kind::Denied, "of one object it is about that one");
        let disturbed = LedgerError::unlisted(StoreError::new(store::Kind::Retry, "could not list: 503", "it is tried again"));
        assert!(disturbed.kind() == Kind::Retry && !disturbed.needs_a_person(), "{disturbed}");
        let many = LedgerError::unlisted(StoreError::new(store::Kind::Damaged, "too many", "look for them"));
        assert_eq!(many.kind(), Kind::Damaged);
    }

    #[test]
    fn versions_that_cannot_be_seen_need_a_person_where_the_store_does() {
        for (e, kind, person) in [
            (StoreError::unheard("could not list: 401", "renew the credentials"), Kind::Retry, true),
            (StoreError::new(store::Kind::Denied, "could not list: 403", "compare the rights"), Kind::Denied, true),
            (StoreError::new(store::Kind::Retry, "could not list: 503", "it is tried again"), Kind::Retry, false),
        ] {
            let told = unlisted("cases/x/log/seq/1", &e);
            assert_eq!((told.kind(), told.needs_a_person()), (kind, person), "{told}");
            assert!(told.to_string().contains("cases/x/log/seq/1") && told.to_string().contains(e.message()), "{told}");
            assert_eq!(told.to_string().contains("the right to list versions"), kind == Kind::Denied, "{told}");
        }
    }
}
