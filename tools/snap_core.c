// SPDX-License-Identifier: MIT
/*
 * The core file: header, notes, the mappings one after the other with holes where they are empty,
 * and at the end the program headers, since only then it is known what could not be saved.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/scan.h"
#include "lib/uffd.h"
#include "tools/snap.h"
#include "tools/snap_file.h"
#include "tools/snap_io.h"

static int write_at(struct snap_core *c, uint64_t at, const void *data, size_t len)
{
	int64_t n = (int64_t)len;
	int ret = 0;

	if (c->zstd)
		n = snap_zstd_add(c->zstd, at, data, len);
	else
		ret = io_write(c->fd, at, data, len);
	c->written += n > 0 ? (uint64_t)n : 0;
	return n < 0 ? (int)n : ret;
}

/* In the same folder, so that renaming is all that is left to do. */
static char *name_aside(const char *path)
{
	const char *base = strrchr(path, '/');
	char *aside;

	base = base ? base + 1 : path;
	if (!*base || !strcmp(base, ".") || !strcmp(base, "..") ||
	    asprintf(&aside, "%.*s.%.200s.%d.part", (int)(base - path), path, base, (int)getpid()) <
		    0)
		return NULL;
	return aside;
}

static int open_spool(struct snap_core *c)
{
	int fd = file_scratch(c->aside);

	return fd < 0 ? fd : snap_zstd_open(&c->zstd, fd);
}

int snap_core_create(struct snap_core *c, const char *path, bool compress, struct why *why)
{
	struct stat st;

	*c = (struct snap_core){.fd = -1, .path = strdup(path), .aside = name_aside(path)};
	if (!c->path || !c->aside)
		return why_set(why, -EINVAL, "%s: not the name of a file", path);
	/* A device or a pipe would be replaced by the renaming. */
	if (!stat(path, &st) && !S_ISREG(st.st_mode))
		return why_set(why, -EINVAL, "%s: not a regular file", path);
	int ret = compress ? open_spool(c) : 0;
	if (!ret) {
		c->fd = file_create(c->aside, &c->named);
		ret = c->fd < 0 ? c->fd : 0;
	}
	return ret ? why_set(why, ret, "can't create %s: %s", path, strerror(-ret)) : 0;
}

static uint64_t page_up(uint64_t at)
{
	return (at + FERRY_PAGE - 1) / FERRY_PAGE * FERRY_PAGE;
}

void snap_core_lay_out(struct snap_core *c, struct snap_maps *maps)
{
	c->maps = maps;
	c->notes_at = SNAP_NOTES_AT;
	if (!c->rewrites)
		c->end = page_up(SNAP_NOTES_AT + c->notes_len);
	for (size_t i = 0; i < maps->n; i++) {
		if (maps->v[i].placed)
			continue;
		maps->v[i].at = c->end;
		c->end += maps->v[i].dumped;
	}
	/* How many there would be wasn't known at the begin. */
	if (c->rewrites) {
		c->notes_at = c->end;
		c->end = page_up(c->notes_at + c->notes_len);
	}
}

uint64_t snap_core_reserve(struct snap_core *c, uint64_t len)
{
	uint64_t at = c->end ? c->end : FERRY_PAGE;

	c->rewrites = true;
	c->end = at + len;
	return at;
}

static int write_zeros(struct snap_core *c, uint64_t at, uint64_t len)
{
	static const char zeros[64 << 10];
	int ret = 0;

	for (uint64_t done = 0, some; !ret && done < len; done += some) {
		some = len - done < sizeof(zeros) ? len - done : sizeof(zeros);
		ret = write_at(c, at + done, zeros, some);
	}
	return ret;
}

int snap_core_clear(struct snap_core *c, uint64_t at, uint64_t len)
{
	off_t data = lseek(c->fd, (off_t)at, SEEK_DATA);

	if (data < 0 ? errno == ENXIO : (uint64_t)data >= at + len)
		return 0;
	if (!fallocate(c->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)len))
		return 0;
	return errno == EOPNOTSUPP ? write_zeros(c, at, len) : -errno;
}

static int write_zero_pages(struct snap_core *c, uint64_t at, uint64_t len)
{
	return c->rewrites ? snap_core_clear(c, at, len) : 0;
}

/* Pages of zeros become holes. */
int snap_core_write_at(struct snap_core *c, uint64_t at, const void *pages, uint64_t len)
{
	const char *data = pages;

	for (uint64_t done = 0, run; done < len; done += run) {
		bool zero = scan_is_zero(data + done, FERRY_PAGE);
		for (run = FERRY_PAGE; done + run < len; run += FERRY_PAGE)
			if (scan_is_zero(data + done + run, FERRY_PAGE) != zero)
				break;
		int ret = zero ? write_zero_pages(c, at + done, run)
			       : write_at(c, at + done, data + done, run);
		if (ret)
			return ret;
	}
	return 0;
}

uint64_t snap_core_place(const struct snap_core *c, uint64_t addr, uint64_t *len)
{
	const struct snap_map *m = snap_maps_find(c->maps, addr);
	uint64_t left = m && addr - m->start < m->dumped ? m->start + m->dumped - addr : 0;

	*len = left < *len ? left : *len;
	return left ? m->at + (addr - m->start) : 0;
}

