// SPDX-License-Identifier: MIT
/* Every outcome that resolving can have, by every ioctl, made to happen and seen in the memory. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "lib/resolve.h"
#include "lib/uffd.h"
#include "tests/lib/serve.h"

#define EVENTS (UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMAP)
#define FEATURES                                                                                   \
	(EVENTS | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_POISON |    \
	 UFFD_FEATURE_MOVE | UFFD_FEATURE_PAGEFAULT_FLAG_WP)

/* One userfaultfd with a range for each way to resolve, and contents to bring. */
struct bench {
	int uffd, memfd;
	char *anon;   /* MISSING | WP */
	char *shared; /* MINOR; its page cache has pages 0 to 3 */
	char *from;
};

#define NPAGES 8u

static void bench_init(struct bench *b)
{
	char page[PAGE];

	b->uffd = open_uffd(FEATURES);
	b->anon = map_memory(NPAGES * PAGE, 0);
	b->from = map_memory(NPAGES * PAGE, 0);
	b->memfd = memfd_create("bench", MFD_CLOEXEC);
	assert_int_equal(ftruncate(b->memfd, NPAGES * PAGE), 0);
	for (unsigned int i = 0; i < NPAGES; i++)
		fill_page(b->from + i * PAGE, i);
	for (unsigned int i = 0; i < 4; i++) {
		fill_page(page, 100 + i);
		assert_int_equal(pwrite(b->memfd, page, PAGE, (off_t)(i * PAGE)), PAGE);
	}
	b->shared = mmap(NULL, NPAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, b->memfd, 0);
	assert_ptr_not_equal(b->shared, MAP_FAILED);
	assert_int_equal(uffd_register(b->uffd, (uintptr_t)b->anon, NPAGES * PAGE,
				       UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
				       NULL),
			 0);
	assert_int_equal(uffd_register(b->uffd, (uintptr_t)b->shared, NPAGES * PAGE,
				       UFFDIO_REGISTER_MODE_MINOR, NULL),
			 0);
}

static void bench_fini(struct bench *b)
{
	close(b->uffd);
	close(b->memfd);
	unmap(b->anon, NPAGES * PAGE);
	unmap(b->from, NPAGES * PAGE);
	unmap(b->shared, NPAGES * PAGE);
}

static const uint32_t kinds[] = {FERRY_ANSWER_ZERO,      FERRY_ANSWER_COPY,
				 FERRY_ANSWER_MOVE,      FERRY_ANSWER_CONTINUE,
				 FERRY_ANSWER_UNPROTECT, FERRY_ANSWER_POISON};

static char *place_of(const struct bench *b, uint32_t kind)
{
	return kind == FERRY_ANSWER_CONTINUE ? b->shared : b->anon;
}

static enum resolved resolve_at(const struct bench *b, uint32_t kind, char *addr, uint64_t len,
				uint64_t *done, int *error)
{
	struct ferry_answer answer = {.kind = kind, .len = len, .from = b->from};
	struct ferry_fault fault = {.addr = (uintptr_t)addr};

	*error = 0;
	return resolve((struct resolve_at){ .uffd = b->uffd, .module = -1 }, &fault, &answer, done, error);
}

static void test_installed(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < COUNT(kinds); i++) {
		struct bench b;
		uint64_t done, value;
		int error;
		bench_init(&b);
		char *at = place_of(&b, kinds[i]);
		assert_int_equal(resolve_at(&b, kinds[i], at, 2 * PAGE, &done, &error),
				 RESOLVED_INSTALLED);
		assert_int_equal(done, 2 * PAGE);
		switch (kinds[i]) {
		case FERRY_ANSWER_ZERO:
			assert_true(page_is_zero(at) && page_is_zero(at + PAGE));
			break;
		case FERRY_ANSWER_MOVE:
			assert_true(page_is_zero(b.from) && page_is_zero(b.from + PAGE));
			/* fall through */
		case FERRY_ANSWER_COPY:
			assert_true(page_has(at, 0) && page_has(at + PAGE, 1));
			break;
		case FERRY_ANSWER_CONTINUE:
			assert_true(page_has(at, 100) && page_has(at + PAGE, 101));
			break;
		case FERRY_ANSWER_POISON:
			assert_int_equal(peek(at, &value), SIGBUS);
			assert_int_equal(peek(at + PAGE, &value), SIGBUS);
			break;
		}
		bench_fini(&b);
	}
}

