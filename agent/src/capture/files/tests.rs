use std::fs::File;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{CWD, Mode, XattrFlags, mknodat};

use super::*;
use crate::capture::testing::{Memory, Put, in_own_mounts, without_mounting};
use crate::capture::{Kind, Status};
use exhibit_evidence::Digest;

/// Ends a second thread also when an assertion of the first fails.
struct EndWith<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for EndWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

struct Tree {
    _dir: tempfile::TempDir,
    base: PathBuf,
}

impl Tree {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let base = dir.path().canonicalize().expect("base");
        for (file, content) in files {
            let path = base.join(file);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("folders");
            std::fs::write(path, content).expect("file");
        }
        Self { _dir: dir, base }
    }

    fn path(&self, name: &str) -> String {
        self.base.join(name).display().to_string()
    }

    /// Runs the capture; patterns are relative to the tree.
    fn files(&self, globs: &[&str], params: &[(&str, &str)]) -> Memory {
        let paths = self.lines(globs);
        let mut all = vec![("paths", paths.as_str())];
        all.extend_from_slice(params);
        Memory::run(&Files, &all)
    }

    fn lines(&self, globs: &[&str]) -> String {
        let line = |g: &&str| match g.split_once("] ") {
            Some((options, glob)) => format!("{options}] {}", self.path(glob)),
            None => self.path(g),
        };
        globs.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn put<'m>(&self, memory: &'m Memory, name: &str) -> &'m Put {
        memory.get(&self.path(name)).unwrap_or_else(|| panic!("no item {name}: {:?}", shown(memory)))
    }
}

fn shown(memory: &Memory) -> Vec<String> {
    memory.puts.iter().map(|p| format!("{} {:?}", p.item.path, p.status)).collect()
}

fn row(memory: &Memory, rule: &str) -> serde_json::Value {
    let rows = memory.rows("rules");
    rows.iter().find(|r| r["rule"].as_str().is_some_and(|text| text.ends_with(rule))).cloned().unwrap_or_else(|| panic!("no row {rule}"))
}

