// SPDX-License-Identifier: MIT
/* From the frozen memory into the file: rate, progress, and what is not frozen. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/park.h"
#include "lib/uffd.h"
#include "tools/snap.h"

#define BAR_WIDTH 40
#define BAR_NS    100000000
#define PART      (1u << 20)

static void show(struct snap_job *job, bool last)
{
	static int64_t shown_ns;
	static int tty = -1;

	if (tty < 0)
		tty = isatty(STDERR_FILENO);
	if (!tty || (!last && clock_ns() - shown_ns < BAR_NS))
		return;
	shown_ns = clock_ns();
	uint64_t all = job->expected > job->done ? job->expected : job->done + 1;
	int done = (int)((double)job->done / (double)all * BAR_WIDTH);
	if (last)
		fputs("\r\033[K", stderr);
	else
		fprintf(stderr, "\r\033[K[%.*s%*s] %.0f of %.0f MiB", done,
			"########################################", BAR_WIDTH - done, "",
			(double)job->done / 1048576, (double)all / 1048576);
}

/* The file is what is limited: holes cost nothing. */
static void keep_rate(struct snap_job *job)
{
	uint64_t rate = job->options->rate;
	int64_t due;

	if (!rate)
		return;
	due = job->begin_ns + (int64_t)((double)job->core.written / (double)rate * 1e9);
	while (!snap_interrupted && clock_ns() < due) {
		int64_t left_us = (due - clock_ns()) / 1000;
		usleep(left_us < 50000 ? (useconds_t)(left_us > 0 ? left_us : 0) : 50000);
		show(job, false);
	}
}

int snap_step(void *arg, uint64_t written)
{
	struct snap_job *job = arg;

	job->core.written += written;
	keep_rate(job);
	return snap_interrupted ? -EINTR : 0;
}

static int after_write(struct snap_job *job, int ret, uint64_t len)
{
	job->done += len;
	show(job, false);
	keep_rate(job);
	return ret ? ret : snap_interrupted ? -EINTR : 0;
}

int snap_put_at(struct snap_job *job, uint64_t at, const void *pages, uint64_t len)
{
	return after_write(job, snap_core_write_at(&job->core, at, pages, len), len);
}

static int put(struct snap_job *job, uint64_t addr, const void *data, uint64_t len)
{
	return after_write(job, snap_core_write(&job->core, addr, data, len), len);
}

int snap_save_frozen(struct snap_job *job)
{
	struct ferry_block block = {.size = sizeof(block)};
	int ret = 1;

	while (ret > 0 && (ret = ferry_snapshot_next(job->snap, &block)) == 1) {
		int failed = 0;
		park("snapshot.saving");
		if (block.kind == FERRY_BLOCK_DATA)
			failed = put(job, block.addr, block.data, block.len);
		else if (block.kind == FERRY_BLOCK_LOST)
			failed = snap_core_absent(&job->core, block.addr, block.len);
		ret = failed ? failed : ret;
	}
	job->result.report.size = sizeof(job->result.report);
	ferry_snapshot_report(job->snap, &job->result.report);
	return ret;
}

/* What lies apart in memory mostly lies in a row in the file, and is written at once. */
struct run {
	uint64_t at, len;
	const char *data;
};

static int put_run(struct snap_job *job, struct run *r)
{
	int ret = r->len ? snap_put_at(job, r->at, r->data, r->len) : 0;

	r->data += r->len;
	r->len = 0;
	return ret;
}

/* What lies in a row in memory may lie apart in the file. */
static int add_to_run(struct snap_job *job, struct run *r, struct ferry_span s)
{
	int ret = 0;

	for (uint64_t some; !ret && s.len; s.addr += some, s.len -= some) {
		some = s.len;
		uint64_t at = snap_core_place(&job->core, s.addr, &some);
		if (!some)
			return -EFAULT;
		if (at != r->at + r->len || r->len >= PART) {
			ret = put_run(job, r);
			r->at = at;
		}
		r->len += some;
	}
	return ret;
}

static int save_copies(struct snap_job *job, const struct snap_copies *c)
{
	struct run r = {.data = c->data};
	int ret = 0;

	for (size_t i = 0; !ret && i < c->n; i++)
		ret = add_to_run(job, &r, c->spans[i]);
	return ret ? ret : put_run(job, &r);
}

/* By the descriptor alone: the process may be another program by now. */
static int read_later(const struct snap_target *t, uint64_t addr, char *to, uint64_t len)
{
	ssize_t n = pread(t->mem, to, len, (off_t)addr);
	return n == (ssize_t)len ? 0 : n ? -EFAULT : -ESRCH;
}

