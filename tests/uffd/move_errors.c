// SPDX-License-Identifier: MIT
/*
 * Every errno of a move, as a table: three pages of which the middle one is special. Strict, the
 * answer is the kernel's; else what can't be moved is copied. Whatever happens, each page is in
 * exactly one place afterwards.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/uffd.h"
#include "tests/lib/serve.h"

#define NPAGES 3u

struct scene {
	int uffd;
	char *dst, *src;
	char *other; /* one more page in the same state as the source's middle one, KSM */
	int fd, fd2; /* closed at the end */
	pid_t child; /* killed at the end */
	struct adviser adviser;
	bool advising;
};

struct answer {
	int ret;
	unsigned int done, copied; /* pages */
};

struct row {
	const char *name;
	void (*prepare)(struct scene *s);
	struct answer strict, loose;
	bool strict_only;
};

static char *middle(char *range)
{
	return range + PAGE;
}

static void nothing(struct scene *s)
{
	(void)s;
}

static void populated(struct scene *s)
{
	uint64_t done;
	assert_int_equal(uffd_zeropage(s->uffd, (uintptr_t)middle(s->dst), PAGE, 0, &done), 0);
}

static void hole(struct scene *s)
{
	assert_int_equal(madvise(middle(s->src), PAGE, MADV_DONTNEED), 0);
}

static int sit(void *arg)
{
	(void)arg;
	pause();
	return 0;
}

static int leave(void *arg)
{
	(void)arg;
	return 0;
}

static void shared_by_fork(struct scene *s)
{
	s->child = spawn(sit, NULL);
}

static void forked_before(struct scene *s)
{
	(void)s;
	assert_int_equal(wait_exit(spawn(leave, NULL)), 0);
}

static void written_after_fork(struct scene *s)
{
	assert_int_equal(wait_exit(spawn(leave, NULL)), 0);
	for (unsigned int i = 0; i < NPAGES; i++)
		fill_page(s->src + i * PAGE, i);
}

/* ---- KSM */

static char ksm_before;

static void write_ksm(char run)
{
	int fd = open("/sys/kernel/mm/ksm/run", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, &run, 1) != 1)
		SKIP("the kernel's KSM can't be switched on by this user");
	close(fd);
}

static uint64_t read_at(const char *path, off_t at)
{
	uint64_t value = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || pread(fd, &value, sizeof(value), at) != sizeof(value))
		SKIP("%s can't be read by this user", path);
	close(fd);
	return value;
}

/* Linux 6.12 gives all anonymous pages the flag of KSM; only one that is merged is mapped twice. */
static bool is_merged(const char *page)
{
	uint64_t entry = read_at("/proc/self/pagemap", (off_t)((uintptr_t)page / PAGE * 8));
	uint64_t frame = entry & ((1ull << 55) - 1);
	bool exclusive = entry >> 56 & 1;

	return !exclusive && (read_at("/proc/kpageflags", (off_t)(frame * 8)) >> 21 & 1);
}

static void merged(struct scene *s)
{
	int fd = open("/sys/kernel/mm/ksm/run", O_RDONLY | O_CLOEXEC);
	int64_t until = now_ms() + 8000;

	if (fd < 0)
		SKIP("the kernel has no KSM");
	assert_int_equal(read(fd, &ksm_before, 1), 1);
	close(fd);
	s->other = map_memory(PAGE, 0);
	memcpy(s->other, middle(s->src), PAGE);
	assert_int_equal(madvise(s->other, PAGE, MADV_MERGEABLE), 0);
	assert_int_equal(madvise(s->src, NPAGES * PAGE, MADV_MERGEABLE), 0);
	bool done = false;
	while (!done && now_ms() < until) {
		/* Again and again: somebody else's test may switch it off. */
		if (ksm_before != '1')
			write_ksm('1');
		done = is_merged(middle(s->src));
		poll(NULL, 0, 5);
	}
	if (ksm_before != '1')
		write_ksm(ksm_before);
	if (!done)
		SKIP("KSM merged nothing within 8 s");
}

