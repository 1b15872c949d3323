// SPDX-License-Identifier: GPL-2.0-only
#ifdef __KERNEL__
#include <linux/errno.h>
#include <linux/minmax.h>
#else
#include <errno.h>
#define min(a, b) ((a) < (b) ? (a) : (b))
#endif

#include "plan.h"

#define PF_MODES (PAGEFERRY_MOVE_ALLOW_SRC_HOLES | PAGEFERRY_MOVE_DONTWAKE)

static bool pf_range_valid(__u64 start, __u64 len)
{
	return start < PF_TASK_SIZE && len <= PF_TASK_SIZE - start;
}

int pf_plan_check(const struct pageferry_move *move)
{
	if (move->mode & ~PF_MODES)
		return -EINVAL;
	if (!move->len || (move->dst | move->src | move->len) % PF_PAGE_SIZE)
		return -EINVAL;
	if (!pf_range_valid(move->dst, move->len) || !pf_range_valid(move->src, move->len))
		return -EINVAL;
	return 0;
}

struct pf_step pf_plan_step(unsigned long dst, unsigned long src, unsigned long left)
{
	unsigned long dst_room = PF_TABLE_SIZE - dst % PF_TABLE_SIZE;
	unsigned long src_room = PF_TABLE_SIZE - src % PF_TABLE_SIZE;
	unsigned long room = min(dst_room, src_room);
	struct pf_step step = { .len = min(room, left) };

	step.whole = step.len == PF_TABLE_SIZE;
	return step;
}