int snap_core_write(struct snap_core *c, uint64_t addr, const void *data, uint64_t len)
{
	const char *p = data;

	while (len) {
		uint64_t part = len, at = snap_core_place(c, addr, &part);
		if (!part)
			return -EFAULT;
		int ret = snap_core_write_at(c, at, p, part);
		if (ret)
			return ret;
		addr += part;
		p += part;
		len -= part;
	}
	return 0;
}

int snap_core_absent(struct snap_core *c, uint64_t addr, uint64_t len)
{
	return snap_span_add(&c->absent, &c->nabsent, addr, len);
}

/* ---- program headers */

struct phdrs {
	Elf64_Phdr *v;
	size_t n, cap;
	bool failed;
};

static void add_phdr(struct phdrs *p, Elf64_Phdr one)
{
	if (p->n == p->cap) {
		Elf64_Phdr *v = reallocarray(p->v, p->cap * 2 + 256, sizeof(*v));
		if (!v) {
			p->failed = true;
			return;
		}
		p->v = v;
		p->cap = p->cap * 2 + 256;
	}
	p->v[p->n++] = one;
}

static void add_segment(struct phdrs *p, const struct snap_map *m, uint64_t from, uint64_t to,
			uint64_t filesz)
{
	Elf64_Phdr one = {.p_type = m->same ? SNAP_PT_SAME : PT_LOAD,
			  .p_flags = (m->perms[0] == 'r' ? PF_R : 0u) |
				     (m->perms[1] == 'w' ? PF_W : 0u) |
				     (m->perms[2] == 'x' ? PF_X : 0u),
			  .p_offset = m->at + (from - m->start),
			  .p_vaddr = from,
			  .p_filesz = filesz,
			  .p_memsz = to - from,
			  .p_align = FERRY_PAGE};

	if (to > from)
		add_phdr(p, one);
}

/* What is absent is a segment of its own, of which the file has nothing. */
static void add_map(struct phdrs *p, const struct snap_core *c, size_t *absent,
		    const struct snap_map *m)
{
	uint64_t at = m->start, dumped = m->start + m->dumped;

	for (; *absent < c->nabsent && c->absent[*absent].addr < m->end; ++*absent) {
		const struct ferry_span *a = &c->absent[*absent];
		uint64_t from = a->addr > m->start ? a->addr : m->start;
		uint64_t to = a->addr + a->len < m->end ? a->addr + a->len : m->end;
		add_segment(p, m, at, from, from - at);
		add_segment(p, m, from, to, 0);
		at = to;
		if (a->addr + a->len > m->end)
			break;
	}
	add_segment(p, m, at, m->end, dumped > at ? dumped - at : 0);
}

static int by_addr(const void *a, const void *b)
{
	const struct ferry_span *x = a, *y = b;
	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static struct phdrs make_phdrs(struct snap_core *c)
{
	struct phdrs p = {0};
	size_t absent = 0;

	if (c->nabsent)
		qsort(c->absent, c->nabsent, sizeof(*c->absent), by_addr);
	add_phdr(&p, (Elf64_Phdr){.p_type = PT_NOTE,
				  .p_flags = PF_R,
				  .p_offset = c->notes_at,
				  .p_filesz = c->notes_len,
				  .p_align = 4});
	for (size_t i = 0; i < c->maps->n; i++)
		add_map(&p, c, &absent, &c->maps->v[i]);
	return p;
}

/* More than fit into the header's field are counted in a section header, as the kernel does. */
static int write_headers(struct snap_core *c, const struct phdrs *p)
{
	Elf64_Ehdr e = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
				    EV_CURRENT},
			.e_type = ET_CORE,
			.e_machine = EM_X86_64,
			.e_version = EV_CURRENT,
			.e_phoff = c->end,
			.e_ehsize = sizeof(e),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = p->n < PN_XNUM ? (Elf64_Half)p->n : PN_XNUM};
	Elf64_Shdr s = {.sh_info = (Elf64_Word)p->n, .sh_size = 1};
	uint64_t end = c->end + p->n * sizeof(*p->v);
	int ret = write_at(c, c->end, p->v, p->n * sizeof(*p->v));

	if (!ret && p->n >= PN_XNUM) {
		e.e_shoff = end;
		e.e_shentsize = sizeof(s);
		e.e_shnum = 1;
		ret = write_at(c, end, &s, sizeof(s));
	}
	return ret ? ret : write_at(c, 0, &e, sizeof(e));
}

static int put_in_order(struct snap_core *c, int (*step)(void *arg, uint64_t written), void *arg)
{
	return c->zstd ? snap_zstd_finish(c->zstd, c->fd, step, arg) : 0;
}

int snap_core_finish(struct snap_core *c, int (*step)(void *arg, uint64_t written), void *arg)
{
	struct phdrs p = make_phdrs(c);
	int ret = p.failed ? -ENOMEM : write_at(c, c->notes_at, c->notes, c->notes_len);

	if (!ret)
		ret = write_headers(c, &p);
	free(p.v);
	if (!ret)
		ret = put_in_order(c, step, arg);
	return ret ? ret : file_name(c->fd, c->aside, &c->named, c->path);
}

void snap_core_close(struct snap_core *c)
{
	if (c->fd >= 0)
		close(c->fd);
	if (c->named)
		unlink(c->aside);
	snap_zstd_close(c->zstd);
	free(c->absent);
	free(c->notes);
	free(c->aside);
	free(c->path);
}
