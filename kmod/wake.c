// SPDX-License-Identifier: GPL-2.0-only
/* Wake who waits for pages of a userfaultfd, as its own ioctls do. */
#include <linux/sched.h>
#include <linux/wait.h>

#include "compat/compat.h"
#include "move.h"

static bool pf_somebody_waits(struct userfaultfd_ctx *ctx)
{
	bool waits;
	unsigned int seq;

	/* A message that is being read is on neither queue for a moment. */
	do {
		seq = read_seqcount_begin(&ctx->refile_seq);
		waits = waitqueue_active(&ctx->fault_pending_wqh) ||
			waitqueue_active(&ctx->fault_wqh);
		cond_resched();
	} while (read_seqcount_retry(&ctx->refile_seq, seq));
	return waits;
}

void pf_wake(struct userfaultfd_ctx *ctx, unsigned long start, unsigned long len)
{
	struct pf_wake_range range = { start, len };

	/* The page must be visible before we look for waiters; they queue before they look for it. */
	smp_mb();
	if (!pf_somebody_waits(ctx))
		return;
	spin_lock_irq(&ctx->fault_pending_wqh.lock);
	if (waitqueue_active(&ctx->fault_pending_wqh))
		__wake_up_locked_key(&ctx->fault_pending_wqh, TASK_NORMAL, &range);
	if (waitqueue_active(&ctx->fault_wqh))
		__wake_up(&ctx->fault_wqh, TASK_NORMAL, 1, &range);
	spin_unlock_irq(&ctx->fault_pending_wqh.lock);
}
