//! The parts of a core file that are not memory: file header, program headers, notes. As Linux writes them
//! (fs/binfmt_elf.c, include/uapi/linux/elfcore.h) and gdb and lldb read them; the values of one process per file.

use std::os::fd::OwnedFd;

use super::asleep::Asleep;
use super::layout::{Layout, Segment};
use super::regions::{self, Class, Region, Regions};
use super::stop::Thread;
use crate::capture::live::SMALL_BYTES_MAX;
use crate::capture::process::parse::{self, Stat, Status};
use crate::capture::procfs::read_at;

/// Bytes of the file header, of a program header, of a section header.
const EHDR_BYTES: usize = 64;
const PHDR_BYTES: usize = 56;
const SHDR_BYTES: usize = 64;
/// The number of program headers that means "see the first section header" (`PN_XNUM`).
const PHDRS_MANY: usize = 0xffff;
/// Names in NT_FILE, as in the kernel's own bound on the note (4 MiB) but smaller.
const FILE_NOTE_BYTES_MAX: usize = 2 << 20;

const NT_PRSTATUS: u32 = 1;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_FILE: u32 = 0x4649_4c45;
const NT_SIGINFO: u32 = 0x5349_4749;
/// Sets of registers from here on belong to one architecture, and their notes have another name.
const FIRST_OF_ARCHITECTURE: u32 = 0x100;
/// Type of our own note, whose name is `EXHIBIT`: "EXH" and a number. Readers look at types before names, so it must be none
/// of theirs.
const NT_EXHIBIT_JSON: u32 = 0x4558_4801;

/// `e_machine`, and bytes of the general registers in NT_PRSTATUS. A process of another size (32 bits) has other ones.
#[cfg(target_arch = "x86_64")]
const MACHINE: (u16, usize) = (62, 27 * 8);
#[cfg(target_arch = "aarch64")]
const MACHINE: (u16, usize) = (183, 34 * 8);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const MACHINE: (u16, usize) = (0, 0);

/// What is known of the process besides its threads.
#[derive(Debug, Default)]
pub struct About {
    /// `/proc/<pid>/stat`.
    pub stat: Stat,
    /// `/proc/<pid>/status`.
    pub status: Status,
    /// `/proc/<pid>/cmdline`, the first bytes.
    pub cmdline: Vec<u8>,
}

impl About {
    /// Reads it. What cannot be read is zero in the notes.
    #[must_use]
    pub fn read(dir: &OwnedFd) -> Self {
        let bytes = |name: &str| read_at(dir, name, SMALL_BYTES_MAX).map(|r| r.bytes).unwrap_or_default();
        let mut cmdline = bytes("cmdline");
        cmdline.truncate(PSARGS_BYTES);
        Self { stat: parse::stat(&bytes("stat")).unwrap_or_default(), status: parse::status(&bytes("status")), cmdline }
    }
}

const PSARGS_BYTES: usize = 80;

/// True for registers as a 64-bit process of this architecture has them.
#[must_use]
pub fn is_native(thread: &Thread) -> bool {
    thread.sets.iter().find(|(kind, _)| *kind == NT_PRSTATUS).is_none_or(|(_, set)| set.size() == MACHINE.1)
}

/// Whether it did not stand, but its place is known well enough for registers that are known in part.
#[must_use]
pub fn is_known_asleep(thread: &Thread) -> bool {
    thread.asleep.as_deref().is_some_and(Asleep::is_wide)
}

/// All notes. Those of the process and of its first thread are there as bytes; those of the others, which can be thousands, are
/// made when they are read.
#[derive(Debug)]
pub struct Notes {
    first: Vec<u8>,
    about: About,
    threads: Vec<Thread>,
    /// Where the notes of each of these end, counted from the first byte of all.
    ends: Vec<u64>,
}

