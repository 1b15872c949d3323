// SPDX-License-Identifier: MIT
/*
 * Any bytes as files for pageferry snapshot merge: a base and an increment.
 *
 * As it is: build/tests/fuzz/core [SECONDS [SEED]] runs mutations of valid files.
 * For libFuzzer: make B=/tmp/fuzz CC=clang SAN=-fsanitize=fuzzer,address CPPFLAGS=-DLIBFUZZER
 * /tmp/fuzz/tests/fuzz/core
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "lib/uffd.h"
#include "tools/say.c"        /* NOLINT(bugprone-suspicious-include) */
#include "tools/snap_ident.c" /* NOLINT(bugprone-suspicious-include) */
#include "tools/snap_io.c"    /* NOLINT(bugprone-suspicious-include) */
#include "tools/snap_read.c"  /* NOLINT(bugprone-suspicious-include) */

#define INPUT_MAX 60000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "failed: %s\n", what);
	abort();
}

/* What merge relies on. */
struct seen {
	const struct snap_read *files;
	uint64_t end, bytes;
	unsigned long pieces;
};

static int look(void *arg, const struct snap_piece *p)
{
	struct seen *s = arg;

	must(p->len && p->addr + p->len > p->addr, "a piece is not empty and doesn't wrap around");
	must(p->addr >= s->end, "pieces are in order");
	must(!((p->addr | p->len | p->at) % FERRY_PAGE), "pieces are whole pages");
	must(!(p->flags & ~7u), "flags are known ones");
	s->end = p->addr + p->len;
	if (p->file) {
		must(p->file == &s->files[0] || p->file == &s->files[1], "it is of a file");
		must(p->at + p->len > p->at && p->at + p->len <= p->file->size, "it is in it");
		s->bytes += p->len;
	}
	s->pieces++;
	return 0;
}

static int make_file(const uint8_t *data, size_t size)
{
	int fd = memfd_create("core", MFD_CLOEXEC);
	must(fd >= 0 && !io_write(fd, 0, data, size), "a file");
	/* The contents of segments are holes. */
	must(!ftruncate(fd, 1 << 20), "its length");
	return fd;
}

static unsigned long merged;

static void merge(const int *fd)
{
	struct snap_read files[2] = {0};
	struct why why = {""};
	size_t n = 0;
	int ret = 0;

	for (; !ret && n < 2; n += !ret) {
		ret = snap_read_parse(&files[n], fd[n], n ? "increment" : "base", &why);
		if (ret)
			must(!files[n].v && why.text[0], "nothing is left, and it is said why");
	}
	if (!ret)
		ret = snap_read_check_chain(files, 2, &why);
	struct seen seen = {.files = files};
	if (!ret)
		ret = snap_read_pieces(files, 2, look, &seen, &why);
	must(!ret || why.text[0], "it is said why");
	must(ret || seen.bytes <= files[0].size + files[1].size, "no more than there is");
	merged += !ret;
	while (n--)
		snap_read_free(&files[n]);
}

/* The first two bytes say where the second file begins. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint16_t first;

	if (size < sizeof(first))
		return 0;
	memcpy(&first, data, sizeof(first));
	data += sizeof(first);
	size -= sizeof(first);
	first = first < size ? first : (uint16_t)size;
	const int fd[2] = {make_file(data, first), make_file(data + first, size - first)};
	merge(fd);
	close(fd[0]);
	close(fd[1]);
	return 0;
}

#ifndef LIBFUZZER
/* ---- without libFuzzer: mutations of valid files for some seconds */

static uint64_t state;

static uint64_t any(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 11) % below;
}

