//! An image file as a source of evidence. What it lies on may hang as any disk may, so whatever is asked of it is asked on a thread
//! that can be left behind, with the patience that devices have.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::EvidencePath;

use super::patience::{Counted, OPEN, READ, stuck, within};
use crate::capture::patience::{ENDED, Kept, NotDone};
use crate::capture::walk::inode::Look;
use crate::capture::walk::source::{FilePlace, FileSource, Growth};
use crate::capture::{Extent, Place, Source, Status};

/// The source. Its memory: what one read asks for, and the stack of its thread.
pub struct ImageSource<S> {
    asked: Kept<Held<S>>,
    /// How long any one thing may take.
    limit: Duration,
    size: u64,
    place: Option<FilePlace>,
    /// What is read into, lent to the thread.
    buffer: Vec<u8>,
    /// Why nothing more can be read.
    gone: Option<String>,
    /// It ended before the size that it had when it was opened.
    ended_at: Option<u64>,
    /// What may write to it is known, and said.
    in_use: bool,
    facts: BTreeMap<String, String>,
}

/// What only the thread touches: the file, and its place among the threads of disks.
struct Held<S> {
    source: S,
    _counted: Counted,
}

impl ImageSource<FileSource> {
    /// Opens what was looked at, for reading only.
    ///
    /// # Errors
    /// What the kernel said, or that it did not come back ([`is_stuck`](super::patience::is_stuck)).
    pub fn open(look: Arc<Look>, path: EvidencePath) -> io::Result<Self> {
        let file = within(OPEN, "opening it", move || {
            let name = CString::new(path.as_bytes()).unwrap_or_default();
            let (file, _, before) = look.open_file(rustix::fs::CWD, &name)?;
            Ok(FileSource::new(file, before, Growth::IsChange).at(path.as_bytes()))
        })?;
        Self::of(file)
    }

    /// Opens the image again that an earlier process read.
    ///
    /// # Errors
    /// Why the rest of it cannot be read, for the record.
    pub fn open_again(place: FilePlace) -> Result<Self, String> {
        let file = within(OPEN, "opening it again", move || place.open().map_err(io::Error::other));
        file.and_then(Self::of).map_err(|e| e.to_string())
    }

    fn of(file: FileSource) -> io::Result<Self> {
        let (size, place) = (file.size(), file.file_place());
        let source = Self::new(file, READ)?;
        Ok(Self { size, place, ..source })
    }

    /// The size when it was opened.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Says whether its `consistency` names already what may write to it; else that it changed is said there.
    pub const fn in_use(&mut self, in_use: bool) {
        self.in_use = in_use;
    }

    /// Where the data is, if the file has holes.
    pub fn extents(&mut self) -> Option<Vec<Extent>> {
        self.ask("looking for its holes", |file| file.extents()).ok().flatten()
    }
}

impl<S: Source + Send + 'static> ImageSource<S> {
    /// Gives a file to a thread of its own. Whatever is asked of it may take so long.
    ///
    /// # Errors
    /// When no thread is to be had, or too many were left behind.
    pub fn new(source: S, limit: Duration) -> io::Result<Self> {
        let held = Held { source, _counted: Counted::new()? };
        let asked = Kept::new(held, limit).map_err(|_| io::Error::other("the host gives no thread to read it on"))?;
        Ok(Self {
            asked,
            limit,
            size: 0,
            place: None,
            buffer: Vec::new(),
            gone: None,
            ended_at: None,
            in_use: false,
            facts: BTreeMap::new(),
        })
    }

    /// Asks the file something, unless it did not answer before.
    fn ask<R: Send + 'static>(&mut self, what: &str, question: impl FnOnce(&mut S) -> R + Send + 'static) -> io::Result<R> {
        if let Some(why) = &self.gone {
            return Err(io::Error::other(why.clone()));
        }
        let answer = self.asked.ask(move |held| question(&mut held.source));
        answer.map_err(|why| {
            let (who, error) = match why {
                NotDone::Late => ("what it lies on hangs: ", stuck(what, self.limit)),
                NotDone::Ended | NotDone::NoThread => ("", io::Error::other(format!("{what}: {ENDED}"))),
            };
            self.gone = Some(format!("{who}{error}, and nothing more was read of it"));
            error
        })
    }
}

impl<S: Source + Send + 'static> Source for ImageSource<S> {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut own = std::mem::take(&mut self.buffer);
        own.resize(buf.len(), 0);
        // A buffer that does not come back is gone: the kernel may still write to it.
        let (own, result) = self.ask(&format!("a read at byte {offset}"), move |source| {
            let result = source.read_at(offset, &mut own);
            (own, result)
        })?;
        let count = result.as_ref().map_or(0, |got| (*got).min(buf.len()));
        if let (Some(to), Some(from)) = (buf.get_mut(..count), own.get(..count)) {
            to.copy_from_slice(from);
        }
        self.buffer = own;
        if count == 0 && result.is_ok() && !buf.is_empty() {
            self.ended_at = Some(offset);
        }
        result
    }

    fn gone(&self) -> Option<&str> {
        self.gone.as_deref()
    }

    fn after(&mut self) -> Option<(Status, String)> {
        let Ok((verdict, facts)) = self.ask("asking whether it changed", |source| (source.after(), source.facts_after())) else {
            return self.gone.clone().map(|why| (Status::ChangedDuringRead, why));
        };
        self.facts = facts;
        // Nothing was known to write to it, and something did.
        if !self.in_use
            && let Some((_, why)) = &verdict
        {
            self.facts.insert("consistency".to_owned(), format!("inconsistent: {why}"));
        }
        // Of an image that was cut the rest is missing: as of a device, that is a part.
        let Some(at) = self.ended_at else { return verdict };
        let why = verdict.map_or_else(String::new, |(_, why)| format!("; {why}"));
        Some((Status::Partial, format!("it was cut while it was read and has no bytes from {at} on{why}")))
    }

    fn facts_after(&mut self) -> BTreeMap<String, String> {
        std::mem::take(&mut self.facts)
    }

    fn place(&self) -> Option<Place> {
        self.place.clone().map(|place| Place::Image(Box::new(place)))
    }
}
