// SPDX-License-Identifier: MIT
/* Bits for the pages of an image, see snapshot_pages.h. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "lib/map_lazily.h"
#include "lib/snapshot_pages.h"
#include "lib/uffd.h"

#define WORD 64u

static uint64_t set_bytes(const struct pages *p)
{
	return (p->npages + WORD - 1) / WORD * sizeof(uint64_t);
}

static int by_start(const void *a, const void *b)
{
	const struct page_range *x = a, *y = b;
	return x->start < y->start ? -1 : x->start > y->start;
}

static uint64_t blocks_of(const struct page_range *r)
{
	return (r->end - 1) / FERRY_HUGE - r->start / FERRY_HUGE + 1;
}

static int number_ranges(struct pages *p)
{
	qsort(p->v, p->n, sizeof(*p->v), by_start);
	for (size_t i = 0; i < p->n; i++) {
		struct page_range *r = &p->v[i];
		if (i && r->start < r[-1].end)
			return -EINVAL;
		r->page = p->npages;
		r->block = p->nblocks;
		p->npages += (r->end - r->start) / FERRY_PAGE;
		p->nblocks += blocks_of(r);
	}
	return 0;
}

static int map_sets(struct pages *p)
{
	for (unsigned int i = 0; i < PAGE_SETS; i++) {
		p->set[i] = map_lazily(set_bytes(p));
		if (!p->set[i])
			return -ENOMEM;
	}
	p->flags = map_lazily(p->nblocks);
	return p->flags ? 0 : -ENOMEM;
}

int pages_init(struct pages *p, const struct ferry_span *spans, size_t n)
{
	*p = (struct pages){0};
	if (!n)
		return -EINVAL;
	p->v = reallocarray(NULL, n, sizeof(*p->v));
	if (!p->v)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (!range_valid(spans[i].addr, spans[i].len)) {
			pages_fini(p);
			return -EINVAL;
		}
		p->v[p->n++] = (struct page_range){.start = spans[i].addr,
						   .end = spans[i].addr + spans[i].len};
	}
	int ret = number_ranges(p);
	if (!ret)
		ret = map_sets(p);
	if (ret)
		pages_fini(p);
	return ret;
}

void pages_fini(struct pages *p)
{
	for (unsigned int i = 0; i < PAGE_SETS; i++)
		if (p->set[i])
			munmap(p->set[i], set_bytes(p));
	if (p->flags)
		munmap(p->flags, p->nblocks);
	free(p->v);
	*p = (struct pages){0};
}

const struct page_range *pages_range(const struct pages *p, uint64_t addr)
{
	size_t lo = 0, hi = p->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (p->v[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < p->n ? &p->v[lo] : NULL;
}

static uint64_t page_of(const struct page_range *r, uint64_t addr)
{
	return r->page + (addr - r->start) / FERRY_PAGE;
}

static uint8_t *flags_of(const struct pages *p, const struct page_range *r, uint64_t addr)
{
	return &p->flags[r->block + (addr / FERRY_HUGE - r->start / FERRY_HUGE)];
}

static bool bit(const struct pages *p, enum page_set set, uint64_t page)
{
	return p->set[set][page / WORD] >> page % WORD & 1;
}

bool pages_has(const struct pages *p, enum page_set set, uint64_t addr)
{
	const struct page_range *r = pages_range(p, addr);
	return r && r->start <= addr && bit(p, set, page_of(r, addr));
}

static void change(struct pages *p, enum page_set set, uint64_t page, bool on)
{
	uint64_t *word = &p->set[set][page / WORD], mask = 1ull << page % WORD;

	if (!(*word & mask) == !on)
		return;
	*word ^= mask;
	p->count[set] += on ? 1 : -1ull;
}

static void change_all(struct pages *p, enum page_set set, uint64_t addr, uint64_t len, bool on)
{
	uint64_t end = addr + len;

	for (const struct page_range *r = pages_range(p, addr);
	     r && r < p->v + p->n && r->start < end; r++) {
		uint64_t at = addr > r->start ? addr : r->start;
		for (; at < end && at < r->end; at += FERRY_PAGE) {
			change(p, set, page_of(r, at), on);
			if (on)
				*flags_of(p, r, at) |= 1u << set;
		}
	}
}

void pages_add(struct pages *p, enum page_set set, uint64_t addr, uint64_t len)
{
	change_all(p, set, addr, len, true);
}

void pages_remove(struct pages *p, enum page_set set, uint64_t addr, uint64_t len)
{
	change_all(p, set, addr, len, false);
}

void pages_set_huge(struct pages *p, uint64_t addr, uint64_t len)
{
	for (uint64_t end = addr + len; addr < end; addr += FERRY_HUGE) {
		const struct page_range *r = pages_range(p, addr);
		if (r && r->start <= addr)
			*flags_of(p, r, addr) |= PAGES_HUGE;
	}
}

bool pages_is_huge(const struct pages *p, uint64_t addr)
{
	const struct page_range *r = pages_range(p, addr);
	return r && r->start <= addr && (*flags_of(p, r, addr) & PAGES_HUGE);
}

/* How many pages from @page on are not as wanted, looking no further than to the end of a word. */
static unsigned int skip(const struct pages *p, enum page_set set, uint64_t page, bool want)
{
	uint64_t word = p->set[set][page / WORD];

	word = (want ? word : ~word) >> page % WORD;
	return word ? (unsigned int)__builtin_ctzll(word) : (unsigned int)(WORD - page % WORD);
}

/* The first page of [@at, @end) of @r that is in the set, or isn't: @end if there is none. */
static uint64_t seek(const struct pages *p, const struct page_range *r, enum page_set set,
		     uint64_t at, uint64_t end, bool want)
{
	while (at < end) {
		/* A block of which no page was ever in the set is decided as a whole. */
		if (!(*flags_of(p, r, at) & 1u << set)) {
			if (!want)
				return at;
			at = (at / FERRY_HUGE + 1) * FERRY_HUGE;
			continue;
		}
		unsigned int pages = skip(p, set, page_of(r, at), want);
		if (!pages)
			return at;
		at += pages * FERRY_PAGE;
	}
	return end;
}

static bool next_run(const struct pages *p, enum page_set set, uint64_t from, uint64_t to,
		     bool want, struct ferry_span *run)
{
	for (const struct page_range *r = pages_range(p, from);
	     r && r < p->v + p->n && r->start < to; r++) {
		uint64_t end = to < r->end ? to : r->end;
		uint64_t at = seek(p, r, set, from > r->start ? from : r->start, end, want);
		if (at >= end)
			continue;
		run->addr = at;
		run->len = seek(p, r, set, at, end, !want) - at;
		return true;
	}
	return false;
}

bool pages_next(const struct pages *p, enum page_set set, uint64_t from, uint64_t to,
		struct ferry_span *run)
{
	return next_run(p, set, from, to, true, run);
}

bool pages_next_without(const struct pages *p, enum page_set set, uint64_t from, uint64_t to,
			struct ferry_span *run)
{
	return next_run(p, set, from, to, false, run);
}
