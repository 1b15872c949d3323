// SPDX-License-Identifier: MIT
/* Ask the page map about this process's own pages, see scan.h. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "lib/scan.h"
#include "lib/uffd.h"

#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)
#define PART		512u

long scan_call(int pagemap, const struct pm_scan_arg *what, uint64_t start, uint64_t end,
	       struct page_region *vec, unsigned int n, uint64_t *walk_end)
{
	struct pm_scan_arg arg = *what;

	arg.size = sizeof(arg);
	arg.start = start;
	arg.end = end;
	arg.vec = (uintptr_t)vec;
	arg.vec_len = n;
	long ret = ioctl(pagemap, PAGEMAP_SCAN, &arg);
	*walk_end = arg.walk_end;
	return ret < 0 ? -errno : ret;
}

static const struct pm_scan_arg populated_pages = {
	.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
	.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO | PAGE_IS_HUGE,
};

void scan_open(struct scan *scan)
{
	struct page_region vec[1];
	uint64_t walk_end, here = (uintptr_t)vec & ~(FERRY_PAGE - 1);

	scan->ranges = false;
	scan->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (scan->pagemap < 0)
		scan->pagemap = -errno;
	else
		scan->ranges = scan_call(scan->pagemap, &populated_pages, here, here + FERRY_PAGE,
					 vec, 1, &walk_end) >= 0;
}

void scan_close(struct scan *scan)
{
	if (scan->pagemap >= 0)
		close(scan->pagemap);
}

/* As look(). */
static int by_ranges(const struct scan *scan, uint64_t addr, uint64_t npages, bool *populated,
		     bool zero_counts)
{
	struct page_region vec[64];
	uint64_t at = addr, end = addr + npages * FERRY_PAGE, huge = 0;

	while (at < end) {
		uint64_t walk_end = 0;
		long n = scan_call(scan->pagemap, &populated_pages, at, end, vec, 64, &walk_end);
		if (n < 0 || walk_end <= at) {
			memset(populated + (at - addr) / FERRY_PAGE, true, (end - at) / FERRY_PAGE);
			return n < 0 ? (int)n : -EIO;
		}
		for (long i = 0; i < n; i++) {
			uint64_t first = (vec[i].start - addr) / FERRY_PAGE;
			uint64_t count = (vec[i].end - vec[i].start) / FERRY_PAGE;
			if (!zero_counts && (vec[i].categories & PAGE_IS_PFNZERO))
				continue;
			memset(populated + first, true, count);
			if (vec[i].categories & PAGE_IS_HUGE)
				huge += count;
		}
		at = walk_end;
	}
	return huge == npages;
}

static int by_entries(const struct scan *scan, uint64_t addr, uint64_t npages, bool *populated)
{
	uint64_t entry[PART];
	int ret = 0;

	for (uint64_t i = 0; i < npages; i += PART) {
		uint64_t n = npages - i < PART ? npages - i : PART;
		off_t at = (off_t)((addr / FERRY_PAGE + i) * sizeof(entry[0]));
		ssize_t got = pread(scan->pagemap, entry, n * sizeof(entry[0]), at);
		if (got < (ssize_t)(n * sizeof(entry[0])))
			ret = got < 0 ? -errno : -EIO;
		for (uint64_t j = 0; j < n; j++)
			populated[i + j] = got < (ssize_t)(n * sizeof(entry[0])) ||
					   (entry[j] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED));
	}
	return ret;
}

/* 1: all of it by huge pages; 0: not; -errno: not found out, and that counts as populated. */
static int look(const struct scan *scan, uint64_t addr, uint64_t npages, bool *populated,
		bool zero_counts)
{
	memset(populated, scan->pagemap < 0, npages);
	if (scan->ranges)
		return by_ranges(scan, addr, npages, populated, zero_counts);
	return scan->pagemap < 0 ? scan->pagemap : by_entries(scan, addr, npages, populated);
}

bool scan_pages(const struct scan *scan, uint64_t addr, uint64_t npages, bool *populated)
{
	return look(scan, addr, npages, populated, false) > 0;
}

int64_t scan_next(const struct scan *scan, uint64_t addr, uint64_t len)
{
	struct pm_scan_arg first = populated_pages;
	struct page_region region;
	uint64_t walk_end;

	if (!scan->ranges)
		return -EOPNOTSUPP;
	first.max_pages = 1;
	long n = scan_call(scan->pagemap, &first, addr, addr + len, &region, 1, &walk_end);
	return n < 0 ? n : (int64_t)((n ? region.start : walk_end) - addr);
}

int scan_holes_sure(const struct scan *scan, uint64_t addr, uint64_t len, uint64_t *holes)
{
	bool mapped[PART];
	int failed = 0;

	*holes = 0;
	for (uint64_t at = 0; at < len; at += PART * FERRY_PAGE) {
		uint64_t left = (len - at) / FERRY_PAGE, n = left < PART ? left : PART;
		int ret = look(scan, addr + at, n, mapped, true);
		failed = ret < 0 ? ret : failed;
		for (uint64_t i = 0; i < n; i++)
			*holes += mapped[i] ? 0 : FERRY_PAGE;
	}
	return failed;
}

uint64_t scan_holes(const struct scan *scan, uint64_t addr, uint64_t len)
{
	uint64_t holes;

	scan_holes_sure(scan, addr, len, &holes);
	return holes;
}

int scan_there(const struct scan *scan, uint64_t addr, uint64_t npages, bool *there)
{
	int ret = look(scan, addr, npages, there, true);
	return ret < 0 ? ret : 0;
}

uint64_t scan_gone(const struct scan *scan, uint64_t addr, uint64_t len)
{
	bool there[PART];
	uint64_t npages = len / FERRY_PAGE < PART ? len / FERRY_PAGE : PART, gone = 0;

	if (scan_there(scan, addr, npages, there) < 0)
		return 0;
	while (gone < npages && !there[gone])
		gone++;
	return gone * FERRY_PAGE;
}

bool scan_is_zero(const void *p, uint64_t len)
{
	const char *bytes = p;
	uint64_t first;

	/* What comes out of a stream lies anywhere. */
	memcpy(&first, bytes, sizeof(first));
	/* It nearly always tells; memcmp of the range with itself does the rest fast. */
	return !first && !memcmp(bytes, bytes + sizeof(first), len - sizeof(first));
}
