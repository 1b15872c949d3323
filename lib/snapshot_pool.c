// SPDX-License-Identifier: MIT
/* The ring of saved blocks, see snapshot_pool.h. */
#include <errno.h>
#include <sys/mman.h>

#include "lib/map_lazily.h"
#include "lib/snapshot_pool.h"
#include "lib/uffd.h"

int pool_init(struct pool *pool, size_t size)
{
	*pool = (struct pool){.size = size, .cap = size / FERRY_PAGE};
	pool->mem = map_lazily(size);
	pool->v = map_lazily(pool->cap * sizeof(*pool->v));
	if (pool->mem && pool->v)
		return 0;
	pool_fini(pool);
	return -ENOMEM;
}

void pool_fini(struct pool *pool)
{
	if (pool->mem)
		munmap(pool->mem, pool->size);
	if (pool->v)
		munmap(pool->v, pool->cap * sizeof(*pool->v));
	*pool = (struct pool){0};
}

char *pool_room(struct pool *pool, size_t len, size_t spare)
{
	if (pool->used + len + spare > pool->size || pool->n == pool->cap)
		return NULL;
	/* From the start again when it is empty: pages that were never touched stay so. */
	if (!pool->n)
		pool->head = 0;
	size_t tail = pool->n ? pool->v[pool->first].at : 0;
	if (pool->n && pool->head <= tail)
		return tail - pool->head >= len ? pool->mem + pool->head : NULL;
	if (pool->size - pool->head >= len)
		return pool->mem + pool->head;
	if (tail < len)
		return NULL;
	pool->head = 0;
	return pool->mem;
}

void pool_add(struct pool *pool, uint64_t addr, const char *data, uint64_t len)
{
	size_t at = (size_t)(data - pool->mem);

	pool->v[(pool->first + pool->n++) % pool->cap] = (struct saved){addr, len, at};
	pool->head = at + len;
	pool->used += len;
	if (pool->used > pool->peak)
		pool->peak = pool->used;
}

const struct saved *pool_oldest(const struct pool *pool)
{
	return pool->n ? &pool->v[pool->first] : NULL;
}

void pool_drop(struct pool *pool)
{
	pool->used -= pool->v[pool->first].len;
	pool->first = (pool->first + 1) % pool->cap;
	pool->n--;
}
