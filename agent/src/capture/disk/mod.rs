//! The `disk` capture: whole disks, partitions, volumes and image files, byte for byte, and before that what they are, what is
//! on them and what uses them. Nothing is ever opened for writing or set to read-only.

mod bad;
mod choose;
pub(crate) mod drive;
mod frozen;
mod gpt;
pub(crate) mod image;
pub(crate) mod layout;
mod mbr;
mod patience;
mod signature;
pub mod source;
mod sysfs;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod usage;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::text::escape_bytes;

use self::choose::{Chosen, Found};
use self::drive::{Geometry, Node};
use self::frozen::{Freezes, MOST_S_DEFAULT, MOST_S_MAX};
use self::image::ImageSource;
use self::patience::within;
use self::source::DeviceSource;
use self::sysfs::Devices;
use self::usage::{Tables, Usage};
use super::live::refusal;
use super::walk::inode::Look;
use super::walk::source::FileSource;
use super::{Capture, Content, Kind, NewItem, Output, Params, Source as _, Status, Stop, Table, status_of};

/// The capture; see the module.
#[derive(Debug, Default, Clone, Copy)]
pub struct Disk;

const TRIES_DEFAULT: u64 = 2;

/// The parameters as they apply.
struct Wishes {
    content: bool,
    direct: bool,
    tries: u32,
    /// For how long at most, if at all.
    freeze: Option<Duration>,
}

impl Wishes {
    fn of(params: &Params) -> Result<Self, String> {
        let bad = |e: super::BadParam| e.to_string();
        let tries = params.number("tries").map_err(bad)?.unwrap_or(TRIES_DEFAULT);
        let most = params.seconds("freeze_max").map_err(bad)?.unwrap_or(MOST_S_DEFAULT);
        let freeze = params.flag("freeze", false).map_err(bad)?.then(|| Duration::from_secs(most.min(MOST_S_MAX)));
        Ok(Self {
            content: params.flag("content", true).map_err(bad)?,
            direct: params.flag("direct", true).map_err(bad)?,
            tries: u32::try_from(tries).unwrap_or(1).max(1),
            freeze,
        })
    }
}

impl Capture for Disk {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn check(&self, params: &Params) -> Result<(), String> {
        Wishes::of(params)?;
        let paths = params.list("path").unwrap_or_default();
        if paths.is_empty() && params.flag("all", false) != Ok(true) {
            return Err("no disk is named: give 'path' (for example path=/dev/sdb) or all=true".to_owned());
        }
        Ok(())
    }

    /// The bytes of a disk are still there for a later process; that they are those of the same disk, and whether something was
    /// written meanwhile, is looked at when it goes on.
    fn reads_again(&self) -> bool {
        true
    }

    fn run(&self, params: &Params, out: &mut dyn Output) -> Result<(), Stop> {
        let wishes = Wishes::of(params).map_err(Stop::Fatal)?;
        let devices = list(out)?;
        let tables = Tables::read(devices);
        let mut chosen: Vec<Chosen> = Vec::new();
        if params.flag("all", false)? {
            chosen.extend(choose::all(&tables.mounts, &tables.devices));
        }
        let remote = params.flag("remote", false)?;
        for path in params.list("path").unwrap_or_default() {
            out.checkpoint()?;
            let one = choose::at(path, remote, &tables.mounts, &tables.devices);
            // What is named as well is taken although it is not a whole disk.
            chosen.retain(|c| c.path != one.path);
            chosen.push(one);
        }
        let (mut taken, mut blocked) = (0_usize, Vec::new());
        for one in &chosen {
            out.checkpoint()?;
            taken = taken.saturating_add(usize::from(take(one, &wishes, &tables, &mut blocked, out)?));
        }
        if taken == 0 {
            return Err(Stop::Nothing("nothing that the order names could be opened; see the items".to_owned()));
        }
        if blocked.is_empty() { Ok(()) } else { Err(Stop::Nothing(blocked.join("; "))) }
    }
}

