// SPDX-License-Identifier: MIT
/* timeout: 600 */
/* needs: userfaultfd */
/* Increments: added to their base they are what a full snapshot is, whatever the process did. */
#include <elf.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "tests/lib/forbid.h"
#include "tests/lib/scene.h"
#include "tests/lib/undo.h"

/* ---- the command */

/* To a list of files. */
static void append(char all[256], const char *name)
{
	size_t len = strlen(all);
	snprintf(all + len, 256 - len, " %s", name);
}

static bool is_tracked(pid_t pid)
{
	return file_has(pid, "smaps", "VmFlags.* u[wmi]");
}

static unsigned int holder_of(void)
{
	char command[256], text[32] = "";

	snprintf(command, sizeof(command), "sed -n 's/.*\"holder\": //p' %s", report);
	FILE *f = popen(command, "re");
	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	pclose(f);
	return (unsigned int)atoi(text);
}

/* One that has ended counts as gone, whoever is to reap it and when. */
static bool exists(unsigned int pid)
{
	return !kill((pid_t)pid, 0) && !file_has((pid_t)pid, "status", "^State:.[ZX]");
}

static bool is_stopped(unsigned int pid)
{
	return file_has((pid_t)pid, "status", "^State:.T");
}

static void assert_ends(unsigned int pid)
{
	for (int64_t until = now_ms() + 5000; exists(pid) && now_ms() < until;)
		usleep(1000);
	assert_false(exists(pid));
}

static int base(pid_t pid, const char *more)
{
	return ferry("--json --pid %d -o base --track %s", (int)pid, more);
}

static int increment(pid_t pid, const char *from, const char *to, const char *more)
{
	return ferry("--json --pid %d -o %s --incremental %s %s", (int)pid, to, from, more);
}

static void refused(int status, const char *why)
{
	assert_int_equal(status, 1);
	assert_true(said(errors, why));
	assert_int_not_equal(access(in_dir("merged"), F_OK), 0);
}

/* ---- contents */

#define FEW "--max-extra-memory 8M" /* to be copied */

static void whatever_it_does(bool huge, const char *more)
{
	pid_t pid;
	struct scene *s = scene_start(huge, &pid);
	char from[16] = "base", to[16], all[256] = "base";

	assert_done(base(pid, more));
	assert_true(is_tracked(pid));
	for (unsigned int step = 1; step <= SCENE_STEPS + 1; step++) {
		scene_act(s, step);
		if (step == SCENE_STEPS + 1)
			scene_stop(pid);
		snprintf(to, sizeof(to), "i%u", step);
		assert_done(increment(pid, from, to, step % 2 ? FEW : more));
		/* Little is copied, much is frozen. */
		assert_true(said(report, step == SCENE_STEPS ? "frozen_bytes\": [1-9]"
							     : "frozen_bytes\": 0"));
		memcpy(from, to, sizeof(to));
		append(all, to);
	}
	assert_true(said(report, "changed_bytes\": \\([0-9]\\|[0-9]*[0-9]\\{1,5\\}\\),"));
	assert_done(ferry("--pid %d --untrack", (int)pid));
	assert_false(is_tracked(pid));
	assert_done(ferry("--pid %d -o full", (int)pid));
	assert_done(ferry("merge %s -o merged", all));
	assert_same("full", "merged");
	/* What was merged is a base like any other. */
	assert_done(ferry("merge base i1 i2 i3 -o some --compress"));
	assert_done(ferry("merge some i4 i5 i6 i7 i8 i9 -o merged"));
	assert_same("full", "merged");
	scene_end(s, pid);
}

static void test_small_pages(void **state)
{
	(void)state;
	whatever_it_does(false, FEW);
}

static void test_huge_pages(void **state)
{
	(void)state;
	whatever_it_does(true, FEW);
}

static void test_compressed(void **state)
{
	(void)state;
	whatever_it_does(false, FEW " --compress");
}

