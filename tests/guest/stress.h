/* SPDX-License-Identifier: MIT */
/* For the tests in which much goes on at once. */
#ifndef GUEST_STRESS_H
#define GUEST_STRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeros that the test and the peers it starts from now on have in common, at the same address. */
void *shared(size_t len);
/* A number below @n; each thread has a state of its own, which starts as any number. */
uint64_t below(uint64_t *state, uint64_t n);
/* Each of them its turn on one CPU; the threads started from here on stay there. */
void stay_on_cpu(unsigned int cpu);

/* ---- answers of the module, by many threads */

struct tally {
	atomic_ulong answers[134]; /* by errno; 0: done */
	atomic_ulong pages;
};
/* The test fails at an answer that is none of those that are @allowed: a list that ends with 0. */
void tally_add(struct tally *t, int answer, uint64_t bytes, const int *allowed);
void tally_note(const struct tally *t, const char *of);

/* ---- files of the kernel's; the test fails if one isn't there */

void write_file(const char *path, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
long read_number(const char *path);

#endif
