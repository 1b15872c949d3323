// SPDX-License-Identifier: MIT
/* needs: userfaultfd */
/*
 * examples/kv saves its store under load, by a snapshot and by fork: what is in the file is the
 * store of the moment that was asked for, no request is lost or answered wrongly meanwhile, and a
 * file is whole or isn't there.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "pageferry.h"
#include "tests/cli/kv_server.h"

#define BULK_KEYS 24000u /* times 1 KiB */
#define SAVES     24u    /* in each way */
#define CUTS      16u

static char folder[] = "/tmp/kv-save-test.XXXXXX";
static char program[PATH_MAX + 32], file[64], aside[64], first[64], second[64];
static pid_t server;
static int control, messages;
static char said[4096];
static struct load clients;
static unsigned int saved, unsaved;
static unsigned long marks;

/* ---- the server */

static void ask(const char *request, const char *due)
{
	char answer[256], line[64];

	snprintf(line, sizeof(line), "%s\n", request);
	assert_int_equal(server_ask(control, line, answer, sizeof(answer)), 0);
	answer[strcspn(answer, "\n")] = 0;
	assert_string_equal(answer, due);
}

static void ask_info(unsigned int *ok, unsigned int *failed)
{
	char answer[256];

	assert_int_equal(server_ask(control, "info\n", answer, sizeof(answer)), 0);
	const char *counts = strstr(answer, "saved ");
	assert_non_null(counts);
	assert_int_equal(sscanf(counts, "saved %u unsaved %u", ok, failed), 2);
}

static void start(const char *from)
{
	uint16_t port;

	said[0] = 0;
	server = server_start(program, from, &port, &messages);
	if (!port) {
		server_says(messages, said, sizeof(said));
		fail_msg("the server doesn't start: %s", said);
	}
	control = load_connect(port, 0);
	load_begin(&clients, port);
	load_pause(&clients);
	saved = unsaved = 0;
}

static void stop(int signal)
{
	load_end(&clients);
	close(control);
	close(messages);
	assert_return_code(kill(server, signal), errno);
	assert_int_equal(waitpid(server, NULL, 0), server);
	server = 0;
}

/* Accounts all over the store, between the rest. */
static void fill(void)
{
	char request[32];

	for (unsigned int i = 0; i < LOAD_ACCOUNTS; i++) {
		snprintf(request, sizeof(request), "set a%u 0", i);
		ask(request, "ok");
		load_bulk(&clients, i * (BULK_KEYS / LOAD_ACCOUNTS),
			  (i + 1) * (BULK_KEYS / LOAD_ACCOUNTS), true);
	}
}

/* ---- saving */

/* What ends the way to the file, as seen from outside: it is another one than it was. */
static bool is_other_file(void *before)
{
	struct stat st;

	return stat(file, &st) == 0 && st.st_ino != *(ino_t *)before;
}

static ino_t file_now(void)
{
	struct stat st;
	return stat(file, &st) == 0 ? st.st_ino : 0;
}

static bool server_knows(void *arg)
{
	unsigned int ok, failed;

	(void)arg;
	ask_info(&ok, &failed);
	return ok == saved && failed == unsaved;
}

/* The mark is set right before, and again right after: that is where the moment lies. */
static void save(const char *way)
{
	char request[32], due[32];
	ino_t before = file_now();

	snprintf(due, sizeof(due), "= %lu", ++marks);
	ask("incr mark", due);
	snprintf(request, sizeof(request), "save %s", way);
	ask(request, "saving");
	snprintf(due, sizeof(due), "= %lu", ++marks);
	ask("incr mark", due);
	saved++;
	load_until(&clients, is_other_file, &before, "the file");
	load_until(&clients, server_knows, NULL, "the end of saving");
	assert_int_not_equal(access(aside, F_OK), 0);
}

static bool some_more_answers(void *goal)
{
	return clients.answers >= *(unsigned long *)goal;
}

