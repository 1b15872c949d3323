// SPDX-License-Identifier: MIT
/* PAGEFERRY_MOVE_CHECK: what would a move say? Nothing moves by it. */
#include <errno.h>
#include <sys/mman.h>
#include <sys/swap.h>

#include "group.h"
#include "harness.h"
#include "hold.h"
#include "lib/uffd_abi.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"
#include "swapspace.h"

#define SUBJECT "ask"

#define LEN     BLOCK

static int pf_check_device(void)
{
	return pf_open_with(PAGEFERRY_FEATURE_CHECK);
}

/* Says what @want is, after @pages; and all is where it was. */
static void ask(int pf, const struct end *taker, const struct end *giver, uint32_t mode, int want,
		uint64_t pages)
{
	uint64_t moved;

	check_is(pf_move(pf, PAGEFERRY_MOVE_CHECK | mode, taker->uffd, giver->uffd, taker->addr,
			 giver->addr, giver->len, &moved),
		 want);
	check_is(moved, pages * PAGE);
	check_is(count_holes(peer_pid(taker->peer), taker->addr, taker->len), taker->len / PAGE);
}

static void moves_after(int pf, struct end *taker, struct end *giver)
{
	pf_move_all(pf, taker, giver);
	end_verify(taker, taker->addr, giver->addr, giver->len);
	end_stop(giver);
	end_stop(taker);
}

static void small_pages(void)
{
	int pf = pf_check_device();
	struct end giver = giver_start(LEN, MAP_4K), taker = taker_start(LEN, MAP_4K);

	ask(pf, &taker, &giver, 0, 0, LEN / PAGE);
	giver_keeps(&giver);
	moves_after(pf, &taker, &giver);
}

static void huge_page(void)
{
	int pf = pf_check_device();
	struct end giver = giver_start(LEN, MAP_HUGE), taker = taker_start(LEN, MAP_HUGE);

	ask(pf, &taker, &giver, 0, 0, LEN / PAGE);
	check(page_state(peer_pid(giver.peer), giver.addr) & PM_HUGE);
	giver_keeps(&giver);
	moves_after(pf, &taker, &giver);
}

/* None is read in. */
static void swapped(void)
{
	int pf = pf_check_device();
	struct end giver, taker;

	swap_on(ZRAM);
	giver = giver_start(LEN, MAP_4K);
	taker = taker_start(LEN, MAP_4K);
	peer_page_out(giver.peer, giver.addr, LEN);
	ask(pf, &taker, &giver, 0, 0, LEN / PAGE);
	check_is(count_pages(peer_pid(giver.peer), giver.addr, LEN, PM_SWAPPED), LEN / PAGE);
	moves_after(pf, &taker, &giver);
	check_call(swapoff(ZRAM));
}

static void hole(void)
{
	int pf = pf_check_device();
	struct end giver = giver_start(LEN, MAP_4K), taker = taker_start(LEN, MAP_4K);

	check_is(peer_madvise(giver.peer, giver.addr + 3 * PAGE, PAGE, MADV_DONTNEED), 0);
	ask(pf, &taker, &giver, 0, -ENOENT, 3);
	ask(pf, &taker, &giver, PAGEFERRY_MOVE_ALLOW_SRC_HOLES, 0, LEN / PAGE);
	end_stop(&giver);
	end_stop(&taker);
}

static void pinned(void)
{
	int pf = pf_check_device();
	struct end giver = giver_start(LEN, MAP_4K), taker = taker_start(LEN, MAP_4K);

	peer_pin(giver.peer, giver.addr + 9 * PAGE);
	ask(pf, &taker, &giver, 0, -EBUSY, 9);
	giver_keeps(&giver);
	peer_unpin(giver.peer);
	ask(pf, &taker, &giver, 0, 0, LEN / PAGE);
	moves_after(pf, &taker, &giver);
}

static void pinned_huge(void)
{
	int pf = pf_check_device();
	struct end giver = giver_start(LEN, MAP_HUGE), taker = taker_start(LEN, MAP_HUGE);

	peer_pin(giver.peer, giver.addr + 9 * PAGE);
	ask(pf, &taker, &giver, 0, -EBUSY, 0);
	giver_keeps(&giver);
	peer_unpin(giver.peer);
	moves_after(pf, &taker, &giver);
}

