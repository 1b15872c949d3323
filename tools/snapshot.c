// SPDX-License-Identifier: MIT
/*
 * pageferry snapshot: a core file of a running process, which stands still only for a moment. What
 * happens is here, in its order, and is done elsewhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/park.h"
#include "lib/snapshot.h"
#include "tools/snap.h"
#include "tools/snap_file.h"

#define EXIT_INCOMPLETE 3
#define KEPT            (64 << 20)
#define PATIENCE_NS     2000000000ll

static int duplicate(int fd)
{
	return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static int freeze(struct snap_job *job, int uffd, struct why *why)
{
	struct ferry_snapshot_opts opts = FERRY_SNAPSHOT_OPTS_INIT;
	struct snapshot_target target = {.uffd = uffd,
					 .pid = job->target.pid,
					 .mem = duplicate(job->target.mem),
					 .pagemap = duplicate(job->target.pagemap)};
	uint64_t features = SNAPSHOT_FEATURES;
	struct ferry_span *spans;
	size_t n = snap_maps_frozen(&job->maps, &spans);

	opts.max_extra = job->options->max_extra;
	int ret = spans ? uffd_api(uffd, &features) : -ENOMEM;
	if (!ret && target.mem >= 0 && target.pagemap >= 0) {
		ret = snapshot_arm(&job->snap, &target, spans, n, &opts);
	} else {
		close(uffd);
		close(target.mem);
		close(target.pagemap);
		ret = ret ? ret : -EMFILE;
	}
	free(spans);
	if (ret == -EBUSY)
		return why_set(why, ret, "process %d has given memory to a userfaultfd of its own",
			       (int)job->target.pid);
	return ret ? why_set(why, ret, "the memory of process %d can't be frozen: %s",
			     (int)job->target.pid, strerror(-ret))
		   : 0;
}

/* Not while it waits: this takes longer than to look who it is. */
static int make_notes(struct snap_job *job, struct why *why)
{
	job->core.notes = snap_notes(&job->who, &job->threads, &job->maps,
				     job->series.state ? &job->series.ident : NULL,
				     &job->core.notes_len);
	return job->core.notes ? 0 : why_set(why, -ENOMEM, "out of memory");
}

/* An increment mostly needs none. */
static int find_gadgets(struct snap_job *job, struct why *why)
{
	return job->gadgets.sigreturn
		       ? 0
		       : snap_find_gadgets(&job->gadgets, &job->target, &job->flags, why);
}

static bool has_frozen(const struct snap_maps *maps)
{
	for (size_t i = 0; i < maps->n; i++)
		if (maps->v[i].way == SNAP_FROZEN)
			return true;
	return false;
}

static int freeze_all(struct snap_job *job, struct why *why)
{
	/* By its coredump_filter. */
	if (!has_frozen(&job->maps))
		return 0;
	int ret = snap_maps_are_merged(&job->maps)
			  ? why_set(why, -EBUSY,
				    "process %d has memory that KSM may merge, and then it isn't "
				    "frozen any more: stop KSM meanwhile (echo 0 "
				    ">/sys/kernel/mm/ksm/run)",
				    (int)job->target.pid)
			  : find_gadgets(job, why);
	int uffd = ret ? ret
		       : snap_fetch_uffd(&job->target, &job->threads, &job->maps, &job->gadgets,
					 why);

	ret = uffd < 0 ? uffd : freeze(job, uffd, why);
	if (ret)
		return ret;
	job->snap->keep = job->series.state != SERIES_NONE;
	snapshot_skip(job->snap, job->changes.same, job->changes.nsame);
	return 0;
}

/* All that happens while it stands still. */
static int freeze_stopped(struct snap_job *job, struct why *why)
{
	pid_t pid = job->target.pid;
	int ret = snap_reopen(&job->target, why);

	if (ret)
		return ret;
	ret = snap_maps_read(&job->maps, pid);
	if (ret)
		return why_set(why, ret, "process %d has ended", (int)pid);
	ret = job->async.used ? snap_async_changes(job, why) : snap_series_changes(job, why);
	if (ret > 0)
		ret = freeze_all(job, why);
	if (ret)
		return ret;
	park("snapshot.frozen");
	snap_who_read(&job->who, pid);
	ret = snap_copy_own(job);
	return ret ? why_set(why, ret, "the memory of process %d can't be read: %s", (int)pid,
			     strerror(-ret))
		   : 0;
}