#[test]
fn every_kind_of_name_and_thing() {
    let long = "n".repeat(255);
    let tree = Tree::new(&[("d/.hidden", b"h"), ("d/new\nline", b"n"), (&format!("d/{long}"), b"l"), ("d/empty", b"")]);
    let raw = PathBuf::from(std::ffi::OsString::from_vec([tree.base.as_os_str().as_bytes(), b"/d/caf\xe9\x01"].concat()));
    std::fs::write(&raw, "latin").expect("write");
    symlink("no such target", tree.base.join("d/link")).expect("link");
    let _socket = std::os::unix::net::UnixListener::bind(tree.base.join("d/socket")).expect("socket");
    mknodat(CWD, tree.base.join("d/fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).expect("fifo");
    let device =
        mknodat(CWD, tree.base.join("d/null"), rustix::fs::FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 3)).is_ok();
    std::fs::create_dir(tree.base.join("d/sub")).expect("folder");
    let memory = tree.files(&["d/*"], &[]);
    assert_eq!(memory.content(&tree.path("d/.hidden")), b"h");
    assert_eq!(memory.content(&tree.path("d/new\nline")), b"n");
    assert_eq!(memory.content(&tree.path(&format!("d/{long}"))), b"l");
    assert_eq!(memory.content(&tree.path("d/empty")), b"");
    let latin = memory.puts.iter().find(|p| p.item.path.as_bytes() == raw.as_os_str().as_bytes()).expect("non-UTF-8 name");
    assert_eq!(latin.content.as_deref(), Some(b"latin".as_slice()));
    let link = tree.put(&memory, "d/link");
    assert_eq!(
        (link.item.kind, link.item.target.as_ref().map(crate::capture::EvidencePath::as_bytes)),
        (Kind::Symlink, Some(b"no such target".as_slice()))
    );
    let mut kinds = vec![("d/socket", Kind::Socket), ("d/fifo", Kind::Fifo), ("d/sub", Kind::Directory)];
    if device {
        kinds.push(("d/null", Kind::CharDevice));
        assert_eq!(tree.put(&memory, "d/null").item.meta.as_ref().and_then(|m| m.rdev), Some([1, 3]));
    }
    for (name, kind) in kinds {
        let put = tree.put(&memory, name);
        assert_eq!((put.item.kind, put.status, &put.content), (kind, Status::Collected, &None), "{name}");
    }
    let expected = 9 + usize::from(device) + 1;
    assert_eq!(memory.puts.len(), expected, "and the record of rules: {:?}", shown(&memory));
}

#[test]
fn metadata_is_what_the_kernel_says() {
    let tree = Tree::new(&[("f", b"content")]);
    let path = tree.base.join("f");
    let file = File::open(&path).expect("open");
    rustix::fs::fsetxattr(&file, "user.note", b"a=%b\0c", XattrFlags::empty()).expect("this file system keeps attributes");
    // POSIX ACL, version 2: user::rw-, user:1234:r--, group::r--, mask::r--, other::r--.
    let entry = |tag: u16, perm: u16, id: u32| [tag.to_le_bytes().as_slice(), &perm.to_le_bytes(), &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let acl = [vec![2, 0, 0, 0], entry(1, 6, none), entry(2, 4, 1234), entry(4, 4, none), entry(16, 4, none), entry(32, 4, none)].concat();
    let with_acl = rustix::fs::fsetxattr(&file, "system.posix_acl_access", &acl, XattrFlags::empty()).is_ok();
    // cap_net_raw, effective and permitted, revision 2.
    let capability = [0x0200_0001_u32, 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
    let with_capability = rustix::fs::fsetxattr(&file, "security.capability", &capability, XattrFlags::empty()).is_ok();
    let with_trusted = rustix::fs::fsetxattr(&file, "trusted.mark", b"t", XattrFlags::empty()).is_ok();
    let memory = tree.files(&["f"], &[]);
    let put = tree.put(&memory, "f");
    let meta = put.item.meta.as_ref().expect("metadata");
    let real = std::fs::metadata(&path).expect("metadata");
    assert_eq!((meta.mode, meta.uid, meta.gid), (real.mode() & 0o7777, real.uid(), real.gid()));
    assert_eq!((meta.ino, meta.nlink, meta.blocks), (real.ino(), 1, real.blocks()));
    assert_eq!(
        (u64::from(meta.dev[0]), u64::from(meta.dev[1])),
        (u64::from(rustix::fs::major(real.dev())), u64::from(rustix::fs::minor(real.dev())))
    );
    let mtime = meta.mtime.expect("mtime");
    assert_eq!((mtime.s, i64::from(mtime.ns)), (real.mtime(), real.mtime_nsec()));
    assert_eq!(meta.atime.map(|t| (t.s, i64::from(t.ns))), Some((real.atime(), real.atime_nsec())), "reading left no trace");
    assert_eq!(meta.btime.is_some(), real.created().is_ok());
    let value = |name: &str| meta.xattrs.get(name).map(|v| STANDARD.decode(v).expect("base64"));
    assert_eq!(value("user.note").as_deref(), Some(b"a=%b\0c".as_slice()));
    assert_eq!(value("system.posix_acl_access").is_some(), with_acl);
    assert_eq!(value("security.capability"), with_capability.then_some(capability));
    assert_eq!(value("trusted.mark").is_some(), with_trusted);
    assert!(put.item.facts.contains_key("rule"), "{:?}", put.item.facts);
    assert_eq!(put.item.inode, None);
}

#[test]
fn inode_flags_by_name() {
    let tree = Tree::new(&[("f", b"x")]);
    let file = File::open(tree.base.join("f")).expect("open");
    let flags = rustix::fs::IFlags::NODUMP | rustix::fs::IFlags::NOATIME;
    if rustix::fs::ioctl_setflags(&file, flags).is_err() {
        return; // a file system without flags
    }
    let memory = tree.files(&["f"], &[]);
    let mut names = tree.put(&memory, "f").item.meta.as_ref().expect("metadata").flags.clone();
    names.sort_unstable();
    assert_eq!(names, ["noatime", "nodump"]);
}

#[test]
fn many_large_attributes_are_bounded() {
    let tree = Tree::new(&[("f", b"x")]);
    let file = File::open(tree.base.join("f")).expect("open");
    let mut set = 0;
    while set < 40 && rustix::fs::fsetxattr(&file, format!("user.n{set:030}"), &[9; 90], XattrFlags::empty()).is_ok() {
        set += 1;
    }
    let memory = tree.files(&["f"], &[]);
    let kept = tree.put(&memory, "f").item.meta.as_ref().expect("metadata").xattrs.keys().filter(|k| k.starts_with("user.n")).count();
    assert_eq!(kept, set, "a list longer than the first buffer ({set} attributes)");
    assert!(set > 15, "the list must outgrow 512 bytes to mean something");
}

#[test]
fn hard_links_share_an_inode_and_holes_are_not_read() {
    let tree = Tree::new(&[("a", b"one"), ("sparse", b"")]);
    std::fs::hard_link(tree.base.join("a"), tree.base.join("b")).expect("hard link");
    let sparse = File::options().write(true).open(tree.base.join("sparse")).expect("open");
    sparse.set_len(8 << 20).expect("size");
    sparse.write_all_at(b"data", 5 << 20).expect("write");
    // Made a moment ago: the kernel could not tell a change that comes now. On a busy machine the moment may have passed.
    let fresh = || {
        std::fs::write(tree.base.join("a"), b"one").expect("write");
        tree.put(&tree.files(&["a"], &[]), "a").item.inode.is_none()
    };
    assert!((0..100).any(|_| fresh()), "never too fresh");
    #[allow(clippy::disallowed_methods, reason = "waits for the kernel's clock, which no event tells of")]
    std::thread::sleep(std::time::Duration::from_millis(50));
    let memory = tree.files(&["*"], &[("max_size", "1MiB")]);
    let inode = |name: &str| tree.put(&memory, name).item.inode;
    assert!(inode("a").is_some() && inode("a") == inode("b"));
    let content = memory.content(&tree.path("sparse"));
    assert_eq!(
        (content.len(), &content[5 << 20..(5 << 20) + 4]),
        (8 << 20, b"data".as_slice()),
        "8 MiB with 4 KiB of data are below 1 MiB"
    );
}

#[test]
fn what_is_not_there_is_said() {
    let tree = Tree::new(&[("a/file", b"x")]);
    let memory = tree.files(&["a/none", "none/deeper/x", "a/file/x", "a/*.none", "a/file"], &[]);
    for (name, part) in [("a/none", "nothing of that name"), ("none/deeper/x", "none: there is nothing"), ("a/file/x", "no directory")] {
        let put = tree.put(&memory, name);
        let reason = put.item.reason.as_deref().unwrap_or_default();
        assert!(put.status == Status::Missing && reason.contains(part), "{name}: {reason}");
    }
    let none = row(&memory, "a/*.none");
    assert_eq!((none["items"].as_u64(), none["patterns"].as_u64()), (Some(0), Some(1)));
    assert_eq!(row(&memory, "a/file")["by_status"]["collected"], 1);
    assert_eq!(row(&memory, "a/none")["by_status"]["missing"], 1);
}

#[test]
fn nothing_found_is_no_success() {
    let tree = Tree::new(&[]);
    let memory = tree.files(&["*.none"], &[]);
    let put = memory.get("nothing-found").expect("an item that says so");
    assert_eq!((put.status, put.item.kind, memory.nothing), (Status::Missing, Kind::Unknown, true));
    // What is only missing or skipped is nothing either.
    let tree = Tree::new(&[("big", &[1; 5_000])]);
    assert!(tree.files(&["absent", "big"], &[("max_size", "1KiB")]).nothing);
    assert!(!tree.files(&["absent", "big"], &[]).nothing);
}

#[test]
fn keys_are_known_by_their_digest_and_ours_are_never_given() {
    let pem = b"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n";
    let tree = Tree::new(&[("pem", pem), ("own", b"exhibit-ed25519-seed-v1:AAAA\n"), ("script", b"PuTTY-User-Key-File-=1;id\n")]);
    for (given, pem_status) in [("false", Status::Skipped), ("true", Status::Collected)] {
        let memory = tree.files(&["*"], &[("private_keys", given)]);
        let status = |name: &str| tree.put(&memory, name).status;
        assert_eq!((status("pem"), status("own"), status("script")), (pem_status, Status::Skipped, Status::Collected));
        let own = tree.put(&memory, "own");
        assert_eq!(own.item.facts.get("sha256"), Some(&Digest::of(b"exhibit-ed25519-seed-v1:AAAA\n").to_string()));
    }
}

#[test]
fn names_of_attributes_are_kept_or_it_is_said() {
    let tree = Tree::new(&[("plain", b"x"), ("bytes", b"x")]);
    let set = |file: &str, name: &[u8]| {
        let name = std::ffi::CString::new(name).expect("no NUL");
        rustix::fs::setxattr(tree.base.join(file), &name, b"v", rustix::fs::XattrFlags::CREATE)
    };
    for name in [&b"user.back\\xff"[..], "user.caf\u{e9}\n".as_bytes()] {
        set("plain", name).expect("this test needs a file system with user attributes below TMPDIR: not a tmpfs before Linux 6.6");
    }
    set("bytes", b"user.\xff").expect("attribute");
    let memory = tree.files(&["*"], &[]);
    let plain = tree.put(&memory, "plain");
    let names: Vec<&str> = plain.item.meta.as_ref().expect("meta").xattrs.keys().map(String::as_str).collect();
    assert_eq!((plain.status, names), (Status::Collected, vec!["user.back\\xff", "user.caf\u{e9}\n"]));
    let bytes = tree.put(&memory, "bytes");
    assert_eq!(bytes.status, Status::Partial);
    assert!(bytes.item.reason.as_deref().is_some_and(|r| r.contains("not UTF-8")), "{:?}", bytes.item.reason);
}

#[test]
fn limits_leave_metadata_and_a_reason() {
    let tree = Tree::new(&[("big", &[1; 5_000]), ("small", &[2; 100]), ("tmp/x", &[3; 600]), ("tmp/y", &[4; 600])]);
    let memory = tree.files(&["*", "[max_size=700 max_total=1000] tmp/*"], &[("max_size", "4KiB")]);
    let big = tree.put(&memory, "big");
    assert_eq!((big.status, big.content.is_none(), big.item.meta.as_ref().map(|m| m.nlink)), (Status::Skipped, true, Some(1)));
    assert!(big.item.reason.as_deref().is_some_and(|r| r.contains("5000") && r.contains("max_size")), "{:?}", big.item.reason);
    assert_eq!(tree.put(&memory, "small").status, Status::Collected);
    assert_eq!((tree.put(&memory, "tmp/x").status, tree.put(&memory, "tmp/y").status), (Status::Collected, Status::Skipped));
    let total = tree.files(&["**"], &[("max_total", "5200")]);
    assert_eq!((tree.put(&total, "small").status, tree.put(&total, "tmp/x").status), (Status::Collected, Status::Skipped));
    let wider = tree.files(&["[max_size=10] tmp/x", "tmp/*"], &[]);
    assert_eq!(tree.put(&wider, "tmp/x").status, Status::Collected, "a rule with room takes it");
}

#[test]
fn the_number_of_files_is_bounded() {
    let tree = Tree::new(&[("1", b""), ("2", b""), ("3", b"")]);
    let memory = tree.files(&["*"], &[("max_files", "2")]);
    let end = memory.get("walk-ended").expect("the end is told");
    assert!(end.item.facts["at"].ends_with("/3") && end.status == Status::Skipped, "{:?}", end.item);
    assert_eq!(memory.rows("rules").last().expect("walk")["ended_at"], tree.path("3"));
}

#[test]
fn age_is_the_later_of_content_and_inode_change() {
    let tree = Tree::new(&[("old", b"x")]);
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_hours(24);
    File::options().write(true).open(tree.base.join("old")).expect("open").set_modified(long_ago).expect("touch");
    let memory = tree.files(&["old"], &[("newer_than", "1h")]);
    assert_eq!(tree.put(&memory, "old").status, Status::Collected, "a time set back does not hide it: the inode changed now");
    let memory = tree.files(&["*"], &[("older_than", "1h")]);
    assert!(memory.get(&tree.path("old")).is_none());
    assert_eq!(row(&memory, "*")["outside_age"], 1);
}

#[test]
fn private_keys_stay_unless_asked_for() {
    let key = b"-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\n";
    let tree = Tree::new(&[("ssh/id_x", key), ("ssh/id_x.pub", b"ssh-ed25519 AAAA"), ("ssh/authorized_keys", b"ssh-rsa AAAA")]);
    let memory = tree.files(&["ssh/*"], &[]);
    let put = tree.put(&memory, "ssh/id_x");
    assert!(put.status == Status::Skipped && put.content.is_none() && put.item.meta.is_some(), "{put:?}");
    assert_eq!(tree.put(&memory, "ssh/id_x.pub").status, Status::Collected);
    let memory = tree.files(&["ssh/*"], &[("private_keys", "true")]);
    assert_eq!(memory.content(&tree.path("ssh/id_x")), key);
}

#[test]
fn exclusions_are_items() {
    let tree = Tree::new(&[("a/x", b"x"), ("a/cache/y", b"y")]);
    let memory = tree.files(&["a/**"], &[("exclude", &tree.path("a/cache"))]);
    let put = tree.put(&memory, "a/cache");
    assert_eq!((put.status, put.item.kind), (Status::Skipped, Kind::Directory));
    assert!(memory.get(&tree.path("a/cache/y")).is_none());
}

#[test]
fn a_link_before_the_wildcard_is_resolved_once_and_told() {
    let tree = Tree::new(&[("real/a.pid", b"1")]);
    symlink("real", tree.base.join("alias")).expect("link");
    let memory = tree.files(&["alias/*.pid", "real/*", "alias/none"], &[]);
    let put = tree.put(&memory, "real/a.pid");
    assert_eq!(put.content.as_deref(), Some(b"1".as_slice()));
    assert!(put.item.facts["through"].contains("alias -> real"), "{:?}", put.item.facts);
    assert!(memory.get(&tree.path("alias/a.pid")).is_none(), "taken once, under its real name");
    let link = tree.put(&memory, "alias");
    assert_eq!(
        (link.item.kind, link.item.target.as_ref().map(crate::capture::EvidencePath::as_bytes)),
        (Kind::Symlink, Some(b"real".as_slice()))
    );
    assert_eq!(tree.put(&memory, "alias/none").status, Status::Missing, "under the name that was asked for");
}

#[test]
fn a_directory_swap_during_the_capture_gives_away_nothing_from_outside() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let tree = Tree::new(&[("w/dir/file", b"inside"), ("outside/file", b"SECRET")]);
    symlink(tree.base.join("outside"), tree.base.join("w/link")).expect("link");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (dir, link) = (tree.base.join("w/dir"), tree.base.join("w/link"));
            for _ in 0..5_000_000 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                rustix::fs::renameat_with(CWD, &dir, CWD, &link, rustix::fs::RenameFlags::EXCHANGE).expect("exchange");
            }
        });
        let _end = EndWith(&stop);
        for _ in 0..100 {
            let memory = tree.files(&["w/**"], &[]);
            let secret = memory.puts.iter().any(|p| p.content.as_deref() == Some(b"SECRET") && p.item.path.as_bytes() != b"rules.jsonl");
            assert!(!secret, "{:?}", shown(&memory));
            assert!(memory.puts.iter().all(|p| p.status == Status::Collected || p.item.reason.is_some()));
        }
    });
}