/* Of a file, and as it is there: what the process has changed since it stood still isn't. */
static int put_unchanged(struct snap_job *job, uint64_t addr, const char *data, uint64_t len)
{
	uint64_t at = addr, end = addr + len;
	struct ferry_span own;
	int ret = 0;

	while (!ret && snap_next_own(&job->target, at, end, &own)) {
		ret = put(job, at, data + (at - addr), own.addr - at);
		if (!ret)
			ret = snap_core_absent(&job->core, own.addr, own.len);
		at = own.addr + own.len;
	}
	return ret ? ret : put(job, at, data + (at - addr), end - at);
}

static int put_later(struct snap_job *job, const struct snap_map *m, uint64_t addr,
		     const char *data, uint64_t len)
{
	return m->way == SNAP_CONSTANT && m->inode ? put_unchanged(job, addr, data, len)
						   : put(job, addr, data, len);
}

/* What can't be read is beyond the end of its file, no longer mapped, or a page for which its
 * userfaultfd would have to be asked. */
static int save_part(struct snap_job *job, const struct snap_map *m, uint64_t addr, uint64_t len,
		     char *buffer)
{
	int ret = read_later(&job->target, addr, buffer, len);

	if (!ret)
		return put_later(job, m, addr, buffer, len);
	for (uint64_t at = addr; (!ret || ret == -EFAULT) && at < addr + len; at += FERRY_PAGE) {
		ret = read_later(&job->target, at, buffer, FERRY_PAGE);
		if (!ret)
			ret = put_later(job, m, at, buffer, FERRY_PAGE);
		else if (ret == -EFAULT)
			ret = snap_core_absent(&job->core, at, FERRY_PAGE);
	}
	return ret;
}

static int save_map(struct snap_job *job, const struct snap_map *m)
{
	char *buffer = malloc(PART);
	int ret = buffer ? 0 : -ENOMEM;

	for (uint64_t at = 0; !ret && at < m->dumped; at += PART) {
		uint64_t len = m->dumped - at < PART ? m->dumped - at : PART;
		ret = save_part(job, m, m->start + at, len, buffer);
	}
	free(buffer);
	return ret;
}

/* Up to a page behind the end of the file, as it is mapped. */
static int save_from_file(struct snap_job *job, const struct snap_unchanged *u, char *buffer)
{
	uint64_t addr = u->span.addr, left = u->span.len, offset = u->offset;
	int ret = 0;

	while (!ret && left) {
		uint64_t some = left < PART ? left : PART;
		size_t n = snap_backing_read(u->file, offset, buffer, some);
		if (!n)
			return snap_core_absent(&job->core, addr, left);
		some = (n + FERRY_PAGE - 1) / FERRY_PAGE * FERRY_PAGE;
		memset(buffer + n, 0, some - n);
		ret = put(job, addr, buffer, some);
		addr += some;
		offset += some;
		left -= some;
	}
	return ret;
}

static int save_unchanged(struct snap_job *job)
{
	char *buffer = malloc(PART);
	int ret = buffer ? 0 : -ENOMEM;

	for (size_t i = 0; !ret && i < job->nunchanged; i++)
		ret = save_from_file(job, &job->unchanged[i], buffer);
	free(buffer);
	return ret;
}

static int save_others(struct snap_job *job)
{
	int ret = 0;

	for (size_t i = 0; !ret && i < job->maps.n; i++) {
		const struct snap_map *m = &job->maps.v[i];
		if (m->way != SNAP_LIVE && m->way != SNAP_CONSTANT)
			continue;
		ret = save_map(job, m);
		*(m->way == SNAP_LIVE ? &job->result.live : &job->result.constant) += m->dumped;
	}
	/* Without it all that was just read may be somebody else's. */
	return ret ? ret : snap_has_ended(&job->target) ? -ESRCH : 0;
}

int snap_save_rest(struct snap_job *job)
{
	int ret = job->changed.data ? save_copies(job, &job->changed) : 0;

	if (!ret)
		ret = save_copies(job, &job->own);
	if (!ret)
		ret = save_unchanged(job);
	if (!ret)
		ret = save_others(job);
	show(job, true);
	return ret;
}

int snap_not_saved(const struct snap_job *job, int ret, struct why *why)
{
	int pid = (int)job->target.pid;

	if (ret == -EINTR)
		return why_set(why, ret, "interrupted: process %d goes on, there is no %s", pid,
			       job->options->path);
	if (ret == -ESRCH)
		return why_set(
			why, ret,
			"process %d has ended, or become another program, before it was saved",
			pid);
	return why_set(why, ret, "%s: %s", job->options->path, strerror(-ret));
}
