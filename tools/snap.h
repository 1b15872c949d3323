/* SPDX-License-Identifier: MIT */
/* pageferry snapshot: what its files share, in the order in which it happens. */
#ifndef PAGEFERRY_SNAP_H
#define PAGEFERRY_SNAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>
#include <time.h>

#include "pageferry.h"
#include "tools/snap_track.h"
#include "tools/snap_zstd.h"
#include "tools/tool.h"

/* ---- the target, snap_target.c */

struct snap_target {
	pid_t pid;
	int pidfd;
	int mem;             /* /proc/PID/mem; bound to its memory, not to its number */
	int pagemap;         /* the same */
	int lock;            /* held as long as it is being saved */
	unsigned int filter; /* its coredump_filter */
};

/** Look who it is, and refuse what can't be done. Returns 0 or -errno with @why. */
int snap_open(struct snap_target *target, pid_t pid, struct why *why);
void snap_close(struct snap_target *target);
bool snap_has_ended(const struct snap_target *target);
/** Has this thread of it a seccomp filter? One may have what the others haven't. */
bool snap_has_filter(pid_t pid, pid_t tid);
/** Once its threads are stopped: be sure that the memory is the one that they use. */
int snap_reopen(struct snap_target *target, struct why *why);
/** All of a file below /proc/PID; to be freed. NULL: it can't be read. */
char *snap_read_proc(pid_t pid, const char *name, size_t *len);
/** The number behind @key, which begins with the end of a line, in its status; -1: there is none.
 */
long snap_status(pid_t tid, const char *key);

/* ---- its mappings, snap_maps.c */

enum snap_way {
	SNAP_NOT,      /* not part of the image, as a core file of the kernel's wouldn't have it */
	SNAP_FROZEN,   /* protected, and saved while the process runs */
	SNAP_COPIED,   /* of a file, and changed: copied while the process stands still */
	SNAP_CONSTANT, /* of a file, or of the kernel, and never changed */
	SNAP_LIVE,     /* shared, or in the hands of somebody else: as it is when it is its turn */
};

struct snap_map {
	uint64_t start, end, offset, inode;
	uint64_t dev;    /* as a number that tells it from others */
	uint64_t dumped; /* bytes from the start on */
	uint64_t at;     /* in the file */
	enum snap_way way;
	char perms[5];
	bool dontdump, io, uffd, hugetlb, mergeable;
	bool same;        /* a part that is as in the base; the file has none of it */
	bool placed;      /* it has its place in the file already */
	bool header;      /* there is a place for its first page, if it is that of a program */
	const char *name; /* in text */
	const char *why;  /* LIVE: because it is that */
};

struct snap_maps {
	struct snap_map *v;
	size_t n;
	char *text;
};

/** Read /proc/PID/maps. 0 or -errno. */
int snap_maps_read(struct snap_maps *maps, pid_t pid);
/** The same with flags, which takes as long as its page tables are large: not while it stands
 * still. */
int snap_maps_read_flags(struct snap_maps *maps, pid_t pid);
void snap_maps_free(struct snap_maps *maps);
/** As far as they can be told without flags. */
bool snap_maps_same(const struct snap_maps *a, const struct snap_maps *b);
const struct snap_map *snap_maps_find(const struct snap_maps *maps, uint64_t addr);
/** Decide what happens to each; @flags: as they were a moment ago. */
void snap_maps_plan(struct snap_maps *maps, const struct snap_maps *flags,
		    const struct snap_target *target);
/**
 * It runs, and waits for nothing: is the first page to be saved? It is looked at for that, and its
 * file system may take its time, or be served by the process.
 */
bool snap_map_has_header(const struct snap_map *map, const struct snap_target *target);
/** What is to be frozen. Returns the number; *spans is to be freed. 0 with NULL: no memory. */
size_t snap_maps_frozen(const struct snap_maps *maps, struct ferry_span **spans);
/** May KSM merge some of it? That takes the protection away, and tells nobody. */
bool snap_maps_are_merged(const struct snap_maps *maps);
/** The next run of pages from @from to @to that the process has of its own, in a mapping of a file.
 */
bool snap_next_own(const struct snap_target *target, uint64_t from, uint64_t to,
		   struct ferry_span *run);
/** Or that can be read without waiting for the file. */
bool snap_next_there(const struct snap_target *target, uint64_t from, uint64_t to,
		     struct ferry_span *run);

/* ---- its threads, snap_threads.c */

