//! Images of made-up memory: holes, pages that fail, pages that the kernel blanks.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use rustix::io::Errno;

use super::diary::{Diary, GAPS_MAX, Piece};
use super::flags::Flags;
use super::image::{From, Image};
use super::iomem::Iomem;
use super::lime::Layout;
use super::map::{Row, Shown, each_row};
use super::physical::Physical;
use super::ranges::{PAGE, Range, total, without};
use super::smear::Smear;
use super::tables::Tables;
use super::tables::tests::{INFO, Small, small};
use crate::capture::Source;

/// Memory whose bytes are a function of their address; pages that fail, and pages that read as zeros.
#[derive(Default)]
struct Fake {
    exposed: Vec<Range>,
    bad: Vec<u64>,
    once: Mutex<Vec<u64>>,
    zero: Vec<u64>,
    flags: BTreeMap<u64, u64>,
    /// Flags that come up as soon as memory was read.
    late: BTreeMap<u64, u64>,
    /// Pages that were read.
    seen: Mutex<std::collections::BTreeSet<u64>>,
}

fn byte(at: u64) -> u8 {
    (at / 7 + at / PAGE) as u8 | 1
}

impl Physical for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn exposed(&self, ram: &[Range]) -> Vec<Range> {
        super::ranges::common(ram, &self.exposed)
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let pages = at / PAGE..=(at + buf.len() as u64 - 1) / PAGE;
        assert!(super::ranges::holding(&self.exposed, at).is_some_and(|r| at + buf.len() as u64 <= r.end), "{at:#x} is read");
        if self.bad.iter().any(|p| pages.contains(p)) {
            return Err(Errno::IO.into());
        }
        self.seen.lock().expect("lock").extend(pages.clone());
        let mut once = self.once.lock().expect("lock");
        if let Some(n) = once.iter().position(|p| pages.contains(p)) {
            if pages.start() == pages.end() {
                once.remove(n);
            }
            return Err(Errno::FAULT.into());
        }
        for page in pages {
            // The part of the buffer that lies in it.
            let from = (page * PAGE).max(at);
            let to = ((page + 1) * PAGE).min(at + buf.len() as u64);
            let blank = self.zero.contains(&page);
            for (at, slot) in (from..to).zip(&mut buf[(from - at) as usize..]) {
                *slot = if blank { 0 } else { byte(at) };
            }
        }
        Ok(buf.len())
    }
}

impl Flags for Fake {
    fn read(&self, first: u64, flags: &mut [u8]) -> Result<usize, Errno> {
        for (n, slot) in flags.chunks_exact_mut(8).enumerate() {
            let frame = first + n as u64;
            let late = self.late.get(&frame).filter(|_| !self.seen.lock().expect("lock").is_empty());
            slot.copy_from_slice(&late.or_else(|| self.flags.get(&frame)).copied().unwrap_or(0).to_le_bytes());
        }
        Ok(flags.len() / 8)
    }
}

/// Reads as the pipeline does: in buffers of one size, errors narrowed to units. Returns the bytes and the gaps.
fn read_all(image: &mut Image<'_>, size: u64, buffer: usize) -> (Vec<u8>, Vec<(u64, u64)>) {
    let (mut bytes, mut gaps, mut narrow) = (Vec::new(), Vec::<(u64, u64)>::new(), 0_u64);
    while (bytes.len() as u64) < size {
        let at = bytes.len() as u64;
        let unit = image.unit_end(at) - at;
        assert!(unit > 0);
        let want = if at < narrow { unit } else { buffer as u64 }.min(buffer as u64).min(size - at);
        let mut buf = vec![0xee; want as usize];
        let answer = image.read_at(at, &mut buf);
        // Reading may show that more than a page is blank: as the pipeline, ask afterwards.
        let unit = image.unit_end(at) - at;
        match answer {
            Ok(got) => {
                assert!(got > 0, "no early end");
                bytes.extend(&buf[..got]);
            }
            Err(_) if want > unit => narrow = at + want,
            Err(_) => {
                bytes.resize(bytes.len() + want as usize, 0);
                match gaps.last_mut() {
                    Some(last) if last.0 + last.1 == at => last.1 += want,
                    _ => gaps.push((at, want)),
                }
            }
        }
    }
    (bytes, gaps)
}

