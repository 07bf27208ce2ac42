//! A block device that fails in every way that is known of failing disks, through the whole pipeline.

use std::collections::{BTreeMap, BTreeSet};

use exhibit_evidence::manifest::Kind;

use super::*;
use crate::capture::disk::drive::{Drive, Geometry, Identity};
use crate::capture::disk::image::ImageSource;
use crate::capture::disk::layout;
use crate::capture::disk::source::DeviceSource;
use crate::capture::disk::usage::Usage;
use crate::capture::evidence_path;

/// A disk in memory. It refuses what a real one refuses of a reader past the page cache.
#[derive(Default)]
struct Failing {
    data: Vec<u8>,
    geometry: Geometry,
    direct: bool,
    /// Past the page cache nothing is read at all.
    no_direct: bool,
    /// From this byte on nothing is.
    no_direct_from: Option<u64>,
    /// Sectors that fail every time.
    bad: BTreeSet<u64>,
    /// Sectors that fail so many times.
    flaky: BTreeMap<u64, u32>,
    /// From this byte on the device is gone once it was asked for.
    gone_from: Option<u64>,
    /// From this byte on it has nothing more, though it said so.
    ends_at: Option<u64>,
    gone: bool,
    /// From this byte on a read never comes back.
    hangs_from: Option<u64>,
    /// By so much it is larger when it is asked after the reading.
    grows: u64,
    /// Sectors written, for each time it is asked.
    changed: std::cell::Cell<u64>,
    changes: u64,
    reads: usize,
}

impl Failing {
    fn new(bytes: usize, sector: u32) -> Self {
        let geometry = Geometry { size: bytes as u64, logical_sector: sector, ..Geometry::default() };
        Self { data: noise(bytes, 7), geometry, direct: true, ..Self::default() }
    }
}

impl Drive for Failing {
    fn pread(&mut self, offset: u64, buffer: &mut Vec<u8>, part: std::ops::Range<usize>) -> io::Result<usize> {
        let buf = &mut buffer[part];
        let error = |n| Err(io::Error::from_raw_os_error(n));
        self.reads += 1;
        let sector = u64::from(self.geometry.logical_sector);
        assert!(buf.as_ptr().align_offset(4096) == 0 && offset.is_multiple_of(sector) && (buf.len() as u64).is_multiple_of(sector));
        if self.hangs_from.is_some_and(|from| offset + buf.len() as u64 > from) {
            // As what leaves such a read behind says it.
            buffer.clear();
            return Err(io::Error::new(io::ErrorKind::TimedOut, "a read did not come back within 300 s: left behind"));
        }
        if self.direct && (self.no_direct || self.no_direct_from.is_some_and(|from| offset + buf.len() as u64 > from)) {
            return error(22);
        }
        let sectors = offset / sector..(offset + buf.len() as u64) / sector;
        if self.gone || self.gone_from.is_some_and(|from| offset + buf.len() as u64 > from) {
            self.gone = true;
            return error(5);
        }
        if sectors.clone().any(|s| self.bad.contains(&s)) {
            return error(5);
        }
        for s in sectors {
            if let Some(left) = self.flaky.get_mut(&s).filter(|left| **left > 0) {
                *left -= 1;
                return error(5);
            }
        }
        let end = self.ends_at.unwrap_or(self.data.len() as u64).min(self.data.len() as u64);
        let got = (buf.len() as u64).min(end.saturating_sub(offset)) as usize;
        buf[..got].copy_from_slice(&self.data[offset as usize..][..got]);
        Ok(got)
    }
    fn through_cache(&mut self) -> bool {
        std::mem::take(&mut self.direct)
    }
    fn size(&self) -> io::Result<u64> {
        if self.gone { Err(io::Error::from_raw_os_error(6)) } else { Ok(self.geometry.size + if self.reads > 0 { self.grows } else { 0 }) }
    }
    fn changed(&self) -> Option<u64> {
        self.changed.set(self.changed.get() + self.changes);
        Some(self.changed.get())
    }
    fn give_back(&mut self, _: u64, _: bool) {}
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    fn is_direct(&self) -> bool {
        self.direct
    }
    fn identity(&self) -> Option<&Identity> {
        None
    }
}

const LIST: &str = "sdx/bad-sectors.jsonl";

