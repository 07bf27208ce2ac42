//! A case that is encrypted to two recipients, from the order to the court: nobody on the way can read it, everybody can check
//! what shows, and a recipient checks and gets everything.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::custody::text;
use crate::handoff::run_verify_md;
use exhibit_tests::{Finished, Fleet, awkward_tree_of, tree_facts};
use serde_json::Value;

/// Stands in the evidence, and in nothing that lines say.
const MARKER: &str = "the-password-is-correct-horse-battery";

/// Makes an age identity with age's own program; gives its file and its recipient.
fn identity(dir: &Path, name: &str) -> (PathBuf, String) {
    let file = dir.join(name);
    let _ = Finished::of(Command::new("age-keygen").arg("-o").arg(&file)).ok();
    let recipient = Finished::of(Command::new("age-keygen").arg("-y").arg(&file)).ok().text();
    (file, recipient.trim().to_owned())
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn files_below(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("folder").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files_below(&entry.path(), into);
        } else {
            into.push(entry.path());
        }
    }
}

fn holds(file: &Path, marker: &str) -> bool {
    let bytes = std::fs::read(file).unwrap_or_default();
    bytes.windows(marker.len()).any(|w| w == marker.as_bytes())
}

/// `exhibit-verify --json` of a folder with more arguments.
fn verify(fleet: &Fleet, folder: &Path, more: &[&str]) -> (i32, Value, String) {
    let mut command = fleet.program("exhibit-verify");
    let done = Finished::of(command.arg(folder).arg("--anchor").arg(fleet.anchor()).args(["--complete", "--json"]).args(more));
    let report = serde_json::from_str(&done.text()).unwrap_or(Value::Null);
    (done.code, report, done.stderr)
}

fn codes(report: &Value) -> Vec<&str> {
    report["findings"].as_array().map(|all| all.iter().filter_map(|f| f["code"].as_str()).collect()).unwrap_or_default()
}

fn segments_of(stream: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    files_below(stream, &mut all);
    all.retain(|p| p.extension().is_some_and(|e| e == "zst"));
    all.sort();
    all
}

#[test]
fn only_recipients_read_an_encrypted_case_and_everybody_can_check_what_shows() {
    let keys = tempfile::tempdir().expect("folder");
    let ((ann, to_ann), (ben, to_ben), (eve, _)) =
        (identity(keys.path(), "ann"), identity(keys.path(), "ben"), identity(keys.path(), "eve"));
    let source = tempfile::tempdir().expect("folder");
    awkward_tree_of(source.path(), 9 << 20, 1 << 20);
    std::fs::write(source.path().join("secret.txt"), format!("{MARKER}\n").repeat(50)).expect("write");
    let attribute = Command::new("setfattr").args(["-n", "user.secret", "-v", MARKER]).arg(source.path().join("secret.txt")).status();
    assert!(attribute.is_ok_and(|s| s.success()), "setfattr is installed (tests/run does it)");
    let fleet = Fleet::start();
    let mut agent = fleet.agent();
    let twice = fleet.exhibit(&["case", "open", "--title", "x", "--encrypt-to", &to_ann, "--encrypt-to", &to_ann]);
    assert!(twice.code != 0 && twice.stderr.contains("each once"), "{}", twice.stderr);
    let typo = fleet.exhibit(&["case", "open", "--title", "x", "--encrypt-to", &to_ann.replacen("age1", "age1q", 1)]);
    assert!(typo.code != 0 && typo.stderr.contains("recipient"), "{}", typo.stderr);
    let opened = fleet.exhibit(&["case", "open", "--title", "Sealed", "--encrypt-to", &to_ann, "--encrypt-to", &to_ben]).ok().json();
    let case = text(&opened[0], "case");
    assert_eq!(opened[0]["encrypt_to"], serde_json::json!([to_ann, to_ben]));

    // The agent's process dies in the middle, and the next one takes the stream up.
    let capture = format!("files:paths={}/**", source.path().display());
    let collection = fleet.order(&case, &agent, &["--capture", &capture, "--send-rate", "4MiB"]);
    let stream = fleet.case_dir(&case).join("collections").join(&collection).join("s1");
    exhibit_tests::wait_until(Duration::from_mins(1), "the first segment", || stream.join("00000000.tar.zst").is_file());
    agent.kill();
    agent.restart();
    let ended = fleet.wait_closed(&collection, Duration::from_mins(2));
    assert_eq!(ended["state"], "sealed", "{ended}");
    let segments = segments_of(&stream);
    assert!(segments.len() > 1, "9 MB of noise make several segments");

    // Nothing that the coordinator keeps holds what was sealed: objects, catalog, log.
    let mut all = Vec::new();
    files_below(&fleet.coordinator_dir(), &mut all);
    assert!(all.len() > 10 && all.iter().all(|file| !holds(file, MARKER)), "the marker is in what the coordinator keeps");
    assert!(segments.iter().all(|s| holds(s, "age-encryption.org/v1")));

    foreign_programs_open_it(source.path(), &segments, &ann);
    the_verifier_says_what_was_checked(&fleet, &case, (&ann, &ben, &eve), &segments);
    a_recipient_gets_it(&fleet, source.path(), &collection, (&ben, &eve));
    the_bag_carries_it(&fleet, &case, &ann);
}

