//! Five people keep one case: it is collected, looked at, held, kept, handed over, and a part of it is destroyed. Each has own
//! keys that nobody else ever held, and a certificate; what they may not do is refused.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use exhibit_tests::{Finished, Fleet};
use serde_json::Value;

/// A person with an identity of their own.
pub(crate) struct Person<'a> {
    fleet: &'a Fleet,
    home: PathBuf,
}

impl<'a> Person<'a> {
    /// As people come in: own keys, a request, the admin's answer.
    pub(crate) fn enrolled(fleet: &'a Fleet, name: &str, rights: &[&str]) -> Self {
        let home = fleet.path().join(name);
        let (request, answer) = (home.with_extension("request"), home.with_extension("answer"));
        let shown = |path: &Path| path.display().to_string();
        let (dir, anchor) = (shown(&home), shown(&fleet.anchor()));
        let (request, answer) = (shown(&request), shown(&answer));
        let asked =
            fleet.exhibit(&["person", "request", "--name", name, "--dir", &dir, "--anchor", &anchor, "--out", &request]).ok().json();
        let enroll = [&["person", "enroll", &request, "--out", &answer][..], rights].concat();
        let given = fleet.exhibit(&enroll).ok().json();
        assert_eq!(asked[0]["key"], given[0]["key"], "both see the same key");
        let _ = fleet.exhibit(&["person", "accept", &answer, "--dir", &dir, "--anchor", &anchor]).ok();
        for file in [&request, &answer] {
            let text = std::fs::read_to_string(file).expect("file");
            assert!(!text.contains("PRIVATE") && !text.contains("exhibit-ed25519-seed"), "no secret travels");
        }
        Self { fleet, home }
    }

    pub(crate) fn run(&self, args: &[&str]) -> Finished {
        self.fleet.exhibit(&[&["--home", self.home.to_str().expect("UTF-8")], args].concat())
    }
}

pub(crate) fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
}

