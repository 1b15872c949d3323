// SPDX-License-Identifier: MIT
/*
 * What a thread that makes a call for us finds back by: two places in its program's code, and
 * frames as the kernel's sigreturn reads them, on a stack that nobody looks at.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "tools/snap.h"

#define RED_ZONE       128u
#define HANDLER_ROOM   4096u /* should one run just after we have died */
#define DATA_LEN       512u
#define FRAME_LEN      (8 + offsetof(ucontext_t, uc_sigmask) + 8)
#define ERESTARTSYS    512
#define ERESTARTNOINTR 513
#define USER_SS        0x2bull
/* Not a value that the kernel takes: the thread keeps its alternate stack. And by it a frame of
 * ours is known. */
#define OUR_FLAGS 0x1234

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

bool snap_gadgets_there(const struct snap_gadgets *g, const struct snap_target *target)
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
struct user_regs_struct snap_restartable(struct user_regs_struct r)
{
	long error = -(long)r.rax;

	if ((long)r.orig_rax >= 0 &&
	    (error == ERESTARTSYS || error == ERESTARTNOINTR || error == SNAP_ERESTARTNOHAND ||
	     error == SNAP_ERESTART_BLOCK)) {
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

	uc.uc_stack.ss_flags = OUR_FLAGS;
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
	g[REG_CSGSFS] = (greg_t)(SNAP_USER_CS | USER_SS << 48);
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

/* ---- who still needs one */

static bool has_code(const struct snap_target *target, uint64_t at, const char *what, size_t n)
{
	char code[16];

	return pread(target->mem, code, n, (off_t)at) == (ssize_t)n && !memcmp(code, what, n);
}

/* Before or behind the call of the one place, or before one of the two instructions of the other.
 */
static bool in_gadget(const struct snap_target *target, uint64_t ip)
{
	return has_code(target, ip, syscall_ret, 3) || has_code(target, ip - 2, syscall_ret, 3) ||
	       has_code(target, ip, sigreturns[0], 9) ||
	       has_code(target, ip - 7, sigreturns[0], 9) ||
	       has_code(target, ip, sigreturns[1], 7) || has_code(target, ip - 5, sigreturns[1], 7);
}

static bool is_frame(const struct snap_target *target, uint64_t addr)
{
	ucontext_t uc;
	const size_t len = offsetof(ucontext_t, uc_mcontext);

	return pread(target->mem, &uc, len, (off_t)addr + 8) == (ssize_t)len && uc.uc_flags == 7 &&
	       !uc.uc_link && uc.uc_stack.ss_flags == OUR_FLAGS;
}

bool snap_is_left(const struct snap_target *target, const struct snap_thread *t)
{
	return (is_frame(target, t->regs.rsp) || is_frame(target, t->regs.rsp - 8)) &&
	       in_gadget(target, t->regs.rip);
}

/* ---- where they lie */

#define XSTATE_ROOM 12288u
#define XSTATE_AT   (2 * SNAP_FRAME_ROOM + DATA_LEN)
#define SCRATCH_LEN (XSTATE_AT + XSTATE_ROOM)

/* Below a frame, for a handler's: as much as the kernel says that one takes with this CPU's
 * registers. */
static uint64_t signal_room(const struct snap_target *target)
{
	size_t len = 0;
	char *text = snap_read_proc(target->pid, "auxv", &len);
	uint64_t entry[2], room = 0;

	for (size_t at = 0; text && at + sizeof(entry) <= len; at += sizeof(entry)) {
		memcpy(entry, text + at, sizeof(entry));
		if (entry[0] == AT_MINSIGSTKSZ && entry[1] < (1u << 20))
			room = entry[1];
	}
	free(text);
	return (room + HANDLER_ROOM + 63) & ~63ull;
}

/* Never used, or only by one of us that was killed; *before gets what it has. */
static bool is_free(const struct snap_target *target, uint64_t addr, char *before)
{
	if (pread(target->mem, before, SCRATCH_LEN, (off_t)addr) != SCRATCH_LEN)
		return false;
	if (is_frame(target, addr) && is_frame(target, addr + SNAP_FRAME_ROOM))
		return true;
	for (size_t i = 0; i < SCRATCH_LEN; i++)
		if (before[i])
			return false;
	return true;
}

/* Is all below @end below what any thread has of this stack? *first: the first one has some. */
static bool is_below_all(const struct snap_target *target, const struct snap_threads *threads,
			 const struct snap_map *stack, uint64_t end, bool *first)
{
	*first = false;
	for (size_t i = 0; i < threads->n; i++) {
		uint64_t sp = threads->v[i].regs.rsp;
		if (sp < stack->start || sp >= stack->end)
			continue;
		if (sp <= end + RED_ZONE)
			return false;
		*first |= threads->v[i].tid == target->pid;
	}
	return true;
}

/* The lowest part of the first stack: below what is in use of it, or never used. */
static uint64_t below_stack(const struct snap_target *target, const struct snap_threads *threads,
			    const struct snap_maps *maps, uint64_t room, char *before)
{
	for (size_t i = 0; i < maps->n; i++) {
		const struct snap_map *m = &maps->v[i];
		uint64_t addr = m->start + room;
		bool first;
		if (!strcmp(m->name, "[stack]") && addr + SCRATCH_LEN <= m->end &&
		    is_below_all(target, threads, m, addr + SCRATCH_LEN, &first) &&
		    (first || is_free(target, addr, before)))
			return addr;
	}
	return 0;
}

/* Of its own stack; 0: it ends there. */
static uint64_t below_own(const struct snap_maps *maps, const struct snap_thread *borrowed,
			  uint64_t room)
{
	uint64_t addr = (borrowed->regs.rsp - RED_ZONE - SCRATCH_LEN) & ~63ull;
	const struct snap_map *stack = snap_maps_find(maps, borrowed->regs.rsp);

	return stack && addr < stack->end && addr >= stack->start + room ? addr : 0;
}

int snap_scratch_find(struct snap_scratch *s, const struct snap_target *target,
		      const struct snap_threads *threads, const struct snap_maps *maps,
		      const struct snap_thread *borrowed)
{
	uint64_t room = signal_room(target);

	*s = (struct snap_scratch){.before = malloc(SCRATCH_LEN)};
	if (!s->before)
		return -ENOMEM;
	uint64_t addr = below_stack(target, threads, maps, room, s->before);
	if (!addr)
		addr = below_own(maps, borrowed, room);
	if (!addr || pread(target->mem, s->before, SCRATCH_LEN, (off_t)addr) != SCRATCH_LEN)
		return -EFAULT;
	s->own = addr;
	s->new = s->own + SNAP_FRAME_ROOM;
	s->data = s->new + SNAP_FRAME_ROOM;
	return 0;
}

int snap_scratch_fill(const struct snap_scratch *s, const struct snap_target *target,
		      const struct snap_thread *borrowed, const struct snap_gadgets *g)
{
	struct user_regs_struct own = snap_restartable(borrowed->regs);
	struct user_regs_struct leave = {
		.rip = g->syscall_ret, .rsp = s->new, .rax = SYS_exit, .eflags = 0x202};
	char *frames = calloc(1, SCRATCH_LEN);

	_Static_assert(FRAME_LEN <= SNAP_FRAME_ROOM && XSTATE_AT % 64 == 0, "frames overlap");
	if (!frames)
		return -ENOMEM;
	size_t xlen = build_xstate(frames + XSTATE_AT, SCRATCH_LEN - XSTATE_AT, borrowed);
	build_frame(frames, g->sigreturn, &own, xlen ? s->own + XSTATE_AT : 0, borrowed->blocked);
	build_frame(frames + SNAP_FRAME_ROOM, g->sigreturn, &leave, 0, ~0ull);
	ssize_t n = pwrite(target->mem, frames, SCRATCH_LEN, (off_t)s->own);
	free(frames);
	return n == SCRATCH_LEN ? 0 : -EFAULT;
}

bool snap_scratch_put_back(const struct snap_scratch *s, const struct snap_target *target)
{
	return pwrite(target->mem, s->before, SCRATCH_LEN, (off_t)s->own) == SCRATCH_LEN;
}
