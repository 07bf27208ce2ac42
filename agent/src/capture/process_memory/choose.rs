//! Which memory of a process has to fit the registers of its threads: by the table of its mappings alone, nothing is read.

use super::kept::PAGES_MAX;
use super::regions::{Class, PAGE, Region, Regions, SHARED, WRITE};
use super::registers::Set;
use super::stop::Thread;

/// Files with the lists of threads of C libraries: the beginnings of their names. (glibc had a library for threads of its own until 2.34.)
const LIBRARIES: [&[u8]; 6] = [b"ld-", b"ld.so", b"ld64.so", b"libc.so", b"libc-", b"libpthread"];
/// Mappings of such data; bytes of one that are looked at.
const LIBRARY_RANGES_MAX: usize = 16;
const LIBRARY_BYTES_MAX: u64 = 4 << 20;
/// Mappings of private memory in which stacks and lists are looked for, 16 bytes each.
const MEMORY_RANGES_MAX: usize = 8192;
/// The smallest stack that a thread can have (`PTHREAD_STACK_MIN`).
const STACK_BYTES_MIN: u64 = 16 << 10;

/// Sets of registers, and the word in them that is the thread pointer and the stack pointer; and where the C library's record of a
/// thread lies: bytes below the thread pointer and above. glibc's has 2,304 bytes and is above it on x86-64, below it on AArch64.
#[cfg(target_arch = "x86_64")]
const POINTERS: [(u32, usize); 2] = [(1, 21), (1, 19)];
#[cfg(target_arch = "x86_64")]
const RECORD: (u64, u64) = (0, 0xa00);
#[cfg(target_arch = "aarch64")]
const POINTERS: [(u32, usize); 2] = [(0x401, 0), (1, 31)];
#[cfg(target_arch = "aarch64")]
const RECORD: (u64, u64) = (0xa00, 16);
/// Elsewhere no such word is known: there is none at that place.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const POINTERS: [(u32, usize); 2] = [(1, usize::MAX), (1, usize::MAX)];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const RECORD: (u64, u64) = (0, 0);

/// First address, and one past the last.
pub type Range = (u64, u64);

/// Where a thread is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Its thread pointer.
    pub thread: Option<u64>,
    /// Its stack pointer.
    pub stack: Option<u64>,
}

impl Place {
    /// By the registers that were read. A process of 32 bits has other ones.
    #[must_use]
    pub fn of(thread: &Thread) -> Self {
        let [of_thread, of_stack] = POINTERS.map(|(kind, n)| {
            let set = thread.sets.iter().find(|(k, _)| *k == kind).map(|(_, set)| set);
            set.and_then(|set| word(set, n)).filter(|word| *word != 0)
        });
        Self { thread: of_thread, stack: of_stack }
    }
}

fn word(set: &Set, n: usize) -> Option<u64> {
    let bytes = set.bytes();
    bytes.as_chunks::<8>().0.get(n).map(|w| u64::from_ne_bytes(*w))
}

/// What may be copied, most important first; each list is bounded.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Writable data of the dynamic loader and of the C library, or of a static program.
    pub library: Vec<Range>,
    /// The ends of what looks like the stack of a thread: one that ended, or was not begun yet, has its record there.
    pub ends: Vec<Range>,
    /// Private writable memory, ascending: the records of threads, their stacks and the lists between them are in it.
    pub memory: Vec<Range>,
}

impl Choice {
    /// Chooses. What `spared` says of a mapping is left out.
    #[must_use]
    pub fn new(regions: &Regions, auxv: &[u8], spared: &dyn Fn(&Region) -> bool) -> Self {
        let choice = Self::of(regions, spared, &|region| is_library(regions.name(region)));
        if !choice.library.is_empty() {
            return choice;
        }
        match entry(auxv).and_then(|at| regions.holding(at)).map(|region| (region.dev, region.ino)) {
            Some(program) => Self::of(regions, spared, &|region| (region.dev, region.ino) == program),
            None => choice,
        }
    }

    fn of(regions: &Regions, spared: &dyn Fn(&Region) -> bool, holds_lists: &dyn Fn(&Region) -> bool) -> Self {
        let (mut choice, mut before, mut of_library) = (Self::default(), Region::default(), false);
        for region in regions.list() {
            let adjoins = before.end == region.start;
            let is_own = region.bits & (WRITE | SHARED) == WRITE && !spared(region);
            let is_memory = is_own && region.class == Class::Anonymous;
            let follows_guard = adjoins && before.is_reserved();
            // Data that is zeros at first lies without a file behind the rest of it.
            of_library = is_own && ((region.class == Class::File && holds_lists(region)) || (is_memory && adjoins && of_library));
            if of_library {
                let end = region.end.min(region.start.saturating_add(LIBRARY_BYTES_MAX));
                push(&mut choice.library, (region.start, end), LIBRARY_RANGES_MAX);
            }
            if is_memory {
                push(&mut choice.memory, (region.start, region.end), MEMORY_RANGES_MAX);
            }
            if is_memory && follows_guard && region.bytes() >= STACK_BYTES_MIN {
                push(&mut choice.ends, (region.end.saturating_sub(2 * PAGE), region.end), PAGES_MAX);
            }
            before = *region;
        }
        choice
    }

    /// The private memory that an address is in.
    #[must_use]
    pub fn holding(&self, address: u64) -> Option<Range> {
        let n = self.memory.partition_point(|(_, end)| *end <= address);
        self.memory.get(n).copied().filter(|(start, _)| *start <= address)
    }

