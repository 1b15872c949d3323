// SPDX-License-Identifier: MIT
/*
 * Fills memory with the page pattern, keeps rewriting it, and checks it. What each page must hold
 * is in a table of generations outside of the pages.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest.h"
#include "pattern.h"

#define MIB            (1ull << 20)
#define HUGE_BYTES     (2 * MIB)
#define CHUNK_PAGES    (HUGE_BYTES / PATTERN_BYTES)
#define CORRUPT_MAX    64 /* lines; beyond, they are only counted */
#define CHECKERS_MAX   16
#define SELFTEST_PAGES 6

static struct {
	char *base;
	uint64_t pages;
	uint64_t wanted;
	uint32_t *generation; /* of each page */
	uint32_t writers;
	uint32_t pace_us;
} memory;

static _Atomic uint64_t writes;
static _Atomic uint64_t corrupt;

static uint64_t *page_words(uint64_t page)
{
	return (uint64_t *)(memory.base + page * PATTERN_BYTES);
}

/* RAM as the machine has it; MemTotal leaves out what the kernel took for itself while booting. */
static uint64_t ram_bytes(void)
{
	uint64_t sum = 0, first, last;
	char line[128];
	FILE *f = open_for_reading("/proc/iomem");

	while (fgets(line, sizeof(line), f)) {
		if (line[0] == ' ' || !strstr(line, ": System RAM"))
			continue;
		if (sscanf(line, "%" SCNx64 "-%" SCNx64, &first, &last) == 2)
			sum += last - first + 1;
	}
	fclose(f);
	/* The firmware's reserved areas are no System RAM: well under 1 MiB of it. */
	return (sum + MIB - 1) / MIB * MIB;
}

static uint64_t available_bytes(void)
{
	uint64_t kib = 0;
	char line[128];
	FILE *f = open_for_reading("/proc/meminfo");

	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
			break;
	fclose(f);
	return kib << 10;
}

/*
 * Nothing can be swapped out or killed here: one page too many is a panic. So leave room for page
 * tables and the table of generations (both are far below 1/128) and for the kernel's own needs.
 */
static uint64_t fillable_bytes(void)
{
	uint64_t available = available_bytes();
	uint64_t reserve = 16 * MIB + available / 128;

	return available > reserve ? available - reserve : 0;
}

/* One job at a time for as many threads as there are CPUs, in chunks of one huge page. */
static struct {
	void (*work)(uint64_t page);
	_Atomic uint64_t next_chunk;
} job;

static void *job_run(void *arg)
{
	uint64_t first;

	(void)arg;
	while ((first = job.next_chunk++ * CHUNK_PAGES) < memory.pages)
		for (uint64_t i = first; i < first + CHUNK_PAGES && i < memory.pages; i++)
			job.work(i);
	return NULL;
}

static void for_each_page(void (*work)(uint64_t page))
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t others[CHECKERS_MAX];
	int started = 0;

	job.work = work;
	job.next_chunk = 0;
	while (started < n - 1 && started < CHECKERS_MAX &&
	       !pthread_create(&others[started], NULL, job_run, NULL))
		started++;
	job_run(NULL);
	while (started)
		pthread_join(others[--started], NULL);
}

static void first_write(uint64_t page)
{
	memory.generation[page] = 1;
	pattern_write(page_words(page), page, 1);
}

static void *map(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		fail("mmap of %" PRIu64 " bytes: %s", bytes, strerror(errno));
	return p;
}

void memory_fill(const struct params *params)
{
	uint64_t wanted = params->fill_mib ? params->fill_mib * MIB
					   : ram_bytes() / 100 * params->fill;
	uint64_t possible = fillable_bytes();
	uint64_t bytes = wanted < possible ? wanted : possible;

	memory.wanted = wanted / PATTERN_BYTES;
	memory.pages = bytes / PATTERN_BYTES;
	memory.writers = params->writers;
	memory.pace_us = params->pace_us;
	if (memory.pages < SELFTEST_PAGES || memory.pages < memory.writers)
		fail("no memory to fill");
	memory.generation = map(memory.pages * sizeof(*memory.generation));
	memory.base = map(bytes + HUGE_BYTES);
	memory.base += -(uintptr_t)memory.base % HUGE_BYTES;
	/* EINVAL is a kernel without THP: the pages are small then, whatever was asked for. */
	if (madvise(memory.base, memory.pages * PATTERN_BYTES,
		    params->thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) &&
	    errno != EINVAL)
		fail("madvise: %s", strerror(errno));
	for_each_page(first_write);
}

static void report(const struct pattern_fault *fault, uint64_t page, uint64_t generation)
{
	if (++corrupt > CORRUPT_MAX)
		return;
	say("CORRUPT page=%" PRIu64 " kind=%s generation=%" PRIu64 " found_page=%" PRIu64
	    " found_generation=%" PRIu64 " bad_words=%u first_bad_word=%u",
	    page, pattern_kind_name(fault->kind), generation, fault->page, fault->generation,
	    fault->bad_words, fault->first_bad_word);
}

/* A bad page is mended, so that each damage counts once. */
static void check_page(uint64_t page)
{
	uint64_t generation = memory.generation[page];
	uint64_t *words = page_words(page);
	struct pattern_fault fault;

	if (pattern_holds(words, page, generation))
		return;
	fault = pattern_explain(words, page, generation);
	report(&fault, page, generation);
	pattern_write(words, page, generation);
}

/* Each page belongs to one writer, so that writers need no lock between them. */
static void *writer_run(void *arg)
{
	uint64_t self = (uintptr_t)arg;
	uint64_t own = (memory.pages - self + memory.writers - 1) / memory.writers;

	for (uint64_t count = 0;; count++) {
		uint64_t page = self + mix64(count * memory.writers + self) % own * memory.writers;

		pthread_rwlock_rdlock(&state_lock);
		check_page(page);
		pattern_write(page_words(page), page, ++memory.generation[page]);
		writes++;
		pthread_rwlock_unlock(&state_lock);
		if (memory.pace_us)
			nap_us(memory.pace_us);
	}
	return NULL;
}

void memory_start_writers(const struct params *params)
{
	for (uint32_t i = 0; i < params->writers; i++)
		thread_start(writer_run, (void *)(uintptr_t)i, 0);
}

void memory_check(void)
{
	for_each_page(check_page);
}

/* Does to five pages what a faulty move could do; a check that stays silent proves nothing. */
void memory_selftest(void)
{
	memset(page_words(0), 0, PATTERN_BYTES);
	memory.generation[1]++;
	memcpy(page_words(2), page_words(5), PATTERN_BYTES);
	pattern_write(page_words(3), 3, memory.generation[3] + 1);
	memcpy(page_words(3), page_words(5), PATTERN_BYTES / 2);
	pattern_write(page_words(4), 4, memory.generation[4] + 1);
}

struct memory_counts memory_counts(void)
{
	return (struct memory_counts){
		.pages = memory.pages,
		.wanted = memory.wanted,
		.writes = writes,
		.corrupt = corrupt,
	};
}
