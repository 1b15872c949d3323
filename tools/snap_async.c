// SPDX-License-Identifier: MIT
/*
 * Saved while the process runs, without anybody waiting for it: what is protected is read, and
 * whatever is written to afterwards the kernel unprotects by itself, so that it is found, and saved
 * once more. Each round takes as long as there is to save, and finds what was written meanwhile. If
 * that gets less and less, what is left in the end can be copied while the process stands still;
 * the image is of that moment. A page that was torn when it was read is found like all that were
 * written to.
 *
 * In this order, always: protect, then read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/park.h"
#include "lib/uffd.h"
#include "tools/snap.h"

#define REGIONS (FERRY_HUGE_PAGES / 2)
/* A part of the whole that is copied while the process stands still: of 1 GiB 4 MiB. */
#define GOAL_PART  256u
#define GOAL_LEAST (1ull << 20)
/* What it has changed of files, of most programs. */
#define OWN_ROOM (1ull << 20)

/* ---- places in the file */

static int compare_places(const void *a, const void *b)
{
	const struct snap_place *x = a, *y = b;
	return x->start < y->start ? -1 : x->start > y->start;
}

static int add_place(struct snap_job *job, uint64_t start, uint64_t end)
{
	struct snap_async *a = &job->async;

	if (start >= end)
		return 0;
	if (a->nplaces == a->cap_places) {
		size_t cap = a->cap_places * 2 + 64;
		struct snap_place *v = reallocarray(a->places, cap, sizeof(*v));
		if (!v)
			return -ENOMEM;
		a->places = v;
		a->cap_places = cap;
	}
	uint64_t at = snap_core_reserve(&job->core, end - start);
	a->places[a->nplaces++] = (struct snap_place){start, end, at};
	return 0;
}

/* What of it has none yet gets one. @k: the first of the @n known ones that may lie in it. */
static int place_map(struct snap_job *job, const struct snap_map *m, size_t k, size_t n)
{
	const struct snap_async *a = &job->async;
	uint64_t at = m->start;
	int ret = 0;

	for (; !ret && k < n && a->places[k].start < m->end; k++) {
		uint64_t end = a->places[k].end;
		ret = add_place(job, at, a->places[k].start);
		at = end;
	}
	return ret ? ret : add_place(job, at, m->end);
}

static int place_all(struct snap_job *job)
{
	struct snap_async *a = &job->async;
	size_t known = a->nplaces, k = 0;
	int ret = 0;

	for (size_t i = 0; !ret && i < job->flags.n; i++) {
		const struct snap_map *m = &job->flags.v[i];
		while (k < known && a->places[k].end <= m->start)
			k++;
		if (m->way == SNAP_FROZEN)
			ret = place_map(job, m, k, known);
	}
	if (a->nplaces != known)
		qsort(a->places, a->nplaces, sizeof(*a->places), compare_places);
	return ret;
}

/* ---- a round */

struct piece {
	struct page_region vec[REGIONS];
	struct ferry_span span[REGIONS];
	size_t n;
	char data[SNAP_PIECE];
};

/* It may just have been unmapped: whether it is there is known when the process stands still. */
static int note_unread(void *arg, uint64_t addr)
{
	struct snap_async *a = arg;
	return snap_span_add(&a->unread, &a->nunread, addr, FERRY_PAGE);
}

static int save_piece(struct snap_job *job, const struct snap_place *p, struct piece *piece)
{
	const char *data = piece->data;
	int ret = snap_read(&job->target, piece->span, piece->n, piece->data, note_unread,
			    &job->async);

	park("snapshot.read");
	for (size_t i = 0; !ret && i < piece->n; i++) {
		const struct ferry_span *s = &piece->span[i];
		ret = snap_put_at(job, p->at + (s->addr - p->start), data, s->len);
		data += s->len;
	}
	return ret;
}

static int save_place(struct snap_job *job, const struct snap_place *p, struct piece *piece,
		      uint64_t *bytes)
{
	int ret = 0;

	for (uint64_t at = p->start; !ret && at < p->end;) {
		long n = snap_track_next(job->async.uffd, &job->target, &at, p->end, piece->vec,
					 REGIONS);
		if (n < 0 || snap_interrupted)
			return n < 0 ? (int)n : -EINTR;
		park("snapshot.protected");
		piece->n = (size_t)n;
		for (size_t i = 0; i < piece->n; i++) {
			uint64_t start = piece->vec[i].start, len = piece->vec[i].end - start;
			piece->span[i] = (struct ferry_span){start, len};
			*bytes += len;
		}
		ret = save_piece(job, p, piece);
	}
	return ret;
}

/* Its mappings as they are now; new ones are tracked from now on. */
static int look(struct snap_job *job)
{
	snap_maps_free(&job->flags);
	int ret = snap_maps_read_flags(&job->flags, job->target.pid);

	if (ret)
		return ret;
	snap_maps_plan(&job->flags, &job->flags, &job->target);
	ret = snap_track_register(job->async.uffd, &job->flags);
	/* So it says of memory that is no more. */
	return !ret ? place_all(job) : ret == -ENOMEM ? -ESRCH : ret;
}

/* Their flags take long to read. */
static int look_for_new(struct snap_job *job)
{
	struct snap_maps now;
	int ret = snap_maps_read(&now, job->target.pid);
	bool new = !ret && !snap_maps_same(&now, &job->flags);

	snap_maps_free(&now);
	return new ? look(job) : ret;
}

