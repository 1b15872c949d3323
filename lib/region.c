// SPDX-License-Identifier: MIT
/* The regions of one address space and its put-off faults. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/space.h"

void space_init(struct space *space, int uffd, bool owned)
{
	*space = (struct space){ .uffd = uffd, .owned = owned };
}

void space_fini(struct space *space)
{
	if (space->owned)
		close(space->uffd);
	rangeset_free(&space->regions);
	free(space->deferred);
	free(space->spare);
}

void space_defer(struct space *space, const struct ferry_fault *fault, bool by_source)
{
	for (size_t i = 0; i < space->ndeferred; i++) {
		struct deferred *d = &space->deferred[i];
		if (d->fault.addr == fault->addr && d->fault.kind == fault->kind) {
			d->by_source = by_source;
			return;
		}
	}
	if (space->ndeferred == space->cap_deferred) {
		size_t cap = space->cap_deferred * 2 + 16;
		struct deferred *v = reallocarray(space->deferred, cap, sizeof(*v));
		if (!v) {
			/* The thread must not be forgotten: let it fault once more. */
			uffd_wake(space->uffd, fault->addr, FERRY_PAGE);
			return;
		}
		space->deferred = v;
		space->cap_deferred = cap;
	}
	space->deferred[space->ndeferred++] = (struct deferred){ *fault, by_source };
}

bool space_locate(const struct space *space, const struct ferry_source *src, uint64_t offset,
		  uint64_t *addr, uint64_t *len)
{
	for (size_t i = 0; i < space->regions.n; i++) {
		const struct range *r = &space->regions.v[i];
		if (r->src != src || offset < r->offset || offset - r->offset >= r->end - r->start)
			continue;
		*addr = r->start + (offset - r->offset);
		*len = r->end - *addr;
		return true;
	}
	return false;
}

bool space_serves(const struct space *space, const struct ferry_source *src)
{
	for (size_t i = 0; i < space->regions.n; i++)
		if (space->regions.v[i].src == src)
			return true;
	return false;
}
