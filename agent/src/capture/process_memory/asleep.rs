//! Where a thread is that did not come to a stand because it sleeps in the kernel (a parent in `vfork`, a thread that waits for a
//! disk or a server). `/proc/<pid>/task/<tid>/syscall` tells it without stopping anybody (proc_pid_syscall(5)): the number and the
//! arguments of its system call, its stack pointer, its program counter. They are registers as they were when it went into the
//! kernel; a debugger shows where it is with them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::stop::{Stopped, Thread};
use crate::capture::left::Asked;
use crate::capture::live::{hex, number, to_hex, words};
use crate::capture::patience::{self, NotDone};
use crate::capture::procfs::read_at;
use crate::clock;

/// Threads of one process that are asked about.
const THREADS_MAX: usize = 256;
/// How long all of them may take: a lock that a program holds while it is replaced is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// A line of nine numbers.
const BYTES_MAX: usize = 4096;
const WORD_BYTES: usize = 8;

/// Which words of the general registers (NT_PRSTATUS) are known inside a system call: its number, its six arguments.
#[cfg(target_arch = "x86_64")]
const CALL_WORDS: &[usize] = &[15, 14, 13, 12, 7, 9, 8];
#[cfg(target_arch = "aarch64")]
const CALL_WORDS: &[usize] = &[8, 0, 1, 2, 3, 4, 5];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const CALL_WORDS: &[usize] = &[];
/// Outside of one: x86 says so in the place of the number.
#[cfg(target_arch = "x86_64")]
const NO_CALL_WORDS: &[usize] = &[15];
#[cfg(not(target_arch = "x86_64"))]
const NO_CALL_WORDS: &[usize] = &[];
/// And always: stack pointer, program counter.
#[cfg(target_arch = "x86_64")]
const PLACE_WORDS: &[usize] = &[19, 16];
#[cfg(target_arch = "aarch64")]
const PLACE_WORDS: &[usize] = &[31, 32];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const PLACE_WORDS: &[usize] = &[];

/// Where a thread sleeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asleep {
    /// When it was asked, nanoseconds after the stop began: the others may run on by then.
    pub asked_ns: u64,
    /// The number of its system call; negative outside of one, as in a page fault.
    pub call: i64,
    /// Its arguments; none outside of one.
    pub arguments: Option<[u64; 6]>,
    /// Its stack pointer.
    pub stack_pointer: u64,
    /// Where it goes on.
    pub program_counter: u64,
}

impl Asleep {
    /// Whether these are surely registers of a process of 64 bits. One of 32 bits has none of its addresses above 4 GiB, and other
    /// registers; the line does not say which it is.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        self.stack_pointer.max(self.program_counter) > u64::from(u32::MAX)
    }

    /// The general registers, so many bytes, as far as they are known; the rest is zeros.
    #[must_use]
    pub fn registers(&self, bytes: usize) -> Vec<u8> {
        let call = [self.call as u64].into_iter().chain(self.arguments.unwrap_or_default());
        let words = if self.arguments.is_some() { CALL_WORDS } else { NO_CALL_WORDS };
        let place = PLACE_WORDS.iter().zip([self.stack_pointer, self.program_counter]);
        let mut all = vec![0_u8; bytes];
        for (word, value) in words.iter().zip(call).chain(place) {
            let at = word.saturating_mul(WORD_BYTES);
            if let Some(to) = all.get_mut(at..at.saturating_add(WORD_BYTES)) {
                to.copy_from_slice(&value.to_le_bytes());
            }
        }
        all
    }
}

/// Reads the line. `None` for a thread that runs, and for what is not understood.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Asleep> {
    const NUMBERS_MAX: usize = 9;
    let mut fields = words(bytes);
    let call = fields.next().and_then(number::<i64>)?;
    let numbers: Vec<u64> = fields.take(NUMBERS_MAX).map(prefixed).collect::<Option<_>>()?;
    let (arguments, [stack_pointer, program_counter]) = numbers.split_last_chunk::<2>()?;
    let arguments: Option<[u64; 6]> = if arguments.is_empty() { None } else { Some(arguments.try_into().ok()?) };
    let (stack_pointer, program_counter) = (*stack_pointer, *program_counter);
    (arguments.is_some() == (call >= 0)).then_some(Asleep { asked_ns: 0, call, arguments, stack_pointer, program_counter })
}

/// A hexadecimal number as C writes it.
fn prefixed(field: &[u8]) -> Option<u64> {
    let digits = field.strip_prefix(b"0x").filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    hex(digits)
}

/// Asks where those sleep that did not come to a stand. Who does not answer is left behind, and counts like others that do not.
pub fn ask(dir: &Arc<OwnedFd>, pid: u32, stopped: &mut Stopped, asked: &Arc<Asked>) {
    let tids: Vec<u32> = stopped.threads.iter().filter(|t| t.running.is_some()).map(|t| t.tid).take(THREADS_MAX).collect();
    if tids.is_empty() {
        return;
    }
    let (dir, shared, begun_ns) = (Arc::clone(dir), Arc::clone(asked), stopped.begun.mono_ns);
    let work = move || {
        let _shared = shared;
        let place = |tid: u32| {
            let asked_ns = clock::now().mono_ns.saturating_sub(begun_ns);
            let line = read_at(&*dir, format!("task/{tid}/syscall"), BYTES_MAX).ok()?;
            parse(&line.bytes).map(|asleep| (tid, Asleep { asked_ns, ..asleep }))
        };
        tids.into_iter().filter_map(place).collect::<BTreeMap<u32, Asleep>>()
    };
    match patience::within(PATIENCE, work) {
        Ok(mut found) => {
            for thread in stopped.threads.iter_mut().filter(|t| t.running.is_some()) {
                thread.asleep = found.remove(&thread.tid).map(Box::new);
            }
        }
        Err(NotDone::Late) => asked.leave(pid),
        Err(NotDone::Ended | NotDone::NoThread) => {}
    }
}

