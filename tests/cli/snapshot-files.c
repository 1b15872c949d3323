// SPDX-License-Identifier: MIT
/* timeout: 300 */
/* needs: userfaultfd */
/* What pageferry snapshot makes of its file: compressed ones are the same, and as well behaved. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/lib/subject.h"

static char plain[80], expanded[80];

static bool run(const char *what, const char *a, const char *b)
{
	char command[512];

	snprintf(command, sizeof(command), "%s '%s' '%s'", what, a, b);
	return system(command) == 0; /* NOLINT(cert-env33-c) */
}

/* What zstd itself makes of it takes its name, for the checks. */
static bool expand(void)
{
	return run("zstd -q -d -f -o", expanded, core) && run("mv", expanded, core);
}

static int64_t blocks_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_blocks;
}

static int compressed(const struct target *t, const char *rate)
{
	return snapshot_with(t, (struct command){.option = "--compress", .rate = rate});
}

static void begin(struct target *t, void (*prepare)(void))
{
	snprintf(plain, sizeof(plain), "%s.plain", core);
	snprintf(expanded, sizeof(expanded), "%s.expanded", core);
	if (system("zstd --version >/dev/null 2>&1")) /* NOLINT(cert-env33-c) */
		SKIP("there is no zstd");
	target_start(t, prepare);
}

/* Byte by byte what an uncompressed one of the same moment is. */
static void test_same(void **state)
{
	struct target t;

	(void)state;
	begin(&t, pin);
	kill(t.pid, SIGSTOP);
	wait_stopped(t.pid);
	assert_int_equal(snapshot(&t), 0);
	assert_int_equal(rename(core, plain), 0);
	assert_int_equal(compressed(&t, NULL), 0);
	assert_true(blocks_of(core) < blocks_of(plain) / 2);
	assert_true(expand());
	assert_true(run("cmp", core, plain));
	kill(t.pid, SIGCONT);
	unlink(plain);
	assert_unharmed(&t);
	target_end(&t);
}

/* Blocks come in the order in which writers ask for them. */
static void test_under_load(void **state)
{
	struct target t;

	(void)state;
	begin(&t, NULL);
	for (unsigned int i = 0; i < 10; i++) {
		assert_int_equal(compressed(&t, NULL), 0);
		assert_true(expand());
		assert_int_equal(missing_in_core(&t), 0);
	}
	assert_unharmed(&t);
	target_end(&t);
}

/* Also in the middle of putting it into order nothing is left but the old file. */
static void test_interrupted(void **state)
{
	struct target t;

	(void)state;
	unlink(core);
	begin(&t, NULL);
	struct command c = {.option = "--compress", .rate = "1M", .pid = t.pid};
	pid_t pid = spawn(run_command, &c);
	usleep(500000);
	kill(pid, SIGINT);
	assert_int_equal(wait_exit(pid), 128 + SIGINT);
	assert_true(nothing_left());
	c = (struct command){.option = "--compress", .park = "snapshot.order", .pid = t.pid};
	pid = spawn(run_command, &c);
	wait_stopped(pid);
	kill(pid, SIGINT);
	kill(pid, SIGCONT);
	assert_int_equal(wait_exit(pid), 128 + SIGINT);
	assert_true(nothing_left());
	assert_unharmed(&t);
	target_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_same),
		TEST(test_under_load),
		TEST(test_interrupted),
	};

	if (!subject_begin())
		return 1;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	int failed = cmocka_run_group_tests_name("snapshot-files", tests, NULL, NULL);
	return subject_end() ? 1 : failed;
}
