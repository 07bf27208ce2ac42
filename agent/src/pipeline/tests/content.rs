//! What becomes of contents: whole, with holes, linked, shrinking, growing, unreadable.

use std::collections::BTreeMap;

use base64::Engine as _;
use exhibit_evidence::manifest::{Gap, Kind, Meta};
use exhibit_evidence::time::FileTime;
use rustix::io::Errno;

use super::*;
use crate::capture::{EvidencePath, InodeState, evidence_path};

#[test]
fn contents_of_all_sizes_keep_their_digests_and_places() {
    let sizes = [0, 1, 511, 512, 513, (1 << 20) - 512, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 12 << 20];
    let seen = run(vec![script("files", move |out| {
        for (n, size) in sizes.into_iter().enumerate() {
            let data = noise(size, n as u64);
            assert_eq!(out.put(file(&format!("/bytes/{size}"), out), Content::Bytes(&data))?, Status::Collected);
            let mut source = Scripted(reader(data), None);
            let content = Content::Source { size: size as u64, extents: None, source: &mut source };
            assert_eq!(out.put(file(&format!("/source/{size}"), out), content)?, Status::Collected);
        }
        Ok(())
    })]);
    assert!(seen.segments.len() >= 3 && seen.outcome.complete && seen.outcome.reason.is_none());
    for (n, size) in sizes.into_iter().enumerate() {
        for from in ["bytes", "source"] {
            let path = format!("/{from}/{size}");
            assert_eq!(seen.item(&path).sha256, Some(Digest::of(&noise(size, n as u64))), "{path}");
            assert_eq!(seen.content(&path), noise(size, n as u64), "{path}");
        }
    }
}

#[test]
fn a_sparse_file_costs_its_data_and_hashes_its_holes() {
    const SIZE: u64 = 64 << 20;
    let extents = vec![Extent { offset: 1 << 20, length: 8192 }, Extent { offset: SIZE - 4096, length: 4096 }];
    let mut logical = vec![0_u8; SIZE as usize];
    for e in &extents {
        logical[e.offset as usize..e.end() as usize].copy_from_slice(&noise(e.length as usize, e.offset));
    }
    let (given, whole) = (extents.clone(), logical.clone());
    let seen = run(vec![script("files", move |out| {
        let data = whole.clone();
        let mut asked = Vec::new();
        let mut source = Scripted(
            |offset: u64, buf: &mut [u8]| {
                asked.push(offset);
                reader(data.clone())(offset, buf)
            },
            None,
        );
        out.put(file("/sparse", out), Content::Source { size: SIZE, extents: Some(given.clone()), source: &mut source })?;
        drop(source);
        assert!(asked.iter().all(|o| given.iter().any(|e| (e.offset..e.end()).contains(o))), "holes are not read: {asked:?}");
        let mut nothing = Scripted(|_: u64, _: &mut [u8]| panic!("nothing to read"), None);
        out.put(file("/hole", out), Content::Source { size: 5 << 20, extents: Some(Vec::new()), source: &mut nothing })?;
        Ok(())
    })]);
    assert_eq!(seen.item("/sparse").sha256, Some(Digest::of(&logical)));
    assert_eq!(seen.item("/hole").sha256, Some(Digest::of(&vec![0; 5 << 20])));
    assert!(seen.outcome.manifest.raw_bytes < 64 << 10, "{}", seen.outcome.manifest.raw_bytes);
}

/// Counts members that end.
struct Count(usize);

impl Sink for Count {
    fn end(&mut self, _: &Member) {
        self.0 += 1;
    }
}

