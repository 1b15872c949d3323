// SPDX-License-Identifier: MIT
/* needs: userfaultfd */
/*
 * The giver against a taker that is late, gone, wrong or hostile. The other end of the socket is
 * this test, message by message.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/wire.h"
#include "tests/lib/test.h"
#include "tests/lib/messages.h"

#define SHORT 40u

struct ends {
	struct ferry_give *give;
	int peer;
	char *memory;
	struct ferry_range range;
	struct ferry_offer offer;
};

static void make_ends(struct ends *e, int *giver_sock)
{
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	assert_int_equal(wire_prepare(fd[1]), 0);
	*e = (struct ends){.peer = fd[1], .memory = map_memory(4 * PAGE, 0)};
	e->range = (struct ferry_range){.addr = (uintptr_t)e->memory, .len = 4 * PAGE, .id = 9};
	e->offer = (struct ferry_offer){&e->range, 1, "blob", 5};
	*giver_sock = fd[0];
}

static void free_ends(struct ends *e)
{
	ferry_give_close(e->give, NULL);
	if (e->peer >= 0)
		close(e->peer);
	unmap(e->memory, 4 * PAGE);
}

static void say(const struct ends *e, enum wire_type type, const void *payload, size_t len, int fd)
{
	assert_int_equal(wire_send(e->peer, type, payload, len, NULL, 0, &fd, fd >= 0 ? 1 : 0,
				   wire_deadline(1000)),
			 0);
}

static struct wire_msg hear(const struct ends *e, enum wire_type want)
{
	struct wire_msg msg;

	assert_int_equal(wire_recv(e->peer, &msg, wire_deadline(1000)), 0);
	assert_int_equal(msg.type, want);
	return msg;
}

static void hear_and_forget(const struct ends *e, enum wire_type want)
{
	struct wire_msg msg = hear(e, want);
	wire_msg_free(&msg);
}

static int open_give(struct ends *e, int sock, const struct ferry_give_opts *opts)
{
	struct ferry_give_opts quick = FERRY_GIVE_OPTS_INIT;

	quick.timeout_ms = SHORT;
	quick.cpu = FERRY_CPU_ANY;
	return ferry_give_open(&e->give, sock, &e->offer, opts ? opts : &quick);
}

/* Up to the offer, which has been read. */
static void begin(struct ends *e)
{
	int sock;

	make_ends(e, &sock);
	say(e, WIRE_HELLO, NULL, 0, -1);
	assert_int_equal(open_give(e, sock, NULL), 0);
	hear_and_forget(e, WIRE_OFFER);
}

/* ---- opening */

static void test_offer(void **state)
{
	struct ends e;
	int sock;

	(void)state;
	make_ends(&e, &sock);
	e.range.flags = FERRY_RANGE_MERGEABLE;
	say(&e, WIRE_HELLO, NULL, 0, -1);
	assert_int_equal(open_give(&e, sock, NULL), 0);
	struct wire_msg msg = hear(&e, WIRE_OFFER);
	const struct wire_offer *head = (const void *)msg.payload;
	const struct wire_range *r = wire_offer_ranges(&msg);
	assert_int_equal(head->nranges, 1);
	assert_int_equal(head->blob_len, 5);
	assert_int_equal(r->addr, e.range.addr);
	assert_int_equal(r->len, e.range.len);
	assert_int_equal(r->id, 9);
	assert_int_equal(r->flags, FERRY_RANGE_MERGEABLE);
	assert_memory_equal(wire_offer_blob(&msg), "blob", 5);
	assert_int_equal(msg.pid, getpid());
	wire_msg_free(&msg);
	free_ends(&e);
}

static void test_bad_offers(void **state)
{
	static const struct ferry_range none[FERRY_RANGES_MAX + 1];

	(void)state;
	for (unsigned int i = 0; i < 13; i++) {
		struct ends e;
		struct ferry_range two[2];
		int sock;
		make_ends(&e, &sock);
		two[0] = e.range;
		two[1] = e.range;
		two[0].len = two[1].len = PAGE;
		two[1].addr += PAGE;
		two[1].id++;
		e.offer = (struct ferry_offer){two, 2, NULL, 0};
		switch (i) {
		case 0:
			e.offer.nranges = 0;
			break;
		case 1:
			e.offer = (struct ferry_offer){none, COUNT(none), NULL, 0};
			break;
		case 2:
			e.offer.blob_len = 1;
			break;
		case 3:
			e.offer.blob = none;
			e.offer.blob_len = FERRY_BLOB_MAX + 1;
			break;
		case 4:
			e.offer.blob = none;
			e.offer.blob_len = SIZE_MAX;
			break;
		case 5:
			two[1].addr++;
			break;
		case 6:
			two[1].len = 0;
			break;
		case 7:
			two[1].len = 1;
			break;
		case 8:
			two[1].addr = UINT64_MAX - PAGE + 1;
			break;
		case 9:
			two[1].addr = two[0].addr;
			break;
		case 10:
			two[1].id = two[0].id;
			break;
		case 11:
			two[1].flags = 0x80;
			break;
		case 12:
			two[1].flags = FERRY_RANGE_SHARED;
			two[1].fd_offset = 5;
			two[1].fd = 0;
			break;
		}
		say(&e, WIRE_HELLO, NULL, 0, -1);
		int ret = open_give(&e, sock, NULL);
		if (ret != -EINVAL)
			fail_msg("bad offer %u: %d", i, ret);
		assert_null(e.give);
		/* The taker is told, and the socket is closed on error, too. */
		hear_and_forget(&e, WIRE_ABORT);
		assert_int_equal(fcntl(sock, F_GETFD), -1);
		free_ends(&e);
	}
}

