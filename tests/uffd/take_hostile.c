// SPDX-License-Identifier: MIT
/* The taker against a giver whose messages are wrong, too early, too late, too many. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/lib/giver.h"
#include "tests/lib/messages.h"

/* ---- messages that can't come now */

static void test_out_of_order(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < MESSAGES; i++) {
		struct ends e = {0};
		begin_attached(&e);
		giver_say(&e, messages[i].type, messages[i].payload, messages[i].len);
		assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), -EPROTO);
		ends_free(&e);
	}
}

/* COMMIT that nobody has asked for: the memory isn't ours. */
static void test_commit_too_early(void **state)
{
	struct ends e = {0};

	(void)state;
	begin_attached(&e);
	giver_say_shadow(&e, 0);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), 0);
	giver_say_commit(&e, 0);
	giver_expect(&e, WIRE_ABORT);
	assert_true(ferry_take_commit(e.take) < 0);
	ends_free(&e);
}

/* COMMIT that comes when the program has stopped waiting for it: the same. */
static void test_commit_too_late(void **state)
{
	struct ends e = {0};

	(void)state;
	begin_attached(&e);
	giver_say_shadow(&e, 0);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), 0);
	assert_int_equal(ferry_take_commit(e.take), -ETIMEDOUT);
	giver_expect(&e, WIRE_READY);
	giver_say_commit(&e, 0);
	giver_expect(&e, WIRE_ABORT);
	ends_free(&e);
}

/* ---- page tables, for which the program waits */

/* Nobody has agreed to that. */
static void test_tables_unasked(void **state)
{
	struct ends e = {0};

	(void)state;
	begin_attached(&e);
	giver_say_shadow(&e, 0);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), 0);
	giver_say_commit(&e, 1);
	giver_expect(&e, WIRE_ABORT);
	assert_int_equal(ferry_take_commit(e.take), -EPROTO);
	ends_free(&e);
}

static atomic_bool said;

static void *arrive(void *arg)
{
	struct ends *e = arg;

	giver_expect(e, WIRE_READY);
	giver_say_commit(e, 1);
	giver_expect(e, WIRE_COMMITTED);
	poll(NULL, 0, SHORT / 3);
	said = true;
	giver_say(e, WIRE_ARRIVED, NULL, 0);
	return NULL;
}

static struct ends begin_with_tables(void)
{
	struct ends e = {.flags = FERRY_TAKE_TABLES, .tables = true};

	begin_attached(&e);
	giver_say_shadow(&e, 0);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), 0);
	return e;
}

static void test_arrival(void **state)
{
	struct ends e = begin_with_tables();
	pthread_t giver;

	(void)state;
	said = false;
	assert_int_equal(pthread_create(&giver, NULL, arrive, &e), 0);
	assert_int_equal(ferry_take_commit(e.take), 0);
	assert_true(said);
	pthread_join(giver, NULL);
	/* A second time it says nothing. */
	giver_say(&e, WIRE_ARRIVED, NULL, 0);
	assert_int_equal(ferry_take_done(e.take, 5000), -EOWNERDEAD);
	ends_free(&e);
}

/* The memory is ours however long it takes; and it can come when nobody waits any more. */
static void test_no_arrival(void **state)
{
	struct ends e = {.flags = FERRY_TAKE_TABLES, .tables = true};

	(void)state;
	begin_committed(&e);
	assert_int_equal(ferry_take_done(e.take, 0), -ETIMEDOUT);
	giver_say(&e, WIRE_ARRIVED, NULL, 0);
	giver_say_done(&e);
	giver_expect(&e, WIRE_FINISHED);
	assert_int_equal(ferry_take_done(e.take, 5000), 0);
	ends_free(&e);
}

static void *hang_up(void *arg)
{
	struct ends *e = arg;

	giver_expect(e, WIRE_READY);
	giver_say_commit(e, 1);
	giver_expect(e, WIRE_COMMITTED);
	ends_hang_up(e);
	return NULL;
}

/* A giver that goes before anything has arrived: the commit stands, and what is lost is told. */
static void test_giver_goes(void **state)
{
	struct ends e = begin_with_tables();
	pthread_t giver;

	(void)state;
	assert_int_equal(pthread_create(&giver, NULL, hang_up, &e), 0);
	assert_int_equal(ferry_take_commit(e.take), 0);
	pthread_join(giver, NULL);
	assert_int_equal(ferry_take_done(e.take, 5000), -EOWNERDEAD);
	ends_free(&e);
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
			giver_say_shadow(&e, 2);
			say_fds(&e, 3);
			break;
		case 2:
			giver_say_shadow(&e, 5);
			say_fds(&e, 3);
			say_fds(&e, 3);
			break;
		case 3:
			giver_say_shadow(&e, 5);
			say_fds(&e, 3);
			giver_say_shadow(&e, 5);
			break;
		case 4:
			giver_say_shadow(&e, 130);
			say_fds(&e, 128);
			ends_hang_up(&e);
			break;
		}
		assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), i == 4 ? -EPIPE : -EPROTO);
		ends_free(&e);
	}
}

/* Descriptors that nobody asks for are closed with the object. */
static void test_unwanted_descriptors(void **state)
{
	struct ends e = {0};

	(void)state;
	begin_attached(&e);
	giver_say_shadow(&e, 128);
	say_fds(&e, 128);
	assert_int_equal(ferry_take_shadow(e.take, NULL, NULL), 0);
	ends_free(&e);
}

/* ---- staging, as a hostile giver would use it */

static struct wire_result stage(const struct ends *e, enum wire_type type, uint64_t src,
				uint64_t dst)
{
	struct wire_block block = {src, dst};
	struct wire_result result;

	giver_say(e, type, &block, sizeof(block));
	struct wire_msg msg = giver_hear(e, type == WIRE_STAGE ? WIRE_STAGED : WIRE_PLACED);
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
	giver_say_done(&e);
	assert_int_equal(ferry_take_done(e.take, -1), 0);
	giver_expect(&e, WIRE_FINISHED);
	ends_free(&e);
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
	giver_say_done(&e);
	assert_int_equal(ferry_take_done(e.take, -1), 0);
	ends_free(&e);
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
	giver_say_done(&e);
	assert_int_equal(ferry_take_done(e.take, -1), 0);
	ends_free(&e);
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
	giver_say_done(&e);
	assert_int_equal(ferry_take_done(e.take, -1), 0);
	adviser_join(&adviser);
	giver_expect(&e, WIRE_FINISHED);
	assert_true(page_is_zero(e.memory));
	ends_free(&e);
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
	giver_say(&e, WIRE_ABORT, NULL, 0);
	assert_int_equal(ferry_take_done(e.take, -1), -EOWNERDEAD);
	adviser_join(&adviser);
	assert_int_equal(peek(e.memory + 4 * PAGE, &value), SIGBUS);
	ends_free(&e);
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
		giver_say(&e, lose ? WIRE_ABORT : WIRE_DONE, &d, lose ? 0 : sizeof(d));
		assert_int_equal(ferry_take_done(e.take, -1), lose ? -EOWNERDEAD : 0);
		ends_free(&e);
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
		TEST(test_out_of_order),
		TEST(test_commit_too_early),
		TEST(test_commit_too_late),
		TEST(test_tables_unasked),
		TEST(test_arrival),
		TEST(test_no_arrival),
		TEST(test_giver_goes),
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
	return cmocka_run_group_tests_name("take_hostile", tests, NULL, NULL);
}
