// SPDX-License-Identifier: MIT
/*
 * The taker against a giver that is late, gone, wrong or hostile, and against its own program
 * calling in the wrong order. The other end of the socket is this test, message by message.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "lib/uffd.h"
#include "lib/wire.h"
#include "tests/lib/serve.h"

#define SHORT  60u
#define NPAGES 8u /* or those of a huge page, where staging is tested */

static const uint8_t token[16] = "sixteen letters";

struct ends {
	struct ferry_take *take;
	int peer;
	char *memory;
	size_t len;
	bool may_read; /* the giver shows the right token */
	int uffd;      /* the taker's, as its giver has it */
};

/* Keeps may_read. */
static void make_ends(struct ends *e, int *taker_sock)
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

static void hang_up(struct ends *e)
{
	if (e->peer >= 0)
		close(e->peer);
	if (e->uffd >= 0)
		close(e->uffd);
	e->peer = e->uffd = -1;
}

static void free_ends(struct ends *e)
{
	hang_up(e);
	ferry_take_close(e->take);
	unmap(e->memory, e->len);
}

static void say(const struct ends *e, enum wire_type type, const void *payload, size_t len)
{
	assert_int_equal(
		wire_send(e->peer, type, payload, len, NULL, 0, NULL, 0, wire_deadline(1000)), 0);
}

static struct wire_msg hear(const struct ends *e, enum wire_type want)
{
	struct wire_msg msg;

	assert_int_equal(wire_recv(e->peer, &msg, wire_deadline(5000)), 0);
	assert_int_equal(msg.type, want);
	return msg;
}

static void hear_and_forget(const struct ends *e, enum wire_type want)
{
	struct wire_msg msg = hear(e, want);
	wire_msg_free(&msg);
}

static int open_take(struct ends *e, int sock)
{
	struct ferry_take_opts opts = FERRY_TAKE_OPTS_INIT;

	opts.timeout_ms = SHORT;
	return ferry_take_open(&e->take, sock, &opts);
}

static void offer(const struct ends *e)
{
	struct {
		struct wire_offer head;
		struct wire_range r;
	} o = {{.nranges = 1}, {.addr = BLOCK, .len = e->len}};

	if (e->may_read) {
		o.head.token_addr = (uintptr_t)token;
		memcpy(o.head.token, token, sizeof(token));
	}
	say(e, WIRE_OFFER, &o, sizeof(o));
}

static void begin(struct ends *e)
{
	int sock;

	make_ends(e, &sock);
	offer(e);
	assert_int_equal(open_take(e, sock), 0);
	hear_and_forget(e, WIRE_HELLO);
}

static void begin_attached(struct ends *e)
{
	begin(e);
	assert_int_equal(ferry_take_map(e->take, 0, e->memory), 0);
	assert_int_equal(ferry_take_attach(e->take), 0);
	struct wire_msg msg = hear(e, WIRE_ATTACH);
	e->uffd = msg.fds[0];
	msg.nfds = 0;
	wire_msg_free(&msg);
}

static void say_shadow(const struct ends *e, uint32_t nfds)
{
	struct wire_shadow s = {.nfds = nfds};
	say(e, WIRE_SHADOW, &s, sizeof(s));
}

static void say_done(const struct ends *e)
{
	struct wire_done d = {.moved = 0};
	say(e, WIRE_DONE, &d, sizeof(d));
}

static void *play_giver(void *arg)
{
	const struct ends *e = arg;
	struct wire_msg msg;

	check_equal(wire_recv(e->peer, &msg, wire_deadline(5000)), 0);
	check_equal(msg.type, WIRE_READY);
	wire_msg_free(&msg);
	check_equal(wire_send(e->peer, WIRE_COMMIT, NULL, 0, NULL, 0, NULL, 0, wire_deadline(1000)),
		    0);
	check_equal(wire_recv(e->peer, &msg, wire_deadline(5000)), 0);
	check_equal(msg.type, WIRE_COMMITTED);
	wire_msg_free(&msg);
	return NULL;
}