/* ---- pins */

static void pin(struct scene *s, void *addr, size_t len)
{
	struct io_uring_params params = {0};
	struct iovec iov = {addr, len};

	s->fd = (int)syscall(SYS_io_uring_setup, 2, &params);
	if (s->fd < 0)
		SKIP("io_uring can't be used here: %s", strerror(errno));
	if (syscall(SYS_io_uring_register, s->fd, IORING_REGISTER_BUFFERS, &iov, 1) < 0)
		SKIP("no memory can be registered with io_uring: %s", strerror(errno));
}

static void pinned(struct scene *s)
{
	pin(s, middle(s->src), PAGE);
}

static void in_a_pipe(struct scene *s)
{
	struct iovec iov = {middle(s->src), PAGE};
	int fd[2];

	assert_int_equal(pipe(fd), 0);
	s->fd = fd[0];
	s->fd2 = fd[1];
	assert_int_equal(vmsplice(fd[1], &iov, 1, 0), PAGE);
}

/* ---- kinds of memory */

static void locked(struct scene *s)
{
	/* Not mlock(), which does nothing under AddressSanitizer. */
	if (syscall(SYS_mlock, middle(s->src), PAGE) < 0)
		SKIP("no memory can be locked: %s", strerror(errno));
}

static void read_only(struct scene *s)
{
	assert_int_equal(mprotect(s->src, NPAGES * PAGE, PROT_READ), 0);
}

static void split_source(struct scene *s)
{
	assert_int_equal(madvise(middle(s->src), PAGE, MADV_DONTFORK), 0);
}

static void split_destination(struct scene *s)
{
	assert_int_equal(madvise(middle(s->dst), PAGE, MADV_DONTFORK), 0);
}

static void not_accessible(struct scene *s)
{
	assert_int_equal(mprotect(middle(s->dst), PAGE, PROT_NONE), 0);
}

static void replace_source(struct scene *s, int fd, int flags)
{
	unmap(s->src, NPAGES * PAGE);
	s->src = mmap(s->src, NPAGES * PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE,
		      fd, 0);
	assert_ptr_not_equal(s->src, MAP_FAILED);
	for (unsigned int i = 0; i < NPAGES; i++)
		fill_page(s->src + i * PAGE, i);
}

static void shared_memory(struct scene *s)
{
	replace_source(s, -1, MAP_SHARED | MAP_ANONYMOUS);
}

static void file(struct scene *s)
{
	s->fd = memfd_create("file", MFD_CLOEXEC);
	assert_int_equal(ftruncate(s->fd, NPAGES * PAGE), 0);
	replace_source(s, s->fd, MAP_PRIVATE);
}

static void zero_page(struct scene *s)
{
	hole(s);
	assert_true(page_is_zero(middle(s->src)));
}

static void unregistered(struct scene *s)
{
	assert_int_equal(uffd_unregister(s->uffd, (uintptr_t)s->dst, NPAGES * PAGE), 0);
}

static void unregistered_middle(struct scene *s)
{
	assert_int_equal(uffd_unregister(s->uffd, (uintptr_t)middle(s->dst), PAGE), 0);
}

static void destination_unmapped(struct scene *s)
{
	unregistered(s);
	unmap(s->dst, NPAGES * PAGE);
}

static void destination_hole(struct scene *s)
{
	unregistered_middle(s);
	unmap(middle(s->dst), PAGE);
}

static void source_unmapped(struct scene *s)
{
	unmap(s->src, NPAGES * PAGE);
}

static void source_hole(struct scene *s)
{
	unmap(middle(s->src), PAGE);
}

/* ---- descriptors */

static void closed(struct scene *s)
{
	close(s->uffd);
	s->uffd = -1;
}

static void no_userfaultfd(struct scene *s)
{
	close(s->uffd);
	s->uffd = open("/dev/null", O_RDWR | O_CLOEXEC);
}

