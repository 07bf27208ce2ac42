//! The programs that are taken, compiled by the test.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Four threads that wait, one in a signal handler, and a marker in the heap.
pub const THREADS: &str = r#"
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
char *marker;
static __thread char local[32];
static int ready;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void up(void) { pthread_mutex_lock(&lock); ready++; pthread_mutex_unlock(&lock); }
static void on_signal(int n) { (void)n; up(); for (;;) pause(); }
void interrupted_here(void) { raise(SIGUSR1); }
static void *waiter(void *arg) {
    snprintf(local, sizeof local, "LOCAL-OF-%ld", (long)arg);
    char *volatile seen = local; (void)seen;
    up(); for (;;) pause();
}
static void *handler(void *arg) { (void)arg; interrupted_here(); return 0; }
int main(void) {
    marker = malloc(100000); strcpy(marker, "MARKER-IN-THE-HEAP");
    signal(SIGUSR1, on_signal);
    pthread_t t;
    for (long n = 0; n < 4; n++) pthread_create(&t, 0, waiter, (void *)n);
    pthread_create(&t, 0, handler, 0);
    for (;;) { pthread_mutex_lock(&lock); int n = ready; pthread_mutex_unlock(&lock); if (n == 5) break; usleep(1000); }
    puts("ready"); fflush(stdout);
    for (;;) pause();
}
"#;

/// A value in a vector register, for ever.
pub const VECTOR: &str = r#"
#include <stdio.h>
int main(void) {
    static const unsigned long v[4] __attribute__((aligned(32))) = { 0x1111111111111111, 0x2222222222222222, 0x3333333333333333, 0x4444444444444444 };
    puts("ready"); fflush(stdout);
    __asm__ volatile("vmovdqa %0, %%ymm7\n1: pause\njmp 1b" :: "m"(*(const char (*)[32])v) : "xmm7");
}
"#;

/// Many threads that wait.
pub const MANY: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static pthread_barrier_t all;
static void *waiter(void *arg) { (void)arg; pthread_barrier_wait(&all); for (;;) pause(); }
int main(int argc, char **argv) {
    int count = atoi(argv[1]); pthread_barrier_init(&all, 0, count + 1);
    for (long n = 0; n < count; n++) { pthread_t t; pthread_create(&t, 0, waiter, (void *)n); }
    pthread_barrier_wait(&all);
    puts("ready"); fflush(stdout);
    for (;;) pause();
}
"#;

/// 10 GiB of which three pages are touched.
pub const SPARSE: &str = r#"
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
char *block;
int main(void) {
    unsigned long size = 10UL << 30;
    block = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    madvise(block, size, MADV_NOHUGEPAGE);
    strcpy(block, "SPARSE-FIRST"); strcpy(block + (size / 2), "SPARSE-MIDDLE"); strcpy(block + size - 4096, "SPARSE-LAST");
    puts("ready"); fflush(stdout);
    for (;;) pause();
}
"#;

