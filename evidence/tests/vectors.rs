//! The vectors in `tests/vectors`: what the writers make, what is checked in and what the verifier says.
//!
//! The files are products and are read by other programs. They are written anew only with
//! `EXHIBIT_WRITE_VECTORS=1 cargo test -p exhibit-evidence --test vectors what_is`, and a change of them is a change of format.

#[path = "support/encrypted_cases.rs"]
mod encrypted_cases;
mod support;

use std::collections::BTreeSet;
use std::fs;

use exhibit_evidence::record::Outcome;
use exhibit_evidence::verify::{self, CaseFiles, Code, Entry, EntryKind, Options, Report, Verdict};
use support::bags::{Making, bag, check_bag};
use support::faults::Faults;
use support::stamps::{self, How};
use support::tamper::{self, Table, Tampered};
use support::{Memory, Objects, anchor, anchor_bytes, cases, check, codes, encrypted, read_objects, vectors, write_objects};

fn good() -> [(&'static str, Objects); 8] {
    let small = cases::good_2(&Faults::default());
    [
        ("good-1", cases::good_1().objects),
        ("good-2", small.objects),
        ("good-3", support::logs::good_3().objects),
        ("good-4", stamps::good_4(&stamps::How::default()).objects),
        ("good-5", support::custody::good_5(&support::custody::Lies::default()).objects),
        ("good-6", support::approvals::good_6(&support::approvals::Lies::default()).objects),
        ("good-7", encrypted::good_7(&encrypted::How::default()).objects),
        ("bag-1", bag(&Making::default())),
    ]
}

/// The identities of the recipients of `good-7`, as files.
fn identity_files() -> Objects {
    [1_u8, 2].map(|n| (format!("{n}.txt"), encrypted::identity_file(n))).into()
}

fn check_any(name: &str, objects: &Objects, options: &Options) -> Report {
    if name.starts_with("bag-") { check_bag(objects, options) } else { check(objects, options) }
}

fn table_bytes(table: &Table) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(table).expect("serialises");
    bytes.push(b'\n');
    bytes
}

#[test]
fn what_is_checked_in_is_what_the_writers_make() {
    let folder = vectors();
    let table = table_bytes(&tamper::table());
    if std::env::var_os("EXHIBIT_WRITE_VECTORS").is_some() {
        for (name, objects) in good() {
            let _ = fs::remove_dir_all(folder.join(name));
            write_objects(&folder.join(name), &objects);
        }
        write_objects(&folder.join("identities"), &identity_files());
        fs::write(folder.join("anchor.json"), anchor_bytes()).expect("writable");
        fs::write(folder.join("tampered.json"), &table).expect("writable");
    }
    for (name, objects) in good() {
        let found = read_objects(&folder.join(name));
        let names: BTreeSet<_> = objects.keys().chain(found.keys()).collect();
        for object in names {
            assert!(objects.get(object) == found.get(object), "{name}/{object} is not what the writers make");
        }
    }
    assert_eq!(read_objects(&folder.join("identities")), identity_files());
    assert_eq!(fs::read(folder.join("anchor.json")).expect("anchor"), anchor_bytes());
    assert!(fs::read(folder.join("tampered.json")).expect("table") == table, "tampered.json is not what the generator makes");
}

#[test]
fn good_cases_are_sound() {
    for (name, objects) in good() {
        let identities = if name == "good-7" { vec![encrypted::identity(1), encrypted::identity(2)] } else { Vec::new() };
        let report = check_any(name, &objects, &Options { complete: true, identities, ..Options::default() });
        let kept = report.findings.kept();
        assert_eq!(report.verdict, Verdict::Sound, "{name}: {kept:#?}");
        assert!(kept.iter().all(|f| matches!(f.code, Code::StreamCut | Code::CaseIncident | Code::DisposalDone)), "{name}: {kept:#?}");
        assert_eq!(report.counts.items, report.counts.items_verified);
        let of_case = objects.keys().filter(|n| !name.starts_with("bag-") || n.starts_with("data/")).count();
        assert_eq!(report.counts.objects as usize, of_case);
    }
}

#[test]
fn what_a_bag_leaves_out_is_said_and_not_missing() {
    let objects = bag(&Making { left_out: true, ..Making::default() });
    let report = check_bag(&objects, &Options { complete: true, ..Options::default() });
    assert_eq!((report.verdict, codes(&report)), (Verdict::Sound, vec!["bag.left-out"]), "{:#?}", report.findings.kept());
    let summary = report.bag.expect("a bag");
    assert!(summary.signed && !summary.left_out.is_empty());
    assert!(report.collections.iter().all(|c| c.left_out && c.items == 0));
    // What is said to be left out and is there nevertheless is no note.
    let mut both = bag(&Making::default());
    both.insert("bag.json".to_owned(), objects["bag.json"].clone());
    support::bags::seal(&mut both, support::RESPONDER);
    assert!(codes(&check_bag(&both, &Options::default())).contains(&"bag.description"));
}

