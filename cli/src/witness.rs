//! A witness: a key outside the deployment and the memory of what it vouched for.
//!
//! | file | mode | content |
//! |---|---|---|
//! | `witness.key` | 0600 | the private key |
//! | `lock` | 0600 | empty; locked while a command uses the folder, and may be left out of backups |
//! | `witness.vkey` | 0644 | name and public key, one line |
//! | `anchor.json` | 0644 | the deployment's anchor |
//! | `seen/<SHA-256 of the log's name>` | 0644 | per log the newest checkpoint that was cosigned, with the cosignature |
//! | `refused/<SHA-256 of the checkpoint>` | 0644 | a checkpoint that was not cosigned, as it was given |
//! | `refused/<the same>.seen` | 0644 | what this witness had seen of the log then |
//! | `refused/<the same>.proof` | 0644 | the proof that came with the checkpoint |
//!
//! Where it is no witness that refuses, but a bag that the log does not continue, the checkpoint is the bag's, `.seen` is what
//! the coordinator showed.
//!
//! Files in `refused` are never written again. A second refusal of the same checkpoint that has something else to keep gets
//! `.2.seen`, `.2.proof` and so on.
//!
//! Order of each cosignature, under a lock that no second process of this witness gets: read what was seen, check, write
//! what is cosigned now (fsync of file and folder), and only then give it away.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use exhibit_certs::files::{self, Access, FileError};
use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::{PublicKey, SigningKey};
use exhibit_evidence::log::{Checkpoint, ConsistencyProof, Cosigned, Note, WitnessKey, cosign, earlier_root, verify_consistency};
use exhibit_evidence::record::{KeyRing, Record, Role};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{Digest, Timestamp};

use crate::exit::{Code, Failure, Result};
use refusal::Why;

pub use bag::{BagHead, SameSize};

mod bag;
mod refusal;

const KEY: &str = "witness.key";
const VERIFIER_KEY: &str = "witness.vkey";
const ANCHOR: &str = "anchor.json";
const SEEN: &str = "seen";
const REFUSED: &str = "refused";
const LOCK: &str = "lock";
/// Files that are kept beside one refused checkpoint, of each kind.
const KEPT_MAX: usize = 1_000;

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

