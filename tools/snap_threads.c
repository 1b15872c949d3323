// SPDX-License-Identifier: MIT
/*
 * Stop every thread of a process and read its registers. PTRACE_SEIZE sends no signal and leaves no
 * trace: when the tracer goes, in whatever way, the threads run on.
 */
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/park.h"
#include "tools/snap.h"

#define STILL_NS    30000000ll   /* how long others stand still for one that doesn't stop */
#define NO_CPU_NS   1000000000ll /* the same if all it needs is a CPU, which they don't take then */
#define PATIENCE_NS 2000000000ll
#define XSTATE_MAX  16384
#define PF_WORKER   (0x4000u | 0x10u) /* of vhost or io_uring: kernel code, which can't be traced */

/* 0: not yet. */
static int give_up(pid_t tid, int64_t since)
{
	int64_t waited = clock_ns() - since;

	if (waited < STILL_NS)
		return 0;
	switch (snap_state(tid)) {
	case 't': /* it has stopped since we looked */
		return 0;
	case 'Z': /* the first thread, of which that is told when all have ended */
		return -ESRCH;
	case 'R':
		return waited < NO_CPU_NS ? 0 : -ETIMEDOUT;
	default:
		return -ETIMEDOUT;
	}
}

int snap_wait(pid_t tid, int *status)
{
	int64_t since = clock_ns();
	unsigned int tries = 0;

	for (;;) {
		pid_t got = waitpid(tid, status, __WALL | WNOHANG);
		if (got == tid)
			return WIFSTOPPED(*status) ? 0 : -ESRCH;
		if (got < 0 && errno != EINTR)
			return -errno;
		int ret = give_up(tid, since);
		if (ret)
			return ret;
		if (tries++ < 200)
			sched_yield();
		else
			usleep(20);
	}
}

/* Whatever signal it is about to get, it gets; the stop comes right after. */
static int wait_for_stop(pid_t tid)
{
	int status, ret;

	while (!(ret = snap_wait(tid, &status))) {
		if (status >> 16 == PTRACE_EVENT_STOP)
			return 0;
		if (ptrace(PTRACE_CONT, tid, NULL, WSTOPSIG(status)) < 0)
			return -errno;
	}
	return ret;
}

static bool is_known(const struct snap_threads *t, pid_t tid)
{
	for (size_t i = 0; i < t->n; i++)
		if (t->v[i].tid == tid)
			return true;
	return false;
}

static int add_thread(struct snap_threads *t, pid_t tid)
{
	if (t->n == t->cap) {
		struct snap_thread *v = reallocarray(t->v, t->cap * 2 + 64, sizeof(*v));
		if (!v)
			return -ENOMEM;
		t->v = v;
		t->cap = t->cap * 2 + 64;
	}
	t->v[t->n++] = (struct snap_thread){.tid = tid};
	return 0;
}

/* Ended, or no thread of the program at all. */
static bool is_none(pid_t pid, pid_t tid)
{
	char name[64];
	unsigned int flags = 0;
	char state = 'X';

	snprintf(name, sizeof(name), "task/%d/stat", (int)tid);
	char *text = snap_read_proc(pid, name, NULL);
	const char *rest = text ? strrchr(text, ')') : NULL;
	if (rest)
		sscanf(rest, ") %c %*d %*d %*d %*d %*d %u", &state, &flags);
	free(text);
	return state == 'Z' || state == 'X' || (flags & PF_WORKER);
}

/* Returns 1: one more is about to stop; 0: it is none; -errno. */
static int seize(struct snap_threads *t, pid_t pid, pid_t tid, struct why *why)
{
	if (is_known(t, tid))
		return 0;
	if (ptrace(PTRACE_SEIZE, tid, NULL, PTRACE_O_TRACESYSGOOD) < 0) {
		int error = errno;
		if (error == ESRCH || is_none(pid, tid))
			return 0;
		if (snap_tracer(tid))
			return why_set(
				why, -EBUSY,
				"thread %d of process %d is being traced by process %d: end that "
				"first",
				(int)tid, (int)pid, (int)snap_tracer(tid));
		return why_set(why, -error,
			       "thread %d can't be traced: %s: run as its user or as root, see "
			       "ptrace(2)",
			       (int)tid, strerror(error));
	}
	ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
	if (!add_thread(t, tid))
		return 1;
	ptrace(PTRACE_DETACH, tid, NULL, NULL);
	return why_set(why, -ENOMEM, "out of memory");
}