fn ram() -> Vec<Range> {
    vec![Range { start: 0x1000, end: 0x9_fc00 }, Range { start: 0x10_0000, end: 0x90_0000 }]
}

#[test]
fn an_image_has_every_byte_and_names_every_one_that_it_has_not() {
    let iomem = Iomem { ram: ram(), ..Iomem::default() };
    let fake = Fake {
        exposed: vec![Range { start: 0x1000, end: 0x9_f000 }, Range { start: 0x10_0000, end: 0x90_0000 }],
        bad: vec![0x150, 0x151, 0x8ff],
        once: Mutex::default(),
        zero: vec![0x200, 0x201, 0x300],
        // Poisoned and blanked; said to be offline but with content; blanked without a flag.
        flags: BTreeMap::from([(0x200, 1 << 19), (0x201, 1 << 23), (0x400, 1 << 23)]),
        ..Fake::default()
    };
    let exposed = fake.exposed(&iomem.ram);
    let layout = Layout::new(exposed.clone());
    for buffer in [512, 4095, 65_536, 300_001] {
        fake.once.lock().expect("lock").push(0x100);
        let mut smear = Smear::new(std::sync::Arc::default());
        let from = From { physical: &fake, tables: None, flags: Some(&fake), iomem: &iomem, withholds: true };
        let mut image = Image::new(&from, &layout, &mut smear, "map.jsonl");
        let (bytes, gaps) = read_all(&mut image, layout.size(), buffer);
        let diary = std::mem::take(&mut image.diary);

        // The bytes, by an own reading of the format.
        let mut seen = BTreeMap::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 8], b"EMiL\x01\0\0\0");
            let field = |n: usize| u64::from_le_bytes(bytes[at + n..at + n + 8].try_into().expect("8"));
            let (start, last) = (field(8), field(16));
            seen.insert(start, bytes[at + 32..at + 32 + (last - start + 1) as usize].to_vec());
            at += 32 + (last - start + 1) as usize;
        }
        assert_eq!(seen.iter().map(|(s, b)| Range { start: *s, end: s + b.len() as u64 }).collect::<Vec<_>>(), exposed);
        let lost = [0x150, 0x151, 0x8ff, 0x200, 0x201, 0x300];
        for (start, content) in &seen {
            for (n, value) in content.iter().enumerate() {
                let at = start + n as u64;
                assert_eq!(*value, if lost.contains(&(at / PAGE)) { 0 } else { byte(at) }, "{at:#x}");
            }
        }
        // What the pipeline makes gaps of: the pages that fail or were blanked, and nothing else. Offset of 0x100000: 0x9e000 + 64.
        let base = 0x9_e000 + 64;
        let offset = |page: u64| base + (page - 0x100) * PAGE;
        assert_eq!(gaps, [(offset(0x150), 2 * PAGE), (offset(0x200), 2 * PAGE), (offset(0x8ff), PAGE)], "buffer {buffer}");
        check_map(&diary, &layout, &iomem, &exposed);
    }
}

