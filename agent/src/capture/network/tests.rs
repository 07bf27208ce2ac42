//! Real sockets, compared with what `ss` and `ip` say; parsers on arbitrary bytes.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;

use super::sockets::ASKS;
use super::*;
use crate::capture::process_memory::tests::programs::{Target, compile};
use crate::capture::testing::{Memory, in_own_mounts, with_mounting, without_mounting};

fn capture() -> Memory {
    Memory::run(&Network, &[("tools", "false")])
}

fn own_netns() -> u64 {
    let link = std::fs::read_link("/proc/self/ns/net").expect("link");
    crate::capture::process::bracketed(link.as_os_str().as_encoded_bytes(), b"net").expect("inode")
}

fn by_local_port(rows: &[Value], protocol: &str, port: u16) -> Vec<Value> {
    rows.iter().filter(|r| r["protocol"] == protocol && r["local"]["port"] == port && r["netns"] == own_netns()).cloned().collect()
}

#[test]
fn a_folder_over_proc_does_not_choose_the_agents_own_namespace() {
    in_own_mounts("capture::network::tests::a_folder_over_proc_does_not_choose_the_agents_own_namespace", || {
        let own = own_netns();
        let forged = tempfile::tempdir().expect("folder");
        std::fs::create_dir_all(forged.path().join("self/ns")).expect("folder");
        std::os::unix::fs::symlink("net:[4711]", forged.path().join("self/ns/net")).expect("link");
        rustix::mount::mount_bind(forged.path(), "/proc").expect("mount");
        assert_eq!(own_netns(), 4_711, "the folder is shown");
        // Nor does what the agent was once shown stay.
        with_mounting(false);
        assert_eq!(namespaces::find(&mut Memory::default()).expect("nobody").own, None);
        with_mounting(true);
        procfs::renew();
        let found = namespaces::find(&mut Memory::default()).expect("found");
        assert_eq!(found.own, Some(own));
        assert_eq!(found.namespaces.iter().filter(|n| n.is_own).map(|n| n.inode).collect::<Vec<_>>(), [own]);
    });
}

/// A thread that has a network namespace, open files and a socket for itself; it says its number.
const APART: &str = r#"
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
static void *apart(void *arg) {
    (void)arg;
    if (unshare(CLONE_FILES) || unshare(CLONE_NEWNET) || socket(AF_INET, SOCK_STREAM, 0) < 0) _exit(1);
    printf("ready\n%ld\n", (long)syscall(SYS_gettid)); fflush(stdout);
    for (;;) pause();
}
int main(void) {
    pthread_t t;
    pthread_create(&t, 0, apart, 0);
    for (;;) pause();
}
"#;

/// What a single thread has may be missing as well.
#[test]
fn a_thread_that_something_is_mounted_over_is_no_silent_gap() {
    in_own_mounts("capture::network::tests::a_thread_that_something_is_mounted_over_is_no_silent_gap", || {
        let dir = tempfile::tempdir().expect("folder");
        let (program, empty) = (compile(dir.path(), "apart", APART, &["-pthread"]), tempfile::tempdir().expect("folder"));
        let start = || {
            let mut target = Target::start(Command::new(&program));
            let task = format!("/proc/{}/task", target.pid());
            let thread = format!("{task}/{}", target.line());
            (target, task, thread)
        };
        let untouched = start();
        let mut covered = Vec::new();
        for below in ["/ns", "/fd", ""] {
            let (target, _, thread) = start();
            rustix::mount::mount_bind(empty.path(), format!("{thread}{below}")).expect("mount");
            covered.push(target);
        }
        let (target, task, _) = start();
        rustix::mount::mount_bind(empty.path(), task).expect("mount");
        covered.push(target);
        without_mounting();
        let out = capture();
        for target in &covered {
            let item = out.get(&format!("/proc/{}/ns/net", target.pid())).expect("an item");
            let reason = item.item.reason.as_deref().unwrap_or_default();
            assert!(item.status == Status::Error && reason.contains("mounted over"), "{reason}");
            assert!(reason.contains("what that thread has") && !reason.contains("not the process"), "{reason}");
        }
        assert!(out.get(&format!("/proc/{}/ns/net", untouched.0.pid())).is_none());
        for table in ["sockets.jsonl", "namespaces.jsonl"] {
            let item = out.get(table).expect("a table");
            let reason = item.item.reason.as_deref().unwrap_or_default();
            assert!(item.status == Status::Partial && reason.contains("4 processes were not looked at, or in part"), "{table}: {reason}");
        }
        let out = Memory::run(&crate::capture::process::Process::default(), &[("exe", "false"), ("deleted", "false"), ("hidden", "false")]);
        let rows = out.rows("table");
        for target in &covered {
            let row = rows.iter().find(|r| r["pid"] == target.pid()).expect("a row");
            assert!(row["status"] == "partial" && row["problems"].to_string().contains("mounted over"), "{row}");
        }
    });
}