/* Returns how many are new, or -errno. */
static int seize_new(struct snap_threads *t, pid_t pid, struct why *why)
{
	char path[64];
	int found = 0, ret = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *dir = opendir(path);
	if (!dir)
		return why_set(why, -ESRCH, "process %d has ended", (int)pid);
	const struct dirent *entry;
	while (ret >= 0 && (entry = readdir(dir))) {
		pid_t tid = atoi(entry->d_name);
		ret = tid > 0 ? seize(t, pid, tid, why) : 0;
		found += ret > 0;
	}
	closedir(dir);
	return ret < 0 ? ret : found;
}

static void forget(struct snap_threads *t, size_t i)
{
	memmove(&t->v[i], &t->v[i + 1], (t->n - i - 1) * sizeof(*t->v));
	t->n--;
}

static int wait_for_all(struct snap_threads *t, const struct snap_target *target, struct why *why)
{
	for (size_t i = 0; i < t->n;) {
		int ret = t->v[i].stopped ? 0 : wait_for_stop(t->v[i].tid);
		if (ret == -ETIMEDOUT) {
			snap_why_stuck(target, t->v[i].tid, why);
			return ret;
		}
		if (ret == -ESRCH || ret == -ECHILD)
			forget(t, i);
		else if (ret)
			return why_set(why, ret, "thread %d of process %d can't be stopped: %s",
				       (int)t->v[i].tid, (int)target->pid, strerror(-ret));
		else
			t->v[i++].stopped = true;
	}
	return 0;
}

/* As long for each of them; 0: there is none. */
static size_t xstate_room(const struct snap_threads *t)
{
	static char buffer[XSTATE_MAX];
	struct iovec iov = {buffer, sizeof(buffer)};

	return ptrace(PTRACE_GETREGSET, t->v[0].tid, NT_X86_XSTATE, &iov) < 0 ? 0 : iov.iov_len;
}

#define IN_USE_AT 512u
#define XHEADER   576u
#define TILES     (3ull << 17)

/* Where a part of the extended state ends; 0: the CPU doesn't have it. */
static size_t end_of_part(unsigned int i)
{
	unsigned int len = 0xd, at, sub = i, ignored;

	__asm__("cpuid" : "+a"(len), "=b"(at), "+c"(sub), "=d"(ignored));
	return len ? (size_t)at + len : 0;
}

static size_t size_of(uint64_t features)
{
	size_t size = XHEADER;

	for (unsigned int i = 2; i < 63; i++) {
		size_t end = features >> i & 1 ? end_of_part(i) : 0;
		if (end > size)
			size = end;
	}
	return size;
}

size_t snap_xstate(const struct snap_thread *t, uint64_t *features)
{
	uint64_t used;

	*features = 0;
	if (t->xstate_len < XHEADER)
		return 0;
	memcpy(features, (const char *)t->xstate + SNAP_XFEATURES_AT, sizeof(*features));
	memcpy(&used, (const char *)t->xstate + IN_USE_AT, sizeof(used));
	if (!(used & TILES))
		*features &= ~TILES;
	size_t len = size_of(*features);
	return len <= t->xstate_len ? len : 0;
}

/*
 * Calls of which the kernel says EINTR when their thread stops, though there is no signal: see
 * signal(7). What it restarts unless a handler runs is no different for the program, and so is what
 * we restart.
 */
static bool restarts(struct user_regs_struct *r)
{
	static const long calls[] = {SYS_epoll_wait,   SYS_epoll_pwait,  SYS_epoll_pwait2,
				     SYS_semop,        SYS_semtimedop,   SYS_rt_sigtimedwait,
				     SYS_io_getevents, SYS_io_pgetevents};
	bool is_one = false;

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		is_one |= (long)r->orig_rax == calls[i];
	if (!is_one || (long)r->rax != -EINTR)
		return false;
	r->rax = (uint64_t)-SNAP_ERESTARTNOHAND;
	return true;
}

static int read_registers(struct snap_thread *t, void *xstate, size_t room)
{
	struct iovec iov = {xstate, room};

	if (ptrace(PTRACE_GETREGS, t->tid, NULL, &t->regs) < 0 ||
	    ptrace(PTRACE_GETFPREGS, t->tid, NULL, &t->fp) < 0 ||
	    ptrace(PTRACE_GETSIGMASK, t->tid, sizeof(t->blocked), &t->blocked) < 0)
		return -errno;
	/* At once, so that it holds whatever becomes of us. */
	if (restarts(&t->regs) && ptrace(PTRACE_SETREGS, t->tid, NULL, &t->regs) < 0)
		return -errno;
	if (room && !ptrace(PTRACE_GETREGSET, t->tid, NT_X86_XSTATE, &iov)) {
		t->xstate = xstate;
		t->xstate_len = iov.iov_len;
	}
	return 0;
}

