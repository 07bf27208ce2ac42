//! A witness outside the deployment: it cosigns over the wire and from a folder, foreign readers accept what comes out, and
//! an operator who cuts a log back or rewrites it, with all keys in hand, is found.

use std::path::{Path, PathBuf};
use std::process::Command;

use exhibit_tests::{Finished, Fleet};

fn second_reader(args: &[&str]) -> Finished {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("second-reader/tlog.py");
    Finished::of(Command::new("python3").arg("-B").arg(script).args(args))
}

/// A deployment and a witness outside it.
pub struct Outside {
    pub fleet: Fleet,
    pub dir: tempfile::TempDir,
    pub key: String,
}

impl Outside {
    /// A deployment whose coordinator knows one witness.
    pub fn new() -> Self {
        let (fleet, dir) = (Fleet::prepare(), tempfile::tempdir().expect("folder"));
        let folder = dir.path().join("w");
        let args = ["witness", "init", "--name", "counsel.example/witness", "--json"];
        let mut command = fleet.program("exhibit");
        let made = Finished::of(command.args(args).arg("--dir").arg(&folder).arg("--anchor").arg(fleet.anchor())).ok().json();
        let key = made[0]["key"].as_str().expect("key").to_owned();
        fleet.configure("keys", &format!("[\"{key}\"]"));
        fleet.start_coordinator();
        Self { fleet, dir, key }
    }

    fn witness(&self) -> String {
        self.dir.path().join("w").display().to_string()
    }

    pub fn cosign(&self, more: &[&str]) -> Finished {
        let dir = self.witness();
        let args: Vec<&str> = ["witness", "cosign", "--dir", &dir].iter().chain(more).copied().collect();
        self.fleet.exhibit(&args)
    }

    /// The files in one of the witness's folders.
    pub fn kept(&self, folder: &str) -> Vec<PathBuf> {
        let list = std::fs::read_dir(Path::new(&self.witness()).join(folder)).expect("folder");
        list.map(|e| e.expect("entry").path()).collect()
    }

    pub fn verify(&self, folder: &Path, more: &[&str]) -> (i32, Vec<String>) {
        let mut command = self.fleet.program("exhibit-verify");
        let done = command.arg(folder).arg("--anchor").arg(self.fleet.anchor()).arg("--json").args(more).output().expect("runs");
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
        let codes = report["findings"].as_array().map(|f| f.iter().map(|x| x["code"].as_str().unwrap_or_default().to_owned()).collect());
        (done.status.code().unwrap_or(-1), codes.unwrap_or_default())
    }
}

pub fn copy(from: &Path, to: &Path) {
    let _ = Finished::of(Command::new("cp").arg("-a").arg(from).arg(to)).ok();
}

#[test]
fn a_witness_vouches_and_foreign_readers_agree() {
    let o = Outside::new();
    let case = o.fleet.open_case();
    let done = o.cosign(&["--case", &case]).ok().json();
    assert_eq!((&done[0]["log"], &done[0]["before"]), (&format!("exhibit/test/case/{case}").into(), &0.into()));
    let folder = o.fleet.case_dir(&case);
    assert_eq!(o.verify(&folder, &["--witness", &o.key]), (0, Vec::new()));

    // The log as a stranger reads it: by tiles, with the keys from its own list.
    let shown = o.fleet.exhibit(&["log", "show", "--case", &case, "--json"]).ok().json();
    let enrolment = shown.iter().find(|r| r["record"]["roles"][0] == "log").expect("the log key").clone();
    let log_key = vkey(&format!("exhibit/test/case/{case}"), enrolment["record"]["key"].as_str().expect("key"));
    let log = folder.join("log").display().to_string();
    let said = second_reader(&["log", &log, "--log", &log_key, "--witness", &o.key]).ok().text();
    assert!(said.starts_with("good:"), "{said}");
    let (proof, record) = (o.dir.path().join("0.tlog-proof"), o.dir.path().join("0.json"));
    let (proof, record) = (proof.display().to_string(), record.display().to_string());
    let _ = o.fleet.exhibit(&["log", "prove", "--case", &case, "--record", "2", "--out", &proof, "--record-out", &record]).ok();
    let said = second_reader(&["proof", &proof, &record, "--log", &log_key, "--witness", &o.key]).ok().text();
    assert!(said.starts_with("good: record 2 of"), "{said}");
    let mut altered = std::fs::read(&record).expect("record");
    altered[40] ^= 1;
    let other = format!("{record}.altered");
    std::fs::write(&other, altered).expect("written");
    assert_eq!(second_reader(&["proof", &proof, &other, "--log", &log_key]).code, 1);

    // The log goes on: the old head is continued, the new one is not cosigned yet.
    let head = o.fleet.exhibit(&["case", "show", &case, "--json"]).ok().json();
    let noted = format!("{}:{}", head[0]["log_size"], head[0]["log_root"].as_str().expect("root"));
    let _ = o.fleet.exhibit(&["case", "close", &case, "--reason", "done"]).ok();
    let _ = o.fleet.exhibit(&["log", "consistency", "--case", &case, "--from", &noted]).ok();
    let other = format!("{}:{}", head[0]["log_size"], "0".repeat(64));
    assert_eq!(o.fleet.exhibit(&["log", "consistency", "--case", &case, "--from", &other]).code, 74);
    assert_eq!(o.verify(&folder, &["--witness", &o.key]), (1, vec!["witness.required".to_owned()]));

    // From a folder, without a coordinator; what comes out is given to it afterwards.
    let note = o.dir.path().join("note").display().to_string();
    let _ = o.cosign(&["--folder", &folder.display().to_string(), "--out", &note]).ok();
    let _ = o.fleet.exhibit(&["log", "cosigned", "--case", &case, "--note", &note]).ok();
    assert_eq!(o.verify(&folder, &["--witness", &o.key]), (0, Vec::new()));
    let _ = o.cosign(&["--all"]).ok();
    assert_eq!(o.kept("seen").len(), 2, "the case and the deployment");
}

