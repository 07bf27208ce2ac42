//! Timestamps: every token in the case against the head that it covers, the record that names it, and the roots that were
//! given from outside. Normative text: `docs/format/timestamps.md`.

use std::collections::{BTreeMap, BTreeSet};

use super::chain::{Chain, Token};
use super::replies::{self, Known};
use super::witness::Heads;
use super::{Bound, CaseFiles, Code, Counts, Findings, LastStamped, Options, TimestampSummary, TimestampTrust, read_bounded, unreadable};
use crate::digest::Digest;
use crate::layout::{AuthorityName, CaseObject, TimestampFile};
use crate::log::{Checkpoint, NOTE_BYTES_MAX, Note};
use crate::record::Stamped;
use crate::text::escape_bounded;
use crate::time::Timestamp;
use crate::timestamp::{CRL_BYTES_MAX, Crl, REPLY_BYTES_MAX, Reply, Request, Revocation, TimestampError, Trusted};

/// What was found out about the timestamps of a log.
pub(super) struct Timestamps {
    pub summaries: Vec<TimestampSummary>,
    /// Those that are believed.
    pub tokens: Vec<Token>,
    /// What they say of the last record; of a bag it is said when the timestamps over the bag are known as well.
    pub last: Option<LastStamped>,
}

/// Checks all timestamps and, but for a bag, draws the [conclusions](conclude).
pub(super) fn check(
    files: &dyn CaseFiles,
    options: &Options,
    heads: &Heads<'_>,
    listed: &BTreeSet<(u64, TimestampFile)>,
    chain: &mut Chain,
    counts: &mut Counts,
    findings: &mut Findings,
) -> Timestamps {
    let last = heads.roots.len().saturating_sub(1) as u64;
    let mut check = Check { files, options, listed, last, stamped: BTreeMap::new(), unanswered: 0, findings };
    for (size, _) in listed.iter().filter(|(_, file)| *file == TimestampFile::Checkpoint) {
        check.checkpoint(*size, heads);
    }
    let in_case = listed.iter().filter_map(|(size, file)| match file {
        TimestampFile::Checkpoint => None,
        TimestampFile::Request(name) | TimestampFile::Reply(name) | TimestampFile::Crl(name, _) => Some((*size, name.clone())),
    });
    let recorded = chain.stamps.tokens.keys().filter_map(|(size, name)| Some((*size, name.parse().ok()?)));
    let all: BTreeSet<(u64, AuthorityName)> = in_case.chain(recorded).collect();
    let (mut summaries, mut tokens) = (Vec::new(), Vec::new());
    for (size, name) in all {
        let record = chain.stamps.tokens.get(&(size, name.to_string()));
        let failed = chain.stamps.failed.contains_key(&(size, name.to_string()));
        let Some((summary, token)) = check.token(size, &name, record.map(|(n, p)| (*n, &**p)), failed) else { continue };
        summaries.push(summary);
        tokens.extend(token);
    }
    for (authority, size) in &chain.stamps.failing {
        if let Some(failure) = chain.stamps.failed.get(&(*size, authority.clone())) {
            check.findings.add(Code::TimestampFailed, &failure.object, &failure.message);
        }
    }
    counts.requests_unanswered = check.unanswered;
    let last = if options.is_bag { None } else { conclude(options, &tokens, chain, check.findings) };
    Timestamps { summaries, tokens, last }
}

/// Tells the chain which timestamps are believed, and looks whether enough of them cover its last record.
pub(super) fn conclude(options: &Options, tokens: &[Token], chain: &mut Chain, findings: &mut Findings) -> Option<LastStamped> {
    require(options.timestamps_required, chain.stamps.last, tokens, findings);
    chain.place_in_time(tokens, findings);
    let record = chain.stamps.last.filter(|_| !options.timestamp_anchors.is_empty())?;
    let mut first = BTreeMap::<Digest, &Token>::new();
    for token in tokens.iter().filter(|token| token.size > record) {
        let known = first.entry(token.anchor).or_insert(token);
        if token.latest < known.latest {
            *known = token;
        }
    }
    let by = first.into_values().map(|token| Bound { at: token.latest, object: token.object.clone() }).collect();
    Some(LastStamped { record, by })
}

