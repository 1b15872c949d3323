/* SPDX-License-Identifier: MIT */
/* A server of examples/kv, as the tests start it and ask it. */
#ifndef KV_SERVER_H
#define KV_SERVER_H

#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/cli/kv_load.h"

/* The folder that build/tests/cli/NAME and build/examples are in. */
static void find_build(char *build, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", build, size - 1);

	assert_true(n > 0);
	build[n] = 0;
	for (int i = 0; i < 3; i++)
		dirname(build);
}

/*
 * Start @program with @file. Its port comes to *port, or 0 when it ends at once; what it says on
 * stderr to *messages. The end of the test is its end.
 */
static pid_t server_start(const char *program, const char *file, uint16_t *port, int *messages)
{
	int out[2], err[2], number = 0;
	char line[64] = "";

	assert_return_code(pipe2(out, O_CLOEXEC), errno);
	assert_return_code(pipe2(err, O_CLOEXEC), errno);
	pid_t pid = fork();
	assert_return_code(pid, errno);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(out[1], STDOUT_FILENO);
		dup2(err[1], STDERR_FILENO);
		execl(program, program, "0", file, NULL);
		_exit(127);
	}
	close(out[1]);
	close(err[1]);
	fcntl(err[0], F_SETFL, O_NONBLOCK);
	struct pollfd fd = {.fd = out[0], .events = POLLIN};
	if (poll(&fd, 1, LOAD_DEADLINE) == 1 && read(out[0], line, sizeof(line) - 1) > 0 &&
	    sscanf(line, "port %d", &number) != 1)
		number = 0;
	close(out[0]);
	*port = (uint16_t)number;
	*messages = err[0];
	return pid;
}

/* Add what it has said meanwhile to @said. */
static void server_says(int messages, char *said, size_t size)
{
	size_t len = strlen(said);
	ssize_t n = read(messages, said + len, size - len - 1);

	said[len + (n > 0 ? (size_t)n : 0)] = 0;
}

/* One line for one request. 0, or -errno; -EPIPE: it is gone. */
static int server_ask(int sock, const char *request, char *answer, size_t size)
{
	size_t len = 0;

	if (send(sock, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request))
		return -errno;
	do {
		struct pollfd fd = {.fd = sock, .events = POLLIN};
		if (poll(&fd, 1, LOAD_DEADLINE) != 1)
			return -ETIMEDOUT;
		ssize_t n = recv(sock, answer + len, size - len - 1, 0);
		if (n <= 0)
			return n ? -errno : -EPIPE;
		len += (size_t)n;
		answer[len] = 0;
	} while (!strchr(answer, '\n'));
	return 0;
}

#endif
