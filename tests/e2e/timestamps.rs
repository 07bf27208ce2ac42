//! Trusted time from a real authority (openssl over HTTP on loopback) to the verifier, and what foreign programs say to it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use exhibit_tests::{Answers, Authority, Finished, Fleet, wait_until};
use serde_json::Value;

/// The records of one type in a case's log.
fn records(fleet: &Fleet, case: &str, kind: &str) -> Vec<Value> {
    let shown = fleet.exhibit(&["log", "show", "--case", case, "--json"]).ok().json();
    shown.into_iter().filter(|r| r["type"] == kind).map(|r| r["record"].clone()).collect()
}

/// Waits until so many authorities stamped a head of at least `size` records.
fn wait_stamped(fleet: &Fleet, case: &str, authorities: usize, size: u64) {
    wait_until(Duration::from_secs(30), "the head is stamped", || {
        records(fleet, case, "timestamp:v1").iter().filter(|r| r["size"].as_u64() >= Some(size)).count() >= authorities
    });
}

/// The size of the log after the last record that is not about timestamps.
fn last_of_substance(fleet: &Fleet, case: &str) -> u64 {
    let shown = fleet.exhibit(&["log", "show", "--case", case, "--json"]).ok().json();
    let last = shown.iter().rev().find(|r| !r["type"].as_str().unwrap_or_default().starts_with("timestamp")).expect("records");
    last["n"].as_u64().expect("number") + 1
}

fn verify(fleet: &Fleet, case: &str, roots: &[&Authority], more: &[&str]) -> (i32, Value) {
    verify_folder(fleet, &fleet.case_dir(case), roots, more)
}

fn verify_bag(fleet: &Fleet, bag: &Path, roots: &[&Authority]) -> (i32, Value) {
    verify_folder(fleet, bag, roots, &[])
}

fn verify_folder(fleet: &Fleet, folder: &Path, roots: &[&Authority], more: &[&str]) -> (i32, Value) {
    let mut command = fleet.program("exhibit-verify");
    command.arg(folder).arg("--anchor").arg(fleet.anchor()).arg("--json").args(more);
    for authority in roots {
        command.arg("--timestamp-anchor").arg(authority.file("root.pem"));
    }
    let done = Finished::of(&mut command);
    (done.code, serde_json::from_slice(&done.stdout).unwrap_or_else(|_| done.stderr.clone().into()))
}

/// The codes of all findings.
fn codes(report: &Value) -> Vec<Value> {
    report["findings"].as_array().expect("list").iter().map(|f| f["code"].clone()).collect()
}

/// The objects in `timestamps/` that end so.
fn objects(fleet: &Fleet, case: &str, end: &str) -> Vec<PathBuf> {
    let list = std::fs::read_dir(fleet.case_dir(case).join("timestamps")).expect("folder");
    let mut all: Vec<PathBuf> = list.map(|e| e.expect("entry").path()).filter(|p| p.to_string_lossy().ends_with(end)).collect();
    all.sort();
    all
}

/// `openssl ts -verify` of a stored token over its stored head; true when it accepts.
fn openssl_accepts(reply: &Path, root: &Path, more: &[&str]) -> bool {
    let name = reply.file_name().and_then(|n| n.to_str()).expect("name");
    let head = reply.with_file_name(format!("{}.checkpoint", &name[..10]));
    let query = reply.with_extension("tsq");
    let run = |args: &[&std::ffi::OsStr]| {
        let mut command = Command::new("openssl");
        command.args(["ts", "-verify", "-in"]).arg(reply).arg("-CAfile").arg(root).args(more).args(args);
        command.output().expect("openssl").status.success()
    };
    // Each on its own: between the two a certificate may expire.
    run(&["-data".as_ref(), head.as_os_str()]) && run(&["-queryfile".as_ref(), query.as_os_str()])
}

