// SPDX-License-Identifier: MIT
/*
 * The library's hand-over by whole page tables: what the taker was given before the commit goes back first,
 * then all goes at once, and the taker's program finds it when it runs. What can't go so goes as before.
 */
#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "handover.h"
#include "harness.h"
#include "hold.h"
#include "lib/uffd_abi.h"
#include "peer.h"
#include "proc.h"
#include "stress.h"

#define SUBJECT	    "whole"

#define NPAGES	    (GIVEN_FILLED / PAGE)
#define GENERATIONS 6
/* What it was given before the commit: these pages, one in each of the first blocks. */
#define ASKED	    3ul

struct scene {
	struct peer *giver;
	uint64_t addr, at; /* the giver's, and this process' */
	struct ferry_take *take;
	uint32_t range_flags;
	bool refuses; /* the taker doesn't agree */
};

static uint64_t asked_page(unsigned int i)
{
	return i * BLOCK / PAGE + 17;
}

static void ask(const struct scene *s)
{
	for (unsigned int i = 0; i < ASKED; i++)
		peer_verify(NULL, s->at + asked_page(i) * PAGE, PAGE, asked_page(i), SEED);
}

static void begin(struct scene *s)
{
	struct giving how = {
		.addr = s->addr, .flags = FERRY_GIVE_TABLES, .range_flags = s->range_flags};
	int sock = giving_begin(s->giver, &how);

	s->take = take_until_shadow(sock, s->refuses ? 0 : FERRY_TAKE_TABLES, s->at);
}

static struct scene scene_of(unsigned int how)
{
	struct scene s = {.at = peer_map(NULL, 0, GIVEN_LEN, how)};

	s.giver = giver_of(how, &s.addr);
	return s;
}

static struct scene begin_with(unsigned int how)
{
	struct scene s = scene_of(how);

	begin(&s);
	return s;
}

static void commit(struct scene *s)
{
	check_is(ferry_take_commit(s->take), 0);
}

static void finish(struct scene *s)
{
	check_is(ferry_take_done(s->take, 30000), 0);
	ferry_take_close(s->take);
	check_is(peer_finish(s->giver), 0);
	check_is(count_holes(peer_pid(s->giver), s->addr, GIVEN_LEN), GIVEN_LEN / PAGE);
	/* Each page has gone in one way. */
	uint64_t all = 0;
	for (unsigned int way = 0; way < FERRY_WAYS; way++)
		all += given_by(s->giver, way);
	check_is(all, GIVEN_LEN);
}

static void expect_ways(const struct scene *s, uint64_t tables, uint64_t moved, uint64_t copied,
			enum ferry_why why)
{
	check_is(given_by(s->giver, FERRY_WAY_TABLES), tables);
	check_is(given_by(s->giver, FERRY_WAY_MODULE), moved);
	check_is(given_by(s->giver, FERRY_WAY_COPY), copied);
	check_is(given_why(s->giver), why);
}

static void verify_all(const struct scene *s)
{
	peer_verify(NULL, s->at, GIVEN_FILLED, 0, SEED);
	peer_verify_zero(NULL, s->at + GIVEN_FILLED, GIVEN_LEN - GIVEN_FILLED);
}

/* ---- all of it */

/* It is there before the program runs, and no page is another one. */
static void all(unsigned int how)
{
	struct scene s = begin_with(how);
	uint64_t first, last;

	ask(&s);
	first = page_frame(peer_pid(s.giver), s.addr);
	last = page_frame(peer_pid(s.giver), s.addr + GIVEN_FILLED - PAGE);
	commit(&s);
	check_is(count_holes(0, s.at, GIVEN_FILLED), 0);
	check_is(page_frame(0, s.at), first);
	check_is(page_frame(0, s.at + GIVEN_FILLED - PAGE), last);
	finish(&s);
	expect_ways(&s, GIVEN_FILLED, 0, 0, FERRY_WHY_NONE);
	verify_all(&s);
	peer_end(s.giver);
	verify_all(&s);
}

static void small(void)
{
	all(MAP_4K);
}

/* The blocks that were asked for come back as single pages into what is left of a huge one. */
static void huge(void)
{
	all(MAP_HUGE);
}

