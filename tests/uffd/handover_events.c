// SPDX-License-Identifier: MIT
/*
 * The taker's program goes on living while its pages come: it discards, unmaps, moves and protects
 * memory, and forks. The giver is stopped until the program has begun to do so.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/take.h"
#include "lib/uffd.h"
#include "tests/lib/handover.h"
#include "tests/lib/serve.h"

#define NPAGES 2300u

/* The steps of both: the test lets the giver go on at 1. */
static void let_giver_go(struct taker *t)
{
	t->plan->out->step = 1;
}

static struct handover start_stopped(struct plan *plan)
{
	plan->give_park = "give.committed";
	handover_prepare(plan);
	struct handover h = handover_start(plan);
	wait_stopped(h.giver);
	return h;
}

static void wait_for_step(const struct plan *plan, unsigned int step)
{
	while (plan->out->step < step)
		sched_yield();
}

static void finish(struct plan *plan, const struct handover *h)
{
	wait_for_step(plan, 1);
	kill(h->giver, SIGCONT);
	handover_wait(h);
	assert_int_equal(plan->out->give_ret, 0);
	assert_int_equal(plan->out->take_ret, 0);
	assert_int_equal(plan->out->report.left, 0);
	assert_adds_up(&plan->out->report);
}

static void check_page(const struct taker *t, size_t i, const char *where)
{
	check(page_right(t->plan, 0, i, where));
}

/* No mapping of the process is watched by anybody, nor kept from its children. */
static void check_nothing_watched(void)
{
	check(!smaps_flag(NULL, SIZE_MAX / 2, "um"));
	check(!smaps_flag(NULL, SIZE_MAX / 2, "ui"));
	check(!smaps_flag(NULL, SIZE_MAX / 2, "dc"));
}

/* ---- all at once */

static char *moved;

static void change_memory(struct taker *t)
{
	char *mem = t->mem[0];

	moved = map_memory(400 * PAGE, 5 * PAGE);
	let_giver_go(t);
	check_equal(mprotect(mem + 1700 * PAGE, 50 * PAGE, PROT_READ), 0);
	check_equal(madvise(mem + 10 * PAGE, 10 * PAGE, MADV_DONTNEED), 0);
	check(page_is_zero(mem + 15 * PAGE));
	check_equal(madvise(mem + 600 * PAGE, 600 * PAGE, MADV_DONTNEED), 0);
	check_equal(munmap(mem + 1300 * PAGE, 100 * PAGE), 0);
	check(mremap(mem + 1800 * PAGE, 400 * PAGE, 400 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		     moved) == moved);
	check_page(t, 1801, moved + PAGE);
	/* Discarded at its new place. */
	check_equal(madvise(moved + 200 * PAGE, 50 * PAGE, MADV_DONTNEED), 0);
}

static void find_changed(struct taker *t)
{
	char *mem = t->mem[0];

	check_nothing_watched();
	for (size_t i = 0; i < NPAGES; i++) {
		uint64_t value;
		if ((i >= 10 && i < 20) || (i >= 600 && i < 1200))
			check(page_is_zero(mem + i * PAGE));
		else if ((i >= 1300 && i < 1400) || (i >= 1800 && i < 2200))
			check_equal(peek(mem + i * PAGE, &value), SIGSEGV);
		else
			check_page(t, i, mem + i * PAGE);
	}
	for (size_t i = 0; i < 400; i++) {
		if (i >= 200 && i < 250)
			check(page_is_zero(moved + i * PAGE));
		else
			check_page(t, 1800 + i, moved + i * PAGE);
	}
}

static void test_changed(void **state)
{
	(void)state;
	for (int huge = 0; huge < 2; huge++) {
		struct plan plan = {.parts = {{.npages = NPAGES,
					       .skip = huge ? 0 : 7 * PAGE,
					       .kinds = KINDS_ANY,
					       .huge = huge}},
				    .nparts = 1,
				    .idle = true,
				    .own_check = true,
				    .after_commit = change_memory,
				    .after_done = find_changed};
		struct handover h = start_stopped(&plan);
		finish(&plan, &h);
		assert_true(plan.out->report.removed > 0);
		assert_true(plan.out->report.removed <= (10 + 600 + 100 + 50) * PAGE);
		handover_fini(&plan);
	}
}

/* ---- a mapping that is in pieces: what is pushed must not stop at the borders */

static void split_mapping(struct taker *t)
{
	for (size_t i = 0; i < NPAGES; i += 97)
		check_equal(mprotect(t->mem[0] + i * PAGE, PAGE, PROT_READ), 0);
	let_giver_go(t);
}

static void test_split(void **state)
{
	struct plan plan = {.parts = {{.npages = NPAGES, .kinds = KIND_BIT(KIND_DATA)}},
			    .nparts = 1,
			    .idle = true,
			    .after_commit = split_mapping};

	(void)state;
	struct handover h = start_stopped(&plan);
	finish(&plan, &h);
	assert_true(plan.out->take_checked);
	assert_int_equal(plan.out->report.removed, 0);
	handover_fini(&plan);
}