#[test]
fn a_collection_lies_between_trusted_moments_and_foreign_programs_agree() {
    let (one, two, fleet) = (Authority::start("p256"), Authority::start("rsa"), Fleet::prepare());
    fleet.add_authority(&one, "one");
    fleet.add_authority(&two, "two");
    fleet.start_coordinator();
    let case = fleet.open_case();
    wait_stamped(&fleet, &case, 2, 1);
    let agent = fleet.agent();
    let closed = fleet.collect(&case, &agent, &["--capture", "system"]);
    assert_eq!(closed["state"], "sealed");
    let sealed = last_of_substance(&fleet, &case);
    wait_stamped(&fleet, &case, 2, sealed);

    let (code, report) = verify(&fleet, &case, &[&one, &two], &["--complete", "--timestamps-required", "2"]);
    assert_eq!((code, report["verdict"].as_str()), (0, Some("sound")), "{report:#}");
    let time = &report["collections"][0]["trusted_time"];
    let at = |key: &str| time[key]["at"].as_str().unwrap_or_else(|| panic!("no {key} in {time}")).to_owned();
    assert!(at("not_before") < at("acquired_before") && at("acquired_before") <= at("sealed_before"), "{time}");
    assert!(report["timestamps"].as_array().is_some_and(|t| t.iter().all(|t| t["trust"]["crl_made"].is_string())), "{report:#}");
    let mut command = fleet.program("exhibit-verify");
    command.arg(fleet.case_dir(&case)).arg("--anchor").arg(fleet.anchor()).arg("--timestamp-anchor").arg(one.file("root.pem"));
    let text = Finished::of(&mut command).ok().text();
    assert!(text.contains("trusted time: taken after") && text.contains("trusted time: sealed before"), "{text}");

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("second-reader/foreign_tsr.py");
    for (authority, name) in [(&one, "one"), (&two, "two")] {
        let replies = objects(&fleet, &case, &format!(".{name}.tsr"));
        assert!(replies.len() >= 2, "{replies:?}");
        for reply in &replies {
            assert!(openssl_accepts(reply, &authority.file("root.pem"), &[]), "{}", reply.display());
            // Trail of Bits' rfc3161-client is nobody of ours.
            let mut command = Command::new("python3");
            let said = Finished::of(command.arg("-B").arg(&script).arg(reply).arg(authority.file("root.pem"))).ok().text();
            assert!(said.starts_with("good"), "{said}");
        }
    }
    // The deployment's own log, with the keys of everybody, is stamped as well, and verified by itself.
    let deployment = fleet.case_dir(&case).join("../../deployment").canonicalize().expect("folder");
    let (mut code, mut report) = (1, Value::Null);
    wait_until(Duration::from_secs(30), "the deployment's log is stamped", || {
        (code, report) = verify_folder(&fleet, &deployment, &[&one, &two], &["--deployment", "--timestamps-required", "2"]);
        code == 0
    });
    assert!(report["deployment_log"] == true && report["timestamps"].as_array().is_some_and(|t| t.len() >= 2), "{report:#}");
    assert_ne!(verify_folder(&fleet, &deployment, &[&one], &[]).0, 0, "it is no case");
    // A token's own record asks for no token: nothing more happens by itself.
    let (asked, size) = (one.asked(), fleet.exhibit(&["case", "show", &case, "--json"]).ok().json()[0]["log_size"].clone());
    #[allow(clippy::disallowed_methods, reason = "that nothing happens has no event to wait for")]
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((one.asked(), &fleet.exhibit(&["case", "show", &case, "--json"]).ok().json()[0]["log_size"]), (asked, &size));
    assert!(records(&fleet, &case, "timestamp-failed:v1").is_empty());
}

