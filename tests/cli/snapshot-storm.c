// SPDX-License-Identifier: MIT
/* timeout: 400 */
/* needs: userfaultfd */
/*
 * Threads that come and go, mappings, children and other programs, all the time: each image is
 * whole, and the process does not notice.
 */
#include <pthread.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "tests/lib/subject.h"

enum { THREADS, MAPS, FORKS, EXECS, DISCARDS, KINDS };

static struct storm {
	volatile uint64_t done[KINDS];
	volatile int over;
} * storm;

static void *rest(void)
{
	for (;;)
		pause();
	return NULL;
}

/* ---- in the target */

static void *be_short(void *arg)
{
	char stack[4 * PAGE];

	fill_page(stack, (uintptr_t)arg);
	check(page_has(stack, (uintptr_t)arg));
	return NULL;
}

static void *make_threads(void *arg)
{
	pthread_t threads[4];

	(void)arg;
	while (!storm->over) {
		for (uintptr_t i = 0; i < COUNT(threads); i++)
			check_equal(pthread_create(&threads[i], NULL, be_short, (void *)i), 0);
		for (unsigned int i = 0; i < COUNT(threads); i++)
			check_equal(pthread_join(threads[i], NULL), 0);
		storm->done[THREADS]++;
		usleep(1000);
	}
	return rest();
}

/* What is written is read again, wherever it has been moved to. */
static void *make_maps(void *arg)
{
	const size_t len = 32 * PAGE;

	(void)arg;
	while (!storm->over) {
		char *at = map_memory(len, 0);
		for (size_t i = 0; i < len; i += PAGE)
			fill_page(at + i, i);
		at = mremap(at, len, 2 * len, MREMAP_MAYMOVE);
		check(at != MAP_FAILED);
		check_equal(mprotect(at, PAGE, PROT_READ), 0);
		for (size_t i = 0; i < len; i += PAGE)
			check(page_has(at + i, i));
		check(page_is_zero(at + len));
		unmap(at, 2 * len);
		storm->done[MAPS]++;
		usleep(1000);
	}
	return rest();
}

static void *make_children(void *arg)
{
	int status;

	char *page = map_memory(PAGE, 0);
	for (uint64_t i = 0; !storm->over; i++) {
		fill_page(page, i);
		pid_t pid = fork();
		check(pid >= 0);
		if (!pid)
			_exit(page_has(page, i) ? 7 : 8);
		check(waitpid(pid, &status, 0) == pid);
		check_equal(WEXITSTATUS(status), 7);
		storm->done[FORKS]++;
		usleep(1000);
	}
	(void)arg;
	return rest();
}

static void *make_programs(void *arg)
{
	char *argv[] = {"true", NULL}, *env[] = {NULL};
	int status;
	pid_t pid;

	(void)arg;
	while (!storm->over) {
		check_equal(posix_spawn(&pid, "/bin/true", NULL, NULL, argv, env), 0);
		check(waitpid(pid, &status, 0) == pid);
		check_equal(status, 0);
		storm->done[EXECS]++;
		usleep(1000);
	}
	return rest();
}

static void *discard(void *arg)
{
	const size_t len = 64 * PAGE;
	char *at = map_memory(len, 0);

	for (uint64_t n = 0; !storm->over; n++) {
		for (size_t i = 0; i < len; i += PAGE)
			fill_page(at + i, n + i);
		check_equal(madvise(at + len / 2, len / 2, MADV_DONTNEED), 0);
		check(page_has(at, n) && page_is_zero(at + len / 2));
		storm->done[DISCARDS]++;
		usleep(1000);
	}
	(void)arg;
	return rest();
}

static void start_storm(void)
{
	void *(*const fns[KINDS])(void *) = {make_threads, make_maps, make_children, make_programs,
					     discard};
	pthread_t thread;

	for (unsigned int i = 0; i < KINDS; i++)
		check_equal(pthread_create(&thread, NULL, fns[i], NULL), 0);
}

/* ---- tests */

static void wait_for_more(const uint64_t *before)
{
	int64_t until = now_ms() + 10000;

	for (unsigned int i = 0; i < KINDS; i++)
		while (storm->done[i] <= before[i]) {
			assert_true(now_ms() < until);
			usleep(1000);
		}
}

/* The threads of the storm rest in the end, so that the others can be counted. */
static void end_storm(struct target *t)
{
	storm->over = 1;
	for (int64_t until = now_ms() + 10000; now_ms() < until; usleep(10000)) {
		t->threads = count_in(t->pid, "task");
		if (t->threads == 1 + 3 + LEDGER_CLERKS + KINDS)
			break;
	}
	assert_int_equal(t->threads, 1 + 3 + LEDGER_CLERKS + KINDS);
	t->fds = count_in(t->pid, "fd");
	assert_unharmed(t);
}

static void storm_of(const char *way)
{
	unsigned int whole = 0, images = 0;
	int64_t until = now_ms() + 10000;
	struct target t;

	storm = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	target_start(&t, start_storm);
	for (; images < 25 && now_ms() < until; images++) {
		uint64_t before[KINDS];
		memcpy(before, (const void *)(uintptr_t)storm->done, sizeof(before));
		int status = snapshot_with(&t, (struct command){.way = way});
		/* 3: without what it has unmapped meanwhile. */
		if (status != 3)
			assert_done(status);
		whole += !status;
		assert_int_equal(missing_in_core(&t), 0);
		wait_for_more(before);
	}
	print_message("# %u images, %u without a gap\n", images, whole);
	assert_true(images >= 2);
	end_storm(&t);
	target_end(&t);
	unmap(storm, PAGE);
}

static void test_sync(void **state)
{
	(void)state;
	storm_of("sync");
}

static void test_auto(void **state)
{
	(void)state;
	storm_of("auto");
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_sync), TEST(test_auto)};

	if (!subject_begin())
		return 1;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	int failed = cmocka_run_group_tests_name("snapshot-storm", tests, NULL, NULL);
	return subject_end() ? 1 : failed;
}