fn image(make: impl Fn() -> Failing + Send + 'static, tries: u32) -> Seen {
    run(vec![script("disk", move |out| {
        let mut source = DeviceSource::new(make(), tries, LIST.to_owned());
        let size = source.geometry().size;
        let item = NewItem::new(evidence_path("/dev/sdx"), Kind::BlockDevice, out.now(), "pread");
        out.put(item, Content::Source { size, extents: None, source: &mut source })?;
        out.put(NewItem::record("after.txt", out.now(), "test"), Content::Bytes(b"the next one")).map(drop)
    })])
}

fn rows(seen: &Seen) -> Vec<serde_json::Value> {
    let lines = seen.content(LIST).split(|b| *b == b'\n').filter(|l| !l.is_empty());
    lines.map(|l| serde_json::from_slice(l).expect("JSON")).collect()
}

fn gaps(seen: &Seen) -> Vec<(u64, u64)> {
    seen.item("/dev/sdx").gaps.iter().map(|g| (g.offset, g.length)).collect()
}

#[test]
fn a_sound_disk_is_its_own_digest() {
    for (bytes, sector) in [(3 << 20, 512), (5 << 20, 4096), (512 * 3, 512), ((1 << 20) + 512, 512)] {
        let seen = image(move || Failing::new(bytes, sector), 2);
        let item = seen.item("/dev/sdx");
        assert_eq!((item.status, item.sha256), (Status::Collected, Some(Digest::of(&noise(bytes, 7)))));
        assert!(item.facts["read"].contains("O_DIRECT") && item.gaps.is_empty());
        assert!(!seen.items.iter().any(|i| i.path.as_bytes() == LIST.as_bytes()), "no list of nothing");
    }
}

#[test]
fn what_is_lost_is_exactly_the_bad_sectors() {
    for sector in [512_u64, 4096] {
        let bad = [0, 9, 10, 700, 1023];
        let bytes = (sector * 1024) as usize;
        let seen = image(move || Failing { bad: bad.into(), ..Failing::new(bytes, sector as u32) }, 3);
        assert_eq!(gaps(&seen), [(0, sector), (9 * sector, 2 * sector), (700 * sector, sector), (1023 * sector, sector)]);
        let mut want = noise(bytes, 7);
        for lba in bad {
            want[(lba * sector) as usize..][..sector as usize].fill(0);
        }
        let item = seen.item("/dev/sdx");
        assert!(item.status == Status::Partial && item.sha256 == Some(Digest::of(&want)) && seen.content("/dev/sdx") == want);
        let lbas: Vec<(u64, u64)> =
            rows(&seen).iter().map(|r| (r["first_lba"].as_u64().expect("number"), r["last_lba"].as_u64().expect("number"))).collect();
        assert_eq!(lbas, [(0, 0), (9, 10), (700, 700), (1023, 1023)]);
        assert!(rows(&seen).iter().all(|r| r["tries"] == 3 && r["errno"] == 5 && r["sector_bytes"] == sector));
        assert_eq!(seen.item("after.txt").status, Status::Collected, "never the end of the capture");
    }
}

#[test]
fn a_sector_that_answers_when_asked_again_is_taken() {
    // It fails in the large read, in the smaller one, and once alone.
    let seen = image(|| Failing { flaky: [(100, 3)].into(), ..Failing::new(1 << 20, 512) }, 2);
    let item = seen.item("/dev/sdx");
    assert_eq!((item.status, item.sha256), (Status::Collected, Some(Digest::of(&noise(1 << 20, 7)))), "{item:?}");
    assert!(item.facts["bad_sectors"].contains("1 sectors were read when tried again"), "{item:?}");
}

#[test]
fn what_cannot_be_read_past_the_page_cache_is_read_through_it() {
    let seen = image(|| Failing { no_direct: true, ..Failing::new(2 << 20, 512) }, 2);
    let item = seen.item("/dev/sdx");
    assert_eq!((item.status, item.sha256), (Status::Collected, Some(Digest::of(&noise(2 << 20, 7)))));
    assert_eq!(item.facts["read"], "through the page cache");
    // The tail only: what was read before it is not said to have come through the cache.
    let seen = image(|| Failing { no_direct_from: Some((3 << 20) + 512), ..Failing::new((3 << 20) + 1024, 512) }, 2);
    let item = seen.item("/dev/sdx");
    assert_eq!((item.status, item.sha256), (Status::Collected, Some(Digest::of(&noise((3 << 20) + 1024, 7)))));
    assert_eq!(item.facts["read"], "past the page cache (O_DIRECT) up to byte 3145728, through the page cache from there on");
}