#[test]
fn an_authority_that_is_down_costs_no_seal_and_is_asked_again_after_a_restart() {
    let (authority, fleet) = (Authority::start("p256"), Fleet::prepare());
    fleet.add_authority(&authority, "one");
    authority.answer(Answers::Nothing);
    fleet.start_coordinator();
    let case = fleet.open_case();
    let agent = fleet.agent();
    assert_eq!(fleet.collect(&case, &agent, &["--capture", "system"])["state"], "sealed");
    wait_until(Duration::from_secs(20), "the failure is recorded", || {
        let last = last_of_substance(&fleet, &case);
        records(&fleet, &case, "timestamp-failed:v1").iter().any(|r| r["code"] == "unreachable" && r["size"].as_u64() == Some(last))
    });
    let (code, report) = verify(&fleet, &case, &[&authority], &["--timestamps-required", "1"]);
    assert_eq!((code, codes(&report)), (1, vec!["timestamp.failed".into(), "timestamp.required".into()]), "{report:#}");
    // It fails again and again; the log does not grow by it.
    let failed = records(&fleet, &case, "timestamp-failed:v1").len();
    let asked = authority.asked();
    wait_until(Duration::from_secs(20), "it is asked again", || authority.asked() > asked);
    assert_eq!(records(&fleet, &case, "timestamp-failed:v1").len(), failed);
    fleet.kill_coordinator();
    authority.answer(Answers::Honestly);
    fleet.start_coordinator();
    wait_stamped(&fleet, &case, 1, last_of_substance(&fleet, &case));
    let (code, report) = verify(&fleet, &case, &[&authority], &["--timestamps-required", "1"]);
    assert_eq!((code, codes(&report)), (0, Vec::new()), "{report:#}");
}

#[test]
fn lying_authorities_are_refused_each_with_its_reason() {
    let fleet = Fleet::prepare();
    let lies = [
        ("imprint", Answers::AnotherImprint),
        ("nonce", Answers::AnotherNonce),
        ("signature", Answers::AlteredSignature),
        ("validity", Answers::By("old")),
        ("purpose", Answers::ForcedBy("plain")),
    ];
    let authorities: Vec<Authority> = lies.iter().map(|_| Authority::start("p256")).collect();
    for (authority, (code, how)) in authorities.iter().zip(lies) {
        authority.issue("tsa", "old", &["20200101000000Z", "20210101000000Z"]);
        authority.issue("plain", "plain", &[]);
        authority.answer(how);
        fleet.add_authority(authority, code);
    }
    fleet.start_coordinator();
    let case = fleet.open_case();
    wait_until(Duration::from_secs(30), "every lie is recorded", || records(&fleet, &case, "timestamp-failed:v1").len() >= lies.len());
    for record in records(&fleet, &case, "timestamp-failed:v1") {
        assert_eq!(record["code"], record["authority"], "{record}");
    }
    assert!(records(&fleet, &case, "timestamp:v1").is_empty() && objects(&fleet, &case, ".tsr").is_empty());
    let (code, report) = verify(&fleet, &case, &[&authorities[0]], &[]);
    assert_eq!(code, 0, "{report:#}");
}

#[test]
fn a_token_is_good_after_its_certificate_expired() {
    let (authority, fleet) = (Authority::start("p256"), Fleet::prepare());
    let date = |when: &str| Finished::of(Command::new("date").args(["-u", "-d", when, "+%Y%m%d%H%M%SZ"])).ok().text().trim().to_owned();
    authority.issue("tsa", "brief", &[&date("-1 hour"), &date("+8 seconds")]);
    authority.answer(Answers::By("brief"));
    fleet.add_authority(&authority, "one");
    fleet.start_coordinator();
    let case = fleet.open_case();
    wait_stamped(&fleet, &case, 1, 1);
    let reply = objects(&fleet, &case, ".one.tsr").pop().expect("a token");
    let root = authority.file("root.pem");
    // The trap: openssl judges by today's clock unless it is told the time of the token.
    wait_until(Duration::from_secs(20), "the certificate expires", || !openssl_accepts(&reply, &root, &[]));
    let (code, report) = verify(&fleet, &case, &[&authority], &["--timestamps-required", "1"]);
    assert_eq!(code, 0, "{report:#}");
    let made = report["timestamps"][0]["time"].as_str().expect("a time");
    let epoch = Finished::of(Command::new("date").args(["-d", made, "+%s"])).ok().text().trim().to_owned();
    assert!(openssl_accepts(&reply, &root, &["-attime", &epoch]), "{made}");
}

