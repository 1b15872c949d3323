// SPDX-License-Identifier: MIT
/* timeout: 300 */
/* needs: userfaultfd */
/*
 * Threads that can't be stopped, or can't run: the others don't stand still for them, it is said
 * why, and as soon as it is possible there is a snapshot.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "lib/uffd.h"
#include "tests/lib/subject.h"
#include "tests/lib/undo.h"

/* ---- what the target has besides */

static struct beside {
	volatile uint64_t gap_us; /* the longest time for which it stood still */
	volatile int release;
	volatile uint64_t done;
	volatile pid_t tid;
} * beside;

static int64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static void *watch_time(void *arg)
{
	int64_t before = now_us();

	(void)arg;
	for (;;) {
		struct timespec nap = {.tv_nsec = 200000};
		nanosleep(&nap, NULL);
		int64_t now = now_us();
		if ((uint64_t)(now - before) > beside->gap_us)
			beside->gap_us = (uint64_t)(now - before);
		before = now;
	}
	return NULL;
}

static void start_thread(void *(*fn)(void *))
{
	pthread_t thread;
	check_equal(pthread_create(&thread, NULL, fn, NULL), 0);
}

static void begin(void)
{
	beside = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(beside, MAP_FAILED);
}

static void end(struct target *t)
{
	target_end(t);
	unmap(beside, PAGE);
	remove_files();
}

static void wait_until(volatile uint64_t *what, uint64_t value)
{
	for (int64_t until = now_ms() + 10000; *what < value; usleep(500))
		assert_true(now_ms() < until);
}

/* ---- vfork() */

/* For as long as it is told to. */
static void *wait_for_child(void *arg)
{
	(void)arg;
	beside->tid = (pid_t)syscall(SYS_gettid);
	pid_t pid = vfork(); /* NOLINT(clang-analyzer-security.insecureAPI.vfork) */
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (!beside->release)
			poll(NULL, 0, 1);
		_exit(0);
	}
	check(waitpid(pid, NULL, 0) == pid);
	beside->done = 1;
	for (;;)
		pause();
	return NULL;
}

static void wait_for_child_in_one(void)
{
	start_thread(watch_time);
	start_thread(wait_for_child);
	while (!beside->tid || !file_has(beside->tid, "stat", ") D"))
		usleep(1000);
}

/* On a machine that is busy it may stand still for other reasons. */
static void test_vforks(void **state)
{
	struct target t;
	uint64_t gap = UINT64_MAX;

	(void)state;
	unlink(core);
	begin();
	target_start(&t, wait_for_child_in_one);
	for (unsigned int i = 0; i < 3; i++) {
		beside->gap_us = 0;
		int64_t before = now_ms();
		assert_int_equal(snapshot(&t), 1);
		assert_true(now_ms() - before < 10000);
		assert_true(said(errors,
				 "^pageferry: thread [0-9]* of process [0-9]* waits for its "
				 "vfork()ed child: try again$"));
		assert_true(nothing_left());
		gap = beside->gap_us < gap ? beside->gap_us : gap;
	}
	print_message("# it stood still for %llu us\n", (unsigned long long)gap);
	assert_true(gap < 250000);
	assert_unharmed(&t);
	beside->release = 1;
	wait_until(&beside->done, 1);
	assert_int_equal(snapshot(&t), 0);
	assert_int_equal(missing_in_core(&t), 0);
	end(&t);
}

/* A snapshot that has begun to wait for a child. */
static pid_t start_stuck(struct target *t)
{
	begin();
	target_start(t, wait_for_child_in_one);
	struct command c = {.park = "snapshot.stuck", .pid = t->pid};
	pid_t pid = spawn(run_command, &c);
	wait_stopped(pid);
	return pid;
}

/* The child is done then. */
static void test_vfork_ends(void **state)
{
	struct target t;
	pid_t pid = start_stuck(&t);

	(void)state;
	/* Meanwhile the others go on. */
	uint64_t slept = t.shared->slept;
	wait_until(&t.shared->slept, slept + 2);
	beside->release = 1;
	kill(pid, SIGCONT);
	assert_int_equal(wait_exit(pid), 0);
	assert_int_equal(missing_in_core(&t), 0);
	wait_until(&beside->done, 1);
	assert_unharmed(&t);
	end(&t);
}

/* Killed there, it leaves nothing behind either. */
static void test_killed(void **state)
{
	struct target t;

	(void)state;
	kill_and_reap(start_stuck(&t));
	assert_unharmed(&t);
	beside->release = 1;
	wait_until(&beside->done, 1);
	assert_unharmed(&t);
	end(&t);
}