/* Memory that isn't there can't be given; found out now, not by a crash in the middle. */
static void test_memory_not_there(void **state)
{
	struct ends e;
	int sock;

	(void)state;
	make_ends(&e, &sock);
	char *gone = map_memory(4 * PAGE, 0);
	unmap(gone + 2 * PAGE, PAGE);
	e.range.addr = (uintptr_t)gone;
	say(&e, WIRE_HELLO, NULL, 0, -1);
	assert_int_equal(open_give(&e, sock, NULL), -EINVAL);
	unmap(gone, 4 * PAGE);
	free_ends(&e);
}

static void test_too_many_shared(void **state)
{
	static struct ferry_range r[WIRE_FDS + 1];
	struct ends e;
	int sock;

	(void)state;
	make_ends(&e, &sock);
	char *memory = map_memory(COUNT(r) * PAGE, 0);
	for (unsigned int i = 0; i < COUNT(r); i++)
		r[i] = (struct ferry_range){.addr = (uintptr_t)memory + i * PAGE,
					    .len = PAGE,
					    .id = i,
					    .flags = FERRY_RANGE_SHARED,
					    .fd = STDERR_FILENO};
	e.offer = (struct ferry_offer){r, COUNT(r), NULL, 0};
	say(&e, WIRE_HELLO, NULL, 0, -1);
	assert_int_equal(open_give(&e, sock, NULL), -E2BIG);
	unmap(memory, COUNT(r) * PAGE);
	free_ends(&e);
}

static void test_bad_options(void **state)
{
	static const struct {
		struct ferry_give_opts opts;
		int want;
	} cases[] = {
		{{.size = 3}, -EINVAL},
		{{.size = sizeof(struct ferry_give_opts), .cpu = -2, .flags = 4}, -EINVAL},
		/* What would have to copy can't be strict, whether the module is there or not. */
		{{.size = sizeof(struct ferry_give_opts),
		  .cpu = -2,
		  .flags = FERRY_GIVE_STRICT,
		  .ways = 1u << FERRY_WAY_COPY},
		 -EOPNOTSUPP},
		{{.size = sizeof(struct ferry_give_opts), .cpu = -2, .ways = 1u << 7}, -EINVAL},
		{{.size = sizeof(struct ferry_give_opts), .cpu = -2, .ways = ~0u}, -EINVAL},
		{{.size = sizeof(struct ferry_give_opts), .cpu = -3}, -EINVAL},
		{{.size = sizeof(struct ferry_give_opts), .cpu = 100000}, -EINVAL},
		{{.size = sizeof(struct ferry_give_opts), .cpu = -2, .ways = 1u << FERRY_WAY_MOVE},
		 -EOPNOTSUPP},
		/* Page tables are asked for by a flag, and something has to carry the rest. */
		{{.size = sizeof(struct ferry_give_opts),
		  .cpu = -2,
		  .flags = FERRY_GIVE_TABLES,
		  .ways = 1u << FERRY_WAY_TABLES},
		 -EOPNOTSUPP},
	};

	(void)state;
	for (unsigned int i = 0; i < COUNT(cases); i++) {
		struct ends e;
		int sock;
		make_ends(&e, &sock);
		say(&e, WIRE_HELLO, NULL, 0, -1);
		assert_int_equal(open_give(&e, sock, &cases[i].opts), cases[i].want);
		assert_int_equal(fcntl(sock, F_GETFD), -1);
		free_ends(&e);
	}
}

