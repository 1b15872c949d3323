// SPDX-License-Identifier: MIT
/*
 * A snapshot that has what has changed since the one before. Little is copied while the process
 * stands still, which is when tracking begins again. More is frozen and saved as ever, but what is
 * saved stays frozen, so that it is known in the end what was written meanwhile: a mapping can't be
 * frozen and tracked at once, and the process stands still a second time to change from one to the
 * other.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/park.h"
#include "lib/snapshot.h"
#include "tools/snap.h"
#include "tools/snap_io.h"

#define EXTRA_LEAST         (16ull << 20)
#define EXTRA_MOST          (256ull << 20)
#define BATCH               512u
#define COPIES_LEN(changes) ((changes)->changed_bytes + FERRY_HUGE)

/* ---- before it is stopped */

/* What a file begins with says which snapshot it is. */
static int read_ident(struct snap_ident *ident, const char *path, struct why *why)
{
	struct {
		Elf64_Ehdr head;
		struct snap_ident_note note;
	} begin = {0};
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return why_set(why, -errno, "%s: %s", path, strerror(errno));
	int ret = snap_zstd_is(fd) ? snap_zstd_peek(fd, &begin, sizeof(begin))
				   : io_read(fd, 0, &begin, sizeof(begin));
	close(fd);
	if (!ret && memcmp(begin.head.e_ident, ELFMAG, SELFMAG) != 0)
		ret = -EBADMSG;
	if (!ret)
		ret = snap_ident_read(ident, &begin.note);
	return ret ? why_set(why, ret,
			     "%s is no snapshot that was made with --track or --incremental", path)
		   : 0;
}

static int begin_first(struct snap_job *job, struct why *why)
{
	struct snap_series *s = &job->series;

	s->listener = snap_holder_listen(job->target.pidfd);
	if (s->listener < 0)
		return why_set(why, s->listener, "process %d can't be tracked: %s",
			       (int)job->target.pid, strerror(-s->listener));
	s->state = SERIES_FIRST;
	return 0;
}

static int begin_next(struct snap_job *job, struct why *why)
{
	const struct snap_options *o = job->options;
	struct snap_series *s = &job->series;
	struct snap_ident base;
	int ret = read_ident(&base, o->base, why);

	if (ret)
		return ret;
	ret = snap_holder_open(&s->holder, job->target.pidfd);
	if (ret == -EBUSY)
		return why_set(why, ret, "another snapshot of process %d is under way",
			       (int)job->target.pid);
	if (ret)
		return why_set(why, ret,
			       "process %d is not, or no longer, tracked: make a full snapshot "
			       "with --track",
			       (int)job->target.pid);
	s->state = SERIES_UNTOUCHED;
	memcpy(s->ident.base, base.id, SNAP_ID_LEN);
	if (!memcmp(base.id, s->holder.id, SNAP_ID_LEN))
		return 0;
	return why_set(why, -EINVAL,
		       "%s is not the last snapshot of process %d: give that, or make a full one",
		       o->base, (int)job->target.pid);
}

/* What is pinned is written to without the page table, which is where it would be noticed. */
static bool has_pins(pid_t pid)
{
	char *status = snap_read_proc(pid, "status", NULL);
	const char *line = status ? strstr(status, "\nVmPin:") : NULL;
	bool pins = line && strtoull(line + 7, NULL, 10);

	free(status);
	return pins;
}

int snap_series_begin(struct snap_job *job, struct why *why)
{
	const struct snap_options *o = job->options;
	struct snap_ident *ident = &job->series.ident;

	if (!o->base && snap_holder_exists(job->target.pidfd))
		return why_set(why, -EBUSY,
			       "process %d is tracked: use --incremental, or end that with "
			       "--untrack",
			       (int)job->target.pid);
	if (!o->base && !o->track)
		return 0;
	if (has_pins(job->target.pid))
		return why_set(
			why, -EBUSY,
			"process %d has pinned memory (VmPin in /proc/%d/status), and what a "
			"device writes there is not found: make full snapshots of it",
			(int)job->target.pid, (int)job->target.pid);
	ident->version = SNAP_IDENT_VER;
	if (getrandom(ident->id, SNAP_ID_LEN, 0) != SNAP_ID_LEN)
		return why_set(why, -EIO, "no random number: %s", strerror(errno));
	return o->base ? begin_next(job, why) : begin_first(job, why);
}

/* ---- while it stands still */

static uint64_t limit_of(const struct snap_job *job)
{
	uint64_t frozen = 0;

	if (job->options->max_extra)
		return job->options->max_extra;
	for (size_t i = 0; i < job->maps.n; i++)
		if (snap_track_may(&job->maps.v[i]))
			frozen += job->maps.v[i].end - job->maps.v[i].start;
	frozen /= 64;
	return frozen < EXTRA_LEAST ? EXTRA_LEAST : frozen > EXTRA_MOST ? EXTRA_MOST : frozen;
}

