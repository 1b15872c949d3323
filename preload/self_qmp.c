// SPDX-License-Identifier: MIT
/*
 * Three commands to the QEMU that we live in, so that its VM goes on even when the keeper is gone.
 * No JSON library is pulled into QEMU for that: an answer is one line, whose first key tells
 * whether it is an event, a result or an error.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/clock.h"
#include "preload/vm.h"

#define ANSWER_MS 20000
#define RETRY_MS  50

struct self_qmp {
	int fd;
	size_t have;
	char buf[16384];
};

static int wait_readable(int fd, int64_t deadline)
{
	for (;;) {
		int64_t left = (deadline - clock_ns()) / 1000000;
		struct pollfd p = { .fd = fd, .events = POLLIN };
		int ret = poll(&p, 1, left > 0 ? (int)left : 0);
		if (ret > 0)
			return 0;
		if (ret == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

/* One line into @line, without white space, so that the layout of QEMU's JSON doesn't matter. */
static int read_line(struct self_qmp *q, char *line, int64_t deadline)
{
	char *end;

	while (!(end = memchr(q->buf, '\n', q->have))) {
		if (q->have == sizeof(q->buf))
			return -EMSGSIZE;
		int ret = wait_readable(q->fd, deadline);
		if (ret)
			return ret;
		ssize_t n = recv(q->fd, q->buf + q->have, sizeof(q->buf) - q->have, 0);
		if (n == 0)
			return -EPIPE;
		if (n < 0 && errno != EINTR)
			return -errno;
		q->have += n > 0 ? (size_t)n : 0;
	}
	size_t len = (size_t)(end - q->buf) + 1;
	for (size_t i = 0; i < len; i++)
		if (!strchr(" \t\r\n", q->buf[i]) && q->buf[i])
			*line++ = q->buf[i];
	*line = 0;
	q->have -= len;
	memmove(q->buf, q->buf + len, q->have);
	return 0;
}

static bool begins(const char *line, const char *key)
{
	return !strncmp(line, key, strlen(key));
}

/* Send @command, skip events; 0 and the result, or -EREMOTEIO: QEMU says error. */
static int ask(struct self_qmp *q, const char *command, char *line)
{
	int64_t deadline = clock_ns() + ANSWER_MS * 1000000ll;
	size_t len = strlen(command);

	if (send(q->fd, command, len, MSG_NOSIGNAL) != (ssize_t)len)
		return -EPIPE;
	for (;;) {
		int ret = read_line(q, line, deadline);
		if (ret)
			return ret;
		if (begins(line, "{\"return\""))
			return 0;
		if (begins(line, "{\"error\""))
			return -EREMOTEIO;
	}
}

int self_qmp_open(struct self_qmp **out, const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct self_qmp *q = calloc(1, sizeof(*q));
	char line[sizeof(q->buf)];

	if (!q)
		return -ENOMEM;
	q->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int ret = q->fd < 0 ? -errno : 0;
	if (!ret && strlen(path) >= sizeof(sa.sun_path))
		ret = -ENAMETOOLONG;
	if (!ret) {
		memcpy(sa.sun_path, path, strlen(path));
		if (connect(q->fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
			ret = -errno;
	}
	if (!ret)
		ret = read_line(q, line, clock_ns() + ANSWER_MS * 1000000ll);
	if (!ret)
		ret = ask(q, "{\"execute\":\"qmp_capabilities\"}\n", line);
	if (ret) {
		self_qmp_close(q);
		return ret;
	}
	*out = q;
	return 0;
}

void self_qmp_close(struct self_qmp *q)
{
	if (!q)
		return;
	if (q->fd >= 0)
		close(q->fd);
	free(q);
}

int self_qmp_run(struct self_qmp *q)
{
	int64_t deadline = clock_ns() + ANSWER_MS * 1000000ll;
	char line[sizeof(q->buf)];

	for (;;) {
		int ret = ask(q, "{\"execute\":\"cont\"}\n", line);
		if (ret != -EREMOTEIO || clock_ns() > deadline)
			return ret;
		poll(NULL, 0, RETRY_MS);
	}
}

static bool still_migrating(const char *line)
{
	static const char *const live[] = { "\"status\":\"setup\"", "\"status\":\"active\"",
					    "\"status\":\"cancelling\"", "\"status\":\"device\"",
					    "\"status\":\"pre-switchover\"" };

	for (size_t i = 0; i < sizeof(live) / sizeof(live[0]); i++)
		if (strstr(line, live[i]))
			return true;
	return false;
}

/*
 * A cancel that comes in the very moment in which QEMU begins its pause before the switchover is
 * noted by QEMU, but the pause never ends. To be told to continue ends it; at any other moment, or
 * in another state, that does nothing.
 */
static int end_pause(struct self_qmp *q, char *line)
{
	static const char command[] = "{\"execute\":\"migrate-continue\","
				      "\"arguments\":{\"state\":\"cancelling\"}}\n";

	if (!strstr(line, "\"status\":\"cancelling\""))
		return 0;
	int ret = ask(q, command, line);
	return ret == -EREMOTEIO ? 0 : ret;
}

int self_qmp_cancel(struct self_qmp *q)
{
	int64_t deadline = clock_ns() + ANSWER_MS * 1000000ll;
	char line[sizeof(q->buf)];

	int ret = ask(q, "{\"execute\":\"migrate_cancel\"}\n", line);
	while (!ret || ret == -EREMOTEIO) {
		ret = ask(q, "{\"execute\":\"query-migrate\"}\n", line);
		if (ret || !still_migrating(line))
			return ret;
		if (clock_ns() > deadline)
			return -ETIMEDOUT;
		ret = end_pause(q, line);
		poll(NULL, 0, RETRY_MS);
	}
	return ret;
}
