// SPDX-License-Identifier: MIT
/*
 * A userfaultfd can only be made by a thread of the process itself, so one is borrowed, for one
 * system call: to start a new thread, which does the rest in a descriptor table of its own and
 * ends.
 *
 * We may be killed at any moment, and then every thread runs on as it stands. So behind each call
 * that we let a thread make, its stack leads on: "syscall; ret" returns to a sigreturn, and that
 * restores the borrowed thread to where it was, or lets the new one exit. The frames lie where
 * nobody looks, at the bottom of the first thread's stack, and what was there is put back.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/park.h"
#include "tools/snap.h"

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif
#ifndef PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG
#define PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211
#endif
#ifndef PTRACE_O_SUSPEND_SECCOMP
#define PTRACE_O_SUSPEND_SECCOMP (1 << 21)
#endif

struct dispatch_configuration {
	uint64_t mode, selector, offset, len;
};

#define MANY 16u /* threads, to look for a better one when there is one that will do */

struct rseq_configuration {
	uint64_t pointer;
	uint32_t size, signature, flags, pad;
};

/* ---- calls */

/* The end of a call, or the birth of a thread (1). Other stops are passed through. */
static int wait_for_call(pid_t tid)
{
	int status, ret;

	while (!(ret = snap_wait(tid, &status))) {
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			return 0;
		if (status >> 8 == (SIGTRAP | PTRACE_EVENT_CLONE << 8))
			return 1;
		long sig = status >> 16 == PTRACE_EVENT_STOP ? 0 : WSTOPSIG(status);
		if (sig == SIGSEGV || sig == SIGBUS || sig == SIGILL)
			return -EFAULT;
		if (ptrace(PTRACE_SYSCALL, tid, NULL, sig) < 0)
			return -errno;
	}
	return ret;
}

static int go_on(pid_t tid)
{
	return ptrace(PTRACE_SYSCALL, tid, NULL, NULL) < 0 ? -errno : wait_for_call(tid);
}

int snap_call(const struct snap_call *call, long number, const uint64_t args[6], long *result)
{
	struct user_regs_struct r = call->regs;

	r.rip = call->ip;
	r.rsp = call->sp;
	r.rax = (uint64_t)number;
	r.orig_rax = ~0ull;
	r.rdi = args[0];
	r.rsi = args[1];
	r.rdx = args[2];
	r.r10 = args[3];
	r.r8 = args[4];
	r.r9 = args[5];
	if (ptrace(PTRACE_SETREGS, call->tid, NULL, &r) < 0)
		return -errno;
	park("snapshot.call");
	int ret = go_on(call->tid);
	if (!ret)
		ret = go_on(call->tid);
	if (ret)
		return ret;
	if (ptrace(PTRACE_GETREGS, call->tid, NULL, &r) < 0)
		return -errno;
	*result = (long)r.rax;
	return 0;
}

/* ---- the borrowed thread */

/* In user code it may be in a restartable sequence, which ends when its registers are changed. */
static bool in_sequence(const struct snap_target *target, const struct snap_thread *t)
{
	struct rseq_configuration c = {0};
	uint64_t critical = 0;

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, t->tid, sizeof(c), &c) < 0 || !c.pointer)
		return false;
	return pread(target->mem, &critical, 8, (off_t)(c.pointer + 8)) == 8 && critical;
}

/*
 * Code in 32-bit mode would take our calls for others, and one that dispatches its system calls in
 * user space (prctl(2), PR_SET_SYSCALL_USER_DISPATCH) would get a SIGSYS for them, which it can't
 * take now.
 */
static bool calls_otherwise(const struct snap_thread *t)
{
	struct dispatch_configuration c = {0};

	if (t->regs.cs != SNAP_USER_CS)
		return true;
	return !ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, t->tid, sizeof(c), &c) && c.mode;
}

/* For as long as it waits another mask holds, which is lost when it is borrowed. */
static bool has_own_mask(long call)
{
	return call == SYS_ppoll || call == SYS_pselect6 || call == SYS_rt_sigsuspend ||
	       call == SYS_epoll_pwait || call == SYS_epoll_pwait2 || call == SYS_io_pgetevents;
}

/*
 * Best one that waits in a system call which is simply made again. Worst one whose call the kernel
 * was about to go on with after an earlier stop: which call it is the kernel alone knows, and a
 * sigreturn makes it forget that, so that the program gets EINTR if we are killed.
 */
