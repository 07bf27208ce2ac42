//! What differs from cloud to cloud: the requests for versions and locks, and how their answers are read. Nothing here sends
//! anything.

use std::fmt;

use bytes::Bytes;
use exhibit_evidence::Timestamp;
use http::{HeaderMap, Method};

use super::super::lock::{Lock, LockMode, Seen};
use super::refusal::Said;
use super::versions::{Cursor, Listed};

/// One request, but for its address and its signature.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
    /// It asks for a page, which the store may have to look for among very much that was deleted.
    pub(super) lists: bool,
    /// The right that it needs beside those for the object. It asks for a part of what is known of that, which may have none.
    pub(super) right: Option<&'static str>,
    /// The ETag of the object whose part is asked for: a store that does not know the question answers with that object.
    pub(super) etag: String,
}

impl Ask {
    pub(super) fn new(method: Method) -> Self {
        Self { method, query: Vec::new(), headers: Vec::new(), body: Bytes::new(), lists: false, right: None, etag: String::new() }
    }

    pub(super) fn query(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn right(mut self, right: &'static str) -> Self {
        self.right = Some(right);
        self
    }

    pub(super) fn body(mut self, body: String) -> Self {
        self.body = Bytes::from(body);
        self
    }
}

/// An answer that says yes.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// It is the store's word that there is nothing of the part of an object that was asked for, or that it has no such call.
    pub(super) is_none: bool,
}

impl Reply {
    pub(super) const fn new(headers: HeaderMap, body: Bytes) -> Self {
        Self { headers, body, is_none: false }
    }

    pub(super) const fn none(headers: HeaderMap) -> Self {
        Self { headers, body: Bytes::new(), is_none: true }
    }
}

/// The text of a header; empty when there is none.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// What a bucket or container can be set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    /// Old versions are kept.
    Versions,
    /// Versions can be locked.
    Locks,
}

/// A part of a version's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Mode and end of its retention.
    Retention,
    /// Its hold.
    Hold,
}

/// Words for people, by whose store it is.
#[derive(Debug)]
pub(in crate::store) struct Words {
    /// Whose store it is.
    pub(in crate::store) cloud: &'static str,
    /// What the lock of a version is called there.
    pub(in crate::store) lock: &'static str,
    /// What to do where nothing can be locked.
    pub(in crate::store) set_lock: &'static str,
    /// What to do where a write was not locked.
    pub(in crate::store) cannot_lock: &'static str,
    /// What the credentials should be able to do.
    pub(in crate::store) use_policy: &'static str,
    /// What to do where a lock stays weaker than it was set.
    pub(in crate::store) stays_weak: &'static str,
    /// What a deletion does that names no version.
    pub(in crate::store) hidden: &'static str,
    /// Who may set a retention may shorten what governance locks: there is no right of its own for that.
    pub(in crate::store) shortens_governance: bool,
    /// A hold also forbids to replace the object, or nobody says that it does not: so what is replaced must have none.
    pub(in crate::store) hold_keeps_name: bool,
}

/// One cloud's calls for versions and locks.
pub(super) trait Dialect: fmt::Debug + Send + Sync {
    fn words(&self) -> &'static Words;

    /// The path of an object below its bucket.
    fn path(&self, key: &str) -> String;

    /// The headers that lock what a put writes.
    fn locked(&self, lock: &Lock) -> Vec<(&'static str, String)>;

    /// Asks for the lock of a version, which [`Dialect::seen`] reads. Where the cloud always says of which version it speaks, another
    /// one is no answer: what ignores the question would pass the lock of the newest version off as that of the one below.
    fn look(&self, version: &str) -> Ask;
    fn seen(&self, reply: &Reply, version: &str) -> Result<Seen, String>;

    /// Asks for a part of a version's lock alone, where an answer to [`Dialect::look`] leaves it out for want of a right, and this one is
    /// refused instead. [`Dialect::closer`] reads it into what was seen.
    fn look_closer(&self, _part: Part, _version: &str) -> Option<Ask> {
        None
    }
    fn closer(&self, _part: Part, _reply: &Reply, _seen: &mut Seen) -> Result<(), String> {
        Ok(())
    }

    /// True for a refusal of [`Dialect::look_closer`] in which the store says, with a code, that there is nothing of this part, or no such
    /// call. What has no code may be the page of a proxy.
    fn lacks(&self, _status: u16, _said: &Said) -> bool {
        false
    }

    /// Sets mode and end of a version's retention; with `bypass` also where that weakens it, as far as the cloud has a word for it.
    fn retain(&self, version: &str, mode: LockMode, until: Timestamp, bypass: bool) -> Ask;

    /// Sets or takes off the hold of a version.
    fn hold(&self, version: &str, on: bool) -> Ask;

    /// Deletes a version; without one what is newest.
    fn delete(&self, version: Option<&str>, bypass: bool) -> Ask;

    /// Takes off a retention that may be taken off, where a deletion cannot ask for that itself.
    fn unlock(&self, _version: &str) -> Option<Ask> {
        None
    }

    /// True when a deletion was refused only because the version is the current one.
    fn refuses_current(&self, _message: &str) -> bool {
        false
    }

    /// Path below the bucket, and request, of a page of versions, which [`Dialect::page`] reads.
    fn list(&self, prefix: &str, after: Option<&Cursor>) -> (&'static str, Ask);
    fn page(&self, reply: &Reply) -> Result<Listed, String>;

    /// True when a deletion leaves a marker, and the versions of a name are listed with the newest first.
    fn has_markers(&self) -> bool {
        false
    }

    /// Asks the bucket for a setting, which [`Dialect::is_on`] reads.
    fn setting(&self, what: Setting) -> Ask;
    fn is_on(&self, what: Setting, reply: &Reply) -> Result<bool, String>;

    /// Code and message of an answer that says no.
    fn said(&self, headers: &HeaderMap, body: &[u8]) -> (String, String);
}

/// Leaves everything as it is that RFC 3986 calls unreserved.
pub(super) fn encoded(text: &str, keep: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, b| {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) || keep.as_bytes().contains(&b) {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
        out
    })
}
