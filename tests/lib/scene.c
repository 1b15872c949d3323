// SPDX-License-Identifier: MIT
/* A process that does what it is told, see scene.h. */
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/uffd.h"
#include "tests/lib/scene.h"

#define PART_LEN SCENE_PART_LEN
#define HOLE     (64 * PAGE)

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

char *scene_part(const struct scene *s, unsigned int i)
{
	return s->mem + i * PART_LEN;
}

static void fill(char *at, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len; i += PAGE)
		fill_page(at + i, seed + i);
}

static void move(struct scene *s)
{
	char *to = map_memory(PART_LEN, 0);

	/* Beside what is moved from elsewhere lies what was there before. */
	check(mremap(scene_part(s, 3), PART_LEN / 2, PART_LEN / 2, MREMAP_MAYMOVE | MREMAP_FIXED,
		     to) == to);
	check(mmap(scene_part(s, 3), PART_LEN / 2, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == scene_part(s, 3));
	fill(scene_part(s, 3), PAGE, 31);
	/* From there to where something else, unchanged, is in the base. */
	check(mremap(to, HOLE, HOLE, MREMAP_MAYMOVE | MREMAP_FIXED, scene_part(s, 4)) ==
	      scene_part(s, 4));
}

/* Down the stack. */
static void use_stack(size_t pages)
{
	volatile char here[PAGE];

	here[0] = (char)pages;
	if (pages)
		use_stack(pages - 1);
	here[1] = here[0];
}

/* What was there last is changed with what is new. */
static void grow(void)
{
	char *end = sbrk(PART_LEN);

	check(end != (void *)-1);
	end[-1] = 4;
	memset(end, 5, PART_LEN);
	use_stack(300);
}

/* A page that had been changed, one that hadn't, and one that was empty. */
static int write_beside(void *arg)
{
	struct scene *s = arg;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!s->write)
		usleep(1000);
	scene_part(s, 0)[1] = scene_part(s, 1)[1] = scene_part(s, 2)[PART_LEN - PAGE] = 5;
	s->written = true;
	_exit(0);
}

static void share(struct scene *s)
{
	static char stack[16 * PAGE] __attribute__((aligned(PAGE)));

	check(clone(write_beside, stack + sizeof(stack), CLONE_VM | SIGCHLD, s) > 0);
	scene_part(s, 0)[0] ^= 1;
}

static bool pin_part(struct scene *s)
{
	struct io_uring_params params = {0};
	struct iovec buffer = {scene_part(s, 0), HOLE};
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	return ring >= 0 &&
	       !syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1);
}

static bool merge_part(struct scene *s)
{
	for (size_t i = 0; i < HOLE; i += PAGE)
		fill_page(scene_part(s, 0) + i, 5);
	return !madvise(scene_part(s, 0), HOLE, MADV_MERGEABLE);
}

/* A userfaultfd of its own, for memory that is new. */
static bool take_over(struct scene *s, size_t len, uint64_t features)
{
	char *at = scene_part(s, 0);

	features |= UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	int uffd = uffd_open_best(&features, 0);
	check(mmap(at, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		   0) == at);
	fill(at, len, 123);
	return uffd >= 0 &&
	       !uffd_register(uffd, (uintptr_t)at, len, UFFDIO_REGISTER_MODE_WP, NULL) &&
	       !uffd_writeprotect(uffd, (uintptr_t)at, len, UFFDIO_WRITEPROTECT_MODE_WP);
}

/* What one test or another asks for. */
static void act_by_name(struct scene *s, uint32_t step)
{
	switch (step) {
	case SCENE_PROTECT:
		s->written = take_over(s, PAGE, 0);
		break;
	case SCENE_IS_PROTECTED:
		s->written = page_protected(scene_part(s, 0));
		break;
	case SCENE_TRACK:
		s->written = take_over(s, PART_LEN, UFFD_FEATURE_WP_ASYNC);
		scene_part(s, 0)[PAGE] = 7;
		break;
	case SCENE_IS_TRACKED:
		s->written = page_protected(scene_part(s, 0)) &&
			     !page_protected(scene_part(s, 0) + PAGE);
		break;
	case SCENE_GUARD:
		s->written = !madvise(scene_part(s, 0), PAGE, MADV_GUARD_INSTALL);
		scene_part(s, 0)[PAGE] ^= 1;
		break;
	case SCENE_MERGE:
		s->written = merge_part(s);
		break;
	case SCENE_PIN:
		s->written = pin_part(s);
		break;
	case SCENE_DONT_DUMP:
		madvise(scene_part(s, 0), PART_LEN, MADV_DONTDUMP);
		break;
	case SCENE_DO_DUMP:
		madvise(scene_part(s, 0), PART_LEN, MADV_DODUMP);
		break;
	case SCENE_SHARE:
		share(s);
		break;
	case SCENE_DISCARD:
		check_equal(madvise(s->mem + 8 * BLOCK, BLOCK, MADV_DONTNEED), 0);
		break;
	case SCENE_ZERO:
		memset(scene_part(s, 0), 0, PART_LEN / 2);
		break;
	case SCENE_GROW:
		grow();
		break;
	}
}

