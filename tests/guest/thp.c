// SPDX-License-Identifier: MIT
/* Huge pages: whole where both sides allow it, else as small ones; never wrong. */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "lib/uffd_abi.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"

#define SUBJECT "thp"

#define LEN     (16 * MIB)

static uint64_t huge_kb(const struct end *e)
{
	return smaps_kb(peer_pid(e->peer), e->addr, e->len, "AnonHugePages");
}

static struct end huge_giver(size_t len)
{
	struct end e = giver_start(len, MAP_HUGE);

	check_is(huge_kb(&e), len / 1024);
	return e;
}

static void has_moved(const struct end *to, const struct end *from)
{
	giver_is_empty(from);
	check_is(count_pages(peer_pid(to->peer), to->addr, from->len, PM_PRESENT),
		 from->len / PAGE);
	end_verify(to, to->addr, from->addr, from->len);
}

/* Page tables and counters of both have to come out even when they end: the kernel says if not. */
static void stop_both(struct end *a, struct end *b)
{
	end_stop(a);
	end_stop(b);
}

static void whole(void)
{
	int pf = pf_open_with(PAGEFERRY_FEATURE_THP);
	struct end giver = huge_giver(BLOCK), taker = taker_start(BLOCK, MAP_HUGE);
	uint64_t frame = page_frame(peer_pid(giver.peer), giver.addr);

	pf_move_all(pf, &taker, &giver);
	check_is(huge_kb(&giver), 0);
	check_is(huge_kb(&taker), BLOCK / 1024);
	check(page_state(peer_pid(taker.peer), taker.addr + 5 * PAGE) & PM_HUGE);
	check_is(page_frame(peer_pid(taker.peer), taker.addr), frame);
	has_moved(&taker, &giver);
	stop_both(&giver, &taker);
}

static void many(void)
{
	int pf = pf_open_with(PAGEFERRY_FEATURE_THP);
	struct end giver = huge_giver(LEN), taker = taker_start(LEN, MAP_HUGE);
	uint64_t rss = status_kb(peer_pid(taker.peer), "RssAnon");

	pf_move_all(pf, &taker, &giver);
	check_is(huge_kb(&giver), 0);
	check_is(huge_kb(&taker), LEN / 1024);
	check(near_kb(status_kb(peer_pid(taker.peer), "RssAnon"), rss + LEN / 1024, 256));
	has_moved(&taker, &giver);
	stop_both(&giver, &taker);
}

/* There and back, and the page table that goes along for a later split is split then. */
static void back_and_split(void)
{
	struct end giver = huge_giver(2 * BLOCK), taker = taker_start(2 * BLOCK, MAP_HUGE);
	int pf = pf_open();

	for (int i = 0; i < 3; i++) {
		pf_move_all(pf, &taker, &giver);
		pf_move_all(pf, &giver, &taker);
	}
	end_verify(&giver, giver.addr, giver.addr, giver.len);
	pf_move_all(pf, &taker, &giver);
	check_is(peer_mprotect(taker.peer, taker.addr + PAGE, PAGE, PROT_READ), 0);
	check_is(uffd_unregister(taker.uffd, taker.addr, taker.len), 0);
	check_is(peer_madvise(taker.peer, taker.addr + 7 * PAGE, PAGE, MADV_DONTNEED), 0);
	end_verify(&taker, taker.addr, giver.addr, 7 * PAGE);
	peer_verify_zero(taker.peer, taker.addr + 7 * PAGE, PAGE);
	end_verify(&taker, taker.addr + 8 * PAGE, giver.addr + 8 * PAGE, taker.len - 8 * PAGE);
	stop_both(&giver, &taker);
}

/* The taker doesn't want huge pages for itself, but the giver has some. */
static void taker_wants_none(void)
{
	struct end giver = huge_giver(BLOCK), taker = taker_start(BLOCK, MAP_4K);

	pf_move_all(pf_open(), &taker, &giver);
	has_moved(&taker, &giver);
	stop_both(&giver, &taker);
}

