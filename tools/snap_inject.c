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
#include <ucontext.h>
#include <unistd.h>

#include "lib/park.h"
#include "tools/snap.h"

#define RED_ZONE              128u
#define SIGNAL_ROOM           4096u /* should a signal come just after we have died */
#define DATA_LEN              512u
#define FRAME_MARK            0x1234 /* no flags that the kernel takes: the alternate stack stays */
#define FRAME_LEN             (8 + offsetof(ucontext_t, uc_sigmask) + 8)
#define ERESTARTSYS           512
#define ERESTARTNOINTR        513
#define ERESTART_RESTARTBLOCK 516
#define USER_CS               0x33ull
#define USER_SS               0x2bull

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

struct rseq_configuration {
	uint64_t pointer;
	uint32_t size, signature, flags, pad;
};

/* ---- places in its code */

static const char syscall_ret[] = "\x0f\x05\xc3";
static const char sigreturns[][10] = {"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05",
				      "\xb8\x0f\x00\x00\x00\x0f\x05"};

static void look_for(uint64_t *place, uint64_t base, const char *code, size_t len, const char *what,
		     size_t n)
{
	const char *hit = *place ? NULL : memmem(code, len, what, n);
	if (hit)
		*place = base + (uint64_t)(hit - code);
}

static void search_map(struct snap_gadgets *g, const struct snap_target *target,
		       const struct snap_map *map)
{
	static char code[(256u << 10) + 16];
	const size_t step = sizeof(code) - 16;

	for (uint64_t at = map->start; at < map->end && !(g->syscall_ret && g->sigreturn);
	     at += step) {
		size_t want = map->end - at < sizeof(code) ? map->end - at : sizeof(code);
		ssize_t n = pread(target->mem, code, want, (off_t)at);
		if (n <= 0)
			return;
		look_for(&g->syscall_ret, at, code, (size_t)n, syscall_ret, 3);
		look_for(&g->sigreturn, at, code, (size_t)n, sigreturns[0], 9);
		look_for(&g->sigreturn, at, code, (size_t)n, sigreturns[1], 7);
	}
}

int snap_find_gadgets(struct snap_gadgets *g, const struct snap_target *target,
		      const struct snap_maps *maps, struct why *why)
{
	*g = (struct snap_gadgets){0};
	for (size_t i = 0; i < maps->n && !(g->syscall_ret && g->sigreturn); i++)
		if (maps->v[i].perms[2] == 'x' && maps->v[i].inode)
			search_map(g, target, &maps->v[i]);
	if (g->syscall_ret && g->sigreturn)
		return 0;
	return why_set(
		why, -EOPNOTSUPP,
		"the program of process %d has no code that returns from a %s, which is needed "
		"to leave it unharmed whatever happens",
		(int)target->pid, g->syscall_ret ? "signal" : "system call");
}

static bool still_there(const struct snap_gadgets *g, const struct snap_target *target)
{
	struct snap_gadgets now = {0};
	char code[9];

	if (pread(target->mem, code, 3, (off_t)g->syscall_ret) == 3)
		look_for(&now.syscall_ret, 1, code, 3, syscall_ret, 3);
	if (pread(target->mem, code, 9, (off_t)g->sigreturn) == 9) {
		look_for(&now.sigreturn, 1, code, 9, sigreturns[0], 9);
		look_for(&now.sigreturn, 1, code, 9, sigreturns[1], 7);
	}
	return now.syscall_ret && now.sigreturn == 1;
}

/* ---- frames, as the kernel's sigreturn reads them */

/* As what it would be restarted by: sigreturn does not restart calls. */
static struct user_regs_struct restartable(struct user_regs_struct r)
{
	long error = -(long)r.rax;

	if ((long)r.orig_rax >= 0 &&
	    (error == ERESTARTSYS || error == ERESTARTNOINTR || error == SNAP_ERESTARTNOHAND ||
	     error == ERESTART_RESTARTBLOCK)) {
		r.rax = r.orig_rax;
		r.rip -= 2;
	}
	r.orig_rax = ~0ull;
	return r;
}

