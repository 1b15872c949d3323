// SPDX-License-Identifier: MIT
/* The loop with every kind of source and of answer, threads faulting at once; stop, retry,
 * placement. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "lib/uffd.h"
#include "tests/lib/serve.h"

#define NPAGES 256u

struct place {
	int uffd;
	char *mem;
	size_t len;
	struct server server;
};

static void place_init(struct place *p, int uffd, size_t npages, uint64_t mode)
{
	p->uffd = uffd;
	p->len = npages * PAGE;
	p->mem = map_memory(p->len, 0);
	p->server.loop = new_loop();
	assert_int_equal(uffd_register(p->uffd, (uintptr_t)p->mem, p->len, mode, NULL), 0);
}

static void place_fini(struct place *p)
{
	ferry_loop_free(p->server.loop);
	close(p->uffd);
	unmap(p->mem, p->len);
}

static struct ferry_loop_stats stats_of(const struct ferry_loop *loop)
{
	struct ferry_loop_stats stats = {.size = sizeof(stats)};
	assert_int_equal(ferry_loop_stats(loop, &stats), 0);
	return stats;
}

/* ---- threads that all fault at once, and check what they get */

struct toucher {
	pthread_t thread;
	const char *mem;
	uint64_t seed, order;
	bool zero;
};

static void *touch_all(void *arg)
{
	const struct toucher *t = arg;

	for (uint64_t i = 0; i < NPAGES; i++) {
		uint64_t page = (i * 37 + t->order) % NPAGES;
		const char *p = t->mem + page * PAGE;
		check(t->zero ? page_is_zero(p) : page_has(p, t->seed + page));
	}
	return NULL;
}

static void touch_with_threads(const char *mem, uint64_t seed, bool zero)
{
	struct toucher t[4];

	for (unsigned int i = 0; i < COUNT(t); i++) {
		t[i] = (struct toucher){
			.mem = mem, .seed = seed, .order = i / 2 * 50ul, .zero = zero};
		assert_int_equal(pthread_create(&t[i].thread, NULL, touch_all, &t[i]), 0);
	}
	for (unsigned int i = 0; i < COUNT(t); i++)
		pthread_join(t[i].thread, NULL);
}

static void check_source(struct ferry_source *src, uint64_t offset, uint64_t seed, bool zero)
{
	struct place p;

	place_init(&p, open_uffd(0), NPAGES, UFFDIO_REGISTER_MODE_MISSING);
	assert_int_equal(
		ferry_loop_watch(p.server.loop, p.uffd, (uintptr_t)p.mem, p.len, src, offset), 0);
	server_start(&p.server, p.server.loop);
	touch_with_threads(p.mem, seed + offset / PAGE, zero);
	server_stop(&p.server);
	struct ferry_loop_stats stats = stats_of(p.server.loop);
	assert_int_equal(stats.installed, NPAGES);
	assert_true(stats.faults >= NPAGES);
	assert_true(stats.installed + stats.already <= stats.faults);
	assert_int_equal(stats.discarded + stats.poisoned, 0);
	place_fini(&p);
}

static void test_zero(void **state)
{
	(void)state;
	check_source(ferry_source_zero(), 0, 0, true);
}

static void test_memory(void **state)
{
	struct ferry_source *src;
	char *base = map_memory((NPAGES + 3) * PAGE, 0);

	(void)state;
	for (uint64_t i = 0; i < NPAGES + 3; i++)
		fill_page(base + i * PAGE, 1000 + i);
	assert_int_equal(ferry_source_memory(&src, base, (NPAGES + 3) * PAGE), 0);
	check_source(src, 0, 1000, false);
	check_source(src, 3 * PAGE, 1000, false);
	ferry_source_free(src);
	unmap(base, (NPAGES + 3) * PAGE);
}

