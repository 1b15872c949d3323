// SPDX-License-Identifier: MIT
/*
 * Who owns the memory when one side is late? Each is stopped in every phase until the other's
 * deadline has passed, and then goes on. Exactly one of them may believe that the memory is its
 * own.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "tests/lib/handover.h"

#define SHORT_MS 100

static struct plan small_plan(void)
{
	return (struct plan){.parts = {{.npages = 300, .skip = 3 * PAGE, .kinds = KINDS_ANY}},
			     .nparts = 1,
			     .idle = true,
			     .waiters = 2};
}

static void assert_one_owner(const struct outcome *out)
{
	bool giver = out->give_intact, taker = out->take_call == CALL_CLOSE && out->take_ret == 0;

	if (giver == taker)
		fail_msg("giver: call %d, %d; taker: call %d, %d", out->give_call, out->give_ret,
			 out->take_call, out->take_ret);
	/* What was not taken over has failed, and the other way round. */
	if (giver)
		assert_true(out->give_ret < 0 && out->take_ret < 0);
	else
		assert_true(out->take_checked);
}

struct row {
	const char *park;
	int give_ret, take_ret; /* 1: any error */
};

static void assert_ret(int got, int want)
{
	if (want > 0)
		assert_true(got < 0);
	else
		assert_int_equal(got, want);
}

/*
 * A deadline that is short enough for a test may pass too early on a busy machine, before the place
 * is reached where the other side is to be stopped: then once more, with a longer one.
 */
#define LONGEST_MS (64 * SHORT_MS)

static void start_over(struct plan *plan, const struct handover *h)
{
	wait_exit(h->giver);
	wait_exit(h->taker);
	handover_fini(plan);
}

/* ---- the taker is stopped until the giver has given up, or has not */

static const struct row taker_rows[] = {
	{"take.offer", -ETIMEDOUT, 1},
	{"take.attach", -ETIMEDOUT, 1},
	{"take.shadow", -ETIMEDOUT, 1},
	{"take.ready", -ETIMEDOUT, 1},
	/* COMMIT has been read, the answer was not sent. */
	{"take.commit", -ETIMEDOUT, 1},
	/* The answer was sent. */
	{"take.committed", 0, 0},
};

static bool try_taker_late(const struct row *row, uint32_t timeout_ms)
{
	struct plan plan = small_plan();

	plan.take_park = row->park;
	plan.give_timeout = timeout_ms;
	handover_prepare(&plan);
	struct handover h = handover_start(&plan);
	if (!stops(h.taker)) {
		start_over(&plan, &h);
		return false;
	}
	if (row->give_ret)
		assert_int_equal(wait_exit(h.giver), 0);
	else
		while (plan.out->give_call != CALL_DONE)
			sched_yield();
	kill(h.taker, SIGCONT);
	assert_int_equal(wait_exit(h.taker), 0);
	if (!row->give_ret)
		assert_int_equal(wait_exit(h.giver), 0);
	assert_ret(plan.out->give_ret, row->give_ret);
	assert_ret(plan.out->take_ret, row->take_ret);
	assert_one_owner(plan.out);
	handover_fini(&plan);
	return true;
}

static void taker_late(void **state)
{
	for (uint32_t ms = SHORT_MS; !try_taker_late(*state, ms); ms *= 4)
		assert_true(ms < LONGEST_MS);
}

/*
 * The cut itself: the giver has decided and keeps its socket open; only what it has shut of it can
 * tell the taker.
 */
static bool try_cut(uint32_t timeout_ms)
{
	struct plan plan = small_plan();

	plan.take_park = "take.commit";
	plan.give_park = "give.cut";
	plan.give_timeout = timeout_ms;
	handover_prepare(&plan);
	struct handover h = handover_start(&plan);
	if (!stops(h.giver)) {
		kill(h.taker, SIGCONT);
		start_over(&plan, &h);
		return false;
	}
	wait_stopped(h.taker);
	kill(h.taker, SIGCONT);
	assert_int_equal(wait_exit(h.taker), 0);
	assert_int_equal(plan.out->take_ret, -EPIPE);
	assert_int_equal(plan.out->take_call, CALL_COMMIT);
	kill(h.giver, SIGCONT);
	assert_int_equal(wait_exit(h.giver), 0);
	assert_int_equal(plan.out->give_ret, -ETIMEDOUT);
	assert_one_owner(plan.out);
	handover_fini(&plan);
	return true;
}

static void test_cut(void **state)
{
	(void)state;
	for (uint32_t ms = SHORT_MS; !try_cut(ms); ms *= 4)
		assert_true(ms < LONGEST_MS);
}

