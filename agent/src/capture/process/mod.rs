//! The `process` capture: every process with its threads, open files, mappings, credentials, limits and namespaces, the
//! raw files of `/proc/<pid>`, the program of every process and what is open although deleted.
//!
//! Nothing is stopped, traced or signalled. What a process says of itself (`cmdline`, `environ`, its name) is its claim.

mod build_id;
pub mod container;
mod content;
mod environ;
mod fds;
mod files;
pub(super) mod gather;
mod hidden;
pub mod hidepid;
mod maps;
pub(super) mod parse;
mod pieces;
mod reader;
mod row;
mod run;
#[cfg(test)]
mod tests;

use globset::GlobSet;
use rustix::io::Errno;

use self::gather::{Plan, RAW};
pub use self::parse::bracketed;
use self::reader::{PATIENCE, Reader};
use self::run::Run;
use super::live::SMALL_BYTES_MAX;
use super::procfs::{self, Listed};
use super::{Capture, Content, Kind, NewItem, Output, Params, Status, Stop, evidence_path};
use crate::order::Policy;

/// Processes listed: the kernel's own limit (PID_MAX_LIMIT).
const PIDS_MAX: usize = 4 << 20;

/// The capture; see the module.
#[derive(Debug, Default, Clone)]
pub struct Process {
    /// Environment variables whose values this host does not give.
    redacted: GlobSet,
}

impl Process {
    /// For the registry.
    #[must_use]
    pub fn boxed() -> Box<dyn Capture> {
        Box::new(Self::default())
    }
}

impl Capture for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    fn restrict(&mut self, policy: &Policy) -> Result<(), String> {
        self.redacted = policy.redacted_variables()?;
        Ok(())
    }

    fn run(&self, params: &Params, out: &mut dyn Output) -> Result<(), Stop> {
        let mut run = Run::new(params, out)?;
        run.redacted = self.redacted.clone();
        let forged = run.forged.clone();
        let plan = Plan { redacts: !self.redacted.is_empty(), ..plan(params, out, forged.is_some())? };
        let mut reader = Reader::new(plan, PATIENCE);
        let pids = match procfs::listed(PIDS_MAX) {
            Ok((pids, _)) if !pids.is_empty() => pids,
            Ok(_) => return Err(Stop::Fatal("/proc lists no process: is it mounted?".to_owned())),
            Err(e) => return Err(Stop::Fatal(format!("listing /proc: {e}"))),
        };
        // What everybody is shown, who is hidden is not in; the agent's own view may have more.
        run.meant = pids.len() as u64;
        let shown = hidden::Host::listed(&hidden::Real)
            .unwrap_or_else(|_| Listed { pids: pids.clone(), instead: Some("something that could not be listed") });
        let mut sought = params.flag("hidden", true)?.then_some(shown);
        let ended = all(&mut run, &mut reader, out, &pids, &mut sought);
        // What was read until then is in memory, and is put in any case.
        let hidden = match (&ended, &sought) {
            (Err(stop), Some(_)) => hidden::put_unfinished(out, stop),
            _ => Ok(()),
        };
        let put = run.finish(out, ended.as_ref().err());
        ended.and(hidden).and(put)?;
        forged.or_else(procfs::met).map_or(Ok(()), |why| Err(Stop::Nothing(why)))
    }
}

/// Reads every process. `sought` is what everybody is shown, if hidden processes are looked for; it is none once they were.
fn all(run: &mut Run, reader: &mut Reader, out: &mut dyn Output, pids: &[u32], sought: &mut Option<Listed>) -> Result<(), Stop> {
    for pid in pids {
        run.process(out, reader, *pid)?;
    }
    if let Some(shown) = sought {
        let groups = hidden::Groups::read(out)?;
        let mut scan = match hidden::scan(&hidden::Real, out, &shown.pids, &groups, hidden::Ranges::of_host(pids)) {
            Ok(scan) => scan,
            Err(cut) => {
                *sought = None;
                hidden::put_cut(out, &cut)?;
                return Err(cut.stop);
            }
        };
        scan.instead = shown.instead.or(scan.instead);
        *sought = None;
        let others: Vec<u32> = scan.hidden.keys().filter(|pid| pids.binary_search(pid).is_err()).copied().collect();
        run.meant = run.meant.saturating_add(others.len() as u64);
        hidden::put(out, &scan, &groups)?;
        for pid in others {
            run.process(out, reader, pid)?;
        }
    }
    run.again(out, reader)
}

/// Why what stands in the folder of processes need not be this host's processes; `None` where it shows the agent.
fn forged() -> Option<String> {
    // Not even the agent's own links are followed there.
    if !matches!(procfs::open_links(), Err(Errno::STALE)) {
        return None;
    }
    let shown = procfs::facts().into_iter().find(|(name, _)| *name == "proc_shows").map(|(_, shown)| shown);
    let shown = shown.unwrap_or_else(|| "no procfs that shows the agent".to_owned());
    let remedy = "run the agent with CAP_SYS_ADMIN, or with its own procfs at /proc";
    Some(format!("/proc is {shown}: what was read there need not be of this host's processes, and any of them may be missing; {remedy}"))
}

/// What to read of each process; says once, by item, what is left out for all of them. What a forged folder lacks says nothing of the
/// kernel.
fn plan(params: &Params, out: &mut dyn Output, is_forged: bool) -> Result<Plan, Stop> {
    let environ = params.flag("environ", true)?;
    let smaps = params.flag("smaps", false)?;
    let mut plan = Plan::default();
    content::put_skipped(out, evidence_path("/proc/*/numa_maps"), "left out: reading it holds up large processes")?;
    for file in RAW {
        let by_order = match file.name {
            "environ" if !environ => Some("left out by the parameter environ=false"),
            "smaps" | "smaps_rollup" if !smaps => Some("left out unless the order says smaps=true: reading holds up large processes"),
            _ => None,
        };
        if let Some(reason) = by_order {
            plan.without.push(file.name);
            content::put_skipped(out, evidence_path(format!("/proc/*/{}", file.name)), reason)?;
            continue;
        }
        // A file that this kernel was built without, or a label without a security module: the same for every process.
        let started = out.now();
        let own = procfs::root().and_then(|root| procfs::read_at(root, format!("self/{}", file.name), SMALL_BYTES_MAX));
        if let Err(e @ (Errno::NOENT | Errno::INVAL)) = own {
            plan.without.push(file.name);
            if is_forged {
                let reason = "not asked: /proc is no procfs that shows the agent, and has no such file of the agent";
                content::put_skipped(out, evidence_path(format!("/proc/*/{}", file.name)), reason)?;
                continue;
            }
            let item = NewItem::new(evidence_path(format!("/proc/*/{}", file.name)), Kind::Unknown, started, "read")
                .with_status(Status::Missing, format!("this kernel does not offer it: {e}"));
            out.put(item, Content::None)?;
        }
    }
    Ok(plan)
}
