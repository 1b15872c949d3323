// SPDX-License-Identifier: MIT
/* Messages through a real socket: in pieces, broken, too late, with descriptors that must not leak.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "lib/wire.h"
#include "tests/lib/test.h"

#define SOON 2000u

struct pair {
	int a, b; /* what goes into a comes out of b */
};

static struct pair make_pair(void)
{
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	assert_int_equal(wire_prepare(fd[1]), 0);
	return (struct pair){fd[0], fd[1]};
}

static void close_pair(struct pair p)
{
	close(p.a);
	close(p.b);
}

static struct wire_header header(uint16_t type, uint32_t len, uint32_t nfds)
{
	return (struct wire_header){WIRE_MAGIC, WIRE_VERSION, type, len, nfds};
}

/* Raw bytes with raw descriptors, as a peer sends them that doesn't care for the protocol. */
static void send_raw(int sock, const void *buf, size_t len, int fd, unsigned int nfds)
{
	union {
		char buf[CMSG_SPACE(300 * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {(void *)(uintptr_t)buf, len};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

	if (nfds) {
		mh.msg_control = control.buf;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		for (unsigned int i = 0; i < nfds; i++)
			memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(int));
	}
	assert_int_equal(sendmsg(sock, &mh, MSG_NOSIGNAL), len);
}

static int receive(struct pair p, struct wire_msg *msg)
{
	return wire_recv(p.b, msg, wire_deadline(SOON));
}

/* ---- the good case */

static void test_round_trip(void **state)
{
	struct pair p = make_pair();
	int fds[WIRE_FDS], before;
	struct wire_msg msg;

	(void)state;
	for (unsigned int i = 0; i < WIRE_FDS; i++)
		fds[i] = i % 2 ? p.a : STDERR_FILENO;
	before = (int)count_fds();
	assert_int_equal(
		wire_send(p.a, WIRE_FDS_MORE, NULL, 0, NULL, 0, fds, WIRE_FDS, wire_deadline(SOON)),
		0);
	assert_int_equal(
		wire_send(p.a, WIRE_ABORT, "one ", 4, "two", 3, NULL, 0, wire_deadline(SOON)), 0);
	assert_int_equal(receive(p, &msg), 0);
	assert_int_equal(msg.type, WIRE_FDS_MORE);
	assert_int_equal(msg.nfds, WIRE_FDS);
	assert_int_equal(count_fds(), before + (int)WIRE_FDS);
	for (unsigned int i = 0; i < WIRE_FDS; i++)
		assert_int_equal(fcntl(msg.fds[i], F_GETFD), FD_CLOEXEC);
	wire_msg_free(&msg);
	assert_int_equal(count_fds(), before);
	assert_int_equal(receive(p, &msg), 0);
	assert_int_equal(msg.type, WIRE_ABORT);
	assert_int_equal(msg.len, 7);
	assert_string_equal((char *)msg.payload, "one two");
	wire_msg_free(&msg);
	close_pair(p);
}

static int say_hello(void *arg)
{
	return wire_send(*(int *)arg, WIRE_HELLO, NULL, 0, NULL, 0, NULL, 0, wire_deadline(SOON))
		       ? 1
		       : 0;
}

/* The sender is who the kernel says it is. */
static void test_credentials(void **state)
{
	struct pair p = make_pair();
	struct wire_msg msg;

	(void)state;
	pid_t child = spawn(say_hello, &p.a);
	assert_int_equal(receive(p, &msg), 0);
	assert_int_equal(msg.pid, child);
	wire_msg_free(&msg);
	assert_int_equal(wait_exit(child), 0);
	close_pair(p);
}

static void test_prepare(void **state)
{
	int fd[2];

	(void)state;
	assert_int_equal(pipe(fd), 0);
	assert_int_equal(wire_prepare(fd[0]), -ENOTSOCK);
	assert_int_equal(wire_prepare(-1), -EBADF);
	close(fd[0]);
	close(fd[1]);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fd), 0);
	assert_int_equal(wire_prepare(fd[0]), -EINVAL);
	close(fd[0]);
	close(fd[1]);
	fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (fd[0] >= 0) {
		assert_int_equal(wire_prepare(fd[0]), -EINVAL);
		close(fd[0]);
	}
}

