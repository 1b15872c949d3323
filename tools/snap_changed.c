// SPDX-License-Identifier: MIT
/*
 * What a process has changed since it was saved before, while it stands still: little is copied,
 * much is frozen and saved as ever.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/snapshot.h"
#include "tools/snap.h"

#define EXTRA_LEAST (16ull << 20)
#define EXTRA_MOST  (256ull << 20)

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
	int ret = snap_track_scan(&job->changes, uffd, &job->target, &job->maps,
				  job->async.used ? 0 : limit + 1);

	job->result.changed = job->changes.changed_bytes;
	job->result.same = job->changes.same_bytes;
	if (ret || job->changes.changed_bytes <= limit)
		return ret;
	snap_track_end(uffd, &job->maps);
	return 1;
}

void snap_changed_free(struct snap_job *job)
{
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
