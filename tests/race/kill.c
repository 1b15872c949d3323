// SPDX-License-Identifier: MIT
/*
 * Either side is killed in every phase. Before the commit the giver has everything and says so;
 * after it the taker has what arrived, SIGBUS for what is lost, and hears of it at once. Nobody
 * hangs.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "tests/lib/handover.h"

#define PROMPT_MS 8000 /* far below the phases' own deadline, far above a busy machine */

struct row {
	const char *park;
	enum call giver_from, giver_to; /* where the giver is when its taker dies */
	int want;                       /* what the survivor gets; 0: it ends well */
	bool huge;                      /* the place is only passed when huge pages travel */
	enum call wait_for;             /* kill only when the other side is in this call */
};

static struct plan plan_of(const struct row *row)
{
	struct plan plan = {.parts = {{.npages = 600, .skip = 11 * PAGE, .kinds = KINDS_ANY}},
			    .nparts = 1,
			    .idle = true,
			    .waiters = 4,
			    .nfds = 2};

	if (row->huge)
		plan.parts[plan.nparts++] = (struct part){.npages = 4 * BLOCK / PAGE, .huge = true};
	return plan;
}

static size_t pages_of(const struct plan *plan)
{
	size_t n = 0;

	for (unsigned int i = 0; i < plan->nparts; i++)
		n += plan->parts[i].npages;
	return n;
}

static void wait_for_call(const atomic_int *call, enum call wanted)
{
	while (*call < (int)wanted)
		sched_yield();
}

/* ---- the giver is killed */

static const struct row giver_rows[] = {
	{"give.offer", 0, 0, -EPIPE, false, CALL_SHADOW},
	{"give.attached", 0, 0, -EPIPE, false, CALL_SHADOW},
	{"give.shadow", 0, 0, -EPIPE, false, CALL_COMMIT},
	{"give.ready", 0, 0, -EPIPE, false, CALL_COMMIT},
	/* COMMIT is sent and nobody hears the answer any more: the taker owns it, and it is lost.
	 */
	{"give.commit", 0, 0, -EOWNERDEAD, false, CALL_DONE},
	{"give.committed", 0, 0, -EOWNERDEAD, false, CALL_DONE},
	{"give.cut", 0, 0, -EOWNERDEAD, false, CALL_DONE},
	{"give.place", 0, 0, -EOWNERDEAD, true, CALL_DONE},
	/* Everything is there, and nobody has said so. */
	{"give.all", 0, 0, 0, false, CALL_DONE},
	{"give.done", 0, 0, 0, false, CALL_DONE},
};

static void assert_lost(const struct plan *plan, const struct row *row)
{
	const struct outcome *out = plan->out;

	assert_int_equal(out->lost_calls, 1);
	assert_int_equal(out->lost_error, row->want);
	assert_int_equal(out->lost_left, out->take_poisoned * PAGE);
	assert_int_equal(out->take_right + out->take_poisoned, pages_of(plan));
	assert_true(out->take_poisoned > 0);
	assert_int_equal(out->waiting, plan->waiters);
	/* Until the shadow nothing was served at all. */
	if (row->wait_for == CALL_SHADOW) {
		assert_int_equal(out->take_right, 0);
		assert_int_equal(out->woken_by_bus, plan->waiters);
	}
}

static void giver_killed(void **state)
{
	const struct row *row = *state;
	struct plan plan = plan_of(row);

	plan.give_park = row->park;
	handover_prepare(&plan);
	if (row->huge) {
		char *mem = map_memory(BLOCK, 0);
		if (!make_huge(mem, BLOCK))
			SKIP("no huge pages are given here");
		unmap(mem, BLOCK);
	}
	struct handover h = handover_start(&plan);
	wait_stopped(h.giver);
	wait_for_call(&plan.out->take_call, row->wait_for);
	int64_t start = now_ms();
	kill_and_reap(h.giver);
	assert_int_equal(wait_exit(h.taker), 0);
	assert_true(now_ms() - start < PROMPT_MS);
	assert_int_equal(plan.out->take_ret, row->want);
	if (row->want) {
		assert_int_equal(plan.out->take_call, row->wait_for);
		assert_lost(&plan, row);
	} else {
		assert_true(plan.out->take_checked);
		assert_int_equal(plan.out->lost_calls, 0);
	}
	handover_fini(&plan);
}