static void serve_some_more(unsigned long n)
{
	unsigned long goal = clients.answers + n;
	load_until(&clients, some_more_answers, &goal, "more answers");
}

/* ---- what is in a file, as a fresh server says */

struct audit {
	pid_t pid;
	int sock, messages;
	uint16_t port;
};

static struct audit audit_begin(const char *name)
{
	struct audit a;

	a.pid = server_start(program, name, &a.port, &a.messages);
	assert_int_not_equal(a.port, 0);
	a.sock = load_connect(a.port, 0);
	return a;
}

static void audit_end(const struct audit *a)
{
	close(a->sock);
	close(a->messages);
	kill(a->pid, SIGTERM);
	assert_int_equal(waitpid(a->pid, NULL, 0), a->pid);
}

static long audit_number(const struct audit *a, const char *key)
{
	char request[32], answer[256];

	snprintf(request, sizeof(request), "get %s\n", key);
	assert_int_equal(server_ask(a->sock, request, answer, sizeof(answer)), 0);
	assert_memory_equal(answer, "= ", 2);
	return strtol(answer + 2, NULL, 10);
}

static long audit_sum(const struct audit *a)
{
	char key[16];
	long sum = 0;

	for (unsigned int i = 0; i < LOAD_ACCOUNTS; i++) {
		snprintf(key, sizeof(key), "a%u", i);
		sum += audit_number(a, key);
	}
	return sum;
}

static void audit_bulk(const struct audit *a)
{
	static struct load load;

	load_begin(&load, a->port);
	load_pause(&load);
	load_bulk(&load, 0, BULK_KEYS, false);
	load_end(&load);
}

static void audit(const char *name, long mark)
{
	struct audit a = audit_begin(name);
	long sum = audit_sum(&a);

	if (sum)
		fail_msg("torn: the sum is off by %ld", sum);
	assert_int_equal(audit_number(&a, "mark"), mark);
	audit_bulk(&a);
	audit_end(&a);
}

static bool has_ended(void *pid)
{
	return waitpid(*(pid_t *)pid, NULL, WNOHANG) == *(pid_t *)pid;
}

static bool new_version(void *pid)
{
	char answer[256];

	assert_int_equal(server_ask(control, "info\n", answer, sizeof(answer)), 0);
	assert_int_equal(sscanf(answer, "pid %d ", (pid_t *)pid), 1);
	return true;
}

/* ---- the tests */

static void save_many(const char *way)
{
	unsigned long before, during = 0;

	load_resume(&clients);
	serve_some_more(2000);
	clients.took = (struct hist){0};
	for (unsigned int i = 0; i < SAVES; i++) {
		before = clients.answers;
		save(way);
		during += clients.answers - before;
		load_pause(&clients);
		audit(file, (long)marks - 1);
		load_resume(&clients);
		serve_some_more(200);
	}
	print_message("# %u times, %lu requests answered meanwhile\n", SAVES, during);
	load_print_times(&clients, way);
	load_pause(&clients);
	load_check_all(&clients);
	assert_true(during > SAVES);
}

static void test_without(void **state)
{
	(void)state;
	load_resume(&clients);
	clients.took = (struct hist){0};
	serve_some_more(20000);
	load_print_times(&clients, "nothing saved");
	load_pause(&clients);
}

static void test_snapshot(void **state)
{
	(void)state;
	save_many("snapshot");
}

static void test_fork(void **state)
{
	(void)state;
	save_many("fork");
}

static char *read_file(const char *name, size_t *len)
{
	struct stat st;
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	assert_return_code(fd, errno);
	assert_return_code(fstat(fd, &st), errno);
	*len = (size_t)st.st_size;
	char *mem = allocate(*len);
	assert_int_equal(read(fd, mem, *len), *len);
	close(fd);
	return mem;
}

static void write_file(const char *name, const char *mem, size_t len)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_return_code(fd, errno);
	assert_int_equal(write(fd, mem, len), len);
	close(fd);
}

