/* SPDX-License-Identifier: MIT */
/*
 * A program with an invariant: accounts all over its memory, and threads that move money between
 * them. The sum of an image that is of one moment is that of the begin; of one that is torn, it is
 * not.
 */
#ifndef BANK_H
#define BANK_H

#include <pthread.h>
#include <stdatomic.h>

#include "tests/lib/test.h"

#define BANK_CLERKS 3u

struct bank {
	_Atomic int64_t *account; /* one in each page */
	size_t n;
	pthread_t clerk[BANK_CLERKS];
	pthread_rwlock_t open; /* held for writing, nothing moves */
	atomic_bool closing;
	atomic_ullong moves;
};

void bank_open(struct bank *bank, void *mem, size_t len);
void bank_close(struct bank *bank);
/* The sum of @n accounts at @mem, an image of a bank's. */
int64_t bank_sum(const void *mem, size_t n);
#define BANK_EACH 1000

#endif