/* ---- the taker is killed */

static const struct row taker_rows[] = {
	{"take.offer", CALL_ATTACH, CALL_ATTACH, -EPIPE, false, CALL_ATTACH},
	{"take.attach", CALL_READY, CALL_READY, -EPIPE, false, CALL_READY},
	{"take.shadow", CALL_READY, CALL_READY, -EPIPE, false, CALL_READY},
	{"take.ready", CALL_COMMIT, CALL_COMMIT, -EPIPE, false, CALL_COMMIT},
	{"take.commit", CALL_COMMIT, CALL_COMMIT, -EPIPE, false, CALL_COMMIT},
	{"take.committed", CALL_DONE, CALL_DONE, -EPIPE, false, CALL_DONE},
	{"take.place", CALL_DONE, CALL_DONE, -EPIPE, true, CALL_DONE},
};

static void taker_killed(void **state)
{
	const struct row *row = *state;
	struct plan plan = plan_of(row);

	plan.take_park = row->park;
	handover_prepare(&plan);
	if (row->huge) {
		char *mem = map_memory(BLOCK, 0);
		if (!make_huge(mem, BLOCK))
			SKIP("no huge pages are given here");
		unmap(mem, BLOCK);
	}
	struct handover h = handover_start(&plan);
	wait_stopped(h.taker);
	wait_for_call(&plan.out->give_call, row->wait_for);
	int64_t start = now_ms();
	kill_and_reap(h.taker);
	assert_int_equal(wait_exit(h.giver), 0);
	assert_true(now_ms() - start < PROMPT_MS);
	assert_int_equal(plan.out->give_ret, row->want);
	assert_in_range(plan.out->give_call, row->giver_from, row->giver_to);
	/* Until the commit the giver has everything; giver_run has looked at each page. */
	assert_int_equal(plan.out->give_intact, plan.out->give_call <= CALL_COMMIT);
	handover_fini(&plan);
}

/* ---- at any moment */

/* Whoever is left must be whole, or know that it isn't, and must end by itself. */
static void one_random_kill(uint64_t *seed)
{
	static const struct row plain;
	struct plan plan = plan_of(&plain);
	unsigned int spins = (unsigned int)(next_random(seed) % 3000);
	bool kill_giver = next_random(seed) % 2;

	handover_prepare(&plan);
	struct handover h = handover_start(&plan);
	for (unsigned int i = 0; i < spins; i++)
		sched_yield();
	kill_and_reap(kill_giver ? h.giver : h.taker);
	assert_int_equal(wait_exit(kill_giver ? h.taker : h.giver), 0);
	const struct outcome *out = plan.out;
	if (kill_giver) {
		assert_true(out->take_ret <= 0);
		assert_int_equal(out->take_checked, out->take_ret == 0);
	} else {
		assert_true(out->give_ret <= 0);
		if (out->give_ret)
			assert_int_equal(out->give_intact, out->give_call <= CALL_COMMIT);
	}
	handover_fini(&plan);
}

static void test_any_moment(void **state)
{
	uint64_t seed = (uint64_t)now_ms() | 1;
	int64_t until = now_ms() + 4000;

	(void)state;
	print_message("# seed %llu\n", (unsigned long long)seed);
	while (now_ms() < until)
		one_random_kill(&seed);
}

static char names[COUNT(giver_rows) + COUNT(taker_rows)][64];

int main(void)
{
	struct CMUnitTest tests[COUNT(names) + 1];
	size_t n = 0;

	for (size_t i = 0; i < COUNT(giver_rows) + COUNT(taker_rows); i++) {
		bool giver = i < COUNT(giver_rows);
		const struct row *row = giver ? &giver_rows[i] : &taker_rows[i - COUNT(giver_rows)];
		snprintf(names[n], sizeof(names[n]), "%s killed at %s", giver ? "giver" : "taker",
			 row->park);
		tests[n] = (struct CMUnitTest){names[n], giver ? giver_killed : taker_killed,
					       test_begin, test_end, (void *)(uintptr_t)row};
		n++;
	}
	tests[n++] = (struct CMUnitTest)TEST(test_any_moment);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("kill", tests, NULL, NULL);
}