struct Check<'a> {
    files: &'a dyn CaseFiles,
    options: &'a Options,
    listed: &'a BTreeSet<(u64, TimestampFile)>,
    /// Records of the history.
    last: u64,
    /// Digests of the stamped heads that are heads of this history.
    stamped: BTreeMap<u64, Digest>,
    /// Requests that belong to a recorded failure.
    unanswered: u64,
    findings: &'a mut Findings,
}

impl Check<'_> {
    /// A stamped head is a signed one: it must be part of the history like any other.
    fn checkpoint(&mut self, size: u64, heads: &Heads<'_>) {
        let object = name(size, TimestampFile::Checkpoint);
        let mut bytes = Vec::new();
        if let Err(e) = read_bounded(self.files, &object, NOTE_BYTES_MAX as u64, &mut bytes) {
            return self.findings.add(unreadable(&e, Code::TimestampMissing), &object, format!("'{object}' cannot be read: {e}"));
        }
        let bad = |why: &str| format!("'{object}': {}", escape_bounded(why, 300));
        let head = Note::parse(&bytes).map_err(|e| e.to_string()).and_then(|note| {
            let head = Checkpoint::of(&note).map_err(|e| e.to_string())?;
            match () {
                () if head.size != size => Err(format!("it is a head of {} records", head.size)),
                () if heads.origin != Some(head.origin.as_str()) => Err(format!("it is of log '{}'", escape_bounded(&head.origin, 120))),
                () if !(heads.signed_by_log)(&note) => Err("no log key of this case signed it".to_owned()),
                () => Ok(head),
            }
        });
        let head = match head {
            Ok(head) => head,
            Err(why) => return self.findings.add(Code::TimestampCheckpoint, &object, bad(&why)),
        };
        if usize::try_from(size).ok().and_then(|n| heads.roots.get(n)) == Some(&head.root) {
            self.stamped.insert(size, Digest::of(&bytes));
            return;
        }
        let message = format!("{object}: the log's own key signed root {} at {size} records, which is not this history's", head.root);
        self.findings.add(Code::LogForked, &object, message);
    }

    /// Checks one authority's token over one head. `None` when there is nothing to say about a time.
    fn token(
        &mut self,
        size: u64,
        authority: &AuthorityName,
        record: Option<(u64, &Stamped)>,
        failed: bool,
    ) -> Option<(TimestampSummary, Option<Token>)> {
        let reply_name = TimestampFile::Reply(authority.clone());
        let object = name(size, reply_name.clone());
        if record.is_none() {
            if !self.listed.contains(&(size, reply_name.clone())) {
                let request = TimestampFile::Request(authority.clone());
                if !failed {
                    let request = name(size, request);
                    self.unrecorded(size, &request, format!("no record and no reply belongs to '{request}'"));
                } else if self.listed.contains(&(size, request)) {
                    self.unanswered = self.unanswered.saturating_add(1);
                }
                return None;
            }
            self.unrecorded(size, &object, format!("no record speaks of '{object}'"));
        }
        let stated = record.map(|(_, p)| p);
        let checkpoint = self.object(size, TimestampFile::Checkpoint, NOTE_BYTES_MAX, stated.map(|p| p.checkpoint));
        let request = self.object(size, TimestampFile::Request(authority.clone()), 1_024, stated.map(|p| p.request));
        let reply = self.object(size, reply_name, REPLY_BYTES_MAX, stated.map(|p| p.reply));
        let crls = self.crls(size, authority, stated);
        let (_, request, reply) = (checkpoint?, request?, reply?);
        let bad = |e: &TimestampError| (code_of(e), format!("'{object}': {}", escape_bounded(&e.to_string(), 400)));
        let over = *self.stamped.get(&size)?;
        let reply = match read(over, &request, &reply) {
            Ok(reply) => reply,
            Err(e) => {
                let (code, message) = bad(&e);
                self.findings.add(code, &object, message);
                return None;
            }
        };
        if let Some(p) = stated.filter(|p| p.time != reply.time() || p.serial != reply.serial()) {
            let message = format!(
                "the record says {} and serial number {}, the token {} and {}",
                p.time,
                escape_bounded(&p.serial, 80),
                reply.time(),
                reply.serial()
            );
            self.findings.add(Code::TimestampRecord, &object, message);
            return None;
        }
        strangers(&reply, &object, self.findings);
        let trust =
            if self.options.timestamp_anchors.is_empty() { None } else { Some(reply.verify(&self.options.timestamp_anchors, &crls)) };
        if let Some(Err(e)) = &trust {
            let (code, message) = bad(e);
            self.findings.add(code, &object, message);
        }
        let trust = trust.and_then(Result::ok);
        // What a record names is held by its digest.
        if record.is_none() {
            let known = Known { reply: Some(&reply), anchors: &self.options.timestamp_anchors, believed: trust.is_some() };
            replies::check(&reply, known, &object, self.findings);
        }
        let record = record.map(|(n, _)| n);
        let said = summary(&reply, trust, authority, (size, record), object);
        let token = believed(&said);
        Some((said, token))
    }

    /// Notes what no record speaks of. The record of a timestamp over a bag's last head would come after that head, so an export during
    /// which the authority answers cannot have it.
    fn unrecorded(&mut self, size: u64, object: &str, otherwise: String) {
        let message = if self.options.is_bag && size == self.last {
            format!(
                "'{object}' belongs to a timestamp over this bag's last head, of {size} records: its record comes after that head and \
                 cannot be in the bag, which is normal"
            )
        } else {
            otherwise
        };
        self.findings.add(Code::TimestampUnrecorded, object, message);
    }

    /// Reads an object and holds it against the digest in the record. One that no record names may be absent.
    fn object(&mut self, size: u64, file: TimestampFile, bytes_max: usize, stated: Option<Digest>) -> Option<Vec<u8>> {
        let listed = self.listed.contains(&(size, file.clone()));
        let object = name(size, file);
        if !listed {
            self.findings.add(Code::TimestampMissing, &object, format!("'{object}' is not there"));
            return None;
        }
        let mut bytes = Vec::new();
        if let Err(e) = read_bounded(self.files, &object, bytes_max as u64, &mut bytes) {
            self.findings.add(unreadable(&e, Code::TimestampMissing), &object, format!("'{object}' cannot be read: {e}"));
            return None;
        }
        let found = Digest::of(&bytes);
        if let Some(stated) = stated.filter(|stated| *stated != found) {
            self.findings.add(Code::TimestampAltered, &object, format!("'{object}' has SHA-256 {found}, its record states {stated}"));
            return None;
        }
        Some(bytes)
    }

    /// The CRLs that were kept with a token. One that can be read and is of no use is no finding.
    fn crls(&mut self, size: u64, authority: &AuthorityName, stated: Option<&Stamped>) -> Vec<Crl> {
        let mut out = Vec::new();
        for n in 0..TimestampFile::CRLS_MAX {
            let file = TimestampFile::Crl(authority.clone(), n);
            let digest = stated.and_then(|p| p.crls.get(usize::from(n)).copied());
            let listed = self.listed.contains(&(size, file.clone()));
            if stated.is_some() && digest.is_none() && listed {
                let object = name(size, file);
                self.findings.add(Code::ObjectUnaccounted, &object, format!("'{object}' is named by no timestamp record"));
            } else if (digest.is_some() || listed)
                && let Some(bytes) = self.object(size, file, CRL_BYTES_MAX, digest)
            {
                out.extend(replies::list(&bytes, &name(size, TimestampFile::Crl(authority.clone(), n)), self.findings));
            }
        }
        out
    }
}

