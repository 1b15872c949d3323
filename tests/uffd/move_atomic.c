// SPDX-License-Identifier: MIT
/*
 * A page on the move is in exactly one place at every instant, whole; no write to it is lost.
 * The page goes back and forth between two neighbours as fast as it can while other threads look.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "lib/uffd.h"
#include "tests/lib/serve.h"

#define ROUND_MS 700

/* Two places of one page each, side by side, so that one look at the page table shows both. */
struct swing {
	int uffd;
	char *place[2];
	atomic_bool stop;
	atomic_ullong moves, looks, here[2], writes;
};

static void swing_init(struct swing *s)
{
	memset(s, 0, sizeof(*s));
	/* An access to the place where the page isn't is a SIGBUS, so nobody waits. */
	s->uffd = open_uffd(UFFD_FEATURE_MOVE | UFFD_FEATURE_SIGBUS);
	s->place[0] = map_memory(2 * PAGE, 8 * PAGE);
	s->place[1] = s->place[0] + PAGE;
	fill_page(s->place[0], 1);
	assert_int_equal(uffd_register(s->uffd, (uintptr_t)s->place[0], 2 * PAGE,
				       UFFDIO_REGISTER_MODE_MISSING, NULL),
			 0);
}

static void swing_fini(struct swing *s)
{
	close(s->uffd);
	unmap(s->place[0], 2 * PAGE);
}

/* Ends with the page at place 0. */
static void *move_to_and_fro(void *arg)
{
	struct swing *s = arg;
	struct ferry_move m = {
		.size = sizeof(m), .uffd = s->uffd, .flags = FERRY_MOVE_STRICT, .len = PAGE};

	for (unsigned int at = 0; !s->stop || at; at = !at) {
		m.src = (uintptr_t)s->place[at];
		m.dst = (uintptr_t)s->place[!at];
		int ret = ferry_move(&m);
		/* A reader's own reference to the page is a reason to refuse, for as long as it
		 * lasts. */
		while (ret == -EBUSY)
			ret = ferry_move(&m);
		check_equal(ret, 0);
		s->moves++;
	}
	return NULL;
}

/* Both entries under one lock of the page table. */
static void *look_at_entries(void *arg)
{
	struct swing *s = arg;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry[2];

	check(fd >= 0);
	while (!s->stop) {
		off_t at = (off_t)((uintptr_t)s->place[0] / PAGE * sizeof(entry[0]));
		check_equal(pread(fd, entry, sizeof(entry), at), sizeof(entry));
		unsigned int there = (entry[0] >> 63) + (entry[1] >> 63);
		check_equal(there, 1);
		s->here[entry[1] >> 63]++;
		s->looks++;
	}
	close(fd);
	return NULL;
}

/* What can be read is all of the page, wherever it is. */
static void *read_pages(void *arg)
{
	struct swing *s = arg;
	char copy[PAGE];
	struct iovec local = {copy, PAGE};

	for (unsigned int i = 0; !s->stop; i++) {
		struct iovec remote = {s->place[i % 2], PAGE};
		ssize_t n = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
		if (n < 0) {
			check_equal(errno, EFAULT);
			continue;
		}
		check_equal(n, PAGE);
		check(page_has(copy, 1));
		s->looks++;
	}
	return NULL;
}

static _Thread_local sigjmp_buf back;

static void on_sigbus(int sig)
{
	siglongjmp(back, sig);
}

/*
 * Only an increment that raised no signal was made. ThreadSanitizer would make it with a lock held,
 * which the signal leaves locked.
 */
__attribute__((no_sanitize("thread"))) static void *add_ones(void *arg)
{
	struct swing *s = arg;
	volatile unsigned int i = 0;

	while (!s->stop) {
		uint64_t *word = (uint64_t *)(void *)s->place[i++ % 2];
		if (sigsetjmp(back, 1))
			continue;
		__atomic_fetch_add(word, 1, __ATOMIC_SEQ_CST);
		s->writes++;
	}
	return NULL;
}

static void swing(struct swing *s, void *(*fn)(void *), unsigned int n)
{
	pthread_t mover, others[4];
	int64_t until = now_ms() + ROUND_MS;

	pthread_create(&mover, NULL, move_to_and_fro, s);
	for (unsigned int i = 0; i < n; i++)
		pthread_create(&others[i], NULL, fn, s);
	while (now_ms() < until)
		usleep(10000);
	s->stop = true;
	pthread_join(mover, NULL);
	for (unsigned int i = 0; i < n; i++)
		pthread_join(others[i], NULL);
	assert_true(s->moves > 1000);
}

static void test_never_in_two_places(void **state)
{
	struct swing s;

	(void)state;
	swing_init(&s);
	swing(&s, look_at_entries, 1);
	assert_true(s.looks > 1000);
	/* Seen at both places, so the look was not just lucky. */
	assert_true(s.here[0] > 10 && s.here[1] > 10);
	swing_fini(&s);
}

static void test_never_torn(void **state)
{
	struct swing s;

	(void)state;
	swing_init(&s);
	swing(&s, read_pages, 1);
	assert_true(s.looks > 100);
	assert_true(page_has(s.place[0], 1));
	swing_fini(&s);
}

static void test_no_write_lost(void **state)
{
	struct swing s;
	struct sigaction act = {.sa_handler = on_sigbus}, old;

	(void)state;
	swing_init(&s);
	memset(s.place[0], 0, PAGE);
	assert_int_equal(sigaction(SIGBUS, &act, &old), 0);
	swing(&s, add_ones, 2);
	sigaction(SIGBUS, &old, NULL);
	assert_true(s.writes > 1000);
	assert_int_equal(*(uint64_t *)(void *)s.place[0], s.writes);
	swing_fini(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_never_in_two_places),
		TEST(test_never_torn),
		TEST(test_no_write_lost),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("move_atomic", tests, NULL, NULL);
}