fn check_map(diary: &Diary, layout: &Layout, iomem: &Iomem, exposed: &[Range]) {
    let hidden = without(&iomem.ram, exposed);
    let mut rows: Vec<Row> = Vec::new();
    each_row(&Shown { diary, layout, hidden: &hidden, source: "fake", source_changes: 0 }, |row| rows.push(row));
    assert!(rows.windows(2).all(|w| w[0].end <= w[1].start), "ascending and disjoint");
    let all = super::ranges::normal(rows.iter().map(|r| Range { start: r.start, end: r.end }).collect());
    assert_eq!(all, iomem.ram, "every byte of System RAM is in one row");
    let of = |state: &str| -> Vec<Range> {
        super::ranges::normal(rows.iter().filter(|r| r.state == state).map(|r| Range { start: r.start, end: r.end }).collect())
    };
    assert_eq!(of("zeroed-by-kernel"), [Range { start: 0x20_0000, end: 0x20_2000 }]);
    let failed =
        [Range { start: 0x9_f000, end: 0x9_fc00 }, Range { start: 0x15_0000, end: 0x15_2000 }, Range { start: 0x8f_f000, end: 0x90_0000 }];
    assert_eq!(of("gap"), failed);
    assert_eq!(total(&of("data")), total(&iomem.ram) - total(&failed) - 0x2000);
    assert!(rows.iter().filter(|r| r.state == "data").all(|r| r.began_ns <= r.ended_ns && r.began_ns.is_some()));
    assert!(rows.iter().any(|r| r.reason.as_deref() == Some("not-exposed-by-kcore")));
    assert_eq!(diary.retried, 1, "the page that failed once only is there");
}

/// What was found blank in an image of 16 MiB at zero, page numbers.
fn blank_pages(fake: &Fake) -> Vec<u64> {
    let iomem = Iomem { ram: fake.exposed.clone(), ..Iomem::default() };
    let layout = Layout::new(fake.exposed.clone());
    let mut smear = Smear::new(std::sync::Arc::default());
    let mut image = Image::new(
        &From { physical: fake, tables: None, flags: Some(fake), iomem: &iomem, withholds: true },
        &layout,
        &mut smear,
        "map.jsonl",
    );
    read_all(&mut image, layout.size(), 300_001);
    let gaps = std::mem::take(&mut image.diary).gaps;
    gaps.iter().flat_map(|(r, _)| (r.start / PAGE)..(r.end / PAGE)).collect()
}

#[test]
fn a_poisoned_huge_page_is_blank_to_its_end() {
    const HEAD: u64 = 1 << 15 | 1 << 17 | 1 << 19;
    const TAIL: u64 = 1 << 16 | 1 << 17;
    let exposed = vec![Range { start: 0, end: 16 << 20 }];
    // Two huge pages; the first is poisoned, and the kernel blanks all of it. Zeros in the other are its own.
    let flags = (513..1024).map(|f| (f, TAIL)).chain([(512, HEAD), (1024, 1 << 15 | 1 << 17)]).chain((1025..1536).map(|f| (f, TAIL)));
    let fake = Fake { exposed, zero: (512..1024).chain([1030]).collect(), flags: flags.collect(), ..Fake::default() };
    assert_eq!(blank_pages(&fake), (512..1024).collect::<Vec<u64>>());
}

#[test]
fn one_page_that_came_back_does_not_make_its_neighbours_data() {
    let exposed = vec![Range { start: 0, end: 16 << 20 }];
    let flags = (100..200).map(|f| (f, 1 << 23)).collect();
    let fake = Fake { exposed, zero: (100..200).filter(|p| *p != 150 && *p != 151).collect(), flags, ..Fake::default() };
    assert_eq!(blank_pages(&fake), (100..150).chain(152..200).collect::<Vec<u64>>());
}

#[test]
fn zeros_of_a_page_that_was_taken_away_while_it_was_read_are_not_data() {
    const HEAD: u64 = 1 << 15 | 1 << 17;
    const TAIL: u64 = 1 << 16 | 1 << 17;
    // Within the window whose flags are known first: one page goes offline, and a huge page is poisoned, of which its head says so. A page
    // with content is data whatever comes up, and zeros without a flag are.
    let flags = (513..1024).map(|f| (f, TAIL)).chain([(512, HEAD)]).collect();
    let late = BTreeMap::from([(20, 1 << 23), (30, 1 << 23), (512, HEAD | 1 << 19)]);
    let zero = [10, 20].into_iter().chain(512..1024).collect();
    let fake = Fake { exposed: vec![Range { start: 0, end: 16 << 20 }], zero, flags, late, ..Fake::default() };
    assert_eq!(blank_pages(&fake), [20].into_iter().chain(512..1024).collect::<Vec<u64>>());
}

