//! Trusted timestamps over a bag: each is over the tag manifest, and so over every byte that the bag's signature covers.
//! Anybody may add one later; what is good in itself counts. No manifest can name these files, so each must be what its name says: of
//! an authority that the bag names, or believed, and signed by whoever made it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Bag, unreadable};
use crate::bag::{Description, TAG_MANIFEST, TAG_MANIFEST_BYTES_MAX, parse_stamp, stamp};
use crate::digest::Digest;
use crate::layout::{AuthorityName, TimestampFile};
use crate::text::escape_bounded;
use crate::timestamp::{CRL_BYTES_MAX, Crl, REPLY_BYTES_MAX, Reply, Request, TimestampError, Trusted};
use crate::verify::replies::{self, Known};
use crate::verify::timestamps::{code_of, read, strangers, summary};
use crate::verify::{Code, Findings, Options, Severity, TimestampSummary};

const REQUEST_BYTES_MAX: usize = 1_024;

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
        let there: BTreeSet<AuthorityName> = self.bag.found.keys().filter_map(|name| authority_of(name)).collect();
        // Those that were to come first: of two that hold one token the other is the copy.
        let all = announced.iter().chain(there.difference(&announced));
        let Ok(manifest) = self.bag.read(TAG_MANIFEST, TAG_MANIFEST_BYTES_MAX) else { return Vec::new() };
        let over = Digest::of(&manifest);
        let (mut summaries, mut seen) = (Vec::new(), BTreeMap::<Digest, String>::new());
        for authority in all {
            let is_announced = announced.contains(authority);
            // Without bag.json nobody knows which were to come.
            if description.is_some() && !is_announced && !self.is_believed(authority, over) {
                self.unlisted(authority, findings);
                continue;
            }
            if let Some((statement, summary)) = self.one(authority, over, findings) {
                if let Some(first) = seen.get(&statement) {
                    copied(&summary.object, first, is_announced, findings);
                } else {
                    seen.insert(statement, summary.object.clone());
                    summaries.push(summary);
                }
            }
            let lists = description.and_then(|d| d.revocation_lists.get(authority.as_str())).copied().unwrap_or(0);
            self.count_lists(authority, lists, findings);
        }
        summaries
    }

    /// What an authority's stamp says, and the digest of what it signed.
    fn one(&self, authority: &AuthorityName, over: Digest, findings: &mut Findings) -> Option<(Digest, TimestampSummary)> {
        let object = stamp(&TimestampFile::Reply(authority.clone()));
        if !self.bag.found.contains_key(&object) {
            findings.add(
                Code::BagUnstamped,
                &object,
                format!("authority '{authority}' was to stamp this bag, and '{object}' is not there"),
            );
            self.without_reply(authority, over, findings);
            return None;
        }
        let request = self.file(&TimestampFile::Request(authority.clone()), REQUEST_BYTES_MAX, findings);
        let bytes = self.file(&TimestampFile::Reply(authority.clone()), REPLY_BYTES_MAX, findings);
        let lists = self.lists(authority, findings);
        let (request, bytes) = (request?, bytes?);
        let mut fault = |e: &TimestampError| findings.add(code_of(e), &object, said(&object, e));
        let reply = read(over, &request, &bytes).inspect_err(&mut fault).ok()?;
        let anchors = &self.options.timestamp_anchors;
        let crls: Vec<Crl> = lists.iter().map(|(_, list)| list.clone()).collect();
        let trust: Option<Trusted> = (!anchors.is_empty()).then(|| reply.verify(anchors, &crls).inspect_err(&mut fault).ok()).flatten();
        strangers(&reply, &object, findings);
        let known = Known { reply: Some(&reply), anchors, believed: trust.is_some() };
        replies::check(&reply, known, &object, findings);
        for (name, list) in &lists {
            replies::vouched(list, known, name, findings);
        }
        Some((reply.statement(), summary(&reply, trust, authority, (self.size, None), object)))
    }

    /// What is left of a stamp without its reply: a request over this bag, and lists that somebody known may have signed.
    fn without_reply(&self, authority: &AuthorityName, over: Digest, findings: &mut Findings) {
        let name = stamp(&TimestampFile::Request(authority.clone()));
        if self.bag.found.contains_key(&name)
            && let Some(bytes) = self.file(&TimestampFile::Request(authority.clone()), REQUEST_BYTES_MAX, findings)
        {
            let fault = match Request::parse(&bytes) {
                Ok(request) if request.imprint == over => None,
                Ok(request) => Some(TimestampError::Imprint { expected: over, found: request.imprint.to_string() }),
                Err(e) => Some(e),
            };
            if let Some(e) = fault {
                findings.add(code_of(&e), &name, said(&name, &e));
            }
        }
        let known = Known { reply: None, anchors: &self.options.timestamp_anchors, believed: false };
        for (name, list) in self.lists(authority, findings) {
            replies::vouched(&list, known, &name, findings);
        }
    }

    /// True for a stamp that leads to a root from outside: who knows nothing of the bag's making may have added it.
    fn is_believed(&self, authority: &AuthorityName, over: Digest) -> bool {
        let load = |file: TimestampFile, bytes_max: usize| self.bag.read(&stamp(&file), bytes_max as u64).ok();
        let Some(request) = load(TimestampFile::Request(authority.clone()), REQUEST_BYTES_MAX) else { return false };
        let Some(bytes) = load(TimestampFile::Reply(authority.clone()), REPLY_BYTES_MAX) else { return false };
        let anchors = &self.options.timestamp_anchors;
        // Whether it was revoked is said by its own finding.
        let believed = |reply: Reply| matches!(reply.verify(anchors, &[]), Ok(_) | Err(TimestampError::Revoked(_)));
        !anchors.is_empty() && read(over, &request, &bytes).is_ok_and(believed)
    }

    /// Files that only have the name of a stamp's.
    fn unlisted(&self, authority: &AuthorityName, findings: &mut Findings) {
        for name in self.bag.found.keys().filter(|name| authority_of(name).as_ref() == Some(authority)) {
            let message = format!(
                "'{name}' is named by no manifest of the bag; bag.json does not name authority '{authority}', and there is no timestamp of it \
                 over this bag under a root that was given (--timestamp-anchor)"
            );
            findings.add(Code::BagFileUnlisted, name, message);
        }
    }

    fn file(&self, file: &TimestampFile, bytes_max: usize, findings: &mut Findings) -> Option<Vec<u8>> {
        let name = stamp(file);
        let read = self.bag.read(&name, bytes_max as u64);
        read.inspect_err(|e| findings.add(unreadable(e, Code::TimestampMissing), &name, format!("'{name}' cannot be read: {e}"))).ok()
    }

    /// The CRLs beside it that can be read, with their names.
    fn lists(&self, authority: &AuthorityName, findings: &mut Findings) -> Vec<(String, Crl)> {
        let mut lists = Vec::new();
        for file in (0..TimestampFile::CRLS_MAX).map(|n| TimestampFile::Crl(authority.clone(), n)) {
            let name = stamp(&file);
            if self.bag.found.contains_key(&name)
                && let Some(bytes) = self.file(&file, CRL_BYTES_MAX, findings)
                && let Some(list) = replies::list(&bytes, &name, findings)
            {
                lists.push((name, list));
            }
        }
        lists
    }

    /// Of an authority that stamped the bag there are to be as many lists as were announced.
    fn count_lists(&self, authority: &AuthorityName, announced: u8, findings: &mut Findings) {
        let is_there = |file: TimestampFile| self.bag.found.contains_key(&stamp(&file));
        let there = (0..TimestampFile::CRLS_MAX).filter(|n| is_there(TimestampFile::Crl(authority.clone(), *n))).count();
        if there < usize::from(announced) && is_there(TimestampFile::Reply(authority.clone())) {
            let object = stamp(&TimestampFile::Crl(authority.clone(), there as u8));
            let message = format!("bag.json announces {announced} revocation lists of authority '{authority}', {there} are there");
            findings.add(Code::BagListMissing, object, message);
        }
    }
}

/// A stamp that is another one under a second name: one authority spoke, once. It counts for nothing.
fn copied(object: &str, first: &str, is_announced: bool, findings: &mut Findings) {
    let message = format!("'{object}' holds the same token as '{first}': it is a copy under another authority's name and does not count");
    if is_announced {
        findings.add_as(Code::BagUnstamped, Severity::Warning, object, message);
    } else {
        findings.add(Code::BagFileUnlisted, object, message);
    }
}

fn said(object: &str, e: &TimestampError) -> String {
    format!("'{object}': {}", escape_bounded(&e.to_string(), 400))
}

/// The authority in the name of a stamp's file.
fn authority_of(name: &str) -> Option<AuthorityName> {
    match parse_stamp(name)? {
        TimestampFile::Checkpoint => None,
        TimestampFile::Request(name) | TimestampFile::Reply(name) | TimestampFile::Crl(name, _) => Some(name),
    }
}