/// Where the agent has no procfs of its own, sockets and namespace of a covered process may be missing: that is told.
#[test]
fn a_process_that_something_is_mounted_over_is_no_silent_gap() {
    in_own_mounts("capture::network::tests::a_process_that_something_is_mounted_over_is_no_silent_gap", || {
        let mut children: Vec<Child> = (0..3).map(|_| Command::new("sleep").arg("60").spawn().expect("sleep")).collect();
        let (folder, files, other) = (children[0].id(), children[1].id(), children[2].id());
        rustix::mount::mount_bind(format!("/proc/{other}"), format!("/proc/{folder}")).expect("mount");
        rustix::mount::mount_bind(format!("/proc/{other}/fd"), format!("/proc/{files}/fd")).expect("mount");
        without_mounting();
        let out = capture();
        for child in &mut children {
            child.kill().expect("killed");
            child.wait().expect("reaped");
        }
        for pid in [folder, files] {
            let item = out.get(&format!("/proc/{pid}/ns/net")).expect("an item");
            let reason = item.item.reason.as_deref().unwrap_or_default();
            assert!(item.status == Status::Error && reason.contains("mounted over"), "{reason}");
            assert!(reason.contains("is not the process"), "{reason}");
        }
        assert!(out.get(&format!("/proc/{other}/ns/net")).is_none());
        for table in ["sockets.jsonl", "listening.jsonl", "namespaces.jsonl", "routes.jsonl"] {
            let item = out.get(table).expect("a table");
            let reason = item.item.reason.as_deref().unwrap_or_default();
            assert!(item.status == Status::Partial && reason.contains("2 processes were not looked at"), "{table}: {reason}");
        }
    });
}

/// All tables: what stands in them follows from one walk over processes.
const TABLES: [&str; 10] =
    ["sockets", "listening", "neighbours", "bridge-neighbours", "routes", "rules", "links", "addresses", "qdiscs", "namespaces"];

fn partial_for(out: &Memory, why: &str) {
    for table in TABLES {
        let item = out.get(&format!("{table}.jsonl")).expect("a table");
        let reason = item.item.reason.as_deref().unwrap_or_default();
        assert!(item.status == Status::Partial && reason.contains(why), "{table}: {reason}");
    }
}

/// Netlink needs no `/proc`: sockets, links and routes of the agent's own namespace are there, and that nothing else is.
#[test]
fn where_there_is_no_procfs_the_agents_own_namespace_is_asked_all_the_same() {
    in_own_mounts("capture::network::tests::where_there_is_no_procfs_the_agents_own_namespace_is_asked_all_the_same", || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let port = listener.local_addr().expect("address").port();
        let empty = tempfile::tempdir().expect("folder");
        rustix::mount::mount_bind(empty.path(), "/proc").expect("mount");
        without_mounting();
        let out = capture();
        assert!(out.nothing, "the collection ends as no success");
        partial_for(&out, "/proc is no procfs");
        for table in TABLES {
            let facts = &out.get(&format!("{table}.jsonl")).expect("a table").item.facts;
            assert_eq!(facts.get("proc_shows").map(String::as_str), Some("no procfs"), "{table}");
            assert!(facts["procfs"].contains("cannot be checked"), "{facts:?}");
        }
        let rows = out.rows("namespaces");
        assert_eq!((rows.len(), &rows[0]["inode"], &rows[0]["own"]), (1, &0.into(), &true.into()));
        assert_eq!(rows[0]["problem"], "its number could not be told");
        assert!(out.rows("listening").iter().any(|r| r["protocol"] == "tcp" && r["local"]["port"] == port && r["netns"] == 0));
        assert!(out.rows("links").iter().any(|r| r["name"] == "lo" && r["netns"] == 0));
        assert_eq!(out.get("/proc/self/net").expect("an item").status, Status::Error);
    });
}

