//! What there is of a kernel in a folder: as `exhibit get` restored it, or loose files under their own names.

use std::path::{Path, PathBuf};

use super::{Sources, btf, candidates, kallsyms};
use crate::args::symbols::BuildArgs;
use crate::exit::{Code, Failure, Result};
use crate::memory::image::LimeFile;
use crate::memory::{notes, vmcoreinfo};

/// More modules than a kernel has loaded.
const MODULES_MAX: usize = 4_096;
/// All descriptions of modules together have some 20 MiB.
pub const MODULES_BYTES_MAX: usize = 256 << 20;
/// Notes of a kernel have 12 KiB.
pub const NOTES_BYTES_MAX: usize = 16 << 20;

/// The names that a part may have below a folder.
const BTF: &[&str] = &["memory/sys/kernel/btf/vmlinux", "sys/kernel/btf/vmlinux", "btf/vmlinux", "vmlinux"];
const KALLSYMS: &[&str] = &["memory/proc/kallsyms", "proc/kallsyms", "kallsyms"];
const VERSION: &[&str] = &["memory/proc/version", "proc/version", "version"];
const VMCOREINFO: &[&str] = &["memory/vmcoreinfo.txt", "vmcoreinfo.txt", "memory/kcore-notes.bin", "kcore-notes.bin"];
const IMAGE: &[&str] = &["memory/memory.lime", "memory.lime", "memory/priority.lime", "priority.lime"];

/// Finds everything that is there; a part that is given by name is taken instead.
///
/// # Errors
/// A named file that is not there, one that is larger than such a file can be, no folder.
pub fn sources(args: &BuildArgs, folder: &Path) -> Result<Sources> {
    if !folder.is_dir() {
        return Err(Failure::new(Code::Input, format!("{} is not a folder", folder.display())));
    }
    let base = &one_collection(folder)?;
    let find = |given: &Option<PathBuf>, names: &[&str]| given.clone().or_else(|| names.iter().map(|n| base.join(n)).find(|p| p.is_file()));
    let btf_file = find(&args.btf, BTF);
    let image = find(&args.image, IMAGE).map(|path| LimeFile::open(&path)).transpose()?;
    let mut notes = Vec::new();
    let vmcoreinfo = match (args.vmcoreinfo_at, &image) {
        (Some(at), Some(image)) => Some(candidates::at(image, at, &mut notes)?),
        (Some(_), None) => {
            let problem = "--vmcoreinfo-at is an address in an image, and there is none";
            return Err(Failure::new(Code::Input, problem).hint("--image FILE"));
        }
        (None, _) => match (read(find(&args.vmcoreinfo, VMCOREINFO).as_deref(), NOTES_BYTES_MAX)?.map(text_of), &image) {
            (None, Some(image)) => candidates::find(image, &mut notes)?,
            (given, _) => given,
        },
    };
    Ok(Sources {
        modules: modules(btf_file.as_deref(), &mut notes)?,
        btf: read(btf_file.as_deref(), btf::BYTES_MAX)?,
        kallsyms: read(find(&args.kallsyms, KALLSYMS).as_deref(), kallsyms::BYTES_MAX)?,
        vmcoreinfo,
        version: read(find(&args.banner, VERSION).as_deref(), vmcoreinfo::TEXT_BYTES_MAX)?,
        memory: image.map(|image| -> Box<dyn crate::memory::image::Physical> { Box::new(image) }),
        notes,
    })
}

/// The text of VMCOREINFO, whether it comes alone or among notes.
pub fn text_of(bytes: Vec<u8>) -> Vec<u8> {
    match notes::vmcoreinfo(&bytes) {
        Some(text) => text.to_vec(),
        None => bytes,
    }
}

/// `exhibit get` puts several collections into folders of their own; one of them must be chosen.
fn one_collection(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).map_err(|e| Failure::new(Code::Input, format!("cannot read {}: {e}", folder.display())))?;
    let mut with_memory: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.join("memory").is_dir()).collect();
    match (with_memory.pop(), with_memory.is_empty(), folder.join("memory").is_dir()) {
        (Some(only), true, false) => Ok(only),
        (Some(_), false, false) => {
            let problem = format!("{} has the memory of several collections", folder.display());
            Err(Failure::new(Code::Input, problem).hint("give --from the folder of one of them"))
        }
        _ => Ok(folder.to_owned()),
    }
}

