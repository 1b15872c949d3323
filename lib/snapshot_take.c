// SPDX-License-Identifier: MIT
/* Which pages are frozen, and how a window of them is saved, see snapshot.h. */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/resolve.h"
#include "lib/scan.h"
#include "lib/snapshot.h"

#define REGIONS 256u

static uint64_t min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Without UFFD_FEATURE_WP_UNPOPULATED what was empty at the begin is never protected. */
const struct pm_scan_arg snapshot_frozen_pages = {
	.category_inverted = PAGE_IS_WRITTEN,
	.category_mask = PAGE_IS_WRITTEN,
	.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
	.return_mask = PAGE_IS_PFNZERO | PAGE_IS_HUGE,
};

int snapshot_can_scan(int pagemap)
{
	struct page_region vec[1];
	uint64_t walk_end;

	long n = scan_call(pagemap, &snapshot_frozen_pages, FERRY_PAGE, 2 * FERRY_PAGE, vec, 1,
			   &walk_end);
	return n < 0 ? -EOPNOTSUPP : 0;
}

bool snapshot_blocked(const struct ferry_snapshot *s)
{
	return resolve_is_blocked(s->target.uffd);
}

bool snapshot_where(const struct ferry_snapshot *s, uint64_t addr, uint64_t *now, uint64_t *len)
{
	const struct range *r = rangeset_find(&s->now, addr);

	/* Nearly always it is where it was. */
	for (size_t i = 0; !r || addr < r->offset || addr - r->offset >= r->end - r->start; i++) {
		if (i == s->now.n)
			return false;
		r = &s->now.v[i];
	}
	*now = r->start + (addr - r->offset);
	*len = r->end - *now;
	return true;
}

/* What is known already stays as it is: a page that was only read, and saved, is still frozen. */
void snapshot_unknown(struct ferry_snapshot *s, uint64_t from, uint64_t to)
{
	struct ferry_span run;

	for (uint64_t at = from; pages_next_without(&s->pages, PAGES_HAD, at, to, &run);
	     at = run.addr + run.len) {
		pages_add(&s->pages, PAGES_TODO, run.addr, run.len);
		pages_add(&s->pages, PAGES_HAD, run.addr, run.len);
	}
}

/* @shift: from where pages are to where they were. */
static void note(struct ferry_snapshot *s, const struct page_region *v, long n, uint64_t shift)
{
	for (long i = 0; i < n; i++) {
		uint64_t addr = v[i].start + shift, len = v[i].end - v[i].start;
		if (v[i].categories & PAGE_IS_PFNZERO)
			continue;
		snapshot_unknown(s, addr, addr + len);
		if (v[i].categories & PAGE_IS_HUGE)
			pages_set_huge(&s->pages, addr, len);
	}
}

static int learn_piece(struct ferry_snapshot *s, uint64_t now, uint64_t len, uint64_t shift)
{
	struct page_region vec[REGIONS];
	uint64_t at = now, end = now + len;

	while (at < end) {
		uint64_t walk_end = 0;
		long n = scan_call(s->target.pagemap, &snapshot_frozen_pages, at, end, vec, REGIONS,
				   &walk_end);
		if (n < 0 || walk_end <= at)
			return n < 0 && n != -ESRCH ? (int)n : -ESRCH;
		if (!s->read_only && snapshot_blocked(s))
			return -EAGAIN;
		note(s, vec, n, shift);
		at = walk_end;
	}
	return 0;
}

int snapshot_learn(struct ferry_snapshot *s, uint64_t from, uint64_t to)
{
	uint64_t now, len;

	while (from < to) {
		if (!snapshot_where(s, from, &now, &len)) {
			from += FERRY_PAGE;
			continue;
		}
		len = min(len, to - from);
		int ret = learn_piece(s, now, len, from - now);
		if (ret)
			return ret;
		from += len;
	}
	return 0;
}

int snapshot_unprotect(struct ferry_snapshot *s, uint64_t now, uint64_t len, uint64_t *done)
{
	struct ferry_answer answer = {.kind = FERRY_ANSWER_UNPROTECT};
	struct resolve_at at = {.uffd = s->target.uffd, .module = -1};
	uint64_t step;
	int error;

	for (*done = 0; *done < len; *done += step) {
		answer.len = len - *done;
		switch (resolve_push(at, now + *done, &answer, &step, &error)) {
		case RESOLVED_INSTALLED:
			break;
		case RESOLVED_DEFERRED:
			return -EAGAIN;
		case RESOLVED_GONE:
			return -ESRCH;
		default: /* no longer mapped, or not with us: an event has told or will tell */
			step = FERRY_PAGE;
		}
	}
	return 0;
}

/* ---- one window */

struct window {
	uint64_t from, now, len; /* where it was, where it is */
	struct ferry_span run[SNAPSHOT_RUNS];
	size_t n;
	uint64_t bytes; /* of all runs */
};

