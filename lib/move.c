// SPDX-License-Identifier: MIT
/*
 * The logical move within one process: the kernel's MOVE where it can, else a copy whose source is
 * discarded afterwards. Moving between processes by the kernel module will have its place here, as
 * one more way that is tried before the copy.
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

struct mover {
	struct ferry_move m;
	struct scan scan;
	bool scanning; /* scan is open */
	bool kernel; /* UFFDIO_MOVE is there and takes this memory, as far as we know */
};

static int check(const struct ferry_move *m)
{
	uint32_t known = FERRY_MOVE_STRICT | FERRY_MOVE_ALLOW_HOLES | FERRY_MOVE_DONTWAKE;

	if ((m->flags & ~known) || !range_valid(m->dst, m->len) || !range_valid(m->src, m->len))
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

/* With ALLOW_SRC_HOLES the kernel counts holes as moved: find out how many there are before. */
static uint64_t count_holes(struct mover *v)
{
	if (!(v->m.flags & FERRY_MOVE_ALLOW_HOLES))
		return 0;
	return scan_holes(scan_of(v), v->m.src + v->m.done, v->m.len - v->m.done);
}

static int by_kernel(struct mover *v)
{
	struct ferry_move *m = &v->m;
	uint64_t mode = (m->flags & FERRY_MOVE_DONTWAKE ? UFFDIO_MOVE_MODE_DONTWAKE : 0) |
			(m->flags & FERRY_MOVE_ALLOW_HOLES ? UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES : 0);
	uint64_t before = count_holes(v), start = m->done, done;

	int ret = uffd_move(m->uffd, m->dst + start, m->src + start, m->len - start, mode, &done);
	m->done += done;
	/* The holes that are no longer ahead of us are the ones that were passed over. */
	uint64_t holes = before - count_holes(v);
	m->holes += holes;
	m->bytes[FERRY_WAY_MOVE] += done - holes;
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
	struct mover v = { 0 };
	int ret = options_copy(&v.m, sizeof(v.m), user);

	if (ret)
		return ret;
	v.m.done = 0;
	v.kernel = true;
	ret = check(&v.m);
	while (!ret && v.m.done < v.m.len)
		ret = step(&v);
	if (v.scanning)
		scan_close(&v.scan);
	int reported = options_report(user, &v.m, sizeof(v.m));
	return ret ? ret : reported;
}
