//! Memory that a program gives back after it was stopped and before it is read.

use super::*;

/// Has 8 MiB. Told to, it drops the second quarter, and with an argument it unmaps the second half as well.
const RETURNS: &str = r#"
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv) {
    unsigned long mib = 1UL << 20;
    char *block = mmap(0, 8 * mib, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(block, 8 * mib, MADV_NOHUGEPAGE);
    memset(block, 'R', 8 * mib);
    puts("ready"); fflush(stdout);
    getchar();
    madvise(block + 2 * mib, 2 * mib, MADV_DONTNEED);
    if (argc > 1) munmap(block + 4 * mib, 4 * mib);
    puts("changed"); fflush(stdout);
    for (;;) pause();
}
"#;

/// The bytes of the rows of one kind, and the reasons that they give.
fn told(rows: &[serde_json::Value], kind: &str) -> Vec<(u64, String)> {
    let address = |v: &serde_json::Value| u64::from_str_radix(v.as_str().expect("digits"), 16).expect("an address");
    let of = |r: &serde_json::Value| (address(&r["end"]) - address(&r["start"]), r["reason"].as_str().expect("a reason").to_owned());
    rows.iter().filter(|r| r["kind"] == kind).map(of).collect()
}

#[test]
fn memory_that_is_given_back_before_it_is_read_is_no_silent_hole() {
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "returns", RETURNS, &[]);
    for (unmaps, status) in [(false, Status::ChangedDuringRead), (true, Status::Partial)] {
        let mut command = Command::new(&program);
        command.args(unmaps.then_some("unmap"));
        let target = Target::start(command);
        let pid = target.pid();
        let target = std::rc::Rc::new(std::cell::RefCell::new(target));
        let own = std::rc::Rc::clone(&target);
        let mut taken = Folder::new();
        taken.before_memory = Some(Box::new(move || {
            own.borrow_mut().tell();
            assert_eq!(own.borrow_mut().line(), "changed");
        }));
        taken.run(&[("pid", &pid.to_string())]).expect("taken");
        let core = taken.core(pid);
        assert_eq!(core.status, status, "{:?}", core.item);
        assert!(core.item.reason.as_deref().is_some_and(|r| r.contains("gave memory back")), "{:?}", core.item);
        let bytes = if unmaps { 6 * MIB } else { 2 * MIB };
        assert_eq!(core.item.facts.get("given_back_bytes"), Some(&bytes.to_string()), "{:?}", core.item.facts);
        let gaps: u64 = core.gaps.iter().map(|(_, length, _)| *length).sum();
        assert_eq!(gaps, bytes - 2 * MIB, "{:?}", core.gaps);
        let rows = taken.rows(&format!("{pid}/map.jsonl"));
        assert_eq!(rows[0]["given_back_bytes"], bytes, "{}", rows[0]);
        let row = rows.iter().find(|r| r["kind"] == "given-back").expect("a row");
        assert_eq!(row["bytes"], 2 * MIB, "{row}");
        assert_eq!(told(&rows, "given-back"), [(2 * MIB, super::super::given_back::GIVEN_BACK.to_owned())]);
        let unreadable = told(&rows, "unreadable");
        assert!(unreadable.iter().all(|(_, why)| why.starts_with("not mapped any more")), "{unreadable:?}");
        assert_eq!(unreadable.iter().map(|(bytes, _)| bytes).sum::<u64>(), gaps);
    }
}

