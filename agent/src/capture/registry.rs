//! Which captures there are, in the order in which a collection runs them.

use super::Capture;

/// Makes a capture.
pub type Constructor = fn() -> Box<dyn Capture>;

/// Every capture by name, most volatile first. RFC 3227 section 2.1: routing table, ARP cache and connections, then the
/// process table and memory, kernel state, temporary file systems, disks, logs that stay, physical configuration. A
/// collection runs its captures in this order, whatever the order in which a responder listed them.
pub const REGISTRY: &[(&str, Constructor)] = &[
    // network: sockets, neighbours, routes: gone within seconds
    ("network", super::network::Network::boxed),
    // process: ends with the process
    ("process", super::process::Process::boxed),
    // process-memory: what the table of processes does not show; the table is taken first, because it is what goes quickest
    ("process-memory", super::process_memory::ProcessMemory::boxed),
    // memory: changes all the time, and takes minutes
    ("memory", super::memory::Memory::boxed),
    // system: kernel state, mounts, logins: ends with the boot
    ("system", super::system::System::boxed),
    // logs: rotated away within days
    ("logs", || Box::new(super::logs::Logs)),
    // files: stay until somebody changes them
    ("files", || Box::new(super::files::Files)),
    // disk: holds all of the above that stays and takes hours, so that nothing that is quick waits behind it
    ("disk", || Box::new(super::disk::Disk)),
];

/// The constructor of a capture and its place in the order of volatility.
#[must_use]
pub fn find(name: &str) -> Option<(usize, Constructor)> {
    REGISTRY.iter().enumerate().find(|(_, (n, _))| *n == name).map(|(place, (_, make))| (place, *make))
}

/// The names of all captures, most volatile first.
#[must_use]
pub fn names() -> Vec<&'static str> {
    REGISTRY.iter().map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capture_is_what_its_line_says() {
        for (place, (name, make)) in REGISTRY.iter().enumerate() {
            assert_eq!(make().name(), *name);
            assert_eq!(find(name).map(|(p, _)| p), Some(place), "listed once");
            assert_eq!(exhibit_evidence::parameters::CAPTURES.get(place).map(|d| d.name), Some(*name), "its parameters are known");
            assert!(name.len() <= 32 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        }
    }
}
