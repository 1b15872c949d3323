// SPDX-License-Identifier: MIT
/*
 * pageferry probe --json under several restrictions: it parses, it is complete, and the exit status
 * is the verdict.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <json-c/json.h>
#include <libgen.h>
#include <limits.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/lib/forbid.h"

#define NOBODY     65534
#define DEADLINE_S 20

static int binary = -1; /* open, since another user may not reach its path */

static void open_binary(void)
{
	char path[PATH_MAX], *top = path;
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

	if (n < 0)
		return;
	path[n] = '\0';
	/* From build/tests/cli/probe_json to build/pageferry. */
	for (int i = 0; i < 3; i++)
		top = dirname(top);
	int dir = open(top, O_PATH | O_DIRECTORY | O_CLOEXEC);
	binary = openat(dir, "pageferry", O_RDONLY | O_CLOEXEC);
	close(dir);
}

static void must(int ok)
{
	if (!ok)
		_exit(99);
}

static void execute(void (*setup)(void), int out)
{
	char *argv[] = {"pageferry", "probe", "--json", NULL};
	char *envp[] = {NULL};

	alarm(DEADLINE_S);
	must(dup2(out, STDOUT_FILENO) >= 0);
	setup();
	fexecve(binary, argv, envp);
	_exit(98);
}

/* The object that the command prints after @setup; *status is its exit status. */
static struct json_object *probe(void (*setup)(void), int *status)
{
	static char output[65536];
	size_t len = 0;
	ssize_t n;
	int fds[2], ended;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		execute(setup, fds[1]);
	close(fds[1]);
	while ((n = read(fds[0], output + len, sizeof(output) - 1 - len)) > 0)
		len += (size_t)n;
	close(fds[0]);
	output[len] = '\0';
	assert_int_equal(waitpid(pid, &ended, 0), pid);
	assert_true(WIFEXITED(ended));
	*status = WEXITSTATUS(ended);

	enum json_tokener_error error;
	struct json_object *o = json_tokener_parse_verbose(output, &error);
	assert_int_equal(error, json_tokener_success);
	assert_non_null(o);
	return o;
}

static struct json_object *get(struct json_object *o, const char *key)
{
	struct json_object *value = NULL;

	if (!json_object_object_get_ex(o, key, &value))
		print_message("# no member %s\n", key);
	assert_true(json_object_object_get_ex(o, key, &value));
	return value;
}

static int is_ok(struct json_object *o, const char *key)
{
	return json_object_get_boolean(get(get(o, key), "ok"));
}

static const char *text(struct json_object *o, const char *key, const char *member)
{
	const char *value = json_object_get_string(get(get(o, key), member));
	return value ? value : "";
}

static void check_finding(struct json_object *o)
{
	int ok = json_object_get_boolean(get(o, "ok"));
	enum json_type type = ok ? json_type_null : json_type_string;

	assert_int_equal(json_object_get_type(get(o, "ok")), json_type_boolean);
	assert_int_equal(json_object_get_type(get(o, "errno")), type);
	assert_int_equal(json_object_get_type(get(o, "why")), type);
	assert_int_equal(json_object_get_type(get(o, "fix")), type);
	if (!ok) {
		assert_int_equal(*json_object_get_string(get(o, "errno")), 'E');
		assert_true(strlen(json_object_get_string(get(o, "why"))) > 5);
		assert_true(strlen(json_object_get_string(get(o, "fix"))) > 5);
	}
}

static void check_findings(struct json_object *o, const char *const *keys)
{
	for (; *keys; keys++)
		check_finding(get(o, *keys));
}

static void check_complete(struct json_object *o, int status)
{
	static const char *const top[] = {"userfaultfd", "move",   "wp",         "wp_async", "scan",
					  "minor",       "poison", "event_fork", "thp",      "ksm",
					  "peer_read",   "module", NULL};
	static const char *const doors[] = {"device", "syscall", "user_mode", NULL};
	static const char *const verdict[] = {"vm_upgrade", "huge_pages", "hand_over", "snapshot",
					      NULL};
	static const char *const features[] = {"PAGEFAULT_FLAG_WP",
					       "EVENT_FORK",
					       "EVENT_REMAP",
					       "EVENT_REMOVE",
					       "MISSING_HUGETLBFS",
					       "MISSING_SHMEM",
					       "EVENT_UNMAP",
					       "SIGBUS",
					       "THREAD_ID",
					       "MINOR_HUGETLBFS",
					       "MINOR_SHMEM",
					       "EXACT_ADDRESS",
					       "POISON",
					       "WP_HUGETLBFS_SHMEM",
					       "WP_UNPOPULATED",
					       "WP_ASYNC",
					       "MOVE",
					       NULL};

	check_findings(o, top);
	check_findings(get(o, "doors"), doors);
	check_findings(get(o, "features"), features);
	check_findings(get(o, "verdict"), verdict);
	assert_int_equal(json_object_object_length(get(o, "features")), 17);
	assert_memory_equal(json_object_get_string(get(o, "feature_bits")), "0", 1);
	assert_non_null(json_object_get_string(get(o, "unknown_bits")));
	assert_non_null(json_object_get_string(get(o, "ioctl_bits")));
	assert_non_null(json_object_get_string(get(o, "version")));
	assert_non_null(json_object_get_string(get(o, "kernel")));
	assert_int_equal(json_object_get_type(get(o, "user")), json_type_int);
	assert_true(*text(o, "userfaultfd", "door"));
	assert_true(*text(o, "thp", "enabled"));
	assert_true(*text(o, "ksm", "ksmd"));
	assert_true(*text(o, "peer_read", "ptrace_scope"));
	assert_int_equal(status, !is_ok(get(o, "verdict"), "vm_upgrade"));
}

