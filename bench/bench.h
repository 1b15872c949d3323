/* SPDX-License-Identifier: MIT */
/* What every bench needs: its options, a way to fail, the clock, the CPUs. */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BENCH_PAGE        4096ull
#define BENCH_HUGE        (2ull << 20)
#define BENCH_ROUNDS      1000u /* most that can be asked for */

#define BENCH_EXIT_FAIL   1 /* wrong contents, or a call that should not have failed did */
#define BENCH_EXIT_CANNOT 2 /* wrong usage, or this host lacks what the question needs */

struct bench_options {
	bool quick; /* one small round: does it work at all? */
	unsigned int rounds;
};

__attribute__((format(printf, 1, 0))) static inline void bench_complain(const char *fmt, va_list ap)
{
	fprintf(stderr, "%s: ", program_invocation_short_name);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void bench_fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	bench_complain(fmt, ap);
	va_end(ap);
	exit(BENCH_EXIT_FAIL);
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void bench_cannot(const char *fmt,
										...)
{
	va_list ap;

	va_start(ap, fmt);
	bench_complain(fmt, ap);
	va_end(ap);
	exit(BENCH_EXIT_CANNOT);
}

/* For calls that return -1 and set errno. */
static inline long must(long ret, const char *what)
{
	if (ret < 0)
		bench_fail("%s failed: %s", what, strerror(errno));
	return ret;
}

/* For calls that return -errno. */
static inline int must_ferry(int ret, const char *what)
{
	if (ret < 0)
		bench_fail("%s failed: %s", what, strerror(-ret));
	return ret;
}

static inline int64_t bench_clock(clockid_t clock)
{
	struct timespec ts;
	clock_gettime(clock, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static inline int64_t bench_now(void)
{
	return bench_clock(CLOCK_MONOTONIC);
}

/* Processor time of this process, which other processes' load hardly touches. */
static inline int64_t bench_cpu_now(void)
{
	return bench_clock(CLOCK_PROCESS_CPUTIME_ID);
}

static inline unsigned int bench_number(const char *text)
{
	char *end;
	unsigned long n = text ? strtoul(text, &end, 10) : 0;

	if (!text || *end || !n || n > BENCH_ROUNDS)
		bench_cannot("--rounds needs a number from 1 to %u", BENCH_ROUNDS);
	return (unsigned int)n;
}

static inline struct bench_options bench_parse(int argc, char **argv, unsigned int rounds)
{
	struct bench_options o = {0};

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--quick"))
			o.quick = true;
		else if (!strcmp(argv[i], "--rounds"))
			o.rounds = bench_number(argv[++i]);
		else
			bench_cannot("%s: unknown argument: the options are --quick and --rounds N",
				     argv[i]);
	}
	if (!o.rounds)
		o.rounds = o.quick ? 2 : rounds;
	return o;
}

/* ---- CPUs */

/* The first CPU but @not that @allowed has; -1: none. */
static inline int cpu_besides(const cpu_set_t *allowed, int not )
{
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (cpu != not &&CPU_ISSET(cpu, allowed))
			return cpu;
	return -1;
}

static inline void cpu_bind(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	must(sched_setaffinity(0, sizeof(set), &set), "binding a thread to a CPU");
}

#endif
