// SPDX-License-Identifier: MIT
/* Pages go from one process to another: whole, once, and whoever waits for them goes on. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"
#include "lib/uffd_abi.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"

#define SUBJECT "basic"

#define SMALL   (16 * PAGE)

static void has_moved(const struct end *to, const struct end *from)
{
	giver_is_empty(from);
	check_is(count_pages(peer_pid(to->peer), to->addr, from->len, PM_PRESENT | PM_EXCLUSIVE),
		 from->len / PAGE);
	end_verify(to, to->addr, from->addr, from->len);
}

/* This process is neither of both. */
static void third_party(void)
{
	struct end giver = giver_start(SMALL, MAP_4K), taker = taker_start(SMALL, MAP_4K);

	pf_move_all(pf_open(), &taker, &giver);
	has_moved(&taker, &giver);
	end_stop(&giver);
	end_verify(&taker, taker.addr, giver.addr, SMALL);
	end_stop(&taker);
}

/* The giver moves its own memory, which needs no userfaultfd. */
static void push(void)
{
	struct peer *p = peer_start();
	uint64_t src = peer_map(NULL, 0, PAGE, MAP_4K), moved;
	struct end taker = taker_make(p, PAGE, MAP_4K);

	peer_fill(NULL, src, PAGE, 1, SEED);
	check_is(pf_move(pf_open(), 0, taker.uffd, PAGEFERRY_SELF, taker.addr, src, PAGE, &moved),
		 0);
	check_is(moved, PAGE);
	check_is(count_holes(0, src, PAGE), 1);
	peer_verify(p, taker.addr, PAGE, 1, SEED);
	/* Nothing traps the hole: it is empty memory again. */
	peer_verify_zero(NULL, src, PAGE);
	end_stop(&taker);
}

/* The taker fetches from a process that has handed over its userfaultfd. */
static void pull(void)
{
	struct end giver = giver_start(SMALL, MAP_4K), taker = taker_make(NULL, SMALL, MAP_4K);

	pf_move_all(pf_open(), &taker, &giver);
	has_moved(&taker, &giver);
	end_stop(&giver);
}

static void one_page_of_many(void)
{
	struct end giver = giver_start(SMALL, MAP_4K), taker = taker_start(SMALL, MAP_4K);
	uint64_t src = giver.addr + 5 * PAGE, dst = taker.addr + 2 * PAGE;

	check_is(pf_move(pf_open(), 0, taker.uffd, giver.uffd, dst, src, PAGE, NULL), 0);
	check_is(count_holes(peer_pid(giver.peer), giver.addr, SMALL), 1);
	check_is(count_holes(peer_pid(giver.peer), src, PAGE), 1);
	check_is(count_holes(peer_pid(taker.peer), taker.addr, SMALL), SMALL / PAGE - 1);
	end_verify(&taker, dst, src, PAGE);
	end_verify(&giver, giver.addr, giver.addr, 5 * PAGE);
	end_verify(&giver, src + PAGE, src + PAGE, SMALL - 6 * PAGE);
	end_stop(&giver);
	end_stop(&taker);
}

/* The page itself goes, not its contents: the frame is the same. */
static void same_frame(void)
{
	struct end giver = giver_start(PAGE, MAP_4K), taker = taker_start(PAGE, MAP_4K);
	uint64_t frame = page_frame(peer_pid(giver.peer), giver.addr);

	check(frame);
	pf_move_all(pf_open(), &taker, &giver);
	check_is(page_frame(peer_pid(taker.peer), taker.addr), frame);
	end_stop(&giver);
	end_stop(&taker);
}

/* It belongs to the taker like any page of its own: it can be written, forked and dropped. */
static void page_is_owned(void)
{
	struct end giver = giver_start(SMALL, MAP_4K), taker = taker_start(SMALL, MAP_4K);
	pid_t child;

	pf_move_all(pf_open(), &taker, &giver);
	end_stop(&giver);
	child = peer_fork(taker.peer);
	peer_fill(taker.peer, taker.addr, SMALL, 100, SEED);
	peer_end_child(taker.peer, child);
	peer_verify(taker.peer, taker.addr, SMALL, 100, SEED);
	check_is(uffd_unregister(taker.uffd, taker.addr, SMALL), 0);
	check_is(peer_madvise(taker.peer, taker.addr, PAGE, MADV_DONTNEED), 0);
	peer_verify_zero(taker.peer, taker.addr, PAGE);
	peer_unmap(taker.peer, taker.addr, SMALL);
	end_stop(&taker);
}