static void test_send_refuses(void **state)
{
	struct pair p = make_pair();
	int fds[WIRE_FDS + 1] = {0};
	static char big[FERRY_BLOB_MAX * 2];

	(void)state;
	assert_int_equal(wire_send(p.a, WIRE_HELLO, "x", 1, NULL, 0, NULL, 0, WIRE_FOREVER),
			 -EMSGSIZE);
	assert_int_equal(
		wire_send(p.a, WIRE_OFFER, big, sizeof(big), NULL, 0, NULL, 0, WIRE_FOREVER),
		-EMSGSIZE);
	assert_int_equal(
		wire_send(p.a, WIRE_FDS_MORE, NULL, 0, NULL, 0, fds, WIRE_FDS + 1, WIRE_FOREVER),
		-EMSGSIZE);
	assert_int_equal(wire_send(p.a, 0, NULL, 0, NULL, 0, NULL, 0, WIRE_FOREVER), -EMSGSIZE);
	close(p.b);
	assert_int_equal(wire_send(p.a, WIRE_HELLO, NULL, 0, NULL, 0, NULL, 0, WIRE_FOREVER),
			 -EPIPE);
	close(p.a);
}

/* ---- in pieces */

static void test_byte_by_byte(void **state)
{
	struct pair p = make_pair();
	struct {
		struct wire_header h;
		char text[11];
	} m = {header(WIRE_ABORT, 11, 0), "hello there"};
	struct wire_msg msg;

	(void)state;
	for (int round = 0; round < 3; round++)
		for (size_t i = 0; i < sizeof(m.h) + 11; i++)
			send_raw(p.a, (char *)&m + i, 1, 0, 0);
	for (int round = 0; round < 3; round++) {
		assert_int_equal(receive(p, &msg), 0);
		assert_int_equal(msg.len, 11);
		assert_memory_equal(msg.payload, "hello there", 12);
		wire_msg_free(&msg);
	}
	close_pair(p);
}

/* More than a socket takes at once: the sender has to wait for the reader. */
static void *send_large(void *arg)
{
	static char blob[FERRY_BLOB_MAX];
	struct {
		struct wire_offer head;
		struct wire_range r;
	} o = {{.nranges = 1, .blob_len = sizeof(blob)}, {.addr = PAGE, .len = PAGE}};
	int sock = *(int *)arg;

	memset(blob, 'b', sizeof(blob));
	check_equal(wire_send(sock, WIRE_OFFER, &o, sizeof(o), blob, sizeof(blob), NULL, 0,
			      wire_deadline(SOON)),
		    0);
	return NULL;
}

static void test_large(void **state)
{
	struct pair p = make_pair();
	struct wire_msg msg;
	pthread_t thread;

	(void)state;
	pthread_create(&thread, NULL, send_large, &p.a);
	assert_int_equal(receive(p, &msg), 0);
	pthread_join(thread, NULL);
	const uint8_t *blob = wire_offer_blob(&msg);
	for (size_t i = 0; i < FERRY_BLOB_MAX; i++)
		assert_int_equal(blob[i], 'b');
	wire_msg_free(&msg);
	close_pair(p);
}

/* ---- broken */

