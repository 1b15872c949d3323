// SPDX-License-Identifier: MIT
/*
 * Without memory to remember a fault by, its thread must not be forgotten; without memory to follow
 * an event, it must not be read.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "lib/uffd.h"
#include "tests/lib/serve.h"

/* The library's lists grow by this; it fails when it is told to. */
static atomic_int fail_next, fail_not_yet;

void *reallocarray(void *p, size_t n, size_t size)
{
	size_t bytes;

	if (fail_next > 0 && fail_not_yet-- <= 0) {
		fail_next--;
		return NULL;
	}
	return __builtin_mul_overflow(n, size, &bytes) ? NULL : realloc(p, bytes);
}

static void test_fault_not_forgotten(void **state)
{
	struct pattern_source src;
	struct reader reader;

	(void)state;
	int uffd = open_uffd(0);
	char *mem = map_memory(PAGE, 0);
	struct ferry_loop *loop = new_loop();
	pattern_init(&src, 7, 1);
	assert_int_equal(
		uffd_register(uffd, (uintptr_t)mem, PAGE, UFFDIO_REGISTER_MODE_MISSING, NULL), 0);
	assert_int_equal(ferry_loop_watch(loop, uffd, (uintptr_t)mem, PAGE, &src.src, 0), 0);
	reader_start(&reader, mem);
	wait_readable(uffd);
	/* The list of descriptors is made first, the list of faults second. */
	assert_int_equal(ferry_loop_step(loop, 0) >= 0, 1);
	reader_join(&reader);
	assert_int_equal(madvise(mem, PAGE, MADV_DONTNEED), 0);
	reader_start(&reader, mem);
	wait_readable(uffd);
	fail_next = 1;
	while (!reader.done)
		assert_true(ferry_loop_step(loop, 100) >= 0);
	assert_int_equal(fail_next, 0);
	reader_join(&reader);
	assert_int_equal(reader.signal, 0);
	assert_true(page_has(mem, 7));
	ferry_loop_free(loop);
	pattern_fini(&src);
	close(uffd);
	unmap(mem, PAGE);
}

static void test_watch(void **state)
{
	(void)state;
	int uffd = open_uffd(0);
	struct ferry_loop *loop = new_loop();
	for (int i = 0; i < 2; i++) {
		fail_next = 1;
		assert_int_equal(ferry_loop_watch(loop, uffd, BLOCK, PAGE, ferry_source_zero(), 0),
				 -ENOMEM);
		assert_int_equal(fail_next, 0);
	}
	assert_int_equal(ferry_loop_watch(loop, uffd, BLOCK, PAGE, ferry_source_zero(), 0), 0);
	fail_next = 1;
	assert_int_equal(ferry_loop_step(loop, 0), -ENOMEM);
	assert_int_equal(ferry_loop_step(loop, 0), 0);
	ferry_loop_free(loop);
	close(uffd);
}

/* ---- events: nobody may see a page that the event would have told about */

#define NPAGES 8u
#define EVENTS (UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMAP)

struct program {
	char *mem, *to;
	int uffd;
	atomic_bool done;
};

struct act {
	const char *name;
	void (*change)(struct program *p);
	void (*look)(const struct program *p);
};

static void move(struct program *p)
{
	check(mremap(p->mem, NPAGES * PAGE, NPAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p->to) ==
	      p->to);
}

static void look_moved(const struct program *p)
{
	for (unsigned int i = 0; i < NPAGES; i++)
		assert_true(page_has(p->to + i * PAGE, i + 1));
}

static void discard(struct program *p)
{
	check_equal(madvise(p->mem + 2 * PAGE, 3 * PAGE, MADV_DONTNEED), 0);
}

static void look_discarded(const struct program *p)
{
	for (unsigned int i = 0; i < NPAGES; i++)
		assert_true(i >= 2 && i < 5 ? page_is_zero(p->mem + i * PAGE)
					    : page_has(p->mem + i * PAGE, i + 1));
}

/* Unmapped, and then another part of the range is moved there. */
static void unmap_part(struct program *p)
{
	check_equal(munmap(p->mem, 2 * PAGE), 0);
}

static void look_unmapped(const struct program *p)
{
	assert_ptr_equal(mremap(p->mem + 6 * PAGE, 2 * PAGE, 2 * PAGE,
				MREMAP_MAYMOVE | MREMAP_FIXED, p->mem),
			 p->mem);
	for (unsigned int i = 0; i < 6; i++)
		assert_true(page_has(p->mem + i * PAGE, i < 2 ? i + 7 : i + 1));
}

static const struct act acts[] = {
	{"moved", move, look_moved},
	{"discarded", discard, look_discarded},
	{"unmapped", unmap_part, look_unmapped},
};

struct changer {
	pthread_t thread;
	const struct act *act;
	struct program *p;
};

static void *change(void *arg)
{
	const struct changer *c = arg;

	c->act->change(c->p);
	c->p->done = true;
	return NULL;
}

static bool has_messages(int uffd)
{
	struct pollfd fd = {.fd = uffd, .events = POLLIN};
	return poll(&fd, 1, 0) == 1;
}