/*
 * Slower, but it also reads what its owner may not. It stands still, and this is populated: what
 * can't be read even so is a guard page or a broken one, and no more there for anybody.
 */
static int read_by_file(struct snap_job *job, const struct ferry_span *span, char *to)
{
	int ret = 0;

	for (uint64_t at = 0; !ret && at < span->len; at += FERRY_PAGE)
		if (pread(job->target.mem, to + at, FERRY_PAGE, (off_t)(span->addr + at)) !=
		    (ssize_t)FERRY_PAGE)
			ret = snap_core_absent(&job->core, span->addr + at, FERRY_PAGE);
	return ret;
}

static int read_batch(struct snap_job *job, const struct ferry_span *spans, size_t n, char **to)
{
	struct iovec remote[BATCH], local = {*to, 0};

	for (size_t i = 0; i < n; i++) {
		remote[i] = (struct iovec){(void *)(uintptr_t)spans[i].addr, spans[i].len};
		local.iov_len += spans[i].len;
	}
	bool all = process_vm_readv(job->target.pid, &local, 1, remote, n, 0) ==
		   (ssize_t)local.iov_len;
	int ret = 0;
	for (size_t i = 0; !ret && i < n; *to += spans[i++].len)
		ret = all ? 0 : read_by_file(job, &spans[i], *to);
	return ret;
}

/* The process waits for it: huge pages come fifty times faster. */
static char *map_copies(size_t len)
{
	void *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		return NULL;
	madvise(mem, len, MADV_HUGEPAGE);
	return mem;
}

static int copy_changed(struct snap_job *job)
{
	const struct snap_changes *c = &job->series.changes;
	char *to = job->series.changed = map_copies(COPIES_LEN(c));
	int ret = to ? 0 : -ENOMEM;

	for (size_t i = 0, n; !ret && i < c->nchanged; i += n) {
		n = c->nchanged - i < BATCH ? c->nchanged - i : BATCH;
		ret = read_batch(job, c->changed + i, n, &to);
	}
	return ret;
}

static int find_changes(struct snap_job *job, struct why *why)
{
	struct snap_series *s = &job->series;
	uint64_t limit = limit_of(job);
	int ret = snap_track_scan(&s->changes, s->holder.uffd, &job->target, &job->maps, limit);

	s->state = ret ? SERIES_LOST : SERIES_PROTECTED;
	if (ret == -ESRCH)
		return why_set(why, ret,
			       "process %d has become another program: make a full snapshot with "
			       "--track",
			       (int)job->target.pid);
	job->result.changed = s->changes.changed_bytes;
	job->result.same = s->changes.same_bytes;
	if (!ret && s->changes.changed_bytes > limit) {
		s->state = SERIES_LOST;
		snap_track_end(s->holder.uffd, &job->maps);
		return 1;
	}
	park("snapshot.tracked");
	if (!ret)
		ret = copy_changed(job);
	return ret ? why_set(why, ret, "what process %d has changed can't be copied: %s",
			     (int)job->target.pid, strerror(-ret))
		   : 0;
}

/* ---- the mappings as the file has them */

static bool add_part(struct snap_maps *parts, size_t *cap, const struct snap_map *m, uint64_t start,
		     uint64_t end, bool same)
{
	if (start == end)
		return true;
	if (parts->n == *cap) {
		struct snap_map *v = reallocarray(parts->v, *cap * 2 + 1024, sizeof(*v));
		if (!v)
			return false;
		parts->v = v;
		*cap = *cap * 2 + 1024;
	}
	struct snap_map *p = &parts->v[parts->n++];
	*p = *m;
	p->start = start;
	p->end = end;
	p->same = same;
	/* Only frozen ones are taken apart, and they are dumped as a whole. */
	if (m->way == SNAP_FROZEN)
		p->dumped = same ? 0 : end - start;
	return true;
}

static bool take_apart(struct snap_job *job, struct snap_maps *parts)
{
	const struct snap_changes *c = &job->series.changes;
	size_t cap = 0, k = 0;

	for (size_t i = 0; i < job->maps.n; i++) {
		const struct snap_map *m = &job->maps.v[i];
		uint64_t at = m->start;
		for (; k < c->nsame && c->same[k].addr < m->end; k++) {
			uint64_t end = c->same[k].addr + c->same[k].len;
			if (!add_part(parts, &cap, m, at, c->same[k].addr, false) ||
			    !add_part(parts, &cap, m, c->same[k].addr, end, true))
				return false;
			at = end;
		}
		if (!add_part(parts, &cap, m, at, m->end, false))
			return false;
	}
	return true;
}