static void *spawn_on(void *arg)
{
	extern char **environ;
	char *argv[] = {"true", NULL};
	pid_t pid;

	while (!beside->release) {
		check_equal(posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ), 0);
		check(waitpid(pid, NULL, 0) == pid);
		beside->done++;
	}
	for (;;)
		pause();
	return arg;
}

static void spawn_in_one(void)
{
	start_thread(spawn_on);
}

static void test_spawns(void **state)
{
	struct target t;

	(void)state;
	begin();
	target_start(&t, spawn_in_one);
	for (unsigned int i = 0; i < 10; i++) {
		uint64_t done = beside->done;
		/* 3: without what was unmapped since. */
		assert_int_equal(snapshot(&t) % 3, 0);
		assert_int_equal(missing_in_core(&t), 0);
		wait_until(&beside->done, done + 1);
	}
	/* While it spawns, it blocks signals. */
	beside->release = 1;
	assert_unharmed(&t);
	end(&t);
}

/* ---- a thread that waits for another one of its process, in the kernel */

static char *served;
static int uffd;

static void *serve(void *arg)
{
	const char *page = map_memory(PAGE, 0);
	struct uffd_msg msg;
	uint64_t done;

	for (;;) {
		struct pollfd fd = {.fd = uffd, .events = POLLIN};
		poll(&fd, 1, -1);
		if (read(uffd, &msg, sizeof(msg)) != sizeof(msg))
			continue;
		uffd_copy(uffd, msg.arg.pagefault.address & ~(PAGE - 1), page, PAGE, 0, &done);
	}
	return arg;
}

static void *read_served(void *arg)
{
	int fds[2];

	check_equal(pipe(fds), 0);
	for (;;) {
		/* By the kernel, which is not interrupted. */
		check_equal(write(fds[1], "hello", 5), 5);
		check_equal(read(fds[0], served, 5), 5);
		check_equal(served[0], 'h');
		madvise(served, PAGE, MADV_DONTNEED);
		beside->done++;
	}
	return arg;
}

static void serve_itself(void)
{
	uint64_t features = 0, ioctls;

	uffd = uffd_open_best(&features, 0);
	check(uffd >= 0);
	served = map_memory(PAGE, 0);
	check_equal(
		uffd_register(uffd, (uintptr_t)served, PAGE, UFFDIO_REGISTER_MODE_MISSING, &ioctls),
		0);
	start_thread(serve);
	start_thread(read_served);
}

static void test_serves_itself(void **state)
{
	struct target t;
	unsigned int made = 0;

	(void)state;
	begin();
	target_start(&t, serve_itself);
	for (unsigned int i = 0; i < 10; i++) {
		uint64_t done = beside->done;
		int status = snapshot(&t);
		made += !status;
		assert_true(!status || said(errors, "doesn.t stop"));
		wait_until(&beside->done, done + 1);
	}
	print_message("# %u of 10 snapshots\n", made);
	assert_true(made > 5);
	end(&t);
}

/* ---- frozen by its cgroup */

/* By which freezer: where it is, and how it freezes and thaws. */
static const struct cgroup {
	const char *mounts, *file, *freeze, *thaw;
} v1 = {"$3 == \"cgroup\" && $4 ~ /(^|,)freezer(,|$)/", "freezer.state", "FROZEN", "THAWED"},
  v2 = {"$3 == \"cgroup2\"", "cgroup.freeze", "1", "0"};

/* Returns what undoes it; -1: it can't be done here. */
static int enter(const struct cgroup *g, pid_t pid, char folder[256])
{
	char command[1024];

	snprintf(command, sizeof(command), "awk '%s {print $2; exit}' /proc/mounts", g->mounts);
	FILE *f = popen(command, "re");
	assert_non_null(f);
	bool found = fgets(folder, 200, f);
	pclose(f);
	if (!found)
		return -1;
	folder[strcspn(folder, "\n")] = 0;
	snprintf(folder + strlen(folder), 40, "/pageferry-test-%d", (int)pid);
	snprintf(command, sizeof(command),
		 "echo %s >%s/%s; for i in $(seq 50); do rmdir %s && break; sleep .1; done "
		 "2>/dev/null",
		 g->thaw, folder, g->file, folder);
	int what = undo_later(command);
	snprintf(command, sizeof(command), "{ mkdir %s && echo %d >%s/cgroup.procs; } 2>/dev/null",
		 folder, (int)pid, folder);
	if (!system(command)) /* NOLINT(cert-env33-c) */
		return what;
	undo(what);
	return -1;
}

