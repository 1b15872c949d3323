// SPDX-License-Identifier: MIT
/*
 * What the library's hand-over takes by each way: run by bench/ways. A giver and a taker, each in a
 * memory cgroup of its own, and both in one that sees the peak of both together. Half of the memory
 * are small pages, half are huge ones. From the commit on the taker's program works on the small
 * ones.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "figure.h"
#include "giver.h"
#include "group.h"
#include "guest/pattern.h"
#include "harness.h"
#include "pageferry.h"
#include "peer.h"
#include "proc.h"
#include "tracing.h"

#define SUBJECT  "ways"

#define ROUNDS   3
#define PART     (64 * MIB)
#define REWRITES 8 /* one page in so many */

/* What is measured in a round; memory in KiB. */
#define FIGURES(X)                                                                                 \
	X(moved)                                                                                   \
	X(copied)                                                                                  \
	X(giver_flushes)                                                                           \
	X(taker_flushes)                                                                           \
	X(huge_before)                                                                             \
	X(huge)                                                                                    \
	X(faults)                                                                                  \
	X(peak)                                                                                    \
	X(extra)                                                                                   \
	X(giver_before)                                                                            \
	X(giver_after)                                                                             \
	X(taker_before)                                                                            \
	X(taker_after)                                                                             \
	X(wrong_pages)
#define ENUM(name) F_##name,
#define NAME(name) #name,
enum { FIGURES(ENUM) FIGURE_COUNT };
static const char *const figure_names[] = {FIGURES(NAME)};

/* ---- the taker's program */

static uint64_t wrong;

static void check_page(uint64_t addr, uint64_t id, uint64_t generation)
{
	wrong += !pattern_holds((const uint64_t *)addr, id, generation);
}

static uint64_t generation_of(uint64_t id)
{
	return id < PART / PAGE && id % REWRITES == 0 ? SEED + 1 : SEED;
}

/* From the far end, so that faults meet what is pushed. */
static void work(uint64_t small)
{
	for (uint64_t id = PART / PAGE; id-- > 0;) {
		uint64_t addr = small + id * PAGE;

		check_page(addr, id, SEED);
		if (generation_of(id) != SEED)
			pattern_write((uint64_t *)addr, id, SEED + 1);
	}
}

enum { ARG_SOCK, ARG_SMALL, ARG_HUGE };

static int64_t take(const uint64_t *arg)
{
	struct ferry_take *t;
	int err = ferry_take_open(&t, (int)arg[ARG_SOCK], NULL);

	if (!err)
		err = ferry_take_map(t, 0, (void *)arg[ARG_SMALL]);
	if (!err)
		err = ferry_take_map(t, 1, (void *)arg[ARG_HUGE]);
	if (!err)
		err = ferry_take_attach(t);
	if (!err)
		err = ferry_take_shadow(t, NULL, NULL);
	if (!err)
		err = ferry_take_commit(t);
	if (!err)
		work(arg[ARG_SMALL]);
	if (!err)
		err = ferry_take_done(t, -1);
	ferry_take_close(t);
	return err;
}

/* After all; returns how many pages were wrong, at any time. */
static int64_t count_wrong(const uint64_t *arg)
{
	for (uint64_t id = 0; id < 2 * PART / PAGE; id++) {
		uint64_t part = id < PART / PAGE ? arg[ARG_SMALL] : arg[ARG_HUGE];

		check_page(part + id % (PART / PAGE) * PAGE, id, generation_of(id));
	}
	return (int64_t)wrong;
}

/* ---- both sides, as the kernel sees them */

struct side {
	char group[32];
	struct peer *peer;
	uint64_t small, huge;
};

static struct side side_start(const char *both, const char *name)
{
	struct side s;

	snprintf(s.group, sizeof(s.group), "%s/%s", both, name);
	group_make(s.group);
	s.peer = group_peer(s.group);
	s.small = peer_map(s.peer, 0, PART, MAP_4K);
	s.huge = peer_map(s.peer, 0, PART, MAP_HUGE);
	return s;
}

static void side_end(struct side *s)
{
	peer_end(s->peer);
	group_end(s->group);
}

static uint64_t charge(const struct side *s)
{
	return group_kb(s->group, "memory.current");
}

static uint64_t huge_pages(const struct side *s)
{
	return smaps_kb(peer_pid(s->peer), s->huge, PART, "AnonHugePages") * 1024 / BLOCK;
}

/*
 * Every flush of a process' memory, also the module's, is a call of this function. An IPI for each
 * CPU on which the process runs as well is not counted: here it has one thread that runs.
 */
#define FLUSH "flush_tlb_mm_range"

static void flushes_begin(const struct side *giver, const struct side *taker)
{
	char pids[32];

	tracing_open();
	snprintf(pids, sizeof(pids), "%d %d", (int)peer_pid(giver->peer),
		 (int)peer_pid(taker->peer));
	tracing_write("options/event-fork", "1");
	tracing_write("set_event_pid", pids);
	tracing_write("kprobe_events", "p:ferry/flush " FLUSH);
	tracing_write("trace", "");
	tracing_write("events/ferry/flush/enable", "1");
}

