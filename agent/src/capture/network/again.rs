//! Looks again for sockets that were moved from one descriptor to another since the walk.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::namespaces::Descriptor;
use crate::capture::live::numbers;
use crate::capture::process::bracketed;
use crate::capture::procfs::{self, link, open_dir};
use crate::capture::{Output, Stop, threads};

/// Descriptors of one table of open files that are looked at again.
const AGAIN_MAX: usize = 64 << 10;
/// The same of all processes together, each time counted: some seconds.
pub const AGAIN_ALL_MAX: usize = 4 << 20;
/// The same of one process, so that none takes the room of the others: the largest table four times.
pub const AGAIN_EACH_MAX: usize = AGAIN_ALL_MAX / 16;
/// How often a table is looked through: what is moved meanwhile can be missed by one look.
const LOOKS_MAX: usize = 8;
/// How often at least, where it is so large that there is no room for more.
const LOOKS_MIN: usize = 4;

/// A descriptor by which a socket was held and is not any more.
pub struct Gone {
    pub tid: u32,
    pub inode: u64,
    pub by: Descriptor,
}

/// A table of open files.
trait Files {
    /// Lists its descriptors anew; the flag says that there are more.
    fn list(&mut self) -> Result<(Vec<u32>, bool), Errno>;
    /// Where one leads.
    fn leads(&self, fd: u32) -> Result<Vec<u8>, Errno>;
}

/// That of a thread.
struct OfThread {
    tid: u32,
    folder: Result<OwnedFd, Errno>,
}

impl Files for OfThread {
    fn list(&mut self) -> Result<(Vec<u32>, bool), Errno> {
        self.folder = procfs::process(self.tid).and_then(|dir| open_dir(dir, "fd"));
        numbers(self.folder.as_ref().map_err(|e| *e)?, AGAIN_MAX)
    }

    fn leads(&self, fd: u32) -> Result<Vec<u8>, Errno> {
        link(self.folder.as_ref().map_err(|e| *e)?, fd.to_string())
    }
}

/// What a process holds by now of the sockets that it held.
pub struct Again<'a> {
    /// The sockets, sorted.
    wanted: &'a [u64],
    /// Descriptors that may still be looked at.
    pub left: usize,
    /// Those that were met, each with the thread by whose descriptor it is held.
    pub met: BTreeMap<u64, (u32, Descriptor)>,
    /// Why it may hold others, too. What is not met otherwise was closed.
    pub unsure: Option<String>,
}

impl<'a> Again<'a> {
    pub const fn new(wanted: &'a [u64], left: usize) -> Self {
        Self { wanted, left, met: BTreeMap::new(), unsure: None }
    }

    /// Looks through the open files of a thread, and where that ended of its process.
    ///
    /// # Errors
    /// [`Stop`] from the output.
    pub fn process(&mut self, out: &mut dyn Output, gone: &Gone) -> Result<(), Stop> {
        if self.thread(out, gone.tid, gone.by)? {
            return Ok(());
        }
        // That thread ended since. Others may go on with its open files.
        let pid = gone.by.pid;
        let dir = match procfs::process(pid) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::SRCH) => return Ok(()),
            Err(e) => {
                self.unsure = Some(refused(e));
                return Ok(());
            }
        };
        let (first, dir) = threads::living(&dir, pid).map_or((pid, dir), |l| (l.tid, l.dir));
        let others = threads::others(&dir, first);
        self.unsure = others.left_out.or_else(|| others.covered.then(|| refused(Errno::XDEV)));
        self.thread(out, first, Descriptor { thread: None, ..gone.by })?;
        for tid in others.files {
            self.thread(out, tid, Descriptor { thread: Some(tid), ..gone.by })?;
        }
        Ok(())
    }

    fn thread(&mut self, out: &mut dyn Output, tid: u32, by: Descriptor) -> Result<bool, Stop> {
        self.table(out, &mut OfThread { tid, folder: Err(Errno::NOENT) }, tid, by)
    }

    /// Looks through a table to and fro, until all sockets were met: one that changes places with another may be missed by each look in
    /// one direction. Says whether there is such a table.
    fn table(&mut self, out: &mut dyn Output, files: &mut dyn Files, tid: u32, by: Descriptor) -> Result<bool, Stop> {
        for n in 0..LOOKS_MAX {
            if self.met.len() == self.wanted.len() {
                break;
            }
            out.checkpoint()?;
            match self.look(files, n, tid, by) {
                Ok(Some(true)) => {}
                Ok(Some(false)) => break,
                Ok(None) | Err(Errno::NOENT | Errno::SRCH) => return Ok(false),
                Err(e) => {
                    self.unsure = Some(refused(e));
                    break;
                }
            }
        }
        Ok(true)
    }

    /// Looks once; says whether there is room for it. `None` where nothing is open.
    fn look(&mut self, files: &mut dyn Files, n: usize, tid: u32, by: Descriptor) -> Result<Option<bool>, Errno> {
        let (mut fds, more) = files.list()?;
        if fds.is_empty() {
            return Ok(None);
        }
        let Some(left) = self.left.checked_sub(fds.len()) else {
            if n < LOOKS_MIN {
                self.unsure =
                    Some(format!("not looked for again, after {AGAIN_EACH_MAX} descriptors of its process or {AGAIN_ALL_MAX} of all"));
            }
            return Ok(Some(false));
        };
        self.left = left;
        if more {
            self.unsure = Some(format!("closed, or moved to another descriptor: its process has more than {AGAIN_MAX}"));
        }
        if !n.is_multiple_of(2) {
            fds.reverse();
        }
        for fd in fds {
            let leads = match files.leads(fd) {
                Ok(leads) => leads,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e),
            };
            if let Some(inode) = bracketed(&leads, b"socket").filter(|inode| self.wanted.binary_search(inode).is_ok()) {
                self.met.insert(inode, (tid, Descriptor { fd, ..by }));
            }
        }
        Ok(Some(true))
    }
}

