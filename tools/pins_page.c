// SPDX-License-Identifier: MIT
/* What the kernel says of a page. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "tools/pins.h"
#include "tools/snap_io.h"

#define ENTRY_PRESENT (1ull << 63)
#define ENTRY_SWAPPED (1ull << 62)
#define ENTRY_NUMBER  ((1ull << 55) - 1)

/* 0 if it can't be read */
static uint64_t read_word(const char *path, uint64_t index)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t word;
	int ret;

	if (fd < 0)
		return 0;
	ret = io_read(fd, index * sizeof(word), &word, sizeof(word));
	close(fd);
	return ret ? 0 : word;
}

static uint64_t page_entry(const void *page)
{
	return read_word("/proc/self/pagemap", (uintptr_t)page / FERRY_PAGE);
}

bool page_is_hole(const void *page)
{
	return !(page_entry(page) & (ENTRY_PRESENT | ENTRY_SWAPPED));
}

static uint64_t number_of(uint64_t entry)
{
	return entry & ENTRY_PRESENT ? entry & ENTRY_NUMBER : 0;
}

uint64_t page_number(const void *page)
{
	return number_of(page_entry(page));
}

int page_numbers(const void *first, size_t n, uint64_t *numbers)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = io_read(fd, (uintptr_t)first / FERRY_PAGE * sizeof(*numbers), numbers,
		      n * sizeof(*numbers));
	close(fd);
	for (size_t i = 0; i < n && !ret; i++)
		numbers[i] = number_of(numbers[i]);
	return ret;
}

bool page_is_swapped(const void *page)
{
	return page_entry(page) & ENTRY_SWAPPED;
}

uint64_t page_flags(uint64_t number)
{
	return read_word("/proc/kpageflags", number);
}
