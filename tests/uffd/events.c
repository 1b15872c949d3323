// SPDX-License-Identifier: MIT
/*
 * What the watched program does to its address space while pages are outstanding: no page is lost,
 * none is invented, and what was discarded stays zero.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "lib/uffd.h"
#include "tests/lib/serve.h"

#define NPAGES 64u
#define EVENTS (UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMAP)

/* A program whose pages come from a pattern: page i of the region is page_has(i + 1). */
struct program {
	int uffd;
	char *mem;
	struct pattern_source src;
	struct server server;
	bool serving;
};

static void program_init(struct program *p)
{
	*p = (struct program){.uffd = open_uffd(EVENTS)};
	p->mem = map_memory(NPAGES * PAGE, 0);
	pattern_init(&p->src, 1, NPAGES);
	p->server.loop = new_loop();
	assert_int_equal(uffd_register(p->uffd, (uintptr_t)p->mem, NPAGES * PAGE,
				       UFFDIO_REGISTER_MODE_MISSING, NULL),
			 0);
	assert_int_equal(ferry_loop_watch(p->server.loop, p->uffd, (uintptr_t)p->mem, NPAGES * PAGE,
					  &p->src.src, 0),
			 0);
}

static void serve(struct program *p)
{
	server_start(&p->server, p->server.loop);
	p->serving = true;
}

static void pause_serving(struct program *p)
{
	server_stop(&p->server);
	p->serving = false;
}

static void program_fini(struct program *p)
{
	if (p->serving)
		pause_serving(p);
	ferry_loop_free(p->server.loop);
	close(p->uffd);
	if (p->mem)
		unmap(p->mem, NPAGES * PAGE);
	pattern_fini(&p->src);
}

static struct ferry_loop_stats stats_of(const struct program *p)
{
	struct ferry_loop_stats stats = {.size = sizeof(stats)};
	assert_int_equal(ferry_loop_stats(p->server.loop, &stats), 0);
	return stats;
}

static void discard(char *mem, size_t npages)
{
	assert_int_equal(madvise(mem, npages * PAGE, MADV_DONTNEED), 0);
}

/* ---- MADV_DONTNEED */

static void test_removed(void **state)
{
	struct program p;

	(void)state;
	program_init(&p);
	serve(&p);
	assert_true(page_has(p.mem + 10 * PAGE, 11));
	assert_true(page_has(p.mem + 20 * PAGE, 21));
	/* Some that came, some that did not. */
	discard(p.mem + 8 * PAGE, 8);
	pause_serving(&p);
	assert_int_equal(p.src.removed_calls, 1);
	assert_int_equal(p.src.last_removed_offset, 8 * PAGE);
	assert_int_equal(p.src.last_removed_len, 8 * PAGE);
	unsigned int asked = p.src.asked;
	serve(&p);
	for (unsigned int i = 8; i < 16; i++)
		assert_true(page_is_zero(p.mem + i * PAGE));
	pause_serving(&p);
	assert_int_equal(p.src.asked, asked);
	assert_int_equal(stats_of(&p).removes, 1);
	serve(&p);
	for (unsigned int i = 0; i < NPAGES; i++)
		if (i < 8 || i >= 16)
			assert_true(page_has(p.mem + i * PAGE, i + 1));
	/* What was written since can be discarded again. */
	fill_page(p.mem + 9 * PAGE, 999);
	discard(p.mem + 9 * PAGE, 1);
	assert_true(page_is_zero(p.mem + 9 * PAGE));
	program_fini(&p);
}

/*
 * A thread waits for the very page that another one discards, and both messages lie unread: the
 * program has discarded it, so nobody may see the old contents.
 */
static void test_fault_and_remove_of_one_page(void **state)
{
	(void)state;
	for (int round = 0; round < 50; round++) {
		struct program p;
		struct reader reader;
		struct adviser adviser;
		program_init(&p);
		if (round % 2) {
			reader_start(&reader, p.mem + PAGE);
			wait_readable(p.uffd);
			adviser_start(&adviser, p.mem, 3 * PAGE, MADV_DONTNEED);
		} else {
			adviser_start(&adviser, p.mem, 3 * PAGE, MADV_DONTNEED);
			wait_readable(p.uffd);
			reader_start(&reader, p.mem + PAGE);
		}
		/* One message may come before the other is queued: then it takes two rounds. */
		while (!adviser.done || !reader.done)
			assert_true(ferry_loop_step(p.server.loop, 100) >= 0);
		adviser_join(&adviser);
		reader_join(&reader);
		/* The reader may have been first. It was so only if it saw the old page. */
		if (reader.value)
			assert_true(round % 2);
		struct server server;
		server_start(&server, p.server.loop);
		for (unsigned int i = 0; i < 3; i++)
			assert_true(page_is_zero(p.mem + i * PAGE));
		assert_true(page_has(p.mem + 3 * PAGE, 4));
		server_stop(&server);
		program_fini(&p);
	}
}

