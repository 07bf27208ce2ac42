//! What there is of a kernel in a collection: only the items that are needed are read.

use exhibit_evidence::manifest::Item;
use exhibit_evidence::record::Action;

use super::folder::{MODULES_BYTES_MAX, NOTES_BYTES_MAX, text_of};
use super::{Sources, btf, kallsyms};
use crate::args::SelectArgs;
use crate::commands::items;
use crate::commands::read::{Destination, Reading};
use crate::connection::Connection;
use crate::exit::{Code, Failure, Result};
use crate::memory::image::Pages;
use crate::memory::lime;
use crate::memory::vmcoreinfo::VmcoreInfo;

/// The capture that takes memory.
pub const CAPTURE: &str = "memory";
/// The kernel's own image lies in physical memory in one piece. It has some 60 MiB; this many are kept while an image passes by.
const KERNEL_BYTES_MAX: u64 = 256 << 20;

/// An item of the capture with its id.
type Found = (String, Item);

/// Reads what is needed of a collection. The accesses are recorded before the first byte arrives.
///
/// # Errors
/// A lost connection, damaged evidence, an item that is larger than such a file can be, no capture of memory.
pub async fn sources(connection: &mut Connection, collection: &str, reason: &str) -> Result<Sources> {
    let all = list(connection, collection, reason).await?;
    if all.is_empty() {
        let problem = format!("collection {collection} has nothing of a memory capture");
        return Err(Failure::new(Code::Input, problem).hint("exhibit collect --capture memory takes it"));
    }
    let find = |path: &str| all.iter().rfind(|(_, item)| item.location.is_some() && item.path.as_bytes() == path.as_bytes());
    let mut reader = Reader { connection, reason };
    let mut sources = Sources {
        btf: reader.content(find("/sys/kernel/btf/vmlinux"), btf::BYTES_MAX).await?,
        kallsyms: reader.content(find("/proc/kallsyms"), kallsyms::BYTES_MAX).await?,
        version: reader.content(find("/proc/version"), NOTES_BYTES_MAX).await?,
        vmcoreinfo: reader.content(find("vmcoreinfo.txt").or_else(|| find("kcore-notes.bin")), NOTES_BYTES_MAX).await?.map(text_of),
        ..Sources::default()
    };
    for found in all.iter().filter(|(_, item)| is_module(item)) {
        let name = String::from_utf8_lossy(found.1.path.as_bytes()).rsplit('/').next().unwrap_or_default().to_owned();
        let read: u64 = sources.modules.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        if read.saturating_add(found.1.size) > MODULES_BYTES_MAX as u64 {
            let name = exhibit_evidence::text::escape_bounded(&name, 80);
            sources
                .notes
                .push(format!("the types of module '{name}' are left out: with it there are more than {MODULES_BYTES_MAX} bytes of them"));
        } else if let Some(bytes) = reader.content(Some(found), btf::BYTES_MAX).await? {
            sources.modules.push((name, bytes));
        }
    }
    if sources.needs_image() {
        // The smaller one first: the kernel's own pages are among those that are taken first.
        for name in ["priority.lime", "memory.lime"] {
            let Some(found) = find(name) else { continue };
            let Some(window) = sources.vmcoreinfo.as_deref().and_then(VmcoreInfo::parse).and_then(|info| window(&info)) else { break };
            sources.memory = Some(Box::new(reader.pages(found, window).await?));
            if sources.image_suffices() {
                break;
            }
        }
    } else if find("memory.lime").or_else(|| find("priority.lime")).is_some() {
        sources
            .notes
            .push("the image was not needed and not read: that it is of the same kernel rests on being of the same capture".to_owned());
    }
    Ok(sources)
}

/// What stands beside an image of memory, for a format that has it inside.
///
/// # Errors
/// A lost connection, damaged evidence.
pub async fn companions(connection: &mut Connection, collection: &str, reason: &str) -> Result<crate::convert::Companions> {
    let all = list(connection, collection, reason).await?;
    let find = |path: &str| all.iter().rfind(|(_, item)| item.location.is_some() && item.path.as_bytes() == path.as_bytes());
    let mut reader = Reader { connection, reason };
    Ok(crate::convert::Companions {
        notes: reader.content(find("kcore-notes.bin"), NOTES_BYTES_MAX).await?,
        vmcoreinfo: reader.content(find("vmcoreinfo.txt"), NOTES_BYTES_MAX).await?,
    })
}

