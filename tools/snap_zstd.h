/* SPDX-License-Identifier: MIT */
/*
 * A file compressed with zstd whose parts come in any order. Each part is a frame of its own, kept
 * in a file without a name; in the end they are put one after the other, with frames of zeros for
 * what never came: frames in a row are one valid stream. So nothing is kept in memory but where the
 * frames are.
 */
#ifndef PAGEFERRY_SNAP_ZSTD_H
#define PAGEFERRY_SNAP_ZSTD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct snap_zstd;

/** @spool: where they are kept; it takes that over in any case. 0 or -errno. */
int snap_zstd_open(struct snap_zstd **zstd, int spool);
/**
 * The part of the file from @at on; parts don't overlap. Returns how many bytes were written, or
 * -errno.
 */
int64_t snap_zstd_add(struct snap_zstd *zstd, uint64_t at, const void *data, size_t len);
/** Put the frames into order, in @fd. @step is told of what was written, and may end it. */
int snap_zstd_finish(struct snap_zstd *zstd, int fd, int (*step)(void *arg, uint64_t written),
		     void *arg);
void snap_zstd_close(struct snap_zstd *zstd);

/** Does this file begin as a compressed one does? */
bool snap_zstd_is(int fd);
/** The first @len bytes of what is compressed there. 0, -errno; -EBADMSG: it is damaged. */
int snap_zstd_peek(int fd, void *to, size_t len);
/**
 * Decompress @from into @to, zeros as holes. @limit tells from the first SNAP_ZSTD_HEAD bytes how
 * long it may become: few bytes may stand for terabytes. 0, -errno; -EBADMSG: it is damaged;
 * -EOVERFLOW: there is more.
 */
#define SNAP_ZSTD_HEAD 64
int snap_zstd_expand(int from, int to, uint64_t (*limit)(const void *head));

#endif