static void large(void)
{
	const size_t len = working_set(64 * MIB);
	struct end giver = giver_start(len, MAP_4K), taker = taker_start(len, MAP_4K);
	uint64_t giver_kb = status_kb(peer_pid(giver.peer), "RssAnon");
	uint64_t taker_kb = status_kb(peer_pid(taker.peer), "RssAnon");
	int64_t start;

	start = now_ms();
	pf_move_all(pf_open(), &taker, &giver);
	note("%zu MiB in %lld ms", len / MIB, (long long)(now_ms() - start) * slowness);
	check(near_kb(status_kb(peer_pid(giver.peer), "RssAnon"), giver_kb - len / 1024, 256));
	check(near_kb(status_kb(peer_pid(taker.peer), "RssAnon"), taker_kb + len / 1024, 256));
	/* The most that it ever had is not forgotten. */
	check(status_kb(peer_pid(giver.peer), "VmHWM") >= giver_kb);
	has_moved(&taker, &giver);
	end_stop(&giver);
	end_stop(&taker);
}

static void smaps(void)
{
	struct end giver = giver_start(MIB, MAP_4K), taker = taker_start(MIB, MAP_4K);
	pid_t from = peer_pid(giver.peer), to = peer_pid(taker.peer);

	pf_move_all(pf_open(), &taker, &giver);
	check_is(smaps_kb(from, giver.addr, MIB, "Rss"), 0);
	check_is(smaps_kb(from, giver.addr, MIB, "Anonymous"), 0);
	check_is(smaps_kb(to, taker.addr, MIB, "Rss"), 1024);
	check_is(smaps_kb(to, taker.addr, MIB, "Pss"), 1024);
	check_is(smaps_kb(to, taker.addr, MIB, "Anonymous"), 1024);
	check_is(smaps_mappings(from, giver.addr, MIB), 1);
	check_is(smaps_mappings(to, taker.addr, MIB), 1);
	end_stop(&giver);
	end_stop(&taker);
}

/* What has moved can move back: a hand-over that is taken back. */
static void there_and_back(void)
{
	struct end giver = giver_start(SMALL, MAP_4K), taker = taker_start(SMALL, MAP_4K);
	int pf = pf_open();

	for (int i = 0; i < 3; i++) {
		pf_move_all(pf, &taker, &giver);
		has_moved(&taker, &giver);
		pf_move_all(pf, &giver, &taker);
		giver_is_empty(&taker);
		giver_keeps(&giver);
	}
	end_stop(&giver);
	end_stop(&taker);
}

/* From one process to the next one, round and round. */
static void around(void)
{
	struct end end[3];
	uint64_t first;
	int pf = pf_open();

	end[0] = giver_start(SMALL, MAP_4K);
	end[1] = taker_start(SMALL, MAP_4K);
	end[2] = taker_start(SMALL, MAP_4K);
	first = end[0].addr;
	for (unsigned int i = 0; i < 9; i++) {
		pf_move_all(pf, &end[(i + 1) % 3], &end[i % 3]);
		end_verify(&end[(i + 1) % 3], end[(i + 1) % 3].addr, first, SMALL);
	}
	for (unsigned int i = 0; i < 3; i++)
		end_stop(&end[i]);
}

static int64_t run_move(const uint64_t *arg)
{
	return pf_move((int)arg[0], PAGEFERRY_MOVE_ALLOW_SRC_HOLES, (int)arg[1], (int)arg[2], arg[3],
		       arg[4], arg[5], NULL);
}

static int64_t change_mapping(const uint64_t *arg)
{
	int64_t start = now_ms();

	check_call(madvise((void *)arg[0], arg[1], MADV_DONTDUMP));
	check_call(madvise((void *)arg[0], arg[1], MADV_DODUMP));
	return now_ms() - start;
}

