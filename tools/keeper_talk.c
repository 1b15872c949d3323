/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/clock.h"
#include "tools/json_get.h"
#include "tools/keeper.h"

#define QMP_PLACE_MS 5000 /* for a status command to be over */

void qemu_clear_said(struct qemu *qemu)
{
	memset(&qemu->said, 0, sizeof(qemu->said));
	qemu->said.phase = -1;
}

void qemu_begin_upgrade(struct qemu *qemu, uint32_t serial)
{
	qemu->serial = serial;
	qemu_clear_said(qemu);
}

static void control_lost(struct qemu *qemu)
{
	close(qemu->control);
	qemu->control = -1;
}

static void say_failed(struct qemu *qemu, int error, const char *text)
{
	qemu->said.failed = true;
	qemu->said.error = error;
	snprintf(qemu->said.text, sizeof(qemu->said.text), "%s", text);
}

static void take_report(struct qemu *qemu, const struct control_msg *msg)
{
	qemu->said.report = msg->report;
	qemu->said.reports++;
}

static void handle_message(struct qemu *qemu, const struct control_msg *msg)
{
	if (msg->serial != qemu->serial && msg->type != CONTROL_HELLO)
		return;
	switch (msg->type) {
	case CONTROL_HELLO:
		qemu->hello = true;
		break;
	case CONTROL_PHASE:
		if (msg->phase <= FERRY_PHASE_DONE && (int)msg->phase > qemu->said.phase)
			qemu->said.phase = (int)msg->phase;
		take_report(qemu, msg);
		break;
	case CONTROL_PROGRESS:
		take_report(qemu, msg);
		break;
	case CONTROL_RESUMED:
		qemu->said.resumed = true;
		break;
	case CONTROL_FAILED:
		say_failed(qemu, msg->error, msg->text);
		break;
	default:
		say_failed(qemu, -EPROTO, "the preloaded library says what is not known here");
	}
}

void qemu_control_read(struct qemu *qemu)
{
	struct control_msg msg;
	ssize_t len;

	while (qemu->control >= 0) {
		len = recv(qemu->control, &msg, sizeof(msg), MSG_DONTWAIT | MSG_TRUNC);
		if (len < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (len <= 0) {
			control_lost(qemu);
		} else if (len != sizeof(msg) || msg.version != CONTROL_VERSION) {
			say_failed(qemu, -EPROTO,
				   "the preloaded library is of another version of pageferry: stop "
				   "the VM and run it again");
			control_lost(qemu);
		} else {
			msg.text[sizeof(msg.text) - 1] = '\0';
			handle_message(qemu, &msg);
		}
	}
}

int qemu_control_send(struct qemu *qemu, const struct control_msg *msg, int fd)
{
	char space[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {0};
	struct iovec part = {.iov_base = (void *)(uintptr_t)msg, .iov_len = sizeof(*msg)};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};

	if (qemu->control < 0)
		return -EPIPE;
	if (fd >= 0) {
		struct cmsghdr *passed;

		header.msg_control = space;
		header.msg_controllen = sizeof(space);
		passed = CMSG_FIRSTHDR(&header);
		passed->cmsg_level = SOL_SOCKET;
		passed->cmsg_type = SCM_RIGHTS;
		passed->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(passed), &fd, sizeof(int));
	}
	/* A library that hasn't read the few messages before this one isn't working any more. */
	return sendmsg(qemu->control, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

int qemu_qmp_open(struct keeper *keeper, struct qemu *qemu, struct why *why)
{
	char path[PATH_MAX + 32];
	int64_t deadline = clock_ns() + QMP_PLACE_MS * 1000000LL;
	pid_t peer;
	int err;

	snprintf(path, sizeof(path), "%s/qmp-%u.sock", keeper->dir.path, qemu->generation);
	while ((err = qmp_open(&qemu->qmp, path, 0)) == -EAGAIN && clock_ns() < deadline)
		keeper_step(keeper, 10);
	if (err)
		return why_set(why, err, "%s: QEMU can't be asked: %s", path, strerror(-err));
	memset(&qemu->told, 0, sizeof(qemu->told));
	qemu->qmp_error = 0;
	peer = qmp_peer(qemu->qmp);
	if (peer == qemu->pid)
		return 0;
	qemu_qmp_close(qemu);
	return why_set(
		why, -ESRCH,
		"%s: QEMU runs as process %d, not as the one that was started (%d): a wrapper "
		"must end with exec",
		qemu->path, (int)peer, (int)qemu->pid);
}

void qemu_qmp_close(struct qemu *qemu)
{
	qmp_close(qemu->qmp);
	qemu->qmp = NULL;
}

static void handle_event(struct qemu *qemu, const struct qmp_event *event)
{
	const char *status;

	if (!strcmp(event->name, "STOP")) {
		qemu->told.stop_us = event->time_us;
	} else if (!strcmp(event->name, "RESUME")) {
		qemu->told.resume_us = event->time_us;
	} else if (!strcmp(event->name, "MIGRATION")) {
		status = json_get_string(event->data, "status");
		if (status)
			snprintf(qemu->told.migration, sizeof(qemu->told.migration), "%s", status);
	}
}

void qemu_qmp_read(struct qemu *qemu)
{
	struct qmp_event event;

	if (!qemu->qmp || qemu->qmp_error)
		return;
	qemu->qmp_error = qmp_handle(qemu->qmp);
	while (qmp_next_event(qemu->qmp, &event))
		handle_event(qemu, &event);
}
