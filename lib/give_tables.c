// SPDX-License-Identifier: MIT
/*
 * Whole page tables, where both sides have asked for it. They go at the commit, before the taker lets its
 * program run: each page that the taker has is in the way of a table, and each thread that waits for one
 * makes it more likely. For what the taker was given before the commit that comes too late, and then not one
 * table could move, as the kernel finds pages by their mapping. So that goes back first: it is little, and
 * the taker's program may have changed it.
 *
 * Nothing is read from the userfaultfd meanwhile; an event that is unread makes the module refuse, and who
 * waits for a page gets it with its table, or is served afterwards.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "include/linux/pageferry.h"
#include "lib/clock.h"
#include "lib/give.h"
#include "lib/module.h"

/* In one call, after each of which the clock is looked at: of small pages some 1.5 million instructions, see bench/module. */
#define AT_ONCE (1ull << 30)
/* So long may the taker's program be kept waiting. What is left then goes by tables as well, but as it is pushed. */
#define HEAD_START_NS 50000000

_Static_assert((int)FERRY_WHY_NO_PAGES == PAGEFERRY_WHY_NO_PAGES &&
		       (int)FERRY_WHY_NO_MEMORY == PAGEFERRY_WHY_NO_MEMORY &&
		       (int)FERRY_WHY_MERGED == PAGEFERRY_WHY_MERGED,
	       "the module's reasons are ours");

static void stays(struct ferry_give *give, enum ferry_why why)
{
	if (!give->report.why)
		give->report.why = why;
}

void tables_open(struct ferry_give *give)
{
	uint64_t features = 0;

	if (!give->tables)
		return;
	int module = give->module < 0 ? -1 : module_open(PAGEFERRY_FEATURE_TABLES);
	if (module < 0) {
		give->tables = false;
		stays(give, FERRY_WHY_MODULE);
		return;
	}
	close(module);
	/* Where there is none it is needed only if the taker asks for pages before the commit. */
	int uffd = uffd_open_best(&features, 0);
	give->own_uffd = uffd < 0 ? -1 : uffd;
}

void tables_close(struct ferry_give *give)
{
	if (give->own_uffd >= 0)
		close(give->own_uffd);
}

/* ---- what the taker has already comes back */

static void *at_giver(const struct give_range *gr, uint64_t page)
{
	return (void *)(uintptr_t)(gr->r.addr + page * FERRY_PAGE);
}

/* It will have gone once, in the end, and not in this way. */
static void uncount(struct give_range *gr, uint64_t bytes)
{
	static const enum ferry_way ways[] = {FERRY_WAY_COPY, FERRY_WAY_ZERO};

	for (unsigned int i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		uint64_t *way = &gr->bytes[ways[i]], n = bytes < *way ? bytes : *way;
		*way -= n;
		gr->give->report.bytes[ways[i]] -= n;
		bytes -= n;
	}
}

/* What was the giver's own of it is nobody's. */
static int fetch_run(struct give_range *gr, uint64_t first, uint64_t n)
{
	struct ferry_give *give = gr->give;
	uint64_t done;

	give_release(gr, first, n);
	int ret = module_fetch(give->module, give->own_uffd, at_giver(gr, first), give->uffd,
			       gr->dst + first * FERRY_PAGE, n * FERRY_PAGE, &done);
	give_unmark(gr, first, done / FERRY_PAGE);
	uncount(gr, done);
	return ret;
}

/*
 * Registered only meanwhile, for the module: this thread itself would wait for ever for a page that isn't
 * there. A page that can't come back stays with the taker, as it was.
 */
static int fetch_back(struct give_range *gr, int64_t until)
{
	uint64_t first = give_next_given(gr, 0, gr->npages), end;
	int uffd = gr->give->own_uffd, ret;

	if (first == gr->npages)
		return 0;
	if (uffd < 0)
		return -EPERM;
	ret = uffd_register(uffd, gr->r.addr, gr->r.len, UFFDIO_REGISTER_MODE_MISSING, NULL);
	if (ret)
		return ret;
	for (; !ret && first < gr->npages; first = give_next_given(gr, end, gr->npages)) {
		end = first + FERRY_HUGE_PAGES < gr->npages ? first + FERRY_HUGE_PAGES : gr->npages;
		end = give_next_left(gr, first, end);
		ret = clock_ns() > until ? -ETIMEDOUT : fetch_run(gr, first, end - first);
	}
	uffd_unregister(uffd, gr->r.addr, gr->r.len);
	return ret;
}

/* ---- page tables */

/* [@first, @first + @n) has gone with its tables. */
static void gone(struct give_range *gr, uint64_t first, uint64_t n)
{
	gr->give->report.bytes[FERRY_WAY_TABLES] += give_mark(gr, first, n) * FERRY_PAGE;
	for (uint64_t page = first; page < first + n; page += FERRY_HUGE_PAGES)
		give_close_block(gr, give_block_of(gr, page));
}

static struct module_tables ask(const struct give_range *gr, uint64_t page, uint64_t n, bool holes)
{
	const struct ferry_give *give = gr->give;

	return module_move_tables(give->module, give->uffd, gr->dst + page * FERRY_PAGE, at_giver(gr, page),
				  n * FERRY_PAGE, holes);
}