/// What a forged folder shows is told to be that, and its links are not followed.
#[test]
fn a_forged_folder_of_processes_is_no_whole_view() {
    in_own_mounts("capture::network::tests::a_forged_folder_of_processes_is_no_whole_view", || {
        let forged = tempfile::tempdir().expect("folder");
        let process = forged.path().join("4711");
        for folder in ["ns", "net"] {
            std::fs::create_dir_all(process.join(folder)).expect("folder");
        }
        std::os::unix::fs::symlink("net:[4712]", process.join("ns/net")).expect("link");
        std::fs::write(process.join("ns/net:[4712]"), "").expect("where it leads");
        std::fs::write(process.join("net/dev"), "made up").expect("table");
        std::fs::write(forged.path().join("kallsyms"), "0000 t nothing_of_the_kind\n").expect("symbols");
        rustix::mount::mount_bind(forged.path(), "/proc").expect("mount");
        without_mounting();
        let out = Memory::run(&Network, &[]);
        assert!(out.nothing, "the collection ends as no success");
        partial_for(&out, "/proc is no procfs");
        let reason = out.get("sockets.jsonl").expect("a table").item.reason.clone().unwrap_or_default();
        assert!(!reason.contains("descriptors"), "{reason}");
        let rows = out.rows("namespaces");
        assert_eq!(
            rows.iter().map(|r| (&r["inode"], &r["own"])).collect::<Vec<_>>(),
            [(&Value::from(0), &Value::from(true)), (&Value::from(4712), &Value::from(false))]
        );
        assert!(rows[1]["problem"].as_str().is_some_and(|p| p.starts_with("not entered: /proc is no procfs")), "{}", rows[1]);
        let made_up = &out.get("/proc/4711/net/dev").expect("an item").item.facts;
        assert_eq!(made_up.get("proc_shows").map(String::as_str), Some("no procfs"));
        let rules = out.get("nftables.json").expect("an item").item.reason.clone().unwrap_or_default();
        assert!(!rules.contains("no such rules"), "the forged list of functions was believed: {rules}");
    });
}

/// Who is not listed cannot be counted, and is no silent gap. Who may see everybody is not told of a gap.
#[test]
fn processes_that_proc_hides_are_no_silent_gap() {
    in_own_mounts("capture::network::tests::processes_that_proc_hides_are_no_silent_gap", || {
        rustix::mount::mount("proc", "/proc", "proc", rustix::mount::MountFlags::empty(), c"hidepid=4").expect("Linux 5.8");
        without_mounting();
        let facts = |out: &Memory| out.get("sockets.jsonl").expect("a table").item.facts.clone();
        let shows_all = std::path::Path::new("/proc/1").exists();
        let out = capture();
        // Process 1 may be kept even from who has CAP_SYS_PTRACE: it can be of another user namespace.
        assert_eq!(!facts(&out).contains_key("hidepid"), shows_all, "{:?}", facts(&out));

        let mut sets = rustix::thread::capabilities(None).expect("capabilities");
        sets.effective.set(rustix::thread::CapabilitySet::SYS_PTRACE, false);
        rustix::thread::set_capabilities(None, sets).expect("set");
        let out = capture();
        partial_for(&out, "hidepid");
        assert!(facts(&out).contains_key("hidepid") && !out.nothing, "{:?}", facts(&out));
    });
}

#[test]
fn a_listening_socket_has_its_holder() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("address").port();
    let out = capture();
    for table in ["sockets", "listening"] {
        let rows = by_local_port(&out.rows(table), "tcp", port);
        assert_eq!(rows.len(), 1, "{table}");
        assert_eq!((&rows[0]["state"], &rows[0]["local"]["address"]), (&"listen".into(), &"127.0.0.1".into()));
        assert_eq!(rows[0]["holders"][0]["pid"], std::process::id());
        assert_eq!(rows[0]["source"], "sock_diag");
        assert_eq!(rows[0]["uid"], rustix::process::geteuid().as_raw());
    }
}

