// SPDX-License-Identifier: MIT
/*
 * What a process has changed since it was saved before, while it stands still: little is copied,
 * much is frozen and saved as ever.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/snapshot.h"
#include "tools/snap.h"

#define EXTRA_LEAST         (16ull << 20)
#define EXTRA_MOST          (256ull << 20)
#define BATCH               512u
#define COPIES_LEN(changes) ((changes)->changed_bytes + FERRY_HUGE)

int snap_changed_uffd(struct snap_job *job, const struct snap_maps *maps, int *uffd,
		      struct why *why)
{
	*uffd = snap_fetch_uffd(&job->target, &job->threads, maps, &job->gadgets, why);
	if (*uffd < 0)
		return *uffd;
	int ret = snap_track_prepare(*uffd);
	return ret ? why_set(why, -EOPNOTSUPP, "this kernel can't track changes: Linux 6.7 can")
		   : 0;
}

/* ---- read */

/* Slower, but it also reads what its owner may not. */
static int read_by_file(const struct snap_target *t, struct ferry_span span, char *to,
			snap_unread *unread, void *arg)
{
	int ret = 0;

	if (pread(t->mem, to, span.len, (off_t)span.addr) == (ssize_t)span.len)
		return 0;
	for (uint64_t at = 0; !ret && at < span.len; at += FERRY_PAGE) {
		if (pread(t->mem, to + at, FERRY_PAGE, (off_t)(span.addr + at)) == FERRY_PAGE)
			continue;
		memset(to + at, 0, FERRY_PAGE);
		ret = unread(arg, span.addr + at);
	}
	return ret;
}

static int read_batch(const struct snap_target *t, const struct ferry_span *spans, size_t n,
		      char *to, uint64_t *len, snap_unread *unread, void *arg)
{
	struct iovec remote[BATCH], local = {to, 0};
	int ret = 0;

	for (size_t i = 0; i < n; i++) {
		remote[i] = (struct iovec){(void *)(uintptr_t)spans[i].addr, spans[i].len};
		local.iov_len += spans[i].len;
	}
	*len = local.iov_len;
	if (process_vm_readv(t->pid, &local, 1, remote, n, 0) == (ssize_t)local.iov_len)
		return 0;
	for (size_t i = 0; !ret && i < n; to += spans[i++].len)
		ret = read_by_file(t, spans[i], to, unread, arg);
	return ret;
}

int snap_read(const struct snap_target *t, const struct ferry_span *spans, size_t n, char *to,
	      snap_unread *unread, void *arg)
{
	uint64_t len;
	int ret = 0;

	for (size_t i = 0, some; !ret && i < n; i += some, to += len) {
		some = n - i < BATCH ? n - i : BATCH;
		ret = read_batch(t, spans + i, some, to, &len, unread, arg);
	}
	return ret;
}

/* ---- copied or frozen */

static uint64_t trackable(const struct snap_maps *maps)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < maps->n; i++)
		if (snap_track_may(&maps->v[i]))
			bytes += maps->v[i].end - maps->v[i].start;
	return bytes;
}

static uint64_t limit_of(const struct snap_job *job)
{
	if (job->options->max_extra)
		return job->options->max_extra;
	/* Of what is only reserved nothing need be copied. */
	uint64_t all = job->async.used ? job->async.rounds[0].bytes : trackable(&job->maps);
	uint64_t part = all / 64;
	return part < EXTRA_LEAST ? EXTRA_LEAST : part > EXTRA_MOST ? EXTRA_MOST : part;
}

int snap_changed_find(struct snap_job *job, int uffd)
{
	uint64_t limit = limit_of(job);
	int ret = snap_track_scan(&job->changes, uffd, &job->target, &job->maps, limit);

	job->result.changed = job->changes.changed_bytes;
	job->result.same = job->changes.same_bytes;
	if (ret || job->changes.changed_bytes <= limit)
		return ret;
	snap_track_end(uffd, &job->maps);
	return 1;
}

/* The process waits for it: huge pages come fifty times faster. */
static char *map_copies(size_t len)
{
	void *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		return NULL;
	madvise(mem, len, MADV_HUGEPAGE);
	return mem;
}