/* Events and faults of many threads in one batch, in one round. */
static void test_one_batch(void **state)
{
	struct program p;
	struct reader readers[20];
	struct adviser advisers[3];

	(void)state;
	program_init(&p);
	for (unsigned int i = 0; i < COUNT(readers); i++)
		reader_start(&readers[i], p.mem + i * PAGE);
	for (unsigned int i = 0; i < COUNT(advisers); i++)
		adviser_start(&advisers[i], p.mem + (30 + 4 * i) * PAGE, 2 * PAGE, MADV_DONTNEED);
	wait_readable(p.uffd);
	unsigned int handled = 0;
	while (handled < COUNT(readers) + COUNT(advisers)) {
		int ret = ferry_loop_step(p.server.loop, -1);
		assert_true(ret >= 0);
		handled += (unsigned int)ret;
	}
	/* Faults that were deferred by an event that came later. */
	while (stats_of(&p).installed < COUNT(readers))
		assert_true(ferry_loop_step(p.server.loop, 100) >= 0);
	for (unsigned int i = 0; i < COUNT(readers); i++) {
		reader_join(&readers[i]);
		assert_true(page_has(p.mem + i * PAGE, i + 1));
	}
	for (unsigned int i = 0; i < COUNT(advisers); i++)
		adviser_join(&advisers[i]);
	serve(&p);
	for (unsigned int i = 0; i < COUNT(advisers); i++)
		assert_true(page_is_zero(p.mem + (30 + 4 * i) * PAGE));
	assert_true(page_has(p.mem + 32 * PAGE, 33));
	program_fini(&p);
	assert_int_equal(p.src.removed_bytes, 6 * PAGE);
}

/* ---- discarding and faulting, as fast as it goes */

struct storm {
	pthread_t thread;
	struct program *p;
	unsigned int first;
	uint64_t seed;
};

/* Each thread owns pages of its own: it knows which of them it has discarded. */
static void *storm(void *arg)
{
	struct storm *s = arg;
	bool gone[16] = {false};

	for (int i = 0; i < 400; i++) {
		unsigned int mine = (unsigned int)(next_random(&s->seed) % 16);
		char *page = s->p->mem + (s->first + mine) * PAGE;
		if (next_random(&s->seed) % 3 == 0) {
			check_equal(madvise(page, PAGE, MADV_DONTNEED), 0);
			gone[mine] = true;
		}
		check(gone[mine] ? page_is_zero(page) : page_has(page, s->first + mine + 1));
	}
	return NULL;
}

static void test_storm(void **state)
{
	struct storm storms[4];

	(void)state;
	for (int round = 0; round < 6; round++) {
		struct program p;
		program_init(&p);
		serve(&p);
		for (unsigned int i = 0; i < COUNT(storms); i++) {
			storms[i] = (struct storm){.p = &p,
						   .first = i * 16,
						   .seed = 99u + i * 7u + (unsigned int)round};
			pthread_create(&storms[i].thread, NULL, storm, &storms[i]);
		}
		for (unsigned int i = 0; i < COUNT(storms); i++)
			pthread_join(storms[i].thread, NULL);
		program_fini(&p);
	}
}

/* ---- munmap */

