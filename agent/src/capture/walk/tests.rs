use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::*;

/// What a walk told, in words.
#[derive(Default)]
struct Seen {
    hits: Vec<Vec<u8>>,
    obstacles: Vec<(Vec<u8>, Status, String)>,
    absent: Vec<Vec<u8>>,
    enough_after: Option<usize>,
}

impl Visitor for Seen {
    fn hit(&mut self, found: Found<'_>, patterns: &[u32]) -> Result<Flow, Stop> {
        assert!(!patterns.is_empty());
        if self.enough_after.is_some_and(|n| self.hits.len() >= n) {
            return Ok(Flow::Enough);
        }
        self.hits.push(found.path.to_vec());
        Ok(Flow::On)
    }
    fn obstacle(&mut self, obstacle: Obstacle<'_>, patterns: &[u32]) -> Result<Flow, Stop> {
        assert!(!patterns.is_empty());
        self.obstacles.push((obstacle.path.to_vec(), obstacle.status, obstacle.reason));
        Ok(Flow::On)
    }
    fn absent(&mut self, path: &[u8], _reason: &str, _patterns: &[u32]) -> Result<Flow, Stop> {
        self.absent.push(path.to_vec());
        Ok(Flow::On)
    }
    fn tick(&mut self, _folder: &[u8]) -> Result<(), Stop> {
        Ok(())
    }
}

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
    fn new(files: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let base = dir.path().canonicalize().expect("base");
        let tree = Self { _dir: dir, base };
        for file in files {
            let path = tree.base.join(file);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("folders");
            std::fs::write(path, file.as_bytes()).expect("file");
        }
        tree
    }

    fn patterns(&self, globs: &[&str]) -> Vec<Pattern> {
        globs.iter().map(|g| Pattern::parse(&format!("{}/{g}", self.base.display())).expect("pattern")).collect()
    }

    fn short(&self, path: &[u8]) -> String {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        path.strip_prefix(&self.base).expect("inside").display().to_string()
    }

    fn walk(&self, globs: &[&str], exclude: &[&str], mounts: &str, seen: &mut dyn Visitor) -> Tally {
        let (patterns, excluded) = (self.patterns(globs), self.patterns(exclude));
        let mounts = Mounts::parse(mounts.replace("BASE", &self.base.display().to_string()).as_bytes());
        Walk::new(&patterns, &excluded, &mounts, false).run(seen).expect("the walk ends")
    }

    fn hits(&self, globs: &[&str]) -> Vec<String> {
        let mut seen = Seen::default();
        self.walk(globs, &[], "", &mut seen);
        assert!(seen.obstacles.is_empty(), "{:?}", seen.obstacles);
        seen.hits.iter().map(|p| self.short(p)).collect()
    }
}

#[test]
fn each_path_comes_once_in_order_whatever_matches_it() {
    let tree = Tree::new(&["a/x.conf", "a/b/y.conf", "a/b/c/z.conf", "a/b/z.txt", "d/x.conf"]);
    assert_eq!(
        tree.hits(&["**/*.conf", "a/x.conf", "a/**", "?/x.conf"]),
        ["a/b", "a/b/c", "a/b/c/z.conf", "a/b/y.conf", "a/b/z.txt", "a/x.conf", "d/x.conf"]
    );
    assert_eq!(tree.hits(&["a/**1"]), ["a/b", "a/x.conf"]);
    assert_eq!(tree.hits(&["*"]), ["a", "d"]);
    assert_eq!(tree.hits(&["a/*/c/*"]), ["a/b/c/z.conf"]);
}

#[test]
fn only_directories_with_wildcards_are_read() {
    let tree = Tree::new(&["a/b/c/d.txt", "a/b/e.txt"]);
    let mut seen = Seen::default();
    let tally = tree.walk(&["a/b/c/d.txt", "a/b/e.txt", "a/b/none", "a/none/x", "a/b/e.txt/x"], &[], "", &mut seen);
    assert_eq!((tally.folders_read, seen.hits.len()), (0, 2));
    let absent: Vec<String> = seen.absent.iter().map(|p| tree.short(p)).collect();
    assert_eq!(absent, ["a/b/e.txt", "a/b/none", "a/none"]);
}

