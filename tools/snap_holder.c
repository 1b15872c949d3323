// SPDX-License-Identifier: MIT
/*
 * The holder: all it does is to hold the userfaultfd by which a process is tracked, and to know
 * since which snapshot. It ends with the process, and when it is told to; then, or if it is killed,
 * the kernel takes the protection away.
 *
 * It is found by a socket in the abstract namespace whose name is the number of the process's
 * pidfd, which no other process ever has. Both ends look at who the other one is.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/park.h"
#include "lib/uffd.h"
#include "tools/snap_track.h"

#define PATIENCE_S 2

enum request {
	REQUEST_USE = 1, /* answered by HERE and the userfaultfd */
	REQUEST_DONE,    /* what was used is given back, with its new id */
	REQUEST_END,     /* answered by closing the socket */
	ANSWER_HERE,
};

struct message {
	uint32_t magic, what;
	uint8_t id[SNAP_ID_LEN];
};

#define MAGIC 0x6b667067u

/* ---- messages */

static int name_of(int pidfd, struct sockaddr_un *name, socklen_t *len)
{
	struct stat st;

	*name = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (fstat(pidfd, &st) < 0)
		return -errno;
	int n = snprintf(name->sun_path + 1, sizeof(name->sun_path) - 1, "pageferry-snapshot-%llu",
			 (unsigned long long)st.st_ino);
	*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
	return 0;
}

/* Whose the process is; root's, if that isn't known. */
static uid_t owner_of(int pidfd)
{
	char path[48], line[64];
	struct stat st;
	int pid = 0;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	FILE *f = fopen(path, "re");
	while (f && !pid && fgets(line, sizeof(line), f))
		if (sscanf(line, "Pid:%d", &pid) != 1)
			pid = 0;
	if (f)
		fclose(f);
	snprintf(path, sizeof(path), "/proc/%d", pid);
	return pid > 0 && !stat(path, &st) ? st.st_uid : 0;
}

/*
 * Anybody may take the name, or connect to it. Root takes the word of the process's owner: that is
 * about what is the owner's.
 */
static bool is_trusted(int sock, int pidfd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return !getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) &&
	       (peer.uid == 0 || peer.uid == geteuid() ||
		(geteuid() == 0 && peer.uid == owner_of(pidfd)));
}

union control {
	struct cmsghdr head;
	char room[CMSG_SPACE(sizeof(int))];
};

