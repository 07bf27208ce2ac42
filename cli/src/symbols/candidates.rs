//! Which VMCOREINFO of a bare image is its kernel's. Whoever ran a process on the host could put another one into memory, and so
//! choose what an analysis shows: none is believed because it comes first, and where more than one holds good, a person must choose.

use exhibit_evidence::text::escape_bounded;

use crate::exit::{Code, Failure, Result};
use crate::memory::image::Physical;
use crate::memory::paging::Tables;
use crate::memory::vmcoreinfo::VmcoreInfo;

/// A text that was found in an image, and the physical address of the first page that has it.
pub type Candidate = (u64, Vec<u8>);

/// Kernels are moved by multiples of this (`CONFIG_PHYSICAL_ALIGN`).
const STEP: u64 = 2 << 20;
/// They are moved by less than this (`KERNEL_IMAGE_SIZE`).
const MOVED_MAX: u64 = 1 << 30;
/// Where the release is in `struct new_utsname`: behind two fields of 65 bytes.
const RELEASE_AT: u64 = 130;
/// Candidates that an error names.
const NAMED_MAX: usize = 8;
const HINT: &str = "give the kernel's own with --vmcoreinfo FILE: a collection has it as vmcoreinfo.txt";

/// Chooses; none where there is none.
///
/// # Errors
/// None of them is of the kernel in the image, or more than one could be: all are named.
pub fn choose(memory: &dyn Physical, found: Vec<Candidate>) -> Result<Option<Vec<u8>>> {
    if found.is_empty() {
        return Ok(None);
    }
    let all = found.len();
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (at, text) in found {
        match problem(&text, memory) {
            None => good.push((at, text)),
            Some(why) => bad.push(named(at, &text, why)),
        }
    }
    let list = |names: &[String]| {
        let more = names.len().saturating_sub(NAMED_MAX);
        let first = names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join("; ");
        if more > 0 { format!("{first}; and {more} more") } else { first }
    };
    match (good.pop(), good.is_empty()) {
        (Some((_, only)), true) => Ok(Some(only)),
        (None, _) => {
            let problem = format!("the image has {all} VMCOREINFO, and none is of the kernel that ran in it: {}", list(&bad));
            Err(Failure::new(Code::Input, problem).hint(HINT))
        }
        (Some(last), false) => {
            good.push(last);
            let names: Vec<String> = good.iter().map(|(at, text)| named(*at, text, "holds good")).collect();
            let problem =
                format!("the image has {} VMCOREINFO that could be its kernel's, and one may be planted: {}", names.len(), list(&names));
            Err(Failure::new(Code::Input, problem).hint(HINT))
        }
    }
}

fn named(at: u64, text: &[u8], what: &str) -> String {
    let info = VmcoreInfo::parse(text).unwrap_or_default();
    let moved = info.slide().map_or_else(|| "no KERNELOFFSET".to_owned(), |slide| format!("KERNELOFFSET {slide:#x}"));
    format!("at {at:#x} ({}, {moved}): {what}", escape_bounded(info.release(), 80))
}

/// Why a text is not of the kernel in this memory; none when everything that it says of itself is so.
fn problem(text: &[u8], memory: &dyn Physical) -> Option<&'static str> {
    let Some(info) = VmcoreInfo::parse(text) else { return Some("it is no such text") };
    if info.slide().is_some_and(|slide| !slide.is_multiple_of(STEP) || slide >= MOVED_MAX) {
        return Some("no kernel is moved so far (KERNELOFFSET)");
    }
    if info.number("phys_base").is_none_or(|base| !base.is_multiple_of(STEP)) {
        return Some("it does not say where the kernel lies (phys_base)");
    }
    let Some(tables) = Tables::of(&info, memory) else { return Some("it does not say where the page tables are (swapper_pg_dir)") };
    // What it says of the kernel's own image must be what the page tables say that it names.
    for name in ["swapper_pg_dir", "init_top_pgt", "_stext", "init_uts_ns"] {
        let Some(address) = info.symbol(name) else { continue };
        if info.image_address(address).is_none_or(|at| tables.physical(address) != Some(at)) {
            return Some("the page tables that it names do not map the kernel where it says");
        }
    }
    release(&info, memory)
}