static int grade_of(const struct snap_target *target, const struct snap_thread *t)
{
	long call = (long)t->regs.orig_rax;

	if (calls_otherwise(t))
		return 0;
	if (call < 0)
		return in_sequence(target, t) ? 0 : 2;
	if (call == SYS_restart_syscall)
		return 1;
	return -(long)t->regs.rax != SNAP_ERESTART_BLOCK && !has_own_mask(call) ? 4 : 3;
}

struct choice {
	const struct snap_thread *thread;
	int grade;
	enum snap_seccomp filter, worst; /* of it; of those that can't be borrowed for that */
};

/* Best one whose filters need not be suspended, since then it doesn't matter when we are killed. */
static void consider(struct choice *c, const struct snap_target *target,
		     const struct snap_thread *t, const struct snap_gadgets *g)
{
	int grade = grade_of(target, t);

	if (!grade || (c->filter == SNAP_SECCOMP_ALLOWS && grade <= c->grade))
		return;
	enum snap_seccomp is = snap_seccomp(target, t->tid, g->syscall_ret + 2);
	if (is >= SNAP_SECCOMP_UNKNOWN) {
		c->worst = is > c->worst ? is : c->worst;
	} else if (!c->thread || is < c->filter || (is == c->filter && grade > c->grade)) {
		c->thread = t;
		c->grade = grade;
		c->filter = is;
	}
}

static int choose(struct choice *c, const struct snap_target *target,
		  const struct snap_threads *threads, const struct snap_gadgets *g, struct why *why)
{
	*c = (struct choice){.filter = SNAP_SECCOMP_UNKNOWN};
	for (size_t i = 0; i < threads->n; i++) {
		consider(c, target, &threads->v[i], g);
		if (c->grade == 4 && (c->filter == SNAP_SECCOMP_ALLOWS || i >= MANY))
			break;
	}
	if (c->thread)
		return 0;
	if (c->worst == SNAP_SECCOMP_ENDS)
		return why_set(
			why, -EPERM,
			"process %d has a seccomp filter that would end it for calls that are "
			"needed: it can't be snapshotted",
			(int)target->pid);
	if (c->worst == SNAP_SECCOMP_UNKNOWN)
		return why_set(why, -EPERM,
			       "process %d has a seccomp filter, which only root can look at, and "
			       "suspend for the calls that are needed: run as root",
			       (int)target->pid);
	return why_set(why, -EAGAIN, "no thread of process %d can be borrowed now: try again",
		       (int)target->pid);
}

static int set_options(const struct snap_target *target, const struct choice *c, struct why *why)
{
	long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE;

	if (c->filter != SNAP_SECCOMP_ALLOWS)
		options |= PTRACE_O_SUSPEND_SECCOMP;
	if (!ptrace(PTRACE_SETOPTIONS, c->thread->tid, NULL, options))
		return 0;
	return why_set(why, -EPERM,
		       "process %d has a seccomp filter, which this kernel or this user can't "
		       "suspend for the calls that are needed: run as root",
		       (int)target->pid);
}

/*
 * The mask first: until the registers are its own, the frame is behind it, which restores both. It
 * may not stand still: one whose process is frozen by its cgroup is stopped for it.
 */
static int restore(const struct snap_thread *t)
{
	struct user_regs_struct r = snap_restartable(t->regs);
	int status;

	if (ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(t->blocked), &t->blocked) < 0) {
		ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
		int ret = snap_wait(t->tid, &status);
		if (ret)
			return ret;
		if (ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(t->blocked), &t->blocked) < 0)
			return -errno;
	}
	park("snapshot.unmasked");
	return ptrace(PTRACE_SETREGS, t->tid, NULL, &r) < 0 ? -errno : 0;
}

/* It goes on as if nothing had been; first so that it would do so without us. */
static int give_back(const struct snap_thread *t)
{
	int status, ret = restore(t);

	if (ret)
		return ret;
	park("snapshot.restored");
	ptrace(PTRACE_SETOPTIONS, t->tid, NULL, PTRACE_O_TRACESYSGOOD);
	/* An interrupted call is only made again by a thread that leaves a stop of this kind. */
	ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
	do {
		if (ptrace(PTRACE_CONT, t->tid, NULL, NULL) < 0)
			return -errno;
		ret = snap_wait(t->tid, &status);
	} while (!ret && status >> 16 != PTRACE_EVENT_STOP);
	if (!ret && ptrace(PTRACE_SETREGS, t->tid, NULL, &t->regs) < 0)
		ret = -errno;
	return ret;
}

