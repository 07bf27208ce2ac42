//! `/proc/kcore` as a source. The kernel makes its table of segments anew when somebody opens the file after memory was added or
//! removed, for all who have it open: where memory lies in the file then moves by whole pages (`kcore_update_ram`, `get_kcore_size`).
//! So the table is looked at after every reading; if it is another one, what was read may be of another address and is read again.
//! How many segments there are is not enough: memory that grows makes one of them longer, and what lies in it stays where it is.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::kcore::{HEAD_BYTES_MAX, Kcore, entry, vmcoreinfo};
use super::physical::Physical;
use super::ranges::Range;

/// The ELF header. How many program headers there are decides where memory begins in the file; the notes do not change while a
/// kernel runs.
const HEAD: usize = 64;
/// Tables up to this size (290 segments) are compared as a whole after each reading. Of longer ones the ELF header and the segment
/// that was read, which say where it lies as well; only what is new elsewhere waits for [`Physical::refresh`].
const WHOLE_BYTES_MAX: usize = 16 << 10;
/// Readings of one place, when the table changes each time.
const TRIES: usize = 4;

/// A file that is read by position.
pub trait ByPosition: Send {
    /// As `pread(2)`.
    ///
    /// # Errors
    /// What the kernel said.
    fn pread(&self, buf: &mut [u8], offset: u64) -> Result<usize, Errno>;
}

impl ByPosition for OwnedFd {
    fn pread(&self, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
        rustix::io::pread(self, buf, offset)
    }
}

/// The source.
pub struct Core<F> {
    file: F,
    open: fn() -> Result<F, Errno>,
    state: Mutex<State>,
    notes: Vec<u8>,
}

struct State {
    kcore: Kcore,
    /// The ELF header and the program headers.
    table: Vec<u8>,
    changes: u64,
}

impl<F: ByPosition + 'static> Core<F> {
    /// Opens it.
    ///
    /// # Errors
    /// What stands in the way, in words.
    pub fn open(open: fn() -> Result<F, Errno>) -> Result<Box<dyn Physical>, String> {
        Ok(Box::new(Self::new(open)?))
    }

    fn new(open: fn() -> Result<F, Errno>) -> Result<Self, String> {
        let file = open().map_err(|e| format!("opening: {e}"))?;
        let (kcore, table) = look(&file)?;
        if kcore.windows.is_empty() {
            return Err(format!("none of its {} segments has a physical address (Linux before 4.11?)", kcore.loads));
        }
        let notes = match kcore.notes {
            Some((offset, bytes)) => {
                let bytes = usize::try_from(bytes).unwrap_or(HEAD_BYTES_MAX).min(HEAD_BYTES_MAX);
                read_up_to(&file, offset, bytes).unwrap_or_default()
            }
            None => Vec::new(),
        };
        Ok(Self { file, open, state: Mutex::new(State { kcore, table, changes: 0 }), notes })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when the table is the one that is known, as far as a reading at this offset depends on it; else the new one is known
    /// from now on.
    fn is_same(&self, read: Option<u64>) -> io::Result<bool> {
        let parts = {
            let state = self.state();
            match read.filter(|_| state.table.len() > WHOLE_BYTES_MAX) {
                None => vec![(0, state.table.clone())],
                Some(offset) => {
                    let entry = entry(&state.table, offset).unwrap_or(0..state.table.len());
                    [0..HEAD, entry].map(|r| (r.start as u64, state.table.get(r).unwrap_or_default().to_vec())).to_vec()
                }
            }
        };
        let mut same = true;
        for (offset, known) in parts {
            same = same && read_up_to(&self.file, offset, known.len())? == known;
        }
        if same {
            return Ok(true);
        }
        let (kcore, table) = look(&self.file).map_err(|e| io::Error::other(format!("the table of /proc/kcore changed: {e}")))?;
        let mut state = self.state();
        (state.kcore, state.table, state.changes) = (kcore, table, state.changes.saturating_add(1));
        Ok(false)
    }
}

