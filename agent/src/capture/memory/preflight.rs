//! What stands in the way of memory, looked at before anything of it is read.

use rustix::io::Errno;
use serde::Serialize;

use super::iomem::Iomem;
use super::physical::{Physical, Refused};
use super::ranges::{PAGE, Range, total};
use super::tables::Tables;
use crate::capture::live::{LARGE_BYTES_MAX, Lossless, SMALL_BYTES_MAX, lines, names, number, open_dir, read, text, words};
use crate::capture::procfs;

/// The record `preflight.json`.
#[derive(Debug, Serialize)]
pub struct Preflight {
    /// The kernel's.
    pub release: String,
    machine: String,
    page_bytes: u64,
    /// `none`, `integrity`, `confidentiality`; absent where the kernel has no lockdown.
    lockdown: Option<String>,
    /// The agent's effective capabilities, hexadecimal as the kernel prints them.
    capabilities: Option<Lossless>,
    kptr_restrict: Option<Lossless>,
    /// The physical ranges of System RAM: `[first, end)`, decimal, in the order in which page flags are stored.
    system_ram: Vec<[u64; 2]>,
    system_ram_bytes: u64,
    /// Bytes of it that the source can read.
    exposed_bytes: u64,
    /// Where memory is read.
    source: Option<&'static str>,
    /// Sources that cannot be used, and why.
    refused: Vec<Refused>,
    /// Five levels of page tables are in use: volatility3 up to 2.28 lists nothing then, without an error; drgn works.
    la57: Option<bool>,
    /// Zeros are held against the kernel's own page tables: without that, what the kernel does not map (`memfd_secret`) is not told
    /// from memory that is zero.
    zeros_judged: bool,
    /// Why they are not.
    zeros_not_judged: Option<String>,
    /// Hints that the hypervisor encrypts this guest's memory.
    encrypted_guest: Vec<String>,
    /// Memory that an encrypted guest has not accepted yet: it has no content, and the kernel answers with zeros. Absent where the
    /// kernel does not tell (before Linux 6.5, and where it was built without).
    unaccepted_bytes: Option<u64>,
    /// Memory that is elsewhere than in RAM.
    swaps: Vec<String>,
    /// Why that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    swaps_not_known: Option<String>,
    zswap: Option<Lossless>,
    zram: Vec<String>,
    /// What an examiner should know before anything else.
    pub warnings: Vec<String>,
}

/// Words of `/proc/cpuinfo` and the device that tell an encrypted guest.
const ENCRYPTED: [&str; 5] = ["sev", "sev_es", "sev_snp", "tdx_guest", "tdx_host_platform"];

impl Preflight {
    /// Looks.
    #[must_use]
    pub fn look(
        iomem: &Iomem,
        physical: Option<&dyn Physical>,
        exposed: &[Range],
        refused: Vec<Refused>,
        vmcoreinfo: &[u8],
        tables: &Result<Tables, String>,
    ) -> Self {
        let uname = rustix::system::uname();
        let cpuinfo = read("/proc/cpuinfo", LARGE_BYTES_MAX).map(|r| r.bytes).unwrap_or_default();
        let flags: Vec<&[u8]> =
            lines(&cpuinfo).find(|l| l.starts_with(b"flags")).map_or_else(Vec::new, |l| l.split(|b| *b == b' ').collect());
        let has = |word: &str| flags.contains(&word.as_bytes());
        let mut encrypted: Vec<String> = ENCRYPTED.iter().filter(|w| has(w)).map(|w| format!("processor flag {w}")).collect();
        for device in ["/dev/sev-guest", "/dev/tdx_guest", "/sys/firmware/coco"] {
            if std::fs::symlink_metadata(device).is_ok() {
                encrypted.push(format!("{device} is there"));
            }
        }
        let level = |line: &[u8]| line.strip_prefix(b"NUMBER(pgtable_l5_enabled)=").map(|v| v != b"0");
        let swaps = swaps();
        let mut found = Self {
            release: uname.release().to_string_lossy().into_owned(),
            machine: uname.machine().to_string_lossy().into_owned(),
            page_bytes: page_bytes(),
            lockdown: lockdown(),
            capabilities: capabilities(),
            kptr_restrict: text("/proc/sys/kernel/kptr_restrict"),
            system_ram: iomem.ram.iter().map(|r| [r.start, r.end]).collect(),
            system_ram_bytes: total(&iomem.ram),
            exposed_bytes: total(exposed),
            source: physical.map(Physical::name),
            refused,
            la57: lines(vmcoreinfo).find_map(level),
            zeros_judged: tables.is_ok(),
            zeros_not_judged: tables.as_ref().err().cloned(),
            encrypted_guest: encrypted,
            unaccepted_bytes: read("/proc/meminfo", SMALL_BYTES_MAX).ok().and_then(|r| unaccepted(&r.bytes)),
            swaps: swaps.clone().unwrap_or_default(),
            swaps_not_known: swaps.err(),
            zswap: text("/sys/module/zswap/parameters/enabled"),
            zram: zram(),
            warnings: Vec::new(),
        };
        found.warn(iomem);
        found
    }