/// What a bad sector costs of the copies of the first and the last sectors is that sector.
#[test]
fn bad_sectors_at_both_ends_cost_themselves_only() {
    const MIB: usize = 1 << 20;
    let seen = run(vec![script("disk", |out| {
        let disk = Failing { bad: [3, 8_000].into(), ..Failing::new(4 * MIB, 512) };
        let mut source = DeviceSource::new(disk, 2, LIST.to_owned());
        let (path, usage) = (evidence_path("/dev/sdx"), Usage::default());
        let subject = layout::Subject { path: &path, label: "sdx", size: 4 << 20, geometry: None, usage: &usage };
        layout::put(&subject, &mut source, out).map(drop)
    })]);
    let mut want = noise(4 * MIB, 7);
    for sector in [3, 8_000] {
        want[sector * 512..][..512].fill(0);
    }
    for (name, from, bad) in [("sdx/first-sectors.bin", 0, 3 * 512), ("sdx/last-sectors.bin", 3 * MIB, 8_000 * 512 - 3 * MIB)] {
        let item = seen.item(name);
        assert_eq!((item.status, item.size), (Status::Partial, MIB as u64), "{item:?}");
        let gaps: Vec<_> = item.gaps.iter().map(|g| (g.offset, g.length)).collect();
        assert_eq!(gaps, [(bad as u64, 512)], "{item:?}");
        assert!(seen.content(name) == &want[from..from + MIB], "{name}");
    }
}

/// An image of which the first 2 MiB are read before `then` is called: the rest is one gap, and the next item is taken. Why.
fn image_read_until(patience: std::time::Duration, then: fn()) -> String {
    let seen = run(vec![script("disk", move |out| {
        let scripted = Scripted(
            move |offset: u64, buf: &mut [u8]| {
                if offset >= 2 << 20 {
                    then();
                }
                buf.fill(7);
                Ok(buf.len())
            },
            None,
        );
        let mut source = ImageSource::new(scripted, patience).expect("a thread");
        out.put(file("/srv/disk.img", out), Content::Source { size: 8 << 20, extents: None, source: &mut source })?;
        out.put(NewItem::record("after.txt", out.now(), "test"), Content::Bytes(b"the next one")).map(drop)
    })]);
    let item = seen.item("/srv/disk.img");
    let last = item.gaps.last().expect("a gap");
    assert_eq!((item.status, item.size, item.gaps.len()), (Status::Partial, 8 << 20, 1), "{item:?}");
    assert!(last.offset >= 2 << 20 && last.offset + last.length == 8 << 20, "{last:?}");
    assert_eq!(seen.item("after.txt").status, Status::Collected);
    last.reason.clone()
}

/// An image lies on a disk as well: what hangs beneath it costs the rest of it, and the next one is taken.
#[test]
fn an_image_that_hangs_is_one_gap_to_its_end_and_the_next_is_taken() {
    fn hang() {
        loop {
            std::thread::park();
        }
    }
    let why = image_read_until(std::time::Duration::from_secs(2), hang);
    assert!(why.contains("what it lies on hangs: a read at byte"), "{why}");
}

/// An image that becomes shorter while it is read is a part, as a device that does, and says from where on.
#[test]
fn an_image_that_is_cut_while_it_is_read_is_a_part() {
    let seen = run(vec![script("disk", |out| {
        let changed = Some((Status::ChangedDuringRead, "changed while it was read: size".to_owned()));
        let scripted = Scripted(reader(noise(2 << 20, 3)), changed);
        let mut source = ImageSource::new(scripted, std::time::Duration::from_mins(1)).expect("a thread");
        out.put(file("/srv/disk.img", out), Content::Source { size: 8 << 20, extents: None, source: &mut source }).map(drop)
    })]);
    let item = seen.item("/srv/disk.img");
    let gaps: Vec<_> = item.gaps.iter().map(|g| (g.offset, g.length)).collect();
    assert_eq!((item.status, gaps), (Status::Partial, vec![(2 << 20, 6 << 20)]));
    let reason = item.reason.as_deref().expect("a reason");
    assert!(reason.contains("no bytes from 2097152 on; changed while it was read: size"), "{reason}");
}

/// Who reads an image may have a fault itself: that is said at once, and not that the disk hangs.
#[test]
fn a_panic_in_the_thread_of_an_image_is_not_called_a_disk_that_hangs() {
    let why = image_read_until(std::time::Duration::from_hours(1), || panic!("made for a test"));
    assert!(why.contains("a fault of this program") && !why.contains("hangs"), "{why}");
}

