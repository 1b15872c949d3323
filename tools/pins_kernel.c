// SPDX-License-Identifier: MIT
/*
 * What the kernel does to pages by itself, here when it is told to: each of these may leave a page
 * alone without a word, so each looks at the page afterwards.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/clock.h"
#include "tools/pins.h"
#include "tools/pins_act.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret = fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return ret;
}

static uint64_t read_number(const char *path)
{
	char text[32] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (read(fd, text, sizeof(text) - 1) < 0)
			text[0] = '\0';
		close(fd);
	}
	return strtoull(text, NULL, 10);
}

/* ---- reclaim */

#define TRIES 20 /* a page that another CPU has just put aside can't be had */

int act_free(struct scene *s)
{
	if (madvise(s->page, FERRY_PAGE, MADV_FREE))
		return -errno;
	/* It would stay until memory is short. */
	for (unsigned int i = 0; i < TRIES && !page_is_hole(s->page); i++)
		if (madvise(s->page, FERRY_PAGE, MADV_PAGEOUT))
			return -errno;
	s->acted = page_is_hole(s->page);
	return scene_note(s, 0, "dropped when it was reclaimed (MADV_PAGEOUT)");
}

int act_pageout(struct scene *s)
{
	for (unsigned int i = 0; i < TRIES && !page_is_swapped(s->page); i++)
		if (madvise(s->page, FERRY_PAGE, MADV_PAGEOUT))
			return -errno;
	s->acted = page_is_swapped(s->page);
	return scene_note(s, 0, "swapped out");
}

/* ---- KSM */

#define KSM          "/sys/kernel/mm/ksm/"
#define KSM_LIMIT_NS 5000000000

/* KSM goes through them by their addresses: what has become of the page is certain when it has
 * merged the last two, which nobody has pinned. */
static uint32_t *beside(const struct scene *s, unsigned int pages)
{
	return s->page + pages * FERRY_PAGE / sizeof(*s->page);
}

static void make_alike(uint32_t *a, uint32_t *b, uint32_t word)
{
	*a = *b = word;
}

static bool are_merged(const uint32_t *a, const uint32_t *b)
{
	uint64_t number = page_number(a);

	return number && number == page_number(b);
}

int begin_ksm(struct scene *s)
{
	make_alike(s->page, beside(s, 4), WORD_FIRST);
	make_alike(beside(s, 8), beside(s, 12), WORD_OTHER);
	if (!page_number(s->page))
		return scene_note(s, -EPERM, "/proc/self/pagemap");
	if (read_number(KSM "run") != 1)
		return scene_note(s, -EACCES, KSM "run");
	return 0;
}

/* They are given to KSM only now: it must find the pin. */
int act_ksm(struct scene *s)
{
	int64_t end = clock_ns() + KSM_LIMIT_NS;
	bool looked = false;

	if (madvise(s->area, AREA, MADV_MERGEABLE))
		return -errno;
	while (!looked && clock_ns() < end) {
		looked = are_merged(beside(s, 8), beside(s, 12));
		poll(NULL, 0, 2);
	}
	s->acted = are_merged(s->page, beside(s, 4));
	s->untold = !s->acted && !looked;
	scene_note(s, 0, s->untold ? "KSM is too slow" : "merged with another page, and unmerged");
	return madvise(s->area, AREA, MADV_UNMERGEABLE) ? -errno : 0;
}

/* ---- huge pages */

int begin_collapse(struct scene *s)
{
	for (size_t at = 0; at < AREA; at += FERRY_PAGE)
		*(volatile uint8_t *)(s->area + at) |= 0;
	return 0;
}

/* Huge pages are allowed only now, since that wakes khugepaged, which may be quicker: it must find
 * the pin. */
int act_collapse(struct scene *s)
{
	uint64_t before = page_number(s->page);
	unsigned int tries = TRIES;
	int ret = madvise(s->area, AREA, MADV_HUGEPAGE) ? -errno : 0;

	if (ret)
		return ret;
	/* A page that somebody holds for a moment only is no answer. */
	do
		ret = madvise(s->area, AREA, MADV_COLLAPSE) ? -errno : 0;
	while (ret == -EAGAIN && --tries);
	if (ret)
		return ret;
	s->acted = page_number(s->page) != before;
	return scene_note(s, 0, "copied into a huge page");
}

/* To say of one of its pages that it is cold splits a huge page, if it can be, and harms no other
 * one. */
