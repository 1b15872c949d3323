// SPDX-License-Identifier: MIT
/* Register and protect, by several threads in large pieces: the program may stand still meanwhile.
 */
#include <errno.h>
#include <stdatomic.h>
#include <sched.h>
#include <unistd.h>

#include "lib/snapshot_arm.h"

#define PIECE       (64ull << 20)
#define MAX_THREADS 16u

struct arming {
	int uffd;
	const struct page_range *v;
	size_t n;
	atomic_size_t next; /* piece */
	atomic_int error;
};

static uint64_t pieces_of(const struct page_range *r)
{
	return (r->end - r->start + PIECE - 1) / PIECE;
}

/* Piece @i of all pieces of all ranges; @r and @first go along, so that this is no search. */
static bool find_piece(const struct arming *a, size_t i, size_t *r, size_t *first,
		       struct ferry_span *piece)
{
	while (*r < a->n && i - *first >= pieces_of(&a->v[*r]))
		*first += pieces_of(&a->v[(*r)++]);
	if (*r == a->n)
		return false;
	piece->addr = a->v[*r].start + (i - *first) * PIECE;
	uint64_t left = a->v[*r].end - piece->addr;
	piece->len = left < PIECE ? left : PIECE;
	return true;
}

/* An event of another thread of ours passes; a program that is stopped has none. */
static int protect(int uffd, const struct ferry_span *piece)
{
	int ret;

	while ((ret = uffd_writeprotect(uffd, piece->addr, piece->len,
					UFFDIO_WRITEPROTECT_MODE_WP)) == -EAGAIN)
		sched_yield();
	return ret;
}

static void *work(void *arg)
{
	struct arming *a = arg;
	struct ferry_span piece;
	size_t r = 0, first = 0;

	while (!atomic_load(&a->error) &&
	       find_piece(a, atomic_fetch_add(&a->next, 1), &r, &first, &piece)) {
		int ret = protect(a->uffd, &piece);
		if (ret)
			atomic_store(&a->error, ret);
	}
	return NULL;
}

static unsigned int threads_for(const struct pages *pages, unsigned int asked)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t pieces = pages->npages * FERRY_PAGE / PIECE + 1;
	unsigned int n = asked ? asked : cpus > 0 ? (unsigned int)cpus : 1;

	n = n < MAX_THREADS ? n : MAX_THREADS;
	return n < pieces ? n : (unsigned int)pieces;
}

static int protect_all(const struct pages *pages, int uffd, unsigned int asked)
{
	struct arming a = {.uffd = uffd, .v = pages->v, .n = pages->n};
	pthread_t helper[MAX_THREADS];
	unsigned int want = threads_for(pages, asked), n = 0;

	while (n + 1 < want && !pthread_create(&helper[n], NULL, work, &a))
		n++;
	work(&a);
	while (n)
		pthread_join(helper[--n], NULL);
	return atomic_load(&a.error);
}

int snapshot_protect(const struct pages *pages, int uffd, unsigned int threads)
{
	for (size_t i = 0; i < pages->n; i++) {
		const struct page_range *r = &pages->v[i];
		int ret = uffd_register(uffd, r->start, r->end - r->start, UFFDIO_REGISTER_MODE_WP,
					NULL);
		if (ret)
			return ret;
	}
	return protect_all(pages, uffd, threads);
}
