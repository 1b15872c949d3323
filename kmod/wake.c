// SPDX-License-Identifier: GPL-2.0-only
/* Wake who waits for pages of a userfaultfd, as its own ioctls do. */
#include <linux/sched.h>
#include <linux/wait.h>

#include "compat/compat.h"
#include "move.h"

void pf_wake_all(struct userfaultfd_ctx *ctx, unsigned long start, unsigned long len)
{
	struct pf_wake_range range = { start, len };

	spin_lock_irq(&ctx->fault_pending_wqh.lock);
	if (waitqueue_active(&ctx->fault_pending_wqh))
		__wake_up_locked_key(&ctx->fault_pending_wqh, TASK_NORMAL, &range);
	if (waitqueue_active(&ctx->fault_wqh))
		__wake_up(&ctx->fault_wqh, TASK_NORMAL, 1, &range);
	spin_unlock_irq(&ctx->fault_pending_wqh.lock);
}
