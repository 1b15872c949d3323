// SPDX-License-Identifier: MIT
/*
 * Try each kind of resolution on pages of our own.
 *
 * No trial can hang, and none needs a second thread or a signal handler: a page that must not be
 * accessible is written by a system call, and with UFFD_FEATURE_SIGBUS a fault that nobody has
 * resolved makes that call fail with EFAULT instead of waiting.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/caps.h"

#define PATTERN      0x5a
#define AGAIN_MAX    100 /* EAGAIN means that another thread changes the memory map: soon over */
#define PATTERN_FROM sizeof(struct timespec) /* what kernel_write leaves alone */

/* Let kernel code write to @page: 0, or -EFAULT when the page isn't accessible. */
static int kernel_write(void *page)
{
	return syscall(SYS_clock_gettime, CLOCK_MONOTONIC, page) < 0 ? -errno : 0;
}

static bool has_pattern(const char *page)
{
	for (size_t i = PATTERN_FROM; i < FERRY_PAGE; i++)
		if (page[i] != PATTERN)
			return false;
	return true;
}

static uint64_t addr_of(const char *page)
{
	return (uintptr_t)page;
}

static int open_with(enum ferry_door door, uint64_t features)
{
	int uffd = uffd_open_door(door);
	if (uffd < 0)
		return uffd;
	int ret = uffd_api(uffd, &features);
	if (ret) {
		close(uffd);
		return ret;
	}
	return uffd;
}

/* Open with @features, let @act work on the memory at @mem, close. */
static int with_uffd(enum ferry_door door, uint64_t features, int (*act)(int uffd, char *mem),
		     char *mem)
{
	int uffd = open_with(door, features);
	if (uffd < 0)
		return uffd;
	int ret = act(uffd, mem);
	close(uffd);
	return ret;
}

/* ---- what the kernel says of itself */

int caps_try_registered(const struct caps_arena *arena, enum ferry_door door, uint64_t *features,
			uint64_t *ioctls)
{
	uint64_t addr = addr_of(arena->anon);
	int uffd = uffd_open_door(door);
	if (uffd < 0)
		return uffd;
	*features = 0;
	int ret = uffd_api(uffd, features);
	if (!ret && uffd_register(uffd, addr, FERRY_PAGE,
				  UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP, ioctls))
		ret = uffd_register(uffd, addr, FERRY_PAGE, UFFDIO_REGISTER_MODE_MISSING, ioctls);
	close(uffd);
	return ret;
}

/* ---- MOVE */

static int move_page(int uffd, char *src)
{
	char *dst = src + FERRY_PAGE;
	struct ferry_move move = { .size = sizeof(move),
				   .uffd = uffd,
				   .flags = FERRY_MOVE_STRICT | FERRY_MOVE_FULL,
				   .dst = addr_of(dst),
				   .src = addr_of(src),
				   .len = FERRY_PAGE };
	int ret = uffd_register(uffd, addr_of(dst), FERRY_PAGE, UFFDIO_REGISTER_MODE_MISSING, NULL);
	if (ret)
		return ret;
	memset(src, PATTERN, FERRY_PAGE);
	for (int i = 0; i < AGAIN_MAX; i++) {
		ret = ferry_move(&move);
		if (ret != -EAGAIN)
			break;
	}
	if (ret)
		return ret;
	return kernel_write(dst) || !has_pattern(dst) || src[FERRY_PAGE - 1] ? -EIO : 0;
}

int caps_try_move(const struct caps_arena *arena, enum ferry_door door)
{
	return with_uffd(door, UFFD_FEATURE_MOVE | UFFD_FEATURE_SIGBUS, move_page, arena->anon);
}

/* ---- WP */

static int wp_page(int uffd, char *page)
{
	uint64_t addr = addr_of(page);
	int ret = uffd_register(uffd, addr, FERRY_PAGE, UFFDIO_REGISTER_MODE_WP, NULL);
	if (ret)
		return ret;
	memset(page, PATTERN, FERRY_PAGE);
	ret = uffd_writeprotect(uffd, addr, FERRY_PAGE, UFFDIO_WRITEPROTECT_MODE_WP);
	if (ret)
		return ret;
	if (kernel_write(page) != -EFAULT)
		return -EIO;
	ret = uffd_writeprotect(uffd, addr, FERRY_PAGE, 0);
	if (ret)
		return ret;
	return kernel_write(page) || !has_pattern(page) ? -EIO : 0;
}

int caps_try_wp(const struct caps_arena *arena, enum ferry_door door)
{
	return with_uffd(door, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_SIGBUS, wp_page,
			 arena->anon);
}

/* Protect both pages, write to the second one: that one, and no other, is then found. */
static int wp_async_pages(int uffd, char *pages)
{
	uint64_t addr = addr_of(pages), len = 2 * FERRY_PAGE;
	int ret = uffd_register(uffd, addr, len, UFFDIO_REGISTER_MODE_WP, NULL);
	if (ret)
		return ret;
	memset(pages, PATTERN, len);
	ret = uffd_writeprotect(uffd, addr, len, UFFDIO_WRITEPROTECT_MODE_WP);
	if (ret)
		return ret;
	if (kernel_write(pages + FERRY_PAGE))
		return -EIO;
	return caps_scan_one(pages, 1, PAGE_IS_WRITTEN, PM_SCAN_CHECK_WPASYNC);
}

int caps_try_wp_async(const struct caps_arena *arena, enum ferry_door door)
{
	return with_uffd(door, UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_SIGBUS, wp_async_pages,
			 arena->anon);
}

/* ---- MINOR */

static int continue_page(int uffd, char *page)
{
	uint64_t addr = addr_of(page), done;

	memset(page, PATTERN, FERRY_PAGE);
	/* It stays in the page cache. */
	caps_empty(page, FERRY_PAGE);
	int ret = uffd_register(uffd, addr, FERRY_PAGE, UFFDIO_REGISTER_MODE_MINOR, NULL);
	if (ret)
		return ret;
	if (kernel_write(page) != -EFAULT)
		return -EIO;
	ret = uffd_continue(uffd, addr, FERRY_PAGE, 0, &done);
	if (ret)
		return ret;
	return kernel_write(page) || !has_pattern(page) ? -EIO : 0;
}

int caps_try_minor(const struct caps_arena *arena, enum ferry_door door)
{
	return with_uffd(door, UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_SIGBUS, continue_page,
			 arena->shared);
}

/* ---- POISON */

static int poison_page(int uffd, char *page)
{
	uint64_t addr = addr_of(page), done;
	int ret = uffd_register(uffd, addr, FERRY_PAGE, UFFDIO_REGISTER_MODE_MISSING, NULL);
	if (ret)
		return ret;
	ret = uffd_poison(uffd, addr, FERRY_PAGE, &done);
	if (ret)
		return ret;
	/* Without the registration only the poison can make the write fail. */
	ret = uffd_unregister(uffd, addr, FERRY_PAGE);
	if (ret)
		return ret;
	return kernel_write(page) == -EFAULT ? 0 : -EIO;
}

int caps_try_poison(const struct caps_arena *arena, enum ferry_door door)
{
	return with_uffd(door, UFFD_FEATURE_POISON, poison_page, arena->anon);
}

/* ---- EVENT_FORK */

static int handshake_only(int uffd, char *mem)
{
	(void)uffd;
	(void)mem;
	return 0;
}

int caps_try_fork_event(const struct caps_arena *arena, enum ferry_door door)
{
	/* The handshake is where the kernel asks for CAP_SYS_PTRACE. */
	return with_uffd(door, UFFD_FEATURE_EVENT_FORK, handshake_only, arena->anon);
}
