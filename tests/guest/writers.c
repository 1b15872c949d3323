// SPDX-License-Identifier: MIT
/*
 * No write is lost. Threads of two processes add to counters in the same pages, of which each is at
 * one of both at any time: who runs into a hole gets the page from the other side. Others move
 * whole ranges to and fro meanwhile, so that pages are taken away while they are written to. In the
 * end the pages hold what all threads together have added.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>

#include "harness.h"
#include "lib/uffd_abi.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"
#include "stress.h"
#include "swapspace.h"

#define PAGES_MAX   2048u
#define WRITERS     4u /* half of them at either side */
#define LAST        511
#define SHUFFLERS   2u
#define WAITERS     16u /* at a side, more than there are threads */
#define RUN_MS      3000
#define PATIENCE_MS 10000

struct row {
	unsigned int pages;
	bool huge;
	bool split;       /* ranges that are no whole huge pages */
	const char *swap; /* where to pages are put out, if at all */
};

/* What all processes have in common. */
struct common {
	atomic_bool stop, stop_owning, stop_serving;
	_Atomic uint64_t refused[2]; /* a page that its side is to write to, see own_pages() */
	uint64_t added[WRITERS][PAGES_MAX]; /* each by one thread */
	struct tally faults, shuffles;
};
static struct common *all;

static struct {
	const struct row *row;
	struct end side[2];
	int pf;
} run;

/* ---- the writers; each has a word of its own in a page, and all have one together */

/* arg: address, pages, number of the writer */
static int64_t write_counters(const uint64_t *arg)
{
	uint64_t random = arg[2] << 32;

	while (!all->stop) {
		uint64_t page = below(&random, arg[1]);
		uint64_t *words = (uint64_t *)(arg[0] + page * PAGE);

		/* Read in by a read it stays in the swap cache, and is clean. */
		(void)*(volatile uint64_t *)words;
		/* For a while at the same one, so that it is in the CPU's TLB when it is taken
		 * away. */
		for (uint64_t n = below(&random, 2000); n && !all->stop; n--) {
			__atomic_fetch_add(&words[0], 1, __ATOMIC_RELAXED);
			/* No atomic one: nobody else writes here. */
			((volatile uint64_t *)words)[64 * (1 + arg[2])]++;
			all->added[arg[2]][page]++;
		}
	}
	return 0;
}

/* ---- the movers */

static const int answers[] = {EBUSY, EEXIST, ENOENT, EAGAIN, 0};

static int move(unsigned int to, unsigned int first, unsigned int n, struct tally *tally,
		unsigned int *moved)
{
	const struct end *dst = &run.side[to], *src = &run.side[!to];
	uint64_t bytes;
	int ret = pf_move(run.pf, 0, dst->uffd, src->uffd, dst->addr + first * PAGE,
			  src->addr + first * PAGE, n * PAGE, &bytes);

	tally_add(tally, ret, bytes, answers);
	if (moved)
		*moved = (unsigned int)(bytes / PAGE);
	return ret;
}

/* How many pages go at once: huge pages that are to stay ones go whole. */
static unsigned int step(void)
{
	return run.row->huge && !run.row->split ? BLOCK / PAGE : 1;
}

struct waiter {
	uint64_t at;
	int64_t until;
};

/*
 * It is there then, or was there already, or has just gone again and is faulted for again. A huge
 * page that is one no more may be at both sides in part.
 */
static bool serve(unsigned int to, const struct waiter *w)
{
	unsigned int page = (unsigned int)((w->at - run.side[to].addr) / PAGE);
	int ret = -EAGAIN;

	if (step() > 1)
		ret = move(to, page - page % step(), step(), &all->faults, NULL);
	if (ret)
		ret = move(to, page, 1, &all->faults, NULL);
	if (ret == -EEXIST)
		ret = uffd_wake(run.side[to].uffd, w->at, PAGE);
	if (ret == -EBUSY && run.row->swap)
		all->refused[!to] = run.side[!to].addr + page * PAGE;
	if (ret && now_ms() > w->until)
		test_failed(__FILE__, __LINE__, "page %u: nothing but %s", page, strerrorname_np(-ret));
	return !ret;
}

/*
 * Each thread waits for one page at a time. None is waited for with the others unanswered: whoever is to write to
 * it so that it can move may be waiting for another one himself. arg: the side
 */
static int64_t serve_faults(const uint64_t *arg)
{
	struct waiter waiters[WAITERS];
	struct uffd_msg msg;
	unsigned int n = 0;

	while (!all->stop_serving || n) {
		if (n < WAITERS && uffd_read(run.side[arg[0]].uffd, &msg, n ? 0 : 20))
			waiters[n++] = (struct waiter){msg.arg.pagefault.address & ~(PAGE - 1),
						       now_ms() + PATIENCE_MS};
		for (unsigned int i = n; i-- > 0;)
			if (serve((unsigned int)arg[0], &waiters[i]))
				waiters[i] = waiters[--n];
	}
	return 0;
}

