// SPDX-License-Identifier: MIT
/*
 * Memory that KSM has merged changes hands: it is unmerged bit by bit, moves, and is merged again
 * where it is then. A third process has the same contents all the time.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "handover.h"
#include "harness.h"
#include "hold.h"
#include "peer.h"
#include "proc.h"

#define SUBJECT "merged"

#define NPAGES  (GIVEN_FILLED / PAGE)

struct scene {
	struct peer *giver, *other;
	uint64_t addr, twin;
};

/* How many pages @pid shares with the third process. Its count in proc is one of ksmd's, which
 * falls late. */
static size_t shared(const struct scene *s, pid_t pid, uint64_t addr)
{
	return count_same(pid, addr, peer_pid(s->other), s->twin, GIVEN_FILLED);
}

static size_t merged_at_giver(const struct scene *s)
{
	return shared(s, peer_pid(s->giver), s->addr);
}

static struct scene merge(void)
{
	struct scene s = {.other = peer_start()};

	s.giver = giver_of(MAP_4K, &s.addr);
	s.twin = peer_map(s.other, 0, GIVEN_FILLED, MAP_4K);
	peer_fill(s.other, s.twin, GIVEN_FILLED, 0, SEED);
	ksm_begin();
	check_is(peer_madvise(s.other, s.twin, GIVEN_FILLED, MADV_MERGEABLE), 0);
	check_is(peer_madvise(s.giver, s.addr, GIVEN_LEN, MADV_MERGEABLE), 0);
	await(30000, merged_at_giver(&s) == NPAGES);
	ksm_end();
	check(smaps_mergeable(peer_pid(s.giver), s.addr, GIVEN_LEN));
	return s;
}

static void end(struct scene *s)
{
	peer_end(s->giver);
	peer_end(s->other);
}

static struct giving giving(const struct scene *s, uint32_t flags)
{
	return (struct giving){
		.addr = s->addr, .flags = flags, .range_flags = FERRY_RANGE_MERGEABLE};
}

/* As many of its pages, and the same ones, as before. */
static void is_merged_again(const struct scene *s, uint64_t at)
{
	check(smaps_mergeable(0, at, GIVEN_LEN));
	ksm_begin();
	await(30000, shared(s, 0, at) == NPAGES);
	ksm_end();
	peer_verify(NULL, at, GIVEN_FILLED, 0, SEED);
}

/* How many of the filled pages are here. */
static size_t arrived(uint64_t at)
{
	return NPAGES - count_holes(0, at, GIVEN_FILLED);
}

/* What is unmerged at the giver and not here yet is never more than the block that is being pushed.
 */
static void watch(const struct scene *s, uint64_t at)
{
	size_t least = NPAGES, merged;

	while (arrived(at) < NPAGES) {
		merged = merged_at_giver(s);
		check(merged + arrived(at) + BLOCK / PAGE >= NPAGES);
		least = merged < least ? merged : least;
	}
	note("down to %zu merged pages of %zu while they came", least, NPAGES);
}

/* Nobody asks for a page before it comes. */
static void round_trip(void)
{
	struct scene s = merge();
	struct giving how = giving(&s, 0);
	struct ferry_take *t;
	uint64_t at;
	int sock = giving_begin(s.giver, &how);

	check_is(take_until_commit(&t, sock, MAP_4K, &at), 0);
	watch(&s, at);
	check_is(ferry_take_done(t, 30000), 0);
	ferry_take_close(t);
	check_is(peer_finish(s.giver), 0);
	check_given(s.giver, SHADOWED * PAGE);
	check_is(given_refused(s.giver), 0);
	check_is(merged_at_giver(&s), 0);
	is_merged_again(&s, at);
	end(&s);
}

/* What is asked for is copied, which is quicker, and the rest moves. */
static void on_demand(void)
{
	struct scene s = merge();
	struct giving how = giving(&s, 0);
	uint64_t at = hand_over(s.giver, &how, MAP_4K, 0);

	note("%llu KiB copied on demand", (unsigned long long)given_refused(s.giver) / 1024);
	check_is(given_by(s.giver, FERRY_WAY_COPY) + given_by(s.giver, FERRY_WAY_MODULE),
		 GIVEN_FILLED);
	is_merged_again(&s, at);
	end(&s);
}