/* ---- the giver is stopped until the taker has given up, or has not */

static const struct row giver_rows[] = {
	{"give.offer", 1, -ETIMEDOUT},
	{"give.attached", 1, -ETIMEDOUT},
	{"give.shadow", 1, -ETIMEDOUT},
	{"give.ready", 1, -ETIMEDOUT},
	/* COMMIT was sent. */
	{"give.commit", 0, 0},
	{"give.committed", 0, 0},
	{"give.done", 0, 0},
};

static bool try_giver_late(const struct row *row, uint32_t timeout_ms)
{
	struct plan plan = small_plan();

	plan.give_park = row->park;
	plan.take_timeout = timeout_ms;
	handover_prepare(&plan);
	struct handover h = handover_start(&plan);
	if (!stops(h.giver)) {
		start_over(&plan, &h);
		return false;
	}
	if (row->take_ret)
		assert_int_equal(wait_exit(h.taker), 0);
	else
		while (plan.out->take_call < CALL_DONE)
			sched_yield();
	kill(h.giver, SIGCONT);
	if (!row->take_ret)
		assert_int_equal(wait_exit(h.taker), 0);
	assert_int_equal(wait_exit(h.giver), 0);
	assert_ret(plan.out->give_ret, row->give_ret);
	assert_ret(plan.out->take_ret, row->take_ret);
	assert_one_owner(plan.out);
	handover_fini(&plan);
	return true;
}

static void giver_late(void **state)
{
	for (uint32_t ms = SHORT_MS; !try_giver_late(*state, ms); ms *= 4)
		assert_true(ms < LONGEST_MS);
}

/* ---- nobody is late: the taker doesn't want it, and says why */

static void test_refused(void **state)
{
	struct plan plan = small_plan();

	(void)state;
	plan.refuse = "this is not the kernel I was built for";
	handover_prepare(&plan);
	struct handover h = handover_start(&plan);
	handover_wait(&h);
	assert_int_equal(plan.out->give_ret, -ECANCELED);
	assert_string_equal(plan.out->give_reason, plan.refuse);
	assert_one_owner(plan.out);
	handover_fini(&plan);
}

/* ---- deadlines that pass just then, on either side, again and again */

static void test_close_calls(void **state)
{
	int64_t until = now_ms() + 4000;
	uint64_t seed = (uint64_t)now_ms() | 1;
	unsigned int taken = 0, kept = 0;

	(void)state;
	print_message("# seed %llu\n", (unsigned long long)seed);
	while (now_ms() < until) {
		struct plan plan = small_plan();
		plan.parts[0].npages = 20;
		plan.waiters = 1;
		plan.give_timeout = 1 + next_random(&seed) % 4;
		plan.take_timeout = 1 + next_random(&seed) % 4;
		handover_prepare(&plan);
		struct handover h = handover_start(&plan);
		assert_int_equal(wait_exit(h.giver), 0);
		assert_int_equal(wait_exit(h.taker), 0);
		/*
		 * After the commit a message that doesn't follow in time ends it: the giver has let
		 * go then, and the taker knows what it has lost.
		 */
		if (plan.out->give_call == CALL_DONE || plan.out->take_ret == -EOWNERDEAD)
			assert_false(plan.out->give_intact);
		else
			assert_one_owner(plan.out);
		if (plan.out->take_ret == 0)
			taken++;
		else
			kept++;
		handover_fini(&plan);
	}
	print_message("# taken over %u times, kept %u times\n", taken, kept);
}

static char names[COUNT(giver_rows) + COUNT(taker_rows)][64];

int main(void)
{
	struct CMUnitTest tests[COUNT(names) + 3];
	size_t n = 0;

	for (size_t i = 0; i < COUNT(names); i++) {
		bool giver = i < COUNT(giver_rows);
		const struct row *row = giver ? &giver_rows[i] : &taker_rows[i - COUNT(giver_rows)];
		snprintf(names[n], sizeof(names[n]), "%s late at %s", giver ? "giver" : "taker",
			 row->park);
		tests[n] = (struct CMUnitTest){names[n], giver ? giver_late : taker_late,
					       test_begin, test_end, (void *)(uintptr_t)row};
		n++;
	}
	tests[n++] = (struct CMUnitTest)TEST(test_cut);
	tests[n++] = (struct CMUnitTest)TEST(test_refused);
	tests[n++] = (struct CMUnitTest)TEST(test_close_calls);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("cut", tests, NULL, NULL);
}