static void test_already(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < COUNT(kinds); i++) {
		struct bench b;
		uint64_t done;
		int error;
		if (kinds[i] == FERRY_ANSWER_UNPROTECT)
			continue;
		bench_init(&b);
		char *at = place_of(&b, kinds[i]);
		uint32_t first = kinds[i] == FERRY_ANSWER_CONTINUE ? kinds[i] : FERRY_ANSWER_COPY;
		assert_int_equal(resolve_at(&b, first, at, PAGE, &done, &error),
				 RESOLVED_INSTALLED);
		assert_int_equal(resolve_at(&b, kinds[i], at, PAGE, &done, &error),
				 RESOLVED_ALREADY);
		assert_int_equal(done, 0);
		/* Half-way: what is in place counts. */
		assert_int_equal(resolve_at(&b, first, at + 3 * PAGE, PAGE, &done, &error),
				 RESOLVED_INSTALLED);
		assert_int_equal(resolve_at(&b, kinds[i], at + PAGE, 3 * PAGE, &done, &error),
				 RESOLVED_INSTALLED);
		assert_int_equal(done, 2 * PAGE);
		bench_fini(&b);
	}
}

static void wake_by(struct bench *b, struct reader *r, uint32_t kind)
{
	uint64_t done;
	int error;

	reader_start(r, b->anon);
	wait_readable(b->uffd);
	/* Put in place without waking anyone: as when the message was overtaken. */
	assert_int_equal(uffd_copy(b->uffd, (uintptr_t)b->anon, b->from, PAGE,
				   UFFDIO_COPY_MODE_DONTWAKE, &done),
			 0);
	assert_int_equal(resolve_at(b, kind, b->anon, PAGE, &done, &error), RESOLVED_ALREADY);
	reader_join(r);
	assert_int_equal(r->signal, 0);
	assert_true(page_has(b->anon, 0));
}

/* EEXIST means: wake whoever waits, since nobody else will. */
static void test_already_wakes(void **state)
{
	static const uint32_t woken[] = {FERRY_ANSWER_ZERO, FERRY_ANSWER_COPY, FERRY_ANSWER_MOVE,
					 FERRY_ANSWER_POISON, FERRY_ANSWER_HERE};

	(void)state;
	for (unsigned int i = 0; i < COUNT(woken); i++) {
		struct bench b;
		struct reader reader;
		bench_init(&b);
		wake_by(&b, &reader, woken[i]);
		bench_fini(&b);
	}
}

/* An event that nobody has read is in the way of every ioctl, and of none once it was read. */
static void test_deferred(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < COUNT(kinds); i++) {
		struct bench b;
		struct adviser adviser;
		struct uffd_msg msg;
		uint64_t done;
		int error;
		bench_init(&b);
		adviser_start(&adviser, b.anon + 5 * PAGE, PAGE, MADV_DONTNEED);
		wait_readable(b.uffd);
		char *at = place_of(&b, kinds[i]);
		for (int again = 0; again < 3; again++) {
			assert_int_equal(resolve_at(&b, kinds[i], at, PAGE, &done, &error),
					 RESOLVED_DEFERRED);
			assert_int_equal(error, -EAGAIN);
			assert_int_equal(done, 0);
		}
		assert_false(adviser.done);
		assert_int_equal(read(b.uffd, &msg, sizeof(msg)), sizeof(msg));
		adviser_join(&adviser);
		assert_int_equal(resolve_at(&b, kinds[i], at, PAGE, &done, &error),
				 RESOLVED_INSTALLED);
		bench_fini(&b);
	}
}

/* Unregistered, or unmapped: the waiting thread is woken to find out by itself. */
static void test_discarded(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < COUNT(kinds); i++) {
		struct bench b;
		uint64_t done;
		int error;
		if (kinds[i] == FERRY_ANSWER_MOVE)
			continue; /* the kernel says EINVAL to that, see test_failed */
		bench_init(&b);
		char *at = place_of(&b, kinds[i]);
		assert_int_equal(uffd_unregister(b.uffd, (uintptr_t)at, NPAGES * PAGE), 0);
		assert_int_equal(resolve_at(&b, kinds[i], at, PAGE, &done, &error),
				 RESOLVED_DISCARDED);
		unmap(at, NPAGES * PAGE);
		assert_int_equal(resolve_at(&b, kinds[i], at, PAGE, &done, &error),
				 RESOLVED_DISCARDED);
		assert_int_equal(resolve_at(&b, kinds[i], at, 3 * PAGE, &done, &error),
				 RESOLVED_DISCARDED);
		bench_fini(&b);
	}
}