/// Pages without any access: some with content, many that were never touched.
pub const GUARDED: &str = r#"
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
char *hidden, *reserved, *zeros;
int main(void) {
    char *room = mmap(0, 6 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    zeros = (char *)(((unsigned long)room + (2 << 20) - 1) & ~((2UL << 20) - 1));
    madvise(zeros, 2 << 20, MADV_HUGEPAGE); madvise(zeros + (2 << 20), 2 << 20, MADV_NOHUGEPAGE);
    volatile char sum = zeros[0] + zeros[2 << 20]; (void)sum;
    hidden = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(hidden, "HIDDEN-BY-MPROTECT"); mprotect(hidden, 65536, PROT_NONE);
    reserved = mmap(0, 1UL << 40, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    puts("ready"); fflush(stdout);
    for (;;) pause();
}
"#;

/// Guards in its own memory and in that of a file, where the kernel has such: what came of asking for them, and where they are.
pub const GUARDS: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char *own = mmap(0, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(own, 16 * 4096, MADV_NOHUGEPAGE);
    strcpy(own, "BEFORE-THE-GUARD"); strcpy(own + 4096, "LOST-TO-THE-GUARD"); strcpy(own + 3 * 4096, "BEHIND-THE-GUARD");
    int fd = open(argv[1], O_RDONLY);
    char *file = mmap(0, 4 * 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    int of_own = madvise(own + 4096, 2 * 4096, 102 /* MADV_GUARD_INSTALL */), of_file = madvise(file + 4096, 4096, 102);
    puts("ready"); printf("%d %lu %d %lu\n", of_own, (unsigned long)own + 4096, of_file, (unsigned long)file + 4096); fflush(stdout);
    for (;;) pause();
}
"#;

/// Files and shared memory of all kinds, most of it never looked at.
pub const MAPPED: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
char *file, *shared, *other, *gone;
int main(int argc, char **argv) {
    int fd = open(argv[1], O_RDONLY);
    file = mmap(0, 1 << 20, PROT_READ, MAP_PRIVATE, fd, 0);
    shared = mmap(0, 4 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    strcpy(shared + (1 << 20), "SHARED-WITHOUT-FILE");
    int m = memfd_create("a memfd", 0); ftruncate(m, 8 << 20); pwrite(m, "IN-A-MEMFD", 11, 4 << 20);
    other = mmap(0, 8 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, m, 0); close(m);
    char path[4096]; snprintf(path, sizeof path, "%s.gone", argv[1]);
    int g = open(path, O_CREAT | O_RDWR, 0600); write(g, "DELETED-BUT-MAPPED", 19); unlink(path);
    gone = mmap(0, 4096, PROT_READ, MAP_PRIVATE, g, 0); close(g);
    puts("ready"); fflush(stdout);
    for (;;) pause();
}
"#;

/// Runs another program when told.
pub const EXEC: &str = r#"
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    puts("ready"); fflush(stdout);
    getchar(); execl(argv[1], argv[1], "300", (char *)0);
}
"#;

/// Counts the signals that it gets.
pub const COUNTING: &str = r#"
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
static volatile int count;
static void on_signal(int n) { (void)n; count++; }
int main(void) {
    struct sigaction a = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigaction(SIGUSR1, &a, 0);
    puts("ready"); fflush(stdout);
    getchar(); printf("handled %d\n", count); fflush(stdout);
    for (;;) pause();
}
"#;

/// Counts two numbers up as fast as it can, one after the other, far from each other.
pub const COUNTER: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
volatile unsigned long first; char far[32 << 20] = { 1 }; volatile unsigned long second = 0;
static void *run(void *arg) { (void)arg; for (;;) { first++; second++; } }
int main(void) {
    pthread_t t; for (unsigned long n = 0; n < sizeof far; n += 4096) far[n] = 1;
    pthread_create(&t, 0, run, 0);
    puts("ready"); fflush(stdout);
    for (;;) pause();
}
"#;

/// A process of 32 bits, without a C library: `write` and `pause` by their numbers there.
#[cfg(target_arch = "x86_64")]
pub const NARROW: &str = r#"
void _start(void) {
    static const char said[] = "ready\n";
    long done;
    __asm__ volatile("int $0x80" : "=a"(done) : "a"(4), "b"(1), "c"(said), "d"(6) : "memory");
    for (;;) __asm__ volatile("int $0x80" : "=a"(done) : "a"(29) : "memory");
}
"#;

/// Waits in uninterruptible sleep for a child that shares its memory.
pub const WAITING: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
char *marker;
int main(void) {
    marker = malloc(4096); strcpy(marker, "WAITS-FOR-ITS-CHILD");
    puts("ready"); fflush(stdout);
    pid_t child = vfork();
    if (child == 0) { char c; read(0, &c, 1); _exit(0); }
    puts("released"); fflush(stdout);
    for (;;) pause();
}
"#;

/// Starts and ends threads as fast as it can.
pub const RESTLESS: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static void *brief(void *arg) { return arg; }
static void *starter(void *arg) { for (;;) { pthread_t t; if (!pthread_create(&t, 0, brief, 0)) pthread_join(t, 0); } }
int main(void) {
    for (int n = 0; n < 4; n++) { pthread_t t; pthread_create(&t, 0, starter, 0); }
    puts("ready"); fflush(stdout);
    for (;;) pause();
}
"#;

/// Changes what is on its stack and in its heap when told.
pub const CHANGES: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
char *stack, *heap;
static void say(const char *when) { sprintf(stack, "STACK-%s", when); sprintf(heap, "HEAP-%s", when); }
int main(void) {
    char place[64]; stack = place; heap = malloc(1 << 20);
    say("BEFORE"); puts("ready"); fflush(stdout);
    getchar(); say("AFTER"); puts("changed"); fflush(stdout);
    for (;;) pause();
}
"#;

/// A Go program with a marker in its heap.
pub const GO: &str = r#"
package main
import ("fmt"; "strings"; "time")
var kept []string
func main() {
    for n := 0; n < 100; n++ { kept = append(kept, strings.Repeat("MARKER-OF-THE-GOPHER ", 3)) }
    go func() { for { time.Sleep(time.Hour) } }()
    fmt.Println("ready")
    for { time.Sleep(time.Hour) }
}
"#;

/// A Python program with a marker in its heap.
pub const PYTHON: &str =
    "import time\nkept = ['MARKER-OF-THE-' + 'SNAKE %d' % n for n in range(1000)]\nprint('ready', flush=True)\ntime.sleep(3600)";

/// Overwrites its arguments to the last byte, and has a copy of its environment nowhere.
pub const TITLE: &str = r#"
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv, char **environ) {
    memset(argv[0], 'x', environ[0] - argv[0]);
    write(1, "ready\n", 6);
    for (;;) pause();
}
"#;

/// Memory that userfaultfd watches: `missing` has 2 of 16 pages, `guarded` 1 of 16, all of them write-protected. Nobody answers. A
/// page more is a guard, where the kernel has such. Told to, it says how often userfaultfd was asked for something and how many
/// pages there are now.
pub const WATCHED: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
enum { BYTES = 16 * 4096 };
char *missing, *guarded, *guard;
static int resident(char *block) {
    unsigned char there[16]; int count = 0;
    mincore(block, BYTES, there);
    for (int n = 0; n < 16; n++) count += there[n] & 1;
    return count;
}
static char *block(void) {
    char *b = mmap(0, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(b, BYTES, MADV_NOHUGEPAGE);
    return b;
}
static void must(int result, const char *what) { if (result < 0) { perror(what); exit(1); } }
static void watch(int fd, char *b, int mode) {
    struct uffdio_register r = { { (unsigned long)b, BYTES }, mode };
    must(ioctl(fd, UFFDIO_REGISTER, &r), "UFFDIO_REGISTER");
}
int main(void) {
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    must(fd, "userfaultfd");
    struct uffdio_api api = { UFFD_API, UFFD_FEATURE_PAGEFAULT_FLAG_WP | 1 << 13 /* WP_UNPOPULATED */ };
    must(ioctl(fd, UFFDIO_API, &api), "UFFDIO_API");
    missing = block(); strcpy(missing, "WATCHED-AND-THERE"); missing[5 * 4096] = 1;
    guarded = block(); strcpy(guarded, "PROTECTED-AND-THERE");
    guard = block(); strcpy(guard, "BESIDE-A-GUARD"); madvise(guard + 4096, 4096, 102 /* MADV_GUARD_INSTALL */);
    watch(fd, missing, UFFDIO_REGISTER_MODE_MISSING); watch(fd, guarded, UFFDIO_REGISTER_MODE_WP);
    struct uffdio_writeprotect w = { { (unsigned long)guarded, BYTES }, UFFDIO_WRITEPROTECT_MODE_WP };
    must(ioctl(fd, UFFDIO_WRITEPROTECT, &w), "UFFDIO_WRITEPROTECT");
    puts("ready"); fflush(stdout);
    for (;;) {
        getchar();
        struct pollfd p = { fd, POLLIN };
        printf("asked %d, there %d %d\n", poll(&p, 1, 0), resident(missing), resident(guarded)); fflush(stdout);
    }
}
"#;

/// A program that holds its own memory lock until it is killed: see there.
pub fn locked(dir: &Path) -> Target {
    mounted(dir, &[])
}

/// A program that only has a file open whose server answers everything but reads: see there for `how`.
pub fn silent(dir: &Path, how: &str) -> Target {
    mounted(dir, &[how])
}

fn mounted(dir: &Path, arguments: &[&str]) -> Target {
    let program = compile(dir, "locked", include_str!("locked.c"), &["-pthread"]);
    let mount = dir.join("mount");
    std::fs::create_dir(&mount).expect("a folder to mount on");
    let mut command = Command::new(program);
    command.arg(mount).args(arguments);
    Target::start(command)
}

/// Compiles a C program.
pub fn compile(dir: &Path, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let (c, program) = (dir.join(format!("{name}.c")), dir.join(name));
    std::fs::write(&c, source).expect("source");
    let done = Command::new("gcc").args(["-g", "-O0", "-w", "-o"]).arg(&program).arg(&c).args(flags).status().expect("gcc");
    assert!(done.success(), "{name} does not compile");
    program
}

/// A program that said `ready`; killed and reaped when the test ends.
pub struct Target {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Target {
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // Another thread of this test program may hold the file open for writing across its own fork: then it is busy.
        let mut child = (0..400).find_map(|_| match command.spawn() {
            Ok(child) => Some(child),
            Err(e) if e.raw_os_error() == Some(26) => {
                pause();
                None
            }
            Err(e) => panic!("{command:?}: {e}"),
        });
        let mut child = child.take().expect("started");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("ready");
        assert!(line.starts_with("ready"), "{command:?}: {line}");
        Self { child, out }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// Tells it to go on: a line on its standard input.
    pub fn tell(&mut self) {
        use std::io::Write as _;
        self.child.stdin.as_mut().expect("piped").write_all(b"go\n").expect("told");
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test waits for another process")]
pub fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(5));
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        pause();
    }
    panic!("it did not happen within 10 s: {what}");
}

/// The letters of the states of all threads of a process.
pub fn state(pid: u32) -> String {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return String::new() };
    tasks
        .filter_map(Result::ok)
        .filter_map(|t| std::fs::read_to_string(t.path().join("stat")).ok())
        .filter_map(|s| s.rsplit(") ").next().and_then(|r| r.chars().next()))
        .collect()
}

/// Says that its environment is elsewhere: nowhere (`empty`), or everywhere (`all`).
pub const LIE: &str = r#"
#define _GNU_SOURCE
#include <linux/prctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
int main(int argc, char **argv) {
    FILE *stat = fopen("/proc/self/stat", "r");
    char text[4096] = {0};
    fread(text, 1, sizeof text - 1, stat);
    fclose(stat);
    unsigned long long f[64] = {0};
    int n = 3;
    for (char *p = strtok(strrchr(text, ')') + 4, " "); p && n < 64; p = strtok(0, " ")) sscanf(p, "%llu", &f[++n]);
    struct prctl_mm_map map = {
        .start_code = f[26], .end_code = f[27], .start_stack = f[28], .start_data = f[45], .end_data = f[46], .start_brk = f[47],
        .brk = (unsigned long)sbrk(0), .arg_start = f[48], .arg_end = f[49], .env_start = f[50], .env_end = f[51], .exe_fd = -1,
    };
    if (!strcmp(argv[1], "empty")) map.env_end = map.env_start;
    else map.env_start = 0x10000, map.env_end = 0x7fffffffefffULL;
    if (prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0)) { perror("prctl"); return 1; }
    write(1, "ready\n", 6);
    for (;;) pause();
}
"#;

/// A second process with the same memory, which is no thread of the first. With an argument its first thread ends, another
/// one goes on.
pub const SHARER: &str = r#"
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
static int waits(void *nothing) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
}
static int ends(void *stack) {
    clone(waits, stack, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD, 0);
    syscall(SYS_exit, 0);
    return 0;
}
int main(int argc, char **argv) {
    char *stack = malloc(131072);
    int pid = clone(argc > 1 ? ends : waits, stack + 65536, CLONE_VM | SIGCHLD, stack + 131072);
    if (pid < 0) return 1;
    printf("ready\n%d\n", pid); fflush(stdout);
    for (;;) pause();
}
"#;

