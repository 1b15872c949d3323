// SPDX-License-Identifier: MIT
/* timeout: 400 */
/* needs: userfaultfd */
/*
 * Targets with seccomp filters: what their filters would end them for is never done, whether the
 * command is killed or not, and whatever else they forbid is no hindrance for root.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "tests/lib/subject.h"

static const struct filter {
	const char *name;
	long calls[3];
} filters[] = {
	{"clone", {SYS_clone, -1, -1}},
	{"table and socket", {SYS_close_range, SYS_socketpair, SYS_recvmsg}},
	{"ioctl", {SYS_ioctl, -1, -1}},
	{"userfaultfd", {SYS_userfaultfd, -1, -1}},
	{"sigreturn", {SYS_rt_sigreturn, -1, -1}},
	{"exit", {SYS_exit, -1, -1}},
};

#define USERFAULTFD 3u
#define WAY_BACK    4u

/* What prepares the target is told by these. */
static const struct filter *filter;
static uint32_t action;

/* The number of the call goes through all kinds of instructions first. */
static void forbid(void)
{
	struct sock_filter code[32] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_STMT(BPF_MISC | BPF_TAX, 0),
		BPF_STMT(BPF_LD | BPF_IMM, 5),
		BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),
		BPF_STMT(BPF_ST, 3),
		BPF_STMT(BPF_LDX | BPF_MEM, 3),
		BPF_STMT(BPF_LD | BPF_IMM, 0),
		BPF_STMT(BPF_MISC | BPF_TXA, 0),
		BPF_STMT(BPF_ALU | BPF_SUB | BPF_K, 5),
		BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 2),
		BPF_STMT(BPF_ALU | BPF_XOR | BPF_K, 0x30000),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xffff),
		BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 1),
		BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 2),
		BPF_STMT(BPF_ALU | BPF_NEG, 0),
		BPF_STMT(BPF_ALU | BPF_NEG, 0),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x80000000, 0, 1),
		BPF_JUMP(BPF_JMP | BPF_JA, 0, 0, 0),
	};
	unsigned short n = 18;

	for (unsigned int i = 0; i < COUNT(filter->calls); i++)
		if (filter->calls[i] >= 0) {
			code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
								 (uint32_t)filter->calls[i], 0, 1);
			code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
		}
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = {n, code};
	check_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	check_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
	/* Another one that has nothing against anything. */
	struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	program = (struct sock_fprog){1, &all};
	check_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static bool is_end(uint32_t what)
{
	return what == SECCOMP_RET_KILL_PROCESS || what == SECCOMP_RET_KILL_THREAD ||
	       what == SECCOMP_RET_TRAP;
}

static bool forbids(void)
{
	if (filter == &filters[USERFAULTFD] && !access("/dev/userfaultfd", R_OK | W_OK))
		return false;
	return is_end(action) || (filter >= &filters[WAY_BACK] && action != SECCOMP_RET_LOG);
}

static void need_root(void)
{
	if (geteuid())
		SKIP("only root can suspend a filter");
}

static void with_filter(void)
{
	struct target t;

	unlink(core);
	target_start(&t, forbid);
	int status = snapshot(&t);
	print_message("# %s, %#x: %d\n", filter->name, action, status);
	assert_int_equal(status, forbids());
	if (status) {
		assert_true(said(errors,
				 "^pageferry: process [0-9]* has a seccomp filter that would "
				 "end it for calls that are needed"));
		assert_true(nothing_left());
	} else {
		assert_int_equal(missing_in_core(&t), 0);
	}
	assert_unharmed(&t);
	target_end(&t);
}

static void test_ends(void **state)
{
	static const uint32_t actions[] = {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD,
					   SECCOMP_RET_TRAP};

	(void)state;
	need_root();
	for (unsigned int i = 0; i < COUNT(filters); i++) {
		filter = &filters[i];
		action = actions[i % COUNT(actions)];
		with_filter();
	}
}