/// Touches every other page of a block: as many as the first argument says. Told to, it unmaps the block up to the page that the second
/// one says.
const SCATTERED: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv) {
    if (argc < 3) return 1;
    unsigned long page = sysconf(_SC_PAGESIZE), pages = atol(argv[1]), unmapped = atol(argv[2]);
    char *block = mmap(0, 2 * pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(block, 2 * pages * page, MADV_NOHUGEPAGE);
    for (unsigned long n = 0; n < pages; n++) block[2 * n * page] = 'R';
    puts("ready"); fflush(stdout);
    getchar();
    munmap(block, unmapped * page);
    puts("changed"); fflush(stdout);
    for (;;) pause();
}
"#;

/// What was taken of it, and its number. It goes on until the memory was taken.
fn scattered(pages: u64, unmapped: u64) -> (Folder, u32) {
    let dir = tempfile::tempdir().expect("folder");
    let mut command = Command::new(compile(dir.path(), "scattered", SCATTERED, &[]));
    command.args([pages.to_string(), unmapped.to_string()]);
    let target = Target::start(command);
    let pid = target.pid();
    let target = std::rc::Rc::new(std::cell::RefCell::new(target));
    let own = std::rc::Rc::clone(&target);
    let mut taken = Folder::new();
    taken.before_memory = Some(Box::new(move || {
        own.borrow_mut().tell();
        assert_eq!(own.borrow_mut().line(), "changed");
    }));
    taken.run(&[("pid", &pid.to_string())]).expect("taken");
    assert_eq!(taken.core(pid).status, Status::Partial, "{:?}", taken.core(pid).item);
    (taken, pid)
}

fn gap_bytes(core: &Put) -> u64 {
    core.gaps.iter().map(|(_, length, _)| *length).sum()
}

fn fact(core: &Put, name: &str) -> u64 {
    core.item.facts[name].parse().expect("a number")
}

/// More than the pages that are told apart.
const MANY: u64 = 33_000;

#[test]
fn pages_that_never_were_do_not_count_as_given_back() {
    let page = rustix::param::page_size() as u64;
    let (taken, pid) = scattered(MANY, 2 * MANY);
    let core = taken.core(pid);
    // The holes between them were closed, and are in the gaps.
    let gaps = gap_bytes(core);
    assert!(gaps >= 2 * MANY * page * 9 / 10, "{gaps} bytes of gaps");
    let told = fact(core, "given_back_bytes");
    assert!((MANY * page * 9 / 10..=MANY * page).contains(&told), "{told} bytes of {MANY} pages");
}

#[test]
fn of_a_part_that_was_unmapped_among_closed_holes_no_page_is_forgotten() {
    const PAGES: u64 = 2_000;
    let page = rustix::param::page_size() as u64;
    let (taken, pid) = scattered(MANY, 2 * PAGES);
    let core = taken.core(pid);
    // There are more closed holes in the mapping than pages in the part.
    let told = fact(core, "given_back_bytes");
    assert!((PAGES * page * 9 / 10..=PAGES * page).contains(&told), "{told} bytes of {PAGES} pages");
    let said = format!("at least {told} bytes that it had in memory");
    assert!(core.item.reason.as_deref().is_some_and(|r| r.contains(&said)), "{:?}", core.item.reason);
}

/// More pieces than a stream tells apart, so that it asks for several of them, with the holes between, at once.
#[test]
fn all_that_a_read_over_several_pieces_did_not_get_is_told_and_no_hole_is() {
    const PIECES: u64 = exhibit_evidence::stream::tar::EXTENTS_MAX as u64 + 4_000;
    let page = rustix::param::page_size() as u64;
    let (taken, pid) = scattered(PIECES, 2 * PIECES);
    let core = taken.core(pid);
    let gaps = gap_bytes(core);
    assert!((PIECES * page * 9 / 10..=PIECES * page).contains(&gaps), "{gaps} bytes of gaps of {PIECES} pages");
    assert_eq!((fact(core, "unreadable_bytes"), fact(core, "given_back_bytes")), (gaps, gaps), "{:?}", core.item.facts);
    let rows = taken.rows(&format!("{pid}/map.jsonl"));
    let listed: u64 = told(&rows, "unreadable").iter().map(|(bytes, _)| bytes).sum();
    let counted = rows[0]["unreadable_ranges_left_out"].as_u64().expect("a number");
    assert!(listed <= gaps && gaps <= listed + counted * page, "{listed} bytes listed, {counted} ranges counted, {gaps} bytes of gaps");
    assert!(core.item.reason.as_deref().is_some_and(|r| r.contains(&format!(": {gaps} bytes that it had"))), "{:?}", core.item.reason);
}
