//! What lies beside the payload of a bag and its manifests: names, views, labels and stamps, by an exporter who signs for anything and by
//! somebody who only has the medium.

mod support;

use exhibit_evidence::Digest;
use exhibit_evidence::bag::{self, DESCRIPTION, Description, INFO, INFO_VERIFIED, PAYLOAD, TAG_MANIFEST, View};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::layout::{AuthorityName, CaseObject, TimestampFile};
use exhibit_evidence::log::{Checkpoint, InclusionProof, Plan, Tiler, leaf_hash};
use exhibit_evidence::record::{Action, Record};
use exhibit_evidence::timestamp::Request;
use exhibit_evidence::verify::{Options, Report, Verdict};
use support::bags::{Making, bag, check_bag, seal};
use support::{Objects, RESPONDER, check, codes, stamps, vectors};

/// The proofs that an export makes.
fn proofs(objects: &Objects) -> Objects {
    let slots: Vec<&Vec<u8>> = objects.iter().filter(|(name, _)| name.starts_with("data/log/seq/")).map(|(_, bytes)| bytes).collect();
    let (mut tiler, mut tiles) = (Tiler::new(), std::collections::BTreeMap::new());
    for slot in &slots {
        tiler.append(leaf_hash(slot), &mut |tile, bytes| drop(tiles.insert(tile, bytes)));
    }
    tiles.extend(tiler.partial());
    let checkpoint = &objects[&format!("{PAYLOAD}{}", CaseObject::Checkpoint)];
    let mut made = Objects::new();
    for (n, slot) in slots.iter().enumerate() {
        let envelope = Envelope::parse(slot).expect("an envelope");
        let record = Record::from_payload(envelope.unverified_payload()).expect("a record");
        let is_due = match &record {
            Record::Seal(_) => true,
            Record::Access(access) => access.action == Action::Export,
            _ => false,
        };
        if is_due {
            let plan = Plan::inclusion(n as u64, slots.len() as u64).expect("within");
            let hashes = plan.build(&|tile| tiles.get(tile).map(Vec::as_slice)).expect("all tiles");
            let proof = InclusionProof { index: n as u64, hashes, checkpoint: checkpoint.clone() };
            made.insert(format!("proofs/{n:010}.tlog-proof"), proof.to_bytes());
        }
    }
    made
}

/// `bag-info.txt` as an export writes it.
fn labels(objects: &Objects) -> String {
    let description = Description::parse(&objects[DESCRIPTION]).expect("a description");
    let title = check_bag(objects, &Options::default()).case.expect("a case").title;
    let payload = || objects.iter().filter(|(name, _)| name.starts_with(PAYLOAD));
    let bytes: usize = payload().map(|(_, bytes)| bytes.len()).sum();
    let mut lines = bag::info(&description, &title, bytes as u64, payload().count() as u64);
    lines.push((INFO_VERIFIED, "sound".to_owned()));
    lines.iter().fold(String::new(), |text, (label, value)| text + &format!("{label}: {value}\n"))
}

/// What is changed in a bag's description, and in its files.
type Tweak<'a> = &'a dyn Fn(&mut Description);
type Change<'a> = &'a dyn Fn(&mut Objects);

/// A bag that says which views were made, whole but for what is changed.
fn whole(tweak: Tweak<'_>, change: Change<'_>) -> Objects {
    let tweak = |d: &mut Description| {
        d.views = Some(vec![View::Proofs]);
        tweak(d);
    };
    let mut objects = bag(&Making { tweak: &tweak, ..Making::default() });
    objects.extend(proofs(&objects));
    objects.insert(INFO.to_owned(), labels(&objects).into_bytes());
    change(&mut objects);
    seal(&mut objects, RESPONDER);
    objects
}

fn found(report: &Report) -> (Verdict, Vec<&'static str>) {
    (report.verdict, codes(report))
}

#[test]
fn a_whole_bag_is_sound() {
    let report = check_bag(&whole(&|_| {}, &|_| {}), &Options::default());
    assert_eq!(found(&report), (Verdict::Sound, Vec::new()), "{:#?}", report.findings);
}

