// SPDX-License-Identifier: MIT
/*
 * What the seccomp filters of a thread say of the calls that it is to make. They can be suspended
 * for as long as we live; if we are killed, a call that is under way meets them. So one that would
 * end the process is never made.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/uffd_abi.h"
#include "tools/snap.h"

#define FILTERS_MAX 4096u /* the kernel's limit is by their length, and below that */

/* ---- one filter */

struct machine {
	uint32_t a, x, mem[BPF_MEMWORDS];
};

static uint32_t load(const struct machine *m, const struct sock_filter *f,
		     const struct seccomp_data *data)
{
	uint32_t word = 0;

	switch (BPF_MODE(f->code)) {
	case BPF_ABS:
		if (f->k <= sizeof(*data) - sizeof(word))
			memcpy(&word, (const char *)data + f->k, sizeof(word));
		return word;
	case BPF_LEN:
		return sizeof(*data);
	case BPF_MEM:
		return m->mem[f->k % BPF_MEMWORDS];
	default:
		return f->k;
	}
}

static uint32_t calculate(uint32_t a, uint16_t code, uint32_t b)
{
	switch (BPF_OP(code)) {
	case BPF_ADD:
		return a + b;
	case BPF_SUB:
		return a - b;
	case BPF_MUL:
		return a * b;
	case BPF_DIV:
		return a / b;
	case BPF_AND:
		return a & b;
	case BPF_OR:
		return a | b;
	case BPF_XOR:
		return a ^ b;
	case BPF_LSH:
		return a << (b & 31);
	case BPF_RSH:
		return a >> (b & 31);
	default:
		return -a;
	}
}

static bool compare(uint32_t a, uint16_t code, uint32_t b)
{
	switch (BPF_OP(code)) {
	case BPF_JEQ:
		return a == b;
	case BPF_JGT:
		return a > b;
	case BPF_JGE:
		return a >= b;
	default:
		return a & b;
	}
}

/* Returns how many instructions to skip. */
static uint32_t jump(const struct machine *m, const struct sock_filter *f)
{
	if (BPF_OP(f->code) == BPF_JA)
		return f->k;
	return compare(m->a, f->code, BPF_SRC(f->code) == BPF_X ? m->x : f->k) ? f->jt : f->jf;
}

static void step(struct machine *m, const struct sock_filter *f, const struct seccomp_data *data)
{
	switch (BPF_CLASS(f->code)) {
	case BPF_LD:
		m->a = load(m, f, data);
		break;
	case BPF_LDX:
		m->x = load(m, f, data);
		break;
	case BPF_ST:
		m->mem[f->k % BPF_MEMWORDS] = m->a;
		break;
	case BPF_STX:
		m->mem[f->k % BPF_MEMWORDS] = m->x;
		break;
	case BPF_ALU:
		m->a = calculate(m->a, f->code, BPF_SRC(f->code) == BPF_X ? m->x : f->k);
		break;
	default:
		*(BPF_MISCOP(f->code) == BPF_TAX ? &m->x : &m->a) = BPF_MISCOP(f->code) == BPF_TAX
									    ? m->a
									    : m->x;
	}
}

/* There the kernel gives up, as if the filter had returned 0, which ends the thread. */
static bool divides_by_zero(const struct machine *m, const struct sock_filter *f)
{
	return BPF_CLASS(f->code) == BPF_ALU && BPF_OP(f->code) == BPF_DIV &&
	       !(BPF_SRC(f->code) == BPF_X ? m->x : f->k);
}

/* What the kernel has let in ends; what doesn't would end the process. */
static uint32_t run(const struct sock_filter *code, size_t n, const struct seccomp_data *data)
{
	struct machine m = {0};

	for (size_t at = 0; at < n; at++) {
		const struct sock_filter *f = &code[at];
		if (BPF_CLASS(f->code) == BPF_RET)
			return BPF_RVAL(f->code) == BPF_A ? m.a : f->k;
		if (divides_by_zero(&m, f))
			return SECCOMP_RET_KILL_THREAD;
		if (BPF_CLASS(f->code) == BPF_JMP)
			at += jump(&m, f);
		else
			step(&m, f, data);
	}
	return SECCOMP_RET_KILL_PROCESS;
}

