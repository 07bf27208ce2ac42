//! What goes wrong is named, with the file, line, key or port, and with a stable exit code.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use exhibit_tests::{Finished, Fleet, Running, wait_until};

use crate::custody::Person;

#[test]
fn the_coordinator_says_what_is_wrong() {
    let fleet = Fleet::prepare();
    let dir = fleet.coordinator_dir();
    let run = || Finished::of(fleet.program("exhibit-coordinator").arg("run").arg("--dir").arg(&dir));
    let config = dir.join("config.toml");
    let good = std::fs::read_to_string(&config).expect("config");

    // A port in use.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let port = taken.local_addr().expect("address").port().to_string();
    std::fs::write(&config, good.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))).expect("config");
    let done = run();
    assert_eq!(done.code, 69, "{}", done.stderr);
    assert!(done.stderr.contains(&port), "{}", done.stderr);

    // An unknown key: file, line, key.
    std::fs::write(&config, format!("{good}\n[wrong]\nkey = 1\n")).expect("config");
    let done = run();
    assert_eq!(done.code, 64, "{}", done.stderr);
    assert!(done.stderr.contains("config.toml:") && done.stderr.contains("wrong"), "{}", done.stderr);

    // A key that others can read.
    std::fs::write(&config, &good).expect("config");
    let key = dir.join("log.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let done = run();
    assert_ne!(done.code, 0);
    assert!(done.stderr.contains("log.key") && done.stderr.contains("chmod"), "{}", done.stderr);

    // init does not touch what exists.
    let done = Finished::of(fleet.program("exhibit-coordinator").arg("init").arg("--dir").arg(&dir).args(["--name", "again"]));
    assert!(done.code != 0 && done.stderr.contains(&dir.display().to_string()), "{}", done.stderr);

    // Nor does an export.
    let done = Finished::of(fleet.program("exhibit-coordinator").args(["catalog", "export"]).arg(&config).arg("--dir").arg(&dir));
    assert_eq!(done.code, 73, "{}", done.stderr);
    assert!(done.stderr.contains("config.toml") && done.stderr.contains("name a new file"), "{}", done.stderr);
    assert_eq!(std::fs::read_to_string(&config).expect("config"), good);
}

/// A restored machine, or a copied folder, has a catalog of its own that nobody locks; the store is the same one.
#[test]
fn a_second_coordinator_with_a_copied_catalog_is_refused() {
    let fleet = Fleet::start();
    assert_eq!(fleet.terminate_coordinator(), 0);
    let mut restored = fleet.replica("restored");
    fleet.start_coordinator();
    let mut program = fleet.program("exhibit-coordinator");
    let mut second = Running::start(program.arg("run").arg("--dir").arg(fleet.path().join("restored")), &fleet.path().join("second.log"));
    wait_until(Duration::from_secs(30), "the second coordinator ends", || !second.is_alive());
    let (said, holder) = (second.said(), format!("process {} on ", fleet.coordinator_pid()));
    let named =
        [holder.as_str(), &fleet.coordinator_dir().display().to_string(), "serves from the store in"].iter().all(|w| said.contains(w));
    assert!(named && !said.contains(" listens on "), "{said}");
    // It is no state: when the first one has ended, the other one serves.
    assert_eq!(fleet.terminate_coordinator(), 0);
    fleet.start_replica(&mut restored);
}