#[test]
fn a_literal_name_that_is_no_directory_is_absent() {
    let tree = Tree::new(&["a/file"]);
    let mut seen = Seen::default();
    tree.walk(&["a/file/x", "a/*.none"], &[], "", &mut seen);
    assert_eq!(seen.absent.iter().map(|p| tree.short(p)).collect::<Vec<_>>(), ["a/file"]);
}

#[test]
fn links_are_never_followed() {
    let tree = Tree::new(&["real/secret", "w/x"]);
    symlink(tree.base.join("real"), tree.base.join("w/to-real")).expect("link");
    symlink(".", tree.base.join("w/loop")).expect("link");
    let mut seen = Seen::default();
    let tally = tree.walk(&["w/**/secret", "w/to-real/secret", "w/**/x"], &[], "", &mut seen);
    assert_eq!(seen.hits.iter().map(|p| tree.short(p)).collect::<Vec<_>>(), ["w/x"]);
    assert_eq!(seen.obstacles.len(), 1, "the link that a pattern names: {:?}", seen.obstacles);
    assert_eq!(seen.obstacles[0].1, Status::Skipped);
    assert_eq!(tally.links_passed, 1, "the loop under the double star");
    assert_eq!(tree.hits(&["w/*"]), ["w/loop", "w/to-real", "w/x"], "a link is found as itself");
}

#[test]
fn the_walk_without_openat2_finds_the_same() {
    let tree = Tree::new(&["real/secret", "w/x", "w/y/z"]);
    symlink(tree.base.join("real"), tree.base.join("w/to-real")).expect("link");
    let patterns = tree.patterns(&["w/**"]);
    let mounts = Mounts::default();
    let found = |without: Option<&str>| {
        let mut walk = Walk::new(&patterns, &[], &mounts, false);
        walk.opener.without_openat2 = without.map(str::to_owned);
        let mut seen = Seen::default();
        walk.run(&mut seen).expect("walk");
        seen.hits
    };
    let with = found(None);
    assert_eq!(with.len(), 4);
    assert_eq!(with, found(Some("forbidden")));
}

#[test]
fn exclusions_prune() {
    let tree = Tree::new(&["a/keep", "a/cache/x/y", "a/b.tmp"]);
    let mut seen = Seen::default();
    let tally = tree.walk(&["a/**"], &["a/cache", "**/*.tmp"], "", &mut seen);
    assert_eq!(seen.hits.iter().map(|p| tree.short(p)).collect::<Vec<_>>(), ["a/keep"]);
    assert_eq!(seen.obstacles.iter().map(|o| tree.short(&o.0)).collect::<Vec<_>>(), ["a/b.tmp", "a/cache"]);
    assert!(seen.obstacles[1].2.contains("entry 1") && seen.obstacles[1].2.contains("beneath"), "{:?}", seen.obstacles);
    assert_eq!(tally.folders_read, 1);
}

const ROOT: &str = "1 0 254:0 / / rw - ext4 /dev/vda rw\n";

#[test]
fn remote_and_pseudo_mounts_are_not_touched_but_told() {
    let tree = Tree::new(&["a/x", "nfs/x", "proc/x", "auto/x", "s3/deep/x"]);
    let table = format!(
        "{ROOT}2 1 0:50 / BASE/nfs rw - nfs4 server:/export rw\n3 1 0:51 / BASE/proc rw - proc proc rw\n4 1 0:52 / BASE/auto rw - autofs systemd-1 rw\n5 1 0:53 / BASE/s3 rw - fuse.s3fs s3fs rw\n"
    );
    let mut seen = Seen::default();
    tree.walk(&["**", "s3/deep/x"], &[], &table, &mut seen);
    assert_eq!(seen.hits.iter().map(|p| tree.short(p)).collect::<Vec<_>>(), ["a", "a/x"]);
    let told: Vec<(String, bool)> = seen.obstacles.iter().map(|o| (tree.short(&o.0), o.2.contains("remote=true"))).collect();
    assert_eq!(told, [("auto".into(), true), ("nfs".into(), true), ("proc".into(), false), ("s3".into(), true)]);
    let patterns = tree.patterns(&["nfs/*"]);
    let mounts = Mounts::parse(table.replace("BASE", &tree.base.display().to_string()).as_bytes());
    let mut seen = Seen::default();
    Walk::new(&patterns, &[], &mounts, true).run(&mut seen).expect("walk");
    assert_eq!(seen.hits.len(), 1, "remote=true goes in");
}

