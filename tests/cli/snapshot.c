// SPDX-License-Identifier: MIT
/* timeout: 600 */
/*
 * pageferry snapshot of a running process, which never notices.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "tests/lib/subject.h"

/* ---- tests */

static void test_contents(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, NULL);
	assert_int_equal(snapshot(&t), 0);
	struct elf e = elf_open();
	const char *extra = elf_at(&e, t.extra, EXTRA_LEN);
	assert_non_null(extra);
	/* The first quarter is what read_on() writes to. */
	for (uint64_t i = EXTRA_LEN / PAGE / 4; i < EXTRA_LEN / PAGE; i++)
		assert_true(page_has(extra + i * PAGE, i));
	munmap((void *)(uintptr_t)e.data, e.len);
	assert_true(said(report, "\"result\": \"complete\""));
	assert_unharmed(&t);
	target_end(&t);
}

static void test_interrupted(void **state)
{
	struct target t;

	(void)state;
	unlink(core);
	target_start(&t, NULL);
	struct command c = {.rate = "4M", .pid = t.pid};
	pid_t pid = spawn(run_command, &c);
	usleep(500000);
	kill(pid, SIGINT);
	assert_int_equal(wait_exit(pid), 128 + SIGINT);
	assert_true(nothing_left());
	assert_true(said(errors, "^pageferry: interrupted"));
	assert_unharmed(&t);
	target_end(&t);
}

/* ---- what the target does meanwhile */

/* Give an order while the image is being saved, slowly. Returns the exit status. */
static int snapshot_during(struct target *t, enum order order)
{
	struct command c = {.rate = "25M", .pid = t->pid};
	pid_t pid = spawn(run_command, &c);

	usleep(500000);
	t->shared->order = order;
	return wait_exit(pid);
}

static void test_unmaps(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, NULL);
	assert_int_equal(snapshot_during(&t, UNMAP), 3);
	assert_true(said(report, "\"result\": \"incomplete\""));
	assert_true(said(report, "\"lost_bytes\": 1048576"));
	assert_int_equal(missing_in_core(&t), 0);
	struct elf e = elf_open();
	assert_null(elf_at(&e, t.extra + EXTRA_LEN / 2, PAGE));
	assert_non_null(elf_at(&e, t.extra, EXTRA_LEN / 2));
	const char *behind = elf_at(&e, t.extra + EXTRA_LEN / 4 * 3, EXTRA_LEN / 4);
	assert_non_null(behind);
	assert_true(page_has(behind, EXTRA_LEN / PAGE / 4 * 3));
	munmap((void *)(uintptr_t)e.data, e.len);
	assert_unharmed(&t);
	target_end(&t);
}

static void test_discards(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, NULL);
	assert_int_equal(snapshot_during(&t, DISCARD), 0);
	struct elf e = elf_open();
	const char *p = elf_at(&e, t.extra + EXTRA_LEN / 2, EXTRA_LEN / 4);
	assert_non_null(p);
	for (uint64_t i = 0; i < EXTRA_LEN / PAGE / 4; i++)
		assert_true(page_has(p + i * PAGE, EXTRA_LEN / PAGE / 2 + i));
	munmap((void *)(uintptr_t)e.data, e.len);
	assert_unharmed(&t);
	target_end(&t);
}

static void test_forks(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, NULL);
	assert_int_equal(snapshot_during(&t, FORK), 0);
	assert_int_equal(missing_in_core(&t), 0);
	assert_unharmed(&t);
	target_end(&t);
}

static void test_execs(void **state)
{
	struct target t;

	(void)state;
	unlink(core);
	target_start(&t, NULL);
	assert_int_equal(snapshot_during(&t, EXEC), 1);
	assert_true(said(errors, "another program"));
	assert_true(nothing_left());
	kill_and_reap(t.pid);
	unmap(t.shared, PAGE);
}

static void test_dies(void **state)
{
	struct target t;

	(void)state;
	unlink(core);
	target_start(&t, NULL);
	struct command c = {.rate = "1M", .pid = t.pid};
	pid_t pid = spawn(run_command, &c);
	usleep(500000);
	kill_and_reap(t.pid);
	assert_int_equal(wait_exit(pid), 1);
	assert_true(said(errors, "^pageferry: process [0-9]* has ended"));
	assert_true(nothing_left());
	unmap(t.shared, PAGE);
}