static void test_file(void **state)
{
	struct ferry_source *src;
	char page[PAGE];
	int fd = memfd_create("file", MFD_CLOEXEC);

	(void)state;
	for (uint64_t i = 0; i < NPAGES; i++) {
		fill_page(page, 5000 + i);
		assert_int_equal(pwrite(fd, page, PAGE, (off_t)((i + 2) * PAGE)), PAGE);
	}
	assert_int_equal(ferry_source_file(&src, fd, 2 * PAGE), 0);
	check_source(src, 0, 5000, false);
	ferry_source_free(src);
	close(fd);
}

/* Shared memory: pages in the page cache are mapped, holes are zero, and the file is never changed.
 */
static void test_shared(void **state)
{
	char page[PAGE];

	(void)state;
	int uffd = open_uffd(UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MISSING_SHMEM);
	int fd = memfd_create("shared", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fd, NPAGES * PAGE), 0);
	for (uint64_t i = 0; i < NPAGES; i += 2) {
		fill_page(page, i);
		assert_int_equal(pwrite(fd, page, PAGE, (off_t)(i * PAGE)), PAGE);
	}
	char *mem = mmap(NULL, NPAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct server server = {.loop = new_loop()};
	assert_int_equal(uffd_register(uffd, (uintptr_t)mem, NPAGES * PAGE,
				       UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_MISSING,
				       NULL),
			 0);
	assert_int_equal(ferry_loop_watch(server.loop, uffd, (uintptr_t)mem, NPAGES * PAGE,
					  ferry_source_shared(), 0),
			 0);
	server_start(&server, server.loop);
	for (uint64_t i = 0; i < NPAGES; i++)
		assert_true(i % 2 ? page_is_zero(mem + i * PAGE) : page_has(mem + i * PAGE, i));
	server_stop(&server);
	struct ferry_loop_stats stats = stats_of(server.loop);
	assert_int_equal(stats.installed, NPAGES);
	assert_int_equal(stats.faults, NPAGES);
	ferry_loop_free(server.loop);
	close(uffd);
	unmap(mem, NPAGES * PAGE);
	close(fd);
}

/* A hole punched between the fault and the answer: the page is empty now, not lost. */
static void test_shared_hole(void **state)
{
	char page[PAGE];

	(void)state;
	int uffd = open_uffd(UFFD_FEATURE_MINOR_SHMEM);
	int fd = memfd_create("shared", MFD_CLOEXEC);
	fill_page(page, 1);
	assert_int_equal(pwrite(fd, page, PAGE, 0), PAGE);
	char *mem = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_int_equal(
		uffd_register(uffd, (uintptr_t)mem, PAGE, UFFDIO_REGISTER_MODE_MINOR, NULL), 0);
	struct ferry_loop *loop = new_loop();
	assert_int_equal(
		ferry_loop_watch(loop, uffd, (uintptr_t)mem, PAGE, ferry_source_shared(), 0), 0);
	struct reader reader;
	reader_start(&reader, mem);
	wait_readable(uffd);
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE), 0);
	assert_int_equal(ferry_loop_step(loop, 1000), 1);
	reader_join(&reader);
	assert_int_equal(reader.signal, 0);
	assert_int_equal(reader.value, 0);
	ferry_loop_free(loop);
	close(uffd);
	unmap(mem, PAGE);
	close(fd);
}