/* Those of a range that are at the other side; the rest is passed over. */
static void move_range(unsigned int to, unsigned int first, unsigned int n)
{
	unsigned int end = first + n, moved;

	for (; first < end && !all->stop; first += moved)
		if (move(to, first, end - first, &all->shuffles, &moved) && !moved)
			moved = step();
}

static int64_t shuffle(const uint64_t *arg)
{
	unsigned int steps = run.row->pages / step();
	uint64_t random = arg[0];

	while (!all->stop) {
		unsigned int first = (unsigned int)below(&random, steps);
		unsigned int n = 1 + (unsigned int)below(&random, steps - first);

		move_range((unsigned int)below(&random, 2), first * step(), n * step());
		nap_ms(1);
	}
	return 0;
}

/* ---- what else goes on */

/*
 * arg: address, length. Reclaim may find everything in use: it is tried only. And it has the pages
 * off their lists for as long as it takes, so they are few.
 */
static int64_t page_out(const uint64_t *arg)
{
	const uint64_t len = run.row->huge ? BLOCK : 16 * PAGE;
	uint64_t random = arg[0];

	while (!all->stop) {
		uint64_t at = arg[0] + below(&random, arg[1] / len) * len;

		madvise((void *)at, len, MADV_PAGEOUT);
		nap_ms(len < BLOCK ? 2 : 100);
	}
	return 0;
}

/*
 * A page that is read back while it is being written to zram is no longer its process' alone, to
 * the kernel, until somebody writes to it: SWP_STABLE_WRITES in do_swap_page(). Those who would are
 * waiting for it at the other side. arg: the side.
 */
static int64_t own_pages(const uint64_t *arg)
{
	while (!all->stop_owning) {
		uint64_t at = atomic_exchange(&all->refused[arg[0]], 0);

		if (at)
			madvise((void *)at, PAGE, MADV_POPULATE_WRITE);
		else
			nap_ms(1);
	}
	return 0;
}

/* ---- the end */

static void look_where(bool holes[2][PAGES_MAX])
{
	for (unsigned int s = 0; s < 2; s++)
		find_holes(peer_pid(run.side[s].peer), run.side[s].addr, holes[s], run.row->pages);
}

/* Each page is at exactly one of both sides. */
static void check_places(void)
{
	bool holes[2][PAGES_MAX];

	look_where(holes);
	for (unsigned int i = 0; i < run.row->pages; i++)
		if (holes[0][i] == holes[1][i])
			test_failed(__FILE__, __LINE__, "page %u is at %s", i,
				    holes[0][i] ? "neither side" : "both sides");
}

static void bring_all(void)
{
	int64_t end = now_ms() + PATIENCE_MS;
	bool holes[2][PAGES_MAX];

	look_where(holes);
	for (unsigned int i = 0; i < run.row->pages; i++)
		while (holes[0][i] && move(0, i, 1, &all->shuffles, NULL)) {
			peer_madvise(run.side[1].peer, run.side[1].addr + i * PAGE, PAGE,
				     MADV_POPULATE_WRITE);
			check(now_ms() < end);
		}
}

/* In the peer that has the pages: address, pages. */
static int64_t check_words(const uint64_t *arg)
{
	const uint64_t *words = (const uint64_t *)arg[0];

	for (unsigned int i = 0; i < arg[1]; i++, words += PAGE / sizeof(*words)) {
		uint64_t sum = 0;

		for (unsigned int w = 0; w < WRITERS; w++) {
			uint64_t is = words[64ul * (1 + w)], added = all->added[w][i];

			if (is != added)
				test_failed(__FILE__, __LINE__,
					    "page %u: writer %u added %llu, it has %llu", i, w,
					    (unsigned long long)added, (unsigned long long)is);
			sum += added;
		}
		check_is(words[0], sum);
	}
	return 0;
}

static void check_totals(void)
{
	uint64_t sum = 0;

	peer_do(run.side[0].peer, check_words, run.side[0].addr, run.row->pages);
	for (unsigned int i = 0; i < run.row->pages; i++)
		for (unsigned int w = 0; w < WRITERS; w++)
			sum += all->added[w][i];
	note("%llu additions", (unsigned long long)sum);
	check(sum > 0);
}

/* ---- all of it */

struct threads {
	int servers[2], shufflers[SHUFFLERS], writers[WRITERS], outs[2], owners[2];
};

