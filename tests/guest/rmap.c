// SPDX-License-Identifier: MIT
/*
 * When whole page tables have moved, does the kernel still find who maps a page? Where it doesn't,
 * contents are right all the same and no debug kernel sees anything: only what comes from the page,
 * and not from the process, shows it. So pages are driven out, migrated, merged and shared by fork
 * here, and whoever has a part in it ends in every order.
 *
 * The test build of the module can leave out what makes it right (skip_rmap): then it has to be
 * seen.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <unistd.h>

#include "group.h"
#include "guest/pattern.h"
#include "harness.h"
#include "hold.h"
#include "lib/uffd_abi.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"
#include "swapspace.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

#define SUBJECT   "rmap"

#define LEN       (8 * MIB)
#define NPAGES    (LEN / PAGE)
#define SKIP_RMAP "/sys/module/pageferry/parameters/skip_rmap"
#define SOME      8u /* pages that are taken offline: they are lost for good */

static struct end moved_to(struct end *giver, unsigned int how)
{
	struct end taker = taker_start(LEN, how);

	pf_move_all_tables(pf_open_with(PAGEFERRY_FEATURE_TABLES), &taker, giver);
	return taker;
}

/* ---- what only works if the pages' mappings are found; each says whether it did */

/* Reclaim may find a page busy for a moment, so it is tried some times. */
static bool goes_out(const struct end *e)
{
	int64_t end = now_ms() + 5000;
	uint64_t kb = status_kb(peer_pid(e->peer), "VmSwap");
	size_t out;

	do {
		check_is(peer_madvise(e->peer, e->addr, e->len, MADV_PAGEOUT), 0);
		out = count_pages(peer_pid(e->peer), e->addr, e->len, PM_SWAPPED);
	} while (out < e->len / PAGE && now_ms() < end);
	note("%zu of %zu pages went out", out, e->len / PAGE);
	return out == e->len / PAGE &&
	       near_kb(status_kb(peer_pid(e->peer), "VmSwap"), kb + e->len / 1024, 512);
}

/* From the cgroup that they are charged to, which is the giver's. */
static bool is_reclaimed(const struct end *e, const char *group)
{
	char path[64], size[32];
	int64_t end = now_ms() + 5000;
	size_t out;

	snprintf(path, sizeof(path), GROUPS "/%s/memory.reclaim", group);
	snprintf(size, sizeof(size), "%lu", LEN);
	do {
		/* It says EAGAIN when it could not get all of it. */
		file_write(path, size);
		out = count_pages(peer_pid(e->peer), e->addr, e->len, PM_SWAPPED);
	} while (out < e->len / PAGE * 9 / 10 && now_ms() < end);
	note("%zu of %zu pages were reclaimed", out, e->len / PAGE);
	return out >= e->len / PAGE * 9 / 10;
}

/* To another frame, as the one that they are in is to be used no more. */
static bool migrates(const struct end *e)
{
	unsigned int gone = 0;

	for (unsigned int i = 0; i < SOME; i++) {
		uint64_t at = e->addr + i * (e->len / SOME) + i * PAGE;
		uint64_t frame = page_frame(peer_pid(e->peer), at);

		peer_madvise(e->peer, at, PAGE, MADV_SOFT_OFFLINE);
		gone += page_frame(peer_pid(e->peer), at) != frame;
	}
	note("%u of %u pages were migrated", gone, SOME);
	return gone == SOME;
}

/* ---- reclaim */

static bool sees_page_out(unsigned int how)
{
	struct end giver = giver_start(LEN, how), taker = moved_to(&giver, how);
	bool out;

	swap_on(ZRAM);
	out = goes_out(&taker);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&taker);
	end_stop(&giver);
	check_call(swapoff(ZRAM));
	return out;
}

static void page_out(void)
{
	check(sees_page_out(MAP_4K));
}

static void page_out_huge(void)
{
	check(sees_page_out(MAP_HUGE));
}

/* With the giver gone, and its mapping. */
static void page_out_alone(void)
{
	struct end giver = giver_start(LEN, MAP_4K), taker = moved_to(&giver, MAP_4K);

	swap_on(ZRAM);
	end_stop(&giver);
	check(goes_out(&taker));
	end_verify(&taker, taker.addr, giver.addr, LEN);
	/* In new frames now, that never were the giver's. */
	check(goes_out(&taker));
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&taker);
	check_call(swapoff(ZRAM));
}