static void find_runs(const struct ferry_snapshot *s, struct window *w)
{
	uint64_t at = w->from, end = w->from + w->len;

	w->n = 0;
	w->bytes = 0;
	while (w->n < SNAPSHOT_RUNS && pages_next(&s->pages, PAGES_TODO, at, end, &w->run[w->n])) {
		w->bytes += w->run[w->n].len;
		at = w->run[w->n].addr + w->run[w->n].len;
		w->n++;
	}
}

/* Slower, but it also reads what its owner may not. */
static void read_by_file(const struct ferry_snapshot *s, uint64_t now, char *to, uint64_t len,
			 bool *bad)
{
	for (uint64_t at = 0; at < len; at += FERRY_PAGE)
		if (pread(s->target.mem, to + at, FERRY_PAGE, (off_t)(now + at)) != FERRY_PAGE)
			bad[at / FERRY_PAGE] = true;
}

/* bad[i]: page i of the window could not be read, which a page that is still there always can. */
static void read_window(const struct ferry_snapshot *s, const struct window *w, char *to, bool *bad)
{
	struct iovec local = {to, w->bytes}, remote[SNAPSHOT_RUNS];

	for (size_t i = 0; i < w->n; i++) {
		uint64_t now = w->run[i].addr - w->from + w->now;
		remote[i] = (struct iovec){(void *)(uintptr_t)now, w->run[i].len};
	}
	if (process_vm_readv(s->target.pid, &local, 1, remote, w->n, 0) == (ssize_t)w->bytes)
		return;
	for (size_t i = 0; i < w->n; to += w->run[i].len, i++)
		read_by_file(s, (uintptr_t)remote[i].iov_base, to, w->run[i].len,
			     bad + (w->run[i].addr - w->from) / FERRY_PAGE);
}

/* frozen[i]: page i of the window. */
static int look_again(const struct ferry_snapshot *s, const struct window *w, bool *frozen)
{
	struct page_region vec[REGIONS];
	uint64_t at = w->now, end = w->now + w->len;

	memset(frozen, 0, w->len / FERRY_PAGE);
	while (at < end) {
		uint64_t walk_end = 0;
		long n = scan_call(s->target.pagemap, &snapshot_frozen_pages, at, end, vec, REGIONS,
				   &walk_end);
		if (n < 0 || walk_end <= at)
			return n < 0 && n != -ESRCH ? (int)n : -ESRCH;
		for (long i = 0; i < n; i++)
			memset(frozen + (vec[i].start - w->now) / FERRY_PAGE, true,
			       (vec[i].end - vec[i].start) / FERRY_PAGE);
		at = walk_end;
	}
	return 0;
}

static void give(struct snapshot_run *runs, size_t *n, uint64_t addr, const char *data)
{
	struct snapshot_run *last = *n ? &runs[*n - 1] : NULL;

	if (last && last->span.addr + last->span.len == addr && last->data + last->span.len == data)
		last->span.len += FERRY_PAGE;
	else
		runs[(*n)++] = (struct snapshot_run){{addr, FERRY_PAGE}, data};
}

/* What is beyond @done is still protected. */
static void settle(struct ferry_snapshot *s, const struct window *w, const bool *frozen,
		   const bool *bad, uint64_t done, const char *buffer, struct snapshot_run *runs,
		   size_t *nruns)
{
	for (size_t i = 0; i < w->n; i++) {
		for (uint64_t at = 0; at < w->run[i].len; at += FERRY_PAGE, buffer += FERRY_PAGE) {
			uint64_t addr = w->run[i].addr + at, page = (addr - w->from) / FERRY_PAGE;
			if (addr - w->from >= done)
				return;
			pages_remove(&s->pages, PAGES_TODO, addr, FERRY_PAGE);
			if (frozen[page] && !bad[page])
				give(runs, nruns, addr, buffer);
			else
				pages_add(&s->pages, PAGES_LOST, addr, FERRY_PAGE);
		}
	}
}

int snapshot_take(struct ferry_snapshot *s, uint64_t from, uint64_t to, char *buffer,
		  struct snapshot_run *runs, size_t *nruns)
{
	struct window w = {.from = from, .len = to - from};
	bool frozen[FERRY_HUGE_PAGES], bad[FERRY_HUGE_PAGES] = {0};
	uint64_t len, done;

	*nruns = 0;
	if (!snapshot_where(s, from, &w.now, &len))
		return 0;
	find_runs(s, &w);
	read_window(s, &w, buffer, bad);
	int ret = look_again(s, &w, frozen);
	if (ret)
		return ret;
	done = w.len;
	if (s->leave) {
		/* An unread event may have changed what is where since it was read. */
		ret = snapshot_blocked(s) ? -EAGAIN : 0;
		done = ret ? 0 : w.len;
	} else if (!s->read_only) {
		ret = snapshot_unprotect(s, w.now, w.len, &done);
	}
	settle(s, &w, frozen, bad, done, buffer, runs, nruns);
	return ret == -EAGAIN && done ? 0 : ret;
}