fn is_module(item: &Item) -> bool {
    let name = item.path.as_bytes().strip_prefix(b"/sys/kernel/btf/");
    item.location.is_some() && name.is_some_and(|n| n != b"vmlinux")
}

/// Where in physical memory the kernel lies.
fn window(info: &VmcoreInfo) -> Option<std::ops::Range<u64>> {
    let start = info.image_address(info.symbol("_stext")?)?;
    let start = start - start % crate::memory::PAGE_BYTES;
    Some(start..start.saturating_add(KERNEL_BYTES_MAX))
}

/// All items of the capture.
pub async fn list(connection: &mut Connection, collection: &str, reason: &str) -> Result<Vec<Found>> {
    let select = SelectArgs { collections: vec![collection.to_owned()], captures: vec![CAPTURE.to_owned()], ..SelectArgs::default() };
    let mut stream = items::list(connection, &select, reason).await?;
    let mut all = Vec::new();
    while let Some(item) = stream.message().await? {
        let parsed = items::parse(&item)?;
        all.push((item.item, parsed));
    }
    Ok(all)
}

/// Reads items; each reading is recorded with the same reason.
pub struct Reader<'a> {
    /// To the coordinator.
    pub connection: &'a mut Connection,
    /// The person's reason.
    pub reason: &'a str,
}

impl Reader<'_> {
    /// The content of an item of at most so many bytes.
    ///
    /// # Errors
    /// A larger item; what stops every reading.
    pub async fn content(&mut self, found: Option<&Found>, bytes_max: usize) -> Result<Option<Vec<u8>>> {
        let Some((id, item)) = found else { return Ok(None) };
        if item.size > bytes_max as u64 {
            return Err(Failure::new(Code::Input, format!("item {id} ({}) is larger than such a file can be", item.path)));
        }
        let mut held = Held { bytes: vec![0; item.size as usize] };
        self.into(id, &mut held).await?;
        Ok(Some(held.bytes))
    }

    async fn pages(&mut self, (id, _): &Found, window: std::ops::Range<u64>) -> Result<Pages> {
        let mut passing = Passing { parser: lime::Parser::default(), pages: Pages::new(window), next: 0 };
        self.into(id, &mut passing).await?;
        passing.parser.finish()?;
        Ok(passing.pages)
    }

    async fn into(&mut self, id: &str, to: &mut dyn Destination) -> Result<()> {
        let mut reading = Reading::open(self.connection, vec![id.to_owned()], Action::View, self.reason).await?;
        let announced = reading.next_item().await?.ok_or_else(|| Failure::new(Code::Input, format!("there is no item {id}")))?;
        let item = items::parse(&announced)?;
        reading.content(id, &item, to).await.map(drop)
    }
}

/// A whole small item.
struct Held {
    bytes: Vec<u8>,
}

impl Destination for Held {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let place = self.bytes.get_mut(offset as usize..).and_then(|rest| rest.get_mut(..bytes.len()));
        place.ok_or_else(|| Failure::new(Code::Damaged, "an item is longer than its manifest says"))?.copy_from_slice(bytes);
        Ok(())
    }
}

/// An image that passes by; what of it is the kernel's is kept.
struct Passing {
    parser: lime::Parser,
    pages: Pages,
    next: u64,
}

impl Destination for Passing {
    fn write(&mut self, offset: u64, mut bytes: &[u8]) -> Result<()> {
        // Zeros that were not written down stand between.
        static ZEROS: [u8; 65_536] = [0; 65_536];
        while self.next < offset {
            let mut zeros = ZEROS.get(..(offset - self.next).min(ZEROS.len() as u64) as usize).unwrap_or_default();
            self.next = self.next.saturating_add(zeros.len() as u64);
            self.take(&mut zeros)?;
        }
        self.next = self.next.saturating_add(bytes.len() as u64);
        self.take(&mut bytes)
    }
}

impl Passing {
    fn take(&mut self, bytes: &mut &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if let Some(piece) = self.parser.next(bytes)? {
                self.pages.keep(piece.address, piece.bytes);
            }
        }
        Ok(())
    }
}
