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
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/park.h"
#include "lib/snapshot.h"
#include "tools/snap.h"
#include "tools/snap_io.h"

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

static bool is_one_file(const char *a, const char *b)
{
	struct stat x, y;
	return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static int begin_next(struct snap_job *job, struct why *why)
{
	const struct snap_options *o = job->options;
	struct snap_series *s = &job->series;
	struct snap_ident base;

	if (is_one_file(o->path, o->base))
		return why_set(why, -EINVAL,
			       "%s would take the place of its own base: give it another name",
			       o->path);
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
	if (snap_has_pins(job->target.pid))
		return snap_why_pinned(job->target.pid, "make full snapshots of it", why);
	ident->version = SNAP_IDENT_VER;
	if (getrandom(ident->id, SNAP_ID_LEN, 0) != SNAP_ID_LEN)
		return why_set(why, -EIO, "no random number: %s", strerror(errno));
	return o->base ? begin_next(job, why) : begin_first(job, why);
}

/* ---- while it stands still */

static int find_changes(struct snap_job *job, struct why *why)
{
	struct snap_series *s = &job->series;
	int ret = snap_changed_find(job, s->holder.uffd);

	s->state = ret ? SERIES_LOST : SERIES_PROTECTED;
	if (ret == -ESRCH)
		return why_set(why, ret,
			       "process %d has become another program: make a full snapshot with "
			       "--track",
			       (int)job->target.pid);
	if (!ret) {
		park("snapshot.tracked");
		ret = snap_copy_changed(job);
	}
	return ret < 0 ? why_set(why, ret, "what process %d has changed can't be copied: %s",
				 (int)job->target.pid, strerror(-ret))
		       : ret;
}

int snap_series_changes(struct snap_job *job, struct why *why)
{
	snap_maps_plan(&job->maps, &job->flags, &job->target);
	/* Now, since what is needed for it can't be written into memory that is frozen. */
	int ret = job->series.state == SERIES_FIRST
			  ? snap_changed_uffd(job, &job->maps, &job->series.holder.uffd, why)
			  : 0;
	if (ret)
		return ret;
	return job->options->base ? find_changes(job, why) : 1;
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
		snap_track_forget(s->holder.uffd, job->changes.changed, job->changes.nchanged);
	if (s->state == SERIES_PROTECTED || s->state == SERIES_UNTOUCHED)
		snap_holder_done(&s->holder, NULL);
	if (s->listener >= 0)
		close(s->listener);
	snap_holder_close(&s->holder);
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
