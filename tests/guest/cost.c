// SPDX-License-Identifier: MIT
/*
 * What a move costs: run by bench/module, with QEMU's -icount, where a nanosecond of the guest's clock
 * is an instruction. Each figure is a line of JSON in a comment of the TAP.
 */
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "figure.h"
#include "handover.h"
#include "harness.h"
#include "hold.h"
#include "lib/uffd_abi.h"
#include "peer.h"
#include "pf.h"
#include "tracing.h"

#define SUBJECT "cost"

#define ROUNDS	 7
#define LARGE	 (64 * MIB)
#define MANY	 (256 * MIB)
#define CALLS	 (4 * MIB) /* in many small calls */
#define SETTLE_S 5
#define GIVEN	 (1024 * MIB)
#define HANDS	 3 /* hand-overs of it */

static uint64_t clock_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

enum by {
	BY_GIVER, /* out of its own memory, as in a hand-over */
	BY_THIRD, /* between two other processes */
	BY_KERNEL, /* UFFDIO_MOVE, within this process */
	BY_TABLES, /* as BY_GIVER, but as whole page tables */
	BY_TABLES_PINNED, /* the same, and something was pinned before: each page has to be looked at */
	BY_MREMAP, /* within this process */
};

struct row {
	const char *name;
	size_t len, call; /* bytes in all, and in each call */
	unsigned int how;
	enum by by;
};

/* The ioctls alone, without the helpers' checks in between. */
static uint64_t move_by_module(int pf, const struct end *to, const struct end *from, size_t call,
			       bool own)
{
	struct pageferry_move move = { .size = sizeof(move), .dst_uffd = to->uffd,
				       .src_uffd = own ? PAGEFERRY_SELF : from->uffd, .len = call };
	uint64_t begin = clock_now();

	for (size_t at = 0; at < from->len; at += call) {
		move.dst = to->addr + at;
		move.src = from->addr + at;
		check_call(ioctl(pf, PAGEFERRY_IOC_MOVE, &move));
	}
	return clock_now() - begin;
}

static uint64_t move_by_tables(int pf, const struct end *to, const struct end *from)
{
	struct pageferry_move move = { .size = sizeof(move), .mode = PAGEFERRY_MOVE_TABLES,
				       .dst_uffd = to->uffd, .src_uffd = PAGEFERRY_SELF,
				       .dst = to->addr, .src = from->addr, .len = from->len };
	uint64_t begin = clock_now();

	check_call(ioctl(pf, PAGEFERRY_IOC_MOVE, &move));
	begin = clock_now() - begin;
	check_is(move.tables, from->len);
	return begin;
}

static uint64_t move_by_mremap(const struct end *to, const struct end *from)
{
	uint64_t begin;

	/* It would be unmapped first; and of what is registered Linux moves each page alone. */
	check_call(munmap((void *)to->addr, to->len));
	check_is(uffd_unregister(from->uffd, from->addr, from->len), 0);
	begin = clock_now();
	check(mremap((void *)from->addr, from->len, from->len, MREMAP_MAYMOVE | MREMAP_FIXED,
		     (void *)to->addr) == (void *)to->addr);
	return clock_now() - begin;
}

static uint64_t move_by_kernel(const struct end *to, const struct end *from, size_t call)
{
	struct uffdio_move move = { .len = call };
	uint64_t begin = clock_now();

	for (size_t at = 0; at < from->len; at += call) {
		move.dst = to->addr + at;
		move.src = from->addr + at;
		check_call(ioctl(to->uffd, UFFDIO_MOVE, &move));
	}
	return clock_now() - begin;
}

/*
 * A page behind the taker's range, in what is left of its reserve. The process that UFFDIO_MOVE works in
 * has the tables above its page tables already, most often: for the giver's range beside it, or for whatever
 * else is mapped near. The taker of a move between processes has them by chance. What it costs to make them
 * and to clear them is no part of a move; so both have them.
 */
static void touch_neighbour(const struct end *taker)
{
	uint64_t at = taker->addr + taker->len + PAGE;

	check_is(peer_syscall(taker->peer, SYS_mmap, at, PAGE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, (uint64_t)-1, 0),
		 at);
	peer_poke(taker->peer, at, 1);
}

static uint64_t move_by(const struct row *r, const struct end *to, const struct end *from)
{
	switch (r->by) {
	case BY_KERNEL:
		return move_by_kernel(to, from, r->call);
	case BY_TABLES_PINNED:
		peer_pin(NULL, from->addr);
		peer_unpin(NULL);
		/* fall through */
	case BY_TABLES:
		return move_by_tables(pf_open(), to, from);
	case BY_MREMAP:
		return move_by_mremap(to, from);
	default:
		return move_by_module(pf_open(), to, from, r->call, r->by == BY_GIVER);
	}
}

static uint64_t one_round(const struct row *r)
{
	bool within = r->by == BY_KERNEL || r->by == BY_MREMAP;
	struct end giver, taker;
	uint64_t cost;

	taker = within ? taker_make(NULL, r->len, r->how) : taker_start(r->len, r->how);
	touch_neighbour(&taker);
	giver = r->by == BY_THIRD ? giver_start(r->len, r->how) : giver_make(NULL, r->len, r->how);
	cost = move_by(r, &taker, &giver);
	end_verify(&taker, taker.addr, giver.addr, r->len);
	/* This process stays. */
	if (within)
		peer_unmap(NULL, taker.addr, r->len);
	end_stop(&giver);
	end_stop(&taker);
	return cost;
}