static void test_write_protect(void **state)
{
	struct place p;
	struct pattern_source src;

	(void)state;
	place_init(&p, open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP), 8, UFFDIO_REGISTER_MODE_WP);
	pattern_init(&src, 0, 8);
	for (unsigned int i = 0; i < 8; i++)
		fill_page(p.mem + i * PAGE, i);
	assert_int_equal(
		uffd_writeprotect(p.uffd, (uintptr_t)p.mem, p.len, UFFDIO_WRITEPROTECT_MODE_WP), 0);
	assert_int_equal(
		ferry_loop_watch(p.server.loop, p.uffd, (uintptr_t)p.mem, p.len, &src.src, 0), 0);
	server_start(&p.server, p.server.loop);
	for (unsigned int i = 0; i < 8; i++)
		assert_true(page_has(p.mem + i * PAGE, i));
	assert_int_equal(poke(p.mem + 3 * PAGE, 77), 0);
	assert_int_equal(poke(p.mem + 3 * PAGE + 8, 78), 0);
	assert_int_equal(src.asked, 1);
	assert_int_equal(poke(p.mem + 4 * PAGE, 79), 0);
	server_stop(&p.server);
	assert_int_equal(src.asked, 2);
	assert_int_equal(stats_of(p.server.loop).installed, 2);
	pattern_fini(&src);
	place_fini(&p);
}

/* ---- answers */

struct table_source {
	struct ferry_source src;
	const char *from;
	struct ferry_answer answers[16];
	int error[16];
	atomic_uint asked[16];
	atomic_ullong installed_bytes;
};

static int answer_table(struct ferry_source *src, const struct ferry_fault *fault,
			struct ferry_answer *answer)
{
	struct table_source *t = (struct table_source *)src;
	uint64_t page = fault->offset / PAGE;

	check(fault->left >= PAGE && fault->left <= 16 * PAGE);
	t->asked[page]++;
	*answer = t->answers[page];
	return t->error[page];
}

static void installed_table(struct ferry_source *src, uint64_t offset, uint64_t len)
{
	struct table_source *t = (struct table_source *)src;

	check(offset + len <= 16 * PAGE);
	t->installed_bytes += len;
}

static void table_init(struct table_source *t, const char *from)
{
	*t = (struct table_source){.src = {.answer = answer_table, .installed = installed_table},
				   .from = from};
	for (unsigned int i = 0; i < 16; i++)
		t->answers[i] = (struct ferry_answer){.kind = FERRY_ANSWER_COPY,
						      .from = from + i * PAGE};
}

static char *pattern_pages(unsigned int n)
{
	char *from = map_memory(n * PAGE, 0);

	for (unsigned int i = 0; i < n; i++)
		fill_page(from + i * PAGE, 300 + i);
	return from;
}

/* More than a page at once, odd lengths, and far more than the region has. */
static void test_long_answers(void **state)
{
	static const uint64_t lens[] = {0,        1,          PAGE,      PAGE + 1, 3 * PAGE - 1,
					5 * PAGE, 1ull << 40, UINT64_MAX};
	char *from = pattern_pages(16);

	(void)state;
	for (unsigned int n = 0; n < COUNT(lens); n++) {
		struct place p;
		struct table_source t;
		uint64_t whole = lens[n] < PAGE ? PAGE : lens[n] / PAGE * PAGE;
		place_init(&p, open_uffd(0), 16, UFFDIO_REGISTER_MODE_MISSING);
		table_init(&t, from);
		for (unsigned int i = 0; i < 16; i++)
			t.answers[i].len = lens[n];
		/* The region ends two pages before the registered range. */
		assert_int_equal(ferry_loop_watch(p.server.loop, p.uffd, (uintptr_t)p.mem,
						  14 * PAGE, &t.src, 0),
				 0);
		server_start(&p.server, p.server.loop);
		assert_true(page_has(p.mem + 2 * PAGE, 302));
		server_stop(&p.server);
		if (whole > 12 * PAGE)
			whole = 12 * PAGE;
		assert_int_equal(t.installed_bytes, whole);
		server_start(&p.server, p.server.loop);
		for (unsigned int i = 0; i < 14; i++)
			assert_true(page_has(p.mem + i * PAGE, 300 + i));
		assert_true(page_is_zero(p.mem + 14 * PAGE));
		server_stop(&p.server);
		assert_int_equal(t.installed_bytes, 14 * PAGE);
		place_fini(&p);
	}
	unmap(from, 16 * PAGE);
}

