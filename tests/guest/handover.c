// SPDX-License-Identifier: MIT
/*
 * The library's hand-over where the module is loaded: pages move, nothing is copied but what the taker
 * touches before the commit, and what can't move.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "harness.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"
#include "pageferry.h"

#define SUBJECT "handover"

#define LEN	 (16 * MIB)
#define FILLED	 (LEN / 2) /* the rest is empty */
#define SHADOWED 4ul	   /* pages that are touched before the commit */
#define MODULE	 FERRY_WAY_BIT(FERRY_WAY_MODULE)
#define COPY	 FERRY_WAY_BIT(FERRY_WAY_COPY)

enum { ARG_SOCK, ARG_ADDR, ARG_WAYS };

/* Bytes that went each way, in the order of enum ferry_way, in the giver's memory. */
static uint64_t went[FERRY_WAYS];

/* The giver, from its first word to its last. */
static int64_t give(const uint64_t *arg)
{
	struct ferry_range range = { .addr = arg[ARG_ADDR], .len = LEN };
	struct ferry_offer offer = { &range, 1, NULL, 0 };
	struct ferry_give_opts opts = FERRY_GIVE_OPTS_INIT;
	struct ferry_report report = { .size = sizeof(report) };
	struct ferry_give *g;

	opts.ways = (uint32_t)arg[ARG_WAYS];
	int err = ferry_give_open(&g, (int)arg[ARG_SOCK], &offer, &opts);
	if (!err)
		err = ferry_give_wait(g, FERRY_PHASE_ATTACHED, -1);
	if (!err)
		err = ferry_give_shadow(g, NULL, 0);
	if (!err)
		err = ferry_give_wait(g, FERRY_PHASE_READY, -1);
	if (!err)
		err = ferry_give_commit(g);
	if (!err)
		err = ferry_give_wait(g, FERRY_PHASE_DONE, -1);
	if (!err)
		err = ferry_give_report(g, &report);
	for (unsigned int i = 0; i < FERRY_WAYS; i++)
		went[i] = report.bytes[i];
	ferry_give_close(g, NULL);
	return err;
}

static int64_t bytes_by(const uint64_t *arg)
{
	return (int64_t)went[arg[0]];
}

/* The taker, up to the moment at which the memory is its own. Returns where it has it. */
static uint64_t take(struct ferry_take **t, int sock, unsigned int how)
{
	uint64_t at;

	check_is(ferry_take_open(t, sock, NULL), 0);
	at = peer_map(NULL, 0, LEN, how);
	check_is(ferry_take_map(*t, 0, (void *)at), 0);
	check_is(ferry_take_attach(*t), 0);
	check_is(ferry_take_shadow(*t, NULL, NULL), 0);
	peer_verify(NULL, at, SHADOWED * PAGE, 0, SEED);
	check_is(ferry_take_commit(*t), 0);
	return at;
}

static struct peer *start_giver(unsigned int how, uint64_t *addr)
{
	struct peer *giver = peer_start();

	*addr = peer_map(giver, 0, LEN, how);
	peer_fill(giver, *addr, FILLED, 0, SEED);
	return giver;
}

/* The memory of @giver at @addr comes here, and is checked while it comes. Returns where it is. */
static uint64_t hand_over(struct peer *giver, uint64_t addr, unsigned int how, uint32_t ways)
{
	struct ferry_take *t;
	int pair[2];

	check_call(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	int sock = peer_give_fd(giver, pair[0]);
	close(pair[0]);
	peer_begin(giver, give, (uint64_t)sock, addr, ways);
	uint64_t at = take(&t, pair[1], how);
	/* From the far end, so that faults meet what is pushed. */
	for (uint64_t off = FILLED; off; off -= MIB)
		peer_verify(NULL, at + off - MIB, MIB, (off - MIB) / PAGE, SEED);
	peer_verify_zero(NULL, at + FILLED, LEN - FILLED);
	check_is(ferry_take_done(t, 30000), 0);
	ferry_take_close(t);
	check_is(peer_finish(giver), 0);
	peer_verify(NULL, at, FILLED, 0, SEED);
	return at;
}

/*
 * @copied at least. The giver learns of the commit a moment after the taker, and answers a fault in
 * between by a copy as before.
 */
static void check_ways(struct peer *giver, uint64_t copied)
{
	uint64_t really = (uint64_t)peer_do(giver, bytes_by, FERRY_WAY_COPY);

	check(really >= copied && really <= copied + 2 * PAGE);
	check_is(peer_do(giver, bytes_by, FERRY_WAY_MODULE), FILLED - really);
	check_is(peer_do(giver, bytes_by, FERRY_WAY_STAGE), 0);
	check_is(peer_do(giver, bytes_by, FERRY_WAY_ZERO), LEN - FILLED);
}

static void small_pages(void)
{
	uint64_t addr;
	struct peer *giver = start_giver(MAP_4K, &addr);

	hand_over(giver, addr, MAP_4K, FERRY_WAY_AUTO);
	check_ways(giver, SHADOWED * PAGE);
	check_is(count_holes(peer_pid(giver), addr, LEN), LEN / PAGE);
	peer_end(giver);
}

/* What was touched page by page before the commit arrives as small pages, the rest huge. */
static void huge_pages(void)
{
	uint64_t addr;
	struct peer *giver = start_giver(MAP_HUGE, &addr);
	uint64_t at = hand_over(giver, addr, MAP_HUGE, MODULE);

	check_ways(giver, SHADOWED * PAGE);
	check(smaps_kb(0, at, LEN, "AnonHugePages") >= (FILLED - 2 * BLOCK) / 1024);
	peer_end(giver);
}

/* It is not used where it isn't wanted. */
static void by_copy(void)
{
	uint64_t addr;
	struct peer *giver = start_giver(MAP_4K, &addr);

	hand_over(giver, addr, MAP_4K, COPY);
	check_ways(giver, FILLED);
	peer_end(giver);
}

/* A page that is in a pipe, too, stays, and is copied. */
static void in_use(void)
{
	uint64_t addr;
	struct peer *giver = start_giver(MAP_4K, &addr);
	int pipe_ends[2];

	check_call(pipe(pipe_ends));
	int end = peer_give_fd(giver, pipe_ends[1]);
	struct iovec *iov = (void *)peer_map(giver, 0, PAGE, MAP_4K);
	peer_poke(giver, (uint64_t)&iov->iov_base, addr + 9 * PAGE);
	peer_poke(giver, (uint64_t)&iov->iov_len, PAGE);
	check_is(peer_syscall(giver, SYS_vmsplice, (uint64_t)end, (uint64_t)iov, 1, 0), PAGE);
	hand_over(giver, addr, MAP_4K, FERRY_WAY_AUTO);
	check_ways(giver, (SHADOWED + 1) * PAGE);
	peer_end(giver);
	close(pipe_ends[0]);
	close(pipe_ends[1]);
}

const struct test handover_tests[] = {
	TEST(small_pages),
	TEST(huge_pages),
	TEST(by_copy),
	TEST(in_use),
	{.name = NULL},
};