/// A verifier key of a log: made here by other means than in the programs.
fn vkey(name: &str, key: &str) -> String {
    let script = "import sys,hashlib,base64\nn,k=sys.argv[1],b'\\x01'+base64.b64decode(sys.argv[2])\nprint(n+'+'+hashlib.sha256(n.encode()+b'\\n'+k).hexdigest()[:8]+'+'+base64.b64encode(k).decode())";
    Finished::of(Command::new("python3").args(["-c", script, name, key])).ok().text().trim().to_owned()
}

#[test]
fn an_operator_who_cuts_the_log_back_is_found() {
    let o = Outside::new();
    let case = o.fleet.open_case();
    let folder = o.fleet.case_dir(&case);
    // The week before: the whole deployment as it was.
    assert_eq!(o.fleet.terminate_coordinator(), 0);
    let before = o.dir.path().join("before");
    copy(&folder, &before);
    let catalog = ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"];
    for file in catalog.iter().filter(|file| o.fleet.coordinator_dir().join(file).exists()) {
        copy(&o.fleet.coordinator_dir().join(file), &o.dir.path().join(file));
    }
    o.fleet.start_coordinator();
    let _ = o.fleet.exhibit(&["case", "close", &case, "--reason", "done"]).ok();
    let _ = o.cosign(&["--case", &case]).ok();
    let held = o.kept("seen").pop().expect("memory").display().to_string();
    // The last week is gone, consistently: records, tiles, head, cosignatures.
    assert_eq!(o.fleet.terminate_coordinator(), 0);
    std::fs::remove_dir_all(&folder).expect("removed");
    copy(&before, &folder);
    assert_eq!(o.verify(&folder, &[]), (0, Vec::new()), "by itself the case looks whole");
    let (code, codes) = o.verify(&folder, &["--held", &held]);
    assert_eq!((code, codes), (1, vec!["log.forked".to_owned()]));
    let (code, codes) = o.verify(&folder, &["--witness", &o.key]);
    assert_eq!((code, codes), (1, vec!["witness.required".to_owned()]));

    // The catalog remembers how long the log was: the coordinator does not go on with it.
    o.fleet.start_coordinator();
    for refused in [o.cosign(&["--case", &case]), o.fleet.exhibit(&["case", "close", &case, "--reason", "another end"])] {
        assert!(refused.code != 0 && refused.stderr.contains("was put back to an older state"), "{}: {}", refused.code, refused.stderr);
    }
    let refused = o.cosign(&["--case", &case]);
    let named = refused.stderr.contains(&format!("--held {held}")) && refused.stderr.contains("nothing was cosigned");
    assert!(refused.code == 74 && named && !refused.stderr.contains("NOT COSIGNED"), "{}: {}", refused.code, refused.stderr);
    assert!(o.kept("refused").is_empty(), "no head was shown");
    // The operator cuts the catalog back as well, and only the witness is left.
    assert_eq!(o.fleet.terminate_coordinator(), 0);
    for file in catalog {
        let (there, kept) = (o.fleet.coordinator_dir().join(file), o.dir.path().join(file));
        let _ = std::fs::remove_file(&there);
        if kept.exists() {
            copy(&kept, &there);
        }
    }
    o.fleet.start_coordinator();
    let refused = o.cosign(&["--case", &case]);
    assert!(refused.code == 74 && refused.stderr.contains("NOT COSIGNED"), "{}", refused.stderr);
    assert_eq!(o.kept("refused").len(), 3, "the head, its proof, and what was seen");
    // The operator goes on from there: a fork.
    let _ = o.fleet.exhibit(&["case", "close", &case, "--reason", "another end"]).ok();
    let refused = o.cosign(&["--case", &case]);
    assert!(refused.code == 74 && refused.stderr.contains("NOT COSIGNED"), "{}", refused.stderr);
    let (_, codes) = o.verify(&folder, &["--held", &held]);
    assert_eq!(codes, ["log.forked"]);
    // A shorter folder may be an old copy or a fork: that is said, with how to find out.
    let given = o.cosign(&["--folder", &before.display().to_string()]);
    let said = "whether it is an old copy or a fork cannot be told from it";
    assert!(given.code == 65 && given.stderr.contains(said) && given.stderr.contains("--held"), "{}: {}", given.code, given.stderr);
}
