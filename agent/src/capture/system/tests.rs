//! This host, compared with what its own tools say; parsers on arbitrary bytes.

use std::process::Command;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::capture::testing::{Memory, in_own_mounts, without_mounting};

fn json(out: &Memory, name: &str) -> Value {
    serde_json::from_slice(out.content(name)).expect("one JSON object")
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the tool");
    String::from_utf8(output.stdout).expect("utf-8").trim_end().to_owned()
}

#[test]
fn identity_agrees_with_uname_and_the_files() {
    let mut out = Memory::default();
    facts::identity(&mut out).expect("taken");
    let identity = json(&out, "identity.json");
    for (field, flag) in [("hostname", "-n"), ("kernel_release", "-r"), ("kernel_version", "-v"), ("machine", "-m"), ("kernel_name", "-s")]
    {
        assert_eq!(identity[field], said_by("uname", &[flag]), "{field}");
    }
    assert_eq!(identity["boot_id"], std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("boot id").trim());
    assert_eq!(identity["cpus"], said_by("nproc", &["--all"]).parse::<u64>().expect("number"));
    assert!(identity["os"]["ID"].is_string());
}

#[test]
fn clocks_are_read_together_and_agree_with_date() {
    let before = said_by("date", &["+%s"]).parse::<i64>().expect("seconds");
    let mut out = Memory::default();
    facts::clocks(&mut out).expect("taken");
    let after = said_by("date", &["+%s"]).parse::<i64>().expect("seconds");
    let clocks = json(&out, "clocks.json");
    let ns = |name: &str| clocks[name].as_i64().expect("nanoseconds");
    assert!((before * 1_000_000_000..(after + 1) * 1_000_000_000).contains(&ns("realtime_ns")));
    assert!(ns("realtime_after_ns") - ns("realtime_ns") < 100_000_000);
    assert!(ns("boottime_ns") >= ns("monotonic_ns"));
    // The kernel's boot time is the wall clock less the time since boot; it rounds down to a second.
    let boot_s = (ns("realtime_ns") - ns("boottime_ns")) / 1_000_000_000;
    assert!((clocks["btime_s"].as_i64().expect("btime") - boot_s).abs() <= 1);
    assert!(clocks["discipline"]["tick_us"].as_i64().is_some_and(|t| (9000..=11_000).contains(&t)));
}

#[test]
fn everything_asked_for_is_there_or_has_a_reason() {
    let out = Memory::run(&System, &[]);
    for path in RAW.iter().chain(FILES).chain(&["/run/utmp", "/dev/kmsg", "/etc/os-release"]) {
        assert!(out.get(path).is_some(), "{path}");
    }
    for table in ["logins", "modules", "mounts", "sysctl", "packages"] {
        assert!(out.get(&format!("{table}.jsonl")).is_some(), "{table}");
    }
    let mut names: Vec<_> = out.puts.iter().map(|p| p.item.path.as_bytes().to_vec()).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "no item twice");
    assert_eq!(out.content("/etc/passwd"), std::fs::read("/etc/passwd").expect("passwd"));
}

/// No modules is an answer, and which one is said: none loaded, or a kernel that cannot load any.
#[test]
fn a_table_of_modules_without_rows_says_why() {
    let mut out = Memory::default();
    kernel::modules(&mut out).expect("taken");
    let put = out.get("modules.jsonl").expect("a table");
    assert_eq!((put.status, &put.item.reason), (Status::Collected, &None));
    let (rows, said) = (out.rows("modules").len(), put.item.facts.get("modules").map(String::as_str).unwrap_or_default());
    let can_load = std::fs::exists("/proc/modules").expect("proc");
    let expected = match (can_load, rows) {
        (false, _) => said.contains("without loadable modules"),
        (true, 0) => said == "no module is loaded",
        (true, _) => said.is_empty(),
    };
    assert!(expected, "{rows} rows, {can_load}: {said}");
}