/// Whoever exported has the key, and still cannot give the export another date or reason.
#[test]
fn a_bag_says_when_and_why_it_was_made_as_it_is_recorded() {
    let with = |tweak: &dyn Fn(&mut exhibit_evidence::bag::Description)| {
        let report = check_bag(&bag(&Making { tweak, ..Making::default() }), &Options::default());
        (report.verdict, codes(&report).into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let found = (Verdict::Unsound, vec!["bag.export".to_owned()]);
    assert_eq!(with(&|d| d.reason = "a routine copy".to_owned()), found);
    assert_eq!(with(&|d| d.exported_at = d.exported_at.plus_s(-86_400)), found);
    assert_eq!(with(&|d| d.exported_at = d.exported_at.plus_s(3_600)), (Verdict::Sound, Vec::new()));
}

/// The exporter's clock may differ by some minutes; what a token over the bag saw was not exported an hour after it.
#[test]
fn a_bag_that_is_dated_after_its_stamp_is_named() {
    use exhibit_evidence::layout::TimestampFile;
    use exhibit_evidence::timestamp::{Reply, Request};
    use exhibit_evidence::{Digest, Timestamp, bag as format};
    let stamped = |exported_at: Timestamp| {
        let tweak = |d: &mut format::Description| {
            d.exported_at = exported_at;
            d.authorities = vec!["alpha".to_owned()];
        };
        let mut objects = bag(&Making { tweak: &tweak, ..Making::default() });
        let request = Request::new(Digest::of(&objects[format::TAG_MANIFEST]), 7);
        let reply = stamps::fresh("alpha", &request);
        let time = Reply::parse(&reply).expect("a reply").time();
        let [asks, answers] = [TimestampFile::Request, TimestampFile::Reply].map(|file| file("alpha".parse().expect("a name")));
        objects.insert(format::stamp(&asks), request.to_der());
        objects.insert(format::stamp(&answers), reply);
        let report = check_bag(&objects, &Options::default());
        assert_eq!(report.bag.as_ref().map(|b| b.timestamps.len()), Some(1), "{:#?}", report.findings);
        (time, report)
    };
    // The authority's clock is the machine's: any token tells what it says.
    let (time, _) = stamped(Timestamp::from_unix_s(1_768_480_000));
    for seconds in [0, 600] {
        let (_, report) = stamped(time.plus_s(seconds));
        assert_eq!((report.verdict, codes(&report)), (Verdict::Sound, Vec::new()), "{:#?}", report.findings);
    }
    let (_, report) = stamped(time.plus_s(3_600));
    assert_eq!((report.verdict, codes(&report)), (Verdict::Unsound, vec!["bag.export"]), "{:#?}", report.findings);
    let message = &report.findings.kept()[0].message;
    assert!(message.contains("saw the bag at") && message.contains(&time.plus_s(3_600).to_string()), "{message}");
}

/// The manifests are the exporter's: what lies beside the payload is compared with the case as far as it can be.
#[test]
fn views_that_the_exporter_forged_are_found() {
    for (name, bytes) in [
        ("expanded/00000/EXH00000001.txt", &b"forged"[..]),
        ("expanded/00000/EXH00000999", b"of no item"),
        ("expanded/00000/note.txt", b"of no exhibit"),
        ("expanded/README.txt", b"and no exhibits"),
        ("proofs/0000000001.tlog-proof", b"c2sp.org/tlog-proof@v1\n"),
    ] {
        let mut objects = bag(&Making::default());
        objects.insert(name.to_owned(), bytes.to_vec());
        support::bags::seal(&mut objects, support::RESPONDER);
        let report = check_bag(&objects, &Options::default());
        assert_eq!((report.verdict, codes(&report)), (Verdict::Unsound, vec!["bag.view"]), "{name}");
    }
}

#[test]
fn any_removed_added_or_flipped_file_of_a_bag_is_found() {
    let objects = bag(&Making::default());
    assert_eq!(check_bag(&objects, &Options::default()).verdict, Verdict::Sound);
    let mut next = numbers(0x00ba_9000_0000_0001);
    for name in objects.keys() {
        let mut changed = objects.clone();
        changed.remove(name);
        assert_eq!(check_bag(&changed, &Options::default()).verdict, Verdict::Unsound, "{name} removed");
        let mut changed = objects.clone();
        changed.insert(format!("{name}x"), Vec::new());
        assert_eq!(check_bag(&changed, &Options::default()).verdict, Verdict::Unsound, "{name}x added");
        let mut changed = objects.clone();
        let bytes = changed.get_mut(name).expect("there");
        let (at, flip) = (next(bytes.len()), 1 + next(255) as u8);
        bytes[at] ^= flip;
        assert_eq!(check_bag(&changed, &Options::default()).verdict, Verdict::Unsound, "{name} byte {at} xor {flip:#x}");
    }
}

#[test]
fn a_head_that_was_noted_elsewhere_is_found_in_the_history() {
    let (_, objects) = &good()[0];
    let head = check(objects, &Options::default()).checkpoint.expect("a head");
    let expected = |size, root| check(objects, &Options { expected: Some((size, root)), ..Options::default() }).verdict;
    assert_eq!(expected(head.size, head.root), Verdict::Sound);
    assert_eq!(expected(head.size + 1, head.root), Verdict::Unsound);
    assert_eq!(expected(head.size - 1, head.root), Verdict::Unsound);
}

/// Applies a row of the table and returns the codes that came out.
fn outcome(case: &Tampered) -> (Verdict, Vec<&'static str>) {
    let mut objects = good().into_iter().find(|(name, _)| *name == case.base).expect("a base").1;
    tamper::apply(&mut objects, &case.edits);
    let report = check_any(&case.base, &objects, &case.options());
    (report.verdict, codes(&report))
}

#[test]
fn every_tampering_is_found_with_its_codes() {
    let table: Table = serde_json::from_slice(&fs::read(vectors().join("tampered.json")).expect("table")).expect("JSON");
    let mut wrong = Vec::new();
    for case in table.cases.iter().filter(|c| !c.needs_disk()) {
        let (verdict, found) = outcome(case);
        let missing: Vec<_> = case.codes.iter().filter(|c| !found.contains(&c.as_str())).collect();
        if verdict != Verdict::Unsound || !missing.is_empty() {
            wrong.push(format!("{}: {verdict:?}, missing {missing:?}, found {found:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_code_is_reached_by_a_tampering() {
    let table = tamper::table();
    let named: BTreeSet<&str> = table.cases.iter().flat_map(|c| &c.codes).map(String::as_str).collect();
    assert_eq!(table.cases.iter().map(|c| &c.name).collect::<BTreeSet<_>>().len(), table.cases.len(), "names are unique");
    // Notes do not make a case unsound; good-1 and the test below have them. What may not be read is no tampering.
    let others = [
        Code::CaseIncident,
        Code::StreamCut,
        Code::BagLeftOut,
        Code::BagUnstamped,
        // What its exporter signs anew: the tests below.
        Code::BagExport,
        Code::BagView,
        // What lies beside the manifests and what they cannot vouch for: `bags.rs`.
        Code::BagInfo,
        Code::BagListMissing,
        Code::TimestampCrl,
        Code::TimestampUncovered,
        // Built below, and shown to the second reader there.
        Code::ApprovalRevokedKey,
        Code::ChainRevokedKey,
        Code::RecordAfterRevocation,
        Code::OrderUnapproved,
        Code::LogTileMissing,
        Code::TimestampCertificates,
        Code::DisposalDone,
        Code::StreamUnsealed,
        Code::ObjectUnreadable,
        Code::TimestampUnrecorded,
        Code::TimestampFailed,
        Code::AcquisitionExpired,
        Code::AcquisitionUnapproved,
        Code::TimeBackwards,
        Code::TimeExcluded,
        // `later_heads.rs` reaches these.
        Code::LogShorter,
        Code::LogConsistency,
        // `encrypted_cases` reaches these.
        Code::SegmentUndescribed,
        Code::StreamEncrypted,
    ];
    let left: Vec<_> = Code::ALL.iter().filter(|c| !others.contains(c) && !named.contains(c.as_str())).collect();
    assert!(left.is_empty(), "no tampering reaches {left:?}");
}

#[test]
fn an_open_collection_is_a_note_until_completeness_is_asked_for() {
    use support::faults::Step;
    let case = cases::good_2(&Faults { skip: &[Step::Receipt, Step::Seal], ..Faults::default() });
    let report = check(&case.objects, &Options::default());
    assert_eq!((report.verdict, codes(&report)), (Verdict::Sound, vec!["order.open", "stream.unsealed"]));
    let report = check(&case.objects, &Options { complete: true, ..Options::default() });
    assert_eq!(report.verdict, Verdict::Unsound);
    // An object that is nobody's is never only a note.
    let mut objects = case.objects;
    objects.insert("collections/x".to_owned(), Vec::new());
    assert_eq!(check(&objects, &Options::default()).verdict, Verdict::Unsound);
}

#[test]
fn what_clocks_say_that_may_have_been_set_is_noted() {
    let late: &dyn Fn(&mut exhibit_evidence::record::Acquisition) = &|a| a.started.wall = a.started.wall.plus_s(30 * 86_400);
    let case = cases::good_2(&Faults { acquisition: late, ..Faults::default() });
    let report = check(&case.objects, &Options::default());
    assert_eq!((report.verdict, codes(&report)), (Verdict::Sound, vec!["acquisition.expired", "time.backwards"]));
    let backwards: &dyn Fn(&mut exhibit_evidence::record::Receipt) = &|r| r.received_to = r.received_from.plus_s(-3_600);
    let case = cases::good_2(&Faults { receipt: backwards, ..Faults::default() });
    let report = check(&case.objects, &Options::default());
    assert_eq!((report.verdict, codes(&report)), (Verdict::Sound, vec!["time.backwards"]));
}

#[test]
fn collections_lie_between_trusted_moments() {
    let mut timestamp_anchors = stamps::root("alpha");
    timestamp_anchors.extend(stamps::root("beta"));
    let options = Options { timestamp_anchors, timestamps_required: 2, complete: true, ..Options::default() };
    let case = stamps::good_4(&How::default());
    let report = check(&case.objects, &options);
    assert_eq!((report.verdict, codes(&report)), (Verdict::Sound, Vec::new()));
    let [first, alpha, beta] = &report.timestamps[..] else { panic!("{:?}", report.timestamps) };
    assert_eq!((first.authority.as_str(), alpha.authority.as_str(), beta.authority.as_str()), ("alpha", "alpha", "beta"));
    let trust = alpha.trust.as_ref().expect("believed");
    assert!(trust.signer == "Alpha tsa" && trust.crl_made.is_some() && trust.valid[0] <= alpha.time && alpha.time <= trust.valid[1]);
    let time = &report.collections[0].trusted_time;
    let at = |bound: &Option<verify::Bound>| bound.clone().map(|b| b.at).expect("a moment");
    // The accuracy that the tokens state, one second, widens the sandwich.
    assert_eq!(at(&time.not_before), first.time.plus_s(-1));
    assert_eq!(at(&time.acquired_before), alpha.time.min(beta.time).plus_s(1));
    assert_eq!(at(&time.sealed_before), at(&time.acquired_before));
    // Without roots nothing is believed, and nothing is wrong.
    let report = check(&case.objects, &Options::default());
    assert_eq!((report.verdict, report.timestamps.len()), (Verdict::Sound, 3));
    assert!(report.timestamps.iter().all(|t| t.trust.is_none()) && report.collections[0].trusted_time == verify::Sandwich::default());
    // Of one authority alone the other's tokens are noted, not held against the case.
    let one = Options { timestamp_anchors: stamps::root("beta"), timestamps_required: 1, ..Options::default() };
    let report = check(&case.objects, &one);
    assert_eq!((report.verdict, codes(&report)), (Verdict::Sound, vec!["timestamp.untrusted"]));
    // Both stamp the seal, only `alpha` stamped what the agent repeats.
    assert_eq!(report.collections[0].trusted_time.not_before, None);
}

#[test]
fn what_is_dated_before_a_token_that_it_follows_is_proved_false() {
    let options = Options { timestamp_anchors: stamps::root("alpha"), ..Options::default() };
    let dated = |ahead| check(&stamps::good_4(&How { none: true, ahead, ..How::default() }).objects, &options);
    assert!(!codes(&dated(0)).contains(&"time.excluded"));
    let report = dated(-31_536_000);
    assert!(report.verdict == Verdict::Unsound && codes(&report).contains(&"time.excluded"), "{:?}", report.findings);
    // The second reader says the same, with the same root.
    let second = |ahead| second_reader(&stamps::good_4(&How { none: true, ahead, ..How::default() }).objects);
    let proved = "states a moment before a token that it follows";
    let (fine, dated) = (second(0), second(-31_536_000));
    assert!(!fine.contains(proved) && dated.contains(proved), "{fine}\n{dated}");
    // Without the root nothing is believed, so nothing is excluded.
    let report = check(&stamps::good_4(&How { none: true, ahead: -31_536_000, ..How::default() }).objects, &Options::default());
    assert!(!codes(&report).contains(&"time.excluded"));
}

/// What the second reader says of a case, with the root of `alpha`.
fn second_reader(objects: &Objects) -> String {
    let folder = tempfile::tempdir().expect("folder");
    write_objects(folder.path(), objects);
    let mut reader = std::process::Command::new("python3");
    let reader = reader.arg("-B").arg(vectors().join("../second-reader/read_case.py")).arg(folder.path());
    let reader = reader.arg("--anchor").arg(vectors().join("anchor.json"));
    let said = reader.arg("--timestamp-anchor").arg(vectors().join("timestamps/alpha/root.pem")).output().expect("python3");
    String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr)
}

/// Every record says that retention had ended, so that nothing but the token is against it.
#[test]
fn a_token_alone_proves_that_retention_had_not_ended() {
    let objects = support::retained::case().objects;
    let options = Options { timestamp_anchors: stamps::root("alpha"), timestamps_required: 1, complete: true, ..Options::default() };
    let report = check(&objects, &options);
    let expected = (Verdict::Unsound, vec!["disposal.done", "disposal.retained", "timestamp.untrusted"]);
    assert_eq!((report.verdict, codes(&report)), expected, "{:#?}", report.findings);
    let said = second_reader(&objects);
    let problems: Vec<&str> = said.lines().filter(|line| line.starts_with("problem: ")).collect();
    assert!(matches!(&problems[..], [one] if one.contains("destroyed before the end of retention, as a token proves")), "{said}");
    // Without the root the records have the word.
    let report = check(&objects, &Options::default());
    assert_eq!((report.verdict, codes(&report)), (Verdict::Sound, vec!["disposal.done"]), "{:#?}", report.findings);
}

/// What the second reader has against a case.
fn problems(objects: &Objects) -> Vec<String> {
    second_reader(objects).lines().filter(|line| line.starts_with("problem: ")).map(str::to_owned).collect()
}

/// A record's place says what came after a revocation.
#[test]
fn what_rests_on_a_key_that_was_revoked_before_is_said() {
    use support::custody::{At, BEN, DAN, Lies, good_5};
    use support::faults::Step;
    let revoked = |when: At, seed: u8| {
        let at: &dyn Fn(&mut support::Case, At) = &|case, at| {
            if at == when {
                // What this case's custodians do is dated two days after the evidence.
                cases::revoke_as_of(case, seed, 3 * 86_400);
            }
        };
        good_5(&Lies { at, ..Lies::default() }).objects
    };
    // Dan asks for a disposal, his key is revoked, and Ben approves it all the same.
    let objects = revoked(At::Approval, DAN);
    let report = check(&objects, &Options::default());
    let expected = (Verdict::Unsound, vec!["approval.revoked-key", "disposal.done"]);
    assert_eq!((report.verdict, codes(&report)), expected, "{:#?}", report.findings);
    let said = problems(&objects);
    assert!(matches!(&said[..], [one] if one.contains("of what a key asked for that had been revoked")), "{said:?}");
    // Revoked when all was decided and done, it changes nothing.
    let report = check(&revoked(At::End, DAN), &Options::default());
    assert_eq!((report.verdict, codes(&report)), (Verdict::Sound, vec!["disposal.done"]), "{:#?}", report.findings);
    // What a key itself approves afterwards is not trusted at all.
    let report = check(&revoked(At::Approval, BEN), &Options::default());
    assert!(report.verdict == Verdict::Unsound && codes(&report).contains(&"record.revoked-key"), "{:#?}", report.findings);

    // The order was given before, and carried out after its key was revoked: it may have been running.
    let at: &dyn Fn(&mut support::Case, Option<&support::Ordered>, Step) = &|case, _, step| {
        if step == Step::Order {
            cases::revoke(case, support::RESPONDER);
        }
    };
    let objects = cases::good_2(&Faults { at, ..Faults::default() }).objects;
    let report = check(&objects, &Options::default());
    assert_eq!((report.verdict, codes(&report)), (Verdict::Sound, vec!["chain.revoked-key"]), "{:#?}", report.findings);
    assert_eq!(problems(&objects), Vec::<String>::new());
    // Once for the order, not for each record under it.
    assert_eq!(report.findings.counts(), (0, 0, 1));
}

/// A revocation may be copied into a case long after it was given: only what is dated after it is told.
#[test]
fn what_is_dated_after_a_later_revocation_is_noted() {
    use support::custody::{At, DAN, Lies, good_5};
    let revoked = |by_s: i64| {
        let at: &dyn Fn(&mut support::Case, At) = &|case, at| {
            if at == At::End {
                cases::revoke_as_of(case, DAN, by_s);
            }
        };
        good_5(&Lies { at, ..Lies::default() }).objects
    };
    let report = check(&revoked(3 * 86_400), &Options::default());
    assert!(!codes(&report).contains(&"record.after-revocation"), "{:#?}", report.findings);
    let objects = revoked(-10 * 365 * 86_400);
    let report = check(&objects, &Options::default());
    assert!(report.verdict == Verdict::Sound && codes(&report).contains(&"record.after-revocation"), "{:#?}", report.findings);
    assert_eq!(problems(&objects), Vec::<String>::new());
}

/// That nobody approved an order, and that nobody can any more, the log alone shows: nothing of it is running.
#[test]
fn an_order_that_nobody_approved_is_told_from_one_that_runs() {
    use support::approvals::{Lies, approve, ordered};
    let found = |then: &dyn Fn(&mut support::Case, &support::Ordered), complete: bool| {
        let report = check(&ordered(then).objects, &Options { complete, ..Options::default() });
        let said = report.findings.kept().first().map(|f| f.message.clone()).unwrap_or_default();
        (report.verdict, codes(&report), said)
    };
    let (verdict, codes, said) = found(&|_, _| {}, false);
    assert_eq!((verdict, codes), (Verdict::Sound, vec!["order.unapproved"]));
    assert!(said.contains("was never approved, and no host could obey it; what it brings if somebody approves it later"), "{said}");
    let (verdict, codes, said) = found(&|case, _| cases::revoke(case, support::RESPONDER), true);
    assert_eq!((verdict, codes), (Verdict::Unsound, vec!["order.unapproved"]));
    assert!(said.contains("nobody can approve it any more: it was signed by key ") && said.ends_with(" revoked"), "{said}");
    let (verdict, codes, _) = found(&|case, order| approve(case, order, order, &Lies::default()), false);
    assert_eq!((verdict, codes), (Verdict::Sound, vec!["order.open"]), "approved, it may be running");
}

/// An older disposal may name a collection that never had anything: the log holds, and nobody is told that evidence was destroyed.
#[test]
fn of_a_collection_without_evidence_nothing_was_destroyed() {
    use support::approvals::{Lies, good_6};
    let objects = good_6(&Lies { with_empty: true, ..Lies::default() }).objects;
    let report = check(&objects, &Options { complete: true, ..Options::default() });
    assert_eq!((report.verdict, codes(&report)), (Verdict::Sound, vec!["disposal.done"]), "{:#?}", report.findings);
    assert_eq!(report.findings.counts(), (0, 0, 1), "of the one that was there");
    let told: Vec<_> = report.collections.iter().map(|c| (c.outcome, c.disposed.is_some())).collect();
    assert_eq!(told, [(Some(Outcome::Sealed), true), (Some(Outcome::Expired), false)]);
    assert_eq!(problems(&objects), Vec::<String>::new());
}

/// Tiles of a case, as a coordinator writes them.
fn tiles(objects: &Objects) -> Objects {
    use exhibit_evidence::log::{Tiler, leaf_hash};
    let (mut tiler, mut all) = (Tiler::new(), Objects::new());
    for (_, bytes) in objects.iter().filter(|(name, _)| name.starts_with("log/seq/")) {
        tiler.append(leaf_hash(bytes), &mut |tile, bytes| assert!(all.insert(format!("log/{tile}"), bytes).is_none()));
        all.extend(tiler.partial().into_iter().map(|(tile, bytes)| (format!("log/{tile}"), bytes)));
    }
    all
}

#[test]
fn a_tile_that_the_checkpoint_needs_and_that_is_gone_is_noted() {
    let mut objects = cases::good_2(&Faults::default()).objects;
    let records = objects.keys().filter(|name| name.starts_with("log/seq/")).count();
    objects.extend(tiles(&objects));
    assert_eq!(codes(&check(&objects, &Options::default())), Vec::<&str>::new());
    // An older one is not needed any more.
    let name = |width: usize| format!("log/tile/0/000.p/{width}");
    assert!(objects.remove(&name(records - 1)).is_some());
    assert_eq!(codes(&check(&objects, &Options::default())), Vec::<&str>::new());
    assert!(objects.remove(&name(records)).is_some());
    let report = check(&objects, &Options::default());
    assert_eq!((report.verdict, codes(&report)), (Verdict::Sound, vec!["log.tile-missing"]));
    assert_eq!(report.findings.kept()[0].object, name(records));
    // A copy without any tiles is as good.
    objects.retain(|name, _| !name.starts_with("log/tile/"));
    assert_eq!(codes(&check(&objects, &Options::default())), Vec::<&str>::new());
}

/// The reply with one more certificate. No signature covers which there are.
fn with_certificate(reply: &[u8], certificate: &[u8]) -> Vec<u8> {
    support::der::with_more(reply, 0xa0, certificate)
}

#[test]
fn a_certificate_in_a_token_that_belongs_to_nobody_is_named_and_changes_nothing() {
    let pem = |name: &str| fs::read_to_string(vectors().join(format!("timestamps/{name}/root.pem"))).expect("a root");
    let certificate = |name: &str| {
        let pem = pem(name);
        let body = pem.split("-----").nth(2).expect("a body").replace('\n', "");
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).expect("base64")
    };
    let stamped = |other: &str| {
        let add: &dyn Fn(Vec<u8>) -> Vec<u8> = &|reply| with_certificate(&reply, &certificate(other));
        stamps::good_4(&How { reply: add, ..How::default() }).objects
    };
    let options = Options { timestamp_anchors: stamps::root("alpha"), timestamps_required: 1, ..Options::default() };
    // Alpha's own root is above its signer.
    let report = check(&stamped("alpha"), &options);
    assert_eq!((report.verdict, codes(&report)), (Verdict::Sound, vec!["timestamp.untrusted"]), "{:#?}", report.findings);
    let objects = stamped("beta");
    let report = check(&objects, &options);
    let expected = (Verdict::Sound, vec!["timestamp.certificates", "timestamp.untrusted"]);
    assert_eq!((report.verdict, codes(&report)), expected, "{:#?}", report.findings);
    assert!(report.findings.kept().iter().any(|f| f.message.contains("'Beta root'")), "{:#?}", report.findings);
    assert!(report.collections[0].trusted_time.sealed_before.is_some(), "the token counts");
    assert_eq!(problems(&objects), Vec::<String>::new());
}

#[test]
fn a_token_that_lies_there_before_its_record_counts_and_is_noted() {
    let case = stamps::good_4(&How { none: true, ..How::default() });
    let whole = stamps::good_4(&How::default());
    let size = format!("timestamps/{:010}.", stamps::last_size(&whole.objects));
    let mut objects = case.objects;
    objects.extend(whole.objects.into_iter().filter(|(name, _)| name.starts_with(&size)));
    let options = Options { timestamp_anchors: stamps::root("alpha"), timestamps_required: 1, ..Options::default() };
    let report = check(&objects, &options);
    assert_eq!((report.verdict, codes(&report)), (Verdict::Sound, vec!["timestamp.failed", "timestamp.unrecorded", "timestamp.untrusted"]));
    assert!(report.collections[0].trusted_time.sealed_before.is_some());
    // A request without a reply is what an interruption leaves.
    objects.retain(|name, _| !name.starts_with(&size) || name.split('.').next_back() == Some("tsq"));
    let report = check(&objects, &Options::default());
    assert_eq!(codes(&report), ["timestamp.failed", "timestamp.unrecorded"]);
    // One that belongs to a failure that is recorded is counted: nobody recorded these.
    assert_eq!(report.counts.requests_unanswered, 0);
    let failed = objects.keys().find(|name| name.ends_with(".alpha.tsq") && !name.starts_with(&size)).expect("of the first head").clone();
    objects.insert(failed.replace(".alpha.", ".beta."), objects[&failed].clone());
    let report = check(&objects, &Options::default());
    assert_eq!((codes(&report), report.counts.requests_unanswered), (vec!["timestamp.failed", "timestamp.unrecorded"], 1));
}

/// A small generator (xorshift), so that every run flips the same bytes.
fn numbers(mut x: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x % below as u64) as usize
    }
}

#[test]
fn any_flipped_byte_anywhere_is_found() {
    for (_, objects) in [&good()[0], &good()[3]] {
        let total: usize = objects.values().map(Vec::len).sum();
        let mut next = numbers(0x0ddb_1a5e_5bad_5eed);
        for _ in 0..600 {
            let (mut at, flip) = (next(total), 1 + next(255) as u8);
            let mut changed = objects.clone();
            let (name, bytes) = changed
                .iter_mut()
                .find(|(_, bytes)| {
                    let here = at < bytes.len();
                    at = if here { at } else { at - bytes.len() };
                    here
                })
                .expect("below the total");
            bytes[at] ^= flip;
            let name = name.clone();
            assert_eq!(check(&changed, &Options::default()).verdict, Verdict::Unsound, "{name} byte {at} xor {flip:#x}");
        }
    }
}

#[test]
fn damage_to_one_segment_leaves_the_items_of_the_others_verified() {
    let (_, objects) = &good()[1];
    let first = objects.keys().find(|n| n.ends_with("/00000000.tar.zst")).expect("there");
    let mut changed = objects.clone();
    changed.remove(first);
    let report = check(&changed, &Options::default());
    // Of four items two have their members in the lost segment; one lies in the other, one is by record.
    assert_eq!((report.counts.items, report.counts.items_verified), (4, 2));
    assert_eq!(codes(&report), ["segment.missing", "stream.unverified"]);
}

/// A copy of which this user may not read one object.
struct Closed<'a>(&'a Objects, &'a str);

impl CaseFiles for Closed<'_> {
    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> std::io::Result<()> {
        Memory(self.0).list(each)
    }

    fn open(&self, name: &str) -> std::io::Result<Box<dyn std::io::Read + '_>> {
        if name == self.1 {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        let bytes = self.0.get(name).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(Box::new(bytes.as_slice()))
    }
}

#[test]
fn what_may_not_be_read_is_not_called_lost() {
    let (_, objects) = &good()[1];
    let anchor = anchor();
    for name in objects.keys() {
        let report = verify::verify(&Closed(objects, name), &anchor, &Options::default(), &mut |_| {}).expect("listed");
        assert_eq!(report.verdict, Verdict::Unsound, "{name}");
        assert!(codes(&report).contains(&"object.unreadable"), "{name}: {:?}", codes(&report));
    }
}

#[test]
fn folders_are_accounted_for() {
    let (_, objects) = &good()[1];
    let with = |folder: &'static str, empty| {
        struct More<'a>(&'a Objects, &'static str, bool);
        impl CaseFiles for More<'_> {
            fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> std::io::Result<()> {
                each(Entry { name: self.1.as_bytes(), size: 0, kind: EntryKind::Folder { empty: self.2 } });
                Memory(self.0).list(each)
            }

            fn open(&self, name: &str) -> std::io::Result<Box<dyn std::io::Read + '_>> {
                let bytes = self.0.get(name).ok_or(std::io::ErrorKind::NotFound)?;
                Ok(Box::new(bytes.as_slice()))
            }
        }
        let anchor = anchor();
        let report = verify::verify(&More(objects, folder, empty), &anchor, &Options::default(), &mut |_| {}).expect("listed");
        codes(&report)
    };
    assert_eq!(with("log/seq", false), Vec::<&str>::new());
    assert_eq!((with("extra", true), with("log/checkpoint", true)), (vec!["object.unknown"], vec!["object.not-a-file"]));
    // The note: sound, and said.
    assert_eq!(with("collections", true), ["object.unknown"]);
}

