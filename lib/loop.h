/* SPDX-License-Identifier: MIT */
/* The loop's inside, for event.c and the hand-over. */
#ifndef FERRY_LOOP_H
#define FERRY_LOOP_H

#include <poll.h>

#include "lib/placement.h"
#include "lib/resolve.h"
#include "lib/space.h"

struct ferry_loop {
	struct space **spaces;
	size_t nspaces, cap_spaces;
	struct space *child; /* for the next fork, so that there is memory to follow it */
	struct pollfd *fds; /* one for each space, the stop event, the caller's */
	size_t cap_fds;
	int stop_fd;
	bool stopped;	 /* ferry_loop_stop was noticed; only the thread that serves looks at it */
	bool timed;	    /* somebody wants to know: */
	int64_t drained_ns; /* when messages were last read, CLOCK_MONOTONIC */
	bool retry;	 /* next round: ask about faults that were answered with LATER */
	bool retrying;	 /* this round does */
	int module;		 /* the kernel module, for a source that answers with it; -1: none */
	struct refusals *refusals; /* the same */
	uint32_t resolved;	 /* by which kind of answer the last fault was */
	struct placement placement;
	struct ferry_loop_stats stats;
};

/* As ferry_loop_step, and @extra[0..@n) are polled too, their revents filled in. */
int loop_step(struct ferry_loop *loop, struct pollfd *extra, unsigned int n, int timeout_ms);

struct space *loop_space(const struct ferry_loop *loop, int uffd);
/* @uffd came with a fork event of @parent. */
void loop_add_child(struct ferry_loop *loop, const struct space *parent, int uffd);

/*
 * Follow one event; other spaces may be added. An event is read once, and one that isn't followed
 * means wrong pages: so whoever reads it makes room first, and this can't fail.
 */
void event_apply(struct ferry_loop *loop, struct space *space, const struct uffd_msg *msg);

#endif
