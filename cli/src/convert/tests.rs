use super::*;
use crate::memory::image::Physical;
use crate::memory::lime::tests::image;
use crate::memory::{notes, u32_at, u64_at};
use proptest::prelude::*;

/// A file in memory.
#[derive(Debug, Default)]
pub struct Held(pub Vec<u8>);

impl Output for Held {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset as usize + bytes.len();
        if self.0.len() < end {
            self.0.resize(end, 0);
        }
        self.0[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        self.0.get(offset as usize..).and_then(|b| b.get(..into.len())).is_some_and(|b| {
            into.copy_from_slice(b);
            true
        })
    }
}

/// Converts content that arrives in pieces; zeros of a piece's length arrive as a hole.
fn convert(format: Format, content: &[u8], step: usize, about: impl Into<About>) -> Result<(Vec<u8>, Made)> {
    let (mut conversion, _) = conversion(format, Content::Memory, b"memory/memory.lime", about)?;
    let mut out = Held::default();
    for (i, piece) in content.chunks(step).enumerate() {
        if piece.iter().any(|b| *b != 0) {
            conversion.write((i * step) as u64, piece, &mut out)?;
        }
    }
    let made = conversion.end(content.len() as u64, &mut out)?;
    out.0.resize(made.size as usize, 0);
    Ok((out.0, made))
}

/// Segments of an ELF file: type, virtual and physical address, content.
fn segments(elf: &[u8]) -> Vec<(u32, u64, u64, &[u8])> {
    assert_eq!(&elf[..7], b"\x7fELF\x02\x01\x01");
    let half = |at: usize| usize::from(elf[at]) | usize::from(elf[at + 1]) << 8;
    let table = u64_at(elf, 32).expect("offset") as usize;
    let count = match half(56) {
        0xffff => u32_at(elf, u64_at(elf, 40).expect("sections") as usize + 44).expect("count") as usize,
        count => count,
    };
    assert_eq!((half(16), half(18), half(52), half(54)), (4, 62, 64, 56));
    let one = |i: usize| {
        let word = |n: usize| u64_at(elf, table + i * 56 + n * 8).expect("header");
        assert_eq!(word(4), word(5), "file and memory size");
        assert!(word(1) % word(6) == 0, "aligned as it says");
        (u32_at(elf, table + i * 56).expect("type"), word(2), word(3), &elf[word(1) as usize..][..word(4) as usize])
    };
    (0..count).map(one).collect()
}

#[test]
fn each_format_has_the_same_bytes() {
    let page = |n: u8| vec![n; 4_096];
    let zero = page(0);
    let content = image(&[(0x1000, &[page(1), zero].concat()), (0x3000, &page(2)), (0x9000, &page(3))]);
    for step in [13, 64, 4_096, 100_000] {
        let (same, _) = convert(Format::Lime, &content, step, Companions::default()).expect("good");
        assert_eq!(same, content);
        let (raw, made) = convert(Format::Raw, &content, step, Companions::default()).expect("good");
        assert_eq!((raw.len(), made.size), (0xa000, 0xa000));
        assert_eq!((raw[0xfff], raw[0x1000], raw[0x2000], raw[0x3fff], raw[0x4000], raw[0x9fff]), (0, 1, 0, 2, 0, 3));
        let companions = Companions { notes: None, vmcoreinfo: Some(b"OSRELEASE=6.1\n".to_vec()) };
        let (elf, made) = convert(Format::Elf, &content, step, companions).expect("good");
        assert_eq!(elf.len() as u64, made.size);
        let found = segments(&elf);
        assert_eq!(found.iter().map(|s| (s.0, s.2, s.3.len())).collect::<Vec<_>>(), [(4, 0, 40), (1, 0x1000, 0x3000), (1, 0x9000, 0x1000)]);
        assert_eq!(notes::vmcoreinfo(found[0].3), Some(&b"OSRELEASE=6.1\n"[..]));
        assert_eq!((found[1].3, found[2].3), (&raw[0x1000..0x4000], &raw[0x9000..0xa000]));
        assert!(made.notes.iter().any(|n| n.contains("could not be followed")), "{:?}", made.notes);
    }
}

#[test]
fn virtual_addresses_are_the_direct_maps() {
    let memory = crate::memory::paging::tests::tables().bytes(0, 0x5000).expect("there");
    let mut all = memory[0x1000..].to_vec();
    all.resize(0x3f_f000, 0);
    let content = image(&[(0x1000, &all)]);
    let text = "OSRELEASE=6.1\nSYMBOL(swapper_pg_dir)=ffffffff80001000\nNUMBER(phys_base)=0\n";
    let companions = Companions { notes: notes::write(b"CORE", 1, b"regs"), vmcoreinfo: Some(text.as_bytes().to_vec()) };
    let (elf, _) = convert(Format::Elf, &content, 70_000, companions).expect("good");
    let found = segments(&elf);
    assert_eq!(found[1].1, 0xffff_8880_0000_0000 + (3 << 30) + 0x1000);
    let notes = notes::read(found[0].3);
    assert_eq!(notes.iter().map(|n| n.name).collect::<Vec<_>>(), [&b"CORE"[..], b"VMCOREINFO"]);
}

