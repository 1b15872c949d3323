// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "bench/vm/vm.h"

#define OWN_MAX     16
#define LAST_END_MS 15000

static struct child *own[OWN_MAX];

static void ended(void *arg)
{
	struct child *child = arg;

	child->ended_ns = bench_now();
	child->ended = true;
	loop_remove(child->pidfd);
	if (child->own && waitpid(child->pid, &child->status, 0) < 0)
		child->status = -1;
}

static void end_group(struct child *child)
{
	/* Whatever it has started and left behind is in its group. */
	kill(-child->pid, SIGKILL);
	if (!child->ended && poll(&(struct pollfd){.fd = child->pidfd, .events = POLLIN}, 1, -1))
		ended(child);
}

static void wait_end(struct child *child, int timeout_ms)
{
	struct pollfd polled = {.fd = child->pidfd, .events = POLLIN};

	while (!child->ended) {
		int n = poll(&polled, 1, timeout_ms);

		if (n > 0)
			ended(child);
		else if (!n || errno != EINTR)
			return;
	}
}

static void end_all(void)
{
	for (unsigned int i = 0; i < OWN_MAX; i++) {
		if (!own[i])
			continue;
		if (!own[i]->ended)
			kill(own[i]->pid, own[i]->death);
		wait_end(own[i], LAST_END_MS);
		end_group(own[i]);
	}
}

static void remember(struct child *child)
{
	static bool registered;
	unsigned int i = 0;

	if (!registered)
		atexit(end_all);
	registered = true;
	while (i < OWN_MAX && own[i])
		i++;
	if (i == OWN_MAX)
		bench_fail("too many children");
	own[i] = child;
}

static void forget(const struct child *child)
{
	for (unsigned int i = 0; i < OWN_MAX; i++)
		if (own[i] == child)
			own[i] = NULL;
}

static void connect_io(struct child_io io)
{
	const int from[3] = {io.in, io.out, io.err};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int i = 0; i < 3; i++)
		dup2(from[i] < 0 ? null : from[i], i);
}

__attribute__((noreturn)) static void run(char *const argv[], struct child_io io, int death,
					  pid_t parent)
{
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, death);
	if (getppid() != parent)
		_exit(127);
	signal(SIGPIPE, SIG_DFL);
	connect_io(io);
	execvp(argv[0], argv);
	dprintf(STDERR_FILENO, "%s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

void child_start(struct child *child, const char *what, char *const argv[], struct child_io io,
		 int death)
{
	pid_t self = getpid();

	*child = (struct child){.what = what, .own = true, .death = death};
	child->pid = (pid_t)must(fork(), "fork");
	if (!child->pid)
		run(argv, io, death, self);
	/* In both, since either may be the first to need it. */
	setpgid(child->pid, child->pid);
	child->pidfd = (int)must(syscall(SYS_pidfd_open, child->pid, 0), "pidfd_open");
	remember(child);
	loop_add(child->pidfd, ended, child);
}

void child_watch(struct child *child, const char *what, pid_t pid)
{
	*child = (struct child){.what = what, .pid = pid};
	child->pidfd = (int)must(syscall(SYS_pidfd_open, pid, 0), "pidfd_open");
	loop_add(child->pidfd, ended, child);
}

void child_end(struct child *child, int timeout_ms)
{
	if (!child->pid)
		return;
	if (child->own) {
		if (!child->ended)
			kill(child->pid, child->death);
		wait_end(child, timeout_ms);
		end_group(child);
		forget(child);
	}
	loop_remove(child->pidfd);
	close(child->pidfd);
	child->pid = 0;
}

void child_finish(struct child *child, int timeout_ms)
{
	int64_t deadline = bench_now() + timeout_ms * 1000000ll;

	while (!child->ended && bench_now() < deadline)
		loop_step(50);
	if (!child->ended)
		bench_fail("%s takes longer than %d s", child->what, timeout_ms / 1000);
	if (!WIFEXITED(child->status) || WEXITSTATUS(child->status))
		bench_fail("%s failed (wait status %#x): its messages follow", child->what,
			   (unsigned int)child->status);
	child_end(child, 0);
}

unsigned int child_list(pid_t pid, pid_t *pids, unsigned int max)
{
	char path[64];
	unsigned int n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
	f = fopen(path, "re");
	while (f && n < max && fscanf(f, "%d", &pids[n]) == 1)
		n++;
	if (f)
		fclose(f);
	return n;
}
