/* SPDX-License-Identifier: MIT */
/* A VM's directory: who may have it, what is in it, and what a crash leaves. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "tools/json_get.c"  /* NOLINT(bugprone-suspicious-include) */
#include "tools/proc.c"      /* NOLINT(bugprone-suspicious-include) */
#include "tools/say.c"       /* NOLINT(bugprone-suspicious-include) */
#include "tools/state.c"     /* NOLINT(bugprone-suspicious-include) */
#include "tools/state_dir.c" /* NOLINT(bugprone-suspicious-include) */

#define OTHER_USER 65534

static char top[64];

static int begin(void **state)
{
	(void)state;
	snprintf(top, sizeof(top), "/tmp/pageferry-state-XXXXXX");
	assert_non_null(mkdtemp(top));
	return setenv("PAGEFERRY_STATE_DIR", top, 1);
}

static int end(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", top);
	return system(command);
}

static const char *in_top(const char *file)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", top, file);
	return path;
}

static void write_file(const char *path, const char *text, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, len), len);
	close(fd);
}

static char *argv_example[] = {"-m", "256", "-append", "a \"b\" \\ \xff\n", "", NULL};
static char *added_example[] = {"-machine", "memory-backend=pageferry-ram", NULL};

static struct state example(void)
{
	struct state state = {
		.name = "vm",
		.keeper = 12,
		.keeper_start = 1ULL << 40,
		.generation = 3,
		.ram = 1ULL << 35,
		.started = 1700000000,
		.upgraded = 1800000000,
		.nprocesses = 2,
		.process = {{3, 100, 5, "/usr/bin/qemu"}, {4, 101, 6, "/opt/qemu"}},
		.argv = argv_example,
		.added = added_example,
	};

	proc_boot_id(state.boot, sizeof(state.boot));
	return state;
}

static void open_dir(struct state_dir *dir)
{
	struct why why = {""};

	if (state_dir_open(dir, "vm", true, &why))
		fail_msg("%s", why.text);
}

static void names(void **state)
{
	static const char *const bad[] = {"",    ".",   "..",  "-x",       "_x", ".x",
					  "a/b", "a b", "a\n", "\xc3\xa4", "a,b"};
	char longest[STATE_NAME_MAX + 2];

	(void)state;
	for (size_t i = 0; i < COUNT(bad); i++)
		assert_false(state_name_valid(bad[i]));
	assert_true(state_name_valid("a"));
	assert_true(state_name_valid("0.Web_1-x"));
	memset(longest, 'a', sizeof(longest));
	longest[STATE_NAME_MAX + 1] = '\0';
	assert_false(state_name_valid(longest));
	longest[STATE_NAME_MAX] = '\0';
	assert_true(state_name_valid(longest));
}

static void round_trip(void **unused)
{
	struct state written = example(), read = {0};
	struct state_dir dir;

	(void)unused;
	open_dir(&dir);
	assert_int_equal(state_read(&dir, &read), -ENOENT);
	assert_int_equal(state_write(&dir, &written), 0);
	assert_int_equal(state_read(&dir, &read), 0);
	assert_string_equal(read.name, written.name);
	assert_string_equal(read.boot, written.boot);
	assert_int_equal(read.keeper, written.keeper);
	assert_int_equal(read.keeper_start, written.keeper_start);
	assert_int_equal(read.generation, 3);
	assert_int_equal(read.ram, written.ram);
	assert_int_equal(read.started, written.started);
	assert_int_equal(read.upgraded, written.upgraded);
	assert_int_equal(read.nprocesses, 2);
	assert_int_equal(read.process[1].pid, 101);
	assert_int_equal(read.process[1].start, 6);
	assert_string_equal(read.process[1].qemu, "/opt/qemu");
	if (!read.argv || !read.added)
		abort();
	for (size_t i = 0; i < COUNT(argv_example) - 1; i++)
		assert_string_equal(read.argv[i], argv_example[i]);
	assert_null(read.argv[COUNT(argv_example) - 1]);
	assert_string_equal(read.added[1], added_example[1]);
	state_free(&read);
	state_dir_close(&dir);
}

/* Whatever is cut off or damaged is either refused or a whole state; with a sanitizer this shows
 * more. */
static void damaged(void **unused)
{
	struct state written = example(), read = {0};
	struct state_dir dir;
	char text[4096];
	ssize_t len;
	int fd, whole = 0;

	(void)unused;
	open_dir(&dir);
	assert_int_equal(state_write(&dir, &written), 0);
	fd = openat(dir.fd, "vm.json", O_RDONLY);
	len = pread(fd, text, sizeof(text), 0);
	close(fd);
	assert_true(len > 100 && len < (ssize_t)sizeof(text));
	for (ssize_t cut = 0; cut < len - 2; cut++) {
		write_file(in_top("vm/vm.json"), text, (size_t)cut);
		assert_int_equal(state_read(&dir, &read), -EPROTO);
	}
	for (ssize_t at = 0; at < len; at++) {
		char byte = text[at];

		text[at] = at & 1 ? '9' : '"';
		write_file(in_top("vm/vm.json"), text, (size_t)len);
		if (!state_read(&dir, &read)) {
			whole++;
			assert_true(read.nprocesses <= STATE_PROCESSES);
			state_free(&read);
		}
		text[at] = byte;
	}
	/* Digits within a number change its value only. */
	assert_true(whole > 5);
	state_dir_close(&dir);
}

