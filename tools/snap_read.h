/* SPDX-License-Identifier: MIT */
/*
 * Core files of ours, read. Whoever wrote one may have wanted to do harm: every number in it is
 * checked, and no more memory is taken than the file has bytes.
 */
#ifndef PAGEFERRY_SNAP_READ_H
#define PAGEFERRY_SNAP_READ_H

#include <stddef.h>
#include <stdint.h>

#include "tools/snap_ident.h"
#include "tools/tool.h"

static inline uint64_t snap_least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

struct snap_segment {
	uint64_t addr, len;
	uint64_t at, have; /* the first so many bytes are in the file; SAME: none */
	uint32_t flags;    /* PF_* */
	bool same;
};

struct snap_read {
	int fd;
	const char *path;
	uint64_t size;
	struct snap_ident ident;
	uint64_t notes_at, notes_len;
	struct snap_segment *v; /* in the order of addresses and of the file; disjoint in both */
	size_t n, cap;
};

/** A part of the memory: of that file, at @at, or, with @file NULL, in none. */
struct snap_piece {
	const struct snap_read *file;
	uint64_t addr, len, at;
	uint32_t flags;
};

/**
 * Read what is in @fd, which is the caller's; @path is for messages. 0 or -errno with @why; then
 * there is nothing to free.
 */
int snap_read_parse(struct snap_read *file, int fd, const char *path, struct why *why);
/** How long the file is at most that begins with this Elf64_Ehdr: its headers are its end. */
uint64_t snap_read_limit(const void *head);
void snap_read_free(struct snap_read *file);
/** Does each one follow on the one before, and the first on none? */
int snap_read_check_chain(const struct snap_read *files, size_t n, struct why *why);
/**
 * The memory of the last of @files, piece by piece in the order of addresses. @piece may end it by
 * an error. -EBADMSG: they don't fit together after all.
 */
int snap_read_pieces(const struct snap_read *files, size_t n,
		     int (*piece)(void *arg, const struct snap_piece *piece), void *arg,
		     struct why *why);

#endif