static void huge_untouched(void)
{
	struct scene s = begin_with(MAP_HUGE);

	commit(&s);
	check_is(smaps_kb(0, s.at, GIVEN_LEN, "AnonHugePages"), GIVEN_FILLED / 1024);
	finish(&s);
	expect_ways(&s, GIVEN_FILLED, 0, 0, FERRY_WHY_NONE);
	verify_all(&s);
	peer_end(s.giver);
}

/* What the taker's program has made of pages before the commit is what counts. */
static void written_before(void)
{
	struct scene s = begin_with(MAP_4K);

	ask(&s);
	peer_fill(NULL, s.at + asked_page(1) * PAGE, PAGE, asked_page(1), SEED + 1);
	peer_fill(NULL, s.at + GIVEN_FILLED + 3 * PAGE, PAGE, 99, SEED + 1);
	commit(&s);
	finish(&s);
	expect_ways(&s, GIVEN_FILLED + PAGE, 0, 0, FERRY_WHY_NONE);
	peer_verify(NULL, s.at + asked_page(1) * PAGE, PAGE, asked_page(1), SEED + 1);
	peer_verify(NULL, s.at + GIVEN_FILLED + 3 * PAGE, PAGE, 99, SEED + 1);
	peer_fill(NULL, s.at + asked_page(1) * PAGE, PAGE, asked_page(1), SEED);
	check_is(peer_madvise(NULL, s.at + GIVEN_FILLED + 3 * PAGE, PAGE, MADV_DONTNEED), 0);
	verify_all(&s);
	peer_end(s.giver);
}

/* The program doesn't stand still either: it may read and write at any time. */
static atomic_bool *stop;

static int64_t hammer(const uint64_t *arg)
{
	uint64_t random = arg[1] + 1, id;
	int64_t rounds = 0;

	for (; !*stop; rounds++) {
		id = below(&random, NPAGES / 2) * 2 + arg[1];
		peer_verify(NULL, arg[0] + id * PAGE, PAGE, id, SEED);
		peer_fill(NULL, arg[0] + id * PAGE, PAGE, id, SEED);
	}
	return rounds;
}

static void busy(void)
{
	struct scene s = scene_of(MAP_4K);
	int threads[2];

	stop = shared(sizeof(*stop));
	begin(&s);
	for (unsigned int i = 0; i < 2; i++)
		threads[i] = peer_thread(NULL, hammer, s.at, i);
	nap_ms(20);
	commit(&s);
	nap_ms(20);
	finish(&s);
	*stop = true;
	for (unsigned int i = 0; i < 2; i++)
		check(peer_join(NULL, threads[i], 20000) > 0);
	note("%llu KiB by tables, %llu one by one: %s",
	     (unsigned long long)given_by(s.giver, FERRY_WAY_TABLES) / 1024,
	     (unsigned long long)given_by(s.giver, FERRY_WAY_MODULE) / 1024,
	     ferry_why_name(given_why(s.giver)));
	verify_all(&s);
	peer_end(s.giver);
}

/* Empty pages are left out, wherever they lie, and are zero. */
static void sparse(void)
{
	struct scene s = scene_of(MAP_4K);
	uint64_t empty = 0;

	for (uint64_t at = BLOCK; at < 2 * BLOCK; at += 4 * PAGE, empty += PAGE)
		check_is(peer_madvise(s.giver, s.addr + at, PAGE, MADV_DONTNEED), 0);
	check_is(peer_madvise(s.giver, s.addr + 3 * BLOCK, BLOCK, MADV_DONTNEED), 0);
	/* The zero page is a page. */
	peer_read_pages(s.giver, s.addr + 3 * BLOCK, PAGE);
	empty += BLOCK - PAGE;
	begin(&s);
	commit(&s);
	/* Zero pages come meanwhile. */
	check(count_holes(0, s.at, GIVEN_FILLED) <= empty / PAGE);
	finish(&s);
	expect_ways(&s, GIVEN_FILLED - empty, 0, 0, FERRY_WHY_NONE);
	check_is(given_by(s.giver, FERRY_WAY_ZERO), GIVEN_LEN - GIVEN_FILLED + empty);
	for (uint64_t at = BLOCK; at < 2 * BLOCK; at += 4 * PAGE) {
		peer_verify_zero(NULL, s.at + at, PAGE);
		peer_verify(NULL, s.at + at + PAGE, 3 * PAGE, at / PAGE + 1, SEED);
	}
	peer_verify(NULL, s.at, BLOCK, 0, SEED);
	peer_verify(NULL, s.at + 2 * BLOCK, BLOCK, 2 * BLOCK / PAGE, SEED);
	peer_verify_zero(NULL, s.at + 3 * BLOCK, BLOCK);
	peer_end(s.giver);
}