static void hostile(void **unused)
{
	static const char *const texts[] = {
		"[]",
		"null",
		"{}",
		"{\"format\":2}",
		"{\"format\":1,\"keeper\":-1}",
		"{\"format\":1,\"keeper\":1,\"keeper_start\":0,\"generation\":1,\"ram_bytes\":1,"
		"\"started\":0,\"upgraded\":0,\"name\":\"../x\",\"boot\":\"\",\"processes\":[],"
		"\"argv\":[],\"added\":[]}",
		"{\"format\":1,\"keeper\":1,\"keeper_start\":0,\"generation\":1,\"ram_bytes\":1,"
		"\"started\":0,\"upgraded\":0,\"name\":\"x\",\"boot\":\"\",\"processes\":[{},{},{}],"
		"\"argv\":[],\"added\":[]}",
		"{\"format\":1,\"keeper\":1,\"keeper_start\":0,\"generation\":1,\"ram_bytes\":1,"
		"\"started\":0,\"upgraded\":0,\"name\":\"x\",\"boot\":\"\",\"processes\":[],"
		"\"argv\":[7],\"added\":[]}",
	};
	struct state_dir dir;
	struct state read = {0};

	(void)unused;
	open_dir(&dir);
	for (size_t i = 0; i < COUNT(texts); i++) {
		write_file(in_top("vm/vm.json"), texts[i], strlen(texts[i]));
		if (state_read(&dir, &read) != -EPROTO)
			fail_msg("taken: %s", texts[i]);
	}
	assert_int_equal(truncate(in_top("vm/vm.json"), FILE_MAX + 1), 0);
	assert_int_equal(state_read(&dir, &read), -EPROTO);
	/* Neither a link to elsewhere nor something that would be waited for. */
	unlink(in_top("vm/vm.json"));
	assert_int_equal(symlink("/etc/passwd", in_top("vm/vm.json")), 0);
	assert_int_equal(state_read(&dir, &read), -ELOOP);
	unlink(in_top("vm/vm.json"));
	assert_int_equal(mkfifo(in_top("vm/vm.json"), 0600), 0);
	assert_int_equal(state_read(&dir, &read), -EPROTO);
	state_dir_close(&dir);
}

/* A writer that is killed at any moment leaves one whole state or the other. */
static void killed_writer(void **unused)
{
	struct state state = example(), read = {0};
	struct state_dir dir;

	(void)unused;
	open_dir(&dir);
	assert_int_equal(state_write(&dir, &state), 0);
	for (int round = 0; round < 60; round++) {
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (!pid)
			for (;;) {
				state.generation = state.generation % 1000 + 1;
				state_write(&dir, &state);
			}
		for (int i = 0; i < 20 + round; i++) {
			assert_int_equal(state_read(&dir, &read), 0);
			assert_string_equal(read.process[0].qemu, "/usr/bin/qemu");
			state_free(&read);
		}
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		assert_int_equal(state_read(&dir, &read), 0);
		state_free(&read);
	}
	state_dir_close(&dir);
}

static int try_open(const char *name)
{
	struct state_dir dir;
	struct why why = {""};
	int err = state_dir_open(&dir, name, true, &why);

	if (!err)
		state_dir_close(&dir);
	else
		assert_true(strlen(why.text) > 10);
	return err;
}