#[test]
fn a_device_that_goes_away_is_one_gap_to_its_end() {
    let seen = image(|| Failing { gone_from: Some(3 << 20), bad: [7].into(), ..Failing::new(8 << 20, 512) }, 2);
    let item = seen.item("/dev/sdx");
    assert_eq!(item.status, Status::Partial);
    let last = item.gaps.last().expect("a gap");
    assert!(last.reason.contains("the device is gone") && last.offset + last.length == 8 << 20, "{last:?}");
    assert!(last.offset <= 3 << 20 && item.gaps.len() == 2, "{:?}", item.gaps);
    assert!(item.reason.as_ref().is_some_and(|r| r.contains("gone")), "{:?}", item.reason);
    assert_eq!((seen.item("after.txt").status, rows(&seen).len()), (Status::Collected, 1));
    // Gone from the beginning: nothing was taken, and that is said.
    let seen = image(|| Failing { gone_from: Some(0), ..Failing::new(1 << 20, 512) }, 2);
    assert_eq!((seen.item("/dev/sdx").status, gaps(&seen)), (Status::Error, vec![(0, 1 << 20)]));
}

#[test]
fn a_device_that_became_smaller_or_was_written_to_says_so() {
    let seen = image(|| Failing { ends_at: Some(1 << 20), ..Failing::new(2 << 20, 512) }, 2);
    let item = seen.item("/dev/sdx");
    assert_eq!((item.status, gaps(&seen)), (Status::Partial, vec![(1 << 20, 1 << 20)]));
    assert!(item.gaps[0].reason.contains("ends at byte 1048576"), "{item:?}");
    let seen = image(|| Failing { grows: 512, ..Failing::new(1 << 20, 512) }, 2);
    let item = seen.item("/dev/sdx");
    assert_eq!((item.status, item.sha256), (Status::ChangedDuringRead, Some(Digest::of(&noise(1 << 20, 7)))));
    assert!(item.reason.as_ref().is_some_and(|r| r.contains("1048576 to 1049088 bytes")), "{item:?}");
    let seen = image(|| Failing { changes: 8, ..Failing::new(1 << 20, 512) }, 2);
    let item = seen.item("/dev/sdx");
    assert_eq!(item.status, Status::ChangedDuringRead);
    assert!(item.reason.as_ref().is_some_and(|r| r.contains("8 sectors of 512 bytes were written")), "{item:?}");
    assert_eq!(item.facts["consistency"], "inconsistent: 8 sectors of 512 bytes were written to it while it was read");
}

#[test]
fn a_device_that_hangs_is_one_gap_to_its_end_and_the_next_is_taken() {
    let seen = image(|| Failing { hangs_from: Some(3 << 20), bad: [7].into(), ..Failing::new(8 << 20, 512) }, 2);
    let item = seen.item("/dev/sdx");
    // One read of the device goes up to a mebibyte further than what is taken of it.
    let last = item.gaps.last().expect("a gap");
    assert_eq!((item.status, gaps(&seen)[0], item.gaps.len()), (Status::Partial, (7 * 512, 512), 2));
    assert!((2 << 20..=3 << 20).contains(&last.offset) && last.offset + last.length == 8 << 20, "{last:?}");
    assert!(last.reason.contains("the device hangs: a read did not come back"), "{item:?}");
    assert_eq!((seen.item("after.txt").status, rows(&seen).len()), (Status::Collected, 1));
    // The kernel's own word that a sector took too long is a failure of that sector.
    let error = io::Error::from_raw_os_error(rustix::io::Errno::TIMEDOUT.raw_os_error());
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

/// Told to end in the middle of a disk: what was read stays, the rest is a gap, and what failed before is listed.
#[test]
fn a_cancel_in_the_middle_of_a_disk_keeps_the_list_of_bad_sectors() {
    let mut plan = plan(Vec::new(), Budget::UNLIMITED);
    let control = Arc::clone(&plan.control);
    let capture = script("disk", move |out| {
        struct Told(DeviceSource<Failing>, Arc<Control>);
        impl Source for Told {
            fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
                if offset >= 4 << 20 {
                    self.1.stop(Stop::Cancelled("enough".to_owned()));
                }
                self.0.read_at(offset, buf)
            }
            fn unit_end(&self, offset: u64) -> u64 {
                self.0.unit_end(offset)
            }
            fn gap_list(&self) -> Option<&str> {
                self.0.gap_list()
            }
            fn facts_after(&mut self) -> BTreeMap<String, String> {
                self.0.facts_after()
            }
            fn beside(&mut self) -> Option<crate::capture::Beside> {
                self.0.beside()
            }
        }
        let device = DeviceSource::new(Failing { bad: [7].into(), ..Failing::new(16 << 20, 512) }, 2, LIST.to_owned());
        let item = NewItem::new(evidence_path("/dev/sdx"), Kind::BlockDevice, out.now(), "pread");
        let mut source = Told(device, Arc::clone(&control));
        out.put(item, Content::Source { size: 16 << 20, extents: None, source: &mut source }).map(drop)
    });
    plan.captures = vec![(capture, Params::default())];
    let seen = run_plan(plan);
    let item = seen.item("/dev/sdx");
    assert_eq!((item.status, item.size, item.gaps.len(), gaps(&seen)[0]), (Status::Partial, 16 << 20, 2, (7 * 512, 512)));
    assert!(item.gaps[1].offset > 4 << 20 && item.gaps[1].offset + item.gaps[1].length == 16 << 20, "{item:?}");
    assert_eq!(rows(&seen).len(), 1);
    assert!(!seen.outcome.complete && seen.outcome.reason.as_ref().is_some_and(|r| r.contains("enough")));
}

