// SPDX-License-Identifier: MIT
/* Core files of ours, see snap_read.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/uffd.h"
#include "tools/snap_io.h"
#include "tools/snap_read.h"

#define NOTES_MAX    (256ull << 20)
#define SEGMENTS_MAX (1ull << 24)
#define CHUNK        512u

static int bad(const struct snap_read *f, struct why *why, const char *what)
{
	return why_set(why, -EBADMSG, "%s: %s", f->path, what);
}

/* Is [@at, @at + @len) in the file? */
static bool is_inside(const struct snap_read *f, uint64_t at, uint64_t len)
{
	return at <= f->size && len <= f->size - at;
}

static int read_some(const struct snap_read *f, uint64_t at, void *to, size_t len, struct why *why)
{
	int ret = is_inside(f, at, len) ? io_read(f->fd, at, to, len) : -ENODATA;

	if (ret == -ENODATA)
		return bad(f, why, "its end is missing");
	return ret ? why_set(why, ret, "%s: %s", f->path, strerror(-ret)) : 0;
}

/* ---- headers */

static int check_header(const struct snap_read *f, const Elf64_Ehdr *e, struct why *why)
{
	if (memcmp(e->e_ident, ELFMAG, SELFMAG) != 0 || e->e_ident[EI_CLASS] != ELFCLASS64 ||
	    e->e_ident[EI_DATA] != ELFDATA2LSB || e->e_type != ET_CORE ||
	    e->e_machine != EM_X86_64 || e->e_phentsize != sizeof(Elf64_Phdr))
		return bad(f, why, "not a core file of an x86-64 process");
	return 0;
}

/* More than fit into its field are counted in the first section header. */
static int count_segments(const struct snap_read *f, const Elf64_Ehdr *e, uint64_t *n,
			  struct why *why)
{
	Elf64_Shdr s = {0};
	int ret = 0;

	*n = e->e_phnum;
	if (e->e_phnum == PN_XNUM) {
		ret = read_some(f, e->e_shoff, &s, sizeof(s), why);
		*n = s.sh_info;
	}
	if (ret)
		return ret;
	if (!*n || *n > SEGMENTS_MAX)
		return bad(f, why, "it has no segments, or too many");
	return is_inside(f, e->e_phoff, *n * sizeof(Elf64_Phdr))
		       ? 0
		       : bad(f, why, "its end is missing");
}

/* ---- notes */

static int take_notes(struct snap_read *f, const Elf64_Phdr *p, struct why *why)
{
	struct snap_ident_note note = {0};

	if (f->notes_len)
		return bad(f, why, "it has notes twice");
	if (p->p_filesz < sizeof(note) || p->p_filesz > NOTES_MAX)
		return bad(f, why, "its notes are too short or too long");
	if (!is_inside(f, p->p_offset, p->p_filesz))
		return bad(f, why, "its notes are missing");
	f->notes_at = p->p_offset;
	f->notes_len = p->p_filesz;
	int ret = read_some(f, f->notes_at, &note, sizeof(note), why);
	if (ret)
		return ret;
	ret = snap_ident_read(&f->ident, &note);
	if (ret == -EPROTONOSUPPORT)
		return why_set(why, ret, "%s is of a newer pageferry", f->path);
	return ret || snap_id_is_none(f->ident.id)
		       ? why_set(why, -EINVAL,
				 "%s was made without --track or --incremental: nothing can be "
				 "added to it",
				 f->path)
		       : 0;
}

/* ---- segments */

static bool are_pages(const struct snap_segment *s)
{
	return !((s->addr | s->len | s->at | s->have) % FERRY_PAGE);
}

static int add_segment(struct snap_read *f, const struct snap_segment *s, struct why *why)
{
	if (!f->v || f->n == f->cap) {
		size_t cap = f->cap * 2 + CHUNK;
		struct snap_segment *v = reallocarray(f->v, cap, sizeof(*v));
		if (!v)
			return why_set(why, -ENOMEM, "out of memory");
		f->v = v;
		f->cap = cap;
	}
	f->v[f->n++] = *s;
	return 0;
}

static int take_segment(struct snap_read *f, const Elf64_Phdr *p, struct why *why)
{
	const struct snap_segment *last = f->n ? &f->v[f->n - 1] : NULL;
	struct snap_segment s = {.addr = p->p_vaddr,
				 .len = p->p_memsz,
				 .at = p->p_offset,
				 .have = p->p_filesz,
				 .flags = p->p_flags & (PF_R | PF_W | PF_X),
				 .same = p->p_type == SNAP_PT_SAME};

	if (!are_pages(&s) || !s.len || s.have > s.len || s.len > UINT64_MAX - s.addr ||
	    (s.same && s.have))
		return bad(f, why, "a segment makes no sense");
	if (!s.have)
		s.at = last ? last->at + last->have : 0;
	if (!is_inside(f, s.at, s.have))
		return bad(f, why, "a segment is missing");
	if (last && (last->addr + last->len > s.addr || last->at + last->have > s.at))
		return bad(f, why, "its segments are in no order");
	return add_segment(f, &s, why);
}

static int take(struct snap_read *f, const Elf64_Phdr *p, struct why *why)
{
	switch (p->p_type) {
	case PT_NOTE:
		return take_notes(f, p, why);
	case PT_LOAD:
	case SNAP_PT_SAME:
		return take_segment(f, p, why);
	default:
		return bad(f, why, "a segment of a kind that is not known");
	}
}