static int read_all(struct snap_threads *t, pid_t pid, struct why *why)
{
	size_t room = xstate_room(t);

	t->xstates = room ? reallocarray(NULL, t->n, room) : NULL;
	if (room && !t->xstates)
		return why_set(why, -ENOMEM, "out of memory");
	for (size_t i = 0; i < t->n; i++) {
		int ret = read_registers(&t->v[i], room ? t->xstates + i * room : NULL, room);
		if (ret)
			return why_set(why, ret, "process %d has ended", (int)pid);
	}
	/* Debuggers show the first one first. */
	for (size_t i = 1; i < t->n; i++) {
		struct snap_thread first = t->v[i];
		if (first.tid != pid)
			continue;
		memmove(&t->v[1], &t->v[0], i * sizeof(first));
		t->v[0] = first;
	}
	return 0;
}

static int stop_once(struct snap_threads *t, const struct snap_target *target, struct why *why)
{
	int ret;

	t->since = clock_ns();
	do {
		ret = seize_new(t, target->pid, why);
		int waited = ret >= 0 ? wait_for_all(t, target, why) : 0;
		ret = waited ? waited : ret;
	} while (ret > 0);
	if (!ret && !t->n)
		ret = why_set(why, -ESRCH, "process %d has ended", (int)target->pid);
	return ret ? ret : read_all(t, target->pid, why);
}

/* ---- one that doesn't stop */

/* It can't be let go either until it does, or this command ends. */
static void continue_stopped(struct snap_threads *t)
{
	size_t left = 0;

	for (size_t i = 0; i < t->n; i++) {
		if (t->v[i].stopped)
			ptrace(PTRACE_DETACH, t->v[i].tid, NULL, NULL);
		else
			t->v[left++] = t->v[i];
	}
	t->n = left;
}

/* Returns whether all have stopped. */
static bool look_at_stuck(struct snap_threads *t)
{
	bool all = true;
	int status;

	for (size_t i = 0; i < t->n;) {
		pid_t tid = t->v[i].tid, got = waitpid(tid, &status, __WALL | WNOHANG);
		if (got < 0 || (got == tid && !WIFSTOPPED(status))) {
			forget(t, i);
			continue;
		}
		if (got == tid && status >> 16 == PTRACE_EVENT_STOP)
			t->v[i].stopped = true;
		else if (got == tid)
			ptrace(PTRACE_CONT, tid, NULL, WSTOPSIG(status));
		all &= t->v[i++].stopped;
	}
	return all;
}

/* The others run. Of several that don't stop, one that does goes on, too: they need not do so at
 * once. */
static int wait_for_stuck(struct snap_threads *t, const struct snap_target *target, int64_t until,
			  struct why *why)
{
	while (!look_at_stuck(t)) {
		continue_stopped(t);
		if (snap_interrupted)
			return why_set(why, -EINTR, "interrupted: process %d goes on",
				       (int)target->pid);
		if (clock_ns() > until)
			return -EAGAIN;
		usleep(200);
	}
	return 0;
}

/* The process waits for us, and we shall wait for nobody: as far as this user may. */
static void hurry(struct snap_threads *t)
{
	/* For our short sleeps, too. */
	prctl(PR_SET_TIMERSLACK, 1);
	t->usual_nice = getpriority(PRIO_PROCESS, 0);
	setpriority(PRIO_PROCESS, 0, -20);
}

int snap_stop(struct snap_threads *t, const struct snap_target *target, struct why *why)
{
	int64_t until = clock_ns() + PATIENCE_NS;
	int ret;

	*t = (struct snap_threads){0};
	hurry(t);
	while ((ret = stop_once(t, target, why)) == -ETIMEDOUT) {
		look_at_stuck(t);
		continue_stopped(t);
		t->in_vain_ns += clock_ns() - t->since;
		park("snapshot.stuck");
		ret = wait_for_stuck(t, target, until, why);
		if (ret)
			break;
		why->text[0] = 0;
	}
	if (ret)
		snap_continue(t);
	return ret;
}

void snap_continue(struct snap_threads *t)
{
	for (size_t i = 0; i < t->n; i++)
		ptrace(PTRACE_DETACH, t->v[i].tid, NULL, NULL);
	setpriority(PRIO_PROCESS, 0, t->usual_nice);
}

uint64_t snap_stood_ns(const struct snap_threads *t)
{
	return (uint64_t)(clock_ns() - t->since + t->in_vain_ns);
}

void snap_threads_free(struct snap_threads *t)
{
	free(t->xstates);
	free(t->v);
	*t = (struct snap_threads){0};
}
