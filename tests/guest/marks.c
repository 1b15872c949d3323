// SPDX-License-Identifier: MIT
/*
 * What page-table entries say besides where the page is: that it was written to (soft-dirty), and
 * that its process' userfaultfd wants to know of the next write (uffd-wp). Whoever tracks changes
 * at the destination must take each page that arrives for changed: marked soft-dirty, and not
 * protected. At the source nothing is left.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/swap.h>

#include "harness.h"
#include "lib/uffd_abi.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"
#include "swapspace.h"

#define SUBJECT     "marks"

#define LEN         BLOCK
#define MISSING     UFFDIO_REGISTER_MODE_MISSING
#define WP          UFFDIO_REGISTER_MODE_WP
#define WP_FEATURES (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED)

enum kind {
	SMALL,
	HUGE,
	HUGE_SPLIT, /* the destination has a table there, so that each of its pages moves alone */
	SWAPPED,
	READ_BACK, /* clean, and still in the swap cache */
};

struct row {
	enum kind kind;
	uint64_t mode; /* of the taker's registration */
};

static const struct row *row(void)
{
	return test_row;
}

static size_t marked(const struct end *e, uint64_t bits)
{
	return count_pages(peer_pid(e->peer), e->addr, e->len, bits);
}

static struct end make_end(unsigned int how, uint64_t features, uint64_t mode)
{
	struct end e = {.peer = peer_start(), .len = LEN};

	e.addr = peer_map(e.peer, 0, LEN, how);
	e.uffd = peer_uffd(e.peer, features);
	check_is(uffd_register(e.uffd, e.addr, LEN, mode), 0);
	return e;
}

/* From here on only what is written has the mark. */
static void clear_soft_dirty(const struct end *e)
{
	char path[64];

	/* All of a new mapping has it. */
	if (!marked(e, PM_SOFT_DIRTY))
		test_skip("this kernel doesn't track soft-dirty pages");
	snprintf(path, sizeof(path), "/proc/%d/clear_refs", (int)peer_pid(e->peer));
	check_is(file_write(path, "4"), 0);
	check_is(marked(e, PM_SOFT_DIRTY), 0);
}

static bool is_huge(enum kind kind)
{
	return kind == HUGE || kind == HUGE_SPLIT;
}

/* All of its pages protected, and none of them dirty. */
static struct end protected_giver(enum kind kind)
{
	struct end e = {.peer = peer_start(), .len = LEN};

	e.addr = peer_map(e.peer, 0, LEN, is_huge(kind) ? MAP_HUGE : MAP_4K);
	peer_fill(e.peer, e.addr, LEN, e.addr / PAGE, SEED);
	e.uffd = peer_uffd(e.peer, WP_FEATURES);
	check_is(uffd_register(e.uffd, e.addr, LEN, MISSING | WP), 0);
	check_is(uffd_writeprotect(e.uffd, e.addr, LEN, true), 0);
	clear_soft_dirty(&e);
	if (kind == SWAPPED || kind == READ_BACK)
		peer_page_out(e.peer, e.addr, LEN);
	if (kind == READ_BACK)
		peer_read_pages(e.peer, e.addr, LEN);
	check_is(marked(&e, PM_UFFD_WP), LEN / PAGE);
	check_is(!(page_state(peer_pid(e.peer), e.addr) & PM_HUGE), !is_huge(kind));
	check_is(marked(&e, PM_SWAPPED), kind == SWAPPED ? LEN / PAGE : 0);
	return e;
}

static struct end taker_for(const struct row *r)
{
	struct end e = make_end(is_huge(r->kind) ? MAP_HUGE : MAP_4K, WP_FEATURES, r->mode);

	if (r->kind == HUGE_SPLIT) {
		struct uffdio_zeropage zero = {.range = {e.addr, PAGE}};
		check_call(ioctl(e.uffd, UFFDIO_ZEROPAGE, &zero));
		check_is(peer_madvise(e.peer, e.addr, PAGE, MADV_DONTNEED), 0);
	}
	clear_soft_dirty(&e);
	return e;
}

static void needs_swap(enum kind kind, bool begin)
{
	if (kind != SWAPPED && kind != READ_BACK)
		return;
	if (begin)
		swap_on(DISK);
	else
		check_call(swapoff(DISK));
}

