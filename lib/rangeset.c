// SPDX-License-Identifier: MIT
/* Interval arithmetic, see rangeset.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/rangeset.h"

void rangeset_free(struct rangeset *set)
{
	free(set->v);
	*set = (struct rangeset){ 0 };
}

static int reserve(struct rangeset *set, size_t more)
{
	if (set->cap - set->n >= more)
		return 0;
	size_t cap = set->cap * 2 + more + 8;
	struct range *v = reallocarray(set->v, cap, 2 * sizeof(*v));
	if (!v)
		return -ENOMEM;
	set->v = v;
	set->cap = cap;
	return 0;
}

int rangeset_reserve(struct rangeset *set, size_t changes)
{
	return reserve(set, changes * RANGESET_SLOTS);
}

size_t rangeset_from(const struct rangeset *set, uint64_t addr)
{
	size_t lo = 0, hi = set->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (set->v[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct range *rangeset_find(const struct rangeset *set, uint64_t addr)
{
	size_t i = rangeset_from(set, addr);
	return i < set->n && set->v[i].start <= addr ? &set->v[i] : NULL;
}

static void put_at(struct rangeset *set, size_t i, struct range r)
{
	memmove(&set->v[i + 1], &set->v[i], (set->n - i) * sizeof(r));
	set->v[i] = r;
	set->n++;
}

static void drop(struct rangeset *set, size_t i, size_t count)
{
	memmove(&set->v[i], &set->v[i + count], (set->n - i - count) * sizeof(*set->v));
	set->n -= count;
}

static int continues(const struct range *a, const struct range *b)
{
	if (a->end != b->start || a->src != b->src)
		return 0;
	/* Offsets into nothing but zeros mean nothing. */
	return a->src == ferry_source_zero() || b->offset - a->offset == b->start - a->start;
}

static void merge_around(struct rangeset *set, size_t i)
{
	if (i + 1 < set->n && continues(&set->v[i], &set->v[i + 1])) {
		set->v[i].end = set->v[i + 1].end;
		drop(set, i + 1, 1);
	}
	if (i > 0 && continues(&set->v[i - 1], &set->v[i])) {
		set->v[i - 1].end = set->v[i].end;
		drop(set, i, 1);
	}
}

int rangeset_insert(struct rangeset *set, struct range r)
{
	size_t i = rangeset_from(set, r.start);

	if (i < set->n && set->v[i].start < r.end)
		return -EEXIST;
	if (reserve(set, 1))
		return -ENOMEM;
	put_at(set, i, r);
	merge_around(set, i);
	return 0;
}

/* Make @addr a border between intervals. Room for one more must be there. */
static void split(struct rangeset *set, uint64_t addr)
{
	size_t i = rangeset_from(set, addr);

	if (i == set->n || set->v[i].start >= addr)
		return;
	struct range right = set->v[i];
	right.offset += addr - right.start;
	right.start = addr;
	set->v[i].end = addr;
	put_at(set, i + 1, right);
}

int rangeset_cut(struct rangeset *set, uint64_t start, uint64_t end)
{
	if (reserve(set, 2))
		return -ENOMEM;
	split(set, start);
	split(set, end);
	size_t i = rangeset_from(set, start), j = i;
	while (j < set->n && set->v[j].end <= end)
		j++;
	drop(set, i, j - i);
	return 0;
}

int rangeset_replace(struct rangeset *set, uint64_t start, uint64_t end, struct ferry_source *src)
{
	if (reserve(set, 2))
		return -ENOMEM;
	split(set, start);
	split(set, end);
	for (size_t i = rangeset_from(set, start); i < set->n && set->v[i].end <= end; i++)
		set->v[i].src = src;
	size_t first = rangeset_from(set, start), i = rangeset_from(set, end);
	if (i == set->n && i)
		i--;
	/* From the right: merging moves what is to the right of the place. */
	for (; set->n && i + 1 > first; i--) {
		merge_around(set, i);
		if (!i)
			break;
	}
	return 0;
}

int rangeset_shift(struct rangeset *set, uint64_t from, uint64_t to, uint64_t len)
{
	/* Two borders here, and one interval at the new place that becomes two. */
	if (reserve(set, RANGESET_SLOTS))
		return -ENOMEM;
	split(set, from);
	split(set, from + len);
	struct range *moved = set->v + set->cap;
	size_t first = rangeset_from(set, from), n = 0;
	for (; first + n < set->n && set->v[first + n].end <= from + len; n++) {
		moved[n] = set->v[first + n];
		moved[n].start = moved[n].start - from + to;
		moved[n].end = moved[n].end - from + to;
	}
	drop(set, first, n);
	/* Can't fail any more: the room is there, and mremap has emptied the new place. */
	rangeset_cut(set, to, to + len);
	for (size_t i = 0; i < n; i++)
		rangeset_insert(set, moved[i]);
	return 0;
}

int rangeset_reserve_clone(struct rangeset *dst, const struct rangeset *src)
{
	return reserve(dst, src->n);
}

int rangeset_clone(struct rangeset *dst, const struct rangeset *src)
{
	if (rangeset_reserve_clone(dst, src))
		return -ENOMEM;
	if (src->n)
		memcpy(dst->v, src->v, src->n * sizeof(*src->v));
	dst->n = src->n;
	return 0;
}