impl Notes {
    /// The notes of a process; `own` is the content of our note. Threads that did not stand have a status without the registers that
    /// nobody knows, if it is known where they sleep, and otherwise none.
    #[must_use]
    pub fn new(pid: u32, about: About, threads: Vec<Thread>, auxv: &[u8], regions: &Regions, own: &[u8]) -> Self {
        let mut threads = threads.into_iter().filter(|t| t.running.is_none() || is_known_asleep(t));
        let (mut first, head) = (Vec::new(), threads.next());
        if let Some(thread) = &head {
            thread_status(&mut first, &about, thread);
        }
        note(&mut first, b"CORE", NT_PRPSINFO, &prpsinfo(pid, &about));
        if !auxv.is_empty() {
            note(&mut first, b"CORE", NT_AUXV, auxv);
        }
        note(&mut first, b"CORE", NT_FILE, &file_note(regions));
        note(&mut first, b"EXHIBIT", NT_EXHIBIT_JSON, own);
        if let Some(thread) = &head {
            other_sets(&mut first, thread);
        }
        let threads: Vec<Thread> = threads.collect();
        let (mut end, mut ends) = (first.len() as u64, Vec::with_capacity(threads.len()));
        for thread in &threads {
            end = end.saturating_add(of_thread(&about, thread).len() as u64);
            ends.push(end);
        }
        Self { first, about, threads, ends }
    }

    /// Bytes of all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ends.last().copied().unwrap_or(self.first.len() as u64)
    }

    /// Writes what of the notes (which lie at `at` in the file) falls into `buffer` (which lies at `offset`).
    fn place(&self, buffer: &mut [u8], offset: u64, at: u64) {
        overlay(buffer, offset, at, &self.first);
        let from = offset.saturating_sub(at);
        let until = offset.saturating_add(buffer.len() as u64).saturating_sub(at);
        let begun = self.ends.partition_point(|end| *end <= from);
        for (n, thread) in self.threads.iter().enumerate().skip(begun) {
            let begin = n.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(self.first.len() as u64);
            if begin >= until {
                break;
            }
            overlay(buffer, offset, at.saturating_add(begin), &of_thread(&self.about, thread));
        }
    }
}

/// The notes of one thread.
fn of_thread(about: &About, thread: &Thread) -> Vec<u8> {
    let mut out = Vec::new();
    thread_status(&mut out, about, thread);
    other_sets(&mut out, thread);
    out
}

/// All registers of a thread but the general ones, which are in its status.
fn other_sets(out: &mut Vec<u8>, thread: &Thread) {
    for (kind, set) in thread.sets.iter().filter(|(kind, _)| *kind != NT_PRSTATUS) {
        let name: &[u8] = if *kind < FIRST_OF_ARCHITECTURE { b"CORE" } else { b"LINUX" };
        note(out, name, *kind, &set.bytes());
    }
}

