// SPDX-License-Identifier: MIT
/* What has changed since the last snapshot, see snap_track.h. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/scan.h"
#include "lib/uffd.h"
#include "tools/pagemap.h"
#include "tools/snap.h"

/*
 * The kernel hands out 512 at a time. If more are asked for, walk_end may be where the last but one
 * of these came to an end: not where it came to.
 */
#define REGIONS  512u

#define FEATURES (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC)

int snap_track_prepare(int uffd)
{
	uint64_t features = FEATURES;
	return uffd_api(uffd, &features);
}

/* ---- what the kernel tells */

/* Or it isn't known. */
static bool looks_protected(const char *page)
{
	uint64_t entry;

	return pagemap_read(0, page, 1, &entry) || (entry & PAGEMAP_UFFD_WP);
}

static bool try_to_move(int uffd, char *mem)
{
	mem[0] = 1;
	return !uffd_writeprotect(uffd, (uintptr_t)mem, FERRY_PAGE, UFFDIO_WRITEPROTECT_MODE_WP) &&
	       mremap(mem, FERRY_PAGE, FERRY_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		      mem + FERRY_PAGE) == mem + FERRY_PAGE &&
	       !looks_protected(mem + FERRY_PAGE);
}

/*
 * For this alone the kernel has a loop that doesn't look at the pages themselves. What is empty is
 * among it; where there is no page table, only newer kernels say so.
 */
static const struct pm_scan_arg written = {
	.category_mask = PAGE_IS_WRITTEN,
	.return_mask = PAGE_IS_WRITTEN,
};

static bool try_a_hole(uint64_t addr)
{
	int pagemap = pagemap_open(0);
	struct page_region all = {0};
	uint64_t walk_end;
	long n = scan_call(pagemap, &written, addr, addr + FERRY_HUGE, &all, 1, &walk_end);

	if (pagemap >= 0)
		close(pagemap);
	return n == 1 && all.start == addr && all.end == addr + FERRY_HUGE;
}

/* Once, and before the process stands still. */
static struct {
	bool moved, holes;
} tells;

void snap_track_learn(void)
{
	uint64_t features = FEATURES, len = 2 * FERRY_HUGE;
	int uffd = uffd_open_best(&features, 0);
	void *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t addr = (uintptr_t)mem;

	if (uffd >= 0 && mem != MAP_FAILED &&
	    !uffd_register(uffd, addr, len, UFFDIO_REGISTER_MODE_WP, NULL)) {
		tells.holes = try_a_hole((addr + FERRY_HUGE - 1) / FERRY_HUGE * FERRY_HUGE);
		tells.moved = try_to_move(uffd, mem);
	}
	if (mem != MAP_FAILED)
		munmap(mem, len);
	if (uffd >= 0)
		close(uffd);
}

bool snap_track_knows_moved(void)
{
	return tells.moved;
}

/* ---- register */

/* Memory is registered with one userfaultfd at most, and again with that one without effect. */
static int claim_span(int uffd, uint64_t start, uint64_t end)
{
	return uffd_register(uffd, start, end - start, UFFDIO_REGISTER_MODE_WP, NULL);
}

static int claim(int uffd, const struct snap_map *m)
{
	return claim_span(uffd, m->start, m->end);
}

static bool is_given(const struct snap_map *m)
{
	return m->uffd && m->perms[3] == 'p' && !m->inode && !m->hugetlb;
}

/* What looks like somebody else's may be ours. */
static bool may_be_ours(const struct snap_map *m)
{
	return m->way == SNAP_LIVE && is_given(m);
}

bool snap_track_may(const struct snap_map *m)
{
	return m->way == SNAP_FROZEN || may_be_ours(m);
}

static void is_others(struct snap_map *m)
{
	m->way = SNAP_LIVE;
	m->why = "registered with a userfaultfd";
}

int snap_track_register(int uffd, struct snap_maps *maps)
{
	for (size_t i = 0; i < maps->n; i++) {
		struct snap_map *m = &maps->v[i];
		if (m->way != SNAP_FROZEN && !may_be_ours(m))
			continue;
		int ret = claim(uffd, m);
		if (ret == -ESRCH || ret == -ENOMEM)
			return ret;
		if (ret) {
			is_others(m);
		} else {
			m->way = SNAP_FROZEN;
			m->why = NULL;
		}
	}
	return 0;
}

void snap_track_end(int uffd, const struct snap_maps *maps)
{
	for (size_t i = 0; i < maps->n; i++)
		if (maps->v[i].way == SNAP_FROZEN)
			uffd_unregister(uffd, maps->v[i].start, maps->v[i].end - maps->v[i].start);
}

/* ---- what has changed */

