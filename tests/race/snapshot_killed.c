// SPDX-License-Identifier: MIT
/* timeout: 600 */
/* pageferry snapshot is killed, at each step: the process goes on as if nothing had been. */
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "tests/lib/subject.h"

static const struct step {
	const char *park, *way;
} steps[] = {
	{"snapshot.stopped", "sync"},    {"snapshot.framed", "sync"},
	{"snapshot.borrowed", "sync"},   {"snapshot.call", "sync"},
	{"snapshot.cloned", "sync"},     {"snapshot.given-back", "sync"},
	{"snapshot.alone", "sync"},      {"snapshot.made", "sync"},
	{"snapshot.fetched", "sync"},    {"snapshot.frozen", "sync"},
	{"snapshot.running", "sync"},    {"snapshot.saving", "sync"},
	{"snapshot.unmasked", "sync"},   {"snapshot.restored", "sync"},
	{"snapshot.fetched", "async"},   {"snapshot.tracking", "async"},
	{"snapshot.protected", "async"}, {"snapshot.read", "async"},
	{"snapshot.round", "async"},     {"snapshot.rounds", "async"},
	{"snapshot.changes", "async"},   {"snapshot.frozen", "async"},
	{"snapshot.running", "async"},
};

static void killed(void **state)
{
	const struct step *step = *state;
	struct target t;

	target_start(&t, NULL);
	for (unsigned int round = 0; round < 2; round++) {
		struct command c = {.park = step->park, .way = step->way, .pid = t.pid};
		pid_t pid = spawn(run_command, &c);
		wait_stopped(pid);
		kill_and_reap(pid);
		assert_unharmed(&t);
		assert_int_not_equal(access(core, F_OK), 0);
	}
	/* And it can still be snapshotted. */
	assert_int_equal(snapshot(&t), 0);
	assert_int_equal(missing_in_core(&t), 0);
	unlink(core);
	target_end(&t);
	remove_files();
}

/* ---- a thread that is in no system call, and has something in every register */

static volatile uint64_t *spins;

/* Ends with 1 when a register has changed. What is on the stack below the red zone is nobody's. */
static int spin(void *arg)
{
	static const uint64_t vector[4] = {0x1111111111111111, 0x2222222222222222,
					   0x3333333333333333, 0x4444444444444444};
	uint64_t bad = 0;

	spins = arg;
	alarm(300);
	__asm__ volatile("vmovdqu (%[v]), %%ymm15\n"
			 "mov $0x5555555555555555, %%r14\n"
			 "mov $0x6666666666666666, %%r13\n"
			 "movq $0x77, -128(%%rsp)\n"
			 "1: incq (%[spins])\n"
			 "vpcmpeqb (%[v]), %%ymm15, %%ymm14\n"
			 "vpmovmskb %%ymm14, %%ecx\n"
			 "cmp $-1, %%ecx\n"
			 "jne 2f\n"
			 "mov $0x5555555555555555, %%rcx\n"
			 "cmp %%rcx, %%r14\n"
			 "jne 2f\n"
			 "mov $0x6666666666666666, %%rcx\n"
			 "cmp %%rcx, %%r13\n"
			 "jne 2f\n"
			 "cmpq $0x77, -128(%%rsp)\n"
			 "je 1b\n"
			 "2: movq $1, %[bad]\n"
			 : [bad] "+r"(bad)
			 : [v] "r"(vector), [spins] "r"(spins)
			 : "rcx", "r13", "r14", "xmm14", "xmm15", "memory", "cc");
	return (int)bad;
}

static bool has_avx2(void)
{
	return system("grep -qw avx2 /proc/cpuinfo") == 0; /* NOLINT(cert-env33-c) */
}

static void test_registers(void **state)
{
	static const char *const where[] = {NULL,
					    "snapshot.framed",
					    "snapshot.borrowed",
					    "snapshot.call",
					    "snapshot.cloned",
					    "snapshot.given-back",
					    "snapshot.fetched"};
	volatile uint64_t *count = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
					MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	(void)state;
	if (!has_avx2())
		SKIP("this CPU has no AVX2");
	pid_t target = spawn(spin, (void *)(uintptr_t)count);
	for (unsigned int i = 0; i < 10 * COUNT(where); i++) {
		struct command c = {.park = where[i % COUNT(where)], .pid = target};
		pid_t pid = spawn(run_command, &c);
		if (c.park && stops(pid))
			kill_and_reap(pid);
		else
			assert_int_equal(wait_exit(pid), 0);
		uint64_t before = *count;
		usleep(2000);
		for (unsigned int tries = 0; *count == before && tries < 500; tries++)
			usleep(2000);
		assert_true(*count > before);
		/* The new thread ends by itself, when it gets a CPU. */
		for (unsigned int tries = 0; count_in(target, "task") != 1 && tries < 100; tries++)
			usleep(10000);
		assert_int_equal(count_in(target, "task"), 1);
	}
	kill_and_reap(target);
	unmap((void *)(uintptr_t)count, PAGE);
	remove_files();
}

/* ---- threads that are left in the middle, and don't run yet when the next snapshot comes */