/*
 * The program splits its mapping within an answer. The kernel takes no range that crosses mappings,
 * and that must neither lose the page nor ask for it for ever.
 */
static void test_answer_across_mappings(void **state)
{
	char *from = pattern_pages(16);
	struct place p;
	struct table_source t;

	(void)state;
	place_init(&p, open_uffd(0), 16, UFFDIO_REGISTER_MODE_MISSING);
	table_init(&t, from);
	for (unsigned int i = 0; i < 16; i++)
		t.answers[i].len = 16 * PAGE;
	assert_int_equal(
		ferry_loop_watch(p.server.loop, p.uffd, (uintptr_t)p.mem, p.len, &t.src, 0), 0);
	assert_int_equal(mprotect(p.mem + 5 * PAGE, PAGE, PROT_READ), 0);
	assert_int_equal(madvise(p.mem + 9 * PAGE, PAGE, MADV_DONTFORK), 0);
	server_start(&p.server, p.server.loop);
	for (unsigned int i = 0; i < 16; i++)
		assert_true(page_has(p.mem + i * PAGE, 300 + i));
	server_stop(&p.server);
	for (unsigned int i = 0; i < 16; i++)
		assert_true(t.asked[i] <= 1);
	place_fini(&p);
	unmap(from, 16 * PAGE);
}

/* A source that fails: SIGBUS for whoever touches the page, always; its neighbours are untouched.
 */
static void test_error_is_poison(void **state)
{
	char *from = pattern_pages(16);
	struct place p;
	struct table_source t;
	uint64_t value;

	(void)state;
	place_init(&p, open_uffd(UFFD_FEATURE_POISON), 16, UFFDIO_REGISTER_MODE_MISSING);
	table_init(&t, from);
	t.error[3] = -EIO;
	t.answers[5].kind = FERRY_ANSWER_POISON;
	/* Contents that can't be read. */
	t.answers[7].from = (void *)(uintptr_t)PAGE;
	/* What nobody knows. */
	t.answers[9].kind = 99;
	assert_int_equal(
		ferry_loop_watch(p.server.loop, p.uffd, (uintptr_t)p.mem, p.len, &t.src, 0), 0);
	server_start(&p.server, p.server.loop);
	for (unsigned int round = 0; round < 2; round++)
		for (unsigned int i = 3; i < 11; i += 2)
			assert_int_equal(peek(p.mem + i * PAGE, &value), SIGBUS);
	for (unsigned int i = 0; i < 16; i++)
		if (i < 3 || i > 9 || i % 2 == 0)
			assert_true(page_has(p.mem + i * PAGE, 300 + i));
	for (unsigned int i = 3; i < 11; i += 2)
		assert_int_equal(t.asked[i], 1);
	server_stop(&p.server);
	/* The answer POISON was carried out, the others are the loop's own. */
	assert_int_equal(stats_of(p.server.loop).poisoned, 4);
	place_fini(&p);
	unmap(from, 16 * PAGE);
}

/* The same when kernel code touches the page for the program. */
static void test_kernel_access(void **state)
{
	char *from = pattern_pages(16), page[PAGE];
	struct place p;
	struct table_source t;
	int fd[2];

	(void)state;
	place_init(&p, open_uffd_kernel(UFFD_FEATURE_POISON), 16, UFFDIO_REGISTER_MODE_MISSING);
	table_init(&t, from);
	t.error[1] = -EIO;
	assert_int_equal(
		ferry_loop_watch(p.server.loop, p.uffd, (uintptr_t)p.mem, p.len, &t.src, 0), 0);
	server_start(&p.server, p.server.loop);
	assert_int_equal(pipe(fd), 0);
	assert_int_equal(write(fd[1], p.mem, PAGE), PAGE);
	assert_int_equal(read(fd[0], page, PAGE), PAGE);
	assert_true(page_has(page, 300));
	assert_int_equal(write(fd[1], p.mem + PAGE, PAGE), -1);
	assert_int_equal(errno, EFAULT);
	close(fd[0]);
	close(fd[1]);
	server_stop(&p.server);
	place_fini(&p);
	unmap(from, 16 * PAGE);
}

