/* SPDX-License-Identifier: MIT */
/*
 * What the files of the VM bench share. It upgrades one guest in three ways, by turns, and
 * measures all of them from outside with the same clock and the same definitions.
 *
 * The bench has one thread and one place where it waits, loop_step(). Whatever goes wrong ends it
 * by exit(), and whatever it has started ends with it.
 */
#ifndef BENCH_VM_H
#define BENCH_VM_H

#include <setjmp.h>

#include "bench/report.h"
#include "tools/qmp.h"

#define MIB        (1ull << 20)
#define RAMS_MAX   4
#define WAYS       3
#define SAMPLE_NS  5000000
#define SETTLE_NS  1000000000ll /* of the window, after the old process is gone */
#define GUEST_CPUS 1
#define VM_NAME    "bench"
#define LINE_BYTES 4096
#define FILL       80 /* percent of RAM */
#define WRITERS    1
#define PACE_US    200 /* a writer sleeps so long between two pages */

enum way_id {
	WAY_PAGEFERRY,
	WAY_PRECOPY,
	WAY_MEMFD,
};

struct options {
	bool quick;
	bool way[WAYS];
	unsigned int runs;
	unsigned int nrams;
	unsigned int ram_mib[RAMS_MAX];
	const char *json;
	const char *qemu;
};

/* ---- loop.c: the only place where the bench waits */

typedef void loop_fn(void *arg);

void loop_add(int fd, loop_fn *fn, void *arg);
void loop_remove(int fd);

/** Wait for any descriptor, up to @timeout_ms; ends the bench on SIGINT, SIGTERM, SIGHUP. */
void loop_step(int timeout_ms);
void loop_catch_signals(void);

/** Lines that come from a descriptor, one call each. */
struct lines {
	int fd; /* -1: at its end */
	void (*line)(void *arg, char *text);
	void *arg;
	size_t len;
	char buf[LINE_BYTES];
};

void lines_open(struct lines *lines, int fd, void (*line)(void *arg, char *text), void *arg);
void lines_close(struct lines *lines);

/* ---- child.c: processes */

struct child {
	pid_t pid;
	int pidfd; /* -1: none */
	bool own;  /* a child of the bench, to be waited for and to be ended */
	int death; /* the signal that ends it */
	bool ended;
	int64_t ended_ns;
	int status; /* of an own one, as from waitpid */
	const char *what;
};

/* Descriptors that become a child's 0, 1, 2; -1: /dev/null. */
struct child_io {
	int in, out, err;
};

/** Start a program in a process group of its own. It gets @death when the bench dies. */
void child_start(struct child *child, const char *what, char *const argv[], struct child_io io,
		 int death);

/** Watch a process that somebody else has started. */
void child_watch(struct child *child, const char *what, pid_t pid);

/** Forget it; an own one gets its signal, and what is left of its group then is killed. */
void child_end(struct child *child, int timeout_ms);

/** Wait until it has ended by itself and expect exit status 0. */
void child_finish(struct child *child, int timeout_ms);

/** The children of process @pid, at most @max; returns how many. */
unsigned int child_list(pid_t pid, pid_t *pids, unsigned int max);

/* ---- place.c: files */

struct place {
	char dir[64];      /* own, removed at the end */
	char build[512];   /* the build folder, from the bench's own path */
	char kernel[512];  /* the folder that guest/kernel names */
	char version[128]; /* of that kernel */
	char initrd[80];
	char qemu[128]; /* version of QEMU */
	int log;        /* what everything started here says on stderr; shown on failure */
};

void place_make(struct place *place, const struct options *options);

/** Make @file in the place's folder and return a descriptor for writing. */
int place_create(const struct place *place, const char *file);

/** What is in @file there, as a string that the caller frees. */
char *place_read(const struct place *place, const char *file);

/* ---- watch.c: the observer of the ticks */

struct window {
	double gap_ms;
	double gap_at_ms; /* when it began, from the start of the window */
	double length_ms;
	double p99_ms;
	int64_t ticks;
	int64_t skips;
};

void watch_start(const struct place *place);
void watch_end(void);
void watch_mark(void);
struct window watch_read(void);

/* ---- console.c: what the guest says */

void console_listen(const struct place *place);
void console_reset(void);

/** Forget what was said before. */
void console_forget(void);
/** false: nobody is at the other end. */
bool console_say(const char *command);

/** The newest "ferry: WORD ..." since then, without "ferry: "; NULL: not yet. */
const char *console_heard(const char *word);

/** Print all of it on stderr. */
void console_show(void);

/** The number after KEY= in a line from the guest. */
uint64_t console_number(const char *line, const char *key);