int act_split(struct scene *s)
{
	const uint64_t huge = 1ull << 22; /* KPF_THP */
	uint64_t number = page_number(s->page);

	if (madvise(s->area, FERRY_PAGE, MADV_COLD))
		return -errno;
	s->acted = number && !(page_flags(number) & huge);
	return scene_note(s, 0, "split by MADV_COLD of a part");
}

/* ---- compaction */

#define CROWD_HUGE 16u
#define CROWD      (CROWD_HUGE * FERRY_HUGE_PAGES)
#define WITNESSES  64u

struct witness {
	uint64_t number;
	uint32_t *page;
};

static struct witness crowd[CROWD], *chosen;

static int by_number(const void *a, const void *b)
{
	const struct witness *x = a, *y = b;

	return x->number < y->number ? -1 : x->number > y->number;
}

/*
 * Pages move from the low end of memory to the high one, so of many one at a low place is taken,
 * and the next ones beside it are there to see what happens to those that aren't pinned. Free
 * memory at the low end comes in large pieces, which are had by huge pages: these are split then,
 * since compaction passes them over. Some whole blocks it passes over for no reason that shows, so
 * the next process takes another.
 */
int begin_compaction(struct scene *s)
{
	static uint64_t numbers[CROWD];
	int ret;
	uint8_t *all = mmap(NULL, (CROWD_HUGE + 1) * FERRY_HUGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (all == MAP_FAILED)
		return scene_note(s, -errno, "mmap");
	all = (uint8_t *)(((uintptr_t)all + FERRY_HUGE - 1) & ~(FERRY_HUGE - 1));
	madvise(all, CROWD_HUGE * FERRY_HUGE, MADV_HUGEPAGE);
	for (size_t i = 0; i < CROWD; i++)
		*(uint32_t *)(all + i * FERRY_PAGE) = WORD_FIRST;
	ret = page_numbers(all, CROWD, numbers);
	if (ret)
		return scene_note(s, ret, "/proc/self/pagemap");
	for (size_t i = 0; i < CROWD; i++)
		crowd[i] = (struct witness){numbers[i], (uint32_t *)(all + i * FERRY_PAGE)};
	qsort(crowd, CROWD, sizeof(crowd[0]), by_number);
	chosen = &crowd[(unsigned int)getpid() % (CROWD_HUGE / 2) * FERRY_HUGE_PAGES];
	for (struct witness *w = crowd; w < crowd + CROWD; w++)
		madvise(w->page, FERRY_PAGE,
			w >= chosen && w <= chosen + WITNESSES ? MADV_COLD : MADV_DONTNEED);
	s->page = chosen->page;
	return chosen->number ? 0 : scene_note(s, -EPERM, "/proc/self/pagemap");
}

int act_compaction(struct scene *s)
{
	unsigned int moved = 0;
	int ret = write_file("/proc/sys/vm/compact_memory", "1");

	if (ret)
		return ret;
	for (size_t i = 1; i <= WITNESSES; i++)
		moved += page_number(chosen[i].page) != chosen[i].number;
	s->acted = page_number(s->page) != chosen->number;
	s->untold = !s->acted && !moved;
	return scene_note(s, 0, "moved (compact_memory), as %u of %u pages beside it", moved,
			  WITNESSES);
}

/* ---- uprobe */

#define PROBE_AT  2048u /* in the page: a nop */
#define INT3      0xcc
#define PROBE_PMU "/sys/bus/event_source/devices/uprobe/type"

/* The page is the process' own by now, a copy of the file's: a probe isn't put into memory that can
 * be written to. What is there is left when the trial ends. */
int act_uprobe(struct scene *s)
{
	struct perf_event_attr attr = {.size = sizeof(attr),
				       .type = (uint32_t)read_number(PROBE_PMU)};
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", s->file);
	attr.config1 = (uintptr_t)path;
	attr.config2 = (uint64_t)((uint8_t *)s->page - s->area) + PROBE_AT;
	if (!attr.type)
		return -EOPNOTSUPP;
	if (mprotect(s->page, FERRY_PAGE, PROT_READ | PROT_EXEC))
		return -errno;
	fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return -errno;
	s->acted = ((volatile uint8_t *)s->page)[PROBE_AT] == INT3;
	scene_note(s, 0, "the breakpoint is in");
	return mprotect(s->page, FERRY_PAGE, PROT_READ | PROT_WRITE) ? -errno : 0;
}