/// Reads the table: understood, and as it is.
fn look(file: &impl ByPosition) -> Result<(Kcore, Vec<u8>), String> {
    for _ in 0..TRIES {
        let mut bytes = read_up_to(file, 0, HEAD_BYTES_MAX).map_err(|e| format!("reading its head: {e}"))?;
        let kcore = Kcore::parse(&bytes)?;
        bytes.truncate(kcore.table_bytes);
        // Long tables are read in pieces; all must be of one table.
        let again = read_up_to(file, 0, bytes.len()).map_err(|e| format!("reading its head: {e}"))?;
        if again == bytes {
            return Ok((kcore, bytes));
        }
    }
    Err("its head changes with every reading".to_owned())
}

/// Reads until the bound or the end.
fn read_up_to(file: &impl ByPosition, offset: u64, bytes_max: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    while bytes.len() < bytes_max {
        let filled = bytes.len();
        bytes.resize(filled.saturating_add(64 << 10).min(bytes_max), 0);
        let got = match file.pread(bytes.get_mut(filled..).unwrap_or_default(), offset.saturating_add(filled as u64)) {
            Ok(n) => n,
            Err(Errno::INTR) => {
                bytes.truncate(filled);
                continue;
            }
            Err(e) if filled == 0 => return Err(e),
            // The head of kcore is followed by nothing that a plain read could give: what came is what there is.
            Err(_) => 0,
        };
        bytes.truncate(filled.saturating_add(got));
        if got == 0 {
            break;
        }
    }
    Ok(bytes)
}

