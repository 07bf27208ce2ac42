//! Heads of more records than a bag has: what they say against it, what a proof makes of them, and how a bag is found whose log
//! was cut back before it was exported.

mod support;

use exhibit_evidence::Digest;
use exhibit_evidence::log::{Checkpoint, ConsistencyProof, Note, Plan, Tiler, Tree, cosign, leaf_hash};
use exhibit_evidence::verify::{Options, Report, Verdict};
use support::bags::{Making, bag, check_bag};
use support::logs::witness;
use support::{LOG, Objects, STRANGER, check, codes, key, vectors, write_objects};

/// When the log of the bag records its export: seconds since 1970.
const EXPORTED_S: u64 = 1_768_471_215;

fn own_head(bag: &Objects) -> Checkpoint {
    Checkpoint::parse_unverified(&bag["data/log/checkpoint"]).expect("a head")
}

/// The head of the bag's log with three more records, and the proof that leads to it from `old` records. `rewritten` is another
/// log, whose records differ from the last one of the bag on.
fn later(bag: &Objects, old: u64, rewritten: bool) -> (Checkpoint, Vec<Digest>) {
    let mut entries: Vec<Vec<u8>> = bag.iter().filter(|(n, _)| n.starts_with("data/log/seq/")).map(|(_, bytes)| bytes.clone()).collect();
    if rewritten {
        *entries.last_mut().expect("records") = b"another record".to_vec();
    }
    entries.extend((0..3).map(|n| format!("record {n} that came later").into_bytes()));
    let (mut tree, mut tiler) = (Tree::new(), Tiler::new());
    for entry in &entries {
        tree.append(entry);
        tiler.append(leaf_hash(entry), &mut |_, _| panic!("a small log"));
    }
    let tiles = tiler.partial();
    let plan = Plan::consistency(old, tree.size()).expect("inside");
    let hashes = plan.build(&|tile| tiles.iter().find(|(t, _)| t == tile).map(|(_, bytes)| bytes.as_slice())).expect("tiles");
    (Checkpoint { size: tree.size(), root: tree.root(), ..own_head(bag) }, hashes)
}

/// A head with the log's signature, and the witness's where it has a time.
fn signed(head: &Checkpoint, cosigned_s: Option<u64>) -> Note {
    let mut note = head.signed_note(&key(LOG));
    if let Some(time_s) = cosigned_s {
        let (witness, key) = witness();
        note.signatures.push(cosign(head, &witness, &key, time_s));
    }
    note
}

fn held(notes: &[&Note]) -> Options {
    Options { witnesses: vec![witness().0], held: notes.iter().map(|note| (*note).clone()).collect(), ..Options::default() }
}

/// The witness is required, and this proof is given.
fn proved(hashes: &[Digest], old: u64, note: &Note) -> Options {
    let proof = ConsistencyProof { old, hashes: hashes.to_vec(), checkpoint: note.to_bytes() };
    Options { witnesses: vec![witness().0], witnesses_required: 1, consistency: vec![proof], ..Options::default() }
}

/// The case in a bag, as a folder of its own.
fn case_of(bag: &Objects) -> Objects {
    bag.iter().filter_map(|(name, bytes)| Some((name.strip_prefix("data/")?.to_owned(), bytes.clone()))).collect()
}

/// The codes of a report beyond those that the bag has in any case.
fn more(report: &Report, bag: &Objects) -> Vec<&'static str> {
    let always = codes(&check_bag(bag, &Options::default()));
    codes(report).into_iter().filter(|code| !always.contains(code)).collect()
}

