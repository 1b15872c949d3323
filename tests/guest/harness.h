/* SPDX-License-Identifier: MIT */
/*
 * The tests of the kernel module, which run in a guest of their own: PID 1 runs each one in a
 * child, with a time limit, and prints one TAP line for it.
 *
 * To add a test: write a function, and a line with its name in the table at the end of its file. A
 * new file defines SUBJECT, and is named in SUBJECTS below. A test fails by a
 * check, in whichever of its processes; what it leaves behind is killed.
 */
#ifndef GUEST_HARNESS_H
#define GUEST_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE         4096ul
#define BLOCK        (2ul << 20) /* a huge page */
#define MIB          (1ul << 20)

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

struct test {
	const char *name; /* subject/what, without spaces: TEST=name runs it alone */
	void (*run)(void);
	const void *row;      /* of a test that is a row of a table: see test_row */
	unsigned int seconds; /* time limit, if not the default */
	bool by_name;         /* only runs when asked for by its full name */
};

/* A line of a table: the test has the name of its function. SUBJECT is defined by the file. */
#define TEST(fn, ...)                                                                              \
	{                                                                                          \
		.name = SUBJECT "/" #fn, .run = fn, __VA_ARGS__                                    \
	}

/* The row of the test that is running. */
extern const void *test_row;

/* ---- in a test, in any process or thread of it */

#define check(condition)                                                                           \
	do {                                                                                       \
		if (!(condition))                                                                  \
			test_failed(__FILE__, __LINE__, "%s", #condition);                         \
	} while (0)
/* Values, or 0 and -errno. */
#define check_is(a, b)                                                                             \
	do {                                                                                       \
		long long check_a = (long long)(a), check_b = (long long)(b);                      \
		if (check_a != check_b)                                                            \
			test_unequal(__FILE__, __LINE__, #a, #b, check_a, check_b);                \
	} while (0)
/* For a system call that sets errno. */
#define check_call(call)                                                                           \
	do {                                                                                       \
		if ((call) < 0)                                                                    \
			test_call_failed(__FILE__, __LINE__, #call);                               \
	} while (0)
_Noreturn void test_failed(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
_Noreturn void test_unequal(const char *file, int line, const char *a, const char *b, long long is,
			    long long want);
_Noreturn void test_call_failed(const char *file, int line, const char *call);
/* Leave the test: this guest can't run it. */
_Noreturn void test_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* A comment in the output: figures, or how far a test got. */
void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* How much slower than usual the kernel is: "pf.slow" on its command line. */
extern unsigned int slowness;
/* Time in which limits are told: in a slow kernel it goes slower. */
int64_t now_ms(void);
void nap_ms(unsigned int ms);
/* Less memory than @len where the kernel is slow, in whole blocks. */
size_t working_set(size_t len);
/* Until the condition holds, or fail after so many ms. */
#define await(ms, condition)                                                                       \
	do {                                                                                       \
		int64_t await_end = now_ms() + (ms);                                               \
		while (!(condition)) {                                                             \
			if (now_ms() > await_end)                                                  \
				test_failed(__FILE__, __LINE__, "waited %d ms for: %s", (int)(ms), \
					    #condition);                                           \
			nap_ms(2);                                                                 \
		}                                                                                  \
	} while (0)

/* The files of tests, in the order in which they run: each has a table NAME_tests. */
#define SUBJECTS(X)                                                                                \
	X(self)                                                                                    \
	X(basic)                                                                                   \
	X(errno)                                                                                   \
	X(errno_page)                                                                              \
	X(swap)                                                                                    \
	X(thp)                                                                                     \
	X(tables)                                                                                  \
	X(rmap)                                                                                    \
	X(crossing)                                                                                \
	X(cgroup)                                                                                  \
	X(handover)                                                                                \
	X(whole)                                                                                   \
	X(strict)                                                                                  \
	X(merged)                                                                                  \
	X(rollback)                                                                                 \
	X(kill)                                                                                    \
	X(race)                                                                                    \
	X(ask)                                                                                     \
	X(marks)                                                                                   \
	X(pins)                                                                                    \
	X(park)                                                                                    \
	X(writers)                                                                                 \
	X(churn)                                                                                   \
	X(kvm)                                                                                     \
	X(vm)                                                                                      \
	X(cost)                                                                                    \
	X(ways)                                                                                    \
	X(user)
#define DECLARE_TESTS(name) extern const struct test name##_tests[];
SUBJECTS(DECLARE_TESTS)

/* ---- for init.c */

/* TAP goes to this descriptor from now on. */
void harness_open(int tap);
/* Runs those of the table that are selected, which ends with one that has no name. */
void harness_run(const struct test *table, const char *select);
/* A test that runs in this process; returns @good. */
bool harness_verdict(bool good, const char *name);
unsigned int harness_failed(void);
unsigned int harness_count(void);
/* Nothing more can be run: a test's process can't be killed. */
bool harness_stuck(void);

#endif