static bool sees_reclaim(void)
{
	struct end giver, taker;
	bool out;

	group_make("giver");
	swap_on(ZRAM);
	giver = giver_make(group_peer("giver"), LEN, MAP_4K);
	taker = moved_to(&giver, MAP_4K);
	out = is_reclaimed(&taker, "giver");
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&taker);
	end_stop(&giver);
	group_end("giver");
	check_call(swapoff(ZRAM));
	return out;
}

static void reclaim(void)
{
	check(sees_reclaim());
}

/* ---- swap */

/* What was out already is found by its entry, and what is in the cache by its page. */
static void swapoff_finds(const char *path)
{
	struct end giver, taker;

	swap_on(path);
	giver = giver_start(LEN, MAP_4K);
	peer_page_out(giver.peer, giver.addr, LEN);
	for (uint64_t at = 0; at < LEN; at += 16 * PAGE)
		end_verify(&giver, giver.addr + at, giver.addr + at, PAGE);
	taker = moved_to(&giver, MAP_4K);
	check(near_kb(status_kb(peer_pid(giver.peer), "VmSwap"), 0, 512));
	check(status_kb(peer_pid(taker.peer), "VmSwap") >= LEN / 1024 / 2);
	check_call(swapoff(path));
	check_is(count_pages(peer_pid(taker.peer), taker.addr, LEN, PM_PRESENT), NPAGES);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	swap_on(path);
	check(goes_out(&taker));
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&giver);
	end_stop(&taker);
	check_call(swapoff(path));
}

static void off(void)
{
	swapoff_finds(ZRAM);
}

static void off_disk(void)
{
	swapoff_finds(DISK);
}

/* ---- migration */

static bool sees_migration(void)
{
	struct end giver = giver_start(LEN, MAP_4K), taker = moved_to(&giver, MAP_4K);
	bool gone = migrates(&taker);

	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&taker);
	end_stop(&giver);
	return gone;
}

static void migration(void)
{
	check(sees_migration());
}

/* Every other page of a lot of memory is given back, so that there is something to be compacted. */
static void scatter(struct peer *p)
{
	const size_t much = working_set(128 * MIB);
	uint64_t at = peer_map(p, 0, much, MAP_4K);

	peer_fill(p, at, much, 0, SEED);
	for (uint64_t page = 0; page < much; page += 2 * PAGE)
		check_is(peer_madvise(p, at + page, PAGE, MADV_DONTNEED), 0);
}

static unsigned int compact(const struct end *e)
{
	uint64_t was[NPAGES];
	unsigned int gone = 0;

	for (unsigned int i = 0; i < NPAGES; i++)
		was[i] = page_frame(peer_pid(e->peer), e->addr + i * PAGE);
	check_is(file_write("/proc/sys/vm/compact_memory", "1"), 0);
	for (unsigned int i = 0; i < NPAGES; i++)
		gone += page_frame(peer_pid(e->peer), e->addr + i * PAGE) != was[i];
	return gone;
}

static unsigned int compacted(void)
{
	struct peer *other = peer_start();
	struct end giver = giver_start(LEN, MAP_4K), taker;
	unsigned int gone;

	scatter(other);
	taker = moved_to(&giver, MAP_4K);
	gone = compact(&taker);
	note("%u of %lu pages were elsewhere afterwards", gone, NPAGES);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	peer_end(other);
	end_stop(&taker);
	end_stop(&giver);
	return gone;
}

/* Which pages it takes is up to the kernel. */
static bool sees_compaction(void)
{
	for (int i = 0; i < 3; i++)
		if (compacted())
			return true;
	return false;
}

static void compaction(void)
{
	check(sees_compaction());
}

/* ---- would it be seen? */

static void unseen(bool (*sees)(void))
{
	bool seen;

	if (access(SKIP_RMAP, W_OK))
		test_skip("this is not the test build of the module: make kmod PARK=1");
	check_is(file_write(SKIP_RMAP, "1"), 0);
	seen = sees();
	check_is(file_write(SKIP_RMAP, "0"), 0);
	check(!seen);
}

static bool sees_page_out_of_small(void)
{
	return sees_page_out(MAP_4K);
}

static void page_out_broken(void)
{
	unseen(sees_page_out_of_small);
}

static void reclaim_broken(void)
{
	unseen(sees_reclaim);
}

static void migration_broken(void)
{
	unseen(sees_migration);
}

static void compaction_broken(void)
{
	unseen(sees_compaction);
}

/* ---- fork */

/* A child that outlives the peer: the test ends it. */
static int64_t fork_another(const uint64_t *arg)
{
	pid_t pid = fork();

	(void)arg;
	check_call(pid);
	while (!pid)
		pause();
	return pid;
}

