// SPDX-License-Identifier: MIT
/*
 * pageferry conform: the kinds of memory. What a kind is depends on the call: the source of a MOVE
 * and what is write-protected hold pages, the destination of the others is empty, unless the kind
 * is a state that only a page can have. Each kind is shown to be what it claims, by the kernel's
 * own word, or the cell isn't tried.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "tools/conform.h"
#include "tools/pagemap.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif
#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4U
#endif

#define KPF_KSM  (1ull << 21)
#define PIN_AWAY 100u /* pages from the first one of a part of a huge page */

/* ---- mappings */

static size_t length(const struct conform_scene *s)
{
	return s->npages * FERRY_PAGE;
}

static char *middle(const struct conform_scene *s)
{
	return s->memory.addr + CONFORM_MIDDLE * FERRY_PAGE;
}

/* The calls that act on pages which are there. */
static bool takes_pages(const struct conform_scene *s)
{
	return s->call == CONFORM_MOVE || s->call == CONFORM_WRITEPROTECT;
}

static char *map(struct conform_scene *s, size_t len, int flags, int fd)
{
	char *place = conform_place(len);

	if (!place || mmap(place, len, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) != place)
		conform_not_here(s, "memory can't be mapped: %s", strerror(errno));
	return place;
}

static void fill(struct conform_scene *s, char *addr)
{
	for (unsigned int i = 0; i < s->npages; i++)
		conform_fill(addr + i * FERRY_PAGE, PAGE_PATTERN, i);
}

static void fill_memory(struct conform_scene *s)
{
	fill(s, s->memory.addr);
	memset(s->memory.holds, PAGE_PATTERN, s->npages);
}

static void map_anonymous(struct conform_scene *s)
{
	s->memory.addr = map(s, length(s), MAP_PRIVATE | MAP_ANONYMOUS, -1);
	madvise(s->memory.addr, length(s), MADV_NOHUGEPAGE);
}

/* Memory of @fd, which may already have what is to be continued with: then a second view of it is
 * returned. */
static char *map_shared(struct conform_scene *s, int fd)
{
	char *view = NULL;

	if (fd < 0 || ftruncate(fd, (off_t)length(s)))
		conform_not_here(s, "there is no such file: %s", strerror(errno));
	s->memory.addr = map(s, length(s), MAP_SHARED, fd);
	if (s->call == CONFORM_CONTINUE) {
		view = map(s, length(s), MAP_SHARED, fd);
		fill(s, view);
	} else if (takes_pages(s)) {
		fill_memory(s);
	}
	return view;
}

static char *map_shmem(struct conform_scene *s)
{
	return map_shared(s, memfd_create("pageferry-conform", MFD_CLOEXEC));
}

/* As most memory of the call is; the view is of what is to be continued with, else NULL. */
static char *plain(struct conform_scene *s)
{
	if (s->call == CONFORM_CONTINUE)
		return map_shmem(s);
	map_anonymous(s);
	if (takes_pages(s))
		fill_memory(s);
	return NULL;
}

static void make_plain(struct conform_scene *s)
{
	plain(s);
}

static void make_anonymous(struct conform_scene *s)
{
	map_anonymous(s);
	if (takes_pages(s))
		fill_memory(s);
}

/* With a page in each place, whatever the call. */
static void make_full(struct conform_scene *s)
{
	map_anonymous(s);
	fill_memory(s);
}

/* With a page in the middle, whatever the call. */
static void make_middle(struct conform_scene *s)
{
	plain(s);
	/* A read would map the pages around it as well. */
	if (!takes_pages(s))
		conform_fill(middle(s), PAGE_PATTERN, CONFORM_MIDDLE);
	s->memory.holds[CONFORM_MIDDLE] = PAGE_PATTERN;
}

/* ---- states of a page */

