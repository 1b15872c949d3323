// SPDX-License-Identifier: MIT
/* Peers: how they are told what to do; see peer.h. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "peer.h"

#define THREADS_MAX 64

struct request {
	peer_fn fn;
	uint64_t arg[PEER_ARGS];
};

struct reply {
	int64_t ret;
	uint64_t out;
};

uint64_t peer_out;
/* In a peer: the descriptor that came with the request, and the one to go with the reply. */
static int fd_in = -1, fd_out = -1;

/* ---- messages */

static void send_msg(int sock, const void *data, size_t n, int fd)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {(void *)(uintptr_t)data, n};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		struct cmsghdr *cmsg;

		msg.msg_control = control.buf;
		msg.msg_controllen = sizeof(control.buf);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
	}
	check_call(sendmsg(sock, &msg, MSG_NOSIGNAL));
}

/* False: the other end is gone. */
static bool recv_msg(int sock, void *data, size_t n, int *fd)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {data, n};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	struct cmsghdr *cmsg;
	ssize_t got;

	do
		got = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	*fd = -1;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (got == (ssize_t)n && cmsg && cmsg->cmsg_type == SCM_RIGHTS)
		memcpy(fd, CMSG_DATA(cmsg), sizeof(int));
	return got == (ssize_t)n;
}

/* ---- the peer's side */

static _Noreturn void serve(int sock)
{
	struct request req = {0};

	while (recv_msg(sock, &req, sizeof(req), &fd_in)) {
		struct reply reply;

		peer_out = 0;
		reply.ret = req.fn(req.arg);
		reply.out = peer_out;
		send_msg(sock, &reply, sizeof(reply), fd_out);
		if (fd_out >= 0)
			close(fd_out);
		fd_out = -1;
	}
	_exit(0);
}

/*
 * It keeps nothing of what its parent has open: a userfaultfd ends with its last descriptor, and a
 * test wants to see that.
 */
static void close_all_but(int sock)
{
	for (int fd = 3; fd < 1024; fd++)
		if (fd != sock)
			close(fd);
}

struct peer *peer_start(void)
{
	pid_t parent = getpid();
	struct peer *p = calloc(1, sizeof(*p));
	int sock[2];

	check(p);
	check_call(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock));
	p->pid = fork();
	check_call(p->pid);
	if (!p->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		close_all_but(sock[1]);
		serve(sock[1]);
	}
	close(sock[1]);
	p->sock = sock[0];
	return p;
}

static int reap(struct peer *p)
{
	int status;

	check_is(waitpid(p->pid, &status, 0), p->pid);
	free(p);
	return status;
}

void peer_end(struct peer *p)
{
	close(p->sock);
	check_is(reap(p), 0);
}

void peer_kill(struct peer *p)
{
	close(p->sock);
	check_call(kill(p->pid, SIGKILL));
	reap(p);
}

pid_t peer_pid(const struct peer *p)
{
	return p ? p->pid : getpid();
}

/* ---- the test's side */

void peer_send(struct peer *p, peer_fn fn, const uint64_t *arg, int fd)
{
	struct request req = {.fn = fn};

	memcpy(req.arg, arg, sizeof(req.arg));
	send_msg(p->sock, &req, sizeof(req), fd);
}

static int64_t finish(struct peer *p, int *fd)
{
	struct reply reply = {0};
	int status;

	if (recv_msg(p->sock, &reply, sizeof(reply), fd)) {
		p->out = reply.out;
		return reply.ret;
	}
	/* It has failed by a check of its own, and said so, or was killed. */
	if (waitpid(p->pid, &status, 0) == p->pid && WIFSIGNALED(status))
		note("peer %d: killed by signal %d", (int)p->pid, WTERMSIG(status));
	_exit(1);
}

int64_t peer_finish(struct peer *p)
{
	int fd;

	return finish(p, &fd);
}

int64_t peer_call(struct peer *p, peer_fn fn, const uint64_t *arg)
{
	if (!p)
		return fn(arg);
	peer_send(p, fn, arg, -1);
	return peer_finish(p);
}