/// One note: sizes, type, name with its end, content; each filled to four bytes.
fn note(out: &mut Vec<u8>, name: &[u8], kind: u32, content: &[u8]) {
    let name_bytes = name.len().saturating_add(1);
    for n in [name_bytes as u32, content.len() as u32, kind] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    out.extend_from_slice(name);
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// NT_PRSTATUS (`struct elf_prstatus`) and NT_SIGINFO of a thread.
fn thread_status(out: &mut Vec<u8>, about: &About, thread: &Thread) {
    let id = |n: Option<i64>| (n.unwrap_or(0) as i32).to_le_bytes();
    let ticks = |t: Option<u64>| {
        // 100 ticks a second in every answer of the kernel (USER_HZ).
        let t = t.unwrap_or(0);
        [(t / 100).to_le_bytes(), (t % 100).saturating_mul(10_000).to_le_bytes()].concat()
    };
    let mut s = Vec::with_capacity(400);
    s.extend_from_slice(&thread.pending.to_le_bytes()); // pr_info.si_signo
    s.extend_from_slice(&[0; 8]); // si_code, si_errno
    s.extend_from_slice(&(thread.pending as u16).to_le_bytes()); // pr_cursig
    s.extend_from_slice(&[0; 2]);
    s.extend_from_slice(&[0; 8]); // pr_sigpend
    s.extend_from_slice(&thread.blocked.to_le_bytes()); // pr_sighold
    s.extend_from_slice(&thread.tid.to_le_bytes()); // pr_pid
    for n in [about.stat.ppid, about.stat.pgid, about.stat.sid] {
        s.extend_from_slice(&id(n));
    }
    // The process's times, for its first thread; nobody knows those of the moment for the others without more reading.
    s.extend_from_slice(&ticks(about.stat.utime_ticks));
    s.extend_from_slice(&ticks(about.stat.stime_ticks));
    s.extend_from_slice(&[0; 32]); // of its children
    let general = thread.sets.iter().find(|(kind, _)| *kind == NT_PRSTATUS).map(|(_, set)| set.bytes());
    let general = general.or_else(|| thread.asleep.as_deref().map(|asleep| asleep.registers(MACHINE.1)));
    s.extend_from_slice(&general.unwrap_or_default());
    let has_fp = i32::from(thread.sets.iter().any(|(kind, _)| *kind == 2));
    s.extend_from_slice(&has_fp.to_le_bytes()); // pr_fpvalid
    s.resize(s.len().next_multiple_of(8), 0);
    note(out, b"CORE", NT_PRSTATUS, &s);
    if let Some(siginfo) = &thread.siginfo {
        note(out, b"CORE", NT_SIGINFO, &siginfo.bytes());
    }
}

/// NT_PRPSINFO (`struct elf_prpsinfo`), 136 bytes.
fn prpsinfo(pid: u32, about: &About) -> Vec<u8> {
    let stat = &about.stat;
    let letter = stat.state.and_then(|c| u8::try_from(c).ok()).unwrap_or(b'.');
    let number = b"RSDTZW".iter().position(|c| *c == letter).unwrap_or(0) as u8;
    let mut p = Vec::with_capacity(136);
    p.extend_from_slice(&[number, letter, u8::from(letter == b'Z'), stat.nice.unwrap_or(0) as i8 as u8]);
    p.extend_from_slice(&[0; 4]);
    p.extend_from_slice(&stat.flags.unwrap_or(0).to_le_bytes());
    p.extend_from_slice(&about.status.uids.map_or(0, |i| i.real).to_le_bytes());
    p.extend_from_slice(&about.status.gids.map_or(0, |i| i.real).to_le_bytes());
    p.extend_from_slice(&pid.to_le_bytes());
    for n in [stat.ppid, stat.pgid, stat.sid] {
        p.extend_from_slice(&(n.unwrap_or(0) as i32).to_le_bytes());
    }
    fixed(&mut p, &stat.comm, 16);
    // Arguments as one line, as the kernel writes them.
    let line: Vec<u8> = about.cmdline.iter().map(|b| if *b == 0 { b' ' } else { *b }).collect();
    fixed(&mut p, line.trim_ascii_end(), PSARGS_BYTES);
    p
}

/// A text in a field of fixed width that ends in NUL.
fn fixed(out: &mut Vec<u8>, text: &[u8], width: usize) {
    let end = out.len().saturating_add(width);
    out.extend_from_slice(text.get(..text.len().min(width.saturating_sub(1))).unwrap_or_default());
    out.resize(end, 0);
}

/// NT_FILE: which addresses are which part of which file.
fn file_note(regions: &Regions) -> Vec<u8> {
    let (mut table, mut names, mut count) = (Vec::new(), Vec::new(), 0_u64);
    for region in regions.list().iter().filter(|r| r.class == Class::File) {
        let name = regions.name(region);
        if name.is_empty() {
            continue;
        }
        let bytes = table.len().saturating_add(names.len()).saturating_add(name.len()).saturating_add(25);
        if bytes > FILE_NOTE_BYTES_MAX {
            break;
        }
        for n in [region.start, region.end, region.offset / regions::PAGE] {
            table.extend_from_slice(&n.to_le_bytes());
        }
        names.extend_from_slice(name);
        names.push(0);
        count = count.saturating_add(1);
    }
    let mut out = Vec::with_capacity(table.len().saturating_add(names.len()).saturating_add(16));
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&regions::PAGE.to_le_bytes());
    out.append(&mut table);
    out.append(&mut names);
    out
}

