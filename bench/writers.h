/* SPDX-License-Identifier: MIT */
/*
 * A program at work: threads that change memory at a pace. Each page has a balance for each writer,
 * and a write takes something from one page and gives it to another. What a writer has in hand
 * meanwhile stands in the first page; so in an image that is of one moment, at whatever
 * instruction, the balances of a writer have the sum 0, or lack what it has in hand. The rest of a
 * page stays as it was filled.
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
#define AREA_PAGES  256u            /* a writer that works locally: 1 MiB ... */
#define AREA_SLOTS  100u            /* ... for so many slots */
#define OWN_WORDS   (2ul * WRITERS) /* of a page: balances, and of the first what is in hand */

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
	volatile bool enough;  /* it ends now */
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

/* x86 keeps stores in order, the compiler volatile ones. */
static inline void writers_one(struct writer *w, int64_t since, bool counts)
{
	size_t number = (size_t)(w - w->all->v);
	volatile int64_t *hand = (int64_t *)(void *)w->all->mem + WRITERS + number;
	volatile int64_t *from = writers_page(w) + number, *to = writers_page(w) + number;
	int64_t sum = (int64_t)(w->random >> 44) + 1;

	*hand = sum;
	*from -= sum;
	*to += sum;
	*hand = 0;
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

	for (int64_t slot = -SETTLE_NS / SLOT_NS, next; slot < all->slots && !all->enough;
	     slot = next) {
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

/* ---- what they leave */

/* Of an image, or of a part of it. */
struct writers_sums {
	int64_t balance[WRITERS], hand[WRITERS];
};

static inline void writers_add_sums(struct writers_sums *s, const struct writers_sums *more)
{
	for (unsigned int i = 0; i < WRITERS; i++) {
		s->balance[i] += more->balance[i];
		s->hand[i] += more->hand[i];
	}
}

static inline bool writers_balanced(const struct writers_sums *s)
{
	for (unsigned int i = 0; i < WRITERS; i++)
		if (s->balance[i] && s->balance[i] != -s->hand[i])
			return false;
	return true;
}

/* Contents and balances. A page that comes twice, or never, is the caller's business. */
static inline void writers_check(const char *data, uint64_t at, uint64_t len, uint64_t seed,
				 const char *what, struct writers_sums *s)
{
	for (uint64_t end = at + len; at < end; at += BENCH_PAGE, data += BENCH_PAGE) {
		const uint64_t *w = (const void *)data;
		for (unsigned int i = 0; i < WRITERS; i++) {
			s->balance[i] += (int64_t)w[i];
			s->hand[i] += (int64_t)w[WRITERS + i];
		}
		for (uint64_t i = OWN_WORDS; i < PAGE_WORDS; i++)
			if (w[i] != memory_word(seed, at / sizeof(*w) + i))
				bench_fail("%s: wrong contents in page %llu", what,
					   (unsigned long long)(at / BENCH_PAGE));
	}
}

/* How it went for them, within the window. */
struct writers_figures {
	double lost, p99_us, max_us;
};

static inline int writers_compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static inline struct writers_figures writers_figures(const struct writers *all)
{
	size_t n = 0, lost = 0, most = 0;

	for (unsigned int i = 0; i < WRITERS; i++)
		most += all->v[i].n;
	uint32_t *ns = malloc(most * sizeof(*ns));
	if (!ns)
		bench_fail("no memory");
	if (!most)
		bench_fail("no write came about");
	for (unsigned int i = 0; i < WRITERS; i++) {
		memcpy(ns + n, all->v[i].ns, all->v[i].n * sizeof(*ns));
		n += all->v[i].n;
		lost += all->v[i].lost;
	}
	qsort(ns, n, sizeof(*ns), writers_compare);
	size_t p99 = (n - 1) * 99 / 100;
	struct writers_figures f = {(double)lost, ns[p99] / 1e3, ns[n - 1] / 1e3};
	free(ns);
	return f;
}

/* ---- */

static inline void writers_fill(char *mem, uint64_t len, uint64_t seed)
{
	memory_fill(mem, len, seed);
	for (uint64_t at = 0; at < len; at += BENCH_PAGE)
		memset(mem + at, 0, OWN_WORDS * sizeof(uint64_t));
}

static inline size_t writers_most(const struct writers *all)
{
	return (size_t)all->slots * SLOT_WRITES * sizeof(*all->v[0].ns);
}

/* The figures are shared with who forks now or later. */
static inline void writers_init(struct writers *all, unsigned int slots)
{
	pthread_rwlockattr_t attr;

	*all = (struct writers){.slots = slots};
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&all->open, &attr);
	for (unsigned int i = 0; i < WRITERS; i++) {
		struct writer *w = &all->v[i];
		w->all = all;
		w->random = 88172645463325252ull + i;
		w->ns = mmap(NULL, writers_most(all), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		if (w->ns == MAP_FAILED)
			bench_fail("no memory");
	}
}

static inline void writers_start(struct writers *all, char *mem, uint64_t len, bool local)
{
	all->mem = mem;
	all->len = len;
	all->local = local;
	all->start = bench_now() + SETTLE_NS + SLOT_NS;
	for (unsigned int i = 0; i < WRITERS; i++)
		if (pthread_create(&all->v[i].thread, NULL, writers_work, &all->v[i]))
			bench_fail("no thread can be had");
}

static inline void writers_join(struct writers *all)
{
	for (unsigned int i = 0; i < WRITERS; i++)
		pthread_join(all->v[i].thread, NULL);
}

static inline void writers_fini(struct writers *all)
{
	for (unsigned int i = 0; i < WRITERS; i++)
		munmap(all->v[i].ns, writers_most(all));
	pthread_rwlock_destroy(&all->open);
}

#endif
