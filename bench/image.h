/* SPDX-License-Identifier: MIT */
/*
 * Images of a program at work: core files, which the baseline that forks writes, too, of as much as
 * is looked at. One check for all of them, and for the program's memory.
 *
 * Sums are kept of the even and of the odd pages, so that of two images can be told what one would
 * be that has the even pages of the one and the odd ones of the other.
 */
#ifndef BENCH_IMAGE_H
#define BENCH_IMAGE_H

#include <elf.h>
#include <fcntl.h>

#include "bench/writers.h"

#define IMAGE_PART (1ull << 20)

struct image_sums {
	struct writers_sums even, odd;
};

static inline bool image_balanced(const struct writers_sums *even, const struct writers_sums *odd)
{
	struct writers_sums all = *even;

	writers_add_sums(&all, odd);
	return writers_balanced(&all);
}

static inline void image_check(const char *data, uint64_t at, uint64_t len, uint64_t seed,
			       const char *what, struct image_sums *s)
{
	for (uint64_t done = 0; done < len; done += BENCH_PAGE, at += BENCH_PAGE)
		writers_check(data + done, at, BENCH_PAGE, seed, what,
			      at / BENCH_PAGE % 2 ? &s->odd : &s->even);
}

/* ---- files */

static inline void image_read(int fd, void *to, uint64_t len, uint64_t from, const char *what)
{
	if (pread(fd, to, len, (off_t)from) != (ssize_t)len)
		bench_fail("%s: the file is too short", what);
}

/* What of [@mem, @mem + @len) is in this segment. */
static inline uint64_t image_segment(int fd, const Elf64_Phdr *p, uint64_t mem, uint64_t len,
				     uint64_t seed, const char *what, struct image_sums *s)
{
	static char part[IMAGE_PART];
	uint64_t at = p->p_vaddr > mem ? p->p_vaddr : mem, begin = at;
	uint64_t end = p->p_vaddr + p->p_filesz;

	end = end < mem + len ? end : mem + len;
	while (at < end) {
		uint64_t n = end - at < IMAGE_PART ? end - at : IMAGE_PART;
		image_read(fd, part, n, p->p_offset + (at - p->p_vaddr), what);
		image_check(part, at - mem, n, seed, what, s);
		at += n;
	}
	return at - begin;
}

static inline struct image_sums image_of_file(const char *path, const char *memory, uint64_t len,
					      uint64_t seed, const char *what)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t mem = (uintptr_t)memory, had = 0, last = 0;
	struct image_sums s = {0};
	Elf64_Ehdr e;
	Elf64_Phdr p;

	if (fd < 0)
		bench_fail("%s: there is no file", what);
	image_read(fd, &e, sizeof(e), 0, what);
	if (memcmp(e.e_ident, ELFMAG, SELFMAG) != 0 || e.e_type != ET_CORE)
		bench_fail("%s: not a core file", what);
	for (unsigned int i = 0; i < e.e_phnum; i++) {
		image_read(fd, &p, sizeof(p), e.e_phoff + i * sizeof(p), what);
		if (p.p_type != PT_LOAD)
			continue;
		if (p.p_vaddr < last)
			bench_fail("%s: segments overlap", what);
		last = p.p_vaddr + p.p_memsz;
		had += image_segment(fd, &p, mem, len, seed, what, &s);
	}
	close(fd);
	if (had != len)
		bench_fail("%s: %llu bytes are missing", what, (unsigned long long)(len - had));
	return s;
}

static inline struct image_sums image_of_process(pid_t pid, const char *memory, uint64_t len,
						 uint64_t seed, const char *what)
{
	Elf64_Phdr all = {
		.p_vaddr = (uintptr_t)memory, .p_offset = (uintptr_t)memory, .p_filesz = len};
	struct image_sums s = {0};
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)pid);
	int fd = (int)must(open(path, O_RDONLY | O_CLOEXEC), path);
	image_segment(fd, &all, (uintptr_t)memory, len, seed, what, &s);
	close(fd);
	return s;
}

/* ---- what a program makes that saves itself; in a child of threads, so nothing but system calls
 */

static inline int image_create(const char *path, const char *mem, uint64_t len)
{
	struct {
		Elf64_Ehdr e;
		Elf64_Phdr p;
	} head = {.e = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
				    EV_CURRENT},
			.e_type = ET_CORE,
			.e_machine = EM_X86_64,
			.e_version = EV_CURRENT,
			.e_phoff = sizeof(Elf64_Ehdr),
			.e_ehsize = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 1},
		  .p = {.p_type = PT_LOAD,
			.p_flags = PF_R | PF_W,
			.p_offset = BENCH_PAGE,
			.p_vaddr = (uintptr_t)mem,
			.p_filesz = len,
			.p_memsz = len,
			.p_align = BENCH_PAGE}};
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	return fd >= 0 && pwrite(fd, &head, sizeof(head), 0) == sizeof(head) ? fd : -1;
}

/* At @rate bytes a second; 0 or -1. */
static inline int image_write(const char *path, const char *mem, uint64_t len, double rate)
{
	int fd = image_create(path, mem, len);
	int64_t start = bench_now();

	for (uint64_t at = 0; at < len && fd >= 0; at += IMAGE_PART) {
		int64_t due = start + (int64_t)((double)at / rate * 1e9);
		struct timespec until = {due / 1000000000, due % 1000000000};
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		if (pwrite(fd, mem + at, IMAGE_PART, (off_t)(BENCH_PAGE + at)) != IMAGE_PART)
			return -1;
	}
	return fd < 0 ? -1 : close(fd);
}

#endif