/* While the first is saved, and when so much has changed that it is frozen. */
static void test_meanwhile(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		struct command c = {.option = i ? "--incremental" : "--track",
				    .value = i ? in_dir("base") : NULL,
				    .rate = "15M",
				    .pid = pid};
		pid_t command = spawn(run_command, &c);
		usleep(300000);
		for (unsigned int step = 1; step <= (i ? 3 : 6); step++)
			scene_act(s, step);
		assert_int_equal(waitpid(command, NULL, WNOHANG), 0);
		/* Some of what was unmapped was not saved. */
		assert_true(wait_exit(command) % 3 == 0);
		assert_int_equal(rename(core, in_dir(i ? "i1" : "base")), 0);
		scene_act(s, i ? 10 : 8);
	}
	scene_stop(pid);
	assert_done(increment(pid, "i1", "i2", ""));
	assert_true(said(report, "frozen_bytes\": 0"));
	assert_done(ferry("merge base i1 i2 -o merged"));
	assert_done(ferry("--pid %d --untrack", (int)pid));
	assert_done(ferry("--pid %d -o full", (int)pid));
	assert_same("full", "merged");
	scene_end(s, pid);
}

static void end_with_same(struct scene *s, pid_t pid, const char *files)
{
	assert_done(ferry("merge %s -o merged", files));
	assert_done(ferry("--pid %d --untrack", (int)pid));
	assert_done(ferry("--pid %d -o full", (int)pid));
	assert_same("full", "merged");
	scene_end(s, pid);
}

/* Guard pages are populated, and can't be read. */
static void test_guard(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	assert_done(base(pid, ""));
	scene_act(s, SCENE_GUARD);
	if (!s->written)
		SKIP("this kernel has no guard pages in the page table: Linux 6.13 has");
	assert_done(increment(pid, "base", "i1", ""));
	assert_done(increment(pid, "i1", "i2", ""));
	assert_done(ferry("merge base i1 i2 -o merged"));
	struct elf e = elf_open_in_dir("merged");
	assert_null(elf_at(&e, scene_part(s, 0), PAGE));
	const char *beside = elf_at(&e, scene_part(s, 0) + PAGE, PAGE);
	assert_non_null(beside);
	assert_false(page_has(beside, PAGE) || page_is_zero(beside));
	munmap((void *)(uintptr_t)e.data, e.len);
	scene_end(s, pid);
}

/* What was in no increment for a while can't be the same as in the one before. */
static void test_left_out(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	assert_done(base(pid, ""));
	scene_act(s, SCENE_DONT_DUMP);
	assert_done(increment(pid, "base", "i1", ""));
	scene_act(s, SCENE_DO_DUMP);
	scene_stop(pid);
	assert_done(increment(pid, "i1", "i2", ""));
	end_with_same(s, pid, "base i1 i2");
}

/* Where there is no page table any more nothing is as it was. */
static void test_discarded(void **state)
{
	(void)state;
	for (unsigned int huge = 0; huge < 2; huge++) {
		pid_t pid;
		struct scene *s = scene_start(huge, &pid);
		assert_done(base(pid, ""));
		scene_act(s, SCENE_DISCARD);
		scene_stop(pid);
		assert_done(increment(pid, "base", "i1", ""));
		end_with_same(s, pid, "base i1");
	}
}

/* KSM takes the protection away. Then nobody would know whether a frozen page was written to. */
static void test_merged_memory(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	unlink(in_dir("merged"));
	scene_act(s, SCENE_MERGE);
	if (!s->written || !ksm_begin())
		SKIP("the kernel has no KSM, or this user can't switch it on");
	unlink(in_dir("merged"));
	refused(ferry("--pid %d -o merged --way sync", (int)pid), "has memory that KSM may merge");
	ksm_end();
	assert_done(base(pid, ""));
	assert_true(ksm_begin());
	wait_merged(pid);
	scene_act(s, 1);
	scene_stop(pid);
	assert_done(increment(pid, "base", "i1", ""));
	ksm_end();
	end_with_same(s, pid, "base i1");
}

