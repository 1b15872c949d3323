/* SPDX-License-Identifier: MIT */
/*
 * A program at work: threads that change memory at a pace. Each page has a balance in its first
 * word, and a write takes one from a page and gives it to another; so an image that is of one
 * moment has the sum 0. The rest of a page stays as it was filled.
 *
 * In each slot of a millisecond every writer has a few writes to do. A slot for which it comes too
 * late is lost; nothing is made up for.
 */
#ifndef BENCH_WRITERS_H
#define BENCH_WRITERS_H

#include <pthread.h>

#include "bench/memory.h"

#define WRITERS     2u
#define SLOT_NS     1000000
#define SLOT_WRITES 10u
#define SETTLE_NS   300000000ll
#define AREA_PAGES  256u /* a writer that works locally: 1 MiB ... */
#define AREA_SLOTS  100u /* ... for so many slots */

struct writers;

struct writer {
	struct writers *all;
	pthread_t thread;
	uint64_t random, area;
	uint32_t *ns; /* of each write in the window */
	size_t n, lost;
};

struct writers {
	char *mem;
	uint64_t len;
	bool local;
	int64_t start;         /* of the window */
	unsigned int slots;    /* in the window */
	pthread_rwlock_t open; /* whoever has it for writing sees no write half done */
	struct writer v[WRITERS];
};

static inline uint64_t writers_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static inline int64_t *writers_page(struct writer *w)
{
	uint64_t random = writers_random(&w->random), npages = w->all->len / BENCH_PAGE;
	uint64_t page = w->all->local ? w->area + random % AREA_PAGES : random % npages;

	return (int64_t *)(void *)(w->all->mem + page * BENCH_PAGE);
}

static inline void writers_one(struct writer *w, int64_t since, bool counts)
{
	__atomic_sub_fetch(writers_page(w), 1, __ATOMIC_RELAXED);
	__atomic_add_fetch(writers_page(w), 1, __ATOMIC_RELAXED);
	if (counts)
		w->ns[w->n++] = (uint32_t)(bench_now() - since);
}

static inline void writers_slot(struct writer *w, bool counts)
{
	int64_t since = bench_now();

	/* That the program stands still is part of what its first write meets. */
	pthread_rwlock_rdlock(&w->all->open);
	for (unsigned int i = 0; i < SLOT_WRITES; i++) {
		writers_one(w, since, counts);
		since = bench_now();
	}
	pthread_rwlock_unlock(&w->all->open);
}

static inline void *writers_work(void *arg)
{
	struct writer *w = arg;
	struct writers *all = w->all;

	for (int64_t slot = -SETTLE_NS / SLOT_NS, next; slot < all->slots; slot = next) {
		int64_t due = all->start + slot * SLOT_NS;
		struct timespec at = {due / 1000000000, due % 1000000000};
		if (slot % AREA_SLOTS == 0)
			w->area = writers_random(&w->random) %
				  (all->len / BENCH_PAGE / AREA_PAGES) * AREA_PAGES;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
		writers_slot(w, slot >= 0);
		int64_t now = (bench_now() - all->start) / SLOT_NS;
		next = now > slot + 1 ? now : slot + 1;
		int64_t end = next < all->slots ? next : all->slots;
		if (slot >= 0)
			w->lost += (size_t)(end - slot - 1) * SLOT_WRITES;
	}
	return NULL;
}

/* Contents and balances. A page that comes twice, or never, is the caller's business. */
static inline int64_t writers_check(const char *data, uint64_t at, uint64_t len, uint64_t seed,
				    const char *what)
{
	int64_t sum = 0;

	for (uint64_t end = at + len; at < end; at += BENCH_PAGE, data += BENCH_PAGE) {
		const uint64_t *w = (const void *)data;
		sum += *(const int64_t *)w;
		for (uint64_t i = 1; i < PAGE_WORDS; i++)
			if (w[i] != memory_word(seed, at / sizeof(*w) + i))
				bench_fail("%s: wrong contents in page %llu", what,
					   (unsigned long long)(at / BENCH_PAGE));
	}
	return sum;
}

static inline void writers_fill(char *mem, uint64_t len, uint64_t seed)
{
	memory_fill(mem, len, seed);
	for (uint64_t at = 0; at < len; at += BENCH_PAGE)
		*(int64_t *)(void *)(mem + at) = 0;
}

static inline void writers_start(struct writers *all, char *mem, uint64_t len, bool local,
				 unsigned int slots)
{
	pthread_rwlockattr_t attr;

	*all = (struct writers){.mem = mem, .len = len, .local = local, .slots = slots};
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&all->open, &attr);
	all->start = bench_now() + SETTLE_NS + SLOT_NS;
	for (unsigned int i = 0; i < WRITERS; i++) {
		struct writer *w = &all->v[i];
		size_t most = (size_t)slots * SLOT_WRITES;
		w->all = all;
		w->random = 88172645463325252ull + i;
		w->ns = malloc(most * sizeof(*w->ns));
		if (!w->ns)
			bench_fail("no memory");
		memset(w->ns, 1, most * sizeof(*w->ns)); /* no faults of its own later */
		if (pthread_create(&w->thread, NULL, writers_work, w))
			bench_fail("no thread can be had");
	}
}

static inline void writers_join(struct writers *all)
{
	for (unsigned int i = 0; i < WRITERS; i++)
		pthread_join(all->v[i].thread, NULL);
}

static inline void writers_free(struct writers *all)
{
	for (unsigned int i = 0; i < WRITERS; i++)
		free(all->v[i].ns);
	pthread_rwlock_destroy(&all->open);
}

#endif
