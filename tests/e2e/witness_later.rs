//! A bag ends with the record of its own export, which no witness saw before: what a witness cosigns later counts for it, with the
//! proof that the log went on from there. An operator who rewrites the log in between is found, and what a coordinator does not
//! take is not lost.

use std::path::{Path, PathBuf};
use std::process::Command;

use exhibit_evidence::Digest;
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::log::Checkpoint;
use exhibit_tests::Finished;

use crate::witness::{Outside, copy};

const CATALOG: [&str; 3] = ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"];

impl Outside {
    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn export(&self, case: &str, name: &str) -> PathBuf {
        let place = self.file(name);
        let _ = self.fleet.exhibit(&["export", "--case", case, "--reason", "handed to counsel", "--out", &place]).ok();
        PathBuf::from(place)
    }

    /// The coordinator's state of a case, catalog included, as it is now.
    fn keep_state(&self, case: &str) {
        assert_eq!(self.fleet.terminate_coordinator(), 0);
        copy(&self.fleet.case_dir(case), &self.dir.path().join("before"));
        for file in CATALOG.iter().filter(|file| self.fleet.coordinator_dir().join(file).exists()) {
            copy(&self.fleet.coordinator_dir().join(file), &self.dir.path().join(file));
        }
        self.fleet.start_coordinator();
    }

    /// Puts the coordinator back to what was kept.
    fn put_back(&self, case: &str) {
        assert_eq!(self.fleet.terminate_coordinator(), 0);
        std::fs::remove_dir_all(self.fleet.case_dir(case)).expect("removed");
        copy(&self.dir.path().join("before"), &self.fleet.case_dir(case));
        for file in CATALOG {
            let (there, kept) = (self.fleet.coordinator_dir().join(file), self.dir.path().join(file));
            let _ = std::fs::remove_file(&there);
            if kept.exists() {
                copy(&kept, &there);
            }
        }
        self.fleet.start_coordinator();
    }
}

fn second_reader(o: &Outside, bag: &Path, more: &[&str]) -> i32 {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("second-reader/read_case.py");
    let mut command = Command::new("python3");
    command.arg("-B").arg(script).arg(bag).arg("--anchor").arg(o.fleet.anchor()).args(["--witness", &o.key]).args(more);
    Finished::of(&mut command).code
}

/// The step of a bag's VERIFY.md about a witness's proof, to the letter: its exit code and what it said.
fn foreign_step(o: &Outside, bag: &Path, proof: &str) -> (i32, String) {
    let page = std::fs::read_to_string(bag.join("VERIFY.md")).expect("VERIFY.md");
    let step = page.split("```bash\n").find(|block| block.contains("later.py")).and_then(|block| block.split("\n```").next());
    let mut command = Command::new("bash");
    command.args(["-c", &format!("set -eu -o pipefail\n{}", step.expect("the step"))]).current_dir(bag);
    let work = tempfile::tempdir().expect("folder");
    command.env("WORK", work.path()).env("WITNESS_PROOF", proof).env("WITNESS_KEY", &o.key);
    let done = Finished::of(&mut command);
    (done.code, format!("{}\n{}", done.text(), done.stderr))
}

/// The step of a bag's VERIFY.md about heads that were kept, to the letter, with those that it rests on.
fn held_step(o: &Outside, bag: &Path, heads: &Path) -> (i32, String) {
    let page = std::fs::read_to_string(bag.join("VERIFY.md")).expect("VERIFY.md");
    let needed = ["records.py", "heads.py", "held.py"].map(|program| format!("cat > \"$WORK/{program}\""));
    let blocks = page.split("```bash\n").skip(1).filter_map(|block| block.split("\n```").next());
    let steps: Vec<&str> = blocks.filter(|block| needed.iter().any(|program| block.contains(program))).collect();
    assert_eq!(steps.len(), needed.len());
    let anchor: serde_json::Value = serde_json::from_slice(&std::fs::read(o.fleet.anchor()).expect("anchor")).expect("JSON");
    let mut command = Command::new("bash");
    command.args(["-c", &format!("set -eu -o pipefail\n{}", steps.join("\n"))]).current_dir(bag);
    let work = tempfile::tempdir().expect("folder");
    command.env("WORK", work.path()).env("HELD_HEADS", heads).env("WITNESS_KEY", &o.key);
    command.env("ROOT_KEY", anchor["root_key"].as_str().expect("a key"));
    let done = Finished::of(&mut command);
    (done.code, format!("{}\n{}", done.text(), done.stderr))
}

/// What the verifier says of a bag beyond what it says without anything from outside.
fn said(o: &Outside, bag: &Path, more: &[&str]) -> (i32, Vec<String>) {
    let (_, always) = o.verify(bag, &[]);
    let (code, codes) = o.verify(bag, more);
    (code, codes.into_iter().filter(|code| !always.contains(code)).collect())
}

