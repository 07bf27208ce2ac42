//! Limits, cancels, back-pressure: nothing is lost in silence and memory stays bounded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use globset::{Glob, GlobSetBuilder};

use super::*;
use crate::clock;

#[test]
fn a_capture_with_zero_items_is_never_success() {
    let seen = run(vec![
        script("network", |_| Ok(())),
        script("process", |_| Err(Stop::Fatal("no /proc".to_owned()))),
        script("files", |out| out.put(file("/x", out), Content::Bytes(b"x")).map(drop)),
    ]);
    assert_eq!((seen.item("network").status, seen.item("process").status), (Status::Missing, Status::Error));
    assert_eq!(seen.items.len(), 3);
    assert!(!seen.outcome.complete);
    assert_eq!(seen.outcome.reason.as_deref(), Some("network: it found nothing; process: no /proc"));
}

#[test]
fn a_cancel_in_the_middle_of_a_file_ends_the_stream_whole() {
    let mut plan = plan(Vec::new(), Budget::UNLIMITED);
    let control = Arc::clone(&plan.control);
    let captures = vec![
        script("files", move |out| {
            let control = Arc::clone(&control);
            let mut source = Scripted(
                move |offset: u64, buf: &mut [u8]| {
                    if offset >= 1 << 20 {
                        control.stop(Stop::Cancelled("the responder changed her mind".to_owned()));
                    }
                    buf.fill(7);
                    Ok(buf.len())
                },
                None,
            );
            let result = out.put(file("/big", out), Content::Source { size: 30 << 20, extents: None, source: &mut source });
            assert_eq!(result, Err(Stop::Cancelled("the responder changed her mind".to_owned())));
            result.map(drop)
        }),
        script("logs", |_| panic!("is not begun")),
    ];
    plan.captures = captures.into_iter().map(|c| (c, Params::default())).collect();
    let seen = run_plan(plan);
    let big = seen.item("/big");
    assert_eq!((big.status, big.size, big.gaps.len()), (Status::Partial, 30 << 20, 1));
    assert!(big.gaps[0].offset > 1 << 20 && big.gaps[0].offset + big.gaps[0].length == 30 << 20);
    assert_eq!(seen.item("logs").status, Status::Skipped);
    assert!(!seen.outcome.complete && seen.outcome.reason.as_ref().is_some_and(|r| r.contains("changed her mind")));
}

#[test]
fn a_deadline_ends_everything_that_is_left() {
    let deadline = clock::monotonic() + Duration::from_millis(80);
    let mut plan = plan(
        vec![
            script("process", |out| {
                loop {
                    out.checkpoint()?;
                    std::thread::yield_now();
                }
            }),
            script("files", |_| panic!("is not begun")),
        ],
        Budget::UNLIMITED,
    );
    plan.control = Arc::new(Control::new(Some(deadline)));
    let seen = run_plan(plan);
    assert_eq!((seen.item("process").status, seen.item("files").status), (Status::Partial, Status::Skipped));
    assert!(seen.outcome.reason.as_ref().is_some_and(|r| r.contains("deadline")));
}

/// What a capture does that is told to end in the middle of its table: `meanwhile` comes between that and the end of the table.
fn table_of_a_stop(meanwhile: impl Fn(&Control) + Send + 'static) -> Seen {
    let mut plan = plan(Vec::new(), Budget::UNLIMITED);
    let control = Arc::clone(&plan.control);
    let capture = script("process-memory", move |out| {
        let mut table = crate::capture::Table::new("targets", out.now(), "made");
        table.row(out, &"the first one")?;
        control.stop(Stop::Deadline);
        let told = out.checkpoint();
        assert_eq!(told, Err(Stop::Deadline));
        let mut never = Scripted(|_: u64, _: &mut [u8]| panic!("is not read"), None);
        let core = out.put(file("/core", out), Content::Source { size: 100, extents: None, source: &mut never });
        assert_eq!(core, Err(Stop::Deadline));
        assert_eq!(out.put(file("/proc/1/maps", out), Content::Bytes(b"x")), Err(Stop::Deadline));
        meanwhile(control.as_ref());
        assert_eq!(table.finish(out, None), Err(Stop::Deadline));
        told
    });
    plan.captures = vec![(capture, Params::default()), (script("files", |_| panic!("is not begun")), Params::default())];
    let seen = run_plan(plan);
    let statuses = ["/core", "/proc/1/maps", "process-memory", "files"].map(|path| seen.item(path).status);
    assert_eq!(statuses, [Status::Skipped, Status::Skipped, Status::Partial, Status::Skipped]);
    assert!(seen.outcome.reason.as_ref().is_some_and(|r| r.contains("deadline")));
    seen
}

