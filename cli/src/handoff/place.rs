//! Where a bag grows: `DIR.partial` until it is whole, `DIR` after that, and beside them the journal of what has arrived.
//!
//! | file | what |
//! |---|---|
//! | `DIR.partial/` | the bag so far; `incoming` in it is the object that is arriving |
//! | `DIR.journal` | first line: what is exported; then a line per object that is here whole, with its digests |
//! | `DIR` | the bag, from the moment on when it is whole |
//!
//! A line of the journal is written after its object has its name and is on the disk, so what the journal says is there.
//! A last line that was cut is passed over.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use exhibit_certs::files;
use exhibit_evidence::Digest;
use serde::{Deserialize, Serialize};

use crate::exit::{Code, Failure, Result};

/// What is exported: the same command goes on, another one must not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct What {
    /// `exhibit-export/1`.
    pub format: String,
    /// The deployment.
    pub deployment: String,
    /// The case.
    pub case: String,
    /// The collections that were asked for, sorted; all when empty.
    pub collections: Vec<String>,
}

/// An object of the case that is here whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// Bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Digest,
    /// Its SHA-512, 128 hexadecimal characters.
    pub sha512: String,
}

/// The place.
#[derive(Debug)]
pub struct Place {
    out: PathBuf,
    partial: PathBuf,
    journal_path: PathBuf,
    journal: File,
    /// Objects by their names relative to the case's folder.
    pub arrived: BTreeMap<String, Arrived>,
    /// It was said how this goes on when it is interrupted.
    told: bool,
}

fn beside(out: &Path, ending: &str) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    out.with_file_name(name)
}

/// How an export that stopped goes on, or is given up; `None` when nothing of it is there.
pub fn unfinished(out: &Path) -> Option<String> {
    let (partial, journal) = (beside(out, ".partial"), beside(out, ".journal"));
    fs::symlink_metadata(&partial).is_ok().then(|| {
        format!(
            "run the same command again: it goes on from what arrived in {}; to give it up, remove that folder and {}",
            partial.display(),
            journal.display()
        )
    })
}

