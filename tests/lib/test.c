// SPDX-License-Identifier: MIT
/* Deadlines, descriptors and processes of tests, see test.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/lib/test.h"

#define DEADLINE_S 40

/* Children end by _exit() with threads that nobody has joined; elsewhere this means nothing. */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "report_thread_leaks=0";
}

bool test_skipped;
static unsigned int fds_before;

_Noreturn void check_failed(const char *file, int line, const char *what, long long value)
{
	char text[512];
	int n = snprintf(text, sizeof(text), "# %s:%d: process %d: %s (is %lld)\n", file, line,
			 (int)getpid(), what, value);

	if (write(STDOUT_FILENO, text, (size_t)n) < 0)
		_exit(2);
	_exit(1);
}

/*
 * A process that kills us when a test takes too long. Not a signal: while a thread waits for an
 * event of a userfaultfd to be read, only a fatal one reaches it. Not a thread: sanitizers want the
 * children of a process with one thread. It is nobody's child, so that the tests can see if one is
 * left.
 */
static int watchdog = -1;

static _Noreturn void watch(int pipe_end, int whom)
{
	static const char text[] = "# the deadline has passed\n";
	struct pollfd fd = {.fd = pipe_end, .events = POLLIN};
	char said = 'e';

	for (;;) {
		int ret = poll(&fd, 1, said == 'b' ? DEADLINE_S * 1000 : -1);
		if (ret < 0 && errno == EINTR)
			continue;
		if (ret == 0)
			break;
		if (ret < 0 || read(pipe_end, &said, 1) != 1)
			_exit(0);
	}
	syscall(SYS_pidfd_send_signal, whom, SIGKILL, NULL, 0);
	_exit(write(STDOUT_FILENO, text, sizeof(text) - 1) < 0);
}

static void watchdog_start(void)
{
	int fd[2], self = (int)syscall(SYS_pidfd_open, getpid(), 0);

	if (self < 0 || pipe2(fd, O_CLOEXEC) < 0)
		check_failed(__FILE__, __LINE__, "pidfd_open(), pipe2()", errno);
	fflush(NULL);
	pid_t pid = fork();
	if (pid < 0)
		check_failed(__FILE__, __LINE__, "fork()", errno);
	if (!pid) {
		close(fd[1]);
		if (fork() == 0)
			watch(fd[0], self);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	close(self);
	close(fd[0]);
	watchdog = fd[1];
}

static void tell_watchdog(char what)
{
	if (write(watchdog, &what, 1) != 1)
		check_failed(__FILE__, __LINE__, "write()", errno);
}

/* What was started by this process, so that a test that fails leaves nothing for the next one. */
static pid_t children[1024];
static unsigned int nchildren;

static unsigned int end_children(void)
{
	unsigned int left = 0;

	for (; nchildren; nchildren--) {
		pid_t pid = children[nchildren - 1];
		pid_t ended = waitpid(pid, NULL, WNOHANG);
		if (ended == 0)
			kill_and_reap(pid);
		left += ended >= 0;
	}
	return left;
}

int test_begin(void **state)
{
	(void)state;
	if (watchdog < 0)
		watchdog_start();
	test_skipped = false;
	fds_before = count_fds();
	tell_watchdog('b');
	return 0;
}

int test_end(void **state)
{
	unsigned int fds = count_fds();

	(void)state;
	tell_watchdog('e');
	if (fds != fds_before && !test_skipped) {
		print_message("# %u descriptors before the test, %u after it\n", fds_before, fds);
		return -1;
	}
	unsigned int left = end_children();
	if (left)
		print_message("# %u child processes are left\n", left);
	return left ? -1 : 0;
}

void *allocate(size_t size)
{
	void *p = calloc(1, size);

	check(p);
	return p;
}

unsigned int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	if (!dir)
		return 0;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

pid_t spawn(int (*fn)(void *arg), void *arg)
{
	pid_t parent = getpid();

	fflush(NULL);
	pid_t pid = fork();
	if (pid < 0)
		check_failed(__FILE__, __LINE__, "fork()", errno);
	if (pid) {
		if (nchildren < COUNT(children))
			children[nchildren++] = pid;
		return pid;
	}
	nchildren = 0;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	alarm(DEADLINE_S);
	/* cmocka's handlers would jump into the parent's test. */
	signal(SIGSEGV, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
	signal(SIGILL, SIG_DFL);
	signal(SIGFPE, SIG_DFL);
	int status = fn(arg);
	fflush(NULL);
	_exit(status);
}

int wait_exit(pid_t pid)
{
	siginfo_t info = {0};

	while (waitid(P_PID, (id_t)pid, &info, WEXITED) < 0)
		if (errno != EINTR)
			check_failed(__FILE__, __LINE__, "waitid()", errno);
	return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

bool stops(pid_t pid)
{
	siginfo_t info = {0};

	while (waitid(P_PID, (id_t)pid, &info, WSTOPPED | WEXITED | WNOWAIT) < 0)
		if (errno != EINTR)
			check_failed(__FILE__, __LINE__, "waitid()", errno);
	if (info.si_code != CLD_STOPPED)
		return false;
	/* Seen: the next call waits for the next stop. */
	waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOHANG);
	return true;
}

void wait_stopped(pid_t pid)
{
	if (!stops(pid))
		check_failed(__FILE__, __LINE__, "stopped", wait_exit(pid));
}

void kill_and_reap(pid_t pid)
{
	kill(pid, SIGKILL);
	wait_exit(pid);
}