#[test]
fn what_stands_before_a_large_hole_is_sent_before_the_hole_is_hashed() {
    const SIZE: u64 = 300 << 20;
    const PAGE: u64 = 4096;
    let first = Extent { offset: 0, length: PAGE };
    let files = [("/middle", vec![first, Extent { offset: SIZE - PAGE, length: PAGE }]), ("/tail", vec![first]), ("/all", vec![])];
    let window = start(plan(
        vec![script("files", move |out| {
            for (path, extents) in files.clone() {
                let mut source = Scripted(|_: u64, buf: &mut [u8]| Ok(buf.len()), None);
                out.put(file(path, out), Content::Source { size: SIZE, extents: Some(extents), source: &mut source })?;
            }
            Ok(())
        })],
        Budget::UNLIMITED,
    ))
    .expect("threads");
    let (mut parser, mut n) = (Parser::new(), 0);
    while let Next::Segment(segment) = runtime().block_on(window.next(n)) {
        let mut ended = Count(0);
        segment::decode(&segment.bytes, &mut |raw: &[u8]| parser.push(raw, &mut ended)).expect("decodes");
        let items = String::from_utf8_lossy(&segment.lines).matches("{\"line\":\"item\"").count();
        assert_eq!(items, ended.0, "lines travel with the segment in which their member ends");
        // Headers, sparse map and the first page; everything else after the hole.
        assert!(n > 0 || ((PAGE..16 << 10).contains(&segment.facts.raw_size) && items == 0), "{:?}", segment.facts);
        window.acknowledge(n);
        n += 1;
    }
    assert!(n == 2 && parser.finish().is_ok());
}

/// The second of two names of one file.
fn named(path: &str, out: &dyn Output, state: InodeState) -> NewItem {
    let meta = Meta { nlink: 2, ..Meta::default() };
    NewItem { inode: Some(state), meta: Some(Box::new(meta)), ..file(path, out) }
}

const STATE: InodeState = InodeState { inode: (1, 7), btime: None, ctime: Some(FileTime { s: 5, ns: 0 }), mtime: None, size: 7 };

#[test]
fn the_second_name_of_a_file_is_a_hard_link_while_nothing_changed() {
    let seen = run(vec![
        script("logs", |out| out.put(named("/var/log/a", out, STATE), Content::Bytes(b"content")).map(drop)),
        script("files", |out| {
            out.put(named("/var/log/b", out, STATE), Content::Bytes(b"content"))?;
            // The number was used again, or the file was written in between: it is not what was taken.
            for (path, other) in [
                ("/device", InodeState { inode: (2, 7), ..STATE }),
                ("/ctime", InodeState { ctime: Some(FileTime { s: 5, ns: 1 }), ..STATE }),
                ("/btime", InodeState { btime: Some(FileTime { s: 9, ns: 0 }), ..STATE }),
                ("/size", InodeState { size: 8, ..STATE }),
            ] {
                out.put(named(path, out, other), Content::Bytes(path.as_bytes()))?;
            }
            Ok(())
        }),
    ]);
    let link = seen.item("/var/log/b");
    assert_eq!((link.kind, link.size, link.sha256), (Kind::Hardlink, 0, None));
    assert_eq!(link.target.as_ref().map(EvidencePath::as_bytes), Some(&b"logs/var/log/a"[..]));
    for path in ["/device", "/ctime", "/btime", "/size"] {
        assert_eq!((seen.item(path).kind, seen.content(path)), (Kind::File, path.as_bytes()), "{path}");
    }
}

#[test]
fn nothing_is_linked_to_what_was_not_taken_whole() {
    let seen = run(vec![script("files", |out| {
        let mut changed = Scripted(reader(b"content".to_vec()), Some((Status::ChangedDuringRead, "mtime".to_owned())));
        out.put(named("/first", out, STATE), Content::Source { size: 7, extents: None, source: &mut changed })?;
        out.put(named("/second", out, STATE), Content::Bytes(b"content")).map(drop)
    })]);
    assert_eq!((seen.item("/first").status, seen.item("/second").status), (Status::ChangedDuringRead, Status::Collected));
    assert_eq!((seen.item("/second").kind, seen.content("/second")), (Kind::File, &b"content"[..]));
}

#[test]
fn nothing_is_written_beneath_a_link_of_the_stream() {
    let seen = run(vec![script("files", |out| {
        let mut link = NewItem::new(evidence_path("/d"), Kind::Symlink, out.now(), "readlinkat");
        link.target = Some(evidence_path("/elsewhere"));
        out.put(link, Content::None)?;
        // The link was replaced by a directory before the next pattern came by.
        out.put(file("/d/x", out), Content::Bytes(b"x"))?;
        out.put(file("/dd", out), Content::Bytes(b"y")).map(drop)
    })]);
    let refused = seen.item("/d/x");
    assert_eq!((refused.status, refused.location), (Status::Error, None));
    assert!(refused.reason.as_deref().is_some_and(|r| r.contains("symbolic link")), "{:?}", refused.reason);
    assert_eq!(seen.content("/dd"), b"y");
}