static void move(void)
{
	const struct row *r = row();
	int pf = pf_open();
	struct end giver, taker;

	needs_swap(r->kind, true);
	giver = protected_giver(r->kind);
	taker = taker_for(r);
	pf_move_all(pf, &taker, &giver);
	giver_is_empty(&giver);
	check_is(!(page_state(peer_pid(taker.peer), taker.addr) & PM_HUGE), r->kind != HUGE);
	check_is(marked(&giver, PM_UFFD_WP), 0);
	check_is(marked(&taker, PM_UFFD_WP), 0);
	check_is(marked(&taker, PM_SOFT_DIRTY), LEN / PAGE);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	/* A write that was protected would wait for ever: nobody reads the descriptor. */
	peer_fill(taker.peer, taker.addr, LEN, giver.addr / PAGE, SEED + 1);
	end_stop(&giver);
	end_stop(&taker);
	needs_swap(r->kind, false);
}

/* What is refused has kept its marks: it is as if nobody had asked. */
static void refused(void)
{
	int pf = pf_open();
	struct end giver = protected_giver(SMALL), taker = make_end(MAP_4K, 0, MISSING);
	pid_t child = peer_fork(giver.peer);
	uint64_t moved;

	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr, giver.addr, LEN, &moved),
		 -EBUSY);
	check_is(moved, 0);
	check_is(marked(&giver, PM_UFFD_WP), LEN / PAGE);
	check_is(marked(&giver, PM_SOFT_DIRTY), 0);
	giver_keeps(&giver);
	peer_end_child(giver.peer, child);
	end_stop(&giver);
	end_stop(&taker);
}

/* An empty page can be protected beforehand. It is a hole all the same, and stays protected. */
static void protected_hole(void)
{
	int pf = pf_open();
	struct end giver = make_end(MAP_4K, WP_FEATURES, MISSING | WP);
	struct end taker = make_end(MAP_4K, 0, MISSING);
	uint64_t moved;

	check_is(uffd_writeprotect(giver.uffd, giver.addr, LEN, true), 0);
	check_is(marked(&giver, PM_UFFD_WP), LEN / PAGE);
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr, giver.addr, LEN, &moved),
		 -ENOENT);
	check_is(moved, 0);
	check_is(pf_move(pf, PAGEFERRY_MOVE_ALLOW_SRC_HOLES, taker.uffd, giver.uffd, taker.addr,
			 giver.addr, LEN, &moved),
		 0);
	check_is(moved, LEN);
	check_is(marked(&giver, PM_UFFD_WP), LEN / PAGE);
	check_is(marked(&taker, PM_UFFD_WP), 0);
	check_is(count_holes(peer_pid(taker.peer), taker.addr, LEN), LEN / PAGE);
	end_stop(&giver);
	end_stop(&taker);
}

/* At the destination it is somebody's, as for UFFDIO_MOVE. */
static void protected_destination(void)
{
	int pf = pf_open();
	struct end giver = giver_start(LEN, MAP_4K);
	struct end taker = make_end(MAP_4K, WP_FEATURES, MISSING | WP);
	uint64_t moved;

	check_is(uffd_writeprotect(taker.uffd, taker.addr, LEN, true), 0);
	check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr, giver.addr, LEN, &moved),
		 -EEXIST);
	check_is(moved, 0);
	giver_keeps(&giver);
	check_is(marked(&taker, PM_UFFD_WP), LEN / PAGE);
	check_is(uffd_writeprotect(taker.uffd, taker.addr, LEN, false), 0);
	pf_move_all(pf, &taker, &giver);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&giver);
	end_stop(&taker);
}

#define ROW(what, ...)                                                                             \
	{                                                                                          \
		.name = SUBJECT "/" what, .run = move, .row = &(const struct row){__VA_ARGS__},    \
	}

const struct test marks_tests[] = {
	ROW("small", SMALL, MISSING),
	ROW("small_tracked", SMALL, MISSING | WP),
	ROW("huge", HUGE, MISSING),
	ROW("huge_tracked", HUGE, MISSING | WP),
	ROW("huge_split", HUGE_SPLIT, MISSING | WP),
	ROW("swapped", SWAPPED, MISSING),
	ROW("swapped_tracked", SWAPPED, MISSING | WP),
	ROW("read_back", READ_BACK, MISSING | WP),
	TEST(refused),
	TEST(protected_hole),
	TEST(protected_destination),
	{.name = NULL},
};
