// SPDX-License-Identifier: MIT
/* The mappings of the target: read, and what is to happen to each. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/scan.h"
#include "lib/snapshot.h"
#include "lib/uffd.h"
#include "tools/snap.h"

#define RESERVED_LEAST (1ull << 30)

/* Bits of coredump_filter, see core(5). */
enum {
	FILTER_ANON_PRIVATE = 1 << 0,
	FILTER_ANON_SHARED = 1 << 1,
	FILTER_FILE_PRIVATE = 1 << 2,
	FILTER_FILE_SHARED = 1 << 3,
	FILTER_ELF_HEADERS = 1 << 4,
	FILTER_HUGE_PRIVATE = 1 << 5,
	FILTER_HUGE_SHARED = 1 << 6,
};

static bool parse_line(char *line, struct snap_map *m)
{
	unsigned int major, minor;
	int at = 0;

	*m = (struct snap_map){0};
	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 " %n", &m->start,
		   &m->end, m->perms, &m->offset, &major, &minor, &m->inode, &at) < 7)
		return false;
	m->dev = (uint64_t)major << 32 | minor;
	m->name = at ? line + at : "";
	return m->end > m->start;
}

static struct snap_map *add(struct snap_maps *maps, size_t *cap)
{
	if (maps->n == *cap) {
		struct snap_map *v = reallocarray(maps->v, *cap * 2 + 256, sizeof(*v));
		if (!v)
			return NULL;
		maps->v = v;
		*cap = *cap * 2 + 256;
	}
	return &maps->v[maps->n++];
}

static void read_flags(struct snap_map *m, const char *flags)
{
	m->dontdump = strstr(flags, " dd");
	m->io = strstr(flags, " io");
	m->hugetlb = strstr(flags, " ht");
	m->mergeable = strstr(flags, " mg");
	m->uffd = strstr(flags, " um") || strstr(flags, " uw") || strstr(flags, " ui");
}

static int read_file(struct snap_maps *maps, pid_t pid, const char *name)
{
	size_t cap = 0;
	char *next;

	*maps = (struct snap_maps){.text = snap_read_proc(pid, name, NULL)};
	if (!maps->text)
		return -ESRCH;
	for (char *line = maps->text; *line; line = next) {
		struct snap_map m;
		next = line + strcspn(line, "\n");
		if (*next)
			*next++ = 0;
		if (!strncmp(line, "VmFlags:", 8) && maps->n) {
			read_flags(&maps->v[maps->n - 1], line + 8);
		} else if (parse_line(line, &m)) {
			struct snap_map *to = add(maps, &cap);
			if (!to)
				return -ENOMEM;
			*to = m;
		}
	}
	return maps->n ? 0 : -ESRCH;
}

int snap_maps_read(struct snap_maps *maps, pid_t pid)
{
	return read_file(maps, pid, "maps");
}

int snap_maps_read_flags(struct snap_maps *maps, pid_t pid)
{
	return read_file(maps, pid, "smaps");
}

void snap_maps_free(struct snap_maps *maps)
{
	free(maps->v);
	free(maps->text);
	*maps = (struct snap_maps){0};
}

static bool is_same(const struct snap_map *a, const struct snap_map *b)
{
	return a->start == b->start && a->end == b->end && a->offset == b->offset &&
	       a->inode == b->inode && a->dev == b->dev && !strcmp(a->perms, b->perms);
}

bool snap_maps_same(const struct snap_maps *a, const struct snap_maps *b)
{
	size_t i = 0;

	while (i < a->n && i < b->n && is_same(&a->v[i], &b->v[i]))
		i++;
	return i == a->n && i == b->n;
}