/* Both are unaligned in the same way: the first and the last block are covered in part. */
static void ends_in_blocks(void)
{
	struct end giver = huge_giver(4 * BLOCK), taker = taker_start(4 * BLOCK, MAP_HUGE);
	uint64_t skip = 3 * PAGE, len = 4 * BLOCK - 10 * PAGE, moved;

	check_is(pf_move(pf_open(), 0, taker.uffd, giver.uffd, taker.addr + skip, giver.addr + skip,
			 len, &moved),
		 0);
	check_is(moved, len);
	check_is(huge_kb(&giver), 0);
	end_verify(&giver, giver.addr, giver.addr, skip);
	end_verify(&giver, giver.addr + skip + len, giver.addr + skip + len, 7 * PAGE);
	check_is(count_holes(peer_pid(giver.peer), giver.addr, giver.len), len / PAGE);
	end_verify(&taker, taker.addr + skip, giver.addr + skip, len);
	check_is(count_holes(peer_pid(taker.peer), taker.addr, taker.len), 10);
	note("%zu KiB of them are huge", (size_t)huge_kb(&taker));
	stop_both(&giver, &taker);
}

/* Source and destination have different offsets in their blocks: none can be whole. */
static void unaligned(void)
{
	struct end giver = huge_giver(3 * BLOCK), taker = taker_start(4 * BLOCK, MAP_HUGE);
	uint64_t dst = taker.addr + 5 * PAGE;

	check_is(pf_move(pf_open(), 0, taker.uffd, giver.uffd, dst, giver.addr, giver.len, NULL),
		 0);
	giver_is_empty(&giver);
	check_is(huge_kb(&taker), 0);
	end_verify(&taker, dst, giver.addr, giver.len);
	stop_both(&giver, &taker);
}

/* One page out of the middle, for a fault; then all around it. */
static void one_page(void)
{
	struct end giver = huge_giver(BLOCK), taker = taker_start(BLOCK, MAP_HUGE);
	uint64_t at = 100 * PAGE, behind = at + PAGE;
	int pf = pf_open();

	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr + at, giver.addr + at, PAGE,
			 NULL),
		 0);
	check_is(count_holes(peer_pid(giver.peer), giver.addr, BLOCK), 1);
	end_verify(&giver, giver.addr, giver.addr, at);
	end_verify(&giver, giver.addr + behind, giver.addr + behind, BLOCK - behind);
	end_verify(&taker, taker.addr + at, giver.addr + at, PAGE);
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr, giver.addr, at, NULL), 0);
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr + behind, giver.addr + behind,
			 BLOCK - behind, NULL),
		 0);
	has_moved(&taker, &giver);
	stop_both(&giver, &taker);
}

/* The taker has had a page there, so it has a page table, which is empty now. */
static void table_there(void)
{
	struct end giver = huge_giver(BLOCK), taker = taker_start(BLOCK, MAP_4K);
	struct uffdio_zeropage zero = {.range = {taker.addr, PAGE}};

	check_call(ioctl(taker.uffd, UFFDIO_ZEROPAGE, &zero));
	check_is(peer_madvise(taker.peer, taker.addr, PAGE, MADV_DONTNEED), 0);
	pf_move_all(pf_open(), &taker, &giver);
	has_moved(&taker, &giver);
	stop_both(&giver, &taker);
}

/* A page of its own is in the way, behind a first block that isn't touched by that. */
static void populated(void)
{
	struct end giver = huge_giver(2 * BLOCK), taker = taker_start(2 * BLOCK, MAP_HUGE);
	struct uffdio_zeropage zero = {.range = {taker.addr + BLOCK + 9 * PAGE, PAGE}};
	uint64_t done;

	check_call(ioctl(taker.uffd, UFFDIO_ZEROPAGE, &zero));
	check_is(pf_move(pf_open(), 0, taker.uffd, giver.uffd, taker.addr, giver.addr, giver.len,
			 &done),
		 -EEXIST);
	check_is(done, BLOCK + 9 * PAGE);
	end_verify(&taker, taker.addr, giver.addr, done);
	end_verify(&giver, giver.addr + done, giver.addr + done, giver.len - done);
	stop_both(&giver, &taker);
}

/* A huge page is in the way of small ones. */
static void populated_by_huge(void)
{
	int pf = pf_open_with(PAGEFERRY_FEATURE_THP);
	struct end first = huge_giver(BLOCK), giver = giver_start(BLOCK, MAP_4K);
	struct end taker = taker_start(BLOCK, MAP_HUGE);
	uint64_t moved;

	pf_move_all(pf, &taker, &first);
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr + PAGE, giver.addr + PAGE, PAGE,
			 &moved),
		 -EEXIST);
	check_is(moved, 0);
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr, giver.addr, BLOCK, &moved),
		 -EEXIST);
	check_is(moved, 0);
	giver_keeps(&giver);
	has_moved(&taker, &first);
	end_stop(&first);
	stop_both(&giver, &taker);
}