/* Chunk by chunk: a number in a header alone takes no memory that the file hasn't shown to need. */
static int read_segments(struct snap_read *f, uint64_t at, uint64_t n, struct why *why)
{
	Elf64_Phdr chunk[CHUNK];
	int ret = 0;

	for (uint64_t done = 0, some; !ret && done < n; done += some) {
		some = n - done < CHUNK ? n - done : CHUNK;
		ret = read_some(f, at + done * sizeof(*chunk), chunk, some * sizeof(*chunk), why);
		for (uint64_t i = 0; !ret && i < some; i++)
			ret = take(f, &chunk[i], why);
	}
	if (!ret && !f->notes_len)
		ret = bad(f, why, "it has no notes");
	return ret;
}

static int parse(struct snap_read *f, struct why *why)
{
	Elf64_Ehdr e = {0};
	struct stat st;
	uint64_t n = 0;

	if (fstat(f->fd, &st) < 0 || !S_ISREG(st.st_mode))
		return why_set(why, -EINVAL, "%s: not a regular file", f->path);
	f->size = (uint64_t)st.st_size;
	int ret = read_some(f, 0, &e, sizeof(e), why);
	if (!ret)
		ret = check_header(f, &e, why);
	if (!ret)
		ret = count_segments(f, &e, &n, why);
	return ret ? ret : read_segments(f, e.e_phoff, n, why);
}

int snap_read_parse(struct snap_read *f, int fd, const char *path, struct why *why)
{
	*f = (struct snap_read){.fd = fd, .path = path};
	int ret = parse(f, why);

	if (ret)
		snap_read_free(f);
	return ret;
}

uint64_t snap_read_limit(const void *head)
{
	const Elf64_Ehdr *e = head;
	uint64_t end = e->e_phoff + e->e_phnum * sizeof(Elf64_Phdr);

	if (memcmp(e->e_ident, ELFMAG, SELFMAG) != 0 || end < e->e_phoff)
		return sizeof(*e);
	if (e->e_phnum != PN_XNUM)
		return end;
	return e->e_shoff <= UINT64_MAX - sizeof(Elf64_Shdr) ? e->e_shoff + sizeof(Elf64_Shdr)
							     : sizeof(*e);
}

void snap_read_free(struct snap_read *f)
{
	free(f->v);
	f->v = NULL;
	f->n = 0;
}

/* ---- several */

int snap_read_check_chain(const struct snap_read *files, size_t n, struct why *why)
{
	if (!snap_id_is_none(files[0].ident.base))
		return why_set(why, -EINVAL,
			       "%s is an increment: put first the full snapshot that it belongs to",
			       files[0].path);
	for (size_t i = 1; i < n; i++) {
		if (snap_id_is_none(files[i].ident.base))
			return why_set(why, -EINVAL, "%s is a full snapshot: it needs no base",
				       files[i].path);
		if (memcmp(files[i].ident.base, files[i - 1].ident.id, SNAP_ID_LEN) != 0)
			return why_set(
				why, -EINVAL,
				"%s is no increment of %s: give all of them, in the order in "
				"which they were made",
				files[i].path, files[i - 1].path);
	}
	return 0;
}

struct walk {
	const struct snap_read *files;
	int (*piece)(void *arg, const struct snap_piece *piece);
	void *arg;
	struct why *why;
};

/* The first segment that ends behind @addr. */
static size_t first_of(const struct snap_read *f, uint64_t addr)
{
	size_t lo = 0, hi = f->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (f->v[mid].addr + f->v[mid].len <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* [@from, @to) lies within @s. */
static int give(const struct walk *w, const struct snap_read *f, const struct snap_segment *s,
		uint64_t from, uint64_t to, uint32_t flags)
{
	uint64_t had = s->addr + s->have, end = snap_least(had, to);
	int ret = 0;

	if (from < end) {
		struct snap_piece p = {f, from, end - from, s->at + (from - s->addr), flags};
		ret = w->piece(w->arg, &p);
		from = end;
	}
	if (!ret && from < to) {
		struct snap_piece none = {NULL, from, to - from, 0, flags};
		ret = w->piece(w->arg, &none);
	}
	return ret;
}

/*
 * Of file @i, and what is the same as in the one before of that one. A base may have other mappings
 * there: the flags are those of the last.
 */
static int resolve(const struct walk *w, size_t i, uint64_t from, uint64_t to, uint32_t flags)
{
	const struct snap_read *f = &w->files[i];
	int ret = 0;

	for (size_t k = first_of(f, from); !ret && from < to; k++) {
		const struct snap_segment *s = k < f->n ? &f->v[k] : NULL;
		if (!s || s->addr > from || (s->same && !i))
			return bad(f, w->why, "an increment needs what it hasn't");
		uint64_t end = snap_least(to, s->addr + s->len);
		ret = s->same ? resolve(w, i - 1, from, end, flags)
			      : give(w, f, s, from, end, flags);
		from = end;
	}
	return ret;
}

int snap_read_pieces(const struct snap_read *files, size_t n,
		     int (*piece)(void *arg, const struct snap_piece *piece), void *arg,
		     struct why *why)
{
	const struct walk w = {files, piece, arg, why};
	const struct snap_read *last = &files[n - 1];
	int ret = 0;

	for (size_t k = 0; !ret && k < last->n; k++) {
		const struct snap_segment *s = &last->v[k];
		ret = resolve(&w, n - 1, s->addr, s->addr + s->len, s->flags);
	}
	return ret;
}