static void build_frame(char *to, uint64_t sigreturn, const struct user_regs_struct *r,
			uint64_t xstate, uint64_t blocked)
{
	ucontext_t uc = {.uc_flags = 7}; /* has xstate, has ss, and means it */
	greg_t *g = uc.uc_mcontext.gregs;

	uc.uc_stack.ss_flags = FRAME_MARK;
	g[REG_R8] = (greg_t)r->r8;
	g[REG_R9] = (greg_t)r->r9;
	g[REG_R10] = (greg_t)r->r10;
	g[REG_R11] = (greg_t)r->r11;
	g[REG_R12] = (greg_t)r->r12;
	g[REG_R13] = (greg_t)r->r13;
	g[REG_R14] = (greg_t)r->r14;
	g[REG_R15] = (greg_t)r->r15;
	g[REG_RDI] = (greg_t)r->rdi;
	g[REG_RSI] = (greg_t)r->rsi;
	g[REG_RBP] = (greg_t)r->rbp;
	g[REG_RBX] = (greg_t)r->rbx;
	g[REG_RDX] = (greg_t)r->rdx;
	g[REG_RAX] = (greg_t)r->rax;
	g[REG_RCX] = (greg_t)r->rcx;
	g[REG_RSP] = (greg_t)r->rsp;
	g[REG_RIP] = (greg_t)r->rip;
	g[REG_EFL] = (greg_t)r->eflags;
	g[REG_CSGSFS] = (greg_t)(USER_CS | USER_SS << 48);
	uc.uc_mcontext.fpregs =
		(fpregset_t)(uintptr_t)xstate; /* NOLINT(performance-no-int-to-ptr) */
	memcpy(to, &sigreturn, 8);
	memcpy(to + 8, &uc, offsetof(ucontext_t, uc_sigmask));
	memcpy(to + 8 + offsetof(ucontext_t, uc_sigmask), &blocked, 8);
}

/* What the kernel looks at in the spare bytes of the legacy area, struct _fpx_sw_bytes. */
struct fpx_sw {
	uint32_t magic1, extended_size;
	uint64_t xfeatures;
	uint32_t xstate_size, padding[7];
};
#define SW_AT  464u
#define MAGIC1 0x46505853u
#define MAGIC2 0x46505845u

/* Returns its length; 0: there is none. */
static size_t build_xstate(char *to, size_t room, const struct snap_thread *t)
{
	struct fpx_sw sw = {.magic1 = MAGIC1};
	uint32_t magic2 = MAGIC2;

	size_t len = snap_xstate(t, &sw.xfeatures);
	if (!len || len + sizeof(magic2) > room)
		return 0;
	sw.xstate_size = (uint32_t)len;
	sw.extended_size = sw.xstate_size + 4;
	memcpy(to, t->xstate, sw.xstate_size);
	memcpy(to + SW_AT, &sw, sizeof(sw));
	memcpy(to + sw.xstate_size, &magic2, 4);
	return sw.extended_size;
}

/* ---- what a killed snapshot has left */

/*
 * A thread that was let go in the middle and has had no CPU since: its registers are ours, not the
 * program's, and it needs the frame that lies where we would write the next one.
 */
static bool is_on_its_way_back(const struct snap_target *target, const struct snap_gadgets *g,
			       const struct snap_thread *t)
{
	uint64_t rip = t->regs.rip, context = t->regs.rsp, behind = 0;
	bool calling = rip >= g->syscall_ret && rip < g->syscall_ret + 3;
	bool returning = rip >= g->sigreturn && rip < g->sigreturn + sizeof(sigreturns[0]);
	int mark = 0;

	if (calling) {
		if (pread(target->mem, &behind, 8, (off_t)context) != 8 || behind != g->sigreturn)
			return false;
		context += 8;
	}
	if (!calling && !returning)
		return false;
	context += offsetof(ucontext_t, uc_stack.ss_flags);
	return pread(target->mem, &mark, sizeof(mark), (off_t)context) == sizeof(mark) &&
	       mark == FRAME_MARK;
}