/* A buffer of io_uring is written to without the page table. */
static void test_pinned(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	unlink(in_dir("merged"));
	assert_done(base(pid, ""));
	scene_act(s, SCENE_PIN);
	if (!s->written)
		SKIP("this kernel has no io_uring");
	refused(increment(pid, "base", "merged", ""), "has pinned memory");
	assert_done(ferry("--pid %d --untrack", (int)pid));
	refused(ferry("--pid %d -o merged --track", (int)pid), "has pinned memory");
	assert_done(ferry("--pid %d -o full", (int)pid));
	scene_end(s, pid);
}

/* What isn't stopped writes while it is found out what has changed. */
static void test_shared_memory(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);
	struct command c = {.park = "snapshot.tracked",
			    .option = "--incremental",
			    .value = in_dir("base"),
			    .pid = pid};

	(void)state;
	assert_done(base(pid, ""));
	scene_act(s, SCENE_SHARE);
	pid_t command = spawn(run_command, &c);
	wait_stopped(command);
	s->write = true;
	while (!s->written)
		usleep(1000);
	kill(command, SIGCONT);
	assert_int_equal(wait_exit(command), 0);
	assert_int_equal(rename(core, in_dir("i1")), 0);
	scene_stop(pid);
	assert_done(increment(pid, "i1", "i2", ""));
	end_with_same(s, pid, "base i1 i2");
}

/* ---- a target that never stands still */

static void test_under_load(void **state)
{
	struct target t;
	char all[256] = "base", from[16] = "base", to[16];

	(void)state;
	target_start(&t, NULL);
	assert_done(base(t.pid, ""));
	for (unsigned int i = 0; i < 8; i++) {
		snprintf(to, sizeof(to), "i%u", i);
		/* In turn frozen, and copied. */
		assert_done(increment(t.pid, from, to,
				      i % 2 ? "--max-extra-memory 1G" : "--max-extra-memory 8M"));
		memcpy(from, to, sizeof(to));
		append(all, to);
		assert_done(ferry("merge %s -o %s", all, core));
		assert_int_equal(missing_in_core(&t), 0);
	}
	assert_done(ferry("--pid %d --untrack", (int)t.pid));
	assert_unharmed(&t);
	target_end(&t);
}

/* ---- it ends in the middle */

/* How it is when nothing is tracked: the process is as it was, and that is said. */
static void assert_untracked(struct target *t)
{
	for (int64_t until = now_ms() + 5000; is_tracked(t->pid) && now_ms() < until;)
		usleep(1000);
	assert_unharmed(t);
	assert_int_equal(increment(t->pid, "base", "next", ""), 1);
	assert_true(said(errors, "not, or no longer, tracked"));
	assert_int_not_equal(access(in_dir("next"), F_OK), 0);
}

static void kill_at(const char *park, pid_t pid, const char *option, const char *value)
{
	struct command c = {.park = park, .option = option, .value = value, .pid = pid};
	pid_t command = spawn(run_command, &c);

	wait_stopped(command);
	kill_and_reap(command);
}

static void test_killed(void **state)
{
	static const char *const first[] = {"snapshot.frozen", "snapshot.running",
					    "snapshot.saving", "snapshot.tracked",
					    "snapshot.named"};
	static const char *const next[] = {"snapshot.stopped", "snapshot.tracked",
					   "snapshot.frozen", "snapshot.running", "snapshot.named"};
	struct target t;

	(void)state;
	unlink(core);
	target_start(&t, NULL);
	for (unsigned int i = 0; i < COUNT(first); i++) {
		kill_at(first[i], t.pid, "--track", NULL);
		/* Its last name is all that a whole file waits for. */
		assert_int_equal(!access(core, F_OK), i == COUNT(first) - 1);
		assert_unharmed(&t);
	}
	unlink(core);
	for (unsigned int i = 0; i < COUNT(next); i++) {
		assert_done(base(t.pid, ""));
		unsigned int holder = holder_of();
		kill_at(next[i], t.pid, "--incremental", in_dir("base"));
		/* Nobody knows what has changed since when. */
		assert_ends(holder);
		assert_untracked(&t);
		unlink(core);
	}
	target_end(&t);
	remove_files();
}

