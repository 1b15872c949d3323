// SPDX-License-Identifier: MIT
/*
 * The logical move within one process: the kernel's MOVE where it can, else a copy whose source is
 * discarded afterwards.
 */
#include <errno.h>
#include <sys/mman.h>

#include "lib/options.h"
#include "lib/resolve.h"
#include "lib/scan.h"
#include "lib/uffd.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

/* So much of the source is looked at at once, and then moved. A huge page is not cut by it. */
#define LOOK (8 * FERRY_HUGE)

/*
 * What was there from @start to @end of the move's bytes before the kernel was let at them:
 * afterwards a page that has moved can't be told from one that never was.
 */
struct before {
	uint64_t start, end;
	bool sure;
	bool there[LOOK / FERRY_PAGE];
};

struct mover {
	struct ferry_move m;
	struct scan scan;
	bool scanning; /* scan is open */
	bool kernel; /* UFFDIO_MOVE is there and takes this memory, as far as we know */
	struct before before;
};

static int check(const struct ferry_move *m)
{
	uint32_t known = FERRY_MOVE_STRICT | FERRY_MOVE_ALLOW_HOLES | FERRY_MOVE_DONTWAKE |
			 FERRY_MOVE_FULL;

	if ((m->flags & ~known) || !range_valid(m->dst, m->len) || !range_valid(m->src, m->len))
		return -EINVAL;
	if ((m->flags & FERRY_MOVE_FULL) && (m->flags & FERRY_MOVE_ALLOW_HOLES))
		return -EINVAL;
	return m->dst < m->src + m->len && m->src < m->dst + m->len ? -EINVAL : 0;
}

/*
 * Copy one page and drop the source. A write to the source in between would be lost, where MOVE
 * would have made the writer fault: whoever allows copying promises that nobody writes meanwhile.
 */
static int copy_page(struct mover *v)
{
	struct ferry_move *m = &v->m;
	void *src = (void *)(uintptr_t)(m->src + m->done);
	uint64_t mode = m->flags & FERRY_MOVE_DONTWAKE ? UFFDIO_COPY_MODE_DONTWAKE : 0;
	uint64_t done;

	int ret = uffd_copy(m->uffd, m->dst + m->done, src, FERRY_PAGE, mode, &done);
	if (ret)
		return ret;
	/* Locked memory needs its own call. */
	if (madvise(src, FERRY_PAGE, MADV_DONTNEED) < 0 &&
	    madvise(src, FERRY_PAGE, MADV_DONTNEED_LOCKED) < 0)
		return -errno;
	m->bytes[FERRY_WAY_COPY] += FERRY_PAGE;
	m->done += FERRY_PAGE;
	return 0;
}

/* Opened when first needed: it costs more than to move a page. */
static const struct scan *scan_of(struct mover *v)
{
	if (!v->scanning)
		scan_open(&v->scan);
	v->scanning = true;
	return &v->scan;
}

/* The zero page is a page: what was only read so far moves, too. */
static bool is_hole(struct mover *v)
{
	return scan_holes(scan_of(v), v->m.src + v->m.done, FERRY_PAGE) != 0;
}

static int one_by_copy(struct mover *v)
{
	struct ferry_move *m = &v->m;

	if (!is_hole(v))
		return copy_page(v);
	if (!(m->flags & FERRY_MOVE_ALLOW_HOLES))
		return -ENOENT;
	m->holes += FERRY_PAGE;
	m->done += FERRY_PAGE;
	return 0;
}

/* What is there now stays until we move it: the caller promises that nobody else takes it away. */
static void look_ahead(struct mover *v)
{
	struct before *b = &v->before;
	uint64_t src = v->m.src + v->m.done, left = v->m.len - v->m.done;
	uint64_t to_border = ((src + LOOK) & ~(FERRY_HUGE - 1)) - src;
	uint64_t len = left < to_border ? left : to_border;

	b->start = v->m.done;
	b->end = b->start + len;
	b->sure = scan_there(scan_of(v), src, len / FERRY_PAGE, b->there) == 0;
}