#[test]
fn where_broken_pages_are_not_withheld_they_are_not_read() {
    let exposed = vec![Range { start: 0, end: 4 << 20 }];
    let flags = BTreeMap::from([(10, 1 << 19), (11, 1 << 23), (12, 1 << 20)]);
    let fake = Fake { exposed: exposed.clone(), zero: vec![12], flags, ..Fake::default() };
    let (iomem, layout) = (Iomem { ram: exposed.clone(), ..Iomem::default() }, Layout::new(exposed));
    let mut smear = Smear::new(std::sync::Arc::default());
    let from = From { physical: &fake, tables: None, flags: Some(&fake), iomem: &iomem, withholds: false };
    let mut image = Image::new(&from, &layout, &mut smear, "map.jsonl");
    let (_, gaps) = read_all(&mut image, layout.size(), 65_536);
    assert_eq!(gaps, [(32 + 10 * PAGE, 3 * PAGE)]);
    let seen = fake.seen.lock().expect("lock").clone();
    assert!(!seen.contains(&10) && !seen.contains(&11) && [9, 12, 13].iter().all(|p| seen.contains(p)));
    let diary = std::mem::take(&mut image.diary);
    let mut rows = Vec::new();
    each_row(&Shown { diary: &diary, layout: &layout, hidden: &[], source: "fake", source_changes: 0 }, |r| {
        rows.push((r.start / PAGE, r.end / PAGE, r.state, r.reason.unwrap_or_default()));
    });
    let told: Vec<_> = rows.iter().map(|r| (r.0, r.1, r.2)).collect();
    let expected = [(0, 10, "data"), (10, 11, "gap"), (11, 12, "gap"), (12, 13, "zeroed-by-kernel"), (13, 1024, "data")];
    assert_eq!(told, expected);
    assert!(rows[1].3.contains("not read: hwpoison") && rows[2].3.contains("not read: offline"), "{rows:?}");
}