int64_t peer_run_syscall(const uint64_t *arg)
{
	long ret = syscall((long)arg[0], arg[1], arg[2], arg[3], arg[4], arg[5], arg[6]);

	return ret < 0 ? -errno : ret;
}

/* ---- descriptors */

static int64_t keep_fd(const uint64_t *arg)
{
	(void)arg;
	check(fd_in >= 0);
	return fd_in;
}

int peer_give_fd(struct peer *p, int fd)
{
	static const uint64_t none[PEER_ARGS];

	if (!p)
		return fd;
	peer_send(p, keep_fd, none, fd);
	return (int)peer_finish(p);
}

static int64_t hand_fd(const uint64_t *arg)
{
	fd_out = (int)arg[0];
	return 0;
}

int peer_take_fd(struct peer *p, int fd)
{
	const uint64_t arg[PEER_ARGS] = {(uint64_t)fd};
	int got;

	if (!p)
		return fd;
	peer_send(p, hand_fd, arg, -1);
	check_is(finish(p, &got), 0);
	check(got >= 0);
	return got;
}

/* ---- threads */

struct thread {
	pthread_t id;
	peer_fn fn;
	uint64_t arg[PEER_ARGS];
	int64_t result;
	bool used;
	bool ended; /* written last */
};

static struct thread threads[THREADS_MAX];

static void *thread_main(void *arg)
{
	struct thread *t = arg;

	t->result = t->fn(t->arg);
	__atomic_store_n(&t->ended, true, __ATOMIC_RELEASE);
	return NULL;
}

static int64_t start_thread(const uint64_t *arg)
{
	for (int i = 0; i < THREADS_MAX; i++) {
		struct thread *t = &threads[i];

		if (t->used)
			continue;
		memset(t, 0, sizeof(*t));
		t->used = true;
		t->fn = (peer_fn)arg[0];
		memcpy(t->arg, arg + 1, (PEER_ARGS - 1) * sizeof(*arg));
		check_is(pthread_create(&t->id, NULL, thread_main, t), 0);
		return i;
	}
	test_failed(__FILE__, __LINE__, "more than %d threads", THREADS_MAX);
}

static int64_t try_join(const uint64_t *arg)
{
	struct thread *t = &threads[arg[0]];

	if (!__atomic_load_n(&t->ended, __ATOMIC_ACQUIRE))
		return 0;
	check_is(pthread_join(t->id, NULL), 0);
	peer_out = (uint64_t)t->result;
	t->used = false;
	return 1;
}

int peer_call_thread(struct peer *p, peer_fn fn, const uint64_t *arg)
{
	return (int)peer_do(p, start_thread, (uintptr_t)fn, arg[0], arg[1], arg[2], arg[3], arg[4],
			    arg[5], arg[6]);
}

bool peer_thread_ended(struct peer *p, int thread, int64_t *result)
{
	if (!peer_do(p, try_join, (uint64_t)thread))
		return false;
	if (result)
		*result = (int64_t)(p ? p->out : peer_out);
	return true;
}

int64_t peer_join(struct peer *p, int thread, unsigned int ms)
{
	int64_t result = 0;

	await((int)ms, peer_thread_ended(p, thread, &result));
	return result;
}

/* ---- children of a peer */

static int64_t fork_idle(const uint64_t *arg)
{
	pid_t parent = getpid(), pid = fork();

	(void)arg;
	check_call(pid);
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() == parent)
		for (;;)
			pause();
	_exit(0);
}

static int64_t end_child(const uint64_t *arg)
{
	check_call(kill((pid_t)arg[0], SIGKILL));
	check_is(waitpid((pid_t)arg[0], NULL, 0), (pid_t)arg[0]);
	return 0;
}

pid_t peer_fork(struct peer *p)
{
	return (pid_t)peer_do(p, fork_idle, 0);
}

void peer_end_child(struct peer *p, pid_t child)
{
	peer_do(p, end_child, (uint64_t)child);
}
