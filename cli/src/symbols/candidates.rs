//! Which VMCOREINFO of a bare image is its kernel's. Whoever ran a process on the host could put another one into memory, and so
//! choose what an analysis shows: none is believed because it comes first, and where more than one holds good, a person must choose.

use exhibit_evidence::text::escape_bounded;

use crate::exit::{Code, Failure, Result};
use crate::memory::image::{LimeFile, Physical, vmcoreinfo_at};
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
/// Candidates that an error names, of those that are not the kernel's.
const NAMED_MAX: usize = 8;
/// Different ones that hold good and are kept; more are counted. All of them are named, so that one can be chosen.
const GOOD_MAX: usize = 32;
const HINT: &str =
    "name the kernel's own with --vmcoreinfo-at ADDRESS, or give it with --vmcoreinfo FILE: a collection has it as vmcoreinfo.txt";

/// Finds the one of an image's kernel; none where there is none.
///
/// # Errors
/// None of them is of the kernel in the image, or more than one could be: they are named. A file that cannot be read.
pub fn find(image: &LimeFile, notes: &mut Vec<String>) -> Result<Option<Vec<u8>>> {
    let mut judge = Judge::of(image);
    image.each_vmcoreinfo(|at, text| judge.take(at, text))?;
    judge.choose(notes)
}

/// The one at a physical address, which a person named: what cannot be held against the image is taken, with a note.
///
/// # Errors
/// There is none, or the image says otherwise.
pub fn at(memory: &dyn Physical, at: u64, notes: &mut Vec<String>) -> Result<Vec<u8>> {
    let text = vmcoreinfo_at(memory, at).ok_or_else(|| Failure::new(Code::Input, format!("at {at:#x} the image has no VMCOREINFO")))?;
    match problem(&text, memory) {
        Some(Problem { why, judged: true }) => {
            let problem = format!("this VMCOREINFO is not of the kernel that ran in the image: {}", named(at, &text, why));
            Err(Failure::new(Code::Input, problem).hint("--vmcoreinfo FILE takes one from outside, unjudged"))
        }
        Some(Problem { why, .. }) => {
            notes.push(format!("VMCOREINFO was taken because it was named, and not judged: {}", named(at, &text, why)));
            Ok(text)
        }
        None => Ok(text),
    }
}

/// Judges candidates as they are found: whoever plants many must not keep the kernel's own from being looked at.
struct Judge<'a> {
    memory: &'a dyn Physical,
    /// Those that hold good, each once.
    good: Vec<Candidate>,
    /// Further ones that hold good.
    good_more: u64,
    /// The first that do not, each once.
    bad: Vec<(Candidate, &'static str)>,
    /// Further ones that do not, copies among them.
    bad_more: u64,
}

impl<'a> Judge<'a> {
    const fn of(memory: &'a dyn Physical) -> Self {
        Self { memory, good: Vec::new(), good_more: 0, bad: Vec::new(), bad_more: 0 }
    }

    fn take(&mut self, at: u64, text: &[u8]) {
        if self.good.iter().chain(self.bad.iter().map(|(candidate, _)| candidate)).any(|(_, known)| known == text) {
            return;
        }
        match problem(text, self.memory) {
            None if self.good.len() < GOOD_MAX => self.good.push((at, text.to_vec())),
            None => self.good_more = self.good_more.saturating_add(1),
            Some(Problem { why, .. }) if self.bad.len() < NAMED_MAX => self.bad.push(((at, text.to_vec()), why)),
            Some(_) => self.bad_more = self.bad_more.saturating_add(1),
        }
    }

