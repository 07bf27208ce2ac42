// A process of so many MiB and threads, each of which looks at the clock every 200 us. For each line on standard input it
// says the longest time between two looks since the line before, in microseconds.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static unsigned long longest;

static unsigned long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000UL + t.tv_nsec;
}

static void *beat(void *arg) {
    (void)arg;
    unsigned long last = now();
    for (;;) {
        struct timespec t = { 0, 200000 };
        nanosleep(&t, 0);
        unsigned long this = now(), gap = this - last, seen = __atomic_load_n(&longest, __ATOMIC_RELAXED);
        while (gap > seen && !__atomic_compare_exchange_n(&longest, &seen, gap, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) { }
        last = this;
    }
}

int main(int argc, char **argv) {
    size_t bytes = strtoul(argv[1], 0, 10) << 20;
    int threads = atoi(argv[2]);
    unsigned char *block = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    // Neither all the same nor all different: half of each page counts up, half is noise.
    unsigned long noise = 88172645463325252UL;
    for (size_t n = 0; n < bytes; n += 8) {
        noise ^= noise << 13, noise ^= noise >> 7, noise ^= noise << 17;
        *(unsigned long *)(block + n) = n & 2048 ? noise : n;
    }
    for (int n = 1; n < threads; n++) { pthread_t t; pthread_create(&t, 0, beat, 0); }
    puts("ready"); fflush(stdout);
    char line[64];
    pthread_t t; pthread_create(&t, 0, beat, 0);
    while (fgets(line, sizeof line, stdin)) {
        printf("%lu\n", __atomic_exchange_n(&longest, 0, __ATOMIC_RELAXED) / 1000); fflush(stdout);
    }
    return 0;
}
