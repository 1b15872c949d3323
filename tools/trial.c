// SPDX-License-Identifier: MIT
/* See trial.h. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/proc.h"
#include "tools/trial.h"
#include "tools/trial_machine.h"

void trial_set(struct trial_cell *cell, const char *verdict, const char *why, ...)
{
	va_list args;

	snprintf(cell->verdict, sizeof(cell->verdict), "%s", verdict);
	va_start(args, why);
	vsnprintf(cell->why, sizeof(cell->why), why,
		  args); /* NOLINT(clang-analyzer-valist.Uninitialized) */
	va_end(args);
}

/* The guard ends all of the group that it is told of, so nothing may be started before that; until
 * then this process' end ends it. */
static _Noreturn void be_trial(pid_t parent, struct trial_cell *cell,
			       void (*try)(struct trial_cell *cell, const void *arg),
			       const void *arg)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent || setpgid(0, 0))
		_exit(EXIT_FAILURE);
	trial_group_begins(getpid());
	try(cell, arg);
	_exit(EXIT_SUCCESS);
}

/* Until it has ended. 0; -ETIMEDOUT; another -errno: that can't be told. */
static int await_end(pid_t pid, unsigned int limit_ms)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	int ret = pidfd < 0 ? -errno : proc_wait(pidfd, (int)limit_ms);

	if (pidfd >= 0)
		close(pidfd);
	return ret;
}

/*
 * The first one stays a zombie until all have been told to end: so long the group's number is
 * nobody else's. What it has left behind is this process' child now, and is waited for as well.
 */
static int end_group(pid_t pid)
{
	int status = 0, any;

	/* It may be stopped before it has made the group. */
	kill(pid, SIGKILL);
	kill(-pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	while (waitpid(-pid, &any, 0) > 0 || errno == EINTR)
		;
	trial_group_ends();
	return status;
}

static void judge(struct trial_cell *cell, const struct trial_cell *set, int status)
{
	if (WIFSIGNALED(status))
		trial_set(cell, "died", "by %s", sigdescr_np(WTERMSIG(status)));
	else if (WEXITSTATUS(status) != EXIT_SUCCESS || !set->verdict[0])
		trial_set(cell, "died", "with status %d", WEXITSTATUS(status));
	else
		*cell = *set;
}

int trial_run(struct trial_cell *cell, void (*try)(struct trial_cell *cell, const void *arg),
	      const void *arg, unsigned int limit_ms)
{
	struct trial_cell *set = mmap(NULL, sizeof(*set), PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t parent = getpid(), pid;
	int status, ret;

	if (set == MAP_FAILED)
		return -errno;
	/* A trial's own children must be waited for when it has left them behind. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	fflush(NULL);
	pid = fork();
	if (pid < 0) {
		munmap(set, sizeof(*set));
		return -errno;
	}
	if (!pid)
		be_trial(parent, set, try, arg);
	ret = await_end(pid, limit_ms);
	status = end_group(pid);
	if (!ret)
		judge(cell, set, status);
	if (ret == -ETIMEDOUT)
		trial_set(cell, "hangs", "for %u ms", limit_ms);
	munmap(set, sizeof(*set));
	return ret == -ETIMEDOUT ? 0 : ret;
}
