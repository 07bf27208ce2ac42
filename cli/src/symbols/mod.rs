//! Makes what memory analysts need beside an image, the kernel's types and symbols, from what the kernel has about itself: no package of
//! a vendor, no internet. Reads what came from a host; writes one file.

pub mod btf;
pub mod candidates;
pub mod collection;
mod describe;
pub mod folder;
pub mod isf;
pub mod kallsyms;
mod known;
mod tables;

use exhibit_evidence::Digest;

use crate::exit::{Code, Failure, Result};
use crate::memory::image::Physical;
use crate::memory::vmcoreinfo::{KERNEL_MAP, VmcoreInfo};
use btf::Btf;
use kallsyms::{Listing, Symbols};

/// The longest banner that is read.
const BANNER_BYTES_MAX: usize = 1_024;

/// What there is of a kernel. All of it may be missing, but not all at once.
#[derive(Default)]
pub struct Sources {
    /// `/sys/kernel/btf/vmlinux`.
    pub btf: Option<Vec<u8>>,
    /// `/sys/kernel/btf/<module>` by module.
    pub modules: Vec<(String, Vec<u8>)>,
    /// `/proc/kallsyms`.
    pub kallsyms: Option<Vec<u8>>,
    /// The text of VMCOREINFO.
    pub vmcoreinfo: Option<Vec<u8>>,
    /// `/proc/version`.
    pub version: Option<Vec<u8>>,
    /// The image.
    pub memory: Option<Box<dyn Physical>>,
    /// What is left out of it, and what its reader should know.
    pub notes: Vec<String>,
}

/// Where something was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// From the file that the host had for it.
    File,
    /// From the image.
    Image,
    /// From VMCOREINFO.
    Vmcoreinfo,
    /// From where kernels are linked to run.
    Assumed,
}

/// A kernel's types and symbols, ready to be written.
pub struct Kernel {
    /// The types.
    pub btf: Btf,
    /// The symbols, without slide.
    pub symbols: Symbols,
    /// The banner.
    pub banner: Vec<u8>,
    /// SHA-256 of what symbols and types were read from.
    pub digests: (Digest, Digest),
    /// How far the kernel had moved itself, in bytes.
    pub slide: u64,
    /// Where symbols, types and the slide come from.
    pub from: (Origin, Origin, Origin),
    /// Modules of which the types are in it.
    pub modules: usize,
    /// What the reader should know.
    pub notes: Vec<String>,
    /// True when the kernel ran with five levels of page tables.
    pub five_levels: bool,
}

fn unusable(message: impl Into<String>) -> Failure {
    Failure::new(Code::Input, message)
}

impl Sources {
    /// True when the image is needed: the host hid its symbols, or had no file of types.
    pub fn needs_image(&self) -> bool {
        let hidden = self.kallsyms.as_deref().is_none_or(|text| kallsyms::read(text) == Listing::Hidden);
        hidden || self.btf.is_none()
    }

    /// True when the image that is there has the kernel's symbols, and its types if they are missing.
    pub fn image_suffices(&self) -> bool {
        let Some(info) = self.vmcoreinfo.as_deref().and_then(VmcoreInfo::parse) else { return false };
        self.symbols(Some(&info), &mut Vec::new()).is_ok_and(|(symbols, ..)| self.types(Some(&info), &symbols).is_ok())
    }