/* The zero page's huge sister: it is never given away. */
static void zero_page(void)
{
	struct peer *p = peer_start();
	struct end giver = {.peer = p, .addr = peer_map(p, 0, BLOCK, MAP_HUGE), .len = BLOCK};
	struct end taker = taker_start(BLOCK, MAP_HUGE);

	giver.uffd = peer_uffd(p, 0);
	peer_read_pages(p, giver.addr, BLOCK);
	check_is(uffd_register(giver.uffd, giver.addr, BLOCK, UFFDIO_REGISTER_MODE_MISSING), 0);
	check_is(count_holes(peer_pid(p), giver.addr, BLOCK), 0);
	pf_move_all(pf_open(), &taker, &giver);
	giver_is_empty(&giver);
	check_is(count_holes(peer_pid(taker.peer), taker.addr, BLOCK), 0);
	peer_verify_zero(taker.peer, taker.addr, BLOCK);
	peer_fill(taker.peer, taker.addr, BLOCK, 1, SEED);
	peer_verify(taker.peer, taker.addr, BLOCK, 1, SEED);
	stop_both(&giver, &taker);
}

/* Whole blocks with nothing in them, between two that have. */
static void holes(void)
{
	struct end giver = huge_giver(3 * BLOCK), taker = taker_start(3 * BLOCK, MAP_HUGE);
	int pf = pf_open();
	uint64_t moved;

	check_is(peer_madvise(giver.peer, giver.addr + BLOCK, BLOCK, MADV_DONTNEED), 0);
	check_is(pf_move(pf, PAGEFERRY_MOVE_ALLOW_SRC_HOLES, taker.uffd, giver.uffd, taker.addr,
			 giver.addr, giver.len, &moved),
		 0);
	check_is(moved, giver.len);
	giver_is_empty(&giver);
	check_is(count_holes(peer_pid(taker.peer), taker.addr + BLOCK, BLOCK), BLOCK / PAGE);
	end_verify(&taker, taker.addr, giver.addr, BLOCK);
	end_verify(&taker, taker.addr + 2 * BLOCK, giver.addr + 2 * BLOCK, BLOCK);
	stop_both(&giver, &taker);
}

/* Mapped by small entries, some of its pages are gone: the kernel has it in a queue to be split. */
static void partly_unmapped(void)
{
	struct end giver = huge_giver(2 * BLOCK), taker = taker_start(2 * BLOCK, MAP_HUGE);
	uint64_t hole = 10 * PAGE;

	for (int i = 0; i < 2; i++)
		check_is(peer_madvise(giver.peer, giver.addr + i * BLOCK, hole, MADV_DONTNEED), 0);
	check_is(pf_move(pf_open(), PAGEFERRY_MOVE_ALLOW_SRC_HOLES, taker.uffd, giver.uffd,
			 taker.addr, giver.addr, giver.len, NULL),
		 0);
	giver_is_empty(&giver);
	check_is(count_holes(peer_pid(taker.peer), taker.addr, taker.len), 2 * hole / PAGE);
	for (int i = 0; i < 2; i++)
		end_verify(&taker, taker.addr + i * BLOCK + hole, giver.addr + i * BLOCK + hole,
			   BLOCK - hole);
	stop_both(&giver, &taker);
}

/* Whole, but mapped by small entries, since an mprotect() has been there. */
static void small_entries(void)
{
	struct end giver = huge_giver(BLOCK), taker = taker_start(BLOCK, MAP_HUGE);

	check_is(peer_mprotect(giver.peer, giver.addr + PAGE, PAGE, PROT_READ), 0);
	check_is(peer_mprotect(giver.peer, giver.addr + PAGE, PAGE, PROT_READ | PROT_WRITE), 0);
	pf_move_all(pf_open(), &taker, &giver);
	has_moved(&taker, &giver);
	stop_both(&giver, &taker);
}