#[test]
fn queues_and_counters_of_a_connection() {
    let listener = TcpListener::bind("[::1]:0").expect("listen");
    let address = listener.local_addr().expect("address");
    let mut client = TcpStream::connect(address).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    client.write_all(b"hello").expect("write");
    // The bytes lie in the receiver's queue once they can be seen there.
    assert_eq!(server.peek(&mut [0; 8]).expect("peek"), 5);
    let rows = by_local_port(&capture().rows("sockets"), "tcp", address.port());
    let connection = rows.iter().find(|r| r["state"] == "established").expect("the server's end");
    assert_eq!(connection["receive_queue"], 5);
    assert_eq!(connection["tcp"]["bytes_received"], 5);
    assert_eq!(connection["remote"]["port"], client.local_addr().expect("address").port());
    assert_eq!((&connection["ip_version"], &connection["remote"]["address"]), (&6.into(), &"::1".into()));
}

#[test]
fn udp_unix_packet_and_netlink_sockets_are_seen() {
    use std::os::linux::net::SocketAddrExt as _;
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let name = format!("exhibit-test-{}", std::process::id());
    let unix = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("name");
    let _unix = std::os::unix::net::UnixListener::bind_addr(&unix).expect("bind");
    let _netlink = Netlink::open(None).expect("netlink");
    let out = capture();
    let rows = out.rows("sockets");
    assert_eq!(by_local_port(&out.rows("listening"), "udp", udp.local_addr().expect("address").port()).len(), 1);
    let unix = rows.iter().find(|r| r["name"] == format!("\0{name}")).expect("the unix socket");
    assert_eq!((&unix["state"], &unix["type"]), (&"listen".into(), &"stream".into()));
    assert_eq!(unix["holders"][0]["pid"], std::process::id());
    assert!(rows.iter().any(|r| r["protocol"] == "netlink" && r["holders"][0]["pid"] == std::process::id()));
}

#[test]
fn the_text_tables_say_the_same_as_netlink() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let six = UdpSocket::bind("[::1]:0").expect("bind");
    let (four, six) = (listener.local_addr().expect("address"), six.local_addr().expect("address"));
    let out = capture();
    for (name, address, text) in [("tcp", four, "tcp"), ("udp", six, "udp6")] {
        let ask = ASKS.iter().find(|a| a.text == text).expect("known");
        let table = std::fs::read(format!("/proc/self/net/{text}")).expect("table");
        let ours = by_local_port(&out.rows("sockets"), name, address.port());
        assert!(!ours.is_empty(), "{text}");
        for row in text::table(ask, &table).iter().filter(|r| r.local.as_ref().is_some_and(|l| l.port == address.port())) {
            let row = serde_json::to_value(row).expect("json");
            let same = ours.iter().find(|o| o["inode"] == row["inode"]).expect("the same socket");
            for field in ["local", "remote", "state", "uid", "receive_queue"] {
                assert_eq!(same[field], row[field], "{field}");
            }
        }
    }
    assert_eq!(
        text::table(&ASKS[0], &std::fs::read("/proc/self/net/tcp").expect("table"))
            .iter()
            .filter(|r| r.local.as_ref().is_some_and(|l| l.port == four.port()))
            .count(),
        1
    );
    let unix = ASKS.iter().find(|a| a.name == "unix").expect("known");
    let table = std::fs::read("/proc/self/net/unix").expect("table");
    assert_eq!(text::table(unix, &table).len(), table.split(|b| *b == b'\n').filter(|l| !l.is_empty()).count() - 1);
}

/// A kernel without a module that lists one kind of socket is an ordinary kernel: nothing that it offers is left out.
#[test]
fn what_the_kernel_does_not_offer_is_a_fact_and_no_fault() {
    let out = capture();
    for table in ["sockets.jsonl", "listening.jsonl"] {
        let put = out.get(table).expect("a table");
        let reason = put.item.reason.as_deref().unwrap_or_default();
        assert!(!reason.contains("No such file") && !reason.contains("os error 2)"), "{table}: {reason}");
    }
    let mut raw = Netlink::open(Some(SOCK_DIAG)).expect("netlink");
    let ask = ASKS.iter().find(|a| a.text == "raw").expect("known");
    let offered = !matches!(
        raw.dump(sockets::BY_FAMILY, &sockets::request(ask), &mut |_, _| Ok::<(), Stop>(())),
        Err(Failure::Kernel(rustix::io::Errno::NOENT))
    );
    let facts = &out.get("sockets.jsonl").expect("a table").item.facts;
    let said = facts.get("not_offered_by_kernel").is_some_and(|f| f.contains("raw sockets over IPv4: taken from the text table"));
    assert_eq!(said, !offered, "{facts:?}");
}

