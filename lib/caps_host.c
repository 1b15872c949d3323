// SPDX-License-Identifier: MIT
/* Try what needs no userfaultfd: PAGEMAP_SCAN, huge pages, KSM, the module's device. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/caps.h"
#include "lib/scan.h"
#include "lib/module.h"

int caps_scan_one(const char *pages, unsigned int i, uint64_t category, uint64_t flags)
{
	struct page_region found[CAPS_PAGES] = {0};
	uint64_t start = (uintptr_t)pages, wanted = start + i * FERRY_PAGE;
	const struct pm_scan_arg what = {
		.flags = flags,
		.category_mask = category,
		.return_mask = category,
	};
	uint64_t walk_end;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	long n = scan_call(fd, &what, start, start + CAPS_PAGES * FERRY_PAGE, found, CAPS_PAGES,
			   &walk_end);
	close(fd);
	if (n < 0)
		return (int)n;
	return n == 1 && found[0].start == wanted && found[0].end == wanted + FERRY_PAGE ? 0 : -EIO;
}

int caps_try_scan(const struct caps_arena *arena)
{
	*(volatile char *)arena->anon = 1;
	return caps_scan_one(arena->anon, 0, PAGE_IS_PRESENT, 0);
}

/* One byte is touched: all of the huge page is there only if it came as one. */
static int touch_huge(char *huge)
{
	unsigned char resident[FERRY_HUGE_PAGES];

	if (madvise(huge, FERRY_HUGE, MADV_HUGEPAGE))
		return -errno;
	caps_empty(huge, FERRY_HUGE);
	*(volatile char *)huge = 1;
	if (mincore(huge, FERRY_HUGE, resident))
		return -errno;
	for (size_t i = 0; i < FERRY_HUGE_PAGES; i++)
		if (!(resident[i] & 1))
			return -ENOENT;
	return 0;
}

int caps_try_thp(void)
{
	size_t len = 2 * FERRY_HUGE;
	char *mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED)
		return -errno;
	int ret = touch_huge(mem + (-(uintptr_t)mem & (FERRY_HUGE - 1)));
	munmap(mem, len);
	return ret;
}

int caps_try_ksm(const struct caps_arena *arena)
{
	char run;

	/*
	 * MADV_UNMERGEABLE is accepted by the same kernels as MADV_MERGEABLE, which would leave
	 * this process on ksmd's list.
	 */
	if (madvise(arena->anon, FERRY_PAGE, MADV_UNMERGEABLE))
		return -errno;
	int fd = open("/sys/kernel/mm/ksm/run", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0; /* no sysfs here, so whether ksmd runs can't be seen */
	ssize_t n = read(fd, &run, 1);
	close(fd);
	return n == 1 && run != '1' ? -EAGAIN : 0;
}

int caps_try_module(void)
{
	int fd = module_open(0);
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}