#[test]
fn five_people_keep_a_case_to_its_end() {
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let rita = Person::enrolled(&fleet, "rita", &["--role", "responder"]);
    let opened = rita.run(&["case", "open", "--title", "Web <tier> & \"logs\"", "--legal-basis", "policy 4.2"]).ok().json();
    let case = text(&opened[0], "case");
    let here = ["--case", case.as_str()];
    let cora = Person::enrolled(&fleet, "cora", &[&["--role", "custodian"][..], &here].concat());
    let dan = Person::enrolled(&fleet, "dan", &[&["--role", "custodian"][..], &here].concat());
    let ben = Person::enrolled(&fleet, "ben", &[&["--role", "approver"][..], &here].concat());
    let audrey = Person::enrolled(&fleet, "audrey", &["--role", "auditor"]);
    assert_eq!(fleet.exhibit(&["person", "list"]).ok().json().len(), 6, "with the first admin");
    let limits = |who: &Person<'_>| who.run(&["whoami"]).ok().json()[0]["limits"].clone();
    assert_eq!(limits(&ben), serde_json::json!([{"role": "approver", "cases": [case], "cases_total": 1}]));
    assert_eq!(limits(&rita), serde_json::json!([]), "every role in every case");

    let [first, second] = collect_twice(&fleet, &rita, &case, &agent.id);
    looked_at(&rita, &audrey, &first);
    held_and_kept(&rita, &cora, &case, &first);
    handed_over(&cora, &dan, &case);
    let certificate = destroyed(&fleet, &dan, &ben, &case, &first);
    told_as_destroyed(&rita, &case, &first, &certificate);

    let verdict = fleet.verify(&case).expect_sound();
    let gone = |c: &Value| c["disposed"]["certificate"].as_str().map(str::to_owned);
    let collections = verdict.report["collections"].as_array().expect("collections");
    let found: Vec<_> = collections.iter().map(|c| (text(c, "id"), gone(c))).collect();
    assert!(found.contains(&(first.clone(), Some(certificate))) && found.contains(&(second.clone(), None)), "{found:?}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("second-reader/read_case.py");
    let _ = Finished::of(Command::new("python3").arg("-B").arg(script).arg(fleet.case_dir(&case)).arg("--anchor").arg(fleet.anchor())).ok();
    whole_chain(&fleet, &audrey, &case, [&first, &second]);

    // A catalog that is made again knows it from the log.
    assert_eq!(fleet.terminate_coordinator(), 0);
    let reindex = Finished::of(fleet.program("exhibit-coordinator").arg("reindex").arg("--dir").arg(fleet.coordinator_dir())).ok();
    assert!(!reindex.text().contains("problems"), "{}", reindex.text());
    fleet.start_coordinator();
    let gone = rita.run(&["items", "--collection", &first, "--reason", "once more"]);
    assert!(gone.code != 0 && gone.stderr.contains("was destroyed at"), "{}", gone.stderr);
    let there = rita.run(&["items", "--collection", &second, "--reason", "once more"]).ok().json();
    assert_eq!(rita.run(&["items", "--case", &case, "--reason", "all that is left"]).ok().json(), there);
    assert!(!there.is_empty());

    // What is left is handed over, and the bag says what became of the rest.
    let bag = fleet.path().join("bag");
    let _ = dan.run(&["export", "--case", &case, "--reason", "to the court", "--out", bag.to_str().expect("UTF-8")]).ok();
    let handed = fleet.verify_at(&bag).expect_sound();
    let found: Vec<_> = handed.report["collections"].as_array().expect("list").iter().map(|c| (text(c, "id"), gone_in(c))).collect();
    assert!(found.contains(&(first.clone(), true)) && found.contains(&(second.clone(), false)), "{found:?}");
    let work = fleet.path().join("steps");
    let page = std::fs::read_to_string(bag.join("VERIFY.md")).expect("page");
    let anchor: Value = serde_json::from_slice(&std::fs::read(fleet.anchor()).expect("anchor")).expect("JSON");
    std::fs::create_dir(&work).expect("folder");
    let (code, step, said) = crate::handoff::run_verify_md(&page, &bag, anchor["root_key"].as_str().expect("key"), &work);
    assert!(code == 0 && said.contains(&format!("{first} was destroyed")), "{code} at '{step}': {said}");
    let form = std::fs::read_to_string(bag.join("documents/chain-of-custody.en.html")).expect("form");
    let report = std::fs::read_to_string(bag.join("documents/report.en.html")).expect("report");
    assert!(form.contains("signed in record") && report.contains("hold: ") && report.contains("DESTROYED"), "custody is in the documents");
    // The form: what was destroyed and by whom, who handed over to whom, and why.
    for said in ["destroyed on ", "decision 12", "checked", "verified, sound", "dan (", "cora (", "ben ("] {
        assert!(form.contains(said), "the form does not say '{said}'");
    }
    unsound_is_said(&fleet, &dan, &case, &second);
    what_cannot_be_approved_is_not_offered(&dan, &cora, &ben, &case, &second);

    // Who is revoked is out, and what they signed stays.
    let _ = fleet.exhibit(&["person", "revoke", "dan", "--reason", "left"]).ok();
    assert_ne!(dan.run(&["case", "show", &case]).code, 0);
    the_last_admin_is_replaced(&fleet, &case);
    let _ = fleet.verify(&case).expect_sound();
}

/// The only admin cannot lock everybody out; when the key is lost or stolen, the root key replaces it.
fn the_last_admin_is_replaced(fleet: &Fleet, case: &str) {
    let refused = fleet.exhibit(&["person", "revoke", "responder", "--reason", "stolen"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("last key of an admin") && refused.stderr.contains("recover-admin"),
        "{}",
        refused.stderr
    );
    let nobody = Person::enrolled(fleet, "carl", &["--role", "auditor"]);
    let denied = nobody.run(&["person", "revoke", "responder", "--reason", "x"]);
    let said = ["may not revoke a person's key", "it needs role admin", "this key has auditor", "/responder/responder"];
    assert!(denied.code == 77 && said.iter().all(|w| denied.stderr.contains(w)), "{}", denied.stderr);

    let shown = |name: &str| fleet.path().join(name).display().to_string();
    let (home, request, answer, anchor) =
        (shown("olga"), shown("olga.request"), shown("olga.answer"), fleet.anchor().display().to_string());
    let asked = fleet.exhibit(&["person", "request", "--name", "olga", "--dir", &home, "--anchor", &anchor, "--out", &request]).ok().json();
    let recover = |root: &Path, revoke: &str| {
        let mut program = fleet.program("exhibit-coordinator");
        let program = program.args(["recover-admin", &request, "--out", &answer, "--revoke", revoke, "--reason", "stolen", "--json"]);
        Finished::of(program.arg("--dir").arg(fleet.coordinator_dir()).arg("--root").arg(root))
    };
    let root = fleet.coordinator_dir().join("root");
    let beside = recover(&root, "responder");
    let said = beside.stderr.contains("another coordinator is running") && !beside.stderr.contains("the catalog failed");
    assert!(beside.code == 1 && said, "{}", beside.stderr);
    assert_eq!(fleet.terminate_coordinator(), 0);
    let another = recover(&fleet.home(), "responder");
    assert!(another.code == 1 && another.stderr.contains("is not the root key"), "{}", another.stderr);
    let nobody = recover(&root, "admn");
    assert!(nobody.code == 1 && nobody.stderr.contains("nobody was ever enrolled"), "{}", nobody.stderr);
    let done = recover(&root, "responder").ok().json().remove(0);
    assert_eq!((&done["key"], done["revoked"].as_array().map(Vec::len)), (&asked[0]["key"], Some(1)), "{done}");
    let again = recover(&root, "responder");
    assert!(again.code == 73 && again.stderr.contains("name a new file"), "{}: {}", again.code, again.stderr);
    fleet.start_coordinator();
    let _ = fleet.exhibit(&["person", "accept", &answer, "--dir", &home, "--anchor", &anchor]).ok();
    assert_ne!(fleet.exhibit(&["person", "list"]).code, 0, "the old key is worth nothing");
    let olga = Person { fleet, home: home.into() };
    let _ = olga.run(&["person", "allow", "olga", "--role", "auditor"]).ok();
    let people = olga.run(&["person", "list"]).ok().json();
    let of = |name: &str| people.iter().filter(|p| text(p, "name").ends_with(name)).map(|p| text(p, "state")).collect::<Vec<_>>();
    assert_eq!((of("/responder/responder"), of("/olga")), (vec!["revoked".to_owned()], vec!["enrolled".to_owned(); 2]), "{people:?}");
    assert!(olga.run(&["case", "custody", case]).ok().json()[0]["rows"].is_array());
    let log = Finished::of(
        fleet
            .program("exhibit-verify")
            .arg(fleet.coordinator_dir().join("store/deployment"))
            .arg("--deployment")
            .arg("--anchor")
            .arg(fleet.anchor()),
    );
    assert_eq!(log.code, 0, "{}{}", log.text(), log.stderr);
}

/// Of a case that is damaged a bag is made as well, and its form says so where people sign.
fn unsound_is_said(fleet: &Fleet, dan: &Person<'_>, case: &str, collection: &str) {
    let bag = fleet.path().join("unsound");
    let export = ["export", "--case", case, "--reason", "to the court", "--out", bag.to_str().expect("UTF-8")];
    let done = fleet.while_damaged(case, collection, || dan.run(&export));
    assert!(done.code == 74, "{}: {}", done.code, done.stderr);
    let form = std::fs::read_to_string(bag.join("documents/chain-of-custody.en.html")).expect("form");
    assert!(form.contains("NOT SOUND"), "the form of an unsound bag");
}

fn collect_twice(fleet: &Fleet, rita: &Person<'_>, case: &str, agent: &str) -> [String; 2] {
    let source = tempfile::tempdir().expect("folder");
    std::fs::write(source.path().join("note.txt"), b"hello\n").expect("written");
    let capture = format!("files:paths={}/**", source.path().display());
    [(); 2].map(|()| {
        let args = ["collect", "--case", case, "--agent", agent, "--capture", &capture, "--reason", "suspicious login"];
        let made = rita.run(&args).ok().json();
        let collection = text(&made[0]["collections"][0], "collection");
        let closed = fleet.wait_closed(&collection, Duration::from_mins(1));
        assert_eq!(closed["state"], "sealed", "{closed}");
        collection
    })
}

fn looked_at(rita: &Person<'_>, audrey: &Person<'_>, collection: &str) {
    let items = rita.run(&["items", "--collection", collection, "--path", "**/note.txt", "--reason", "what is there"]).ok().json();
    let item = text(&items[0], "id");
    assert_eq!(rita.run(&["cat", &item, "--reason", "read the note"]).ok().stdout, b"hello\n");
    let out = rita.home.with_extension("out");
    let _ = rita.run(&["get", &item, "--out", out.to_str().expect("UTF-8"), "--reason", "for the report"]).ok();
    assert_eq!(rita.run(&["cat", &item]).code, 64, "not without a reason");
    assert_eq!(audrey.run(&["cat", &item, "--reason", "curious"]).code, 77, "an auditor reads the log and no evidence");
    // What was refused leaves nothing behind, and is not to be tried again.
    let (out, bag) = (audrey.home.with_extension("out"), audrey.home.with_extension("bag"));
    let got = audrey.run(&["get", &item, "--out", out.to_str().expect("UTF-8"), "--reason", "curious"]);
    assert!(got.code == 77 && !out.exists() && !got.stderr.contains("restored"), "{}: {}", got.code, got.stderr);
    let case = text(&rita.run(&["case", "list"]).ok().json()[0], "case");
    let export = |to: &Path| audrey.run(&["export", "--case", &case, "--reason", "curious", "--out", to.to_str().expect("UTF-8")]);
    let refused = export(&bag);
    assert!(refused.code == 77 && !refused.stderr.contains("same command"), "{}: {}", refused.code, refused.stderr);
    for ending in ["bag", "bag.partial", "bag.journal"] {
        assert!(!audrey.home.with_extension(ending).exists(), "{ending} is left");
    }
    let nowhere = export(&audrey.home.with_extension("none").join("bag"));
    assert!(nowhere.code == 73 && nowhere.stderr.contains("audrey.none does not exist"), "{}: {}", nowhere.code, nowhere.stderr);
}

fn held_and_kept(rita: &Person<'_>, cora: &Person<'_>, case: &str, collection: &str) {
    let _ = cora.run(&["case", "hold", case, "--collection", collection, "--reason", "litigation is expected"]).ok();
    let refused = cora.run(&["dispose", "request", case, "--collection", collection, "--reason", "x"]);
    assert!(refused.code == 77 && refused.stderr.contains("under a hold"), "{}", refused.stderr);
    let soon = exhibit_evidence::Timestamp::from_unix_s(unix_s() + 3).to_string();
    let _ = cora.run(&["case", "retain", case, "--until", &soon, "--reason", "policy 4"]).ok();
    assert_eq!(cora.run(&["case", "retain", case, "--until", "2020-01-01", "--reason", "shorter"]).code, 65);
    assert_eq!(rita.run(&["case", "retain", case, "--until", "2090-01-01", "--reason", "not my part"]).code, 77);
}

fn handed_over(cora: &Person<'_>, dan: &Person<'_>, case: &str) {
    assert_eq!(dan.run(&["transfer", "accept", case, "--reason", "sound"]).code, 65, "nobody offers it");
    let _ = cora.run(&["transfer", "offer", case, "--to", "dan", "--reason", "to the legal department"]).ok();
    assert_eq!(cora.run(&["transfer", "accept", case, "--reason", "mine"]).code, 77);
    let _ = dan.run(&["transfer", "accept", case, "--reason", "verified, sound"]).ok();
    assert_eq!(cora.run(&["transfer", "offer", case, "--to", "dan", "--reason", "again"]).code, 77);
}

/// The certificate's digest.
fn destroyed(fleet: &Fleet, dan: &Person<'_>, ben: &Person<'_>, case: &str, collection: &str) -> String {
    let chain = dan.run(&["case", "custody", case]).ok().json().remove(0);
    let hold = chain["holds"][0].as_str().expect("a hold").to_owned();
    let _ = dan.run(&["case", "release-hold", case, "--hold", &hold, "--reason", "settled"]).ok();
    exhibit_tests::wait_until(Duration::from_secs(10), "retention ends", || {
        dan.run(&["dispose", "request", case, "--collection", collection, "--reason", "decision 12"]).code == 0
    });
    let chain = ben.run(&["case", "custody", case]).ok().json().remove(0);
    let disposal = chain["disposals_to_approve"][0].as_str().expect("a request").to_owned();
    let approve = |who: &Person<'_>, more: &[&str]| who.run(&[&["dispose", "approve", case, "--disposal", &disposal][..], more].concat());
    assert_eq!(approve(dan, &["--reason", "mine", "--yes"]).code, 77, "not by who asked");
    // Who is to approve it sees all of it, and is asked; nobody is asked where there is no terminal.
    let shown = approve(ben, &[]).ok().json().remove(0);
    assert!(text(&shown, "asked_by").ends_with("/dan") && text(&shown, "custodian").ends_with("/dan"), "{shown}");
    assert_eq!((&shown["reason"], &shown["title"]), (&"decision 12".into(), &"Web <tier> & \"logs\"".into()), "{shown}");
    let what = &shown["collections"][0];
    assert!(what["collection"] == collection && what["on_hold"] == false && what["host"].is_string(), "{shown}");
    assert!(what["items"].as_u64() > Some(0) && what["bytes"] == shown["bytes"] && shown["retained_until"].is_string(), "{shown}");
    let unasked = approve(ben, &["--reason", "checked"]);
    assert!(unasked.code == 64 && unasked.stderr.contains("--yes"), "{}", unasked.stderr);
    let program = fleet.program("exhibit").get_program().to_string_lossy().into_owned();
    let asked = format!("{program} --home {} dispose approve {case} --disposal {disposal} --reason checked", ben.home.display());
    let script = format!("echo no | script -qec '{asked}' /dev/null");
    let asked = Finished::of(Command::new("bash").args(["-c", &script]));
    let said = ["1 collection of ", "will be destroyed for good. Type 'destroy'", "decision 12", "it was not confirmed"];
    assert!(asked.code == 1 && said.iter().all(|words| asked.text().contains(words)), "{}: {}{}", asked.code, asked.text(), asked.stderr);
    assert!(fleet.case_dir(case).join("collections").join(collection).exists());
    let done = approve(ben, &["--reason", "checked", "--yes"]).ok().json();
    assert!(!fleet.case_dir(case).join("collections").join(collection).exists());
    text(&done[0], "certificate")
}

/// A disposal that nobody can approve as things stand is shown with what stands in the way, and not offered.
fn what_cannot_be_approved_is_not_offered(dan: &Person<'_>, cora: &Person<'_>, ben: &Person<'_>, case: &str, collection: &str) {
    let asked = dan.run(&["dispose", "request", case, "--collection", collection, "--reason", "decision 13"]).ok().json();
    let disposal = text(&asked[0], "record");
    let preview = || ben.run(&["dispose", "approve", case, "--disposal", &disposal]).ok().json().remove(0);
    let offered = || ben.run(&["case", "custody", case]).ok().json().remove(0);
    assert!(preview()["cannot_approve"].is_null() && offered()["disposals_to_approve"][0] == disposal.as_str());
    // Whose roles do not reach hears it before anything is signed.
    let by_cora = cora.run(&["dispose", "approve", case, "--disposal", &disposal]).ok().json().remove(0);
    assert!(text(&by_cora, "cannot_approve").contains("you may not approve it: it needs role approver in case"), "{by_cora}");
    let hold = cora.run(&["case", "hold", case, "--collection", collection, "--reason", "an appeal"]).ok().json();
    let why = text(&preview(), "cannot_approve");
    assert!(why.contains("under a hold") && why.contains(collection), "{why}");
    let _ = cora.run(&["case", "release-hold", case, "--hold", &text(&hold[0], "record"), "--reason", "settled"]).ok();
    // Whoever asked hands custody on: the request is void.
    let _ = dan.run(&["transfer", "offer", case, "--to", "cora", "--reason", "back to the store"]).ok();
    let _ = cora.run(&["transfer", "accept", case, "--reason", "verified"]).ok();
    let why = text(&preview(), "cannot_approve");
    assert!(why.contains("/dan asked for it and has no custody any more") && why.contains("/cora has"), "{why}");
    let chain = offered();
    assert_eq!(chain["disposals_to_approve"], serde_json::json!([]), "{chain}");
    assert_eq!(chain["disposals_blocked"][0]["record"], disposal.as_str(), "{chain}");
    let refused = ben.run(&["dispose", "approve", case, "--disposal", &disposal, "--reason", "checked", "--yes"]);
    assert!(refused.code == 77 && refused.stderr.contains("the request is void"), "{}: {}", refused.code, refused.stderr);
}

/// What is gone is nowhere told as something that is there.
fn told_as_destroyed(rita: &Person<'_>, case: &str, collection: &str, certificate: &str) {
    let listed = rita.run(&["collections", "--case", case]).ok().json();
    let gone = listed.iter().find(|c| c["collection"] == collection).expect("it is listed");
    assert_eq!((&gone["state"], &gone["disposed"]["ended_as"]), (&"destroyed".into(), &"sealed".into()), "{gone}");
    assert!(gone["disposed"]["certificate"] == certificate && gone["disposed"]["destroyed_at"].is_string(), "{gone}");
    assert!(
        text(&gone["disposed"], "requested_by").ends_with("/dan") && text(&gone["disposed"], "approved_by").ends_with("/ben"),
        "{gone}"
    );
    assert!(text(gone, "reason").contains("approved by spiffe://"), "{gone}");
    let counts = rita.run(&["case", "show", case]).ok().json().remove(0);
    assert_eq!(counts["collections"], serde_json::json!({"destroyed": 1, "sealed": 1}));
    let out = rita.home.with_extension("gone");
    let get = rita.run(&["get", "--collection", collection, "--out", out.to_str().expect("UTF-8"), "--reason", "is it there"]);
    let n = &gone["disposed"]["certificate_n"];
    let said =
        ["was destroyed at", "approved by", &format!("the certificate is record {n} ({certificate})")].map(|w| get.stderr.contains(w));
    assert!(get.code == 65 && said == [true; 3], "{}: {}", get.code, get.stderr);
}

fn whole_chain(fleet: &Fleet, audrey: &Person<'_>, case: &str, collections: [&str; 2]) {
    let svg = fleet.path().join("custody.svg");
    let chain = audrey.run(&["case", "custody", case, "--svg", svg.to_str().expect("UTF-8")]).ok().json().remove(0);
    let events: Vec<String> = chain["rows"].as_array().expect("rows").iter().map(|r| text(r, "event")).collect();
    let kinds = [
        "case-opened",
        "order",
        "acquisition",
        "receipt",
        "seal",
        "access",
        "hold",
        "retention",
        "release",
        "transfer",
        "hold-released",
        "disposal",
        "approval",
        "destruction",
    ];
    assert!(kinds.iter().all(|k| events.iter().any(|e| e == k)), "{events:?}");
    assert!(chain["rows"].as_array().expect("rows").iter().all(|r| r["problem"].is_null()), "{chain}");
    // A script gets every record whole: who, with which key, about what, why.
    let row = |event: &str| chain["rows"].as_array().expect("rows").iter().find(|r| r["event"] == event).expect("a row").clone();
    assert!(row("access")["statement"]["what"][0].as_str().is_some_and(|what| what.starts_with("col-")), "{}", row("access"));
    assert_eq!(row("destruction")["statement"]["collections"][0]["collection"], collections[0]);
    assert!(row("disposal")["keyid"].as_str().is_some_and(|key| key.len() == 64) && row("disposal")["reason"] == "decision 12");
    for (i, collection) in collections.iter().enumerate() {
        let periods: Vec<&Value> =
            chain["periods"].as_array().expect("periods").iter().filter(|p| p["collection"] == **collection).collect();
        assert!(periods.len() >= 4 && periods.windows(2).all(|w| w[0]["to"] == w[1]["from"]), "{periods:#?}");
        assert_eq!(periods.last().expect("one")["to"].is_null(), i == 1, "only what was destroyed has an end");
        assert!(text(periods.last().expect("one"), "custodian").ends_with("/dan"));
    }
    // The picture is XML that other programs read.
    let check = "import sys,xml.dom.minidom as m; d=m.parse(sys.argv[1]); print(len(d.getElementsByTagName('rect')))";
    let rects: usize = Finished::of(Command::new("python3").args(["-c", check]).arg(&svg)).ok().text().trim().parse().expect("a number");
    assert!(rects > 8);
    let table =
        Finished::of(audrey.fleet.program("exhibit").args(["--home", audrey.home.to_str().expect("UTF-8"), "case", "custody", case])).ok();
    let columns = ["RECORD", "WHEN (UTC)", "FROM (UTC)", "TO (UTC)", "KEPT UNTIL (UTC)", "CUSTODIAN", "destruction"];
    assert!(columns.iter().all(|c| table.text().contains(c)), "{}", table.text());
    let (drawn, head) = (std::fs::read_to_string(&svg).expect("picture"), &chain["head"]);
    let from = format!("from checkpoint {}:{}", head["size"], head["root"].as_str().expect("root"));
    assert!(drawn.contains(&format!("Custody of case {case}")) && drawn.contains("generated at 20") && drawn.contains(&from), "{from}");
    if let Some(keep) = std::env::var_os("EXHIBIT_KEEP_PICTURE") {
        let _ = std::fs::copy(&svg, keep);
    }
}

#[allow(clippy::disallowed_methods, reason = "a moment soon, for a real coordinator")]
fn unix_s() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(0)
}

fn gone_in(collection: &Value) -> bool {
    !collection["disposed"].is_null()
}