const struct snap_map *snap_maps_find(const struct snap_maps *maps, uint64_t addr)
{
	size_t lo = 0, hi = maps->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (maps->v[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < maps->n && maps->v[lo].start <= addr ? &maps->v[lo] : NULL;
}

static bool next_run(const struct snap_target *target, struct pm_scan_arg what, uint64_t from,
		     uint64_t to, struct ferry_span *run)
{
	struct page_region region;
	uint64_t walk_end;

	what.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
	if (from >= to || scan_call(target->pagemap, &what, from, to, &region, 1, &walk_end) != 1)
		return false;
	*run = (struct ferry_span){region.start, region.end - region.start};
	return true;
}

bool snap_next_own(const struct snap_target *target, uint64_t from, uint64_t to,
		   struct ferry_span *run)
{
	const struct pm_scan_arg own = {.category_inverted = PAGE_IS_FILE,
					.category_mask = PAGE_IS_FILE};
	return next_run(target, own, from, to, run);
}

bool snap_next_there(const struct snap_target *target, uint64_t from, uint64_t to,
		     struct ferry_span *run)
{
	const struct pm_scan_arg any = {0};
	return next_run(target, any, from, to, run);
}

/* ---- what happens to each, as the kernel's vma_dump_size() decides */

static bool is_deleted(const struct snap_map *m)
{
	size_t len = strlen(m->name);
	return len > 10 && !strcmp(m->name + len - 10, " (deleted)");
}

static void decide(struct snap_map *m, enum snap_way way, bool wanted, const char *why)
{
	m->way = wanted ? way : SNAP_NOT;
	m->dumped = wanted ? m->end - m->start : 0;
	m->why = why;
}

static void plan_shared(struct snap_map *m, unsigned int filter)
{
	unsigned int bit = m->hugetlb      ? FILTER_HUGE_SHARED
			   : is_deleted(m) ? FILTER_ANON_SHARED
					   : FILTER_FILE_SHARED;
	decide(m, SNAP_LIVE, filter & bit, "shared");
}

static void plan_file(struct snap_map *m, const struct snap_target *t)
{
	struct ferry_span own;

	if ((t->filter & FILTER_ANON_PRIVATE) && snap_next_own(t, m->start, m->end, &own)) {
		decide(m, SNAP_COPIED, true, NULL);
		return;
	}
	decide(m, SNAP_CONSTANT, t->filter & FILTER_FILE_PRIVATE, NULL);
	m->header = m->way == SNAP_NOT && (t->filter & FILTER_ELF_HEADERS) && !m->offset &&
		    m->perms[0] == 'r';
	if (m->header)
		m->dumped = FERRY_PAGE;
}

bool snap_map_has_header(const struct snap_map *m, const struct snap_target *t)
{
	char magic[4];

	return m->header && pread(t->mem, magic, 4, (off_t)m->start) == 4 &&
	       !memcmp(magic, "\177ELF", 4);
}

/*
 * Nothing but addresses, of which there may be more than a file can be long. The kernel has none of
 * it in its files either. Of less it isn't asked.
 */
static bool is_reserved(const struct snap_map *m, const struct snap_target *t)
{
	static const struct pm_scan_arg any = {
		.max_pages = 1,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT,
	};
	struct page_region first;
	uint64_t walk_end;

	return m->end - m->start >= RESERVED_LEAST && !strncmp(m->perms, "---", 3) &&
	       !scan_call(t->pagemap, &any, m->start, m->end, &first, 1, &walk_end);
}

static void plan_one(struct snap_map *m, const struct snap_target *t)
{
	bool special = m->name[0] == '[' && !m->inode && strncmp(m->name, "[anon:", 6) != 0 &&
		       strcmp(m->name, "[heap]") != 0 && strncmp(m->name, "[stack", 6) != 0;

	if (special)
		decide(m, SNAP_CONSTANT, !strcmp(m->name, "[vdso]"), NULL);
	else if (m->dontdump || m->io)
		decide(m, SNAP_NOT, false, NULL);
	else if (m->perms[3] != 'p')
		plan_shared(m, t->filter);
	else if (m->hugetlb)
		decide(m, SNAP_LIVE, t->filter & FILTER_HUGE_PRIVATE, "hugetlb");
	else if (m->inode)
		plan_file(m, t);
	else if (m->uffd)
		decide(m, SNAP_LIVE, t->filter & FILTER_ANON_PRIVATE,
		       "registered with a userfaultfd");
	else
		decide(m, SNAP_FROZEN, t->filter & FILTER_ANON_PRIVATE && !is_reserved(m, t), NULL);
}

void snap_maps_plan(struct snap_maps *maps, const struct snap_maps *flags,
		    const struct snap_target *target)
{
	for (size_t i = 0; i < maps->n; i++) {
		struct snap_map *m = &maps->v[i];
		/* Mappings are only merged when their flags are equal. */
		const struct snap_map *before = snap_maps_find(flags, m->start);
		if (before) {
			m->dontdump = before->dontdump;
			m->io = before->io;
			m->uffd = before->uffd;
			m->hugetlb = before->hugetlb;
			m->mergeable = before->mergeable;
		}
		plan_one(m, target);
	}
}

size_t snap_maps_frozen(const struct snap_maps *maps, struct ferry_span **spans)
{
	size_t n = 0;

	*spans = reallocarray(NULL, maps->n, sizeof(**spans));
	for (size_t i = 0; *spans && i < maps->n; i++) {
		const struct snap_map *m = &maps->v[i];
		struct ferry_span *last = n ? &(*spans)[n - 1] : NULL;
		if (m->way != SNAP_FROZEN)
			continue;
		if (last && last->addr + last->len == m->start)
			last->len += m->end - m->start;
		else
			(*spans)[n++] = (struct ferry_span){m->start, m->end - m->start};
	}
	return n;
}

bool snap_maps_are_merged(const struct snap_maps *maps)
{
	bool may = false;

	for (size_t i = 0; i < maps->n; i++)
		may |= maps->v[i].mergeable;
	return may && snapshot_ksm_runs();
}