/// More bad ranges than a manifest line and more than the list hold: everything that can be read is, and both say what they
/// leave out.
#[test]
fn thousands_of_bad_sectors_are_bounded_and_the_disk_is_read_to_its_end() {
    let sectors = 20_000_u64;
    let seen = image(move || Failing { bad: (0..sectors).step_by(2).collect(), ..Failing::new(sectors as usize * 512, 512) }, 1);
    let item = seen.item("/dev/sdx");
    assert_eq!(item.gaps.len(), 1024);
    assert!(item.gaps.last().is_some_and(|g| g.reason.contains(LIST)), "{:?}", item.gaps.last());
    let mut want = noise(sectors as usize * 512, 7);
    for lba in (0..sectors as usize).step_by(2) {
        want[lba * 512..][..512].fill(0);
    }
    assert_eq!(item.sha256, Some(Digest::of(&want)));
    let list = seen.item(LIST);
    assert_eq!((list.status, rows(&seen).len()), (Status::Partial, 8_192));
    assert!(list.reason.as_ref().is_some_and(|r| r.contains("further bytes")), "{list:?}");
}

/// A part of the disk that is dead as a whole is not tried again sector by sector.
#[test]
fn a_long_dead_range_is_asked_once() {
    let reads = |tries| {
        let mut source = DeviceSource::new(Failing { bad: (0..8_192).collect(), ..Failing::new(4 << 20, 512) }, tries, LIST.to_owned());
        for lba in 0..8_192 {
            assert!(source.read_at(lba * 512, &mut [0; 512]).is_err());
        }
        source.into_drive().reads
    };
    assert!(reads(10) < reads(1) + 1_024 * 10, "only the first 512 KiB are tried again");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
    /// Whatever fails, however reading is cut into pieces: what is not bad is there, what is bad is a gap, nothing else is.
    #[test]
    fn bad_sectors_anywhere_cost_themselves_only(bad in proptest::collection::btree_set(0_u64..1_500, 0..60), runs in proptest::collection::vec((0_u64..1_500, 1_u64..300), 0..4), large: bool, cut in 0_usize..8) {
        let sector = if large { 4096_u64 } else { 512 };
        let sectors = 1_500 - cut as u64;
        let mut all = bad;
        for (from, count) in runs {
            all.extend(from..from + count);
        }
        all.retain(|lba| *lba < sectors);
        let bytes = (sectors * sector) as usize;
        let mine = all.clone();
        let seen = image(move || Failing { bad: mine.clone(), ..Failing::new(bytes, sector as u32) }, 2);
        let mut want = noise(bytes, 7);
        let mut lost = Vec::<(u64, u64)>::new();
        for lba in &all {
            want[(lba * sector) as usize..][..sector as usize].fill(0);
            match lost.last_mut() {
                Some(last) if last.0 + last.1 == lba * sector => last.1 += sector,
                _ => lost.push((lba * sector, sector)),
            }
        }
        proptest::prop_assert!(seen.content("/dev/sdx") == want);
        proptest::prop_assert_eq!(gaps(&seen), lost.clone());
        let listed: Vec<(u64, u64)> = if lost.is_empty() { Vec::new() } else {
            rows(&seen).iter().map(|r| (r["offset"].as_u64().expect("number"), r["length"].as_u64().expect("number"))).collect()
        };
        // The list tells ranges apart that were tried differently often.
        proptest::prop_assert_eq!(listed.iter().map(|(_, l)| l).sum::<u64>(), lost.iter().map(|(_, l)| l).sum::<u64>());
    }
}