/// Where a head comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The coordinator says now that it is the newest one.
    Coordinator,
    /// A file that somebody gave: it may be old, honestly.
    Given,
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
        // A folder that is no witness's stays as it is.
        if !dir.join(KEY).exists() {
            return Err(bad(KEY, "there is no such file".to_owned()).hint("--dir is the folder that `exhibit witness init` made"));
        }
        let lock = File::options()
            .create(true)
            .mode(0o600)
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

    /// Where the newest head of a log is kept that was cosigned.
    pub fn seen_file(&self, origin: &str) -> PathBuf {
        self.dir.join(SEEN).join(Digest::of(origin.as_bytes()).to_string())
    }

    /// What was cosigned last of a log.
    pub fn seen(&self, origin: &str) -> Result<Option<Cosigned>> {
        Ok(self.memory(origin)?.map(|(seen, _)| seen))
    }

    /// What was cosigned last of a log, and its bytes.
    fn memory(&self, origin: &str) -> Result<Option<(Cosigned, Vec<u8>)>> {
        let path = self.seen_file(origin);
        match files::read(&path) {
            Ok(bytes) => Ok(Some((self.read_seen(&path, &bytes, Some(origin))?, bytes))),
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

    /// Checks that a head continues what was seen of its log, remembers it, and cosigns it. The head that was seen last gets
    /// the cosignature again that it has, wherever its proof begins.
    pub fn cosign(&self, request: &ConsistencyProof, log_key: &PublicKey, source: Source, now: Timestamp) -> Result<Done> {
        let note = Note::parse(&request.checkpoint).map_err(|e| Failure::new(Code::Input, e.to_string()))?;
        let head = Checkpoint::verify_note(&note, log_key).map_err(|e| Failure::new(Code::Damaged, e.to_string()))?;
        let shown = escape_bounded(&head.origin, 200);
        if !head.origin.starts_with(&format!("exhibit/{}/", self.anchor.deployment)) {
            return Err(Failure::new(Code::Input, format!("'{shown}' is no log of deployment '{}'", self.anchor.deployment)));
        }
        let memory = self.memory(&head.origin)?;
        let before = memory.as_ref().map_or(0, |(seen, _)| seen.checkpoint.size);
        let seen_bytes = memory.as_ref().map(|(_, bytes)| bytes.as_slice());
        if head.size > before && self.public.verify(&note).is_ok() {
            return Err(self.refuse(request, seen_bytes, &Why::Forgot { signed: head.size, before }, &shown));
        }
        if head.size < before {
            return Err(self.shorter(request, (&note, &head), (before, seen_bytes), source));
        }
        if head.size == 0 {
            return Err(Failure::new(Code::Input, format!("'{shown}' has no records")));
        }
        match memory {
            Some((seen, note)) if seen.checkpoint == head => return Ok(Done { cosigned: seen, before, note }),
            Some(_) if head.size == before => {
                return Err(self.refuse(request, seen_bytes, &Why::TwoHistories { size: before }, &shown));
            }
            _ => {}
        }
        self.check_proof(request, memory.as_ref().map(|(seen, bytes)| (seen, bytes.as_slice())), &head, source)?;
        self.sign(note, head, memory.map(|(seen, _)| seen), now)
    }

    /// What to say of a head of fewer records than were seen. It is called old only where that is known: this witness signed it.
    fn shorter(
        &self,
        request: &ConsistencyProof,
        (note, head): (&Note, &Checkpoint),
        (before, seen): (u64, Option<&[u8]>),
        source: Source,
    ) -> Failure {
        let (shown, size) = (escape_bounded(&head.origin, 200), head.size);
        let once = self.once_seen(head);
        if let Some((_, bytes)) = once.as_ref().filter(|(root, _)| *root != head.root) {
            return self.refuse(request, Some(bytes.as_slice()), &Why::TwoHistories { size }, &shown);
        }
        if source == Source::Coordinator {
            return self.refuse(request, seen, &Why::Older { size, before }, &shown);
        }
        if once.is_some() || self.public.verify(note).is_ok() {
            let message = format!(
                "the head of {size} records of log '{shown}' is older than what this witness saw ({before} records), which cosigned it before; \
                 nothing to cosign; give it a newer head"
            );
            return Failure::new(Code::Input, message);
        }
        self.refuse(request, seen, &Why::Shorter { size, before, root: head.root, log: shown.clone() }, &shown)
    }

    /// Root and bytes of a head of the same log and size that this witness cosigned once, where a refusal kept it.
    fn once_seen(&self, head: &Checkpoint) -> Option<(Digest, Vec<u8>)> {
        let entries = std::fs::read_dir(self.dir.join(REFUSED)).ok()?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "seen")).find_map(|path| {
            let bytes = files::read(&path).ok()?;
            let once = self.public.verify(&Note::parse(&bytes).ok()?).ok()?.checkpoint;
            (once.origin == head.origin && once.size == head.size).then_some((once.root, bytes))
        })
    }

    /// That a head of more records continues what was seen.
    fn check_proof(&self, request: &ConsistencyProof, memory: Option<(&Cosigned, &[u8])>, head: &Checkpoint, source: Source) -> Result<()> {
        let shown = escape_bounded(&head.origin, 200);
        let (before, root) = memory.map_or_else(|| (0, Digest::of(b"")), |(s, _)| (s.checkpoint.size, s.checkpoint.root));
        if request.old != before {
            return Err(Failure::new(
                Code::Input,
                format!("the proof begins at {} records, this witness saw {before} of '{shown}'", request.old),
            )
            .hint(format!("exhibit log consistency --from {before}")));
        }
        verify_consistency((before, &root), (head.size, &head.root), &request.hashes).map_err(|_| {
            let size = head.size;
            let why = match earlier_root(before, (size, &head.root), &request.hashes) {
                Some(theirs) => Why::Rewritten { size, before, root, theirs },
                None => Why::BadProof { size, before, root, log: shown.clone(), source },
            };
            self.refuse(request, memory.map(|(_, bytes)| bytes), &why, &shown)
        })
    }

    /// Remembers a head that was checked, then signs it.
    fn sign(&self, note: Note, head: Checkpoint, seen: Option<Cosigned>, now: Timestamp) -> Result<Done> {
        let time_s = u64::try_from(now.unix_ns() / 1_000_000_000).unwrap_or(0);
        if let Some(last) = seen.as_ref().filter(|s| s.time_s > time_s) {
            let message = format!("this machine's clock says {now}, but this witness signed at {} s already", last.time_s);
            return Err(Failure::new(Code::Failure, message).hint("set the clock"));
        }
        let before = seen.map_or(0, |s| s.checkpoint.size);
        let signature = cosign(&head, &self.public, &self.key, time_s);
        let log = note.signatures.into_iter().take(1);
        let note = Note { text: note.text, signatures: log.chain([signature.clone()]).collect() }.to_bytes();
        files::replace(&self.seen_file(&head.origin), &note, Access::Public).map_err(|e| failed(&e))?;
        Ok(Done { cosigned: Cosigned { checkpoint: head, time_s, signature }, before, note })
    }

    /// Keeps the head, its proof and the memory of that moment: the memory goes on with the next head that is cosigned.
    fn refuse(&self, request: &ConsistencyProof, seen: Option<&[u8]>, why: &Why, log: &str) -> Failure {
        let kept = self.keep_all(&request.checkpoint, seen, request);
        let message = format!("NOT COSIGNED: log '{log}': {} ({})", why.message(), said(&kept));
        let origin = Checkpoint::parse_unverified(&request.checkpoint).map(|head| head.origin).unwrap_or_default();
        Failure::new(why.code(), message).hint(why.hint(kept.as_deref().ok(), &self.seen_file(&origin)))
    }

    /// Keeps a head that was not accepted, what it was held against, and the proof that was between them; the head's file.
    fn keep_all(&self, checkpoint: &[u8], seen: Option<&[u8]>, proof: &ConsistencyProof) -> std::result::Result<PathBuf, FileError> {
        let name = Digest::of(checkpoint).to_string();
        if let Some(seen) = seen {
            self.keep(&name, ".seen", seen)?;
        }
        self.keep(&name, ".proof", &proof.to_bytes())?;
        self.keep(&name, "", checkpoint)
    }

    /// Writes a file of a refusal. One of that name with other content stays, be it an earlier refusal's or half of one: the
    /// next name is taken.
    fn keep(&self, name: &str, suffix: &str, bytes: &[u8]) -> std::result::Result<PathBuf, FileError> {
        let path = |n: usize| self.dir.join(REFUSED).join(if n == 1 { format!("{name}{suffix}") } else { format!("{name}.{n}{suffix}") });
        for n in 1..=KEPT_MAX {
            match files::create(&path(n), bytes, Access::Public) {
                Ok(()) => return Ok(path(n)),
                Err(FileError::Exists { path }) if files::read(&path).is_ok_and(|there| there == bytes) => return Ok(path),
                Err(FileError::Exists { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Err(FileError::Exists { path: path(KEPT_MAX) })
    }
}

/// Where evidence was kept, in words.
fn said(kept: &std::result::Result<PathBuf, FileError>) -> String {
    match kept {
        Ok(path) => format!("kept as {}, with what stands beside it", path.display()),
        Err(e) => format!("not everything could be kept: {e}"),
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