/* It stands still, and this is populated: nobody can read it, the process itself included. */
static int is_absent(void *arg, uint64_t addr)
{
	struct snap_job *job = arg;
	return snap_core_absent(&job->core, addr, FERRY_PAGE);
}

int snap_changed_copy(struct snap_job *job)
{
	const struct snap_changes *c = &job->changes;

	job->changed = map_copies(COPIES_LEN(c));
	return job->changed ? snap_read(&job->target, c->changed, c->nchanged, job->changed,
					is_absent, job)
			    : -ENOMEM;
}

void snap_changed_free(struct snap_job *job)
{
	if (job->changed)
		munmap(job->changed, COPIES_LEN(&job->changes));
	snap_changes_free(&job->changes);
	free(job->parts.v);
}

/* ---- the mappings as the file has them */

static struct snap_map *add_part(struct snap_maps *parts, size_t *cap, const struct snap_map *m,
				 uint64_t start, uint64_t end)
{
	if (parts->n == *cap) {
		struct snap_map *v = reallocarray(parts->v, *cap * 2 + 1024, sizeof(*v));
		if (!v)
			return NULL;
		parts->v = v;
		*cap = *cap * 2 + 1024;
	}
	struct snap_map *p = &parts->v[parts->n++];
	*p = *m;
	p->start = start;
	p->end = end;
	/* Only frozen ones are taken apart, and they are dumped as a whole. */
	if (m->way == SNAP_FROZEN)
		p->dumped = end - start;
	return p;
}

static bool add_same(struct snap_maps *parts, size_t *cap, const struct snap_map *m, uint64_t start,
		     uint64_t end)
{
	struct snap_map *p = add_part(parts, cap, m, start, end);

	if (!p)
		return false;
	p->same = true;
	p->dumped = 0;
	return true;
}

static bool by_changes(const struct snap_job *job, struct snap_maps *parts)
{
	const struct snap_changes *c = &job->changes;
	size_t cap = 0, k = 0;

	for (size_t i = 0; i < job->maps.n; i++) {
		const struct snap_map *m = &job->maps.v[i];
		uint64_t at = m->start;
		for (; k < c->nsame && c->same[k].addr < m->end; k++) {
			uint64_t start = c->same[k].addr, end = start + c->same[k].len;
			if ((at < start && !add_part(parts, &cap, m, at, start)) ||
			    !add_same(parts, &cap, m, start, end))
				return false;
			at = end;
		}
		if (at < m->end && !add_part(parts, &cap, m, at, m->end))
			return false;
	}
	return true;
}

static bool add_placed(struct snap_maps *parts, size_t *cap, const struct snap_map *m,
		       uint64_t start, uint64_t end, uint64_t at)
{
	struct snap_map *p = add_part(parts, cap, m, start, end);

	if (!p)
		return false;
	p->placed = true;
	p->at = at;
	return true;
}

/* What has a place keeps it, as far as it is still the kind of memory that was saved there. */
static bool by_places(const struct snap_job *job, struct snap_maps *parts)
{
	const struct snap_async *a = &job->async;
	size_t cap = 0, k = 0;

	for (size_t i = 0; i < job->maps.n; i++) {
		const struct snap_map *m = &job->maps.v[i];
		uint64_t at = m->start;
		while (k < a->nplaces && a->places[k].end <= m->start)
			k++;
		for (size_t j = k; m->way == SNAP_FROZEN && j < a->nplaces; j++) {
			const struct snap_place *p = &a->places[j];
			uint64_t start = p->start > at ? p->start : at;
			uint64_t end = p->end < m->end ? p->end : m->end;
			if (p->start >= m->end)
				break;
			if ((at < start && !add_part(parts, &cap, m, at, start)) ||
			    !add_placed(parts, &cap, m, start, end, p->at + (start - p->start)))
				return false;
			at = end;
		}
		if (at < m->end && !add_part(parts, &cap, m, at, m->end))
			return false;
	}
	return true;
}

struct snap_maps *snap_changed_parts(struct snap_job *job)
{
	if (job->async.used)
		return by_places(job, &job->parts) ? &job->parts : NULL;
	if (!job->series.state || !job->changes.nsame)
		return &job->maps;
	return by_changes(job, &job->parts) ? &job->parts : NULL;
}