/// age, zstd and tar alone.
fn foreign_programs_open_it(source: &Path, segments: &[PathBuf], identity: &Path) {
    let work = tempfile::tempdir().expect("folder");
    let pipe = "for s in \"$@\"; do age -d -i \"$KEY\" \"$s\" || exit 1; done | zstd -d | tar -x --xattrs -C \"$OUT\"";
    let mut command = Command::new("bash");
    let _ =
        Finished::of(command.args(["-o", "pipefail", "-c", pipe, "bash"]).args(segments).env("KEY", identity).env("OUT", work.path())).ok();
    let restored = work.path().join("files").join(source.strip_prefix("/").expect("absolute"));
    assert_eq!(tree_facts(&restored), tree_facts(source));
    let first = Finished::of(
        Command::new("bash").args(["-c", "age -d -i \"$1\" \"$2\" | zstd -d | tar -t | head -n 1", "bash"]).arg(identity).arg(&segments[0]),
    );
    assert!(first.text().starts_with("files/"), "{}", first.stderr);
}

fn the_verifier_says_what_was_checked(fleet: &Fleet, case: &str, (ann, ben, eve): (&Path, &Path, &Path), segments: &[PathBuf]) {
    let folder = fleet.case_dir(case);
    let (code, blind, stderr) = verify(fleet, &folder, &[]);
    assert_eq!((code, codes(&blind)), (0, vec!["stream.encrypted"]), "{stderr} {blind}");
    assert!(blind["counts"]["items_unchecked"].as_u64() > Some(5) && blind["counts"]["raw_bytes"] == 0, "{blind}");
    let words = Finished::of(fleet.program("exhibit-verify").arg(&folder).arg("--anchor").arg(fleet.anchor())).ok().text();
    assert!(words.starts_with("SOUND AS FAR AS IT CAN BE READ") && words.contains("NOT checked"), "{words}");
    for holder in [ann, ben] {
        let (code, seen, stderr) = verify(fleet, &folder, &["--identity", utf8(holder)]);
        assert_eq!((code, codes(&seen)), (0, vec![]), "{stderr} {seen}");
        assert_eq!(seen["counts"]["items_verified"], seen["counts"]["items"]);
        assert!(seen["counts"]["raw_bytes"].as_u64() > Some(9 << 20) && seen["counts"]["items_unchecked"].is_null(), "{seen}");
    }
    let (code, _, stderr) = verify(fleet, &folder, &["--identity", utf8(eve)]);
    assert!(code == 2 && stderr.contains("is encrypted to age1") && stderr.contains("opens nothing"), "{stderr}");

    // A bit that somebody flips is found by everybody.
    let last = segments.last().expect("several");
    let good = std::fs::read(last).expect("segment");
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    let copy = tempfile::tempdir().expect("folder");
    let _ = Finished::of(Command::new("cp").arg("-r").arg(&folder).arg(copy.path().join("case"))).ok();
    let copied = copy.path().join("case").join(last.strip_prefix(&folder).expect("in the case"));
    std::fs::remove_file(&copied).and_then(|()| std::fs::write(&copied, bad)).expect("write");
    for more in [&[][..], &["--identity", utf8(ann)]] {
        let (code, report, _) = verify(fleet, &copy.path().join("case"), more);
        assert!(code == 1 && codes(&report).contains(&"segment.digest"), "{report}");
    }
}

