// SPDX-License-Identifier: MIT
/*
 * Whole page tables go to and fro between two processes, in both directions at once, while these
 * fork, map and unmap, and other pages move between them alone; and one of the two ends in the
 * middle of it.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "harness.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"
#include "stress.h"

#define SUBJECT "crossing"

#define LEN     (8 * MIB)
#define SINGLE  (64 * PAGE)
#define RUN_MS  3000

/* Out of one end into the other, and back. */
struct lane {
	struct end from, to;
	unsigned long rounds;
	int answer; /* that made it stop */
};

static struct lane lanes[3];
static atomic_bool stop;

/* ---- the movers; arg: lane */

static int64_t shuttle(const uint64_t *arg)
{
	struct lane *lane = &lanes[arg[0]];
	int pf = pf_open_with(PAGEFERRY_FEATURE_TABLES);

	stay_on_cpu((unsigned int)arg[0]);
	for (; !stop; lane->rounds++) {
		struct pf_answer there = pf_move_tables(pf, 0, &lane->to, &lane->from), back;

		lane->answer = there.ret;
		if (there.ret)
			break;
		check_is(there.tables, lane->from.len);
		back = pf_move_tables(pf, 0, &lane->from, &lane->to);
		lane->answer = back.ret;
		if (back.ret)
			break;
		check_is(back.tables, lane->from.len);
	}
	close(pf);
	return 0;
}

/* Page by page; what is shared with a child just now stays where it is. */
static int64_t shuttle_pages(const uint64_t *arg)
{
	struct lane *lane = &lanes[arg[0]];
	int pf = pf_open();

	for (; !stop; lane->rounds++)
		for (uint64_t at = 0; at < SINGLE; at += PAGE) {
			uint64_t from = lane->from.addr + at, to = lane->to.addr + at;
			int ret = pf_move(pf, 0, lane->to.uffd, lane->from.uffd, to, from, PAGE,
					  NULL);

			if (!ret)
				ret = pf_move(pf, 0, lane->from.uffd, lane->to.uffd, from, to, PAGE,
					      NULL);
			check(!ret || ret == -EBUSY || ret == -ENOENT || ret == -EEXIST);
		}
	close(pf);
	return 0;
}

/* ---- both ways at once */

static void disturb(struct peer *a, struct peer *b)
{
	pid_t child = peer_fork(a);
	uint64_t at = peer_map(b, 0, BLOCK, MAP_4K);

	peer_poke(b, at, 1);
	peer_unmap(b, at, BLOCK);
	peer_end_child(a, child);
}

static void opposite(void)
{
	struct peer *a = peer_start(), *b = peer_start();
	int threads[COUNT(lanes)];
	int64_t end;

	lanes[0] = (struct lane){.from = giver_make(a, LEN, MAP_4K),
				 .to = taker_make(b, LEN, MAP_4K)};
	lanes[1] = (struct lane){.from = giver_make(b, LEN, MAP_HUGE),
				 .to = taker_make(a, LEN, MAP_HUGE)};
	lanes[2] = (struct lane){.from = giver_make(b, SINGLE, MAP_4K),
				 .to = taker_make(a, SINGLE, MAP_4K)};
	for (unsigned int i = 0; i < COUNT(lanes); i++)
		threads[i] = peer_thread(NULL, i < 2 ? shuttle : shuttle_pages, i);
	for (end = now_ms() + RUN_MS; now_ms() < end;)
		disturb(a, b);
	stop = true;
	for (unsigned int i = 0; i < COUNT(lanes); i++)
		peer_join(NULL, threads[i], 20000);
	for (unsigned int i = 0; i < 2; i++) {
		note("lane %u: %lu rounds", i, lanes[i].rounds);
		check(lanes[i].rounds > 1);
		check_is(lanes[i].answer, 0);
		giver_keeps(&lanes[i].from);
		giver_is_empty(&lanes[i].to);
	}
	note("pages: %lu rounds", lanes[2].rounds);
	peer_end(a);
	peer_end(b);
}

/* ---- one side ends */

static int64_t exec_self(const uint64_t *arg)
{
	(void)arg;
	/* Which ends at once where it isn't PID 1. */
	execl("/proc/self/exe", "init", (char *)NULL);
	return -errno;
}

/* What is there is right. */
static void verify_survivor(const struct end *e, uint64_t id_of)
{
	static bool holes[LEN / PAGE];
	unsigned int here = 0;

	find_holes(peer_pid(e->peer), e->addr, holes, LEN / PAGE);
	for (uint64_t i = 0; i < LEN / PAGE; i++)
		if (!holes[i]) {
			end_verify(e, e->addr + i * PAGE, id_of + i * PAGE, PAGE);
			here++;
		}
	/* A table is there or it isn't. */
	check_is(here % (BLOCK / PAGE), 0);
}

static void one_ends(bool giver, bool by_exec, unsigned int us)
{
	struct end from = giver_start(LEN, MAP_4K), to = taker_start(LEN, MAP_4K);
	struct end *victim = giver ? &from : &to, *survivor = giver ? &to : &from;
	int thread;

	stop = false;
	lanes[0] = (struct lane){.from = from, .to = to};
	thread = peer_thread(NULL, shuttle, 0);
	usleep(us);
	if (by_exec)
		peer_begin(victim->peer, exec_self, 0);
	else
		peer_kill(victim->peer);
	/* It finds that there is nobody any more. */
	peer_join(NULL, thread, 10000);
	check_is(lanes[0].answer, -ESRCH);
	verify_survivor(survivor, from.addr);
	if (by_exec)
		peer_kill(victim->peer);
	close(victim->uffd);
	end_stop(survivor);
}

static void endings(void)
{
	for (unsigned int i = 0; i < 24; i++)
		one_ends(i % 2, i / 2 % 2, 1000 + i * 700);
}

const struct test crossing_tests[] = {
	TEST(opposite, .seconds = 60),
	TEST(endings, .seconds = 90),
	{.name = NULL},
};
