/* SPDX-License-Identifier: MIT */
/*
 * The memory that travels: every page is full of data that is not zero and differs from page to
 * page and, by the seed, from turn to turn, so that a page which is missing, misplaced or left over
 * from an earlier turn is found.
 */
#ifndef BENCH_MEMORY_H
#define BENCH_MEMORY_H

#include <sys/mman.h>

#include "bench/bench.h"

#define PAGE_WORDS (BENCH_PAGE / sizeof(uint64_t))

static inline uint64_t memory_word(uint64_t seed, uint64_t index)
{
	return (seed * 0x100000001b3ull + index + 1) * 0x9e3779b97f4a7c15ull | 1;
}

static inline void memory_fill(void *mem, uint64_t len, uint64_t seed)
{
	uint64_t *w = mem;

	for (uint64_t i = 0; i < len / sizeof(*w); i++)
		w[i] = memory_word(seed, i);
}

/* Any wrong word ends the bench. */
static inline void memory_check(const void *mem, uint64_t len, uint64_t seed, const char *what)
{
	const uint64_t *w = mem;

	for (uint64_t i = 0; i < len / sizeof(*w); i++)
		if (w[i] != memory_word(seed, i))
			bench_fail("%s: wrong contents in page %llu", what,
				   (unsigned long long)(i / PAGE_WORDS));
}

static inline void memory_check_zero(const void *mem, uint64_t len, const char *what)
{
	const uint64_t *w = mem;

	for (uint64_t i = 0; i < len / sizeof(*w); i++)
		if (w[i])
			bench_fail("%s: wrong contents in page %llu", what,
				   (unsigned long long)(i / PAGE_WORDS));
}

/* Empty private memory, aligned to 2 MiB so that its blocks are the kernel's; @advice: of madvise.
 */
static inline void *memory_map(uint64_t len, int advice)
{
	uint64_t whole = len + BENCH_HUGE;
	char *map = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED)
		bench_fail("no memory: %llu MiB are needed", (unsigned long long)whole >> 20);
	char *mem = (char *)(((uintptr_t)map + BENCH_HUGE - 1) & ~(BENCH_HUGE - 1));
	if (mem != map)
		munmap(map, (size_t)(mem - map));
	munmap(mem + len, (size_t)(map + whole - (mem + len)));
	/* EINVAL: a kernel without huge pages, where there is nothing to advise. */
	if (madvise(mem, len, advice) < 0 && errno != EINVAL)
		bench_fail("madvise failed: %s", strerror(errno));
	return mem;
}

/* A file in memory. */
static inline int memory_file(uint64_t len)
{
	int fd = (int)must(memfd_create("bench", MFD_CLOEXEC), "memfd_create");

	must(ftruncate(fd, (off_t)len), "ftruncate");
	return fd;
}

static inline char *memory_map_file(int fd, uint64_t len)
{
	char *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (mem == MAP_FAILED)
		bench_fail("the memfd can't be mapped: %s", strerror(errno));
	return mem;
}

/* Bytes of [@mem, @mem + @len) that huge pages back, from /proc/self/smaps. */
static inline uint64_t memory_huge(const void *mem, uint64_t len)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	unsigned long long first = 0, last = 0, kib, sum = 0;
	char line[512];

	if (!smaps)
		bench_fail("/proc/self/smaps can't be read: %s", strerror(errno));
	while (fgets(line, sizeof(line), smaps)) {
		unsigned long long a, b;
		if (sscanf(line, "%llx-%llx ", &a, &b) == 2) {
			first = a;
			last = b;
		} else if (sscanf(line, "AnonHugePages: %llu kB", &kib) == 1) {
			if (first < (uintptr_t)mem + len && last > (uintptr_t)mem)
				sum += kib << 10;
		}
	}
	fclose(smaps);
	return sum;
}

/* Does this host give so much memory in huge pages? NULL: yes. */
static inline const char *memory_why_not_huge(uint64_t len)
{
	char *mem = memory_map(len, MADV_HUGEPAGE);

	memory_fill(mem, len, 0);
	uint64_t huge = memory_huge(mem, len);
	munmap(mem, len);
	return huge == len ? NULL : "the kernel gives no huge pages, or not enough of them";
}

#endif
