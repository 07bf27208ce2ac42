/* What a guest has to show: a tree of processes, a secret in the memory of one, a program whose file is gone, sockets, and a
 * page with a pattern that never moves. Every part says on standard output what an examiner has to find. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void name(const char *text) { prctl(PR_SET_NAME, text); }

static uint64_t frame_of(const void *page) {
  uint64_t entry = 0;
  int fd = open("/proc/self/pagemap", O_RDONLY);
  if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)page / 4096 * 8) != 8) return 0;
  close(fd);
  return entry & ((1ULL << 55) - 1);
}

/* Written backwards, so that the secret is nowhere but in memory: not in the file, not in the arguments. */
static void secret(char *to, const char *backwards) {
  size_t n = strlen(backwards);
  for (size_t i = 0; i < n; i++) to[i] = backwards[n - 1 - i];
  to[n] = 0;
}

static int listen_on(int port, int type) {
  int fd = socket(AF_INET, type, 0);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_ANY)};
  if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) || (type == SOCK_STREAM && listen(fd, 5))) perror("bind");
  return fd;
}

static void child(void) {
  name("suspect-child");
  if (fork() == 0) {
    name("suspect-leaf");
    for (;;) pause();
  }
  for (;;) pause();
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (argc > 1 && !strcmp(argv[1], "poison")) {
    /* Poisons so many pages of its own memory and says which frames they are. */
    int count = argc > 2 ? atoi(argv[2]) : 1;
    for (int i = 0; i < count; i++) {
      char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      memset(page, 0x5a, 4096);
      uint64_t frame = frame_of(page);
      if (madvise(page, 4096, 100 /* MADV_HWPOISON */)) {
        printf("poison-failed %s\n", strerror(errno));
        return 1;
      }
      printf("poisoned 0x%llx\n", (unsigned long long)frame);
    }
    return 0;
  }
  if (argc > 1 && !strcmp(argv[1], "hidden")) {
    /* So many pages that the kernel takes out of its own map (memfd_secret), with a secret at the beginning of each. */
    int count = argc > 2 ? atoi(argv[2]) : 1;
    int fd = syscall(447 /* memfd_secret */, 0);
    if (fd < 0 || ftruncate(fd, count * 4096)) {
      printf("hidden-failed %s\n", strerror(errno));
      return 1;
    }
    char *pages = mmap(NULL, count * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (int i = 0; i < count; i++) {
      secret(pages + i * 4096, "70ecneuqes-eht-sees-flesti-lenrek-eht-neve-ton");
      printf("hidden-frame 0x%llx\n", (unsigned long long)frame_of(pages + i * 4096));
    }
    printf("hidden-pages %d\n", count);
    for (;;) pause();
  }
  if (argc > 1 && !strcmp(argv[1], "gone")) {
    name("suspect-gone");
    unlink(argv[0]);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mlock(page, 4096);
    secret(page, "90ecneuqes-eht-swonk-ydobon-tahw");
    printf("secret-frame 0x%llx pid %d\n", (unsigned long long)frame_of(page), getpid());
    for (;;) pause();
  }
  name("suspect-root");
  /* A page that never changes. */
  uint32_t *pattern = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (uint32_t i = 0; i < 1024; i++) pattern[i] = 0xe1000000u | i;
  mlock(pattern, 4096);
  printf("pattern-frame 0x%llx\n", (unsigned long long)frame_of(pattern));
  listen_on(4711, SOCK_STREAM);
  listen_on(4712, SOCK_DGRAM);
  pid_t pid = fork();
  if (pid == 0) child();
  printf("suspect-root %d suspect-child %d\n", getpid(), pid);
  for (;;) pause();
}
