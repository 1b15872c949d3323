// SPDX-License-Identifier: MIT
/* See pagemap.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "lib/uffd.h"
#include "tools/pagemap.h"
#include "tools/snap_io.h"

int pagemap_open(pid_t owner)
{
	char path[40] = "/proc/self/pagemap";

	if (owner)
		snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)owner);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int read_words(int fd, uint64_t index, size_t n, uint64_t *words)
{
	if (fd < 0)
		return fd;
	int ret = io_read(fd, index * sizeof(*words), words, n * sizeof(*words));
	close(fd);
	return ret;
}

int pagemap_read(pid_t owner, const void *first, size_t n, uint64_t *entries)
{
	return read_words(pagemap_open(owner), (uintptr_t)first / FERRY_PAGE, n, entries);
}

uint64_t pagemap_entry(pid_t owner, const void *page)
{
	uint64_t entry;

	return pagemap_read(owner, page, 1, &entry) ? 0 : entry;
}

int pagemap_flags(uint64_t number, uint64_t *flags)
{
	int fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);

	return read_words(fd < 0 ? -errno : fd, number, 1, flags);
}
