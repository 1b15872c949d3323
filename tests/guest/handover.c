// SPDX-License-Identifier: MIT
/*
 * The library's hand-over where the module is loaded: pages move, nothing is copied but what the
 * taker touches before the commit, and what can't move.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "handover.h"
#include "harness.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"

#define SUBJECT "handover"

/* Bytes that went each way, in the order of enum ferry_way, and what else the report has; in the
 * giver's memory. */
enum { REFUSED = FERRY_WAYS, WHY, DRAIN_NS, WENT };
static uint64_t went[WENT];

static int commit(struct ferry_give *g, const struct giving *what)
{
	int err;

	if (what->at)
		what->at(BEFORE_COMMIT, what->addr);
	do
		err = ferry_give_commit(g);
	while (err == -EBUSY && what->at && what->at(COMMIT_REFUSED, what->addr));
	if (!err && what->at)
		what->at(AFTER_COMMIT, what->addr);
	return err;
}

/* Round by round, since there is always something to be woken for. */
static int wait_half_way(struct ferry_give *g)
{
	struct ferry_report report = { .size = sizeof(report) };
	int wake = eventfd(1, EFD_CLOEXEC), err;

	check_call(wake);
	do {
		err = ferry_give_wait(g, FERRY_PHASE_DONE, wake);
		check_is(ferry_give_report(g, &report), 0);
	} while (err == 1 && report.total - report.left < GIVEN_FILLED / 2);
	close(wake);
	return err == 1 ? 0 : err;
}

static int drain(struct ferry_give *g, const struct giving *what)
{
	int err = what->half_way ? wait_half_way(g) : 0;

	if (err)
		return err;
	if (what->half_way)
		what->half_way();
	return ferry_give_wait(g, FERRY_PHASE_DONE, -1);
}

int giving_until_done(struct ferry_give *g, const struct giving *what)
{
	int err = ferry_give_wait(g, FERRY_PHASE_ATTACHED, -1);

	if (!err)
		err = ferry_give_shadow(g, NULL, 0);
	if (!err)
		err = ferry_give_wait(g, FERRY_PHASE_READY, -1);
	if (!err)
		err = commit(g, what);
	return err ? err : drain(g, what);
}

static void note_report(const struct ferry_give *g)
{
	struct ferry_report report = {.size = sizeof(report)};

	check_is(ferry_give_report(g, &report), 0);
	for (unsigned int i = 0; i < FERRY_WAYS; i++)
		went[i] = report.bytes[i];
	went[REFUSED] = report.refused;
	went[WHY] = report.why;
	went[DRAIN_NS] = report.drain_ns;
}

/* The giver, from its first word to its last. */
int giving_run(int sock, const struct giving *what)
{
	struct ferry_range range = { .addr = what->addr,
				     .len = what->len ? what->len : GIVEN_LEN,
				     .flags = what->range_flags };
	struct ferry_offer offer = { &range, 1, NULL, 0 };
	struct ferry_give_opts opts = FERRY_GIVE_OPTS_INIT;
	struct ferry_give *g;

	opts.ways = what->ways;
	opts.flags = what->flags;
	int err = ferry_give_open(&g, sock, &offer, &opts);
	if (err)
		return err;
	err = giving_until_done(g, what);
	note_report(g);
	ferry_give_close(g, NULL);
	return err;
}

static int64_t run_giving(const uint64_t *arg)
{
	struct giving what = { arg[1], (uint32_t)arg[2], (uint32_t)arg[3], (uint32_t)arg[4],
			       (bool (*)(enum moment, uint64_t))arg[5], (void (*)(void))arg[6], arg[7] };

	return giving_run((int)arg[0], &what);
}

static int64_t run_given(const uint64_t *arg)
{
	return (int64_t)went[arg[0]];
}

uint64_t given_by(struct peer *giver, enum ferry_way way)
{
	return (uint64_t)peer_do(giver, run_given, way);
}

uint64_t given_refused(struct peer *giver)
{
	return (uint64_t)peer_do(giver, run_given, REFUSED);
}

enum ferry_why given_why(struct peer *giver)
{
	return (enum ferry_why)peer_do(giver, run_given, WHY);
}

uint64_t given_drain_ns(struct peer *giver)
{
	return (uint64_t)peer_do(giver, run_given, DRAIN_NS);
}

void check_given(struct peer *giver, uint64_t copied)
{
	uint64_t really = given_by(giver, FERRY_WAY_COPY);

	check(really >= copied && really <= copied + 2 * PAGE);
	check_is(given_by(giver, FERRY_WAY_MODULE), GIVEN_FILLED - really);
	check_is(given_by(giver, FERRY_WAY_STAGE), 0);
	check_is(given_by(giver, FERRY_WAY_ZERO), GIVEN_LEN - GIVEN_FILLED);
}

struct peer *giver_of(unsigned int how, uint64_t *addr)
{
	struct peer *giver = peer_start();

