// SPDX-License-Identifier: MIT
/* Packets to and from the keeper, see control.h. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "preload/vm.h"

void control_send(const struct vm *vm, const struct control_msg *msg)
{
	struct control_msg m = *msg;

	m.version = CONTROL_VERSION;
	m.serial = vm->serial;
	m.report.size = sizeof(m.report);
	/* A keeper that doesn't listen must not hold up the VM. */
	send(vm->control, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void control_phase(const struct vm *vm, enum ferry_phase phase, const struct ferry_report *report)
{
	struct control_msg m = { .type = CONTROL_PHASE, .phase = phase };

	if (report)
		m.report = *report;
	control_send(vm, &m);
}

void control_failed(const struct vm *vm, int error, const char *what)
{
	struct control_msg m = { .type = CONTROL_FAILED, .error = error };

	strncpy(m.text, what, sizeof(m.text) - 1);
	control_send(vm, &m);
}

static int take_fd(struct msghdr *mh)
{
	int fd = -1;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
		    c->cmsg_len == CMSG_LEN(sizeof(fd)))
			memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

int control_recv(struct vm *vm, struct control_msg *msg, int *fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { msg, sizeof(*msg) };
	struct msghdr mh = { .msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.buf,
			     .msg_controllen = sizeof(control.buf) };

	ssize_t n = recvmsg(vm->control, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -EPIPE;
	if (n == 0)
		return -EPIPE;
	*fd = take_fd(&mh);
	if (n == sizeof(*msg) && msg->version == CONTROL_VERSION && !(mh.msg_flags & MSG_TRUNC)) {
		msg->text[sizeof(msg->text) - 1] = 0;
		if (msg->type == CONTROL_GIVE)
			vm->serial = msg->serial;
		return 0;
	}
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	return -EPROTO;
}