/* The page cache lost the page between the fault and the answer: the thread has to look again. */
static void test_discarded_wakes(void **state)
{
	struct bench b;
	struct reader reader;
	uint64_t done;
	int error;

	(void)state;
	bench_init(&b);
	reader_start(&reader, b.shared);
	wait_readable(b.uffd);
	assert_int_equal(
		fallocate(b.memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE), 0);
	assert_int_equal(resolve_at(&b, FERRY_ANSWER_CONTINUE, b.shared, PAGE, &done, &error),
			 RESOLVED_DISCARDED);
	reader_join(&reader);
	assert_int_equal(reader.signal, 0);
	assert_int_equal(reader.value, 0);
	bench_fini(&b);
}

static void test_failed(void **state)
{
	struct bench b;
	uint64_t done;
	int error;

	(void)state;
	bench_init(&b);
	char *from = b.from;
	b.from = (char *)PAGE;
	assert_int_equal(resolve_at(&b, FERRY_ANSWER_COPY, b.anon, PAGE, &done, &error),
			 RESOLVED_FAILED);
	assert_int_equal(error, -EFAULT);
	b.from = from + 1;
	assert_int_equal(resolve_at(&b, FERRY_ANSWER_MOVE, b.anon, PAGE, &done, &error),
			 RESOLVED_FAILED);
	assert_int_equal(error, -EINVAL);
	b.from = from;
	for (unsigned int i = 0; i < COUNT(kinds); i++) {
		assert_int_equal(
			resolve_at(&b, kinds[i], place_of(&b, kinds[i]) + 1, PAGE, &done, &error),
			RESOLVED_FAILED);
		assert_int_equal(error, -EINVAL);
		assert_int_equal(
			resolve_at(&b, kinds[i], place_of(&b, kinds[i]), PAGE + 1, &done, &error),
			RESOLVED_FAILED);
		assert_int_equal(error, -EINVAL);
	}
	/* A page of shared memory that the page cache doesn't have: discarded, never poisoned. */
	assert_int_equal(
		resolve_at(&b, FERRY_ANSWER_CONTINUE, b.shared + 6 * PAGE, PAGE, &done, &error),
		RESOLVED_DISCARDED);
	bench_fini(&b);
}

static int lend_uffd(void *arg)
{
	const int *sock = arg;
	char *mem = map_memory(NPAGES * PAGE, 0);
	uint64_t addr = (uintptr_t)mem;
	int uffd = ferry_uffd_open(UFFD_FEATURE_POISON, 0);

	check(uffd >= 0);
	check_equal(uffd_register(uffd, addr, NPAGES * PAGE, UFFDIO_REGISTER_MODE_MISSING, NULL),
		    0);
	check_equal(write(sock[1], &addr, sizeof(addr)), sizeof(addr));
	send_fd(sock[1], uffd);
	return 0;
}

static void test_gone(void **state)
{
	static const uint32_t remote[] = {FERRY_ANSWER_ZERO, FERRY_ANSWER_COPY,
					  FERRY_ANSWER_POISON};
	struct bench b;
	uint64_t addr, done;
	int sock[2], error;

	(void)state;
	bench_init(&b);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sock), 0);
	pid_t child = spawn(lend_uffd, sock);
	assert_int_equal(read(sock[0], &addr, sizeof(addr)), sizeof(addr));
	int mine = b.uffd;
	b.uffd = receive_fd(sock[0]);
	assert_int_equal(wait_exit(child), 0);
	for (unsigned int i = 0; i < COUNT(remote); i++) {
		assert_int_equal(resolve_at(&b, remote[i], (char *)addr, PAGE, &done, &error),
				 RESOLVED_GONE);
		assert_int_equal(error, -ESRCH);
	}
	close(b.uffd);
	b.uffd = mine;
	close(sock[0]);
	close(sock[1]);
	bench_fini(&b);
}