#[test]
fn a_bind_mount_is_walked_once_when_its_original_is_walked_too() {
    let tree = Tree::new(&["data/x", "bound/x"]);
    let base = tree.base.display().to_string();
    let table = format!("{ROOT}2 1 254:0 BASE/data BASE/bound rw - ext4 /dev/vda rw\n");
    let walked = |globs: &[&str], exclude: &[&str], table: &str| {
        let mut seen = Seen::default();
        tree.walk(globs, exclude, table, &mut seen);
        (seen.hits.iter().map(|p| tree.short(p)).collect::<Vec<_>>(), seen.obstacles.len())
    };
    assert_eq!(walked(&["**/x"], &[], &table), (vec!["data/x".into()], 1));
    assert_eq!(walked(&["bound/*"], &[], &table), (vec!["bound/x".into()], 0), "nobody else walks the original");
    assert_eq!(walked(&["**/x"], &["data"], &table), (vec!["bound/x".into()], 2 - 1), "the original is excluded");
    let deeper = format!("{table}3 2 0:9 / BASE/bound/sub rw - tmpfs t rw\n");
    assert_eq!(walked(&["**/x"], &[], &deeper).0, ["bound/x", "data/x"], "something else is mounted beneath the bind mount");
    let overlay = format!("{ROOT}2 1 0:9 / BASE/bound rw - overlay overlay rw,lowerdir={base}/data,upperdir={base}/up\n");
    assert_eq!(walked(&["**/x"], &[], &overlay), (vec!["data/x".into()], 1));
    assert_eq!(walked(&["bound/x", "data/x"], &[], &overlay).0, ["bound/x", "data/x"]);
}

#[test]
fn a_mount_that_the_table_does_not_know_is_not_crossed() {
    // /proc is a mount; with an empty table it appeared "after the walk began".
    let patterns = [Pattern::parse("/proc/version").expect("pattern")];
    let (mounts, mut seen) = (Mounts::default(), Seen::default());
    let walk = Walk::new(&patterns, &[], &mounts, false);
    if walk.without_openat2().is_some() {
        return;
    }
    walk.run(&mut seen).expect("walk");
    assert!(seen.hits.is_empty() && seen.obstacles[0].2.contains("mounted"), "{:?}", seen.obstacles);
}