/* What a process has, without asking it, and without making a page its own. */
static void verify_of(pid_t pid, uint64_t addr, uint64_t id)
{
	static uint64_t page[PAGE / sizeof(uint64_t)];
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	check_call(fd);
	for (uint64_t i = 0; i < NPAGES; i += 7) {
		check_is(pread(fd, page, PAGE, (off_t)(addr + i * PAGE)), PAGE);
		check(pattern_holds(page, id + i, SEED));
	}
	close(fd);
}

struct fork_row {
	bool takers;                  /* child, born afterwards; else the giver's, born before */
	bool parent_ends, child_ends; /* before it is looked at */
};

/* What the taker has, with whoever is still there. Half of it is the child's, too. */
static void look_at_both(const struct end *taker, uint64_t id, pid_t child, uint64_t childs)
{
	size_t same = 0;

	if (child) {
		same = count_same(peer_pid(taker->peer), taker->addr, child, childs, LEN);
		check_is(same, NPAGES / 2);
		check(migrates(taker));
		check_is(count_same(peer_pid(taker->peer), taker->addr, child, childs, LEN), same);
		verify_of(child, childs, id);
	} else {
		check(goes_out(taker));
	}
	peer_verify(taker->peer, taker->addr, LEN / 2, id, SEED + 1);
	peer_verify(taker->peer, taker->addr + LEN / 2, LEN / 2, id + NPAGES / 2, SEED);
}

/* Somebody else's page is written to by its new owner; the child has what it had. */
static void forked(void)
{
	const struct fork_row *row = test_row;
	struct end giver = giver_start(LEN, MAP_4K), taker;
	uint64_t id = giver.addr / PAGE, childs;
	struct peer *parent;
	pid_t child = 0;

	swap_on(ZRAM);
	if (!row->takers)
		child = (pid_t)peer_do(giver.peer, fork_another, 0);
	taker = moved_to(&giver, MAP_4K);
	if (row->takers)
		child = (pid_t)peer_do(taker.peer, fork_another, 0);
	parent = row->takers ? taker.peer : giver.peer;
	childs = row->takers ? taker.addr : giver.addr;
	verify_of(child, childs, id);
	peer_fill(taker.peer, taker.addr, LEN / 2, id, SEED + 1);
	verify_of(child, childs, id);
	if (row->child_ends) {
		peer_end_child(parent, child);
		child = 0;
	}
	if (row->parent_ends)
		peer_kill(parent);
	if (row->parent_ends && row->takers)
		verify_of(child, childs, id);
	else
		look_at_both(&taker, id, child, childs);
	if (child)
		check_call(kill(child, SIGKILL));
	if (!row->parent_ends || row->takers)
		end_stop(&giver);
	if (!row->parent_ends || !row->takers)
		end_stop(&taker);
}

/* ---- generations */

/* How many links of mappings to their anon_vmas there are. */
static uint64_t links(void)
{
	file_write("/sys/kernel/slab/anon_vma_chain/shrink", "1");
	return file_number("/sys/kernel/slab/anon_vma_chain/objects");
}

#define MAPPINGS    16u
#define GENERATIONS 40u

static void map_all(struct end *e, struct peer *p)
{
	for (unsigned int i = 0; i < MAPPINGS; i++)
		e[i] = taker_make(p, BLOCK, MAP_4K);
}

static void end_all(struct end *e)
{
	for (unsigned int i = 0; i < MAPPINGS; i++)
		close(e[i].uffd);
	peer_end(e->peer);
}

/* Each is the only survivor of all before it; a chain could grow by a link each time. */
static void down_the_line(void)
{
	struct end old[MAPPINGS], new[MAPPINGS], first[MAPPINGS];
	struct peer *p = peer_start();
	int pf = pf_open_with(PAGEFERRY_FEATURE_TABLES);
	uint64_t before = 0, after;

	if (access("/sys/kernel/slab/anon_vma_chain/objects", R_OK))
		test_skip("the kernel doesn't count them");
	for (unsigned int i = 0; i < MAPPINGS; i++)
		first[i] = old[i] = giver_make(p, BLOCK, MAP_4K);
	for (unsigned int g = 0; g < GENERATIONS; g++) {
		map_all(new, peer_start());
		for (unsigned int i = 0; i < MAPPINGS; i++)
			pf_move_all_tables(pf, &new[i], &old[i]);
		/* Of its own, too. */
		peer_fill(new[0].peer, new[0].addr, PAGE, first[0].addr / PAGE, SEED);
		end_all(old);
		memcpy(old, new, sizeof(old));
		if (g == GENERATIONS / 4)
			before = links();
	}
	after = links();
	note("%llu links, %llu after %u more generations of %u mappings",
	     (unsigned long long)before, (unsigned long long)after, GENERATIONS * 3 / 4 - 1,
	     MAPPINGS);
	check(after < before + GENERATIONS / 4 * MAPPINGS);
	swap_on(ZRAM);
	for (unsigned int i = 0; i < MAPPINGS; i++) {
		check(goes_out(&old[i]));
		end_verify(&old[i], old[i].addr, first[i].addr, BLOCK);
	}
	end_all(old);
	check_call(swapoff(ZRAM));
}

