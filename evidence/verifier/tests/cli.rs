//! The program as a lawyer's expert uses it: on a folder, from a shell.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors")
}

fn anchor() -> PathBuf {
    vectors().join("anchor.json")
}

/// Runs the program; returns the exit code and what it said.
fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_exhibit-verify")).args(args).output().expect("runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("not killed"), text(stdout), text(stderr))
}

fn verify(case: &Path, more: &[&str]) -> (i32, String, String) {
    let anchor = anchor();
    let mut args = vec![case.to_str().expect("UTF-8"), "--anchor", anchor.to_str().expect("UTF-8")];
    args.extend(more);
    run(&args)
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("vector") {
        let (path, target) = (entry.as_ref().expect("listed").path(), to.join(entry.as_ref().expect("listed").file_name()));
        if path.is_dir() {
            fs::create_dir_all(&target).expect("temporary");
            copy(&path, &target);
        } else {
            fs::copy(path, target).expect("temporary");
        }
    }
}

fn good_copy() -> TempDir {
    let folder = tempfile::tempdir().expect("temporary");
    copy(&vectors().join("good-1"), folder.path());
    folder
}

fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).expect("folder").map(|e| e.expect("listed").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files(&path, out) } else { out.push(path) }
    }
}

#[test]
fn a_sound_case_reads_well() {
    let (code, out, err) = verify(&vectors().join("good-1"), &["--complete"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("SOUND: everything that this case claims was checked and holds"), "{out}");
    for expected in ["Intrusion on the web tier", "host 'web-1': sealed", "refused", "partial", "exhibits 1 to ", "FINDINGS", "root key "] {
        assert!(out.contains(expected), "{expected} is not in\n{out}");
    }
    let (code, out, _) = verify(&vectors().join("good-1"), &["--quiet"]);
    assert_eq!((code, out.lines().count()), (0, 1), "{out}");
}

/// What is compared with nothing is not covered by the word.
#[test]
fn a_verdict_about_a_bag_names_its_views() {
    let views = "views made by whoever exported and are compared with nothing";
    let (code, out, _) = verify(&vectors().join("bag-1"), &["--quiet"]);
    assert!(code == 0 && out.starts_with("SOUND: ") && out.contains(views) && out.lines().count() == 1, "{out}");
    let (_, out, _) = verify(&vectors().join("good-1"), &["--quiet"]);
    assert!(!out.contains(views), "{out}");
}

#[test]
fn a_manifest_that_goes_on_for_ever_is_read_to_what_was_signed() {
    let folder = good_copy();
    let mut objects = Vec::new();
    files(folder.path(), &mut objects);
    let manifest = objects.iter().find(|p| p.ends_with("manifest.jsonl")).expect("a manifest");
    // Sparse: no disk has that much.
    fs::File::options().write(true).open(manifest).expect("open").set_len(1 << 42).expect("length");
    let (code, out, _) = verify(folder.path(), &[]);
    assert!(code == 1 && out.contains("manifest.digest") && out.contains("more than"), "{out}");
}

#[test]
fn added_folders_are_reported() {
    for (name, code) in
        [("extra", "object.unknown"), ("log/seq/0000000099.dsse.json", "object.not-a-file"), ("collections/x", "object.unknown")]
    {
        let folder = good_copy();
        fs::create_dir_all(folder.path().join(name)).expect("folder");
        let (exit, out, _) = verify(folder.path(), &[]);
        assert!(exit == 1 && out.contains(code), "{name}: {out}");
    }
}

#[test]
fn a_deployments_own_log_is_called_that() {
    let folder = good_copy();
    let path = folder.path().join("log/checkpoint");
    let text = fs::read_to_string(&path).expect("checkpoint");
    let (origin, _) = text.split_once('\n').expect("lines");
    fs::write(&path, text.replace(origin, "exhibit/vectors/deployment")).expect("written");
    // Beside the collections of a case the name is one more thing that is wrong.
    assert_eq!(verify(folder.path(), &[]).0, 1);
    fs::remove_dir_all(folder.path().join("collections")).expect("removed");
    let (code, out, err) = verify(folder.path(), &[]);
    assert_eq!((code, out.as_str(), err.lines().count()), (64, "", 2), "{err}");
    assert!(err.contains("this is the deployment's own log") && err.contains("--deployment"), "{err}");
    assert!(![0, 64].contains(&verify(folder.path(), &["--deployment"]).0), "it is looked at then, and is no such log");
}

#[test]
fn what_no_agent_signed_is_said() {
    let (_, out, _) = verify(&vectors().join("good-1"), &[]);
    assert!(out.contains("the agent never signed for all of them"), "{out}");
    assert!(out.contains("of them ") && out.contains(" collected"), "{out}");
}

#[test]
fn json_is_one_object_with_everything() {
    let (code, out, _) = verify(&vectors().join("good-1"), &["--json"]);
    assert_eq!((code, out.lines().count()), (0, 1));
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["verdict"], "sound");
    assert_eq!(report["deployment"], "vectors");
    assert_eq!(report["case"]["title"], "Intrusion on the web tier");
    assert_eq!(report["checkpoint"]["root"].as_str().map(str::len), Some(64));
    assert_eq!(report["collections"].as_array().map(Vec::len), Some(4));
    assert_eq!(report["counts"]["items"], report["counts"]["items_verified"]);
    assert_eq!(report["errors"], 0);
    let notes: Vec<_> = report["findings"].as_array().expect("list").iter().map(|f| (f["code"].as_str(), f["severity"].as_str())).collect();
    assert!(
        notes.iter().all(|(code, severity)| matches!(code, Some("stream.cut" | "case.incident")) && *severity == Some("note")),
        "{notes:?}"
    );
}