static void make_zero_page(struct conform_scene *s)
{
	make_full(s);
	madvise(middle(s), FERRY_PAGE, MADV_DONTNEED);
	*(volatile char *)middle(s);
	if (!conform_is_zero_page(middle(s)))
		conform_not_here(
			s, "no page is known to be the zero page: PAGEMAP_SCAN is since Linux 6.7");
	s->memory.holds[CONFORM_MIDDLE] = PAGE_ZEROS;
}

static char *map_huge(struct conform_scene *s)
{
	char *block = map(s, FERRY_HUGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	madvise(block, FERRY_HUGE, MADV_HUGEPAGE);
	for (unsigned int i = 0; i < FERRY_HUGE_PAGES; i++)
		block[i * FERRY_PAGE] = 1;
	if (!conform_is_huge(0, block, FERRY_HUGE_PAGES))
		conform_not_here(s,
				 "no huge page is given: see /sys/kernel/mm/transparent_hugepage");
	return block;
}

static void make_huge(struct conform_scene *s)
{
	s->memory.addr = map_huge(s);
	fill_memory(s);
}

static void make_part(struct conform_scene *s)
{
	s->memory.addr = map_huge(s) + 5 * FERRY_PAGE;
	fill_memory(s);
}

static void pin(struct conform_scene *s, char *page)
{
	struct io_uring_params params = {0};
	struct iovec iov = {page, FERRY_PAGE};
	int ring = (int)syscall(SYS_io_uring_setup, 2, &params);

	if (ring < 0 || syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1) < 0)
		conform_not_here(s, "io_uring can't pin a page: %s", strerror(errno));
}

static void make_pinned_part(struct conform_scene *s)
{
	make_part(s);
	pin(s, s->memory.addr + PIN_AWAY * FERRY_PAGE);
}

static void make_pinned(struct conform_scene *s)
{
	make_middle(s);
	pin(s, middle(s));
}

static uint64_t page_flags(struct conform_scene *s, const char *page)
{
	uint64_t flags;

	if (pagemap_flags(pagemap_entry(0, page) & PAGEMAP_NUMBER, &flags))
		conform_not_here(s, "needs root: /proc/kpageflags tells which page is KSM's");
	return flags;
}

/* Linux 6.12 gives each anonymous page KSM's flag; only one that is merged is mapped twice. */
static bool is_merged(struct conform_scene *s, const char *page)
{
	return !(pagemap_entry(0, page) & PAGEMAP_EXCLUSIVE) && (page_flags(s, page) & KPF_KSM);
}