static void directory_safety(void **unused)
{
	struct stat st;

	(void)unused;
	assert_int_equal(try_open("a/b"), -EINVAL);
	assert_int_equal(try_open("vm"), 0);
	assert_int_equal(stat(in_top("vm"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	/* Others may look in. */
	assert_int_equal(chmod(in_top("vm"), 0750), 0);
	assert_int_equal(try_open("vm"), -EPERM);
	assert_int_equal(rmdir(in_top("vm")), 0);
	/* A link, even to a directory that would do. */
	assert_int_equal(mkdir(in_top("real"), 0700), 0);
	assert_int_equal(symlink("real", in_top("vm")), 0);
	assert_true(try_open("vm") == -ELOOP || try_open("vm") == -ENOTDIR);
	unlink(in_top("vm"));
	write_file(in_top("vm"), "", 0);
	assert_int_equal(try_open("vm"), -ENOTDIR);
	unlink(in_top("vm"));
	/* Others may write beside. */
	assert_int_equal(chmod(top, 0770), 0);
	assert_int_equal(try_open("vm"), -EPERM);
	assert_int_equal(chmod(top, 0700), 0);
	assert_int_equal(try_open("vm"), 0);
}

static void other_owner(void **unused)
{
	(void)unused;
	if (geteuid()) {
		print_message("# skipped: only root can give a directory away\n");
		skip();
	}
	assert_int_equal(mkdir(in_top("vm"), 0700), 0);
	assert_int_equal(chown(in_top("vm"), OTHER_USER, OTHER_USER), 0);
	assert_int_equal(try_open("vm"), -EPERM);
	assert_int_equal(rmdir(in_top("vm")), 0);
	assert_int_equal(chown(top, OTHER_USER, OTHER_USER), 0);
	assert_int_equal(try_open("vm"), -EPERM);
	assert_int_equal(chown(top, geteuid(), getegid()), 0);
}

static void unfit_paths(void **unused)
{
	char path[PATH_MAX];
	size_t len;

	(void)unused;
	len = (size_t)snprintf(path, sizeof(path), "%s/a,b", top);
	assert_int_equal(setenv("PAGEFERRY_STATE_DIR", path, 1), 0);
	assert_int_equal(try_open("vm"), -EINVAL);
	memset(path + len, 'x', 80);
	path[len + 80] = '\0';
	assert_int_equal(setenv("PAGEFERRY_STATE_DIR", path, 1), 0);
	assert_int_equal(try_open("vm"), -ENAMETOOLONG);
	assert_int_equal(setenv("PAGEFERRY_STATE_DIR", "/nonexistent/x", 1), 0);
	assert_int_equal(try_open("vm"), -ENOENT);
}

static void locks(void **unused)
{
	struct state_dir first, second;

	(void)unused;
	open_dir(&first);
	open_dir(&second);
	assert_int_equal(state_dir_lock(&first), 0);
	assert_int_equal(state_dir_lock(&second), -EWOULDBLOCK);
	/* The first one removes it while the second one waits for its turn. */
	assert_int_equal(state_dir_remove(&first), 0);
	state_dir_close(&first);
	assert_int_equal(state_dir_lock(&second), -ESTALE);
	/* A third one has made it anew. */
	open_dir(&first);
	assert_int_equal(state_dir_lock(&second), -ESTALE);
	assert_int_equal(state_dir_lock(&first), 0);
	state_dir_close(&second);
	open_dir(&second);
	assert_int_equal(state_dir_lock(&second), -EWOULDBLOCK);
	state_dir_close(&first);
	assert_int_equal(state_dir_lock(&second), 0);
	state_dir_close(&second);
}

static void removes_its_own_only(void **unused)
{
	static const char *const own[] = {"vm.json",     "vm.json.new",  "ram",
					  "keeper.sock", "migrate.sock", "qmp-12.sock",
					  "self-1.sock", "qemu-2.log"};
	struct state_dir dir;
	char file[64];

	(void)unused;
	open_dir(&dir);
	for (size_t i = 0; i < COUNT(own); i++) {
		snprintf(file, sizeof(file), "vm/%s", own[i]);
		write_file(in_top(file), "", 0);
	}
	write_file(in_top("vm/notes.txt"), "", 0);
	assert_int_equal(state_dir_remove(&dir), -ENOTEMPTY);
	assert_int_equal(access(in_top("vm/notes.txt"), F_OK), 0);
	assert_int_equal(unlink(in_top("vm/notes.txt")), 0);
	assert_int_equal(state_dir_remove(&dir), 0);
	state_dir_close(&dir);
}

static void process_identity(void **unused)
{
	struct state state = example();
	uint64_t start = 0;
	int fd;

	(void)unused;
	assert_int_equal(proc_start_time(getpid(), &start), 0);
	assert_true(start > 0);
	state.process[0].pid = getpid();
	state.process[0].start = start;
	fd = state_process_open(&state, 0);
	assert_true(fd >= 0);
	close(fd);
	/* The same pid, but an earlier process; the same, but before the machine was started. */
	state.process[0].start = start - 1;
	assert_int_equal(state_process_open(&state, 0), -ESRCH);
	state.process[0].start = start;
	state.boot[0] ^= 1;
	assert_int_equal(state_process_open(&state, 0), -ESRCH);
}

static void ended_process(void **unused)
{
	pid_t pid = fork();
	uint64_t start = 0;
	int fd;

	(void)unused;
	assert_true(pid >= 0);
	if (!pid) {
		pause();
		_exit(0);
	}
	assert_int_equal(proc_start_time(pid, &start), 0);
	fd = proc_open(pid, start);
	assert_true(fd >= 0);
	assert_int_equal(proc_wait(fd, 0), -ETIMEDOUT);
	assert_int_equal(proc_signal(fd, SIGKILL), 0);
	assert_int_equal(proc_wait(fd, 10000), 0);
	/* Ended, though nobody has waited for it yet. */
	assert_int_equal(proc_open(pid, start), -ESRCH);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(proc_open(pid, start), -ESRCH);
	close(fd);
}

#define IN_TOP(test) cmocka_unit_test_setup_teardown(test, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		IN_TOP(round_trip),
		IN_TOP(damaged),
		IN_TOP(hostile),
		IN_TOP(killed_writer),
		IN_TOP(directory_safety),
		IN_TOP(other_owner),
		IN_TOP(unfit_paths),
		IN_TOP(locks),
		IN_TOP(removes_its_own_only),
		cmocka_unit_test(process_identity),
		cmocka_unit_test(ended_process),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