/// The exporter signs whatever lies there, and whatever does not.
#[test]
fn what_an_exporter_adds_or_takes_out_is_named() {
    let add = |name: &'static str| move |objects: &mut Objects| drop(objects.insert(name.to_owned(), b"forged".to_vec()));
    let first_proof = |objects: &Objects| objects.keys().find(|name| name.starts_with("proofs/")).expect("a proof").clone();
    let none: Tweak<'_> = &|_| {};
    let expanded: Tweak<'_> = &|d| d.views = Some(vec![View::Expanded, View::Proofs]);
    let cases: [(&str, Tweak<'_>, Change<'_>); 8] = [
        ("a second folder", none, &add("Expanded/00000/EXH00000001.txt")),
        ("any name", none, &add("notes.txt")),
        ("a document of no export", none, &add("documents/opinion.html")),
        ("a view that was not made", none, &add("expanded/README.txt")),
        ("a view that is gone", expanded, &|_| {}),
        ("a proof that is gone", none, &|objects| drop(objects.remove(&first_proof(objects)))),
        ("all proofs", none, &|objects| objects.retain(|name, _| !name.starts_with("proofs/"))),
        ("a proof by another name", none, &|objects| {
            let name = first_proof(objects);
            let bytes = objects[&name].clone();
            objects.insert(name.replace("proofs/000", "proofs/"), bytes);
        }),
    ];
    for (name, tweak, change) in cases {
        let report = check_bag(&whole(tweak, change), &Options::default());
        let (verdict, found) = found(&report);
        assert!(verdict == Verdict::Unsound && found.contains(&"bag.view"), "{name}: {found:?}");
    }
    let forged = check_bag(&whole(none, &add("Expanded/00000/EXH00000001.txt")), &Options::default());
    assert!(forged.findings.kept()[0].message.contains("from 'expanded/' by case alone"), "{:#?}", forged.findings);
}

/// What else an export makes, with the file that stands for it.
const OTHERS: [(View, &str); 5] = [
    (View::Documents, "documents/report.html"),
    (View::LoadFile, "load-file/exhibits.dat"),
    (View::Ontology, "case.jsonld"),
    (View::Schemas, "schemas/order.v1.json"),
    (View::Steps, "VERIFY.md"),
];

fn made(views: &[View], change: Change<'_>) -> Report {
    let tweak = |d: &mut Description| d.views = Some(views.to_vec());
    check_bag(&whole(&tweak, change), &Options::default())
}

/// Nothing of these can be compared with the case. So a bag that names them has them, and has none that it does not name.
#[test]
fn a_view_that_bag_json_names_or_does_not_name_is_missed() {
    let all = |objects: &mut Objects| objects.extend(OTHERS.map(|(_, name)| (name.to_owned(), b"made of the case".to_vec())));
    let every: Vec<View> = View::ALL.into_iter().filter(|view| *view != View::Expanded).collect();
    let sound = (Verdict::Sound, Vec::new());
    assert_eq!(found(&made(&every, &all)), sound);
    for (view, name) in OTHERS {
        let without = |objects: &mut Objects| {
            all(objects);
            objects.remove(name);
        };
        let others: Vec<View> = every.iter().copied().filter(|other| *other != view).collect();
        let gone = made(&every, &without);
        assert_eq!(found(&gone), (Verdict::Unsound, vec!["bag.view"]), "{name} is gone: {:#?}", gone.findings);
        let unnamed = made(&others, &all);
        assert_eq!(found(&unnamed), (Verdict::Unsound, vec!["bag.view"]), "{name} is not named: {:#?}", unnamed.findings);
        assert_eq!(found(&made(&others, &without)), sound, "{name} is neither there nor named");
        // A bag of the time before the words says nothing of them, whatever lies there.
        assert_eq!(found(&made(&[View::Proofs], &without)), sound, "{name} in a bag that names the older views alone");
    }
    // That the lists could not be made is no list.
    let not_made = |objects: &mut Objects| {
        all(objects);
        objects.remove("load-file/exhibits.dat");
        objects.insert("load-file/NOT-MADE.txt".to_owned(), b"why".to_vec());
    };
    let others: Vec<View> = every.iter().copied().filter(|view| *view != View::LoadFile).collect();
    assert_eq!(found(&made(&others, &not_made)), sound);
    assert_eq!(found(&made(&every, &not_made)), (Verdict::Unsound, vec!["bag.view"]));
    let unordered = |objects: &mut Objects| {
        all(objects);
        let mut description: serde_json::Value = serde_json::from_slice(&objects[DESCRIPTION]).expect("JSON");
        description["views"].as_array_mut().expect("a list").reverse();
        objects.insert(DESCRIPTION.to_owned(), serde_json::to_vec(&description).expect("JSON"));
    };
    let report = made(&every, &unordered);
    assert!(codes(&report).contains(&"bag.description"), "{:#?}", report.findings);
}