struct snap_maps *snap_series_parts(struct snap_job *job)
{
	if (!job->series.changes.nsame)
		return &job->maps;
	return take_apart(job, &job->series.parts) ? &job->series.parts : NULL;
}

/* Now, since what is needed for it can't be written into memory that is frozen. */
static int get_uffd(struct snap_job *job, struct why *why)
{
	int uffd = snap_fetch_uffd(&job->target, &job->threads, &job->maps, &job->gadgets, why);

	if (uffd < 0)
		return uffd;
	job->series.holder.uffd = uffd;
	int ret = snap_track_prepare(uffd);
	return ret ? why_set(why, ret, "this kernel can't track changes: Linux 6.7 can") : 0;
}

int snap_series_changes(struct snap_job *job, struct why *why)
{
	snap_maps_plan(&job->maps, &job->flags, &job->target);
	int ret = job->series.state == SERIES_FIRST ? get_uffd(job, why) : 0;
	if (ret)
		return ret;
	return job->options->base ? find_changes(job, why) : 1;
}

void snap_series_frozen(struct snap_job *job)
{
	const struct snap_changes *c = &job->series.changes;

	if (job->series.state == SERIES_NONE)
		return;
	job->snap->keep = true;
	snapshot_skip(job->snap, c->same, c->nsame);
}

/* ---- from frozen to tracked */

/* Pages that are no longer frozen were written to, or are new. */
static int change_over(struct snap_job *job, struct snap_maps *maps)
{
	struct ferry_span *clean;
	size_t n;
	int ret = snapshot_frozen(job->snap, &clean, &n);

	ferry_snapshot_end(job->snap);
	job->snap = NULL;
	if (!ret)
		ret = snap_track_register(job->series.holder.uffd, maps);
	if (!ret)
		ret = snap_track_these(&job->target, clean, n);
	free(clean);
	return ret;
}

static int track_stopped(struct snap_job *job)
{
	struct snap_maps maps = {0};
	int ret = snap_maps_read(&maps, job->target.pid);

	if (!ret)
		snap_maps_plan(&maps, &job->flags, &job->target);
	if (!ret)
		ret = change_over(job, &maps);
	park("snapshot.tracked");
	snap_maps_free(&maps);
	return ret;
}

int snap_series_track(struct snap_job *job, struct why *why)
{
	struct snap_threads threads;
	int ret = snap_stop(&threads, &job->target, why);

	if (ret)
		return ret;
	ret = track_stopped(job);
	snap_continue(&threads);
	job->result.track_stop_ns = snap_stood_ns(&threads);
	snap_threads_free(&threads);
	return ret ? why_set(why, ret, "process %d can't be tracked: %s", (int)job->target.pid,
			     strerror(-ret))
		   : 0;
}

/* ---- in the end */

int snap_series_done(struct snap_job *job, struct why *why)
{
	struct snap_series *s = &job->series;
	int ret = 0;

	if (s->state == SERIES_NONE)
		return 0;
	park("snapshot.named");
	if (s->state == SERIES_FIRST) {
		pid_t pid = snap_holder_start(s->listener, job->target.pidfd, s->holder.uffd,
					      s->ident.id);
		job->result.holder = pid;
		ret = pid < 0 ? pid : 0;
	} else {
		ret = snap_holder_done(&s->holder, s->ident.id);
	}
	s->state = SERIES_LOST;
	return ret ? why_set(why, ret, "%s is made, but process %d isn't tracked any more: %s",
			     job->options->path, (int)job->target.pid, strerror(-ret))
		   : 0;
}

void snap_series_end(struct snap_job *job)
{
	struct snap_series *s = &job->series;

	if (s->state == SERIES_PROTECTED)
		snap_track_forget(s->holder.uffd, s->changes.changed, s->changes.nchanged);
	if (s->state == SERIES_PROTECTED || s->state == SERIES_UNTOUCHED)
		snap_holder_done(&s->holder, NULL);
	if (s->changed)
		munmap(s->changed, COPIES_LEN(&s->changes));
	if (s->listener >= 0)
		close(s->listener);
	snap_holder_close(&s->holder);
	snap_changes_free(&s->changes);
	free(s->parts.v);
}

int snap_untrack(pid_t pid, struct why *why)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	int ret = pidfd < 0 ? -errno : snap_holder_stop(pidfd);

	if (pidfd >= 0)
		close(pidfd);
	if (ret == -EBUSY)
		return why_set(why, ret, "a snapshot of process %d is under way", (int)pid);
	if (ret == -ESRCH)
		return why_set(why, ret, "there is no process %d", (int)pid);
	return ret ? why_set(why, ret, "process %d is not tracked", (int)pid) : 0;
}