#[test]
fn one_page_that_is_not_mapped_does_not_deny_the_direct_map() {
    let memory = crate::memory::paging::tests::tables().bytes(0, 0x5000).expect("there");
    let mut all = memory[0x1000..].to_vec();
    // The tables end at 0x400000: of the last page they say nothing.
    all.resize(0x40_0000, 0);
    let text = "OSRELEASE=6.1\nSYMBOL(swapper_pg_dir)=ffffffff80001000\nNUMBER(phys_base)=0\n";
    let made = |all: &[u8]| {
        let companions = Companions { notes: None, vmcoreinfo: Some(text.as_bytes().to_vec()) };
        let (elf, made) = convert(Format::Elf, &image(&[(0x1000, all)]), 70_000, companions).expect("good");
        (segments(&elf)[1].1, made.notes.concat())
    };
    let (address, notes) = made(&all);
    assert_eq!(address, 0xffff_8880_0000_0000 + (3 << 30) + 0x1000);
    assert!(notes.contains("of 4 of 5 pages"), "{notes}");
    // Most of it is not there: nothing is guessed.
    all.resize(0x200_0000, 0);
    let (address, notes) = made(&all);
    assert!(address == 0 && notes.contains("could not be followed"), "{address:x} {notes}");
}

#[test]
fn more_segments_than_the_header_counts() {
    let one = [7_u8; 1];
    let ranges: Vec<(u64, &[u8])> = (0..70_000_u64).map(|i| (i * 2, &one[..])).collect();
    let (elf, made) = convert(Format::Elf, &image(&ranges), 4_096, Companions::default()).expect("good");
    let found = segments(&elf);
    assert_eq!((found.len(), found[70_000].2, found[70_000].3), (70_001, 139_998, &[7][..]));
    assert!(made.notes.iter().any(|n| n.contains("more than volatility3 reads")));
}

#[test]
fn what_is_no_image_is_refused() {
    let good = image(&[(0x1000, b"abc")]);
    for format in [Format::Lime, Format::Elf, Format::Raw] {
        assert!(convert(format, &good[..34], 10, Companions::default()).is_err());
        assert!(convert(format, b"", 10, Companions::default()).is_err());
    }
    let far = image(&[(1 << 50, b"abc")]);
    assert!(convert(Format::Raw, &far, 10, Companions::default()).expect_err("too large").message.contains("larger than"));
    assert!(convert(Format::Elf, &far, 10, Companions::default()).is_ok());
    // What its item says is enough to refuse it before anything is read.
    let refusal = |end: &str| raw::refusal(&[("image_end".to_owned(), end.to_owned())].into());
    assert!(refusal("0x100000001000").is_some_and(|why| why.contains("0x100000001000") && why.contains("larger than")));
    assert_eq!((refusal("0x100000000000"), refusal("nonsense"), raw::refusal(&std::collections::BTreeMap::default())), (None, None, None));
    let name = |format| conversion(format, Content::Memory, b"memory/memory.lime", Companions::default()).expect("good").1;
    assert_eq!(
        (name(Format::Elf), name(Format::Raw), name(Format::Lime)),
        (b"memory/memory.elf".to_vec(), b"memory/memory.raw".to_vec(), b"memory/memory.lime".to_vec())
    );
    assert!(conversion(Format::Elf, Content::Disk, b"disk/sda", Companions::default()).is_err());
}

#[test]
fn raw_does_not_call_memory_what_nobody_read() {
    let content = image(&[(0x1000, &[1; 0x3000])]);
    let note = |unread| {
        let about = About { unread, ..About::default() };
        let (mut raw, _) = conversion(Format::Raw, Content::Memory, b"memory.lime", about).expect("good");
        let mut out = Held::default();
        raw.write(0, &content, &mut out).expect("good");
        raw.end(content.len() as u64, &mut out).expect("good").notes.concat()
    };
    assert_eq!(note(Unread::default()), "12.0 KiB of its 16.0 KiB are memory, the rest is between ranges");
    let said = note(Unread { bytes: 0x1000, at_most: false });
    assert!(said.contains("8.0 KiB of its 16.0 KiB are memory that was read; 4.0 KiB could not be read and are zeros"), "{said}");
    let said = note(Unread { bytes: 0x2000, at_most: true });
    assert!(said.contains("at least 4.0 KiB") && said.contains("up to 8.0 KiB could not be read"), "{said}");
}