bool snap_is_being_undone(const struct snap_target *target, const struct snap_threads *threads,
			  const struct snap_gadgets *g)
{
	for (size_t i = 0; i < threads->n; i++)
		if (is_on_its_way_back(target, g, &threads->v[i]))
			return true;
	return false;
}

/* ---- where they lie */

struct scratch {
	uint64_t addr;
	size_t len;
	uint64_t own, new,
		data; /* frames of the borrowed thread and of the new one; room for data */
	char *before; /* what was there */
	bool needed;  /* some thread may yet return to a frame: it stays */
};

#define XSTATE_ROOM 12288u
#define SCRATCH_LEN (2 * 384 + DATA_LEN + XSTATE_ROOM)

static bool is_zero_there(const struct snap_target *target, uint64_t addr, char *buffer)
{
	if (pread(target->mem, buffer, SCRATCH_LEN, (off_t)addr) != SCRATCH_LEN)
		return false;
	for (size_t i = 0; i < SCRATCH_LEN; i++)
		if (buffer[i])
			return false;
	return true;
}

/* The lowest part of the first stack: below what is in use of it, or never used. */
static uint64_t below_stack(const struct snap_target *target, const struct snap_threads *threads,
			    const struct snap_maps *maps, char *buffer)
{
	const struct snap_thread *first = &threads->v[0];

	for (size_t i = 0; i < maps->n; i++) {
		const struct snap_map *m = &maps->v[i];
		uint64_t addr = m->start + SIGNAL_ROOM;
		if (strcmp(m->name, "[stack]") != 0 || addr + SCRATCH_LEN > m->end)
			continue;
		bool on_it = first->tid == target->pid && first->regs.rsp >= m->start &&
			     first->regs.rsp < m->end;
		if (on_it ? addr + SCRATCH_LEN + RED_ZONE < first->regs.rsp
			  : is_zero_there(target, addr, buffer))
			return addr;
	}
	return 0;
}

static int find_scratch(struct scratch *s, const struct snap_target *target,
			const struct snap_threads *threads, const struct snap_maps *maps,
			const struct snap_thread *borrowed)
{
	s->len = SCRATCH_LEN;
	s->before = malloc(s->len);
	if (!s->before)
		return -ENOMEM;
	s->addr = below_stack(target, threads, maps, s->before);
	if (!s->addr)
		s->addr = (borrowed->regs.rsp - RED_ZONE - SCRATCH_LEN) & ~63ull;
	if (pread(target->mem, s->before, s->len, (off_t)s->addr) != (ssize_t)s->len)
		return -EFAULT;
	s->own = s->addr;
	s->new = s->own + 384;
	s->data = s->new + 384;
	return 0;
}

static int write_frames(const struct scratch *s, const struct snap_target *target,
			const struct snap_thread *borrowed, const struct snap_gadgets *g)
{
	struct user_regs_struct own = restartable(borrowed->regs);
	struct user_regs_struct leave = {.rip = g->syscall_ret, .rax = SYS_exit, .eflags = 0x202};
	size_t at = 2 * 384 + DATA_LEN;
	char *frames = calloc(1, s->len);

	_Static_assert(FRAME_LEN <= 384 && (2 * 384 + DATA_LEN) % 64 == 0, "frames overlap");
	if (!frames)
		return -ENOMEM;
	leave.rsp = s->new;
	size_t xlen = build_xstate(frames + at, s->len - at, borrowed);
	build_frame(frames, g->sigreturn, &own, xlen ? s->addr + at : 0, borrowed->blocked);
	build_frame(frames + 384, g->sigreturn, &leave, 0, ~0ull);
	ssize_t n = pwrite(target->mem, frames, s->len, (off_t)s->addr);
	free(frames);
	return n == (ssize_t)s->len ? 0 : -EFAULT;
}

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

	if (t->regs.cs != USER_CS)
		return true;
	return !ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, t->tid, sizeof(c), &c) && c.mode;
}

