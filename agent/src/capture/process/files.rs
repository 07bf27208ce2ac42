//! The files of a process that are items of their own: its mount table, its program, what is open or mapped although deleted. Each
//! distinct one is taken once.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::fs::Statx;

use super::content::{self, Wanted};
use super::gather::TABLE_BYTES_MAX;
use super::parse::bracketed;
use super::row::{Fd, Row};
use super::run::{FileId, Run, SOCKETS_MAX};
use crate::capture::live::{Lossless, lines, put_read};
use crate::capture::mounts::{Class, Mounts};
use crate::capture::procfs::read_at;
use crate::capture::{Content, Kind, NewItem, Output, Status, Stop, evidence_path};

/// Distinct programs and deleted files remembered.
const FILES_MAX: usize = 65_536;
/// Names under which the kernel shows memory that is shared without a file (`shmem_zero_setup`, System V).
const SHARED_MEMORY: [&[u8]; 2] = [b"/dev/zero", b"/SYSV"];

impl Run {
    /// The raw mount table, once for each distinct mount namespace.
    pub(super) fn mountinfo(&mut self, out: &mut dyn Output, dir: &OwnedFd, row: &Row) -> Result<(), Stop> {
        let apart = row.threads.iter().filter_map(|t| Some((*t.namespaces.get("mnt")?, format!("task/{}/mountinfo", t.tid))));
        let own = row.namespaces.get("mnt").map(|ns| (*ns, "mountinfo".to_owned()));
        for (ns, file) in own.into_iter().chain(apart) {
            self.mounts_of(out, dir, row.pid, ns, &file)?;
        }
        Ok(())
    }

    fn mounts_of(&mut self, out: &mut dyn Output, dir: &OwnedFd, pid: u32, ns: u64, file: &str) -> Result<(), Stop> {
        if self.mount_namespaces.contains(&ns) {
            return Ok(());
        }
        let started = out.now();
        let result = read_at(dir, file, TABLE_BYTES_MAX);
        if let Ok(table) = &result {
            self.mount_namespaces.insert(ns);
            // Line by line: a namespace can have tens of thousands.
            for mount in lines(&table.bytes).flat_map(|line| Mounts::parse(line).all().to_vec()) {
                if !matches!(mount.class, Class::Remote | Class::Trigger) || self.root_dev == Some(mount.dev) {
                    continue;
                }
                let fs_type = exhibit_evidence::text::escape_bytes(&mount.fs_type);
                self.remote_by_id.insert(mount.id, fs_type.clone());
                self.remote_by_dev.insert(mount.dev, fs_type);
            }
        }
        let facts = BTreeMap::from([("mnt_ns".to_owned(), ns.to_string())]);
        put_read(out, evidence_path(format!("/proc/{pid}/{file}")), &result, started, facts)
    }

    pub(super) fn exe(&mut self, out: &mut dyn Output, dir: &OwnedFd, row: &mut Row, stat: &Statx) -> Result<(), Stop> {
        let Some(exe) = &mut row.exe else { return Ok(()) };
        let id = file_id(stat);
        let dev = (stat.stx_dev_major, stat.stx_dev_minor);
        let known = stat.stx_mask & rustix::fs::StatxFlags::MNT_ID.bits() != 0;
        let remote = if known { self.remote_by_id.get(&stat.stx_mnt_id) } else { self.remote_by_dev.get(&dev) }.cloned();
        let mut silent = None;
        exe.build_id = match self.build_ids.get(&id) {
            Some(known) => known.clone(),
            None if remote.is_none() && self.build_ids.len() < FILES_MAX => {
                let found = content::build_id(dir, "exe", &mut self.budget).unwrap_or_else(|why| {
                    silent = Some(why);
                    None
                });
                self.build_ids.insert(id, found.clone());
                found
            }
            None => None,
        };
        if !self.take_exe {
            return Ok(());
        }
        if let Some(item) = self.files.get(&id) {
            exe.item.clone_from(item);
            return Ok(());
        }
        let path = format!("/proc/{}/exe", row.pid);
        let mut facts = BTreeMap::from([
            ("exe_path".to_owned(), exhibit_evidence::text::escape_bytes(&exe.path.0)),
            ("deleted".to_owned(), exe.deleted.to_string()),
        ]);
        if let Some(Lossless(comm)) = &row.comm {
            facts.insert("comm".to_owned(), exhibit_evidence::text::escape_bytes(comm));
        }
        if let Some(why) = silent {
            let item = NewItem::new(evidence_path(&path), Kind::Unknown, out.now(), "open:proc-link").with_status(Status::Error, why);
            out.put(NewItem { facts, ..item }, Content::None)?;
        } else {
            let wanted = Wanted { path: evidence_path(&path), dir, link: "exe", facts, remote: remote.as_deref() };
            exe.item = content::take(out, wanted, &mut self.budget)?.then_some(path);
        }
        self.remember(id, exe.item.clone());
        Ok(())
    }