struct snap_thread {
	pid_t tid;
	bool stopped;
	struct user_regs_struct regs;
	struct user_fpregs_struct fp;
	const void *xstate; /* NULL: there is none */
	size_t xstate_len;
	uint64_t blocked;
};

struct snap_threads {
	struct snap_thread *v; /* the first one first */
	size_t n, cap;
	char *xstates; /* of all of them */
	int64_t since; /* when they were stopped; before that, in vain, for as long as: */
	int64_t in_vain_ns;
	int usual_nice; /* this command's, when nobody waits for it */
};

/**
 * Stop all threads, until no new ones appear, and read their registers. If one doesn't stop the
 * others are let go until it does. On error none is stopped.
 */
int snap_stop(struct snap_threads *threads, const struct snap_target *target, struct why *why);
void snap_continue(struct snap_threads *threads);
/** How long the process has stood still until now. */
uint64_t snap_stood_ns(const struct snap_threads *threads);
void snap_threads_free(struct snap_threads *threads);
/**
 * How long its extended state is, and with which features: the kernel's list has all that the CPU
 * has, and takes no state back that is longer than that of a thread which never used AMX. 0: there
 * is none.
 */
size_t snap_xstate(const struct snap_thread *thread, uint64_t *features);
#define SNAP_XFEATURES_AT 464u /* where debuggers look for them */
/** What the kernel returns to itself of a call that it makes again unless a handler runs, and of
 * one of which it knows how much is left. */
#define SNAP_ERESTARTNOHAND 514l
#define SNAP_ERESTART_BLOCK 516l
/** Wait for the next stop of a thread, -ETIMEDOUT, -ESRCH: it has ended. */
int snap_wait(pid_t tid, int *status);

/* ---- why one of them doesn't stop, snap_stuck.c */

/** By its cgroup, as far as that can be seen from here. */
bool snap_is_frozen(pid_t tid);
/** As in /proc/TID/stat; 'X': it has ended. */
char snap_state(pid_t tid);
/** Who traces it; 0: nobody. */
pid_t snap_tracer(pid_t tid);
/** Say why, and what to do. Returns -EAGAIN. */
int snap_why_stuck(const struct snap_target *target, pid_t tid, struct why *why);

/* ---- how a thread finds back, snap_frame.c */

/** Two places in its code, by which a thread finds back by itself if we die. */
struct snap_gadgets {
	uint64_t syscall_ret; /* syscall; ret */
	uint64_t sigreturn;   /* mov $15, %eax; syscall */
};
int snap_find_gadgets(struct snap_gadgets *gadgets, const struct snap_target *target,
		      const struct snap_maps *maps, struct why *why);
bool snap_gadgets_there(const struct snap_gadgets *gadgets, const struct snap_target *target);
/** Registers as what it would be restarted by: sigreturn does not restart calls. */
struct user_regs_struct snap_restartable(struct user_regs_struct regs);
/**
 * Stands this thread where a snapshot that was killed has left it? It finds back by itself when it
 * runs, and by what lies on that stack.
 */
bool snap_is_left(const struct snap_target *target, const struct snap_thread *thread);

/** Memory of the target's: frames of the borrowed thread and of the new one, and room for data. */
struct snap_scratch {
	uint64_t own, new, data;
	char *before; /* what was there */
	bool needed;  /* some thread may yet return to a frame: it stays */
};
#define SNAP_FRAME_ROOM 384u
#define SNAP_USER_CS    0x33ull

/** Where nothing is that is in use. 0 or -errno; ->before is to be freed in any case. */
int snap_scratch_find(struct snap_scratch *scratch, const struct snap_target *target,
		      const struct snap_threads *threads, const struct snap_maps *maps,
		      const struct snap_thread *borrowed);
int snap_scratch_fill(const struct snap_scratch *scratch, const struct snap_target *target,
		      const struct snap_thread *borrowed, const struct snap_gadgets *gadgets);
bool snap_scratch_put_back(const struct snap_scratch *scratch, const struct snap_target *target);

/* ---- a userfaultfd of its memory, snap_seccomp.c, snap_inject.c and snap_helper.c */

/** What the seccomp filters of a thread make of the calls that are needed; the worst last. */
enum snap_seccomp {
	SNAP_SECCOMP_ALLOWS,
	SNAP_SECCOMP_FAILS,   /* some: they must be suspended */
	SNAP_SECCOMP_UNKNOWN, /* only root can look */
	SNAP_SECCOMP_ENDS,    /* some end the process */
};
/** The thread stands still; @ip: behind the instruction by which it calls. */
enum snap_seccomp snap_seccomp(const struct snap_target *target, pid_t tid, uint64_t ip);
#define SNAP_CLONE_FLAGS                                                                           \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)
#define SNAP_UNSHARE_TABLE 2ul /* CLOSE_RANGE_UNSHARE */
/** Is there a /dev/userfaultfd for us? */
bool snap_has_device(void);