    /// The pages with the C library's record of a thread.
    #[must_use]
    pub fn record(&self, place: Place) -> Option<Range> {
        let pointer = place.thread?;
        let (start, end) = self.holding(pointer)?;
        let from = pointer.saturating_sub(RECORD.0);
        let to = pointer.saturating_add(RECORD.1);
        Some((from.saturating_sub(from % PAGE).max(start), to.next_multiple_of(PAGE).min(end)))
    }

    /// So many pages from a thread's stack pointer upward.
    #[must_use]
    pub fn stack(&self, place: Place, pages: u64) -> Option<Range> {
        let pointer = place.stack?;
        let (_, end) = self.holding(pointer)?;
        let from = pointer.saturating_sub(pointer % PAGE);
        Some((from, from.saturating_add(pages.saturating_mul(PAGE)).min(end)))
    }
}

fn push(list: &mut Vec<Range>, range: Range, most: usize) {
    if list.len() < most {
        list.push(range);
    }
}

fn is_library(name: &[u8]) -> bool {
    let file = name.rsplit(|b| *b == b'/').next().unwrap_or_default();
    LIBRARIES.iter().any(|begin| file.starts_with(begin))
}

/// Where the program begins to run (`AT_ENTRY`): in its own file.
fn entry(auxv: &[u8]) -> Option<u64> {
    const AT_ENTRY: u64 = 9;
    auxv.as_chunks::<8>().0.chunks_exact(2).find_map(|pair| match pair {
        [key, value] if u64::from_ne_bytes(*key) == AT_ENTRY => Some(u64::from_ne_bytes(*value)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"1000-2000 r-xp 00000000 08:01 1                          /opt/program\n\
        2000-5000 rw-p 00001000 08:01 1                          /opt/program\n\
        5000-6000 rw-p 00000000 00:00 0                          [heap]\n\
        10000-11000 ---p 00000000 00:00 0 \n\
        11000-20000 rw-p 00000000 00:00 0 \n\
        20000-21000 ---p 00000000 00:00 0 \n\
        21000-22000 rw-p 00000000 00:00 0 \n\
        30000-31000 r--p 00000000 08:01 7                          /lib/libc.so.6\n\
        31000-33000 rw-p 00001000 08:01 7                          /lib/libc.so.6\n\
        33000-36000 rw-p 00000000 00:00 0 \n\
        40000-41000 rw-p 00000000 08:01 8                          /lib/libcrypto.so.3\n\
        41000-42000 rw-s 00000000 08:01 8                          /lib/ld-of-others.so\n\
        50000-51000 rw-p 00000000 08:01 9                          /lib/ld-linux-x86-64.so.2 (deleted)\n\
        70000-80000 rw-p 00000000 00:00 0                          [stack]\n";

    #[test]
    fn data_of_the_library_ends_of_stacks_and_private_memory() {
        let regions = Regions::parse(TABLE);
        let choice = Choice::new(&regions, &[], &|_| false);
        assert_eq!(choice.library, [(0x31000, 0x33000), (0x33000, 0x36000), (0x50000, 0x51000)]);
        assert_eq!(choice.ends, [(0x1e000, 0x20000)], "what is smaller than a stack is none");
        assert_eq!(choice.memory, [(0x5000, 0x6000), (0x11000, 0x20000), (0x21000, 0x22000), (0x33000, 0x36000), (0x70000, 0x80000)]);
        let place = |at: u64| Place { thread: Some(at), stack: Some(at) };
        assert_eq!(
            (choice.stack(place(0x1e010), 4), choice.stack(place(0x12345), 1)),
            (Some((0x1e000, 0x20000)), Some((0x12000, 0x13000)))
        );
        // Pointers are the process's to choose.
        assert_eq!((choice.record(place(0x31000)), choice.stack(place(0x6000), 4), choice.record(Place::default())), (None, None, None));
        #[cfg(target_arch = "x86_64")]
        assert_eq!(choice.record(place(0x1f740)), Some((0x1f000, 0x20000)));
        #[cfg(target_arch = "x86_64")]
        assert_eq!(choice.record(place(0x1ef00)), Some((0x1e000, 0x20000)), "it may reach into the next page");
        // What may hold the environment is in no list.
        let spared = |region: &Region| regions.name(region) == b"[stack]";
        assert_eq!(Choice::new(&regions, &[], &spared).holding(0x70000), None);
    }

    #[test]
    fn a_static_program_has_its_lists_itself() {
        let program = TABLE.split_inclusive(|b| *b == b'\n').take(3).collect::<Vec<_>>().concat();
        let auxv: Vec<u8> = [3_u64, 0x1040, 9, 0x1080, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
        let regions = Regions::parse(&program);
        assert_eq!(Choice::new(&regions, &auxv, &|_| false).library, [(0x2000, 0x5000), (0x5000, 0x6000)]);
        assert!(Choice::new(&regions, &[], &|_| false).library.is_empty());
    }

    #[test]
    fn every_list_is_bounded() {
        let of_stack = |n: usize| {
            format!("{:x}-{:x} ---p 0 0:0 0\n{:x}-{:x} rw-p 0 0:0 0\n", n << 20, (n << 20) + 4096, (n << 20) + 4096, (n << 20) + 65_536)
        };
        let of_file = |n: usize| format!("{:x}-{:x} rw-p 0 8:1 5 /lib/libc.so.6\n", n << 20, (n << 20) + (8 << 16));
        let text: String = (1..9_001).map(of_stack).chain((9_001..9_101).map(of_file)).collect();
        let choice = Choice::new(&Regions::parse(text.as_bytes()), &[], &|_| false);
        assert_eq!((choice.ends.len(), choice.memory.len(), choice.library.len()), (PAGES_MAX, MEMORY_RANGES_MAX, LIBRARY_RANGES_MAX));
    }
}
