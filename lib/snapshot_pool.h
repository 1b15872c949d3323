/* SPDX-License-Identifier: MIT */
/*
 * Where blocks wait that a writer has asked for: a ring of bounded size, first in, first out.
 * Nothing is ever allocated behind its back.
 */
#ifndef FERRY_SNAPSHOT_POOL_H
#define FERRY_SNAPSHOT_POOL_H

#include <stddef.h>
#include <stdint.h>

struct saved {
	uint64_t addr, len;
	size_t at; /* in the ring */
};

struct pool {
	char *mem;
	size_t size, head; /* head: where the next one goes */
	struct saved *v;   /* a ring, too: one for each page that there is room for */
	size_t cap, first, n;
	uint64_t used, peak; /* bytes */
};

int pool_init(struct pool *pool, size_t size);
void pool_fini(struct pool *pool);

/*
 * Room for @len bytes in one piece, of which pool_add takes as much as it is told; NULL: none, also
 * when less than @spare bytes would be left.
 */
char *pool_room(struct pool *pool, size_t len, size_t spare);
/* @data lies in the room last given, behind what was added of it before. */
void pool_add(struct pool *pool, uint64_t addr, const char *data, uint64_t len);
/* The oldest; NULL: it is empty. */
const struct saved *pool_oldest(const struct pool *pool);
void pool_drop(struct pool *pool);

#endif