static void test_unmapped(void **state)
{
	struct program p;

	(void)state;
	program_init(&p);
	serve(&p);
	assert_true(page_has(p.mem, 1));
	unmap(p.mem + 10 * PAGE, 20 * PAGE);
	/* Something else in its place has nothing to do with us. */
	char *other = mmap(p.mem + 12 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_equal(other, p.mem + 12 * PAGE);
	assert_true(page_is_zero(other));
	assert_false(smaps_flag(other, PAGE, "um"));
	for (unsigned int i = 0; i < NPAGES; i++)
		if (i < 10 || i >= 30)
			assert_true(page_has(p.mem + i * PAGE, i + 1));
	program_fini(&p);
	assert_int_equal(p.src.removed_bytes, 20 * PAGE);
}

static void *unmap_page(void *page)
{
	unmap(page, PAGE);
	return NULL;
}

/* A thread that comes while the page is being unmapped gets its SIGSEGV, and doesn't hang. */
static void test_fault_and_unmap(void **state)
{
	struct program p;
	struct reader reader;

	(void)state;
	program_init(&p);
	pthread_t thread;
	pthread_create(&thread, NULL, unmap_page, p.mem + 5 * PAGE);
	wait_readable(p.uffd);
	/* Unmapped, and nobody has been told yet. */
	reader_start(&reader, p.mem + 5 * PAGE);
	serve(&p);
	reader_join(&reader);
	pthread_join(thread, NULL);
	assert_int_equal(reader.signal, SIGSEGV);
	assert_true(page_has(p.mem + 6 * PAGE, 7));
	program_fini(&p);
}

/* ---- mremap */

/* Somewhere to move to: mapped until then, so that no thread's stack comes to lie there. */
static char *room(size_t npages)
{
	return map_memory(npages * PAGE, 0);
}

static void test_remapped(void **state)
{
	struct program p;

	(void)state;
	program_init(&p);
	serve(&p);
	assert_true(page_has(p.mem + 3 * PAGE, 4));
	discard(p.mem + 7 * PAGE, 1);
	char *to = room(NPAGES);
	assert_ptr_equal(
		mremap(p.mem, NPAGES * PAGE, NPAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	for (unsigned int i = 0; i < NPAGES; i++)
		assert_true(i == 7 ? page_is_zero(to + i * PAGE) : page_has(to + i * PAGE, i + 1));
	p.mem = to;
	program_fini(&p);
	/* Moving is not discarding. */
	assert_int_equal(p.src.removed_bytes, PAGE);
}

static void test_remapped_in_part(void **state)
{
	struct program p;

	(void)state;
	program_init(&p);
	serve(&p);
	char *to = room(10);
	char *from = p.mem + 20 * PAGE;
	assert_ptr_equal(mremap(from, 10 * PAGE, 10 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	for (unsigned int i = 0; i < 10; i++)
		assert_true(page_has(to + i * PAGE, 21 + i));
	for (unsigned int i = 0; i < NPAGES; i++)
		if (i < 20 || i >= 30)
			assert_true(page_has(p.mem + i * PAGE, i + 1));
	unmap(to, 10 * PAGE);
	program_fini(&p);
	assert_int_equal(p.src.removed_bytes, 10 * PAGE);
}

/* Larger, at a new place and at the old one: what was added is zero, what was there stays. */
static void test_grown(void **state)
{
	(void)state;
	for (int in_place = 0; in_place < 2; in_place++) {
		struct program p;
		program_init(&p);
		serve(&p);
		/* Room behind the range; at the old place, the rest of the range is that room. */
		if (in_place)
			unmap(p.mem + 32 * PAGE, 32 * PAGE);
		char *to = in_place ? p.mem : room(48);
		char *got = in_place ? mremap(p.mem, 32 * PAGE, 48 * PAGE, 0)
				     : mremap(p.mem, 32 * PAGE, 48 * PAGE,
					      MREMAP_MAYMOVE | MREMAP_FIXED, to);
		assert_ptr_equal(got, to);
		for (unsigned int i = 0; i < 48; i++)
			assert_true(i < 32 ? page_has(to + i * PAGE, i + 1)
					   : page_is_zero(to + i * PAGE));
		if (!in_place)
			unmap(to, 48 * PAGE);
		program_fini(&p);
	}
}

static void test_shrunk(void **state)
{
	struct program p;

	(void)state;
	program_init(&p);
	serve(&p);
	assert_ptr_equal(mremap(p.mem, NPAGES * PAGE, 40 * PAGE, 0), p.mem);
	char *to = room(30);
	assert_ptr_equal(mremap(p.mem, 40 * PAGE, 30 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to),
			 to);
	for (unsigned int i = 0; i < 30; i++)
		assert_true(page_has(to + i * PAGE, i + 1));
	unmap(to, 30 * PAGE);
	program_fini(&p);
}

/* The old place stays and is empty. */
static void test_dont_unmap(void **state)
{
	struct program p;

	(void)state;
	program_init(&p);
	serve(&p);
	assert_true(page_has(p.mem, 1));
	char *to = mremap(p.mem, NPAGES * PAGE, NPAGES * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP,
			  NULL);
	assert_ptr_not_equal(to, MAP_FAILED);
	for (unsigned int i = 0; i < NPAGES; i++) {
		assert_true(page_has(to + i * PAGE, i + 1));
		assert_true(page_is_zero(p.mem + i * PAGE));
	}
	unmap(to, NPAGES * PAGE);
	program_fini(&p);
}

/* A thread waits at the old place while the range is moved away from under it. */
static void test_fault_and_remap(void **state)
{
	struct program p;
	struct reader reader;

	(void)state;
	program_init(&p);
	reader_start(&reader, p.mem + 5 * PAGE);
	wait_readable(p.uffd);
	serve(&p);
	char *to = room(NPAGES);
	char *from = p.mem;
	p.mem = NULL;
	assert_ptr_equal(
		mremap(from, NPAGES * PAGE, NPAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	reader_join(&reader);
	assert_true(reader.signal == SIGSEGV || (!reader.signal && reader.value));
	assert_true(page_has(to + 5 * PAGE, 6));
	p.mem = to;
	program_fini(&p);
}

/* ---- fork */

/*
 * The program is a process of its own here: fork() holds the locks of malloc() while it waits for
 * its event to be read, so it must not be the loop's own process that forks.
 */
struct forker {
	int sock[2];
	int (*run)(char *mem, int sock);
	char *mem; /* at the same address in the program and here */
};

static int run_forker(void *arg)
{
	struct forker *f = arg;
	int uffd = ferry_uffd_open(EVENTS | UFFD_FEATURE_EVENT_FORK, 0);

	check(uffd >= 0);
	check_equal(uffd_register(uffd, (uintptr_t)f->mem, NPAGES * PAGE,
				  UFFDIO_REGISTER_MODE_MISSING, NULL),
		    0);
	send_fd(f->sock[1], uffd);
	close(uffd);
	char go;
	check_equal(read(f->sock[1], &go, 1), 1);
	return f->run(f->mem, f->sock[1]);
}

struct forked {
	struct forker forker;
	struct pattern_source src;
	struct server server;
	pid_t pid;
	int uffd;
};

static void forked_start(struct forked *f, int (*run)(char *mem, int sock))
{
	close(open_uffd(EVENTS | UFFD_FEATURE_EVENT_FORK));
	f->forker = (struct forker){.run = run, .mem = map_memory(NPAGES * PAGE, 0)};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, f->forker.sock), 0);
	f->pid = spawn(run_forker, &f->forker);
	f->uffd = receive_fd(f->forker.sock[0]);
	pattern_init(&f->src, 1, NPAGES);
	f->server.loop = new_loop();
	assert_int_equal(ferry_loop_watch(f->server.loop, f->uffd, (uintptr_t)f->forker.mem,
					  NPAGES * PAGE, &f->src.src, 0),
			 0);
	server_start(&f->server, f->server.loop);
	assert_int_equal(write(f->forker.sock[0], "g", 1), 1);
}

static void forked_end(struct forked *f, struct ferry_loop_stats *stats)
{
	assert_int_equal(wait_exit(f->pid), 0);
	server_stop(&f->server);
	*stats = (struct ferry_loop_stats){.size = sizeof(*stats)};
	assert_int_equal(ferry_loop_stats(f->server.loop, stats), 0);
	ferry_loop_free(f->server.loop);
	pattern_fini(&f->src);
	close(f->uffd);
	close(f->forker.sock[0]);
	close(f->forker.sock[1]);
	unmap(f->forker.mem, NPAGES * PAGE);
}

static int fork_and(int (*fn)(void *), void *mem)
{
	return wait_exit(spawn(fn, mem));
}

static int child_reads(void *arg)
{
	char *mem = arg;

	for (unsigned int i = 0; i < NPAGES; i++)
		check(i == 9 ? page_is_zero(mem + i * PAGE) : page_has(mem + i * PAGE, i + 1));
	/* The child goes its own way. */
	check_equal(madvise(mem + 12 * PAGE, PAGE, MADV_DONTNEED), 0);
	check(page_is_zero(mem + 12 * PAGE));
	check_equal(munmap(mem + 20 * PAGE, 10 * PAGE), 0);
	check(page_has(mem + 30 * PAGE, 31));
	char *to = mremap(mem + 40 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			  mem + 20 * PAGE);
	check(page_has(to, 41));
	return 0;
}

static int program_forks(char *mem, int sock)
{
	(void)sock;
	check(page_has(mem + 3 * PAGE, 4));
	check_equal(madvise(mem + 9 * PAGE, PAGE, MADV_DONTNEED), 0);
	pid_t child[3];
	for (unsigned int i = 0; i < COUNT(child); i++)
		child[i] = spawn(child_reads, mem);
	for (unsigned int i = 0; i < COUNT(child); i++)
		check_equal(wait_exit(child[i]), 0);
	/* The parent has all of its own. */
	for (unsigned int i = 0; i < NPAGES; i++)
		check(i == 9 ? page_is_zero(mem + i * PAGE) : page_has(mem + i * PAGE, i + 1));
	return 0;
}

static void test_fork(void **state)
{
	struct forked f;
	struct ferry_loop_stats stats;

	(void)state;
	forked_start(&f, program_forks);
	forked_end(&f, &stats);
	assert_int_equal(stats.forks, 3);
	assert_int_equal(stats.poisoned, 0);
}

static int child_discards(void *arg)
{
	char *mem = arg;

	check_equal(madvise(mem, NPAGES * PAGE, MADV_DONTNEED), 0);
	check(page_is_zero(mem));
	return 0;
}

static int program_needs_them(char *mem, int sock)
{
	(void)sock;
	check_equal(fork_and(child_discards, mem), 0);
	for (unsigned int i = 0; i < NPAGES; i++)
		check(page_has(mem + i * PAGE, i + 1));
	return 0;
}

/* A source may throw away what is removed, so it must not be told while somebody else has it. */
static void test_discard_in_child(void **state)
{
	struct forked f;
	struct ferry_loop_stats stats;

	(void)state;
	forked_start(&f, program_needs_them);
	forked_end(&f, &stats);
	assert_int_equal(stats.removes, 1);
	assert_int_equal(f.src.removed_bytes, 0);
}

static int program_discards_alone(char *mem, int sock)
{
	(void)sock;
	check_equal(fork_and(child_discards, mem), 0);
	check_equal(madvise(mem, 8 * PAGE, MADV_DONTNEED), 0);
	check(page_is_zero(mem));
	return 0;
}

/* The child has exited: now nobody else has it. */
static void test_discard_after_child(void **state)
{
	struct forked f;
	struct ferry_loop_stats stats;

	(void)state;
	forked_start(&f, program_discards_alone);
	forked_end(&f, &stats);
	assert_int_equal(f.src.removed_bytes, 8 * PAGE);
}

static int child_dies(void *arg)
{
	check(page_has(arg, 1));
	raise(SIGKILL);
	return 0;
}

static int program_forks_often(char *mem, int sock)
{
	for (int i = 0; i < 60; i++) {
		check_equal(fork_and(child_dies, mem), 128 + SIGKILL);
		check_equal(write(sock, "x", 1), 1);
	}
	check(page_has(mem + PAGE, 2));
	return 0;
}

/* Children that come and go: their descriptors are given back while the loop goes on. */
static void test_many_children(void **state)
{
	struct forked f;
	struct ferry_loop_stats stats;
	unsigned int most = 0;
	char one;

	(void)state;
	forked_start(&f, program_forks_often);
	unsigned int before = count_fds();
	for (int i = 0; i < 60; i++) {
		assert_int_equal(read(f.forker.sock[0], &one, 1), 1);
		unsigned int now = count_fds();
		if (now > most)
			most = now;
	}
	forked_end(&f, &stats);
	assert_int_equal(stats.forks, 60);
	if (most > before + 5)
		fail_msg("%u descriptors of dead children", most - before);
}

/* The loop needs to know: each fork may take as much memory as everything before it. */
static void test_tells_forks(void **state)
{
	(void)state;
	int without = open_uffd(EVENTS), with = open_uffd(EVENTS | UFFD_FEATURE_EVENT_FORK);

	assert_false(uffd_tells_forks(without));
	assert_true(uffd_tells_forks(with));
	close(without);
	close(with);
	/* In doubt, yes. */
	assert_true(uffd_tells_forks(with));
	assert_true(uffd_tells_forks(STDERR_FILENO));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_removed),
		TEST(test_fault_and_remove_of_one_page),
		TEST(test_one_batch),
		TEST(test_storm),
		TEST(test_unmapped),
		TEST(test_fault_and_unmap),
		TEST(test_remapped),
		TEST(test_remapped_in_part),
		TEST(test_grown),
		TEST(test_shrunk),
		TEST(test_dont_unmap),
		TEST(test_fault_and_remap),
		TEST(test_fork),
		TEST(test_discard_in_child),
		TEST(test_discard_after_child),
		TEST(test_many_children),
		TEST(test_tells_forks),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("events", tests, NULL, NULL);
}
