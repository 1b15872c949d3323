/* SPDX-License-Identifier: MIT */
/*
 * What the tests of the library share. A test that fails in the main thread uses cmocka's asserts;
 * in any other thread or process cmocka's jump back is impossible: use check() there, which ends
 * the process.
 */
#ifndef TEST_H
#define TEST_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <setjmp.h>
#include <sys/types.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE         4096ul
#define BLOCK        (2ul << 20) /* a huge page */

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/*
 * A test with a deadline, which must leave neither a descriptor nor a child behind. One that has to
 * be in a table: TEST(name).
 */
#define TEST(function) cmocka_unit_test_setup_teardown(function, test_begin, test_end)
int test_begin(void **state);
int test_end(void **state);

/* Leave the test, saying why. What it has open is not held against it. */
extern bool test_skipped;
#define SKIP(...)                                                                                  \
	do {                                                                                       \
		test_skipped = true;                                                               \
		print_message("# skipped: ");                                                      \
		print_message(__VA_ARGS__);                                                        \
		print_message("\n");                                                               \
		skip();                                                                            \
	} while (0)

#define check(condition)                                                                           \
	do {                                                                                       \
		if (!(condition))                                                                  \
			check_failed(__FILE__, __LINE__, #condition, 0);                           \
	} while (0)
#define check_equal(a, b)                                                                          \
	do {                                                                                       \
		long long check_a = (long long)(a);                                                \
		if (check_a != (long long)(b))                                                     \
			check_failed(__FILE__, __LINE__, #a " == " #b, check_a);                   \
	} while (0)
/* cppcheck doesn't know _Noreturn. */
__attribute__((noreturn)) void check_failed(const char *file, int line, const char *what,
					    long long value);

/* Zeroed memory or the end of the process. To be freed. */
void *allocate(size_t size);
unsigned int count_fds(void);
int64_t now_ms(void);
/* xorshift; never 0. */
uint64_t next_random(uint64_t *state);

/* ---- processes: each ends by itself when the test does, or after its own deadline */

pid_t spawn(int (*fn)(void *arg), void *arg);
/* Exit status, or 128 + signal. */
int wait_exit(pid_t pid);
/* Until it has stopped; fails when it ends instead. */
void wait_stopped(pid_t pid);
/* The same; false when it has ended instead, and is still to be waited for. */
bool stops(pid_t pid);
void kill_and_reap(pid_t pid);

/* ---- memory */

/* Private anonymous memory that begins @skip bytes after a multiple of 2 MiB. Unmap with unmap().
 */
char *map_memory(size_t len, size_t skip);
void unmap(void *addr, size_t len);
/* The contents of a page that is told from every other by its @seed. */
void fill_page(void *page, uint64_t seed);
bool page_has(const void *page, uint64_t seed);
bool page_is_zero(const void *page);
/* Read or write a word; 0, or the signal that it raised. */
int peek(const void *addr, uint64_t *value);
int poke(void *addr, uint64_t value);

/* Sum of a field of smaps, in bytes, over the mappings that touch the range. */
uint64_t smaps_bytes(const void *addr, size_t len, const char *field);
/* Has any mapping that touches the range this VmFlag? */
bool smaps_flag(const void *addr, size_t len, const char *flag);
bool page_present(const void *page);
/* How many are mapped or swapped out. */
size_t pages_present(const void *start, size_t npages);
/* By a userfaultfd. */
bool page_protected(const void *page);
/* Ask for huge pages and touch them; false: none given. */
bool make_huge(void *addr, size_t len);

/*
 * Have KSM merge pages until it is ended; that is as before then, also if the test is killed.
 * False: it can't be switched on.
 */
bool ksm_begin(void);
void ksm_end(void);
/* Have it merge nothing as long as this process lives, if it can be switched off. */
void ksm_off(void);

/* ---- userfaultfd */

/* Opens one or skips the test, saying why. */
int open_uffd(uint64_t features);
/* The same with all faults, also those of kernel code. */
int open_uffd_kernel(uint64_t features);

#endif
