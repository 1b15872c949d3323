// SPDX-License-Identifier: MIT
/* Pages move while the giver uses them, or while the kernel does. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <unistd.h>

#include "harness.h"
#include "lib/uffd_abi.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"
#include "swapspace.h"

#define SUBJECT "race"

#define WRITERS 2

/* ---- a writer in the giver: not a write may be lost, nor be done to a page that has left */

/*
 * Counts in a word of each page, round and round, and keeps its own count beside. It ends in a page
 * that has gone: in a fault that nobody answers.
 */
static int64_t count_in_pages(const uint64_t *arg)
{
	uint64_t addr = arg[0], len = arg[1], word = arg[3];
	uint64_t *counts = (uint64_t *)arg[2];

	for (;;) {
		for (uint64_t i = 0; i < len / PAGE; i++) {
			(*(volatile uint64_t *)(addr + i * PAGE + word * 8))++;
			__atomic_store_n(&counts[i * WRITERS + word],
					 counts[i * WRITERS + word] + 1, __ATOMIC_RELEASE);
		}
	}
	return 0;
}

struct writers {
	struct end giver, taker;
	uint64_t counts; /* an array in the giver */
};

static struct writers writers_start(size_t len, unsigned int how)
{
	struct writers w = {.taker = taker_start(len, how)};
	struct peer *p = peer_start();
	uint64_t pages = len / PAGE;

	w.giver = (struct end){.peer = p, .addr = peer_map(p, 0, len, how), .len = len};
	w.counts = peer_map(p, 0, pages * WRITERS * 8 + PAGE, MAP_4K);
	w.giver.uffd = peer_uffd(p, 0);
	for (uint64_t at = 0; at < len; at += PAGE)
		peer_poke(p, w.giver.addr + at, 0);
	check_is(uffd_register(w.giver.uffd, w.giver.addr, len, UFFDIO_REGISTER_MODE_MISSING), 0);
	for (uint64_t i = 0; i < WRITERS; i++)
		peer_thread(p, count_in_pages, w.giver.addr, len, w.counts, i);
	return w;
}

/* The page's words are what each writer has counted, or one more, if it had no time to say so. */
static void check_page(uint64_t page, const uint64_t *found, const uint64_t *counted)
{
	for (int i = 0; i < WRITERS; i++)
		if (found[i] != counted[i] && found[i] != counted[i] + 1)
			test_failed(__FILE__, __LINE__, "page %llu: %llu, but writer %d has %llu",
				    (unsigned long long)page, (unsigned long long)found[i], i,
				    (unsigned long long)counted[i]);
}

static void check_pages(const struct writers *w, uint64_t at, size_t len)
{
	const size_t count_bytes = len / PAGE * WRITERS * 8;
	uint64_t *pages = malloc(len), *counts = malloc(count_bytes);

	check(pages && counts);
	peer_read(w->taker.peer, w->taker.addr + at, pages, len);
	peer_read(w->giver.peer, w->counts + at / PAGE * WRITERS * 8, counts, count_bytes);
	for (size_t i = 0; i < len / PAGE; i++)
		check_page(at / PAGE + i, pages + i * PAGE / 8, counts + i * WRITERS);
	free(pages);
	free(counts);
}

/*
 * First from the middle, then all the others. The writers stop at the first page that has gone, so
 * those only tell of writes that came late.
 */
static void move_from_writers(size_t len, unsigned int how, size_t step)
{
	struct writers w = writers_start(len, how);
	uint64_t first = len / step / 2 * step;
	int pf = pf_open();

	/* In the last page. */
	await(10000, peer_peek(w.giver.peer, w.counts + (len / PAGE - 1) * WRITERS * 8));
	check_is(pf_move(pf, 0, w.taker.uffd, w.giver.uffd, w.taker.addr + first,
			 w.giver.addr + first, step, NULL),
		 0);
	/* Both come to it soon. A write by way of a stale TLB entry would still change the page. */
	nap_ms(20);
	check_pages(&w, first, step);
	for (uint64_t at = 0; at < len; at += step) {
		if (at == first)
			continue;
		check_is(pf_move(pf, 0, w.taker.uffd, w.giver.uffd, w.taker.addr + at,
				 w.giver.addr + at, step, NULL),
			 0);
	}
	check_pages(&w, 0, len);
	/* The threads of the giver never return. */
	close(w.giver.uffd);
	peer_kill(w.giver.peer);
	end_stop(&w.taker);
}