#[test]
fn ss_sees_no_listener_that_is_not_here() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let ss = || Command::new("ss").args(["-ltnH"]).output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let ports = |text: &str| -> BTreeSet<u16> {
        text.lines().filter_map(|l| l.split_whitespace().nth(3)?.rsplit(':').next()?.parse().ok()).collect()
    };
    let before = ports(&ss().expect("ss (iproute2)"));
    let rows = capture().rows("listening");
    let after = ports(&ss().expect("ss"));
    let ours: BTreeSet<u16> = rows
        .iter()
        .filter(|r| r["protocol"] == "tcp" && r["netns"] == own_netns())
        .filter_map(|r| r["local"]["port"].as_u64())
        .map(|p| p as u16)
        .collect();
    assert!(before.contains(&listener.local_addr().expect("address").port()));
    // Other tests open and close listeners at the same time: what stood before and after must be here.
    let missing: Vec<_> = before.intersection(&after).filter(|p| !ours.contains(p)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn ip_json(arguments: &[&str]) -> Vec<Value> {
    let output = Command::new("ip").arg("-j").args(arguments).output().expect("ip (iproute2)");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[test]
fn links_addresses_and_routes_agree_with_ip() {
    let out = capture();
    let own = |table: &str| -> Vec<Value> { out.rows(table).into_iter().filter(|r| r["netns"] == own_netns()).collect() };
    for theirs in ip_json(&["link"]) {
        let ours = own("links").into_iter().find(|l| l["name"] == theirs["ifname"]).expect("the same link");
        assert_eq!((&ours["ifindex"], &ours["mtu"], &ours["address"]), (&theirs["ifindex"], &theirs["mtu"], &theirs["address"]));
    }
    let addresses = own("addresses");
    for link in ip_json(&["addr"]) {
        for theirs in link["addr_info"].as_array().expect("addresses") {
            let ours = addresses.iter().find(|a| {
                a["ifindex"] == link["ifindex"]
                    && (a["local"] == theirs["local"] || (a["local"].is_null() && a["address"] == theirs["local"]))
            });
            assert_eq!(ours.expect("the same address")["prefix_bits"], theirs["prefixlen"]);
        }
    }
    for theirs in ip_json(&["route"]).iter().filter(|r| r["gateway"].is_string()) {
        assert!(own("routes").iter().any(|r| r["gateway"] == theirs["gateway"] && r["table"] == 254), "{theirs}");
    }
    let rules = own("rules");
    for theirs in ip_json(&["rule"]) {
        // The kernel leaves out a priority of 0.
        assert!(rules.iter().any(|r| r["priority"].as_u64().unwrap_or(0) == theirs["priority"].as_u64().expect("priority")), "{theirs}");
    }
}

/// Makes a network namespace, does in it what it is told, goes back, and says its port (or 0) and the inode of the namespace. `socket`:
/// it listens there and keeps nothing else. `descriptor`: it keeps the namespace open. `mount`: it mounts it, in a mount namespace of
/// its own, and keeps nothing.
const LEFT: &str = r#"
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int argc, char **argv) {
    (void)argc;
    int back = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), port = 0;
    if (back < 0 || unshare(CLONE_NEWNET)) return 1;
    struct stat st;
    if (stat("/proc/self/ns/net", &st)) return 2;
    if (!strcmp(argv[1], "socket")) {
        int s = socket(AF_INET, SOCK_STREAM, 0);
        struct sockaddr_in at = { .sin_family = AF_INET };
        socklen_t size = sizeof at;
        if (bind(s, (struct sockaddr *)&at, size) || listen(s, 5) || getsockname(s, (struct sockaddr *)&at, &size)) return 3;
        port = ntohs(at.sin_port);
    } else if (!strcmp(argv[1], "descriptor")) {
        if (open("/proc/self/ns/net", O_RDONLY) < 0) return 4;
    } else {
        if (unshare(CLONE_NEWNS) || mount("none", "/", 0, MS_REC | MS_PRIVATE, 0)) return 5;
        if (mount("/proc/self/ns/net", argv[2], 0, MS_BIND, 0)) return 6;
    }
    if (setns(back, CLONE_NEWNET)) return 7;
    close(back);
    printf("ready\n%d\n%lu\n", port, (unsigned long)st.st_ino); fflush(stdout);
    for (;;) pause();
}
"#;

