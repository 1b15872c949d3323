// SPDX-License-Identifier: MIT
/*
 * Trials with a child process.
 *
 * The child shares our memory, as that of vfork does, and our descriptors, so that one which
 * another thread closes in the meantime is closed. A fork would copy the page tables, which takes
 * long in a large process, and would leave every page marked as shared, so that the kernel's MOVE
 * refused it with EBUSY until it was written again. It has no exit signal: the program's SIGCHLD
 * handler and its wait() don't see it.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/caps.h"
#include "lib/park.h"

#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
/* ThreadSanitizer takes every clone() for a fork, after which the child owns all memory. */
extern int __clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);
#define clone __clone
#endif

/* Runs @fn in a child that handles no signal. Returns its process id or -errno. */
static pid_t spawn(const struct caps_arena *arena, int (*fn)(void *), int flags, void *arg)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid_t pid = clone(fn, arena->stack + CAPS_STACK, CLONE_VM | CLONE_FILES | flags, arg);
	int error = errno;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pid < 0 ? -error : pid;
}

static void reap(pid_t pid)
{
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
}

struct attempt {
	int (*fn)(void *arg);
	void *arg;
	struct rlimit core;
	int ret;
	bool returned;
};

/*
 * Neither here nor further down are there arrays: where a child may be killed, a sanitizer's red
 * zones would stay behind.
 */
static int attempt_main(void *arg)
{
	struct attempt *attempt = arg;

	setrlimit(RLIMIT_CORE, &attempt->core);
	attempt->ret = attempt->fn(attempt->arg);
	attempt->returned = true;
	return 0;
}

/*
 * Make a system call that a seccomp filter may answer by killing the caller: let a child be the
 * caller. This thread sleeps meanwhile (CLONE_VFORK), so that the two don't share one errno.
 */
static int run_in_child(const struct caps_arena *arena, int (*fn)(void *), void *arg)
{
	struct attempt attempt = {.fn = fn, .arg = arg};

	/* A core dump of the child would be one of all our memory. 1 also stops piped dumps. */
	getrlimit(RLIMIT_CORE, &attempt.core);
	attempt.core.rlim_cur = attempt.core.rlim_max ? 1 : 0;
	pid_t pid = spawn(arena, attempt_main, CLONE_VFORK, &attempt);
	if (pid < 0)
		return fn(arg);
	reap(pid);
	return attempt.returned ? attempt.ret : -EPERM;
}

static int open_close(void *arg)
{
	int fd = uffd_open_door(*(const enum ferry_door *)arg);
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

int caps_try_door(const struct caps_arena *arena, enum ferry_door door)
{
	return run_in_child(arena, open_close, &door);
}

struct peer_read {
	volatile unsigned long word;
	unsigned long copy;
	struct iovec local, remote;
};

static int read_word(struct peer_read *pr, pid_t pid)
{
	pr->copy = 0;
	ssize_t n = process_vm_readv(pid, &pr->local, 1, &pr->remote, 1, 0);
	if (n < 0)
		return -errno;
	return n == sizeof(pr->copy) && pr->copy == pr->word ? 0 : -EIO;
}

static int read_self(void *arg)
{
	return read_word(arg, getpid());
}

/*
 * The kernel lets a process read any other that shares its memory. Whether it may read one that
 * doesn't is asked by reading this file, which needs the same permission and no memory.
 */
static int may_attach(pid_t pid)
{
	char path[64], text[16];

	snprintf(path, sizeof(path), "/proc/%d/personality", (int)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	int ret = read(fd, text, sizeof(text)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

/*
 * Runs beside us and with our thread-local storage: nothing here may write there, neither errno nor
 * what a sanitizer keeps.
 */
__attribute__((no_sanitize("thread"))) static int wait_main(void *arg)
{
	/* Whoever kills us must not leave the child behind. */
	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (syscall(SYS_getppid) == *(const pid_t *)arg)
		syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
	return 0;
}

int caps_try_peer_read(const struct caps_arena *arena)
{
	struct peer_read pr = {.word = (uintptr_t)arena ^ 0x5a5a5a5a};
	pid_t self = getpid();

	pr.local = (struct iovec){&pr.copy, sizeof(pr.copy)};
	pr.remote = (struct iovec){(void *)&pr.word, sizeof(pr.word)};
	int ret = run_in_child(arena, read_self, &pr);
	if (ret)
		return ret;
	pid_t pid = spawn(arena, wait_main, 0, &self);
	if (pid < 0)
		return pid;
	park("caps.child");
	ret = read_word(&pr, pid);
	if (!ret)
		ret = may_attach(pid);
	kill(pid, SIGKILL);
	reap(pid);
	return ret;
}