/// Runs this test again as a user without privileges, who may not read everything.
#[test]
fn what_may_not_be_read_is_denied_with_its_metadata() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    const VARIABLE: &str = "EXHIBIT_TEST_UNPRIVILEGED_TREE";
    if let Ok(base) = std::env::var(VARIABLE) {
        let memory = Memory::run(&Files, &[("paths", &format!("{base}/**"))]);
        let put = |name: &str| memory.get(&format!("{base}/{name}")).unwrap_or_else(|| panic!("no item {name}: {:?}", shown(&memory)));
        let file = put("closed-file");
        assert!(file.status == Status::Denied && file.item.meta.as_ref().is_some_and(|m| m.mode == 0), "{file:?}");
        let folder = put("closed-folder");
        assert!(folder.status == Status::Denied && folder.item.kind == Kind::Directory, "{folder:?}");
        let open = put("open-file");
        assert_eq!((open.status, open.item.facts.contains_key("atime")), (Status::Collected, true), "not the owner: O_NOATIME is refused");
        return;
    }
    let tree = Tree::new(&[("closed-file", b"x"), ("closed-folder/x", b"x"), ("open-file", b"x")]);
    for (name, mode) in [("", 0o755), ("closed-file", 0), ("closed-folder", 0), ("open-file", 0o644)] {
        std::fs::set_permissions(tree.base.join(name), std::fs::Permissions::from_mode(mode)).expect("chmod");
    }
    if !rustix::process::geteuid().is_root() {
        return; // the owner can always open O_NOATIME; only root can become another user
    }
    let exe = std::env::current_exe().expect("own path");
    let name = "capture::files::tests::what_may_not_be_read_is_denied_with_its_metadata";
    let output = std::process::Command::new(exe)
        .args(["--exact", name, "--nocapture"])
        .env(VARIABLE, &tree.base)
        .current_dir("/")
        .uid(65_534)
        .gid(65_534)
        .output();
    let output = output.expect("the test runs again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn mistakes_in_parameters_name_key_value_and_example() {
    use crate::capture::{Params, Stop};
    for (key, value, parts) in [
        ("paths", "etc/passwd", ["'paths'", "etc/passwd", "/etc/ssh/sshd_config"]),
        ("paths", "/etc/[", ["'paths'", "/etc/[", "[abc]"]),
        ("paths", "\n", ["'paths'", "empty", "/etc/cron"]),
        ("exclude", "/x/", ["'exclude'", "/x/", "/x/**"]),
    ] {
        let params = Params::new("files", [(key.to_owned(), value.to_owned())].into());
        let mut out = Memory::default();
        match Files.run(&params, &mut out) {
            Err(Stop::Fatal(text)) => assert!(parts.iter().all(|p| text.contains(p)), "{text}"),
            other => panic!("{other:?}"),
        }
        assert!(out.puts.is_empty());
    }
}