/// The row of a namespace that nobody lives in, and the port in it, from a program that was told this.
fn left(arguments: &[&str]) -> (u32, u64, Value, Memory) {
    let dir = tempfile::tempdir().expect("folder");
    let mut command = Command::new(compile(dir.path(), "left", LEFT, &[]));
    command.args(arguments);
    let mut target = Target::start(command);
    let port: u64 = target.line().parse().expect("a port");
    let inode: u64 = target.line().parse().expect("an inode");
    let out = capture();
    let rows = out.rows("namespaces");
    let row = rows.into_iter().find(|n| n["inode"] == inode).expect("its namespace");
    assert_eq!((&row["own"], &row["process"], &row["problem"]), (&false.into(), &Value::Null, &Value::Null), "{row}");
    assert!(out.rows("links").iter().any(|l| l["name"] == "lo" && l["netns"] == inode), "its links are there");
    (target.pid(), port, row, out)
}

#[test]
fn a_namespace_that_only_a_socket_leads_to_is_looked_into() {
    let (pid, port, row, out) = left(&["socket"]);
    assert_eq!((&row["found_by"], &row["held_by"][0]["pid"]), (&"socket".into(), &pid.into()), "{row}");
    for table in ["sockets", "listening"] {
        let rows = out.rows(table);
        let listener = rows.iter().find(|s| s["netns"] == row["inode"] && s["local"]["port"] == port).expect("the listener");
        assert_eq!((&listener["protocol"], &listener["state"]), (&"tcp".into(), &"listen".into()));
        assert_eq!(listener["holders"][0]["pid"], pid);
    }
}

#[test]
fn a_namespace_that_is_only_held_open_is_looked_into() {
    let (pid, _, row, _) = left(&["descriptor"]);
    // Another test may look at it at the same time.
    let holds = |held: &Value| held["pid"] == pid;
    assert!(row["found_by"] == "descriptor" && row["held_by"].as_array().is_some_and(|by| by.iter().any(holds)), "{row}");
}

#[test]
fn a_namespace_that_is_only_mounted_somewhere_is_looked_into() {
    let place = tempfile::NamedTempFile::with_prefix("a place").expect("file");
    let path = place.path().to_str().expect("text");
    let (pid, _, row, _) = left(&["mount", path]);
    assert_eq!((&row["found_by"], &row["bound"], &row["bound_in"]), (&"mount".into(), &path.into(), &pid.into()), "{row}");
}

/// Told to end, what is known is put: what the tables are of, and that they are not whole.
#[test]
fn the_list_of_namespaces_is_put_also_when_told_to_end() {
    // The first table of sockets is the first item.
    let mut out = Memory { ends_after: Some(1), ..Memory::default() };
    let ended = Network.run(&Params::new("network", BTreeMap::new()), &mut out);
    assert_eq!(ended, Err(Stop::Deadline));
    assert!(out.rows("namespaces").iter().any(|n| n["own"] == true && n["inode"] == own_netns()));
    assert!(out.get("neighbours.jsonl").is_none(), "it went on");
}

/// Whatever ended it: a table that was not finished is no whole one.
#[test]
fn an_unfinished_table_is_partial_by_its_own_word() {
    let mut out = Memory::default();
    let tables = Tables::new(&out, &Found::default());
    let stop = Stop::Limit("made for a test".to_owned());
    tables.finish(&mut out, &Found::default(), Some(&stop)).expect("put");
    for table in ["sockets.jsonl", "listening.jsonl"] {
        let item = out.get(table).expect("a table");
        let reason = item.item.reason.as_deref().unwrap_or_default();
        assert!(item.status == Status::Partial && reason.starts_with("ended before every namespace was asked: limit"), "{reason}");
    }
}

