//! A witness: a key outside the deployment and the memory of what it vouched for.
//!
//! | file | mode | content |
//! |---|---|---|
//! | `witness.key` | 0600 | the private key |
//! | `witness.vkey` | 0644 | name and public key, one line |
//! | `anchor.json` | 0644 | the deployment's anchor |
//! | `seen/<SHA-256 of the log's name>` | 0644 | per log the newest checkpoint that was cosigned, with the cosignature |
//! | `refused/<SHA-256 of the checkpoint>` | 0644 | checkpoints that do not continue what was seen: proof of a rewritten log |
//!
//! Order of each cosignature, under a lock that no second process of this witness gets: read what was seen, check, write
//! what is cosigned now (fsync of file and folder), and only then give it away.

use std::fs::File;
use std::path::{Path, PathBuf};

use exhibit_certs::files::{self, Access, FileError};
use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::{PublicKey, SigningKey};
use exhibit_evidence::log::{Checkpoint, ConsistencyProof, Cosigned, Note, WitnessKey, cosign, verify_consistency};
use exhibit_evidence::record::{KeyRing, Record, Role};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{Digest, Timestamp};

use crate::exit::{Code, Failure, Result};

const KEY: &str = "witness.key";
const VERIFIER_KEY: &str = "witness.vkey";
const ANCHOR: &str = "anchor.json";
const SEEN: &str = "seen";
const REFUSED: &str = "refused";
const LOCK: &str = "lock";

/// A witness's folder, locked.
pub struct Witness {
    dir: PathBuf,
    key: SigningKey,
    /// Name and public key.
    pub public: WitnessKey,
    /// Where trust in log keys begins.
    pub anchor: Anchor,
    _lock: File,
}

/// What was cosigned.
#[derive(Debug)]
pub struct Done {
    /// The head, with the time.
    pub cosigned: Cosigned,
    /// Records of the head that was seen before; zero when none was.
    pub before: u64,
    /// The checkpoint with the log's signature and this witness's.
    pub note: Vec<u8>,
}

fn failed(e: &FileError) -> Failure {
    let code = match e {
        FileError::TooOpen { .. } => Code::NotPermitted,
        FileError::Exists { .. } => Code::CannotCreate,
        _ if e.is_not_found() => Code::Input,
        _ => Code::Failure,
    };
    Failure::new(code, e.to_string())
}

/// Makes a witness's folder; an existing one is left alone.
pub fn init(dir: &Path, name: &str, anchor: &[u8], seed: &[u8; 32]) -> Result<WitnessKey> {
    let key = SigningKey::from_seed(seed);
    let public = WitnessKey::new(name, key.public()).map_err(|e| Failure::new(Code::Input, format!("--name: {e}")))?;
    Anchor::parse(anchor).map_err(|e| Failure::new(Code::Input, format!("--anchor: {}", escape_bounded(&e, 300))))?;
    if dir.join(KEY).exists() {
        return Err(failed(&FileError::Exists { path: dir.join(KEY) }));
    }
    let make = || -> std::result::Result<(), FileError> {
        files::create_folder(dir)?;
        files::create_folder(&dir.join(SEEN))?;
        files::create_folder(&dir.join(REFUSED))?;
        files::create(&dir.join(ANCHOR), anchor, Access::Public)?;
        files::create(&dir.join(VERIFIER_KEY), format!("{public}\n").as_bytes(), Access::Public)?;
        // Last: a folder with a key is whole.
        files::create(&dir.join(KEY), key.to_text().as_bytes(), Access::Private)
    };
    make().map_err(|e| failed(&e))?;
    Ok(public)
}

