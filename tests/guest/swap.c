// SPDX-License-Identifier: MIT
/*
 * Pages that aren't there: their swap entries move. On zram they are read straight into the
 * process; on a disk their neighbours come with them, into the swap cache, where nobody has mapped
 * them yet.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"
#include "swapspace.h"

#define SUBJECT "swap"

#define LEN     (4 * MIB)
#define NPAGES  (LEN / PAGE)

static uint64_t swapped_kb(const struct end *e)
{
	return status_kb(peer_pid(e->peer), "VmSwap");
}

static void is_swapped(const struct end *e, uint64_t len)
{
	check_is(count_pages(peer_pid(e->peer), e->addr, len, PM_SWAPPED), len / PAGE);
}

/*
 * Nothing of it is left in the swap space, but for what each CPU keeps at hand. A single entry that
 * belongs to nobody would show as well: swapoff() looks for its owner for ever.
 */
static void swap_is_empty(void)
{
	await(5000, meminfo_kb("SwapFree") + 1536 >= meminfo_kb("SwapTotal"));
}

static struct end swapped_giver(size_t len)
{
	struct end e = giver_start(len, MAP_4K);

	peer_page_out(e.peer, e.addr, len);
	return e;
}

/* ---- tests */

/* They move as they are, without being read in. */
static void entries(void)
{
	int pf = pf_open_with(PAGEFERRY_FEATURE_SWAP);
	struct end giver, taker;
	uint64_t kb;

	swap_on(ZRAM);
	giver = swapped_giver(LEN);
	taker = taker_start(LEN, MAP_4K);
	kb = swapped_kb(&giver);
	check(near_kb(kb, LEN / 1024, 512));
	pf_move_all(pf, &taker, &giver);
	giver_is_empty(&giver);
	is_swapped(&taker, LEN);
	check(near_kb(swapped_kb(&taker), LEN / 1024, 512));
	check(near_kb(swapped_kb(&giver), kb - LEN / 1024, 512));
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&giver);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&taker);
	swap_is_empty();
	check_call(swapoff(ZRAM));
}

/* swapoff() has to find each entry in its new process, which had none before. */
static void swapoff_finds(const char *path)
{
	struct end giver, taker;
	int pf = pf_open();

	swap_on(path);
	giver = swapped_giver(LEN);
	taker = taker_start(LEN, MAP_4K);
	pf_move_all(pf, &taker, &giver);
	check_call(swapoff(path));
	check_is(count_pages(peer_pid(taker.peer), taker.addr, LEN, PM_PRESENT), NPAGES);
	check_is(count_pages(peer_pid(taker.peer), taker.addr, LEN, PM_SWAPPED), 0);
	giver_is_empty(&giver);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&giver);
	end_stop(&taker);
}

static void off(void)
{
	swapoff_finds(ZRAM);
}

static void off_disk(void)
{
	swapoff_finds(DISK);
}

/* Their slots are freed when the new owner ends, or drops them. */
static void freed(void)
{
	struct end giver, taker;

	swap_on(ZRAM);
	giver = swapped_giver(LEN);
	taker = taker_start(LEN, MAP_4K);
	pf_move_all(pf_open(), &taker, &giver);
	end_stop(&giver);
	check(meminfo_kb("SwapTotal") - meminfo_kb("SwapFree") >= LEN / 1024);
	check_is(peer_madvise(taker.peer, taker.addr, LEN / 2, MADV_DONTNEED), 0);
	peer_kill(taker.peer);
	swap_is_empty();
	check_call(swapoff(ZRAM));
}

/* By turns: in swap, here, and nowhere. */
static void mixed_pages(const char *path, bool huge)
{
	int pf = pf_open();
	struct end giver, taker;
	uint64_t moved;

	swap_on(path);
	giver = giver_start(LEN, huge ? MAP_HUGE : MAP_4K);
	taker = taker_start(LEN, MAP_4K);
	peer_page_out(giver.peer, giver.addr, LEN);
	for (uint64_t at = 0; at < LEN; at += 4 * PAGE) {
		end_verify(&giver, giver.addr + at, giver.addr + at, PAGE);
		check_is(peer_madvise(giver.peer, giver.addr + at + PAGE, PAGE, MADV_DONTNEED), 0);
	}
	check_is(pf_move(pf, PAGEFERRY_MOVE_ALLOW_SRC_HOLES, taker.uffd, giver.uffd, taker.addr,
			 giver.addr, LEN, &moved),
		 0);
	check_is(moved, LEN);
	giver_is_empty(&giver);
	check_is(count_holes(peer_pid(taker.peer), taker.addr, LEN), NPAGES / 4);
	for (uint64_t at = 0; at < LEN; at += 4 * PAGE) {
		check_is(count_holes(peer_pid(taker.peer), taker.addr + at + PAGE, PAGE), 1);
		end_verify(&taker, taker.addr + at, giver.addr + at, PAGE);
		end_verify(&taker, taker.addr + at + 2 * PAGE, giver.addr + at + 2 * PAGE,
			   2 * PAGE);
	}
	end_stop(&giver);
	end_stop(&taker);
	swap_is_empty();
	check_call(swapoff(path));
}

