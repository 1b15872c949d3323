// SPDX-License-Identifier: MIT
/* Accounts and clerks, see bank.h. */
#include <string.h>

#include "tests/lib/bank.h"

static _Atomic int64_t *account(const struct bank *bank, uint64_t i)
{
	return (_Atomic int64_t *)(void *)((char *)bank->account + i * PAGE);
}

static void *work(void *arg)
{
	struct bank *bank = arg;
	uint64_t seed = (uintptr_t)&seed | 1;

	while (!atomic_load(&bank->closing)) {
		uint64_t from = next_random(&seed) % bank->n, to = next_random(&seed) % bank->n;
		int64_t sum = (int64_t)(next_random(&seed) % 100000);
		pthread_rwlock_rdlock(&bank->open);
		atomic_fetch_sub(account(bank, from), sum);
		atomic_fetch_add(account(bank, to), sum);
		pthread_rwlock_unlock(&bank->open);
		atomic_fetch_add(&bank->moves, 1);
	}
	return NULL;
}

void bank_open(struct bank *bank, void *mem, size_t len)
{
	pthread_rwlockattr_t attr;

	memset(bank, 0, sizeof(*bank));
	bank->account = mem;
	bank->n = len / PAGE;
	/* Whoever wants to close it for a moment must get in between the clerks. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&bank->open, &attr);
	for (size_t i = 0; i < bank->n; i++)
		atomic_store(account(bank, i), BANK_EACH);
	for (unsigned int i = 0; i < BANK_CLERKS; i++)
		check_equal(pthread_create(&bank->clerk[i], NULL, work, bank), 0);
}

void bank_close(struct bank *bank)
{
	atomic_store(&bank->closing, true);
	for (unsigned int i = 0; i < BANK_CLERKS; i++)
		pthread_join(bank->clerk[i], NULL);
	pthread_rwlock_destroy(&bank->open);
}

int64_t bank_sum(const void *mem, size_t n)
{
	int64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		int64_t one;
		memcpy(&one, (const char *)mem + i * PAGE, sizeof(one));
		sum += one;
	}
	return sum;
}
