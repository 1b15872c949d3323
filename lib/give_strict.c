// SPDX-License-Identifier: MIT
/*
 * Strict: what is the taker's is never copied. After the commit there is nobody left who could refuse: the
 * program runs at the taker, and a page that it waits for must come, somehow. So the module is asked before
 * the commit about every page that is left; it alone knows of a pin. That answer stays good as far as the
 * giver's program stands still; what holds a page only afterwards is mostly the kernel itself, for a
 * moment, and is waited for.
 */
#include <errno.h>

#include "lib/give.h"
#include "lib/module.h"

/* What may be waited for in all, in ms; each page has less, see refusals_wait. */
#define WAITS 1000

void strict_begin(struct ferry_give *give)
{
	give->refusals.waits = give->strict ? WAITS : 0;
}

/* What is left from @page on, within the giver's block of 2 MiB, so that it is a whole huge page or none. */
static uint64_t run_of(const struct give_range *gr, uint64_t page)
{
	uint64_t room = FERRY_HUGE_PAGES - (gr->r.addr / FERRY_PAGE + page) % FERRY_HUGE_PAGES;
	uint64_t end = page + room < gr->npages ? page + room : gr->npages, i;

	for (i = page; i < end && give_is_left(gr, i); i++)
		;
	return i - page;
}

/* 0: the @done pages from @page on are no hindrance; or -errno. */
static int ask(struct ferry_give *give, struct give_range *gr, uint64_t page, uint64_t *pages)
{
	const char *from = (const char *)(uintptr_t)(gr->r.addr + page * FERRY_PAGE);
	uint64_t dst, room, done, len = run_of(gr, page) * FERRY_PAGE;
	unsigned int waited = 0;
	int ret;

	*pages = 1;
	if (!give_locate(gr, page, &dst, &room))
		return 0;
	len = len < room ? len : room;
	do
		ret = module_check(give->module, give->uffd, dst, from, len, &done);
	while (!done && ret == -EBUSY && refusals_wait(&give->refusals, &waited));
	/* Another mapping begins behind it. */
	if (!done && len > FERRY_PAGE && (ret == -EINVAL || ret == -ENOENT))
		ret = module_check(give->module, give->uffd, dst, from, FERRY_PAGE, &done);
	/* Short of memory it would say the same of each. */
	*pages = done ? done / FERRY_PAGE : ret == -ENOMEM ? len / FERRY_PAGE : 1;
	return done ? 0 : ret;
}

int strict_step(struct ferry_give *give, struct strict_cursor *at)
{
	struct give_range *gr = &give->ranges[at->range];
	uint64_t pages;

	if (at->range == give->nranges)
		return 0;
	at->page = give_next_left(gr, at->page, gr->npages);
	if (at->page == gr->npages || (gr->r.flags & FERRY_RANGE_SHARED)) {
		at->range++;
		at->page = 0;
		return 1;
	}
	int ret = ask(give, gr, at->page, &pages);
	switch (-ret) {
	case 0:
	/* The taker has something there, or nothing any more; or there is no memory for a table: no matter here. */
	case EEXIST:
	case ENOENT:
	case ENOMEM:
		at->page += pages;
		return 1;
	case EAGAIN:
	case EINTR:
		return 1;
	case ESRCH:
		return -EPIPE;
	default:
		return -EBUSY;
	}
}
