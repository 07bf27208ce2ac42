//! What is said about a core file: the note inside it and the table beside it. `docs/format/process-core.md` defines both.

use serde::Serialize;

use super::access::GUARD;
use super::asleep::AsleepRow;
use super::core_file::{CoreFile, WITHHELD, Withheld};
use super::elf;
use super::given_back::{GIVEN_BACK, GivenBack, VANISHED};
use super::layout::Segment;
use super::plan::Plan;
use super::regions::{self, PAGE, Region, Regions};
use super::stop::{Ended, Stopped, Thread};
use crate::capture::live::{Lossless, to_hex};
use crate::capture::{Output, Status, Stop, Table};
use crate::clock::Moment;

/// Name and version of both.
pub const FORMAT: &str = "exhibit-process-core/1";
/// Threads that the note names one by one; the table has all.
const THREADS_IN_NOTE: usize = 1024;

/// How the process was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// For the registers only; memory was copied while it ran.
    Fast,
    /// Until memory was copied.
    Atomic,
}

/// One thread in note and table. Times are nanoseconds after `stop.begun`.
#[derive(Debug, Serialize)]
struct ThreadRow<'a> {
    tid: u32,
    stopped_from_ns: u64,
    /// Absent as long as it stood.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped_to_ns: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    pending_signal: i32,
    #[serde(skip_serializing_if = "is_false")]
    was_stopped_before: bool,
    #[serde(skip_serializing_if = "is_false")]
    registers_left_out: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    asleep: Option<AsleepRow>,
    /// Of its registers in the file only those are known that `asleep` names.
    #[serde(skip_serializing_if = "is_false")]
    registers_partial: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_zero(n: &i32) -> bool {
    *n == 0
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_false(b: &bool) -> bool {
    !*b
}

impl<'a> ThreadRow<'a> {
    fn of(thread: &'a Thread) -> Self {
        Self {
            tid: thread.tid,
            stopped_from_ns: thread.from_ns,
            stopped_to_ns: Some(thread.to_ns).filter(|n| *n > 0),
            pending_signal: thread.pending,
            was_stopped_before: thread.group_stop,
            registers_left_out: thread.sets_left_out,
            running: thread.running.as_deref(),
            asleep: thread.asleep.as_deref().map(AsleepRow::of),
            registers_partial: elf::is_known_asleep(thread),
        }
    }
}

/// The stop as a whole.
#[derive(Debug, Serialize)]
pub struct StopFacts {
    mode: Mode,
    begun: String,
    begun_mono_ns: u64,
    /// The longest time that any thread may have stood, microseconds rounded up. Absent as long as it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_us: Option<u64>,
    threads: usize,
    threads_not_stopped: usize,
    threads_left_out: u64,
    mappings_read_late: bool,
}

impl StopFacts {
    /// Of a stop, whose end is known when it is over.
    #[must_use]
    pub fn of(mode: Mode, stopped: &Stopped, ended: Option<&Ended>) -> Self {
        let fast = stopped.threads.iter().filter(|t| t.to_ns > 0).map(|t| t.to_ns.saturating_sub(t.from_ns)).max();
        let held = ended.map(|e| e.after_ns);
        Self {
            mode,
            begun: stopped.begun.wall.to_string(),
            begun_mono_ns: stopped.begun.mono_ns,
            longest_us: held.or(fast).map(|ns| ns.div_ceil(1000)),
            threads: stopped.threads.len(),
            threads_not_stopped: stopped.threads.iter().filter(|t| t.running.is_some()).count(),
            threads_left_out: stopped.threads_left_out,
            mappings_read_late: stopped.looked_late,
        }
    }
}

#[derive(Serialize)]
struct Note<'a> {
    format: &'static str,
    agent: &'static str,
    pid: u32,
    start_ticks: Option<u64>,
    planned: String,
    planned_mono_ns: u64,
    stop: StopFacts,
    threads: Vec<ThreadRow<'a>>,
    threads_elsewhere: usize,
    memory: MemoryFacts,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacted: Option<RedactedRow>,
    details: &'a str,
}

#[derive(Serialize)]
struct MemoryFacts {
    mappings: usize,
    mappings_left_out: u64,
    /// None where pages could not be looked at: nobody knows.
    present_bytes: Option<u64>,
    /// Of the kernel's own page of zeros; absent where it does not tell: then `present_bytes` has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    zero_page_bytes: Option<u64>,
    /// As `present_bytes`.
    swapped_bytes: Option<u64>,
    /// Of guards; absent where the kernel does not tell them from what was never touched.
    #[serde(skip_serializing_if = "Option::is_none")]
    guard_bytes: Option<u64>,
    stored_bytes: u64,
    never_touched_cut_bytes: u64,
    left_out_bytes: u64,
    /// Pages that are of the moment of the stop; absent where none are.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_pages: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pages_not_seen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags_not_seen: Option<String>,
}