static void begin_committed(struct ends *e)
{
	pthread_t giver;

	begin_attached(e);
	say_shadow(e, 0);
	assert_int_equal(ferry_take_shadow(e->take, NULL, NULL), 0);
	assert_int_equal(pthread_create(&giver, NULL, play_giver, e), 0);
	assert_int_equal(ferry_take_commit(e->take), 0);
	pthread_join(giver, NULL);
}

/* ---- opening */

static void test_nobody_there(void **state)
{
	struct ends e = {0};
	int sock, fd[2];

	(void)state;
	make_ends(&e, &sock);
	assert_int_equal(open_take(&e, sock), -ETIMEDOUT);
	assert_int_equal(fcntl(sock, F_GETFD), -1);
	free_ends(&e);

	make_ends(&e, &sock);
	hang_up(&e);
	assert_int_equal(open_take(&e, sock), -EPIPE);
	free_ends(&e);

	make_ends(&e, &sock);
	close(sock);
	assert_int_equal(pipe(fd), 0);
	assert_true(open_take(&e, fd[0]) < 0);
	assert_int_equal(fcntl(fd[0], F_GETFD), -1);
	close(fd[1]);
	free_ends(&e);
}

static void test_not_a_giver(void **state)
{
	struct wire_header other = {WIRE_MAGIC, WIRE_VERSION + 1, WIRE_OFFER, 0, 0};
	struct ends e = {0};
	int sock;

	(void)state;
	make_ends(&e, &sock);
	assert_int_equal(write(e.peer, "HTTP/1.0 400 Bad Request\r\n", 26), 26);
	assert_int_equal(open_take(&e, sock), -EPROTO);
	free_ends(&e);

	make_ends(&e, &sock);
	assert_int_equal(write(e.peer, &other, sizeof(other)), sizeof(other));
	assert_int_equal(open_take(&e, sock), -EPROTO);
	free_ends(&e);

	make_ends(&e, &sock);
	say_shadow(&e, 0);
	assert_int_equal(open_take(&e, sock), -EPROTO);
	free_ends(&e);

	make_ends(&e, &sock);
	say(&e, WIRE_ABORT, "busy", 4);
	assert_int_equal(open_take(&e, sock), -ECANCELED);
	free_ends(&e);
}

static void test_bad_options(void **state)
{
	struct ferry_take_opts bad = {.size = sizeof(bad), .flags = 1};
	struct ends e = {0};
	int sock;

	(void)state;
	make_ends(&e, &sock);
	offer(&e);
	assert_int_equal(ferry_take_open(&e.take, sock, &bad), -EINVAL);
	assert_int_equal(fcntl(sock, F_GETFD), -1);
	free_ends(&e);
	make_ends(&e, &sock);
	bad.size = 2;
	assert_int_equal(ferry_take_open(&e.take, sock, &bad), -EINVAL);
	free_ends(&e);
}

/* ---- the order of calls, and where ranges may be */

static void test_map(void **state)
{
	struct ends e = {0};

	(void)state;
	begin(&e);
	assert_int_equal(ferry_take_attach(e.take), -EINVAL);
	assert_int_equal(ferry_take_map(e.take, 1, e.memory), -EINVAL);
	assert_int_equal(ferry_take_map(e.take, ~0u, e.memory), -EINVAL);
	assert_int_equal(ferry_take_map(e.take, 0, e.memory + 1), -EINVAL);
	assert_int_equal(ferry_take_map(e.take, 0, NULL), -EINVAL);
	assert_int_equal(ferry_take_map(e.take, 0, (void *)(0 - PAGE)), -EINVAL);
	/* Nothing is mapped there, or not everywhere. */
	char *gone = map_memory(2 * (NPAGES * PAGE), 0);
	unmap(gone, 2 * (NPAGES * PAGE));
	assert_true(ferry_take_map(e.take, 0, gone) < 0);
	/* Not empty. */
	memset(e.memory + 5 * PAGE, 1, PAGE);
	assert_int_equal(ferry_take_map(e.take, 0, e.memory), -EEXIST);
	assert_false(smaps_flag(e.memory, NPAGES * PAGE, "um"));
	assert_int_equal(madvise(e.memory, NPAGES * PAGE, MADV_DONTNEED), 0);
	assert_int_equal(ferry_take_map(e.take, 0, e.memory), 0);
	assert_true(smaps_flag(e.memory, NPAGES * PAGE, "um"));
	assert_int_equal(ferry_take_map(e.take, 0, e.memory), -EALREADY);
	free_ends(&e);
}

