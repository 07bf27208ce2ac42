//! A case that is encrypted to two recipients, from the order to the court: nobody on the way can read it, everybody can check
//! what shows, and a recipient checks and gets everything.

use std::os::unix::fs::PermissionsExt as _;
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
    what_is_no_recipient_is_not_taken(&fleet, &ann);
    let opened = fleet.exhibit(&["case", "open", "--title", "Sealed", "--encrypt-to", &to_ann, "--encrypt-to", &to_ben]).ok().json();
    let case = text(&opened[0], "case");
    assert_eq!(opened[0]["encrypt_to"], serde_json::json!([to_ann, to_ben]));

    // The agent's process dies in the middle, and the next one takes the stream up.
    let capture = format!("files:paths={}/**", source.path().display());
    let order = ["--case", &case, "--agent", &agent.id, "--reason", "test", "--capture", &capture, "--send-rate", "4MiB"];
    let made = fleet.exhibit(&[&["collect"][..], &order].concat()).ok().json();
    assert_eq!(made[0]["encrypt_to"], opened[0]["encrypt_to"], "whoever orders sees who will read it");
    let collection = text(&made[0]["collections"][0], "collection");
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
    identity_files_are_their_owners_alone(&fleet, &case, &eve);
    a_recipient_gets_it(&fleet, source.path(), &collection, (&ben, &eve));
    the_bag_carries_it(&fleet, &case, (&ann, &eve));
}

/// A wrong line of an identity file is not repeated, and a key that nobody has opens no case.
fn what_is_no_recipient_is_not_taken(fleet: &Fleet, ann: &Path) {
    let file = std::fs::read_to_string(ann).expect("identity file");
    let secret = file.lines().find(|l| l.starts_with("AGE-SECRET-KEY-1")).expect("a secret");
    let pasted = fleet.exhibit(&["case", "open", "--title", "x", "--encrypt-to", secret]);
    assert!(pasted.code == 65 && pasted.stderr.contains("a secret identity") && !pasted.stderr.contains(secret), "{}", pasted.stderr);
    let nobody = format!("age1{}5cu47z", "q".repeat(52));
    let refused = fleet.exhibit(&["case", "open", "--title", "x", "--encrypt-to", &nobody]);
    assert!(refused.code == 65 && refused.stderr.contains("nobody can have its identity"), "{}", refused.stderr);
}