    pub(super) fn open_file(&mut self, out: &mut dyn Output, dir: &OwnedFd, pid: u32, fd: &mut Fd) -> Result<(), Stop> {
        if let Some(inode) = fd.target.as_ref().and_then(|t| bracketed(&t.0, b"socket")) {
            if self.sockets.len() < SOCKETS_MAX { self.sockets.push((inode, pid, fd.fd, fd.thread)) } else { self.sockets_cut = true }
        }
        let (Some(target), Some([major, minor]), Some(ino)) = (&fd.target, fd.dev, fd.ino) else { return Ok(()) };
        if !self.take_deleted || !fd.deleted || fd.kind != Some("file") {
            return Ok(());
        }
        // Of an open file no modification time is part of its identity: it may be written right now.
        let id = (major, minor, ino, i64::MIN, 0);
        if let Some(item) = self.files.get(&id) {
            fd.item.clone_from(item);
            return Ok(());
        }
        let link = fd.thread.map_or_else(|| format!("fd/{}", fd.fd), |tid| format!("task/{tid}/fd/{}", fd.fd));
        let path = format!("/proc/{pid}/{link}");
        let facts = BTreeMap::from([("target".to_owned(), exhibit_evidence::text::escape_bytes(&target.0))]);
        let remote = fd.mnt_id.map_or_else(|| self.remote_by_dev.get(&(major, minor)), |m| self.remote_by_id.get(&m)).map(String::as_str);
        let wanted = Wanted { path: evidence_path(&path), dir, link: &link, facts, remote };
        fd.item = content::take(out, wanted, &mut self.budget)?.then_some(path);
        self.remember(id, fd.item.clone());
        Ok(())
    }

    /// Deleted files that are mapped: a library or program that was injected and unlinked, whose descriptor may be closed.
    pub(super) fn mapped_files(&mut self, out: &mut dyn Output, dir: &OwnedFd, row: &mut Row) -> Result<(), Stop> {
        let Row { pid, exe, maps: Some(maps), .. } = row else { return Ok(()) };
        if !self.take_deleted {
            return Ok(());
        }
        for file in &mut maps.files {
            let Some(range) = file.map_file.clone() else { continue };
            let [major, minor] = file.dev;
            let program = exe.as_ref().filter(|e| e.dev == file.dev && e.ino == file.ino).and_then(|e| e.item.clone());
            let id = (major, minor, file.ino, i64::MIN, 0);
            if let Some(item) = program.map(Some).or_else(|| self.files.get(&id).cloned()) {
                file.item = item;
                continue;
            }
            let path = format!("/proc/{pid}/map_files/{range}");
            if SHARED_MEMORY.iter().any(|name| file.path.0.starts_with(name)) {
                content::put_skipped(out, evidence_path(&path), "memory that processes share, not a file: part of their memory")?;
                self.remember(id, None);
                continue;
            }
            let link = format!("map_files/{range}");
            let facts = BTreeMap::from([("target".to_owned(), exhibit_evidence::text::escape_bytes(&file.path.0))]);
            let remote = self.remote_by_dev.get(&(major, minor)).map(String::as_str);
            let wanted = Wanted { path: evidence_path(&path), dir, link: &link, facts, remote };
            file.item = content::take(out, wanted, &mut self.budget)?.then_some(path);
            self.remember(id, file.item.clone());
        }
        Ok(())
    }

    fn remember(&mut self, id: FileId, item: Option<String>) {
        // Beyond the bound a file is taken again rather than lost.
        if self.files.len() < FILES_MAX {
            self.files.insert(id, item);
        }
    }
}

const fn file_id(s: &Statx) -> FileId {
    (s.stx_dev_major, s.stx_dev_minor, s.stx_ino, s.stx_mtime.tv_sec, s.stx_mtime.tv_nsec)
}