static void write_state(const struct cgroup *g, const char *folder, const char *state)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/%s", folder, g->file);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	assert_true(fputs(state, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static void wait_frozen(const struct cgroup *g, const char *folder)
{
	char command[600];

	snprintf(command, sizeof(command),
		 "for i in $(seq 500); do grep -qs FROZEN %s/%s && exit 0; "
		 "grep -qs 'frozen 1' %s/cgroup.events && exit 0; sleep .01; done; exit 1",
		 folder, g->file, folder);
	assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c) */
}

/* A process that can't run can't make a call; and makes none that it was left with once it thaws.
 */
static void freeze_at(struct target *t, const struct cgroup *g, const char *folder,
		      const char *park)
{
	struct command c = {.park = park, .pid = t->pid};
	pid_t pid = spawn(run_command, &c);

	wait_stopped(pid);
	write_state(g, folder, g->freeze);
	int64_t before = now_ms();
	kill(pid, SIGCONT);
	int status = wait_exit(pid);
	print_message("# %s: %d after %lld ms\n", park, status, (long long)(now_ms() - before));
	assert_true(now_ms() - before < 2500);
	if (status) {
		assert_int_equal(status, 1);
		assert_true(said(errors, "is frozen by its cgroup: thaw it"));
		assert_true(nothing_left());
	}
	write_state(g, folder, g->thaw);
	assert_unharmed(t);
	unlink(core);
}

static void frozen(const struct cgroup *g)
{
	static const char *const parks[] = {"snapshot.stopped", "snapshot.framed",
					    "snapshot.cloned",  "snapshot.given-back",
					    "snapshot.alone",   "snapshot.fetched"};
	struct target t;
	char folder[256];

	unlink(core);
	target_start(&t, NULL);
	int what = enter(g, t.pid, folder);
	if (what < 0) {
		target_end(&t);
		SKIP("there is no such freezer here");
	}
	write_state(g, folder, g->freeze);
	wait_frozen(g, folder);
	int64_t before = now_ms();
	assert_int_equal(snapshot(&t), 1);
	assert_true(now_ms() - before < 2500);
	assert_true(said(errors,
			 "^pageferry: process [0-9]* is frozen by its cgroup: thaw it, and try "
			 "again$"));
	assert_true(nothing_left());
	write_state(g, folder, g->thaw);
	assert_unharmed(&t);
	for (unsigned int i = 0; i < COUNT(parks); i++)
		freeze_at(&t, g, folder, parks[i]);
	assert_int_equal(snapshot(&t), 0);
	assert_int_equal(missing_in_core(&t), 0);
	target_end(&t);
	undo(what);
}

static void test_frozen(void **state)
{
	(void)state;
	frozen(&v2);
}

static void test_frozen_v1(void **state)
{
	(void)state;
	frozen(&v1);
}

/* ---- traced */

/* One thread of it, and not the first. */
static int trace(void *arg)
{
	check_equal(ptrace(PTRACE_SEIZE, (pid_t)(intptr_t)arg, NULL, NULL), 0);
	beside->done = 1;
	for (;;)
		pause();
}

static void test_traced(void **state)
{
	struct target t;
	char what[128];

	(void)state;
	unlink(core);
	begin();
	target_start(&t, wait_for_child_in_one);
	beside->release = 1;
	wait_until(&beside->done, 1);
	beside->done = 0;
	pid_t tracer = spawn(trace, (void *)(intptr_t)beside->tid);
	wait_until(&beside->done, 1);
	assert_int_equal(snapshot(&t), 1);
	snprintf(
		what, sizeof(what),
		"^pageferry: thread %d of process %d is being traced by process %d: end that first$",
		(int)beside->tid, (int)t.pid, (int)tracer);
	assert_true(said(errors, what));
	assert_true(nothing_left());
	kill_and_reap(tracer);
	assert_unharmed(&t);
	assert_int_equal(snapshot(&t), 0);
	end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_vforks),    TEST(test_vfork_ends),    TEST(test_killed),
		TEST(test_spawns),    TEST(test_serves_itself), TEST(test_frozen),
		TEST(test_frozen_v1), TEST(test_traced),
	};

	if (!subject_begin())
		return 1;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	int failed = cmocka_run_group_tests_name("snapshot-stuck", tests, NULL, NULL);
	return subject_end() ? 1 : failed;
}