/* ---- vm.c: one VM on its way from an old process to a new one */

struct way;

/* QMP of one QEMU, and what it has told. */
struct link {
	struct qmp *qmp;
	bool broken;
	bool completed, failed; /* the migration */
	int64_t stop_us, resume_us;
};

struct vm {
	const struct place *place;
	const struct options *options;
	const struct way *way;
	unsigned int ram_mib;
	struct child keeper; /* pageferry only */
	struct child old, new;
	struct link old_link, new_link; /* not with pageferry, which has its own */
	int ram_file;                   /* what both map; -1: none */

	bool sampling;
	int64_t sampled_ns;
	unsigned int samples;
	uint64_t base_kib, peak_kib;
	struct json_object *details; /* what this way has to tell besides */

	bool migrating; /* from here on a way that may damage the guest may have done so */
	char lost[160]; /* how the guest came to its end by that; "": it did not */
	jmp_buf given_up;
};

struct way {
	const char *name;
	const char *title;
	const char *may_damage; /* why it may lose writes by itself; or NULL */
	void (*start)(struct vm *vm);
	/* Set vm->old, if start() couldn't. */
	void (*ready)(struct vm *vm);
	/* Start the new process and give it the VM; the old one is gone at the end. */
	void (*upgrade)(struct vm *vm);
	void (*stop)(struct vm *vm);
};

extern const struct way *const ways[WAYS];
extern const struct way way_pageferry, way_precopy, way_memfd;

/**
 * The VM can't be measured any further. Where its way is known to damage guests that is a result,
 * and this run is over; everywhere else it ends the bench.
 */
__attribute__((noreturn, format(printf, 2, 3))) void vm_fail(struct vm *vm, const char *fmt, ...);

/** What may take longer with more RAM, in seconds. */
int vm_patience(const struct vm *vm);

/** Wait until @reached; an end of what runs the VM, or the deadline, is vm_fail(). */
void vm_wait(struct vm *vm, bool (*reached)(struct vm *vm), int timeout_s, const char *what);

#define ARGUMENTS_MAX 48
struct arguments {
	char *v[ARGUMENTS_MAX + 1];
	unsigned int n;
};

__attribute__((format(printf, 2, 3))) void arguments_add(struct arguments *a, const char *fmt, ...);
void arguments_add_guest(struct arguments *a, const struct vm *vm);
void arguments_free(struct arguments *a);

/* ---- memory.c */

/** RssAnon of both processes and what the RAM file holds, once, in KiB. */
uint64_t memory_now(const struct vm *vm);
void memory_sample(struct vm *vm);

/** Where process @pid keeps guest RAM; ends the bench if that can't be told. */
bool memory_is_anonymous(const struct vm *vm, pid_t pid);

/* ---- results */

/* One upgrade. */
struct run {
	double gap_ms, gap_at_ms;
	double baseline_gap_ms;
	double total_ms;
	double window_ms; /* length of either window */
	double base_mib, peak_mib, extra_mib;
	unsigned int samples;
	bool anonymous;
	bool intact;
	const char *lost; /* the guest did not live to be measured: why; or NULL */
	pid_t old, new;
	uint64_t filled_mib, writes, corrupt;
	int64_t skips; /* ticks that never came */
	struct json_object *details;
};

/* All upgrades of one way with one RAM size. */
struct results {
	const struct way *way;
	unsigned int ram_mib;
	bool anonymous, intact; /* all of them */
	unsigned int lost;
	struct series gap, baseline, total, peak, extra; /* without the lost ones */
	struct series ram;                               /* MiB, as often */
	struct json_object *runs;
};

struct run vm_measure(const struct place *place, const struct options *options,
		      const struct way *way, unsigned int ram_mib);

void results_add(struct results *results, const struct run *run);

struct summary {
	const struct place *place;
	const struct options *options;
	struct results *results; /* by RAM size, then by way */
	unsigned int n;
	struct report report; /* what the host did */
};

/* ---- figures.c */

#define FIGURE_NAME 48
#define FIGURES_MAX 24

struct figure {
	char name[FIGURE_NAME], title[96]; /* for programs, for people */
	struct comparison c;
};

struct figures {
	struct figure v[FIGURES_MAX];
	unsigned int n;
};

/** NULL: this way was not gone with so much RAM. */
const struct results *results_of(const struct summary *s, enum way_id way, unsigned int ram_mib);
void figures_find(struct figures *list, const struct summary *s);
double figure_ratio(const struct figure *f);

/* ---- summary.c */

void summary_begin(struct summary *s);
void summary_json(struct summary *s);
void summary_table(const struct summary *s);

#endif