/** Where a call is made: a thread that stands still, and what is behind the call on its stack. */
struct snap_call {
	pid_t tid;
	uint64_t ip, sp;
	struct user_regs_struct regs;
};
/** Make one. *result is what it returned, or -errno. 1: a new thread stands beside it instead. */
int snap_call(const struct snap_call *call, long number, const uint64_t args[6], long *result);

/** The threads are stopped. Returns the descriptor or -errno; the process is as it was before. */
int snap_fetch_uffd(const struct snap_target *target, const struct snap_threads *threads,
		    const struct snap_maps *maps, const struct snap_gadgets *gadgets,
		    struct why *why);
/** What the new thread @tid does: make a userfaultfd that we fetch. @data: 512 bytes of its memory.
 */
int snap_helper_uffd(const struct snap_target *target, const struct snap_call *call, uint64_t data,
		     struct why *why);

/* ---- the file, snap_notes.c and snap_core.c */

struct snap_stat {
	char state, name[17];
	int ppid, pgrp, sid, nice;
	unsigned long flags;
};

/* Who it is, as /proc says. */
struct snap_who {
	pid_t pid;
	struct snap_stat stat;
	char *args, *auxv; /* NULL: can't be read */
	size_t args_len, auxv_len;
};

void snap_who_read(struct snap_who *w, pid_t pid);
void snap_who_free(struct snap_who *w);

/** The notes of the core file; to be freed. NULL: no memory. @ident: NULL: it has none. */
void *snap_notes(const struct snap_who *w, const struct snap_threads *threads,
		 const struct snap_maps *maps, const struct snap_ident *ident, size_t *len);

struct snap_core {
	int fd;
	char *path, *aside; /* what it is to be; and until it is whole, if it must have a name: */
	bool named;
	struct snap_zstd *zstd; /* NULL: not compressed */
	struct snap_maps *maps;
	void *notes;
	size_t notes_len;
	uint64_t notes_at;
	uint64_t end;              /* of all segments */
	bool rewrites;             /* there may be something where a page of zeros belongs */
	struct ferry_span *absent; /* dumped mappings that the file doesn't have */
	size_t nabsent;
	uint64_t written; /* bytes; holes are none */
};

int snap_core_create(struct snap_core *core, const char *path, bool compress, struct why *why);
/** Once there are notes: give every mapping that has none its place; nothing is written yet. */
void snap_core_lay_out(struct snap_core *core, struct snap_maps *maps);
int snap_core_write(struct snap_core *core, uint64_t addr, const void *data, uint64_t len);
/** Where in the file memory is that is dumped, and how much of *len lies there in a row; 0: it
 * isn't.
 */
uint64_t snap_core_place(const struct snap_core *core, uint64_t addr, uint64_t *len);
/** Pages that lie there in a row. */
int snap_core_write_at(struct snap_core *core, uint64_t at, const void *pages, uint64_t len);
/** Room for what is saved before the mappings are laid out, and may be saved again there. */
uint64_t snap_core_reserve(struct snap_core *core, uint64_t len);
/** Nothing but zeros from now on, whatever was written there. */
int snap_core_clear(struct snap_core *core, uint64_t at, uint64_t len);
int snap_core_absent(struct snap_core *core, uint64_t addr, uint64_t len);
/** Headers and notes; then it takes its name. @step: while it is put into order, see snap_zstd.h.
 */
int snap_core_finish(struct snap_core *core, int (*step)(void *arg, uint64_t written), void *arg);
/** Closes it; what is not finished is removed. */
void snap_core_close(struct snap_core *core);

/* ---- all of it, snapshot.c, snap_save.c and snap_report.c */

struct snap_options {
	pid_t pid;
	const char *path;
	const char *base; /* --incremental; NULL: a full one */
	uint64_t rate, max_extra;
	enum { WAY_AUTO, WAY_SYNC, WAY_ASYNC } way;
	bool compress, track, untrack, json;
};

/** 0: go on; 1: help was asked for, and given; 2: an error, which was said. snap_options.c */
int snap_read_options(int argc, char **argv, struct snap_options *options);