    fn warn(&mut self, iomem: &Iomem) {
        let mut warnings = iomem.problems();
        if self.page_bytes != PAGE {
            warnings.push(other_pages(self.page_bytes));
        }
        if let Some(why) = self.zeros_not_judged.as_ref().filter(|_| self.source.is_some()) {
            warnings.push(format!(
                "zeros are not held against the kernel's own map: {why}; what it does not map (memfd_secret) stands as data"
            ));
        }
        if self.la57 == Some(true) {
            warnings.push("five-level page tables are in use: volatility3 up to 2.28 lists nothing from such an image and says nothing; use the ELF export with drgn".to_owned());
        }
        if !self.encrypted_guest.is_empty() {
            warnings.push(
                "the hypervisor may encrypt this guest: the kernel inside reads plain text, except of shared and unaccepted pages"
                    .to_owned(),
            );
        }
        if let Some(bytes) = self.unaccepted_bytes.filter(|bytes| *bytes > 0) {
            warnings.push(format!("{bytes} bytes were not accepted by this guest yet: their zeros stand as data"));
        }
        // A device of zram is no swap before it is used as one, and then it is in the table.
        if !self.swaps.is_empty() {
            warnings.push("parts of processes' memory may be in swap, which is not in this image".to_owned());
        }
        if let Some(why) = &self.swaps_not_known {
            warnings.push(format!("whether parts of processes' memory are in swap is not known: {why}"));
        }
        let missing = self.system_ram_bytes.saturating_sub(self.exposed_bytes);
        if let Some(source) = self.source.filter(|_| missing > 0) {
            warnings.push(format!("{missing} bytes of System RAM are not shown by {source}: they stand as gaps in map.jsonl"));
        }
        self.warnings = warnings;
    }

    /// The lockdown level in words, for reasons.
    #[must_use]
    pub fn lockdown(&self) -> &str {
        self.lockdown.as_deref().unwrap_or("not offered by this kernel")
    }
}

/// Bytes of this kernel's pages.
#[must_use]
pub fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

/// What is not said about pages of another size, and why.
#[must_use]
pub fn other_pages(bytes: u64) -> String {
    format!(
        "this kernel's pages have {bytes} bytes, not {PAGE}: nothing is said by page flags or page tables, and the first pass is left out"
    )
}

/// `none [integrity] confidentiality`: the one in brackets (`security/lockdown/lockdown.c`).
fn lockdown() -> Option<String> {
    let text = text("/sys/kernel/security/lockdown")?.0;
    let text = String::from_utf8_lossy(&text).into_owned();
    let (_, from) = text.split_once('[')?;
    from.split_once(']').map(|(level, _)| level.to_owned())
}

fn capabilities() -> Option<Lossless> {
    let status = read("/proc/self/status", SMALL_BYTES_MAX).ok()?.bytes;
    lines(&status).find_map(|l| l.strip_prefix(b"CapEff:").map(|v| Lossless(v.trim_ascii().to_vec())))
}

