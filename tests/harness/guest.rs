//! Guests: whole machines of their own under QEMU, where a test needs a kernel that it may ask for everything. Emulated
//! (TCG), because a test machine has no other way; a boot takes seconds all the same.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Finished, Running, programs, wait_until};

/// How a guest is made.
#[derive(Debug, Clone)]
pub struct GuestPlan {
    /// MiB of memory.
    pub memory_mib: u32,
    /// MiB of memory that is plugged in as a module of its own, far above the rest.
    pub module_mib: Option<u32>,
    /// Processors.
    pub processors: u32,
    /// QEMU's processor model and flags. By default without AVX: emulated, AES-256-GCM by aws-lc takes seven times as long with it as
    /// by the AES and SSE instructions alone (QEMU 7.2), which says nothing about programs.
    pub cpu: String,
    /// Appended to the kernel's command line.
    pub append: String,
    /// Modules with what they need, in this order; parameters stand behind the name.
    pub modules: Vec<String>,
    /// Programs of the test machine that the guest gets, with their libraries, below `/bin`.
    pub programs: Vec<PathBuf>,
    /// Files and folders of the test machine, and where they are in the guest.
    pub files: Vec<(PathBuf, String)>,
    /// What the first process runs when everything is up (busybox sh).
    pub scenario: String,
    /// Images that the guest sees as /dev/vda, /dev/vdb, ...
    pub disks: Vec<PathBuf>,
}

impl Default for GuestPlan {
    fn default() -> Self {
        Self {
            memory_mib: 256,
            module_mib: None,
            processors: 2,
            cpu: "max,la57=off,avx=off,avx2=off".to_owned(),
            append: String::new(),
            modules: vec!["virtio_pci".to_owned(), "virtio_net".to_owned()],
            programs: Vec::new(),
            files: Vec::new(),
            scenario: String::new(),
            disks: Vec::new(),
        }
    }
}

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    dir: tempfile::TempDir,
    process: Running,
}

/// The parts that `tests/guest/kit.sh` makes.
///
/// # Panics
/// When they are not there; says how to make them.
#[must_use]
pub fn kit() -> PathBuf {
    let kit = programs().ancestors().nth(1).expect("target").join("guest-kit");
    assert!(kit.join("vmlinuz").is_file(), "no guest kit: run tests/guest/kit.sh {}", kit.display());
    kit
}