struct snap_result {
	struct ferry_snapshot_report report;
	uint64_t stop_ns, first_stop_ns, track_stop_ns, total_ns;
	uint64_t changed, same; /* since the base */
	const char *way;        /* NULL: one in a series, which has no choice */
	const char *way_reason;
	const struct snap_async *async; /* NULL: not that way */
	pid_t holder;
	uint64_t copied, live, constant, extra_peak, written, file_size;
	size_t nthreads;
	const struct snap_maps *maps;
};

/* Memory that is touched before the process stands still. */
struct snap_room {
	char *mem;
	size_t len, used;
};

struct snap_copies {
	struct ferry_span *spans;
	size_t n;
	uint64_t bytes;
	char *data;    /* one behind the other; NULL: not copied */
	size_t mapped; /* for them alone; 0: in the room */
};

/* A file that is mapped. */
struct snap_backing {
	uint64_t dev, inode;
	int fd;
	bool served;             /* a page of it may have to come from a userfaultfd */
	bool is_here;            /* and from no process, or machine, in any other way */
	bool asked, tells;       /* whether it was written to since: */
	struct timespec changed; /* as it was while the process stood still */
};

/* What a process hasn't changed of a mapping: its file has it. */
struct snap_unchanged {
	struct ferry_span span;
	uint64_t offset;
	const struct snap_backing *file;
};

/** One in a series of snapshots of which each has what has changed since the one before. */
struct snap_series {
	enum {
		SERIES_NONE,      /* a single one */
		SERIES_FIRST,     /* there is no holder yet */
		SERIES_UNTOUCHED, /* what has changed since the base is known */
		SERIES_PROTECTED, /* the same once the changed pages are unprotected again */
		SERIES_LOST,      /* not until this one is saved */
	} state;
	struct snap_ident ident;
	struct snap_holder holder;
	int listener;
};

/** Where in the file memory is, that is saved while it is not known yet what all will be. */
struct snap_place {
	uint64_t start, end, at;
};

struct snap_round {
	uint64_t bytes, ns;
};
#define SNAP_ROUNDS 32u

/** Saved while it runs, again and again what it has changed, until that is little. */
struct snap_async {
	int uffd; /* -1: not done so, or no longer */
	bool used;
	struct snap_place *places; /* sorted by their addresses */
	size_t nplaces, cap_places;
	struct ferry_span *unread; /* couldn't be read, and so aren't saved */
	size_t nunread;
	struct snap_round rounds[SNAP_ROUNDS];
	unsigned int nrounds;
	bool converged;
	bool aside; /* what is written by devices isn't found: nothing counts as saved */
};

struct snap_job {
	const struct snap_options *options;
	struct snap_target target;
	struct snap_maps flags, maps;
	struct snap_threads threads;
	struct snap_who who;
	struct snap_gadgets gadgets;
	struct snap_core core;
	struct snap_series series;
	struct snap_async async;
	struct snap_changes changes; /* since it was saved before */
	struct snap_copies changed;  /* their contents, if they aren't frozen */
	struct snap_copies own;      /* of mappings of files */
	struct snap_room room;       /* for both */
	struct snap_backing *backing;
	size_t nbacking;
	struct snap_unchanged *unchanged;
	size_t nunchanged;
	struct snap_maps parts; /* of the mappings, as the file has them */
	struct ferry_snapshot *snap;
	struct snap_result result;
	int64_t begin_ns;
	uint64_t done, expected; /* bytes, for the progress bar */
};

/** The file is being put into order: rate, and whether somebody wants it to end. @job: a snap_job.
 */
int snap_step(void *job, uint64_t written);
/** Write, at a place in the file, at the rate, and show it. -EINTR: somebody wants it to end. */
int snap_put_at(struct snap_job *job, uint64_t at, const void *pages, uint64_t len);
/** Save what is frozen. Returns 0 or -errno; -EINTR: somebody wants it to end. */
int snap_save_frozen(struct snap_job *job);
/** And the rest. */
int snap_save_rest(struct snap_job *job);
/** Say what has come between. Returns @ret. */
int snap_not_saved(const struct snap_job *job, int ret, struct why *why);

/* ---- interrupted, snap_signal.c */

/** Set by a signal. */
extern volatile int snap_interrupted;
/** From here on signals that end it are noticed. */
void snap_catch_signals(void);
/** It was interrupted, and nothing is left: end as it would have. */
void snap_end_by_signal(void);

/* ---- copied while it stands still, snap_copied.c and snap_backing.c */

/** A mapping of a file, up to which its unchanged pages are saved, too. */
#define SNAP_COPY_ALL (4ull << 20)

