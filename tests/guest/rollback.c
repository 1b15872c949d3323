// SPDX-License-Identifier: MIT
/*
 * There and back: while both sides live, the taker gives the memory back by a second hand-over,
 * into the mapping that the first one has left empty. What has been changed meanwhile goes back as
 * it is.
 */
#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "handover.h"
#include "harness.h"
#include "peer.h"
#include "proc.h"
#include "stress.h"

#define SUBJECT   "rollback"

#define HALF      (GIVEN_FILLED / 2)
#define NPAGES    (GIVEN_FILLED / PAGE)
#define DISCARDED 1ul          /* page that the taker gives up */
#define ADDED     (NPAGES + 5) /* page that was empty */
#define STEP      8ul          /* of so many pages one is changed */

/* The old giver takes its memory back. Up to the shadow only, if it then thinks better of it. */
static int64_t take_back(const uint64_t *arg)
{
	struct ferry_take *t;
	bool aborts = arg[2];

	int err = ferry_take_open(&t, (int)arg[0], NULL);
	if (err)
		return err;
	err = ferry_take_map(t, 0, (void *)arg[1]);
	if (!err)
		err = ferry_take_attach(t);
	if (!err)
		err = ferry_take_shadow(t, NULL, NULL);
	if (!err && !aborts)
		err = ferry_take_commit(t);
	if (!err && !aborts)
		err = ferry_take_done(t, 30000);
	ferry_take_close(t);
	return err;
}

/* What this process has at @at goes back to @addr. What the side that gives now says. */
static int give_back(struct peer *giver, uint64_t addr, uint64_t at, bool aborts)
{
	struct giving how = {.addr = at, .flags = FERRY_GIVE_STRICT};
	int pair[2];

	check_call(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	int sock = peer_give_fd(giver, pair[0]);
	close(pair[0]);
	peer_begin(giver, take_back, (uint64_t)sock, addr, aborts);
	int said = giving_run(pair[1], &how);
	check_is(peer_finish(giver), 0);
	return said;
}

/* The taker's program runs, and changes things, while the rest still comes. */
static void run_program(uint64_t at)
{
	peer_verify(NULL, at, HALF, 0, SEED);
	for (uint64_t i = 0; i < HALF / PAGE; i += STEP)
		peer_fill(NULL, at + i * PAGE, PAGE, i, SEED + 1);
	check_is(peer_madvise(NULL, at + DISCARDED * PAGE, PAGE, MADV_DONTNEED), 0);
	peer_fill(NULL, at + ADDED * PAGE, PAGE, ADDED, SEED + 1);
}

static void verify_after(struct peer *p, uint64_t at)
{
	for (uint64_t i = 0; i < HALF / PAGE; i++)
		if (i != DISCARDED)
			peer_verify(p, at + i * PAGE, PAGE, i, i % STEP ? SEED : SEED + 1);
	peer_verify(p, at + HALF, HALF, HALF / PAGE, SEED);
	peer_verify(p, at + ADDED * PAGE, PAGE, ADDED, SEED + 1);
	peer_verify_zero(p, at + DISCARDED * PAGE, PAGE);
	peer_verify_zero(p, at + (ADDED + 1) * PAGE, GIVEN_LEN - (ADDED + 1) * PAGE);
}

/* In the giver. The test goes on when half has moved, and lets the giver go on. */
static struct {
	atomic_bool half, go;
} * state;

static void stop_half_way(void)
{
	state->half = true;
	await(30000, state->go);
}

static struct peer *start_giver(unsigned int how, uint64_t *addr)
{
	state = shared(sizeof(*state));
	return giver_of(how, addr);
}

/* There, with the program running before all has come; then it stands still, and the rest comes. */
static uint64_t there(struct peer *giver, uint64_t addr, unsigned int how)
{
	struct giving g = {.addr = addr, .flags = FERRY_GIVE_STRICT, .half_way = stop_half_way};
	struct ferry_take *t;
	uint64_t at;
	int sock = giving_begin(giver, &g);

	check_is(take_until_commit(&t, sock, how, &at), 0);
	await(30000, state->half);
	check_is(count_holes(0, at, GIVEN_FILLED), NPAGES / 2);
	check_is(count_holes(peer_pid(giver), addr, GIVEN_FILLED), NPAGES / 2);
	state->go = true;
	run_program(at);
	check_is(ferry_take_done(t, 30000), 0);
	ferry_take_close(t);
	check_is(peer_finish(giver), 0);
	check_is(given_refused(giver), 0);
	/* All of it is empty, as a mapping has to be to take something. */
	check_is(count_holes(peer_pid(giver), addr, GIVEN_LEN), GIVEN_LEN / PAGE);
	return at;
}

/* Each page has gone one way: none is copied, and what was empty stays so. */
static void check_counts(size_t populated)
{
	check_is(given_by(NULL, FERRY_WAY_COPY), 0);
	check_is(given_by(NULL, FERRY_WAY_STAGE), 0);
	check_is(given_refused(NULL), 0);
	check_is(given_by(NULL, FERRY_WAY_MODULE), populated * PAGE);
	check_is(given_by(NULL, FERRY_WAY_ZERO), GIVEN_LEN - populated * PAGE);
}

static void small_pages(void)
{
	uint64_t addr;
	struct peer *giver = start_giver(MAP_4K, &addr);
	uint64_t at = there(giver, addr, MAP_4K);

	check_is(give_back(giver, addr, at, false), 0);
	/* One discarded, one new. */
	check_counts(NPAGES);
	check_is(count_holes(0, at, GIVEN_LEN), GIVEN_LEN / PAGE);
	verify_after(giver, addr);
	/* It is plain memory again. */
	peer_fill(giver, addr, GIVEN_LEN, 0, SEED + 2);
	peer_end(giver);
}

static void huge_pages(void)
{
	uint64_t addr;
	struct peer *giver = start_giver(MAP_HUGE, &addr);
	uint64_t at = there(giver, addr, MAP_HUGE);

	check_is(give_back(giver, addr, at, false), 0);
	check_is(given_by(NULL, FERRY_WAY_COPY), 0);
	check_is(count_holes(0, at, GIVEN_LEN), GIVEN_LEN / PAGE);
	verify_after(giver, addr);
	/* The first block has small pages, and the one that was added to may. */
	check(smaps_kb(peer_pid(giver), addr, GIVEN_LEN, "AnonHugePages") >=
	      (GIVEN_FILLED - 2 * BLOCK) / 1024);
	peer_end(giver);
}

/* Until its commit the way back can fail, too: then the taker goes on. It can be tried again. */
static void not_taken_back(void)
{
	uint64_t addr;
	struct peer *giver = start_giver(MAP_4K, &addr);
	uint64_t at = there(giver, addr, MAP_4K);

	check_is(give_back(giver, addr, at, true), -ECANCELED);
	verify_after(NULL, at);
	/* What didn't come is poisoned: a hand-over that has failed leaves no zeros. */
	check_is(peer_madvise(giver, addr, GIVEN_LEN, MADV_DONTNEED), 0);
	check_is(give_back(giver, addr, at, false), 0);
	check_counts(given_by(NULL, FERRY_WAY_MODULE) / PAGE);
	verify_after(giver, addr);
	peer_end(giver);
}

const struct test rollback_tests[] = {
	TEST(small_pages),
	TEST(huge_pages),
	TEST(not_taken_back),
	{.name = NULL},
};