/* Poison what is empty, and nothing else: across mappings, holes, and pages that are there. */
static void test_poison_range(void **state)
{
	struct bench b;
	uint64_t done, value, poisoned = 0;
	int error;

	(void)state;
	bench_init(&b);
	assert_int_equal(resolve_at(&b, FERRY_ANSWER_COPY, b.anon + PAGE, PAGE, &done, &error),
			 RESOLVED_INSTALLED);
	assert_int_equal(resolve_at(&b, FERRY_ANSWER_ZERO, b.anon + 2 * PAGE, PAGE, &done, &error),
			 RESOLVED_INSTALLED);
	assert_int_equal(mprotect(b.anon + 3 * PAGE, PAGE, PROT_READ), 0);
	/* An unmapped page in the middle; its event has been read. */
	assert_int_equal(uffd_unregister(b.uffd, (uintptr_t)b.anon + 5 * PAGE, PAGE), 0);
	unmap(b.anon + 5 * PAGE, PAGE);
	assert_int_equal(
		resolve_poison(b.uffd, (uintptr_t)b.anon, NPAGES * PAGE, &poisoned, &error),
		RESOLVED_INSTALLED);
	assert_int_equal(poisoned, 5 * PAGE);
	assert_int_equal(peek(b.anon, &value), SIGBUS);
	assert_true(page_has(b.anon + PAGE, 0));
	assert_true(page_is_zero(b.anon + 2 * PAGE));
	assert_int_equal(peek(b.anon + 3 * PAGE, &value), SIGBUS);
	assert_int_equal(peek(b.anon + 4 * PAGE, &value), SIGBUS);
	assert_int_equal(peek(b.anon + 5 * PAGE, &value), SIGSEGV);
	assert_int_equal(peek(b.anon + 6 * PAGE, &value), SIGBUS);
	assert_int_equal(peek(b.anon + 7 * PAGE, &value), SIGBUS);
	/* Also without the registration. */
	assert_int_equal(uffd_unregister(b.uffd, (uintptr_t)b.anon, 5 * PAGE), 0);
	assert_int_equal(peek(b.anon, &value), SIGBUS);
	bench_fini(&b);
}

/* ---- an mremap that is under way */

#define MOVED_LEN (64ul << 20)
#define MOVES	  200u

static char *places[2];
static atomic_bool stays; /* from now on */

static void *move_to_and_fro(void *arg)
{
	for (unsigned int i = 0; i < MOVES; i++)
		check(mremap(places[i % 2], MOVED_LEN, MOVED_LEN, MREMAP_MAYMOVE | MREMAP_FIXED,
			     places[(i + 1) % 2]) == places[(i + 1) % 2]);
	stays = true;
	return arg;
}

/* Where it is now, if an event tells: it may not be there yet, and tells of what was unmapped, too. */
static char *moved_to(int uffd)
{
	struct uffd_msg msg;

	if (read(uffd, &msg, sizeof(msg)) != sizeof(msg) || msg.event != UFFD_EVENT_REMAP)
		return NULL;
	return (char *)(uintptr_t)msg.arg.remap.to;
}

/* A page that moves meanwhile isn't gone, however often that is asked: it is there, or it has to wait. */
static void test_moves(void **state)
{
	int uffd = open_uffd(EVENTS), error = 0;
	char *page = map_memory(PAGE, 0), *now;
	struct ferry_answer answer = {.kind = FERRY_ANSWER_COPY, .from = page};
	struct resolve_at at = {.uffd = uffd, .module = -1};
	unsigned int moves = 0;
	pthread_t thread;
	uint64_t done;

	(void)state;
	fill_page(page, 1);
	for (unsigned int i = 0; i < 2; i++)
		places[i] = map_memory(MOVED_LEN, 0);
	now = places[0];
	for (uint64_t i = 0; i < MOVED_LEN / PAGE; i++)
		now[i * PAGE] = 1;
	assert_int_equal(
		uffd_register(uffd, (uintptr_t)now, MOVED_LEN, UFFDIO_REGISTER_MODE_MISSING, NULL),
		0);
	assert_int_equal(pthread_create(&thread, NULL, move_to_and_fro, NULL), 0);
	while (!stays) {
		enum resolved r = resolve_push(at, (uintptr_t)now, &answer, &done, &error);
		char *next = r == RESOLVED_DEFERRED ? moved_to(uffd) : NULL;
		if (r != RESOLVED_DEFERRED && r != RESOLVED_ALREADY)
			fail_msg("after %u moves: outcome %d, error %d", moves, (int)r, error);
		now = next ? next : now;
		moves += !!next;
	}
	pthread_join(thread, NULL);
	assert_int_equal(moves, MOVES);
	close(uffd);
	unmap(page, PAGE);
	unmap(now, MOVED_LEN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_installed), TEST(test_already),   TEST(test_already_wakes),
		TEST(test_deferred),  TEST(test_discarded), TEST(test_discarded_wakes),
		TEST(test_failed),    TEST(test_gone),      TEST(test_poison_range),
		TEST(test_moves),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("outcomes", tests, NULL, NULL);
}