static int lend(void *arg)
{
	char *mem = map_memory(PAGE, 0);
	int uffd = ferry_uffd_open(0, 0);

	check(uffd >= 0);
	check_equal(uffd_register(uffd, (uintptr_t)mem, PAGE, UFFDIO_REGISTER_MODE_MISSING, NULL),
		    0);
	send_fd(((int *)arg)[1], uffd);
	return 0;
}

static void dead_process(struct scene *s)
{
	int sock[2];

	close(s->uffd);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sock), 0);
	pid_t child = spawn(lend, sock);
	s->uffd = receive_fd(sock[0]);
	assert_int_equal(wait_exit(child), 0);
	close(sock[0]);
	close(sock[1]);
	/* The fork above has marked the pages as shared. */
	for (unsigned int i = 0; i < NPAGES; i++)
		fill_page(s->src + i * PAGE, i);
}

static void event_waits(struct scene *s)
{
	s->other = map_memory(PAGE, 0);
	assert_int_equal(uffd_register(s->uffd, (uintptr_t)s->other, PAGE,
				       UFFDIO_REGISTER_MODE_MISSING, NULL),
			 0);
	adviser_start(&s->adviser, s->other, PAGE, MADV_DONTNEED);
	s->advising = true;
	wait_readable(s->uffd);
}

/* ---- running a row */

static void scene_init(struct scene *s)
{
	*s = (struct scene){.fd = -1, .fd2 = -1};
	s->uffd = open_uffd(UFFD_FEATURE_MOVE | UFFD_FEATURE_EVENT_REMOVE);
	s->dst = map_memory(NPAGES * PAGE, PAGE);
	s->src = map_memory(NPAGES * PAGE, PAGE);
	for (unsigned int i = 0; i < NPAGES; i++)
		fill_page(s->src + i * PAGE, i);
	assert_int_equal(uffd_register(s->uffd, (uintptr_t)s->dst, NPAGES * PAGE,
				       UFFDIO_REGISTER_MODE_MISSING, NULL),
			 0);
}

static void scene_fini(struct scene *s)
{
	struct uffd_msg msg;

	if (s->advising) {
		assert_int_equal(read(s->uffd, &msg, sizeof(msg)), sizeof(msg));
		adviser_join(&s->adviser);
	}
	if (s->child)
		kill_and_reap(s->child);
	if (s->uffd >= 0)
		close(s->uffd);
	if (s->fd >= 0)
		close(s->fd);
	if (s->fd2 >= 0)
		close(s->fd2);
	if (s->other)
		unmap(s->other, PAGE);
	munmap(s->dst, NPAGES * PAGE);
	munmap(s->src, NPAGES * PAGE);
}

/* The page is at @there, whole, and it is not @gone. */
static void assert_in_one_place(char *there, const char *gone, unsigned int i, bool is_zero)
{
	uint64_t value;

	assert_false(page_present(gone));
	/* Not at all in a few scenes: the page was unmapped, or never readable. */
	assert_int_equal(mprotect(there, PAGE, PROT_READ | PROT_WRITE), 0);
	assert_int_equal(peek(there, &value), 0);
	assert_true(is_zero ? page_is_zero(there) : page_has(there, i));
}

static void assert_places(const struct row *row, struct scene *s, unsigned int done)
{
	for (unsigned int i = 0; i < NPAGES; i++) {
		bool mid = i == 1, is_zero = mid && row->prepare == zero_page;
		if (i < done)
			assert_in_one_place(s->dst + i * PAGE, s->src + i * PAGE, i, is_zero);
		else if (mid && row->prepare == populated)
			assert_true(page_has(s->src + i * PAGE, i));
		else if (page_present(s->src + i * PAGE))
			assert_in_one_place(s->src + i * PAGE, s->dst + i * PAGE, i, is_zero);
	}
}