    fn memory(&self) -> Option<&dyn Physical> {
        self.memory.as_deref()
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// Something that is needed is neither there nor in the image; parts that are not of one boot; a file that is not what it should be.
    pub fn read(self) -> Result<Kernel> {
        let info = match &self.vmcoreinfo {
            Some(text) => Some(VmcoreInfo::parse(text).ok_or_else(|| unusable("what is given as VMCOREINFO is something else"))?),
            None => None,
        };
        let mut notes = self.notes.clone();
        let (mut symbols, symbols_digest, symbols_from) = self.symbols(info.as_ref(), &mut notes)?;
        if let Some(name) = info.as_ref().and_then(|info| symbols.disagrees(info)) {
            let name = exhibit_evidence::text::escape_bounded(name, 80);
            return Err(unusable(format!("/proc/kallsyms and VMCOREINFO are not of the same boot: they have '{name}' at two addresses")));
        }
        let (bytes, types_from) = self.types(info.as_ref(), &symbols)?;
        let mut btf = Btf::parse(&bytes)?;
        if !btf.types().any(|(_, of)| btf.type_name(of) == "task_struct") {
            return Err(unusable("the types are not a kernel's: they have no 'task_struct' (a module's are no substitute)"));
        }
        let banner = self.banner(info.as_ref(), &symbols, &mut notes)?;
        let (slide, slide_from) = slide(info.as_ref(), &symbols, &mut notes)?;
        symbols.unslide(slide);
        if let Some(info) = &info {
            // The kernel's list of its symbols leaves out the tables that it is made of.
            for (name, address) in info.symbols().filter(|(_, address)| *address >= KERNEL_MAP) {
                symbols.addresses.entry(name.to_owned()).or_insert_with(|| address.saturating_sub(slide));
            }
        }
        if let Some(missing) = known::NEEDED.iter().find(|name| symbols.get(name).is_none()) {
            return Err(unusable(format!(
                "'{missing}' is not among the kernel's symbols: it lists its functions only (CONFIG_KALLSYMS_ALL is not set)"
            )));
        }
        let mut modules = 0;
        for (name, bytes) in &self.modules {
            match btf.add_module(bytes) {
                Ok(()) => modules += 1,
                Err(e) => {
                    notes.push(format!("the types of module '{}' are left out: {e}", exhibit_evidence::text::escape_bounded(name, 80)));
                }
            }
        }
        let five_levels = info.as_ref().is_some_and(VmcoreInfo::five_levels);
        let (digests, from) = ((symbols_digest, Digest::of(&bytes)), (symbols_from, types_from, slide_from));
        Ok(Kernel { btf, symbols, banner, digests, slide, from, modules, notes, five_levels })
    }

    /// The symbols as the kernel ran, with the digest of what they were read from.
    fn symbols(&self, info: Option<&VmcoreInfo>, notes: &mut Vec<String>) -> Result<(Symbols, Digest, Origin)> {
        let why = match &self.kallsyms {
            Some(text) => match kallsyms::read(text) {
                Listing::Symbols(symbols) => return Ok((symbols, Digest::of(text), Origin::File)),
                Listing::Hidden => "the host hid the addresses in /proc/kallsyms (kptr_restrict)",
            },
            None => "there is no /proc/kallsyms",
        };
        let memory = self.memory().ok_or_else(|| unusable(format!("{why}, and there is no image to read the symbols from")))?;
        let info = info.ok_or_else(|| unusable(format!("{why}, and without VMCOREINFO they cannot be found in the image")))?;
        let symbols = tables::read(info, memory).map_err(|problem| unusable(format!("{why}; {problem}")))?;
        notes.push(format!("{why}: the symbols were read from the image"));
        let mut list = exhibit_evidence::digest::Hasher::new();
        for (name, address) in &symbols.addresses {
            list.update(format!("{address:016x} {name}\n").as_bytes());
        }
        Ok((symbols, list.finish(), Origin::Image))
    }

    fn types(&self, info: Option<&VmcoreInfo>, symbols: &Symbols) -> Result<(Vec<u8>, Origin)> {
        // The kernel has the same bytes in its own image, between two symbols: types of another kernel would make readers show
        // nothing, without an error.
        let span = symbols.get("__start_BTF").zip(symbols.get("__stop_BTF"));
        if let Some(bytes) = &self.btf {
            let expected = span.and_then(|(start, stop)| stop.checked_sub(start));
            if let Some(expected) = expected.filter(|e| *e != bytes.len() as u64) {
                let got = bytes.len();
                return Err(unusable(format!(
                    "the types are of another kernel: {got} bytes, and this one's are {expected} (__stop_BTF - __start_BTF)"
                )));
            }
            return Ok((bytes.clone(), Origin::File));
        }
        let none = || unusable("there are no types: neither /sys/kernel/btf/vmlinux nor an image that has them (CONFIG_DEBUG_INFO_BTF)");
        let (info, memory) = info.zip(self.memory()).ok_or_else(none)?;
        let (start, stop) = span.ok_or_else(none)?;
        let len = stop.checked_sub(start).filter(|len| *len <= btf::BYTES_MAX as u64).ok_or_else(none)?;
        let bytes = info.image_address(start).and_then(|at| memory.bytes(at, len as usize)).ok_or_else(none)?;
        Ok((bytes, Origin::Image))
    }

    /// The kernel's banner: by it readers find the symbols for an image. Where there is an image, it must have the same.
    fn banner(&self, info: Option<&VmcoreInfo>, symbols: &Symbols, notes: &mut Vec<String>) -> Result<Vec<u8>> {
        let in_image = info.zip(self.memory()).and_then(|(info, memory)| {
            let at = info.image_address(symbols.get("linux_banner")?)?;
            let bytes = memory.bytes(at, BANNER_BYTES_MAX)?;
            bytes.split(|b| *b == 0).next().map(<[u8]>::to_vec)
        });
        if in_image.is_none() && self.version.is_some() && self.memory.is_some() {
            notes.push(
                "the banner is not in the image where it should be, so that image and files are of one kernel was not checked".to_owned(),
            );
        }
        match (&self.version, in_image) {
            (Some(ours), Some(theirs)) if *ours != theirs => {
                let theirs = exhibit_evidence::text::escape_bounded(&String::from_utf8_lossy(&theirs), 200);
                Err(unusable(format!("the image is of another kernel than /proc/version says: '{theirs}'")))
            }
            (Some(ours), _) if ours.starts_with(b"Linux version ") && ours.len() <= BANNER_BYTES_MAX => Ok(ours.clone()),
            (Some(_), _) => Err(unusable("what is given as /proc/version is something else")),
            (None, Some(theirs)) if theirs.starts_with(b"Linux version ") => Ok(theirs),
            (None, _) => Err(unusable("there is no /proc/version, and no image that has the kernel's banner")),
        }
    }
}

fn slide(info: Option<&VmcoreInfo>, symbols: &Symbols, notes: &mut Vec<String>) -> Result<(u64, Origin)> {
    if let Some(slide) = info.and_then(VmcoreInfo::slide) {
        return Ok((slide, Origin::Vmcoreinfo));
    }
    let slide =
        symbols.guess_slide().ok_or_else(|| unusable("nothing says how far the kernel had moved itself (KERNELOFFSET in VMCOREINFO)"))?;
    notes.push(format!(
        "VMCOREINFO does not say how far the kernel had moved itself: {slide:#x} is assumed, from where kernels are linked to run"
    ));
    Ok((slide, Origin::Assumed))
}

#[cfg(test)]
mod tests;
