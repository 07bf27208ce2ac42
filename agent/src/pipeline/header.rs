//! Headers of tar members, and what had to be left out of one.

use std::collections::BTreeMap;

use base64::Engine as _;
use exhibit_evidence::manifest::{Meta, Status};
use exhibit_evidence::stream::tar::{self, Head, HeadKind};

use crate::capture::NewItem;

/// What had to be left out of a tar header, and so is left out of the manifest's metadata too: both say the same.
pub(super) struct Simplified {
    pub times: bool,
    pub xattrs: bool,
    pub why: String,
}

impl Simplified {
    pub fn apply(self, mut item: NewItem) -> NewItem {
        let Self { times, xattrs, why } = self;
        if !times && !xattrs {
            return item;
        }
        if let Some(meta) = &mut item.meta {
            if times {
                (meta.mtime, meta.atime, meta.ctime) = (None, None, None);
            }
            if xattrs {
                meta.xattrs.clear();
            }
        }
        let reason = item.reason.take().map_or(why.clone(), |r| format!("{r}; {why}"));
        let status = if item.status == Status::Collected { Status::Partial } else { item.status };
        item.with_status(status, reason)
    }
}

/// Appends the member's header bytes; how many data bytes follow.
pub(super) fn headers(name: &[u8], item: &NewItem, kind: HeadKind<'_>, out: &mut Vec<u8>) -> Result<(u64, Simplified), String> {
    let none = Meta::default();
    let meta = item.meta.as_deref();
    let known = meta.unwrap_or(&none);
    let decode = |text: &String| base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    let xattrs: BTreeMap<String, Vec<u8>> = known.xattrs.iter().map(|(name, value)| (name.clone(), decode(value))).collect();
    let head = Head {
        name,
        kind,
        mode: meta.map_or(0o600, |m| m.mode & 0o7777),
        uid: known.uid,
        gid: known.gid,
        mtime: known.mtime,
        atime: known.atime,
        ctime: known.ctime,
        xattrs: &xattrs,
    };
    let first = match tar::encode(&head, out) {
        Ok(follows) => return Ok((follows, Simplified { times: false, xattrs: false, why: String::new() })),
        Err(first) => first,
    };
    // Impossible attributes or times of a damaged or hostile file system must cost neither the content nor each other.
    let no_xattrs = BTreeMap::new();
    for (times, xattrs, what) in [(false, true, "attributes"), (true, false, "times"), (true, true, "times and attributes")] {
        let mut bare = if times { Head { mtime: None, atime: None, ctime: None, ..head } } else { head };
        if xattrs {
            bare.xattrs = &no_xattrs;
        }
        if let Ok(follows) = tar::encode(&bare, out) {
            return Ok((follows, Simplified { times, xattrs, why: format!("{what} left out: {first}") }));
        }
    }
    Err(format!("not taken: {first}"))
}
