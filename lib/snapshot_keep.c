// SPDX-License-Identifier: MIT
/* What is still frozen of a snapshot that keeps: nobody has written to it since its moment. */
#include <errno.h>
#include <stdlib.h>

#include "lib/scan.h"
#include "lib/snapshot.h"

#define REGIONS 256u

struct found {
	struct ferry_span *v;
	size_t n, cap;
};

static int add(struct found *f, uint64_t addr, uint64_t len)
{
	struct ferry_span *last = f->n ? &f->v[f->n - 1] : NULL;

	if (last && last->addr + last->len == addr) {
		last->len += len;
		return 0;
	}
	if (f->n == f->cap) {
		struct ferry_span *v = reallocarray(f->v, f->cap * 2 + 256, sizeof(*v));
		if (!v)
			return -ENOMEM;
		f->v = v;
		f->cap = f->cap * 2 + 256;
	}
	f->v[f->n++] = (struct ferry_span){addr, len};
	return 0;
}

static int find(const struct ferry_snapshot *s, const struct range *r, struct found *f)
{
	struct page_region vec[REGIONS];
	int ret = 0;

	for (uint64_t at = r->start, walk_end = 0; !ret && at < r->end; at = walk_end) {
		long n = scan_call(s->target.pagemap, &snapshot_frozen_pages, at, r->end, vec,
				   REGIONS, &walk_end);
		if (n < 0 || walk_end <= at)
			return n < 0 ? (int)n : -ESRCH;
		for (long i = 0; !ret && i < n; i++)
			ret = add(f, vec[i].start, vec[i].end - vec[i].start);
	}
	return ret;
}

int snapshot_frozen(struct ferry_snapshot *s, struct ferry_span **spans, size_t *n)
{
	struct found f = {0};
	int ret;

	pthread_mutex_lock(&s->lock);
	ret = s->error ? s->error : snapshot_blocked(s) ? -EAGAIN : 0;
	/* What was moved is where other things were. */
	for (size_t i = 0; !ret && i < s->now.n; i++)
		if (s->now.v[i].start == s->now.v[i].offset)
			ret = find(s, &s->now.v[i], &f);
	pthread_mutex_unlock(&s->lock);
	*spans = f.v;
	*n = f.n;
	return ret;
}

void snapshot_skip(struct ferry_snapshot *s, const struct ferry_span *spans, size_t n)
{
	for (size_t i = 0; i < n; i++)
		pages_add(&s->pages, PAGES_HAD, spans[i].addr, spans[i].len);
}