impl Guest {
    /// Starts a guest and waits until its first process runs.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn boot(plan: &GuestPlan) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let kit = kit();
        make_initrd(&kit, plan, dir.path());
        let slots = if plan.module_mib.is_some() { ",slots=2,maxmem=2G" } else { "" };
        let memory = format!("{}{slots}", plan.memory_mib);
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg,thread=multi", "-cpu", &plan.cpu, "-m", &memory, "-smp", &plan.processors.to_string()]);
        command.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
        command.arg("-kernel").arg(kit.join("vmlinuz")).arg("-initrd").arg(dir.path().join("initrd"));
        command.args(["-append", &format!("console=ttyS0 quiet panic=-1 {}", plan.append)]);
        // The guest reaches nothing but this machine's loopback, under 10.0.2.2.
        command.args(["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"]);
        command.arg("-monitor").arg(format!("unix:{},server,nowait", dir.path().join("monitor").display()));
        if let Some(mib) = plan.module_mib {
            command.args(["-object", &format!("memory-backend-ram,id=m0,size={mib}M"), "-device", "pc-dimm,memdev=m0"]);
        }
        for (n, disk) in plan.disks.iter().enumerate() {
            command.arg("-drive").arg(format!("file={},format=raw,if=none,id=d{n}", disk.display()));
            command.args(["-device", &format!("virtio-blk-pci,drive=d{n}")]);
        }
        let mut guest = Self { process: Running::start(&mut command, &dir.path().join("console.log")), dir };
        guest.wait_for("GUEST up", Duration::from_mins(2));
        guest
    }

    /// What its console said so far.
    #[must_use]
    pub fn console(&self) -> String {
        self.process.said().replace('\r', "")
    }

    /// Waits until the console shows a text.
    ///
    /// # Panics
    /// When it does not in time, or the guest ends, with the console.
    pub fn wait_for(&mut self, text: &str, limit: Duration) {
        wait_until(limit, &format!("'{text}' on the console ({})", self.dir.path().join("console.log").display()), || {
            let said = self.process.said();
            assert!(said.contains(text) || self.process.is_alive(), "the guest ended before '{text}':\n{said}");
            said.contains(text)
        });
    }

    /// The words after a key at the beginning of a line of the console.
    ///
    /// # Panics
    /// When there is no such line.
    #[must_use]
    pub fn told(&self, key: &str) -> Vec<String> {
        let console = self.console();
        let line = console.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_else(|| panic!("no line '{key}' in:\n{console}"));
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// Runs a command of QEMU's monitor, waits for its end and gives its answer.
    ///
    /// # Panics
    /// When the monitor does not answer.
    #[must_use]
    pub fn monitor(&self, command: &str) -> String {
        let mut socket = UnixStream::connect(self.dir.path().join("monitor")).expect("monitor");
        socket.set_read_timeout(Some(Duration::from_mins(1))).expect("limit");
        let mut answer = until_prompt(&mut socket);
        socket.write_all(format!("{command}\n").as_bytes()).expect("monitor");
        answer.clear();
        until_prompt(&mut socket)
    }

    /// The guest's folder on this machine.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Ends it.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

fn until_prompt(socket: &mut UnixStream) -> String {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while !said.ends_with(b"(qemu) ") {
        let got = socket.read(&mut buffer).expect("the monitor answers");
        assert!(got > 0, "the monitor is gone: {}", String::from_utf8_lossy(&said));
        said.extend(&buffer[..got]);
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// The first file system: busybox, modules, programs with their libraries, files, the scenario.
fn make_initrd(kit: &Path, plan: &GuestPlan, dir: &Path) {
    let root = dir.join("root");
    for folder in ["bin", "proc", "sys", "dev", "etc", "modules", "lib64"] {
        std::fs::create_dir_all(root.join(folder)).expect("folder");
    }
    std::fs::copy(kit.join("busybox"), root.join("bin/busybox")).expect("busybox");
    std::fs::copy(kit.join("suspect"), root.join("bin/suspect")).expect("suspect");
    let list = Finished::of(Command::new(kit.join("busybox")).arg("--list")).ok().text();
    for name in list.lines() {
        let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(name));
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/init.sh");
    std::fs::copy(source, root.join("init")).expect("init");
    std::fs::write(root.join("scenario.sh"), &plan.scenario).expect("scenario");
    std::fs::write(root.join("etc/hosts"), "10.0.2.2 localhost\n127.0.0.1 guest\n").expect("hosts");
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").expect("passwd");
    put_modules(kit, &plan.modules, &root);
    for program in &plan.programs {
        put_program(program, &root);
    }
    for (from, to) in &plan.files {
        let to = root.join(to.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("folder");
        let _ = Finished::of(Command::new("cp").arg("-a").arg(from).arg(&to)).ok();
    }
    let pack = "find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0 > ../initrd";
    let _ = Finished::of(Command::new("sh").args(["-e", "-c", pack]).current_dir(&root)).ok();
    std::fs::remove_dir_all(root).expect("removed");
}

fn put_modules(kit: &Path, modules: &[String], root: &Path) {
    let release = std::fs::read_to_string(kit.join("release")).expect("release");
    let folder = kit.join("modules").join(release.trim());
    let table = std::fs::read_to_string(folder.join("modules.dep")).expect("modules.dep");
    let (mut done, mut list) = (BTreeSet::new(), String::new());
    for module in modules {
        let (module, parameters) = module.split_once(' ').unwrap_or((module, ""));
        let is_it = |path: &str| path.rsplit('/').next().is_some_and(|f| f.split('.').next() == Some(module));
        let line = table.lines().find(|l| l.split_once(':').is_some_and(|(path, _)| is_it(path)));
        let line = line.unwrap_or_else(|| panic!("the kernel has no module {module}"));
        let (path, needs) = line.split_once(':').expect("a line of modules.dep");
        // What a module needs stands in the order in which it would be removed.
        for needed in needs.split_whitespace().rev().chain([path]) {
            let name = needed.rsplit('/').next().expect("a name");
            if done.insert(name.to_owned()) {
                std::fs::copy(folder.join(needed), root.join("modules").join(name)).expect("module");
                let parameters = if needed == path { parameters } else { "" };
                writeln!(list, "{name} {parameters}").expect("text");
            }
        }
    }
    std::fs::write(root.join("modules.list"), list).expect("list");
}

/// A program without its symbols, and the libraries that it loads.
fn put_program(program: &Path, root: &Path) {
    let to = root.join("bin").join(program.file_name().expect("a name"));
    let stripped = Command::new("strip").arg("-o").arg(&to).arg(program).status().is_ok_and(|s| s.success());
    if !stripped {
        std::fs::copy(program, &to).expect("program");
    }
    let needs = Finished::of(Command::new("ldd").arg(program));
    for path in needs.text().split_whitespace().filter(|w| w.starts_with('/')) {
        let to = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("folder");
        std::fs::copy(path, to).expect("library");
    }
}