/* A file of two moments, cut anywhere: the same check sees it. */
static void test_torn(void **state)
{
	unsigned int caught = 0;
	size_t len, len2;

	(void)state;
	load_resume(&clients);
	save("snapshot");
	assert_return_code(rename(file, first), errno);
	serve_some_more(20000);
	save("snapshot");
	load_pause(&clients);
	char *old = read_file(first, &len), *new = read_file(file, &len2);
	assert_int_equal(len, len2);
	for (unsigned int i = 1; i <= CUTS; i++) {
		memcpy(new, old, len / (CUTS + 1) * i);
		write_file(second, new, len);
		struct audit a = audit_begin(second);
		caught += audit_sum(&a) != 0;
		audit_end(&a);
	}
	free(old);
	free(new);
	print_message("# %u of %u are caught\n", caught, CUTS);
	assert_true(caught > CUTS / 2);
}

static void assert_refused(const char *name, const char *why)
{
	uint16_t port;
	int status, news;

	said[0] = 0;
	pid_t pid = server_start(program, name, &port, &news);
	if (port)
		kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	server_says(news, said, sizeof(said));
	close(news);
	assert_int_equal(port, 0);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 1);
	assert_non_null(strstr(said, why));
}

/* Spoil a saved file, byte by byte where it matters. */
static void test_spoiled(void **state)
{
	static const char why[] = "was not saved by this version";
	const size_t entries = 40, next = 8, entry = 1024; /* struct store, struct entry */
	size_t len;

	(void)state;
	char *mem = read_file(file, &len);
	const struct {
		size_t at, len;
		int byte;
	} spoil[] = {
		{9, 1, '9'},                         /* another layout */
		{32, 1, mem[32] + 4},                /* more entries */
		{34, 2, 0xff},                       /* far more */
		{entries + next, 64 + 952, 'x'},     /* a key without end */
		{entries + next + 64, 952, 'x'},     /* a value without end */
		{entries + next + 64, 1, '\n'},      /* what no client can send */
		{entries + entry + next, 64, 0},     /* the same key ... */
		{entries + 2 * entry + next, 64, 0}, /* ... twice */
	};
	for (size_t i = 0; i < COUNT(spoil); i++) {
		char *bad = read_file(file, &len);
		memset(bad + spoil[i].at, spoil[i].byte, spoil[i].len);
		if (i + 1 == COUNT(spoil))
			memset(bad + spoil[i - 1].at, 0, spoil[i - 1].len);
		write_file(second, bad, len);
		free(bad);
		if (i + 2 != COUNT(spoil))
			assert_refused(second, why);
	}
	write_file(second, mem, len - PAGE);
	assert_refused(second, why);
	write_file(second, mem, 100);
	assert_refused(second, why);
	/* A pointer in the file is not followed. */
	memset(mem + entries, 0x41, next);
	write_file(second, mem, len);
	struct audit a = audit_begin(second);
	assert_int_equal(audit_sum(&a), 0);
	audit_end(&a);
	free(mem);
	assert_refused(folder, "Is a directory");
}

static void test_refuses(void **state)
{
	struct audit a = audit_begin(NULL);
	char answer[256];

	(void)state;
	assert_int_equal(server_ask(a.sock, "save fork\n", answer, sizeof(answer)), 0);
	assert_string_equal(answer, "error: No such file or directory\n");
	audit_end(&a);
	ask("save", "error: set KEY VALUE, get KEY, incr KEY, move KEY KEY, save WAY or info");
	ask("save otherwise", "error: save fork or save snapshot");
	assert_int_equal(server_ask(control, "save snapshot\nsave fork\n", answer, sizeof(answer)),
			 0);
	assert_string_equal(answer, "saving\nerror: Device or resource busy\n");
	saved++;
	load_until(&clients, server_knows, NULL, "the end of saving");
}