/// One that others can read is refused, a pipe is read: by both the wrong identity is found before anything is decrypted.
fn identity_files_are_their_owners_alone(fleet: &Fleet, case: &str, eve: &Path) {
    let copy = eve.with_extension("copy");
    let _ = std::fs::copy(eve, &copy).expect("copied");
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o644)).expect("mode");
    let (code, _, stderr) = verify(fleet, &fleet.case_dir(case), &["--identity", utf8(&copy)]);
    assert!(code == 2 && stderr.contains("chmod 600"), "{stderr}");
    let piped = "exec \"$0\" \"$1\" --anchor \"$2\" --identity <(cat \"$3\")";
    let verifier = fleet.program("exhibit-verify");
    let mut command = Command::new("bash");
    let _ = command.args(["-c", piped]).arg(verifier.get_program()).arg(fleet.case_dir(case)).arg(fleet.anchor()).arg(eve);
    let done = Finished::of(&mut command);
    assert!(done.code == 2 && done.stderr.contains("opens nothing"), "{}", done.stderr);
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
    assert!(words.contains("NOT decrypted and not decompressed") && !words.contains("as read from the hosts"), "{words}");
    assert!(blind["verdict"] == "sound-as-far-as-readable" && blind["counts"]["raw_bytes_unread"].as_u64() > Some(9 << 20), "{blind}");
    // The coordinator's own verification knows no more, and says so.
    let mut command = fleet.program("exhibit-coordinator");
    let whole = Finished::of(command.args(["store", "verify", "--all", "--json", "--dir"]).arg(fleet.coordinator_dir())).ok().text();
    let whole: Value = serde_json::from_str(&whole).expect("JSON");
    let line = whole["cases"].as_array().and_then(|all| all.iter().find(|line| line["case"] == case)).expect("a line");
    assert_eq!((&whole["sound"], &line["items_unchecked"]), (&true.into(), &blind["counts"]["items_unchecked"]), "{whole}");
    assert!(whole["notes"].to_string().contains("items were not decoded"), "{whole}");
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
    let case = text(&fleet.collection(collection), "case");
    let before = records(fleet, &case);
    let secret = items.iter().find(|i| i["path"].as_str().is_some_and(|p| p.ends_with("secret.txt"))).expect("listed");
    let id = text(secret, "id");
    let without = fleet.exhibit(&["cat", &id, "--reason", "look"]);
    assert!(
        without.code == 65 && without.stderr.contains("encrypted to age1") && without.stderr.contains("--identity"),
        "{}",
        without.stderr
    );
    let wrong = fleet.exhibit(&["cat", &id, "--reason", "look", "--identity", utf8(eve)]);
    assert!(wrong.code == 65 && wrong.stderr.contains("the given identity is that of age1"), "{}", wrong.stderr);
    let empty = fleet.path().join("nothing");
    let without = fleet.exhibit(&["get", "--collection", collection, "--reason", "look", "--out", utf8(&empty)]);
    assert!(without.code == 65 && without.stderr.contains("--identity") && !empty.exists(), "{}", without.stderr);
    assert_eq!(records(fleet, &case), before, "who can read nothing did not read");
    let right = fleet.exhibit(&["cat", &id, "--reason", "look", "--identity", utf8(ben)]).ok();
    assert_eq!(right.text(), format!("{MARKER}\n").repeat(50));
    let out = tempfile::tempdir().expect("folder");
    // No line has the attribute; it is in the stream, and comes back from there.
    let one = out.path().join("one");
    let _ = fleet.exhibit(&["get", &id, "--xattrs", "--reason", "look", "--identity", utf8(ben), "--out", utf8(&one)]).ok();
    let secret = one.join("files").join(source.strip_prefix("/").expect("absolute")).join("secret.txt");
    let attribute = Finished::of(Command::new("getfattr").args(["--only-values", "-n", "user.secret"]).arg(&secret)).ok();
    assert_eq!(attribute.text(), MARKER);
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

/// Records in the log of a case.
fn records(fleet: &Fleet, case: &str) -> Value {
    fleet.exhibit(&["case", "show", case]).ok().json()[0]["log_size"].clone()
}

/// Nobody swears to what nobody checked; `read`: contents were checked with an identity.
fn the_documents_claim_what_was_done(bag: &Path, read: bool) {
    let page = |name: &str| std::fs::read_to_string(bag.join("documents").join(name)).expect("document");
    for (name, certified, blank, part) in [
        ("certificate-902-14.en.html", "penalty of perjury", "NOT TO BE SIGNED", "SOUND AS FAR AS"),
        ("certificate-902-14.fr.html", "peines du faux", "NE PAS SIGNER", "POUR CE QUI EST LISIBLE"),
        ("statement-27037.en.html", "Preservation", "NOT TO BE SIGNED", "SOUND AS FAR AS"),
        ("statement-27037.fr.html", "Qualification (formation", "NE PAS SIGNER", "POUR CE QUI EST LISIBLE"),
    ] {
        let page = page(name);
        let found = [certified, blank, part].map(|text| page.contains(text));
        assert_eq!(found, [read, !read, !read], "{name}: {page}");
        assert!(page.contains("age1") && !page.contains("a third time") && !page.contains("une troisième fois"), "{name}: {page}");
    }
    let certificate = page("certificate-902-14.en.html");
    assert_eq!(certificate.contains("a receipt that says that contents were not verified"), read, "{certificate}");
    let form = page("chain-of-custody.en.html");
    assert_eq!([form.contains("as stored, encrypted and not read"), form.contains("NOT checked here")], [!read; 2], "{form}");
    let info = std::fs::read_to_string(bag.join("bag-info.txt")).expect("info");
    assert_eq!(info.contains("Exhibit-Verified: sound as far as it can be read"), !read, "{info}");
    let report = page("report.en.html");
    assert_eq!([report.contains("read every byte of it"), report.contains("their digests were NOT checked")], [read, !read], "{report}");
}