/* ---- bounds */

static void test_bounded(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, NULL);
	int64_t begin = now_ms();
	assert_int_equal(snapshot_with(&t, (struct command){.option = "--max-extra-memory",
							    .value = "8M",
							    .rate = "40M"}),
			 0);
	assert_true(now_ms() - begin > 1500);
	assert_int_equal(missing_in_core(&t), 0);
	assert_true(said(report, "\"extra_peak_bytes\": [0-8]"));
	assert_false(said(report, "\"throttled\": 0,"));
	assert_unharmed(&t);
	target_end(&t);
}

/* ---- whose process */

/* Its own system calls must go on working, which read_on() sees. */
static void test_other_user(void **state)
{
	struct target t;

	(void)state;
	if (geteuid())
		SKIP("only root can be another user");
	target_start(&t, be_nobody);
	for (unsigned int i = 0; i < 5; i++) {
		assert_int_equal(snapshot(&t), 0);
		assert_int_equal(missing_in_core(&t), 0);
	}
	assert_unharmed(&t);
	target_end(&t);
}

static void test_not_allowed(void **state)
{
	struct target t;

	(void)state;
	unlink(core);
	if (geteuid())
		SKIP("only root can be another user");
	target_start(&t, NULL);
	assert_int_equal(snapshot_with(&t, (struct command){.uid = 65534}), 1);
	assert_true(said(errors, "^pageferry: .*run as"));
	assert_true(nothing_left());
	assert_unharmed(&t);
	target_end(&t);
}

/* Forbids what the injection needs, with the end of the process. */
static void filter_calls(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socketpair, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close_range, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = {COUNT(code), code};

	check_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	check_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

/* A user of whom the kernel wants no userfaultfd: refused, rather than one that breaks its calls.
 */
static void test_no_rights(void **state)
{
	struct target t;

	(void)state;
	unlink(core);
	if (geteuid())
		SKIP("only root can be another user");
	target_start(&t, be_nobody);
	int status = snapshot_with(&t, (struct command){.uid = 65534});
	if (status)
		assert_true(said(errors, "/dev/userfaultfd must be open to you"));
	assert_unharmed(&t);
	target_end(&t);
}

/* Nobody goes before it while the process waits for it, and it goes before nobody afterwards. */
static void test_priority(void **state)
{
	const struct {
		const char *park;
		int nice;
	} moments[] = {{"snapshot.stopped", -20},
		       {"snapshot.running", getpriority(PRIO_PROCESS, 0)}};
	struct target t;

	(void)state;
	if (geteuid())
		SKIP("only root may raise a priority");
	target_start(&t, NULL);
	for (unsigned int i = 0; i < COUNT(moments); i++) {
		struct command c = {.park = moments[i].park, .pid = t.pid};
		char stat[48];
		pid_t command = spawn(run_command, &c);
		wait_stopped(command);
		snprintf(stat, sizeof(stat), ") \\([^ ]* \\)\\{16\\}%d ", moments[i].nice);
		assert_true(file_has(command, "stat", stat));
		kill(command, SIGCONT);
		assert_int_equal(wait_exit(command), 0);
	}
	assert_unharmed(&t);
	target_end(&t);
}

/* Two threads of which neither can be borrowed as it is, but which wait as if they could. */
static volatile char dispatch =
	1; /* calls from elsewhere than read_here() are given back as a SIGSYS */

__asm__(".text\n"
	"read_here: xor %eax, %eax\n"
	"syscall\n"
	"nop\n"
	"ret\n"
	"read_here_end:\n");
extern ssize_t read_here(int fd, void *to, size_t len);
extern const char read_here_end[];

static void *wait_filtered(void *ready)
{
	char byte;

	filter_calls();
	check_equal(write(((int *)ready)[1], "", 1), 1);
	for (;;)
		read(((int *)ready)[2], &byte, 1);
	return NULL;
}

static void *wait_dispatching(void *ready)
{
	char byte;

	uintptr_t from = (uintptr_t)read_here;

	check_equal(write(((int *)ready)[1], "", 1), 1);
	check_equal(prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, from,
			  (uintptr_t)read_here_end - from, &dispatch),
		    0);
	for (;;)
		read_here(((int *)ready)[2], &byte, 1);
	return NULL;
}

