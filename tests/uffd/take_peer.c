// SPDX-License-Identifier: MIT
/*
 * The taker against a giver that is late or gone, and against its own program calling in the wrong
 * order.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/lib/giver.h"

/* ---- opening */

static void test_nobody_there(void **state)
{
	struct ends e = {0};
	int sock, fd[2];

	(void)state;
	ends_make(&e, &sock);
	assert_int_equal(ends_open(&e, sock), -ETIMEDOUT);
	assert_int_equal(fcntl(sock, F_GETFD), -1);
	ends_free(&e);

	ends_make(&e, &sock);
	ends_hang_up(&e);
	assert_int_equal(ends_open(&e, sock), -EPIPE);
	ends_free(&e);

	ends_make(&e, &sock);
	close(sock);
	assert_int_equal(pipe(fd), 0);
	assert_true(ends_open(&e, fd[0]) < 0);
	assert_int_equal(fcntl(fd[0], F_GETFD), -1);
	close(fd[1]);
	ends_free(&e);
}

static void test_not_a_giver(void **state)
{
	struct wire_header other = {WIRE_MAGIC, WIRE_VERSION + 1, WIRE_OFFER, 0, 0};
	struct ends e = {0};
	int sock;

	(void)state;
	ends_make(&e, &sock);
	assert_int_equal(write(e.peer, "HTTP/1.0 400 Bad Request\r\n", 26), 26);
	assert_int_equal(ends_open(&e, sock), -EPROTO);
	ends_free(&e);

	ends_make(&e, &sock);
	assert_int_equal(write(e.peer, &other, sizeof(other)), sizeof(other));
	assert_int_equal(ends_open(&e, sock), -EPROTO);
	ends_free(&e);

	ends_make(&e, &sock);
	giver_say_shadow(&e, 0);
	assert_int_equal(ends_open(&e, sock), -EPROTO);
	ends_free(&e);

	ends_make(&e, &sock);
	giver_say(&e, WIRE_ABORT, "busy", 4);
	assert_int_equal(ends_open(&e, sock), -ECANCELED);
	ends_free(&e);
}

static void test_bad_options(void **state)
{
	struct ferry_take_opts bad = {.size = sizeof(bad), .flags = 2};
	struct ends e = {0};
	int sock;

	(void)state;
	ends_make(&e, &sock);
	giver_offer(&e);
	assert_int_equal(ferry_take_open(&e.take, sock, &bad), -EINVAL);
	assert_int_equal(fcntl(sock, F_GETFD), -1);
	ends_free(&e);
	ends_make(&e, &sock);
	bad.size = 2;
	assert_int_equal(ferry_take_open(&e.take, sock, &bad), -EINVAL);
	ends_free(&e);
}

/* ---- the order of calls, and where ranges may be */

static void test_map(void **state)
{
	struct ends e = {0};

	(void)state;
	begin_open(&e);
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
	ends_free(&e);
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
	ends_make(&e, &sock);
	giver_say(&e, WIRE_OFFER, &o, sizeof(o));
	assert_int_equal(ends_open(&e, sock), 0);
	assert_int_equal(ferry_take_map(e.take, 0, e.memory + 2 * PAGE), 0);
	assert_int_equal(ferry_take_map(e.take, 1, e.memory + 2 * PAGE), -EINVAL);
	assert_int_equal(ferry_take_map(e.take, 1, e.memory), -EINVAL);
	assert_int_equal(ferry_take_map(e.take, 1, e.memory + 4 * PAGE), -EINVAL);
	/* The first one is as registered as before. */
	assert_true(smaps_flag(e.memory + 2 * PAGE, 4 * PAGE, "um"));
	char *other = map_memory(4 * PAGE, 0);
	assert_int_equal(ferry_take_map(e.take, 1, other), 0);
	ends_free(&e);
	unmap(other, 4 * PAGE);
}

static void test_wrong_order(void **state)
{
	const int *fds;
	unsigned int nfds;
	struct ends e = {0};

	(void)state;
	begin_open(&e);
	assert_int_equal(ferry_take_shadow(e.take, &fds, &nfds), -EINVAL);
	assert_int_equal(ferry_take_commit(e.take), -EINVAL);
	assert_int_equal(ferry_take_done(e.take, -1), -EINVAL);
	ends_free(&e);

	begin_attached(&e);
	assert_int_equal(ferry_take_attach(e.take), -EINVAL);
	assert_int_equal(ferry_take_commit(e.take), -EINVAL);
	assert_int_equal(ferry_take_map(e.take, 0, e.memory), -EALREADY);
	assert_int_equal(ferry_take_done(e.take, 1), -ETIMEDOUT);
	assert_int_equal(ferry_take_shadow(e.take, &fds, &nfds), -ETIMEDOUT);
	ends_free(&e);
}