/* Returns the new thread, which stands still, or -errno; *born: there is or may yet be one. */
static int start_thread(const struct snap_thread *t, const struct snap_gadgets *g,
			const struct snap_scratch *s, bool *born)
{
	const uint64_t args[6] = {SNAP_CLONE_FLAGS, s->new}, all = ~0ull;
	struct snap_call call = {
		.tid = t->tid, .ip = g->syscall_ret, .sp = s->own, .regs = t->regs};
	unsigned long tid = 0;
	long result = 0;
	int status;

	/* In this order: from here to give_back() the frame behind the call restores the mask, too.
	 */
	struct user_regs_struct ready = call.regs;
	ready.rip = g->sigreturn;
	ready.rsp = s->own + 8;
	ready.orig_rax = ~0ull;
	if (ptrace(PTRACE_SETREGS, t->tid, NULL, &ready) < 0)
		return -errno;
	park("snapshot.borrowed");
	ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(all), &all);
	int ret = snap_call(&call, SYS_clone, args, &result);
	*born = ret == 1 || ret == -ETIMEDOUT;
	if (ret != 1)
		return ret ? ret : result < 0 ? (int)result : -EPROTO;
	ptrace(PTRACE_GETEVENTMSG, t->tid, NULL, &tid);
	park("snapshot.cloned");
	ret = snap_wait((pid_t)tid, &status);
	if (!ret)
		ret = go_on(t->tid);
	return ret ? ret : (int)tid;
}

/* Returns whether it has. */
static bool end_thread(const struct snap_call *call)
{
	struct user_regs_struct r = call->regs;
	int status, ret;

	r.rip = call->ip;
	r.rsp = call->sp;
	r.rax = SYS_exit;
	r.rdi = 0;
	r.orig_rax = ~0ull;
	ptrace(PTRACE_SETREGS, call->tid, NULL, &r);
	do {
		ptrace(PTRACE_CONT, call->tid, NULL, NULL);
		ret = snap_wait(call->tid, &status);
	} while (!ret);
	return ret == -ESRCH || ret == -ECHILD;
}

static int use_thread(const struct snap_target *target, const struct snap_gadgets *g,
		      struct snap_scratch *s, pid_t tid, struct why *why)
{
	struct snap_call call = {.tid = tid, .ip = g->syscall_ret, .sp = s->new};
	int ret = ptrace(PTRACE_GETREGS, tid, NULL, &call.regs) < 0 ? -errno : 0;

	if (ret)
		return why_set(why, ret, "process %d has ended", (int)target->pid);
	park("snapshot.given-back");
	ret = snap_helper_uffd(target, &call, s->data, why);
	if (ret == -ETIMEDOUT)
		snap_why_stuck(target, tid, why);
	park("snapshot.fetched");
	s->needed = !end_thread(&call);
	return ret;
}

static int borrow(const struct snap_target *target, const struct choice *c,
		  const struct snap_gadgets *g, struct snap_scratch *s, struct why *why)
{
	const struct snap_thread *t = c->thread;
	int ret = snap_scratch_fill(s, target, t, g);

	if (ret)
		return why_set(why, ret, "the stack of process %d can't be written to",
			       (int)target->pid);
	ret = set_options(target, c, why);
	if (ret)
		return ret;
	park("snapshot.framed");
	s->needed = true;
	bool born = false;
	pid_t tid = start_thread(t, g, s, &born);
	if (tid == -ETIMEDOUT)
		snap_why_stuck(target, t->tid, why);
	int back = give_back(t);
	s->needed = back || born;
	if (tid == -ETIMEDOUT)
		return tid;
	if (tid < 0)
		return why_set(why, tid, "process %d can't have one more thread: %s",
			       (int)target->pid, strerror(-tid));
	if (back)
		return why_set(why, back, "process %d has ended", (int)target->pid);
	return use_thread(target, g, s, tid, why);
}

int snap_fetch_uffd(const struct snap_target *target, const struct snap_threads *threads,
		    const struct snap_maps *maps, const struct snap_gadgets *g, struct why *why)
{
	struct snap_scratch s = {0};
	struct choice c;
	int ret = choose(&c, target, threads, g, why);

	if (ret)
		return ret;
	if (!snap_gadgets_there(g, target))
		return why_set(why, -EAGAIN, "process %d has just changed its program: try again",
			       (int)target->pid);
	ret = snap_scratch_find(&s, target, threads, maps, c.thread);
	if (ret)
		ret = why_set(why, ret, "there is no room on the stack of process %d",
			      (int)target->pid);
	else
		ret = borrow(target, &c, g, &s, why);
	if (s.own && !s.needed && !snap_scratch_put_back(&s, target) && ret >= 0) {
		close(ret);
		ret = why_set(why, -ESRCH, "process %d has ended", (int)target->pid);
	}
	free(s.before);
	return ret;
}