/* Where the file should be is a folder: nothing aside is left, and it goes on. */
static void test_fails(void **state)
{
	(void)state;
	assert_return_code(unlink(file), errno);
	assert_return_code(mkdir(file, 0700), errno);
	ask("save snapshot", "saving");
	unsaved++;
	load_until(&clients, server_knows, NULL, "the end of saving");
	ask("save fork", "saving");
	unsaved++;
	load_until(&clients, server_knows, NULL, "the end of saving");
	server_says(messages, said, sizeof(said));
	assert_non_null(strstr(said, "is not saved: Is a directory"));
	assert_int_not_equal(access(aside, F_OK), 0);
	assert_return_code(rmdir(file), errno);
	load_resume(&clients);
	save("snapshot");
	save("fork");
	load_pause(&clients);
}

/* Asked for while it saves, an upgrade comes after it; and the new version can save, too. */
static void test_upgraded(void **state)
{
	pid_t old = server;
	int status = 0;

	(void)state;
	load_resume(&clients);
	for (unsigned int i = 0; i < 4; i++) {
		ino_t before = file_now();
		ask(i % 2 ? "save fork" : "save snapshot", "saving");
		saved++;
		assert_return_code(kill(old, SIGUSR2), errno);
		load_until(&clients, is_other_file, &before, "the file");
		load_until(&clients, has_ended, &old, "the end of the old version");
		load_until(&clients, new_version, &server, "the new version");
		old = server;
		assert_true(server_knows(NULL));
	}
	save("snapshot");
	save("fork");
	load_pause(&clients);
	load_check_all(&clients);
	audit(file, (long)marks - 1);
	assert_int_equal(waitpid(server, &status, WNOHANG), 0);
}

/* Killed in the middle: the file is the old one or the new one, and what is left aside does no
 * harm. */
static void test_killed(void **state)
{
	unsigned long old = marks - 1;

	(void)state;
	for (unsigned int i = 0; i < 8; i++) {
		char due[32];
		snprintf(due, sizeof(due), "= %lu", ++marks);
		ask("incr mark", due);
		ask(i % 2 ? "save fork" : "save snapshot", "saving");
		usleep(i * 2000);
		stop(SIGKILL);
		start(file);
		struct audit a = {.sock = control, .port = clients.port};
		long mark = audit_number(&a, "mark");
		assert_in_range(mark, old, marks);
		assert_int_equal(audit_sum(&a), 0);
		audit_bulk(&a);
		old = marks = (unsigned long)mark;
	}
	save("snapshot");
	audit(file, (long)marks - 1);
}

static int group_begin(void **state)
{
	char build[PATH_MAX];

	(void)state;
	find_build(build, sizeof(build));
	snprintf(program, sizeof(program), "%s/examples/kv", build);
	assert_non_null(mkdtemp(folder));
	snprintf(file, sizeof(file), "%s/file", folder);
	snprintf(aside, sizeof(aside), "%s/file.new", folder);
	snprintf(first, sizeof(first), "%s/first", folder);
	snprintf(second, sizeof(second), "%s/second", folder);
	assert_return_code(prctl(PR_SET_CHILD_SUBREAPER, 1), errno);
	start(file);
	fill();
	return 0;
}

static int group_end(void **state)
{
	(void)state;
	if (server)
		kill(server, SIGKILL);
	while (wait(NULL) > 0)
		;
	unlink(file);
	rmdir(file);
	unlink(aside);
	unlink(first);
	unlink(second);
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_without), cmocka_unit_test(test_snapshot),
		cmocka_unit_test(test_fork),    cmocka_unit_test(test_torn),
		cmocka_unit_test(test_spoiled), cmocka_unit_test(test_refuses),
		cmocka_unit_test(test_fails),   cmocka_unit_test(test_upgraded),
		cmocka_unit_test(test_killed),
	};
	int uffd = ferry_uffd_open(0, FERRY_UFFD_KERNEL_FAULTS);

	if (uffd < 0) {
		printf("1..0 # SKIP no userfaultfd: %s\n", strerror(-uffd));
		return 0;
	}
	close(uffd);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("kv_save", tests, group_begin, group_end);
}