fn memory_facts(regions: &Regions, plan: &Plan) -> MemoryFacts {
    MemoryFacts {
        mappings: regions.list().len(),
        mappings_left_out: regions.left_out,
        present_bytes: plan.blind.is_none().then(|| plan.present_bytes.saturating_sub(plan.zero_bytes.unwrap_or(0))),
        zero_page_bytes: plan.zero_bytes,
        swapped_bytes: plan.blind.is_none().then_some(plan.swapped_bytes),
        guard_bytes: Some(plan.guards.bytes).filter(|bytes| plan.guards.told || *bytes > 0),
        stored_bytes: plan.layout.bytes,
        never_touched_cut_bytes: plan.layout.cut_bytes,
        left_out_bytes: plan.layout.left_out_bytes,
        kept_pages: Some(plan.kept_pages).filter(|n| *n > 0),
        pages_not_seen: plan.pages_not_seen(),
        flags_not_seen: plan.flags.as_ref().map(|why| format!("{why}; what is watched by userfaultfd is not known")),
    }
}

/// Which process, and how.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Its number.
    pub pid: u32,
    /// When it started, ticks after boot: with the number, which process it was.
    pub start_ticks: Option<u64>,
    /// How it was stopped.
    pub mode: Mode,
    /// The item with the table.
    pub details: &'a str,
}

/// The content of the note in the file: what was known before the first byte of memory was read.
#[must_use]
pub fn note(about: &About<'_>, stopped: &Stopped, regions: &Regions, plan: &Plan, withheld: Option<Withheld>, now: Moment) -> Vec<u8> {
    let About { pid, start_ticks, mode, details } = *about;
    let note = Note {
        format: FORMAT,
        agent: concat!("exhibit-agent/", env!("CARGO_PKG_VERSION")),
        pid,
        start_ticks,
        planned: now.wall.to_string(),
        planned_mono_ns: now.mono_ns,
        stop: StopFacts::of(mode, stopped, None),
        threads: stopped.threads.iter().take(THREADS_IN_NOTE).map(ThreadRow::of).collect(),
        threads_elsewhere: stopped.threads.len().saturating_sub(THREADS_IN_NOTE),
        memory: memory_facts(regions, plan),
        redacted: withheld.map(RedactedRow::of),
        details,
    };
    serde_json::to_vec(&note).unwrap_or_default()
}

/// Addresses that are not given by this host's policy.
#[derive(Serialize)]
struct RedactedRow {
    start: String,
    end: String,
    reason: &'static str,
}