fn a_recipient_gets_it(fleet: &Fleet, source: &Path, collection: &str, (ben, eve): (&Path, &Path)) {
    let items = fleet.items(collection);
    let secret = items.iter().find(|i| i["path"].as_str().is_some_and(|p| p.ends_with("secret.txt"))).expect("listed");
    let id = text(secret, "id");
    let without = fleet.exhibit(&["cat", &id, "--reason", "look"]);
    assert!(
        without.code != 0 && without.stderr.contains("encrypted to age1") && without.stderr.contains("--identity"),
        "{}",
        without.stderr
    );
    let wrong = fleet.exhibit(&["cat", &id, "--reason", "look", "--identity", utf8(eve)]);
    assert!(wrong.code != 0 && wrong.stderr.contains("the given identity is that of age1"), "{}", wrong.stderr);
    let right = fleet.exhibit(&["cat", &id, "--reason", "look", "--identity", utf8(ben)]).ok();
    assert_eq!(right.text(), format!("{MARKER}\n").repeat(50));
    let out = tempfile::tempdir().expect("folder");
    let got = fleet.exhibit(&[
        "get",
        "--collection",
        collection,
        "--reason",
        "look",
        "--identity",
        utf8(ben),
        "--out",
        utf8(&out.path().join("got")),
    ]);
    let restored = out.path().join("got/files").join(source.strip_prefix("/").expect("absolute"));
    assert_eq!(tree_facts(&restored), tree_facts(source), "{}", got.stderr);
}

fn the_bag_carries_it(fleet: &Fleet, case: &str, ann: &Path) {
    let bag = fleet.path().join("bag");
    let _ = fleet.exhibit(&["export", "--case", case, "--reason", "to the court", "--out", utf8(&bag)]).ok();
    let page = std::fs::read_to_string(bag.join("documents/report.en.html")).expect("document");
    assert!(page.contains("Contents encrypted to") && page.contains("a recipient checks them"), "{page}");
    let (code, report, stderr) = verify(fleet, &bag, &["--identity", utf8(ann)]);
    assert_eq!((code, &report["counts"]["items_verified"]), (0, &report["counts"]["items"]), "{stderr} {report}");
    // The page's own step, with foreign programs, without and with the identity.
    let page = std::fs::read_to_string(bag.join("VERIFY.md")).expect("page");
    let anchor: serde_json::Value = serde_json::from_slice(&std::fs::read(fleet.anchor()).expect("anchor")).expect("JSON");
    let root = anchor["root_key"].as_str().expect("a key");
    let run = |key: Option<&Path>| {
        let work = tempfile::tempdir().expect("folder");
        let with = key.map_or_else(String::new, |key| format!("## 0. Key\n```bash\nexport AGE_IDENTITY={}\n```\n", key.display()));
        let (code, last, all) = run_verify_md(&(with + &page), &bag, root, work.path());
        assert_eq!(code, 0, "stopped at '{last}':\n{all}");
        all
    };
    assert!(run(None).contains("encrypted, AGE_IDENTITY is not set"));
    let whole = run(Some(ann));
    assert!(whole.contains("contents compared") && !whole.contains("not set"), "{whole}");
    let mut files = Vec::new();
    files_below(&bag, &mut files);
    assert!(files.iter().all(|file| !holds(file, MARKER)));
    let expand = ["export", "--case", case, "--reason", "to counsel", "--expand", "--out"];
    let refused = fleet.exhibit(&[&expand[..], &[utf8(&fleet.path().join("bag-2"))]].concat());
    assert!(refused.code != 0 && refused.stderr.contains("--identity"), "{}", refused.stderr);
    let opened = fleet.path().join("bag-3");
    let _ = fleet.exhibit(&[&expand[..], &[utf8(&opened), "--identity", utf8(ann)]].concat()).ok();
    let mut files = Vec::new();
    files_below(&opened.join("expanded"), &mut files);
    assert!(files.iter().any(|file| holds(file, MARKER)));
}
