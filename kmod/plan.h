/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What can be said of a move without looking at any memory: is the request well formed, and into which
 * steps does it fall? No kernel header but types and errno is needed, so it builds in user space too, for its
 * tests. Inline, as it is done in each call.
 */
#ifndef PAGEFERRY_PLAN_H
#define PAGEFERRY_PLAN_H

#ifdef __KERNEL__
#include <linux/errno.h>
#include <linux/types.h>
#else
#include <errno.h>
#include <stdbool.h>
#endif
#include <linux/pageferry.h>

#define PF_PAGE_SIZE  4096ULL
#define PF_TABLE_SIZE (512 * PF_PAGE_SIZE) /* what one page table, or one huge page, maps */
#define PF_TASK_SIZE  ((1ULL << 47) - PF_PAGE_SIZE)

/* One step stays within one page table on either side. */
struct pf_step {
	unsigned long len;
	bool whole; /* a whole table's worth, aligned on both sides: a huge page can move as one */
};

#define PF_MODES (PAGEFERRY_MOVE_ALLOW_SRC_HOLES | PAGEFERRY_MOVE_DONTWAKE | PAGEFERRY_MOVE_CHECK | \
		  PAGEFERRY_MOVE_TABLES | PAGEFERRY_MOVE_TABLES_ONLY)
/* A question is about pages. */
#define PF_EITHER (PAGEFERRY_MOVE_CHECK | PAGEFERRY_MOVE_TABLES)

static inline bool pf_range_valid(__u64 start, __u64 len)
{
	return start < PF_TASK_SIZE && len <= PF_TASK_SIZE - start;
}

static inline bool pf_mode_valid(__u32 mode)
{
	if ((mode & ~PF_MODES) || (mode & PF_EITHER) == PF_EITHER)
		return false;
	return (mode & PAGEFERRY_MOVE_TABLES) || !(mode & PAGEFERRY_MOVE_TABLES_ONLY);
}

/* 0 or -EINVAL. */
static inline int pf_plan_check(const struct pageferry_move *move)
{
	__u64 unit = move->mode & PAGEFERRY_MOVE_TABLES_ONLY ? PF_TABLE_SIZE : PF_PAGE_SIZE;

	if (!pf_mode_valid(move->mode))
		return -EINVAL;
	if (!move->len || (move->dst | move->src | move->len) % unit)
		return -EINVAL;
	if (!pf_range_valid(move->dst, move->len) || !pf_range_valid(move->src, move->len))
		return -EINVAL;
	return 0;
}

static inline struct pf_step pf_plan_step(unsigned long dst, unsigned long src, unsigned long left)
{
	unsigned long dst_room = PF_TABLE_SIZE - dst % PF_TABLE_SIZE;
	unsigned long src_room = PF_TABLE_SIZE - src % PF_TABLE_SIZE;
	unsigned long room = dst_room < src_room ? dst_room : src_room;
	struct pf_step step = { .len = room < left ? room : left };

	step.whole = step.len == PF_TABLE_SIZE;
	return step;
}

/*
 * How far it is to the first page table that is covered by the rest and could move whole; as far as the
 * rest goes if there is none.
 */
static inline unsigned long pf_plan_to_table(unsigned long dst, unsigned long src, unsigned long left)
{
	unsigned long before = -dst % PF_TABLE_SIZE;

	if ((dst ^ src) % PF_TABLE_SIZE || left < PF_TABLE_SIZE || left - PF_TABLE_SIZE < before)
		return left;
	return before;
}

#endif
