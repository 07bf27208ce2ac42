//! Flip any byte of a sealed case, add or remove any object: the verifier says so.

use std::path::{Path, PathBuf};

use exhibit_tests::{Fleet, is_quick};

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("list").filter_map(Result::ok) {
            if entry.path().is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    found
}

/// The store keeps its files read-only; the attacker has root.
fn rewrite(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).expect("remove");
    std::fs::write(path, bytes).expect("write");
}

#[test]
fn every_change_is_reported() {
    let source = tempfile::tempdir().expect("folder");
    for n in 0..20 {
        std::fs::write(source.path().join(format!("f{n}")), format!("content {n}\n").repeat(50 * n)).expect("file");
    }
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let ended = fleet.collect(&case, &agent, &["--capture", &format!("files:paths={}/**", source.path().display()), "--capture", "system"]);
    assert_eq!(ended["state"], "sealed", "{ended}");
    let _ = fleet.verify(&case).expect_sound();
    // A copy verifies as well as the store itself.
    let copy = fleet.path().join("copy");
    let status = std::process::Command::new("cp").arg("-r").arg(fleet.case_dir(&case)).arg(&copy).status().expect("cp");
    assert!(status.success());
    let _ = fleet.verify_at(&copy).expect_sound();

    let objects = files(&copy);
    assert!(objects.len() >= 8, "{objects:?}");
    let sizes: Vec<u64> = objects.iter().map(|p| p.metadata().expect("stat").len()).collect();
    let total: u64 = sizes.iter().sum();
    // A fixed sequence (splitmix64), so that a failure repeats.
    let mut state = 42_u64;
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    for round in 0..if is_quick() { 40 } else { 300 } {
        // Every object is hit, and large ones more often.
        let (object, offset) = if round < objects.len() {
            (round, random() % sizes[round])
        } else {
            let mut at = random() % total;
            let object = sizes
                .iter()
                .position(|s| {
                    if at < *s {
                        true
                    } else {
                        at -= s;
                        false
                    }
                })
                .expect("within");
            (object, at)
        };
        let good = std::fs::read(&objects[object]).expect("read");
        let mut bad = good.clone();
        bad[offset as usize] ^= 1 << (random() % 8);
        rewrite(&objects[object], &bad);
        let verdict = fleet.verify_at(&copy);
        assert_eq!(verdict.code, 1, "{} at {offset}: {:#}", objects[object].display(), verdict.report);
        assert!(!verdict.errors.is_empty());
        rewrite(&objects[object], &good);
    }
    for object in &objects {
        let good = std::fs::read(object).expect("read");
        std::fs::remove_file(object).expect("remove");
        // A tile follows from the records: whoever has them makes it again (docs/format/log.md).
        let derived = object.strip_prefix(&copy).expect("inside").starts_with("log/tile");
        assert_eq!(fleet.verify_at(&copy).code, i32::from(!derived), "{} was removed", object.display());
        std::fs::write(object, &good).expect("write");
        let added = object.with_file_name("added");
        std::fs::write(&added, b"x").expect("write");
        assert_eq!(fleet.verify_at(&copy).code, 1, "{} was added", added.display());
        std::fs::remove_file(&added).expect("remove");
    }
    let _ = fleet.verify_at(&copy).expect_sound();
}

#[test]
fn trust_does_not_come_with_the_evidence() {
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let _ = fleet.collect(&case, &agent, &["--capture", "system"]);
    let inside = fleet.case_dir(&case).join("anchor.json");
    std::fs::copy(fleet.anchor(), &inside).expect("copy");
    let done = exhibit_tests::Finished::of(fleet.program("exhibit-verify").arg(fleet.case_dir(&case)).arg("--anchor").arg(&inside));
    assert_eq!(done.code, 2, "{}{}", done.text(), done.stderr);
    std::fs::remove_file(&inside).expect("remove");
    // Another deployment's anchor does not make this case sound.
    let other = Fleet::prepare();
    let done = exhibit_tests::Finished::of(fleet.program("exhibit-verify").arg(fleet.case_dir(&case)).arg("--anchor").arg(other.anchor()));
    assert_eq!(done.code, 1, "{}{}", done.text(), done.stderr);
}