/// The release that the kernel itself has must be the one that the text says, where the text says where that is.
fn release(info: &VmcoreInfo, memory: &dyn Physical) -> Option<&'static str> {
    let offset = info.text("OFFSET(uts_namespace.name)").and_then(|t| t.parse::<u64>().ok())?;
    let at = info.image_address(info.symbol("init_uts_ns")?.checked_add(offset)?.checked_add(RELEASE_AT)?)?;
    let kernel = memory.bytes(at, 65);
    let kernel = kernel.as_deref().and_then(|b| b.split(|b| *b == 0).next());
    (kernel != Some(info.release().as_bytes())).then_some("the kernel in the image has another release")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::memory::image::Pages;

    const MAP: u64 = 0xffff_ffff_8000_0000;

    /// A kernel of 2 MiB at 4 MiB, moved by 32 MiB, with its page tables and its release; and a place for others.
    pub fn kernel(release: &[u8]) -> Vec<u8> {
        let mut memory = vec![0_u8; 8 << 20];
        place(&mut memory, 4 << 20, release);
        memory
    }

    /// The kernel runs at 0xffffffff83000000 (linked at 0xffffffff81000000); its top table is its second page.
    fn place(memory: &mut [u8], at: usize, release: &[u8]) {
        let mut put = |place: usize, value: u64| memory[at + place..][..8].copy_from_slice(&value.to_le_bytes());
        put(0x1000 + 511 * 8, (at as u64 + 0x2000) | 0x63);
        put(0x2000 + 510 * 8, (at as u64 + 0x3000) | 0x63);
        put(0x3000 + 24 * 8, at as u64 | 0xe3);
        let name = at + 0x5000 + 4 + 130;
        memory[name..name + release.len()].copy_from_slice(release);
    }

    /// What such a kernel says of itself.
    pub fn text(at: u64, release: &str) -> Vec<u8> {
        let start = MAP + 0x300_0000;
        format!(
            "OSRELEASE={release}\nSYMBOL(swapper_pg_dir)={:x}\nSYMBOL(_stext)={start:x}\nSYMBOL(init_uts_ns)={:x}\nOFFSET(uts_namespace.name)=4\n\
             NUMBER(phys_base)={}\nKERNELOFFSET=2000000\n",
            start + 0x1000,
            start + 0x5000,
            (at as i64) - 0x300_0000
        )
        .into_bytes()
    }

    fn pages(memory: &[u8]) -> Pages {
        let mut pages = Pages::new(0..memory.len() as u64);
        pages.keep(0, memory);
        pages
    }

    #[test]
    fn a_planted_one_is_not_taken_for_the_kernel_s() {
        let (memory, right) = (kernel(b"6.1.0"), text(4 << 20, "6.1.0"));
        let chosen = |found: &[&[u8]]| {
            let found = found.iter().enumerate().map(|(n, t)| (n as u64 * 4096, t.to_vec())).collect();
            choose(&pages(&memory), found).map_err(|e| e.message)
        };
        assert_eq!(chosen(&[]), Ok(None));
        assert_eq!(chosen(&[&right]), Ok(Some(right.clone())));
        // Another place, another release, an impossible slide, no tables: each stands before the right one, none is taken.
        let moved = String::from_utf8(right.clone()).expect("text").replace("KERNELOFFSET=2000000", "KERNELOFFSET=2000001");
        let others =
            [text(2 << 20, "6.1.0"), text(4 << 20, "5.10.0"), moved.into_bytes(), b"OSRELEASE=6.1.0\nNUMBER(phys_base)=0\n".to_vec()];
        for other in &others {
            assert_eq!(chosen(&[other, &right]), Ok(Some(right.clone())));
            let why = chosen(&[other]).expect_err("not of this kernel");
            assert!(why.contains("none is of the kernel") && why.contains("at 0x0"), "{why}");
        }
    }

    #[test]
    fn between_two_that_hold_good_a_person_chooses() {
        let mut memory = kernel(b"6.1.0");
        place(&mut memory, 2 << 20, b"6.1.0-planted");
        let found = vec![(0x1000, text(2 << 20, "6.1.0-planted")), (0x7000, text(4 << 20, "6.1.0"))];
        let failure = choose(&pages(&memory), found).expect_err("two");
        assert_eq!(failure.code, Code::Input);
        for part in ["2 VMCOREINFO", "at 0x1000 (6.1.0-planted, KERNELOFFSET 0x2000000)", "at 0x7000 (6.1.0,"] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
        assert!(failure.hint.is_some_and(|h| h.contains("--vmcoreinfo")));
    }
}
