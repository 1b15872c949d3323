// SPDX-License-Identifier: MIT
/* The charge of a memory cgroup follows the page, and a full one takes none. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <unistd.h>

#include "group.h"
#include "harness.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"
#include "swapspace.h"

#define SUBJECT "cgroup"

#define LEN (16 * MIB)

/* ---- tests */

static void follows(unsigned int how)
{
	int pf = pf_open_with(PAGEFERRY_FEATURE_MEMCG);
	struct end giver, taker;
	uint64_t giver_kb, taker_kb;

	group_make("giver");
	group_make("taker");
	giver = giver_make(group_peer("giver"), LEN, how);
	taker = taker_make(group_peer("taker"), LEN, how);
	giver_kb = group_kb("giver", "memory.current");
	taker_kb = group_kb("taker", "memory.current");
	check(giver_kb >= LEN / 1024);
	pf_move_all(pf, &taker, &giver);
	check(near_kb(group_kb("giver", "memory.current"), giver_kb - LEN / 1024, SLACK_KB));
	check(near_kb(group_kb("taker", "memory.current"), taker_kb + LEN / 1024, SLACK_KB));
	check(near_kb(group_line("giver", "memory.stat", "anon") / 1024, 0, SLACK_KB));
	check(near_kb(group_line("taker", "memory.stat", "anon") / 1024, LEN / 1024, SLACK_KB));
	if (how == MAP_HUGE)
		check_is(group_line("taker", "memory.stat", "anon_thp"), LEN);
	end_stop(&giver);
	group_end("giver");
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&taker);
	group_end("taker");
}

static void small(void)
{
	follows(MAP_4K);
}

static void huge(void)
{
	follows(MAP_HUGE);
}

/* A group of its own isn't charged twice. */
static void same_group(void)
{
	int pf = pf_open_with(PAGEFERRY_FEATURE_MEMCG);
	struct end giver, taker;
	uint64_t kb;

	group_make("both");
	giver = giver_make(group_peer("both"), LEN, MAP_4K);
	taker = taker_make(group_peer("both"), LEN, MAP_4K);
	kb = group_kb("both", "memory.current");
	for (int i = 0; i < 3; i++) {
		pf_move_all(pf, &taker, &giver);
		check(near_kb(group_kb("both", "memory.current"), kb, SLACK_KB));
		pf_move_all(pf, &giver, &taker);
		check(near_kb(group_kb("both", "memory.current"), kb, SLACK_KB));
	}
	giver_keeps(&giver);
	end_stop(&giver);
	end_stop(&taker);
	group_end("both");
}

/* From a group to the root, which has no limit and no count, and back. */
static void root(void)
{
	int pf = pf_open_with(PAGEFERRY_FEATURE_MEMCG);
	struct end giver, taker;
	uint64_t kb;

	group_make("giver");
	giver = giver_make(group_peer("giver"), LEN, MAP_4K);
	taker = taker_start(LEN, MAP_4K);
	kb = group_kb("giver", "memory.current");
	pf_move_all(pf, &taker, &giver);
	check(near_kb(group_kb("giver", "memory.current"), kb - LEN / 1024, SLACK_KB));
	pf_move_all(pf, &giver, &taker);
	check(near_kb(group_kb("giver", "memory.current"), kb, SLACK_KB));
	giver_keeps(&giver);
	end_stop(&giver);
	end_stop(&taker);
	group_end("giver");
}

/* Half of it fits. The rest stays, and comes when there is room. Nobody is killed. */
static void limit(unsigned int how)
{
	int pf = pf_open_with(PAGEFERRY_FEATURE_MEMCG);
	struct end giver, taker;
	uint64_t done;

	group_make("giver");
	group_make("taker");
	giver = giver_make(group_peer("giver"), LEN, how);
	taker = taker_make(group_peer("taker"), LEN, how);
	group_set("taker", "memory.swap.max", "0");
	group_set("taker", "memory.max", "8388608");
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr, giver.addr, LEN, &done),
		 -ENOMEM);
	note("%zu KiB fit into 8 MiB", (size_t)(done / 1024));
	check(done < 8 * MIB);
	check(done >= 3 * MIB);
	check_is(group_line("taker", "memory.events", "oom_kill"), 0);
	/* Before it does anything: there would be no room for that either. */
	group_set("taker", "memory.max", "max");
	check_is(count_holes(peer_pid(giver.peer), giver.addr, done), done / PAGE);
	check_is(count_holes(peer_pid(giver.peer), giver.addr + done, LEN - done), 0);
	end_verify(&giver, giver.addr + done, giver.addr + done, LEN - done);
	end_verify(&taker, taker.addr, giver.addr, done);
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr + done, giver.addr + done,
			 LEN - done, NULL),
		 0);
	giver_is_empty(&giver);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&giver);
	group_end("giver");
	end_stop(&taker);
	group_end("taker");
}

static void limit_small(void)
{
	limit(MAP_4K);
}

static void limit_huge(void)
{
	limit(MAP_HUGE);
}

/* A giver that is over its own limit, which was set later, can give all the same. */
static void giver_at_limit(void)
{
	int pf = pf_open_with(PAGEFERRY_FEATURE_MEMCG);
	struct end giver, taker;

	group_make("giver");
	group_make("taker");
	giver = giver_make(group_peer("giver"), LEN, MAP_4K);
	taker = taker_make(group_peer("taker"), LEN, MAP_4K);
	group_set("giver", "memory.high", "8388608");
	pf_move_all(pf, &taker, &giver);
	giver_is_empty(&giver);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&giver);
	group_end("giver");
	end_stop(&taker);
	group_end("taker");
}