	*addr = peer_map(giver, 0, GIVEN_LEN, how);
	peer_fill(giver, *addr, GIVEN_FILLED, 0, SEED);
	return giver;
}

int giving_begin(struct peer *giver, const struct giving *g)
{
	int pair[2];

	check_call(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	int sock = peer_give_fd(giver, pair[0]);
	close(pair[0]);
	peer_begin(giver, run_giving, (uint64_t)sock, g->addr, g->ways, g->flags, g->range_flags,
		   (uint64_t)g->at, (uint64_t)g->half_way, g->len);
	return pair[1];
}

struct ferry_take *take_until_shadow(int sock, uint32_t flags, uint64_t at)
{
	struct ferry_take_opts opts = FERRY_TAKE_OPTS_INIT;
	struct ferry_take *t;

	opts.flags = flags;
	check_is(ferry_take_open(&t, sock, &opts), 0);
	check_is(ferry_take_map(t, 0, (void *)at), 0);
	check_is(ferry_take_attach(t), 0);
	check_is(ferry_take_shadow(t, NULL, NULL), 0);
	return t;
}

int take_until_commit(struct ferry_take **t, int sock, unsigned int how, uint64_t *at)
{
	*at = peer_map(NULL, 0, GIVEN_LEN, how);
	*t = take_until_shadow(sock, 0, *at);
	peer_verify(NULL, *at, SHADOWED * PAGE, 0, SEED);
	return ferry_take_commit(*t);
}

int64_t take_to_the_end(struct ferry_take *t, struct peer *giver, uint64_t at)
{
	/* From the far end, so that faults meet what is pushed. */
	for (uint64_t off = GIVEN_FILLED; off; off -= MIB)
		peer_verify(NULL, at + off - MIB, MIB, (off - MIB) / PAGE, SEED);
	peer_verify_zero(NULL, at + GIVEN_FILLED, GIVEN_LEN - GIVEN_FILLED);
	check_is(ferry_take_done(t, 30000), 0);
	ferry_take_close(t);
	int64_t said = peer_finish(giver);
	peer_verify(NULL, at, GIVEN_FILLED, 0, SEED);
	return said;
}

uint64_t hand_over(struct peer *giver, const struct giving *g, unsigned int how, int64_t want)
{
	struct ferry_take *t;
	uint64_t at;
	int sock = giving_begin(giver, g);

	check_is(take_until_commit(&t, sock, how, &at), 0);
	check_is(take_to_the_end(t, giver, at), want);
	return at;
}

/* ---- tests */

static void small_pages(void)
{
	uint64_t addr;
	struct peer *giver = giver_of(MAP_4K, &addr);

	hand_over(giver, &(struct giving){.addr = addr}, MAP_4K, 0);
	check_given(giver, SHADOWED * PAGE);
	check_is(count_holes(peer_pid(giver), addr, GIVEN_LEN), GIVEN_LEN / PAGE);
	peer_end(giver);
}

/* What was touched page by page before the commit arrives as small pages, the rest huge. */
static void huge_pages(void)
{
	uint64_t addr;
	struct peer *giver = giver_of(MAP_HUGE, &addr);
	uint64_t at = hand_over(giver, &(struct giving){.addr = addr, .ways = WAY_MODULE}, MAP_HUGE,
				0);

	check_given(giver, SHADOWED * PAGE);
	check(smaps_kb(0, at, GIVEN_LEN, "AnonHugePages") >= (GIVEN_FILLED - 2 * BLOCK) / 1024);
	peer_end(giver);
}

/* It is not used where it isn't wanted. */
static void by_copy(void)
{
	uint64_t addr;
	struct peer *giver = giver_of(MAP_4K, &addr);

	hand_over(giver, &(struct giving){.addr = addr, .ways = WAY_COPY}, MAP_4K, 0);
	check_given(giver, GIVEN_FILLED);
	peer_end(giver);
}

/* A page that is in a pipe, too, stays, and is copied. */
static void in_use(void)
{
	uint64_t addr;
	struct peer *giver = giver_of(MAP_4K, &addr);
	int pipe_ends[2];

	check_call(pipe(pipe_ends));
	int end = peer_give_fd(giver, pipe_ends[1]);
	struct iovec *iov = (void *)peer_map(giver, 0, PAGE, MAP_4K);
	peer_poke(giver, (uint64_t)&iov->iov_base, addr + 9 * PAGE);
	peer_poke(giver, (uint64_t)&iov->iov_len, PAGE);
	check_is(peer_syscall(giver, SYS_vmsplice, (uint64_t)end, (uint64_t)iov, 1, 0), PAGE);
	hand_over(giver, &(struct giving){.addr = addr}, MAP_4K, 0);
	check_given(giver, (SHADOWED + 1) * PAGE);
	check_is(given_refused(giver), PAGE);
	peer_end(giver);
	close(pipe_ends[0]);
	close(pipe_ends[1]);
}

const struct test handover_tests[] = {
	TEST(small_pages), TEST(huge_pages), TEST(by_copy), TEST(in_use), {.name = NULL},
};