/** Before: have so much room, or none. Nothing may be in it. */
void snap_room_make(struct snap_room *room, uint64_t len);
/** Open the files that are mapped, as far as one may. */
void snap_backing_open(struct snap_job *job);
void snap_backing_close(struct snap_job *job);
/** It stands still: the file of a mapping, if that can be read later; or NULL. */
const struct snap_backing *snap_backing(const struct snap_job *job, const struct snap_map *map);
/** Can it be read at once: does nobody have to be asked for it who may be standing still? */
bool snap_backing_is_here(const struct snap_job *job, const struct snap_map *map);
/** Have this saved from a file, when the process runs again. 0, -ENOMEM. */
int snap_backing_add(struct snap_job *job, const struct snap_backing *file, uint64_t offset,
		     uint64_t addr, uint64_t len);
/** It runs again: how much could be read; 0 also if the file has been changed. */
size_t snap_backing_read(const struct snap_backing *file, uint64_t offset, void *to, size_t len);
/** Something can't be read. Returns 0 or -errno. */
typedef int snap_unread(void *arg, uint64_t page);
/** Read these, one behind the other; what can't be read is zero, and @unread is told. It waits for a
 * userfaultfd of the process's own, if such memory is among it. */
int snap_read(const struct snap_target *target, const struct ferry_span *spans, size_t n, char *to,
	      snap_unread *unread, void *arg);
/** Copy what it has changed. 0 or -errno. */
int snap_copy_changed(struct snap_job *job);
/** And what it has of its own in mappings of files. */
int snap_copy_own(struct snap_job *job);
void snap_copies_free(struct snap_job *job);

/* ---- what has changed since it was saved before, snap_changed.c */

/** It stands still: get a userfaultfd for tracking. */
int snap_changed_uffd(struct snap_job *job, const struct snap_maps *maps, int *uffd,
		      struct why *why);
/** It stands still: find out. 0: little, to be copied; 1: much, and it is no longer tracked;
 * -errno. */
int snap_changed_find(struct snap_job *job, int uffd);
/** The mappings as the file has them. NULL: no memory. */
struct snap_maps *snap_changed_parts(struct snap_job *job);
void snap_changed_free(struct snap_job *job);

/* ---- saved while it runs, snap_async.c */

#define SNAP_PIECE (2ull << 20) /* that is read at once */
/** Once there is a userfaultfd: save all, and what has changed meanwhile, until it is little. */
int snap_async_save(struct snap_job *job, struct why *why);
/** It stands still: plan its mappings, and find out what is left. 0: copied; 1: to be frozen;
 * -errno. */
int snap_async_changes(struct snap_job *job, struct why *why);
/** It runs again. */
void snap_async_release(struct snap_job *job);
/** What was saved, and is empty now, is so in the file. */
int snap_async_clear(struct snap_job *job);
void snap_async_end(struct snap_job *job);

/* ---- which of both, snap_way.c and snap_aside.c */

/** Has it memory that is pinned for longer than a call, and accounted as such? */
bool snap_has_pins(pid_t pid);
/** Say that it has, and what to do instead. Returns -EBUSY. */
int snap_why_pinned(pid_t pid, const char *advice, struct why *why);
/** May devices write into it without its page table? What is known of that. */
bool snap_may_be_written_aside(pid_t pid);

/** Saved while it runs? */
bool snap_way_is_async(struct snap_job *job);
/** That can't be done: is there another way? */
bool snap_way_can_be_sync(struct snap_job *job);
/** How it went, for the report. */
void snap_way_found(struct snap_job *job);
/** Private anonymous memory of a process. */
uint64_t snap_rss(pid_t pid);

/* ---- series of them, snap_series.c */

/** Before it is stopped. */
int snap_series_begin(struct snap_job *job, struct why *why);
/**
 * Stopped: plan its mappings, and find out what has changed since the base. 0: copied, if it is
 * little, and tracked from now on; 1: to be frozen; -errno.
 */
int snap_series_changes(struct snap_job *job, struct why *why);
/** Everything is saved: let go of it, and track what was written since it was frozen. */
int snap_series_track(struct snap_job *job, struct why *why);
/** The file is there. */
int snap_series_done(struct snap_job *job, struct why *why);
void snap_series_end(struct snap_job *job);
/** --untrack */
int snap_untrack(pid_t pid, struct why *why);
/** pageferry snapshot merge */
int cmd_snapshot_merge(int argc, char **argv);

void snap_print(const struct snap_options *options, const struct snap_result *result);
void snap_print_failure(const struct snap_options *options, const struct why *why);

#endif
