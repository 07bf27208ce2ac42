//! Secrets of recipients. Nothing of a file is shown, and a secret that was given in place of a file is not either.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use exhibit_evidence::age::{Identity, holds_secret};
use exhibit_evidence::text::escape_bounded;

/// Reads identity files, or pipes; the error is a whole message.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Identity>, String> {
    let read = paths.iter().map(|path| one(path)).collect::<Result<Vec<_>, _>>()?;
    Ok(read.into_iter().flatten().collect())
}

fn one(path: &Path) -> Result<Vec<Identity>, String> {
    let given = path.to_string_lossy();
    let fail = |why: String| format!("exhibit-verify: identity '{}': {why}", escape_bounded(&given, 300));
    let file = match File::open(path) {
        Err(_) if holds_secret(&given) => {
            return Err("exhibit-verify: --identity: this is a secret itself, not the name of a file\nGive the name of the file that it stands in. Others may have seen it here: make a new identity.".to_owned());
        }
        opened => opened.map_err(|e| fail(e.to_string()))?,
    };
    let mode = mode_of(&file).map_err(|e| fail(e.to_string()))?;
    Identity::read_from(&mut &file, mode).map_err(|e| fail(e.to_string()))
}

/// Who may read a file or a pipe, where the system says so.
#[cfg(unix)]
fn mode_of(file: &File) -> io::Result<Option<u32>> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    Ok((kind.is_file() || kind.is_fifo()).then(|| metadata.mode()))
}

#[cfg(not(unix))]
fn mode_of(_: &File) -> io::Result<Option<u32>> {
    Ok(None)
}
