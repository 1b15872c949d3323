/* SPDX-License-Identifier: MIT */
/*
 * What is known of the pages of an image, by their addresses at its begin: a few bits for each
 * page, in memory that costs nothing where nothing is known.
 */
#ifndef FERRY_SNAPSHOT_PAGES_H
#define FERRY_SNAPSHOT_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pageferry.h"

enum page_set {
	PAGES_TODO, /* frozen, and not yet saved */
	PAGES_HAD,  /* has or had contents at the begin; what hasn't is zero */
	PAGES_LOST, /* is no more, and was not saved */
	PAGE_SETS
};

struct page_range {
	uint64_t start, end;
	uint64_t page;  /* number of its first page among all pages of all ranges */
	uint64_t block; /* the same for 2 MiB blocks; a range begins a new one */
};

struct pages {
	struct page_range *v; /* sorted, disjoint */
	size_t n;
	uint64_t npages, nblocks;
	uint64_t *set[PAGE_SETS];
	uint8_t *flags; /* for each block: 1 << set: some page of it is in the set; PAGES_HUGE */
	uint64_t count[PAGE_SETS];
};

#define PAGES_HUGE 0x80u /* was mapped by one huge page */

/* -EINVAL: unaligned, empty or overlapping spans; -ENOMEM. */
int pages_init(struct pages *pages, const struct ferry_span *spans, size_t n);
void pages_fini(struct pages *pages);

/* The range that holds @addr, or the first one behind it, or NULL. */
const struct page_range *pages_range(const struct pages *pages, uint64_t addr);

/* These may be given any addresses: what is outside of the ranges is ignored. */
bool pages_has(const struct pages *pages, enum page_set set, uint64_t addr);
void pages_add(struct pages *pages, enum page_set set, uint64_t addr, uint64_t len);
void pages_remove(struct pages *pages, enum page_set set, uint64_t addr, uint64_t len);
void pages_set_huge(struct pages *pages, uint64_t addr, uint64_t len);
bool pages_is_huge(const struct pages *pages, uint64_t addr);

/* The first run of pages of @set in [@from, @to), within one range. False: there is none. */
bool pages_next(const struct pages *pages, enum page_set set, uint64_t from, uint64_t to,
		struct ferry_span *run);
/* The same for pages that are not in @set. */
bool pages_next_without(const struct pages *pages, enum page_set set, uint64_t from, uint64_t to,
			struct ferry_span *run);

#endif