/* ---- giving up, in every phase; pages are poisoned, and who waits for one is woken */

static void end_by_peer(struct ends *e, int how)
{
	switch (how) {
	case 0:
		ends_hang_up(e);
		break;
	case 1:
		giver_say(e, WIRE_ABORT, "enough", 6);
		break;
	default:
		giver_say(e, WIRE_HELLO, NULL, 0);
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
		ends_free(&e);
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
		ends_free(&e);
	}
}

/* Closed by the program itself: the giver hears of it. */
static void test_closing(void **state)
{
	struct ends e = {0};
	uint64_t value;

	(void)state;
	begin_open(&e);
	assert_int_equal(ferry_take_map(e.take, 0, e.memory), 0);
	ferry_take_close(e.take);
	e.take = NULL;
	giver_expect(&e, WIRE_ABORT);
	assert_int_equal(peek(e.memory, &value), SIGBUS);
	ends_free(&e);

	begin_attached(&e);
	giver_say_shadow(&e, 0);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), 0);
	ferry_take_close(e.take);
	e.take = NULL;
	giver_expect(&e, WIRE_ABORT);
	assert_int_equal(peek(e.memory, &value), SIGBUS);
	ends_free(&e);
}

/* Once, with its reason, and then nothing more. */
static void hear_reason(struct ends *e, const char *want)
{
	char byte;
	struct wire_msg msg = giver_hear(e, WIRE_ABORT);

	assert_string_equal((char *)msg.payload, want);
	wire_msg_free(&msg);
	assert_int_equal(read(e->peer, &byte, 1), 0);
	ends_free(e);
}

static void test_own_reason(void **state)
{
	char longer[1000];
	struct ends e = {0};
	int sock;

	(void)state;
	begin_open(&e);
	ferry_take_abort(e.take, "I do not like it");
	e.take = NULL;
	hear_reason(&e, "I do not like it");

	begin_attached(&e);
	ferry_take_abort(e.take, NULL);
	e.take = NULL;
	hear_reason(&e, "the taker gave up");

	begin_attached(&e);
	giver_say_shadow(&e, 0);
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
	giver_say_done(&e);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), -EPROTO);
	ferry_take_abort(e.take, "too late to say more");
	e.take = NULL;
	hear_reason(&e, strerror(EPROTO));

	ends_make(&e, &sock);
	giver_say_shadow(&e, 0);
	assert_int_equal(ends_open(&e, sock), -EPROTO);
	giver_expect(&e, WIRE_HELLO);
	hear_reason(&e, strerror(EPROTO));
	ferry_take_abort(NULL, "nothing");
}

/* When the memory is its own there is nothing to be given up: it waits for the rest. */
static void test_too_late_to_give_up(void **state)
{
	struct ends e = {0};

	(void)state;
	begin_committed(&e);
	giver_say_done(&e);
	ferry_take_abort(e.take, "no more");
	e.take = NULL;
	giver_expect(&e, WIRE_FINISHED);
	char byte;
	assert_int_equal(read(e.peer, &byte, 1), 0);
	ends_free(&e);
}

/* A reason as long as it can be: it ends where it ends. */
static void test_longest_reason(void **state)
{
	char text[WIRE_REASON];
	struct ends e = {0};

	(void)state;
	memset(text, 'r', sizeof(text));
	begin_attached(&e);
	giver_say(&e, WIRE_ABORT, text, WIRE_REASON - 1);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), -ECANCELED);
	assert_int_equal(strlen(ferry_take_reason(e.take)), WIRE_REASON - 1);
	ends_free(&e);

	/* One more can't be sent by a friend, but by anybody else. */
	struct wire_header h = {WIRE_MAGIC, WIRE_VERSION, WIRE_ABORT, WIRE_REASON, 0};
	begin_attached(&e);
	assert_int_equal(write(e.peer, &h, sizeof(h)), sizeof(h));
	assert_int_equal(write(e.peer, text, sizeof(text)), sizeof(text));
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), -EPROTO);
	assert_string_equal(ferry_take_reason(e.take), "");
	ends_free(&e);
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
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("take_peer", tests, NULL, NULL);
}