static void test_move_and_here(void **state)
{
	char *from = pattern_pages(16);
	struct place p;
	struct table_source t;
	struct reader reader;

	(void)state;
	place_init(&p, open_uffd(UFFD_FEATURE_MOVE), 16, UFFDIO_REGISTER_MODE_MISSING);
	table_init(&t, from);
	t.answers[0].kind = FERRY_ANSWER_MOVE;
	t.answers[1].kind = FERRY_ANSWER_HERE;
	assert_int_equal(
		ferry_loop_watch(p.server.loop, p.uffd, (uintptr_t)p.mem, p.len, &t.src, 0), 0);
	server_start(&p.server, p.server.loop);
	assert_true(page_has(p.mem, 300));
	assert_true(page_is_zero(from));
	/* A wrong HERE wakes the thread, which asks again: it must not be zero meanwhile. */
	reader_start(&reader, p.mem + PAGE);
	while (t.asked[1] < 3)
		sched_yield();
	assert_false(reader.done);
	uint64_t done = 0;
	assert_int_equal(uffd_copy(p.uffd, (uintptr_t)p.mem + PAGE, from + PAGE, PAGE, 0, &done),
			 0);
	reader_join(&reader);
	assert_true(page_has(p.mem + PAGE, 301));
	server_stop(&p.server);
	assert_true(stats_of(p.server.loop).already >= 2);
	place_fini(&p);
	unmap(from, 16 * PAGE);
}

/* ---- later */

struct later_source {
	struct ferry_source src;
	struct ferry_loop *loop;
	char page[PAGE];
	bool have, retry_when_installed;
	unsigned int asked;
};

static int answer_later(struct ferry_source *src, const struct ferry_fault *fault,
			struct ferry_answer *answer)
{
	struct later_source *l = (struct later_source *)src;

	l->asked++;
	answer->kind = l->have || fault->offset ? FERRY_ANSWER_COPY : FERRY_ANSWER_LATER;
	answer->from = l->page;
	return 0;
}

static void installed_later(struct ferry_source *src, uint64_t offset, uint64_t len)
{
	struct later_source *l = (struct later_source *)src;

	(void)len;
	if (!offset || !l->retry_when_installed)
		return;
	/* The second page brings what the first one was waiting for. */
	l->have = true;
	ferry_loop_retry(l->loop);
}

static void later_init(struct later_source *l, struct place *p)
{
	*l = (struct later_source){.src = {.answer = answer_later, .installed = installed_later},
				   .loop = p->server.loop};
	fill_page(l->page, 42);
	assert_int_equal(
		ferry_loop_watch(p->server.loop, p->uffd, (uintptr_t)p->mem, p->len, &l->src, 0),
		0);
}

static void test_later(void **state)
{
	struct place p;
	struct later_source l;
	struct reader reader;

	(void)state;
	place_init(&p, open_uffd(0), 2, UFFDIO_REGISTER_MODE_MISSING);
	later_init(&l, &p);
	reader_start(&reader, p.mem);
	assert_int_equal(ferry_loop_step(p.server.loop, -1), 1);
	assert_int_equal(stats_of(p.server.loop).deferred, 1);
	/* Not asked again by itself, even when it would have an answer now. */
	l.have = true;
	for (int i = 0; i < 5; i++)
		assert_int_equal(ferry_loop_step(p.server.loop, 2), 0);
	assert_int_equal(l.asked, 1);
	assert_false(reader.done);
	/* Asked, and put off once more. */
	l.have = false;
	ferry_loop_retry(p.server.loop);
	assert_int_equal(ferry_loop_step(p.server.loop, 1000), 0);
	assert_int_equal(l.asked, 2);
	assert_int_equal(ferry_loop_step(p.server.loop, 2), 0);
	assert_int_equal(l.asked, 2);
	l.have = true;
	ferry_loop_retry(p.server.loop);
	assert_int_equal(ferry_loop_step(p.server.loop, 0), 0);
	assert_int_equal(l.asked, 3);
	reader_join(&reader);
	assert_true(page_has(p.mem, 42));
	place_fini(&p);
}