/* For all errors but the one that says which. */
static enum ferry_why why_error(int error)
{
	switch (-error) {
	case ESRCH:
		return FERRY_WHY_TAKER;
	case EINVAL:
	case EPERM:
		return FERRY_WHY_MAPPING;
	case ENOMEM:
		return FERRY_WHY_NO_MEMORY;
	default:
		return FERRY_WHY_CHANGED;
	}
}

static enum ferry_why why_of(const struct module_tables *t)
{
	if (t->error != -EOPNOTSUPP)
		return why_error(t->error);
	/* A newer module may have more of them. */
	return t->why <= PAGEFERRY_WHY_MERGED ? (enum ferry_why)t->why : FERRY_WHY_OTHER;
}

/* One table that has holes. They are left: as they are pushed they become zero pages. */
static uint64_t go_with_holes(struct give_range *gr, uint64_t page)
{
	struct ferry_give *give = gr->give;
	bool there[FERRY_HUGE_PAGES];

	if (scan_there(&give->scan, gr->r.addr + page * FERRY_PAGE, FERRY_HUGE_PAGES, there)) {
		stays(give, FERRY_WHY_HOLE);
		return 0;
	}
	struct module_tables t = ask(gr, page, FERRY_HUGE_PAGES, true);
	if (t.error)
		stays(give, why_of(&t));
	for (uint64_t i = 0; t.moved && i < FERRY_HUGE_PAGES; i++)
		if (there[i])
			give->report.bytes[FERRY_WAY_TABLES] +=
				give_mark(gr, page + i, 1) * FERRY_PAGE;
	return FERRY_HUGE_PAGES;
}

/* The table at @page has a hole: how far is dealt with? All that is empty is left, too. */
static uint64_t pass_hole(struct give_range *gr, uint64_t page, uint64_t end)
{
	int64_t empty = scan_next(&gr->give->scan, gr->r.addr + page * FERRY_PAGE,
				  (end - page) * FERRY_PAGE);

	if (empty >= (int64_t)FERRY_HUGE)
		return (uint64_t)empty / FERRY_HUGE * FERRY_HUGE_PAGES;
	return go_with_holes(gr, page);
}

/* The table at @page doesn't move: how far is it to where it is worth another try? 0: nowhere. */
static uint64_t pass(struct give_range *gr, uint64_t page, uint64_t end, const struct module_tables *t)
{
	enum ferry_why why = why_of(t);

	if (why == FERRY_WHY_HOLE)
		return pass_hole(gr, page, end);
	stays(gr->give, why);
	switch (why) {
	case FERRY_WHY_POPULATED:
	case FERRY_WHY_PINNED:
	case FERRY_WHY_OTHER:
	case FERRY_WHY_MERGED:
		return FERRY_HUGE_PAGES;
	default:
		return 0;
	}
}

static void go_range(struct give_range *gr, int64_t until)
{
	uint64_t page = -gr->r.addr % FERRY_HUGE / FERRY_PAGE;
	uint64_t end = page + (gr->npages - page) / FERRY_HUGE_PAGES * FERRY_HUGE_PAGES;

	while (page < end) {
		if (clock_ns() > until) {
			stays(gr->give, FERRY_WHY_LATE);
			return;
		}
		uint64_t n = end - page < AT_ONCE / FERRY_PAGE ? end - page : AT_ONCE / FERRY_PAGE;
		struct module_tables t = ask(gr, page, n, false);
		gone(gr, page, t.moved / FERRY_PAGE);
		page += t.moved / FERRY_PAGE;
		n = t.error ? pass(gr, page, end, &t) : 0;
		if (t.error && !n)
			return;
		page += n;
	}
}

/* ---- which ranges */

/* The taker has it where it had it at first, and as one. */
static bool is_in_place(const struct give_range *gr)
{
	uint64_t addr, len;

	return !gr->discarded && give_locate(gr, 0, &addr, &len) && addr == gr->dst && len == gr->r.len;
}

static enum ferry_why why_not(const struct give_range *gr)
{
	uint64_t before = -gr->r.addr % FERRY_HUGE;

	if (gr->r.flags & FERRY_RANGE_SHARED)
		return FERRY_WHY_MAPPING;
	if (!gr->stageable || gr->r.len < FERRY_HUGE || gr->r.len - FERRY_HUGE < before)
		return FERRY_WHY_ALIGNMENT;
	return is_in_place(gr) ? FERRY_WHY_NONE : FERRY_WHY_CHANGED;
}

static enum ferry_why make_ready(struct give_range *gr, int64_t until)
{
	enum ferry_why why = why_not(gr);
	int ret = why ? 0 : fetch_back(gr, until);

	if (ret)
		why = ret == -ETIMEDOUT ? FERRY_WHY_LATE : FERRY_WHY_OWN_PAGES;
	return why;
}

void tables_go(struct ferry_give *give)
{
	int64_t until = clock_ns() + HEAD_START_NS;

	/* All of them first: two ranges may be one mapping of the taker's. */
	for (struct give_range *gr = give->ranges; gr < give->ranges + give->nranges; gr++) {
		enum ferry_why why = make_ready(gr, until);
		stays(give, why);
		gr->ready = !why;
	}
	for (struct give_range *gr = give->ranges; gr < give->ranges + give->nranges; gr++)
		if (gr->ready)
			go_range(gr, until);
	/* A taker that is gone is noticed by whoever waits for it. */
	wire_send(give->sock, WIRE_ARRIVED, NULL, 0, NULL, 0, NULL, 0, give_deadline(give));
	give->runs_at = give->push.asked_at = clock_ns();
}