static bool has_left(const struct snap_job *job)
{
	for (size_t i = 0; i < job->threads.n; i++)
		if (snap_is_left(&job->target, &job->threads.v[i]))
			return true;
	return false;
}

/*
 * Threads may stand where a snapshot that was killed has left them, since they didn't get a CPU
 * yet: with registers that aren't the program's, and they need what we would write over.
 */
static int stop(struct snap_job *job, struct why *why)
{
	useconds_t nap = 250;

	for (int64_t until = clock_ns() + PATIENCE_NS;; nap = nap < 50000 ? nap * 2 : nap) {
		int ret = snap_stop(&job->threads, &job->target, why);
		if (ret || !has_left(job))
			return ret;
		snap_continue(&job->threads);
		snap_threads_free(&job->threads);
		park("snapshot.left");
		if (clock_ns() > until || snap_interrupted)
			return why_set(why, -EAGAIN,
				       "process %d hasn't run since a snapshot of it was killed: "
				       "let it run (SIGCONT), and try again",
				       (int)job->target.pid);
		usleep(nap);
	}
}

static int stop_and_freeze(struct snap_job *job, struct why *why)
{
	int ret = stop(job, why);

	if (ret)
		return ret;
	park("snapshot.stopped");
	ret = freeze_stopped(job, why);
	snap_continue(&job->threads);
	job->result.stop_ns = snap_stood_ns(&job->threads);
	job->result.nthreads = job->threads.n;
	snap_async_release(job);
	snap_way_found(job);
	park("snapshot.running");
	return ret ? ret : make_notes(job, why);
}

/* ---- saved while it runs */

static int fetch_stopped(struct snap_job *job, struct why *why)
{
	struct snap_maps maps = {0};
	int ret = snap_reopen(&job->target, why);

	if (!ret && snap_maps_read(&maps, job->target.pid))
		ret = why_set(why, -ESRCH, "process %d has ended", (int)job->target.pid);
	if (!ret)
		ret = snap_changed_uffd(job, &maps, &job->async.uffd, why);
	snap_maps_free(&maps);
	return ret;
}

/* It stops for a moment to have a userfaultfd made. */
static int fetch_tracking(struct snap_job *job, struct why *why)
{
	if (!snap_track_knows_moved())
		return why_set(why, -EOPNOTSUPP,
			       "this kernel takes moved memory for unchanged: use --way sync");
	if (snap_has_pins(job->target.pid))
		return snap_why_pinned(job->target.pid, "use --way sync", why);
	int ret = stop(job, why);
	if (ret)
		return ret;
	ret = fetch_stopped(job, why);
	snap_continue(&job->threads);
	job->result.first_stop_ns = snap_stood_ns(&job->threads);
	snap_threads_free(&job->threads);
	park("snapshot.tracking");
	return ret;
}

static int save_running(struct snap_job *job, struct why *why)
{
	int ret = fetch_tracking(job, why);

	if (ret == -EOPNOTSUPP && snap_way_can_be_sync(job)) {
		snap_async_release(job);
		why->text[0] = 0;
		return 0;
	}
	job->expected = snap_rss(job->target.pid);
	return ret ? ret : snap_async_save(job, why);
}

static int prepare(struct snap_job *job, struct why *why)
{
	int ret = snap_open(&job->target, job->options->pid, why);

	if (!ret)
		ret = snap_series_begin(job, why);
	if (ret)
		return ret;
	ret = snap_core_create(&job->core, job->options->path, job->options->compress, why);
	if (!ret && snap_maps_read_flags(&job->flags, job->target.pid))
		ret = why_set(why, -ESRCH, "process %d has ended", (int)job->target.pid);
	if (ret)
		return ret;
	park("snapshot.flags");
	snap_track_learn();
	snap_backing_open(job);
	snap_room_make(&job->room, FERRY_HUGE);
	return job->options->base ? 0 : find_gadgets(job, why);
}

static uint64_t resident(const struct snap_maps *maps)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < maps->n; i++)
		if (maps->v[i].way == SNAP_LIVE || maps->v[i].way == SNAP_CONSTANT)
			bytes += maps->v[i].dumped;
	return bytes;
}

