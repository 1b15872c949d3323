// SPDX-License-Identifier: MIT
/*
 * The giver against a scripted taker with a real userfaultfd: the order of messages after the
 * commit, and a taker that lies. Both are in this process; the messages are written by hand.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "lib/uffd.h"
#include "lib/wire.h"
#include "tests/lib/serve.h"

#define LEN (2 * BLOCK)

struct ends {
	struct ferry_give *give;
	int sock, peer, uffd;
	char *src, *dst;
};

static void say(const struct ends *e, enum wire_type type, const void *payload, size_t len, int fd)
{
	check_equal(wire_send(e->peer, type, payload, len, NULL, 0, &fd, fd >= 0 ? 1 : 0,
			      wire_deadline(1000)),
		    0);
}

static struct wire_msg hear(const struct ends *e, enum wire_type want)
{
	struct wire_msg msg;

	check_equal(wire_recv(e->peer, &msg, wire_deadline(5000)), 0);
	check_equal(msg.type, want);
	return msg;
}

static void hear_and_forget(const struct ends *e, enum wire_type want)
{
	struct wire_msg msg = hear(e, want);
	wire_msg_free(&msg);
}

static bool nothing_said(const struct ends *e)
{
	char byte;
	return recv(e->peer, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static void make_ends(struct ends *e)
{
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	assert_int_equal(wire_prepare(fd[1]), 0);
	*e = (struct ends){.sock = fd[0], .peer = fd[1]};
	e->src = map_memory(LEN, 0);
	e->dst = map_memory(LEN, 0);
	for (size_t i = 0; i < LEN / PAGE; i++)
		fill_page(e->src + i * PAGE, i);
}

static void attach(struct ends *e, uint32_t ways, uint32_t stage, int want)
{
	struct ferry_give_opts opts = {
		.size = sizeof(opts), .ways = ways, .timeout_ms = 2000, .cpu = FERRY_CPU_ANY};
	struct ferry_range r = {.addr = (uintptr_t)e->src, .len = LEN};
	struct ferry_offer offer = {&r, 1, NULL, 0};
	struct {
		struct wire_attach head;
		uint64_t addr;
	} msg = {{1, stage}, (uintptr_t)e->dst};
	say(e, WIRE_HELLO, NULL, 0, -1);
	assert_int_equal(ferry_give_open(&e->give, e->sock, &offer, &opts), 0);
	hear_and_forget(e, WIRE_OFFER);
	say(e, WIRE_ATTACH, &msg, sizeof(msg), e->uffd);
	assert_int_equal(ferry_give_wait(e->give, FERRY_PHASE_ATTACHED, -1), want);
}

static void begin(struct ends *e, uint32_t ways, uint64_t features, uint32_t stage, int want)
{
	make_ends(e);
	e->uffd = open_uffd(features);
	assert_int_equal(
		uffd_register(e->uffd, (uintptr_t)e->dst, LEN, UFFDIO_REGISTER_MODE_MISSING, NULL),
		0);
	attach(e, ways, stage, want);
}

static void begin_committed(struct ends *e, uint32_t ways, uint64_t features, uint32_t stage)
{
	begin(e, ways, features, stage, 0);
	assert_int_equal(ferry_give_shadow(e->give, NULL, 0), 0);
	hear_and_forget(e, WIRE_SHADOW);
	say(e, WIRE_READY, NULL, 0, -1);
	assert_int_equal(ferry_give_wait(e->give, FERRY_PHASE_READY, -1), 0);
	say(e, WIRE_COMMITTED, NULL, 0, -1);
	assert_int_equal(ferry_give_commit(e->give), 0);
	hear_and_forget(e, WIRE_COMMIT);
}

static void end(struct ends *e)
{
	ferry_give_close(e->give, NULL);
	if (e->peer >= 0)
		close(e->peer);
	close(e->uffd);
	unmap(e->src, LEN);
	unmap(e->dst, LEN);
}

static struct ferry_report report_of(const struct ends *e)
{
	struct ferry_report r = {.size = sizeof(r)};
	assert_int_equal(ferry_give_report(e->give, &r), 0);
	return r;
}

/* ---- */

struct script {
	struct ends *e;
	int wake;
};

static void *wake_after_done(void *arg)
{
	const struct script *s = arg;
	uint64_t one = 1;

	hear_and_forget(s->e, WIRE_DONE);
	check_equal(write(s->wake, &one, sizeof(one)), sizeof(one));
	return NULL;
}

