//! Trusted timestamps over a bag: each is over the tag manifest, and so over every byte that the bag's signature covers.
//! Anybody may add one later; what is good in itself counts.

use std::collections::BTreeSet;

use super::{Bag, unreadable};
use crate::bag::{Description, TAG_MANIFEST, TAG_MANIFEST_BYTES_MAX, parse_stamp, stamp};
use crate::digest::Digest;
use crate::layout::{AuthorityName, TimestampFile};
use crate::text::escape_bounded;
use crate::timestamp::{CRL_BYTES_MAX, Crl, REPLY_BYTES_MAX, TimestampError, Trusted};
use crate::verify::timestamps::{code_of, read, summary};
use crate::verify::{Code, Findings, Options, TimestampSummary};

/// A bag, and what its timestamps are held against.
pub(super) struct Stamps<'a> {
    pub(super) bag: &'a Bag<'a>,
    pub(super) options: &'a Options,
    /// Records of the log in the bag.
    pub(super) size: u64,
}

impl Stamps<'_> {
    /// Checks those that are there, and that those are there that the bag was to have.
    pub(super) fn check(&self, description: Option<&Description>, findings: &mut Findings) -> Vec<TimestampSummary> {
        let announced: BTreeSet<AuthorityName> =
            description.into_iter().flat_map(|d| &d.authorities).filter_map(|name| name.parse().ok()).collect();
        let there = self.bag.found.keys().filter_map(|name| match parse_stamp(name)? {
            TimestampFile::Checkpoint => None,
            TimestampFile::Request(name) | TimestampFile::Reply(name) | TimestampFile::Crl(name, _) => Some(name),
        });
        let all: BTreeSet<AuthorityName> = there.chain(announced).collect();
        let Ok(manifest) = self.bag.read(TAG_MANIFEST, TAG_MANIFEST_BYTES_MAX) else { return Vec::new() };
        let over = Digest::of(&manifest);
        all.iter().filter_map(|authority| self.one(authority, over, findings)).collect()
    }

    fn one(&self, authority: &AuthorityName, over: Digest, findings: &mut Findings) -> Option<TimestampSummary> {
        let object = stamp(&TimestampFile::Reply(authority.clone()));
        if !self.bag.found.contains_key(&object) {
            findings.add(
                Code::BagUnstamped,
                &object,
                format!("authority '{authority}' was to stamp this bag, and '{object}' is not there"),
            );
            return None;
        }
        let request = self.file(&TimestampFile::Request(authority.clone()), 1_024, findings);
        let reply = self.file(&TimestampFile::Reply(authority.clone()), REPLY_BYTES_MAX, findings);
        let (request, bytes) = (request?, reply?);
        let mut fault = |e: &TimestampError| {
            findings.add(code_of(e), &object, format!("'{object}': {}", escape_bounded(&e.to_string(), 400)));
        };
        let reply = read(over, &request, &bytes).inspect_err(&mut fault).ok()?;
        let anchors = &self.options.timestamp_anchors;
        let trust: Option<Trusted> =
            (!anchors.is_empty()).then(|| reply.verify(anchors, &self.crls(authority)).inspect_err(&mut fault).ok()).flatten();
        Some(summary(&reply, trust, authority, (self.size, None), object))
    }

    fn file(&self, file: &TimestampFile, bytes_max: usize, findings: &mut Findings) -> Option<Vec<u8>> {
        let name = stamp(file);
        let read = self.bag.read(&name, bytes_max as u64);
        read.inspect_err(|e| findings.add(unreadable(e, Code::TimestampMissing), &name, format!("'{name}' cannot be read: {e}"))).ok()
    }

    /// The CRLs beside it. They are signed by themselves: one that cannot be used is as one that is not there.
    fn crls(&self, authority: &AuthorityName) -> Vec<Crl> {
        let names = (0..TimestampFile::CRLS_MAX).map(|n| stamp(&TimestampFile::Crl(authority.clone(), n)));
        let there = names.filter(|name| self.bag.found.contains_key(name));
        there.filter_map(|name| Crl::parse(&self.bag.read(&name, CRL_BYTES_MAX as u64).ok()?).ok()).collect()
    }
}