/* A long call doesn't keep the processes from changing their mappings meanwhile. */
static void lets_others_in(void)
{
	const size_t len = 1ul << 43;
	struct end giver = taker_start(len, MAP_4K), taker = taker_start(len, MAP_4K);
	struct peer *mover = peer_start();
	int pf = peer_give_fd(mover, pf_open()), to = peer_give_fd(mover, taker.uffd);
	int from = peer_give_fd(mover, giver.uffd);
	int64_t start = now_ms(), longest = 0, result = 0;
	int thread = peer_thread(mover, run_move, (uint64_t)pf, (uint64_t)to, (uint64_t)from,
				 taker.addr, giver.addr, len);

	while (!peer_thread_ended(mover, thread, &result)) {
		int64_t ms = peer_do(giver.peer, change_mapping, giver.addr, len);

		longest = ms > longest ? ms : longest;
	}
	check_is(result, 0);
	note("at most %lld of %lld ms", (long long)longest, (long long)(now_ms() - start));
	check(longest < (now_ms() - start) / 4);
	peer_end(mover);
	end_stop(&giver);
	end_stop(&taker);
}

/* The zero page of memory that was only read: it stays a page of zeros, and none of the ENOENTs. */
static void zero_page(void)
{
	struct peer *p = peer_start();
	struct end giver = {.peer = p, .addr = peer_map(p, 0, SMALL, MAP_4K), .len = SMALL};
	struct end taker = taker_start(SMALL, MAP_4K);

	giver.uffd = peer_uffd(p, 0);
	peer_read_pages(p, giver.addr, SMALL);
	check_is(uffd_register(giver.uffd, giver.addr, SMALL, UFFDIO_REGISTER_MODE_MISSING), 0);
	pf_move_all(pf_open(), &taker, &giver);
	giver_is_empty(&giver);
	check_is(count_holes(peer_pid(taker.peer), taker.addr, SMALL), 0);
	peer_verify_zero(taker.peer, taker.addr, SMALL);
	peer_fill(taker.peer, taker.addr, SMALL, 1, SEED);
	peer_verify(taker.peer, taker.addr, SMALL, 1, SEED);
	end_stop(&giver);
	end_stop(&taker);
}

static void serve(int pf, const struct end *taker, const struct end *giver, unsigned int n)
{
	while (n--) {
		uint64_t at = uffd_fault(taker->uffd);

		check_is(pf_move(pf, 0, taker->uffd, giver->uffd, at,
				 giver->addr + (at - taker->addr), PAGE, NULL),
			 0);
	}
}

/* A thread of the taker runs into each page, and gets it. */
static void serves_faults(void)
{
	const size_t len = 256 * PAGE;
	struct end giver = giver_start(len, MAP_4K), taker = taker_start(len, MAP_4K);
	int thread = peer_thread(taker.peer, peer_run_verify, taker.addr, len, giver.addr / PAGE,
				 SEED);

	serve(pf_open(), &taker, &giver, len / PAGE);
	check_is(peer_join(taker.peer, thread, 10000), 0);
	has_moved(&taker, &giver);
	end_stop(&giver);
	end_stop(&taker);
}

/* What is left at the giver is a hole that is trapped, and is served from where the page went. */
static void giver_faults(void)
{
	struct end giver = giver_start(SMALL, MAP_4K), taker = taker_start(SMALL, MAP_4K);
	int pf = pf_open(), thread;

	pf_move_all(pf, &taker, &giver);
	thread = peer_thread(giver.peer, peer_run_verify, giver.addr, SMALL, giver.addr / PAGE,
			     SEED);
	serve(pf, &giver, &taker, SMALL / PAGE);
	check_is(peer_join(giver.peer, thread, 10000), 0);
	end_stop(&giver);
	end_stop(&taker);
}