/* @base: which one it is added to; 0: none. Its segments cover what @runs says, or a part of it. */
static size_t put_file(uint8_t *out, uint8_t id, uint8_t base, const uint64_t *runs, unsigned int n)
{
	struct snap_ident ident = {SNAP_IDENT_VER, 0, {id}, {base}};
	struct snap_ident_note note = snap_ident_note(&ident);
	Elf64_Ehdr e = {.e_type = ET_CORE,
			.e_machine = EM_X86_64,
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phoff = sizeof(e) + sizeof(note) + sizeof(Elf64_Shdr),
			.e_phnum = (Elf64_Half)(n + 1)};
	Elf64_Shdr s = {.sh_info = n + 1};
	Elf64_Phdr p = {.p_type = PT_NOTE, .p_offset = sizeof(e), .p_filesz = sizeof(note)};
	uint64_t at = FERRY_PAGE;

	memcpy(e.e_ident, ELFMAG, SELFMAG);
	e.e_ident[EI_CLASS] = ELFCLASS64;
	e.e_ident[EI_DATA] = ELFDATA2LSB;
	if (!any(4)) {
		e.e_phnum = PN_XNUM;
		e.e_shoff = sizeof(e) + sizeof(note);
	}
	memcpy(out, &e, sizeof(e));
	memcpy(out + sizeof(e), &note, sizeof(note));
	memcpy(out + sizeof(e) + sizeof(note), &s, sizeof(s));
	memcpy(out + e.e_phoff, &p, sizeof(p));
	for (unsigned int i = 0; i < n; i++) {
		bool same = base && any(2);
		uint64_t len = runs[i + 1] - runs[i], have = same ? 0 : any(4) ? len : 0;
		p = (Elf64_Phdr){.p_type = same ? SNAP_PT_SAME : PT_LOAD,
				 .p_flags = (Elf64_Word)any(8),
				 .p_vaddr = runs[i],
				 .p_offset = at,
				 .p_filesz = have,
				 .p_memsz = len};
		at += have;
		memcpy(out + e.e_phoff + (i + 1) * sizeof(p), &p, sizeof(p));
	}
	return e.e_phoff + (n + 1) * sizeof(p);
}

static unsigned int some_runs(uint64_t *runs)
{
	unsigned int n = 1 + (unsigned int)any(20);

	runs[0] = 16 * FERRY_PAGE;
	for (unsigned int i = 0; i < n; i++)
		runs[i + 1] = runs[i] + (1 + any(3)) * FERRY_PAGE;
	return n;
}

static void mutate(uint8_t *data, size_t size)
{
	static const uint64_t special[] = {0,
					   1,
					   0xfff,
					   0x1000,
					   0x7fffffff,
					   0xffffffff,
					   0x100000000,
					   0x7fffffffffffffff,
					   0xfffffffffffff000,
					   UINT64_MAX};

	for (uint64_t n = any(4); n; n--) {
		size_t at = any(size);
		uint64_t value = special[any(sizeof(special) / sizeof(special[0]))];
		switch (any(4)) {
		case 0:
			data[at] ^= (uint8_t)(1u << any(8));
			break;
		case 1:
			data[at] = (uint8_t)any(256);
			break;
		case 2:
			at &= ~7ull;
			memcpy(data + at, &value, size - at < 8 ? size - at : 8);
			break;
		default:
			memmove(data + at, data + any(size - at), (size - at) / 2);
		}
	}
}

static size_t make_input(uint8_t *data)
{
	uint64_t runs[32];
	unsigned int n = some_runs(runs);
	size_t first = put_file(data + 2, 1, 0, runs, n);
	uint16_t split = (uint16_t)first;

	/* The increment may have more or other mappings. */
	if (!any(4))
		n = some_runs(runs);
	size_t second = put_file(data + 2 + first, 2, 1, runs, n);
	memcpy(data, &split, sizeof(split));
	return 2 + first + second;
}

int main(int argc, char **argv)
{
	static uint8_t data[INPUT_MAX];
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 3);
	unsigned long runs = 0;

	state = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL) * 2654435761u;
	state |= 1;
	printf("1..1\n# seed %llu\n", (unsigned long long)state);
	fflush(stdout);
	for (; time(NULL) < end; runs++) {
		size_t size = make_input(data);
		mutate(data + 2, size - 2);
		LLVMFuzzerTestOneInput(data, size);
	}
	must(merged > runs / 100, "some of them are merged");
	printf("# %lu inputs, %lu of them merged\nok 1 - core files\n", runs, merged);
	return 0;
}
#endif