/* A source may ask for the retry itself, while it is being told of another page. */
static void test_retry_from_a_source(void **state)
{
	struct place p;
	struct later_source l;
	struct reader first, second;

	(void)state;
	place_init(&p, open_uffd(0), 2, UFFDIO_REGISTER_MODE_MISSING);
	later_init(&l, &p);
	l.retry_when_installed = true;
	reader_start(&first, p.mem);
	assert_int_equal(ferry_loop_step(p.server.loop, -1), 1);
	reader_start(&second, p.mem + PAGE);
	server_start(&p.server, p.server.loop);
	reader_join(&second);
	reader_join(&first);
	server_stop(&p.server);
	assert_true(page_has(p.mem, 42));
	place_fini(&p);
}

/* ---- stop */

static void *step_for_ever(void *arg)
{
	check_equal(ferry_loop_step(arg, -1), 0);
	return NULL;
}

static void test_stop(void **state)
{
	struct place p;
	pthread_t thread;

	(void)state;
	place_init(&p, open_uffd(0), 1, UFFDIO_REGISTER_MODE_MISSING);
	assert_int_equal(ferry_loop_watch(p.server.loop, p.uffd, (uintptr_t)p.mem, p.len,
					  ferry_source_zero(), 0),
			 0);
	for (int i = 0; i < 300; i++) {
		/* Also when the stop comes before the thread has even begun. */
		server_start(&p.server, p.server.loop);
		server_stop(&p.server);
		pthread_create(&thread, NULL, step_for_ever, p.server.loop);
		ferry_loop_stop(p.server.loop);
		pthread_join(thread, NULL);
	}
	/* Many stops are one stop, and what was meant for a step doesn't end a later run. */
	for (int i = 0; i < 1000; i++)
		ferry_loop_stop(p.server.loop);
	assert_int_equal(ferry_loop_step(p.server.loop, -1), 0);
	struct reader reader;
	reader_start(&reader, p.mem);
	server_start(&p.server, p.server.loop);
	reader_join(&reader);
	server_stop(&p.server);
	place_fini(&p);
}

/* ---- the end of a process */

static int fault_at_home(void *arg)
{
	int sock = *(int *)arg;
	char *mem = map_memory(PAGE, 0);
	int uffd = ferry_uffd_open(0, 0);

	check(uffd >= 0);
	check_equal(uffd_register(uffd, (uintptr_t)mem, PAGE, UFFDIO_REGISTER_MODE_MISSING, NULL),
		    0);
	uint64_t addr = (uintptr_t)mem;
	check_equal(write(sock, &addr, sizeof(addr)), sizeof(addr));
	send_fd(sock, uffd);
	*(volatile char *)mem = 1;
	return 0;
}

struct killer_source {
	struct ferry_source src;
	pid_t victim;
	char page[PAGE];
};

static int answer_killing(struct ferry_source *src, const struct ferry_fault *fault,
			  struct ferry_answer *answer)
{
	struct killer_source *k = (struct killer_source *)src;

	(void)fault;
	kill_and_reap(k->victim);
	answer->kind = FERRY_ANSWER_COPY;
	answer->from = k->page;
	return 0;
}