#[test]
fn a_longer_head_says_nothing_against_a_bag_unless_it_was_there_before_the_export() {
    let bag = bag(&Making::default());
    let (head, _) = later(&bag, 14, false);
    assert_eq!((own_head(&bag).size, head.size), (14, 17));
    let outcome = |options: &Options| {
        let report = check_bag(&bag, options);
        (report.verdict, more(&report, &bag))
    };
    let undecided = (Verdict::Sound, vec!["log.shorter"]);
    // Cosigned after the export, within what clocks may differ, or by nobody: it has no time then.
    for time in [Some(EXPORTED_S + 86_400), Some(EXPORTED_S - 800), None] {
        assert_eq!(outcome(&held(&[&signed(&head, time)])), undecided, "{time:?}");
    }
    let before = signed(&head, Some(EXPORTED_S - 1_000));
    assert_eq!(outcome(&held(&[&before])), (Verdict::Unsound, vec!["log.forked"]));
    // Whose witness was not given has no time that counts.
    assert_eq!(outcome(&Options { witnesses: Vec::new(), ..held(&[&before]) }), undecided);
    // Of a folder that is the log as it is now, records are missing.
    let after = signed(&head, Some(EXPORTED_S + 86_400));
    let report = check(&case_of(&bag), &held(&[&after]));
    assert_eq!((report.verdict, more(&report, &bag)), (Verdict::Unsound, vec!["log.forked"]));
    let said = &report.findings.kept().iter().find(|f| f.code.as_str() == "log.forked").expect("found").message;
    assert!(said.contains("records are missing at its end") && said.contains("older copy"), "{said}");
}

#[test]
fn what_a_witness_vouches_for_later_it_vouches_for_in_the_bag() {
    let bag = bag(&Making::default());
    let (head, hashes) = later(&bag, 14, false);
    let after = signed(&head, Some(EXPORTED_S + 86_400));
    let alone = Options { witnesses_required: 1, ..held(&[]) };
    let report = check_bag(&bag, &alone);
    assert_eq!((report.verdict, more(&report, &bag)), (Verdict::Unsound, vec!["witness.required"]));

    let by_log = signed(&head, None);
    // In one file; or the cosignature in a held head, and the proof to that head as the log signed it.
    for options in [proved(&hashes, 14, &after), Options { held: vec![after.clone()], ..proved(&hashes, 14, &by_log) }] {
        let report = check_bag(&bag, &options);
        assert_eq!((report.verdict, more(&report, &bag)), (Verdict::Sound, Vec::new()));
        assert_eq!(report.witnesses.first().and_then(|w| w.size), Some(17));
    }
    // The bag's own head, cosigned from a copy of the bag.
    let own = signed(&own_head(&bag), Some(EXPORTED_S + 60));
    for options in [Options { witnesses_required: 1, ..held(&[&own]) }, proved(&[], 14, &own)] {
        assert_eq!(check_bag(&bag, &options).verdict, Verdict::Sound);
    }
    // The proof alone is no witness; a held head without the proof is none of this history.
    let report = check_bag(&bag, &proved(&hashes, 14, &by_log));
    assert_eq!((report.verdict, more(&report, &bag)), (Verdict::Unsound, vec!["witness.required"]));
    let report = check_bag(&bag, &Options { witnesses_required: 1, ..held(&[&after]) });
    assert_eq!((report.verdict, more(&report, &bag)), (Verdict::Unsound, vec!["log.shorter", "witness.required"]));
    // A folder that is the log as it is now lacks the records, whatever continues it.
    let report = check(&case_of(&bag), &proved(&hashes, 14, &after));
    assert_eq!((report.verdict, more(&report, &bag)), (Verdict::Unsound, vec!["log.forked"]));
}