static void test_bad_headers(void **state)
{
	struct wire_header bad[] = {
		header(WIRE_HELLO, 1, 0),        header(0, 0, 0),
		header(WIRE_ABORT + 1, 0, 0),    header(WIRE_OFFER, UINT32_MAX, 0),
		header(WIRE_OFFER, 2u << 20, 0), header(WIRE_ABORT, WIRE_REASON, 0),
		header(WIRE_FDS_MORE, 0, 129),   header(WIRE_HELLO, 0, 1),
		header(WIRE_FDS_MORE, 0, 0),     header(WIRE_SHADOW, 8, 0),
		header(WIRE_ATTACH, 8, 0),
	};
	char zeros[64] = {0};

	(void)state;
	bad[9].magic = 0;
	for (unsigned int i = 0; i < COUNT(bad); i++) {
		struct pair p = make_pair();
		struct wire_msg msg;
		send_raw(p.a, &bad[i], sizeof(bad[i]), 0, 0);
		send_raw(p.a, zeros, sizeof(zeros), 0, 0);
		assert_int_equal(receive(p, &msg), -EPROTO);
		assert_null(msg.payload);
		assert_int_equal(msg.nfds, 0);
		close_pair(p);
	}
}

static void test_other_version(void **state)
{
	struct pair p = make_pair();
	struct wire_header h = header(WIRE_HELLO, 0, 0);
	struct wire_msg msg;

	(void)state;
	h.version = WIRE_VERSION + 1;
	send_raw(p.a, &h, sizeof(h), STDERR_FILENO, 3);
	assert_int_equal(receive(p, &msg), -EPROTONOSUPPORT);
	close_pair(p);
}

/* The end in every place of a message: before the first byte it is the peer's end, later nonsense.
 */
static void test_end_in_the_middle(void **state)
{
	struct {
		struct wire_header h;
		struct wire_shadow s;
	} m = {header(WIRE_SHADOW, sizeof(struct wire_shadow), 0), {0, 0}};

	(void)state;
	for (size_t cut = 0; cut < sizeof(m); cut++) {
		struct pair p = make_pair();
		struct wire_msg msg;
		if (cut)
			send_raw(p.a, &m, cut, STDERR_FILENO, 2);
		close(p.a);
		assert_int_equal(receive(p, &msg), cut ? -EPROTO : -EPIPE);
		close(p.b);
	}
}

/* A peer that is reset while it has unread data is gone, too. */
static void test_reset(void **state)
{
	struct pair p = make_pair();
	struct wire_msg msg;

	(void)state;
	send_raw(p.b, "unread", 6, 0, 0);
	close(p.a);
	assert_int_equal(receive(p, &msg), -EPIPE);
	close(p.b);
}

/* ---- descriptors */

static void test_unwanted_descriptors(void **state)
{
	static const struct {
		uint16_t type;
		unsigned int said, sent;
	} cases[] = {
		{WIRE_HELLO, 0, 1},      {WIRE_HELLO, 0, 128},      {WIRE_READY, 0, 5},
		{WIRE_FDS_MORE, 3, 2},   {WIRE_FDS_MORE, 2, 3},     {WIRE_FDS_MORE, 1, 0},
		{WIRE_FDS_MORE, 0, 1},   {WIRE_FDS_MORE, 128, 129}, {WIRE_FDS_MORE, 128, 253},
		{WIRE_FDS_MORE, 128, 0},
	};

	(void)state;
	for (unsigned int i = 0; i < COUNT(cases); i++) {
		struct pair p = make_pair();
		unsigned int before = count_fds();
		struct wire_header h = header(cases[i].type, 0, cases[i].said);
		struct wire_msg msg;
		send_raw(p.a, &h, sizeof(h), STDERR_FILENO, cases[i].sent);
		assert_int_equal(receive(p, &msg), -EPROTO);
		assert_int_equal(count_fds(), before);
		close_pair(p);
	}
}

/* The same on a socket that nobody has prepared: no credentials, so more room for descriptors. */
static void test_too_many_without_credentials(void **state)
{
	static const unsigned int sent[] = {127, 128, 129, 130, 132, 135, 136, 137, 253};

	(void)state;
	for (unsigned int i = 0; i < COUNT(sent); i++) {
		int fd[2];
		struct wire_header h = header(WIRE_FDS_MORE, 0, 128);
		struct wire_msg msg;
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
		unsigned int before = count_fds();
		send_raw(fd[0], &h, sizeof(h), STDERR_FILENO, sent[i]);
		assert_int_equal(wire_recv(fd[1], &msg, wire_deadline(SOON)),
				 sent[i] == 128 ? 0 : -EPROTO);
		if (sent[i] == 128)
			wire_msg_free(&msg);
		assert_int_equal(count_fds(), before);
		close(fd[0]);
		close(fd[1]);
	}
}