/* Two ranges in one place can't both be right. */
static void test_map_overlap(void **state)
{
	struct {
		struct wire_offer head;
		struct wire_range r[2];
	} o = {{.nranges = 2},
	       {{.addr = BLOCK, .len = 4 * PAGE, .id = 1},
		{.addr = 2 * BLOCK, .len = 4 * PAGE, .id = 2}}};
	struct ends e = {0};
	int sock;

	(void)state;
	make_ends(&e, &sock);
	say(&e, WIRE_OFFER, &o, sizeof(o));
	assert_int_equal(open_take(&e, sock), 0);
	assert_int_equal(ferry_take_map(e.take, 0, e.memory + 2 * PAGE), 0);
	assert_int_equal(ferry_take_map(e.take, 1, e.memory + 2 * PAGE), -EINVAL);
	assert_int_equal(ferry_take_map(e.take, 1, e.memory), -EINVAL);
	assert_int_equal(ferry_take_map(e.take, 1, e.memory + 4 * PAGE), -EINVAL);
	/* The first one is as registered as before. */
	assert_true(smaps_flag(e.memory + 2 * PAGE, 4 * PAGE, "um"));
	char *other = map_memory(4 * PAGE, 0);
	assert_int_equal(ferry_take_map(e.take, 1, other), 0);
	free_ends(&e);
	unmap(other, 4 * PAGE);
}

static void test_wrong_order(void **state)
{
	const int *fds;
	unsigned int nfds;
	struct ends e = {0};

	(void)state;
	begin(&e);
	assert_int_equal(ferry_take_shadow(e.take, &fds, &nfds), -EINVAL);
	assert_int_equal(ferry_take_commit(e.take), -EINVAL);
	assert_int_equal(ferry_take_done(e.take, -1), -EINVAL);
	free_ends(&e);

	begin_attached(&e);
	assert_int_equal(ferry_take_attach(e.take), -EINVAL);
	assert_int_equal(ferry_take_commit(e.take), -EINVAL);
	assert_int_equal(ferry_take_map(e.take, 0, e.memory), -EALREADY);
	assert_int_equal(ferry_take_done(e.take, 1), -ETIMEDOUT);
	assert_int_equal(ferry_take_shadow(e.take, &fds, &nfds), -ETIMEDOUT);
	free_ends(&e);
}

/* ---- giving up, in every phase; pages are poisoned, and who waits for one is woken */

static void end_by_peer(struct ends *e, int how)
{
	switch (how) {
	case 0:
		hang_up(e);
		break;
	case 1:
		say(e, WIRE_ABORT, "enough", 6);
		break;
	default:
		say(e, WIRE_HELLO, NULL, 0);
	}
}

static void test_given_up_while_waiting(void **state)
{
	static const int want[] = {-EPIPE, -ECANCELED, -EPROTO};

	(void)state;
	for (int how = 0; how < 3; how++) {
		struct ends e = {0};
		struct reader reader;
		begin_attached(&e);
		reader_start(&reader, e.memory + PAGE);
		wait_readable(e.uffd);
		end_by_peer(&e, how);
		assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), want[how]);
		reader_join(&reader);
		assert_int_equal(reader.signal, SIGBUS);
		assert_string_equal(ferry_take_reason(e.take), how == 1 ? "enough" : "");
		assert_int_equal(ferry_take_commit(e.take), want[how]);
		assert_int_equal(ferry_take_done(e.take, -1), want[how]);
		free_ends(&e);
	}
}