/* Waiting is interrupted between DONE and FINISHED: DONE is said once. */
static void test_done_once(void **state)
{
	struct ends e;
	struct script s = {&e, eventfd(0, EFD_CLOEXEC)};
	pthread_t thread;
	uint64_t value;

	(void)state;
	begin_committed(&e, FERRY_WAY_BIT(FERRY_WAY_COPY), 0, 0);
	assert_int_equal(pthread_create(&thread, NULL, wake_after_done, &s), 0);
	assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_DONE, s.wake), 1);
	pthread_join(thread, NULL);
	for (int i = 0; i < 3; i++)
		assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_DONE, s.wake), 1);
	assert_int_equal(read(s.wake, &value, sizeof(value)), sizeof(value));
	assert_true(nothing_said(&e));
	say(&e, WIRE_FINISHED, NULL, 0, -1);
	assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_DONE, s.wake), 0);
	assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_DONE, s.wake), 0);
	assert_true(nothing_said(&e));
	for (size_t i = 0; i < LEN / PAGE; i++)
		assert_true(page_has(e.dst + i * PAGE, i));
	assert_int_equal(report_of(&e).bytes[FERRY_WAY_COPY], LEN);
	close(s.wake);
	end(&e);
}

static void *lose_a_page(void *arg)
{
	const struct ends *e = arg;
	uint64_t value = 1;

	hear_and_forget(e, WIRE_DONE);
	check_equal(madvise(e->dst + 5 * PAGE, PAGE, MADV_DONTNEED), 0);
	check_equal(peek(e->dst + 5 * PAGE, &value), 0);
	check_equal(value, 0);
	say(e, WIRE_FINISHED, NULL, 0, -1);
	return NULL;
}

/*
 * A page that had come is gone again, of which the giver isn't told: the kernel does so with what was freed by
 * MADV_FREE, here it is a userfaultfd without such events. Whoever asks for it doesn't ask for ever.
 */
static void test_dropped(void **state)
{
	pthread_t thread;
	struct ends e;

	(void)state;
	begin_committed(&e, FERRY_WAY_BIT(FERRY_WAY_COPY), 0, 0);
	assert_int_equal(pthread_create(&thread, NULL, lose_a_page, &e), 0);
	assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_DONE, -1), 0);
	pthread_join(thread, NULL);
	assert_int_equal(report_of(&e).bytes[FERRY_WAY_COPY], LEN);
	assert_int_equal(report_of(&e).bytes[FERRY_WAY_ZERO], 0);
	end(&e);
}

/* What can't come now ends it, and so does the taker's ABORT. */
static void test_nonsense_after_commit(void **state)
{
	static const struct wire_result result;
	static const struct {
		enum wire_type type;
		int want;
		const void *payload;
		size_t len;
	} cases[] = {
		{WIRE_FINISHED, -EPROTO, NULL, 0},
		{WIRE_COMMITTED, -EPROTO, NULL, 0},
		{WIRE_READY, -EPROTO, NULL, 0},
		{WIRE_HELLO, -EPROTO, NULL, 0},
		{WIRE_STAGED, -EPROTO, &result, sizeof(result)},
		{WIRE_PLACED, -EPROTO, &result, sizeof(result)},
		{WIRE_ABORT, -ECANCELED, NULL, 0},
	};

	(void)state;
	for (unsigned int i = 0; i < COUNT(cases); i++) {
		struct ends e;
		begin_committed(&e, FERRY_WAY_BIT(FERRY_WAY_COPY), 0, 0);
		say(&e, cases[i].type, cases[i].payload, cases[i].len, -1);
		assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_DONE, -1), cases[i].want);
		end(&e);
	}
}

/* It has said why and is gone before the giver speaks again: that fails, and yet it is heard. */
static void test_reason_of_one_that_is_gone(void **state)
{
	struct ends e;

	(void)state;
	begin(&e, FERRY_WAY_BIT(FERRY_WAY_COPY), 0, 0, 0);
	say(&e, WIRE_ABORT, "too small", 9, -1);
	close(e.peer);
	assert_int_equal(ferry_give_shadow(e.give, NULL, 0), -ECANCELED);
	assert_string_equal(ferry_give_reason(e.give), "too small");
	e.peer = -1;
	end(&e);

	for (int gone = 0; gone < 2; gone++) {
		begin(&e, FERRY_WAY_BIT(FERRY_WAY_COPY), 0, 0, 0);
		assert_int_equal(ferry_give_shadow(e.give, NULL, 0), 0);
		hear_and_forget(&e, WIRE_SHADOW);
		say(&e, WIRE_READY, NULL, 0, -1);
		assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_READY, -1), 0);
		say(&e, WIRE_ABORT, "after all not", 13, -1);
		if (gone) {
			close(e.peer);
			e.peer = -1;
		}
		assert_int_equal(ferry_give_commit(e.give), -ECANCELED);
		assert_string_equal(ferry_give_reason(e.give), "after all not");
		assert_int_equal(report_of(&e).phase, FERRY_PHASE_READY);
		end(&e);
	}
}