static void start_waiting(void *(*fn)(void *))
{
	static int ends[4];
	pthread_t thread;
	char byte;

	check_equal(pipe(ends) || pipe(ends + 2), 0);
	check_equal(pthread_create(&thread, NULL, fn, ends), 0);
	check_equal(read(ends[0], &byte, 1), 1);
	usleep(20000);
}

static void filter_one(void)
{
	start_waiting(wait_filtered);
}

static void dispatch_one(void)
{
	start_waiting(wait_dispatching);
}

static void test_seccomp_of_one(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, filter_one);
	int status = snapshot(&t);
	if (status)
		assert_true(said(errors, "seccomp filter"));
	else
		assert_int_equal(missing_in_core(&t), 0);
	assert_unharmed(&t);
	target_end(&t);
}

static void test_dispatches(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, dispatch_one);
	assert_int_equal(snapshot(&t), 0);
	assert_int_equal(missing_in_core(&t), 0);
	assert_unharmed(&t);
	target_end(&t);
}

/* Of this call the kernel says EINTR whenever its thread stops. */
static void *wait_for_events(void *ready)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event;

	check_equal(write(((int *)ready)[1], "", 1), 1);
	if (epoll_wait(epoll, &event, 1, -1))
		_exit(1);
	return NULL;
}

static void wait_for_events_in_one(void)
{
	start_waiting(wait_for_events);
}

static void test_waits_for_events(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, wait_for_events_in_one);
	for (unsigned int i = 0; i < 5; i++)
		assert_int_equal(snapshot(&t), 0);
	assert_int_equal(count_in(t.pid, "task"), t.threads);
	target_end(&t);
}

/* Stopped before, stopped after. */
/* The second one would take what the first one protects for the process' own, and save it as it
 * changes. */
static void test_two_at_once(void **state)
{
	static const char *const parks[] = {"snapshot.flags", "snapshot.saving", "snapshot.rounds"};
	struct target t;

	(void)state;
	target_start(&t, NULL);
	for (size_t i = 0; i < sizeof(parks) / sizeof(parks[0]); i++) {
		struct command c = {
			.park = parks[i], .way = i == 2 ? "async" : "sync", .pid = t.pid};
		pid_t command = spawn(run_command, &c);
		wait_stopped(command);
		assert_int_equal(snapshot_with(&t, (struct command){0}), 1);
		assert_true(said(errors, "another snapshot of process"));
		assert_int_equal(snapshot_with(&t, (struct command){.way = "auto"}), 1);
		kill(command, SIGCONT);
		assert_int_equal(wait_exit(command), 0);
		assert_int_equal(snapshot(&t), 0);
	}
	assert_unharmed(&t);
	target_end(&t);
}

static void test_stopped(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, NULL);
	kill(t.pid, SIGSTOP);
	wait_stopped(t.pid);
	assert_int_equal(snapshot(&t), 0);
	assert_int_equal(missing_in_core(&t), 0);
	assert_true(file_has(t.pid, "status", "State:.T"));
	kill(t.pid, SIGCONT);
	assert_unharmed(&t);
	target_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_contents),       TEST(test_interrupted), TEST(test_unmaps),
		TEST(test_discards),       TEST(test_forks),       TEST(test_execs),
		TEST(test_dies),           TEST(test_bounded),     TEST(test_other_user),
		TEST(test_not_allowed),    TEST(test_no_rights),   TEST(test_stopped),
		TEST(test_seccomp_of_one), TEST(test_dispatches),  TEST(test_waits_for_events),
		TEST(test_priority),       TEST(test_two_at_once),
	};

	if (!subject_begin())
		return 1;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	int failed = cmocka_run_group_tests_name("snapshot", tests, NULL, NULL);
	return subject_end() ? 1 : failed;
}