#[test]
fn paths_beyond_path_max_are_found() {
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    let tree = Tree::new(&[]);
    let name = "n".repeat(250);
    let mut at = openat(CWD, &tree.base, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).expect("base");
    for _ in 0..20 {
        mkdirat(&at, name.as_str(), Mode::RWXU).expect("mkdir");
        at = openat(&at, name.as_str(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).expect("open");
    }
    drop(openat(&at, "leaf", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("leaf"));
    let mut seen = Seen::default();
    tree.walk(&["**/leaf"], &[], "", &mut seen);
    assert_eq!(seen.hits.len(), 1);
    assert!(seen.hits[0].len() > 5_000 && seen.hits[0].ends_with(b"/leaf"));
}

#[test]
fn depth_ends_somewhere_and_says_so() {
    let tree = Tree::new(&[]);
    std::fs::create_dir_all(tree.base.join("d/".repeat(170))).expect("folders");
    let glob = ["**"; 6].join("/*/");
    let mut seen = Seen::default();
    tree.walk(&[&glob], &[], "", &mut seen);
    assert!(seen.obstacles.iter().any(|o| o.1 == Status::Skipped && o.2.contains("deeper than")), "{:?}", seen.obstacles.len());
}

#[test]
fn the_walk_ends_when_there_is_enough() {
    let tree = Tree::new(&["1", "2", "3", "4"]);
    let mut seen = Seen { enough_after: Some(2), ..Seen::default() };
    let tally = tree.walk(&["*"], &[], "", &mut seen);
    assert_eq!((seen.hits.len(), tally.ended_at.map(|p| tree.short(&p))), (2, Some("3".into())));
}

/// A directory and a link to a secret change places all the time; the secret must never be found through the link.
#[test]
fn a_link_swapped_in_leads_nowhere() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let tree = Tree::new(&["w/dir/file", "outside/secret"]);
    symlink(tree.base.join("outside"), tree.base.join("w/link")).expect("link");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (dir, link) = (tree.base.join("w/dir"), tree.base.join("w/link"));
            for _ in 0..5_000_000 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &dir, CWD, &link, flags).expect("exchange");
            }
        });
        let _end = EndWith(&stop);
        for n in 0..300 {
            let mut seen = Seen::default();
            let globs: &[&str] = if n % 2 == 0 { &["w/**"] } else { &["w/dir/*", "w/dir/secret"] };
            let patterns = tree.patterns(globs);
            let mounts = Mounts::default();
            let mut walk = Walk::new(&patterns, &[], &mounts, false);
            if n % 3 == 0 {
                walk.opener.without_openat2 = Some("test".into());
            }
            walk.run(&mut seen).expect("walk");
            assert!(!seen.hits.iter().any(|p| p.ends_with(b"/secret")), "{:?}", seen.hits);
        }
    });
}

#[test]
fn what_is_deep_is_found_and_what_is_out_of_sight_is_counted() {
    let deep = format!("{}file", "d/".repeat(60));
    let tree = Tree::new(&[&deep]);
    let mut seen = Seen::default();
    let tally = tree.walk(&["**"], &[], "", &mut seen);
    assert!(seen.hits.iter().any(|h| h.ends_with(deep.as_bytes())), "{} hits", seen.hits.len());
    assert_eq!(tally.stopped_by_depth, 0);
    let mut seen = Seen::default();
    let tally = tree.walk(&["**4"], &[], "", &mut seen);
    assert_eq!((seen.hits.len(), tally.stopped_by_depth), (4, 1));
}

/// Renames something in the folder while its names are being walked.
struct Renames<'a>(&'a Path, Seen);

impl Visitor for Renames<'_> {
    fn hit(&mut self, found: Found<'_>, patterns: &[u32]) -> Result<Flow, Stop> {
        if self.1.hits.is_empty() {
            std::fs::rename(self.0.join("dir/moved"), self.0.join("elsewhere")).expect("renamed");
        }
        self.1.hit(found, patterns)
    }
    fn obstacle(&mut self, obstacle: Obstacle<'_>, patterns: &[u32]) -> Result<Flow, Stop> {
        self.1.obstacle(obstacle, patterns)
    }
    fn absent(&mut self, path: &[u8], reason: &str, patterns: &[u32]) -> Result<Flow, Stop> {
        self.1.absent(path, reason, patterns)
    }
    fn tick(&mut self, folder: &[u8]) -> Result<(), Stop> {
        self.1.tick(folder)
    }
}

#[test]
fn a_folder_that_changes_under_the_walk_says_so() {
    let tree = Tree::new(&["dir/a", "dir/moved", "quiet/b"]);
    let mut visitor = Renames(&tree.base, Seen::default());
    let tally = tree.walk(&["dir/*", "quiet/*"], &[], "", &mut visitor);
    let said: Vec<_> = visitor.1.obstacles.iter().filter(|(_, _, reason)| reason.contains("renamed")).collect();
    assert_eq!((said.len(), tally.changed_folders), (1, 1), "{said:?}");
    assert!(said[0].0.ends_with(b"/dir") && said[0].1 == Status::Error);
}