/// What a capture has in memory when it is told to end is not lost, and nothing more is read.
#[test]
fn a_table_is_put_after_a_stop_and_says_that_it_is_not_finished() {
    let seen = table_of_a_stop(|_| {});
    let table = seen.item("targets.jsonl");
    assert_eq!((table.status, table.reason.as_deref()), (Status::Partial, Some("not finished: the deadline passed")));
    assert_eq!(seen.content("targets.jsonl"), b"\"the first one\"\n");
}

/// Somebody asked twice, or the time for it is over: then nothing is waited for.
#[test]
fn a_table_that_comes_too_late_after_a_stop_is_named_only() {
    let late: fn(&Control) = |_| Control::new(None).wait(Duration::from_millis(5_200)).expect("nobody stops it");
    for meanwhile in [Control::at_once as fn(&Control), late] {
        let seen = table_of_a_stop(meanwhile);
        let table = seen.item("targets.jsonl");
        assert_eq!((table.status, table.reason.as_deref()), (Status::Skipped, Some("not taken: the deadline passed")));
    }
}

/// What says that it is there in part only is there as little as the rest, where nothing of it is put.
#[test]
fn what_would_have_been_there_in_part_is_skipped_when_it_comes_too_late_after_a_stop() {
    let mut plan = plan(Vec::new(), Budget::UNLIMITED);
    let control = Arc::clone(&plan.control);
    let capture = script("process-memory", move |out| {
        control.stop(Stop::Deadline);
        let told = out.checkpoint();
        control.at_once();
        let mut never = Scripted(|_: u64, _: &mut [u8]| panic!("is not read"), None);
        let core = file("/core", out).with_status(Status::Partial, "without the registers of 1 thread");
        assert_eq!(out.put(core, Content::Source { size: 100, extents: None, source: &mut never }), Err(Stop::Deadline));
        let changed = file("/changed", out).with_status(Status::ChangedDuringRead, "it grew");
        assert_eq!(out.put(changed, Content::Bytes(b"x")), Err(Stop::Deadline));
        let mut table = crate::capture::Table::new("targets", out.now(), "made");
        table.row(out, &"the first one")?;
        assert_eq!(table.finish(out, Some((Status::Partial, "1 row is left out".to_owned()))), Err(Stop::Deadline));
        let refused = file("/refused", out).with_status(Status::Denied, "no right");
        assert_eq!(out.put(refused, Content::None), Err(Stop::Deadline));
        told
    });
    plan.captures = vec![(capture, Params::default())];
    let seen = run_plan(plan);
    let told = |path: &str| (seen.item(path).status, seen.item(path).reason.clone().unwrap_or_default());
    let skipped = |said: &str| (Status::Skipped, format!("not taken: the deadline passed; {said}"));
    assert_eq!(told("/core"), skipped("without the registers of 1 thread"));
    assert_eq!(told("/changed"), skipped("it grew"));
    assert_eq!(told("targets.jsonl"), skipped("1 row is left out"));
    assert_eq!(told("/refused"), (Status::Denied, "no right".to_owned()));
}

/// A table that was at its end before the capture heard of the stop is whole.
#[test]
fn a_table_that_was_finished_before_its_capture_was_told_is_whole() {
    let mut plan = plan(Vec::new(), Budget::UNLIMITED);
    let control = Arc::clone(&plan.control);
    let capture = script("system", move |out| {
        control.stop(Stop::Cancelled("enough".to_owned()));
        for name in ["first.json", "second.json"] {
            let put = out.put(NewItem::record(name, out.now(), "made"), Content::Bytes(b"{}\n"));
            assert_eq!(put, Err(Stop::Cancelled("enough".to_owned())));
        }
        out.checkpoint()
    });
    plan.captures = vec![(capture, Params::default())];
    let seen = run_plan(plan);
    assert_eq!(["first.json", "second.json"].map(|n| seen.item(n).status), [Status::Collected, Status::Partial]);
}

