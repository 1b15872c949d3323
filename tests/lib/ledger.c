// SPDX-License-Identifier: MIT
/* Accounts, clerks and their journals, see ledger.h. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "tests/lib/ledger.h"

unsigned int ledger_nap_us;
size_t ledger_used;

struct clerk {
	char *mem;
	size_t naccounts;
	unsigned int number;
};

/* Pages 0 .. are the journals. An account belongs to one clerk, so that no lock is needed. */
static volatile int64_t *account(char *mem, size_t i)
{
	return (volatile int64_t *)(void *)(mem + (LEDGER_CLERKS + i) * PAGE + 64);
}

static uint64_t any_of(const struct clerk *c, uint64_t *seed)
{
	uint64_t n = c->naccounts / LEDGER_CLERKS;
	return next_random(seed) % n * LEDGER_CLERKS + c->number;
}

static void *work(void *arg)
{
	struct clerk *c = arg;
	struct journal *j = (void *)(c->mem + c->number * PAGE);
	uint64_t seed = c->number * 7919 + 1;

	for (;;) {
		uint64_t from = any_of(c, &seed), to = any_of(c, &seed);
		int64_t sum = (int64_t)(next_random(&seed) % 1000);
		if (from == to)
			continue;
		j->from = from;
		j->to = to;
		j->old_from = *account(c->mem, from);
		j->old_to = *account(c->mem, to);
		/* x86 keeps stores in order; the compiler shall, too. */
		atomic_signal_fence(memory_order_seq_cst);
		j->active = 1;
		*account(c->mem, from) -= sum;
		*account(c->mem, to) += sum;
		j->active = 0;
		j->moves++;
		if (ledger_nap_us)
			usleep(ledger_nap_us);
	}
	return NULL;
}

void ledger_open(char *mem, size_t len)
{
	static struct clerk clerks[LEDGER_CLERKS];
	size_t n = len / PAGE - LEDGER_CLERKS;

	memset(mem, 0, LEDGER_CLERKS * PAGE);
	for (size_t i = 0; i < n; i++)
		*account(mem, i) = LEDGER_EACH;
	for (unsigned int i = 0; i < LEDGER_CLERKS; i++) {
		pthread_t thread;
		clerks[i] = (struct clerk){mem, ledger_used ? ledger_used : n, i};
		check_equal(pthread_create(&thread, NULL, work, &clerks[i]), 0);
	}
}

int64_t ledger_missing(const char *mem, size_t len)
{
	size_t n = len / PAGE - LEDGER_CLERKS;
	int64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += *account((char *)(uintptr_t)mem, i);
	for (unsigned int i = 0; i < LEDGER_CLERKS; i++) {
		const struct journal *j = (const void *)(mem + i * PAGE);
		if (!j->active || j->from >= n || j->to >= n)
			continue;
		sum += j->old_from - *account((char *)(uintptr_t)mem, j->from);
		sum += j->old_to - *account((char *)(uintptr_t)mem, j->to);
	}
	return (int64_t)n * LEDGER_EACH - sum;
}

uint64_t ledger_moves(const char *mem)
{
	uint64_t moves = 0;

	for (unsigned int i = 0; i < LEDGER_CLERKS; i++)
		moves += ((const struct journal *)(const void *)(mem + i * PAGE))->moves;
	return moves;
}