#[test]
fn flipped_bytes_on_a_disk_are_found() {
    let folder = good_copy();
    let mut all = Vec::new();
    files(folder.path(), &mut all);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..60 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let path = &all[(seed % all.len() as u64) as usize];
        let good = fs::read(path).expect("readable");
        let mut bad = good.clone();
        let at = ((seed >> 20) % good.len() as u64) as usize;
        bad[at] ^= 0x20;
        fs::write(path, &bad).expect("writable");
        let (code, out, err) = verify(folder.path(), &["--json"]);
        assert_eq!(code, 1, "{} byte {at}: {out}{err}", path.display());
        fs::write(path, &good).expect("writable");
    }
    assert_eq!(verify(folder.path(), &[]).0, 0);
}

#[test]
fn a_finding_says_what_it_means_and_whom_to_ask() {
    let folder = good_copy();
    fs::write(folder.path().join("evil\x1b[2J\u{202e}name"), b"x").expect("writable");
    let (code, out, _) = verify(folder.path(), &[]);
    assert_eq!(code, 1);
    assert!(out.starts_with("NOT SOUND: 0 errors, 1 warning,"), "{out}");
    assert!(out.contains("object.unknown") && out.contains("means   Somebody put something") && out.contains("ask     the store"), "{out}");
    assert!(!out.contains('\x1b') && !out.contains('\u{202e}'), "{out:?}");
    let (_, out, _) = verify(folder.path(), &["--json"]);
    assert!(out.contains("evil\\\\x1b"), "{out}");
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    let folder = good_copy();
    let mut all = Vec::new();
    files(&folder.path().join("collections"), &mut all);
    let segment = all.iter().find(|p| p.to_string_lossy().ends_with(".tar.zst")).expect("there");
    let outside = tempfile::tempdir().expect("temporary");
    let moved = outside.path().join("moved");
    fs::rename(segment, &moved).expect("same file system");
    std::os::unix::fs::symlink(&moved, segment).expect("link");
    let (code, out, _) = verify(folder.path(), &["--json"]);
    assert_eq!(code, 1);
    assert!(out.contains("object.not-a-file") && out.contains("segment.missing"), "{out}");

    // A linked folder is not entered either: nothing in it counts.
    let whole = folder.path().join("collections");
    fs::rename(&whole, outside.path().join("collections")).expect("same file system");
    std::os::unix::fs::symlink(outside.path().join("collections"), &whole).expect("link");
    let (code, out, _) = verify(folder.path(), &["--json"]);
    assert_eq!(code, 1);
    assert!(out.contains("object.not-a-file") && out.contains("manifest.missing"), "{out}");
}

#[test]
fn a_trust_root_from_inside_the_case_is_refused() {
    let folder = good_copy();
    let inside = folder.path().join("log/anchor.json");
    fs::copy(anchor(), &inside).expect("writable");
    for path in [inside.clone(), folder.path().join("collections/../log/anchor.json")] {
        let (code, out, err) = run(&[folder.path().to_str().expect("UTF-8"), "--anchor", path.to_str().expect("UTF-8")]);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.contains("lies inside") && err.contains("proves nothing"), "{err}");
    }
    #[cfg(unix)]
    {
        let outside = tempfile::tempdir().expect("temporary");
        let link = outside.path().join("anchor.json");
        std::os::unix::fs::symlink(&inside, &link).expect("link");
        let (code, _, err) = run(&[folder.path().to_str().expect("UTF-8"), "--anchor", link.to_str().expect("UTF-8")]);
        assert_eq!(code, 2, "{err}");
    }
}