/// First page, the one behind the last, state.
type States = Vec<(u64, u64, &'static str)>;

/// The states of an image of the memory in which [`super::tables::tests`] has page tables, and the gaps of the pipeline: first page, how many.
fn states(memory: &Small, tables: Option<&Tables>, buffer: usize) -> (States, Vec<(u64, u64)>) {
    let iomem = Iomem { ram: vec![Range { start: 0, end: 1 << 20 }], ..Iomem::default() };
    let layout = Layout::new(iomem.ram.clone());
    let mut smear = Smear::new(std::sync::Arc::default());
    let mut image =
        Image::new(&From { physical: memory, tables, flags: None, iomem: &iomem, withholds: true }, &layout, &mut smear, "map.jsonl");
    let (bytes, gaps) = read_all(&mut image, layout.size(), buffer);
    assert!(bytes[32..] == memory.0[..], "buffer {buffer}");
    let diary = std::mem::take(&mut image.diary);
    let mut rows = States::new();
    each_row(&Shown { diary: &diary, layout: &layout, hidden: &[], source: "fake", source_changes: 0 }, |r| match rows.last_mut() {
        Some(last) if last.2 == r.state => last.1 = r.end / PAGE,
        _ => {
            assert!(r.state != "zeroed-by-kernel" || r.reason.as_deref() == Some("not-mapped"), "{r:?}");
            rows.push((r.start / PAGE, r.end / PAGE, r.state));
        }
    });
    (rows, gaps.iter().map(|(at, count)| ((at - 32) / PAGE, count / PAGE)).collect())
}

#[test]
fn zeros_of_pages_that_the_kernel_does_not_map_are_not_data() {
    let memory = small(&[7, 8, 100, 255]);
    let tables = Tables::of(&memory, INFO, |_| None).expect("understood");
    for buffer in [512, 4095, 4096, 65_536, 300_001, 2 << 20] {
        let (rows, gaps) = states(&memory, Some(&tables), buffer);
        let expected = [(0, 7, "data"), (7, 9, "zeroed-by-kernel"), (9, 100, "data"), (100, 101, "zeroed-by-kernel")];
        assert_eq!(rows, [&expected[..], &[(101, 255, "data"), (255, 256, "zeroed-by-kernel")]].concat(), "buffer {buffer}");
        assert_eq!(gaps, [(7, 2), (100, 1), (255, 1)], "buffer {buffer}");
    }
    // Content is content, whatever the tables say.
    let mut full = small(&[7]);
    full.0[7 * 4096 + 4095] = 1;
    assert_eq!(states(&full, Some(&tables), 65_536).0, [(0, 256, "data")]);
    assert_eq!(states(&memory, None, 65_536).0, [(0, 256, "data")], "without tables it is the preflight that says so");
}

#[test]
fn zeros_of_which_nothing_says_what_they_are_stand_as_uncertain() {
    let mut memory = small(&[]);
    let tables = Tables::of(&memory, INFO, |_| None).expect("understood");
    // The last table is said to be where nothing is; the first four pages with a table, and the one with its content, are no zeros.
    memory.0[0x3000..0x3008].copy_from_slice(&0x000f_ffff_ffff_f063_u64.to_le_bytes());
    let (rows, gaps) = states(&memory, Some(&tables), 65_536);
    assert_eq!(rows, [(0, 1, "uncertain"), (1, 5, "data"), (5, 256, "uncertain")]);
    assert_eq!(gaps, []);
}

#[test]
fn pages_of_another_size_have_no_flags_and_no_tables() {
    use crate::capture::Status;
    let mut out = crate::capture::testing::Memory::default();
    assert!(super::open_flags(&mut out, 65_536).expect("no stop").is_none());
    let item = &out.get("kpageflags-before.bin").expect("an item").item;
    assert!(item.status == Status::Skipped && item.reason.as_ref().is_some_and(|r| r.contains("65536 bytes")), "{item:?}");
    assert!(super::tables(Some(&small(&[])), INFO, 65_536).is_err() && super::tables(Some(&small(&[])), INFO, PAGE).is_ok());
}

#[test]
fn where_gaps_are_too_many_to_tell_why_it_is_still_told_what_is_data() {
    // Every other page of the first range is one, and some of the second, which begins within a page.
    let first = 2 * GAPS_MAX as u64 + 10;
    let ranges = vec![Range { start: 0, end: first * PAGE }, Range { start: (first + 100) * PAGE + 512, end: (first + 300) * PAGE }];
    let layout = Layout::new(ranges.clone());
    let mut diary = Diary::default();
    diary.pieces.push(Piece { range: Range { start: 0, end: ranges[1].end }, began_ns: 1, ended_ns: 2 });
    let lost = (0..first / 2).map(|n| Range { start: 2 * n * PAGE, end: (2 * n + 1) * PAGE });
    let later = [(100, 101), (150, 220), (299, 300)].map(|(a, b)| Range { start: (first + a) * PAGE, end: (first + b) * PAGE });
    let lost: Vec<Range> = lost.chain(super::ranges::common(&ranges, &later)).collect();
    for range in &lost {
        diary.gap(layout.ranges(), *range, "bad");
    }
    let mut rows = Vec::new();
    each_row(&Shown { diary: &diary, layout: &layout, hidden: &[], source: "fake", source_changes: 0 }, |r| rows.push(r));
    let of = |states: &[&str]| -> Vec<Range> {
        super::ranges::normal(rows.iter().filter(|r| states.contains(&r.state)).map(|r| Range { start: r.start, end: r.end }).collect())
    };
    assert_eq!(of(&["gap", "uncertain"]), lost);
    assert_eq!(of(&["gap"]), lost[..GAPS_MAX]);
    assert_eq!(of(&["data"]), without(&ranges, &lost));
    assert!(rows.iter().all(|r| r.state != "uncertain" || r.reason.as_ref().is_some_and(|r| r.contains("too many"))));
}

/// The status of an image of 1 MiB of memory and a part of a page, of which the source shows this, and why.
fn of_what_is_shown(shown: Range) -> (crate::capture::Status, String) {
    let iomem = Iomem { ram: vec![Range { start: 0x10_0000, end: 0x20_0c00 }], ..Iomem::default() };
    let fake = Fake { exposed: vec![shown], ..Fake::default() };
    let exposed = super::ranges::common(&iomem.ram, &[shown]);
    let no_tables: Result<Tables, String> = Err("none".to_owned());
    let preflight = super::preflight::Preflight::look(&iomem, Some(&fake), &exposed, Vec::new(), b"", &no_tables);
    let layout = Layout::new(exposed.clone());
    let run = super::Run { physical: &fake, tables: None, flags: None, iomem: &iomem, exposed, preflight };
    let mut out = crate::capture::testing::Memory::default();
    run.image(&mut out, super::FULL, (&iomem.ram, &layout), &mut Smear::new(std::sync::Arc::default())).expect("no stop");
    let put = out.get("memory.lime").expect("an image");
    (put.status, put.item.reason.clone().unwrap_or_default())
}

#[test]
fn an_image_without_a_part_of_the_memory_is_not_whole() {
    use crate::capture::Status;
    // What is left of a page at the end is none that the kernel uses.
    assert_eq!(of_what_is_shown(Range { start: 0x10_0000, end: 0x20_0000 }), (Status::Collected, String::new()));
    let (status, why) = of_what_is_shown(Range { start: 0x10_0000, end: 0x1f_0000 });
    assert_eq!(status, Status::Partial, "{why}");
    assert!(why.contains("68608 bytes") && why.contains("fake") && why.contains("map.jsonl"), "{why}");
}

#[test]
fn what_was_not_reached_stands_as_not_read() {
    let (iomem, fake) = (Iomem { ram: ram(), ..Iomem::default() }, Fake { exposed: ram(), ..Fake::default() });
    let layout = Layout::new(ram());
    let mut smear = Smear::new(std::sync::Arc::default());
    let from = From { physical: &fake, tables: None, flags: None, iomem: &iomem, withholds: true };
    let mut image = Image::new(&from, &layout, &mut smear, "map.jsonl");
    let half = layout.size() / 2;
    read_all(&mut image, half, 4096);
    let mut sums = BTreeMap::new();
    let diary = std::mem::take(&mut image.diary);
    each_row(&Shown { diary: &diary, layout: &layout, hidden: &[], source: "fake", source_changes: 0 }, |row| {
        *sums.entry(row.state).or_insert(0) += row.end - row.start;
    });
    assert_eq!(sums.values().sum::<u64>(), total(&ram()));
    assert_eq!(sums.keys().copied().collect::<Vec<_>>(), ["data", "not-read"]);
    assert_eq!(sums["data"], half - 64);
}

/// Where this host gives its memory, all of it; where it does not, a clear word.
#[test]
fn this_host_gives_its_memory_or_says_why_not() {
    let out = crate::capture::testing::Memory::run(&super::Memory, &[("full", "false"), ("priority", "false"), ("fallback", "false")]);
    let preflight: serde_json::Value = serde_json::from_slice(out.content("preflight.json")).expect("json");
    if out.nothing {
        let image = out.get("memory.lime").expect("an item says so");
        assert!(image.content.is_none() && image.item.reason.as_ref().is_some_and(|r| r.contains("/proc/")), "{:?}", image.item);
        assert!(preflight["source"].is_null() && !preflight["refused"].as_array().expect("list").is_empty());
    } else {
        assert!(preflight["exposed_bytes"].as_u64().expect("number") > 0);
    }
    assert!(out.get("/proc/kallsyms").is_some() && out.get("/proc/iomem").is_some());
}

/// Memory of zeros and flags by a rule, so that nothing of it takes memory itself: of each 40 pages three are slab, and the
/// second of those cannot be read.
struct Scattered;

impl Physical for Scattered {
    fn name(&self) -> &'static str {
        "scattered"
    }

    fn exposed(&self, ram: &[Range]) -> Vec<Range> {
        ram.to_vec()
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        if (at / PAGE..=(at + buf.len() as u64 - 1) / PAGE).any(|page| page % 40 == 1) {
            return Err(Errno::IO.into());
        }
        buf.fill(7);
        Ok(buf.len())
    }
}