static void test_holder_killed(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, NULL);
	assert_done(base(t.pid, ""));
	unsigned int holder = holder_of();
	assert_true(exists(holder) && is_tracked(t.pid));
	kill((pid_t)holder, SIGKILL);
	assert_ends(holder);
	assert_untracked(&t);
	assert_int_equal(ferry("--pid %d --untrack", (int)t.pid), 1);
	assert_true(said(errors, "is not tracked"));
	/* It ends with its process. */
	assert_done(base(t.pid, ""));
	holder = holder_of();
	target_end(&t);
	assert_ends(holder);
}

/* A holder that hasn't run yet keeps nothing from the next command. */
static void test_holder_waits(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	setenv("PAGEFERRY_PARK", "snapshot.forked", 1);
	assert_done(base(pid, ""));
	unsetenv("PAGEFERRY_PARK");
	unsigned int holder = holder_of();
	for (int64_t until = now_ms() + 5000; !is_stopped(holder) && now_ms() < until;)
		usleep(1000);
	assert_true(is_stopped(holder));
	assert_int_equal(ferry("--pid %d -o full", (int)pid), 1);
	assert_true(said(errors, "^pageferry: process [0-9]* is tracked: use --incremental"));
	kill((pid_t)holder, SIGCONT);
	assert_done(increment(pid, "base", "i1", ""));
	scene_end(s, pid);
}

/* What was interrupted is as if it had never been. */
static void test_interrupted(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	unlink(core);
	assert_done(base(pid, ""));
	scene_act(s, 1);
	for (unsigned int i = 0; i < 3; i++) {
		struct command c = {.park = i == 1 ? "snapshot.stopped" : "snapshot.running",
				    .option = "--incremental",
				    .value = in_dir("base"),
				    .pid = pid};
		pid_t command = spawn(run_command, &c);
		wait_stopped(command);
		assert_int_equal(interrupt(command), 128 + SIGINT);
		assert_int_not_equal(access(core, F_OK), 0);
		scene_act(s, i + 3);
	}
	assert_done(increment(pid, "base", "i1", ""));
	scene_stop(pid);
	assert_done(increment(pid, "i1", "i2", ""));
	assert_done(ferry("merge base i1 i2 -o merged"));
	assert_done(ferry("--pid %d --untrack", (int)pid));
	assert_done(ferry("--pid %d -o full", (int)pid));
	assert_same("full", "merged");
	scene_end(s, pid);
}

static int run_merge(void *arg)
{
	const char *path = parked_pageferry();

	setenv("PAGEFERRY_PARK", arg, 1);
	/* So that something could be left. */
	check_equal(forbid_tmpfile(), 0);
	return execl(path, path, "snapshot", "merge", in_dir("base"), in_dir("i1"), "-o", core,
		     NULL);
}

static void test_merge_interrupted(void **state)
{
	static char *const moments[] = {"snapshot.merging", "snapshot.synced"};
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	unlink(core);
	assert_done(base(pid, ""));
	scene_act(s, 1);
	assert_done(increment(pid, "base", "i1", ""));
	for (unsigned int i = 0; i < COUNT(moments); i++) {
		pid_t command = spawn(run_merge, moments[i]);
		wait_stopped(command);
		assert_false(nothing_left());
		assert_int_equal(interrupt(command), i ? 0 : 128 + SIGINT);
		assert_int_equal(nothing_left(), i == 0);
	}
	assert_done(ferry("--pid %d --untrack", (int)pid));
	unlink(core);
	scene_end(s, pid);
}