#[test]
fn bag_info_says_what_the_bag_says() {
    let replaced = |from: &'static str, to: &'static str| {
        move |objects: &mut Objects| {
            let text = String::from_utf8(objects[INFO].clone()).expect("text");
            assert!(text.contains(from), "{text}");
            objects.insert(INFO.to_owned(), text.replacen(from, to, 1).into_bytes());
        }
    };
    for (from, to) in [
        ("Exhibit-Exported-By: spiffe://", "Exhibit-Exported-By: spiffe://x"),
        ("Exhibit-Log-Head: ", "Exhibit-Log-Head: 1"),
        ("Exhibit-Reason: handed", "Exhibit-Reason: not handed"),
        ("Exhibit-Signing-Key: ", "Exhibit-Signing-Key: 0"),
        ("Exhibit-Verified: sound", "Exhibit-Verified: excellent"),
        ("Bagging-Date: 2026", "Bagging-Date: 2025"),
        ("External-Description: ", "External-Description: Another "),
        ("External-Identifier: case-", "External-Identifier: case-0"),
        ("Payload-Oxum: ", "Payload-Oxum: 1"),
        ("Bag-Size: ", "Bag-Size: 9"),
        ("Source-Organization: ", "Source-Organization: Court of "),
        ("Bag-Software-Agent: exhibit", "Bag-Software-Agent: other"),
        ("Exhibit-Reason: ", "Exhibit-Judge: approved\nExhibit-Reason: "),
        ("Exhibit-Reason: ", "Exhibit-Reason: handed to counsel\nExhibit-Reason: "),
        ("Exhibit-Reason: handed to counsel\n", ""),
        ("Exhibit-Reason: ", "no label\nExhibit-Reason: "),
    ] {
        let report = check_bag(&whole(&|_| {}, &replaced(from, to)), &Options::default());
        assert_eq!(found(&report), (Verdict::Unsound, vec!["bag.info"]), "{to}: {:#?}", report.findings);
    }
    // What one reader takes for the end of a line another takes for a part of it.
    for (from, to) in [("\n", "\r\n"), ("sound\n", "sound")] {
        let ended = |objects: &mut Objects| {
            let text = String::from_utf8(objects[INFO].clone()).expect("text");
            objects.insert(INFO.to_owned(), text.replace(from, to).into_bytes());
        };
        let report = check_bag(&whole(&|_| {}, &ended), &Options::default());
        assert_eq!(found(&report), (Verdict::Unsound, vec!["bag.info"]), "{to:?}: {:#?}", report.findings);
    }
    let gone = check_bag(&whole(&|_| {}, &|objects| drop(objects.remove(INFO))), &Options::default());
    assert!(codes(&gone).contains(&"bag.info"), "{:#?}", gone.findings);
}

fn file(authority: &str, kind: &dyn Fn(exhibit_evidence::layout::AuthorityName) -> TimestampFile) -> String {
    bag::stamp(&kind(authority.parse().expect("a name")))
}

/// A bag that `alpha` stamped, with its revocation list, as the bag announces.
fn stamped() -> Objects {
    let mut objects = whole(
        &|d| {
            d.authorities = vec!["alpha".to_owned()];
            d.revocation_lists.insert("alpha".to_owned(), 1);
        },
        &|_| {},
    );
    let request = Request::new(Digest::of(&objects[TAG_MANIFEST]), 7);
    objects.insert(file("alpha", &TimestampFile::Request), request.to_der());
    objects.insert(file("alpha", &TimestampFile::Reply), stamps::fresh("alpha", &request));
    let list = std::fs::read(vectors().join("timestamps/alpha/crl.der")).expect("a list");
    objects.insert(file("alpha", &|name| TimestampFile::Crl(name, 0)), list);
    objects
}