/* Each round in a process of its own, so that nothing is left of the one before. */
static void measure(void)
{
	const struct row *r = test_row;
	uint64_t cost[ROUNDS];

	/* What the guest's start, and the end of the test before, have left to do. */
	nap_ms(SETTLE_S * 1000);
	for (int i = 0; i < ROUNDS; i++)
		cost[i] = one_round(r);
	figure(r->name, cost, ROUNDS, r->how & MAP_HUGE ? r->len / BLOCK : r->len / PAGE);
}

/* ---- a hand-over, from the commit until all is there */

static uint64_t one_hand_over(size_t len, uint32_t give_flags, uint32_t take_flags)
{
	struct peer *giver = peer_start();
	uint64_t addr = peer_map(giver, 0, len, MAP_4K), at = peer_map(NULL, 0, len, MAP_4K), ns;
	struct giving how = { .addr = addr, .flags = give_flags, .len = len };
	struct ferry_take *t;

	peer_fill(giver, addr, len, 0, SEED);
	t = take_until_shadow(giving_begin(giver, &how), take_flags, at);
	/* As a new program does while it gets ready. */
	peer_verify(NULL, at + len / 2, PAGE, len / 2 / PAGE, SEED);
	check_is(ferry_take_commit(t), 0);
	check_is(ferry_take_done(t, -1), 0);
	ferry_take_close(t);
	check_is(peer_finish(giver), 0);
	ns = given_drain_ns(giver);
	check_is(given_by(giver, give_flags ? FERRY_WAY_TABLES : FERRY_WAY_MODULE),
		 give_flags ? len : len - PAGE);
	peer_end(giver);
	peer_verify(NULL, at, len, 0, SEED);
	peer_unmap(NULL, at, len);
	return ns;
}

static void hand_over_all(const char *name, uint32_t give_flags, uint32_t take_flags)
{
	const size_t len = working_set(GIVEN);
	uint64_t cost[HANDS];

	nap_ms(SETTLE_S * 1000);
	for (int i = 0; i < HANDS; i++)
		cost[i] = one_hand_over(len, give_flags, take_flags);
	figure(name, cost, HANDS, len / PAGE);
}

static void handover_tables(void)
{
	hand_over_all("handover_tables", FERRY_GIVE_TABLES, FERRY_TAKE_TABLES);
}

static void handover_pages(void)
{
	hand_over_all("handover_pages", 0, 0);
}

/* ---- flushes */

static void flushes(void)
{
	struct end giver = giver_start(LARGE, MAP_4K), taker = taker_start(LARGE, MAP_4K);

	tracing_open();
	tracing_write("events/pageferry/pageferry_flush/enable", "1");
	move_by_module(pf_open(), &taker, &giver, LARGE, false);
	tracing_write("events/pageferry/pageferry_flush/enable", "0");
	unsigned int n = tracing_count("pageferry_flush:");
	const uint64_t pages = LARGE / PAGE;
	note("figure {\"name\":\"pages_per_flush\",\"median\":%.1f}", n ? (double)pages / n : 0);
	check(n);
	end_stop(&giver);
	end_stop(&taker);
}

#define COST(cost, ...)                                                                           \
	{                                                                                          \
		.name = SUBJECT "/" cost, .run = measure,                                          \
		.row = &(const struct row){ cost, __VA_ARGS__ }, .seconds = 300, .by_name = true   \
	}

const struct test cost_tests[] = {
	COST("one_call", LARGE, LARGE, MAP_4K, BY_GIVER),
	COST("third_one_call", LARGE, LARGE, MAP_4K, BY_THIRD),
	COST("kernel_one_call", LARGE, LARGE, MAP_4K, BY_KERNEL),
	COST("calls_of_1", CALLS, PAGE, MAP_4K, BY_GIVER),
	COST("third_calls_of_1", CALLS, PAGE, MAP_4K, BY_THIRD),
	COST("kernel_calls_of_1", CALLS, PAGE, MAP_4K, BY_KERNEL),
	COST("calls_of_16", CALLS, 16 * PAGE, MAP_4K, BY_GIVER),
	COST("third_calls_of_16", CALLS, 16 * PAGE, MAP_4K, BY_THIRD),
	COST("huge", LARGE, LARGE, MAP_HUGE, BY_GIVER),
	COST("third_huge", LARGE, LARGE, MAP_HUGE, BY_THIRD),
	COST("kernel_huge", LARGE, LARGE, MAP_HUGE, BY_KERNEL),
	COST("tables", LARGE, LARGE, MAP_4K, BY_TABLES),
	COST("tables_pinned", LARGE, LARGE, MAP_4K, BY_TABLES_PINNED),
	COST("tables_many", MANY, MANY, MAP_4K, BY_TABLES),
	COST("tables_huge", LARGE, LARGE, MAP_HUGE, BY_TABLES),
	COST("mremap", LARGE, LARGE, MAP_4K, BY_MREMAP),
	COST("mremap_many", MANY, MANY, MAP_4K, BY_MREMAP),
	COST("mremap_huge", LARGE, LARGE, MAP_HUGE, BY_MREMAP),
	TEST(handover_tables, .seconds = 600, .by_name = true),
	TEST(handover_pages, .seconds = 600, .by_name = true),
	TEST(flushes, .seconds = 60, .by_name = true),
	{.name = NULL},
};