/// What is missing of threads that did not stand, if any did not.
#[must_use]
pub fn missing(threads: &[Thread]) -> Option<String> {
    let running = threads.iter().filter(|t| t.running.is_some()).count();
    let asleep = threads.iter().filter(|t| t.asleep.is_some()).count();
    let but = if asleep > 0 { format!(", but for where {asleep} of them sleep in the kernel") } else { String::new() };
    (running > 0).then(|| format!("{running} threads did not stop in time: their registers are missing{but}"))
}

/// The same in note and table.
#[derive(Debug, Serialize)]
pub struct AsleepRow {
    asked_ns: u64,
    /// Absent outside of a system call.
    #[serde(skip_serializing_if = "Option::is_none")]
    system_call: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    arguments: Vec<String>,
    stack_pointer: String,
    program_counter: String,
}

impl AsleepRow {
    /// Of one thread.
    #[must_use]
    pub fn of(asleep: &Asleep) -> Self {
        let digits = |n: u64| to_hex(&n.to_be_bytes());
        Self {
            asked_ns: asleep.asked_ns,
            system_call: Some(asleep.call).filter(|_| asleep.arguments.is_some()),
            arguments: asleep.arguments.into_iter().flatten().map(digits).collect(),
            stack_pointer: digits(asleep.stack_pointer),
            program_counter: digits(asleep.program_counter),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_lines_that_the_kernel_writes_are_understood() {
        let line = b"58 0x5630e9e0a1a4 0xa 0x0 0x7fa8 0x7fa9 0x21001 0x7ffee118d740 0x7fa8f9ac03b8\n";
        let arguments = Some([0x5630_e9e0_a1a4, 0xa, 0, 0x7fa8, 0x7fa9, 0x2_1001]);
        let (stack_pointer, program_counter) = (0x7ffe_e118_d740, 0x7fa8_f9ac_03b8);
        assert_eq!(parse(line), Some(Asleep { asked_ns: 0, call: 58, arguments, stack_pointer, program_counter }));
        let fault = Asleep { asked_ns: 0, call: -1, arguments: None, stack_pointer, program_counter };
        assert_eq!(parse(b"-1 0x7ffee118d740 0x7fa8f9ac03b8\n"), Some(fault));
        for wrong in
            ["", "running\n", "1 0x1 0x2\n", "-1 0x1\n", "-1 1 2\n", "-1 0x+1 0x2\n", "-1 0x 0x2\n", "-1 0x1 0x10000000000000000\n"]
        {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(parse(b"1 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8 0x9\n"), None, "a number too many");
        assert!(!Asleep { stack_pointer: 0xffff_d000, program_counter: 0x0804_8000, ..Asleep::default() }.is_wide());
    }

    /// As `struct user_regs_struct` (sys/user.h) and `struct user_pt_regs` (asm/ptrace.h) have them.
    #[test]
    fn each_value_is_in_the_register_that_held_it() {
        let known = Asleep { asked_ns: 0, call: 58, arguments: Some([1, 2, 3, 4, 5, 6]), stack_pointer: 7, program_counter: 8 };
        let words = |asleep: &Asleep, bytes: usize| -> Vec<u64> {
            asleep.registers(bytes).chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().expect("eight bytes"))).collect()
        };
        #[cfg(target_arch = "x86_64")]
        {
            let mut expected = vec![0_u64, 0, 0, 0, 0, 0, 0, 4, 6, 5, 0, 0, 3, 2, 1, 58, 8, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(words(&known, 27 * 8), expected);
            let outside = Asleep { call: -1, arguments: None, ..known };
            expected[7..15].fill(0);
            expected[15] = u64::MAX;
            assert_eq!(words(&outside, 27 * 8), expected);
        }
        #[cfg(target_arch = "aarch64")]
        {
            let all = words(&known, 34 * 8);
            assert_eq!((&all[..9], &all[31..33]), (&[1, 2, 3, 4, 5, 6, 0, 0, 58][..], &[7, 8][..]));
        }
        assert_eq!(Asleep::default().registers(3), [0; 3]);
    }

    proptest! {
        #[test]
        fn what_the_kernel_writes_comes_back(call in 0_i64..600, arguments: [u64; 6], stack_pointer: u64, program_counter: u64, inside: bool) {
            let (call, arguments) = if inside { (call, Some(arguments)) } else { (-1, None) };
            let numbers = arguments.into_iter().flatten().chain([stack_pointer, program_counter]);
            let fields: Vec<String> = std::iter::once(call.to_string()).chain(numbers.map(|n| format!("{n:#x}"))).collect();
            let line = format!("{}\n", fields.join(" "));
            let expected = Asleep { asked_ns: 0, call, arguments, stack_pointer, program_counter };
            prop_assert_eq!(parse(line.as_bytes()), Some(expected));
            // Half of it is not taken for the whole.
            let cut = parse(line.as_bytes().get(..line.len() / 2).unwrap_or_default());
            prop_assert!(cut.is_none_or(|c| c.arguments.is_none()));
        }

        #[test]
        fn any_bytes_are_read_to_an_end(bytes: Vec<u8>, text in "[-0-9a-fx \n]{0,120}", room in 0_usize..300) {
            for input in [bytes.as_slice(), text.as_bytes()] {
                if let Some(asleep) = parse(input) {
                    prop_assert_eq!(asleep.arguments.is_some(), asleep.call >= 0);
                    prop_assert_eq!(asleep.registers(room).len(), room);
                }
            }
        }
    }
}