#[test]
fn a_bag_is_stamped_and_a_stamp_that_is_missing_is_missed() {
    let (one, two, fleet) = (Authority::start("p256"), Authority::start("rsa"), Fleet::prepare());
    fleet.add_authority(&one, "one");
    fleet.add_authority(&two, "two");
    fleet.start_coordinator();
    let (case, agent) = (fleet.open_case(), fleet.agent());
    assert_eq!(fleet.collect(&case, &agent, &["--capture", "system"])["state"], "sealed");
    wait_stamped(&fleet, &case, 2, last_of_substance(&fleet, &case));
    two.answer(Answers::AnotherImprint);
    let bag = fleet.path().join("bag");
    let place = bag.display().to_string();
    let done = fleet.exhibit(&["export", "--case", &case, "--reason", "handed to counsel", "--out", &place, "--json"]);
    let said = done.ok().json();
    let stamps = &said[0]["timestamps"];
    assert!(stamps[0]["authority"] == "one" && stamps[0]["time"].is_string() && stamps[0]["problem"].is_null(), "{stamps}");
    assert!(stamps[1]["time"].is_null() && stamps[1]["problem"].as_str().is_some_and(|p| p.contains("the token is over")), "{stamps}");

    let stamp = bag.join("tagmanifest-sha256.txt.one.tsr");
    let (code, report) = verify_bag(&fleet, &bag, &[&one, &two]);
    assert_eq!((code, codes(&report)), (0, vec!["bag.unstamped".into()]), "{report:#}");
    let token = &report["bag"]["timestamps"][0];
    assert!(token["trust"]["crl_made"].is_string() && token["time"] == stamps[0]["time"], "{report:#}");
    // Without roots nobody is believed, and with another's it is said.
    assert!(verify_bag(&fleet, &bag, &[]).1["bag"]["timestamps"][0]["trust"].is_null());
    assert!(codes(&verify_bag(&fleet, &bag, &[&two]).1).contains(&"timestamp.untrusted".into()));

    // Foreign programs, with the page's own commands, and the second reader.
    let roots = fleet.path().join("roots.pem");
    let both = [&one, &two].map(|a| std::fs::read(a.file("root.pem")).expect("root")).concat();
    std::fs::write(&roots, both).expect("written");
    let (page, work) = (std::fs::read_to_string(bag.join("VERIFY.md")).expect("page"), tempfile::tempdir().expect("folder"));
    let anchor: Value = serde_json::from_slice(&std::fs::read(fleet.anchor()).expect("anchor")).expect("JSON");
    let key = anchor["root_key"].as_str().expect("key");
    let by_the_page = || crate::handoff::run_verify_md_with(&page, &bag, key, work.path(), Some(&roots));
    let (code, last, all) = by_the_page();
    assert_eq!(code, 0, "stopped at '{last}':\n{all}");
    assert!(all.contains("tagmanifest-sha256.txt existed at") && all.contains(".checkpoint existed at"), "{all}");
    let second = |bag: &Path| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("second-reader/read_case.py");
        Finished::of(Command::new("python3").arg("-B").arg(script).arg(bag).arg("--anchor").arg(fleet.anchor()))
    };
    let _ = second(&bag).ok();

    lists_beside_a_stamp(&fleet, &bag, (&one, &two), &by_the_page);

    // Every kind of lie about it: another's token, an altered one, none.
    let good = std::fs::read(&stamp).expect("reply");
    let mut altered = good.clone();
    *altered.last_mut().expect("bytes") ^= 1;
    let other = std::fs::read(objects(&fleet, &case, ".one.tsr").first().expect("a reply")).expect("reply");
    for (bytes, code) in [(other, "timestamp.imprint"), (altered, "timestamp.signature"), (b"x".to_vec(), "timestamp.malformed")] {
        std::fs::write(&stamp, bytes).expect("written");
        let (exit, report) = verify_bag(&fleet, &bag, &[&one, &two]);
        assert!(exit == 1 && codes(&report).contains(&code.into()), "{code}: {report:#}");
        let (exit, last, all) = by_the_page();
        let is_named = all.contains("FAILED: tagmanifest-sha256.txt.one.tsr is NO ");
        assert!(exit != 0 && last.starts_with("7.") && is_named, "{code}: stopped at '{last}':\n{all}");
    }
    std::fs::remove_file(&stamp).expect("removed");
    let (exit, report) = verify_bag(&fleet, &bag, &[&one, &two]);
    assert_eq!((exit, codes(&report)), (0, vec!["bag.unstamped".into(), "bag.unstamped".into()]), "{report:#}");
    std::fs::write(&stamp, good).expect("written");
    stamps_added_later(&fleet, &bag, (&one, &two), &by_the_page);
}