/// Puts the table of all block devices.
fn list(out: &mut dyn Output) -> Result<Devices, Stop> {
    let mut table = Table::new("disks", out.now(), "sysfs");
    let (devices, problem) = match Devices::read() {
        Ok(devices) => (devices, None),
        Err(e) => {
            let (status, reason) = refusal(e);
            (Devices::default(), Some((status, format!("{}: {reason}", sysfs::CLASS_BLOCK))))
        }
    };
    for device in devices.all() {
        table.row(out, device)?;
    }
    let problem = problem.or_else(|| devices.more.then(|| (Status::Partial, "there are more block devices than are listed".to_owned())));
    table.finish(out, problem)?;
    Ok(devices)
}

/// Takes one; false when it could not be opened. `blocked` gets what the collection has to say of it.
fn take(chosen: &Chosen, wishes: &Wishes, tables: &Tables, blocked: &mut Vec<String>, out: &mut dyn Output) -> Result<bool, Stop> {
    out.note(&chosen.path.to_string());
    let mut item = NewItem::new(chosen.path.clone(), Kind::BlockDevice, out.now(), "pread");
    if let Some(through) = &chosen.through {
        item = item.with_fact("through", format!("{through} -> {}", chosen.path));
    }
    let label = choose::label(chosen);
    match &chosen.found {
        Found::Not(kind, status, why) => {
            item.kind = *kind;
            out.put(item.with_status(*status, why), Content::None).map(|_| false)
        }
        Found::Device(look, device) => {
            let usage = device.as_ref().map(|d| tables.of_device(d)).unwrap_or_default();
            item.meta = Some(Box::new(look.metadata(None, &mut item.facts)));
            if let Some(device) = device {
                item = item.with_fact("kernel_name", shown(&device.name.0));
            } else {
                item = item.with_fact("sysfs", "the kernel does not list it in /sys: what uses it is not known");
            }
            take_device(&Subject { chosen, look, label, usage, wishes }, item, blocked, out)
        }
        Found::Image(look) => {
            item.kind = Kind::File;
            let [major, minor] = look.stat.meta.dev;
            let usage = tables.of_file(rustix::fs::makedev(major, minor), look.stat.meta.ino);
            item.meta = Some(Box::new(look.metadata(None, &mut item.facts)));
            take_image(&Subject { chosen, look, label, usage, wishes }, item, out)
        }
    }
}

/// Something that is to be taken, with what is known of it.
struct Subject<'a> {
    chosen: &'a Chosen,
    look: &'a Arc<Look>,
    /// First part of the names of its records.
    label: String,
    usage: Usage,
    wishes: &'a Wishes,
}

impl Subject<'_> {
    fn described<'a>(&'a self, size: u64, geometry: Option<&'a Geometry>) -> layout::Subject<'a> {
        layout::Subject { path: &self.chosen.path, label: &self.label, size, geometry, usage: &self.usage }
    }

    fn device(&self) -> io::Result<DeviceSource<Node>> {
        let Wishes { direct, tries, .. } = *self.wishes;
        let (look, path) = (Arc::clone(self.look), self.chosen.path.clone());
        let node = within(patience::OPEN, "opening it", move || Node::open(&look, path, direct))?;
        Ok(DeviceSource::new(node, tries, format!("{}/bad-sectors.jsonl", self.label)))
    }

    fn image(&self) -> io::Result<ImageSource<FileSource>> {
        ImageSource::open(Arc::clone(self.look), self.chosen.path.clone())
    }

    /// Facts about what is in it, before its bytes come.
    fn described_by(&self, found: &layout::Found, mut item: NewItem) -> NewItem {
        item = item.with_fact("consistency", self.usage.consistency());
        if let Some(where_) = found.sealed() {
            let opened: Vec<String> = self.usage.opened.iter().map(|n| format!("/dev/{}", shown(&n.0))).collect();
            let plain = match opened.as_slice() {
                [] => "no opened mapping of it is known".to_owned(),
                some => format!("opened as {}, which 'path' takes in plain while it is open", some.join(", ")),
            };
            item = item.with_fact("encrypted", format!("{where_}: taken sealed; {plain}"));
        }
        item
    }
}

