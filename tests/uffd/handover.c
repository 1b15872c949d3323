// SPDX-License-Identifier: MIT
/*
 * Hand-overs between two processes that go well: every kind of memory and every way, each page
 * checked at the taker while the rest is on its way.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "tests/lib/handover.h"

static void run(struct plan *plan)
{
	handover_prepare(plan);
	struct handover h = handover_start(plan);
	handover_wait(&h);
	const struct outcome *out = plan->out;
	assert_int_equal(out->give_ret, 0);
	assert_int_equal(out->take_ret, 0);
	assert_true(plan->own_check || out->take_checked);
	assert_int_equal(out->lost_calls, 0);
	assert_int_equal(out->report.phase, FERRY_PHASE_DONE);
	assert_int_equal(out->report.left, 0);
	assert_adds_up(&out->report);
	assert_int_equal(out->woken_by_bus, 0);
}

static uint64_t way(const struct plan *plan, enum ferry_way w)
{
	return plan->out->report.bytes[w];
}

static const struct part small = {.npages = 700, .skip = 37 * PAGE, .kinds = KINDS_ANY};

static void test_small(void **state)
{
	struct plan plan = {.parts = {small}, .nparts = 1};

	(void)state;
	run(&plan);
	assert_true(way(&plan, FERRY_WAY_COPY) > 0);
	assert_true(way(&plan, FERRY_WAY_ZERO) > 0);
	assert_int_equal(way(&plan, FERRY_WAY_CONTINUE), 0);
	assert_int_equal(way(&plan, FERRY_WAY_MOVE), 0);
	assert_int_equal(plan.out->report.removed, 0);
	handover_fini(&plan);
}

static void test_one_page(void **state)
{
	(void)state;
	for (unsigned int kind = KIND_DATA; kind <= KIND_SWAPPED; kind++) {
		struct plan plan = {.parts = {{.npages = 1, .skip = PAGE, .kinds = KIND_BIT(kind)}},
				    .nparts = 1};
		run(&plan);
		handover_fini(&plan);
	}
}

/* Several ranges with different borders, waiting threads, a blob and descriptors. */
static void test_everything(void **state)
{
	struct plan plan = {
		.parts = {small,
			  {.npages = 1,
			   .skip = 0,
			   .kinds = KIND_BIT(KIND_DATA),
			   .flags = FERRY_RANGE_DONTFORK},
			  {.npages = 4 * BLOCK / PAGE,
			   .huge = true,
			   .flags = FERRY_RANGE_MERGEABLE},
			  {.npages = 300,
			   .skip = 500 * PAGE,
			   .kinds = KINDS_SHARED,
			   .flags = FERRY_RANGE_SHARED,
			   .fd_offset = 5 * PAGE},
			  {.npages = 513,
			   .skip = BLOCK - PAGE,
			   .kinds = KIND_BIT(KIND_ZEROS) | KIND_BIT(KIND_DATA)},
			  {.npages = 600, .skip = 0, .kinds = KIND_BIT(KIND_HOLE)}},
		.nparts = 6,
		.nfds = 500,
		.blob_len = FERRY_BLOB_MAX,
		.waiters = 5,
	};

	(void)state;
	plan.parts[5].kinds |= KIND_BIT(KIND_DATA);
	run(&plan);
	assert_true(way(&plan, FERRY_WAY_CONTINUE) > 0);
	assert_int_equal(plan.out->waiting, 5);
	assert_true(plan.out->report.faults >= 5);
	assert_true(plan.out->report.fault_p50_ns > 0);
	assert_true(plan.out->report.fault_p99_ns >= plan.out->report.fault_p50_ns);
	assert_true(plan.out->report.fault_max_ns >= plan.out->report.fault_p99_ns);
	assert_true(plan.out->report.shadow_ns > 0 && plan.out->report.drain_ns > 0);
	handover_fini(&plan);
}

static void test_descriptors(void **state)
{
	static const unsigned int numbers[] = {0, 1, 127, 128, 129, 256};

	(void)state;
	for (unsigned int i = 0; i < COUNT(numbers); i++) {
		struct plan plan = {.parts = {{.npages = 2, .kinds = KIND_BIT(KIND_DATA)}},
				    .nparts = 1,
				    .nfds = numbers[i],
				    .blob_len = numbers[i]};
		run(&plan);
		handover_fini(&plan);
	}
}

/* Nothing is touched at the taker: everything is pushed. */
static void test_pushed_alone(void **state)
{
	struct plan plan = {
		.parts = {small, {.npages = 2000, .skip = 9 * PAGE, .kinds = KINDS_ANY}},
		.nparts = 2,
		.idle = true};

	(void)state;
	run(&plan);
	assert_int_equal(plan.out->report.faults, 0);
	handover_fini(&plan);
}