static int save_frozen(struct snap_job *job, struct why *why)
{
	int ret = snap_save_frozen(job);
	return ret || !job->snap->keep ? ret : snap_series_track(job, why);
}

static int lay_out(struct snap_job *job)
{
	struct snap_maps *maps = snap_changed_parts(job);

	if (maps)
		snap_core_lay_out(&job->core, maps);
	return maps ? 0 : -ENOMEM;
}

static int save(struct snap_job *job, struct why *why)
{
	/* Better than nothing, and better than to let it wait until all is known. */
	uint64_t frozen = job->snap && !job->async.used ? snap_rss(job->target.pid)
							: job->result.changed;
	job->expected = job->done + frozen + job->own.bytes + resident(&job->maps);
	int ret = job->snap ? snapshot_serve(job->snap) : 0;
	if (!ret)
		ret = lay_out(job);
	if (!ret)
		ret = snap_async_clear(job);
	if (!ret && job->snap)
		ret = save_frozen(job, why);
	if (!ret)
		ret = snap_save_rest(job);
	if (!ret)
		ret = snap_core_finish(&job->core, snap_step, job);
	return !ret || why->text[0] ? ret : snap_not_saved(job, ret, why);
}

static void finish(struct snap_job *job)
{
	ferry_snapshot_end(job->snap);
	snap_series_end(job);
	snap_async_end(job);
	snap_changed_free(job);
	snap_core_close(&job->core);
	snap_who_free(&job->who);
	snap_copies_free(job);
	snap_backing_close(job);
	snap_threads_free(&job->threads);
	snap_maps_free(&job->maps);
	snap_maps_free(&job->flags);
	snap_close(&job->target);
}

static int report(struct snap_job *job, int ret, const struct why *why)
{
	struct snap_result *r = &job->result;

	if (ret) {
		snap_print_failure(job->options, why);
		if (job->options->base && job->series.state == SERIES_LOST)
			say("process %d isn't tracked any more: make a full snapshot with --track",
			    (int)job->options->pid);
		return EXIT_FAILURE;
	}
	r->total_ns = (uint64_t)(clock_ns() - job->begin_ns);
	r->written = job->core.written;
	r->copied = job->own.bytes;
	r->extra_peak = r->report.extra_peak + r->copied + (job->changed.data ? r->changed : 0);
	if (job->async.used && r->extra_peak < SNAP_PIECE)
		r->extra_peak = SNAP_PIECE;
	r->maps = &job->maps;
	snap_print(job->options, r);
	if (!r->report.lost)
		return EXIT_SUCCESS;
	say("%s is incomplete: process %d unmapped %.1f MiB before they were saved; they are marked as "
	    "missing",
	    job->options->path, (int)job->target.pid, (double)r->report.lost / 1048576);
	return EXIT_INCOMPLETE;
}

static int untrack(const struct snap_options *options)
{
	struct why why = {""};

	if (!snap_untrack(options->pid, &why))
		return EXIT_SUCCESS;
	snap_print_failure(options, &why);
	return EXIT_FAILURE;
}

int cmd_snapshot(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "merge"))
		return cmd_snapshot_merge(argc - 1, argv + 1);

	struct snap_options options = {0};
	struct snap_job job = {.options = &options,
			       .begin_ns = clock_ns(),
			       .core.fd = -1,
			       .series = {.holder = {.sock = -1, .uffd = -1}, .listener = -1},
			       .async.uffd = -1,
			       .target = {
				       .pidfd = -1, .mem = -1, .pagemap = -1, .lock = -1}};
	struct why why = {""};
	int status = snap_read_options(argc, argv, &options);

	if (status)
		return status == 1 ? EXIT_SUCCESS : status;
	if (options.untrack)
		return untrack(&options);
	/* What is freed is there when memory is needed while the process stands still. */
	mallopt(M_TRIM_THRESHOLD, KEPT);
	snap_catch_signals();
	file_limits_are_errors();
	int ret = prepare(&job, &why);
	if (!ret && snap_way_is_async(&job))
		ret = save_running(&job, &why);
	if (!ret)
		ret = stop_and_freeze(&job, &why);
	if (!ret)
		ret = save(&job, &why);
	if (!ret)
		ret = snap_series_done(&job, &why);
	status = report(&job, ret, &why);
	finish(&job);
	if (ret)
		snap_end_by_signal();
	return status;
}
