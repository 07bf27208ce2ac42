//! Encryption of a finished bag: one tar, encrypted with age (age-encryption.org/v1) to recipients, in flat memory.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Error, Read as _, Write};
use std::path::{Path, PathBuf};

use exhibit_evidence::age::{AgeError, Encryptor, Identity, RECIPIENTS_MAX, Recipient, random_len};
use exhibit_evidence::stream::tar::{END_MARKER, Head, HeadKind, encode, padding};

use super::certificate::{Holder, holders};
use super::folder::walk;
use super::place::{Place, cannot};
use crate::exit::{Code, Failure, Result};

/// Whom a bag is encrypted to.
pub struct Recipients {
    keys: Vec<Recipient>,
    holders: Vec<Holder>,
}

impl Recipients {
    /// Reads recipients as age writes them, and certificates.
    pub fn read(texts: &[String], certificates: &[PathBuf]) -> Result<Self> {
        let all = Self { keys: keys(texts)?, holders: holders(certificates)? };
        // Those who have a certificate share one key.
        let count = all.keys.len() + usize::from(!all.holders.is_empty());
        let once: BTreeSet<&Recipient> = all.keys.iter().collect();
        if count > RECIPIENTS_MAX || once.len() < all.keys.len() {
            let problem =
                format!("--recipient: {count} recipients, {} different: expected at most {RECIPIENTS_MAX}, each once", once.len());
            return Err(Failure::new(Code::Input, problem).hint("the certificates count as one"));
        }
        Ok(all)
    }

    /// True when the bag stays as it is.
    pub const fn are_none(&self) -> bool {
        self.keys.is_empty() && self.holders.is_empty()
    }
}

fn keys(texts: &[String]) -> Result<Vec<Recipient>> {
    let one = |text: &String| text.parse().map_err(|e: AgeError| Failure::new(Code::Input, format!("--recipient: {e}")));
    texts.iter().map(one).collect()
}

/// Encrypts the bag into one file beside it. Whoever has a certificate gets a key made for this bag alone in a file of its own
/// (CMS EnvelopedData): CMS itself has no way to open a large content piece by piece with common programs. Gives these files.
///
/// Order of writes: (1) the whole file under a name that says that it is not whole, (2) the files with the key, (3) its name,
/// unless something has it, (4) the plain bag and the journal go; each fsynced. Died before 3: the next run makes all of it
/// anew, with another key. Died in 4: what is left of the plain bag is named `.partial`, and the next run says that the file is
/// there.
pub fn seal(place: Place, name: &str, to: &Recipients) -> Result<Vec<String>> {
    let (out, unfinished) = (place.out_with(".tar.age"), place.out_with(".tar.age.partial"));
    if std::fs::symlink_metadata(&out).is_ok() {
        return Err(Failure::new(Code::CannotCreate, format!("{} is there already", out.display())).hint("give another --out"));
    }
    let failed = |e: &std::io::Error| cannot("write", &unfinished, e);
    let file = File::create(&unfinished).map_err(|e| failed(&e))?;
    let cannot_encrypt = |e: AgeError| Failure::new(Code::Failure, format!("cannot encrypt: {e}"));
    let secret = crate::clock::random_32().map_err(|e| Failure::new(Code::Failure, format!("no random numbers: {e}")))?;
    let once = Identity::from_secret(secret.into()).map_err(cannot_encrypt)?;
    let mut keys = to.keys.clone();
    if !to.holders.is_empty() {
        keys.push(*once.recipient());
    }
    let mut writer = Encrypting::begin(keys, BufWriter::with_capacity(1 << 20, file)).map_err(cannot_encrypt)?;
    tar(place.bag(), name, &mut writer).map_err(|e| failed(&e))?;
    writer.finish().and_then(|file| file.sync_all()).map_err(|e| failed(&e))?;
    let mut key_files = Vec::new();
    for holder in &to.holders {
        let path = place.out_with(&format!(".tar.age.{}.p7m", holder.fingerprint()));
        let text = once.reveal().map_err(cannot_encrypt)?;
        let key = holder.enclose(format!("{}\n", text.as_str()).as_bytes())?;
        let written = File::create(&path).and_then(|mut file| file.write_all(&key).and_then(|()| file.sync_all()));
        written.map_err(|e| cannot("write", &path, &e))?;
        key_files.push(path.display().to_string());
    }
    let named = rustix::fs::renameat_with(rustix::fs::CWD, &unfinished, rustix::fs::CWD, &out, rustix::fs::RenameFlags::NOREPLACE);
    named.map_err(|e| cannot("name", &out, &e.into()))?;
    place.finish_as_file()?;
    Ok(key_files)
}

/// Encrypts what is written to it on its way to a file.
struct Encrypting {
    encryptor: Encryptor,
    file: BufWriter<File>,
}

impl Encrypting {
    fn begin(keys: Vec<Recipient>, file: BufWriter<File>) -> std::result::Result<Self, AgeError> {
        let mut random = vec![0; random_len(keys.len())];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| AgeError::Encrypt("no random numbers"))?;
        let encryptor = Encryptor::new(&keys.try_into()?, &random, Vec::new())?;
        Ok(Self { encryptor, file })
    }

    fn finish(mut self) -> std::io::Result<File> {
        let rest = self.encryptor.finish().map_err(Error::other)?;
        self.file.write_all(&rest)?;
        self.file.into_inner().map_err(std::io::IntoInnerError::into_error)
    }
}

impl Write for Encrypting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.encryptor.push(bytes).map_err(Error::other)?;
        self.encryptor.drain(&mut self.file)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Writes a folder as tar, its members in the order of their names below `name`.
fn tar(root: &Path, name: &str, out: &mut impl Write) -> std::io::Result<()> {
    let mut paths = Vec::new();
    walk(root, &mut |path, meta| {
        paths.push((path.to_owned(), meta.is_dir()));
        Ok(())
    })?;
    paths.sort();
    let attributes = std::collections::BTreeMap::new();
    let mut chunk = vec![0; 1 << 18];
    for (path, is_folder) in paths {
        let below = path.strip_prefix(root).map_err(std::io::Error::other)?;
        let member = Path::new(name).join(below);
        let (mut file, size) =
            if is_folder { (None, 0) } else { File::open(&path).and_then(|f| f.metadata().map(|m| (Some(f), m.len())))? };
        let kind = if is_folder { HeadKind::Directory } else { HeadKind::File { size } };
        let mode = if is_folder { 0o700 } else { 0o600 };
        let name = member.as_os_str().as_encoded_bytes();
        let head = Head { name, kind, mode, uid: 0, gid: 0, mtime: None, atime: None, ctime: None, xattrs: &attributes };
        let mut bytes = Vec::new();
        encode(&head, &mut bytes).map_err(|e| std::io::Error::other(e.to_string()))?;
        out.write_all(&bytes)?;
        let mut left = size;
        while let Some(file) = file.as_mut().filter(|_| left > 0) {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            let n = file.read(&mut chunk[..most])?;
            if n == 0 {
                return Err(std::io::Error::other("a file became shorter"));
            }
            out.write_all(&chunk[..n])?;
            left -= n as u64;
        }
        out.write_all(&vec![0; padding(size)])?;
    }
    out.write_all(&END_MARKER)
}