/* What a program does all the time: done one after the other. */
static void act_in_turn(struct scene *s, uint32_t step)
{
	switch (step) {
	case 1: /* write, here and there */
		for (size_t i = 0; i < PART_LEN; i += 16 * PAGE)
			scene_part(s, 0)[i + i / 16 % PAGE] ^= 1;
		break;
	case 2:
		munmap(scene_part(s, 1), PART_LEN / 2);
		break;
	case 3: /* discard, and touch again: by a read, by a write */
		madvise(scene_part(s, 2), PART_LEN / 2, MADV_DONTNEED);
		check_equal(scene_part(s, 2)[PAGE], 0);
		fill(scene_part(s, 2) + 2 * PAGE, PAGE, 77);
		break;
	case 4:
		move(s);
		break;
	case 5: /* where something was unmapped there is something new, and elsewhere as well */
		check(mmap(scene_part(s, 1), HOLE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == scene_part(s, 1));
		fill(scene_part(s, 1), HOLE / 2, 12);
		fill(map_memory(HOLE, 0), HOLE, 13);
		break;
	case 6: /* can't be read by itself; written by kernel code; shared with a child for a while
		 */
		fill(scene_part(s, 5), PAGE, 55);
		check_equal(mprotect(scene_part(s, 5), 2 * PAGE, PROT_NONE), 0);
		int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
		check_equal(read(fd, scene_part(s, 6), 3 * PAGE), 3 * PAGE);
		close(fd);
		pid_t child = fork();
		if (!child)
			_exit(scene_part(s, 7)[0] = 1);
		waitpid(child, NULL, 0);
		fill(scene_part(s, 7) + PAGE, PAGE, 70);
		break;
	case 7: /* every other page: more pieces than the kernel tells at once, three times */
		for (size_t i = 2 * PAGE; i < 2 * PART_LEN + PART_LEN / 10; i += 2 * PAGE)
			scene_part(s, 5)[i] ^= 3;
		break;
	case 8: /* all of it, more than is copied while it stands still */
		fill(scene_part(s, 5) + 2 * PAGE, 3 * PART_LEN - 2 * PAGE, 99);
		fill(scene_part(s, 4), PART_LEN, 98);
		break;
	}
}

__attribute__((noreturn)) static int run_scene(void *arg)
{
	struct scene *s = arg;

	alarm(300);
	pin();
	if (s->huge)
		make_huge(s->mem, SCENE_LEN);
	else
		madvise(s->mem, SCENE_LEN, MADV_NOHUGEPAGE);
	/* Some of it is empty. */
	for (unsigned int i = 0; i < 8; i++)
		fill(scene_part(s, i), PART_LEN - HOLE, 1000ul * i);
	for (;;) {
		uint32_t step = s->step;
		if (step && s->done != step) {
			act_by_name(s, step);
			act_in_turn(s, step);
			s->done = step;
		} else {
			usleep(1000);
		}
	}
}

struct scene *scene_start(bool huge, pid_t *pid)
{
	struct scene *s = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			       0);

	s->mem = map_memory(SCENE_LEN, 0);
	s->huge = huge;
	*pid = spawn(run_scene, s);
	/* It has begun when it does nothing. */
	s->step = SCENE_STEPS + 1;
	while (s->done != s->step)
		usleep(1000);
	return s;
}

void scene_act(struct scene *s, uint32_t step)
{
	s->step = step;
	for (int64_t until = now_ms() + 10000; s->done != step;) {
		assert_true(now_ms() < until);
		usleep(500);
	}
}

void scene_stop(pid_t pid)
{
	kill(pid, SIGSTOP);
	wait_stopped(pid);
}

void scene_end(struct scene *s, pid_t pid)
{
	kill_and_reap(pid);
	unmap(s->mem, SCENE_LEN);
	unmap(s, PAGE);
}