#[test]
fn any_removed_object_is_found() {
    let cases = [&good()[0], &good()[3]];
    for (objects, name) in cases.into_iter().flat_map(|(_, objects)| objects.keys().map(move |name| (objects, name))) {
        let mut changed = objects.clone();
        changed.remove(name);
        assert_eq!(check(&changed, &Options::default()).verdict, Verdict::Unsound, "{name}");
    }
}

/// A thief has the coordinator's log key, and nothing else: it can invent that something arrived, and a head over it. It can
/// neither order nor speak for an agent, and nothing that a witness vouched for can be taken back.
#[test]
fn a_stolen_log_key_makes_receipts_and_heads_and_no_more() {
    use exhibit_evidence::record::{Acquisition, Order, Record};
    use support::faults::Step;
    use support::{AGENT, LOG, RESPONDER};

    let last = |case: &support::Case, kind: &str| {
        let records = case.objects.iter().filter(|(name, _)| name.starts_with("log/seq/")).map(|(_, bytes)| bytes);
        let parsed = records.filter_map(|b| exhibit_evidence::dsse::Envelope::parse(b).ok());
        let all: Vec<Record> = parsed.filter_map(|e| Record::from_payload(e.unverified_payload()).ok()).collect();
        all.into_iter().rfind(|r| r.type_name() == kind).expect("one of them")
    };
    let order = |case: &support::Case| -> Order {
        let Record::Order(order) = last(case, "order:v1") else { panic!("an order") };
        Order { order: exhibit_evidence::id::OrderId::new(7, [7; 10]), nonce: case.nonce(), ..*order }
    };
    let forged = |at: &dyn Fn(&mut support::Case)| {
        let faults = Faults {
            at: &|case, _, step| {
                if step == Step::End {
                    at(case);
                }
            },
            ..Faults::default()
        };
        let report = check(&cases::good_2(&faults).objects, &Options::default());
        (report.verdict, codes(&report))
    };
    let refused = (Verdict::Unsound, vec!["record.not-authorized"]);
    assert_eq!(
        forged(&|case| {
            let order = order(case);
            case.sign(&order, LOG);
        }),
        refused,
        "no order"
    );
    // The same words with the responder's key are an order: what is refused above is the key.
    assert_eq!(
        forged(&|case| {
            let order = order(case);
            case.sign(&order, RESPONDER);
        }),
        (Verdict::Sound, vec!["order.open"])
    );
    let acquisition = |case: &support::Case| -> Acquisition {
        let Record::Acquisition(p) = last(case, "acquisition:v1") else { panic!("an acquisition") };
        Acquisition { stream: exhibit_evidence::layout::StreamNumber(2), ..*p }
    };
    assert_eq!(
        forged(&|case| {
            let p = acquisition(case);
            case.sign(&p, LOG);
        }),
        refused,
        "no acquisition"
    );
    assert_eq!(
        forged(&|case| {
            let p = acquisition(case);
            case.sign(&p, AGENT + 1);
        }),
        refused,
        "nor another agent's"
    );

    // A receipt for a stream that no agent signed for is the thief's to make, and is shown as what it is.
    let invented = cases::good_2(&Faults {
        skip: &[Step::Acquisition],
        seal: &|seal| (seal.outcome, seal.reason) = (exhibit_evidence::record::Outcome::Partial, Some("the agent was lost".to_owned())),
        ..Faults::default()
    });
    let report = check(&invented.objects, &Options::default());
    let unsigned: u64 = report.collections.iter().map(|c| c.items_unsigned).sum();
    assert!(unsigned > 0 && unsigned == report.counts.items, "{:#?}", report.findings);

    // And so is a head: cut back before what a witness vouches for, it is found by whoever asks for the witness.
    let table = tamper::table();
    for (name, verdict) in [("last-records-gone", Verdict::Unsound), ("log-rewritten", Verdict::Unsound)] {
        let case = table.cases.iter().find(|c| c.name == name).expect("a row");
        assert_eq!(outcome(case).0, verdict, "{name}");
        let mut objects = good().into_iter().find(|(base, _)| *base == case.base).expect("a base").1;
        tamper::apply(&mut objects, &case.edits);
        assert_eq!(check(&objects, &Options::default()).verdict, Verdict::Sound, "{name}: without a witness nothing shows it");
    }
}