#[test]
fn another_deployments_anchor_vouches_for_nothing() {
    let folder = tempfile::tempdir().expect("temporary");
    let path = folder.path().join("anchor.json");
    let text = fs::read_to_string(anchor()).expect("anchor");
    // RFC 8032 section 7.1, test 1: somebody else's public key.
    let start = text.find("root_key\":\"").expect("field") + 11;
    let other = format!("{}11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo={}", &text[..start], &text[start + 44..]);
    fs::write(&path, other).expect("writable");
    let case = vectors().join("good-1");
    let (code, out, _) = run(&[case.to_str().expect("UTF-8"), "--anchor", path.to_str().expect("UTF-8"), "--json"]);
    assert_eq!(code, 1);
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&report["case"], &report["checkpoint"], &report["counts"]["records_verified"]), (&Value::Null, &Value::Null, &0.into()));
}

#[test]
fn unusable_input_names_path_cause_and_remedy() {
    let folder = good_copy();
    let anchor = anchor();
    let anchor = anchor.to_str().expect("UTF-8");
    let here = folder.path().to_str().expect("UTF-8").to_owned();
    let bad =
        folder.path().parent().expect("parent").join(format!("{}-bad.json", folder.path().file_name().expect("name").to_string_lossy()));
    fs::write(&bad, "{}").expect("writable");
    let store = tempfile::tempdir().expect("temporary");
    fs::create_dir_all(store.path().join("cases")).expect("writable");
    for (args, needle) in [
        (vec![&*format!("{here}/nope"), "--anchor", anchor], "Give the folder of one case"),
        (vec![&*format!("{here}/log"), "--anchor", anchor], "neither a case folder"),
        (vec![store.path().to_str().expect("UTF-8"), "--anchor", anchor], "whole store"),
        (vec![&*here, "--anchor", "/nonexistent/anchor.json"], "hands out on another way"),
        (vec![&*here, "--anchor", bad.to_str().expect("UTF-8")], "not an anchor file"),
        (vec![&*here, "--anchor", "/"], "not a plain file"),
    ] {
        let (code, out, err) = run(&args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(err.contains(needle) && err.starts_with("exhibit-verify: "), "{args:?}: {err}");
    }
    fs::remove_file(bad).expect("own file");
}

#[test]
fn usage_and_help() {
    for args in [&[][..], &["x"], &["x", "--anchor", "a", "--frobnicate"], &["x", "--anchor", "a", "--expect", "x"]] {
        let (code, out, err) = run(args);
        assert_eq!((code, out.as_str()), (64, ""), "{args:?}: {err}");
        assert!(err.contains("--help"), "{err}");
    }
    let (code, out, _) = run(&["--help"]);
    assert_eq!(code, 0);
    assert!(out.contains("EXIT CODE") && out.contains("THE ANCHOR"), "{out}");
    let (code, out, _) = run(&["--codes"]);
    assert_eq!(code, 0);
    assert!(exhibit_evidence::verify::Code::ALL.iter().all(|c| out.contains(c.as_str()) && out.contains(c.meaning())));
}

/// The findings of a report that weigh as errors.
fn errors(report: &Value) -> Vec<&Value> {
    report["findings"].as_array().expect("findings").iter().filter(|f| f["severity"] == "error").collect()
}

#[test]
fn what_follows_from_an_altered_segment_says_so() {
    let folder = good_copy();
    let mut all = Vec::new();
    files(&folder.path().join("collections"), &mut all);
    let segment = all.iter().find(|p| p.to_string_lossy().ends_with(".tar.zst")).expect("there");
    let good = fs::read(segment).expect("readable");
    let mut consequences = 0;
    for at in (0..good.len()).step_by(good.len() / 20 + 1) {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        fs::write(segment, &bad).expect("writable");
        let (_, out, _) = verify(folder.path(), &["--json"]);
        let report: Value = serde_json::from_str(&out).expect("JSON");
        for error in errors(&report).into_iter().filter(|e| e["code"] != "segment.digest") {
            assert_eq!(
                (&error["follows_from"]["code"], &error["blame"]),
                (&"segment.digest".into(), &"store".into()),
                "byte {at}: {error}"
            );
            consequences += 1;
        }
        let (items, verified) = (&report["counts"]["items"], &report["counts"]["items_verified"]);
        assert!(errors(&report).len() == 1 || items.as_u64() > verified.as_u64(), "byte {at}: {items} items, {verified} found good");
    }
    assert!(consequences > 0, "no byte had a consequence");
    let mut bad = good.clone();
    bad.truncate(good.len() / 2);
    fs::write(segment, &bad).expect("writable");
    let (_, out, _) = verify(folder.path(), &[]);
    assert!(out.contains("from    follows from segment.digest of collections/"), "{out}");
}

#[test]
fn what_follows_from_a_missing_record_says_so() {
    let folder = good_copy();
    let mut slots = Vec::new();
    files(&folder.path().join("log/seq"), &mut slots);
    for slot in &slots {
        let good = fs::read(slot).expect("readable");
        fs::remove_file(slot).expect("own copy");
        let (code, out, _) = verify(folder.path(), &["--json"]);
        let report: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((code, report["counts"]["records"].as_u64()), (1, Some(slots.len() as u64)), "{out}");
        for error in errors(&report).into_iter().filter(|e| e["code"] != "log.slot-missing") {
            assert_eq!((&error["follows_from"]["code"], &error["blame"]), (&"log.slot-missing".into(), &"store".into()), "{error}");
        }
        fs::write(slot, good).expect("writable");
    }
    fs::remove_file(&slots[slots.len() / 2]).expect("own copy");
    let (_, out, _) = verify(folder.path(), &[]);
    let read = format!("history     {} of {} records verified", slots.len() - 1, slots.len());
    assert!(out.contains(&read) || out.contains("follows from log.slot-missing"), "{out}");
}

#[test]
fn an_open_order_is_named_as_people_name_it() {
    let folder = good_copy();
    let mut slots = Vec::new();
    files(&folder.path().join("log/seq"), &mut slots);
    // Without one of its seals a case has an open order.
    let is_seal = |slot: &&PathBuf| {
        let good = fs::read(slot).expect("readable");
        fs::remove_file(slot).expect("own copy");
        let open = verify(folder.path(), &[]).1.contains("order.open");
        fs::write(slot, good).expect("writable");
        open
    };
    let seal = slots.iter().find(is_seal).expect("a seal");
    fs::remove_file(seal).expect("own copy");
    let (_, out, _) = verify(folder.path(), &[]);
    assert!(out.contains("found   order ord-"), "{out}");
}

#[cfg(unix)]
#[test]
fn a_folder_that_may_not_be_entered_is_not_called_something_else() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::process::CommandExt as _;
    let folder = good_copy();
    let program = tempfile::tempdir().expect("temporary");
    let (copied, trusted) = (program.path().join("exhibit-verify"), program.path().join("anchor.json"));
    fs::copy(env!("CARGO_BIN_EXE_exhibit-verify"), &copied).expect("temporary");
    fs::copy(anchor(), &trusted).expect("temporary");
    fs::set_permissions(program.path(), fs::Permissions::from_mode(0o755)).expect("own folder");
    let mut command = Command::new(&copied);
    command.arg(folder.path()).arg("--anchor").arg(&trusted);
    // For root nothing is closed, so the program runs as nobody then; for others the folder is closed to themselves.
    let root = fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    if root {
        command.uid(65_534);
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(if root { 0o700 } else { 0 })).expect("own folder");
    let done = command.output().expect("runs");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("own folder");
    let err = String::from_utf8(done.stderr).expect("UTF-8");
    assert_eq!(done.status.code(), Some(2), "{err}");
    assert!(err.contains("Permission denied") && err.contains("a user who may read") && !err.contains("no folder 'log'"), "{err}");
}

#[test]
fn what_fails_is_json_as_well() {
    for (args, code) in [(&["/nowhere", "--anchor", "a", "--json"][..], 2), (&["--json"][..], 64)] {
        let (exit, out, err) = run(args);
        assert_eq!((exit, out.as_str()), (code, ""), "{err}");
        let said: Value = serde_json::from_str(&err).expect("one JSON object");
        assert!(said["exit_code"] == code && said["error"].as_str().is_some_and(|e| e.len() > 10), "{err}");
    }
}

#[test]
fn what_is_no_consistency_proof_is_named_with_what_makes_one() {
    let anchor = anchor();
    let (code, out, err) = verify(&vectors().join("bag-1"), &["--consistency", anchor.to_str().expect("UTF-8")]);
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    assert!(err.contains("consistency proof '") && err.contains("exhibit witness cosign --for BAG"), "{err}");
}