#[test]
fn the_agents_own_keys_are_never_given() {
    let dir = tempfile::tempdir().expect("folder");
    let key = dir.path().canonicalize().expect("path").join("evidence.key");
    std::fs::write(&key, "secret").expect("key");
    let inode = std::os::unix::fs::MetadataExt::ino(&key.metadata().expect("stat"));
    let dev = std::os::unix::fs::MetadataExt::dev(&key.metadata().expect("stat"));
    let meta = Meta { ino: inode, dev: [rustix::fs::major(dev), rustix::fs::minor(dev)], ..Meta::default() };
    let path = key.to_str().expect("UTF-8").to_owned();
    let inside = path.clone();
    let captures = vec![script("files", move |out| {
        out.put(file(&inside, out), Content::Bytes(b"secret"))?;
        let other = NewItem { meta: Some(Box::new(meta.clone())), ..file("/another/name", out) };
        out.put(other, Content::Bytes(b"secret"))?;
        out.put(file(&format!("{inside}-not"), out), Content::Bytes(b"secret"))?;
        out.put(file("/fine", out), Content::Bytes(b"fine")).map(drop)
    })];
    let seen = run_plan(Plan { own: Own::of(&[dir.path()]), ..plan(captures, Budget::UNLIMITED) });
    for path in [path.as_str(), "/another/name", &format!("{path}-not")] {
        let item = seen.item(path);
        assert_eq!((item.status, item.location), (Status::Skipped, None), "{path}");
    }
    assert_eq!(seen.content("/fine"), b"fine");
}

#[test]
fn a_capture_of_which_nothing_was_taken_is_no_success() {
    let seen = run(vec![
        script("logs", |out| out.put(file("/gone", out).with_status(Status::Missing, "not there"), Content::None).map(drop)),
        script("files", |out| {
            out.put(file("/report", out), Content::Bytes(b"rules"))?;
            Err(Stop::Nothing("nothing was found".to_owned()))
        }),
        script("system", |out| out.put(file("/here", out), Content::Bytes(b"x")).map(drop)),
    ]);
    assert!(!seen.outcome.complete);
    let reason = seen.outcome.reason.clone().expect("a reason");
    assert!(reason.contains("logs: nothing was taken") && reason.contains("files: nothing was found"), "{reason}");
    assert_eq!(seen.content("/here"), b"x", "the others still run");
}

#[test]
fn a_file_that_shrinks_is_filled_and_says_so() {
    let seen = run(vec![script("files", |out| {
        let mut short = Scripted(reader(noise(10_000, 1)), Some((Status::ChangedDuringRead, "the size changed".to_owned())));
        let status = out.put(file("/shrunk", out), Content::Source { size: 50_000, extents: None, source: &mut short })?;
        assert_eq!(status, Status::ChangedDuringRead);
        // More bytes than announced are not taken: the file grew.
        let mut grown = Scripted(reader(noise(9_000, 2)), Some((Status::ChangedDuringRead, "it grew".to_owned())));
        out.put(file("/grown", out), Content::Source { size: 5_000, extents: None, source: &mut grown })?;
        out.put(file("/after", out), Content::Bytes(b"still in step")).map(drop)
    })]);
    let shrunk = seen.item("/shrunk");
    let mut expected = noise(10_000, 1);
    expected.resize(50_000, 0);
    assert_eq!(seen.content("/shrunk"), expected);
    assert_eq!((shrunk.gaps[0].offset, shrunk.gaps[0].length, shrunk.gaps.len()), (10_000, 40_000, 1));
    assert!(shrunk.reason.as_ref().is_some_and(|r| r.contains("shorter") && r.contains("the size changed")), "{shrunk:?}");
    assert_eq!((seen.item("/grown").status, seen.content("/grown")), (Status::ChangedDuringRead, &noise(9_000, 2)[..5_000]));
    assert_eq!(seen.content("/after"), b"still in step");
    assert!(seen.outcome.complete, "a changing file does not make a collection partial");
}

