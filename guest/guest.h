/* SPDX-License-Identifier: MIT */
/*
 * The test guest: a PID 1 that keeps memory, a disk and a clock busy, and knows what each of them
 * must hold. Its lines on the console and its parameters are described in guest/README.md.
 */
#ifndef GUEST_H
#define GUEST_H

#include <pthread.h>
#include <stdint.h>

#include "boot.h"

struct params {
	uint32_t fill;     /* percent of RAM */
	uint32_t fill_mib; /* instead of fill, if not 0 */
	uint32_t writers;
	uint32_t pace_us; /* a writer sleeps as long between two pages */
	uint32_t disk;
	uint32_t thp;
	uint32_t selftest;
};

/* init.c */

/* Prints "ferry: ..." as one line by one write(), so that the lines of two threads never mix. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void thread_start(void *(*run)(void *), void *arg, int fifo_priority);
void nap_us(uint32_t us);

/*
 * Threads that change checked state hold it for reading, for one page or one record at a time; a
 * check holds it for writing. It prefers the check, which would starve behind unpaced writers.
 */
extern pthread_rwlock_t state_lock;

/* memory.c */
struct memory_counts {
	uint64_t pages;  /* filled */
	uint64_t wanted; /* asked for */
	uint64_t writes;
	uint64_t corrupt;
};

void memory_fill(const struct params *params);
void memory_start_writers(const struct params *params);
void memory_check(void); /* with state_lock held for writing */
void memory_selftest(void);
struct memory_counts memory_counts(void);

/* disk.c */
struct disk_counts {
	uint64_t records; /* acknowledged by the device */
	uint64_t bad;
};

void disk_start(void);
void disk_check(void); /* with state_lock held for writing */
struct disk_counts disk_counts(void);

/* tick.c */
void tick_start(void);
uint64_t tick_count(void);
uint64_t tick_max_gap_us(void);

#endif
