// SPDX-License-Identifier: MIT
/*
 * Which way a process is saved. Asynchronously, nobody waits but for the end of it, and whether
 * that works is found out by doing so: as long as each round has less to save than the one before.
 * If not, what is left is frozen, and who writes to it waits until it is saved.
 */
#include "tools/snap.h"

/* Freezing that little takes no longer than it takes to stop, and that is needed but once. */
#define SMALL (16ull << 20)

uint64_t snap_rss(pid_t pid)
{
	long kib = snap_status(pid, "\nRssAnon:");
	return kib > 0 ? (uint64_t)kib * 1024 : 0;
}

static void set(struct snap_result *r, const char *way, const char *reason)
{
	r->way = way;
	r->way_reason = reason;
}

/* NULL: it need not be frozen from the begin. */
static const char *why_sync(const struct snap_job *job)
{
	const struct snap_options *o = job->options;

	if (o->way == WAY_SYNC)
		return "as --way says";
	if (o->compress)
		return "nothing can be written twice into a compressed file";
	if (o->way == WAY_ASYNC)
		return NULL;
	if (snap_may_be_written_aside(o->pid))
		return "devices may write into its memory, which isn't found otherwise";
	/* KSM doesn't let frozen memory be. */
	if (snap_rss(o->pid) < SMALL && !snap_maps_are_merged(&job->flags))
		return "it has little memory, which is frozen at once";
	return NULL;
}

bool snap_way_is_async(struct snap_job *job)
{
	if (job->series.state)
		return false;
	const char *reason = why_sync(job);
	set(&job->result, reason ? "sync" : "async", reason ? reason : "not yet known");
	return !reason;
}

bool snap_way_can_be_sync(struct snap_job *job)
{
	if (job->options->way != WAY_AUTO)
		return false;
	set(&job->result, "sync", "this kernel can't track changes");
	return true;
}

void snap_way_found(struct snap_job *job)
{
	const struct snap_async *a = &job->async;
	struct snap_result *r = &job->result;

	if (!a->used)
		return;
	r->async = a;
	if (a->aside)
		set(r, "both", "meanwhile devices may write into its memory, which isn't found");
	else if (job->snap)
		set(r, "both", "it changes its memory as fast as that is saved");
	else if (a->converged)
		set(r, "async", "each round had less to save, until little was left");
	else
		set(r, "async", "what was left didn't get less, but is little");
}
