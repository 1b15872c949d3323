/* SPDX-License-Identifier: MIT */
/*
 * Which source serves which addresses: a sorted array of disjoint intervals. Splitting an interval
 * keeps the offset into its source right on both sides; neighbours that continue each other are
 * merged, so that a program that discards page after page doesn't make the array grow for ever.
 */
#ifndef FERRY_RANGESET_H
#define FERRY_RANGESET_H

#include <stddef.h>
#include <stdint.h>

#include "pageferry.h"

struct range {
	uint64_t start, end; /* [start, end) */
	struct ferry_source *src;
	uint64_t offset; /* of start, within src */
};

struct rangeset {
	struct range *v; /* room for twice cap: the second half is for what is being moved */
	size_t n, cap;
};

void rangeset_free(struct rangeset *set);
/* Make room for @changes of the changes below: until then they can't fail. -ENOMEM. */
#define RANGESET_SLOTS 3 /* what one of them may need */
int rangeset_reserve(struct rangeset *set, size_t changes);
/* The interval that holds @addr, or NULL. */
const struct range *rangeset_find(const struct rangeset *set, uint64_t addr);
/* The first interval that ends after @addr: where a walk from @addr begins. */
size_t rangeset_from(const struct rangeset *set, uint64_t addr);
/* -EEXIST: overlaps; -ENOMEM: nothing changed. */
int rangeset_insert(struct rangeset *set, struct range r);
/* Take [@start, @end) out. -ENOMEM: nothing changed. */
int rangeset_cut(struct rangeset *set, uint64_t start, uint64_t end);
/* Cut [@start, @end) and put what of it was served before under @src. -ENOMEM: nothing lost. */
int rangeset_replace(struct rangeset *set, uint64_t start, uint64_t end, struct ferry_source *src);
/* mremap: what is at [@from, @from + @len) is now at @to. -ENOMEM. */
int rangeset_shift(struct rangeset *set, uint64_t from, uint64_t to, uint64_t len);
/* @dst, which holds nothing, becomes the same as @src. -ENOMEM, unless the room was reserved. */
int rangeset_clone(struct rangeset *dst, const struct rangeset *src);
int rangeset_reserve_clone(struct rangeset *dst, const struct rangeset *src);

#endif
