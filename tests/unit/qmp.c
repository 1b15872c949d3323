/* SPDX-License-Identifier: MIT */
/* The QMP client against servers that behave, and others. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/test.h"
#include "tools/json_get.c" /* NOLINT(bugprone-suspicious-include) */
#include "tools/qmp.c"      /* NOLINT(bugprone-suspicious-include) */
#include "tools/say.c"      /* NOLINT(bugprone-suspicious-include) */

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"
#define READY    GREETING "{\"return\": {}, \"id\": 1}\r\n"
#define EVENT    "{\"timestamp\": {\"seconds\": 12, \"microseconds\": 34}, \"event\": \"STOP\"}\r\n"

/* Deeper than anything that QEMU says. */
#define OPEN40  "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
#define CLOSE40 "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]"

static char path[64];

static int begin(void **state)
{
	(void)state;
	snprintf(path, sizeof(path), "/tmp/pageferry-qmp-%d", (int)getpid());
	unlink(path);
	return 0;
}

static int end(void **state)
{
	(void)state;
	unlink(path);
	return 0;
}

static int listen_there(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 1), 0);
	return fd;
}

static void send_all(int fd, const char *text, size_t chunk)
{
	size_t len = strlen(text);

	while (len) {
		size_t n = len < chunk ? len : chunk;

		if (send(fd, text, n, MSG_NOSIGNAL) != (ssize_t)n)
			_exit(0);
		text += n;
		len -= n;
	}
}

/* A server that says @text, whatever it is told, @times over, and then listens until the end. */
static pid_t serve(const char *text, size_t times, bool hang_up)
{
	size_t len = strlen(text) * times;
	char *said = allocate(len + 1);
	int listener = listen_there();
	pid_t pid;
	char heard[256];
	int fd;

	for (size_t i = 0; i < times; i++)
		memcpy(said + i * strlen(text), text, strlen(text));
	pid = fork();
	assert_true(pid >= 0);
	if (pid) {
		close(listener);
		free(said);
		return pid;
	}
	alarm(30);
	fd = accept(listener, NULL, NULL);
	said[len] = '\0';
	send_all(fd, said, len + 1);
	while (!hang_up && recv(fd, heard, sizeof(heard), 0) > 0)
		;
	_exit(0);
}

static struct qmp *open_it(void)
{
	struct qmp *qmp = NULL;
	int err = qmp_open(&qmp, path, 0);

	assert_int_equal(err, 0);
	if (!qmp)
		abort();
	return qmp;
}

static int open_error(void)
{
	struct qmp *qmp = NULL;
	int err = qmp_open(&qmp, path, 0);

	qmp_close(qmp);
	return err;
}

/* What qmp_call() says to such a server. */
static int call(const char *text, size_t times, bool hang_up, struct why *why)
{
	pid_t pid = serve(text, times, hang_up);
	struct json_object *value = NULL;
	struct qmp *qmp;
	int err;

	qmp = open_it();
	err = qmp_call(qmp, "query-status", NULL, 1000, &value, why);
	json_object_put(value);
	qmp_close(qmp);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	unlink(path);
	return err;
}

static void nobody_there(void **state)
{
	(void)state;
	assert_int_equal(open_error(), -ENOENT);
	close(listen_there());
	assert_int_equal(open_error(), -ECONNREFUSED);
}

/* The answer may come only after the question: a server with a mind. */
static void question_and_answer(void **state)
{
	int listener = listen_there();
	struct json_object *value = NULL;
	struct qmp_event event = {0};
	struct qmp *qmp;
	struct why why;
	char heard[512];
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (!pid) {
		static const char answer[] = EVENT
			"{\"return\": {\"status\": \"running\"}, \"id\": "
			"2}\r\n" EVENT;
		int fd = accept(listener, NULL, NULL);

		alarm(30);
		send_all(fd, GREETING, 3);
		if (recv(fd, heard, sizeof(heard), 0) <= 0)
			_exit(1);
		send_all(fd, "{\"return\": {}, \"id\": 1}\n", 5);
		if (recv(fd, heard, sizeof(heard) - 1, 0) <= 0 || !strstr(heard, "query-status"))
			_exit(1);
		send_all(fd, answer, 1);
		if (recv(fd, heard, sizeof(heard), 0) <= 0)
			_exit(1);
		send_all(fd, "{\"error\": {\"desc\": \"not\\nnow\"}, \"id\": 3}\n", 9);
		_exit(recv(fd, heard, sizeof(heard), 0) != 0);
	}
	close(listener);
	qmp = open_it();
	assert_int_equal(qmp_peer(qmp), getpid());
	assert_int_equal(qmp_call(qmp, "query-status", NULL, 5000, &value, &why), 0);
	assert_string_equal(json_get_string(value, "status"), "running");
	json_object_put(value);
	assert_true(qmp_next_event(qmp, &event));
	assert_string_equal(event.name, "STOP");
	assert_int_equal(event.time_us, 12000034);
	assert_int_equal(qmp_call(qmp, "cont", json_object_new_object(), 5000, NULL, &why),
			 -EREMOTEIO);
	assert_string_equal(why.text, "QEMU says: not now");
	qmp_close(qmp);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void misbehaves(void **state)
{
	static const struct {
		const char *text;
		size_t times;
		bool hang_up;
		int err;
	} servers[] = {
		{"", 0, false, -ETIMEDOUT},
		{"", 0, true, -EPIPE},
		{GREETING, 1, true, -EPIPE},
		{GREETING, 1, false, -ETIMEDOUT},
		{"hello\n", 1, false, -EPROTO},
		{"{}\n", 1, false, -EPROTO},
		{"[]\n", 1, false, -EPROTO},
		{"\n", 1, false, -EPROTO},
		{"{\"QMP\": 1}\n", 1, false, -EPROTO},
		{"{\"QMP\": {}} x\n", 1, false, -EPROTO},
		{GREETING GREETING, 1, false, -EPROTO},
		{GREETING "{\"return\": {}, \"id\": 7}\n", 1, false, -EPROTO},
		{GREETING "{\"return\": {}}\n", 1, false, -EPROTO},
		{GREETING "{\"error\": {}, \"id\": 1}\n", 1, false, -EPROTO},
		{READY, 1, false, -ETIMEDOUT},
		{READY "{\"return\": {}, \"id\": 2}\n", 1, false, -EPROTO},
		/* A line without an end, nesting without an end, events without an end. */
		{"x", 5 << 20, false, -EPROTO},
		{"{\"a\":", 1 << 20, false, -EPROTO},
		{"[", 5 << 20, false, -EPROTO},
		{"{\"QMP\": {\"a\": " OPEN40 CLOSE40 "}}\n", 1, false, -EPROTO},
		{EVENT, 1000, false, -EPROTO},
	};
	struct why why;

	(void)state;
	for (size_t i = 0; i < sizeof(servers) / sizeof(servers[0]); i++) {
		int err = call(servers[i].text, servers[i].times, servers[i].hang_up, &why);

		if (err != servers[i].err)
			fail_msg("%zu: %d (%s) instead of %d", i, err, why.text, servers[i].err);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nobody_there, begin, end),
		cmocka_unit_test_setup_teardown(question_and_answer, begin, end),
		cmocka_unit_test_setup_teardown(misbehaves, begin, end),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
