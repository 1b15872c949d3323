// SPDX-License-Identifier: MIT
/* timeout: 600 */
/* needs: userfaultfd */
/*
 * pageferry snapshot --way: saved while it runs, and what it has changed again; then frozen, if
 * that gets no less. The image is of one moment whatever the process did meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <linux/seccomp.h>

#include "tests/lib/forbid.h"
#include "tests/lib/scene.h"

/* ---- targets that never stand still */

/* What is written in a round is a part of what was written in the one before. */
static void be_slow(void)
{
	ledger_nap_us = 3000;
}

/* Little is changed, but again and again. */
static void be_narrow(void)
{
	ledger_used = 2048;
}

/* With time to write between the last round and the end. */
static int snapshot_late(const struct target *t)
{
	struct command c = {.park = "snapshot.rounds", .way = "async", .pid = t->pid};
	pid_t command = spawn(run_command, &c);

	wait_stopped(command);
	usleep(300000);
	kill(command, SIGCONT);
	return wait_exit(command);
}

static int snapshot_running(const struct target *t)
{
	return snapshot_with(t, (struct command){.way = "async"});
}

/* Returns how many were saved in this way. */
static unsigned int many_images(void (*prepare)(void), int (*take)(const struct target *t),
				const char *way, unsigned int *images)
{
	struct target t;
	unsigned int so = 0;
	int64_t until = now_ms() + 8000;

	target_start(&t, prepare);
	for (*images = 0; *images < 100 && now_ms() < until; ++*images) {
		assert_done(take(&t));
		int64_t missing = missing_in_core(&t);
		if (missing)
			fail_msg("image %u is torn: %lld is missing", *images, (long long)missing);
		so += said(report, way);
	}
	print_message("# %u images, of which %u in this way\n", *images, so);
	assert_true(*images >= 3);
	assert_unharmed(&t);
	target_end(&t);
	return so;
}

static void test_converges(void **state)
{
	unsigned int images;

	(void)state;
	assert_true(many_images(be_slow, snapshot_running, "each round had less", &images) > 0);
	assert_true(said(report, "\"way\": \"async\""));
}

static void test_stays_little(void **state)
{
	unsigned int images;

	(void)state;
	unsigned int so = many_images(be_narrow, snapshot_running, "\"way\": \"async\"", &images);
	assert_int_equal(so, images);
}

static void test_both(void **state)
{
	unsigned int images;

	(void)state;
	unsigned int so = many_images(NULL, snapshot_late, "\"way\": \"both\"", &images);
	assert_int_equal(so, images);
	assert_true(said(report, "\"rounds\": \\["));
}

/* What is read of slow ones without a second look is torn as well. */
static void test_torn(void **state)
{
	struct target t;
	unsigned int torn = 0;

	(void)state;
	target_start(&t, be_slow);
	for (unsigned int i = 0; i < 20; i++)
		torn += missing_now(&t) != 0;
	print_message("# %u of 20 are torn\n", torn);
	assert_true(torn > 5);
	target_end(&t);
}

/* ---- what it does in between */

static void assert_way(const char *way, const char *reason)
{
	char line[96];

	snprintf(line, sizeof(line), "\"way\": \"%s\"", way);
	assert_true(said(report, line));
	assert_true(said(report, reason));
}

/* It stands still from now on, so that another snapshot has the same. */
static void go_on(pid_t pid, pid_t command)
{
	scene_stop(pid);
	kill(command, SIGCONT);
	assert_done(wait_exit(command));
}

static void assert_same_by_sync(pid_t pid)
{
	assert_int_equal(rename(core, in_dir("async")), 0);
	assert_done(ferry("--pid %d -o sync --way sync", (int)pid));
	assert_same("sync", "async");
}

static const char *const moments[] = {"snapshot.tracking", "snapshot.protected", "snapshot.read",
				      "snapshot.round", "snapshot.rounds"};

