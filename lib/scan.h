/* SPDX-License-Identifier: MIT */
/* What this process's own memory is made of, without touching it. */
#ifndef FERRY_SCAN_H
#define FERRY_SCAN_H

#include <stdbool.h>
#include <stdint.h>

struct scan {
	int pagemap;  /* /proc/self/pagemap, or -errno: then every page counts as populated */
	bool ranges;  /* PAGEMAP_SCAN works (Linux 6.7), which also knows huge and zero pages */
};

struct page_region;
struct pm_scan_arg;

/*
 * One call of PAGEMAP_SCAN for [@start, @end) of whose @pagemap this is: @what has the categories and flags.
 * Returns how many of the @n of @vec were filled, or -errno; *walk_end: up to where it came.
 */
long scan_call(int pagemap, const struct pm_scan_arg *what, uint64_t start, uint64_t end,
	       struct page_region *vec, unsigned int n, uint64_t *walk_end);

void scan_open(struct scan *scan);
void scan_close(struct scan *scan);

/*
 * populated[i] says whether page i of [@addr, @addr + @npages pages) holds anything but zeros for
 * sure: not mapped, not swapped out and the zero page are false. Returns whether the whole range is
 * mapped by huge pages.
 */
bool scan_pages(const struct scan *scan, uint64_t addr, uint64_t npages, bool *populated);

/*
 * How many bytes of the range are not mapped at all: here the zero page is a page. What the kernel
 * doesn't tell of is no hole; the second one says so: it returns 0 or -errno.
 */
uint64_t scan_holes(const struct scan *scan, uint64_t addr, uint64_t len);
int scan_holes_sure(const struct scan *scan, uint64_t addr, uint64_t len, uint64_t *holes);

/* there[i]: is anything mapped or swapped out at page i? Zero pages and -errno as in scan_holes_sure. */
int scan_there(const struct scan *scan, uint64_t addr, uint64_t npages, bool *there);

/* How many bytes it is from @addr to the first such page; @len: there is none; -errno. */
int64_t scan_next(const struct scan *scan, uint64_t addr, uint64_t len);

/* From @addr on, at most @len: up to where nothing is mapped for sure? At most 2 MiB at once. */
uint64_t scan_gone(const struct scan *scan, uint64_t addr, uint64_t len);

/* Is there nothing but zero in [@p, @p + @len)? */
bool scan_is_zero(const void *p, uint64_t len);

#endif