#[test]
fn a_stop_ends_the_capture_at_once() {
    let tree = Tree::new(&[("1", b""), ("2", b""), ("3", b"")]);
    let params = crate::capture::Params::new("files", [("paths".to_owned(), tree.path("*"))].into());
    let mut out = Memory { cancel_after: Some(1), ..Memory::default() };
    assert!(matches!(Files.run(&params, &mut out), Err(Stop::Cancelled(_))));
    assert_eq!(out.puts.len(), 1);
}

/// What was done until then is in `rules.jsonl`, with the place where it ended.
#[test]
fn a_stop_leaves_the_list_of_rules() {
    let tree = Tree::new(&[("1", b""), ("2", b""), ("3", b"")]);
    let params = crate::capture::Params::new("files", [("paths".to_owned(), tree.path("*"))].into());
    let mut out = Memory { ends_after: Some(1), ..Memory::default() };
    assert_eq!(Files.run(&params, &mut out), Err(Stop::Deadline));
    let rows = out.rows("rules");
    assert!(rows.iter().any(|r| r["items"] == 1), "{rows:#?}");
    assert!(rows.iter().any(|r| r["ended_at"].as_str().is_some_and(|at| at.starts_with(tree.path("").trim_end_matches('/')))), "{rows:#?}");
}