static void test_given_up_after_commit(void **state)
{
	(void)state;
	for (int how = 0; how < 3; how++) {
		struct ends e = {0};
		struct reader reader;
		uint64_t value, done;
		char page[PAGE];
		begin_committed(&e);
		fill_page(page, 5);
		assert_int_equal(
			uffd_copy(e.uffd, (uintptr_t)e.memory + 2 * PAGE, page, PAGE, 0, &done), 0);
		reader_start(&reader, e.memory + PAGE);
		wait_readable(e.uffd);
		end_by_peer(&e, how);
		assert_int_equal(ferry_take_done(e.take, -1), -EOWNERDEAD);
		reader_join(&reader);
		assert_int_equal(reader.signal, SIGBUS);
		for (unsigned int i = 0; i < NPAGES; i++)
			assert_int_equal(peek(e.memory + i * PAGE, &value), i == 2 ? 0 : SIGBUS);
		assert_true(page_has(e.memory + 2 * PAGE, 5));
		assert_false(smaps_flag(e.memory, NPAGES * PAGE, "um"));
		free_ends(&e);
	}
}

/* Closed by the program itself: the giver hears of it. */
static void test_closing(void **state)
{
	struct ends e = {0};
	uint64_t value;

	(void)state;
	begin(&e);
	assert_int_equal(ferry_take_map(e.take, 0, e.memory), 0);
	ferry_take_close(e.take);
	e.take = NULL;
	hear_and_forget(&e, WIRE_ABORT);
	assert_int_equal(peek(e.memory, &value), SIGBUS);
	free_ends(&e);

	begin_attached(&e);
	say_shadow(&e, 0);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), 0);
	ferry_take_close(e.take);
	e.take = NULL;
	hear_and_forget(&e, WIRE_ABORT);
	assert_int_equal(peek(e.memory, &value), SIGBUS);
	free_ends(&e);
}

/* Once, with its reason, and then nothing more. */
static void hear_reason(struct ends *e, const char *want)
{
	char byte;
	struct wire_msg msg = hear(e, WIRE_ABORT);

	assert_string_equal((char *)msg.payload, want);
	wire_msg_free(&msg);
	assert_int_equal(read(e->peer, &byte, 1), 0);
	free_ends(e);
}

static void test_own_reason(void **state)
{
	char longer[1000];
	struct ends e = {0};
	int sock;

	(void)state;
	begin(&e);
	ferry_take_abort(e.take, "I do not like it");
	e.take = NULL;
	hear_reason(&e, "I do not like it");

	begin_attached(&e);
	ferry_take_abort(e.take, NULL);
	e.take = NULL;
	hear_reason(&e, "the taker gave up");

	begin_attached(&e);
	say_shadow(&e, 0);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), 0);
	ferry_take_abort(e.take, "two\nlines");
	e.take = NULL;
	hear_reason(&e, "two lines");

	/* Its deadline has passed; it has not closed yet. */
	begin_attached(&e);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), -ETIMEDOUT);
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = 0;
	ferry_take_abort(e.take, longer);
	e.take = NULL;
	longer[WIRE_REASON - 1] = 0;
	hear_reason(&e, longer);

	/* What the taker finds out by itself. */
	begin_attached(&e);
	say_done(&e);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), -EPROTO);
	ferry_take_abort(e.take, "too late to say more");
	e.take = NULL;
	hear_reason(&e, strerror(EPROTO));

	make_ends(&e, &sock);
	say_shadow(&e, 0);
	assert_int_equal(open_take(&e, sock), -EPROTO);
	hear_and_forget(&e, WIRE_HELLO);
	hear_reason(&e, strerror(EPROTO));
	ferry_take_abort(NULL, "nothing");
}

/* When the memory is its own there is nothing to be given up: it waits for the rest. */
static void test_too_late_to_give_up(void **state)
{
	struct ends e = {0};

	(void)state;
	begin_committed(&e);
	say_done(&e);
	ferry_take_abort(e.take, "no more");
	e.take = NULL;
	hear_and_forget(&e, WIRE_FINISHED);
	char byte;
	assert_int_equal(read(e.peer, &byte, 1), 0);
	free_ends(&e);
}