/* ---- shared memory */

static void test_shared(void **state)
{
	struct plan plan = {.parts = {{.npages = 1500,
				       .skip = 3 * PAGE,
				       .kinds = KINDS_SHARED,
				       .flags = FERRY_RANGE_SHARED},
				      {.npages = 100,
				       .kinds = KINDS_SHARED,
				       .fd_offset = 2 * PAGE,
				       .flags = FERRY_RANGE_SHARED | FERRY_RANGE_DONTFORK}},
			    .nparts = 2,
			    .waiters = 4};

	(void)state;
	run(&plan);
	/* Nothing of it was copied. */
	assert_int_equal(way(&plan, FERRY_WAY_COPY), 0);
	assert_int_equal(way(&plan, FERRY_WAY_STAGE), 0);
	assert_true(way(&plan, FERRY_WAY_CONTINUE) > 0);
	handover_fini(&plan);
}

/*
 * Blocks that are all hole, all there, and both mixed; pages that only the file has. What is in the
 * file is there for the taker whether it was mapped for it or not, and nothing of it is taken for
 * discarded.
 */
static void test_sparse(void **state)
{
	uint32_t punched = KIND_BIT(KIND_PUNCHED);

	(void)state;
	for (int idle = 0; idle < 2; idle++) {
		struct plan plan = {.parts = {{.npages = 4 * BLOCK / PAGE + 77,
					       .kinds = KINDS_SHARED,
					       .sparse = true},
					      {.npages = 2 * BLOCK / PAGE,
					       .skip = 5 * PAGE,
					       .kinds = KIND_BIT(KIND_HOLE)},
					      {.npages = 700,
					       .skip = BLOCK - PAGE,
					       .kinds = KIND_BIT(KIND_FILE) | punched,
					       .fd_offset = 3 * PAGE},
					      {.npages = 600, .kinds = KIND_BIT(KIND_DATA) | punched},
					      {.npages = 600, .kinds = KIND_BIT(KIND_DATA)}},
				    .nparts = 5,
				    .idle = idle,
				    .waiters = 1};
		for (unsigned int i = 0; i < plan.nparts; i++)
			plan.parts[i].flags = FERRY_RANGE_SHARED;
		run(&plan);
		assert_int_equal(plan.out->report.removed, 0);
		assert_int_equal(way(&plan, FERRY_WAY_CONTINUE), plan.out->report.total);
		handover_fini(&plan);
	}
}

/* ---- huge pages */

static const struct part huge = {.npages = 6 * BLOCK / PAGE, .huge = true};

static void huge_arrived(struct taker *t)
{
	t->plan->out->step =
		(unsigned int)(smaps_bytes(t->mem[0], 6 * BLOCK, "AnonHugePages") / BLOCK);
}

static void need_huge(void)
{
	char *mem = map_memory(BLOCK, 0);
	bool given = make_huge(mem, BLOCK);

	unmap(mem, BLOCK);
	if (!given)
		SKIP("no huge pages are given here");
}

/* Without faults in between every huge page arrives as one; zeros don't travel. */
static void test_huge_staged(void **state)
{
	(void)state;
	need_huge();
	for (int ways = 0; ways < 2; ways++) {
		struct plan plan = {.parts = {huge},
				    .nparts = 1,
				    .ways = ways ? FERRY_WAY_BIT(FERRY_WAY_STAGE) : FERRY_WAY_AUTO,
				    .idle = true,
				    .after_done = huge_arrived};
		run(&plan);
		assert_int_equal(plan.out->report.stage_used, 1);
		assert_int_equal(way(&plan, FERRY_WAY_STAGE), 4 * BLOCK);
		assert_int_equal(way(&plan, FERRY_WAY_ZERO), 2 * BLOCK);
		assert_int_equal(plan.out->step, 4);
		handover_fini(&plan);
	}
}

/* With faults in between the huge pages that were not asked for still do. */
static void test_huge_touched(void **state)
{
	struct plan plan = {.parts = {huge}, .nparts = 1, .waiters = 3};

	(void)state;
	need_huge();
	run(&plan);
	handover_fini(&plan);
}

/* COPY only, by order; and by necessity, when the places don't fit. */
static void test_huge_copied(void **state)
{
	(void)state;
	need_huge();
	for (int unaligned = 0; unaligned < 2; unaligned++) {
		struct plan plan = {.parts = {huge},
				    .nparts = 1,
				    .ways = unaligned ? FERRY_WAY_AUTO
						      : FERRY_WAY_BIT(FERRY_WAY_COPY),
				    .taker_skip = unaligned ? PAGE : 0};
		run(&plan);
		assert_int_equal(plan.out->report.stage_used, 0);
		assert_int_equal(way(&plan, FERRY_WAY_STAGE), 0);
		assert_int_equal(way(&plan, FERRY_WAY_COPY), 4 * BLOCK);
		handover_fini(&plan);
	}
}