/// The host's own sockets are there although somebody has more namespaces open than the agent may have files.
#[test]
fn who_keeps_many_namespaces_does_not_hide_the_hosts_own() {
    let dir = tempfile::tempdir().expect("folder");
    let mut target = Target::start(Command::new(compile(dir.path(), "many", MANY, &[])));
    let kept: usize = target.line().parse().expect("a number");
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let few = rustix::process::Rlimit { current: Some(160), maximum: before.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).expect("set");
    let out = capture();
    assert!(kept > 8 && out.rows("namespaces").len() <= 9, "{}", out.rows("namespaces").len());
    assert_eq!(by_local_port(&out.rows("listening"), "tcp", listener.local_addr().expect("address").port()).len(), 1);
    partial_for(&out, "network namespaces were not looked into, after 8 others");
}

/// Keeps twelve namespaces open, and says so.
const MANY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    int back = open("/proc/self/ns/net", O_RDONLY);
    for (int i = 0; i < 12; i++)
        if (unshare(CLONE_NEWNET) || open("/proc/self/ns/net", O_RDONLY) < 0) return 1;
    if (back < 0 || setns(back, CLONE_NEWNET)) return 2;
    printf("ready\n12\n"); fflush(stdout);
    for (;;) pause();
}
"#;

/// What lies over the mount is not opened, and that the namespace was not looked into is told.
#[expect(clippy::disallowed_methods, reason = "a test waits for another process")]
#[test]
fn a_mounted_namespace_that_something_lies_over_is_no_silent_gap() {
    in_own_mounts("capture::network::tests::a_mounted_namespace_that_something_lies_over_is_no_silent_gap", || {
        let (place, over) = (tempfile::NamedTempFile::new().expect("file"), tempfile::NamedTempFile::new().expect("file"));
        let mut child = Running(Command::new("unshare").args(["-n", "sleep", "300"]).spawn().expect("unshare (util-linux)"));
        let link = format!("/proc/{}/ns/net", child.0.id());
        let inode = (0..400).find_map(|_| {
            let leads = std::fs::read_link(&link).ok()?;
            let inode = crate::capture::process::bracketed(leads.as_os_str().as_encoded_bytes(), b"net")?;
            std::thread::sleep(Duration::from_millis(5));
            (inode != own_netns()).then_some(inode)
        });
        rustix::mount::mount_bind(link.as_str(), place.path()).expect("mount");
        rustix::mount::mount_bind(over.path(), place.path()).expect("mount");
        child.0.kill().expect("killed");
        child.0.wait().expect("reaped");
        let out = capture();
        let rows = out.rows("namespaces");
        let row = rows.iter().find(|n| n["inode"] == inode.expect("its namespace")).expect("a row");
        assert!(row["problem"].as_str().is_some_and(|p| p.contains("something else lies there")), "{row}");
        let table = out.get("sockets.jsonl").expect("a table");
        assert!(table.status == Status::Partial, "{:?}", table.item.reason);
    });
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn another_network_namespace_is_looked_into() {
    let script = "ip link set lo up && ip addr add 192.0.2.7/32 dev lo && echo ready; exec sleep 300";
    let mut child =
        Running(Command::new("unshare").args(["-n", "sh", "-c", script]).stdout(Stdio::piped()).spawn().expect("unshare (util-linux)"));
    let mut ready = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.0.stdout.take().expect("pipe")), &mut ready).expect("line");
    assert_eq!(ready, "ready\n", "this test makes a network namespace: run it as root");
    let out = capture();
    let pid = child.0.id();
    let rows = out.rows("namespaces");
    let namespace = rows.iter().find(|n| n["process"] == pid).expect("its namespace");
    assert_eq!((&namespace["own"], &namespace["problem"]), (&false.into(), &Value::Null));
    let inside = |table: &str| -> Vec<Value> { out.rows(table).into_iter().filter(|r| r["netns"] == namespace["inode"]).collect() };
    assert!(inside("links").iter().any(|l| l["name"] == "lo"));
    assert!(inside("addresses").iter().any(|a| a["local"] == "192.0.2.7"));
    assert!(inside("routes").iter().any(|r| r["destination"] == "192.0.2.7"));
    assert!(!inside("sockets").iter().any(|s| s["protocol"] == "tcp"), "nothing of ours is in there");
    let text = out.content(&format!("/proc/{pid}/net/dev"));
    assert!(String::from_utf8_lossy(text).contains("lo:"));
    // The agent itself did not move.
    assert_eq!(out.rows("namespaces").iter().filter(|n| n["own"] == true).count(), 1);
    assert!(!serde_json::to_string(&ip_json(&["addr"])).expect("json").contains("192.0.2.7"));
}