/* The giver's group is gone, and its pages live on in another's. */
static void group_removed(void)
{
	int pf = pf_open_with(PAGEFERRY_FEATURE_MEMCG);
	struct end giver, taker;

	group_make("giver");
	group_make("taker");
	giver = giver_make(group_peer("giver"), LEN, MAP_HUGE);
	taker = taker_make(group_peer("taker"), LEN, MAP_4K);
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr, giver.addr, LEN - PAGE, NULL),
		 0);
	end_stop(&giver);
	group_end("giver");
	peer_fill(taker.peer, taker.addr, LEN - PAGE, 1, SEED);
	peer_verify(taker.peer, taker.addr, LEN - PAGE, 1, SEED);
	end_stop(&taker);
	group_end("taker");
}

/* ---- with a copy in swap */

/* Every page of the range, which is brought in for that. */
static void are_charged_to(const struct end *e, const char *group)
{
	int fd = open("/proc/kpagecgroup", O_RDONLY | O_CLOEXEC);
	char path[128];
	struct stat st;

	check_call(fd);
	snprintf(path, sizeof(path), GROUPS "/%s", group);
	check_call(stat(path, &st));
	peer_read_pages(e->peer, e->addr, e->len);
	for (uint64_t at = e->addr; at < e->addr + e->len; at += PAGE) {
		off_t frame = (off_t)page_frame(peer_pid(e->peer), at);
		uint64_t inode;

		check_is(pread(fd, &inode, sizeof(inode), frame * 8), sizeof(inode));
		check_is(inode, st.st_ino);
	}
	close(fd);
}

static void pair_in_swap_cache(struct end *giver, struct end *taker)
{
	const size_t len = MIB;

	swap_on(ZRAM);
	group_make("giver");
	group_make("taker");
	*giver = giver_make(group_peer("giver"), len, MAP_4K);
	*taker = taker_make(group_peer("taker"), len, MAP_4K);
	peer_page_out(giver->peer, giver->addr, len);
	check_is(peer_madvise(giver->peer, giver->addr, len, MADV_WILLNEED), 0);
	check_is(count_pages(peer_pid(giver->peer), giver->addr, len, PM_SWAPPED), len / PAGE);
	check_is(group_kb("giver", "memory.swap.current"), len / 1024);
}

static void end_pair(struct end *giver, struct end *taker)
{
	end_stop(giver);
	end_stop(taker);
	check_call(swapoff(ZRAM));
	group_end("giver");
	group_end("taker");
}

/* In the cache and mapped nowhere: charged as memory and as swap, and both go along. */
static void cached(void)
{
	int pf = pf_open_with(PAGEFERRY_FEATURE_MEMCG);
	struct end giver, taker;

	pair_in_swap_cache(&giver, &taker);
	pf_move_all(pf, &taker, &giver);
	giver_is_empty(&giver);
	check_is(group_kb("giver", "memory.swap.current"), 0);
	check_is(group_kb("taker", "memory.swap.current"), taker.len / 1024);
	end_verify(&taker, taker.addr, giver.addr, taker.len);
	are_charged_to(&taker, "taker");
	end_pair(&giver, &taker);
}

/* Or none does: there is room for memory at the taker's, but not for swap. */
static void cached_refused(void)
{
	int pf = pf_open_with(PAGEFERRY_FEATURE_MEMCG);
	struct end giver, taker;

	pair_in_swap_cache(&giver, &taker);
	group_set("taker", "memory.swap.max", "0");
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr, giver.addr, taker.len, NULL),
		 -ENOMEM);
	check_is(group_kb("giver", "memory.swap.current"), giver.len / 1024);
	are_charged_to(&giver, "giver");
	group_set("taker", "memory.swap.max", "max");
	pf_move_all(pf, &taker, &giver);
	are_charged_to(&taker, "taker");
	end_pair(&giver, &taker);
}

/* Mapped again, with its slot: should it go back there, it comes back as the taker's. */
static void slot_kept(void)
{
	int pf = pf_open_with(PAGEFERRY_FEATURE_MEMCG);
	struct end giver, taker;

	pair_in_swap_cache(&giver, &taker);
	peer_read_pages(giver.peer, giver.addr, giver.len);
	check_is(group_kb("giver", "memory.swap.current"), giver.len / 1024);
	pf_move_all(pf, &taker, &giver);
	check_is(group_kb("giver", "memory.swap.current"), 0);
	check_is(group_kb("taker", "memory.swap.current"), taker.len / 1024);
	peer_page_out(taker.peer, taker.addr, taker.len);
	end_verify(&taker, taker.addr, giver.addr, taker.len);
	are_charged_to(&taker, "taker");
	end_pair(&giver, &taker);
}

/* clang-format off */
const struct test cgroup_tests[] = {
	TEST(small),
	TEST(huge),
	TEST(same_group),
	TEST(root),
	TEST(limit_small),
	TEST(limit_huge),
	TEST(giver_at_limit),
	TEST(group_removed),
	TEST(cached),
	TEST(cached_refused),
	TEST(slot_kept),
	{.name = NULL},
};