static void make_merged(struct conform_scene *s)
{
	make_full(s);
	char *twin = map(s, FERRY_PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memcpy(twin, middle(s), FERRY_PAGE);
	if (madvise(twin, FERRY_PAGE, MADV_MERGEABLE) ||
	    madvise(s->memory.addr, length(s), MADV_MERGEABLE))
		conform_not_here(s, "no memory can be marked for KSM: %s", strerror(errno));
	for (int64_t end = clock_ns() + CONFORM_WAIT_NS; !is_merged(s, middle(s));) {
		if (clock_ns() > end)
			conform_not_here(
				s,
				"KSM has merged nothing in 8 s; it needs root to be switched on");
		poll(NULL, 0, 5);
	}
}

static pid_t share(struct conform_scene *s)
{
	pid_t pid = fork();

	if (pid < 0)
		conform_not_here(s, "no process can be started: %s", strerror(errno));
	if (!pid) {
		pause();
		_exit(0);
	}
	return pid;
}

static void make_shared(struct conform_scene *s)
{
	make_full(s);
	share(s);
	if (pagemap_entry(0, middle(s)) & PAGEMAP_EXCLUSIVE)
		conform_not_here(s, "pagemap doesn't say that the page is shared");
}

static void make_shared_before(struct conform_scene *s)
{
	make_full(s);
	pid_t pid = share(s);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (!(pagemap_entry(0, middle(s)) & PAGEMAP_EXCLUSIVE))
		conform_not_here(s,
				 "pagemap doesn't say that the page is this process's alone again");
}

/* ---- swap */

static bool is_cached(const char *page)
{
	unsigned char resident = 0;

	return !mincore((void *)(uintptr_t)page, FERRY_PAGE, &resident) && (resident & 1);
}

/* A page of shmem that was swapped out leaves nothing in the page tables. */
static bool is_out(const struct conform_scene *s, const char *page)
{
	return (s->call == CONFORM_CONTINUE || (pagemap_entry(0, page) & PAGEMAP_SWAPPED)) &&
	       !is_cached(page);
}

/* The page, from here or from the view. */
static char *swap_out(struct conform_scene *s)
{
	char *view = plain(s), *page;

	if (!view)
		fill_memory(s);
	page = view ? view + CONFORM_MIDDLE * FERRY_PAGE : middle(s);
	for (int64_t end = clock_ns() + CONFORM_WAIT_NS; !is_out(s, page);) {
		if (clock_ns() > end)
			conform_not_here(
				s,
				"nothing was swapped out in 8 s: it needs swap, and root to add some");
		/* A disk writes it later: it is out only if it is given up again as it was written. */
		if (!view && is_cached(page))
			*(volatile char *)page;
		madvise(page, FERRY_PAGE, MADV_PAGEOUT);
		poll(NULL, 0, 5);
	}
	return page;
}

static void make_swapped(struct conform_scene *s)
{
	swap_out(s);
}

static void make_swap_cached(struct conform_scene *s)
{
	char *page = swap_out(s);

	madvise(page, FERRY_PAGE, MADV_WILLNEED);
	for (int64_t end = clock_ns() + CONFORM_WAIT_NS; !is_cached(page);) {
		if (clock_ns() > end)
			conform_not_here(s, "nothing was read back in 8 s");
		poll(NULL, 0, 5);
	}
	if (s->call != CONFORM_CONTINUE && !(pagemap_entry(0, page) & PAGEMAP_SWAPPED))
		conform_not_here(s, "it was mapped again at once");
}

/* ---- kinds of mapping */

static void make_locked(struct conform_scene *s)
{
	plain(s);
	if (syscall(SYS_mlock2, s->memory.addr, length(s), MLOCK_ONFAULT))
		conform_not_here(s, "memory can't be locked: %s", strerror(errno));
}

static void make_read_only(struct conform_scene *s)
{
	plain(s);
	mprotect(s->memory.addr, length(s), PROT_READ);
}

static void make_shmem(struct conform_scene *s)
{
	map_shmem(s);
}

/* In a file system of its own, which is gone with the file. */
static int open_ramfs(void)
{
	int fs = fsopen("ramfs", FSOPEN_CLOEXEC), top, fd;

	if (fs < 0 || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		return -1;
	top = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	fd = openat(top, "file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 || ftruncate(fd, CONFORM_PAGES * FERRY_PAGE) ? -1 : fd;
}

/* A tmpfs is shmem: that is another kind. */
static int open_no_shmem(struct conform_scene *s)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct statfs fs;

	if (fd < 0 || fstatfs(fd, &fs) || fs.f_type == TMPFS_MAGIC)
		fd = open_ramfs();
	if (fd < 0)
		conform_not_here(s, "this command is in a tmpfs, and another file takes root");
	return fd;
}

static void make_file(struct conform_scene *s)
{
	s->memory.addr = map(s, length(s), MAP_PRIVATE, open_no_shmem(s));
	if (takes_pages(s))
		fill_memory(s);
}

static void make_hugetlb(struct conform_scene *s)
{
	int fd = memfd_create("pageferry-conform", MFD_CLOEXEC | MFD_HUGETLB);

	if (fd < 0 || access("/sys/kernel/mm/hugepages/hugepages-2048kB", F_OK))
		conform_not_here(s, "the kernel has no hugetlb of 2 MiB");
	map_shared(s, fd);
}

static void make_secret(struct conform_scene *s)
{
	int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);

	if (fd < 0)
		conform_not_here(s, "memfd_secret: %s", strerror(errno));
	map_shared(s, fd);
}

static void make_hole(struct conform_scene *s)
{
	char *view = plain(s);

	if (view)
		madvise(view + CONFORM_MIDDLE * FERRY_PAGE, FERRY_PAGE, MADV_REMOVE);
	else
		madvise(middle(s), FERRY_PAGE, MADV_DONTNEED);
	s->memory.holds[CONFORM_MIDDLE] = PAGE_HOLE;
}

static void make_gap(struct conform_scene *s)
{
	plain(s);
	munmap(middle(s), FERRY_PAGE);
	s->memory.holds[CONFORM_MIDDLE] = PAGE_HOLE;
}

/* ---- all of them */

#define BIT(call) (1u << CONFORM_##call)
#define ALL       ((1u << CONFORM_CALLS) - 1)
#define FILLING   (BIT(COPY) | BIT(ZEROPAGE) | BIT(CONTINUE) | BIT(POISON))

#define KIND(what, how, when, ...)                                                                 \
	{                                                                                          \
		.name = (what), .make = (how), .calls = (when), __VA_ARGS__                        \
	}

/*
 * Swap comes early: where the kernel reclaims memory by itself, other programs' fills it. KSM comes
 * last, since it may have much to do.
 */
const struct conform_kind conform_kinds[] = {
	KIND("anonymous", make_anonymous, ALL),
	KIND("zero page", make_zero_page, ALL),
	KIND("swapped out", make_swapped, ALL, .root = true),
	KIND("swap-cached", make_swap_cached, ALL, .root = true),
	KIND("huge page", make_huge, ALL, .npages = FERRY_HUGE_PAGES, .huge = true),
	KIND("part of a huge page", make_part, ALL),
	KIND("part of a pinned huge page", make_pinned_part, ALL),
	KIND("fork-shared", make_shared, ALL),
	KIND("fork-shared, child gone", make_shared_before, ALL),
	KIND("mlocked", make_locked, ALL),
	KIND("read-only", make_read_only, ALL),
	KIND("pinned", make_pinned, ALL),
	KIND("shmem", make_shmem, ALL),
	KIND("private file", make_file, ALL),
	KIND("hugetlb", make_hugetlb, ALL, .npages = FERRY_HUGE_PAGES, .root = true),
	KIND("secretmem", make_secret, ALL),
	KIND("hole", make_hole, BIT(MOVE) | BIT(CONTINUE) | BIT(WRITEPROTECT)),
	KIND("hole, allowed", make_hole, BIT(MOVE), .allow_holes = true),
	KIND("gap", make_gap, ALL),
	KIND("destination populated", make_middle, BIT(MOVE) | FILLING, .populated = true),
	KIND("foreign descriptor", make_plain, ALL, .foreign = true),
	KIND("descriptor of the same process", make_plain, BIT(MOVE), .one_process = true),
	KIND("registered elsewhere", make_plain, ALL, .elsewhere = true),
	KIND("not registered", make_plain, ALL, .unregistered = true),
	KIND("KSM", make_merged, ALL, .root = true),
	{.name = NULL},
};

/* What can't be changed shows in the cells that need it. */
static void set(const char *path, const char *value)
{
	trial_setting(path, value);
}

static void read_setting(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

	text[n < 0 ? 0 : n] = '\0';
	if (fd >= 0)
		close(fd);
}

/* What there is of these may be somebody's: there is never less. */
static void set_huge(void)
{
	char text[64];

	read_setting("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof(text));
	if (strstr(text, "[never]"))
		trial_huge_pages();
	read_setting("/proc/sys/vm/nr_hugepages", text, sizeof(text));
	if (atoi(text) < 2)
		set("/proc/sys/vm/nr_hugepages", "2");
}

void conform_settings(void)
{
	set("/sys/kernel/mm/ksm/sleep_millisecs", "5");
	set("/sys/kernel/mm/ksm/pages_to_scan", "4000");
	set("/sys/kernel/mm/ksm/run", "1");
	set_huge();
	if (!geteuid())
		trial_swap(256);
}