static void acts(bool huge, const char *moment)
{
	static const uint32_t steps[] = {SCENE_ZERO,  SCENE_GROW,   1, 2, 3, 4, 5, 6, 7,
					 SCENE_MERGE, SCENE_DISCARD};
	pid_t pid;
	struct scene *s = scene_start(huge, &pid);
	struct command c = {.park = moment, .way = "async", .pid = pid};
	pid_t command = spawn(run_command, &c);

	wait_stopped(command);
	for (unsigned int i = 0; i < COUNT(steps); i++)
		scene_act(s, steps[i]);
	go_on(pid, command);
	assert_true(said(report, "\"way\": \"async\""));
	assert_same_by_sync(pid);
	scene_end(s, pid);
}

static void test_acts(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < COUNT(moments); i++)
		acts(false, moments[i]);
}

static void test_acts_on_huge_pages(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < COUNT(moments); i++)
		acts(true, moments[i]);
}

/* After the last round it writes more than is copied. */
static void test_acts_and_is_frozen(void **state)
{
	static const uint32_t steps[] = {8, SCENE_ZERO, 3, 4, 5};

	(void)state;
	for (unsigned int huge = 0; huge < 2; huge++) {
		pid_t pid;
		struct scene *s = scene_start(huge, &pid);
		struct command c = {.park = "snapshot.rounds",
				    .way = "async",
				    .option = "--max-extra-memory",
				    .value = "8M",
				    .pid = pid};
		pid_t command = spawn(run_command, &c);
		wait_stopped(command);
		for (unsigned int i = 0; i < COUNT(steps); i++)
			scene_act(s, steps[i]);
		go_on(pid, command);
		assert_true(said(report, "\"way\": \"both\""));
		assert_same_by_sync(pid);
		scene_end(s, pid);
	}
}

/* A file system that can't make holes. */
static int without_holes(void *command)
{
	if (forbid_syscall(SYS_fallocate, SECCOMP_RET_ERRNO | EOPNOTSUPP))
		return 96;
	return run_command(command);
}

static void test_no_holes(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);
	struct command c = {.park = "snapshot.round", .way = "async", .pid = pid};
	pid_t command = spawn(without_holes, &c);

	(void)state;
	wait_stopped(command);
	for (uint32_t step = 1; step < 6; step++)
		scene_act(s, step);
	scene_act(s, SCENE_ZERO);
	go_on(pid, command);
	assert_same_by_sync(pid);
	scene_end(s, pid);
}

/* ---- memory that is written to without its page table */

static void test_pinned(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);
	struct command c = {.park = "snapshot.round", .way = "auto", .pid = pid};
	pid_t command = spawn(run_command, &c);

	(void)state;
	wait_stopped(command);
	scene_act(s, SCENE_PIN);
	bool pinned = s->written;
	go_on(pid, command);
	if (pinned) {
		assert_way("both", "meanwhile devices may write");
		assert_true(said(report, "\"frozen_bytes\": 2[0-9]\\{7\\},"));
		assert_int_equal(rename(core, in_dir("async")), 0);
		assert_done(ferry("--json --pid %d -o sync", (int)pid));
		assert_way("sync", "devices may write into its memory");
		assert_same("sync", "async");
		assert_int_equal(ferry("--pid %d -o core --way async", (int)pid), 1);
		assert_true(said(errors, "has pinned memory"));
	}
	scene_end(s, pid);
	if (!pinned)
		SKIP("there is no io_uring");
}

/* What is merged is no longer protected, and so counts as written to. */
static void test_ksm(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);
	struct command c = {.park = "snapshot.round", .way = "auto", .pid = pid};

	(void)state;
	scene_act(s, SCENE_MERGE);
	if (!s->written || !ksm_begin())
		SKIP("the kernel has no KSM, or this user can't switch it on");
	pid_t command = spawn(run_command, &c);
	wait_stopped(command);
	wait_merged(pid);
	scene_act(s, 1);
	go_on(pid, command);
	assert_way("async", "each round had less to save");
	ksm_end();
	assert_same_by_sync(pid);
	scene_end(s, pid);
}