impl<F: ByPosition + 'static> Physical for Core<F> {
    fn name(&self) -> &'static str {
        "/proc/kcore"
    }

    fn exposed(&self, ram: &[Range]) -> Vec<Range> {
        self.state().kcore.exposed(ram)
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        for _ in 0..TRIES {
            let Some((offset, follow)) = self.state().kcore.find(at) else {
                return Err(io::Error::other("/proc/kcore does not show it (any more)"));
            };
            let count = buf.len().min(usize::try_from(follow).unwrap_or(usize::MAX));
            let got = self.file.pread(buf.get_mut(..count).unwrap_or_default(), offset);
            if self.is_same(Some(offset))? {
                return Ok(got?);
            }
        }
        Err(io::Error::other("the table of /proc/kcore changes with every reading"))
    }

    fn notes(&self) -> Option<&[u8]> {
        vmcoreinfo(&self.notes).map(|_| self.notes.as_slice())
    }

    fn address_of(&self, at: u64) -> Option<u64> {
        self.state().kcore.address_of(at)
    }

    fn physical_of(&self, address: u64) -> Option<u64> {
        self.state().kcore.physical_of(address)
    }

    fn machine(&self) -> u16 {
        self.state().kcore.machine
    }

    fn refresh(&self) {
        // The table is made when it is opened. What cannot be had again is not lost: the old one is checked at every reading.
        drop((self.open)());
        let _ = self.is_same(None);
    }

    fn changes(&self) -> u64 {
        self.state().changes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::kcore::tests::core;
    use super::*;

    const LOAD: u32 = 1;
    /// Readings of memory before the table changes; 0 is never.
    static CHANGE_AFTER: AtomicU64 = AtomicU64::new(0);
    static READINGS: AtomicU64 = AtomicU64::new(0);

    /// Two MiB at zero; later less of it, and a third one behind a hole, and everything lies elsewhere in the file.
    struct Moving;

    fn byte(at: u64) -> u8 {
        (at / 4096 + at % 251) as u8
    }

    fn segments() -> &'static [(u32, u64, u64, u64)] {
        match CHANGE_AFTER.load(Ordering::SeqCst) {
            after if after > 0 && READINGS.load(Ordering::SeqCst) >= after => {
                &[(LOAD, 0x4000, 0, 1 << 20), (LOAD, 0x4000 + (4 << 20), 4 << 20, 1 << 20), (LOAD, 0x4000 + (9 << 20), u64::MAX, 4096)]
            }
            _ => &[(LOAD, 0x2000, 0, 2 << 20)],
        }
    }

    impl ByPosition for Moving {
        fn pread(&self, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
            let head = core(segments());
            if let Some(rest) = usize::try_from(offset).ok().and_then(|o| head.get(o..)).filter(|r| !r.is_empty()) {
                let count = rest.len().min(buf.len());
                buf[..count].copy_from_slice(&rest[..count]);
                return Ok(count);
            }
            READINGS.fetch_add(1, Ordering::SeqCst);
            // As the kernel does it, now: by the table of this moment, and zeros where nothing is.
            for (n, slot) in buf.iter_mut().enumerate() {
                let offset = offset + n as u64;
                let found = segments().iter().find(|s| s.1 <= offset && offset < s.1 + s.3);
                *slot = found.map_or(0, |s| byte(s.2 + offset - s.1));
            }
            Ok(buf.len())
        }
    }

    #[test]
    fn bytes_are_of_their_address_although_the_table_moves() {
        let core = Core::new(|| Ok(Moving)).expect("opens");
        let ram = [Range { start: 0, end: 8 << 20 }];
        assert_eq!(core.exposed(&ram), [Range { start: 0, end: 2 << 20 }]);
        READINGS.store(0, Ordering::SeqCst);
        CHANGE_AFTER.store(3, Ordering::SeqCst);
        let mut buf = vec![0; 64 << 10];
        for at in (0..1_u64 << 20).step_by(64 << 10) {
            let got = core.read(at, &mut buf).expect("read");
            assert_eq!(got, buf.len());
            assert!(buf.iter().enumerate().all(|(n, b)| *b == byte(at + n as u64)), "{at:#x}");
        }
        assert_eq!(core.changes(), 1);
        let gone = core.read(1 << 20, &mut buf).expect_err("no memory any more");
        assert!(gone.to_string().contains("any more"), "{gone}");
        core.refresh();
        assert_eq!(core.exposed(&ram), [Range { start: 0, end: 1 << 20 }, Range { start: 4 << 20, end: 5 << 20 }]);
        assert_eq!(core.read(4 << 20, &mut buf[..10]).expect("read"), 10);
        assert_eq!(buf[..10], (0..10).map(|n| byte((4 << 20) + n)).collect::<Vec<u8>>());
    }

    /// Memory in one segment, with as many segments without memory as asked for, and how much of it there is.
    struct Growing(&'static AtomicU64, usize);

    impl ByPosition for Growing {
        fn pread(&self, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
            let mut segments = vec![(LOAD, 1 << 30, u64::MAX, 4096); self.1];
            segments.push((LOAD, 1 << 20, 0, self.0.load(Ordering::SeqCst)));
            let head = core(&segments);
            if let Some(rest) = usize::try_from(offset).ok().and_then(|o| head.get(o..)).filter(|r| !r.is_empty()) {
                let count = rest.len().min(buf.len());
                buf[..count].copy_from_slice(&rest[..count]);
                return Ok(count);
            }
            // Zeros where nothing is, as the kernel.
            let end = (1 << 20) + self.0.load(Ordering::SeqCst);
            buf.iter_mut().enumerate().for_each(|(n, slot)| *slot = u8::from(offset + (n as u64) < end));
            Ok(if offset < 1 << 20 { 0 } else { buf.len() })
        }
    }

    fn grows_and_shrinks(bytes: &'static AtomicU64, open: fn() -> Result<Growing, Errno>) {
        let core = Core::new(open).expect("opens");
        let (ram, mut buf) = ([Range { start: 0, end: 8 << 20 }], [0; 4096]);
        assert_eq!(core.exposed(&ram), [Range { start: 0, end: 2 << 20 }]);
        bytes.store(3 << 20, Ordering::SeqCst);
        core.refresh();
        assert_eq!((core.exposed(&ram), core.changes()), (vec![Range { start: 0, end: 3 << 20 }], 1), "it is not hidden");
        assert_eq!(core.read(2 << 20, &mut buf).expect("read"), 4096);
        assert_eq!(buf, [1; 4096]);
        bytes.store(1 << 20, Ordering::SeqCst);
        let gone = core.read(2 << 20, &mut buf).expect_err("its zeros are no content");
        assert!(gone.to_string().contains("any more"), "{gone}");
        assert_eq!((core.read(0, &mut buf).expect("read"), core.changes()), (4096, 2));
    }

    #[test]
    fn a_segment_that_grows_or_shrinks_is_another_table() {
        static FEW: AtomicU64 = AtomicU64::new(2 << 20);
        static MANY: AtomicU64 = AtomicU64::new(2 << 20);
        grows_and_shrinks(&FEW, || Ok(Growing(&FEW, 1)));
        grows_and_shrinks(&MANY, || Ok(Growing(&MANY, 1000)));
    }
}