impl Witness {
    /// Opens a witness's folder and locks it.
    pub fn open(dir: &Path) -> Result<Self> {
        let bad = |file: &str, why: String| Failure::new(Code::Input, format!("{}: {why}", dir.join(file).display()));
        let lock = File::options()
            .create(true)
            .append(true)
            .open(dir.join(LOCK))
            .map_err(|e| bad(LOCK, format!("cannot be opened: {e}")).hint("--dir is the folder that `exhibit witness init` made"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(|e| bad(LOCK, format!("cannot be locked: {e}")))?;
        let text = files::read_private(&dir.join(KEY)).map_err(|e| failed(&e))?;
        let key = std::str::from_utf8(&text).ok().and_then(SigningKey::from_text);
        let key = key.ok_or_else(|| bad(KEY, "not the key of a witness".to_owned()))?;
        let text = files::read(&dir.join(VERIFIER_KEY)).map_err(|e| failed(&e))?;
        let public: WitnessKey = String::from_utf8_lossy(&text).trim_end().parse().map_err(|e| bad(VERIFIER_KEY, format!("{e}")))?;
        if *public.key() != key.public() {
            return Err(bad(VERIFIER_KEY, "it is not the public key of witness.key".to_owned()));
        }
        let anchor = files::read(&dir.join(ANCHOR)).map_err(|e| failed(&e))?;
        let anchor = Anchor::parse(&anchor).map_err(|e| bad(ANCHOR, escape_bounded(&e, 300)))?;
        Ok(Self { dir: dir.to_owned(), key, public, anchor, _lock: lock })
    }

    fn seen_file(&self, origin: &str) -> PathBuf {
        self.dir.join(SEEN).join(Digest::of(origin.as_bytes()).to_string())
    }

    /// What was cosigned last of a log.
    pub fn seen(&self, origin: &str) -> Result<Option<Cosigned>> {
        let path = self.seen_file(origin);
        match files::read(&path) {
            Ok(bytes) => self.read_seen(&path, &bytes, Some(origin)).map(Some),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(failed(&e)),
        }
    }

    /// What was cosigned last, of every log.
    pub fn all_seen(&self) -> Result<Vec<Cosigned>> {
        let folder = self.dir.join(SEEN);
        let cannot = |e: std::io::Error| Failure::new(Code::Failure, format!("cannot list {}: {e}", folder.display()));
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(cannot)? {
            let path = entry.map_err(cannot)?.path();
            if path.file_name().is_some_and(|n| !n.as_encoded_bytes().starts_with(b".")) {
                let bytes = files::read(&path).map_err(|e| failed(&e))?;
                all.push(self.read_seen(&path, &bytes, None)?);
            }
        }
        all.sort_by(|a, b| a.checkpoint.origin.cmp(&b.checkpoint.origin));
        Ok(all)
    }

    /// The memory vouches for itself: it bears this witness's own signature.
    fn read_seen(&self, path: &Path, bytes: &[u8], origin: Option<&str>) -> Result<Cosigned> {
        let cosigned = Note::parse(bytes).ok().and_then(|note| self.public.verify(&note).ok());
        cosigned.filter(|c| origin.is_none_or(|o| o == c.checkpoint.origin)).ok_or_else(|| {
            Failure::new(Code::Damaged, format!("{}: this witness's memory of the log was altered; nothing is cosigned", path.display()))
                .hint("restore the witness's folder from its backup; never delete the file: a witness that forgets vouches for anything")
        })
    }

    /// The log key that an enrolment record names, if the anchor's root vouches for it.
    pub fn log_key(&self, enrolment: &[u8]) -> Result<PublicKey> {
        log_key(&self.anchor, enrolment)
    }

    /// Checks that a head continues what was seen of its log, remembers it, and cosigns it.
    pub fn cosign(&self, request: &ConsistencyProof, log_key: &PublicKey, now: Timestamp) -> Result<Done> {
        let note = Note::parse(&request.checkpoint).map_err(|e| Failure::new(Code::Input, e.to_string()))?;
        let head = Checkpoint::verify_note(&note, log_key).map_err(|e| Failure::new(Code::Damaged, e.to_string()))?;
        let shown = escape_bounded(&head.origin, 200);
        if !head.origin.starts_with(&format!("exhibit/{}/", self.anchor.deployment)) || head.size == 0 {
            return Err(Failure::new(
                Code::Input,
                format!("'{shown}' has no records, or is no log of deployment '{}'", self.anchor.deployment),
            ));
        }
        let seen = self.seen(&head.origin)?;
        let before = seen.as_ref().map_or(0, |s| s.checkpoint.size);
        if head.size < before {
            return Err(self.refuse(request, &format!("log '{shown}' has {} records; this witness vouched for {before}", head.size)));
        }
        if request.old != before {
            return Err(Failure::new(
                Code::Input,
                format!("the proof begins at {} records, this witness saw {before} of '{shown}'", request.old),
            )
            .hint(format!("exhibit log consistency --from {before}")));
        }
        let root = seen.as_ref().map_or_else(|| Digest::of(b""), |s| s.checkpoint.root);
        if verify_consistency((before, &root), (head.size, &head.root), &request.hashes).is_err() {
            let what = format!(
                "the head of {} records of log '{shown}' does not continue the head of {before} that this witness vouched for",
                head.size
            );
            return Err(self.refuse(request, &what));
        }
        let time_s = u64::try_from(now.unix_ns() / 1_000_000_000).unwrap_or(0);
        if let Some(last) = seen.as_ref().filter(|s| s.time_s > time_s) {
            let message = format!("this machine's clock says {now}, but this witness signed at {} s already", last.time_s);
            return Err(Failure::new(Code::Failure, message).hint("set the clock"));
        }
        let signature = cosign(&head, &self.public, &self.key, time_s);
        let log = note.signatures.into_iter().take(1);
        let note = Note { text: note.text, signatures: log.chain([signature.clone()]).collect() }.to_bytes();
        files::replace(&self.seen_file(&head.origin), &note, Access::Public).map_err(|e| failed(&e))?;
        Ok(Done { cosigned: Cosigned { checkpoint: head, time_s, signature }, before, note })
    }

    /// A log that does not continue is proof that two histories were signed: both heads are kept.
    fn refuse(&self, request: &ConsistencyProof, what: &str) -> Failure {
        let path = self.dir.join(REFUSED).join(Digest::of(&request.checkpoint).to_string());
        let kept = match files::create(&path, &request.checkpoint, Access::Public) {
            Ok(()) | Err(FileError::Exists { .. }) => format!("kept as {}", path.display()),
            Err(e) => format!("it could not be kept: {e}"),
        };
        Failure::new(Code::Damaged, format!("NOT COSIGNED: {what}; the log was cut back, rewritten or forked ({kept})")).hint(
            "both heads bear the log's signature and prove it together: keep the witness's folder, and tell whoever answers for the case",
        )
    }
}

/// The log key that an enrolment record names, if the anchor's root vouches for it.
pub fn log_key(anchor: &Anchor, enrolment: &[u8]) -> Result<PublicKey> {
    let bad = |why: &str| {
        Failure::new(Code::Damaged, format!("the enrolment of the log key: {why}"))
            .hint("compare the anchor with the one that the deployment handed out")
    };
    let envelope = Envelope::parse(enrolment).map_err(|e| bad(&escape_bounded(&e.to_string(), 200)))?;
    let verified = KeyRing::new(anchor).verify(&envelope).map_err(|e| bad(&escape_bounded(&e.to_string(), 200)))?;
    match verified.record() {
        Record::Enrolment(p) if p.roles.contains(&Role::Log) => Ok(p.key),
        _ => Err(bad("it is another record")),
    }
}

#[cfg(test)]
mod tests;