/// Reads a reply and checks it in itself: whose answer it is, and that it is signed.
pub(super) fn read(over: Digest, request: &[u8], reply: &[u8]) -> Result<Reply, TimestampError> {
    let (request, reply) = (Request::parse(request)?, Reply::parse(reply)?);
    reply.is_over(over)?;
    reply.answers(&request)?;
    reply.verify_signature()?;
    Ok(reply)
}

/// Names the certificates in a reply that belong to no chain above its signer.
pub(super) fn strangers(reply: &Reply, object: &str, findings: &mut Findings) {
    let named: Vec<String> = reply.strangers().iter().map(|name| format!("'{}'", escape_bounded(name, 100))).collect();
    if !named.is_empty() {
        let message = format!("'{object}' holds certificates that its signer does not lead to: {}", named.join(", "));
        findings.add(Code::TimestampCertificates, object, message);
    }
}

pub(super) fn summary(
    reply: &Reply,
    trust: Option<Trusted>,
    authority: &AuthorityName,
    place: (u64, Option<u64>),
    object: String,
) -> TimestampSummary {
    TimestampSummary {
        object,
        authority: authority.to_string(),
        size: place.0,
        record: place.1,
        time: reply.time(),
        accuracy_ns: reply.accuracy_ns(),
        serial: reply.serial().to_owned(),
        policy: reply.policy().to_owned(),
        trust: trust.map(|trust| TimestampTrust {
            anchor: trust.anchor(),
            signer: escape_bounded(trust.signer(), 200),
            valid: [trust.valid().0, trust.valid().1],
            crl_made: match trust.revocation() {
                Revocation::NotChecked => None,
                Revocation::Good(made) => Some(*made),
            },
        }),
    }
}