static void test_nobody_there(void **state)
{
	struct ends e;
	int sock, fd[2];

	(void)state;
	make_ends(&e, &sock);
	int64_t start = now_ms();
	assert_int_equal(open_give(&e, sock, NULL), -ETIMEDOUT);
	assert_true(now_ms() - start >= SHORT - 1);
	free_ends(&e);

	make_ends(&e, &sock);
	close(e.peer);
	e.peer = -1;
	assert_int_equal(open_give(&e, sock, NULL), -EPIPE);
	free_ends(&e);

	make_ends(&e, &sock);
	close(sock);
	assert_int_equal(pipe(fd), 0);
	assert_true(open_give(&e, fd[0], NULL) < 0);
	assert_int_equal(fcntl(fd[0], F_GETFD), -1);
	close(fd[1]);
	free_ends(&e);
}

static void test_not_a_taker(void **state)
{
	struct wire_header other = {WIRE_MAGIC, WIRE_VERSION + 1, WIRE_HELLO, 0, 0};
	struct ends e;
	int sock;

	(void)state;
	make_ends(&e, &sock);
	assert_int_equal(write(e.peer, "GET / HTTP/1.0\r\n\r\n", 18), 18);
	assert_int_equal(open_give(&e, sock, NULL), -EPROTO);
	free_ends(&e);

	make_ends(&e, &sock);
	assert_int_equal(write(e.peer, &other, sizeof(other)), sizeof(other));
	assert_int_equal(open_give(&e, sock, NULL), -EPROTO);
	free_ends(&e);

	make_ends(&e, &sock);
	say(&e, WIRE_READY, NULL, 0, -1);
	assert_int_equal(open_give(&e, sock, NULL), -EPROTO);
	free_ends(&e);
}

/* ---- the order of calls */

static void test_wrong_order(void **state)
{
	struct ends e;

	(void)state;
	begin(&e);
	assert_int_equal(ferry_give_shadow(e.give, NULL, 0), -EINVAL);
	assert_int_equal(ferry_give_commit(e.give), -EINVAL);
	assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_OFFER, -1), 0);
	for (unsigned int phase = FERRY_PHASE_SHADOW; phase < FERRY_PHASES; phase++)
		assert_int_equal(ferry_give_wait(e.give, phase, -1), -ETIMEDOUT);
	static const int phases[] = {FERRY_PHASES, 77, -1};
	for (unsigned int i = 0; i < COUNT(phases); i++)
		assert_int_equal(ferry_give_wait(e.give, (enum ferry_phase)phases[i], -1), -EINVAL);
	struct ferry_report r = {.size = sizeof(r)};
	assert_int_equal(ferry_give_report(e.give, &r), 0);
	assert_int_equal(r.phase, FERRY_PHASE_OFFER);
	assert_int_equal(r.total, 4 * PAGE);
	assert_int_equal(r.left, 4 * PAGE);
	free_ends(&e);
}

static void test_waiting(void **state)
{
	struct ends e;
	int fd[2];

	(void)state;
	begin(&e);
	assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_ATTACHED, -1), -ETIMEDOUT);
	assert_int_equal(pipe(fd), 0);
	assert_int_equal(write(fd[1], "x", 1), 1);
	for (int i = 0; i < 3; i++)
		assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_ATTACHED, fd[0]), 1);
	close(fd[0]);
	close(fd[1]);
	assert_string_equal(ferry_give_reason(e.give), "");
	say(&e, WIRE_ABORT, "not now", 7, -1);
	assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_ATTACHED, -1), -ECANCELED);
	assert_string_equal(ferry_give_reason(e.give), "not now");
	/* Who says it twice has said it shorter, not mixed. */
	say(&e, WIRE_ABORT, "no", 2, -1);
	assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_ATTACHED, -1), -ECANCELED);
	assert_string_equal(ferry_give_reason(e.give), "no");
	close(e.peer);
	e.peer = -1;
	assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_ATTACHED, -1), -EPIPE);
	free_ends(&e);
}

static void test_giving_up(void **state)
{
	char longer[1000];
	struct ends e;

	(void)state;
	begin(&e);
	ferry_give_close(e.give, "the disk is on fire");
	e.give = NULL;
	struct wire_msg msg = hear(&e, WIRE_ABORT);
	assert_string_equal((char *)msg.payload, "the disk is on fire");
	wire_msg_free(&msg);
	free_ends(&e);

	begin(&e);
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = 0;
	ferry_give_close(e.give, longer);
	e.give = NULL;
	msg = hear(&e, WIRE_ABORT);
	assert_int_equal(msg.len, WIRE_REASON - 1);
	wire_msg_free(&msg);
	free_ends(&e);

	/* What the other side would refuse as nonsense isn't sent. */
	begin(&e);
	ferry_give_close(e.give, "two\nlines\033[1m\177");
	e.give = NULL;
	msg = hear(&e, WIRE_ABORT);
	assert_string_equal((char *)msg.payload, "two lines [1m ");
	wire_msg_free(&msg);
	free_ends(&e);
}

