//! Which container a process belongs to, told from its control group: works for every runtime without asking it.

use serde::Serialize;

use crate::capture::live::{lines, split_at_byte};

/// A container as the control group names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Container {
    /// The runtime's id: 64 hexadecimal digits for all that are recognised here but LXC and nspawn, which use names.
    pub id: String,
    /// `docker`, `containerd`, `cri-o`, `podman`, `lxc`, `nspawn`, or `unknown`.
    pub runtime: &'static str,
    /// The Kubernetes pod's uid, where the path names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

/// Reads `/proc/<pid>/cgroup` lines (`<n>:<controllers>:<path>`); the innermost container of the first line that names one.
#[must_use]
pub fn of_cgroup(bytes: &[u8]) -> Option<Container> {
    lines(bytes).find_map(|line| {
        let (_, rest) = split_at_byte(line, b':')?;
        let (_, path) = split_at_byte(rest, b':')?;
        of_path(std::str::from_utf8(path).ok()?)
    })
}

/// The container that a control group path names.
#[must_use]
pub fn of_path(path: &str) -> Option<Container> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let pod_uid = parts.iter().rev().find_map(|p| pod_uid(p));
    let mut found = None;
    for (i, part) in parts.iter().enumerate() {
        let parent = i.checked_sub(1).and_then(|p| parts.get(p)).copied().unwrap_or_default();
        if let Some((id, runtime)) = container_of(part, parent) {
            found = Some((id, runtime));
        }
    }
    let (id, runtime) = found?;
    // The cgroupfs driver of Kubernetes names only the id: the runtime is not told.
    let runtime = if runtime == "unknown" && pod_uid.is_none() && path.starts_with("/docker/") { "docker" } else { runtime };
    Some(Container { id: id.to_owned(), runtime, pod_uid })
}

fn container_of<'a>(part: &'a str, parent: &str) -> Option<(&'a str, &'static str)> {
    const PREFIXES: [(&str, &str); 8] = [
        ("cri-containerd-", "containerd"),
        ("crio-conmon-", "cri-o"),
        ("crio-", "cri-o"),
        ("docker-", "docker"),
        ("libpod-conmon-", "podman"),
        ("libpod-", "podman"),
        ("nerdctl-", "containerd"),
        ("containerd-", "containerd"),
    ];
    let bare = part.strip_suffix(".scope").unwrap_or(part);
    for (prefix, runtime) in PREFIXES {
        if let Some(id) = bare.strip_prefix(prefix).filter(|id| is_id(id)) {
            return Some((id, runtime));
        }
    }
    // `systemd-run` style of containerd's systemd driver: `system.slice:docker:<id>` or `kubepods-...slice:cri-containerd:<id>`.
    if let Some((head, id)) = bare.rsplit_once(':')
        && is_id(id)
    {
        let runtime = match head.rsplit(':').next().unwrap_or_default() {
            "cri-containerd" | "nerdctl" => "containerd",
            "docker" => "docker",
            "crio" => "cri-o",
            "libpod" => "podman",
            _ => "unknown",
        };
        return Some((id, runtime));
    }
    if is_id(bare) {
        let runtime = match parent {
            "docker" => "docker",
            "libpod_parent" => "podman",
            "default" | "k8s.io" | "moby" => "containerd",
            _ => "unknown",
        };
        return Some((bare, runtime));
    }
    if let Some(name) = part.strip_prefix("lxc.payload.").filter(|n| !n.is_empty()) {
        return Some((name, "lxc"));
    }
    if parent == "lxc" && !part.is_empty() {
        return Some((part, "lxc"));
    }
    if parent == "machine.slice"
        && let Some(name) = part.strip_prefix("systemd-nspawn@").and_then(|n| n.strip_suffix(".service"))
    {
        return Some((name, "nspawn"));
    }
    None
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// `kubepods-besteffort-pod0b3f..._...slice` (underscores for dashes), `pod0b3f-...`.
fn pod_uid(part: &str) -> Option<String> {
    let slice = part.split(':').next().unwrap_or_default();
    let bare = slice.strip_suffix(".slice").unwrap_or(slice);
    let uid = bare.rsplit_once("pod").map(|(_, uid)| uid)?.replace('_', "-");
    let uuid = uid.len() == 36
        && uid.bytes().enumerate().all(|(i, b)| if matches!(i, 8 | 13 | 18 | 23) { b == b'-' } else { b.is_ascii_hexdigit() });
    // Static pods of the kubelet carry a hash of 32 digits in place of a UUID.
    let hash = uid.len() == 32 && uid.bytes().all(|b| b.is_ascii_hexdigit());
    (uuid || hash).then_some(uid)
}