fn refused(error: Errno) -> String {
    format!("its descriptors could not be looked at again: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> crate::capture::testing::Memory {
        crate::capture::testing::Memory::default()
    }

    /// A process that ended holds nothing.
    #[test]
    fn who_ended_holds_nothing_any_more() {
        let mut child = std::process::Command::new("true").spawn().expect("true");
        let tid = child.id();
        child.wait().expect("reaped");
        let gone = Gone { tid, inode: 7, by: Descriptor { pid: tid, fd: 3, thread: None } };
        let mut again = Again::new(&[7], 1_000);
        again.process(&mut memory(), &gone).expect("looked");
        assert!(again.met.is_empty() && again.unsure.is_none());
    }

    const BY: Descriptor = Descriptor { pid: 1, fd: 0, thread: None };

    /// Two sockets that change places whenever the first descriptor was looked at.
    struct Swapped {
        is_at_second: std::cell::Cell<bool>,
    }

    impl Files for Swapped {
        fn list(&mut self) -> Result<(Vec<u32>, bool), Errno> {
            self.is_at_second.set(true);
            Ok((vec![5, 6], false))
        }

        fn leads(&self, fd: u32) -> Result<Vec<u8>, Errno> {
            let is_wanted = (fd == 6) == self.is_at_second.get();
            self.is_at_second.set(fd != 5);
            Ok(if is_wanted { b"socket:[77]".to_vec() } else { b"socket:[88]".to_vec() })
        }
    }

    #[test]
    fn a_socket_that_changes_places_is_met() {
        let mut again = Again::new(&[77], 1_000);
        assert!(again.table(&mut memory(), &mut Swapped { is_at_second: true.into() }, 1, BY).expect("looked"));
        assert!(again.met.contains_key(&77) && again.unsure.is_none());
        // It was met by the second look, and that was the last.
        assert_eq!(again.left, 996);
    }

    /// A busy process: each listing has other descriptors, and one of them is closed before it is looked at.
    struct Busy {
        lists: u32,
        count: u32,
        more: bool,
    }

    impl Files for Busy {
        fn list(&mut self) -> Result<(Vec<u32>, bool), Errno> {
            self.lists += 1;
            let fds = (self.lists..self.lists + self.count).collect();
            Ok((fds, self.more))
        }

        fn leads(&self, fd: u32) -> Result<Vec<u8>, Errno> {
            if fd == self.lists { Err(Errno::NOENT) } else { Ok(format!("socket:[{}]", 1_000 + fd).into_bytes()) }
        }
    }

    #[test]
    fn what_a_busy_process_closed_is_no_doubt() {
        let look = |left: usize, count: u32, more: bool| {
            let mut again = Again::new(&[77], left);
            let mut files = Busy { lists: 0, count, more };
            assert!(again.table(&mut memory(), &mut files, 1, BY).expect("looked"));
            (files.lists, again.unsure.is_some())
        };
        assert_eq!(look(1_000, 10, false), (8, false));
        // With room for five looks, and for three.
        assert_eq!((look(50, 10, false), look(30, 10, false)), ((6, false), (4, true)));
        assert_eq!(look(1_000, 10, true), (8, true));
        // The largest table fits into the share of a process as often as need be.
        const { assert!(AGAIN_MAX * LOOKS_MIN <= AGAIN_EACH_MAX) };
    }
}
