//! Pages that are kept of the moment of the stop, with programs that change at once.

use super::*;

/// The list of threads leads through the memory of all of them: read while they come and go it leads nowhere, and gdb's helper for
/// threads (libthread_db) followed it for ever.
#[test]
fn gdb_opens_a_program_whose_threads_come_and_go_all_the_time() {
    let dir = tempfile::tempdir().expect("folder");
    for (name, flags) in [("restless", &["-pthread"][..]), ("restless-static", &["-static", "-pthread"])] {
        let program = compile(dir.path(), name, programs::RESTLESS, flags);
        let target = Target::start(Command::new(&program));
        let pid = target.pid();
        for n in 0..10 {
            let taken = Folder::take(&[("pid", &pid.to_string())]);
            let core = taken.core(pid);
            let mut gdb = Command::new("timeout");
            gdb.args(["-s", "KILL", "30", "gdb", "-nx", "-batch", "-q", "-ex", "info threads", "-ex", "thread apply all bt 3", "-se"]);
            let said = gdb.arg(&program).arg("-c").arg(&core.file).env("HOME", "/nonexistent").output().expect("gdb");
            let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
            assert!(said.status.success(), "{name}, core {n}: {:?}: {text}", said.status);
            assert!(text.matches("LWP ").count() >= 5 && text.contains("in main ()"), "{name}, core {n}: {text}");
            assert!(name != "restless" || text.contains("using libthread_db"), "the helper was there: {text}");
            let kept = taken.rows(&format!("{pid}/map.jsonl"))[0]["memory"]["kept_pages"].as_u64();
            assert!(kept.is_some_and(|pages| (8..=256).contains(&pages)), "{name}, core {n}: {kept:?} pages");
        }
    }
}

/// Registers and stack are of the stop, whatever the thread does until its memory is read.
#[test]
fn the_stack_of_a_thread_fits_its_registers() {
    let dir = tempfile::tempdir().expect("folder");
    let program = compile(dir.path(), "changes", programs::CHANGES, &[]);
    for (mode, expected) in [("fast", ["STACK-BEFORE", "HEAP-AFTER"]), ("atomic", ["STACK-BEFORE", "HEAP-BEFORE"])] {
        let target = Target::start(Command::new(&program));
        let pid = target.pid();
        let target = std::rc::Rc::new(std::cell::RefCell::new(target));
        let own = std::rc::Rc::clone(&target);
        let mut taken = Folder::new();
        taken.before_memory = Some(Box::new(move || {
            if mode == "fast" {
                own.borrow_mut().tell();
                assert_eq!(own.borrow_mut().line(), "changed");
            }
        }));
        taken.run(&[("pid", &pid.to_string()), ("mode", mode)]).expect("taken");
        assert_eq!(taken.core(pid).status, Status::Collected, "{:?}", taken.core(pid).item);
        let said = taken.gdb(pid, Some(&program), &["x/s stack", "x/s heap", "bt"]);
        assert!(expected.iter().all(|text| said.contains(text)) && said.contains("in main ()"), "{mode}: {said}");
        let rows = taken.rows(&format!("{pid}/map.jsonl"));
        assert_eq!(rows[0]["memory"]["kept_pages"].as_u64().is_some(), mode == "fast", "{}", rows[0]);
        assert_eq!(taken.core(pid).item.facts.contains_key("kept_pages"), mode == "fast");
    }
    // Where the policy keeps the environment back nothing is copied of the stack in which it lies.
    let target = Target::start(Command::new(&program));
    let pid = target.pid();
    let target = std::rc::Rc::new(std::cell::RefCell::new(target));
    let own = std::rc::Rc::clone(&target);
    let mut taken = Folder::new();
    taken.redacts = true;
    taken.before_memory = Some(Box::new(move || {
        own.borrow_mut().tell();
        assert_eq!(own.borrow_mut().line(), "changed");
    }));
    taken.run(&[("pid", &pid.to_string())]).expect("taken");
    let said = taken.gdb(pid, Some(&program), &["x/s stack", "x/s heap"]);
    assert!(said.contains("STACK-AFTER") && said.contains("HEAP-AFTER"), "{said}");
}