/*
 * What has given all becomes the other's child itself. Whoever was that before is still found, by
 * what the other one has written meanwhile as well as by what it hasn't.
 */
static void to_and_fro(void)
{
	struct end giver = giver_start(LEN, MAP_4K), taker = taker_start(LEN, MAP_4K);
	int pf = pf_open_with(PAGEFERRY_FEATURE_TABLES);
	uint64_t id = giver.addr / PAGE;

	swap_on(ZRAM);
	for (int i = 0; i < 10; i++) {
		pf_move_all_tables(pf, &taker, &giver);
		/* By a new page each. */
		check_is(peer_madvise(taker.peer, taker.addr + i * PAGE, PAGE, MADV_DONTNEED), 0);
		struct uffdio_zeropage zero = {.range = {taker.addr + i * PAGE, PAGE}};
		check_call(ioctl(taker.uffd, UFFDIO_ZEROPAGE, &zero));
		peer_fill(taker.peer, taker.addr + i * PAGE, PAGE, id + i, SEED);
		check(i != 5 || goes_out(&taker));
		pf_move_all_tables(pf, &giver, &taker);
		check(i != 7 || goes_out(&giver));
		end_verify(&giver, giver.addr, giver.addr, LEN);
	}
	check(goes_out(&giver));
	end_verify(&giver, giver.addr, giver.addr, LEN);
	end_stop(&taker);
	check(goes_out(&giver));
	end_verify(&giver, giver.addr, giver.addr, LEN);
	end_stop(&giver);
	check_call(swapoff(ZRAM));
}

/* ---- what changes pages from within the process */

static void merging(void)
{
	struct end giver = giver_start(LEN, MAP_4K), taker = moved_to(&giver, MAP_4K);
	struct peer *other = peer_start();
	uint64_t twin = peer_map(other, 0, LEN, MAP_4K);

	peer_fill(other, twin, LEN, giver.addr / PAGE, SEED);
	ksm_begin();
	check_is(peer_madvise(other, twin, LEN, MADV_MERGEABLE), 0);
	check_is(peer_madvise(taker.peer, taker.addr, LEN, MADV_MERGEABLE), 0);
	await(30000,
	      count_same(peer_pid(taker.peer), taker.addr, peer_pid(other), twin, LEN) == NPAGES);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	ksm_unmerge_all();
	ksm_end();
	check_is(count_same(peer_pid(taker.peer), taker.addr, peer_pid(other), twin, LEN), 0);
	swap_on(ZRAM);
	check(goes_out(&taker));
	peer_verify(other, twin, LEN, giver.addr / PAGE, SEED);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	peer_end(other);
	end_stop(&giver);
	end_stop(&taker);
	check_call(swapoff(ZRAM));
}

/*
 * What is swapped out is KSM's as long as it is in the swap cache, and is mapped again as such. It would not be
 * found by the taker's mapping then.
 */
