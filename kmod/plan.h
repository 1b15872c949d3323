/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What can be said of a move without looking at any memory: is the request well formed, and into which
 * steps does it fall? No kernel header but types is needed, so it builds in user space too, for its tests.
 */
#ifndef PAGEFERRY_PLAN_H
#define PAGEFERRY_PLAN_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
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

/* 0 or -EINVAL. */
int pf_plan_check(const struct pageferry_move *move);
struct pf_step pf_plan_step(unsigned long dst, unsigned long src, unsigned long left);

#endif