#[test]
fn unreadable_ranges_are_narrowed_to_pages_and_merged() {
    const SIZE: usize = 1 << 20;
    // Two neighbouring pages and a single one fail, whatever else is in the same request.
    const BAD: [u64; 3] = [5, 6, 100];
    let seen = run(vec![script("files", |out| {
        let mut whole = reader(noise(SIZE, 9));
        let mut interrupted = false;
        let mut source = Scripted(
            move |offset: u64, buf: &mut [u8]| {
                if !interrupted {
                    interrupted = true;
                    return Err(Errno::INTR.into());
                }
                let pages = offset / 4096..=(offset + buf.len() as u64 - 1) / 4096;
                if BAD.iter().any(|page| pages.contains(page)) { Err(Errno::IO.into()) } else { whole(offset, buf) }
            },
            None,
        );
        let status = out.put(file("/bad", out), Content::Source { size: SIZE as u64, extents: None, source: &mut source })?;
        assert_eq!(status, Status::Partial);
        let mut denied = Scripted(|_: u64, _: &mut [u8]| Err(Errno::PERM.into()), None);
        let status = out.put(file("/denied", out), Content::Source { size: 9_000, extents: None, source: &mut denied })?;
        assert_eq!(status, Status::Denied, "nothing of it could be read");
        Ok(())
    })]);
    let gaps: Vec<(u64, u64)> = seen.item("/bad").gaps.iter().map(|g: &Gap| (g.offset, g.length)).collect();
    assert_eq!(gaps, [(5 * 4096, 2 * 4096), (100 * 4096, 4096)]);
    let mut expected = noise(SIZE, 9);
    for page in BAD.map(|p| p as usize) {
        expected[page * 4096..(page + 1) * 4096].fill(0);
    }
    assert_eq!(seen.content("/bad"), expected);
    assert_eq!(seen.item("/denied").gaps.iter().map(|g| g.length).sum::<u64>(), 9_000);
}

#[test]
fn a_device_full_of_errors_costs_a_bounded_manifest_line() {
    const SIZE: u64 = 4096 * 4096;
    let seen = run(vec![script("files", |out| {
        let every_other = |offset: u64, buf: &mut [u8]| {
            if (offset / 4096).is_multiple_of(2) || buf.len() > 4096 { Err(Errno::IO.into()) } else { Ok(buf.len()) }
        };
        let mut source = Scripted(every_other, None);
        out.put(file("/dev/bad", out), Content::Source { size: SIZE, extents: None, source: &mut source }).map(drop)
    })]);
    let gaps = &seen.item("/dev/bad").gaps;
    assert_eq!(gaps.len(), 1025);
    assert_eq!(gaps.last().map(|g| g.offset + g.length), Some(SIZE), "the rest is one gap");
    assert_eq!(seen.item("/dev/bad").status, Status::Partial);
}

/// Units of 1,000 bytes from offset 32 on, of which those that `bad` names fail; keeps a list of its own if told so.
struct Units {
    bad: fn(u64) -> bool,
    list: Option<&'static str>,
}

impl Source for Units {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let unit = |at: u64| (at + 1_000 - 32) / 1_000;
        // What is good in front is given first: a short read.
        let good = (0..buf.len() as u64).find(|i| (self.bad)(unit(offset + i))).unwrap_or(buf.len() as u64);
        if good == 0 {
            return Err(Errno::IO.into());
        }
        buf[..good as usize].fill(b'g');
        Ok(good as usize)
    }

    fn unit_end(&self, offset: u64) -> u64 {
        (offset + 1_000 - 32) / 1_000 * 1_000 + 32
    }

    fn gap_list(&self) -> Option<&str> {
        self.list
    }
}

#[test]
fn gaps_are_as_small_as_the_units_of_the_source_wherever_these_lie() {
    let seen = run(vec![script("files", |out| {
        let mut source = Units { bad: |unit| unit == 5 || unit == 6 || unit == 9, list: None };
        out.put(file("/units", out), Content::Source { size: 20_000, extents: None, source: &mut source }).map(drop)
    })]);
    let gaps: Vec<(u64, u64)> = seen.item("/units").gaps.iter().map(|g: &Gap| (g.offset, g.length)).collect();
    assert_eq!(gaps, [(4_032, 2_000), (8_032, 1_000)]);
    let content = seen.content("/units");
    assert!((0..20_000).all(|i| (content[i] == 0) == (matches!(i, 4_032..6_032 | 8_032..9_032))), "nothing else is lost");
}

