/* SPDX-License-Identifier: MIT */
/*
 * A process of its own, at work (see writers.h), which others save, or which forks to save itself.
 *
 * It has a thread that reads the clock each TICK_NS: the longest time between two readings is how
 * long the program stood still. When it forks, it is this thread that calls, between two readings.
 * For root it has real-time priority, so that a busy CPU doesn't look like a stop; its stack is a
 * private mapping of a file, which nobody write-protects, so that it doesn't wait for a page of its
 * own: what waits for pages are the writers.
 */
#ifndef BENCH_PROGRAM_H
#define BENCH_PROGRAM_H

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "bench/command.h"
#include "bench/image.h"

#define TICK_NS    100000
#define STACK_SIZE (256u << 10)

/* Between it and the bench. */
struct program {
	struct writers w;
	pid_t pid;
	char *mem;
	uint64_t len, seed;
	bool huge, local;
	char path[320]; /* of the file that its child makes ... */
	double rate;    /* ... at so many bytes a second */
	volatile bool ready, watch, fork, saved, failed, ended;
	volatile int64_t gap,
		call;           /* the longest that it stood still, and the call of fork(), ns */
	volatile uint64_t news; /* the child's own memory in the end */
};

/* ---- in the process */

static inline void program_save(struct program *p)
{
	const struct sched_param usual = {0};

	sched_setscheduler(0, SCHED_OTHER, &usual);
	p->failed = image_write(p->path, p->mem, p->len, p->rate) != 0;
	/* What it doesn't share with the program: each page that was changed. */
	p->news = command_memory(getpid(), "smaps_rollup", "Private_Dirty:") +
		  command_memory(getpid(), "smaps_rollup", "Private_Clean:") +
		  command_memory(getpid(), "status", "VmPTE");
	p->saved = true;
	_exit(0);
}

static inline void program_fork(struct program *p)
{
	int64_t since = bench_now();
	pid_t child = fork();

	p->call = bench_now() - since;
	if (!child)
		program_save(p);
}

static inline void *program_clock(void *arg)
{
	const struct sched_param first = {.sched_priority = 1};
	const struct timespec tick = {.tv_nsec = TICK_NS};
	struct program *p = arg;
	bool forked = false;

	sched_setscheduler(0, SCHED_FIFO, &first);
	for (int64_t last = bench_now(), now; !p->ended; last = now) {
		nanosleep(&tick, NULL);
		if (p->fork && !forked) {
			last = bench_now();
			program_fork(p);
			forked = true;
		}
		now = bench_now();
		if (p->watch && now - last > p->gap)
			p->gap = now - last;
	}
	return NULL;
}

static inline void program_start_clock(struct program *p, pthread_t *thread)
{
	int fd = memfd_create("stack", MFD_CLOEXEC);
	pthread_attr_t attr;

	must(fd, "memfd_create");
	must(ftruncate(fd, STACK_SIZE), "ftruncate");
	void *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	close(fd);
	if (stack == MAP_FAILED || pthread_attr_init(&attr) ||
	    pthread_attr_setstack(&attr, stack, STACK_SIZE) ||
	    pthread_create(thread, &attr, program_clock, p))
		bench_fail("no thread can be had");
}

__attribute__((noreturn)) static inline void program_work(struct program *p)
{
	pthread_t clock;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	p->mem = memory_map(p->len, p->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	writers_fill(p->mem, p->len, p->seed);
	program_start_clock(p, &clock);
	writers_start(&p->w, p->mem, p->len, p->local);
	p->ready = true;
	writers_join(&p->w);
	p->ended = true;
	pthread_join(clock, NULL);
	if (p->fork)
		wait(NULL);
	for (;;)
		pause();
}

/* ---- in the bench */

/* False: so much time has passed. It never ends by itself. */
static inline bool program_wait(struct program *p, const volatile bool *what, int64_t until)
{
	while (!*what && bench_now() < until) {
		if (waitpid(p->pid, NULL, WNOHANG) == p->pid)
			bench_fail("the program that is to be saved has ended");
		usleep(1000);
	}
	return *what;
}

static inline struct program *program_new(unsigned int slots)
{
	struct program *p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		bench_fail("no memory");
	writers_init(&p->w, slots);
	return p;
}

static inline void program_start(struct program *p)
{
	pid_t pid = (pid_t)must(fork(), "fork");

	if (!pid)
		program_work(p);
	p->pid = pid;
	program_wait(p, &p->ready, INT64_MAX);
}

static inline void program_end(struct program *p)
{
	kill(p->pid, SIGKILL);
	must(waitpid(p->pid, NULL, 0), "waitpid");
	writers_fini(&p->w);
	munmap(p, sizeof(*p));
}

#endif