fn codes(all: &[&str]) -> Vec<String> {
    all.iter().map(|code| (*code).to_owned()).collect()
}

#[test]
fn what_is_cosigned_later_counts_for_a_bag_and_a_rewritten_log_does_not() {
    let o = Outside::new();
    let case = o.fleet.open_case();
    let agent = o.fleet.agent();
    let _ = o.fleet.collect(&case, &agent, &["--capture", "system"]);
    let _ = o.cosign(&["--case", &case]).ok();
    drop(agent);
    o.keep_state(&case);
    let bag = o.export(&case, "bag");
    assert_eq!(o.verify(&bag, &[]).0, 0);
    assert_eq!(said(&o, &bag, &["--witness", &o.key]), (1, codes(&["witness.required"])));

    // The routine goes on, and the witness holds a head that the bag cannot have. That is no accusation.
    let _ = o.fleet.exhibit(&["case", "close", &case, "--reason", "done"]).ok();
    let _ = o.cosign(&["--case", &case]).ok();
    let held = o.kept("seen").pop().expect("memory").display().to_string();
    assert_eq!(said(&o, &bag, &["--held", &held]), (0, codes(&["log.shorter"])));
    let undecided = said(&o, &bag, &["--witness", &o.key, "--held", &held]);
    assert_eq!(undecided, (1, codes(&["log.shorter", "witness.required"])));
    assert_eq!(second_reader(&o, &bag, &["--held", &held]), 1);

    // The witness writes the proof; whoever reads the log can have one without it.
    let (by_witness, by_reader) = (o.file("by-witness.proof"), o.file("by-reader.proof"));
    let done = o.cosign(&["--for", &bag.display().to_string(), "--out", &by_witness]).ok().json();
    let head: serde_json::Value = serde_json::from_slice(&std::fs::read(bag.join("bag.json")).expect("bag.json")).expect("JSON");
    let (size, root) = (&head["head"]["size"], head["head"]["root"].as_str().expect("root"));
    assert_eq!((&done[0]["bag_size"], &done[0]["proof"]), (size, &by_witness.clone().into()));
    let from = format!("{size}:{root}");
    let _ = o.fleet.exhibit(&["log", "consistency", "--case", &case, "--from", &from, "--out", &by_reader]).ok();
    for proof in [&by_witness, &by_reader] {
        assert_eq!(said(&o, &bag, &["--witness", &o.key, "--consistency", proof]), (0, Vec::new()));
        assert_eq!(said(&o, &bag, &["--witness", &o.key, "--consistency", proof, "--held", &held]), (0, Vec::new()));
        assert_eq!(second_reader(&o, &bag, &["--consistency", proof]), 0);
        let (code, said) = foreign_step(&o, &bag, proof);
        assert!(code == 0 && said.contains("GOOD: a witness vouches for this log to its end"), "{said}");
    }
    // The folder of the case is the log as it is now.
    assert_eq!(o.verify(&o.fleet.case_dir(&case), &["--witness", &o.key, "--held", &held]).0, 0);

    two_longer_heads(&o, &bag, (&by_witness, &held));
    a_rewritten_log(&o, &case, &bag, (&by_witness, &held));
}

/// Heads that are longer than the bag and contradict each other: whoever has the log's key signed two histories.
fn two_longer_heads(o: &Outside, bag: &Path, (proof, held): (&str, &str)) {
    let text = std::fs::read_to_string(o.fleet.coordinator_dir().join("log.key")).expect("log key");
    let log_key = SigningKey::from_text(&text).expect("a key");
    let head = Checkpoint::parse_unverified(&std::fs::read(held).expect("held")).expect("a head");
    let (heads, other) = (o.dir.path().join("heads"), o.file("other.checkpoint"));
    std::fs::create_dir(&heads).expect("folder");
    copy(Path::new(held), &heads.join("one"));
    let (code, all) = held_step(o, bag, &heads);
    assert!(code == 0 && all.contains("more than this log: only a proof shows"), "{all}");

    std::fs::write(&other, Checkpoint { root: Digest::of(b"another end"), ..head.clone() }.sign(&log_key)).expect("written");
    for more in [["--held", held, "--held", &other], ["--consistency", proof, "--held", &other]] {
        let (code, codes) = said(o, bag, &more);
        assert!(code == 1 && codes.contains(&"log.forked".to_owned()), "{more:?}: {codes:?}");
        assert_eq!(second_reader(o, bag, &more), 1);
    }
    copy(Path::new(&other), &heads.join("other"));
    let (code, all) = held_step(o, bag, &heads);
    assert!(code != 0 && all.contains("TWO HISTORIES") && !all.contains("files were compared"), "{all}");

    // Whom nobody knows cannot accuse anybody.
    let stranger = SigningKey::from_seed(&[9; 32]);
    std::fs::write(heads.join("other"), Checkpoint { root: Digest::of(b"another end"), ..head }.sign(&stranger)).expect("written");
    let (code, all) = held_step(o, bag, &heads);
    assert!(code != 0 && all.contains("NEITHER BY THE LOG") && !all.contains("TWO HISTORIES"), "{all}");
}