static void writers(void)
{
	for (int i = 0; i < 20; i++)
		move_from_writers(8 * PAGE, MAP_4K, PAGE);
}

static void writers_many_pages(void)
{
	for (int i = 0; i < 10; i++)
		move_from_writers(256 * PAGE, MAP_4K, 64 * PAGE);
}

static void writers_huge(void)
{
	for (int i = 0; i < 10; i++)
		move_from_writers(2 * BLOCK, MAP_HUGE, BLOCK);
}

/* ---- reclaim */

static volatile bool stop_reclaim;

static int64_t page_out(const uint64_t *arg)
{
	int64_t rounds = 0;

	for (; !stop_reclaim; rounds++) {
		check_call(madvise((void *)arg[0], arg[1], MADV_PAGEOUT));
		nap_ms(1);
	}
	return rounds;
}

static int64_t stop_page_out(const uint64_t *arg)
{
	(void)arg;
	stop_reclaim = true;
	return 0;
}

/* Without changing it. */
static int64_t write_to(const uint64_t *arg)
{
	return __atomic_fetch_or((uint64_t *)arg[0], 0, __ATOMIC_RELAXED) != 0;
}

/*
 * To the end: a page that is being reclaimed just now can't be had for a moment. One that is read back
 * while it is being written to zram is no longer its process' alone, to the kernel, until somebody
 * writes to it: SWP_STABLE_WRITES in do_swap_page(). Returns how often it was refused.
 */
static unsigned int move_patiently(int pf, const struct end *to, const struct end *from)
{
	int64_t end = now_ms() + 10000;
	unsigned int refused = 0;
	uint64_t done = 0, moved;

	while (done < from->len) {
		int ret = pf_move(pf, 0, to->uffd, from->uffd, to->addr + done, from->addr + done,
				  from->len - done, &moved);

		if (ret && ret != -EBUSY)
			check_is(ret, -EAGAIN);
		if (ret == -EBUSY)
			peer_do(from->peer, write_to, from->addr + done + moved);
		if (moved)
			end = now_ms() + 10000;
		check(now_ms() < end);
		refused += ret != 0;
		done += moved;
	}
	return refused;
}

/* Both ends are written to swap all the time, and pages go forth and back. */
static void reclaim_on(const char *path)
{
	const size_t len = 256 * PAGE;
	int pf = pf_open(), a, b;
	unsigned int refused = 0;
	struct end giver, taker;

	swap_on(path);
	giver = giver_start(len, MAP_4K);
	taker = taker_start(len, MAP_4K);
	a = peer_thread(giver.peer, page_out, giver.addr, len);
	b = peer_thread(taker.peer, page_out, taker.addr, len);
	for (int i = 0; i < 20; i++) {
		refused += move_patiently(pf, &taker, &giver);
		end_verify(&taker, taker.addr, giver.addr, len);
		refused += move_patiently(pf, &giver, &taker);
		end_verify(&giver, giver.addr, giver.addr, len);
	}
	peer_do(giver.peer, stop_page_out, 0);
	peer_do(taker.peer, stop_page_out, 0);
	note("paged out %lld and %lld times, %u times refused",
	     (long long)peer_join(giver.peer, a, 10000), (long long)peer_join(taker.peer, b, 10000),
	     refused);
	giver_is_empty(&taker);
	end_stop(&giver);
	end_stop(&taker);
	check_call(swapoff(path));
}

static void reclaim(void)
{
	reclaim_on(ZRAM);
}

static void reclaim_disk(void)
{
	reclaim_on(DISK);
}

/* clang-format off */
const struct test race_tests[] = {
	TEST(writers, .seconds = 60),
	TEST(writers_many_pages, .seconds = 60),
	TEST(writers_huge, .seconds = 60),
	TEST(reclaim, .seconds = 90),
	TEST(reclaim_disk, .seconds = 90),
	{.name = NULL},
};
