// SPDX-License-Identifier: MIT
/* Send and receive messages of a hand-over, with descriptors and credentials; see wire.h. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/wire.h"

union control {
	char buf[CMSG_SPACE(sizeof(int) * WIRE_FDS) + CMSG_SPACE(sizeof(struct ucred))];
	struct cmsghdr align;
};

int64_t wire_deadline(unsigned int timeout_ms)
{
	return clock_ns() + (int64_t)timeout_ms * 1000000;
}

int wire_prepare(int sock)
{
	int type = 0, domain = 0, on = 1;
	socklen_t len = sizeof(type);

	if (getsockopt(sock, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return -errno;
	len = sizeof(domain);
	if (getsockopt(sock, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
		return -errno;
	if (type != SOCK_STREAM || domain != AF_UNIX)
		return -EINVAL;
	return setsockopt(sock, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0 ? -errno : 0;
}

static int wait_for(int sock, short events, int64_t deadline)
{
	for (;;) {
		struct pollfd fd = { .fd = sock, .events = events };
		int64_t left = deadline - clock_ns();
		int timeout = -1;
		if (deadline != WIRE_FOREVER)
			timeout = left <= 0 ? 0 : (int)(left / 1000000 + 1);
		int ret = poll(&fd, 1, timeout);
		if (ret > 0)
			return 0;
		if (ret == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

static void add_fds(struct msghdr *mh, union control *control, const int *fds, unsigned int nfds)
{
	struct cmsghdr *c = (struct cmsghdr *)(control->buf + mh->msg_controllen);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
	memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	mh->msg_controllen += CMSG_SPACE(nfds * sizeof(int));
}

/* The kernel checks them and translates the pid for the receiver's pid namespace. */
static void add_credentials(struct msghdr *mh, union control *control)
{
	struct ucred me = { .pid = getpid(), .uid = geteuid(), .gid = getegid() };
	struct cmsghdr *c = (struct cmsghdr *)(control->buf + mh->msg_controllen);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_CREDENTIALS;
	c->cmsg_len = CMSG_LEN(sizeof(me));
	memcpy(CMSG_DATA(c), &me, sizeof(me));
	mh->msg_controllen += CMSG_SPACE(sizeof(me));
}

static int send_all(int sock, struct msghdr *mh, int64_t deadline)
{
	while (mh->msg_iovlen) {
		ssize_t n = sendmsg(sock, mh, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			int ret = wait_for(sock, POLLOUT, deadline);
			if (ret)
				return ret;
			continue;
		}
		if (n < 0)
			return errno == ECONNRESET ? -EPIPE : -errno;
		/* Descriptors have gone with the first byte. */
		mh->msg_control = NULL;
		mh->msg_controllen = 0;
		while (mh->msg_iovlen && (size_t)n >= mh->msg_iov->iov_len) {
			n -= (ssize_t)mh->msg_iov->iov_len;
			mh->msg_iov++;
			mh->msg_iovlen--;
		}
		if (mh->msg_iovlen) {
			mh->msg_iov->iov_base = (char *)mh->msg_iov->iov_base + n;
			mh->msg_iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

int wire_send(int sock, enum wire_type type, const void *head, size_t head_len, const void *tail,
	      size_t tail_len, const int *fds, unsigned int nfds, int64_t deadline)
{
	union control control = { 0 };
	struct wire_header h = { WIRE_MAGIC, WIRE_VERSION, (uint16_t)type,
				 (uint32_t)(head_len + tail_len), nfds };
	struct iovec iov[3] = { { &h, sizeof(h) }, { (void *)head, head_len },
				{ (void *)tail, tail_len } };
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = 3, .msg_control = control.buf };

	if (head_len + tail_len > UINT32_MAX || wire_check_header(&h))
		return -EMSGSIZE;
	if (nfds && fds)
		add_fds(&mh, &control, fds, nfds);
	if (type == WIRE_HELLO || type == WIRE_OFFER)
		add_credentials(&mh, &control);
	if (!mh.msg_controllen)
		mh.msg_control = NULL;
	return send_all(sock, &mh, deadline);
}

int wire_abort(int sock, const char *why)
{
	char text[WIRE_REASON - 1];
	size_t len = 0;

	for (; *why && len < sizeof(text); why++)
		text[len++] = (char)(wire_is_shown(*why) ? *why : ' ');
	return wire_send(sock, WIRE_ABORT, text, len, NULL, 0, NULL, 0, wire_deadline(0));
}

static void close_all(int *fds, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		close(fds[i]);
}

/* Take over what came along. Descriptors beyond what we have room for are closed, not leaked. */
static int collect(struct wire_msg *msg, struct msghdr *mh)
{
	int ret = mh->msg_flags & MSG_CTRUNC ? -EPROTO : 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len >= CMSG_LEN(sizeof(struct ucred))) {
			struct ucred cred;
			memcpy(&cred, CMSG_DATA(c), sizeof(cred));
			msg->pid = cred.pid;
		}
		if (c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (msg->nfds < WIRE_FDS) {
				msg->fds[msg->nfds++] = fd;
			} else {
				close(fd);
				ret = -EPROTO;
			}
		}
	}
	return ret;
}

static int recv_all(int sock, struct wire_msg *msg, void *buf, size_t len, int64_t deadline)
{
	size_t have = 0;

	while (have < len) {
		union control control;
		struct iovec iov = { (char *)buf + have, len - have };
		struct msghdr mh = { .msg_iov = &iov,
				     .msg_iovlen = 1,
				     .msg_control = control.buf,
				     .msg_controllen = sizeof(control.buf) };
		ssize_t n = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			int ret = wait_for(sock, POLLIN, deadline);
			if (ret)
				return ret;
			continue;
		}
		if (n < 0)
			return errno == ECONNRESET ? -EPIPE : -errno;
		int ret = collect(msg, &mh);
		if (ret)
			return ret;
		if (n == 0)
			return have ? -EPROTO : -EPIPE;
		have += (size_t)n;
	}
	return 0;
}

static int recv_message(int sock, struct wire_msg *msg, int64_t deadline)
{
	struct wire_header h;

	int ret = recv_all(sock, msg, &h, sizeof(h), deadline);
	if (!ret)
		ret = wire_check_header(&h);
	if (ret)
		return ret;
	msg->payload = calloc(1, (size_t)h.len + 1);
	if (!msg->payload)
		return -ENOMEM;
	msg->type = h.type;
	msg->len = h.len;
	ret = recv_all(sock, msg, msg->payload, h.len, deadline);
	if (ret == -EPIPE)
		ret = -EPROTO;
	if (!ret && h.nfds != msg->nfds)
		ret = -EPROTO;
	return ret ? ret : wire_check_payload(msg);
}

int wire_recv(int sock, struct wire_msg *msg, int64_t deadline)
{
	*msg = (struct wire_msg){ 0 };
	int ret = recv_message(sock, msg, deadline);
	if (ret)
		wire_msg_free(msg);
	return ret;
}

void wire_msg_free(struct wire_msg *msg)
{
	close_all(msg->fds, msg->nfds);
	free(msg->payload);
	*msg = (struct wire_msg){ 0 };
}