/* ---- the whole range goes away */

static void unmap_all(struct taker *t)
{
	let_giver_go(t);
	check_equal(munmap(t->mem[0], NPAGES * PAGE), 0);
	/* In its place comes something that is nobody's business. */
	check(mmap(t->mem[0], NPAGES * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == t->mem[0]);
	memset(t->mem[0], 'x', NPAGES * PAGE);
	t->plan->out->step = 2;
}

static void find_own(struct taker *t)
{
	for (size_t i = 0; i < NPAGES * PAGE; i++)
		check_equal(t->mem[0][i], 'x');
	check_nothing_watched();
}

static void test_unmapped(void **state)
{
	struct plan plan = {.parts = {{.npages = NPAGES, .kinds = KIND_BIT(KIND_DATA)}},
			    .nparts = 1,
			    .idle = true,
			    .own_check = true,
			    .after_commit = unmap_all,
			    .after_done = find_own};

	(void)state;
	struct handover h = start_stopped(&plan);
	finish(&plan, &h);
	assert_int_equal(plan.out->report.removed, NPAGES * PAGE);
	handover_fini(&plan);
}

/* ---- fork while pages are outstanding: a child must not see zeros that were never there */

static int look_from_child(void *arg)
{
	const struct taker *t = arg;
	uint64_t value;

	for (size_t i = 0; i < NPAGES; i++)
		check_equal(peek(t->mem[0] + i * PAGE, &value), SIGSEGV);
	return 0;
}

static void fork_early(struct taker *t)
{
	check_equal(wait_exit(spawn(look_from_child, t)), 0);
	let_giver_go(t);
}

static int look_from_late_child(void *arg)
{
	const struct taker *t = arg;

	for (size_t i = 0; i < NPAGES; i++)
		check_page(t, i, t->mem[0] + i * PAGE);
	return 0;
}

static void fork_late(struct taker *t)
{
	check_equal(wait_exit(spawn(look_from_late_child, t)), 0);
}

static void test_fork(void **state)
{
	struct plan plan = {.parts = {{.npages = NPAGES, .skip = PAGE, .kinds = KINDS_ANY}},
			    .nparts = 1,
			    .after_commit = fork_early,
			    .after_done = fork_late};

	(void)state;
	struct handover h = start_stopped(&plan);
	finish(&plan, &h);
	assert_true(plan.out->take_checked);
	handover_fini(&plan);
}

/* ---- moved away, and then the giver dies: the pages are lost where they are now */

static void *move_range(void *arg)
{
	const struct taker *t = arg;

	check(mremap(t->mem[0], NPAGES * PAGE, NPAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		     moved) == moved);
	/* A stranger in the old place. */
	check(mmap(t->mem[0], NPAGES * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == t->mem[0]);
	return NULL;
}

static void move_and_lose(struct taker *t)
{
	pthread_t thread;
	uint64_t value;

	moved = map_memory(NPAGES * PAGE, 5 * PAGE);
	check_equal(pthread_create(&thread, NULL, move_range, t), 0);
	/* The test kills the giver now; whether it has read the event first doesn't matter. */
	t->plan->out->step = 1;
	check_equal(ferry_take_done(t->take, -1), -EOWNERDEAD);
	pthread_join(thread, NULL);
	for (size_t i = 0; i < NPAGES; i++)
		check_equal(peek(moved + i * PAGE, &value), SIGBUS);
	/* The stranger is untouched. */
	check_equal(poke(t->mem[0], 77), 0);
	check(page_is_zero(t->mem[0] + PAGE));
	check_nothing_watched();
	t->plan->out->step = 2;
	for (unsigned int i = 0; i < t->plan->nparts; i++)
		t->mem[i] = NULL;
}

static void test_moved_and_lost(void **state)
{
	(void)state;
	for (int read_first = 0; read_first < 2; read_first++) {
		struct plan plan = {.parts = {{.npages = NPAGES, .kinds = KIND_BIT(KIND_DATA)}},
				    .nparts = 1,
				    .idle = true,
				    .own_check = true,
				    .after_commit = move_and_lose};
		struct handover h = start_stopped(&plan);
		wait_for_step(&plan, 1);
		kill_and_reap(h.giver);
		assert_int_equal(wait_exit(h.taker), 0);
		assert_int_equal(plan.out->step, 2);
		assert_int_equal(plan.out->take_ret, -EOWNERDEAD);
		handover_fini(&plan);
	}
}

/*
 * The same in the very moment in which the taker looks whether anything is missing: what it can't
 * be sure of must not be overlooked.
 */
static const struct taker *_Atomic move_at_look;
static pthread_t mover;

FILE *fopen(const char *path, const char *mode)
{
	const struct taker *t = move_at_look;

	check(*mode == 'r');
	if (t && !strcmp(path, "/proc/self/smaps")) {
		move_at_look = NULL;
		check_equal(pthread_create(&mover, NULL, move_range, (void *)(uintptr_t)t), 0);
		wait_readable(t->take->uffd);
	}
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? NULL : fdopen(fd, "r");
}

static void lose_while_moving(struct taker *t)
{
	uint64_t value;

	moved = map_memory(NPAGES * PAGE, 5 * PAGE);
	move_at_look = t;
	t->plan->out->step = 1;
	check_equal(ferry_take_done(t->take, -1), -EOWNERDEAD);
	check(!move_at_look);
	pthread_join(mover, NULL);
	for (size_t i = 0; i < NPAGES; i++)
		check_equal(peek(moved + i * PAGE, &value), SIGBUS);
	t->plan->out->step = 2;
	t->mem[0] = NULL;
}

static void test_moved_at_look(void **state)
{
	struct plan plan = {.parts = {{.npages = NPAGES, .kinds = KIND_BIT(KIND_DATA)}},
			    .nparts = 1,
			    .idle = true,
			    .after_commit = lose_while_moving};

	(void)state;
	struct handover h = start_stopped(&plan);
	wait_for_step(&plan, 1);
	kill_and_reap(h.giver);
	assert_int_equal(wait_exit(h.taker), 0);
	assert_int_equal(plan.out->step, 2);
	handover_fini(&plan);
}

/* ---- the giver dies when everything has come, before it says so: nothing is lost */

static int watched;

static void remember(struct taker *t)
{
	watched = t->take->uffd;
}

static void move_in_shadow(struct taker *t)
{
	moved = map_memory(NPAGES * PAGE, 5 * PAGE);
	move_range(t);
}

/* Its event is queued when the giver dies, and nobody but the taker can read it. */
static void move_unheard(struct taker *t)
{
	pthread_t thread;

	moved = map_memory(NPAGES * PAGE, 5 * PAGE);
	while (t->plan->out->step < 1)
		sched_yield();
	check_equal(pthread_create(&thread, NULL, move_range, t), 0);
	wait_readable(watched);
	t->plan->out->step = 2;
	pthread_join(thread, NULL);
}

static void find_moved(struct taker *t)
{
	check_nothing_watched();
	for (size_t i = 0; i < NPAGES; i++)
		check_page(t, i, moved + i * PAGE);
	for (size_t i = 0; i < t->plan->parts[1].npages; i++)
		check(page_right(t->plan, 1, i, t->mem[1] + i * PAGE));
	check(page_is_zero(t->mem[0]));
	t->plan->out->step = 3;
}

static void test_moved_and_whole(void **state)
{
	(void)state;
	for (int unheard = 0; unheard < 2; unheard++) {
		/* A hole in shared memory is nothing that could be lost. */
		struct plan plan = {.parts = {{.npages = NPAGES, .kinds = KINDS_ANY},
					      {.npages = 100,
					       .kinds = KINDS_SHARED,
					       .flags = FERRY_RANGE_SHARED}},
				    .nparts = 2,
				    .idle = true,
				    .own_check = true,
				    .give_park = "give.all",
				    .in_shadow = unheard ? remember : move_in_shadow,
				    .after_commit = unheard ? move_unheard : NULL,
				    .after_done = find_moved};
		handover_prepare(&plan);
		struct handover h = handover_start(&plan);
		wait_stopped(h.giver);
		plan.out->step = 1;
		if (unheard)
			wait_for_step(&plan, 2);
		kill_and_reap(h.giver);
		assert_int_equal(wait_exit(h.taker), 0);
		assert_int_equal(plan.out->take_ret, 0);
		assert_int_equal(plan.out->lost_calls, 0);
		assert_int_equal(plan.out->step, 3);
		handover_fini(&plan);
	}
}

/* The giver alone knew that the hole was the program's own wish: when in doubt, it is lost. */
static void discard_in_shadow(struct taker *t)
{
	check_equal(madvise(t->mem[0] + 3 * PAGE, PAGE, MADV_DONTNEED), 0);
}

static void test_discarded_and_in_doubt(void **state)
{
	struct plan plan = {.parts = {{.npages = NPAGES, .kinds = KIND_BIT(KIND_DATA)}},
			    .nparts = 1,
			    .idle = true,
			    .give_park = "give.all",
			    .in_shadow = discard_in_shadow};

	(void)state;
	handover_prepare(&plan);
	struct handover h = handover_start(&plan);
	wait_stopped(h.giver);
	kill_and_reap(h.giver);
	assert_int_equal(wait_exit(h.taker), 0);
	assert_int_equal(plan.out->take_ret, -EOWNERDEAD);
	assert_int_equal(plan.out->lost_calls, 1);
	assert_int_equal(plan.out->lost_left, PAGE);
	assert_int_equal(plan.out->take_poisoned, 1);
	handover_fini(&plan);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_changed),
		TEST(test_split),
		TEST(test_unmapped),
		TEST(test_fork),
		TEST(test_moved_and_lost),
		TEST(test_moved_at_look),
		TEST(test_moved_and_whole),
		TEST(test_discarded_and_in_doubt),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("handover_events", tests, NULL, NULL);
}
