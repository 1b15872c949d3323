/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/clock.h"
#include "tools/json_get.h"
#include "tools/qmp.h"

#define LINE_MAX_BYTES (4u << 20)
#define READ_CHUNK     65536u
#define EVENTS_MAX     256u

enum awaited {
	AWAIT_GREETING,
	AWAIT_CAPABILITIES,
	AWAIT_NOTHING,
	AWAIT_ANSWER, /* a command is out */
	AWAIT_PICKUP, /* its answer is in qmp->answer */
};

struct qmp {
	int fd;
	enum awaited awaited;
	uint32_t id; /* of the last command */
	char *in;
	size_t in_len, in_size;
	char *out;
	size_t out_len;
	struct json_object *answer;
	struct json_object *events[EVENTS_MAX];
	unsigned int first, nevents;
	struct json_object *shown; /* the event that the caller looks at */
};

static int connect_to(const char *path, int wait_ms)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct timeval wait = {.tv_sec = wait_ms / 1000, .tv_usec = wait_ms % 1000 * 1000L};
	int fd;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (wait_ms ? 0 : SOCK_NONBLOCK), 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) || fcntl(fd, F_SETFL, O_NONBLOCK)) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

int qmp_open(struct qmp **out, const char *path, int wait_ms)
{
	struct qmp *qmp = calloc(1, sizeof(*qmp));

	if (!qmp)
		return -ENOMEM;
	qmp->fd = connect_to(path, wait_ms);
	if (qmp->fd < 0) {
		int err = qmp->fd;

		free(qmp);
		return err;
	}
	*out = qmp;
	return 0;
}

void qmp_close(struct qmp *qmp)
{
	if (!qmp)
		return;
	for (; qmp->nevents; qmp->nevents--, qmp->first++)
		json_object_put(qmp->events[qmp->first % EVENTS_MAX]);
	json_object_put(qmp->shown);
	json_object_put(qmp->answer);
	close(qmp->fd);
	free(qmp->in);
	free(qmp->out);
	free(qmp);
}

int qmp_fd(const struct qmp *qmp)
{
	return qmp->fd;
}

short qmp_poll_events(const struct qmp *qmp)
{
	return qmp->out_len ? POLLIN | POLLOUT : POLLIN;
}

pid_t qmp_peer(const struct qmp *qmp)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(qmp->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) ? 0 : peer.pid;
}

bool qmp_ready(const struct qmp *qmp)
{
	return qmp->awaited == AWAIT_NOTHING;
}

bool qmp_has_answer(const struct qmp *qmp)
{
	return qmp->awaited == AWAIT_PICKUP;
}