static void shared(void)
{
	int pf = pf_check_device();
	struct end giver = giver_start(LEN, MAP_4K), taker = taker_start(LEN, MAP_4K);
	pid_t child = peer_fork(giver.peer);

	ask(pf, &taker, &giver, 0, -EBUSY, 0);
	peer_end_child(giver.peer, child);
	end_stop(&giver);
	end_stop(&taker);
}

/* Its owner can have it to himself; a move doesn't do that for him. */
static void merged(void)
{
	int pf = pf_check_device();
	struct end giver = giver_start(LEN, MAP_4K), taker = taker_start(LEN, MAP_4K);
	uint64_t twin = peer_map(giver.peer, 0, LEN, MAP_4K), moved;

	peer_fill(giver.peer, twin, LEN, giver.addr / PAGE, SEED);
	check_is(peer_madvise(giver.peer, twin, LEN, MADV_MERGEABLE), 0);
	check_is(peer_madvise(giver.peer, giver.addr, LEN, MADV_MERGEABLE), 0);
	ksm_begin();
	await(15000, ksm_merged(peer_pid(giver.peer)) == 2 * LEN / PAGE);
	ksm_end();
	ask(pf, &taker, &giver, 0, 0, LEN / PAGE);
	check_is(ksm_merged(peer_pid(giver.peer)), 2 * LEN / PAGE);
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr, giver.addr, LEN, &moved),
		 -EBUSY);
	check_is(moved, 0);
	check_is(peer_madvise(giver.peer, giver.addr, LEN, MADV_UNMERGEABLE), 0);
	moves_after(pf, &taker, &giver);
}

/* What the receiver has no room for could move all the same, and nothing makes room for a question.
 */
static void no_room(void)
{
	int pf = pf_check_device();
	struct end giver, taker;
	char max[32];

	group_make("giver");
	group_make("taker");
	giver = giver_make(group_peer("giver"), LEN, MAP_4K);
	taker = taker_make(group_peer("taker"), LEN, MAP_4K);
	snprintf(max, sizeof(max), "%llu",
		 (unsigned long long)group_kb("taker", "memory.current") * 1024 + LEN / 4);
	group_set("taker", "memory.max", max);
	ask(pf, &taker, &giver, 0, 0, LEN / PAGE);
	check_is(group_line("taker", "memory.events", "max"), 0);
	peer_pin(giver.peer, giver.addr + 9 * PAGE);
	ask(pf, &taker, &giver, 0, -EBUSY, 9);
	check_is(group_line("taker", "memory.events", "max"), 0);
	group_set("taker", "memory.max", "max");
	peer_unpin(giver.peer);
	moves_after(pf, &taker, &giver);
	group_end("giver");
	group_end("taker");
}

/* Who waits for a page goes on waiting. */
static void nobody_is_woken(void)
{
	int pf = pf_check_device();
	struct end giver = giver_start(LEN, MAP_4K), taker = taker_start(LEN, MAP_4K);
	int thread = peer_thread(taker.peer, peer_run_peek, taker.addr);
	struct uffd_msg msg;
	uint64_t moved;

	check_is(uffd_fault(taker.uffd), taker.addr);
	check_is(pf_move(pf, PAGEFERRY_MOVE_CHECK, taker.uffd, giver.uffd, taker.addr, giver.addr,
			 LEN, &moved),
		 0);
	/* Woken it would ask again. */
	check(!uffd_read(taker.uffd, &msg, 100));
	check(!peer_thread_ended(taker.peer, thread, NULL));
	pf_move_all(pf, &taker, &giver);
	peer_join(taker.peer, thread, 10000);
	end_stop(&giver);
	end_stop(&taker);
}

const struct test ask_tests[] = {
	TEST(small_pages), TEST(huge_page),       TEST(swapped),  TEST(hole),
	TEST(pinned),      TEST(pinned_huge),     TEST(shared),   TEST(merged),
	TEST(no_room),     TEST(nobody_is_woken), {.name = NULL},
};
