/* SPDX-License-Identifier: MIT */
/*
 * What a process changes between two snapshots. A userfaultfd of its memory with
 * UFFD_FEATURE_WP_ASYNC has the kernel itself take the protection from a page that is written to,
 * and PAGEMAP_SCAN tells which are still protected. That lasts as long as the userfaultfd is open,
 * so a process of its own, the holder, holds it.
 *
 * It has no UFFD_FEATURE_EVENT_REMAP: what is moved is no longer tracked, and so counts as changed,
 * like everything else of which the kernel doesn't say that it is not.
 */
#ifndef PAGEFERRY_SNAP_TRACK_H
#define PAGEFERRY_SNAP_TRACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tools/snap_ident.h"
#include "tools/tool.h"

struct ferry_span;
struct page_region;
struct snap_map;
struct snap_maps;
struct snap_target;

/** Pages that are populated: those that are as they were, and those that may not be. */
struct snap_changes {
	struct ferry_span *same, *changed;
	size_t nsame, nchanged;
	uint64_t same_bytes, changed_bytes;
};

/** Learn what this kernel tells, by trying: before all else, and before the process stands still.
 */
void snap_track_learn(void);
/**
 * Is what was moved (mremap) known not to be tracked, by trying? Before 6.13 (and in what was not
 * mended since) it looks protected as before. That is no matter to whom asks before he registers it
 * and lets nothing move in between, but to whom does so while the process runs.
 */
bool snap_track_knows_moved(void);
/** A list that grows. */
int snap_span_add(struct ferry_span **v, size_t *n, uint64_t addr, uint64_t len);
/** Make it one for tracking. 0 or -errno. */
int snap_track_prepare(int uffd);
/**
 * The process stands still. Have the mappings that can be frozen tracked from now on; nothing is
 * protected yet. 0, -ESRCH: @uffd is not of this memory; another -errno.
 */
int snap_track_register(int uffd, struct snap_maps *maps);
/** Can this mapping be tracked? */
bool snap_track_may(const struct snap_map *map);
/**
 * The same, and what has changed. Only what was tracked by @uffd before can be as it was. What is
 * found is protected in the same moment, as long as less than @limit has changed; 0: nothing is,
 * since nobody asks again. On error it isn't known any more what has changed.
 */
int snap_track_scan(struct snap_changes *changes, int uffd, const struct snap_target *target,
		    struct snap_maps *maps, uint64_t limit);
void snap_changes_free(struct snap_changes *changes);
/** Protect these; what isn't tracked, or is gone, is passed over. */
int snap_track_these(const struct snap_target *target, const struct ferry_span *spans, size_t n);
/**
 * The process runs. Protect the next pages of [*at, @end) that are populated and not protected: at
 * most 2 MiB in @n runs, of which it returns how many there are; none of them lie before *at then.
 * What is tracked by another than @uffd is passed over. 0: there are none before *at; -errno.
 */
long snap_track_next(int uffd, const struct snap_target *target, uint64_t *at, uint64_t end,
		     struct page_region *vec, unsigned int n);
/** Undo: they count as changed again, but for what is no longer tracked by @uffd. */
void snap_track_forget(int uffd, const struct ferry_span *spans, size_t n);
/** No mapping is tracked any more. */
void snap_track_end(int uffd, const struct snap_maps *maps);

/* ---- the holder, snap_holder.c */

/** Another process that snapshots the same one: who keeps the userfaultfd for it. */
struct snap_holder {
	int sock; /* -1: there is none */
	int uffd;
	uint8_t id[SNAP_ID_LEN]; /* of the snapshot since which changes are tracked */
};

/** Is the process tracked? */
bool snap_holder_exists(int pidfd);
/** 0; -ENOENT: it isn't tracked; -EBUSY: somebody else uses it now; another -errno. */
int snap_holder_open(struct snap_holder *holder, int pidfd);
/** From now on the changes are since @id; or, with NULL, since what it was. */
int snap_holder_done(struct snap_holder *holder, const uint8_t *id);
/** Without having told that it is done, this ends the tracking. */
void snap_holder_close(struct snap_holder *holder);
/** Have it end. 0, -ENOENT. */
int snap_holder_stop(int pidfd);
/** Be ready to keep: nobody else can be it from now on. A socket, or -EADDRINUSE, -errno. */
int snap_holder_listen(int pidfd);
/** Start one, which takes over all that it is given. Returns its pid or -errno. */
pid_t snap_holder_start(int listener, int pidfd, int uffd, const uint8_t *id);

#endif