fn with_root() -> Options {
    Options { timestamp_anchors: stamps::root("alpha"), ..Options::default() }
}

#[test]
fn a_revocation_list_is_its_issuers_and_one_that_is_gone_is_missed() {
    let objects = stamped();
    let report = check_bag(&objects, &with_root());
    assert_eq!(found(&report), (Verdict::Sound, Vec::new()), "{:#?}", report.findings);
    assert!(report.bag.expect("a bag").timestamps[0].trust.as_ref().is_some_and(|trust| trust.crl_made.is_some()));
    let name = file("alpha", &|name| TimestampFile::Crl(name, 0));
    let list = objects[&name].clone();
    let changed = |list: Option<Vec<u8>>, options: &Options| {
        let mut objects = objects.clone();
        match list {
            Some(list) => drop(objects.insert(name.clone(), list)),
            None => drop(objects.remove(&name)),
        }
        check_bag(&objects, options)
    };
    // Garbage is seen by anybody.
    let garbage = changed(Some(b"garbage".to_vec()), &Options::default());
    assert_eq!(found(&garbage), (Verdict::Unsound, vec!["timestamp.crl"]), "{:#?}", garbage.findings);
    for at in (0..list.len()).step_by(3) {
        let mut flipped = list.clone();
        flipped[at] ^= 1;
        let report = changed(Some(flipped), &with_root());
        assert_eq!(found(&report), (Verdict::Unsound, vec!["timestamp.crl"]), "byte {at}: {:#?}", report.findings);
    }
    let beta = std::fs::read(vectors().join("timestamps/beta/crl.der")).expect("a list");
    assert_eq!(found(&changed(Some(beta), &with_root())), (Verdict::Unsound, vec!["timestamp.crl"]));
    let gone = changed(None, &with_root());
    assert_eq!(found(&gone), (Verdict::Sound, vec!["bag.list-missing"]), "{:#?}", gone.findings);
    assert!(gone.bag.expect("a bag").timestamps[0].trust.as_ref().is_some_and(|trust| trust.crl_made.is_none()));
    let mut more = objects.clone();
    more.insert(file("alpha", &|name| TimestampFile::Crl(name, 3)), b"junk".to_vec());
    assert_eq!(found(&check_bag(&more, &with_root())), (Verdict::Unsound, vec!["timestamp.crl"]));
}

/// The stamp is over every record of the bag, also over those that no token of the log covers; as long as the manifests lead to them.
#[test]
fn a_stamp_over_a_bag_counts_for_its_last_records() {
    let required = |n: usize| Options { timestamps_required: n, ..with_root() };
    let objects = stamped();
    let report = check_bag(&objects, &required(1));
    assert_eq!(found(&report), (Verdict::Sound, Vec::new()), "{:#?}", report.findings);
    let stamp = file("alpha", &TimestampFile::Reply);
    let last = report.last_stamped.expect("a record and a root");
    assert_eq!(last.by.iter().map(|bound| bound.object.as_str()).collect::<Vec<_>>(), [stamp.as_str()]);
    let sealed = report.collections[0].trusted_time.sealed_before.as_ref().expect("sealed before the stamp");
    assert_eq!(sealed.object, stamp);
    // One root is not two, and without a root nothing is said.
    assert_eq!(found(&check_bag(&objects, &required(2))), (Verdict::Unsound, vec!["timestamp.required"]));
    assert_eq!(check_bag(&objects, &Options::default()).last_stamped, None);
    let mut without = objects.clone();
    without.remove(&stamp);
    let report = check_bag(&without, &required(1));
    assert_eq!(found(&report), (Verdict::Unsound, vec!["bag.unstamped", "timestamp.required"]), "{:#?}", report.findings);
    assert!(report.last_stamped.is_some_and(|last| last.by.is_empty()));
    // A record that the manifests do not lead to is not stamped.
    let mut loose = objects;
    let manifest = String::from_utf8(loose[bag::MANIFEST_SHA256].clone()).expect("text");
    let others = manifest.lines().filter(|line| !line.ends_with("data/log/seq/0000000000.dsse.json"));
    let lines = others.fold(String::new(), |text, line| text + line + "\n");
    assert_ne!(manifest, lines);
    loose.insert(bag::MANIFEST_SHA256.to_owned(), lines.into_bytes());
    assert!(codes(&check_bag(&loose, &required(1))).contains(&"timestamp.required"));
}