    fn choose(mut self, notes: &mut Vec<String>) -> Result<Option<Vec<u8>>> {
        let bad = self.bad_more.saturating_add(self.bad.len() as u64);
        match (self.good.pop(), self.good.is_empty()) {
            (Some((at, only)), true) => {
                if bad > 0 {
                    notes.push(format!("VMCOREINFO is the one at {at:#x} of the image; {bad} more lie in it and are not its kernel's"));
                }
                Ok(Some(only))
            }
            (None, _) if bad == 0 => Ok(None),
            (None, _) => {
                let names = self.bad.iter().map(|((at, text), why)| named(*at, text, why)).collect();
                let names = list(names, self.bad_more);
                let problem = format!("the image has {bad} VMCOREINFO, and none is of the kernel that ran in it: {names}");
                Err(Failure::new(Code::Input, problem).hint(HINT))
            }
            (Some(last), false) => {
                self.good.push(last);
                let all = self.good_more.saturating_add(self.good.len() as u64);
                let names = list(self.good.iter().map(|(at, text)| named(*at, text, "holds good")).collect(), self.good_more);
                let problem = format!("the image has {all} VMCOREINFO that could be its kernel's, and one may be planted: {names}");
                Err(Failure::new(Code::Input, problem).hint(HINT))
            }
        }
    }
}

fn list(names: Vec<String>, more: u64) -> String {
    let names = names.join("; ");
    if more > 0 { format!("{names}; and {more} more") } else { names }
}

fn named(at: u64, text: &[u8], what: &str) -> String {
    let info = VmcoreInfo::parse(text).unwrap_or_default();
    let moved = info.slide().map_or_else(|| "no KERNELOFFSET".to_owned(), |slide| format!("KERNELOFFSET {slide:#x}"));
    format!("at {at:#x} ({}, {moved}): {what}", escape_bounded(info.release(), 80))
}

/// Why a text is not believed.
struct Problem {
    why: &'static str,
    /// False when the image does not deny it, but nothing of it shows the text to be right either.
    judged: bool,
}

/// Why a text is not of the kernel in this memory; none when everything that it says of itself is so.
fn problem(text: &[u8], memory: &dyn Physical) -> Option<Problem> {
    let Some(info) = VmcoreInfo::parse(text) else { return Some(Problem { why: "it is no such text", judged: true }) };
    if let Some(why) = misplaced(&info, memory) {
        return Some(Problem { why, judged: true });
    }
    let Some(at) = release_at(&info) else {
        // Linux since 5.11 says so, and who plants a text leaves out what would give it away.
        let why = "not judged: it does not say where the kernel has its release (init_uts_ns, uts_namespace.name)";
        return Some(Problem { why, judged: false });
    };
    let kernel = memory.bytes(at, 65);
    let kernel = kernel.as_deref().and_then(|b| b.split(|b| *b == 0).next());
    (kernel != Some(info.release().as_bytes())).then_some(Problem { why: "the kernel in the image has another release", judged: true })
}

/// Why a text does not say where the kernel is; none when the page tables agree with it.
fn misplaced(info: &VmcoreInfo, memory: &dyn Physical) -> Option<&'static str> {
    if info.slide().is_some_and(|slide| !slide.is_multiple_of(STEP) || slide >= MOVED_MAX) {
        return Some("no kernel is moved so far (KERNELOFFSET)");
    }
    if info.number("phys_base").is_none_or(|base| !base.is_multiple_of(STEP)) {
        return Some("it does not say where the kernel lies (phys_base)");
    }
    let Some(tables) = Tables::of(info, memory) else { return Some("it does not say where the page tables are (swapper_pg_dir)") };
    // What it says of the kernel's own image must be what the page tables say that it names.
    for name in ["swapper_pg_dir", "init_top_pgt", "_stext", "init_uts_ns"] {
        let Some(address) = info.symbol(name) else { continue };
        if info.image_address(address).is_none_or(|at| tables.physical(address) != Some(at)) {
            return Some("the page tables that it names do not map the kernel where it says");
        }
    }
    None
}