static int read_directly(void *arg)
{
	char *mem = map_memory(32ul << 20, 0);
	int fd = open(arg, O_RDONLY | O_CLOEXEC | O_DIRECT);

	memset(mem, 1, 32ul << 20);
	return fd < 0 ? 1 : pause();
}

static void test_direct(void **state)
{
	pid_t pid = spawn(read_directly, (void *)(uintptr_t) "/proc/self/exe");

	(void)state;
	for (int64_t until = now_ms() + 5000; !file_has(pid, "status", "VmRSS:.*[3-9]....  *kB");) {
		assert_true(now_ms() < until);
		usleep(1000);
	}
	assert_done(ferry("--json --pid %d -o core", (int)pid));
	assert_way("sync", "devices may write into its memory");
	kill_and_reap(pid);
}

/* ---- memory that is another's by now */

/* What it hasn't looked at itself yet is not noted as seen. */
static void test_tracks_itself(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);
	struct command c = {.park = "snapshot.round", .way = "async", .pid = pid};
	pid_t command = spawn(run_command, &c);

	(void)state;
	wait_stopped(command);
	scene_act(s, SCENE_TRACK);
	assert_true(s->written);
	kill(command, SIGCONT);
	assert_done(wait_exit(command));
	scene_act(s, SCENE_IS_TRACKED);
	assert_true(s->written);
	scene_end(s, pid);
}

/* Where something couldn't be read while it was saved. */
static void test_protects_itself(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);
	struct command c = {.park = "snapshot.round", .way = "async", .rate = "8M", .pid = pid};
	pid_t command = spawn(run_command, &c);

	(void)state;
	wait_stopped(command);
	scene_act(s, SCENE_GUARD);
	if (!s->written)
		SKIP("this kernel has no guard pages in the page table: Linux 6.13 has");
	scene_act(s, SCENE_STEPS);
	kill(command, SIGCONT);
	usleep(500000);
	scene_act(s, SCENE_PROTECT);
	assert_true(s->written);
	assert_done(wait_exit(command));
	scene_act(s, SCENE_IS_PROTECTED);
	assert_true(s->written);
	scene_end(s, pid);
}

/* ---- it ends in the middle */

static const char *const steps[] = {"snapshot.tracking", "snapshot.protected", "snapshot.read",
				    "snapshot.round",    "snapshot.rounds",    "snapshot.changes",
				    "snapshot.running"};

static pid_t start_at(const struct target *t, const char *park)
{
	struct command c = {.park = park, .way = "async", .pid = t->pid};
	pid_t command = spawn(run_command, &c);

	wait_stopped(command);
	return command;
}

static void test_interrupted(void **state)
{
	struct target t;

	(void)state;
	unlink(core);
	target_start(&t, be_slow);
	for (unsigned int i = 0; i < COUNT(steps); i++) {
		pid_t command = start_at(&t, steps[i]);
		assert_int_equal(interrupt(command), 128 + SIGINT);
		assert_true(said(errors, "^pageferry: interrupted"));
		assert_true(nothing_left());
		assert_unharmed(&t);
	}
	target_end(&t);
}

static void test_execs(void **state)
{
	(void)state;
	unlink(core);
	for (unsigned int i = 0; i < 5; i++) {
		struct target t;
		target_start(&t, be_slow);
		pid_t command = start_at(&t, steps[i]);
		t.shared->order = EXEC;
		while (!file_has(t.pid, "comm", "sleep"))
			usleep(1000);
		kill(command, SIGCONT);
		assert_int_equal(wait_exit(command), 1);
		assert_true(said(errors, "another program"));
		assert_true(nothing_left());
		kill_and_reap(t.pid);
		unmap(t.shared, PAGE);
		unmap(t.mem, ledger_len);
		unmap(t.extra, EXTRA_LEN);
	}
}

