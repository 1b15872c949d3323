/* SPDX-License-Identifier: MIT */
/*
 * One watched address space: a userfaultfd, which source serves which of its addresses, and the
 * faults that had to be put off. The name region is used for one interval of it.
 */
#ifndef FERRY_SPACE_H
#define FERRY_SPACE_H

#include <stdbool.h>

#include "lib/rangeset.h"
#include "lib/uffd.h"

struct deferred {
	struct ferry_fault fault;
	bool by_source; /* the source said LATER; else the kernel said EAGAIN */
};

struct space {
	int uffd;
	bool owned; /* came with a FORK event: ours to close */
	bool forks; /* such an event may come */
	bool gone;  /* the process has exited */
	struct rangeset regions;
	struct deferred *deferred;
	size_t ndeferred, cap_deferred;
	struct deferred *spare; /* the list's other half, while faults are tried again */
	size_t cap_spare;
};

void space_init(struct space *space, int uffd, bool owned);
void space_fini(struct space *space);

/* Put @fault off; the same page and kind is kept once. Without memory its thread faults again. */
void space_defer(struct space *space, const struct ferry_fault *fault, bool by_source);

/* Where [@offset, ...) of @src is now: *addr, and *len bytes from there on. False: nowhere. */
bool space_locate(const struct space *space, const struct ferry_source *src, uint64_t offset,
		  uint64_t *addr, uint64_t *len);

/* Is any of its pages served by @src? */
bool space_serves(const struct space *space, const struct ferry_source *src);

#endif