#[test]
fn a_file_is_no_stamp_because_of_its_name() {
    let objects = stamped();
    let with = |name: String, bytes: &[u8], options: &Options| {
        let mut objects = objects.clone();
        objects.insert(name, bytes.to_vec());
        check_bag(&objects, options)
    };
    for name in [file("zzz", &|name| TimestampFile::Crl(name, 0)), file("zzz", &TimestampFile::Request), file("zzz", &TimestampFile::Reply)]
    {
        let report = with(name.clone(), b"anything", &with_root());
        assert_eq!(found(&report), (Verdict::Unsound, vec!["bag.file-unlisted"]), "{name}: {:#?}", report.findings);
        assert!(report.findings.kept()[0].message.contains("bag.json does not name authority 'zzz'"), "{:#?}", report.findings);
    }
    // What is left of one that was to come is a request, and nothing else.
    let mut left = objects.clone();
    left.remove(&file("alpha", &TimestampFile::Reply));
    assert_eq!(found(&check_bag(&left, &with_root())), (Verdict::Sound, vec!["bag.unstamped"]));
    left.insert(file("alpha", &TimestampFile::Request), b"anything".to_vec());
    assert_eq!(found(&check_bag(&left, &with_root())), (Verdict::Unsound, vec!["bag.unstamped", "timestamp.malformed"]));
    // Another's stamp that somebody added is welcome where it is believed.
    let mut later = objects.clone();
    let request = Request::new(Digest::of(&objects[TAG_MANIFEST]), 8);
    later.insert(file("later", &TimestampFile::Request), request.to_der());
    later.insert(file("later", &TimestampFile::Reply), stamps::fresh("alpha", &request));
    let report = check_bag(&later, &with_root());
    assert_eq!((found(&report), report.bag.map(|b| b.timestamps.len())), ((Verdict::Sound, Vec::new()), Some(2)));
    assert_eq!(found(&check_bag(&later, &Options::default())), (Verdict::Unsound, vec!["bag.file-unlisted"]));
}

/// One authority that spoke once is not two.
#[test]
fn a_stamp_under_a_second_name_is_a_copy() {
    let objects = stamped();
    // A name that comes before the first one's, and one that comes after it.
    for name in ["aaa", "zzz"] {
        let mut copied = objects.clone();
        for kind in [TimestampFile::Request, TimestampFile::Reply] {
            copied.insert(file(name, &kind), objects[&file("alpha", &kind)].clone());
        }
        let report = check_bag(&copied, &with_root());
        assert_eq!(found(&report), (Verdict::Unsound, vec!["bag.file-unlisted"]), "{name}: {:#?}", report.findings);
        let said = &report.findings.kept()[0].message;
        assert!(said.contains(&format!("{name}.tsr' holds the same token as")) && said.contains("alpha.tsr'"), "{said}");
        let counted: Vec<String> = report.bag.expect("a bag").timestamps.into_iter().map(|t| t.authority).collect();
        assert_eq!(counted, ["alpha"]);
    }
    // Whoever exported announces both.
    let mut both = whole(&|d| d.authorities = vec!["alpha".to_owned(), "zeta".to_owned()], &|_| {});
    let request = Request::new(Digest::of(&both[TAG_MANIFEST]), 7);
    let reply = stamps::fresh("alpha", &request);
    for name in ["alpha", "zeta"] {
        both.insert(file(name, &TimestampFile::Request), request.to_der());
        both.insert(file(name, &TimestampFile::Reply), reply.clone());
    }
    for options in [with_root(), Options::default()] {
        let report = check_bag(&both, &options);
        assert_eq!(found(&report), (Verdict::Unsound, vec!["bag.unstamped"]), "{:#?}", report.findings);
        assert_eq!(report.bag.map(|b| b.timestamps.len()), Some(1));
    }
}

