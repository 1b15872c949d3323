// SPDX-License-Identifier: MIT
/*
 * What the watched program did to its address space, in the order in which it did it. While one of
 * these messages is unread the kernel answers every resolving ioctl with EAGAIN, and the program's
 * call waits: reading it lets the program go on.
 */
#include "lib/loop.h"

/*
 * The child has the parent's pages so far; what is missing comes from the same sources. Nothing tells
 * of a child's end: to keep few descriptors of dead ones, look for them whenever a new one comes.
 */
static void forked(struct ferry_loop *loop, const struct space *parent, int uffd)
{
	for (size_t i = 0; i < loop->nspaces; i++)
		if (loop->spaces[i]->owned && resolve_is_gone(loop->spaces[i]->uffd))
			loop->spaces[i]->gone = true;
	loop_add_child(loop, parent, uffd);
}

/* After a fork two programs may have the same page. */
static bool served_elsewhere(const struct ferry_loop *loop, const struct space *here,
			     const struct ferry_source *src)
{
	for (size_t i = 0; i < loop->nspaces; i++) {
		const struct space *s = loop->spaces[i];
		if (s != here && !s->gone && space_serves(s, src) && !resolve_is_gone(s->uffd))
			return true;
	}
	return false;
}

/* Tell every source that serves a part of [@start, @end) that nobody will ask for it again. */
static void tell_removed(const struct ferry_loop *loop, const struct space *space, uint64_t start,
			 uint64_t end)
{
	const struct rangeset *set = &space->regions;

	for (size_t i = rangeset_from(set, start); i < set->n && set->v[i].start < end; i++) {
		const struct range *r = &set->v[i];
		uint64_t from = start > r->start ? start : r->start;
		uint64_t to = end < r->end ? end : r->end;
		if (r->src->removed && !served_elsewhere(loop, space, r->src))
			r->src->removed(r->src, r->offset + (from - r->start), to - from);
	}
}

void event_apply(struct ferry_loop *loop, struct space *space, const struct uffd_msg *msg)
{
	uint64_t start = msg->arg.remove.start, end = msg->arg.remove.end;

	switch (msg->event) {
	case UFFD_EVENT_FORK:
		loop->stats.forks++;
		forked(loop, space, (int)msg->arg.fork.ufd);
		break;
	case UFFD_EVENT_REMAP:
		loop->stats.remaps++;
		rangeset_shift(&space->regions, msg->arg.remap.from, msg->arg.remap.to,
			       msg->arg.remap.len);
		break;
	case UFFD_EVENT_REMOVE:
		loop->stats.removes++;
		tell_removed(loop, space, start, end);
		/*
		 * From now on the range reads as zero, whatever its source once had: this is what
		 * MADV_DONTNEED promises to the program.
		 */
		rangeset_replace(&space->regions, start, end, ferry_source_zero());
		break;
	case UFFD_EVENT_UNMAP:
		loop->stats.unmaps++;
		tell_removed(loop, space, start, end);
		rangeset_cut(&space->regions, start, end);
		break;
	}
}