/* A reason as long as it can be: it ends where it ends. */
static void test_longest_reason(void **state)
{
	char text[WIRE_REASON];
	struct ends e = {0};

	(void)state;
	memset(text, 'r', sizeof(text));
	begin_attached(&e);
	say(&e, WIRE_ABORT, text, WIRE_REASON - 1);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), -ECANCELED);
	assert_int_equal(strlen(ferry_take_reason(e.take)), WIRE_REASON - 1);
	free_ends(&e);

	/* One more can't be sent by a friend, but by anybody else. */
	struct wire_header h = {WIRE_MAGIC, WIRE_VERSION, WIRE_ABORT, WIRE_REASON, 0};
	begin_attached(&e);
	assert_int_equal(write(e.peer, &h, sizeof(h)), sizeof(h));
	assert_int_equal(write(e.peer, text, sizeof(text)), sizeof(text));
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), -EPROTO);
	assert_string_equal(ferry_take_reason(e.take), "");
	free_ends(&e);
}

/* ---- messages that can't come now */

static void test_out_of_order(void **state)
{
	static const struct wire_block block;
	static const struct wire_result result;
	static const struct wire_done done;
	static const struct {
		enum wire_type type;
		const void *payload;
		size_t len;
	} cases[] = {
		{WIRE_HELLO, NULL, 0},
		{WIRE_READY, NULL, 0},
		{WIRE_COMMIT, NULL, 0},
		{WIRE_COMMITTED, NULL, 0},
		{WIRE_STAGE, &block, sizeof(block)},
		{WIRE_STAGED, &result, sizeof(result)},
		{WIRE_PLACE, &block, sizeof(block)},
		{WIRE_PLACED, &result, sizeof(result)},
		{WIRE_DONE, &done, sizeof(done)},
		{WIRE_FINISHED, NULL, 0},
	};

	(void)state;
	for (unsigned int i = 0; i < COUNT(cases); i++) {
		struct ends e = {0};
		begin_attached(&e);
		say(&e, cases[i].type, cases[i].payload, cases[i].len);
		assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), -EPROTO);
		free_ends(&e);
	}
}

/* COMMIT that nobody has asked for: the memory isn't ours. */
static void test_commit_too_early(void **state)
{
	struct ends e = {0};

	(void)state;
	begin_attached(&e);
	say_shadow(&e, 0);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), 0);
	say(&e, WIRE_COMMIT, NULL, 0);
	hear_and_forget(&e, WIRE_ABORT);
	assert_true(ferry_take_commit(e.take) < 0);
	free_ends(&e);
}

/* COMMIT that comes when the program has stopped waiting for it: the same. */
static void test_commit_too_late(void **state)
{
	struct ends e = {0};

	(void)state;
	begin_attached(&e);
	say_shadow(&e, 0);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), 0);
	assert_int_equal(ferry_take_commit(e.take), -ETIMEDOUT);
	hear_and_forget(&e, WIRE_READY);
	say(&e, WIRE_COMMIT, NULL, 0);
	hear_and_forget(&e, WIRE_ABORT);
	free_ends(&e);
}

static void say_fds(const struct ends *e, unsigned int n)
{
	int fds[WIRE_FDS];

	for (unsigned int i = 0; i < n; i++)
		fds[i] = STDERR_FILENO;
	assert_int_equal(
		wire_send(e->peer, WIRE_FDS_MORE, NULL, 0, NULL, 0, fds, n, wire_deadline(1000)),
		0);
}

/* More than was announced, before anything was announced, twice; none of them leaks. */
static void test_wrong_descriptors(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 5; i++) {
		struct ends e = {0};
		begin_attached(&e);
		switch (i) {
		case 0:
			say_fds(&e, 3);
			break;
		case 1:
			say_shadow(&e, 2);
			say_fds(&e, 3);
			break;
		case 2:
			say_shadow(&e, 5);
			say_fds(&e, 3);
			say_fds(&e, 3);
			break;
		case 3:
			say_shadow(&e, 5);
			say_fds(&e, 3);
			say_shadow(&e, 5);
			break;
		case 4:
			say_shadow(&e, 130);
			say_fds(&e, 128);
			hang_up(&e);
			break;
		}
		assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), i == 4 ? -EPIPE : -EPROTO);
		free_ends(&e);
	}
}

