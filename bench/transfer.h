/* SPDX-License-Identifier: MIT */
/* One turn of a bench in which the giver's private memory goes to the taker, as both know it. */
#ifndef BENCH_TRANSFER_H
#define BENCH_TRANSFER_H

#include <sys/prctl.h>
#include <sys/uio.h>

#include "bench/handover.h"
#include "bench/memory.h"
#include "bench/pair.h"
#include "bench/raw.h"

#ifndef PR_SET_PTRACER
#define PR_SET_PTRACER 0x59616d61
#endif

struct transfer {
	const char *what;
	bool huge;
	bool release; /* the giver gives back to the system what has gone */
	uint64_t len, seed;
	char *mem; /* the giver's */
	pid_t giver;
};

/* Empty memory of the right kind, for either side. */
static inline char *transfer_map(const struct transfer *t)
{
	return memory_map(t->len, t->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static inline void transfer_open(struct transfer *t)
{
	t->giver = getpid();
	t->mem = transfer_map(t);
	must(madvise(t->mem, t->len, MADV_DONTFORK), "MADV_DONTFORK");
	memory_fill(t->mem, t->len, t->seed);
}

static inline void transfer_release(const struct transfer *t, uint64_t at, uint64_t len)
{
	if (t->release)
		must(madvise(t->mem + at, len, MADV_DONTNEED), "MADV_DONTNEED");
}

/* In the taker, when it has all and the clock has stopped. */
static inline void transfer_check(const struct transfer *t, const char *mem, struct pair_news *news)
{
	news->huge = memory_huge(mem, t->len);
	memory_check(mem, t->len, t->seed, t->what);
}

/* ---- by the library */

static inline void transfer_take(int sock, struct pair_news *news, const void *arg)
{
	const struct transfer *t = arg;
	char *mem = transfer_map(t);
	struct ferry_take *take = take_open(sock);

	take_until_committed(take, mem);
	take_done(take);
	pair_has_all(news);
	transfer_check(t, mem, news);
	ferry_take_close(take);
}

static inline struct ferry_give *transfer_give(const struct transfer *t, struct pair *pair,
					       uint32_t ways)
{
	struct ferry_range range = {.addr = (uintptr_t)t->mem, .len = t->len, .id = 1};
	return give_until_ready(pair->sock, &range, ways);
}

/* ---- by process_vm_readv */

/* Matters only under Yama. */
static inline void transfer_let_read(pid_t taker)
{
	prctl(PR_SET_PTRACER, (unsigned long)taker, 0, 0, 0);
}

static inline void transfer_read(const struct transfer *t, char *to, uint64_t at, uint64_t len)
{
	struct iovec local = {to, len}, remote = {t->mem + at, len};
	long n = must(process_vm_readv(t->giver, &local, 1, &remote, 1, 0), "process_vm_readv");

	if (n != (long)len)
		bench_fail("process_vm_readv stopped at %ld bytes", n);
}

/* In the giver: a byte from the taker for each 2 MiB that it has read. */
static inline void transfer_release_as_read(const struct transfer *t, int sock)
{
	for (uint64_t at = 0; t->release && at < t->len;) {
		uint64_t n = raw_recv_bytes(sock, (t->len - at) / BENCH_HUGE) * BENCH_HUGE;
		transfer_release(t, at, n);
		at += n;
	}
}

#endif