/// The folder in which the bag gets its name.
fn parent(out: &Path) -> &Path {
    out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A failure to write here.
pub fn cannot(what: &str, path: &Path, e: &std::io::Error) -> Failure {
    let code = if e.kind() == std::io::ErrorKind::PermissionDenied { Code::NotPermitted } else { Code::CannotCreate };
    Failure::new(code, format!("cannot {what} {}: {e}", path.display()))
}

impl Place {
    /// Begins, or goes on where an earlier run stopped.
    pub fn open(out: &Path, what: &What) -> Result<Self> {
        let (partial, journal_path) = (beside(out, ".partial"), beside(out, ".journal"));
        if fs::symlink_metadata(out).is_ok() {
            return Err(Failure::new(Code::CannotCreate, format!("{} is there already", out.display())).hint("give a new --out folder"));
        }
        let parent = parent(out);
        if fs::metadata(parent).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            let message = format!("--out: the folder {} does not exist: the bag is made in it", parent.display());
            return Err(Failure::new(Code::CannotCreate, message).hint("make it first, or give another --out"));
        }
        let journal = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(&journal_path)
            .map_err(|e| cannot("open the journal", &journal_path, &e))?;
        rustix::fs::flock(&journal, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::new(Code::CannotCreate, format!("another export to {} is running", out.display()))
                .hint("wait for it, or give another --out")
        })?;
        let mut place = Self { out: out.to_owned(), partial, journal_path, journal, arrived: BTreeMap::new(), told: false };
        place.read_journal(what)?;
        files::create_folder(&place.partial).map_err(|e| Failure::new(Code::CannotCreate, e.to_string()))?;
        Ok(place)
    }

    fn read_journal(&mut self, what: &What) -> Result<()> {
        let bad = |e: &std::io::Error| cannot("read the journal", &self.journal_path, e);
        let mut reader = BufReader::new(self.journal.try_clone().map_err(|e| bad(&e))?);
        let (mut line, mut whole) = (String::new(), 0_u64);
        while reader.read_line(&mut line).map_err(|e| bad(&e))? > 0 && line.ends_with('\n') {
            if whole == 0 {
                self.check_what(what, &line)?;
            } else if let Some((name, arrived)) = parse(line.trim_end()) {
                self.arrived.insert(name, arrived);
            }
            whole += line.len() as u64;
            line.clear();
        }
        self.journal.set_len(whole).map_err(|e| bad(&e))?;
        if whole == 0 {
            let first = serde_json::to_string(what).map_err(|e| Failure::new(Code::Failure, e.to_string()))?;
            self.write_journal(&first)?;
        }
        let missing = |(name, arrived): &(&String, &Arrived)| fs::metadata(self.object(name)).map_or(true, |m| m.len() != arrived.size);
        // What is not as the journal says, and everything after it, is fetched again.
        if let Some(first) = self.arrived.iter().find(missing).map(|(name, _)| name.clone()) {
            self.arrived.split_off(&first);
        }
        Ok(())
    }

    fn check_what(&self, what: &What, line: &str) -> Result<()> {
        if serde_json::from_str::<What>(line).is_ok_and(|begun| begun == *what) {
            return Ok(());
        }
        let message = format!("{} belongs to another export that was begun here", self.journal_path.display());
        Err(Failure::new(Code::CannotCreate, message).hint(format!(
            "give another --out, or remove {} and {}",
            self.journal_path.display(),
            self.partial.display()
        )))
    }

    /// Forgets everything that has arrived: the next fetch begins at the first object. Order of writes: (1) the journal, (2) the
    /// files. Died between: what lies there unnamed is written over, and what is not is no part of the bag's manifests.
    pub fn restart(&mut self, what: &What) -> Result<()> {
        self.journal.set_len(0).map_err(|e| cannot("clear the journal", &self.journal_path, &e))?;
        self.arrived.clear();
        let first = serde_json::to_string(what).map_err(|e| Failure::new(Code::Failure, e.to_string()))?;
        self.write_journal(&first)?;
        self.remove("data")
    }

    /// How this goes on when it is interrupted; once.
    pub fn tell(&mut self) -> Option<String> {
        if std::mem::replace(&mut self.told, true) { None } else { unfinished(&self.out) }
    }

    /// Removes what was made for a bag of which nothing has arrived. What somebody else put there stays, and with it the journal.
    pub fn take_back(&self) {
        if !self.arrived.is_empty() {
            return;
        }
        let _ = fs::remove_file(self.partial.join("incoming"));
        if fs::remove_dir(&self.partial).is_ok() {
            let _ = fs::remove_file(&self.journal_path);
        }
    }

    fn write_journal(&mut self, line: &str) -> Result<()> {
        writeln!(self.journal, "{line}").map_err(|e| cannot("write", &self.journal_path, &e))
    }

    /// The folder in which the bag grows.
    pub fn bag(&self) -> &Path {
        &self.partial
    }

    /// The case's folder in it.
    pub fn case(&self) -> PathBuf {
        self.partial.join("data")
    }

    /// Where an object of the case lies.
    pub fn object(&self, name: &str) -> PathBuf {
        self.case().join(name)
    }

    /// The last object of a collection that is here: what comes after it is still to be fetched. The log is always
    /// fetched again, with a newer head; it comes last and is small.
    pub fn after(&self) -> String {
        self.arrived.keys().rfind(|name| name.starts_with("collections/")).cloned().unwrap_or_default()
    }

    /// Begins an object.
    pub fn incoming(&self) -> Result<File> {
        let path = self.partial.join("incoming");
        File::create(&path).map_err(|e| cannot("write", &path, &e))
    }

    /// Order of writes: (1) the object's bytes are on the disk, (2) it gets its name, (3) the journal says so. Died between:
    /// it is fetched again.
    pub fn keep(&mut self, file: &File, name: &str, arrived: Arrived) -> Result<()> {
        let to = self.object(name);
        file.sync_data().map_err(|e| cannot("write", &to, &e))?;
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(|e| cannot("make the folder", folder, &e))?;
        }
        fs::rename(self.partial.join("incoming"), &to).map_err(|e| cannot("write", &to, &e))?;
        self.write_journal(&format!("{} {} {} {name}", arrived.sha256, arrived.sha512, arrived.size))?;
        self.arrived.insert(name.to_owned(), arrived);
        Ok(())
    }

    /// Writes a file of the bag that is made here; its folder is made too.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.partial.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| cannot("make the folder", folder, &e))?;
        }
        fs::write(&path, bytes).map_err(|e| cannot("write", &path, &e))
    }

    /// Removes a folder of the bag that was made here; one that is not there is no error.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.partial.join(name);
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(cannot("remove", &path, &e)),
            _ => Ok(()),
        }
    }

    /// Removes what an earlier run may have made of the case: it is made anew.
    pub fn clear_derived(&self) -> Result<()> {
        let failed = |e: &std::io::Error| cannot("clear", &self.partial, e);
        for entry in fs::read_dir(&self.partial).map_err(|e| failed(&e))? {
            let entry = entry.map_err(|e| failed(&e))?;
            let path = entry.path();
            let is_folder = entry.file_type().map_err(|e| failed(&e))?.is_dir();
            if is_folder && entry.file_name() != "data" {
                fs::remove_dir_all(&path).map_err(|e| cannot("remove", &path, &e))?;
            } else if !is_folder {
                fs::remove_file(&path).map_err(|e| cannot("remove", &path, &e))?;
            }
        }
        Ok(())
    }

    /// Order of writes: (1) everything is on the disk, (2) the bag gets its name, unless something has it, (3) the journal
    /// goes. Died between 1 and 2: the next run makes the documents anew and comes here again. Died before 3: the bag is
    /// whole, and the journal may be removed by hand.
    pub fn finish(self) -> Result<()> {
        self.sync()?;
        let done =
            rustix::fs::renameat_with(rustix::fs::CWD, &self.partial, rustix::fs::CWD, &self.out, rustix::fs::RenameFlags::NOREPLACE);
        done.map_err(|e| cannot("name the bag", &self.out, &e.into()))?;
        self.sync_parent()?;
        files::remove(&self.journal_path).map_err(|e| Failure::new(Code::CannotCreate, e.to_string()))
    }

    /// Ends with one file instead of a folder: the folder and the journal go.
    pub fn finish_as_file(self) -> Result<()> {
        self.sync_parent()?;
        fs::remove_dir_all(&self.partial).map_err(|e| cannot("remove", &self.partial, &e))?;
        files::remove(&self.journal_path).map_err(|e| Failure::new(Code::CannotCreate, e.to_string()))
    }

    /// Makes everything so far survive a power cut.
    pub fn sync(&self) -> Result<()> {
        let folder = File::open(&self.partial).map_err(|e| cannot("open", &self.partial, &e))?;
        rustix::fs::syncfs(&folder).map_err(|e| cannot("write", &self.partial, &e.into()))
    }

    fn sync_parent(&self) -> Result<()> {
        let parent = parent(&self.out);
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(|e| cannot("write", parent, &e))
    }

    /// `DIR` with another ending.
    pub fn out_with(&self, ending: &str) -> PathBuf {
        beside(&self.out, ending)
    }
}