static void run(const struct row *row, uint32_t flags, const struct answer *want)
{
	struct scene s;

	scene_init(&s);
	row->prepare(&s);
	struct ferry_move m = {.size = sizeof(m),
			       .uffd = s.uffd,
			       .flags = flags,
			       .dst = (uintptr_t)s.dst,
			       .src = (uintptr_t)s.src,
			       .len = NPAGES * PAGE};
	assert_int_equal(ferry_move(&m), want->ret);
	assert_int_equal(m.done, want->done * PAGE);
	assert_int_equal(m.bytes[FERRY_WAY_COPY], want->copied * PAGE);
	assert_int_equal(m.bytes[FERRY_WAY_MOVE], (want->done - want->copied) * PAGE);
	assert_int_equal(m.holes, 0);
	assert_places(row, &s, want->done);
	scene_fini(&s);
}

static void run_row(void **state)
{
	const struct row *row = *state;

	run(row, FERRY_MOVE_STRICT, &row->strict);
	if (!row->strict_only)
		run(row, 0, &row->loose);
}

static const struct row rows[] = {
	{"nothing special", nothing, {0, 3, 0}, {0, 3, 0}, false},
	{"destination populated: EEXIST", populated, {-EEXIST, 1, 0}, {-EEXIST, 1, 0}, false},
	{"hole: ENOENT", hole, {-ENOENT, 1, 0}, {-ENOENT, 1, 0}, false},
	{"zero page", zero_page, {0, 3, 0}, {0, 3, 0}, false},
	{"shared by fork: EBUSY", shared_by_fork, {-EBUSY, 0, 0}, {0, 3, 3}, false},
	{"child has exited: still EBUSY", forked_before, {-EBUSY, 0, 0}, {0, 3, 3}, false},
	{"written after the fork", written_after_fork, {0, 3, 0}, {0, 3, 0}, false},
	{"merged by KSM: EBUSY", merged, {-EBUSY, 1, 0}, {0, 3, 1}, false},
	{"pinned by io_uring: EBUSY", pinned, {-EBUSY, 1, 0}, {0, 3, 1}, false},
	{"in a pipe", in_a_pipe, {0, 3, 0}, {0, 3, 0}, false},
	{"source locked: EINVAL", locked, {-EINVAL, 0, 0}, {0, 3, 3}, false},
	{"source read-only: EINVAL", read_only, {-EINVAL, 0, 0}, {0, 3, 3}, false},
	{"source in two mappings: EINVAL", split_source, {-EINVAL, 0, 0}, {0, 3, 3}, false},
	{"destination in two mappings: EINVAL",
	 split_destination,
	 {-EINVAL, 0, 0},
	 {0, 3, 3},
	 false},
	{"destination not accessible: EINVAL", not_accessible, {-EINVAL, 0, 0}, {0, 3, 3}, false},
	{"shared memory: EINVAL", shared_memory, {-EINVAL, 0, 0}, {0}, true},
	{"private file: EINVAL", file, {-EINVAL, 0, 0}, {0}, true},
	{"unregistered", unregistered, {-EINVAL, 0, 0}, {-ENOENT, 0, 0}, false},
	{"unregistered in the middle",
	 unregistered_middle,
	 {-EINVAL, 0, 0},
	 {-ENOENT, 1, 1},
	 false},
	{"destination unmapped: ENOENT",
	 destination_unmapped,
	 {-ENOENT, 0, 0},
	 {-ENOENT, 0, 0},
	 false},
	{"destination has a hole", destination_hole, {-EINVAL, 0, 0}, {-ENOENT, 1, 1}, false},
	{"source unmapped: ENOENT", source_unmapped, {-ENOENT, 0, 0}, {-ENOENT, 0, 0}, false},
	{"source has a hole", source_hole, {-EINVAL, 0, 0}, {-ENOENT, 1, 1}, false},
	{"event waits: EAGAIN", event_waits, {-EAGAIN, 0, 0}, {-EAGAIN, 0, 0}, false},
	{"descriptor closed: EBADF", closed, {-EBADF, 0, 0}, {-EBADF, 0, 0}, false},
	{"not a userfaultfd: ENOTTY", no_userfaultfd, {-ENOTTY, 0, 0}, {-ENOTTY, 0, 0}, false},
	{"dead process: ESRCH", dead_process, {-EINVAL, 0, 0}, {-ESRCH, 0, 0}, false},
};