/// The operator puts the coordinator back to before the export, and makes another history that is longer in the end.
fn a_rewritten_log(o: &Outside, case: &str, bag: &Path, (proof, held): (&str, &str)) {
    o.put_back(case);
    let _ = o.fleet.exhibit(&["case", "close", case, "--reason", "another end"]).ok();
    let forged = o.export(case, "forged");
    let another = o.export(case, "another");
    for (bag, more) in [(&forged, ["--held", held]), (&another, ["--held", held]), (&forged, ["--consistency", proof])] {
        let (code, codes) = said(o, bag, &more);
        assert!(code == 1 && codes.contains(&"log.forked".to_owned()), "{more:?}: {codes:?}");
        assert_eq!(second_reader(o, bag, &more), 1);
    }
    for bag in [&forged, &another] {
        let (code, said) = foreign_step(o, bag, proof);
        assert!(code != 0 && !said.contains("GOOD"), "{said}");
    }
    // The witness says which it is, with the coordinator's own word.
    let refused = o.cosign(&["--case", case]);
    assert!(refused.code == 74 && refused.stderr.contains("NOT COSIGNED"), "{}: {}", refused.code, refused.stderr);
    assert!(refused.stderr.contains("there are two histories") && refused.stderr.contains("--held"), "{}", refused.stderr);
    assert!(o.kept("refused").len() >= 3, "what shows it is kept");
    // No proof is written for either of the two bags.
    for bag in [bag, forged.as_path()] {
        let out = o.file("none.proof");
        let refused = o.cosign(&["--for", &bag.display().to_string(), "--out", &out]);
        assert!(refused.code == 74 && !Path::new(&out).exists(), "{}: {}", refused.code, refused.stderr);
    }
}

#[test]
fn a_bag_is_cosigned_from_a_copy_of_it() {
    let o = Outside::new();
    let case = o.fleet.open_case();
    let _ = o.cosign(&["--case", &case]).ok();
    let (bag, note) = (o.export(&case, "bag"), o.file("note"));
    assert_eq!(said(&o, &bag, &["--witness", &o.key]), (1, codes(&["witness.required"])));
    let _ = o.cosign(&["--folder", &bag.join("data").display().to_string(), "--out", &note]).ok();
    assert_eq!(said(&o, &bag, &["--witness", &o.key, "--held", &note]), (0, Vec::new()));
    assert_eq!(second_reader(&o, &bag, &["--held", &note]), 0);
    // The bag itself will do.
    let again = o.file("again");
    let _ = o.cosign(&["--folder", &bag.display().to_string(), "--out", &again]).ok();
    assert_eq!(std::fs::read(&note).expect("note"), std::fs::read(&again).expect("note"));
    // What is no bag is named, and nothing is written.
    let refused = o.cosign(&["--for", &o.file("w"), "--out", &o.file("none.proof")]);
    assert!(refused.code == 65 && refused.stderr.contains("--for"), "{}: {}", refused.code, refused.stderr);
    assert!(!Path::new(&o.file("none.proof")).exists());
}

#[test]
fn a_witness_that_the_coordinator_does_not_know_is_told_so() {
    let o = Outside::new();
    let case = o.fleet.open_case();
    let folder = o.file("stranger");
    let mut command = o.fleet.program("exhibit");
    let _ =
        Finished::of(command.args(["witness", "init", "--name", "stranger.example/w", "--dir", &folder, "--anchor"]).arg(o.fleet.anchor()))
            .ok();
    let done = o.fleet.exhibit(&["witness", "cosign", "--dir", &folder, "--all"]);
    for said in ["was cosigned at", "does not stand in its configuration", "below [witness]", "stranger.example/w+", "is kept as"] {
        assert!(done.code == 1 && done.stderr.contains(said), "{}: '{said}' is not in {}", done.code, done.stderr);
    }
    assert!(!done.stderr.contains("--note"), "{}", done.stderr);
    let seen = std::fs::read_dir(Path::new(&folder).join("seen")).expect("seen").count();
    assert_eq!(seen, 2, "the case and the deployment");
    // Its proof for a bag is written nevertheless.
    let (bag, proof) = (o.export(&case, "bag"), o.file("proof"));
    let done = o.fleet.exhibit(&["witness", "cosign", "--dir", &folder, "--for", &bag.display().to_string(), "--out", &proof]);
    assert!(done.code == 1 && Path::new(&proof).is_file(), "{}: {}", done.code, done.stderr);
    let key = std::fs::read_to_string(Path::new(&folder).join("witness.vkey")).expect("key");
    assert_eq!(said(&o, &bag, &["--witness", key.trim_end(), "--consistency", &proof]), (0, Vec::new()));
}