static void require_root(void)
{
	if (!geteuid())
		return;
	print_message("# skipped: needs root\n");
	skip();
}

static void nothing(void)
{
}

static void be_nobody(void)
{
	must(!setgroups(0, NULL) && !setresgid(NOBODY, NOBODY, NOBODY) &&
	     !setresuid(NOBODY, NOBODY, NOBODY));
}

static void filter_errno(void)
{
	must(!forbid_syscall(SYS_userfaultfd, SECCOMP_RET_ERRNO | EPERM));
}

static void filter_kill_nobody(void)
{
	be_nobody();
	must(!forbid_syscall(SYS_userfaultfd, SECCOMP_RET_KILL_PROCESS));
}

static void filter_hide_nobody(void)
{
	be_nobody();
	must(!forbid_syscall(SYS_userfaultfd, SECCOMP_RET_ERRNO | ENOSYS));
}

static void few_descriptors(void)
{
	struct rlimit limit = {4, 4};
	must(!setrlimit(RLIMIT_NOFILE, &limit));
}

static void test_plain(void **state)
{
	int status;
	struct json_object *o = probe(nothing, &status);

	(void)state;
	check_complete(o, status);
	json_object_put(o);
}

static void test_nobody(void **state)
{
	int status;

	(void)state;
	require_root();
	struct json_object *o = probe(be_nobody, &status);
	check_complete(o, status);
	assert_int_equal(json_object_get_int(get(o, "user")), NOBODY);
	assert_string_equal(text(o, "event_fork", "errno"), "EPERM");
	json_object_put(o);
}

static void test_filter(void **state)
{
	int status;
	struct json_object *o = probe(filter_errno, &status);

	(void)state;
	check_complete(o, status);
	assert_string_equal(text(get(o, "doors"), "syscall", "errno"), "EPERM");
	assert_non_null(strstr(text(get(o, "doors"), "syscall", "why"), "seccomp"));
	assert_non_null(strstr(text(get(o, "doors"), "user_mode", "why"), "seccomp"));
	json_object_put(o);
}

static void check_no_door(struct json_object *o, int status)
{
	check_complete(o, status);
	if (is_ok(get(o, "doors"), "device")) {
		print_message("# skipped: /dev/userfaultfd is open to all\n");
		json_object_put(o);
		skip();
	}
	assert_int_equal(status, 1);
	assert_string_equal(text(o, "userfaultfd", "door"), "none");
	assert_string_equal(text(o, "move", "why"), "there is no userfaultfd");
	assert_false(is_ok(get(o, "verdict"), "hand_over"));
	json_object_put(o);
}

static void test_filter_that_kills(void **state)
{
	int status;

	(void)state;
	require_root();
	struct json_object *o = probe(filter_kill_nobody, &status);
	assert_string_equal(text(get(o, "doors"), "user_mode", "errno"), "EPERM");
	check_no_door(o, status);
}

static void test_filter_that_hides(void **state)
{
	int status;

	(void)state;
	require_root();
	struct json_object *o = probe(filter_hide_nobody, &status);
	assert_string_equal(text(get(o, "doors"), "user_mode", "errno"), "ENOSYS");
	check_no_door(o, status);
}

static void test_few_descriptors(void **state)
{
	int status;
	struct json_object *o = probe(few_descriptors, &status);

	(void)state;
	check_complete(o, status);
	json_object_put(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),
		cmocka_unit_test(test_nobody),
		cmocka_unit_test(test_filter),
		cmocka_unit_test(test_filter_that_kills),
		cmocka_unit_test(test_filter_that_hides),
		cmocka_unit_test(test_few_descriptors),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	open_binary();
	if (binary < 0) {
		puts("Bail out! the pageferry command is not built");
		return 1;
	}
	return cmocka_run_group_tests_name("probe_json", tests, NULL, NULL);
}