int snap_span_add(struct ferry_span **v, size_t *n, uint64_t addr, uint64_t len)
{
	/* Grows in powers of two. */
	if (*n < 64 ? !*n : !(*n & (*n - 1))) {
		struct ferry_span *more = reallocarray(*v, *n < 64 ? 64 : 2 * *n, sizeof(*more));
		if (!more)
			return -ENOMEM;
		*v = more;
	}
	(*v)[(*n)++] = (struct ferry_span){addr, len};
	return 0;
}

/* The first page that is populated. 0: there is none; 1, -errno. */
static long find_populated(const struct snap_target *target, uint64_t start, uint64_t end,
			   struct page_region *first)
{
	static const struct pm_scan_arg one = {
		.max_pages = 1,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_WPALLOWED,
	};
	uint64_t walk_end;

	return scan_call(target->pagemap, &one, start, end, first, 1, &walk_end);
}

/*
 * The zero page is a hole in the file. It isn't protected here: if this snapshot isn't made, it
 * must be found again.
 */
static const struct pm_scan_arg data = {
	.category_inverted = PAGE_IS_PFNZERO,
	.category_mask = PAGE_IS_PFNZERO,
	.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
	.return_mask = PAGE_IS_WRITTEN,
};

static int note_same(struct snap_changes *c, uint64_t from, uint64_t to)
{
	c->same_bytes += to - from;
	return snap_span_add(&c->same, &c->nsame, from, to - from);
}

static int note(struct snap_changes *c, const struct page_region *r, bool known)
{
	uint64_t len = r->end - r->start;

	if (known && !(r->categories & PAGE_IS_WRITTEN))
		return note_same(c, r->start, r->end);
	c->changed_bytes += len;
	return snap_span_add(&c->changed, &c->nchanged, r->start, len);
}

/* What is written afterwards is found the next time, whoever does it: not everybody stands still.
 */
static int scan(struct snap_changes *c, const struct snap_target *target, uint64_t start,
		uint64_t end, bool known, uint64_t limit)
{
	static struct page_region vec[REGIONS];
	struct pm_scan_arg what = data;
	int ret = 0;

	for (uint64_t at = start, walk_end = 0; !ret && at < end; at = walk_end) {
		what.flags = c->changed_bytes < limit ? PM_SCAN_WP_MATCHING : 0;
		long n = scan_call(target->pagemap, &what, at, end, vec, REGIONS, &walk_end);
		if (n < 0 || walk_end <= at)
			return n < 0 ? (int)n : -ESRCH;
		for (long i = 0; !ret && i < n; i++)
			ret = note(c, &vec[i], known);
	}
	return ret;
}

/*
 * Nothing of it is written: so what a page table stands for is as it was, all of it, and what none
 * stands for is empty.
 */
static int add_unwritten(struct snap_changes *c, const struct snap_target *target, uint64_t from,
			 uint64_t to)
{
	struct page_region first;
	uint64_t at = tells.holes ? to : from, same = from;
	int ret = 0;

	while (!ret && at < to) {
		long n = find_populated(target, at, to, &first);
		if (n < 0)
			return (int)n;
		uint64_t start = n ? first.start / FERRY_HUGE * FERRY_HUGE : to;
		if (start > at) {
			ret = same < at ? note_same(c, same, at) : 0;
			same = start;
		}
		at = n ? start + FERRY_HUGE : to;
	}
	return !ret && same < to ? note_same(c, same, to) : ret;
}

static int scan_known(struct snap_changes *c, const struct snap_target *target,
		      const struct snap_map *m, uint64_t limit)
{
	static struct page_region vec[REGIONS];
	uint64_t seen = m->start;
	int ret = 0;

	for (uint64_t at = m->start, walk_end = 0; !ret && at < m->end; at = walk_end) {
		long n = scan_call(target->pagemap, &written, at, m->end, vec, REGIONS, &walk_end);
		if (n < 0 || walk_end <= at)
			return n < 0 ? (int)n : -ESRCH;
		for (long i = 0; !ret && i < n; i++) {
			ret = add_unwritten(c, target, seen, vec[i].start);
			if (!ret)
				ret = scan(c, target, vec[i].start, vec[i].end, true, limit);
			seen = vec[i].end;
		}
	}
	return ret ? ret : add_unwritten(c, target, seen, m->end);
}

/* 1: it was given to somebody before, or -errno. What is empty may be said to be neither. */
static int was_given(const struct snap_target *target, const struct snap_map *m)
{
	struct page_region first = {0};
	long n = find_populated(target, m->start, m->end, &first);

	return n < 0 ? (int)n : n && (first.categories & PAGE_IS_WPALLOWED);
}

/*
 * In this order: a mapping that isn't ours yet may have pages that look protected, by somebody
 * else, or by us at the place from where they were moved. PAGE_IS_WPALLOWED says that it was given
 * to somebody before, and claim() that this was us.
 */
static int scan_and_claim(struct snap_changes *c, int uffd, const struct snap_target *target,
			  struct snap_map *m, uint64_t limit)
{
	int known = was_given(target, m);
	int ret = known < 0 ? known : claim(uffd, m);