/* Descriptors with every byte of a header, and with every byte of a payload. */
static void test_descriptors_with_each_byte(void **state)
{
	struct {
		struct wire_header h;
		struct wire_shadow s;
	} m = {header(WIRE_SHADOW, sizeof(struct wire_shadow), 0), {0, 0}};

	(void)state;
	for (unsigned int each = 1; each <= 40; each += 13) {
		struct pair p = make_pair();
		unsigned int before = count_fds();
		struct wire_msg msg;
		for (size_t i = 0; i < sizeof(m); i++)
			send_raw(p.a, (char *)&m + i, 1, STDERR_FILENO, each);
		assert_int_equal(receive(p, &msg), -EPROTO);
		assert_int_equal(count_fds(), before);
		close_pair(p);
	}
}

/* ---- too late */

static void test_timeouts(void **state)
{
	struct wire_header h = header(WIRE_ABORT, 5, 0);

	(void)state;
	for (size_t cut = 0; cut <= sizeof(h); cut += 4) {
		struct pair p = make_pair();
		struct wire_msg msg;
		if (cut)
			send_raw(p.a, &h, cut, STDERR_FILENO, 1);
		int64_t start = now_ms();
		assert_int_equal(wire_recv(p.b, &msg, wire_deadline(30)), -ETIMEDOUT);
		int64_t took = now_ms() - start;
		assert_true(took >= 29 && took < 5000);
		close_pair(p);
	}
}

static void test_send_timeout(void **state)
{
	struct pair p = make_pair();
	int ret = 0, sent = 0;
	char text[WIRE_REASON - 1];

	(void)state;
	memset(text, 'x', sizeof(text));
	while (!ret && sent++ < 1000000)
		ret = wire_send(p.a, WIRE_ABORT, text, sizeof(text), NULL, 0, NULL, 0,
				wire_deadline(30));
	assert_int_equal(ret, -ETIMEDOUT);
	/* What has been sent can be read to the end. */
	close(p.a);
	for (struct wire_msg msg; !(ret = receive(p, &msg)); wire_msg_free(&msg))
		sent--;
	assert_true(ret == -EPIPE || ret == -EPROTO);
	assert_true(sent <= 1);
	close(p.b);
}

static void on_signal(int sig)
{
	(void)sig;
}

/* Signals that interrupt a wait neither end nor prolong it. */
static void test_signals(void **state)
{
	struct sigaction old, act = {.sa_handler = on_signal};
	struct pair p = make_pair();
	struct wire_msg msg;

	(void)state;
	sigaction(SIGUSR1, &act, &old);
	timer_t timer;
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	struct itimerspec every = {{0, 2000000}, {0, 2000000}};
	assert_int_equal(timer_create(CLOCK_MONOTONIC, &ev, &timer), 0);
	assert_int_equal(timer_settime(timer, 0, &every, NULL), 0);
	int64_t start = now_ms();
	assert_int_equal(wire_recv(p.b, &msg, wire_deadline(60)), -ETIMEDOUT);
	assert_true(now_ms() - start >= 59);
	timer_delete(timer);
	sigaction(SIGUSR1, &old, NULL);
	close_pair(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_round_trip),
		TEST(test_credentials),
		TEST(test_prepare),
		TEST(test_send_refuses),
		TEST(test_byte_by_byte),
		TEST(test_large),
		TEST(test_bad_headers),
		TEST(test_other_version),
		TEST(test_end_in_the_middle),
		TEST(test_reset),
		TEST(test_unwanted_descriptors),
		TEST(test_too_many_without_credentials),
		TEST(test_descriptors_with_each_byte),
		TEST(test_timeouts),
		TEST(test_send_timeout),
		TEST(test_signals),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("wire_io", tests, NULL, NULL);
}