/// Where the release is that the kernel itself has, in physical memory, as far as the text says that.
fn release_at(info: &VmcoreInfo) -> Option<u64> {
    let offset = info.text("OFFSET(uts_namespace.name)").and_then(|t| t.parse::<u64>().ok())?;
    info.image_address(info.symbol("init_uts_ns")?.checked_add(offset)?.checked_add(RELEASE_AT)?)
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

    fn choose(memory: &dyn Physical, found: Vec<Candidate>) -> Result<Option<Vec<u8>>> {
        let mut judge = Judge::of(memory);
        for (at, text) in &found {
            judge.take(*at, text);
        }
        judge.choose(&mut Vec::new())
    }

    #[test]
    fn many_planted_ones_do_not_hide_the_kernel_s() {
        let (memory, right) = (kernel(b"6.1.0"), text(4 << 20, "6.1.0"));
        let planted = |n: u64| (n * 4096, format!("OSRELEASE={n}\n").into_bytes());
        let mut found: Vec<Candidate> = (1..=1_000).map(planted).collect();
        found.push((0x70_0000, right.clone()));
        found.push((0x71_0000, right.clone()));
        found.extend((1_001..=2_000).map(planted));
        let (pages, mut notes) = (pages(&memory), Vec::new());
        let mut judge = Judge::of(&pages);
        for (at, text) in &found {
            judge.take(*at, text);
        }
        assert_eq!(judge.choose(&mut notes).map_err(|e| e.message), Ok(Some(right.clone())));
        assert!(notes.concat().contains("at 0x700000") && notes.concat().contains("2000 more"), "{notes:?}");
        // Without the right one the error is bounded, and says where.
        found.retain(|(_, text)| *text != right);
        let why = choose(&pages, found).expect_err("none").message;
        assert!(why.contains("2000 VMCOREINFO") && why.contains("at 0x1000 (1,") && why.contains("and 1992 more"), "{why}");
    }

    #[test]
    fn a_text_that_leaves_out_where_the_release_is_counts_as_not_judged() {
        let (mut memory, right) = (kernel(b"6.1.0"), String::from_utf8(text(4 << 20, "6.1.0")).expect("text"));
        let shorter = |key: &str| right.lines().filter(|l| !l.starts_with(key)).flat_map(|l| [l, "\n"]).collect::<String>().into_bytes();
        for key in ["OFFSET(uts_namespace.name)", "SYMBOL(init_uts_ns)"] {
            let less = shorter(key);
            let why = choose(&pages(&memory), vec![(0x1000, less.clone())]).expect_err("not judged");
            assert!(why.message.contains("at 0x1000") && why.message.contains("not judged"), "{}", why.message);
            assert!(why.hint.is_some_and(|h| h.contains("--vmcoreinfo-at")));
            assert_eq!(
                choose(&pages(&memory), vec![(0, less), (1, right.clone().into_bytes())]).map_err(|e| e.message),
                Ok(Some(right.clone().into_bytes()))
            );
        }
        // Named by a person it is taken, and that is said; what the image denies is not.
        let mut put = |at: usize, text: &[u8]| {
            let note = crate::memory::notes::write(b"VMCOREINFO", 0, text).expect("small");
            memory[at..at + note.len()].copy_from_slice(&note);
        };
        let less = shorter("OFFSET(uts_namespace.name)");
        put(0x1000, &less);
        put(0x3000, &text(4 << 20, "5.10.0"));
        put(0x5000, right.as_bytes());
        let (pages, mut notes) = (pages(&memory), Vec::new());
        assert_eq!(at(&pages, 0x5000, &mut notes).map_err(|e| e.message), Ok(right.clone().into_bytes()));
        assert!(notes.is_empty());
        assert_eq!(at(&pages, 0x1000, &mut notes).map_err(|e| e.message), Ok(less));
        assert!(notes.concat().contains("not judged"), "{notes:?}");
        let why = |address| at(&pages, address, &mut Vec::new()).expect_err("refused").message;
        assert!(why(0x3000).contains("at 0x3000 (5.10.0") && why(0x3000).contains("another release"), "{}", why(0x3000));
        assert!(why(0x2000).contains("no VMCOREINFO") && why(1 << 40).contains("no VMCOREINFO"));
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