/* One who didn't wait until another had come to an end has no effect when it has. */
static void test_two_at_once(void **state)
{
	struct target t;

	(void)state;
	unlink(core);
	target_start(&t, NULL);
	assert_done(base(t.pid, ""));
	struct command c = {.park = "snapshot.running",
			    .option = "--incremental",
			    .value = in_dir("base"),
			    .pid = t.pid};
	pid_t command = spawn(run_command, &c);
	wait_stopped(command);
	assert_int_equal(increment(t.pid, "base", "i2", ""), 1);
	assert_true(said(errors, "another snapshot of process"));
	assert_int_equal(ferry("--pid %d --untrack", (int)t.pid), 1);
	assert_true(said(errors, "is under way"));
	kill(command, SIGCONT);
	assert_int_equal(wait_exit(command), 0);
	assert_int_equal(rename(core, in_dir("i1")), 0);
	assert_done(increment(t.pid, "i1", "i2", ""));
	assert_done(ferry("--pid %d --untrack", (int)t.pid));
	assert_unharmed(&t);
	target_end(&t);
}

/* What its owner tracks, root sees. */
static void test_owner_tracks(void **state)
{
	struct stat device;
	struct target t;

	(void)state;
	if (geteuid() || stat("/dev/userfaultfd", &device))
		SKIP("only root can be another user, who needs /dev/userfaultfd");
	char command[64];
	snprintf(command, sizeof(command), "chmod %o /dev/userfaultfd", device.st_mode & 07777u);
	int what = undo_later(command);
	assert_int_equal(chmod("/dev/userfaultfd", 0666), 0);
	unlink(core);
	target_start(&t, be_nobody);
	assert_int_equal(snapshot_with(&t, (struct command){.uid = 65534, .option = "--track"}), 0);
	undo(what);
	unlink(in_dir("merged"));
	refused(ferry("--pid %d -o merged", (int)t.pid), "is tracked");
	assert_done(ferry("--json --pid %d -o i1 --incremental core", (int)t.pid));
	assert_done(ferry("--pid %d --untrack", (int)t.pid));
	assert_done(ferry("--pid %d -o merged", (int)t.pid));
	assert_false(is_tracked(t.pid));
	assert_unharmed(&t);
	target_end(&t);
	remove_files();
}

/* When --untrack says so it is over, even if the holder doesn't get a CPU any more. */
static void test_untracked(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, NULL);
	struct command c = {.park = "snapshot.untracked", .option = "--track"};
	assert_int_equal(snapshot_with(&t, c), 0);
	unsigned int holder = holder_of();
	assert_done(ferry("--pid %d --untrack", (int)t.pid));
	assert_done(ferry("--pid %d -o full", (int)t.pid));
	kill((pid_t)holder, SIGCONT);
	assert_ends(holder);
	assert_unharmed(&t);
	target_end(&t);
	remove_files();
}

static void test_execs(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, NULL);
	assert_done(base(t.pid, ""));
	unsigned int holder = holder_of();
	t.shared->order = EXEC;
	while (!file_has(t.pid, "comm", "sleep"))
		usleep(1000);
	assert_int_equal(increment(t.pid, "base", "next", ""), 1);
	assert_true(said(errors, "has become another program"));
	assert_ends(holder);
	kill_and_reap(t.pid);
	unmap(t.shared, PAGE);
}

/* ---- files that don't fit */