/* How much the next call is to move. With ALLOW_SRC_HOLES the kernel counts holes as moved. */
static uint64_t ahead(struct mover *v)
{
	if (!(v->m.flags & FERRY_MOVE_ALLOW_HOLES))
		return v->m.len - v->m.done;
	if (v->m.done == v->before.end)
		look_ahead(v);
	return v->before.end - v->m.done;
}

static bool was_there(const struct mover *v, uint64_t at)
{
	return v->before.there[(at - v->before.start) / FERRY_PAGE];
}

static void count(struct mover *v, uint64_t moved)
{
	struct ferry_move *m = &v->m;
	uint64_t holes = 0;

	if (m->flags & FERRY_MOVE_ALLOW_HOLES)
		for (uint64_t i = 0; i < moved; i += FERRY_PAGE)
			holes += was_there(v, m->done + i) ? 0 : FERRY_PAGE;
	m->holes += holes;
	m->bytes[FERRY_WAY_MOVE] += moved - holes;
	m->done += moved;
}

/*
 * EEXIST: somebody else's page, or our own. When Linux 6.18 had to begin again with a page, one that was
 * being migrated say, it doesn't count what it moves next, as much as one page table holds, and meets
 * that at the destination. What it moved was at the source before and is gone from there; as long as
 * nobody else takes pages away, that is true of nothing else. Whether it was there the caller knows
 * (FULL), or the look before.
 */
static uint64_t forgotten(struct mover *v)
{
	uint64_t at = v->m.done, gone, n = 0;

	if (v->m.flags & FERRY_MOVE_FULL)
		return scan_gone(scan_of(v), v->m.src + at, v->m.len - at);
	if (!(v->m.flags & FERRY_MOVE_ALLOW_HOLES) || !v->before.sure)
		return 0;
	gone = scan_gone(scan_of(v), v->m.src + at, v->before.end - at);
	while (n < gone && was_there(v, at + n))
		n += FERRY_PAGE;
	return n;
}

static int count_forgotten(struct mover *v)
{
	uint64_t dst = v->m.dst + v->m.done, len = forgotten(v);

	if (!len)
		return -EEXIST;
	count(v, len);
	/* Whoever waits for what the kernel doesn't count is not woken by it. */
	if (!(v->m.flags & FERRY_MOVE_DONTWAKE))
		uffd_wake(v->m.uffd, dst, len);
	return 0;
}

static int by_kernel(struct mover *v)
{
	struct ferry_move *m = &v->m;
	uint64_t mode = (m->flags & FERRY_MOVE_DONTWAKE ? UFFDIO_MOVE_MODE_DONTWAKE : 0) |
			(m->flags & FERRY_MOVE_ALLOW_HOLES ? UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES : 0);
	uint64_t len = ahead(v), done;

	int ret = uffd_move(m->uffd, m->dst + m->done, m->src + m->done, len, mode, &done);
	count(v, done);
	if (ret == -EEXIST)
		return count_forgotten(v);
	/* A partial move reports EAGAIN; the next round meets the page that stopped it. */
	return ret == -EAGAIN && done ? 0 : ret;
}

static int step(struct mover *v)
{
	int ret = v->kernel ? by_kernel(v) : -EINVAL;

	if ((v->m.flags & FERRY_MOVE_STRICT) || (ret != -EBUSY && ret != -EINVAL))
		return ret;
	/* EBUSY is about one page, EINVAL about the whole range. */
	if (ret == -EINVAL)
		v->kernel = false;
	return one_by_copy(v);
}

int ferry_move(struct ferry_move *user)
{
	struct mover v;

	v.m = (struct ferry_move){ 0 };
	int ret = options_copy(&v.m, sizeof(v.m), user);
	if (ret)
		return ret;
	v.m.done = 0;
	v.scanning = false;
	v.kernel = true;
	/* Its table is written by the look: to clear it would be felt where a single page moves. */
	v.before.end = 0;
	ret = check(&v.m);
	while (!ret && v.m.done < v.m.len)
		ret = step(&v);
	if (v.scanning)
		scan_close(&v.scan);
	int reported = options_report(user, &v.m, sizeof(v.m));
	return ret ? ret : reported;
}
