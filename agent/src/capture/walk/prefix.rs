//! Resolving the part of a path that comes before any wildcard: `/var/run/*.pid` means `/run/*.pid` where `/var/run`
//! is a link. It is done once, before the walk, which itself never follows a link.

use std::collections::HashMap;

use rustix::fs::{CWD, readlinkat};
use rustix::io::Errno;

use super::may_enter;
use crate::capture::mounts::Mounts;

/// Most links on one path: what the kernel allows.
const LINKS_MAX: usize = 40;

/// A symbolic link that a pattern went through.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Where it lies.
    pub path: Vec<u8>,
    /// Where it points, as written in it.
    pub target: Vec<u8>,
}

/// A directory's path without links, and the links that were resolved on the way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolved {
    /// Names from the root.
    pub names: Vec<Vec<u8>>,
    /// Links in the order in which they were met.
    pub links: Vec<Link>,
}

/// Resolves prefixes, remembering what it found out about each path.
pub struct Resolver<'a> {
    mounts: &'a Mounts,
    remote: bool,
    seen: HashMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> Resolver<'a> {
    /// A resolver that does not touch what the walk would not enter either.
    #[must_use]
    pub fn new(mounts: &'a Mounts, remote: bool) -> Self {
        Self { mounts, remote, seen: HashMap::new() }
    }

    /// Resolves a directory given by its names from the root. Names that are not there, that cannot be looked at or that
    /// lie on a file system that is not entered stay as they are: the walk will say so. `None` when there are too many
    /// links (a loop).
    pub fn resolve<'n>(&mut self, names: impl IntoIterator<Item = &'n [u8]>) -> Option<Resolved> {
        let mut out = Resolved::default();
        // The names still to do, last first.
        let mut rest: Vec<Vec<u8>> = names.into_iter().map(<[u8]>::to_vec).collect();
        rest.reverse();
        while let Some(name) = rest.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    out.names.pop();
                    continue;
                }
                _ => out.names.push(name),
            }
            let path = path_of(&out.names);
            if self.mounts.at(&path).is_some_and(|m| !may_enter(m, self.remote)) {
                out.names.extend(rest.into_iter().rev());
                return Some(out);
            }
            let Some(target) = self.link_at(&path) else { continue };
            if out.links.len() >= LINKS_MAX {
                return None;
            }
            out.names.pop();
            if target.starts_with(b"/") {
                out.names.clear();
            }
            rest.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
            out.links.push(Link { path, target });
        }
        Some(out)
    }

    fn link_at(&mut self, path: &[u8]) -> Option<Vec<u8>> {
        if let Some(known) = self.seen.get(path) {
            return known.clone();
        }
        let target = loop {
            match readlinkat(CWD, path, Vec::new()) {
                Ok(target) => break Some(target.into_bytes()),
                Err(Errno::INTR) => {}
                // EINVAL: no link. Anything else shows itself in the walk.
                Err(_) => break None,
            }
        };
        self.seen.insert(path.to_vec(), target.clone());
        target
    }
}

/// `/a/b` of its names; `/` when there are none.
#[must_use]
pub fn path_of(names: &[Vec<u8>]) -> Vec<u8> {
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.iter().flat_map(|n| std::iter::once(b'/').chain(n.iter().copied())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_resolved_and_loops_are_noticed() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let base = dir.path().canonicalize().expect("base");
        std::fs::create_dir_all(base.join("real/inner")).expect("folders");
        symlink("real", base.join("relative")).expect("link");
        symlink(base.join("relative/inner"), base.join("absolute")).expect("link");
        symlink("real/inner/../../relative", base.join("dots")).expect("link");
        symlink("loop2", base.join("loop1")).expect("link");
        symlink("loop1", base.join("loop2")).expect("link");
        let mounts = Mounts::default();
        let mut resolver = Resolver::new(&mounts, false);
        let mut resolve = |name: &str| {
            let path = base.join(name);
            let bytes = path.as_os_str().as_encoded_bytes().to_vec();
            resolver.resolve(bytes.split(|b| *b == b'/')).map(|r| (path_of(&r.names), r.links.len()))
        };
        let real = |name: &str| base.join(name).as_os_str().as_encoded_bytes().to_vec();
        assert_eq!(resolve("real/inner"), Some((real("real/inner"), 0)));
        assert_eq!(resolve("relative/inner"), Some((real("real/inner"), 1)));
        assert_eq!(resolve("absolute/x"), Some((real("real/inner/x"), 2)));
        assert_eq!(resolve("dots"), Some((real("real"), 2)));
        assert_eq!(resolve("not/there"), Some((real("not/there"), 0)));
        assert_eq!(resolve("loop1/x"), None);
    }

    #[test]
    fn nothing_is_touched_below_a_remote_mount() {
        let mounts = Mounts::parse(b"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /proc/self rw - nfs4 s:/ rw\n");
        let mut resolver = Resolver::new(&mounts, false);
        // /proc/self is a link; it would be resolved if it were looked at.
        let resolved = resolver.resolve([b"proc".as_slice(), b"self", b"cwd"]).expect("no loop");
        assert_eq!((path_of(&resolved.names), resolved.links.len()), (b"/proc/self/cwd".to_vec(), 0));
    }
}