static void merged_and_swapped(void)
{
	struct end giver = giver_start(LEN, MAP_4K), taker = taker_start(LEN, MAP_4K);
	uint64_t page = giver.addr + 9 * PAGE, twin = peer_map(giver.peer, 0, PAGE, MAP_4K);
	struct end from = giver, to = taker;
	pid_t pid = peer_pid(giver.peer);
	struct pf_answer answer;

	peer_fill(giver.peer, twin, PAGE, page / PAGE, SEED);
	check_is(peer_madvise(giver.peer, twin, PAGE, MADV_MERGEABLE), 0);
	check_is(peer_madvise(giver.peer, giver.addr, LEN, MADV_MERGEABLE), 0);
	ksm_begin();
	await(30000, page_frame(pid, page) == page_frame(pid, twin));
	ksm_end();
	peer_fill(giver.peer, twin, PAGE, 1, SEED);
	swap_on(DISK);
	check_is(peer_madvise(giver.peer, page, PAGE, MADV_PAGEOUT), 0);
	check_is(count_pages(pid, page, PAGE, PM_SWAPPED), 1);
	answer = pf_move_tables(pf_open_with(PAGEFERRY_FEATURE_TABLES), 0, &taker, &giver);
	check_is(answer.ret, -EBUSY);
	check_is(answer.moved, 9 * PAGE);
	check_is(answer.why, PAGEFERRY_WHY_MERGED);
	/* Written to it is the giver's own, and goes with the rest. */
	peer_fill(giver.peer, page, PAGE, page / PAGE, SEED);
	from.addr = page;
	from.len = LEN - 9 * PAGE;
	to.addr = taker.addr + 9 * PAGE;
	check_is(pf_move_tables(pf_open_with(PAGEFERRY_FEATURE_TABLES), 0, &to, &from).ret, 0);
	check(goes_out(&taker));
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&giver);
	end_stop(&taker);
	check_call(swapoff(DISK));
}

/* Small pages become huge, and these are split again as they go out. */
static void collapse(void)
{
	struct end giver = giver_start(LEN, MAP_4K), taker = moved_to(&giver, MAP_HUGE);

	swap_on(ZRAM);
	check_is(smaps_kb(peer_pid(taker.peer), taker.addr, LEN, "AnonHugePages"), 0);
	check_is(peer_madvise(taker.peer, taker.addr, LEN, MADV_COLLAPSE), 0);
	check_is(smaps_kb(peer_pid(taker.peer), taker.addr, LEN, "AnonHugePages"), LEN / 1024);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	check(goes_out(&taker));
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&giver);
	end_stop(&taker);
	check_call(swapoff(ZRAM));
}

/* A huge page that has moved whole is split by its new owner. */
static void splitting(void)
{
	struct end giver = giver_start(LEN, MAP_HUGE), taker = moved_to(&giver, MAP_HUGE);

	swap_on(ZRAM);
	check_is(uffd_unregister(taker.uffd, taker.addr, LEN), 0);
	for (uint64_t at = 0; at < LEN; at += BLOCK) {
		check_is(peer_madvise(taker.peer, taker.addr + at + 5 * PAGE, PAGE, MADV_DONTNEED),
			 0);
		peer_page_out(taker.peer, taker.addr + at + 9 * PAGE, BLOCK - 9 * PAGE);
		peer_verify_zero(taker.peer, taker.addr + at + 5 * PAGE, PAGE);
		end_verify(&taker, taker.addr + at + 6 * PAGE, giver.addr + at + 6 * PAGE,
			   BLOCK - 6 * PAGE);
	}
	end_stop(&giver);
	end_stop(&taker);
	check_call(swapoff(ZRAM));
}

#define FORK(what, ...)                                                                            \
	{                                                                                          \
		.name = SUBJECT "/" what, .run = forked,                                           \
		.row = &(const struct fork_row){__VA_ARGS__}, .seconds = 60                        \
	}

/* clang-format off */
const struct test rmap_tests[] = {
	TEST(page_out, .seconds = 60),
	TEST(page_out_huge, .seconds = 60),
	TEST(page_out_alone, .seconds = 60),
	TEST(reclaim, .seconds = 60),
	TEST(off, .seconds = 60),
	TEST(off_disk, .seconds = 60),
	TEST(migration, .seconds = 60),
	TEST(compaction, .seconds = 60),
	TEST(page_out_broken, .seconds = 60),
	TEST(reclaim_broken, .seconds = 60),
	TEST(migration_broken, .seconds = 60),
	TEST(compaction_broken, .seconds = 60),
	FORK("givers_child_ends", .child_ends = true),
	FORK("giver_ends_before_child", .parent_ends = true),
	FORK("givers_child_stays", .takers = false),
	FORK("giver_and_child_end", .child_ends = true, .parent_ends = true),
	FORK("takers_child_ends", .takers = true, .child_ends = true),
	FORK("taker_ends_before_child", .takers = true, .parent_ends = true),
	FORK("takers_child_stays", .takers = true),
	TEST(down_the_line, .seconds = 120),
	TEST(to_and_fro, .seconds = 60),
	TEST(merged_and_swapped, .seconds = 60),
	TEST(merging, .seconds = 90),
	TEST(collapse, .seconds = 60),
	TEST(splitting, .seconds = 60),
	{.name = NULL},
};
