//! Files of keys and certificates. Private ones have mode 0600 in folders of mode 0700; nothing is overwritten unless
//! the function says so; everything is on disk (fsync of file and folder) before a function returns.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Largest file that is read here, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Mode 0600: the owner.
    Private,
    /// Mode 0644: everybody.
    Public,
}

impl Access {
    const fn mode(self) -> u32 {
        match self {
            Self::Private => 0o600,
            Self::Public => 0o644,
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// Verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Others than the owner can read a private key.
    #[error("{path} holds a private key and has mode {mode:04o}: others can reach it; run: chmod {fix:o} {path}", fix = *wanted)]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode it should have.
        wanted: u32,
    },
    /// It exists already.
    #[error("{path} exists already and is never overwritten; choose another folder, or move it away")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Its content is not what it should be.
    #[error("{path}: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
}

impl FileError {
    pub(crate) fn content(path: &Path, why: impl ToString) -> Self {
        Self::Content { path: path.to_owned(), why: why.to_string() }
    }

    /// True when the file or folder is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { action, path, source }
}

/// Checks that nobody but its owner, who is root or this process's user, can exchange files in a folder. Others may look
/// into it: its files protect themselves.
///
/// # Errors
/// [`FileError`]
pub fn check_folder(path: &Path) -> Result<(), FileError> {
    let metadata = fs::symlink_metadata(path).map_err(io("look at", path))?;
    if !metadata.is_dir() {
        return Err(FileError::content(path, "expected a folder, found something else"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(FileError::TooOpen { path: path.to_owned(), mode: metadata.mode() & 0o7777, wanted: 0o700 });
    }
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != own {
        let why = format!("belongs to user {}: it must belong to root or to the user of this process ({own})", metadata.uid());
        return Err(FileError::content(path, why));
    }
    Ok(())
}

/// Makes a folder of mode 0700. One that is there already must be closed to others.
///
/// # Errors
/// [`FileError`]
pub fn create_folder(path: &Path) -> Result<(), FileError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            // The umask may have taken bits away that the owner needs.
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io("set the mode of", path))?;
            sync_folder(path.parent().unwrap_or(path))
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => check_folder(path),
        Err(e) => Err(io("create", path)(e)),
    }
}

/// Creates a file; one that exists is left alone and reported.
///
/// # Errors
/// [`FileError`]
pub fn create(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    write_new(path, bytes, access)?;
    sync_folder(path.parent().unwrap_or(path))
}

/// Writes a file in one step: readers and a crash see the old content or the new one.
/// Order: new file beside it, fsync, rename, fsync of the folder. A leftover of a crash is removed first.
///
/// # Errors
/// [`FileError`]
pub fn replace(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let staged = path.with_file_name(name);
    match fs::remove_file(&staged) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io("remove", &staged)(e)),
    }
    write_new(&staged, bytes, access)?;
    fs::rename(&staged, path).map_err(io("replace", path))?;
    sync_folder(path.parent().unwrap_or(path))
}

/// Removes a file; one that is not there is no error.
///
/// # Errors
/// [`FileError`]
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io("remove", path)(e)),
        _ => sync_folder(path.parent().unwrap_or(path)),
    }
}

/// Reads a file that holds no secret.
///
/// # Errors
/// [`FileError`]
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(io("open", path))?;
    read_bounded(&file, path).map(|bytes| bytes.to_vec())
}

/// Reads a file that holds a private key, and refuses it when anybody but its owner could have.
///
/// # Errors
/// [`FileError`]
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = File::open(path).map_err(io("open", path))?;
    let mode = file.metadata().map_err(io("look at", path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::TooOpen { path: path.to_owned(), mode, wanted: 0o600 });
    }
    read_bounded(&file, path)
}

fn read_bounded(file: &File, path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let metadata = file.metadata().map_err(io("look at", path))?;
    if !metadata.is_file() {
        return Err(FileError::content(path, "expected a file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(FileError::content(path, format!("{} bytes, at most {FILE_BYTES_MAX} are read", metadata.len())));
    }
    // Exact capacity, so that growing leaves no copy of a secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(io("read", path))?;
    Ok(bytes)
}

fn write_new(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(access.mode()).open(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(FileError::Exists { path: path.to_owned() }),
        other => other.map_err(io("create", path))?,
    };
    file.set_permissions(fs::Permissions::from_mode(access.mode())).map_err(io("set the mode of", path))?;
    file.write_all(bytes).map_err(io("write", path))?;
    file.sync_all().map_err(io("sync", path))
}

fn sync_folder(path: &Path) -> Result<(), FileError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path).and_then(|f| f.sync_all()).map_err(io("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_files_are_private_and_stay_what_they_are() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("a.key");
        create(&path, b"one", Access::Private).expect("new");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o600);
        assert!(matches!(create(&path, b"two", Access::Private), Err(FileError::Exists { .. })));
        assert_eq!(read_private(&path).expect("mode 0600").as_slice(), b"one");
        replace(&path, b"two", Access::Private).expect("replace");
        assert_eq!(read_private(&path).expect("mode 0600").as_slice(), b"two");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1, "no staging file stays");
    }

    #[test]
    fn an_open_key_is_refused_with_the_command_that_closes_it() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("a.key");
        create(&path, b"one", Access::Private).expect("new");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        let error = read_private(&path).expect_err("group can read").to_string();
        assert_eq!(error, format!("{0} holds a private key and has mode 0640: others can reach it; run: chmod 600 {0}", path.display()));
    }

    #[test]
    fn a_leftover_of_a_crash_does_not_stop_the_next_write() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("tls.pem");
        fs::write(dir.path().join(".tls.pem.new"), b"half").expect("leftover");
        replace(&path, b"whole", Access::Private).expect("replace");
        assert_eq!(read_private(&path).expect("there").as_slice(), b"whole");
    }

    #[test]
    fn folders_that_others_can_write_are_refused() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("d");
        create_folder(&path).expect("new");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o700);
        create_folder(&path).expect("again");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("chmod");
        assert!(create_folder(&path).expect_err("open").to_string().contains("chmod 700"));
    }
}