/// The authority answers while the case is exported: the record of its token comes after the head that the bag ends with.
#[test]
fn a_stamp_over_the_last_head_of_a_bag_is_nobodys_fault() {
    let made = |with_reply: bool| {
        whole(&|_| {}, &|objects| {
            let head = objects[&format!("{PAYLOAD}{}", CaseObject::Checkpoint)].clone();
            let size = Checkpoint::parse_unverified(&head).expect("a head").size;
            let request = Request::new(Digest::of(&head), 9);
            let name = |file: TimestampFile| format!("{PAYLOAD}{}", CaseObject::Timestamp(size, file));
            let alpha: AuthorityName = "alpha".parse().expect("a name");
            objects.insert(name(TimestampFile::Checkpoint), head);
            objects.insert(name(TimestampFile::Request(alpha.clone())), request.to_der());
            if with_reply {
                objects.insert(name(TimestampFile::Reply(alpha)), stamps::fresh("alpha", &request));
            }
            let info = labels(objects);
            objects.insert(INFO.to_owned(), info.into_bytes());
        })
    };
    for with_reply in [true, false] {
        let objects = made(with_reply);
        let report = check_bag(&objects, &with_root());
        assert_eq!(found(&report), (Verdict::Sound, vec!["timestamp.unrecorded"]), "{with_reply}: {:#?}", report.findings);
        let said = &report.findings.kept()[0].message;
        assert!(said.contains("over this bag's last head") && said.contains("which is normal"), "{said}");
        // In the log as it is now the record could have come.
        let case: Objects =
            objects.iter().filter_map(|(name, bytes)| Some((name.strip_prefix(PAYLOAD)?.to_owned(), bytes.clone()))).collect();
        let now = check(&case, &with_root());
        assert!(now.findings.kept().iter().any(|f| f.message.contains("no record")), "{:#?}", now.findings);
    }
}

/// What is put into a reply beside its token.
#[test]
fn what_a_stamp_holds_besides_its_token_is_named() {
    use support::der::{der, value, with, with_more};
    let objects = stamped();
    let name = file("alpha", &TimestampFile::Reply);
    let changed = |reply: Vec<u8>| {
        let mut objects = objects.clone();
        objects.insert(name.clone(), reply);
        check_bag(&objects, &with_root())
    };
    let text = value(0x30, &value(0x0c, b"hello"));
    let said = with(&objects[&name], |parts| vec![value(0x30, &[der(&parts[0]).1, &text[..]].concat()), parts[1].clone()]);
    let report = changed(said);
    assert_eq!(found(&report), (Verdict::Sound, vec!["timestamp.uncovered"]), "{:#?}", report.findings);
    assert!(report.findings.kept()[0].message.contains("not covered by any signature: the status text 'hello'"));
    let odd = changed(with_more(&objects[&name], 0xa0, &value(0xa3, b"x")));
    assert_eq!(found(&odd), (Verdict::Unsound, vec!["timestamp.uncovered"]), "{:#?}", odd.findings);
    let junk = changed(with_more(&objects[&name], 0xa0, &value(0x30, b"")));
    assert!(junk.verdict == Verdict::Unsound && codes(&junk).contains(&"timestamp.malformed"), "{:#?}", junk.findings);
    // Alpha's own root belongs there, and is what its issuer made.
    let pem = std::fs::read_to_string(vectors().join("timestamps/alpha/root.pem")).expect("a root");
    let body = pem.split("-----").nth(2).expect("a body").replace('\n', "");
    let mut root = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).expect("base64");
    let whole = changed(with_more(&objects[&name], 0xa0, &root));
    assert_eq!(found(&whole), (Verdict::Sound, Vec::new()), "{:#?}", whole.findings);
    *root.last_mut().expect("bytes") ^= 1;
    let altered = changed(with_more(&objects[&name], 0xa0, &root));
    assert_eq!(found(&altered), (Verdict::Unsound, vec!["timestamp.signature"]), "{:#?}", altered.findings);
}