/// What a `/proc` lacks that is none, or has processes only, the kernel need not lack.
fn says_nothing_of_the_kernel() {
    let out = Memory::run(&System, &[("packages", "false")]);
    assert!(out.nothing, "the collection is partial");
    for name in ["identity.json", "clocks.json", "kernel.json", "modules.jsonl"] {
        let put = out.get(name).expect("an item");
        assert!(put.status == Status::Partial && put.item.reason.as_ref().is_some_and(|r| r.starts_with("/proc ")), "{:?}", put.item);
    }
    assert_eq!((&json(&out, "kernel.json")["taint"], &json(&out, "identity.json")["cpus"]), (&Value::Null, &Value::Null));
    assert!(!out.get("modules.jsonl").expect("a table").item.facts.contains_key("modules"));
    assert!(out.rows("modules").iter().all(|m| m["listed"].is_null()), "none is called hidden");
    let sysctl = out.get("sysctl.jsonl").expect("a table");
    assert!(sysctl.status != Status::Collected && sysctl.item.reason.as_ref().is_some_and(|r| r.contains("/proc ")), "{:?}", sysctl.item);
}

#[test]
fn what_is_no_procfs_says_nothing_of_the_kernel() {
    in_own_mounts("capture::system::tests::what_is_no_procfs_says_nothing_of_the_kernel", || {
        rustix::mount::mount("none", "/proc", "tmpfs", rustix::mount::MountFlags::empty(), c"size=1m").expect("mount");
        says_nothing_of_the_kernel();
    });
}

/// As under systemd with `ProcSubset=pid`.
#[test]
fn a_procfs_of_processes_only_says_nothing_of_the_kernel() {
    in_own_mounts("capture::system::tests::a_procfs_of_processes_only_says_nothing_of_the_kernel", || {
        rustix::mount::mount("proc", "/proc", "proc", rustix::mount::MountFlags::empty(), c"subset=pid").expect("mount");
        without_mounting();
        says_nothing_of_the_kernel();
    });
}

#[test]
fn the_mount_table_agrees_with_the_kernel() {
    let mut out = Memory::default();
    facts::mounts(&mut out).expect("taken");
    let rows = out.rows("mounts");
    let lines = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert_eq!(rows.len(), lines.lines().count());
    assert!(rows.iter().any(|m| m["point"] == "/proc" && m["fs_type"] == "proc" && m["class"] == "pseudo"));
}

#[test]
fn kernel_parameters_are_walked_without_side_effects() {
    let mut out = Memory::default();
    sysctl::walk(&mut out).expect("walked");
    let rows = out.rows("sysctl");
    let of = |path: &str| rows.iter().find(|r| r["path"] == path).unwrap_or_else(|| panic!("{path}"));
    assert_eq!(of("kernel/osrelease")["value"], said_by("uname", &["-r"]));
    assert_eq!(of("kernel/pid_max")["value"], std::fs::read_to_string("/proc/sys/kernel/pid_max").expect("pid_max").trim());
    assert_eq!((&of("kernel/random/uuid")["status"], &of("kernel/random/uuid")["value"]), (&"skipped".into(), &Value::Null));
    assert_eq!(of("vm/compact_memory")["reason"], "write-only");
    assert!(rows.iter().all(|r| r["status"] == "collected" || r["reason"].is_string()));
    // Nothing was left out: as many as `find` sees, less what comes and goes with other tests' namespaces.
    let find = Command::new("find").args(["/proc/sys", "-xdev", "-type", "f"]).output().expect("find");
    let theirs = find.stdout.split(|b| *b == b'\n').filter(|l| !l.is_empty()).count();
    let ours = rows.iter().filter(|r| !r["mode"].is_null()).count();
    assert_eq!(ours, theirs);
}

#[test]
fn packages_agree_with_dpkg() {
    let mut out = Memory::default();
    packages::list(&mut out).expect("listed");
    if !std::path::Path::new("/var/lib/dpkg/status").exists() {
        assert!(out.rows("packages").iter().all(|p| p["manager"] != "dpkg"), "no Debian");
        return;
    }
    let mut ours: Vec<String> = out
        .rows("packages")
        .iter()
        .filter(|p| p["manager"] == "dpkg")
        .map(|p| ["name", "version", "architecture", "status"].map(|f| p[f].as_str().expect("text").to_owned()).join("|"))
        .collect();
    let mut theirs: Vec<String> =
        said_by("dpkg-query", &["-W", "-f", "${Package}|${Version}|${Architecture}|${Status}\\n"]).lines().map(str::to_owned).collect();
    ours.sort();
    theirs.sort();
    assert_eq!(ours, theirs);
}