/// What a timestamp bounds; nothing when it is not believed.
pub(super) fn believed(said: &TimestampSummary) -> Option<Token> {
    let trust = said.trust.as_ref()?;
    let (at, off) = (said.time.unix_ns(), i64::try_from(said.accuracy_ns.unwrap_or(0)).unwrap_or(i64::MAX));
    Some(Token {
        size: said.size,
        record: said.record,
        anchor: trust.anchor,
        earliest: Timestamp::from_unix_ns(at.saturating_sub(off)),
        latest: Timestamp::from_unix_ns(at.saturating_add(off)),
        object: said.object.clone(),
    })
}

fn require(required: usize, last: Option<u64>, tokens: &[Token], findings: &mut Findings) {
    let anchors_over = |n: u64| tokens.iter().filter(|t| t.size > n).map(|t| t.anchor).collect::<BTreeSet<_>>().len();
    let Some(last) = last.filter(|_| required > 0) else { return };
    let have = anchors_over(last);
    if have >= required {
        return;
    }
    let older = tokens.iter().map(|t| t.size).filter(|size| anchors_over(size.saturating_sub(1)) >= required).max();
    let older =
        older.map_or_else(|| "no head has enough".to_owned(), |size| format!("the newest head that has enough is of {size} records"));
    let message = format!("record {last} is stamped under {have} of {required} required roots; {older}");
    findings.add(Code::TimestampRequired, "timestamps", message);
}

fn name(size: u64, file: TimestampFile) -> String {
    CaseObject::Timestamp(size, file).to_string()
}

pub(super) const fn code_of(e: &TimestampError) -> Code {
    match e {
        TimestampError::Malformed(_) | TimestampError::Refused(_) => Code::TimestampMalformed,
        TimestampError::Imprint { .. } => Code::TimestampImprint,
        TimestampError::Nonce(_) => Code::TimestampNonce,
        TimestampError::Signature(_) => Code::TimestampSignature,
        TimestampError::Purpose(_) => Code::TimestampPurpose,
        TimestampError::Validity(_) => Code::TimestampValidity,
        TimestampError::Untrusted(_) => Code::TimestampUntrusted,
        TimestampError::Revoked(_) => Code::TimestampRevoked,
    }
}