/* Where copies are an error nothing is copied, and that it is merged is none. */
static void strictly(void)
{
	struct scene s = merge();
	struct giving how = giving(&s, FERRY_GIVE_STRICT);
	uint64_t at = hand_over(s.giver, &how, MAP_4K, 0);

	check_given(s.giver, SHADOWED * PAGE);
	check_is(given_refused(s.giver), 0);
	is_merged_again(&s, at);
	end(&s);
}

static bool merge_now(enum moment moment, uint64_t addr)
{
	(void)addr;
	if (moment != AFTER_COMMIT)
		return false;
	ksm_begin();
	await(30000, ksm_merged(getpid()) == NPAGES);
	ksm_end();
	return false;
}

/* At the commit nothing is merged yet. */
static void only_after_the_commit(void)
{
	uint64_t addr;
	struct peer *giver = giver_of(MAP_4K, &addr), *other = peer_start();
	uint64_t twin = peer_map(other, 0, GIVEN_FILLED, MAP_4K);
	struct giving how = {.addr = addr, .flags = FERRY_GIVE_STRICT, .at = merge_now};

	peer_fill(other, twin, GIVEN_FILLED, 0, SEED);
	check_is(peer_madvise(other, twin, GIVEN_FILLED, MADV_MERGEABLE), 0);
	check_is(peer_madvise(giver, addr, GIVEN_LEN, MADV_MERGEABLE), 0);
	hand_over(giver, &how, MAP_4K, 0);
	check_given(giver, SHADOWED * PAGE);
	check_is(given_refused(giver), 0);
	peer_end(giver);
	peer_end(other);
}

/* Until the commit nothing is unmerged: a giver that goes on has what it had. */
static void nothing_before_the_commit(void)
{
	struct scene s = merge();
	struct giving how = giving(&s, FERRY_GIVE_STRICT);
	struct ferry_take *t;
	uint64_t at;

	/* The last one is written to, and so its own again, before it is pinned. */
	peer_fill(s.giver, s.addr + GIVEN_FILLED - PAGE, PAGE, NPAGES - 1, SEED);
	peer_pin(s.giver, s.addr + GIVEN_FILLED - PAGE);
	int sock = giving_begin(s.giver, &how);
	check_is(take_until_commit(&t, sock, MAP_4K, &at), -ECANCELED);
	ferry_take_close(t);
	check_is(peer_finish(s.giver), -EBUSY);
	check_is(merged_at_giver(&s), NPAGES - 1);
	check(smaps_mergeable(peer_pid(s.giver), s.addr, GIVEN_LEN));
	end(&s);
}

/* What KSM merges is mostly zeros, which needn't take memory at the taker. */
static void zeros(void)
{
	struct peer *giver = peer_start();
	uint64_t addr = peer_map(giver, 0, GIVEN_LEN, MAP_4K), at;
	struct giving how = {.addr = addr, .range_flags = FERRY_RANGE_MERGEABLE};
	struct ferry_take *t;

	for (uint64_t off = 0; off < GIVEN_FILLED; off += PAGE)
		peer_poke(giver, addr + off, 0);
	ksm_begin();
	check_is(peer_madvise(giver, addr, GIVEN_LEN, MADV_MERGEABLE), 0);
	await(30000, ksm_merged(peer_pid(giver)) == NPAGES);
	ksm_end();
	int sock = giving_begin(giver, &how);
	check_is(ferry_take_open(&t, sock, NULL), 0);
	at = peer_map(NULL, 0, GIVEN_LEN, MAP_4K);
	check_is(ferry_take_map(t, 0, (void *)at), 0);
	check_is(ferry_take_attach(t), 0);
	check_is(ferry_take_shadow(t, NULL, NULL), 0);
	check_is(ferry_take_commit(t), 0);
	check_is(ferry_take_done(t, 30000), 0);
	ferry_take_close(t);
	check_is(peer_finish(giver), 0);
	note("%llu KiB moved", (unsigned long long)given_by(giver, FERRY_WAY_MODULE) / 1024);
	check(given_by(giver, FERRY_WAY_MODULE) <= (GIVEN_FILLED / BLOCK + 1) * PAGE);
	peer_verify_zero(NULL, at, GIVEN_LEN);
	peer_end(giver);
}

const struct test merged_tests[] = {
	TEST(round_trip), TEST(on_demand),
	TEST(strictly),   TEST(nothing_before_the_commit),
	TEST(zeros),      TEST(only_after_the_commit),
	{.name = NULL},
};
