// SPDX-License-Identifier: MIT
/* needs: userfaultfd */
/*
 * examples/kv replaces its own program under load: no request is lost or answered wrongly, no
 * connection ends, nothing is left over; and when the new program isn't up to it, the old one
 * carries on.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "pageferry.h"
#include "tests/cli/kv_server.h"

#define BULK_KEYS 48000u      /* times 1 KiB */
#define SLACK     (16l << 10) /* KiB of resident memory */

static char folder[] = "/tmp/kv-test.XXXXXX";
static char build[PATH_MAX];
static char program[sizeof(folder) + 8]; /* what the server starts when it is told to upgrade */
static pid_t server;
static int control, messages;
static char said[4096]; /* by the servers, on stderr, since the last upgrade */
static unsigned int upgrades;
static long small_kib;
static unsigned int server_fds;
static struct load clients;

/* ---- the program on disk */

/* A symbolic link: a server starts what it was started as. */
static void program_is(const char *name)
{
	char target[PATH_MAX + 32], new[sizeof(program) + 4];

	snprintf(target, sizeof(target), "%s/%s", build, name);
	snprintf(new, sizeof(new), "%s.new", program);
	assert_return_code(access(target, X_OK), errno);
	assert_return_code(symlink(target, new), errno);
	assert_return_code(rename(new, program), errno);
}

static void program_is_script(const char *text)
{
	char new[sizeof(program) + 4];

	snprintf(new, sizeof(new), "%s.new", program);
	int fd = open(new, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
	assert_return_code(fd, errno);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	assert_return_code(rename(new, program), errno);
}

static void program_parks_at(const char *point)
{
	char text[PATH_MAX + 128];

	snprintf(text, sizeof(text),
		 "#!/bin/sh\nPAGEFERRY_PARK=%s exec %s/park/examples/kv \"$@\"\n", point, build);
	program_is_script(text);
}

/* ---- processes */

/* Fills in what /proc/PID/stat says; false: there is no such process. */
static bool stat_of(pid_t pid, char *state, pid_t *parent)
{
	char path[64], line[512] = "";

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	FILE *f = fopen(path, "re");
	if (!f)
		return false;
	bool got = fgets(line, sizeof(line), f) != NULL;
	fclose(f);
	const char *end = strrchr(line, ')');
	return got && end && sscanf(end + 1, " %c %d", state, parent) == 2;
}

/* How many children has @parent, and one of them. Zombies count: whoever has them should reap. */
static unsigned int children_of(pid_t parent, pid_t *child, char *state)
{
	DIR *dir = opendir("/proc");
	unsigned int n = 0;

	assert_non_null(dir);
	for (struct dirent *d; (d = readdir(dir));) {
		pid_t pid = atoi(d->d_name), its_parent = 0;
		char its_state = 0;
		if (pid <= 0 || !stat_of(pid, &its_state, &its_parent) || its_parent != parent)
			continue;
		*child = pid;
		*state = its_state;
		n++;
	}
	closedir(dir);
	return n;
}

static unsigned int fds_of(pid_t pid)
{
	char path[64];
	unsigned int n = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	DIR *dir = opendir(path);
	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static long resident_kib(pid_t pid)
{
	char path[64], line[256];
	long kib = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	FILE *f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, "RssAnon:", 8))
			kib = atol(line + 8);
	fclose(f);
	return kib;
}

/* ---- the server */

static void listen_to_messages(void)
{
	server_says(messages, said, sizeof(said));
}

/* On a connection that lives as long as the test. */
static void ask(const char *request, char *answer, size_t size)
{
	int ret = server_ask(control, request, answer, size);

	if (ret) {
		listen_to_messages();
		fail_msg("no answer: %s; said: %s", strerror(-ret), said);
	}
}

/* Who answers, and how many upgrades does it know of? */
static pid_t ask_info(unsigned int *count)
{
	char answer[128];
	int pid = 0;

	ask("info\n", answer, sizeof(answer));
	assert_int_equal(sscanf(answer, "pid %d upgrades %u", &pid, count), 2);
	return pid;
}

static bool has_ended(void *status)
{
	return waitpid(server, status, WNOHANG) == server;
}

static bool carries_on(void *arg)
{
	listen_to_messages();
	return strstr(said, "carries on\n") || has_ended(arg);
}

/*
 * Whatever else the versions have started comes to us when they end: the leak checker's process,
 * for one, ends a little later than a version that was killed.
 */
static bool no_orphans(void *arg)
{
	siginfo_t info = {0};
	pid_t child = 0;
	char state = 0;

	(void)arg;
	if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0 && info.si_pid &&
	    info.si_pid != server)
		waitpid(info.si_pid, NULL, __WALL);
	return children_of(getpid(), &child, &state) == 1 && child == server;
}