/* Descriptors that nobody asks for are closed with the object. */
static void test_unwanted_descriptors(void **state)
{
	struct ends e = {0};

	(void)state;
	begin_attached(&e);
	say_shadow(&e, 128);
	say_fds(&e, 128);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), 0);
	free_ends(&e);
}

/* ---- staging, as a hostile giver would use it */

static struct wire_result stage(const struct ends *e, enum wire_type type, uint64_t src,
				uint64_t dst)
{
	struct wire_block block = {src, dst};
	struct wire_result result;

	say(e, type, &block, sizeof(block));
	struct wire_msg msg = hear(e, type == WIRE_STAGE ? WIRE_STAGED : WIRE_PLACED);
	memcpy(&result, msg.payload, sizeof(result));
	wire_msg_free(&msg);
	return result;
}

static void test_bad_stage(void **state)
{
	struct ends e = {0};

	(void)state;
	begin_committed(&e);
	/* The token was wrong, so there is no staging at all: nothing is read, nothing is moved. */
	assert_int_equal(stage(&e, WIRE_STAGE, BLOCK, 0).error, -ENOSYS);
	assert_int_equal(stage(&e, WIRE_PLACE, 0, (uintptr_t)e.memory & ~(BLOCK - 1)).error,
			 -ENOSYS);
	say_done(&e);
	assert_int_equal(ferry_take_done(e.take, -1), 0);
	hear_and_forget(&e, WIRE_FINISHED);
	free_ends(&e);
}

static char *staged_contents(void)
{
	char *mem = map_memory(BLOCK, 0);

	for (size_t i = 0; i < BLOCK / PAGE; i++)
		fill_page(mem + i * PAGE, i);
	return mem;
}

static void begin_staging(struct ends *e, char *from)
{
	close(open_uffd_kernel(UFFD_FEATURE_MOVE));
	*e = (struct ends){.may_read = true};
	begin_committed(e);
	struct wire_result r = stage(e, WIRE_STAGE, (uintptr_t)from, 0);
	if (r.error == -ENOSYS)
		SKIP("this process may not be read by itself");
	assert_int_equal(r.error, 0);
}

static void test_stage(void **state)
{
	struct ends e = {0};
	char *from = staged_contents();

	(void)state;
	begin_staging(&e, from);
	struct wire_result r = stage(&e, WIRE_PLACE, 0, (uintptr_t)e.memory);
	assert_int_equal(r.error, 0);
	assert_int_equal(r.done, BLOCK);
	for (size_t i = 0; i < BLOCK / PAGE; i++)
		assert_true(page_has(e.memory + i * PAGE, i));
	/* Not twice, not elsewhere, and not from where nothing is. */
	assert_int_equal(stage(&e, WIRE_STAGE, (uintptr_t)from, 0).error, 0);
	assert_int_equal(stage(&e, WIRE_PLACE, 0, (uintptr_t)e.memory).error, -EEXIST);
	assert_int_equal(stage(&e, WIRE_STAGE, (uintptr_t)from, 0).error, 0);
	assert_true(stage(&e, WIRE_PLACE, 0, (uintptr_t)from).error < 0);
	assert_true(page_has(from, 0));
	assert_true(stage(&e, WIRE_STAGE, 1ull << 46, 0).error < 0);
	say_done(&e);
	assert_int_equal(ferry_take_done(e.take, -1), 0);
	free_ends(&e);
	unmap(from, BLOCK);
}

/*
 * The program has discarded a page of the block, and nobody has read that event: the block must not
 * be put in place over it.
 */