impl Flags for Scattered {
    fn read(&self, first: u64, flags: &mut [u8]) -> Result<usize, Errno> {
        for (n, slot) in flags.chunks_exact_mut(8).enumerate() {
            let bits: u64 = if (first + n as u64) % 40 < 3 { 1 << 7 } else { 1 << 10 };
            slot.copy_from_slice(&bits.to_le_bytes());
        }
        Ok(flags.len() / 8)
    }
}

/// A first pass over so many groups of 40 pages: what it chose, and its gaps.
fn scattered(groups: u64) -> (usize, usize) {
    let ram = vec![Range { start: 0, end: groups * 40 * PAGE }];
    let iomem = Iomem { ram: ram.clone(), ..Iomem::default() };
    let choice = super::select::choose(&Scattered, &ram, &iomem, groups * 4, &mut || Ok(())).expect("no stop");
    let layout = std::sync::Arc::new(Layout::new(choice.ranges));
    let mut smear = Smear::new(std::sync::Arc::clone(&layout));
    let from = From { physical: &Scattered, tables: None, flags: Some(&Scattered), iomem: &iomem, withholds: true };
    let mut image = Image::new(&from, &layout, &mut smear, "map.jsonl");
    let (mut at, mut buf) = (0, vec![0; PAGE as usize]);
    while at < layout.size() {
        let unit = (image.unit_end(at) - at).min(PAGE);
        at += image.read_at(at, &mut buf[..unit as usize]).map_or(unit, |got| got as u64);
    }
    let diary = std::mem::take(&mut image.diary);
    let mut rows = 0_usize;
    each_row(&Shown { diary: &diary, layout: &layout, hidden: &[], source: "scattered", source_changes: 0 }, |_| rows += 1);
    assert!(rows > diary.gaps.len());
    (layout.ranges().len(), diary.gaps.len())
}

/// A value of this process's status, bytes.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = text.lines().find_map(|l| l.strip_prefix(name)).expect("a line");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// Only where each test is a process of its own, as the test runner does it, is the peak that of this test.
#[test]
fn the_tables_of_the_most_scattered_memory_are_as_small_as_the_formula_says() {
    let _ = exhibit_agent_sys::allocator::bound_allocator();
    scattered(100);
    exhibit_agent_sys::allocator::release_free_memory();
    let before = status("VmRSS");
    // Sets the peak to what there is now.
    if std::fs::write("/proc/self/clear_refs", "5").is_err() || std::env::var_os("NEXTEST").is_none() {
        eprintln!("left out: the peak of this test alone is not known here");
        return;
    }
    let (runs, gaps) = scattered(50_000);
    assert_eq!((runs, gaps), (super::select::RUNS_MAX, 32_768), "the worst that is told apart");
    let peak = status("VmHWM") - before;
    eprintln!("{} KiB", peak >> 10);
    assert!(peak <= crate::pipeline::memory::Memory::TABLES_BYTES as u64, "{} KiB", peak >> 10);
}