/// The beginning of a core file: everything before the first segment. Only what the notes are made of is kept; program headers are
/// made when they are read.
#[derive(Debug)]
pub struct Header {
    notes: Notes,
    notes_bytes: usize,
    phdrs: usize,
    bytes: u64,
}

impl Header {
    /// A header for so many segments.
    #[must_use]
    pub fn new(notes: Notes, segments: usize) -> Self {
        let phdrs = segments.saturating_add(1);
        let notes_bytes = notes.bytes() as usize;
        let mut header = Self { notes, notes_bytes, phdrs, bytes: 0 };
        header.bytes = (header.section_at().saturating_add(if header.is_many() { SHDR_BYTES } else { 0 })) as u64;
        header
    }

    /// Bytes, without what fills the page.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    const fn is_many(&self) -> bool {
        self.phdrs >= PHDRS_MANY
    }

    const fn notes_at(&self) -> usize {
        EHDR_BYTES.saturating_add(self.phdrs.saturating_mul(PHDR_BYTES))
    }

    const fn section_at(&self) -> usize {
        self.notes_at().saturating_add(self.notes_bytes).next_multiple_of(8)
    }

    /// Copies the bytes from `offset` on; what lies behind the header is zeros. `layout` is the one that was shifted behind it.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8], layout: &Layout, regions: &Regions) {
        buffer.fill(0);
        let mut place = |at: usize, bytes: &[u8]| overlay(buffer, offset, at as u64, bytes);
        place(0, &self.ehdr());
        let first = usize::try_from(offset).unwrap_or(usize::MAX).saturating_sub(EHDR_BYTES) / PHDR_BYTES;
        let last = first.saturating_add(place_count(buffer.len()));
        let mut place = |at: usize, bytes: &[u8]| overlay(buffer, offset, at as u64, bytes);
        for n in first..last.min(self.phdrs) {
            let phdr = match n.checked_sub(1) {
                None => phdr(4, 4, self.notes_at() as u64, 0, self.notes_bytes as u64, 0, 4),
                Some(n) => layout.segments.get(n).map_or([0; PHDR_BYTES], |s| load(s, regions)),
            };
            place(EHDR_BYTES.saturating_add(n.saturating_mul(PHDR_BYTES)), &phdr);
        }
        if self.is_many() {
            let mut section = [0_u8; SHDR_BYTES];
            // sh_info holds the number of program headers.
            overlay(&mut section, 0, 44, &(self.phdrs as u32).to_le_bytes());
            place(self.section_at(), &section);
        }
        self.notes.place(buffer, offset, self.notes_at() as u64);
    }

    fn ehdr(&self) -> [u8; EHDR_BYTES] {
        const ET_CORE: u16 = 4;
        let mut e = [0_u8; EHDR_BYTES];
        let many = self.is_many();
        let mut put = |at: usize, bytes: &[u8]| overlay(&mut e, 0, at as u64, bytes);
        put(0, b"\x7fELF\x02\x01\x01");
        put(16, &ET_CORE.to_le_bytes());
        put(18, &MACHINE.0.to_le_bytes());
        put(20, &1_u32.to_le_bytes());
        put(32, &(EHDR_BYTES as u64).to_le_bytes());
        put(40, &(if many { self.section_at() as u64 } else { 0 }).to_le_bytes());
        put(52, &(EHDR_BYTES as u16).to_le_bytes());
        put(54, &(PHDR_BYTES as u16).to_le_bytes());
        put(56, &(if many { PHDRS_MANY } else { self.phdrs } as u16).to_le_bytes());
        put(58, &(if many { SHDR_BYTES as u16 } else { 0 }).to_le_bytes());
        put(60, &u16::from(many).to_le_bytes());
        e
    }
}