	if (known < 0 || ret == -ESRCH || ret == -ENOMEM)
		return ret;
	if (ret) {
		is_others(m);
		return 0;
	}
	m->way = SNAP_FROZEN;
	m->why = NULL;
	return known ? scan_known(c, target, m, limit)
		     : scan(c, target, m->start, m->end, false, limit);
}

/* It isn't in this snapshot, and so nothing of it can be the same in the next. */
static void leave_out(int uffd, const struct snap_map *m)
{
	if (m->way == SNAP_NOT && is_given(m) && !claim(uffd, m))
		uffd_unregister(uffd, m->start, m->end - m->start);
}

/* Of all calls this one tells, and where nothing is mapped it does nothing else. */
static int check_memory(int uffd)
{
	return uffd_writeprotect(uffd, 16 * FERRY_PAGE, FERRY_PAGE, 0) == -ESRCH ? -ESRCH : 0;
}

int snap_track_scan(struct snap_changes *c, int uffd, const struct snap_target *target,
		    struct snap_maps *maps, uint64_t limit)
{
	int ret = check_memory(uffd);

	*c = (struct snap_changes){0};
	for (size_t i = 0; !ret && i < maps->n; i++) {
		leave_out(uffd, &maps->v[i]);
		if (snap_track_may(&maps->v[i]))
			ret = scan_and_claim(c, uffd, target, &maps->v[i], limit);
	}
	return ret;
}

void snap_changes_free(struct snap_changes *c)
{
	free(c->same);
	free(c->changed);
	*c = (struct snap_changes){0};
}

/* ---- protect: only what is populated, so that what is empty needs no page tables */

static const struct pm_scan_arg to_protect = {
	.flags = PM_SCAN_WP_MATCHING,
	.category_mask = PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN,
	.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
	.return_mask = PAGE_IS_WRITTEN,
};

static int protect(const struct snap_target *target, uint64_t start, uint64_t end)
{
	static struct page_region vec[REGIONS];

	for (uint64_t at = start, walk_end = 0; at < end; at = walk_end) {
		long n = scan_call(target->pagemap, &to_protect, at, end, vec, REGIONS, &walk_end);
		if (n < 0 || walk_end <= at)
			return n < 0 ? (int)n : -ESRCH;
	}
	return 0;
}

/* To the next page that is to be protected, over all that is empty or is so already: slow where
 * that is populated. */
static int pass_over(const struct snap_target *target, uint64_t *at, uint64_t end)
{
	struct pm_scan_arg find = to_protect;
	struct page_region first;
	uint64_t walk_end;

	find.flags = 0;
	find.max_pages = 1;
	long ret = scan_call(target->pagemap, &find, *at, end, &first, 1, &walk_end);
	*at = ret > 0 ? first.start : end;
	return ret < 0 ? (int)ret : 0;
}

/*
 * A huge page would be split to be protected in part, so a piece ends where one may begin. What was
 * written is found fast, but may be empty.
 *
 * The process may have mapped something else there by now, and track it itself: what we protected
 * of that it would take for unchanged.
 */
long snap_track_next(int uffd, const struct snap_target *target, uint64_t *at, uint64_t end,
		     struct page_region *vec, unsigned int n)
{
	struct pm_scan_arg find = written;
	uint64_t walk_end;

	find.max_pages = 1;
	long ret = scan_call(target->pagemap, &find, *at, end, vec, 1, &walk_end);
	if (ret <= 0) {
		*at = end;
		return ret;
	}
	uint64_t start = vec[0].start, stop = (start / FERRY_HUGE + 1) * FERRY_HUGE;
	stop = stop < end ? stop : end;
	if (claim_span(uffd, start, stop)) {
		*at = stop;
		return 0;
	}
	ret = scan_call(target->pagemap, &to_protect, start, stop, vec, n, at);
	if (!ret)
		return pass_over(target, at, end);
	return ret > 0 && *at <= start ? -ESRCH : ret;
}

int snap_track_these(const struct snap_target *target, const struct ferry_span *spans, size_t n)
{
	int ret = 0;

	for (size_t i = 0; !ret && i < n; i++)
		ret = protect(target, spans[i].addr, spans[i].addr + spans[i].len);
	return ret;
}

/* The kernel unprotects also what is another's. */
static int unprotect(int uffd, uint64_t start, uint64_t end)
{
	int ret = claim_span(uffd, start, end);
	return ret ? ret : uffd_writeprotect(uffd, start, end - start, 0);
}

void snap_track_forget(int uffd, const struct ferry_span *spans, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t addr = spans[i].addr, end = addr + spans[i].len;
		if (!unprotect(uffd, addr, end))
			continue;
		/* A part of it is no longer mapped, or another's: that is not tracked either. */
		for (; addr < end; addr += FERRY_PAGE)
			unprotect(uffd, addr, addr + FERRY_PAGE);
	}
}
