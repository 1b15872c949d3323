// SPDX-License-Identifier: MIT
/* One question asked: its bench is run, and what it prints for programs is read. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/beside.h"
#include "tools/bench.h"
#include "tools/signals.h"

#define ARGS     12
#define PATIENCE 5u  /* times as long as it takes on a quiet machine */
#define LEAVE_S  10u /* for what has been asked to end */

static volatile sig_atomic_t asked; /* its process group */
static volatile sig_atomic_t stopped;

void bench_stop(int signal)
{
	stopped = signal;
	if (asked)
		kill((pid_t)-asked, SIGTERM);
}

/* A signal that comes before its program is there would be taken by bench_stop(), and be lost. */
static void end_by_signals(void)
{
	signals_catch(SIG_DFL);
	if (stopped)
		_exit(127);
}

int bench_stopped(void)
{
	return stopped;
}

/* ---- where it is */

static int find(const struct bench_question *q, char *path, size_t size, struct why *why)
{
	char built[64], moved[64], installed[PATH_MAX];

	snprintf(built, sizeof(built), "%s/%s", q->home == BENCH_SCRIPT ? "../bench" : "bench",
		 q->name);
	snprintf(moved, sizeof(moved), "lib/pageferry/bench/%s", q->name);
	snprintf(installed, sizeof(installed), PAGEFERRY_LIBDIR "/pageferry/bench/%s", q->name);
	for (unsigned int i = 0;
	     beside_place(i, path, size, &(struct beside){built, moved, installed}); i++)
		if (path[0] && !access(path, X_OK))
			return 0;
	return why_set(
		why, -ENOENT,
		q->home == BENCH_INSTALLED
			? "its bench isn't there: make benches, or make install"
			: "it needs the source tree: make benches, and build/pageferry bench");
}

/* ---- it runs */

static void arguments(const struct bench_question *q, bool quick, const char *path,
		      const char *file, const char **argv)
{
	const char *const *more = quick ? q->quick : q->full;

	*argv++ = path;
	if (quick)
		*argv++ = "--quick";
	while (*more)
		*argv++ = *more++;
	if (q->home != BENCH_INSTALLED) {
		*argv++ = "--json";
		*argv++ = file;
	}
	*argv = NULL;
}

/* What it says for people it says on stderr, or else not at all. */
static void become(const struct bench_question *q, bool quick, const char *path, int out,
		   pid_t parent)
{
	const char *argv[ARGS];
	char file[64], own[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", own, sizeof(own) - 1);

	end_by_signals();
	/* For the benches that measure this command. */
	own[n > 0 ? n : 0] = 0;
	setenv("PAGEFERRY_COMMAND", own, 1);
	/* Not inherited: a bench may look at the descriptors of what it starts. */
	snprintf(file, sizeof(file), "/proc/%d/fd/%d", (int)parent, out);
	arguments(q, quick, path, file, argv);
	/* In a process group of its own it would be stopped when it reads from the terminal. */
	int null = open("/dev/null", O_RDWR), to = q->home == BENCH_INSTALLED ? out : null;
	if (setpgid(0, 0) || prctl(PR_SET_PDEATHSIG, SIGTERM) || getppid() != parent ||
	    dup2(null, STDIN_FILENO) < 0 || dup2(to, STDOUT_FILENO) < 0)
		_exit(127);
	execv(path, (char **)(uintptr_t)argv);
	_exit(127);
}

/* Until it can be reaped; false: not in time. */
static bool wait_for(pid_t pid, unsigned int seconds)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int n;

	if (fd < 0)
		return false;
	/* A signal has been passed on to it: it is waited for, but not for ever. */
	while ((n = poll(&p, 1, (int)(stopped ? LEAVE_S : seconds) * 1000)) < 0 && errno == EINTR)
		;
	close(fd);
	return n > 0;
}

static int finish(pid_t pid, unsigned int seconds, struct why *why)
{
	bool in_time = wait_for(pid, seconds);
	int status = 0;

	/* With those that it has started, as long as the number is still its own. */
	kill(-pid, SIGKILL);
	asked = 0;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (stopped)
		return why_set(why, -EINTR, "interrupted");
	if (!in_time)
		return why_set(why, -ETIMEDOUT, "it has not ended in %u s", seconds);
	if (WIFSIGNALED(status))
		return why_set(why, -EIO, "it was ended by signal %d", WTERMSIG(status));
	if (WEXITSTATUS(status) == EXIT_USAGE)
		return why_set(why, -EOPNOTSUPP, "it can't be asked here: see above");
	return WEXITSTATUS(status) ? why_set(why, -EIO, "it has failed, with exit status %d",
					     WEXITSTATUS(status))
				   : 0;
}

/* ---- its answer */

static int read_answer(int fd, struct json_object **answer, struct why *why)
{
	struct stat st;

	if (!fstat(fd, &st) && st.st_size > 0) {
		char *text = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (text != MAP_FAILED) {
			*answer = json_read_object(text, (size_t)st.st_size);
			munmap(text, (size_t)st.st_size);
		}
	}
	return *answer ? 0 : why_set(why, -EIO, "what it printed is no JSON object");
}

static int run(const struct bench_question *q, bool quick, int out, struct why *why)
{
	char path[PATH_MAX];
	int ret = find(q, path, sizeof(path), why);
	pid_t parent = getpid();

	if (ret)
		return ret;
	fflush(stdout);
	pid_t pid = fork();
	if (pid < 0)
		return why_set(why, -errno, "fork: %s", strerror(errno));
	if (!pid)
		become(q, quick, path, out, parent);
	/* It does the same: whoever is first. */
	setpgid(pid, pid);
	asked = pid;
	if (stopped)
		kill(-pid, SIGTERM);
	return finish(pid, PATIENCE * (quick ? q->quick_s : q->full_s) + 60, why);
}

int bench_ask(const struct bench_question *q, bool quick, struct json_object **answer,
	      struct why *why)
{
	int out = memfd_create("figures", MFD_CLOEXEC);

	*answer = NULL;
	if (out < 0)
		return why_set(why, -errno, "memfd_create: %s", strerror(errno));
	int ret = run(q, quick, out, why);
	if (!ret)
		ret = read_answer(out, answer, why);
	close(out);
	return ret;
}