/// Program headers that a buffer of this size can touch.
const fn place_count(bytes: usize) -> usize {
    (bytes / PHDR_BYTES).saturating_add(3)
}

fn load(segment: &Segment, regions: &Regions) -> [u8; PHDR_BYTES] {
    let bits = regions.list().get(segment.region as usize).map_or(0, |r: &Region| r.bits);
    let flags = [(regions::EXECUTE, 1_u32), (regions::WRITE, 2), (regions::READ, 4)];
    let flags = flags.iter().filter(|(bit, _)| bits & bit != 0).fold(0, |all, (_, flag)| all | flag);
    phdr(1, flags, segment.offset, segment.start, segment.stored_bytes(), segment.bytes, regions::PAGE)
}

fn phdr(kind: u32, flags: u32, offset: u64, address: u64, file_bytes: u64, memory_bytes: u64, align: u64) -> [u8; PHDR_BYTES] {
    let mut p = [0_u8; PHDR_BYTES];
    let mut put = |at: u64, bytes: &[u8]| overlay(&mut p, 0, at, bytes);
    put(0, &kind.to_le_bytes());
    put(4, &flags.to_le_bytes());
    put(8, &offset.to_le_bytes());
    put(16, &address.to_le_bytes());
    put(32, &file_bytes.to_le_bytes());
    put(40, &memory_bytes.to_le_bytes());
    put(48, &align.to_le_bytes());
    p
}