/// The files of modules beside the kernel's.
fn modules(kernel: Option<&Path>, notes: &mut Vec<String>) -> Result<Vec<(String, Vec<u8>)>> {
    let Some(folder) = kernel.and_then(Path::parent).filter(|f| f.file_name().is_some_and(|n| n == "btf")) else { return Ok(Vec::new()) };
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_file() && Some(p.as_path()) != kernel).collect();
    paths.sort();
    if paths.len() > MODULES_MAX {
        notes.push(format!("of {} files of modules' types the first {MODULES_MAX} are taken", paths.len()));
    }
    paths.truncate(MODULES_MAX);
    let (mut left, mut found) = (MODULES_BYTES_MAX, Vec::new());
    for path in &paths {
        let Some(bytes) = read(Some(path), left.min(btf::BYTES_MAX))? else { continue };
        left = left.saturating_sub(bytes.len());
        found.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes));
    }
    Ok(found)
}

/// Reads a file of at most so many bytes; none where there is no file.
fn read(path: Option<&Path>, bytes_max: usize) -> Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let Some(path) = path else { return Ok(None) };
    let cannot = |e: std::io::Error| Failure::new(Code::Input, format!("cannot read {}: {e}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > bytes_max {
        return Err(Failure::new(Code::Input, format!("{} is larger than such a file can be", path.display())));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::candidates::tests::{kernel, text};

    #[test]
    fn of_a_bare_image_the_kernel_s_own_vmcoreinfo_is_taken() {
        let (mut memory, right) = (kernel(b"6.1.0"), text(4 << 20, "6.1.0"));
        let mut put = |at: usize, text: &[u8]| {
            let note = notes::write(notes::VMCOREINFO, 0, text).expect("small");
            memory[at..at + note.len()].copy_from_slice(&note);
        };
        // A planted one lies first.
        put(0x1000, &text(2 << 20, "6.1.0"));
        put(0x70_0000, &right);
        let dir = tempfile::tempdir().expect("folder");
        let write = |memory: &[u8]| std::fs::write(dir.path().join("memory.lime"), crate::memory::lime::tests::image(&[(0, memory)]));
        write(&memory).expect("written");
        let mut args = BuildArgs {
            collection: None,
            from: Some(dir.path().to_owned()),
            out: "x.json".into(),
            image: None,
            btf: None,
            kallsyms: None,
            vmcoreinfo: None,
            vmcoreinfo_at: None,
            banner: None,
            identity: crate::args::identity::IdentityArgs::default(),
            reason: None,
        };
        assert_eq!(sources(&args, dir.path()).expect("good").vmcoreinfo.as_ref(), Some(&right));
        memory[0x70_0000..0x70_1000].fill(0);
        write(&memory).expect("written");
        let failure = sources(&args, dir.path()).err().expect("the planted one alone");
        assert!(failure.message.contains("at 0x1000"), "{}", failure.message);
        // More of them than anybody would keep: the kernel's own is still found, and can be named by its address.
        memory.resize(10 << 20, 0);
        let mut put = |at: usize, text: &[u8]| {
            let note = notes::write(notes::VMCOREINFO, 0, text).expect("small");
            memory[at..at + note.len()].copy_from_slice(&note);
        };
        (0..400).for_each(|n| put((8 << 20) + n * 4096, format!("OSRELEASE={n}\n").as_bytes()));
        put(0x98_0000, &right);
        write(&memory).expect("written");
        assert_eq!(sources(&args, dir.path()).expect("good").vmcoreinfo.as_ref(), Some(&right));
        args.vmcoreinfo_at = Some(0x98_0000);
        assert_eq!(sources(&args, dir.path()).expect("good").vmcoreinfo.as_ref(), Some(&right));
        args.vmcoreinfo_at = Some(0x98_1000);
        assert!(sources(&args, dir.path()).err().expect("nothing there").message.contains("at 0x981000"));
        args.vmcoreinfo_at = None;
        // What a person names is taken.
        let named = dir.path().join("named");
        std::fs::write(&named, b"OSRELEASE=5\n").expect("written");
        args.vmcoreinfo = Some(named);
        assert_eq!(sources(&args, dir.path()).expect("good").vmcoreinfo.as_deref(), Some(&b"OSRELEASE=5\n"[..]));
    }
}