static int say_message(int sock, enum request what, const uint8_t *id, int fd)
{
	struct message m = {.magic = MAGIC, .what = what};
	union control control = {.head = {.cmsg_level = SOL_SOCKET,
					  .cmsg_type = SCM_RIGHTS,
					  .cmsg_len = CMSG_LEN(sizeof(int))}};
	struct iovec iov = {&m, sizeof(m)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (id)
		memcpy(m.id, id, sizeof(m.id));
	if (fd >= 0) {
		memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
	}
	return sendmsg(sock, &msg, MSG_NOSIGNAL) == sizeof(m) ? 0 : -errno;
}

/* *fd: -1, or what came along. Returns 0, -EPIPE: it is closed; -EPROTO; -errno. */
static int hear(int sock, struct message *m, int *fd)
{
	union control control;
	struct iovec iov = {m, sizeof(*m)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	ssize_t n;

	*fd = -1;
	do
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n ? -errno : -EPIPE;
	const struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
	    c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(fd, CMSG_DATA(c), sizeof(*fd));
	return n == sizeof(*m) && m->magic == MAGIC ? 0 : -EPROTO;
}

/* ---- who asks */

static int connect_to(int pidfd)
{
	struct timeval patience = {.tv_sec = PATIENCE_S};
	struct sockaddr_un name;
	socklen_t len = 0;
	int ret = name_of(pidfd, &name, &len);

	if (ret)
		return ret;
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return -errno;
	setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (!connect(sock, (struct sockaddr *)&name, len) && is_trusted(sock, pidfd))
		return sock;
	close(sock);
	return -ENOENT;
}

bool snap_holder_exists(int pidfd)
{
	int sock = connect_to(pidfd);

	if (sock >= 0)
		close(sock);
	return sock >= 0;
}

int snap_holder_open(struct snap_holder *k, int pidfd)
{
	struct message m = {0};

	*k = (struct snap_holder){.sock = connect_to(pidfd), .uffd = -1};
	if (k->sock < 0)
		return k->sock;
	int ret = say_message(k->sock, REQUEST_USE, NULL, -1);
	if (!ret)
		ret = hear(k->sock, &m, &k->uffd);
	if (ret == -EAGAIN)
		ret = -EBUSY;
	else if (!ret && (m.what != ANSWER_HERE || k->uffd < 0 || !uffd_is(k->uffd)))
		ret = -EPROTO;
	if (ret)
		snap_holder_close(k);
	else
		memcpy(k->id, m.id, sizeof(k->id));
	return ret;
}

int snap_holder_done(struct snap_holder *k, const uint8_t *id)
{
	return say_message(k->sock, REQUEST_DONE, id ? id : k->id, -1);
}

void snap_holder_close(struct snap_holder *k)
{
	if (k->sock >= 0)
		close(k->sock);
	if (k->uffd >= 0)
		close(k->uffd);
	k->sock = k->uffd = -1;
}

int snap_holder_stop(int pidfd)
{
	int fd, sock = connect_to(pidfd);
	struct message m = {0};

	if (sock < 0)
		return sock;
	int ret = say_message(sock, REQUEST_END, NULL, -1);
	/* It is closed when the protection is gone. */
	if (!ret)
		ret = hear(sock, &m, &fd);
	close(sock);
	return ret == -EPIPE || ret == -ECONNRESET ? 0 : ret == -EAGAIN ? -EBUSY : ret;
}

/* ---- the process */

struct holder {
	int listener, pidfd, uffd;
	uint8_t id[SNAP_ID_LEN];
};

/* False: it is closed, or the process has ended. */
static bool hear_while_alive(const struct holder *k, int sock, struct message *m)
{
	struct pollfd fds[] = {{.fd = sock, .events = POLLIN}, {.fd = k->pidfd, .events = POLLIN}};
	int fd;

	while (poll(fds, 2, -1) < 0)
		if (errno != EINTR)
			return false;
	bool heard = !fds[1].revents && !hear(sock, m, &fd);
	if (heard && fd >= 0)
		close(fd);
	return heard;
}

/*
 * Who uses it changes what is protected. If he doesn't come to an end it isn't known any more what
 * has changed since when.
 */
static bool lend(struct holder *k, int sock)
{
	struct message m = {0};

	if (say_message(sock, ANSWER_HERE, k->id, k->uffd) || !hear_while_alive(k, sock, &m) ||
	    m.what != REQUEST_DONE)
		return false;
	memcpy(k->id, m.id, sizeof(k->id));
	return true;
}

/* One who waited for another to come to an end, longer than he would, was told that it is busy. */
static bool has_gone(int sock)
{
	char byte;
	return !recv(sock, &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT);
}

/* Returns whether it is still needed. */
static bool serve(struct holder *k)
{
	struct message m = {0};
	int sock = accept4(k->listener, NULL, NULL, SOCK_CLOEXEC);
	bool go_on = true;

	if (sock < 0)
		return errno == EINTR || errno == ECONNABORTED || errno == EMFILE;
	if (is_trusted(sock, k->pidfd) && hear_while_alive(k, sock, &m) && !has_gone(sock))
		go_on = m.what == REQUEST_USE ? lend(k, sock) : m.what != REQUEST_END;
	if (!go_on) {
		close(k->uffd);
		/* He who is told that it is over may look at once. */
		close(k->listener);
	}
	close(sock);
	if (!go_on)
		park("snapshot.untracked");
	return go_on;
}

__attribute__((noreturn)) static void keep(struct holder *k)
{
	struct pollfd fds[] = {{.fd = k->listener, .events = POLLIN},
			       {.fd = k->pidfd, .events = POLLIN}};

	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			_exit(1);
		if (fds[1].revents || (fds[0].revents && !serve(k)))
			_exit(0);
	}
}

int snap_holder_listen(int pidfd)
{
	struct sockaddr_un name;
	socklen_t len = 0;
	int ret = name_of(pidfd, &name, &len);

	if (ret)
		return ret;
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return -errno;
	if (!bind(sock, (struct sockaddr *)&name, len) && !listen(sock, 8))
		return sock;
	ret = -errno;
	close(sock);
	return ret;
}

/* Three descriptors of its own, and nothing else of ours. */
static void become_holder(struct holder *k)
{
	int *fds[] = {&k->listener, &k->pidfd, &k->uffd};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int i = 0; i < 3; i++)
		*fds[i] = fcntl(*fds[i], F_DUPFD_CLOEXEC, 100);
	for (int i = 0; i < 3; i++) {
		dup2(null, i);
		*fds[i] = dup2(*fds[i], 3 + i);
	}
	syscall(SYS_close_range, 6, ~0u, 0);
}

pid_t snap_holder_start(int listener, int pidfd, int uffd, const uint8_t *id)
{
	struct holder k = {listener, pidfd, uffd, {0}};
	pid_t pid = fork();

	if (pid)
		return pid < 0 ? -errno : pid;
	park("snapshot.forked");
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	signal(SIGHUP, SIG_IGN);
	prctl(PR_SET_NAME, "pageferry-hold");
	if (setsid() < 0 || chdir("/") < 0)
		_exit(1);
	become_holder(&k);
	memcpy(k.id, id, sizeof(k.id));
	keep(&k);
}