/* One round in which the nth allocation fails; false: there are not so many. */
static bool round_fails(struct ferry_loop *loop, int nth)
{
	fail_not_yet = nth;
	fail_next = 1;
	int ret = ferry_loop_step(loop, 0);
	bool failed = fail_next == 0;
	fail_next = 0;
	if (failed)
		assert_int_equal(ret, -ENOMEM);
	else
		assert_true(ret > 0);
	return failed;
}

static bool act_without_memory(const struct act *act, int nth)
{
	struct program p = {.uffd = open_uffd(EVENTS)};
	struct changer changer = {.act = act, .p = &p};
	struct pattern_source src;
	struct server server;

	p.mem = map_memory(NPAGES * PAGE, 0);
	p.to = map_memory(NPAGES * PAGE, 0);
	pattern_init(&src, 1, NPAGES);
	server.loop = new_loop();
	assert_int_equal(uffd_register(p.uffd, (uintptr_t)p.mem, NPAGES * PAGE,
				       UFFDIO_REGISTER_MODE_MISSING, NULL),
			 0);
	assert_int_equal(ferry_loop_watch(server.loop, p.uffd, (uintptr_t)p.mem, NPAGES * PAGE,
					  &src.src, 0),
			 0);
	assert_int_equal(ferry_loop_step(server.loop, 0), 0);
	assert_int_equal(pthread_create(&changer.thread, NULL, change, &changer), 0);
	wait_readable(p.uffd);
	bool failed = round_fails(server.loop, nth);
	bool unread = has_messages(p.uffd) && !p.done;
	server_start(&server, server.loop);
	pthread_join(changer.thread, NULL);
	act->look(&p);
	server_stop(&server);
	/* Once it was read another may follow it. */
	if (failed)
		assert_true(unread);
	ferry_loop_free(server.loop);
	pattern_fini(&src);
	close(p.uffd);
	unmap(p.mem, NPAGES * PAGE);
	unmap(p.to, NPAGES * PAGE);
	return failed;
}

static void test_event(void **state)
{
	int nth = 0;

	while (act_without_memory(*state, nth))
		nth++;
	assert_true(nth >= 1);
}

/* Its own process: who forks holds locks that the loop may need. */
struct forker {
	int sock[2];
	char *mem; /* at the same address here and there */
};

static int look_from_child(void *arg)
{
	const char *mem = arg;

	for (unsigned int i = 0; i < NPAGES; i++)
		check(page_has(mem + i * PAGE, i + 1));
	return 0;
}

static int run_forker(void *arg)
{
	const struct forker *f = arg;
	int uffd = ferry_uffd_open(EVENTS | UFFD_FEATURE_EVENT_FORK, 0);

	check_equal(uffd_register(uffd, (uintptr_t)f->mem, NPAGES * PAGE,
				  UFFDIO_REGISTER_MODE_MISSING, NULL),
		    0);
	send_fd(f->sock[1], uffd);
	close(uffd);
	return wait_exit(spawn(look_from_child, f->mem));
}

static bool fork_without_memory(int nth)
{
	struct forker f = {.mem = map_memory(NPAGES * PAGE, 0)};
	struct ferry_loop_stats stats = {.size = sizeof(stats)};
	struct pattern_source src;
	struct server server;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, f.sock), 0);
	pid_t pid = spawn(run_forker, &f);
	int uffd = receive_fd(f.sock[0]);
	pattern_init(&src, 1, NPAGES);
	server.loop = new_loop();
	assert_int_equal(ferry_loop_watch(server.loop, uffd, (uintptr_t)f.mem, NPAGES * PAGE,
					  &src.src, 0),
			 0);
	wait_readable(uffd);
	bool failed = round_fails(server.loop, nth);
	/* It is unread or followed; what fails afterwards is the reading of the next one. */
	assert_int_equal(ferry_loop_stats(server.loop, &stats), 0);
	assert_int_equal(has_messages(uffd), !stats.forks);
	server_start(&server, server.loop);
	assert_int_equal(wait_exit(pid), 0);
	server_stop(&server);
	ferry_loop_free(server.loop);
	pattern_fini(&src);
	close(uffd);
	close(f.sock[0]);
	close(f.sock[1]);
	unmap(f.mem, NPAGES * PAGE);
	return failed;
}

static void test_fork(void **state)
{
	int nth = 0;

	(void)state;
	close(open_uffd(EVENTS | UFFD_FEATURE_EVENT_FORK));
	while (fork_without_memory(nth))
		nth++;
	/* Descriptors, regions, the child, its regions. */
	assert_true(nth >= 4);
}

int main(void)
{
	struct CMUnitTest tests[COUNT(acts) + 3] = {TEST(test_fault_not_forgotten),
						    TEST(test_watch), TEST(test_fork)};

	for (size_t i = 0; i < COUNT(acts); i++)
		tests[i + 3] = (struct CMUnitTest){acts[i].name, test_event, test_begin, test_end,
						   (void *)(uintptr_t)&acts[i]};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("memory_out", tests, NULL, NULL);
}