static void test_process_gone(void **state)
{
	int sock[2];
	uint64_t addr;

	(void)state;
	close(open_uffd(0));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sock), 0);
	pid_t child = spawn(fault_at_home, &sock[1]);
	assert_int_equal(read(sock[0], &addr, sizeof(addr)), sizeof(addr));
	int uffd = receive_fd(sock[0]);
	struct ferry_loop *loop = new_loop();
	struct killer_source killer = {.src = {.answer = answer_killing}, .victim = child};
	assert_int_equal(ferry_loop_watch(loop, uffd, addr, PAGE, &killer.src, 0), 0);
	assert_int_equal(ferry_loop_run(loop), 0);
	assert_int_equal(stats_of(loop).discarded, 1);
	assert_int_equal(ferry_loop_step(loop, 0), -ESRCH);
	ferry_loop_free(loop);
	close(uffd);
	close(sock[0]);
	close(sock[1]);
}

/* ---- arguments, placement */

static void test_watch_arguments(void **state)
{
	struct place p;
	struct ferry_source *zero = ferry_source_zero();

	(void)state;
	place_init(&p, open_uffd(0), 8, UFFDIO_REGISTER_MODE_MISSING);
	struct ferry_loop *loop = p.server.loop;
	uint64_t at = (uintptr_t)p.mem;
	assert_int_equal(ferry_loop_watch(loop, p.uffd, at + 1, PAGE, zero, 0), -EINVAL);
	assert_int_equal(ferry_loop_watch(loop, p.uffd, at, PAGE + 1, zero, 0), -EINVAL);
	assert_int_equal(ferry_loop_watch(loop, p.uffd, at, 0, zero, 0), -EINVAL);
	assert_int_equal(ferry_loop_watch(loop, p.uffd, 0 - PAGE, PAGE, zero, 0), -EINVAL);
	assert_int_equal(ferry_loop_watch(loop, p.uffd, at, 0 - PAGE, zero, 0), -EINVAL);
	assert_int_equal(ferry_loop_watch(loop, p.uffd, at, PAGE, zero, 5), -EINVAL);
	assert_int_equal(ferry_loop_watch(loop, p.uffd, at, 2 * PAGE, zero, 0 - PAGE), -EINVAL);
	assert_int_equal(ferry_loop_watch(loop, p.uffd, at, PAGE, NULL, 0), -EINVAL);
	assert_int_equal(ferry_loop_watch(loop, -1, at, PAGE, zero, 0), -EINVAL);
	assert_int_equal(ferry_loop_watch(loop, STDERR_FILENO, at, PAGE, zero, 0), -EINVAL);
	/* A blocking one is made non-blocking. */
	int flags = fcntl(p.uffd, F_GETFL);
	assert_int_equal(fcntl(p.uffd, F_SETFL, flags & ~O_NONBLOCK), 0);
	assert_int_equal(ferry_loop_watch(loop, p.uffd, at, 2 * PAGE, zero, 0), 0);
	assert_true(fcntl(p.uffd, F_GETFL) & O_NONBLOCK);
	assert_int_equal(ferry_loop_watch(loop, p.uffd, at + PAGE, 2 * PAGE, zero, 0), -EEXIST);
	assert_int_equal(ferry_loop_watch(loop, p.uffd, at + 2 * PAGE, PAGE, zero, 0), 0);
	place_fini(&p);
}

struct cpu_source {
	struct ferry_source src;
	cpu_set_t seen;
	uint32_t tid;
};

static int answer_cpu(struct ferry_source *src, const struct ferry_fault *fault,
		      struct ferry_answer *answer)
{
	struct cpu_source *c = (struct cpu_source *)src;

	sched_getaffinity(0, sizeof(c->seen), &c->seen);
	c->tid = fault->tid;
	answer->kind = FERRY_ANSWER_ZERO;
	return 0;
}

static void *read_on_cpu(void *arg)
{
	struct reader *r = arg;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(r->value, &set);
	check_equal(sched_setaffinity(0, sizeof(set), &set), 0);
	r->value = (uint64_t)gettid();
	check(page_is_zero(r->addr));
	return NULL;
}