#[test]
fn the_list_of_triage_is_sound() {
    let default = default_paths();
    let rules = parse_list("paths", default.lines()).expect("every line is a rule");
    assert!(rules.len() > 100 && default.len() < 16 << 10, "{} rules, {} bytes: it travels in every order", rules.len(), default.len());
    let homes = crate::capture::walk::homes::Homes::from_passwd(b"");
    let found = |path: &str| rules.iter().any(|r| r.patterns(&homes).iter().any(|p| p.matches(path.as_bytes())));
    for path in [
        "/etc/cron.d/x",
        "/var/spool/cron/crontabs/root",
        "/etc/systemd/system/multi-user.target.wants/x.service",
        "/usr/lib/systemd/system-generators/x",
        "/etc/rc.local",
        "/etc/init.d/ssh",
        "/etc/udev/rules.d/99-x.rules",
        "/etc/pam.d/sshd",
        "/etc/ld.so.preload",
        "/home/bob/.bash_history",
        "/root/.zsh_history",
        "/root/.bashrc",
        "/home/bob/.ssh/authorized_keys",
        "/etc/ssh/sshd_config.d/50-x.conf",
        "/etc/sudoers.d/x",
        "/etc/shadow",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/etc/modprobe.d/x.conf",
        "/etc/modules-load.d/x.conf",
        "/etc/apt/sources.list.d/x.list",
        "/etc/yum.repos.d/x.repo",
        "/etc/xdg/autostart/x.desktop",
        "/var/lib/cloud/instances/i-1/user-data.txt",
        "/etc/containerd/config.toml",
        "/etc/kubernetes/manifests/kube-apiserver.yaml",
        "/tmp/.x/miner",
        "/dev/shm/x",
        "/run/x.sh",
    ] {
        assert!(found(path), "{path}");
    }
}

