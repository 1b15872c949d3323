// SPDX-License-Identifier: MIT
/* pageferry conform: what pages hold, and what the kernel says of them. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/scan.h"
#include "tools/conform.h"
#include "tools/pagemap.h"

char *conform_place(size_t len)
{
	char *room = mmap(NULL, len + 3 * FERRY_HUGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (room == MAP_FAILED)
		return NULL;
	return (char *)(((uintptr_t)room + 2 * FERRY_HUGE - 1) & ~(FERRY_HUGE - 1));
}

/* No two pages are the same, so that KSM merges none that it wasn't meant to. */
static uint64_t word(enum conform_page what, unsigned int i, unsigned int at)
{
	return what == PAGE_ZEROS ? 0
				  : (uint64_t)what << 56 | (uint64_t)getpid() << 24 | i << 10 | at;
}

void conform_fill(char *page, enum conform_page what, unsigned int i)
{
	uint64_t *words = (uint64_t *)page;

	for (unsigned int at = 0; at < FERRY_PAGE / sizeof(*words); at++)
		words[at] = word(what, i, at);
}

static bool all_are(pid_t owner, const char *addr, unsigned int npages, uint64_t category)
{
	const struct pm_scan_arg what = {.category_mask = category, .return_mask = category};
	uint64_t start = (uintptr_t)addr, end = start + npages * FERRY_PAGE, walk_end;
	struct page_region region;
	int fd = pagemap_open(owner);

	if (fd < 0)
		return false;
	long n = scan_call(fd, &what, start, end, &region, 1, &walk_end);
	close(fd);
	return n == 1 && region.start == start && region.end == end;
}

bool conform_is_huge(pid_t owner, const char *addr, unsigned int npages)
{
	return all_are(owner, addr, npages, PAGE_IS_HUGE);
}

bool conform_is_zero_page(const char *page)
{
	return all_are(0, page, 1, PAGE_IS_PFNZERO);
}

/* By a system call, which gives EFAULT where an access would be a SIGBUS; process_vm_readv() can't
 * read secretmem. */
static bool read_own(char *copy, const char *page)
{
	int pair[2];

	if (pipe2(pair, O_CLOEXEC | O_NONBLOCK))
		return false;
	bool ok = write(pair[1], page, FERRY_PAGE) == (ssize_t)FERRY_PAGE &&
		  read(pair[0], copy, FERRY_PAGE) == (ssize_t)FERRY_PAGE;
	close(pair[0]);
	close(pair[1]);
	return ok;
}

static bool read_others(char *copy, pid_t owner, char *page)
{
	struct iovec local = {copy, FERRY_PAGE}, remote = {page, FERRY_PAGE};

	return process_vm_readv(owner, &local, 1, &remote, 1, 0) == (ssize_t)FERRY_PAGE;
}

static bool read_page(char *copy, const struct conform_range *range, char *page)
{
	return range->owner ? read_others(copy, range->owner, page) : read_own(copy, page);
}

/* Of hugetlb the page map doesn't tell what is poisoned. */
bool conform_is_poisoned(const struct conform_range *range, unsigned int i)
{
	char copy[FERRY_PAGE];

	return !read_page(copy, range, range->addr + i * FERRY_PAGE);
}

enum conform_page conform_look(const struct conform_range *range, unsigned int i)
{
	static const enum conform_page known[] = {PAGE_ZEROS, PAGE_PATTERN, PAGE_BUFFER};
	char *page = range->addr + i * FERRY_PAGE;
	uint64_t copy[FERRY_PAGE / 8], want[FERRY_PAGE / 8];

	if (!(pagemap_entry(range->owner, page) & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)))
		return PAGE_HOLE;
	if (!read_page((char *)copy, range, page))
		return PAGE_POISONED;
	for (unsigned int k = 0; k < sizeof(known) / sizeof(known[0]); k++) {
		conform_fill((char *)want, known[k], i);
		if (!memcmp(copy, want, sizeof(copy)))
			return known[k];
	}
	return PAGE_OTHER;
}