/// Writes what of `bytes` (which lie at `at` in the file) falls into `buffer` (which lies at `offset`).
fn overlay(buffer: &mut [u8], offset: u64, at: u64, bytes: &[u8]) {
    let skip = offset.saturating_sub(at) as usize;
    let to = at.saturating_sub(offset) as usize;
    let Some(from) = bytes.get(skip..) else { return };
    let Some(room) = buffer.get_mut(to..) else { return };
    let count = from.len().min(room.len());
    if let (Some(room), Some(from)) = (room.get_mut(..count), from.get(..count)) {
        room.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::registers::Set;
    use super::*;

    /// Threads with registers, the second of which did not stand.
    fn threads(count: u32) -> Vec<Thread> {
        let of = |tid: u32| Thread {
            tid,
            running: (tid == 2).then(|| "it ran on".to_owned()),
            sets: vec![(1, Set::new(&[tid as u8; MACHINE.1])), (2, Set::new(&[0; 512])), (0x202, Set::new(&[7; 900]))],
            ..Thread::default()
        };
        (1..=count).map(of).collect()
    }

    #[test]
    fn notes_that_are_made_when_they_are_read_are_all_there() {
        let notes = Notes::new(7, About::default(), threads(5), b"auxv", &Regions::default(), b"{}");
        let mut all = vec![0xff; notes.bytes() as usize];
        notes.place(&mut all, 0, 0);
        // As a reader goes through them: type and the number of the thread (at 32 of `struct elf_prstatus`).
        let word = |at: usize| u32::from_le_bytes(all[at..at + 4].try_into().expect("four bytes"));
        let (mut at, mut found) = (0, Vec::new());
        while at < all.len() {
            let (name, content, kind) = (word(at) as usize, word(at + 4) as usize, word(at + 8));
            let begin = (at + 12 + name).next_multiple_of(4);
            found.push((kind, if kind == NT_PRSTATUS { word(begin + 32) } else { content as u32 }));
            at = (begin + content).next_multiple_of(4);
        }
        let of_process = [(NT_PRPSINFO, 136), (NT_AUXV, 4), (NT_FILE, 16), (NT_EXHIBIT_JSON, 2)];
        let of = |tid: u32| [(NT_PRSTATUS, tid), (2, 512), (0x202, 900)];
        let expected = [&of(1)[..1], &of_process[..], &of(1)[1..], &of(3)[..], &of(4)[..], &of(5)[..]].concat();
        assert_eq!(found, expected);
    }

    /// A status needs a place that is surely one of 64 bits; without it such a thread is in the table only.
    #[test]
    fn a_thread_that_sleeps_has_the_registers_that_are_known() {
        let of = |program_counter: u64| Thread {
            tid: 9,
            running: Some("it sleeps".to_owned()),
            asleep: Some(Box::new(Asleep { program_counter, stack_pointer: 0x1000, ..Asleep::default() })),
            ..Thread::default()
        };
        let bytes = |thread: Thread| Notes::new(9, About::default(), vec![thread], b"", &Regions::default(), b"{}").bytes();
        let mut status = Vec::new();
        thread_status(&mut status, &About::default(), &of(1 << 32));
        assert_eq!(bytes(of(1 << 32)), bytes(of(u64::from(u32::MAX))) + status.len() as u64);
        let place = (1_u64 << 32).to_le_bytes();
        assert!(status.windows(8).any(|w| w == place), "{status:?}");
    }

    fn header(segments: u64, note_bytes: usize) -> (Header, Layout, Regions) {
        let mut layout = Layout::default();
        for n in 0..segments {
            layout.segments.push(Segment { start: (n + 1) * 8192, bytes: 4096, offset: n * 4096, stored: n % 3 != 0, region: 0 });
        }
        let notes = Notes::new(7, About::default(), threads(5), b"", &Regions::default(), &vec![b'x'; note_bytes]);
        (Header::new(notes, layout.segments.len()), layout, Regions::default())
    }

    fn whole(segments: u64, note_bytes: usize, piece: usize) -> Vec<u8> {
        let (header, layout, regions) = header(segments, note_bytes);
        let layout = layout.shift(header.bytes());
        let mut all = vec![0xff; header.bytes() as usize];
        let mut at = 0;
        for part in all.chunks_mut(piece) {
            header.read_at(at, part, &layout, &regions);
            at += part.len() as u64;
        }
        all
    }

    #[test]
    fn readelf_understands_it_also_with_very_many_segments() {
        for segments in [1_u64, 70_000] {
            let bytes = whole(segments, 1000, 4096);
            let file = tempfile::NamedTempFile::new().expect("file");
            std::fs::write(file.path(), &bytes).expect("write");
            let said = std::process::Command::new("readelf").args(["-h", "-l", "-n"]).arg(file.path()).output().expect("readelf");
            let (text, errors) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
            let loads = text.lines().filter(|l| l.trim_start().starts_with("LOAD")).count() as u64;
            assert_eq!(loads, segments, "{errors}");
            assert!(text.contains("CORE (Core file)") && text.contains("EXHIBIT"), "{errors}");
        }
    }

    #[test]
    fn structures_have_the_sizes_that_debuggers_expect() {
        let about = About { cmdline: b"/bin/x\0-y\0".to_vec(), ..About::default() };
        let p = prpsinfo(7, &about);
        assert_eq!(p.len(), 136);
        assert!(p[56..].starts_with(b"/bin/x -y\0"));
        let thread = Thread { tid: 9, sets: vec![(1, Set::new(&[1; MACHINE.1])), (2, Set::new(&[2; 512]))], ..Thread::default() };
        let mut out = Vec::new();
        thread_status(&mut out, &about, &thread);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(u32::from_le_bytes(out[4..8].try_into().expect("four")), 336);
        assert!(is_native(&thread));
        assert!(!is_native(&Thread { sets: vec![(1, Set::new(&[0; 68]))], ..Thread::default() }));
    }

    proptest! {
        #[test]
        fn any_pieces_make_the_same_header(segments in 0_u64..50, note_bytes in 0_usize..300, piece in 1_usize..500) {
            prop_assert_eq!(whole(segments, note_bytes, piece), whole(segments, note_bytes, 1 << 20));
        }

        #[test]
        fn overlaying_never_leaves_the_buffer(offset: u64, at: u64, bytes: Vec<u8>, room in 0_usize..64) {
            let mut buffer = vec![0; room];
            overlay(&mut buffer, offset, at, &bytes);
        }
    }
}