/// What was written right before an export has no token of its own; one over the bag is over it as well.
#[test]
fn a_stamp_over_a_bag_counts_for_the_last_records_in_it() {
    let (authority, fleet) = (Authority::start("p256"), Fleet::prepare());
    fleet.add_authority(&authority, "one");
    fleet.start_coordinator();
    let (case, agent) = (fleet.open_case(), fleet.agent());
    assert_eq!(fleet.collect(&case, &agent, &["--capture", "system"])["state"], "sealed");
    wait_stamped(&fleet, &case, 1, last_of_substance(&fleet, &case));
    // From here on nothing that it says counts, so that no token in the log can be over what follows.
    authority.answer(Answers::AnotherImprint);
    let _ = fleet.exhibit(&["case", "close", &case, "--reason", "done"]).ok();
    let bag = fleet.path().join("bag");
    let _ = fleet.exhibit(&["export", "--case", &case, "--reason", "counsel", "--out", &bag.display().to_string(), "--json"]).ok();
    let required = ["--timestamps-required", "1"];
    let second = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("second-reader/read_case.py");
        let mut command = Command::new("python3");
        command.arg("-B").arg(script).arg(&bag).arg("--anchor").arg(fleet.anchor()).args(required);
        let done = Finished::of(command.arg("--timestamp-anchor").arg(authority.file("root.pem")));
        (done.code, done.text())
    };
    let (code, report) = verify_folder(&fleet, &bag, &[&authority], &required);
    assert!(code == 1 && codes(&report).contains(&"timestamp.required".into()), "{report:#}");
    assert_eq!(report["last_stamped"]["by"], serde_json::json!([]), "{report:#}");
    let (code, text) = second();
    assert!(code == 1 && text.contains("stamped under 0 of 1 roots"), "{text}");

    let of = |ending: &str| bag.join(format!("tagmanifest-sha256.txt.one.{ending}"));
    let mut query = Command::new("openssl");
    query.args(["ts", "-query", "-sha256", "-cert", "-data"]).arg(bag.join("tagmanifest-sha256.txt")).arg("-out").arg(of("tsq"));
    let _ = Finished::of(&mut query).ok();
    std::fs::write(of("tsr"), authority.reply_to(&of("tsq"))).expect("written");
    let (code, report) = verify_folder(&fleet, &bag, &[&authority], &required);
    assert_eq!((code, &report["last_stamped"]["by"][0]["object"]), (0, &"tagmanifest-sha256.txt.one.tsr".into()), "{report:#}");
    let (code, text) = second();
    assert_eq!(code, 0, "{text}");
    // It is the bag that is stamped and not the case in it.
    let (code, report) = verify_folder(&fleet, &bag.join("data"), &[&authority], &required);
    assert!(code == 1 && codes(&report).contains(&"timestamp.required".into()), "{report:#}");
}