#[test]
fn the_raw_limit_leaves_out_what_does_not_fit_and_names_it() {
    let budget = Budget { raw_bytes_max: 3 << 20, ..Budget::UNLIMITED };
    let seen = run_plan(plan(
        vec![script("files", |out| {
            out.put(file("/one", out), Content::Bytes(&noise(1 << 20, 1)))?;
            let mut never = Scripted(|_: u64, _: &mut [u8]| panic!("is not read"), None);
            let status = out.put(file("/huge", out), Content::Source { size: 100 << 20, extents: None, source: &mut never })?;
            assert_eq!(status, Status::Skipped);
            out.put(file("/two", out), Content::Bytes(&noise(1 << 20, 2))).map(drop)
        })],
        budget,
    ));
    assert!(seen.outcome.manifest.raw_bytes <= 3 << 20);
    assert_eq!(seen.item("/two").status, Status::Collected, "what still fits is taken");
    assert!(!seen.outcome.complete && seen.item("/huge").reason.as_ref().is_some_and(|r| r.contains("3145728")));
}

/// A further name of a file that is in the stream sends no content: it needs room for its header, and uses up no holes.
#[test]
fn a_hard_link_pays_for_its_header_only() {
    const BYTES: u64 = 2 << 20;
    fn named(path: &str, out: &dyn Output) -> NewItem {
        let state = crate::capture::InodeState { inode: (1, 7), btime: None, ctime: None, mtime: None, size: BYTES };
        let meta = exhibit_evidence::manifest::Meta { nlink: 9, ..Default::default() };
        NewItem { inode: Some(state), meta: Some(Box::new(meta)), ..file(path, out) }
    }
    let budget = Budget { raw_bytes_max: 3 << 20, ..Budget::UNLIMITED };
    let seen = run_plan(plan(
        vec![script("files", |out| {
            out.put(named("/first", out), Content::Bytes(&noise(BYTES as usize, 1)))?;
            // As large as what is left, less than the size of the file.
            let status = out.put(named("/second", out), Content::Bytes(&noise(BYTES as usize, 1)))?;
            assert_eq!(status, Status::Collected, "its content is not sent again");
            for n in 0..2_000 {
                out.put(named(&format!("/further/{n}"), out), Content::Bytes(&noise(64, 1)))?;
            }
            Ok(())
        })],
        budget,
    ));
    assert_eq!(seen.item("/second").kind, exhibit_evidence::manifest::Kind::Hardlink);
    // Headers are bytes as well: 2,000 of them do not fit into what is left, and none goes beyond the limit.
    let further = |status| seen.items.iter().filter(|i| i.path.to_string().starts_with("/further/") && i.status == status).count();
    let (linked, skipped) = (further(Status::Collected), further(Status::Skipped));
    assert!(linked > 400 && skipped > 0 && linked + skipped == 2_000, "{linked} linked, {skipped} skipped");
    assert!(seen.outcome.manifest.raw_bytes <= 3 << 20 && !seen.outcome.complete);
}

/// The line of an item that fills the list is not the last: what lies beside the item, and is named in it, has its line behind it.
#[test]
fn what_lies_beside_the_item_that_fills_the_list_is_there() {
    struct Noted(Vec<u8>);
    impl Source for Noted {
        fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            reader(self.0.clone())(offset, buf)
        }
        fn beside(&mut self) -> Option<crate::capture::Beside> {
            let item = NewItem::record("notes.jsonl", crate::clock::now(), "made");
            Some(crate::capture::Beside { item, content: b"{}\n".to_vec() })
        }
    }
    let mut plan = plan(
        vec![script("disk", |out| {
            let item = file("/dev/sdx", out);
            let put = out.put(item, Content::Source { size: 100, extents: None, source: &mut Noted(noise(100, 1)) });
            assert!(matches!(put, Err(Stop::Limit(_))), "{put:?}");
            put.map(drop)
        })],
        Budget::UNLIMITED,
    );
    // Any line fills it.
    plan.manifest_bytes_max = 16 << 20;
    let seen = run_plan(plan);
    assert_eq!((seen.item("/dev/sdx").status, seen.content("notes.jsonl")), (Status::Collected, &b"{}\n"[..]));
    assert!(seen.outcome.reason.as_ref().is_some_and(|r| r.contains("the list of items has")));
}