#[test]
fn a_proof_of_another_history_is_refused() {
    let bag = bag(&Making::default());
    let time = Some(EXPORTED_S + 86_400);
    let outcome = |options: &Options| {
        let report = check_bag(&bag, options);
        assert_eq!(report.verdict, Verdict::Unsound);
        more(&report, &bag)
    };
    // Its own proof shows the root that the other history has there.
    let (other, hashes) = later(&bag, 14, true);
    assert_eq!(outcome(&proved(&hashes, 14, &signed(&other, time))), ["log.forked", "witness.required"]);
    // At 8 records the two are the same still, and no proof from there reaches the end of the bag.
    let (_, early) = later(&bag, 8, true);
    assert_eq!(outcome(&proved(&early, 8, &signed(&other, time))), ["log.consistency", "witness.required"]);
    // The proof of one history to the head of another, and one with a hash too few, lead nowhere.
    let (head, good) = later(&bag, 14, false);
    for bad in [&hashes[..], &good[1..]] {
        assert_eq!(outcome(&proved(bad, 14, &signed(&head, time))), ["log.consistency", "witness.required"]);
    }
    assert_eq!(outcome(&proved(&good, 14, &signed(&other, time))), ["log.consistency", "witness.required"]);
    // A head of no more records than the bag has is one of this history, or it is not.
    let fork = Checkpoint { root: Digest::of(b"another history"), ..own_head(&bag) };
    assert_eq!(outcome(&proved(&[], 14, &signed(&fork, time))), ["log.forked", "witness.required"]);
    // What neither the log nor a witness signed proves nothing.
    let by_stranger = head.signed_note(&key(STRANGER));
    assert_eq!(outcome(&proved(&good, 14, &by_stranger)), ["witness.malformed", "witness.required"]);
}

#[test]
fn a_proof_that_begins_elsewhere_is_only_noted() {
    let bag = bag(&Making::default());
    let (head, hashes) = later(&bag, 13, false);
    let options = Options { witnesses_required: 0, ..proved(&hashes, 13, &signed(&head, Some(EXPORTED_S + 60))) };
    let report = check_bag(&bag, &options);
    assert_eq!((report.verdict, more(&report, &bag)), (Verdict::Sound, vec!["log.consistency"]));
}

/// What the second reader has against a bag, with these heads held.
fn second_reader(bag: &Objects, notes: &[&Note]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("folder");
    write_objects(&folder.path().join("bag"), bag);
    let mut reader = std::process::Command::new("python3");
    reader.arg("-B").arg(vectors().join("../second-reader/read_case.py")).arg(folder.path().join("bag"));
    reader.arg("--anchor").arg(vectors().join("anchor.json"));
    for (n, note) in notes.iter().enumerate() {
        let path = folder.path().join(format!("{n}.checkpoint"));
        std::fs::write(&path, note.to_bytes()).expect("written");
        reader.arg("--held").arg(path);
    }
    let done = reader.output().expect("python3");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(said.ends_with("sound\n"), "{said}{}", String::from_utf8_lossy(&done.stderr));
    said.lines().filter(|line| line.starts_with("problem: ")).map(str::to_owned).collect()
}

#[test]
fn two_heads_beyond_the_bag_that_contradict_each_other_are_two_histories() {
    let bag = bag(&Making::default());
    let time = Some(EXPORTED_S + 86_400);
    let (head, hashes) = later(&bag, 14, false);
    let other = Checkpoint { root: Digest::of(b"another end"), ..head.clone() };
    let outcome = |options: &Options| {
        let report = check_bag(&bag, options);
        (report.verdict, more(&report, &bag).into_iter().filter(|code| *code == "log.forked").count())
    };
    for forked in [signed(&other, None), signed(&other, time)] {
        let true_one = signed(&head, time);
        // Beside the proof of the true one, and two held ones without any proof, in each order.
        assert_eq!(outcome(&Options { held: vec![forked.clone()], ..proved(&hashes, 14, &true_one) }), (Verdict::Unsound, 1));
        assert_eq!(outcome(&held(&[&true_one, &forked])), (Verdict::Unsound, 1));
        assert_eq!(outcome(&held(&[&forked, &true_one])), (Verdict::Unsound, 1));
    }
    // The same head twice, by the log and by a witness, is one.
    assert_eq!(outcome(&held(&[&signed(&head, None), &signed(&head, time)])).1, 0);
    // The second reader says the same of heads that the log's key signed.
    let (one, another) = (signed(&head, None), signed(&other, None));
    for notes in [&[&one][..], &[&another], &[&one, &one]] {
        assert_eq!(second_reader(&bag, notes), Vec::<String>::new());
    }
    for notes in [[&one, &another], [&another, &one]] {
        let problems = second_reader(&bag, &notes);
        assert!(matches!(&problems[..], [problem] if problem.contains("there were two histories")), "{problems:?}");
    }
}
