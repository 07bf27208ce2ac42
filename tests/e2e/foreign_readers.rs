//! The stored segments open with GNU tar, the zstd program and Python, without any program of ours.

use std::process::Command;

use exhibit_tests::{Finished, Fleet, awkward_tree, tree_facts};

#[test]
fn tar_zstd_and_python_read_every_stream() {
    let source = tempfile::tempdir().expect("folder");
    awkward_tree(source.path());
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let ended = fleet.collect(&case, &agent, &["--capture", &format!("files:paths={}/**", source.path().display())]);
    assert_eq!(ended["state"], "sealed", "{ended}");
    let stream = fleet.case_dir(&case).join("collections").join(ended["collection"].as_str().expect("id")).join("s1");
    let mut segments: Vec<_> = std::fs::read_dir(&stream)
        .expect("stream")
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "zst"))
        .collect();
    segments.sort();
    assert!(segments.len() > 1, "20 MB of noise make several segments");
    for segment in &segments {
        let _ = Finished::of(Command::new("zstd").arg("-tq").arg(segment)).ok();
    }

    let work = tempfile::tempdir().expect("folder");
    let whole = work.path().join("whole.tar.zst");
    let bytes: Vec<u8> = segments.iter().flat_map(|s| std::fs::read(s).expect("segment")).collect();
    std::fs::write(&whole, bytes).expect("write");
    let root = source.path().strip_prefix("/").expect("absolute");
    let want = tree_facts(source.path());

    let by_tar = work.path().join("by-tar");
    std::fs::create_dir(&by_tar).expect("folder");
    let _ = Finished::of(Command::new("tar").args(["--zstd", "--xattrs", "-xf"]).arg(&whole).arg("-C").arg(&by_tar)).ok();
    assert_eq!(tree_facts(&by_tar.join("files").join(root)), want);
    let attribute = Finished::of(
        Command::new("getfattr").args(["--only-values", "-n", "user.note"]).arg(by_tar.join("files").join(root).join("plain.txt")),
    );
    assert_eq!(attribute.text(), "kept", "{}", attribute.stderr);

    let plain = work.path().join("whole.tar");
    let _ = Finished::of(Command::new("zstd").args(["-dq", "-o"]).arg(&plain).arg(&whole)).ok();
    let by_python = work.path().join("by-python");
    std::fs::create_dir(&by_python).expect("folder");
    let script = "import sys, tarfile\nt = tarfile.open(sys.argv[1])\nfor m in t:\n    t.extract(m, sys.argv[2], set_attrs=False)\n";
    let _ = Finished::of(Command::new("python3").args(["-c", script]).arg(&plain).arg(&by_python)).ok();
    let contents = |facts: &std::collections::BTreeMap<Vec<u8>, (u64, i64, i64, String)>| -> Vec<(Vec<u8>, u64, String)> {
        facts.iter().map(|(name, (size, _, _, digest))| (name.clone(), *size, digest.clone())).collect()
    };
    assert_eq!(contents(&tree_facts(&by_python.join("files").join(root))), contents(&want));

    let script = "import sys, pyzstd\nfor p in sys.argv[1:]:\n    f = pyzstd.SeekableZstdFile(p, 'r')\n    f.seek(max(0, f.seek(0, 2) - 10))\n    assert len(f.read()) == 10, p\n";
    let _ = Finished::of(Command::new("python3").args(["-c", script]).args(&segments)).ok();
}
