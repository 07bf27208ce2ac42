//! A folder of awkward files is collected, sealed, verified and restored with names, content, times and attributes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use exhibit_tests::{Finished, Fleet, awkward_tree, tree_facts};

#[test]
fn what_was_there_is_what_comes_back() {
    let source = tempfile::tempdir().expect("folder");
    awkward_tree(source.path());
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let ended = fleet.collect(&case, &agent, &["--capture", &format!("files:paths={}/**", source.path().display())]);
    assert_eq!(ended["state"], "sealed", "{ended}\n{}", fleet.coordinator_log());
    let _ = fleet.verify(&case).expect_sound();

    let collection = ended["collection"].as_str().expect("id");
    let items = fleet.items(collection);
    let want = tree_facts(source.path());
    let with_content: Vec<&serde_json::Value> = items.iter().filter(|i| i["kind"] == "file").collect();
    // One of the two names of the hard-linked file is a `hardlink` item.
    assert_eq!(with_content.len(), want.len() - 1, "{items:#?}");
    assert!(items.iter().all(|i| i["status"] == "collected"), "{items:#?}");
    assert!(items.iter().any(|i| i["kind"] == "fifo" && i["location"].is_null()), "the pipe is kept by record");
    for key in ["id", "collection", "capture", "path", "status", "size", "sha256"] {
        assert!(with_content.iter().all(|i| !i[key].is_null()), "{key}");
    }

    let out = tempfile::tempdir().expect("folder");
    let ids: Vec<&str> = items
        .iter()
        .filter(|i| i["kind"] == "file" || i["kind"] == "hardlink" || i["kind"] == "symlink")
        .map(|i| i["id"].as_str().expect("id"))
        .collect();
    let mut args = vec!["get", "--xattrs", "--out", out.path().to_str().expect("UTF-8"), "--reason", "test"];
    args.extend(ids);
    let _ = fleet.exhibit(&args).ok();
    let root = source.path().strip_prefix("/").expect("absolute");
    let restored = out.path().join("files").join(root);
    assert_eq!(tree_facts(&restored), want);
    assert_eq!(std::fs::read_link(restored.join("symlink")).expect("link").as_os_str(), OsStr::from_bytes(b"/nowhere/at all"));
    let attribute =
        Finished::of(std::process::Command::new("getfattr").args(["--only-values", "-n", "user.note"]).arg(restored.join("plain.txt")));
    assert_eq!(attribute.text(), "kept", "{}", attribute.stderr);

    // `cat` writes the same bytes, also through a hard link.
    for name in ["/plain.txt", "/hard link"] {
        let item = items.iter().find(|i| i["path"].as_str().is_some_and(|p| p.ends_with(name))).expect("the plain file under both names");
        assert_eq!(fleet.exhibit(&["cat", item["id"].as_str().expect("id"), "--reason", "test"]).ok().stdout, b"hello\n");
    }
    // Reading was recorded, and the case is still sound.
    let report = fleet.verify(&case).expect_sound().report;
    assert!(report.to_string().contains("access") || report["checkpoint"]["size"].as_u64().expect("size") > 8, "{report:#}");
}

#[test]
fn filters_and_formats() {
    let source = tempfile::tempdir().expect("folder");
    awkward_tree(source.path());
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let paths = format!("files:paths={0}/plain.txt,paths={0}/not-there", source.path().display());
    let ended = fleet.collect(&case, &agent, &["--capture", &paths]);
    let collection = ended["collection"].as_str().expect("id");
    assert_eq!(ended["state"], "sealed", "{ended}");
    let missing = fleet.exhibit(&["items", "--collection", collection, "--status", "missing", "--reason", "test"]).ok().json();
    assert_eq!(missing.len(), 1, "{missing:#?}");
    assert!(missing[0]["reason"].as_str().is_some_and(|r| !r.is_empty()) && missing[0]["sha256"].is_null());
    let by_glob = fleet.exhibit(&["items", "--case", &case, "--path", "**/plain.*", "--reason", "test"]).ok().json();
    assert_eq!(by_glob.len(), 1, "{by_glob:#?}");
    assert_eq!(fleet.exhibit(&["items", "--collection", collection, "--capture", "network", "--reason", "test"]).ok().json().len(), 0);
    let nothing = fleet.exhibit(&["cat", missing[0]["id"].as_str().expect("id"), "--reason", "test"]);
    assert_eq!(nothing.code, 2, "{}", nothing.stderr);
}

#[test]
fn a_capture_that_finds_nothing_says_so() {
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let ended = fleet.collect(&case, &agent, &["--capture", "files:paths=/does/not/exist/*.conf"]);
    let items = fleet.items(ended["collection"].as_str().expect("id"));
    assert!(!items.is_empty());
    assert!(items.iter().all(|i| i["kind"] == "record" || i["status"] != "collected"), "{items:#?}");
    assert!(items.iter().any(|i| i["status"] == "missing"), "{items:#?}");
}