static void fork_shared(void)
{
	struct end giver = huge_giver(BLOCK), taker = taker_start(BLOCK, MAP_HUGE);
	int pf = pf_open();
	uint64_t moved;
	pid_t child = peer_fork(giver.peer);

	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr, giver.addr, BLOCK, &moved),
		 -EBUSY);
	check_is(moved, 0);
	giver_keeps(&giver);
	giver_is_empty(&taker);
	peer_end_child(giver.peer, child);
	peer_fill(giver.peer, giver.addr, BLOCK, giver.addr / PAGE, SEED);
	pf_move_all(pf, &taker, &giver);
	has_moved(&taker, &giver);
	stop_both(&giver, &taker);
}

/* Sizes in between. */
static void medium(void)
{
	static const char size[] = "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled";
	struct end giver, taker;

	if (file_write(size, "always"))
		test_skip("no huge pages of 64 KiB");
	giver = giver_start(BLOCK - 16 * PAGE, 0);
	taker = taker_start(BLOCK - 16 * PAGE, 0);
	check_is(file_write(size, "never"), 0);
	/* KPF_THP */
	check(page_kflags(peer_pid(giver.peer), giver.addr) >> 22 & 1);
	check_is(huge_kb(&giver), 0);
	pf_move_all(pf_open(), &taker, &giver);
	has_moved(&taker, &giver);
	stop_both(&giver, &taker);
}

static void told(int sig)
{
	(void)sig;
}

/* Poisons a page while another one of the block is pinned, so that the block can't be split. */
static int64_t poison_pinned(const uint64_t *arg)
{
	struct io_uring_params params = {0};
	struct iovec iov = {(void *)arg[0], PAGE};
	int ring = (int)syscall(SYS_io_uring_setup, 2, &params), error;

	check_call(ring);
	check_call(syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1));
	signal(SIGBUS, told);
	error = madvise((void *)(arg[0] + arg[1]), PAGE, MADV_HWPOISON) ? errno : 0;
	check_call(syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0));
	close(ring);
	return error;
}

/* A block in which one page is broken doesn't go as a whole: that page stays, the others go. */
static void poisoned(void)
{
	const uint64_t bad = 5 * PAGE, rest = BLOCK - bad - PAGE;
	struct end giver = huge_giver(BLOCK), taker = taker_start(BLOCK, MAP_HUGE);
	int pf = pf_open(), error;
	uint64_t moved;

	error = (int)peer_do(giver.peer, poison_pinned, giver.addr, bad);
	if (error != EHWPOISON)
		test_skip("no page can be poisoned: %s", strerror(error));
	check_is(huge_kb(&giver), BLOCK / 1024);
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr, giver.addr, BLOCK, &moved),
		 -EFAULT);
	check_is(moved, bad);
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr + bad + PAGE,
			 giver.addr + bad + PAGE, rest, &moved),
		 0);
	end_verify(&taker, taker.addr, giver.addr, bad);
	end_verify(&taker, taker.addr + bad + PAGE, giver.addr + bad + PAGE, rest);
	stop_both(&giver, &taker);
}

static void poisoned_tables(void)
{
	pf_always = PAGEFERRY_MOVE_TABLES;
	poisoned();
}

/* A thread of the taker runs into a block, and it comes whole: one fault for all of it. */
static void serves_faults(void)
{
	struct end giver = huge_giver(4 * BLOCK), taker = taker_start(4 * BLOCK, MAP_HUGE);
	int thread = peer_thread(taker.peer, peer_run_verify, taker.addr, taker.len,
				 giver.addr / PAGE, SEED);
	int pf = pf_open();

	for (int i = 0; i < 4; i++) {
		uint64_t at = uffd_fault(taker.uffd) & ~(BLOCK - 1);

		check_is(pf_move(pf, 0, taker.uffd, giver.uffd, at, giver.addr + (at - taker.addr),
				 BLOCK, NULL),
			 0);
	}
	check_is(peer_join(taker.peer, thread, 10000), 0);
	has_moved(&taker, &giver);
	stop_both(&giver, &taker);
}

/* clang-format off */
const struct test thp_tests[] = {
	TEST(whole),
	TEST(many),
	TEST(back_and_split),
	TEST(taker_wants_none),
	TEST(ends_in_blocks),
	TEST(unaligned),
	TEST(one_page),
	TEST(table_there),
	TEST(populated),
	TEST(populated_by_huge),
	TEST(zero_page),
	TEST(holes),
	TEST(partly_unmapped),
	TEST(small_entries),
	TEST(fork_shared),
	TEST(medium),
	TEST(poisoned),
	TEST(poisoned_tables),
	TEST(serves_faults),
	{.name = NULL},
};
