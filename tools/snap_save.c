// SPDX-License-Identifier: MIT
/* From the frozen memory into the file: rate, progress, and what is not frozen. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/park.h"
#include "lib/uffd.h"
#include "tools/snap.h"

#define BAR_WIDTH 40
#define BAR_NS    100000000
#define PART      (1u << 20)
#define COPY_ALL                                                                                   \
	(4ull << 20) /* a mapping of a file, up to which its unchanged pages are copied, too */

/* ---- while it stands still */

static int read_pages(const struct snap_target *t, uint64_t addr, char *to, uint64_t len)
{
	struct iovec local = {to, len}, remote = {(void *)(uintptr_t)addr, len};

	if (process_vm_readv(t->pid, &local, 1, &remote, 1, 0) == (ssize_t)len)
		return 0;
	return pread(t->mem, to, len, (off_t)addr) == (ssize_t)len ? 0 : -EFAULT;
}

static int copy_span(struct snap_job *job, uint64_t addr, uint64_t len)
{
	if (job->ncopies == job->cap_copies) {
		size_t cap = job->cap_copies * 2 + 64;
		struct snap_copied *v = reallocarray(job->copies, cap, sizeof(*v));
		if (!v)
			return -ENOMEM;
		job->copies = v;
		job->cap_copies = cap;
	}
	char *data = malloc(len);
	if (!data)
		return -ENOMEM;
	int ret = read_pages(&job->target, addr, data, len);
	if (ret) {
		free(data);
		return ret;
	}
	job->copies[job->ncopies++] = (struct snap_copied){{addr, len}, data};
	job->result.copied += len;
	return 0;
}

/* Of a large one only its own pages. The others are in its file, where debuggers find them. */
static int copy_own(struct snap_job *job, const struct snap_map *m)
{
	struct ferry_span run;
	uint64_t at = m->start;
	int ret = 0;

	while (!ret && snap_next_own(&job->target, at, m->end, &run)) {
		if (run.addr > at)
			ret = snap_core_absent(&job->core, at, run.addr - at);
		if (!ret)
			ret = copy_span(job, run.addr, run.len);
		at = run.addr + run.len;
	}
	if (!ret && at < m->end)
		ret = snap_core_absent(&job->core, at, m->end - at);
	return ret;
}

int snap_copy(struct snap_job *job)
{
	int ret = 0;

	for (size_t i = 0; !ret && i < job->maps.n; i++) {
		const struct snap_map *m = &job->maps.v[i];
		if (m->way != SNAP_COPIED)
			continue;
		/* Beyond the end of its file a mapping can't be read. */
		if (m->end - m->start > COPY_ALL || copy_span(job, m->start, m->end - m->start))
			ret = copy_own(job, m);
	}
	return ret;
}

void snap_copies_free(struct snap_job *job)
{
	for (size_t i = 0; i < job->ncopies; i++)
		free(job->copies[i].data);
	free(job->copies);
}

/* ---- afterwards */

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

/* What lies apart in memory mostly lies in a row in the file. */
static int save_changed(struct snap_job *job)
{
	const struct snap_changes *c = &job->changes;
	const char *data = job->changed;
	int ret = 0;

	for (size_t i = 0; !ret && data && i < c->nchanged;) {
		uint64_t at = snap_core_place(&job->core, c->changed[i].addr), len = 0;
		do
			len += c->changed[i++].len;
		while (i < c->nchanged && len < PART &&
		       snap_core_place(&job->core, c->changed[i].addr) == at + len);
		ret = snap_put_at(job, at, data, len);
		data += len;
	}
	return ret;
}

static int save_copies(struct snap_job *job)
{
	int ret = 0;

	for (size_t i = 0; !ret && i < job->ncopies; i++)
		ret = put(job, job->copies[i].span.addr, job->copies[i].data,
			  job->copies[i].span.len);
	return ret;
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
	int ret = save_changed(job);

	if (!ret)
		ret = save_copies(job);
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