static void dont_wake(void)
{
	struct end giver = giver_start(PAGE, MAP_4K), taker = taker_start(PAGE, MAP_4K);
	int thread = peer_thread(taker.peer, peer_run_verify, taker.addr, PAGE, giver.addr / PAGE,
				 SEED);

	check_is(uffd_fault(taker.uffd), taker.addr);
	check_is(pf_move(pf_open(), PAGEFERRY_MOVE_DONTWAKE, taker.uffd, giver.uffd, taker.addr,
			 giver.addr, PAGE, NULL),
		 0);
	nap_ms(200);
	check(!peer_thread_ended(taker.peer, thread, NULL));
	check_is(uffd_wake(taker.uffd, taker.addr, PAGE), 0);
	check_is(peer_join(taker.peer, thread, 10000), 0);
	end_stop(&giver);
	end_stop(&taker);
}

/* Addresses that have nothing in common within their page tables. */
static void across_tables(void)
{
	struct end giver = giver_start(4 * BLOCK, MAP_4K), taker = taker_start(4 * BLOCK, MAP_4K);
	uint64_t src = giver.addr + 3 * PAGE, dst = taker.addr + 509 * PAGE;
	uint64_t len = 2 * BLOCK + 5 * PAGE;
	uint64_t moved;

	check_is(pf_move(pf_open(), 0, taker.uffd, giver.uffd, dst, src, len, &moved), 0);
	check_is(moved, len);
	end_verify(&taker, dst, src, len);
	check_is(count_holes(peer_pid(giver.peer), giver.addr, giver.len), len / PAGE);
	check_is(count_holes(peer_pid(giver.peer), src, len), len / PAGE);
	check_is(count_holes(peer_pid(taker.peer), dst, len), 0);
	end_stop(&giver);
	end_stop(&taker);
}

/* The same address in both, as after a hand-over, and the giver is gone before the taker looks. */
static void same_address(void)
{
	struct peer *a = peer_start(), *b = peer_start();
	const uint64_t at = 0x600000000000;
	int from = peer_uffd(a, 0), to = peer_uffd(b, 0);

	peer_map(a, at, SMALL, MAP_4K | MAP_AT);
	peer_map(b, at, SMALL, MAP_4K | MAP_AT);
	peer_fill(a, at, SMALL, 1, SEED);
	check_is(uffd_register(from, at, SMALL, UFFDIO_REGISTER_MODE_MISSING), 0);
	check_is(uffd_register(to, at, SMALL, UFFDIO_REGISTER_MODE_MISSING), 0);
	check_is(pf_move(pf_open(), 0, to, from, at, at, SMALL, NULL), 0);
	peer_kill(a);
	peer_verify(b, at, SMALL, 1, SEED);
	peer_end(b);
}

/* Memory comes back when its last owner ends. */
static void no_leak(void)
{
	const size_t len = working_set(32 * MIB);
	uint64_t before = 0;
	int pf = pf_open();

	/* Else each CPU keeps freed pages for itself, tens of MiB. */
	check_is(file_write("/proc/sys/vm/percpu_pagelist_high_fraction", "1000000"), 0);
	/* The first rounds fill caches of the kernel. */
	for (int i = 0; i < 6; i++) {
		struct end giver = giver_start(len, MAP_4K), taker = taker_start(len, MAP_4K);

		pf_move_all(pf, &taker, &giver);
		end_stop(&giver);
		end_stop(&taker);
		if (i == 1)
			before = meminfo_kb("MemFree");
	}
	/* What the kernel frees late may well make it more. */
	check(meminfo_kb("MemFree") + 16384 > before);
}

/* clang-format off */
const struct test basic_tests[] = {
	TEST(push),
	TEST(pull),
	TEST(third_party),
	TEST(one_page_of_many),
	TEST(same_frame),
	TEST(page_is_owned),
	TEST(zero_page),
	TEST(there_and_back),
	TEST(around),
	TEST(across_tables),
	TEST(same_address),
	TEST(serves_faults),
	TEST(giver_faults),
	TEST(dont_wake),
	TEST(smaps),
	TEST(large, .seconds = 60),
	TEST(lets_others_in, .seconds = 90),
	TEST(no_leak, .seconds = 90),
	{.name = NULL},
};