/// The whole list on whatever host runs the tests. Slow hosts have much in /tmp, so that is limited here.
#[test]
fn triage_of_this_host_is_honest() {
    let lines = default_paths();
    let here: Vec<&str> = lines.lines().filter(|l| !l.contains("/tmp/**")).collect();
    let start = crate::clock::monotonic();
    let memory = Memory::run(&Files, &[("paths", &here.join("\n")), ("max_size", "1MiB")]);
    let took = crate::clock::monotonic().saturating_sub(start);
    let items = memory.puts.len();
    // A folder in which others work while it is read is named once more, as an obstacle.
    let taken = memory.puts.iter().filter(|p| p.status != Status::Error);
    let mut paths: Vec<&[u8]> = taken.map(|p| p.item.path.as_bytes()).collect();
    paths.sort_unstable();
    let twice: Vec<_> = paths.windows(2).filter(|w| w[0] == w[1]).map(|w| String::from_utf8_lossy(w[0])).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(memory.puts.iter().all(|p| p.status == Status::Collected || p.item.reason.is_some()));
    assert_eq!(memory.content("/etc/passwd"), std::fs::read("/etc/passwd").expect("passwd"));
    let mut by_status = std::collections::BTreeMap::new();
    memory.puts.iter().for_each(|p| *by_status.entry(p.status.as_str()).or_insert(0) += 1);
    println!("triage files of this host: {items} items {by_status:?} in {} ms", took.as_millis());
}