#[test]
fn firewall_rules_of_another_namespace_are_taken() {
    assert!(tools::find("nft").is_some(), "this test needs nft: install nftables");
    let script = "nft add table inet exhibit_seen && echo ready; exec sleep 300";
    let mut child =
        Running(Command::new("unshare").args(["-n", "sh", "-c", script]).stdout(Stdio::piped()).spawn().expect("unshare (util-linux)"));
    let mut ready = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.0.stdout.take().expect("pipe")), &mut ready).expect("line");
    assert_eq!(ready, "ready\n", "this test makes a network namespace: run it as root");
    let out = Memory::run(&Network, &[]);
    let pid = child.0.id();
    let inode = out.rows("namespaces").iter().find(|n| n["process"] == pid).expect("its namespace")["inode"].clone();
    let rules = |name: &str| String::from_utf8_lossy(out.content(name)).into_owned();
    assert!(rules(&format!("netns-{inode}/nftables.json")).contains("exhibit_seen"));
    assert!(!rules("nftables.json").contains("exhibit_seen"));
    assert!(out.commands.iter().any(|c| c.ends_with("nft -j list ruleset")));
}

#[test]
fn a_tool_is_bounded_in_time_and_output() {
    let late = tools::run("/bin/sleep", &["300"], None, Duration::from_millis(50)).expect("started");
    assert!(late.timed_out && late.signal == Some(9), "{late:?}");
    let yes = tools::find("yes").expect("coreutils");
    let much = tools::run(&yes, &[], None, tools::PATIENCE).expect("started");
    assert!(much.cut && much.stdout.len() == 16 << 20);
    let env = tools::run(&tools::find("env").expect("coreutils"), &[], None, tools::PATIENCE).expect("started");
    assert_eq!((env.stdout.as_slice(), env.code), (&b"LC_ALL=C\n"[..], Some(0)));
    assert!(tools::run("/nonexistent", &[], None, tools::PATIENCE).is_err());
}

#[test]
fn what_was_not_allowed_or_is_not_there_has_a_reason() {
    let out = Memory::run(&Network, &[("tools", "false"), ("sock_diag", "false")]);
    for tool in tools::TOOLS {
        let put = out.get(tool.record).expect("an item");
        assert_eq!((put.status, put.item.reason.as_deref()), (Status::Skipped, Some("tools=false in the order")));
    }
    let sockets = out.get("sockets.jsonl").expect("a table");
    assert_eq!(sockets.status, Status::Partial);
    assert!(sockets.item.reason.as_ref().is_some_and(|r| r.contains("sock_diag=false") && r.contains("text table")));
    let reason = sockets.item.reason.as_deref().unwrap_or_default();
    assert!(reason.contains("tcp sockets over IPv4 of ") && !reason.contains("family"), "{reason}");
    assert!(out.rows("sockets").iter().any(|r| r["source"] == "/proc/net/unix"), "taken from the text instead");
    assert!(out.commands.is_empty());
    assert!(!out.content("/etc/hosts").is_empty());
}

proptest! {
    #[test]
    fn answers_survive_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for ask in ASKS {
            let _ = sockets::answer(ask, &bytes);
            let _ = text::table(ask, &bytes);
        }
        for dump in routing::DUMPS {
            let row = routing::row(dump, 1, &bytes);
            prop_assert!(serde_json::to_string(&row).is_ok());
        }
        let total: usize = netlink::messages(&bytes).flatten().map(|m| m.payload.len() + 16).sum();
        prop_assert!(total <= bytes.len());
        let total: usize = netlink::attributes(&bytes).map(|(_, v)| v.len() + 4).sum();
        prop_assert!(total <= bytes.len());
    }

    #[test]
    fn an_attribute_comes_back(kind in 0_u16..0x3fff, value in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(&[4, 0, 9, 0]);
        let all: Vec<_> = netlink::attributes(&bytes).collect();
        prop_assert_eq!(all, vec![(kind, value.as_slice()), (9, &[][..])]);
    }
}
