//! Disks for tests: images in files, shown as loop devices.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::Finished;

/// A loop device over a file, detached when it is dropped.
#[derive(Debug)]
pub struct LoopDevice {
    node: String,
}

impl LoopDevice {
    /// Shows a file as a device with sectors of so many bytes, and looks for partitions in it.
    ///
    /// # Panics
    /// Where that may not be done: no privilege, no loop devices.
    #[must_use]
    pub fn attach(file: &Path, sector: u32) -> Self {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--partscan", "--sector-size", &sector.to_string()]).arg(file);
        let done = Finished::of(&mut command);
        assert!(done.code == 0, "this test needs loop devices, and the right to attach them: {}", done.stderr);
        Self { node: done.text().trim().to_owned() }
    }

    /// Its node in /dev.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.node]).status();
    }
}

/// Writes a partition table with sfdisk(8); `script` in its words. A device says itself what its sectors are.
///
/// # Panics
/// When sfdisk refuses it.
pub fn partition(target: &Path, script: &str) {
    use std::io::Write as _;
    let mut command = Command::new("sfdisk");
    command.args(["--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "always"]);
    let mut child =
        command.arg(target).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("sfdisk is installed");
    child.stdin.take().expect("piped").write_all(script.as_bytes()).expect("written");
    let out = child.wait_with_output().expect("sfdisk ends");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
