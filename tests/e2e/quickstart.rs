//! The command of README's first screen does what it says.

use std::process::Command;

use exhibit_tests::{Finished, is_quick, programs};

#[test]
fn quickstart_shows_the_main_job() {
    if is_quick() {
        eprintln!("left out with --quick");
        return;
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace");
    let dir = tempfile::tempdir().expect("folder");
    let quickstart = |args: &[&str]| {
        Finished::of(
            Command::new(root.join("deploy/quickstart")).args(args).arg("--dir").arg(dir.path().join("d")).env("EXHIBIT_BIN", programs()),
        )
    };
    let done = quickstart(&["--keep"]).ok();
    let text = done.text();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().expect("a last line")).expect("JSON");
    assert_eq!(last["verified"], true, "{last}");
    assert_eq!(last["collections"].as_array().map(Vec::len), Some(2), "{last}");
    assert!(
        ["items", "raw_bytes", "stored_bytes"].iter().all(|k| last[*k].as_u64().is_some_and(|n| n > 100))
            && last["seconds"].as_f64().is_some_and(|s| s > 0.0),
        "{last}"
    );
    let store = last["store"].as_str().expect("store");
    let verified = Finished::of(
        Command::new(programs().join("exhibit-verify")).arg(store).arg("--anchor").arg(last["anchor"].as_str().expect("anchor")),
    )
    .ok();
    assert!(!verified.text().is_empty());
    // It still runs: the responder's home works, until it is stopped.
    let listed = Finished::of(
        Command::new(programs().join("exhibit")).args(["--json", "case", "list"]).env("EXHIBIT_HOME", last["home"].as_str().expect("home")),
    )
    .ok();
    assert_eq!(listed.json().len(), 1);
    let _ = quickstart(&["--stop"]).ok();
    let stopped = Finished::of(
        Command::new(programs().join("exhibit")).args(["--json", "case", "list"]).env("EXHIBIT_HOME", last["home"].as_str().expect("home")),
    );
    assert_eq!(stopped.code, 69, "{}", stopped.stderr);
    assert!(Finished::of(Command::new(root.join("deploy/quickstart")).arg("--help")).ok().text().contains("--keep"));
    // A folder with something in it is not touched.
    assert_eq!(quickstart(&[]).code, 1);
}

#[test]
fn quickstart_that_is_interrupted_leaves_nothing_running() {
    use std::os::unix::process::CommandExt as _;
    if is_quick() {
        eprintln!("left out with --quick");
        return;
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace");
    let folder = tempfile::tempdir().expect("folder");
    let (dir, said) = (folder.path().join("d"), folder.path().join("said"));
    let log = std::fs::File::create(&said).expect("log");
    let mut quickstart = Command::new(root.join("deploy/quickstart"));
    quickstart.arg("--dir").arg(&dir).env("EXHIBIT_BIN", programs()).stderr(log).stdout(std::process::Stdio::null()).process_group(0);
    let mut child = quickstart.spawn().expect("starts");
    exhibit_tests::wait_until(std::time::Duration::from_mins(2), "both agents are started", || dir.join("run/agent-2.pid").exists());
    let pids: Vec<String> = ["agent-1", "agent-2", "coordinator"]
        .map(|name| std::fs::read_to_string(dir.join(format!("run/{name}.pid"))).expect("a pid"))
        .iter()
        .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    // As a terminal does on Ctrl-C: to the whole foreground group.
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().expect("kill").success());
    assert!(!child.wait().expect("ends").success());
    let said = std::fs::read_to_string(&said).expect("log");
    assert!(said.contains("quickstart failed") && !said.contains("Killed"), "{said}");
    let alive = |pid: &String| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with("exhibit"));
    assert!(!pids.iter().any(alive), "{pids:?}: {said}");
}