fn the_bag_carries_it(fleet: &Fleet, case: &str, (ann, eve): (&Path, &Path)) {
    let bag = fleet.path().join("bag");
    let said = fleet.exhibit(&["export", "--case", case, "--reason", "to the court", "--out", utf8(&bag)]).ok().json();
    assert!(said[0]["verdict"] == "sound-as-far-as-readable" && said[0]["items_unchecked"].as_u64() > Some(5), "{}", said[0]);
    assert!(said[0]["segments_unchecked"].as_u64() > Some(0), "{}", said[0]);
    // One sentence, wherever it is said.
    let sentence = format!("the contents of {} items are encrypted and were NOT checked", said[0]["items_unchecked"]);
    for file in ["bag-info.txt", "documents/report.en.html", "documents/certificate-902-14.en.html"] {
        let text = std::fs::read_to_string(bag.join(file)).expect("written");
        assert!(text.contains(&sentence), "{file}: {sentence}: {text}");
    }
    the_documents_claim_what_was_done(&bag, false);
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
    let partly = run(None);
    assert!(partly.contains("encrypted, AGE_IDENTITY is not set") && partly.contains(" contents NOT compared\n"), "{partly}");
    let whole = run(Some(ann));
    assert!(
        whole.contains("contents compared") && !whole.contains("AGE_IDENTITY is not set") && !whole.contains("NOT compared"),
        "{whole}"
    );
    // The second reader says the same, and with each recipient's identity that it is sound.
    let second = |more: &[&str]| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("second-reader/read_case.py");
        Finished::of(Command::new("python3").arg("-B").arg(script).arg(&bag).arg("--anchor").arg(fleet.anchor()).args(more))
    };
    let blind = second(&[]).ok().text();
    let says = format!("sound as far as it can be read: the contents of {} items in ", said[0]["items_unchecked"]);
    assert!(blind.starts_with(&says), "{blind}");
    assert_eq!(second(&["--identity", utf8(ann)]).ok().text().lines().next_back(), Some("sound"));
    assert_eq!(second(&["--identity", utf8(eve)]).code, 2, "it opens nothing");
    let mut files = Vec::new();
    files_below(&bag, &mut files);
    assert!(files.iter().all(|file| !holds(file, MARKER)));
    // What will not open is refused before it is fetched, and before an export is recorded.
    let expand = ["export", "--case", case, "--reason", "to counsel", "--expand", "--out"];
    let (out, before) = (fleet.path().join("bag-2"), records(fleet, case));
    for more in [&[][..], &["--identity", utf8(eve)]] {
        let refused = fleet.exhibit(&[&expand[..], &[utf8(&out)], more].concat());
        assert!(refused.code == 65 && refused.stderr.contains("--identity"), "{}", refused.stderr);
    }
    assert!(records(fleet, case) == before && !out.with_extension("partial").exists() && !out.with_extension("journal").exists());
    let opened = fleet.path().join("bag-3");
    let said = fleet.exhibit(&[&expand[..], &[utf8(&opened), "--identity", utf8(ann)]].concat()).ok().json();
    assert!(said[0]["verdict"] == "sound" && said[0]["items_unchecked"] == 0 && said[0]["segments_unchecked"] == 0, "{}", said[0]);
    the_documents_claim_what_was_done(&opened, true);
    let mut files = Vec::new();
    files_below(&opened.join("expanded"), &mut files);
    assert!(files.iter().any(|file| holds(file, MARKER)));
}