/* A division by zero is an end, too. */
static void forbid_by_zero(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 2),
		BPF_STMT(BPF_LDX | BPF_IMM, 0),
		BPF_STMT(BPF_ALU | BPF_DIV | BPF_X, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {COUNT(code), code};

	check_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	check_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static void test_divides(void **state)
{
	struct target t;

	(void)state;
	need_root();
	unlink(core);
	target_start(&t, forbid_by_zero);
	assert_int_equal(snapshot_with(&t, (struct command){0}), 1);
	assert_true(said(errors, "has a seccomp filter that would end it"));
	assert_unharmed(&t);
	target_end(&t);
}

static void test_fails(void **state)
{
	(void)state;
	need_root();
	for (unsigned int i = 0; i < COUNT(filters); i++) {
		filter = &filters[i];
		action = i % 2 ? SECCOMP_RET_TRACE : SECCOMP_RET_ERRNO | EPERM;
		with_filter();
	}
}

static void test_logs(void **state)
{
	(void)state;
	need_root();
	filter = &filters[1];
	action = SECCOMP_RET_LOG;
	with_filter();
	filter = &filters[WAY_BACK];
	with_filter();
}

/* ---- killed: the calls that are under way meet the filter */

static void killed_with(uint32_t what)
{
	static const char *const parks[] = {
		"snapshot.framed",   "snapshot.borrowed", "snapshot.call",       "snapshot.cloned",
		"snapshot.unmasked", "snapshot.restored", "snapshot.given-back", "snapshot.alone",
		"snapshot.made",     "snapshot.fetched"};
	struct target t;

	action = what;
	target_start(&t, forbid);
	for (unsigned int i = 0; i < COUNT(parks); i++) {
		struct command c = {.park = parks[i], .pid = t.pid};
		pid_t pid = spawn(run_command, &c);
		if (stops(pid))
			kill_and_reap(pid);
		else
			assert_int_equal(wait_exit(pid), 1);
		assert_unharmed(&t);
	}
	target_end(&t);
}

static void test_killed(void **state)
{
	(void)state;
	need_root();
	filter = &filters[0];
	killed_with(SECCOMP_RET_ERRNO | EPERM);
	filter = &filters[1];
	killed_with(SECCOMP_RET_ERRNO | EPERM);
}

static void test_killed_ends(void **state)
{
	(void)state;
	need_root();
	filter = &filters[0];
	killed_with(SECCOMP_RET_KILL_PROCESS);
	filter = &filters[1];
	killed_with(SECCOMP_RET_KILL_PROCESS);
}

/* ---- some of the threads */

static void *wait_free(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static void forbid_all_but_one(void)
{
	pthread_t thread;

	check_equal(pthread_create(&thread, NULL, wait_free, NULL), 0);
	usleep(20000);
	forbid();
}

/* The one that may is borrowed. */
static void test_all_but_one(void **state)
{
	struct target t;

	(void)state;
	filter = &filters[1];
	action = SECCOMP_RET_KILL_PROCESS;
	target_start(&t, forbid_all_but_one);
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(snapshot(&t), 0);
		assert_int_equal(missing_in_core(&t), 0);
	}
	assert_unharmed(&t);
	target_end(&t);
}

/* ---- who may not look at it */

static void forbid_as_nobody(void)
{
	be_nobody();
	forbid();
}

static void test_refused(void **state)
{
	struct target t;

	(void)state;
	unlink(core);
	if (geteuid())
		SKIP("only root can be another user");
	filter = &filters[0];
	action = SECCOMP_RET_ERRNO | EPERM;
	target_start(&t, forbid_as_nobody);
	assert_int_equal(snapshot_with(&t, (struct command){.uid = 65534}), 1);
	assert_true(said(errors,
			 "^pageferry: process [0-9]* has a seccomp filter, which only root can "
			 "look at, .*: run as root$"));
	assert_true(nothing_left());
	assert_unharmed(&t);
	target_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_ends),    TEST(test_fails),       TEST(test_logs),
		TEST(test_killed),  TEST(test_killed_ends), TEST(test_all_but_one),
		TEST(test_refused), TEST(test_divides),
	};

	if (!subject_begin())
		return 1;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	int failed = cmocka_run_group_tests_name("snapshot-seccomp", tests, NULL, NULL);
	return subject_end() ? 1 : failed;
}