static void test_left(void **state)
{
	static const char *const where[] = {
		"snapshot.borrowed", "snapshot.call",       "snapshot.cloned", "snapshot.unmasked",
		"snapshot.restored", "snapshot.given-back", "snapshot.alone",  "snapshot.fetched"};
	struct target t;

	(void)state;
	target_start(&t, NULL);
	for (unsigned int i = 0; i < COUNT(where); i++) {
		struct command c = {.park = where[i], .pid = t.pid}, next = {.pid = t.pid};
		pid_t pid = spawn(run_command, &c);
		wait_stopped(pid);
		/* It is stopped as soon as it is let go, before it has run. */
		kill(t.pid, SIGSTOP);
		kill_and_reap(pid);
		assert_int_equal(wait_exit(spawn(run_command, &next)), 1);
		assert_true(said(errors, "run since a snapshot"));
		assert_int_not_equal(access(core, F_OK), 0);
		next.park = "snapshot.left";
		pid = spawn(run_command, &next);
		wait_stopped(pid);
		kill(t.pid, SIGCONT);
		kill(pid, SIGCONT);
		assert_int_equal(wait_exit(pid), 0);
		assert_int_equal(missing_in_core(&t), 0);
		assert_unharmed(&t);
		unlink(core);
	}
	target_end(&t);
	remove_files();
}

/* ---- a signal for a thread that is on its way back */

static volatile uint64_t *handled;

static void handle(int number)
{
	(void)number;
	++*handled;
}

static void *wait_for_nothing(void *arg)
{
	int ends[2];
	char byte;

	(void)arg;
	prctl(PR_SET_NAME, "waits");
	check_equal(pipe(ends), 0);
	check_equal(read(ends[0], &byte, 1), 1);
	return NULL;
}

static void handle_signals(void)
{
	struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
	pthread_t thread;

	check_equal(sigaction(SIGUSR1, &action, NULL), 0);
	check_equal(pthread_create(&thread, NULL, wait_for_nothing, NULL), 0);
	usleep(20000);
}

static pid_t waiting_thread(pid_t pid)
{
	char command[128], text[32] = "";

	snprintf(command, sizeof(command), "cd /proc/%d/task && grep -l waits */comm", (int)pid);
	FILE *f = popen(command, "re");
	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	pclose(f);
	return (pid_t)atoi(text);
}

static void test_signalled(void **state)
{
	static const char *const where[] = {"snapshot.stopped",  "snapshot.framed",
					    "snapshot.borrowed", "snapshot.call",
					    "snapshot.cloned",   "snapshot.unmasked",
					    "snapshot.restored", "snapshot.given-back"};
	struct target t;

	(void)state;
	handled = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	target_start(&t, handle_signals);
	pid_t tid = waiting_thread(t.pid);
	for (unsigned int i = 0; i < 2 * COUNT(where); i++) {
		struct command c = {.park = where[i / 2], .pid = t.pid};
		pid_t pid = spawn(run_command, &c);
		wait_stopped(pid);
		uint64_t before = *handled;
		assert_int_equal(syscall(SYS_tgkill, t.pid, tid, SIGUSR1), 0);
		if (i % 2) {
			kill_and_reap(pid);
		} else {
			kill(pid, SIGCONT);
			assert_int_equal(wait_exit(pid), 0);
		}
		for (unsigned int tries = 0; *handled == before && tries < 500; tries++)
			usleep(2000);
		assert_int_equal(*handled, before + 1);
		assert_unharmed(&t);
	}
	target_end(&t);
	unmap((void *)(uintptr_t)handled, PAGE);
	remove_files();
}

/* At any moment, not only where somebody has thought of it. */
static void test_killed_anywhere(void **state)
{
	uint64_t seed = (uint64_t)now_ms() | 1;
	int64_t until = now_ms() + 10000;
	unsigned int rounds = 0;
	struct target t;

	(void)state;
	print_message("# seed %llu\n", (unsigned long long)seed);
	target_start(&t, NULL);
	for (; now_ms() < until; rounds++) {
		bool async = rounds % 2;
		struct command c = {.way = async ? "async" : "sync", .pid = t.pid};
		pid_t pid = spawn(run_command, &c);
		usleep((useconds_t)(next_random(&seed) % (async ? 150000 : 25000)));
		kill_and_reap(pid);
	}
	print_message("# %u rounds\n", rounds);
	assert_unharmed(&t);
	target_end(&t);
	remove_files();
}

int main(void)
{
	static char names[COUNT(steps)][64];
	struct CMUnitTest tests[COUNT(steps) + 4] = {TEST(test_registers),
						     TEST(test_killed_anywhere), TEST(test_left),
						     TEST(test_signalled)};

	for (size_t i = 0; i < COUNT(steps); i++) {
		snprintf(names[i], sizeof(names[i]), "killed at %s, %s", steps[i].park,
			 steps[i].way);
		tests[i + 4] = (struct CMUnitTest){names[i], killed, test_begin, test_end,
						   (void *)(uintptr_t)&steps[i]};
	}
	if (!subject_begin())
		return 1;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	int failed = cmocka_run_group_tests_name("snapshot_killed", tests, NULL, NULL);
	return subject_end() ? 1 : failed;
}