#[test]
fn a_source_with_a_list_of_its_own_is_read_to_its_end() {
    let seen = run(vec![script("files", |out| {
        let mut source = Units { bad: |unit| unit % 2 == 1 && unit < 6_000, list: Some("bad.jsonl") };
        out.put(file("/units", out), Content::Source { size: 8_000_032, extents: None, source: &mut source }).map(drop)
    })]);
    let item = seen.item("/units");
    let last = item.gaps.last().expect("gaps");
    assert_eq!((item.gaps.len(), last.offset + last.length), (1024, 8_000_032), "the last one claims the rest");
    assert!(last.reason.contains("'bad.jsonl'"), "{last:?}");
    let lost = seen.content("/units").iter().filter(|b| **b == 0).map(|_| 1).sum::<usize>();
    assert_eq!(lost, 3_000 * 1_000, "the rest was read all the same");
}

/// Where nothing more is read of such a source, the gap that stands for its list ends: gaps that overlap are no evidence.
#[test]
fn a_source_with_a_list_of_its_own_that_goes_away_has_gaps_that_do_not_overlap() {
    struct Goes(Units, bool);
    impl Source for Goes {
        fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            self.1 = self.1 || offset >= 7_000_032;
            if self.1 { Err(Errno::IO.into()) } else { self.0.read_at(offset, buf) }
        }
        fn unit_end(&self, offset: u64) -> u64 {
            self.0.unit_end(offset)
        }
        fn gap_list(&self) -> Option<&str> {
            self.0.gap_list()
        }
        fn gone(&self) -> Option<&str> {
            self.1.then_some("it went away")
        }
    }
    let seen = run(vec![script("files", |out| {
        let mut source = Goes(Units { bad: |unit| unit % 2 == 1 && unit < 6_000, list: Some("bad.jsonl") }, false);
        out.put(file("/units", out), Content::Source { size: 8_000_032, extents: None, source: &mut source }).map(drop)
    })]);
    let gaps = &seen.item("/units").gaps;
    assert!(gaps.windows(2).all(|two| two[0].offset + two[0].length <= two[1].offset), "they overlap");
    let [.., list, rest] = &gaps[..] else { panic!("{gaps:?}") };
    assert!(list.reason.contains("'bad.jsonl'") && list.offset + list.length == rest.offset, "{list:?} {rest:?}");
    assert_eq!((rest.reason.as_str(), rest.offset + rest.length), ("not read: it went away", 8_000_032));
    assert!(rest.offset >= 7_000_032, "{rest:?}");
}

#[test]
fn a_reader_that_panics_costs_a_gap() {
    std::panic::set_hook(Box::new(|_| {}));
    let seen = run(vec![
        script("files", |out| {
            let mut source = Scripted(|_: u64, _: &mut [u8]| panic!("on purpose"), None);
            out.put(file("/x", out), Content::Source { size: 100, extents: None, source: &mut source })?;
            panic!("on purpose, between two items")
        }),
        script("logs", |out| out.put(file("/y", out), Content::Bytes(b"y")).map(drop)),
    ]);
    assert_eq!((seen.item("/x").status, seen.item("/x").gaps.len()), (Status::Error, 1));
    assert_eq!(seen.item("files").status, Status::Error, "the capture itself says that it failed");
    assert_eq!(seen.content("/y"), b"y", "other captures run");
    assert!(!seen.outcome.complete);
}

