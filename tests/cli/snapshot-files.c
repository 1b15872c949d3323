// SPDX-License-Identifier: MIT
/* timeout: 300 */
/* needs: userfaultfd */
/* What pageferry snapshot makes of its file: compressed ones are the same, and as well behaved. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "tests/lib/forbid.h"
#include "tests/lib/subject.h"
#include "tests/lib/undo.h"

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
	assert_int_equal(interrupt(pid), 128 + SIGINT);
	assert_true(nothing_left());
	assert_unharmed(&t);
	target_end(&t);
}

/* ---- nothing is left of what never was */

static char *in_folder(const char *name, char path[52])
{
	snprintf(path, 52, "%.*s/%s", (int)(strrchr(core, '/') - core), core, name);
	return path;
}

/* What is in the folder of the core file, but for what the tests put there. */
static bool is_empty(void)
{
	char command[256];

	snprintf(
		command, sizeof(command),
		"ls -A ${0%%/*} | grep -vE '^(report|errors|held|full|disk|core.plain)$' | sed 's/^/# left: /' | grep .");
	char *argv[] = {"sh", "-c", command, core, NULL};
	pid_t pid = fork();
	if (!pid)
		execv("/bin/sh", argv);
	return wait_exit(pid) != 0;
}

static bool is_one_line(void)
{
	char command[96];

	snprintf(command, sizeof(command), "test $(wc -l <%s) = 1", errors);
	return system(command) == 0; /* NOLINT(cert-env33-c) */
}

static void kill_at(const struct target *t, struct command c)
{
	c.pid = t->pid;
	pid_t pid = spawn(run_command, &c);
	wait_stopped(pid);
	kill_and_reap(pid);
	assert_unharmed(t);
}

static void test_killed(void **state)
{
	static const char *const parks[] = {"snapshot.frozen", "snapshot.saving", "snapshot.order",
					    "snapshot.synced"};
	struct target t;

	(void)state;
	begin(&t, NULL);
	unlink(core);
	for (unsigned int i = 0; i < COUNT(parks); i++) {
		kill_at(&t, (struct command){.park = parks[i], .option = "--compress"});
		assert_true(is_empty());
	}
	/* What had the name keeps it until all of the other is there. */
	assert_int_equal(snapshot(&t), 0);
	struct stat before, after;
	assert_int_equal(stat(core, &before), 0);
	kill_at(&t, (struct command){.park = "snapshot.synced"});
	kill_at(&t, (struct command){.park = "snapshot.linked"});
	assert_int_equal(stat(core, &after), 0);
	assert_int_equal(after.st_ino, before.st_ino);
	assert_int_equal(missing_in_core(&t), 0);
	assert_int_equal(snapshot(&t), 0);
	assert_int_equal(stat(core, &after), 0);
	assert_int_not_equal(after.st_ino, before.st_ino);
	assert_int_equal(after.st_mode & 07777, 0600);
	target_end(&t);
	remove_files();
}

/* ---- file systems, folders and limits that are against it */

static void no_tmpfile(void)
{
	check_equal(forbid_tmpfile(), 0);
}

static void test_no_tmpfile(void **state)
{
	struct target t;
	struct command c = {.prepare = no_tmpfile, .option = "--compress"};

	(void)state;
	begin(&t, NULL);
	unlink(core);
	assert_int_equal(snapshot_with(&t, c), 0);
	assert_true(expand());
	assert_int_equal(missing_in_core(&t), 0);
	assert_int_equal(snapshot_with(&t, c), 0);
	unlink(core);
	assert_true(is_empty());
	c.park = "snapshot.saving";
	c.pid = t.pid;
	pid_t pid = spawn(run_command, &c);
	wait_stopped(pid);
	assert_false(is_empty());
	assert_int_equal(interrupt(pid), 128 + SIGINT);
	assert_true(is_empty());
	assert_unharmed(&t);
	target_end(&t);
}