static void check_alone(void)
{
	pid_t child = 0;
	char state = 0;

	assert_int_equal(children_of(server, &child, &state), 0);
	load_until(&clients, no_orphans, NULL, "no other process");
}

static void ask_for_upgrade(void)
{
	said[0] = 0;
	assert_return_code(kill(server, SIGUSR2), errno);
}

/* The old version exits when all has arrived; the new one is our child from then on. */
static void old_version_ends(void)
{
	int status = 0;

	load_until(&clients, has_ended, &status, "the end of the old version");
	listen_to_messages();
	assert_string_equal(said, "");
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void new_version_serves(void)
{
	unsigned int count = 0;
	pid_t pid = ask_info(&count);

	assert_int_not_equal(pid, server);
	assert_int_equal(count, ++upgrades);
	server = pid;
	check_alone();
}

static void upgrade(void)
{
	ask_for_upgrade();
	old_version_ends();
	new_version_serves();
}

static void old_version_carries_on(const char *reason)
{
	unsigned int count = 0;
	int status = 0;

	load_until(&clients, carries_on, &status, "the old version's word");
	if (!strstr(said, "carries on\n") || !strstr(said, reason))
		fail_msg("status 0x%x, said: %s", (unsigned int)status, said);
	assert_int_equal(ask_info(&count), server);
	assert_int_equal(count, upgrades);
	check_alone();
}

static bool successor_is_parked(void *pid)
{
	char state = 0;
	return children_of(server, pid, &state) == 1 && state == 'T';
}

static bool some_more_answers(void *goal)
{
	return clients.answers >= *(unsigned long *)goal;
}

static void serve_some_more(void)
{
	unsigned long goal = clients.answers + 5000;
	load_until(&clients, some_more_answers, &goal, "5000 answers");
}

/* The new version closes the hand-over once all has arrived, at its next round. */
static bool fds_are_back(void *arg)
{
	(void)arg;
	return fds_of(server) == server_fds;
}

/* ---- the tests */

static void test_serves(void **state)
{
	(void)state;
	serve_some_more();
	load_pause(&clients);
	load_check_all(&clients);
	server_fds = fds_of(server);
	small_kib = resident_kib(server);
	load_resume(&clients);
}

static void test_five_upgrades(void **state)
{
	(void)state;
	clients.took = (struct hist){0};
	for (int i = 0; i < 5; i++) {
		upgrade();
		serve_some_more();
	}
	load_print_times(&clients, "upgrades");
	assert_true(resident_kib(server) < small_kib + SLACK);
}

static void test_five_larger_upgrades(void **state)
{
	(void)state;
	load_pause(&clients);
	load_bulk(&clients, 0, BULK_KEYS, true);
	load_resume(&clients);
	clients.took = (struct hist){0};
	for (int i = 0; i < 5; i++) {
		upgrade();
		serve_some_more();
	}
	load_print_times(&clients, "upgrades");
	load_pause(&clients);
	load_bulk(&clients, 0, BULK_KEYS, false);
	load_resume(&clients);
	assert_true(resident_kib(server) < small_kib + (long)BULK_KEYS + SLACK);
}

static void test_half_a_line(void **state)
{
	char answer[128];

	(void)state;
	ask("set half 1\n", answer, sizeof(answer));
	assert_int_equal(send(control, "incr ha", 7, MSG_NOSIGNAL), 7);
	ask_for_upgrade();
	old_version_ends();
	ask("lf\n", answer, sizeof(answer));
	assert_string_equal(answer, "= 2\n");
	new_version_serves();
}

static void read_all(int fd, char *to, size_t len)
{
	for (size_t have = 0; have < len;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		assert_int_equal(poll(&p, 1, LOAD_DEADLINE), 1);
		ssize_t n = recv(fd, to + have, len - have, 0);
		assert_true(n > 0);
		have += (size_t)n;
	}
}

/* A client that doesn't read: more answers than the kernel keeps for it wait in the server. */
static void test_unread_answers(void **state)
{
	enum { N = 8000 };
	char request[LOAD_VALUE + 32], value[LOAD_VALUE + 1], want[LOAD_VALUE + 8],
		got[sizeof(want)];

	(void)state;
	memset(value, 'v', LOAD_VALUE);
	value[LOAD_VALUE] = 0;
	snprintf(want, sizeof(want), "= %s\n", value);
	snprintf(request, sizeof(request), "set long %s\n", value);
	ask(request, got, sizeof(got));
	int fd = load_connect(clients.port, 65536);
	for (int i = 0; i < N; i++)
		assert_int_equal(send(fd, "get long\n", 9, MSG_DONTWAIT | MSG_NOSIGNAL), 9);
	upgrade();
	for (int i = 0; i < N; i++) {
		read_all(fd, got, strlen(want));
		assert_memory_equal(got, want, strlen(want));
	}
	close(fd);
}

static void test_nothing_is_left(void **state)
{
	(void)state;
	load_pause(&clients);
	check_alone();
	load_until(&clients, fds_are_back, NULL, "descriptors closed");
	load_resume(&clients);
}

static void test_no_new_version(void **state)
{
	(void)state;
	assert_return_code(unlink(program), errno);
	ask_for_upgrade();
	old_version_carries_on("No such file");
	program_is_script("#!/bin/sh\nexit 3\n");
	ask_for_upgrade();
	old_version_carries_on("Broken pipe");
	program_is_script(
		"#!/bin/bash\necho here is somebody who is no taker >&\"$3\"; exec sleep 60\n");
	ask_for_upgrade();
	old_version_carries_on("Protocol error");
}

static void test_other_layout(void **state)
{
	(void)state;
	program_is("park/examples/kv2");
	ask_for_upgrade();
	old_version_carries_on("Operation canceled");
	assert_non_null(strstr(said, "cannot start: Operation not supported"));
}

static void test_killed_new_version(void **state)
{
	static const char *const points[] = {"take.offer", "take.attach", "take.shadow",
					     "take.ready", "take.commit"};

	(void)state;
	for (size_t i = 0; i < COUNT(points); i++) {
		pid_t pid = 0;
		print_message("# killed at %s\n", points[i]);
		program_parks_at(points[i]);
		ask_for_upgrade();
		load_until(&clients, successor_is_parked, &pid, "parked");
		assert_return_code(kill(pid, SIGKILL), errno);
		old_version_carries_on("");
		serve_some_more();
	}
}

/* Parked versions are never let go on: an old one that waits less long runs from here on. */
static void test_late_new_version(void **state)
{
	(void)state;
	program_is("park/examples/kv");
	upgrade();
	program_is_script("#!/bin/sh\nexec sleep 60\n");
	ask_for_upgrade();
	old_version_carries_on("");
	program_parks_at("take.offer");
	ask_for_upgrade();
	old_version_carries_on("");
	program_parks_at("take.commit");
	ask_for_upgrade();
	old_version_carries_on("Connection timed out");
}

static void test_still_upgrades(void **state)
{
	(void)state;
	program_is("examples/kv");
	upgrade();
	load_pause(&clients);
	load_check_all(&clients);
	load_bulk(&clients, 0, BULK_KEYS, false);
	load_until(&clients, fds_are_back, NULL, "descriptors closed");
}

/* ---- begin and end */

static int group_begin(void **state)
{
	uint16_t port;

	(void)state;
	find_build(build, sizeof(build));
	assert_non_null(mkdtemp(folder));
	snprintf(program, sizeof(program), "%s/kv", folder);
	program_is("examples/kv");
	assert_return_code(prctl(PR_SET_CHILD_SUBREAPER, 1), errno);
	server = server_start(program, NULL, &port, &messages);
	if (!port) {
		listen_to_messages();
		print_message("# the server doesn't start: %s\n", said);
		return -1;
	}
	control = load_connect(port, 0);
	load_begin(&clients, port);
	return 0;
}

/* After a test that has failed there may be a parked version: the server's end makes it ours. */
static int group_end(void **state)
{
	pid_t pid = 0;
	char ignored;

	(void)state;
	if (clients.port)
		load_end(&clients);
	while (children_of(getpid(), &pid, &ignored)) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, __WALL);
	}
	unlink(program);
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_serves),
		cmocka_unit_test(test_five_upgrades),
		cmocka_unit_test(test_half_a_line),
		cmocka_unit_test(test_unread_answers),
		cmocka_unit_test(test_five_larger_upgrades),
		cmocka_unit_test(test_nothing_is_left),
		cmocka_unit_test(test_no_new_version),
		cmocka_unit_test(test_other_layout),
		cmocka_unit_test(test_killed_new_version),
		cmocka_unit_test(test_late_new_version),
		cmocka_unit_test(test_still_upgrades),
	};
	int uffd = ferry_uffd_open(0, FERRY_UFFD_KERNEL_FAULTS);

	if (uffd < 0) {
		printf("1..0 # SKIP no userfaultfd: %s\n", strerror(-uffd));
		return 0;
	}
	close(uffd);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("kv", tests, group_begin, group_end);
}
