// SPDX-License-Identifier: MIT
/* What the kernel says of a page. */
#include "tools/pagemap.h"
#include "tools/pins.h"

bool page_is_hole(const void *page)
{
	return !(pagemap_entry(0, page) & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED));
}

static uint64_t number_of(uint64_t entry)
{
	return entry & PAGEMAP_PRESENT ? entry & PAGEMAP_NUMBER : 0;
}

uint64_t page_number(const void *page)
{
	return number_of(pagemap_entry(0, page));
}

int page_numbers(const void *first, size_t n, uint64_t *numbers)
{
	int ret = pagemap_read(0, first, n, numbers);

	for (size_t i = 0; i < n && !ret; i++)
		numbers[i] = number_of(numbers[i]);
	return ret;
}

bool page_is_swapped(const void *page)
{
	return pagemap_entry(0, page) & PAGEMAP_SWAPPED;
}

uint64_t page_flags(uint64_t number)
{
	uint64_t flags;

	return pagemap_flags(number, &flags) ? 0 : flags;
}
