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
