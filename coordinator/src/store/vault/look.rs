//! The lock of one version. S3's HEAD leaves out what whoever asks may not read, "only returned if the requester has the permission" (API
//! reference of HeadObject), so what it does not show is asked for alone before it is called absent: that is refused instead.

use std::fmt;

use http::HeaderMap;

use super::super::lock::{Lock, Seen};
use super::super::{Kind, StoreError};
use super::dialect::{Ask, Part, header};
use super::refusal::Said;
use super::{Vault, refusal};

/// What is tried here.
const LOOK: &str = "look at the lock of";
/// What helps where a part of a lock is refused in no words of the store.
const UNSAID: &str =
    "see what lies between here and the store: it may answer in the store's place; if it is the store, it lacks this call: use another one";
/// What helps where a version is said not to be there that the store shows.
const STILL_SHOWN: &str = "see what lies between here and the store: it may answer in the store's place; if it is the store, ask whoever provides it why it says so of what it shows";

/// What was read of a version's lock, part by part: that one may not be read says nothing of the other.
#[derive(Debug)]
pub(in crate::store) struct Looked {
    /// What was read; of a part that was not, nothing.
    pub(in crate::store) seen: Seen,
    /// Why its retention was not read.
    pub(in crate::store) retention: Option<StoreError>,
    /// Why its hold was not read.
    pub(in crate::store) hold: Option<StoreError>,
    /// Asked for a part of the lock, the store said that the version is not there, which it had just shown.
    is_denied: bool,
    /// The ETag of the object, by which it is known where it is the answer to a question for a part of its lock.
    etag: String,
}

impl Looked {
    /// True when its retention was seen to be weaker than that of `want`, give or take `slack_s` seconds.
    pub(in crate::store) fn lacks_retention(&self, want: &Lock, slack_s: i64) -> bool {
        self.retention.is_none() && !self.seen.retains(want, slack_s)
    }

    /// True when it was seen that a hold is wanted and is not there.
    pub(in crate::store) const fn lacks_hold(&self, want: &Lock) -> bool {
        want.hold && !self.seen.hold && self.hold.is_none()
    }

    /// True when no part of it stayed unread.
    pub(in crate::store) const fn is_whole(&self) -> bool {
        self.retention.is_none() && self.hold.is_none()
    }

    /// Why a part of it was not read.
    pub(in crate::store) fn unread(self) -> Option<StoreError> {
        self.retention.or(self.hold)
    }

    /// The lock, where no part of it stayed unread.
    fn whole(self) -> Result<Seen, StoreError> {
        let seen = self.seen;
        match self.unread() {
            Some(e) => Err(e),
            None => Ok(seen),
        }
    }
}

impl fmt::Display for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.retention, self.seen.hold) {
            (None, _) => fmt::Display::fmt(&self.seen, f)?,
            (Some(_), true) => f.write_str("a legal hold and a retention that cannot be read")?,
            (Some(_), false) => f.write_str("a retention that cannot be read")?,
        }
        f.write_str(if self.hold.is_some() { " (whether it is held cannot be read)" } else { "" })
    }
}

impl Vault {
    /// What the store says of the lock of one version; a hold that it does not show counts as none.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such version, [`Kind::Denied`] when its lock may not be read.
    pub async fn lock_of(&self, name: &str, version: &str) -> Result<Seen, StoreError> {
        self.lock_with(name, version, false).await
    }

    /// [`Vault::lock_of`]; where a hold is wanted its absence too is asked for before it is believed.
    pub(in crate::store) async fn lock_with(&self, name: &str, version: &str, hold: bool) -> Result<Seen, StoreError> {
        self.read_lock(name, version, hold).await?.whole()
    }

    /// The same for whoever judges it part by part.
    ///
    /// # Errors
    /// As [`Vault::lock_of`], where nothing of it may be read.
    pub(in crate::store) async fn read_lock(&self, name: &str, version: &str, hold: bool) -> Result<Looked, StoreError> {
        let looked = self.read_parts(name, version, hold).await;
        looked.map_err(|e| if is_no_word(&e) { e } else { e.unread() })
    }

    /// [`Vault::read_lock`] of a version that was just listed or written: that it is not there counts only where it is not listed any more,
    /// which is one request more and only then.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when it is gone, and as [`Vault::read_lock`].
    pub(in crate::store) async fn read_lock_of_listed(&self, name: &str, version: &str, hold: bool) -> Result<Looked, StoreError> {
        let looked = self.read_lock(name, version, hold).await;
        let is_said_gone = match &looked {
            Ok(looked) => looked.is_denied,
            Err(e) => e.kind() == Kind::NotFound,
        };
        if !is_said_gone {
            return looked;
        }
        match self.versions_of(name).await {
            Ok(versions) if versions.iter().all(|listed| listed.version != version) => Err(StoreError::not_found(name)),
            Err(e) if e.says_nothing() => Err(e),
            // Also where it may not be listed: then nobody knows.
            Ok(_) | Err(_) => looked.map_err(|_| self.denied(name)),
        }
    }