/// At the limit the list of what was taken is still there: room for it is kept while it grows.
#[test]
fn the_raw_limit_leaves_room_for_the_tables_at_the_end() {
    const ROWS: u64 = 4_050;
    let budget = Budget { raw_bytes_max: 4 << 20, ..Budget::UNLIMITED };
    let seen = run_plan(plan(
        vec![script("process-memory", |out| {
            // More than the part of the limit that is kept for records in any case.
            let mut table = crate::capture::Table::new("targets", out.now(), "made");
            for n in 0..ROWS {
                table.row(out, &format!("process {n}: {}", "x".repeat(100)))?;
                if n % 45 == 0 {
                    out.put(file(&format!("/core/{n}"), out), Content::Bytes(&noise(64 << 10, n)))?;
                }
            }
            table.finish(out, None).map(drop)
        })],
        budget,
    ));
    assert!(seen.outcome.manifest.raw_bytes <= 4 << 20);
    let cores = |status| seen.items.iter().filter(|i| i.path.to_string().starts_with("/core/") && i.status == status).count();
    assert!(cores(Status::Collected) > 10 && cores(Status::Skipped) > 10);
    let table = seen.item("targets.jsonl");
    assert_eq!((table.status, table.facts["rows"].as_str()), (Status::Collected, ROWS.to_string().as_str()));
}

/// A table for which there is no room any more is cut, and says how many rows are left out; empty files need room for their headers.
#[test]
fn a_table_that_grows_beyond_all_room_is_cut_and_not_lost() {
    const ROWS: u64 = 30_000;
    let budget = Budget { raw_bytes_max: 4 << 20, ..Budget::UNLIMITED };
    let seen = run_plan(plan(
        vec![
            script("process-memory", |out| {
                for n in 0..100 {
                    out.put(file(&format!("/core/{n}"), out), Content::Bytes(&noise(64 << 10, n)))?;
                }
                let mut table = crate::capture::Table::new("targets", out.now(), "made");
                for n in 0..ROWS {
                    table.row(out, &format!("process {n}: {}", "x".repeat(100)))?;
                }
                table.finish(out, None).map(drop)
            }),
            script("files", |out| {
                for n in 0..2_000 {
                    out.put(file(&format!("/empty/{n}"), out), Content::Bytes(b""))?;
                }
                Ok(())
            }),
        ],
        budget,
    ));
    assert!(seen.outcome.manifest.raw_bytes <= 4 << 20);
    let table = seen.item("targets.jsonl");
    let rows = seen.content("targets.jsonl").split_inclusive(|b| *b == b'\n').count() as u64;
    assert!(rows > 1_000 && rows < ROWS, "{rows}");
    assert_eq!((table.status, table.facts["rows"].as_str()), (Status::Partial, rows.to_string().as_str()));
    let left_out = format!("{} rows are left out", ROWS - rows);
    assert!(table.reason.as_ref().is_some_and(|r| r.contains(&left_out)), "{:?}", table.reason);
    assert!(seen.outcome.reason.as_ref().is_some_and(|r| r.contains("process-memory: rows of its tables")), "{:?}", seen.outcome.reason);
    let empty: Vec<Status> = seen.items.iter().filter(|i| i.path.to_string().starts_with("/empty/")).map(|i| i.status).collect();
    assert!(empty.len() == 2_000 && empty.iter().all(|s| *s == Status::Skipped), "nothing goes beyond the limit");
}

#[test]
fn denied_paths_give_neither_content_nor_metadata() {
    let mut plan = plan(
        vec![script("files", |out| {
            let mut item = file("/home/ann/diary", out).with_fact("owner", "ann");
            item.meta = Some(Box::default());
            out.put(item, Content::Bytes(b"dear diary"))?;
            out.put(NewItem::record("home/table.jsonl", out.now(), "made"), Content::Bytes(b"{}\n")).map(drop)
        })],
        Budget::UNLIMITED,
    );
    plan.denied = GlobSetBuilder::new().add(Glob::new("/home/**").expect("glob")).build().expect("set");
    let seen = run_plan(plan);
    let diary = seen.item("/home/ann/diary");
    assert_eq!(
        (diary.status, diary.location, diary.sha256, diary.meta.is_none(), diary.facts.len()),
        (Status::Skipped, None, None, true, 0)
    );
    assert_eq!(seen.content("home/table.jsonl"), b"{}\n", "what the capture made is not a path of the host");
}