/* Into the mapping that it came from, and out of it again. */
static int64_t take_in(const uint64_t *arg)
{
	struct ferry_take *t = take_until_shadow((int)arg[0], FERRY_TAKE_TABLES, arg[1]);

	peer_read_pages(NULL, arg[1] + BLOCK, PAGE);
	int err = ferry_take_commit(t);
	if (!err)
		err = ferry_take_done(t, 30000);
	ferry_take_close(t);
	return err;
}

static void to_and_fro(void)
{
	struct scene s = scene_of(MAP_4K);
	struct giving how = {.addr = s.at, .flags = FERRY_GIVE_TABLES};

	for (int i = 0; i < GENERATIONS; i++) {
		begin(&s);
		ask(&s);
		commit(&s);
		finish(&s);
		expect_ways(&s, i ? GIVEN_LEN : GIVEN_FILLED, 0, 0, FERRY_WHY_NONE);
		verify_all(&s);

		int pair[2];
		check_call(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
		int sock = peer_give_fd(s.giver, pair[0]);
		close(pair[0]);
		peer_begin(s.giver, take_in, (uint64_t)sock, s.addr);
		check_is(giving_run(pair[1], &how), 0);
		check_is(peer_finish(s.giver), 0);
		check_is(given_by(NULL, FERRY_WAY_TABLES), GIVEN_LEN);
		peer_verify(s.giver, s.addr, GIVEN_FILLED, 0, SEED);
		check_is(count_holes(0, s.at, GIVEN_LEN), GIVEN_LEN / PAGE);
	}
	peer_end(s.giver);
}

/* Two ranges that are one mapping at the taker: what it has of the second one would be in the first one's way. */
static int64_t give_halves(const uint64_t *arg)
{
	const uint64_t half = GIVEN_FILLED / 2;
	struct ferry_range ranges[] = {{.addr = arg[1], .len = half, .id = 1},
				       {.addr = arg[1] + half, .len = GIVEN_LEN - half, .id = 2}};
	struct ferry_offer offer = {ranges, 2, NULL, 0};
	struct ferry_give_opts opts = FERRY_GIVE_OPTS_INIT;
	struct ferry_report report = {.size = sizeof(report)};
	struct giving what = {.addr = arg[1]};
	struct ferry_give *g;

	opts.flags = FERRY_GIVE_TABLES;
	check_is(ferry_give_open(&g, (int)arg[0], &offer, &opts), 0);
	check_is(giving_until_done(g, &what), 0);
	check_is(ferry_give_report(g, &report), 0);
	ferry_give_close(g, NULL);
	return (int64_t)report.bytes[FERRY_WAY_TABLES];
}

static void neighbours(void)
{
	struct scene s = scene_of(MAP_4K);
	struct ferry_take_opts opts = FERRY_TAKE_OPTS_INIT;
	int pair[2];

	check_call(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	peer_begin(s.giver, give_halves, (uint64_t)peer_give_fd(s.giver, pair[0]), s.addr);
	close(pair[0]);
	opts.flags = FERRY_TAKE_TABLES;
	check_is(ferry_take_open(&s.take, pair[1], &opts), 0);
	check_is(ferry_take_map(s.take, 0, (void *)s.at), 0);
	check_is(ferry_take_map(s.take, 1, (void *)(s.at + GIVEN_FILLED / 2)), 0);
	check_is(ferry_take_attach(s.take), 0);
	check_is(ferry_take_shadow(s.take, NULL, NULL), 0);
	ask(&s);
	commit(&s);
	check_is(ferry_take_done(s.take, 30000), 0);
	ferry_take_close(s.take);
	check_is(peer_finish(s.giver), GIVEN_FILLED);
	verify_all(&s);
	peer_end(s.giver);
}

/* ---- what doesn't go so */

/* Nobody has agreed to it. */
static void refused(void)
{
	struct scene s = scene_of(MAP_4K);

	s.refuses = true;
	begin(&s);
	ask(&s);
	commit(&s);
	finish(&s);
	check_is(given_by(s.giver, FERRY_WAY_TABLES), 0);
	check_is(given_why(s.giver), FERRY_WHY_TAKER);
	verify_all(&s);
	peer_end(s.giver);
}

/* It stays in its block, and is copied; its neighbours move. */
static void pinned(void)
{
	struct scene s = scene_of(MAP_4K);

	peer_pin(s.giver, s.addr + 2 * BLOCK + 5 * PAGE);
	begin(&s);
	ask(&s);
	commit(&s);
	check_is(count_holes(0, s.at, 2 * BLOCK), 0);
	check_is(count_holes(0, s.at + 3 * BLOCK, BLOCK), 0);
	finish(&s);
	expect_ways(&s, GIVEN_FILLED - BLOCK, BLOCK - PAGE, PAGE, FERRY_WHY_PINNED);
	check_is(given_refused(s.giver), PAGE);
	verify_all(&s);
	peer_unpin(s.giver);
	peer_end(s.giver);
}

/* What the taker has can't go back, so there is no way for a table. */
static void pinned_by_taker(void)
{
	struct scene s = begin_with(MAP_4K);

	ask(&s);
	pin_page(s.at + asked_page(1) * PAGE);
	commit(&s);
	finish(&s);
	/* One was back before it was found out. */
	expect_ways(&s, 0, GIVEN_FILLED - 2 * PAGE, 2 * PAGE, FERRY_WHY_OWN_PAGES);
	verify_all(&s);
	unpin_page();
	peer_end(s.giver);
}

static void discarded(void)
{
	struct scene s = begin_with(MAP_4K);

	ask(&s);
	check_is(peer_madvise(NULL, s.at + asked_page(0) * PAGE, PAGE, MADV_DONTNEED), 0);
	check_is(peer_madvise(NULL, s.at + 5 * PAGE, PAGE, MADV_DONTNEED), 0);
	commit(&s);
	check_is(ferry_take_done(s.take, 30000), 0);
	ferry_take_close(s.take);
	check_is(peer_finish(s.giver), 0);
	check_is(given_by(s.giver, FERRY_WAY_TABLES), 0);
	check_is(given_why(s.giver), FERRY_WHY_CHANGED);
	peer_verify_zero(NULL, s.at + asked_page(0) * PAGE, PAGE);
	peer_verify_zero(NULL, s.at + 5 * PAGE, PAGE);
	peer_fill(NULL, s.at + asked_page(0) * PAGE, PAGE, asked_page(0), SEED);
	peer_fill(NULL, s.at + 5 * PAGE, PAGE, 5, SEED);
	verify_all(&s);
	peer_end(s.giver);
}

static void apart(void)
{
	struct scene s = scene_of(MAP_4K);

	s.at = peer_map(NULL, 0, GIVEN_LEN + BLOCK, MAP_4K) + PAGE;
	begin(&s);
	commit(&s);
	finish(&s);
	check_is(given_by(s.giver, FERRY_WAY_TABLES), 0);
	check_is(given_why(s.giver), FERRY_WHY_ALIGNMENT);
	verify_all(&s);
	peer_end(s.giver);
}

/* The rest of them goes, and the mapping is still to be merged on either side. */
static void merged(void)
{
	struct scene s = scene_of(MAP_4K);
	const uint64_t at = 2 * BLOCK + 9 * PAGE;

	check_is(peer_madvise(s.giver, s.addr, GIVEN_LEN, MADV_MERGEABLE), 0);
	peer_merge_page(s.giver, s.addr + at, at / PAGE);
	s.range_flags = FERRY_RANGE_MERGEABLE;
	begin(&s);
	ask(&s);
	commit(&s);
	finish(&s);
	expect_ways(&s, GIVEN_FILLED - BLOCK, BLOCK, 0, FERRY_WHY_MERGED);
	check(smaps_mergeable(0, s.at, GIVEN_LEN));
	verify_all(&s);
	peer_end(s.giver);
}

const struct test whole_tests[] = {
	TEST(small),
	TEST(huge),
	TEST(huge_untouched),
	TEST(written_before),
	TEST(busy, .seconds = 60),
	TEST(sparse),
	TEST(to_and_fro, .seconds = 60),
	TEST(neighbours),
	TEST(refused),
	TEST(pinned),
	TEST(pinned_by_taker),
	TEST(discarded),
	TEST(apart),
	TEST(merged, .seconds = 60),
	{.name = NULL},
};