#[test]
fn twenty_thousand_small_files_in_little_time() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let base = dir.path().canonicalize().expect("base");
    for folder in 0..200 {
        let folder = base.join(format!("d{folder}"));
        std::fs::create_dir(&folder).expect("folder");
        (0..100).for_each(|n| std::fs::write(folder.join(format!("file{n}.conf")), [b'x'; 200]).expect("file"));
    }
    let start = crate::clock::monotonic();
    let all = Memory::run(&Files, &[("paths", &format!("{}/**", base.display()))]);
    let taken = crate::clock::monotonic().saturating_sub(start);
    let start = crate::clock::monotonic();
    let few = Memory::run(&Files, &[("paths", &format!("{}/**/file7.conf", base.display()))]);
    let searched = crate::clock::monotonic().saturating_sub(start);
    assert_eq!((all.puts.len(), few.puts.len()), (20_000 + 200 + 1, 200 + 1));
    println!("20,000 files taken in {} ms, 200 of 20,000 found in {} ms", taken.as_millis(), searched.as_millis());
    assert!(taken.as_secs() < 60, "even a slow machine does 20,000 files within a minute: {taken:?}");
}

/// A mount over the agent's own table of mounts is told as one.
#[test]
fn a_table_of_mounts_that_is_covered_is_told() {
    in_own_mounts("capture::files::tests::a_table_of_mounts_that_is_covered_is_told", || {
        rustix::mount::mount_bind("/proc/version", format!("/proc/{}/mountinfo", std::process::id())).expect("mount");
        without_mounting();
        let params = crate::capture::Params::new("files", [("paths".to_owned(), "/etc/passwd".to_owned())].into());
        let ended = Files.run(&params, &mut Memory::default());
        assert!(matches!(&ended, Err(Stop::Fatal(why)) if why.contains("something is mounted over it")), "{ended:?}");
    });
}