/* ---- all calls */

static enum snap_seccomp judge(uint32_t action)
{
	switch (action & SECCOMP_RET_ACTION_FULL) {
	case SECCOMP_RET_ALLOW:
	case SECCOMP_RET_LOG:
		return SNAP_SECCOMP_ALLOWS;
	case SECCOMP_RET_ERRNO:
	case SECCOMP_RET_TRACE:
	case SECCOMP_RET_USER_NOTIF:
		return SNAP_SECCOMP_FAILS;
	default:
		return SNAP_SECCOMP_ENDS;
	}
}

/* By these it finds back if we die: they must not fail. */
static bool is_way_back(long number)
{
	return number == SYS_rt_sigreturn || number == SYS_exit;
}

/* See snap_helper.c. */
static bool is_needed(long number)
{
	if (number == SYS_userfaultfd)
		return !snap_has_device();
	return snap_has_device() ||
	       (number != SYS_socketpair && number != SYS_recvmsg && number != SYS_ioctl);
}

/* The worst that this filter does to any of them. */
static enum snap_seccomp judge_calls(const struct sock_filter *code, size_t n, uint64_t ip)
{
	const struct seccomp_data calls[] = {
		{.nr = SYS_rt_sigreturn},
		{.nr = SYS_exit},
		{.nr = SYS_clone, .args = {SNAP_CLONE_FLAGS}},
		{.nr = SYS_close_range, .args = {0, ~0u, SNAP_UNSHARE_TABLE}},
		{.nr = SYS_socketpair, .args = {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC}},
		{.nr = SYS_recvmsg, .args = {0, 0, MSG_DONTWAIT | MSG_CMSG_CLOEXEC}},
		{.nr = SYS_ioctl, .args = {2, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK}},
		{.nr = SYS_userfaultfd, .args = {O_CLOEXEC | O_NONBLOCK}},
	};
	enum snap_seccomp worst = SNAP_SECCOMP_ALLOWS;

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		struct seccomp_data data = calls[i];
		if (!is_needed(data.nr))
			continue;
		data.arch = AUDIT_ARCH_X86_64;
		data.instruction_pointer = ip;
		enum snap_seccomp is = judge(run(code, n, &data));
		if (is != SNAP_SECCOMP_ALLOWS && is_way_back(data.nr))
			is = SNAP_SECCOMP_ENDS;
		worst = is > worst ? is : worst;
	}
	return worst;
}

/* Returns 1: there is no such filter. */
static int read_filter(pid_t tid, unsigned long i, struct sock_filter *code, enum snap_seccomp *is,
		       uint64_t ip)
{
	long n = ptrace(PTRACE_SECCOMP_GET_FILTER, tid, i, code);

	if (n < 0)
		return errno == ENOENT && i ? 1 : -errno;
	enum snap_seccomp this = judge_calls(code, (size_t)n, ip);
	*is = this > *is ? this : *is;
	return 0;
}

enum snap_seccomp snap_seccomp(const struct snap_target *target, pid_t tid, uint64_t ip)
{
	struct sock_filter *code;
	enum snap_seccomp is = SNAP_SECCOMP_ALLOWS;
	int ret = 0;

	if (!snap_has_filter(target->pid, tid))
		return is;
	code = calloc(BPF_MAXINSNS, sizeof(*code));
	for (unsigned int i = 0; code && !ret && i < FILTERS_MAX; i++)
		ret = read_filter(tid, i, code, &is, ip);
	free(code);
	return !code || ret < 0 ? SNAP_SECCOMP_UNKNOWN : is;
}