static void test_place_after_event(void **state)
{
	struct ends e = {0};
	struct adviser adviser;
	struct uffd_msg msg;
	char *from = staged_contents();

	(void)state;
	begin_staging(&e, from);
	adviser_start(&adviser, e.memory + 7 * PAGE, PAGE, MADV_DONTNEED);
	wait_readable(e.uffd);
	struct wire_result r = stage(&e, WIRE_PLACE, 0, (uintptr_t)e.memory);
	assert_int_equal(r.error, -EAGAIN);
	assert_int_equal(r.done, 0);
	assert_int_equal(pages_present(e.memory, BLOCK / PAGE), 0);
	assert_int_equal(read(e.uffd, &msg, sizeof(msg)), sizeof(msg));
	adviser_join(&adviser);
	/* What was staged is gone: nothing can be put in place by mistake later. */
	assert_int_equal(stage(&e, WIRE_PLACE, 0, (uintptr_t)e.memory).error, -ENOENT);
	say_done(&e);
	assert_int_equal(ferry_take_done(e.take, -1), 0);
	free_ends(&e);
	unmap(from, BLOCK);
}

/* ---- the end */

/*
 * The giver says that it is done and reads no events any more, but keeps the userfaultfd open. A
 * thread of the program that waits for its event to be read must not wait for the giver's end.
 */
static void test_event_at_the_end(void **state)
{
	struct ends e = {0};
	struct adviser adviser;

	(void)state;
	begin_committed(&e);
	adviser_start(&adviser, e.memory, 2 * PAGE, MADV_DONTNEED);
	wait_readable(e.uffd);
	say_done(&e);
	assert_int_equal(ferry_take_done(e.take, -1), 0);
	adviser_join(&adviser);
	hear_and_forget(&e, WIRE_FINISHED);
	assert_true(page_is_zero(e.memory));
	free_ends(&e);
}

/* The same when the giver gives up. */
static void test_event_at_loss(void **state)
{
	struct ends e = {0};
	struct adviser adviser;
	uint64_t value;

	(void)state;
	begin_committed(&e);
	adviser_start(&adviser, e.memory, 2 * PAGE, MADV_DONTNEED);
	wait_readable(e.uffd);
	say(&e, WIRE_ABORT, NULL, 0);
	assert_int_equal(ferry_take_done(e.take, -1), -EOWNERDEAD);
	adviser_join(&adviser);
	assert_int_equal(peek(e.memory + 4 * PAGE, &value), SIGBUS);
	free_ends(&e);
}

/* Something else of the program is watched by somebody else: it is none of our business. */
static void test_other_userfaultfd(void **state)
{
	struct ends e = {0};
	char *other = map_memory(4 * PAGE, 0);
	uint64_t done;

	(void)state;
	int uffd = open_uffd(0);
	assert_int_equal(
		uffd_register(uffd, (uintptr_t)other, 4 * PAGE, UFFDIO_REGISTER_MODE_MISSING, NULL),
		0);
	for (int lose = 0; lose < 2; lose++) {
		begin_committed(&e);
		struct wire_done d = {.moved = 1};
		say(&e, lose ? WIRE_ABORT : WIRE_DONE, &d, lose ? 0 : sizeof(d));
		assert_int_equal(ferry_take_done(e.take, -1), lose ? -EOWNERDEAD : 0);
		free_ends(&e);
		assert_true(smaps_flag(other, 4 * PAGE, "um"));
	}
	assert_int_equal(uffd_zeropage(uffd, (uintptr_t)other, 4 * PAGE, 0, &done), 0);
	assert_true(page_is_zero(other));
	close(uffd);
	unmap(other, 4 * PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_nobody_there),
		TEST(test_not_a_giver),
		TEST(test_bad_options),
		TEST(test_map),
		TEST(test_map_overlap),
		TEST(test_wrong_order),
		TEST(test_given_up_while_waiting),
		TEST(test_given_up_after_commit),
		TEST(test_closing),
		TEST(test_own_reason),
		TEST(test_too_late_to_give_up),
		TEST(test_longest_reason),
		TEST(test_out_of_order),
		TEST(test_commit_too_early),
		TEST(test_commit_too_late),
		TEST(test_wrong_descriptors),
		TEST(test_unwanted_descriptors),
		TEST(test_bad_stage),
		TEST(test_stage),
		TEST(test_place_after_event),
		TEST(test_event_at_the_end),
		TEST(test_event_at_loss),
		TEST(test_other_userfaultfd),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("take_peer", tests, NULL, NULL);
}