/* A reason as long as it can be, and one that can't be. */
static void test_longest_reason(void **state)
{
	char text[WIRE_REASON];
	struct ends e;

	(void)state;
	memset(text, 'r', sizeof(text));
	begin(&e);
	say(&e, WIRE_ABORT, text, WIRE_REASON - 1, -1);
	assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_ATTACHED, -1), -ECANCELED);
	assert_int_equal(strlen(ferry_give_reason(e.give)), WIRE_REASON - 1);
	free_ends(&e);

	struct wire_header h = {WIRE_MAGIC, WIRE_VERSION, WIRE_ABORT, WIRE_REASON, 0};
	begin(&e);
	assert_int_equal(write(e.peer, &h, sizeof(h)), sizeof(h));
	assert_int_equal(write(e.peer, text, sizeof(text)), sizeof(text));
	assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_ATTACHED, -1), -EPROTO);
	assert_string_equal(ferry_give_reason(e.give), "");
	free_ends(&e);

	begin(&e);
	say(&e, WIRE_ABORT, "\033c", 2, -1);
	assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_ATTACHED, -1), -EPROTO);
	assert_string_equal(ferry_give_reason(e.give), "");
	free_ends(&e);
}

/* ---- messages that can't come now, or never */

static void test_out_of_order(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < MESSAGES; i++) {
		struct ends e;
		begin(&e);
		say(&e, messages[i].type, messages[i].payload, messages[i].len, -1);
		assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_ATTACHED, -1), -EPROTO);
		free_ends(&e);
	}
}

/*
 * Something else than a userfaultfd comes with ATTACH, and what can be read from it looks like a
 * fork event that names one of the giver's own descriptors. The giver must not take that over, and
 * not close it.
 */
static void test_forged_userfaultfd(void **state)
{
	struct {
		struct wire_attach head;
		uint64_t addr;
	} attach = {{.nranges = 1}, BLOCK};
	struct uffd_msg fork_msg = {.event = UFFD_EVENT_FORK};
	struct ends e;
	int fd[2], mine[2];

	(void)state;
	assert_int_equal(pipe(fd), 0);
	assert_int_equal(pipe(mine), 0);
	fork_msg.arg.fork.ufd = (uint32_t)mine[0];
	assert_int_equal(write(fd[1], &fork_msg, sizeof(fork_msg)), sizeof(fork_msg));
	begin(&e);
	say(&e, WIRE_ATTACH, &attach, sizeof(attach), fd[0]);
	int ret = ferry_give_wait(e.give, FERRY_PHASE_ATTACHED, -1);
	if (!ret && !ferry_give_shadow(e.give, NULL, 0))
		ferry_give_wait(e.give, FERRY_PHASE_READY, -1);
	free_ends(&e);
	assert_int_equal(close(mine[0]), 0);
	assert_int_equal(ret, -EPROTO);
	close(mine[1]);
	close(fd[0]);
	close(fd[1]);
}

static void test_bad_attach(void **state)
{
	static const struct {
		uint32_t nranges;
		uint64_t addr[2];
	} cases[] = {
		{1, {BLOCK + 1}},
		{1, {0 - PAGE}},
		{1, {0 - 4 * PAGE}},
		{2, {BLOCK, 2 * BLOCK}},
	};

	(void)state;
	int uffd = open_uffd(0);
	for (unsigned int i = 0; i < COUNT(cases); i++) {
		struct {
			struct wire_attach head;
			uint64_t addr[2];
		} attach = {{.nranges = cases[i].nranges}, {cases[i].addr[0], cases[i].addr[1]}};
		struct ends e;
		begin(&e);
		/* Once more after the refusal: no descriptor may be left over. */
		for (int n = 0; n < 3; n++) {
			say(&e, WIRE_ATTACH, &attach, sizeof(attach.head) + 8ul * cases[i].nranges,
			    uffd);
			int ret = ferry_give_wait(e.give, FERRY_PHASE_ATTACHED, -1);
			assert_true(n ? ret < 0 : ret == -EPROTO);
		}
		free_ends(&e);
	}
	close(uffd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_offer),           TEST(test_bad_offers),   TEST(test_memory_not_there),
		TEST(test_too_many_shared), TEST(test_bad_options),  TEST(test_nobody_there),
		TEST(test_not_a_taker),     TEST(test_wrong_order),  TEST(test_waiting),
		TEST(test_giving_up),       TEST(test_out_of_order), TEST(test_forged_userfaultfd),
		TEST(test_bad_attach),      TEST(test_longest_reason),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("give_peer", tests, NULL, NULL);
}