static void limit_files(void)
{
	struct rlimit limit = {1 << 20, 1 << 20};

	check_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void fails(const struct target *t, struct command c, const char *why)
{
	const char *options[] = {NULL, "--compress"};

	for (unsigned int i = 0; i < COUNT(options); i++) {
		c.option = options[i];
		assert_int_equal(snapshot_with(t, c), 1);
		assert_true(said(errors, why));
		assert_true(is_one_line());
		assert_true(is_empty());
		assert_unharmed(t);
	}
}

static void test_limited(void **state)
{
	struct target t;

	(void)state;
	begin(&t, NULL);
	unlink(core);
	fails(&t, (struct command){.prepare = limit_files},
	      "^pageferry: /.*/core: File too large$");
	target_end(&t);
}

/* A folder that only its owner may write to; one where only the owner of a file may replace it. */
static void test_not_writable(void **state)
{
	struct target t;
	char before[sizeof(core)], held[52];

	(void)state;
	if (geteuid())
		SKIP("only root can be another user");
	begin(&t, be_nobody);
	memcpy(before, core, sizeof(core));
	in_folder("held", held);
	assert_int_equal(mkdir(held, 0755), 0);
	snprintf(core, sizeof(core), "%s/core", held);
	struct command c = {.uid = 65534};
	int status = snapshot_with(&t, c);
	assert_int_equal(status, 1);
	assert_true(said(errors, "^pageferry: can.t create /.*/core: Permission denied$"));
	assert_true(is_empty());
	memcpy(core, before, sizeof(core));
	assert_int_equal(rmdir(held), 0);
	assert_unharmed(&t);
	target_end(&t);
}

static void test_full(void **state)
{
	struct target t;
	char before[sizeof(core)], full[52], command[400];

	(void)state;
	if (geteuid())
		SKIP("only root can mount a small file system");
	begin(&t, NULL);
	memcpy(before, core, sizeof(core));
	in_folder("full", full);
	assert_int_equal(mkdir(full, 0700), 0);
	snprintf(command, sizeof(command), "umount %s 2>/dev/null; rmdir %s", full, full);
	int what = undo_later(command);
	assert_int_equal(mount("none", full, "tmpfs", 0, "size=1m"), 0);
	snprintf(core, sizeof(core), "%s/core", full);
	fails(&t, (struct command){0}, "^pageferry: /.*/core: No space left on device$");
	assert_int_equal(mount("none", full, "tmpfs", MS_REMOUNT | MS_RDONLY, NULL), 0);
	fails(&t, (struct command){0}, "^pageferry: can.t create /.*/core: Read-only file system$");
	memcpy(core, before, sizeof(core));
	undo(what);
	assert_int_not_equal(access(full, F_OK), 0);
	target_end(&t);
}

/* ---- the machine ends just after the command */

static bool shell(const char *what)
{
	char command[600];

	snprintf(command, sizeof(command), "cd %.*s/disk && { %s; } >/dev/null 2>&1",
		 (int)(strrchr(core, '/') - core), core, what);
	return system(command) == 0; /* NOLINT(cert-env33-c) */
}

/* What is on the disk then is all that another machine finds. */
static void test_crash(void **state)
{
	struct target t;
	char before[sizeof(core)], disk[52], command[400];

	(void)state;
	if (geteuid())
		SKIP("only root can mount a file system");
	begin(&t, NULL);
	memcpy(before, core, sizeof(core));
	in_folder("disk", disk);
	assert_int_equal(mkdir(disk, 0700), 0);
	snprintf(
		command, sizeof(command),
		"cd %s && umount here there 2>/dev/null; rm -rf %s/here %s/there %s/*.img; rmdir %s",
		disk, disk, disk, disk, disk);
	int what = undo_later(command);
	bool can = shell("truncate -s 300M a.img && mke2fs -t ext4 -F a.img && mkdir here there && "
			 "mount -o loop a.img here");
	if (can) {
		snprintf(core, sizeof(core), "%s/here/core", disk);
		assert_int_equal(compressed(&t, NULL), 0);
		memcpy(core, before, sizeof(core));
		assert_true(shell("cp --sparse=always a.img b.img && mount -o loop b.img there && "
				  "cmp here/core there/core && zstd -q -t there/core"));
	}
	undo(what);
	assert_unharmed(&t);
	target_end(&t);
	if (!can)
		SKIP("no ext4 can be mounted here");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_same),         TEST(test_under_load), TEST(test_interrupted),
		TEST(test_killed),       TEST(test_no_tmpfile), TEST(test_limited),
		TEST(test_not_writable), TEST(test_full),       TEST(test_crash),
	};

	if (!subject_begin())
		return 1;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	int failed = cmocka_run_group_tests_name("snapshot-files", tests, NULL, NULL);
	return subject_end() ? 1 : failed;
}