static void test_wrong_files(void **state)
{
	pid_t pid, other;
	struct scene *s = scene_start(false, &pid), *o = scene_start(false, &other);

	(void)state;
	unlink(in_dir("merged"));
	assert_done(ferry("--pid %d -o plain", (int)pid));
	assert_done(ferry("--pid %d -o other --track", (int)other));
	assert_done(base(pid, ""));
	refused(ferry("--pid %d -o merged", (int)pid), "is tracked");
	refused(ferry("--pid %d -o merged --track", (int)pid), "is tracked");
	refused(increment(other, "other", "other", ""), "take the place of its own base");
	refused(increment(pid, "plain", "merged", ""), "no snapshot that was made with --track");
	refused(increment(pid, "other", "merged", ""), "other is not the last snapshot of process");
	refused(increment(other, "base", "merged", ""), "base is not the last snapshot of process");
	refused(increment(pid, "/dev/null", "merged", ""),
		"no snapshot that was made with --track");
	assert_done(increment(pid, "base", "i1", ""));
	assert_done(increment(pid, "i1", "i2", ""));
	refused(increment(pid, "base", "merged", ""), "base is not the last snapshot of process");
	refused(ferry("merge base i2 -o merged"), "i2 is no increment of base");
	refused(ferry("merge base i2 i1 -o merged"), "i2 is no increment of base");
	refused(ferry("merge other i1 -o merged"), "i1 is no increment of other");
	refused(ferry("merge i1 i2 -o merged"), "i1 is an increment");
	refused(ferry("merge base other -o merged"), "other is a full snapshot");
	refused(ferry("merge plain i1 -o merged"), "plain was made without --track");
	refused(ferry("merge base /dev/null -o merged"), "not a regular file");
	refused(ferry("merge base none -o merged"), "none: No such file");
	assert_int_equal(ferry("merge base -o merged"), 2);
	assert_int_equal(ferry("merge base i1"), 2);
	assert_done(ferry("merge base i1 i2 -o merged"));
	unlink(in_dir("merged"));
	ferry_limits = "ulimit -f 100; ";
	refused(ferry("merge base i1 i2 -o merged"), "^pageferry: merged: File too large");
	refused(ferry("merge base i1 i2 -o merged --compress"),
		"^pageferry: merged: File too large");
	ferry_limits = "";
	assert_true(nothing_left());
	scene_end(s, pid);
	scene_end(o, other);
	unlink(in_dir("merged"));
}

static void test_torn(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	assert_done(base(pid, "--compress"));
	scene_act(s, 1);
	assert_done(increment(pid, "base", "i1", ""));
	struct stat st;
	for (unsigned int i = 0; i < 20; i++) {
		const char *name = i % 2 ? "i1" : "base";
		assert_int_equal(stat(in_dir(name), &st), 0);
		char command[256];
		snprintf(command, sizeof(command), "cp '%s' '%s' && truncate -s %lld '%s'",
			 in_dir(name), in_dir("torn"), (long long)st.st_size * (i / 2) / 10,
			 in_dir("torn"));
		assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c) */
		refused(i % 2 ? ferry("merge base torn -o merged")
			      : ferry("merge torn i1 -o merged"),
			"^pageferry: torn");
	}
	/* A few bytes that stand for a gigabyte. */
	char command[400];
	snprintf(command, sizeof(command), "cp '%s' '%s' && head -c 1G /dev/zero | zstd -q >>'%s'",
		 in_dir("base"), in_dir("torn"), in_dir("torn"));
	assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c) */
	refused(ferry("merge torn i1 -o merged"),
		"^pageferry: torn can.t be decompressed: there is more in it than its headers say$");
	scene_end(s, pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_small_pages),  TEST(test_huge_pages),
		TEST(test_compressed),   TEST(test_under_load),
		TEST(test_killed),       TEST(test_holder_killed),
		TEST(test_holder_waits), TEST(test_interrupted),
		TEST(test_execs),
		TEST(test_wrong_files),  TEST(test_torn),
		TEST(test_meanwhile),    TEST(test_guard),
		TEST(test_left_out),     TEST(test_shared_memory),
		TEST(test_two_at_once),  TEST(test_merged_memory),
		TEST(test_pinned),       TEST(test_untracked),
		TEST(test_discarded),    TEST(test_merge_interrupted),
		TEST(test_owner_tracks),
	};

	if (!subject_begin())
		return 1;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	int failed = cmocka_run_group_tests_name("snapshot-incremental", tests, NULL, NULL);
	return subject_end() ? 1 : failed;
}