/* Best one that waits in a system call which is simply made again. */
static const struct snap_thread *choose(const struct snap_target *target,
					const struct snap_threads *threads)
{
	const struct snap_thread *best = NULL;
	int grade = 0;

	for (size_t i = 0; i < threads->n && grade < 3; i++) {
		const struct snap_thread *t = &threads->v[i];
		bool calling = (long)t->regs.orig_rax >= 0;
		int mine = calling && -(long)t->regs.rax != ERESTART_RESTARTBLOCK ? 3
			   : calling                                              ? 2
			   : !in_sequence(target, t)                              ? 1
										  : 0;
		if (mine > grade && !calls_otherwise(t)) {
			grade = mine;
			best = t;
		}
	}
	return best;
}

static int set_options(const struct snap_target *target, const struct snap_thread *t,
		       struct why *why)
{
	long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE;

	if (snap_has_filter(target->pid, t->tid))
		options |= PTRACE_O_SUSPEND_SECCOMP;
	if (!ptrace(PTRACE_SETOPTIONS, t->tid, NULL, options))
		return 0;
	return why_set(why, -EPERM,
		       "process %d has a seccomp filter, which only root can suspend for the calls "
		       "that are needed: run as root",
		       (int)target->pid);
}

/*
 * It goes on as if nothing had been; first so that it would do so without us. The mask comes before
 * the registers: as long as the frame is behind the call it brings back both, afterwards neither.
 */
static int give_back(const struct snap_thread *t)
{
	struct user_regs_struct r = restartable(t->regs);
	int status, ret;

	/* It may not stand still, if the process is frozen by its cgroup: that stops it all the
	 * same. */
	if (ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(t->blocked), &t->blocked) < 0) {
		ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
		ret = snap_wait(t->tid, &status);
		if (ret)
			return ret;
		ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(t->blocked), &t->blocked);
	}
	park("snapshot.unblocked");
	if (ptrace(PTRACE_SETREGS, t->tid, NULL, &r) < 0)
		return -errno;
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
			const struct scratch *s, bool *born)
{
	const uint64_t flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
			       CLONE_SYSVSEM;
	const uint64_t args[6] = {flags, s->new}, all = ~0ull;
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
		      struct scratch *s, pid_t tid, struct why *why)
{
	struct snap_call call = {.tid = tid, .ip = g->syscall_ret, .sp = s->new};
	int ret = ptrace(PTRACE_GETREGS, tid, NULL, &call.regs) < 0 ? -errno : 0;

	if (ret)
		return why_set(why, ret, "process %d has ended", (int)target->pid);
	park("snapshot.given-back");
	ret = snap_helper_uffd(target, &call, s->data, why);
	park("snapshot.fetched");
	s->needed = !end_thread(&call);
	return ret;
}

static int borrow(const struct snap_target *target, const struct snap_thread *t,
		  const struct snap_gadgets *g, struct scratch *s, struct why *why)
{
	int ret = write_frames(s, target, t, g);

	if (ret)
		return why_set(why, ret, "the stack of process %d can't be written to",
			       (int)target->pid);
	ret = set_options(target, t, why);
	if (ret)
		return ret;
	park("snapshot.framed");
	s->needed = true;
	bool born = false;
	pid_t tid = start_thread(t, g, s, &born);
	int back = give_back(t);
	s->needed = back || born;
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
	const struct snap_thread *t = choose(target, threads);
	struct scratch s = {0};

	if (!t)
		return why_set(why, -EAGAIN,
			       "no thread of process %d can be borrowed now: try again",
			       (int)target->pid);
	if (!still_there(g, target))
		return why_set(why, -EAGAIN, "process %d has just changed its program: try again",
			       (int)target->pid);
	int ret = find_scratch(&s, target, threads, maps, t);
	if (ret)
		ret = why_set(why, ret, "there is no room on the stack of process %d",
			      (int)target->pid);
	else
		ret = borrow(target, t, g, &s, why);
	bool put = s.own && !s.needed;
	if (put && pwrite(target->mem, s.before, s.len, (off_t)s.addr) != (ssize_t)s.len &&
	    ret >= 0) {
		close(ret);
		ret = why_set(why, -ESRCH, "process %d has ended", (int)target->pid);
	}
	free(s.before);
	return ret;
}