#[test]
fn tens_of_thousands_of_items_without_content_still_make_segments_of_bounded_size() {
    const ITEMS: u64 = 60_000;
    let seen = run(vec![script("files", |out| {
        for n in 0..ITEMS {
            out.put(file(&format!("/proc/{n}/mem"), out).with_status(Status::Denied, "Permission denied"), Content::None)?;
        }
        Ok(())
    })]);
    assert!(seen.segments.len() >= 2);
    for segment in &seen.segments {
        assert!(segment.bytes.len() + segment.lines.len() <= Memory::SEGMENT_BYTES, "{} + {}", segment.bytes.len(), segment.lines.len());
    }
    assert_eq!(seen.outcome.manifest.by_status[&Status::Denied], ITEMS);
}

#[test]
fn without_acknowledgements_the_capture_waits_and_nothing_piles_up() {
    let produced = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&produced);
    let block = noise(1 << 20, 3);
    let plan = plan(
        vec![script("files", move |out| {
            for n in 0..200 {
                out.put(file(&format!("/{n}"), out), Content::Bytes(&block))?;
                count.fetch_add(1 << 20, Ordering::SeqCst);
            }
            Ok(())
        })],
        Budget::UNLIMITED,
    );
    let (memory, control) = (plan.memory, Arc::clone(&plan.control));
    let window = start(plan).expect("threads");
    // Wait until it stands still.
    let mut before = u64::MAX;
    while produced.load(Ordering::SeqCst) != before {
        before = produced.load(Ordering::SeqCst);
        control.wait(Duration::from_millis(250)).expect("nobody stops it");
    }
    assert_eq!(window.len(), memory.segments_in_flight);
    let bound = (memory.segments_in_flight + 1) * Memory::SEGMENT_BYTES + memory.workers * Memory::LANE_BYTES;
    assert!(before >= 8 << 20 && before <= bound as u64, "{before} bytes were taken, {bound} may be in memory");
    // Nobody wants it any more: every thread ends by itself, which closes the window's other handle.
    window.give_up();
    let begin = clock::monotonic();
    while Arc::strong_count(&window) > 1 {
        control.wait(Duration::from_millis(5)).expect("nobody stops it");
        assert!(clock::monotonic().saturating_sub(begin) < Duration::from_secs(20), "a thread still holds the window");
    }
    assert!(produced.load(Ordering::SeqCst) < 200 << 20);
}

#[test]
fn a_list_that_grows_too_long_ends_the_collection_and_not_the_stream() {
    let mut plan = plan(Vec::new(), Budget::UNLIMITED);
    plan.manifest_bytes_max = 20 << 20;
    let captures = vec![
        script("files", |out| {
            let xattrs = std::collections::BTreeMap::from([("user.fat".to_owned(), "A".repeat(200_000))]);
            for n in 0..1_000 {
                let meta = exhibit_evidence::manifest::Meta { xattrs: xattrs.clone(), ..Default::default() };
                let item = crate::capture::NewItem { meta: Some(Box::new(meta)), ..file(&format!("/fat/{n}"), out) };
                out.put(item, Content::Bytes(b"x"))?;
            }
            Ok(())
        }),
        script("logs", |out| out.put(file("/var/log/after", out), Content::Bytes(b"x")).map(drop)),
    ];
    plan.captures = captures.into_iter().map(|c| (c, Params::default())).collect();
    let seen = run_plan(plan);
    assert!(!seen.outcome.complete && seen.outcome.manifest.size < 20 << 20);
    let reason = seen.outcome.reason.clone().expect("a reason");
    assert!(reason.contains("the list of items has"), "{reason}");
    // The capture that was not begun has its item all the same.
    assert!(seen.items.iter().any(|i| i.capture == "logs" && i.status == Status::Skipped));
}
