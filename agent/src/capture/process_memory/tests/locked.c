// Holds its own memory lock for as long as its standard input is open. A file on a file system in user space is mapped whose
// server never answers a read; one thread reads that page through /proc/self/mem, which waits with the lock held (no
// retry there, as in a fault), another one wants to map something and waits for the lock as a writer: every later
// reader waits behind it. The mount is in a namespace of its own. The server ends with the standard input.
// With a second argument nothing is mapped or locked: a file that counts as deleted is open, on a file system that calls itself
// one of the harmless ones; "detached" takes it out of all trees. "mapped" maps it twice as well, and never touches it; of "deaf"
// the server does not even say how large its file system is. "executes" runs it, in a second thread, as soon as the first one is
// stopped by a tracer.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static char *page;
static volatile int reader, writer;
static int deaf;

static void fail(const char *what) { perror(what); exit(1); }

static void answer(int fd, uint64_t unique, int error, const void *body, size_t bytes) {
    char out[4096];
    struct fuse_out_header head = { .len = sizeof head + bytes, .error = error, .unique = unique };
    memcpy(out, &head, sizeof head);
    if (bytes) memcpy(out + sizeof head, body, bytes);
    if (write(fd, out, head.len) < 0 && errno != ENOENT) fail("answer");
}

static void attributes(struct fuse_attr *a, uint64_t node) {
    memset(a, 0, sizeof *a);
    a->ino = node; a->size = 4096; a->nlink = 1;
    a->mode = node == 1 ? S_IFDIR | 0755 : S_IFREG | 0755;
}

static void serve(int fd) {
    static char in[1 << 20];
    for (;;) {
        struct pollfd wait[2] = { { .fd = fd, .events = POLLIN }, { .fd = 0, .events = POLLIN } };
        poll(wait, 2, -1);
        if (wait[1].revents) _exit(0);
        if (read(fd, in, sizeof in) <= 0) { if (errno == ENOENT || errno == EINTR || errno == EAGAIN) continue; _exit(0); }
        struct fuse_in_header *h = (void *)in;
        if (h->opcode == FUSE_INIT) {
            struct fuse_init_out o = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 4096 };
            answer(fd, h->unique, 0, &o, sizeof o);
        } else if (h->opcode == FUSE_LOOKUP) {
            struct fuse_entry_out o = { .nodeid = 2, .entry_valid = 600, .attr_valid = 600 };
            attributes(&o.attr, 2);
            answer(fd, h->unique, 0, &o, sizeof o);
        } else if (h->opcode == FUSE_GETATTR) {
            struct fuse_attr_out o = { .attr_valid = 600 };
            attributes(&o.attr, h->nodeid);
            answer(fd, h->unique, 0, &o, sizeof o);
        } else if (h->opcode == FUSE_OPEN) {
            struct fuse_open_out o = { .fh = 1 };
            answer(fd, h->unique, 0, &o, sizeof o);
        } else if (h->opcode == FUSE_READ || (deaf && h->opcode == FUSE_STATFS)) {
            // Never.
        } else if (h->opcode != FUSE_FORGET && h->opcode != FUSE_BATCH_FORGET && h->opcode != FUSE_INTERRUPT) {
            answer(fd, h->unique, -ENOSYS, 0, 0);
        }
    }
}

// Waits until a thread sleeps, and a moment more.
static void asleep(volatile int *tid) {
    char path[64], text[512];
    for (int n = 0; n < 20; ) {
        usleep(5000);
        if (!*tid) continue;
        snprintf(path, sizeof path, "/proc/self/task/%d/stat", *tid);
        int fd = open(path, O_RDONLY);
        int got = read(fd, text, sizeof text - 1);
        close(fd);
        text[got > 0 ? got : 0] = 0;
        char *state = strrchr(text, ')');
        n = state && (state[2] == 'S' || state[2] == 'D') ? n + 1 : 0;
    }
}

static void *reads(void *arg) {
    char c;
    int mem = *(int *)arg;
    reader = gettid();
    pread(mem, &c, 1, (off_t)(uintptr_t)page);
    return 0;
}

static void *maps(void *arg) {
    (void)arg;
    writer = gettid();
    mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return 0;
}

static void *executes(void *file) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
    for (;;) {
        usleep(5000);
        int fd = open(path, O_RDONLY);
        int got = read(fd, text, sizeof text - 1);
        close(fd);
        text[got > 0 ? got : 0] = 0;
        char *state = strrchr(text, ')');
        if (state && state[2] == 't') execl(file, file, (char *)0);
    }
}

int main(int argc, char **argv) {
    char options[100], file[4096];
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0) fail("/dev/fuse");
    if (unshare(CLONE_NEWNS) || mount(0, "/", 0, MS_REC | MS_PRIVATE, 0)) fail("a mount namespace of its own");
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
    if (mount("silent", argv[1], argc > 2 ? "fuse.ntfs-3g" : "fuse", MS_NOSUID | MS_NODEV, options)) fail("mount");
    deaf = argc > 2 && !strcmp(argv[2], "deaf");
    if (fork() == 0) serve(fd);
    close(fd);
    if (argc > 2) {
        snprintf(file, sizeof file, "%s/silent (deleted)", argv[1]);
        int on = open(file, O_RDONLY);
        if (on < 0) fail("its file");
        volatile char marker[] = "BEHIND-THE-SILENT-ONE";
        if (deaf || !strcmp(argv[2], "mapped")) {
            for (int n = 0; n < 2; n++)
                if (mmap(0, 4096, n ? PROT_READ | PROT_EXEC : PROT_READ, MAP_PRIVATE, on, 0) == MAP_FAILED) fail("its file");
        }
        if (!strcmp(argv[2], "detached") && umount2(argv[1], MNT_DETACH)) fail("umount");
        pthread_t runs;
        if (!strcmp(argv[2], "executes")) pthread_create(&runs, 0, executes, file);
        write(1, "ready\n", 6);
        for (;;) if (pause() && !marker[0]) return 0;
    }
    snprintf(file, sizeof file, "%s/silent", argv[1]);
    int on = open(file, O_RDONLY), mem = open("/proc/self/mem", O_RDONLY);
    page = mmap(0, 4096, PROT_READ, MAP_PRIVATE, on, 0);
    if (on < 0 || mem < 0 || page == MAP_FAILED) fail("its file");
    pthread_t t;
    static char stack[65536] __attribute__((aligned(16)));
    pthread_attr_t a; pthread_attr_init(&a); pthread_attr_setstack(&a, stack, sizeof stack);
    pthread_create(&t, 0, reads, &mem);
    asleep(&reader);
    // From here on nobody in here may touch memory that it never touched: its stack is there already.
    pthread_create(&t, &a, maps, 0);
    asleep(&writer);
    write(1, "ready\n", 6);
    for (;;) pause();
}