fn parse(line: &str) -> Option<(String, Arrived)> {
    let mut fields = line.splitn(4, ' ');
    let sha256 = fields.next()?.parse().ok()?;
    let sha512 = fields.next().filter(|hex| hex.len() == 128 && hex.bytes().all(|b| b.is_ascii_hexdigit()))?.to_owned();
    let size = fields.next()?.parse().ok()?;
    let name = fields.next()?.to_owned();
    exhibit_evidence::layout::CaseObject::parse(&name)?;
    Some((name, Arrived { size, sha256, sha512 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(case: &str) -> What {
        What { format: "exhibit-export/1".to_owned(), deployment: "d".to_owned(), case: case.to_owned(), collections: Vec::new() }
    }

    fn put(place: &mut Place, name: &str, bytes: &[u8]) {
        let mut sums = exhibit_evidence::bag::Sums::new();
        sums.update(bytes);
        let (sha256, sha512) = sums.finish();
        let mut file = place.incoming().expect("incoming");
        file.write_all(bytes).expect("written");
        place.keep(&file, name, Arrived { size: bytes.len() as u64, sha256, sha512 }).expect("kept");
    }

    #[test]
    fn an_export_goes_on_from_what_is_there() {
        let dir = tempfile::tempdir().expect("folder");
        let out = dir.path().join("bag");
        let id = exhibit_evidence::CollectionId::from_digest(&Digest::of(b"x"));
        let (a, b) = (format!("collections/{id}/s1/00000000.tar.zst"), format!("collections/{id}/s1/00000001.tar.zst"));
        let mut place = Place::open(&out, &what("c")).expect("begins");
        assert_eq!(Place::open(&out, &what("c")).expect_err("locked").code, Code::CannotCreate);
        put(&mut place, &a, b"one");
        put(&mut place, &b, b"two");
        put(&mut place, "log/seq/0000000000.dsse.json", b"{}");
        let journal = place.journal_path.clone();
        drop(place);
        // Cut in the middle of a line, as a crash leaves it.
        let text = fs::read(&journal).expect("journal");
        fs::write(&journal, &text[..text.len() - 5]).expect("written");
        let place = Place::open(&out, &what("c")).expect("goes on");
        assert_eq!((place.after(), place.arrived.len()), (b.clone(), 2));
        fs::write(place.object(&b), b"tw").expect("written");
        drop(place);
        assert_eq!(Place::open(&out, &what("c")).expect("goes on").after(), a, "what is not whole is fetched again");
        assert_eq!(Place::open(&out, &what("d")).expect_err("another case").code, Code::CannotCreate);
        let place = Place::open(&out, &what("c")).expect("goes on");
        place.write("documents/x", b"y").expect("written");
        place.clear_derived().expect("cleared");
        place.write("bagit.txt", b"y").expect("written");
        place.finish().expect("finished");
        assert!(out.join("bagit.txt").is_file() && !out.join("documents").exists() && !journal.exists());
        assert_eq!(Place::open(&out, &what("c")).expect_err("there").code, Code::CannotCreate);
    }

    #[test]
    fn a_record_that_did_not_arrive_is_missed_in_the_store_and_not_on_this_disk() {
        let dir = tempfile::tempdir().expect("folder");
        let mut place = Place::open(&dir.path().join("bag"), &what("c")).expect("begins");
        let head = exhibit_evidence::log::Checkpoint { origin: "o".to_owned(), size: 3, root: Digest::of(b"root") };
        for n in [0, 2] {
            put(&mut place, &format!("log/seq/{n:010}.dsse.json"), b"{}");
        }
        let failure = super::super::fetch::all_records(&place, &head).expect_err("one is missing");
        assert_eq!(failure.code, Code::Damaged);
        assert!(failure.message.contains("record 1 of 3, 'log/seq/0000000001.dsse.json': it is missing in the store"), "{failure:?}");
        put(&mut place, "log/seq/0000000001.dsse.json", b"{}");
        assert!(super::super::fetch::all_records(&place, &head).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_line_of_a_journal_is_handled(line: String) {
            let _ = parse(&line);
        }
    }
}