/// Puts an item that could not be opened.
fn refused(item: NewItem, e: &io::Error, out: &mut dyn Output) -> Result<bool, Stop> {
    let (status, mut reason) = status_of(e);
    if status == Status::Denied {
        reason.push_str(" (opening it for reading; a security module or the sandbox of the host may forbid it even to root)");
    }
    out.put(item.with_status(status, reason), Content::None).map(|_| false)
}

fn without_content(item: NewItem, out: &mut dyn Output) -> Result<bool, Stop> {
    out.put(item.with_status(Status::Skipped, "content=false in the order"), Content::None).map(|_| true)
}

fn take_device(subject: &Subject<'_>, mut item: NewItem, blocked: &mut Vec<String>, out: &mut dyn Output) -> Result<bool, Stop> {
    let (geometry, found) = match subject.device() {
        Ok(mut source) => {
            let geometry = source.geometry().clone();
            let found = layout::put(&subject.described(geometry.size, Some(&geometry)), &mut source, out)?;
            if let Some(why) = source.hangs() {
                let why = why.to_owned();
                return out.put(item.with_status(Status::Error, why), Content::None).map(|_| false);
            }
            (geometry, found)
        }
        Err(e) => return refused(item, &e, out),
    };
    item = subject.described_by(&found, item);
    if !subject.wishes.content {
        return without_content(item, out);
    }
    // Anew: what the first look found bad is found again, in its place.
    let mut source = match subject.device() {
        Ok(source) => source,
        Err(e) => return refused(item, &e, out),
    };
    source.in_use(subject.usage.may_be_written());
    let size = source.geometry().size;
    item = item.with_fact("sector_bytes", geometry.logical_sector.to_string());
    item.started = out.now();
    if let Some(most) = subject.wishes.freeze {
        let freezes = Freezes::begin(&subject.usage, most);
        item.facts.extend(freezes.refusal().map(|why| ("freeze".to_owned(), why)));
        if let Some(why) = freezes.blocked() {
            item = item.with_status(Status::Partial, &why);
            blocked.push(why);
        }
        source.hold(freezes);
    }
    out.expect(size);
    out.put(item, Content::Source { size, extents: None, source: &mut source }).map(|_| true)
}

fn take_image(subject: &Subject<'_>, mut item: NewItem, out: &mut dyn Output) -> Result<bool, Stop> {
    let found = match subject.image() {
        Ok(mut source) => {
            let found = layout::put(&subject.described(source.size(), None), &mut source, out)?;
            // Gives back what the look put into the page cache; whether the file changes is judged by the reading.
            let _ = source.after();
            if let Some(why) = source.gone() {
                let why = why.to_owned();
                return out.put(item.with_status(Status::Error, why), Content::None).map(|_| false);
            }
            found
        }
        Err(e) => return refused(item, &e, out),
    };
    item = subject.described_by(&found, item);
    if !subject.wishes.content {
        return without_content(item, out);
    }
    let mut source = match subject.image() {
        Ok(source) => source,
        Err(e) => return refused(item, &e, out),
    };
    if subject.wishes.freeze.is_some() {
        item = item.with_fact("freeze", "not frozen: an image file is read, not a device");
    }
    source.in_use(subject.usage.may_be_written());
    item.started = out.now();
    let (size, extents) = (source.size(), source.extents());
    out.put(item, Content::Source { size, extents, source: &mut source }).map(|_| true)
}

/// Bytes of the host as one short line for people.
fn shown(bytes: &[u8]) -> String {
    const CHARS_MAX: usize = 400;
    exhibit_evidence::text::one_line(&escape_bytes(bytes), CHARS_MAX)
}

/// A kind in words, with its article.
fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Directory => "a directory",
        Kind::CharDevice => "a character device",
        Kind::Fifo => "a named pipe",
        Kind::Socket => "a socket",
        Kind::Symlink => "a symbolic link",
        _ => "something else",
    }
}
