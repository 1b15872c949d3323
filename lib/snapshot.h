/* SPDX-License-Identifier: MIT */
/*
 * The inside of a snapshot: memory that is frozen by userfaultfd write-protection, and saved bit by
 * bit.
 *
 * What is still to be saved is what the kernel says is protected: a page that was empty at the
 * begin never is. Nothing is trusted that was read before that was asked: a block is read, then it
 * is looked whether it is still frozen, then it is unprotected; and since the kernel refuses the
 * last step (EAGAIN) while an event is unread, all three speak of the same moment.
 *
 * Two threads: the one that serves reads the userfaultfd, the caller's iterates. The lock is held
 * from reading an event until it has been applied, so that no one works from a state that has
 * passed.
 */
#ifndef FERRY_SNAPSHOT_H
#define FERRY_SNAPSHOT_H

#include <pthread.h>
#include <sys/types.h>

#include "lib/rangeset.h"
#include "lib/snapshot_pages.h"
#include "lib/snapshot_pool.h"
#include "lib/uffd.h"

#define SNAPSHOT_WINDOW  FERRY_HUGE /* most that is saved under one hold of the lock */
#define SNAPSHOT_RUNS    (FERRY_HUGE_PAGES / 2)
#define SNAPSHOT_PENDING 1024u
#define SNAPSHOT_STREAMS 8u

#define SNAPSHOT_FEATURES                                                                          \
	(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |   \
	 UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_THREAD_ID)

/* Whose memory: descriptors that are bound to it, so that a pid that is used again does no harm. */
struct snapshot_target {
	int uffd;    /* after the handshake, non-blocking; the snapshot takes it over */
	int pagemap; /* /proc/PID/pagemap; taken over */
	int mem;     /* /proc/PID/mem; taken over */
	pid_t pid;
};

struct snapshot_run {
	struct ferry_span span;
	const char *data;
};

/* A writer that comes along: where, and how much it is given at once. */
struct snapshot_stream {
	uint64_t start, end;
	unsigned int shift;
	uint64_t used; /* when */
};

struct snapshot_fault {
	uint64_t addr;
	uint32_t tid;
};

struct ferry_snapshot {
	pthread_mutex_t lock;
	pthread_cond_t room; /* the pool has been drained by a block, or it is over */
	struct snapshot_target target;
	struct rangeset now; /* where the pages are now; offset: their address at the begin */
	struct pages pages;
	struct pool pool;
	int stop_fd;
	pthread_t thread;
	bool serving, stopping;
	int error; /* the memory is gone, or worse: nothing more will come */

	uint64_t learned; /* all below is known */
	uint64_t bulk;    /* all below is saved */
	bool released;
	uint32_t iterator; /* the thread that drains the pool, see fault_room() */
	/*
	 * A call that discards waits for its event to be read, and until then nothing can be
	 * unprotected: what it will discard is only read. A page of it that stays after all is
	 * unprotected by its next fault.
	 */
	bool read_only;
	/*
	 * For one who wants to know afterwards what was written meanwhile: what is saved stays
	 * frozen until somebody writes to it, and the memory isn't let go of in the end.
	 */
	bool keep;
	bool leave;   /* for now, a block is not unprotected when it is saved */
	bool holding; /* the oldest of the pool is given out */
	char *window;
	struct snapshot_run runs[SNAPSHOT_RUNS];
	size_t nruns, run;
	uint64_t told_lost, told_zero; /* all below is told */

	struct snapshot_fault pending[SNAPSHOT_PENDING];
	size_t npending;
	struct snapshot_stream streams[SNAPSHOT_STREAMS];
	uint64_t clock;
	int64_t last_fault_ns;
	struct ferry_snapshot_report report;
};

/*
 * What ferry_snapshot_begin() does, in two steps for a target that stands still between them: make it
 * and protect; serve. @spans are the target's. Its descriptors are taken over, also on error; closing
 * them takes the protection away.
 */
int snapshot_arm(struct ferry_snapshot **snap, const struct snapshot_target *target,
		 const struct ferry_span *spans, size_t n, const struct ferry_snapshot_opts *opts);
int snapshot_serve(struct ferry_snapshot *snap);
/*
 * Does KSM merge pages now? The merged page isn't protected, whether the one before was or not.
 */
bool snapshot_ksm_runs(void);
/* Does this kernel tell by @pagemap what is protected (Linux 6.7)? 0 or -EOPNOTSUPP. */
int snapshot_can_scan(int pagemap);

/*
 * Which pages are still frozen, and where they were at the begin: of a snapshot that keeps, whose
 * program stands still. *spans is to be freed. 0 or -errno.
 */
int snapshot_frozen(struct ferry_snapshot *snap, struct ferry_span **spans, size_t *n);
/* Before it serves: these pages are saved elsewhere. */
void snapshot_skip(struct ferry_snapshot *snap, const struct ferry_span *spans, size_t n);

/* ---- the following with the lock held */

/*
 * Save what is to be saved of the pages that were at [@from, @to) at the begin; they all lie within
 * one window and one interval of @now. Their contents go to @buffer, and *runs says which. What
 * turns out to be no longer there is put among the lost ones. Afterwards they are not protected any
 * more. Returns 0, -EAGAIN: an event is in the way, nothing has changed; -ESRCH: the memory is
 * gone.
 */
int snapshot_take(struct ferry_snapshot *snap, uint64_t from, uint64_t to, char *buffer,
		  struct snapshot_run *runs, size_t *nruns);
/* Where is the page that was at @addr at the begin? With *len: how much lies behind it in one
 * piece. */
bool snapshot_where(const struct ferry_snapshot *snap, uint64_t addr, uint64_t *now, uint64_t *len);
/* For scan_call(): which pages are frozen. */
extern const struct pm_scan_arg snapshot_frozen_pages;
/* Ask the kernel which pages are frozen. 0, -EAGAIN, -ESRCH. */
int snapshot_learn(struct ferry_snapshot *snap, uint64_t from, uint64_t to);
/* What of [@from, @to) is not known yet is to be saved. */
void snapshot_unknown(struct ferry_snapshot *snap, uint64_t from, uint64_t to);
/* Unprotect memory as it lies now; 0, -EAGAIN, -ESRCH. *done: up to where. */
int snapshot_unprotect(struct ferry_snapshot *snap, uint64_t now, uint64_t len, uint64_t *done);
/* Is an event in the way? */
bool snapshot_blocked(const struct ferry_snapshot *snap);

/* Follow an event that was read. */
void snapshot_event(struct ferry_snapshot *snap, const struct uffd_msg *msg);
/* Before one is read: save what threads that wait for it are about to discard. -EAGAIN: no room
 * yet. */
int snapshot_save_doomed(struct ferry_snapshot *snap);

void *snapshot_thread(void *snap);
/* Put what is at [@from, @to), addresses of the begin, into the pool. 0, -EAGAIN, -ENOSPC, -ESRCH.
 */
int snapshot_pool(struct ferry_snapshot *snap, uint64_t from, uint64_t to, size_t spare);

#endif