#[test]
fn names_metadata_and_kinds_that_the_host_made_up() {
    let encode = |b: &[u8]| base64::engine::general_purpose::STANDARD.encode(b);
    let meta = Meta {
        mode: 0o104_755,
        uid: 4_000_000_000,
        gid: 3,
        mtime: Some(FileTime { s: -5, ns: 7 }),
        xattrs: BTreeMap::from([("user.a=b%".to_owned(), encode(b"\0\xff"))]),
        ..Meta::default()
    };
    let bad_meta = Meta { mtime: Some(FileTime { s: 0, ns: 2_000_000_000 }), ..meta.clone() };
    // A name of 255 control characters: what the host's name becomes when it is escaped.
    let wild_name = format!("user.{}", "\\x01".repeat(250));
    let wild_meta = Meta { xattrs: BTreeMap::from([(wild_name.clone(), "AA==".to_owned())]), ..meta.clone() };
    let worse_meta = Meta { xattrs: BTreeMap::from([("x".repeat(2000), "AA==".to_owned())]), ..meta.clone() };
    let long = format!("/{}", "n".repeat(5000));
    let long_name = long.clone();
    let seen = run(vec![script("files", move |out| {
        let with_meta = |item: NewItem, meta: &Meta| NewItem { meta: Some(Box::new(meta.clone())), ..item };
        out.put(with_meta(file("/suid", out), &meta), Content::Bytes(b"x"))?;
        out.put(with_meta(file("/bad-time", out), &bad_meta), Content::Bytes(b"kept"))?;
        out.put(with_meta(file("/wild-attribute", out), &wild_meta), Content::Bytes(b"x"))?;
        out.put(with_meta(file("/worse-attribute", out), &worse_meta), Content::Bytes(b"x"))?;
        out.put(file(&long_name, out), Content::Bytes(b"long"))?;
        out.put(NewItem::new(evidence_path(b"/caf\xe9\n"), Kind::File, out.now(), "read"), Content::Bytes(b"bytes"))?;
        out.put(file("/a/../b//c/.", out), Content::Bytes(b"dots"))?;
        for (path, kind, target) in [
            ("/", Kind::Directory, None),
            ("/dir", Kind::Directory, None),
            ("/link", Kind::Symlink, Some("../else\nwhere")),
            ("/link-without-target", Kind::Symlink, None),
            ("/null", Kind::CharDevice, None),
            ("/file-without-content", Kind::File, None),
        ] {
            let mut item = NewItem::new(evidence_path(path), kind, out.now(), "lstat");
            item.target = target.map(evidence_path);
            out.put(item, Content::None)?;
        }
        out.put(file("/gone", out).with_status(Status::Vanished, " "), Content::None).map(drop)
    })]);
    let head = |path: &str| {
        let at = seen.item(path).location.expect("member");
        seen.members.iter().find(|(m, _)| m.location() == at).expect("member").0.head.clone()
    };
    let suid = head("/suid");
    assert_eq!((suid.mode, suid.uid, suid.mtime), (0o4755, 4_000_000_000, Some(FileTime { s: -5, ns: 7 })));
    assert_eq!(suid.xattrs, BTreeMap::from([("user.a=b%".to_owned(), b"\0\xff".to_vec())]));
    let bad = seen.item("/bad-time");
    assert_eq!((bad.status, seen.content("/bad-time")), (Status::Partial, &b"kept"[..]));
    assert_eq!(bad.meta.as_ref().map(|m| (m.mtime, m.xattrs.len())), Some((None, 1)), "manifest and tar say the same");
    assert_eq!(seen.item("/wild-attribute").status, Status::Collected);
    assert_eq!(head("/wild-attribute").xattrs, BTreeMap::from([(wild_name, vec![0])]));
    let worse = seen.item("/worse-attribute");
    assert_eq!((worse.status, head("/worse-attribute").mtime), (Status::Partial, suid.mtime), "times do not go with attributes");
    assert_eq!(worse.meta.as_ref().map(|m| (m.mtime, m.xattrs.len())), Some((suid.mtime, 0)));
    assert_eq!(seen.content(&long), b"long");
    assert_eq!(seen.content("/a/%2e%2e/b/c"), b"dots");
    assert!(seen.item("/dir").location.is_some() && seen.item("/link").location.is_some());
    assert_eq!(head("/link").target.as_deref(), Some(&b"../else\nwhere"[..]));
    assert_eq!((seen.item("/null").status, seen.item("/null").location), (Status::Collected, None));
    for path in ["/link-without-target", "/file-without-content"] {
        assert_eq!((seen.item(path).status, seen.item(path).location), (Status::Partial, None), "{path}");
    }
    assert_eq!(seen.item("/gone").reason.as_deref(), Some("vanished"));
}