    /// The error of a version that is said not to be there, and is shown.
    fn denied(&self, name: &str) -> StoreError {
        let message = format!("could not {LOOK} {}: it is not there, says the answer, and the store shows it", self.place(Some(name)));
        StoreError::new(Kind::Denied, message, STILL_SHOWN).asked(LOOK).unread()
    }

    /// Why a part was not read. HEAD showed the version, so that it is not there is no word on it either.
    fn why_unread(&self, name: &str, asked: Result<(), StoreError>, is_denied: &mut bool) -> Result<Option<StoreError>, StoreError> {
        match asked {
            Ok(()) => Ok(None),
            Err(e) if e.says_nothing() => Err(e),
            Err(e) if e.kind() == Kind::NotFound => {
                *is_denied = true;
                Ok(Some(self.denied(name)))
            }
            Err(e) => Ok(Some(e.unread())),
        }
    }

    async fn read_parts(&self, name: &str, version: &str, hold: bool) -> Result<Looked, StoreError> {
        let reply = self.ask(LOOK, Some(name), "", self.dialect().look(version)).await?;
        let etag = header(&reply.headers, "etag").to_owned();
        let mut seen = self.read(self.dialect().seen(&reply, version))?;
        let (mut unread, mut is_denied) = ((None, None), false);
        if seen.mode.is_none() || seen.until.is_none() {
            let asked = self.look_closer((Part::Retention, etag.as_str()), name, version, &mut seen).await;
            unread.0 = self.why_unread(name, asked, &mut is_denied)?;
        }
        if hold && !seen.hold {
            let asked = self.look_closer((Part::Hold, etag.as_str()), name, version, &mut seen).await;
            unread.1 = self.why_unread(name, asked, &mut is_denied)?;
        }
        Ok(Looked { seen, retention: unread.0, hold: unread.1, is_denied, etag })
    }

    /// Whether a version is held that was looked at, as far as the store leaves a hold out that may not be read: asked for alone.
    pub(in crate::store) async fn hold_of(&self, name: &str, version: &str, looked: &Looked) -> Result<bool, StoreError> {
        let mut seen = Seen::default();
        self.look_closer((Part::Hold, looked.etag.as_str()), name, version, &mut seen).await.map(|()| seen.hold)
    }

    async fn look_closer(&self, (part, etag): (Part, &str), name: &str, version: &str, seen: &mut Seen) -> Result<(), StoreError> {
        let Some(ask) = self.dialect().look_closer(part, version) else { return Ok(()) };
        let ask = Ask { etag: etag.to_owned(), ..ask };
        let reply = match self.ask(LOOK, Some(name), "", ask).await {
            Err(e) if e.is_wordless() => return Err(refusal::unclear(e.message()).asked(LOOK)),
            other => other?,
        };
        if reply.is_none { Ok(()) } else { self.read(self.dialect().closer(part, &reply, seen)) }
    }
}

/// True for what is no word on a lock: its version is gone, or the store did not come to look at it.
fn is_no_word(e: &StoreError) -> bool {
    e.kind() == Kind::NotFound || e.says_nothing()
}

/// True for the headers of the object that HEAD showed with this ETag. A store that does not know the question for a part of its lock gives
/// the object itself, whose content says nothing of that: then the word of HEAD counts, as far as it goes. A page of somebody between here
/// and the store may have both headers too, but not that ETag.
pub(super) fn is_of_object(headers: &HeaderMap, etag: &str) -> bool {
    // Who compresses on the way calls the same one weak.
    let (theirs, etag) = (header(headers, "etag").trim_start_matches("W/"), etag.trim_start_matches("W/"));
    !theirs.is_empty() && theirs == etag && !header(headers, "last-modified").is_empty()
}

/// True for an answer to the question for a part of a lock that would say that it is not there, if it was the store's. Without a code it may be
/// anybody's, as the page of a proxy.
pub(super) fn is_page(status: u16, said: &Said) -> bool {
    said.code.is_empty() && matches!(status, 404 | 405 | 501)
}

/// The error of such an answer.
pub(super) fn unsaid(tried: &str, status: u16) -> StoreError {
    StoreError::new(Kind::Denied, format!("{tried}: {status} and no code of the store"), UNSAID)
}

#[cfg(test)]
mod tests;