static int flush(struct qmp *qmp)
{
	while (qmp->out_len) {
		ssize_t n = send(qmp->fd, qmp->out, qmp->out_len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -EPIPE;
		qmp->out_len -= (size_t)n;
		memmove(qmp->out, qmp->out + n, qmp->out_len);
	}
	return 0;
}

static int queue_command(struct qmp *qmp, const char *command, struct json_object *arguments)
{
	struct json_object *root = json_object_new_object();
	const char *text;
	char *out;
	size_t len;

	json_object_object_add(root, "execute", json_object_new_string(command));
	if (arguments)
		json_object_object_add(root, "arguments", arguments);
	json_object_object_add(root, "id", json_object_new_int64(++qmp->id));
	text = json_object_to_json_string_length(root, JSON_C_TO_STRING_PLAIN, &len);
	out = text ? realloc(qmp->out, qmp->out_len + len + 1) : NULL;
	if (out) {
		memcpy(out + qmp->out_len, text, len);
		out[qmp->out_len + len] = '\n';
		qmp->out = out;
		qmp->out_len += len + 1;
	}
	json_object_put(root);
	return out ? flush(qmp) : -ENOMEM;
}

int qmp_send(struct qmp *qmp, const char *command, struct json_object *arguments)
{
	if (!qmp_ready(qmp)) {
		json_object_put(arguments);
		return -EBUSY;
	}
	qmp->awaited = AWAIT_ANSWER;
	return queue_command(qmp, command, arguments);
}

static int queue_event(struct qmp *qmp, struct json_object *line)
{
	/* Nobody sends that many unless it is hostile: QEMU limits the rate of its events. */
	if (qmp->nevents == EVENTS_MAX)
		return -EPROTO;
	qmp->events[(qmp->first + qmp->nevents++) % EVENTS_MAX] = json_object_get(line);
	return 0;
}

static bool is_ours(const struct qmp *qmp, struct json_object *line)
{
	int64_t id;

	return json_get_int(line, "id", qmp->id, qmp->id, &id);
}

static int handle_line(struct qmp *qmp, struct json_object *line)
{
	struct json_object *field;

	if (json_get_string(line, "event"))
		return queue_event(qmp, line);
	switch (qmp->awaited) {
	case AWAIT_GREETING:
		if (!json_get(line, "QMP", json_type_object))
			return -EPROTO;
		qmp->awaited = AWAIT_CAPABILITIES;
		return queue_command(qmp, "qmp_capabilities", NULL);
	case AWAIT_CAPABILITIES:
		if (!is_ours(qmp, line) || !json_object_object_get_ex(line, "return", &field))
			return -EPROTO;
		qmp->awaited = AWAIT_NOTHING;
		return 0;
	case AWAIT_ANSWER:
		if (!is_ours(qmp, line) || (!json_object_object_get_ex(line, "return", &field) &&
					    !json_get(line, "error", json_type_object)))
			return -EPROTO;
		qmp->answer = json_object_get(line);
		qmp->awaited = AWAIT_PICKUP;
		return 0;
	default:
		return -EPROTO;
	}
}

static int handle_lines(struct qmp *qmp)
{
	size_t start = 0;
	char *end;
	int err = 0;

	while (!err && (end = memchr(qmp->in + start, '\n', qmp->in_len - start))) {
		size_t len = (size_t)(end - qmp->in) - start;
		struct json_object *line = json_read_object(qmp->in + start, len);

		err = line ? handle_line(qmp, line) : -EPROTO;
		json_object_put(line);
		start += len + 1;
	}
	qmp->in_len -= start;
	memmove(qmp->in, qmp->in + start, qmp->in_len);
	return err;
}

static int make_room(struct qmp *qmp)
{
	size_t size = qmp->in_size ? qmp->in_size * 2 : READ_CHUNK;
	char *in;

	if (qmp->in_len < qmp->in_size)
		return 0;
	if (size > LINE_MAX_BYTES)
		return -EPROTO;
	in = realloc(qmp->in, size);
	if (!in)
		return -ENOMEM;
	qmp->in = in;
	qmp->in_size = size;
	return 0;
}

int qmp_handle(struct qmp *qmp)
{
	int err = flush(qmp);

	while (!err) {
		ssize_t n;

		err = make_room(qmp);
		if (err)
			break;
		n = recv(qmp->fd, qmp->in + qmp->in_len, qmp->in_size - qmp->in_len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -EPIPE;
		if (!n)
			return -EPIPE;
		qmp->in_len += (size_t)n;
		err = handle_lines(qmp);
	}
	return err;
}

static int refused(struct json_object *answer, struct why *why)
{
	struct json_object *error = json_get(answer, "error", json_type_object);
	const char *text = json_get_string(error, "desc");

	return why_set(why, -EREMOTEIO, "QEMU says: %s", text ? text : "no");
}

int qmp_answer(struct qmp *qmp, struct json_object **value, struct why *why)
{
	struct json_object *answer = qmp->answer, *found;
	int ret = 1;

	if (qmp->awaited != AWAIT_PICKUP)
		return 0;
	qmp->answer = NULL;
	qmp->awaited = AWAIT_NOTHING;
	if (!json_object_object_get_ex(answer, "return", &found))
		ret = refused(answer, why);
	else if (value)
		*value = json_object_get(found);
	json_object_put(answer);
	return ret;
}

bool qmp_next_event(struct qmp *qmp, struct qmp_event *event)
{
	struct json_object *time;
	int64_t seconds = 0, micros = 0;

	json_object_put(qmp->shown);
	qmp->shown = NULL;
	if (!qmp->nevents)
		return false;
	qmp->shown = qmp->events[qmp->first];
	qmp->first = (qmp->first + 1) % EVENTS_MAX;
	qmp->nevents--;
	time = json_get(qmp->shown, "timestamp", json_type_object);
	json_get_int(time, "seconds", 0, INT32_MAX, &seconds);
	json_get_int(time, "microseconds", 0, 999999, &micros);
	event->name = json_get_string(qmp->shown, "event");
	event->data = json_get(qmp->shown, "data", json_type_object);
	event->time_us = seconds * 1000000 + micros;
	return true;
}

static int wait_once(struct qmp *qmp, int64_t deadline_ns, struct why *why)
{
	struct pollfd poller = {.fd = qmp->fd, .events = qmp_poll_events(qmp)};
	int64_t left = (deadline_ns - clock_ns()) / 1000000;
	int err;

	if (left <= 0)
		return why_set(why, -ETIMEDOUT, "QEMU does not answer on its QMP socket");
	if (poll(&poller, 1, (int)left) < 0 && errno != EINTR)
		return why_set(why, -errno, "poll: %s", strerror(errno));
	err = qmp_handle(qmp);
	if (err)
		return why_set(why, err,
			       err == -EPIPE ? "QEMU has closed its QMP socket"
					     : "QEMU sent nonsense on its QMP socket");
	return 0;
}

int qmp_call(struct qmp *qmp, const char *command, struct json_object *arguments, int timeout_ms,
	     struct json_object **value, struct why *why)
{
	int64_t deadline = clock_ns() + (int64_t)timeout_ms * 1000000;
	int err = 0;

	while (!err && !qmp_ready(qmp))
		err = wait_once(qmp, deadline, why);
	if (err) {
		json_object_put(arguments);
		return err;
	}
	err = qmp_send(qmp, command, arguments);
	while (err >= 0) {
		err = qmp_answer(qmp, value, why);
		if (err)
			return err > 0 ? 0 : err;
		err = wait_once(qmp, deadline, why);
	}
	return err;
}