#[test]
fn the_tools_say_what_is_wrong() {
    let fleet = Fleet::prepare();
    let exhibit = |args: &[&str]| Finished::of(fleet.program("exhibit").args(args));
    assert_eq!(exhibit(&["no-such-command"]).code, 64);
    assert_eq!(exhibit(&["profiles", "show", "no-such-profile"]).code, 64);
    let nobody = Finished::of(fleet.program("exhibit").args(["case", "list"]).env("EXHIBIT_HOME", "/nowhere"));
    assert!(nobody.code == 78 && nobody.stderr.contains("/nowhere"), "{}: {}", nobody.code, nobody.stderr);
    // The coordinator does not run: nothing listens on port 1.
    let config = fleet.home().join("config.toml");
    let text = std::fs::read_to_string(&config).expect("config").replace("localhost:0", "localhost:1");
    std::fs::write(&config, text).expect("config");
    let down = exhibit(&["case", "list"]);
    assert_eq!(down.code, 69, "{}", down.stderr);
    // A script finds what went wrong on standard error, as JSON, and nothing between its results.
    for args in [&["collections"][..], &["watch", "--order", "x"], &["items", "--case", "x", "--reason", "x"]] {
        let down = exhibit(&[args, &["--json"]].concat());
        let error: serde_json::Value = serde_json::from_str(down.stderr.trim()).expect("JSON");
        assert_eq!((down.code, error["exit_code"].as_u64(), down.stdout.len()), (69, Some(69), 0), "{args:?}: {error}");
    }
    let profile = exhibit(&["profiles", "show", "triage"]).ok().text();
    for capture in ["system", "process", "network", "files", "logs"] {
        assert!(profile.lines().any(|l| l == capture), "{profile}");
    }
    // Every shell gets a script that knows the commands, and nobody needs a coordinator for it.
    for shell in ["bash", "zsh", "fish"] {
        let script = exhibit(&["completions", shell]).ok().text();
        for command in ["witness", "dispose", "release-hold", "cosigned"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let script = exhibit(&["completions", "bash", "--json"]).ok().json().remove(0);
    assert!(script["shell"] == "bash" && script["script"].as_str().is_some_and(|s| s.contains("exhibit")), "{script}");
    let no_anchor = exhibit(&["anchor", "print", "--anchor", "/nowhere"]);
    assert!(no_anchor.code == 65 && no_anchor.stderr.contains("anchor.json"), "{}: {}", no_anchor.code, no_anchor.stderr);
    let unusable = Finished::of(fleet.program("exhibit-verify").arg("/nowhere").arg("--anchor").arg(fleet.anchor()));
    assert!(unusable.code == 2 && unusable.stderr.contains("/nowhere"), "{}: {}", unusable.code, unusable.stderr);
    assert_eq!(Finished::of(&mut fleet.program("exhibit-verify")).code, 64);
    // What has to be opened first, and how.
    let (sealed, partial) = (fleet.path().join("bag.tar.age"), fleet.path().join("bag.partial"));
    std::fs::write(&sealed, "age-encryption.org/v1\n-> X25519 x\n").expect("written");
    std::fs::create_dir_all(partial.join("data/log")).expect("folder");
    for (given, said) in [(&sealed, "age --decrypt --identity"), (&partial, "Run the same 'exhibit export' again")] {
        let done = Finished::of(fleet.program("exhibit-verify").arg(given).arg("--anchor").arg(fleet.anchor()));
        assert!(done.code == 2 && done.stderr.contains(said), "{}: {}", done.code, done.stderr);
    }
    // A name says which character is not allowed, and a long value is not repeated whole.
    let (dir, anchor, out) = (fleet.path().join("new"), fleet.anchor(), fleet.path().join("request"));
    let places = [&dir, &anchor, &out].map(|p| p.display().to_string());
    let named = exhibit(&["person", "request", "--name", "Ana", "--dir", &places[0], "--anchor", &places[1], "--out", &places[2]]);
    assert!(named.code == 65 && named.stderr.contains("'A' is not allowed: write 'a'"), "{}", named.stderr);
    let long = exhibit(&["case", "close", "cas-x", "--reason", &"why ".repeat(1_000)]);
    assert!(long.code == 64 && long.stderr.len() < 600 && long.stderr.contains("4000 bytes"), "{}", long.stderr);
    let witness = fleet.path().join("witness").display().to_string();
    let init = Finished::of(fleet.program("exhibit").args([
        "witness",
        "init",
        "--dir",
        &witness,
        "--name",
        "w.example/w",
        "--anchor",
        &places[1],
    ]))
    .ok();
    assert!(init.stderr.contains("has a section [witness] already") && init.stderr.contains("check-config"), "{}", init.stderr);
    let formula = Finished::of(fleet.program("exhibit-agent").arg("--explain-memory")).ok().text();
    assert!(formula.contains("segment") && formula.contains("frame"), "{formula}");
    for program in ["exhibit", "exhibit-agent", "exhibit-coordinator", "exhibit-verify"] {
        assert!(Finished::of(fleet.program(program).arg("--help")).ok().text().len() > 200, "{program} --help teaches");
    }
}

#[test]
fn secrets_stay_out_of_logs() {
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let _ = fleet.collect(&case, &agent, &["--capture", "system"]);
    let logs = format!("{}{}", fleet.coordinator_log(), agent.process().said());
    assert!(!logs.contains("PRIVATE KEY") && !logs.contains("exhibit-ed25519-seed"), "{logs}");
}

/// A case without collections gives nobody any item; whoever may not see it is told that, and no count.
#[test]
fn a_refused_list_counts_nothing() {
    let fleet = Fleet::start();
    let (own, other) = (fleet.open_case(), fleet.open_case());
    let _ = Person::enrolled(&fleet, "sam", &["--role", "responder", "--case", &own]);
    let home = fleet.path().join("sam");
    let items = |case: &str| {
        Finished::of(fleet.program("exhibit").arg("--home").arg(&home).args(["items", "--case", case, "--reason", "what is there"]))
    };
    let refused = items(&other);
    assert!(refused.code == 77 && !refused.stderr.contains("0 items"), "{}: {}", refused.code, refused.stderr);
    let allowed = items(&own);
    assert!(allowed.code == 0 && allowed.stderr.contains("0 items"), "{}: {}", allowed.code, allowed.stderr);
}