static int save_round(struct snap_job *job, struct piece *piece, struct snap_round *r)
{
	const struct snap_async *a = &job->async;
	int64_t begin = clock_ns();
	int ret = look_for_new(job);

	for (size_t i = 0; !ret && i < a->nplaces; i++)
		ret = save_place(job, &a->places[i], piece, &r->bytes);
	r->ns = (uint64_t)(clock_ns() - begin);
	park("snapshot.round");
	return ret;
}

/* ---- rounds */

static uint64_t goal_of(const struct snap_job *job)
{
	uint64_t goal = job->async.rounds[0].bytes / GOAL_PART;
	uint64_t extra = job->options->max_extra;

	goal = goal < GOAL_LEAST ? GOAL_LEAST : goal;
	return extra && extra < goal ? extra : goal;
}

/* Less than three quarters of the round before: so all rounds together write four times all. */
static bool gets_less(const struct snap_round *r)
{
	return r->bytes < r[-1].bytes - r[-1].bytes / 4;
}

static int save_until(struct snap_job *job, struct piece *piece, unsigned int most)
{
	struct snap_async *a = &job->async;
	unsigned int first = a->nrounds;
	bool less = true;
	int ret = 0;

	while (!ret && less && a->nrounds < most) {
		struct snap_round *r = &a->rounds[a->nrounds++];
		ret = save_round(job, piece, r);
		job->expected = job->done + r->bytes;
		a->converged = r->bytes <= goal_of(job);
		less = r->bytes && (r == &a->rounds[first] || gets_less(r));
	}
	return ret;
}

/* For what is left, if that is little, and for what it has changed of files. */
static void make_room(struct snap_job *job)
{
	uint64_t last = job->async.rounds[job->async.nrounds - 1].bytes, goal = goal_of(job);

	snap_room_make(&job->room, (last < goal ? last : goal) + OWN_ROOM);
}

/*
 * In the end all is known again of its mappings, and no time has passed since: in each ms more is
 * written that it has to wait for.
 */
static int save_rounds(struct snap_job *job, struct piece *piece)
{
	int ret = look(job);

	if (!ret)
		ret = save_until(job, piece, SNAP_ROUNDS / 2);
	if (!ret) {
		make_room(job);
		ret = look(job);
	}
	return ret ? ret : save_until(job, piece, SNAP_ROUNDS);
}

int snap_async_save(struct snap_job *job, struct why *why)
{
	struct piece *piece = malloc(sizeof(*piece));
	int ret = piece ? save_rounds(job, piece) : -ENOMEM;

	job->async.used = true;
	job->async.aside = job->options->way == WAY_AUTO
				   ? snap_may_be_written_aside(job->target.pid)
				   : snap_has_pins(job->target.pid);
	free(piece);
	park("snapshot.rounds");
	return ret ? snap_not_saved(job, ret, why) : 0;
}

/* ---- it stands still */

/* All of it is frozen, as if nothing had been saved. */
static int distrust(struct snap_job *job, int is_much)
{
	if (!is_much)
		snap_track_end(job->async.uffd, &job->maps);
	snap_changes_free(&job->changes);
	return 1;
}

int snap_async_changes(struct snap_job *job, struct why *why)
{
	struct snap_async *a = &job->async;

	snap_maps_plan(&job->maps, &job->flags, &job->target);
	/* That it is protected doesn't say that it is saved. */
	snap_track_forget(a->uffd, a->unread, a->nunread);
	int ret = snap_changed_find(job, a->uffd);
	if (a->aside && ret >= 0)
		ret = distrust(job, ret);
	if (!ret)
		ret = snap_copy_changed(job);
	park("snapshot.changes");
	if (ret == -ESRCH)
		return snap_not_saved(job, ret, why);
	return ret < 0 ? why_set(why, ret, "what process %d has changed can't be copied: %s",
				 (int)job->target.pid, strerror(-ret))
		       : ret;
}

/* ---- it runs again */

void snap_async_release(struct snap_job *job)
{
	if (job->async.uffd >= 0)
		close(job->async.uffd);
	job->async.uffd = -1;
}

/* The next of what the file has, and has right, or will have. */
static const struct ferry_span *next_kept(const struct snap_changes *c, size_t *same,
					  size_t *changed)
{
	const struct ferry_span *s = *same < c->nsame ? &c->same[*same] : NULL;
	const struct ferry_span *d = *changed < c->nchanged ? &c->changed[*changed] : NULL;

	if (!s || (d && d->addr < s->addr))
		return *changed += d != NULL, d;
	++*same;
	return s;
}

static int clear(struct snap_job *job, const struct snap_place *p, uint64_t from, uint64_t to)
{
	from = from > p->start ? from : p->start;
	to = to < p->end ? to : p->end;
	return from < to ? snap_core_clear(&job->core, p->at + (from - p->start), to - from) : 0;
}

int snap_async_clear(struct snap_job *job)
{
	const struct snap_async *a = &job->async;
	const struct ferry_span *kept;
	size_t same = 0, changed = 0, k = 0;
	uint64_t at = 0, from, to;
	int ret = 0;

	do {
		kept = next_kept(&job->changes, &same, &changed);
		from = at;
		to = kept ? kept->addr : UINT64_MAX;
		at = kept ? kept->addr + kept->len : 0;
		while (k < a->nplaces && a->places[k].end <= from)
			k++;
		for (size_t i = k; !ret && i < a->nplaces && a->places[i].start < to; i++)
			ret = snap_interrupted ? -EINTR : clear(job, &a->places[i], from, to);
	} while (!ret && kept);
	return ret;
}

void snap_async_end(struct snap_job *job)
{
	snap_async_release(job);
	free(job->async.places);
	free(job->async.unread);
}
