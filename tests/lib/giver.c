// SPDX-License-Identifier: MIT
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "tests/lib/giver.h"

static const uint8_t token[16] = "sixteen letters";

void ends_make(struct ends *e, int *taker_sock)
{
	int fd[2];

	close(open_uffd_kernel(UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |
			       UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_THREAD_ID));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	assert_int_equal(wire_prepare(fd[1]), 0);
	e->peer = fd[1];
	e->uffd = -1;
	e->take = NULL;
	e->len = e->may_read ? BLOCK : NPAGES * PAGE;
	e->memory = map_memory(e->len, 0);
	if (e->may_read)
		madvise(e->memory, e->len, MADV_HUGEPAGE);
	*taker_sock = fd[0];
}

void ends_hang_up(struct ends *e)
{
	if (e->peer >= 0)
		close(e->peer);
	if (e->uffd >= 0)
		close(e->uffd);
	e->peer = e->uffd = -1;
}

void ends_free(struct ends *e)
{
	ends_hang_up(e);
	ferry_take_close(e->take);
	unmap(e->memory, e->len);
}

void giver_say(const struct ends *e, enum wire_type type, const void *payload, size_t len)
{
	assert_int_equal(
		wire_send(e->peer, type, payload, len, NULL, 0, NULL, 0, wire_deadline(1000)), 0);
}

struct wire_msg giver_hear(const struct ends *e, enum wire_type want)
{
	struct wire_msg msg;

	assert_int_equal(wire_recv(e->peer, &msg, wire_deadline(5000)), 0);
	assert_int_equal(msg.type, want);
	return msg;
}

void giver_expect(const struct ends *e, enum wire_type want)
{
	struct wire_msg msg = giver_hear(e, want);
	wire_msg_free(&msg);
}

int ends_open(struct ends *e, int sock)
{
	struct ferry_take_opts opts = FERRY_TAKE_OPTS_INIT;

	opts.timeout_ms = SHORT;
	opts.flags = e->flags;
	return ferry_take_open(&e->take, sock, &opts);
}

void giver_offer(const struct ends *e)
{
	struct {
		struct wire_offer head;
		struct wire_range r;
	} o = {{.nranges = 1}, {.addr = BLOCK, .len = e->len}};

	if (e->may_read) {
		o.head.token_addr = (uintptr_t)token;
		memcpy(o.head.token, token, sizeof(token));
	}
	giver_say(e, WIRE_OFFER, &o, sizeof(o));
}

void begin_open(struct ends *e)
{
	int sock;

	ends_make(e, &sock);
	giver_offer(e);
	assert_int_equal(ends_open(e, sock), 0);
	giver_expect(e, WIRE_HELLO);
}

void begin_attached(struct ends *e)
{
	begin_open(e);
	assert_int_equal(ferry_take_map(e->take, 0, e->memory), 0);
	assert_int_equal(ferry_take_attach(e->take), 0);
	struct wire_msg msg = giver_hear(e, WIRE_ATTACH);
	e->uffd = msg.fds[0];
	msg.nfds = 0;
	wire_msg_free(&msg);
}

void giver_say_shadow(const struct ends *e, uint32_t nfds)
{
	struct wire_shadow s = {.nfds = nfds};
	giver_say(e, WIRE_SHADOW, &s, sizeof(s));
}

void giver_say_commit(const struct ends *e, uint32_t tables)
{
	struct wire_commit c = {.tables = tables};
	giver_say(e, WIRE_COMMIT, &c, sizeof(c));
}

void giver_say_done(const struct ends *e)
{
	struct wire_done d = {.moved = 0};
	giver_say(e, WIRE_DONE, &d, sizeof(d));
}

static void *play_giver(void *arg)
{
	const struct ends *e = arg;
	struct wire_commit commit = {.tables = e->tables};
	struct wire_msg msg;

	check_equal(wire_recv(e->peer, &msg, wire_deadline(5000)), 0);
	check_equal(msg.type, WIRE_READY);
	wire_msg_free(&msg);
	check_equal(wire_send(e->peer, WIRE_COMMIT, &commit, sizeof(commit), NULL, 0, NULL, 0,
			      wire_deadline(1000)),
		    0);
	check_equal(wire_recv(e->peer, &msg, wire_deadline(5000)), 0);
	check_equal(msg.type, WIRE_COMMITTED);
	wire_msg_free(&msg);
	return NULL;
}

void begin_committed(struct ends *e)
{
	pthread_t giver;

	begin_attached(e);
	giver_say_shadow(e, 0);
	assert_int_equal(ferry_take_shadow(e->take, NULL, NULL), 0);
	assert_int_equal(pthread_create(&giver, NULL, play_giver, e), 0);
	assert_int_equal(ferry_take_commit(e->take), 0);
	pthread_join(giver, NULL);
}