static void test_dies(void **state)
{
	(void)state;
	unlink(core);
	for (unsigned int i = 0; i < 5; i++) {
		struct target t;
		target_start(&t, be_slow);
		pid_t command = start_at(&t, steps[i]);
		kill_and_reap(t.pid);
		kill(command, SIGCONT);
		assert_int_equal(wait_exit(command), 1);
		assert_true(said(errors, "^pageferry: process [0-9]* has ended"));
		assert_true(nothing_left());
		unmap(t.shared, PAGE);
		unmap(t.mem, ledger_len);
		unmap(t.extra, EXTRA_LEN);
	}
}

/* ---- which way, and what is said of it */

static int wait_for_end(void *arg)
{
	(void)arg;
	return pause();
}

static void test_report(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	assert_done(ferry("--json --pid %d -o core", (int)pid));
	assert_true(said(report, "\"way\": \"async\""));
	assert_true(said(report, "\"way_reason\": \"each round had less to save"));
	assert_true(said(report, "\"first_stop_ms\": [0-9]"));
	assert_true(said(report, "\"left_bytes\": [0-9]*,"));
	assert_true(said(report, "^      \"bytes\": [0-9]\\{8\\},"));
	assert_done(ferry("--json --pid %d -o core --way sync", (int)pid));
	assert_true(said(report, "\"way\": \"sync\""));
	assert_true(said(report, "\"way_reason\": \"as --way says\""));
	assert_done(ferry("--json --pid %d -o core --compress", (int)pid));
	assert_true(said(report, "\"way\": \"sync\""));
	assert_true(said(report, "\"way_reason\": \"nothing can be written twice"));
	assert_done(ferry("--pid %d -o core --way async", (int)pid));
	assert_true(said(report, "^way      async: each round had less"));
	assert_true(said(report, "^rounds   2[0-9.]* [0-9. ]*MiB; [0-9.]* MiB were left"));
	scene_end(s, pid);
	pid = spawn(wait_for_end, NULL);
	assert_done(ferry("--json --pid %d -o core", (int)pid));
	assert_true(said(report, "\"way\": \"sync\""));
	assert_true(said(report, "\"way_reason\": \"it has little memory"));
	kill_and_reap(pid);
}

static void test_usage(void **state)
{
	pid_t pid = getpid();

	(void)state;
	assert_int_equal(ferry("--pid %d -o core --way", (int)pid), 2);
	assert_int_equal(ferry("--pid %d -o core --way slow", (int)pid), 2);
	assert_true(said(errors, "there is sync, async and auto"));
	assert_int_equal(ferry("--pid %d -o core --way async --compress", (int)pid), 2);
	assert_true(said(errors, "leave out --compress"));
	assert_int_equal(ferry("--pid %d -o core --way sync --track", (int)pid), 2);
	assert_int_equal(ferry("--pid %d -o core --way async --incremental b", (int)pid), 2);
	assert_true(said(errors, "for a single snapshot"));
}

static void test_bounded(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, be_narrow);
	int64_t begin = now_ms();
	assert_done(snapshot_with(&t, (struct command){.option = "--max-extra-memory",
						       .value = "8M",
						       .rate = "40M",
						       .way = "async"}));
	assert_true(now_ms() - begin > 1500);
	assert_int_equal(missing_in_core(&t), 0);
	/* One digit of MiB. */
	assert_true(said(report, "\"extra_peak_bytes\": [0-8][0-9]\\{6\\},"));
	assert_unharmed(&t);
	target_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_converges),
		TEST(test_stays_little),
		TEST(test_both),
		TEST(test_torn),
		TEST(test_acts),
		TEST(test_acts_on_huge_pages),
		TEST(test_acts_and_is_frozen),
		TEST(test_no_holes),
		TEST(test_pinned),
		TEST(test_direct),
		TEST(test_interrupted),
		TEST(test_execs),
		TEST(test_dies),
		TEST(test_report),
		TEST(test_usage),
		TEST(test_bounded),
		TEST(test_ksm),
		TEST(test_tracks_itself),
		TEST(test_protects_itself),
	};

	if (!subject_begin())
		return 1;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	int failed = cmocka_run_group_tests_name("snapshot-ways", tests, NULL, NULL);
	return subject_end() ? 1 : failed;
}