#[test]
fn apk_stanzas() {
    let text = b"C:Q1x\nP:musl\nV:1.2.5-r0\nA:x86_64\nF:lib\nR:ld\n\nP:busybox\nV:1.36\nA:x86_64\n";
    let mut found = Vec::new();
    let problem = packages::stanzas(&text[..], "apk", "db", &packages::APK, &mut |p| {
        found.push((p.name.0, p.version.0, p.architecture.0));
        Ok(())
    });
    assert_eq!(problem, Ok(None));
    assert_eq!(
        found,
        [(b"musl".to_vec(), b"1.2.5-r0".to_vec(), b"x86_64".to_vec()), (b"busybox".to_vec(), b"1.36".to_vec(), b"x86_64".to_vec())]
    );
}

/// A record as `login(1)` writes it, laid out by hand from bits/utmp.h.
fn record(layout: utmp::Layout) -> Vec<u8> {
    let mut r = vec![0_u8; layout.bytes];
    let mut put = |at: usize, bytes: &[u8]| r[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &7_i16.to_ne_bytes());
    put(4, &4711_i32.to_ne_bytes());
    put(8, b"pts/3");
    put(40, b"ts/3");
    put(44, b"mallory");
    put(76, b"198.51.100.9");
    if layout.bytes == 400 {
        put(336, &5_i64.to_ne_bytes());
        put(344, &1_709_210_096_i64.to_ne_bytes());
        put(352, &250_000_i64.to_ne_bytes());
        put(360, &[198, 51, 100, 9]);
    } else {
        put(336, &5_i32.to_ne_bytes());
        put(340, &1_709_210_096_i32.to_ne_bytes());
        put(344, &250_000_i32.to_ne_bytes());
        put(348, &[198, 51, 100, 9]);
    }
    r
}

#[test]
fn logins_of_both_layouts() {
    for layout in [utmp::NARROW, utmp::WIDE] {
        let l = utmp::login(&record(layout), layout).expect("a record");
        assert_eq!((l.kind, l.pid, l.session), ("user-process", 4711, 5));
        assert_eq!((l.user.0.as_slice(), l.line.0.as_slice(), l.host.0.as_slice()), (&b"mallory"[..], &b"pts/3"[..], &b"198.51.100.9"[..]));
        // `date -u -d @1709210096`
        assert_eq!(l.time, "2024-02-29T12:34:56.250000000Z");
        assert_eq!(l.address, Some("198.51.100.9".parse().expect("address")));
    }
    assert_eq!(utmp::layout(800).bytes, 400);
    assert_eq!(utmp::layout(768).bytes, 384);
}

#[test]
fn taint_bits_have_names() {
    assert_eq!(kernel::taint_names((1 << 12) | (1 << 13)), ["out-of-tree module", "unsigned module"]);
    assert!(kernel::taint_names(0).is_empty());
}

#[test]
fn parts_that_an_order_leaves_out_say_so() {
    let out = Memory::run(&System, &[("sysctl", "false"), ("packages", "false")]);
    for record in ["sysctl.jsonl", "packages.jsonl"] {
        let put = out.get(record).expect("an item");
        assert!(put.status == Status::Skipped && put.content.is_none());
    }
}

proptest! {
    #[test]
    fn parsers_survive_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        let _ = utmp::login(&bytes, utmp::NARROW);
        let _ = utmp::login(&bytes, utmp::WIDE);
        let _ = facts::assignments(&bytes);
        for grammar in [&packages::DPKG, &packages::APK] {
            let result = packages::stanzas(&bytes[..], "any", "any", grammar, &mut |_| Ok(()));
            prop_assert_eq!(result, Ok(None));
        }
    }

    #[test]
    fn packages_come_back(names in proptest::collection::vec("[a-z0-9+.-]{1,20}", 1..8)) {
        let stanza = |n: &String| format!("Package: {n}\nStatus: install ok installed\nDescription: x\n Package: not this\n\n");
        let text = names.iter().map(stanza).collect::<Vec<_>>().concat();
        let mut found = Vec::new();
        packages::stanzas(text.as_bytes(), "dpkg", "s", &packages::DPKG, &mut |p| { found.push(String::from_utf8(p.name.0).expect("utf-8")); Ok(()) }).expect("read");
        prop_assert_eq!(found, names);
    }
}