/// Another authority's stamp counts whenever it was added; the same token under a second name does not, and is said.
fn stamps_added_later(fleet: &Fleet, bag: &Path, (one, two): (&Authority, &Authority), by_the_page: &dyn Fn() -> (i32, String, String)) {
    let of = |name: &str, ending: &str| bag.join(format!("tagmanifest-sha256.txt.{name}.{ending}"));
    let verified = |code: i32, stamps: usize, found: &[&str]| {
        let (exit, report) = verify_bag(fleet, bag, &[one, two]);
        let count = report["bag"]["timestamps"].as_array().map(Vec::len);
        assert_eq!((exit, count, codes(&report)), (code, Some(stamps), found.iter().map(|c| Value::from(*c)).collect()), "{report:#}");
    };
    verified(0, 1, &["bag.unstamped"]);
    for ending in ["tsq", "tsr"] {
        std::fs::copy(of("one", ending), of("later", ending)).expect("copied");
    }
    verified(1, 1, &["bag.unstamped", "bag.file-unlisted"]);
    let (exit, last, all) = by_the_page();
    assert!(exit != 0 && last.starts_with("7.") && all.contains("A COPY OF ANOTHER STAMP"), "{last}: {all}");
    let mut query = Command::new("openssl");
    query.args(["ts", "-query", "-sha256", "-cert", "-data"]).arg(bag.join("tagmanifest-sha256.txt")).arg("-out").arg(of("later", "tsq"));
    let _ = Finished::of(&mut query).ok();
    std::fs::write(of("later", "tsr"), two.reply_to(&of("later", "tsq"))).expect("written");
    verified(0, 2, &["bag.unstamped"]);
    let (exit, last, all) = by_the_page();
    assert_eq!(exit, 0, "stopped at '{last}':\n{all}");
}

/// A revocation list over a bag is its issuer's or it is named, one that is gone is missed, and a file is no stamp because of its name.
fn lists_beside_a_stamp(fleet: &Fleet, bag: &Path, (one, two): (&Authority, &Authority), by_the_page: &dyn Fn() -> (i32, String, String)) {
    let mut command = fleet.program("exhibit-verify");
    command.arg(bag).arg("--anchor").arg(fleet.anchor()).arg("--timestamp-anchor").arg(one.file("root.pem"));
    let text = Finished::of(&mut command).ok().text();
    assert!(text.contains("revoked: no, by the CRL of"), "{text}");
    let list = bag.join("tagmanifest-sha256.txt.one.0.crl");
    let kept = std::fs::read(&list).expect("a list");
    let mut flipped = kept.clone();
    *flipped.last_mut().expect("bytes") ^= 1;
    for bytes in [b"garbage".to_vec(), flipped] {
        std::fs::write(&list, bytes).expect("written");
        let (exit, report) = verify_bag(fleet, bag, &[one, two]);
        assert_eq!((exit, codes(&report)), (1, vec!["timestamp.crl".into(), "bag.unstamped".into()]), "{report:#}");
        let (exit, last, all) = by_the_page();
        assert!(exit != 0 && last.starts_with("7.") && all.contains("FAILED: tagmanifest-sha256.txt.one.0.crl"), "{last}: {all}");
    }
    std::fs::remove_file(&list).expect("removed");
    let (exit, report) = verify_bag(fleet, bag, &[one, two]);
    assert_eq!((exit, codes(&report)), (0, vec!["bag.list-missing".into(), "bag.unstamped".into()]), "{report:#}");
    let (exit, last, all) = by_the_page();
    assert!(exit == 0 && all.contains("REVOCATION LISTS of one"), "{last}: {all}");
    std::fs::write(&list, kept).expect("written");
    let other = bag.join("tagmanifest-sha256.txt.zzz.tsq");
    std::fs::write(&other, "anything").expect("written");
    let (exit, report) = verify_bag(fleet, bag, &[one, two]);
    assert!(exit == 1 && codes(&report).contains(&"bag.file-unlisted".into()), "{report:#}");
    let (exit, last, all) = by_the_page();
    assert!(exit != 0 && last.starts_with("1."), "{last}: {all}");
    std::fs::remove_file(&other).expect("removed");
}