static int wait_for_page(void *arg)
{
	const struct ends *e = arg;
	uint64_t value;
	int uffd = ferry_uffd_open(0, 0);

	check_equal(
		uffd_register(uffd, (uintptr_t)e->dst, LEN, UFFDIO_REGISTER_MODE_MISSING, NULL), 0);
	send_fd(e->peer, uffd);
	return peek(e->dst, &value);
}

/* The same, and the giver notices by a page that the process waited for that it is gone. */
static void test_reason_of_one_that_waited(void **state)
{
	struct ends e;

	(void)state;
	close(open_uffd(0));
	make_ends(&e);
	pid_t taker = spawn(wait_for_page, &e);
	e.uffd = receive_fd(e.sock);
	attach(&e, FERRY_WAY_BIT(FERRY_WAY_COPY), 0, 0);
	wait_readable(e.uffd);
	/* Its fault is read and put off until the shadow. */
	int wake = eventfd(1, EFD_CLOEXEC);
	for (struct pollfd fd = {.fd = e.uffd, .events = POLLIN}; poll(&fd, 1, 0) > 0;)
		assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_SHADOW, wake), 1);
	close(wake);
	say(&e, WIRE_ABORT, "no room", 7, -1);
	kill_and_reap(taker);
	assert_int_equal(ferry_give_shadow(e.give, NULL, 0), 0);
	assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_READY, -1), -ECANCELED);
	assert_string_equal(ferry_give_reason(e.give), "no room");
	end(&e);
}

static void test_no_stage(void **state)
{
	struct ends e;

	(void)state;
	begin(&e, FERRY_WAY_BIT(FERRY_WAY_STAGE), 0, 0, -EOPNOTSUPP);
	end(&e);
}

/* Answers every request to stage with @staged, and every request to place with @placed. */
struct stager {
	struct ends *e;
	struct wire_result staged, placed;
	unsigned int asked;
	bool finish;
};

static void *stage_blindly(void *arg)
{
	struct stager *s = arg;
	struct wire_msg msg;

	while (wire_recv(s->e->peer, &msg, wire_deadline(5000)) == 0) {
		uint16_t type = msg.type;
		wire_msg_free(&msg);
		s->asked++;
		if (type == WIRE_STAGE) {
			say(s->e, WIRE_STAGED, &s->staged, sizeof(s->staged), -1);
		} else if (type == WIRE_PLACE) {
			say(s->e, WIRE_PLACED, &s->placed, sizeof(s->placed), -1);
		} else {
			check_equal(type, WIRE_DONE);
			say(s->e, WIRE_FINISHED, NULL, 0, -1);
			s->finish = true;
			break;
		}
	}
	return NULL;
}

/* Whatever staging says, what it has not placed is copied. */
static void test_stage_fails(void **state)
{
	static const struct wire_result answers[][2] = {
		{{.error = -EFAULT}, {0}},
		{{.error = -EPERM}, {0}},
		{{.error = -ENOSYS}, {0}},
		{{0}, {.error = -EBUSY}},
		{{0}, {.error = -EAGAIN}},
		{{0}, {.error = -EEXIST}},
		{{0}, {.error = -EINVAL, .done = 0}},
		{{.error = -ENOMEM}, {.error = -1}},
	};

	(void)state;
	for (unsigned int i = 0; i < COUNT(answers); i++) {
		struct ends e;
		pthread_t thread;
		begin_committed(&e, FERRY_WAY_BIT(FERRY_WAY_STAGE), 0, 1);
		struct stager s = {.e = &e, .staged = answers[i][0], .placed = answers[i][1]};
		assert_int_equal(pthread_create(&thread, NULL, stage_blindly, &s), 0);
		assert_int_equal(ferry_give_wait(e.give, FERRY_PHASE_DONE, -1), 0);
		pthread_join(thread, NULL);
		assert_true(s.finish && s.asked >= 2);
		for (size_t n = 0; n < LEN / PAGE; n++)
			assert_true(page_has(e.dst + n * PAGE, n));
		assert_int_equal(report_of(&e).bytes[FERRY_WAY_COPY], LEN);
		end(&e);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_done_once),
		TEST(test_dropped),
		TEST(test_nonsense_after_commit),
		TEST(test_reason_of_one_that_is_gone),
		TEST(test_reason_of_one_that_waited),
		TEST(test_no_stage),
		TEST(test_stage_fails),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("give_taker", tests, NULL, NULL);
}
