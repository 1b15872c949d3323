/* SPDX-License-Identifier: MIT */
#ifndef FERRY_MAP_LAZILY_H
#define FERRY_MAP_LAZILY_H

#include <stddef.h>
#include <sys/mman.h>

/*
 * Memory of which nothing counts that isn't touched, to be unmapped by munmap(2); NULL: none. Not of malloc,
 * which may have its own in ranges that are frozen: what serves faults must never meet one.
 */
static inline void *map_lazily(size_t bytes)
{
	void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return mem == MAP_FAILED ? NULL : mem;
}

#endif