/* The last word, which is nobody's, isn't 0: the kernel replaces a page of zeros by its zero page.
 */
static int64_t clear(const uint64_t *arg)
{
	memset((void *)arg[0], 0, arg[1]);
	for (uint64_t at = arg[0]; at < arg[0] + arg[1]; at += PAGE)
		((uint64_t *)at)[LAST] = 1;
	return 0;
}

static void start(void)
{
	unsigned int how = run.row->huge ? MAP_HUGE : MAP_4K;
	size_t len = run.row->pages * PAGE;

	all = shared(sizeof(*all));
	run.pf = pf_open();
	run.side[0] = giver_start(len, how);
	run.side[1] = taker_start(len, how);
	peer_do(run.side[0].peer, clear, run.side[0].addr, len);
}

static uint64_t huge_kb(unsigned int side)
{
	const struct end *e = &run.side[side];

	return smaps_kb(peer_pid(e->peer), e->addr, e->len, "AnonHugePages");
}

static void check_faults(void)
{
	tally_note(&all->faults, "faults");
	tally_note(&all->shuffles, "ranges");
	if (run.row->huge)
		note("%" PRIu64 " KiB are huge pages", huge_kb(0) + huge_kb(1));
	check(all->faults.pages > 0);
	check(all->shuffles.pages > 0);
}

static void start_threads(struct threads *t)
{
	for (unsigned int s = 0; s < 2; s++)
		t->servers[s] = peer_thread(NULL, serve_faults, s);
	for (unsigned int w = 0; w < WRITERS; w++)
		t->writers[w] = peer_thread(run.side[w % 2].peer, write_counters,
					    run.side[w % 2].addr, run.row->pages, w);
	for (unsigned int i = 0; i < SHUFFLERS; i++)
		t->shufflers[i] = peer_thread(NULL, shuffle, i);
	for (unsigned int s = 0; s < 2 && run.row->swap; s++) {
		t->outs[s] = peer_thread(run.side[s].peer, page_out, run.side[s].addr,
					 run.side[s].len);
		t->owners[s] = peer_thread(run.side[s].peer, own_pages, s);
	}
}

/* Those that answer faults are the last. */
static void end_threads(const struct threads *t)
{
	all->stop = true;
	for (unsigned int i = 0; i < SHUFFLERS; i++)
		peer_join(NULL, t->shufflers[i], 20000);
	for (unsigned int w = 0; w < WRITERS; w++)
		peer_join(run.side[w % 2].peer, t->writers[w], 20000);
	for (unsigned int s = 0; s < 2 && run.row->swap; s++)
		peer_join(run.side[s].peer, t->outs[s], 20000);
	all->stop_owning = true;
	for (unsigned int s = 0; s < 2 && run.row->swap; s++)
		peer_join(run.side[s].peer, t->owners[s], 20000);
	all->stop_serving = true;
	for (unsigned int s = 0; s < 2; s++)
		peer_join(NULL, t->servers[s], 20000);
}

static void end_swap(void)
{
	size_t pages = 0;

	for (unsigned int s = 0; s < 2; s++)
		pages += count_pages(peer_pid(run.side[s].peer), run.side[s].addr, run.side[s].len,
				     PM_SWAPPED);
	note("%zu pages in swap", pages);
	check_call(swapoff(run.row->swap));
}

static void no_write_is_lost(void)
{
	struct threads threads;

	run.row = test_row;
	if (run.row->swap)
		swap_on(run.row->swap);
	start();
	start_threads(&threads);
	nap_ms(RUN_MS);
	end_threads(&threads);
	if (run.row->swap)
		end_swap();
	check_places();
	check_faults();
	bring_all();
	/* The kernel finds each by its folio, or it would stay. */
	if (run.row->swap) {
		swap_on(run.row->swap);
		peer_page_out(run.side[0].peer, run.side[0].addr, run.side[0].len);
		end_swap();
	}
	check_totals();
	end_stop(&run.side[0]);
	end_stop(&run.side[1]);
}

#define ROW(what, ...)                                                                             \
	{                                                                                          \
		.name = "writers/" #what, .run = no_write_is_lost, .seconds = 60,                  \
		.row = &(const struct row){__VA_ARGS__},                                           \
	}

const struct test writers_tests[] = {
	ROW(few, .pages = 4),
	ROW(many, .pages = 256),
	ROW(swap, .pages = 256, .swap = ZRAM),
	ROW(disk, .pages = 256, .swap = DISK),
	ROW(huge, .pages = 2048, .huge = true),
	ROW(huge_split, .pages = 1024, .huge = true, .split = true),
	ROW(huge_swap, .pages = 1024, .huge = true, .swap = ZRAM),
	{0},
};