/* Serve one fault of a thread on @at with a loop that was told @cpu; where does the loop run? */
static void serve_on(int32_t cpu, int at, cpu_set_t *seen)
{
	struct ferry_loop_opts opts = {.size = sizeof(opts), .cpu = cpu};
	struct place p;
	struct cpu_source src = {.src = {.answer = answer_cpu}};
	cpu_set_t before, after;

	sched_getaffinity(0, sizeof(before), &before);
	place_init(&p, open_uffd(UFFD_FEATURE_THREAD_ID), 1, UFFDIO_REGISTER_MODE_MISSING);
	ferry_loop_free(p.server.loop);
	assert_int_equal(ferry_loop_new(&p.server.loop, &opts), 0);
	assert_int_equal(
		ferry_loop_watch(p.server.loop, p.uffd, (uintptr_t)p.mem, p.len, &src.src, 0), 0);
	struct reader r = {.addr = p.mem, .value = (uint64_t)at};
	assert_int_equal(pthread_create(&r.thread, NULL, read_on_cpu, &r), 0);
	assert_int_equal(ferry_loop_step(p.server.loop, -1), 1);
	pthread_join(r.thread, NULL);
	assert_int_equal(src.tid, r.value);
	*seen = src.seen;
	/* The thread gets its old freedom back. */
	place_fini(&p);
	sched_getaffinity(0, sizeof(after), &after);
	assert_true(CPU_EQUAL(&before, &after));
}

static void test_cpu(void **state)
{
	cpu_set_t all, seen;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		struct ferry_loop_opts opts = {.size = sizeof(opts), .cpu = cpu};
		struct ferry_loop *loop;
		if (!CPU_ISSET(cpu, &all)) {
			assert_int_equal(ferry_loop_new(&loop, &opts), -EINVAL);
			continue;
		}
		serve_on(cpu, cpu, &seen);
		assert_true(CPU_COUNT(&seen) == 1 && CPU_ISSET(cpu, &seen));
		serve_on(FERRY_CPU_FOLLOW, cpu, &seen);
		assert_true(CPU_COUNT(&seen) == 1 && CPU_ISSET(cpu, &seen));
		serve_on(FERRY_CPU_ANY, cpu, &seen);
		assert_true(CPU_EQUAL(&seen, &all));
	}
	struct ferry_loop_opts bad = {.size = sizeof(bad), .cpu = FERRY_CPU_ANY - 1};
	struct ferry_loop *loop;
	assert_int_equal(ferry_loop_new(&loop, &bad), -EINVAL);
	bad.cpu = INT32_MAX;
	assert_int_equal(ferry_loop_new(&loop, &bad), -EINVAL);
	bad.cpu = INT32_MIN;
	assert_int_equal(ferry_loop_new(&loop, &bad), -EINVAL);
}

static void test_open_arguments(void **state)
{
	(void)state;
	int uffd = open_uffd(0);
	assert_int_equal(fcntl(uffd, F_GETFD), FD_CLOEXEC);
	assert_true(fcntl(uffd, F_GETFL) & O_NONBLOCK);
	assert_true(uffd_is(uffd));
	close(uffd);
	assert_int_equal(ferry_uffd_open(0, 2), -EINVAL);
	assert_int_equal(ferry_uffd_open(0, ~0u), -EINVAL);
	assert_int_equal(ferry_uffd_open(1ull << 62, 0), -EOPNOTSUPP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_zero),
		TEST(test_memory),
		TEST(test_file),
		TEST(test_shared),
		TEST(test_shared_hole),
		TEST(test_write_protect),
		TEST(test_long_answers),
		TEST(test_answer_across_mappings),
		TEST(test_error_is_poison),
		TEST(test_kernel_access),
		TEST(test_move_and_here),
		TEST(test_later),
		TEST(test_retry_from_a_source),
		TEST(test_stop),
		TEST(test_process_gone),
		TEST(test_watch_arguments),
		TEST(test_cpu),
		TEST(test_open_arguments),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