/// What was read up to the last whole page is in every format, and nothing of what stands behind.
#[test]
fn of_an_image_that_was_cut_off_there_is_what_was_read() {
    let page = |n: u8| vec![n; 4_096];
    let first = [page(1), page(2)].concat();
    let mut content = image(&[(0x1000, &first), (0x8000, &[page(3), page(4), page(5)].concat()), (0x2_0000, &page(6))]);
    // In the second page of the second range. The rest was not read: zeros, where another header should be as well.
    let cut = 32 + 2 * 4_096 + 32 + 4_096 + 100;
    content[cut..].fill(0);
    assert!(convert(Format::Elf, &content, 64, Companions::default()).is_err(), "as if it were whole");
    let about = |cut: usize| About { cut: Some(cut as u64), ..About::default() };
    let there = image(&[(0x1000, &first), (0x8000, &page(3))]);
    for step in [13, 64, 4_096, 100_000] {
        let (lime, made) = convert(Format::Lime, &content, step, about(cut)).expect("good");
        assert_eq!((lime.len(), made.size), (there.len(), there.len() as u64));
        assert!(lime == there, "its last header says what is there");
        let notes = made.notes.concat();
        assert!(notes.contains("cut off") && notes.contains("12.0 KiB of memory below 0x9000"), "{notes}");
        let (raw, made) = convert(Format::Raw, &content, step, about(cut)).expect("good");
        assert_eq!((raw.len(), raw[0x2fff], raw[0x8000], raw[0x8fff]), (0x9000, 2, 3, 3));
        assert!(made.notes[0].contains("cut off"), "{:?}", made.notes);
        let (elf, made) = convert(Format::Elf, &content, step, about(cut)).expect("good");
        let found: Vec<(u64, &[u8])> = segments(&elf).into_iter().skip(1).map(|s| (s.2, s.3)).collect();
        assert!(found == [(0x1000, &first[..]), (0x8000, &page(3)[..])], "{:?}", made.notes);
        assert!(made.notes[0].contains("cut off"), "{:?}", made.notes);
    }
    // Between two ranges, and within the header of the next one, everything before is there.
    for cut in [32 + 2 * 4_096, 32 + 2 * 4_096 + 9] {
        assert!(convert(Format::Lime, &content, 64, about(cut)).expect("good").0 == image(&[(0x1000, &first)]));
    }
    assert!(convert(Format::Raw, &content, 64, about(40)).is_err(), "not even one page");
}

#[test]
fn what_was_cut_off_is_refused_unless_it_is_asked_for() {
    let item = |reason: &str, gaps: &[(u64, u64, &str)]| -> Item {
        let gaps: Vec<_> = gaps.iter().map(|(at, n, why)| serde_json::json!({"offset": at, "length": n, "reason": why})).collect();
        let when = "2026-01-02T03:04:05.000000000Z";
        let item = serde_json::json!({
            "n": 0, "capture": "memory", "path": "memory.lime", "kind": "record", "status": "partial", "size": 1_000, "reason": reason,
            "taken": {"start": when, "end": when, "mono_start_ns": 0, "mono_end_ns": 0}, "method": "read", "gaps": gaps,
        });
        serde_json::from_value(item).expect("an item")
    };
    let list = (10, 390, "1024 or more unreadable ranges: those from here on are in 'map.jsonl'");
    let rest = (400, 600, "not read: the deadline passed");
    let cut = item("not read to the end: the deadline passed", &[(0, 5, "EIO"), list, rest]);
    assert_eq!(cut_at(&cut), Some(400));
    assert!(refusal(Format::Elf, Content::Memory, &cut, false).is_some_and(|why| why.contains("400 B") && why.contains("--cut-off")));
    assert_eq!((refusal(Format::Elf, Content::Memory, &cut, true), refusal(Format::Raw, Content::Disk, &cut, false)), (None, None));
    let of = |content| About::of(&cut, content, Companions::default(), e01::Media::default());
    assert_eq!((of(Content::Memory).cut, of(Content::Memory).unread), (Some(400), Unread { bytes: 395, at_most: true }));
    assert_eq!((of(Content::Disk).cut, of(Content::Disk).unread.bytes), (None, 995));
    // The last pages of memory could not be read, or none after many others: nobody told it to end.
    for (reason, gap) in [("unreadable ranges: EIO", (400, 600, "EIO")), ("unreadable ranges: EIO", rest)] {
        assert_eq!(cut_at(&item(reason, &[gap])), None, "{reason}");
    }
    assert_eq!(cut_at(&item("not read to the end: the deadline passed", &[(400, 500, "not read: the deadline passed")])), None);
}

proptest! {
    /// Whatever the ranges and cuts: each format has every byte at its address.
    #[test]
    fn nothing_is_lost(ranges in proptest::collection::vec((1_u64..5_000, proptest::collection::vec(any::<u8>(), 1..300)), 1..8), step in 1_usize..700) {
        let mut placed = Vec::new();
        let mut at = 0;
        for (gap, bytes) in &ranges {
            placed.push((at + gap - 1, bytes.as_slice()));
            at += gap - 1 + bytes.len() as u64;
        }
        let content = image(&placed);
        let raw = convert(Format::Raw, &content, step, Companions::default()).expect("good").0;
        let elf = convert(Format::Elf, &content, step, Companions::default()).expect("good").0;
        let mut from_elf = vec![0; raw.len()];
        for (_, _, address, bytes) in segments(&elf).into_iter().skip(1) {
            from_elf[address as usize..address as usize + bytes.len()].copy_from_slice(bytes);
        }
        prop_assert_eq!(&raw, &from_elf);
        for (address, bytes) in placed {
            prop_assert_eq!(&raw[address as usize..address as usize + bytes.len()], bytes);
        }
    }
}