/// The first thread ends. A second goes on with the open files that the first had, a third has open files, a network, mounts, a host
/// name and a userfaultfd of its own.
pub const NO_FIRST: &str = r#"
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
static pthread_barrier_t all;
static int keep(const char *name) {
    int fd = memfd_create(name, 0);
    if (fd < 0 || write(fd, name, strlen(name)) < 0) _exit(1);
    int s = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = { .sin_family = AF_INET };
    socklen_t n = sizeof at;
    if (bind(s, (void *)&at, n) || listen(s, 1) || getsockname(s, (void *)&at, &n)) _exit(2);
    return ntohs(at.sin_port);
}
static void *waiter(void *arg) { (void)arg; pthread_barrier_wait(&all); for (;;) pause(); }
static int own;
static void *apart(void *arg) {
    (void)arg;
    if (unshare(CLONE_FILES) || unshare(CLONE_NEWNET) || unshare(CLONE_NEWUTS | CLONE_NEWNS)) _exit(3);
    own = keep("of-one");
    if (syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK) < 0) _exit(4);
    pthread_barrier_wait(&all); for (;;) pause();
}
int main(void) {
    int shared = keep("of-all");
    pthread_t t;
    pthread_barrier_init(&all, 0, 3);
    pthread_create(&t, 0, waiter, 0);
    pthread_create(&t, 0, apart, 0);
    pthread_barrier_wait(&all);
    printf("ready\n%d\n%d\n", shared, own); fflush(stdout);
    pthread_exit(0);
}
"#;