/* STAGE only: full blocks of small pages go that way, too. */
static void test_small_staged(void **state)
{
	struct plan plan = {
		.parts = {{.npages = 3 * BLOCK / PAGE, .skip = PAGE, .kinds = KIND_BIT(KIND_DATA)}},
		.nparts = 1,
		.ways = FERRY_WAY_BIT(FERRY_WAY_STAGE),
		.idle = true};

	(void)state;
	run(&plan);
	assert_int_equal(way(&plan, FERRY_WAY_STAGE), 2 * BLOCK);
	assert_int_equal(way(&plan, FERRY_WAY_COPY), BLOCK);
	handover_fini(&plan);
}

/* ---- the shadow */

/* What the taker writes before the commit is its own; the giver must not see it, nor send it again.
 */
static void write_in_shadow(struct taker *t)
{
	for (size_t i = 0; i < t->plan->parts[0].npages; i += 3)
		fill_page(t->mem[0] + i * PAGE, 1000000 + i);
}

static void write_later(struct taker *t)
{
	for (size_t i = 1; i < t->plan->parts[0].npages; i += 3)
		fill_page(t->mem[0] + i * PAGE, 2000000 + i);
}

static void find_written(struct taker *t)
{
	for (size_t i = 0; i < t->plan->parts[0].npages; i++) {
		const char *page = t->mem[0] + i * PAGE;
		switch (i % 3) {
		case 0:
			check(page_has(page, 1000000 + i));
			break;
		case 1:
			check(page_has(page, 2000000 + i));
			break;
		default:
			check(page_right(t->plan, 0, i, page));
		}
	}
}

static void test_written(void **state)
{
	struct plan plan = {.parts = {{.npages = 1200, .skip = 77 * PAGE, .kinds = KINDS_ANY}},
			    .nparts = 1,
			    .idle = true,
			    .in_shadow = write_in_shadow,
			    .after_commit = write_later,
			    .after_done = find_written,
			    .own_check = true};

	(void)state;
	run(&plan);
	handover_fini(&plan);
}

/* ---- a program that is replaced by itself: two programs started by exec */

#define ROLE "PAGEFERRY_TEST_ROLE"

static struct plan exec_plan(void)
{
	return (struct plan){.parts = {small, {.npages = BLOCK / PAGE, .huge = true}},
			     .nparts = 2,
			     .nfds = 3,
			     .blob_len = 100,
			     .waiters = 2};
}

static int exec_side(void *arg)
{
	const char *const *words = arg;
	int fd = atoi(words[1]);

	fcntl(fd, F_SETFD, 0);
	setenv(ROLE, words[0], 1);
	setenv(ROLE "_FD", words[1], 1);
	execl("/proc/self/exe", "handover", (char *)NULL);
	return 127;
}

static int role_main(const char *role, int sock)
{
	struct plan plan = exec_plan();
	static struct outcome out;

	fcntl(sock, F_SETFD, FD_CLOEXEC);
	plan.out = &out;
	int ret = *role == 'g' ? giver_run(&plan, sock) : taker_run(&plan, sock);
	if (!ret && *role == 'g')
		ret = out.give_ret ? 2 : 0;
	else if (!ret)
		ret = out.take_ret || !out.take_checked ? 3 : 0;
	return ret;
}

static void test_exec(void **state)
{
	struct plan plan = exec_plan();
	int sock[2];
	char fd[2][12];

	(void)state;
	handover_prepare(&plan);
	handover_fini(&plan);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock), 0);
	snprintf(fd[0], sizeof(fd[0]), "%d", sock[0]);
	snprintf(fd[1], sizeof(fd[1]), "%d", sock[1]);
	const char *giver[] = {"giver", fd[0]}, *taker[] = {"taker", fd[1]};
	pid_t g = spawn(exec_side, giver), t = spawn(exec_side, taker);
	close(sock[0]);
	close(sock[1]);
	assert_int_equal(wait_exit(t), 0);
	assert_int_equal(wait_exit(g), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_small),       TEST(test_one_page),     TEST(test_everything),
		TEST(test_descriptors), TEST(test_pushed_alone), TEST(test_shared),
		TEST(test_sparse),      TEST(test_huge_staged),  TEST(test_huge_touched),
		TEST(test_huge_copied), TEST(test_small_staged), TEST(test_written),
		TEST(test_exec),
	};
	const char *role = getenv(ROLE), *sock = getenv(ROLE "_FD");

	if (role && sock)
		return role_main(role, atoi(sock));
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("handover", tests, NULL, NULL);
}