impl RedactedRow {
    fn of(withheld: Withheld) -> Self {
        Self { start: hex(withheld.start), end: hex(withheld.end), reason: WITHHELD }
    }
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Row<'a> {
    Process {
        format: &'static str,
        pid: u32,
        stop: StopFacts,
        memory: MemoryFacts,
        unreadable_bytes: u64,
        unreadable_ranges_left_out: u64,
        /// Of what was data when it was planned.
        given_back_bytes: u64,
        /// Of what was not mapped any more by then, whether it ever had pages or not; none where that is not known.
        vanished_bytes: Option<u64>,
        /// Of those, in mappings of files that had a name and that the process could not write.
        vanished_of_files_bytes: u64,
        /// Of those, in mappings that are named like a device's.
        vanished_doubtful_bytes: u64,
        maps_problem: Option<&'a str>,
        maps_lines_not_understood: u64,
    },
    Thread(ThreadRow<'a>),
    Mapping(MappingRow<'a>),
    NotStored {
        start: String,
        end: String,
        reason: &'a str,
    },
    Unreadable {
        start: String,
        end: String,
        reason: &'a str,
    },
    Guard {
        start: String,
        end: String,
        reason: &'static str,
    },
    GivenBack {
        start: String,
        end: String,
        /// Of what lies between: less than that, and at least so many, where it is not known which pages they were.
        bytes: u64,
        reason: &'static str,
    },
    Redacted(RedactedRow),
}

#[derive(Serialize)]
struct MappingRow<'a> {
    start: String,
    end: String,
    permissions: String,
    offset: u64,
    dev: [u32; 2],
    ino: u64,
    name: Lossless,
    class: &'static str,
    /// None where its pages were not looked at.
    present_bytes: Option<u64>,
    /// Of the kernel's own page of zeros, which is not among the former.
    #[serde(skip_serializing_if = "Option::is_none")]
    zero_page_bytes: Option<u64>,
    /// As `present_bytes`.
    swapped_bytes: Option<u64>,
    /// Where its first stored byte lies in the core file.
    #[serde(skip_serializing_if = "Option::is_none")]
    core_offset: Option<u64>,
    stored_bytes: u64,
    #[serde(skip_serializing_if = "is_false")]
    dont_dump: bool,
    /// What userfaultfd waits for in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    userfaultfd: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
}

fn hex(address: u64) -> String {
    let bytes = address.to_be_bytes();
    to_hex(&bytes)
}

/// Fills the table and puts it: one row for the process, each thread, each mapping, and each range of addresses that is not in the file
/// or could not be read.
///
/// # Errors
/// [`Stop`] from the output.
pub fn table(
    out: &mut dyn Output,
    mut table: Table,
    pid: u32,
    stop: StopFacts,
    stopped: &Stopped,
    plan: &Plan,
    core: &CoreFile,
) -> Result<(), Stop> {
    let regions = &core.regions;
    let process = Row::Process {
        format: FORMAT,
        pid,
        stop,
        memory: MemoryFacts {
            stored_bytes: core.layout.bytes,
            never_touched_cut_bytes: core.layout.cut_bytes,
            left_out_bytes: core.layout.left_out_bytes,
            ..memory_facts(regions, plan)
        },
        unreadable_bytes: core.unreadable_bytes,
        unreadable_ranges_left_out: core.unreadable_left_out,
        given_back_bytes: core.given_back_bytes(),
        vanished_bytes: core.vanished_known.then_some(core.vanished_bytes),
        vanished_of_files_bytes: core.vanished_of_files_bytes,
        vanished_doubtful_bytes: core.vanished_doubtful_bytes,
        maps_problem: regions.cut.as_deref(),
        maps_lines_not_understood: regions.not_understood,
    };
    table.row_at_hand(out, &process);
    for thread in &stopped.threads {
        table.row_at_hand(out, &Row::Thread(ThreadRow::of(thread)));
    }
    let mut segments = core.layout.segments.iter().peekable();
    for (n, region) in regions.list().iter().enumerate() {
        let mut own: Vec<&Segment> = Vec::new();
        while let Some(segment) = segments.next_if(|s| s.region as usize == n) {
            own.push(segment);
        }
        let why = plan.why.get(&(n as u32)).map(String::as_str);
        let mut row = mapping_row(region, regions, &own, why, plan.zeros.get(&(n as u32)).copied());
        if plan.not_seen.contains(&(n as u32)) {
            (row.present_bytes, row.swapped_bytes) = (None, None);
        }
        table.row_at_hand(out, &Row::Mapping(row));
        let otherwise = if region.is_reserved() { "reserved, no access, never touched" } else { "never touched: reads as zeros" };
        for segment in own.iter().filter(|s| !s.stored) {
            let (from, to) = (segment.start, segment.start.saturating_add(segment.bytes));
            let otherwise = if plan.vanished.covers(from, to) { VANISHED } else { otherwise };
            table.row_at_hand(out, &Row::NotStored { start: hex(from), end: hex(to), reason: why.unwrap_or(otherwise) });
        }
    }
    for (start, end) in &plan.guards.list {
        table.row_at_hand(out, &Row::Guard { start: hex(*start), end: hex(*end), reason: GUARD });
    }
    given_back_rows(out, &mut table, core.given_back(), GIVEN_BACK);
    given_back_rows(out, &mut table, &plan.vanished, VANISHED);
    if let Some(withheld) = core.withheld {
        table.row_at_hand(out, &Row::Redacted(RedactedRow::of(withheld)));
    }
    for range in &core.unreadable {
        table.row_at_hand(out, &Row::Unreadable { start: hex(range.start), end: hex(range.end), reason: &range.reason });
    }
    let given_back = core.given_back().left_out.saturating_add(plan.vanished.left_out);
    let counted = [("unreadable ranges", core.unreadable_left_out), ("guards", plan.guards.left_out), ("ranges given back", given_back)];
    let counted: Vec<String> =
        counted.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} further {what} are only counted")).collect();
    let problem = (!counted.is_empty()).then(|| (Status::Partial, counted.join("; ")));
    table.finish(out, problem).map(drop)
}

fn given_back_rows(out: &mut dyn Output, table: &mut Table, given_back: &GivenBack, reason: &'static str) {
    for (start, end, bytes) in given_back.ranges() {
        table.row_at_hand(out, &Row::GivenBack { start: hex(start), end: hex(end), bytes, reason });
    }
}

fn mapping_row<'a>(region: &Region, regions: &Regions, segments: &[&Segment], note: Option<&'a str>, zeros: Option<u64>) -> MappingRow<'a> {
    MappingRow {
        start: hex(region.start),
        end: hex(region.end),
        permissions: region.permissions(),
        offset: region.offset,
        dev: region.dev,
        ino: region.ino,
        name: Lossless::from(regions.name(region)),
        class: region.class.as_str(),
        present_bytes: Some(u64::from(region.present_pages).saturating_mul(PAGE).saturating_sub(zeros.unwrap_or(0))),
        zero_page_bytes: zeros,
        swapped_bytes: Some(u64::from(region.swapped_pages).saturating_mul(PAGE)),
        core_offset: segments.iter().find(|s| s.stored).map(|s| s.offset),
        stored_bytes: segments.iter().map(|s| s.stored_bytes()).fold(0, u64::saturating_add),
        dont_dump: region.bits & regions::DONT_DUMP != 0,
        userfaultfd: region.watched(),
        note,
    }
}