static void huge_pinned_scene(struct scene *s)
{
	*s = (struct scene){.fd = -1};
	s->uffd = open_uffd(UFFD_FEATURE_MOVE);
	s->src = map_memory(BLOCK, 0);
	s->dst = map_memory(BLOCK, 0);
	if (!make_huge(s->src, BLOCK))
		SKIP("no huge pages are given here");
	for (unsigned int i = 0; i < BLOCK / PAGE; i++)
		fill_page(s->src + i * PAGE, i);
	pin(s, s->src + 5 * PAGE, PAGE);
	assert_int_equal(uffd_register(s->uffd, (uintptr_t)s->dst, BLOCK,
				       UFFDIO_REGISTER_MODE_MISSING, NULL),
			 0);
}

static void huge_pinned_end(struct scene *s)
{
	close(s->fd);
	close(s->uffd);
	unmap(s->src, BLOCK);
	unmap(s->dst, BLOCK);
}

static int move_part(void *arg)
{
	struct scene s;
	uint64_t done;

	(void)arg;
	huge_pinned_scene(&s);
	uffd_move(s.uffd, (uintptr_t)s.dst, (uintptr_t)s.src, 3 * PAGE, 0, &done);
	return 0;
}

/* In Linux 6.12 UFFDIO_MOVE tries for ever to split what can't be split. */
static bool kernel_returns(void)
{
	int64_t until = now_ms() + 5000;
	pid_t pid = spawn(move_part, NULL);
	pid_t ended;

	while ((ended = waitpid(pid, NULL, WNOHANG)) == 0 && now_ms() < until)
		poll(NULL, 0, 5);
	if (!ended)
		kill_and_reap(pid);
	return ended != 0;
}

/* A pinned huge page can't be split, so no part of it moves. */
static void test_huge_pinned(void **state)
{
	struct scene s;

	(void)state;
	/* What is missing is told by this process. */
	huge_pinned_scene(&s);
	huge_pinned_end(&s);
	if (!kernel_returns())
		SKIP("this kernel's UFFDIO_MOVE doesn't return from a part of a pinned huge page");
	huge_pinned_scene(&s);
	struct ferry_move m = {.size = sizeof(m), .uffd = s.uffd, .flags = FERRY_MOVE_STRICT};
	for (unsigned int first = 0; first < 2; first++) {
		m.dst = (uintptr_t)s.dst + first * PAGE;
		m.src = (uintptr_t)s.src + first * PAGE;
		m.len = first ? 3 * PAGE : BLOCK;
		assert_int_equal(ferry_move(&m), -EBUSY);
		assert_int_equal(m.done, 0);
	}
	m = (struct ferry_move){.size = sizeof(m),
				.uffd = s.uffd,
				.dst = (uintptr_t)s.dst,
				.src = (uintptr_t)s.src,
				.len = BLOCK};
	assert_int_equal(ferry_move(&m), 0);
	assert_int_equal(m.bytes[FERRY_WAY_COPY] + m.bytes[FERRY_WAY_MOVE], BLOCK);
	assert_true(m.bytes[FERRY_WAY_COPY] >= PAGE);
	for (unsigned int i = 0; i < BLOCK / PAGE; i++) {
		assert_true(page_has(s.dst + i * PAGE, i));
		assert_false(page_present(s.src + i * PAGE));
	}
	huge_pinned_end(&s);
}

int main(void)
{
	struct CMUnitTest tests[COUNT(rows) + 1];

	for (size_t i = 0; i < COUNT(rows); i++)
		tests[i] = (struct CMUnitTest){rows[i].name, run_row, test_begin, test_end,
					       (void *)(uintptr_t)&rows[i]};
	tests[COUNT(rows)] = (struct CMUnitTest)TEST(test_huge_pinned);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("move_errors", tests, NULL, NULL);
}
