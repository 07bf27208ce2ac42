//! `exhibit` as a responder uses it: orders that say what they mean, files that are whole or not there, words that help.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use exhibit_tests::{Agent, Finished, Fleet, awkward_tree, wait_until};

/// A fleet with one agent and one sealed collection of a folder.
fn collected(source: &Path) -> (Fleet, Agent, String, String) {
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let ended = fleet.collect(&case, &agent, &["--capture", &format!("files:paths={}/**", source.display())]);
    assert_eq!(ended["state"], "sealed", "{ended}");
    let collection = ended["collection"].as_str().expect("id").to_owned();
    (fleet, agent, case, collection)
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("list").map(|e| e.expect("entry")) {
            let is_dir = entry.file_type().expect("type").is_dir();
            if is_dir { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found
}

/// `exhibit` in text mode.
fn text(fleet: &Fleet, args: &[&str]) -> Finished {
    Finished::of(fleet.program("exhibit").args(args))
}

#[test]
fn an_order_takes_all_that_it_names_or_is_refused() {
    let source = tempfile::tempdir().expect("folder");
    std::fs::write(source.path().join("a*b"), "the star").expect("write");
    std::fs::write(source.path().join("aXb"), "not the star").expect("write");
    std::fs::write(source.path().join("large"), vec![7; 100_000]).expect("write");
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let order = |what: &[&str]| fleet.exhibit(&[&["collect", "--case", &case, "--agent", &agent.id, "--reason", "test"], what].concat());
    let twice = order(&["--capture", "files:paths=/etc/passwd", "--capture", "files:paths=/etc/hostname"]);
    assert!(twice.code == 64 && twice.stderr.contains("--capture files") && twice.stderr.contains("twice"), "{}", twice.stderr);
    let both = order(&["--profile", "triage", "--capture", "files:paths=/etc/passwd"]);
    assert!(both.code == 64 && both.stderr.contains("--profile triage"), "{}", both.stderr);
    for (capture, said) in [
        ("process-memory:mode=slow,all=true", "parameter 'mode': 'slow': expected fast or atomic"),
        ("network:tolls=false", "it has sock_diag, tools"),
        ("sockets", "there is no capture 'sockets'; there are network,"),
    ] {
        let wrong = order(&["--capture", capture]);
        assert!(wrong.code == 64 && wrong.stderr.contains(said) && wrong.stderr.contains("--unchecked"), "{}", wrong.stderr);
    }
    assert_eq!(fleet.exhibit(&["collections"]).ok().json().len(), 0, "nothing was ordered");
    // An agent may know what this program does not: agents say which captures they have, and check parameters themselves.
    let unknown = order(&["--capture", "sockets", "--unchecked"]);
    assert!(unknown.code == 65 && unknown.stderr.contains("no agent of this order has"), "{}", unknown.stderr);
    let refused = fleet.collect(&case, &agent, &["--capture", "network:tolls=false", "--unchecked"]);
    assert!(refused["state"] == "refused" && refused["reason"].as_str().is_some_and(|r| r.contains("'tolls'")), "{refused}");
    let slow = order(&["--capture", "system", "--read-rate", "1"]);
    assert!(slow.code == 64 && slow.stderr.contains("64.0 KiB"), "{}", slow.stderr);

    // A backslash belongs to the pattern, and sizes are written as --help shows them.
    let capture = format!("files:paths={0}/a\\*b,paths={0}/large,max_size=10K", source.path().display());
    let ended = fleet.collect(&case, &agent, &["--capture", &capture]);
    let items = fleet.items(ended["collection"].as_str().expect("id"));
    let paths: Vec<&str> = items.iter().filter_map(|i| i["path"].as_str()).collect();
    assert!(paths.iter().any(|p| p.ends_with("/a*b")) && !paths.iter().any(|p| p.ends_with("/aXb")), "{paths:?}");
    let large = items.iter().find(|i| i["path"].as_str().is_some_and(|p| p.ends_with("/large"))).expect("the large file");
    assert_eq!((large["status"].as_str(), large["facts"]["size_on_host"].as_str()), (Some("skipped"), Some("100000")), "{large}");
}

#[test]
fn what_get_cannot_restore_is_said_and_the_rest_is_restored() {
    let source = tempfile::tempdir().expect("folder");
    awkward_tree(source.path());
    let (fleet, _agent, _case, collection) = collected(source.path());
    let out = tempfile::tempdir().expect("folder");
    let place = out.path().join("files").join(source.path().strip_prefix("/").expect("absolute"));
    std::fs::create_dir_all(&place).expect("folder");
    std::fs::write(place.join("empty"), "mine").expect("write");
    let out_arg = out.path().to_str().expect("UTF-8");

    let done = text(&fleet, &["get", "--collection", &collection, "--out", out_arg, "--reason", "test"]);
    assert_eq!(done.code, 73, "{}", done.stderr);
    assert_eq!(std::fs::read(place.join("empty")).expect("read"), b"mine", "never overwritten");
    assert_eq!(std::fs::metadata(place.join("noise.bin")).expect("after the one that exists").len(), 20_000_000);
    assert!(done.stderr.contains("fifo") && done.stderr.contains("1 not overwritten"), "{}", done.stderr);
    let inode = |name: &str| std::fs::metadata(place.join(name)).expect(name).ino();
    assert_eq!(inode("plain.txt"), inode("hard link"), "a hard link comes back as one");
    assert!(files_below(out.path()).iter().all(|p| !p.to_string_lossy().contains(".exhibit-partial-")));

    // By path, several of them, as they are shown; a pipe by record is no failure.
    let other = tempfile::tempdir().expect("folder");
    let shown = |name: &str| format!("{}/{name}", source.path().display());
    let paths = [shown("caf\\xe9 latin-1"), shown("line\\nbreak\\x1b[31m"), shown("fifo"), shown("caf\\xe9*")];
    let mut args = vec!["get", "--collection", &collection, "--out", other.path().to_str().expect("UTF-8"), "--reason", "test"];
    args.extend(paths.iter().flat_map(|p| ["--path", p.as_str()]));
    let done = fleet.exhibit(&args).ok();
    let restored: Vec<bool> = done.json().iter().map(|v| v["restored"].as_bool().expect("said")).collect();
    assert_eq!((restored.len(), restored.iter().filter(|r| **r).count()), (3, 2), "{}", done.text());
    assert_eq!(files_below(other.path()).len(), 2);
    let mixed = fleet.exhibit(&["get", &format!("{collection}.s1.0"), "--path", "/x", "--out", out_arg, "--reason", "test"]);
    assert_eq!(mixed.code, 64, "{}", mixed.stderr);
}

#[test]
fn a_file_has_its_name_only_with_the_right_bytes() {
    let source = tempfile::tempdir().expect("folder");
    awkward_tree(source.path());
    let (fleet, _agent, case, collection) = collected(source.path());
    let noise = format!("{}/noise.bin", source.path().display());
    let out = tempfile::tempdir().expect("folder");
    let get = |out: &Path| {
        let mut command = fleet.program("exhibit");
        command.args(["get", "--reason", "test", "--collection", &collection, "--path", &noise, "--out"]).arg(out);
        command
    };

    // It does not fit: the shell's file size limit, whose signal is ignored as a full disk sends none.
    let program = format!("{:?}", get(out.path()).get_program()).trim_matches('"').to_owned();
    let script = format!("trap '' XFSZ; ulimit -f 1000; exec {program} \"$@\"");
    let mut limited = Command::new("sh");
    limited.args(["-c", &script, "sh"]).args(get(out.path()).get_args()).env("EXHIBIT_HOME", fleet.home());
    let full = Finished::of(&mut limited);
    assert_eq!(full.code, 73, "{}", full.stderr);
    assert_eq!(files_below(out.path()), Vec::<PathBuf>::new(), "{}", full.stderr);

    // The store was tampered with.
    let segments: Vec<PathBuf> =
        files_below(&fleet.case_dir(&case).join("collections")).into_iter().filter(|p| p.to_string_lossy().ends_with(".tar.zst")).collect();
    for segment in segments {
        let mut bytes = std::fs::read(&segment).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::set_permissions(&segment, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        std::fs::write(&segment, bytes).expect("write");
    }
    let damaged = Finished::of(&mut get(out.path()));
    assert_eq!(damaged.code, 74, "{}", damaged.stderr);
    assert_eq!(files_below(out.path()), Vec::<PathBuf>::new(), "{}", damaged.stderr);
}

#[test]
fn cat_is_kind_to_pipes_and_terminals() {
    let source = tempfile::tempdir().expect("folder");
    std::fs::create_dir(source.path().join("folder")).expect("folder");
    std::fs::write(source.path().join("hostile"), "a\x1b]0;owned\x07b\n").expect("write");
    std::fs::write(source.path().join("long"), "line\n".repeat(1_000_000)).expect("write");
    let (fleet, _agent, _case, collection) = collected(source.path());
    let items = fleet.items(&collection);
    let id = |name: &str| {
        let item = items.iter().find(|i| i["path"].as_str().is_some_and(|p| p.ends_with(name))).expect(name);
        item["id"].as_str().expect("id").to_owned()
    };
    let program = format!("{:?}", fleet.program("exhibit").get_program()).trim_matches('"').to_owned();
    let shell = |script: String| Finished::of(Command::new("bash").args(["-c", &script]).env("EXHIBIT_HOME", fleet.home()));

    let piped = shell(format!("set -o pipefail; {program} cat {} --reason test | head -n 1", id("/long")));
    assert_eq!((piped.code, piped.text().as_str(), piped.stderr.as_str()), (0, "line\n", ""));
    let folder = text(&fleet, &["cat", &id("/folder"), "--reason", "test"]);
    assert!(folder.code == 2 && folder.stderr.contains("directory"), "{}: {}", folder.code, folder.stderr);
    let hostile = id("/hostile");
    assert_eq!(text(&fleet, &["cat", &hostile, "--reason", "test"]).ok().stdout, b"a\x1b]0;owned\x07b\n", "a file gets the bytes");
    let on_terminal = shell(format!("script -qec '{program} cat --reason test {hostile}' /dev/null")).ok().text();
    assert!(on_terminal.contains("a\\x1b]0;owned\\x07b") && !on_terminal.contains('\x1b'), "{on_terminal:?}");
    let raw = shell(format!("script -qec '{program} cat --raw --reason test {hostile}' /dev/null")).ok().text();
    assert!(raw.contains("\x1b]0;owned"), "{raw:?}");
}

fn watch(fleet: &Fleet, collection: &str) -> (Child, PathBuf) {
    let log = tempfile::NamedTempFile::new_in(fleet.path()).expect("log").into_temp_path().keep().expect("kept");
    let file = std::fs::File::create(&log).expect("log");
    let mut command = fleet.program("exhibit");
    command.args(["watch", collection]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    (command.spawn().expect("starts"), log)
}

fn said(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

#[test]
fn watching_outlives_the_coordinator_and_ends_with_advice() {
    let fleet = Fleet::start();
    let mut agent = fleet.agent();
    agent.kill();
    wait_until(Duration::from_secs(20), "the agent is seen to be gone", || fleet.agents()[0]["state"] == "offline");
    let case = fleet.open_case();
    let ordered = text(&fleet, &["collect", "--case", &case, "--agent", &agent.id, "--capture", "system", "--reason", "test"]).ok();
    assert!(
        ordered.stderr.contains("1 of 1 collection is offline") && ordered.stderr.contains("exhibit watch --order"),
        "{}",
        ordered.stderr
    );
    let collection = fleet.exhibit(&["collections"]).ok().json()[0]["collection"].as_str().expect("id").to_owned();

    let (mut left, log) = watch(&fleet, &collection);
    wait_until(Duration::from_secs(20), "it is watched", || said(&log).contains("queued"));
    let _ = Command::new("kill").args(["-INT", &left.id().to_string()]).status().expect("kill");
    assert_eq!(left.wait().expect("ends").code(), Some(130));
    assert!(said(&log).contains(&format!("exhibit watch {collection}")) && said(&log).contains("exhibit cancel"), "{}", said(&log));

    let (mut staying, log) = watch(&fleet, &collection);
    wait_until(Duration::from_secs(20), "it is watched", || said(&log).contains("queued"));
    fleet.kill_coordinator();
    wait_until(Duration::from_secs(20), "the loss is said", || said(&log).contains("connecting again"));
    assert!(!said(&log).contains("https://"), "{}", said(&log));
    fleet.start_coordinator();
    agent.restart();
    assert_eq!(staying.wait().expect("ends").code(), Some(0), "{}", said(&log));
    assert!(said(&log).contains("connected again") && said(&log).contains("sealed"), "{}", said(&log));

    // What is closed stays as it is, and that is said.
    let late = text(&fleet, &["cancel", &collection, "--reason", "too late"]).ok();
    assert!(late.stderr.contains("1 collection was closed before"), "{}", late.stderr);
}

#[test]
fn answers_are_for_people_and_mistakes_have_their_options_names() {
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let case = fleet.open_case();
    let usage = fleet.exhibit(&["items", "--reason", "test"]);
    let error: serde_json::Value = serde_json::from_str(usage.stderr.trim()).expect("JSON");
    assert_eq!((usage.code, error["exit_code"].as_u64()), (64, Some(64)), "{error}");
    assert!(error["error"].as_str().is_some_and(|e| e.contains("--collection")), "{error}");
    let empty = Finished::of(fleet.program("exhibit").args(["whoami"]).env("EXHIBIT_HOME", ""));
    assert!(empty.code == 78 && empty.stderr.contains("EXHIBIT_HOME"), "{}: {}", empty.code, empty.stderr);
    let glob = text(&fleet, &["items", "--case", &case, "--path", "/etc/[z", "--reason", "test"]);
    assert!(glob.code == 65 && glob.stderr.contains("--path:"), "{}", glob.stderr);
    let id = text(&fleet, &["agents", "revoke", "nobody", "--reason", "x"]);
    assert!(id.stderr.contains("is not an agent id"), "{}", id.stderr);

    // Labels are not lost by mistake.
    let _ = fleet.exhibit(&["agents", "label", &agent.id, "role=web"]).ok();
    assert_eq!(fleet.exhibit(&["agents", "label", &agent.id]).code, 64);
    assert_eq!(fleet.exhibit(&["agents", "label", &agent.id, "role=a", "role=b"]).code, 64);
    assert_eq!(fleet.agents()[0]["labels"]["role"], "web");
    let shown = text(&fleet, &["agents", "label", &agent.id, "role=db", "zone=1"]).ok().text();
    assert!(shown.lines().any(|l| l.starts_with("labels ") && l.ends_with("role=db,zone=1")) && !shown.contains('{'), "{shown}");
    let _ = fleet.exhibit(&["agents", "label", &agent.id, "--clear"]).ok();
    assert_eq!(fleet.agents()[0]["labels"], serde_json::json!({}));

    // One shape of --json, watched or not; one table.
    let collect = ["collect", "--case", &case, "--agent", &agent.id, "--capture", "system", "--reason", "test"];
    let watched = fleet.exhibit(&[&collect[..], &["--watch"]].concat()).json();
    assert_eq!(watched[0]["case"], case.as_str(), "{}", watched[0]);
    assert_eq!(watched[0]["collections"][0]["collection"], watched.last().expect("lines")["collection"]);
    let table = text(&fleet, &collect).ok().text();
    assert!(table.contains("0 B") && !table.contains('Z'), "{table}");
    let items = text(&fleet, &["items", "--case", &case, "--capture", "bogus", "--reason", "test"]).ok();
    assert!(items.stderr.contains("bogus") && items.stderr.contains("0 items"), "{}", items.stderr);
}