static void mixed(void)
{
	mixed_pages(ZRAM, false);
}

static void mixed_disk(void)
{
	mixed_pages(DISK, false);
}

static void mixed_huge(void)
{
	mixed_pages(ZRAM, true);
}

/* In the cache since a neighbour was read; whatever the taker writes must not be lost again. */
static void cached(void)
{
	struct end giver, taker;
	int pf = pf_open();

	swap_on(DISK);
	giver = swapped_giver(LEN);
	taker = taker_start(LEN, MAP_4K);
	for (uint64_t at = 0; at < LEN; at += 16 * PAGE)
		end_verify(&giver, giver.addr + at, giver.addr + at, PAGE);
	note("%zu KiB in the swap cache", (size_t)meminfo_kb("SwapCached"));
	pf_move_all(pf, &taker, &giver);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	peer_fill(taker.peer, taker.addr, LEN, 1, SEED);
	peer_page_out(taker.peer, taker.addr, LEN);
	peer_verify(taker.peer, taker.addr, LEN, 1, SEED);
	end_stop(&giver);
	end_stop(&taker);
	swap_is_empty();
	check_call(swapoff(DISK));
}

/* What has moved can be swapped out by its new owner, and come back. */
static void out_and_back(void)
{
	struct end giver, taker;
	int pf = pf_open();

	swap_on(ZRAM);
	giver = giver_start(LEN, MAP_4K);
	taker = taker_start(LEN, MAP_4K);
	for (int i = 0; i < 3; i++) {
		pf_move_all(pf, &taker, &giver);
		peer_page_out(taker.peer, taker.addr, LEN);
		pf_move_all(pf, &giver, &taker);
		end_verify(&giver, giver.addr, giver.addr, LEN);
	}
	giver_is_empty(&taker);
	end_stop(&giver);
	end_stop(&taker);
	swap_is_empty();
	check_call(swapoff(ZRAM));
}

/* The taker's threads wait for pages that come as swap entries. */
static void serves_faults(void)
{
	struct end giver, taker;
	const size_t len = 64 * PAGE;
	int pf = pf_open(), thread;

	swap_on(ZRAM);
	giver = swapped_giver(len);
	taker = taker_start(len, MAP_4K);
	thread = peer_thread(taker.peer, peer_run_verify, taker.addr, len, giver.addr / PAGE, SEED);
	for (size_t i = 0; i < len / PAGE; i++) {
		uint64_t at = uffd_fault(taker.uffd);

		check_is(pf_move(pf, 0, taker.uffd, giver.uffd, at, giver.addr + (at - taker.addr),
				 PAGE, NULL),
			 0);
	}
	check_is(peer_join(taker.peer, thread, 10000), 0);
	end_stop(&giver);
	end_stop(&taker);
	check_call(swapoff(ZRAM));
}

/* A child has the same entries. */
static void fork_shared(void)
{
	struct end giver, taker;
	int pf = pf_open();
	uint64_t moved;
	pid_t child;

	swap_on(ZRAM);
	giver = swapped_giver(LEN);
	taker = taker_start(LEN, MAP_4K);
	child = peer_fork(giver.peer);
	is_swapped(&giver, LEN);
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr, giver.addr, LEN, &moved),
		 -EBUSY);
	check_is(moved, 0);
	giver_is_empty(&taker);
	giver_keeps(&giver);
	peer_end_child(giver.peer, child);
	peer_fill(giver.peer, giver.addr, LEN, giver.addr / PAGE, SEED);
	peer_page_out(giver.peer, giver.addr, LEN);
	pf_move_all(pf, &taker, &giver);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&giver);
	end_stop(&taker);
	swap_is_empty();
	check_call(swapoff(ZRAM));
}

static void populated(void)
{
	struct end giver, taker, first;
	int pf = pf_open();
	uint64_t moved;

	swap_on(ZRAM);
	giver = swapped_giver(4 * PAGE);
	taker = taker_start(4 * PAGE, MAP_4K);
	first = giver_start(PAGE, MAP_4K);
	/* In the way is a page that is in swap itself. */
	check_is(pf_move(pf, 0, taker.uffd, first.uffd, taker.addr + 2 * PAGE, first.addr, PAGE,
			 NULL),
		 0);
	peer_page_out(taker.peer, taker.addr + 2 * PAGE, PAGE);
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr + 2 * PAGE,
			 giver.addr + 2 * PAGE, PAGE, &moved),
		 -EEXIST);
	check_is(moved, 0);
	end_verify(&taker, taker.addr + 2 * PAGE, first.addr, PAGE);
	giver_keeps(&giver);
	end_stop(&giver);
	end_stop(&taker);
	end_stop(&first);
	check_call(swapoff(ZRAM));
}

/* clang-format off */
const struct test swap_tests[] = {
	TEST(entries),
	TEST(off),
	TEST(off_disk),
	TEST(freed),
	TEST(mixed),
	TEST(mixed_disk),
	TEST(mixed_huge),
	TEST(cached),
	TEST(out_and_back, .seconds = 60),
	TEST(serves_faults),
	TEST(fork_shared),
	TEST(populated),
	{.name = NULL},
};