static void flushes_end(const struct side *giver, uint64_t *out)
{
	char by_giver[16];

	tracing_write("events/ferry/flush/enable", "0");
	snprintf(by_giver, sizeof(by_giver), "-%d ", (int)peer_pid(giver->peer));
	out[F_giver_flushes] = tracing_count(by_giver);
	out[F_taker_flushes] = tracing_count(FLUSH) - out[F_giver_flushes];
	tracing_write("kprobe_events", "");
}

/* ---- a round */

struct row {
	const char *name;
	uint32_t ways;
};

/* Returns whether all went well. */
static bool hand_over(const struct side *giver, const struct side *taker, uint32_t ways)
{
	int pair[2];

	check_call(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	int from = peer_give_fd(giver->peer, pair[0]), to = peer_give_fd(taker->peer, pair[1]);
	close(pair[0]);
	close(pair[1]);
	peer_begin(giver->peer, giver_run, (uint64_t)from, ways, giver->small, PART, giver->huge,
		   PART);
	peer_begin(taker->peer, take, (uint64_t)to, taker->small, taker->huge);
	int64_t given = peer_finish(giver->peer), taken = peer_finish(taker->peer);
	if (given || taken)
		note("giver: %" PRId64 ", taker: %" PRId64, given, taken);
	return !given && !taken;
}

static uint64_t went_kb(const struct side *giver, enum ferry_way way)
{
	return (uint64_t)peer_do(giver->peer, giver_bytes, way) / 1024;
}

static bool one_round(const struct row *r, uint64_t *out)
{
	group_make(r->name);
	group_set(r->name, "cgroup.subtree_control", "+memory");
	struct side giver = side_start(r->name, "giver"), taker = side_start(r->name, "taker");
	peer_fill(giver.peer, giver.small, PART, 0, SEED);
	peer_fill(giver.peer, giver.huge, PART, PART / PAGE, SEED);
	out[F_huge_before] = huge_pages(&giver);
	if (out[F_huge_before] < PART / BLOCK)
		test_skip("not enough huge pages");
	out[F_giver_before] = charge(&giver);
	out[F_taker_before] = charge(&taker);
	uint64_t before = group_kb(r->name, "memory.current");
	flushes_begin(&giver, &taker);
	bool good = hand_over(&giver, &taker, r->ways);
	flushes_end(&giver, out);
	out[F_peak] = group_kb(r->name, "memory.peak");
	out[F_extra] = out[F_peak] - before;
	out[F_giver_after] = charge(&giver);
	out[F_taker_after] = charge(&taker);
	out[F_moved] = went_kb(&giver, FERRY_WAY_MODULE);
	out[F_copied] = went_kb(&giver, FERRY_WAY_COPY) + went_kb(&giver, FERRY_WAY_STAGE);
	out[F_faults] = (uint64_t)peer_do(giver.peer, giver_faults, 0);
	out[F_huge] = huge_pages(&taker);
	if (good)
		out[F_wrong_pages] = (uint64_t)peer_do(taker.peer, count_wrong, 0, taker.small,
						       taker.huge);
	side_end(&giver);
	side_end(&taker);
	group_end(r->name);
	return good;
}

static void by_way(void)
{
	const struct row *r = test_row;
	uint64_t values[FIGURE_COUNT][ROUNDS] = {0}, out[FIGURE_COUNT], wrong_pages = 0;
	char name[64];

	/* To count flushes the kernel's code is changed; under emulation another CPU can run into
	 * that. */
	if (sysconf(_SC_NPROCESSORS_ONLN) > 1)
		test_skip("needs a guest with one CPU: see bench/ways");
	for (unsigned int round = 0; round < ROUNDS; round++) {
		check(one_round(r, out));
		wrong_pages += out[F_wrong_pages];
		for (unsigned int i = 0; i < FIGURE_COUNT; i++)
			values[i][round] = out[i];
	}
	for (unsigned int i = 0; i < FIGURE_COUNT; i++) {
		snprintf(name, sizeof(name), "%s_%s", r->name, figure_names[i]);
		figure(name, values[i], ROUNDS, 1);
	}
	check_is(wrong_pages, 0);
}

#define WAY(way, ...)                                                                              \
	{                                                                                          \
		.name = SUBJECT "/" way, .run = by_way,                                            \
		.row = &(const struct row){way, __VA_ARGS__}, .seconds = 120, .by_name = true      \
	}

const struct test ways_tests[] = {
	WAY("module", FERRY_WAY_BIT(FERRY_WAY_MODULE)),
	WAY("copy", FERRY_WAY_BIT(FERRY_WAY_COPY)),
	WAY("stage", FERRY_WAY_BIT(FERRY_WAY_COPY) | FERRY_WAY_BIT(FERRY_WAY_STAGE)),
	{.name = NULL},
};