/// The line `Unaccepted:` of `/proc/meminfo`, kB (`fs/proc/meminfo.c`), in bytes.
fn unaccepted(meminfo: &[u8]) -> Option<u64> {
    let value = lines(meminfo).find_map(|l| l.strip_prefix(b"Unaccepted:"))?;
    words(value).next().and_then(number::<u64>).map(|kib| kib.saturating_mul(1024))
}

/// The rows of the table of swaps, or why they are not known.
fn swaps() -> Result<Vec<String>, String> {
    match (read("/proc/swaps", SMALL_BYTES_MAX), procfs::not_whole()) {
        (_, Some(why)) => Err(why),
        (Ok(table), None) => Ok(lines(&table.bytes).skip(1).map(exhibit_evidence::text::escape_bytes).collect()),
        // A kernel without swap (CONFIG_SWAP) has no such table.
        (Err(Errno::NOENT), None) => Ok(Vec::new()),
        (Err(e), None) => Err(format!("/proc/swaps: {e}")),
    }
}

fn zram() -> Vec<String> {
    let Ok((found, _)) = open_dir(rustix::fs::CWD, "/sys/block").and_then(|dir| names(dir, 10_000)) else { return Vec::new() };
    found.iter().filter(|n| n.starts_with(b"zram")).map(|n| exhibit_evidence::text::escape_bytes(n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_examiner_should_know_is_a_warning() {
        let iomem = Iomem { bad_lines: 3, cut: Some("cut there".to_owned()), ..Iomem::default() };
        let nothing: Result<Tables, String> = Err("no place".to_owned());
        let mut found = Preflight::look(&iomem, None, &[], Vec::new(), b"", &nothing);
        assert!(!found.zeros_judged && found.warnings.iter().any(|w| w.contains("3 lines")), "{found:?}");
        assert!(found.warnings.iter().any(|w| w.contains("cut there")), "{found:?}");
        (found.source, found.page_bytes) = (Some("/proc/kcore"), 65_536);
        found.warn(&iomem);
        assert!(
            found.warnings.iter().any(|w| w.contains("no place")) && found.warnings.iter().any(|w| w.contains("65536 bytes")),
            "{found:?}"
        );
    }

    /// A device of zram is not swap yet: modules make one when they are loaded.
    #[test]
    fn only_swap_that_is_in_use_is_called_so() {
        let nothing: Result<Tables, String> = Err("no place".to_owned());
        let mut found = Preflight::look(&Iomem::default(), None, &[], Vec::new(), b"", &nothing);
        let disk = "/dev/sda2 partition 1048572 0 -2".to_owned();
        for (swaps, not_known, said) in [
            (Vec::new(), None, None),
            (vec![disk], None, Some("may be in swap")),
            (Vec::new(), Some("/proc is no procfs".to_owned()), Some("in swap is not known: /proc is no procfs")),
        ] {
            (found.swaps, found.swaps_not_known, found.zram) = (swaps, not_known, vec!["zram0".to_owned()]);
            found.warn(&Iomem::default());
            let warned = found.warnings.iter().find(|w| w.contains("swap"));
            assert_eq!(warned.is_some(), said.is_some(), "{found:?}");
            assert!(said.is_none_or(|said| warned.is_some_and(|w| w.contains(said))), "{found:?}");
        }
    }

    #[test]
    fn memory_that_was_not_accepted_is_counted_and_said() {
        assert_eq!(unaccepted(b"MemTotal:  4096 kB\nUnaccepted:     2048 kB\nHugePages_Total: 0\n"), Some(2 << 20));
        assert_eq!((unaccepted(b"MemTotal:  4096 kB\n"), unaccepted(b"Unaccepted: none\n")), (None, None));
        let nothing: Result<Tables, String> = Err("no place".to_owned());
        let mut found = Preflight::look(&Iomem::default(), None, &[], Vec::new(), b"", &nothing);
        for (bytes, said) in [(None, false), (Some(0), false), (Some(2 << 20), true)] {
            found.unaccepted_bytes = bytes;
            found.warn(&Iomem::default());
            assert_eq!(found.warnings.iter().any(|w| w.contains("2097152 bytes were not accepted")), said, "{found:?}");
        }
    }
}
