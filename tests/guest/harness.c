// SPDX-License-Identifier: MIT
/* Runs tests one after another, each in a process group of its own; see harness.h. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "harness.h"
#include "proc.h"

#define DEFAULT_SECONDS 30
#define KILL_MS         10000
#define EXIT_SKIP       77

const void *test_row;
unsigned int slowness = 1;

static struct {
	int tap;
	unsigned int count, failed;
	bool stuck;
	char *skip_reason; /* shared with the tests */
} harness;

#define REASON_BYTES 256

/* ---- what tests say; each line by one write(), so that those of two processes never mix */

static void __attribute__((format(printf, 1, 0))) vsay(const char *fmt, va_list ap)
{
	char line[512];
	int n = vsnprintf(line, sizeof(line) - 1, fmt, ap);

	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	line[n++] = '\n';
	if (write(harness.tap, line, (size_t)n) < 0)
		_exit(1); /* there is no other place to say so */
}

static void __attribute__((format(printf, 1, 2))) say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsay(fmt, ap);
	va_end(ap);
}

void note(const char *fmt, ...)
{
	char line[480] = "# ";
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line + 2, sizeof(line) - 2, fmt, ap);
	va_end(ap);
	say("%s", line);
}

void test_failed(const char *file, int line, const char *fmt, ...)
{
	char what[384];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	note("%s:%d: %s (process %d)", file, line, what, (int)getpid());
	_exit(1);
}

static const char *value_name(char *buf, size_t n, long long value)
{
	const char *name = value < 0 && value > -4096 ? strerrorname_np((int)-value) : NULL;

	if (name)
		snprintf(buf, n, "-%s", name);
	else if (value > 9999)
		snprintf(buf, n, "%lld (0x%llx)", value, value);
	else
		snprintf(buf, n, "%lld", value);
	return buf;
}

void test_unequal(const char *file, int line, const char *a, const char *b, long long is,
		  long long want)
{
	char is_name[64], want_name[64];

	test_failed(file, line, "%s is %s, not %s, which is %s", a,
		    value_name(is_name, sizeof(is_name), is), b,
		    value_name(want_name, sizeof(want_name), want));
}

void test_call_failed(const char *file, int line, const char *call)
{
	test_failed(file, line, "%s: %s", call, strerror(errno));
}

void test_skip(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(harness.skip_reason, REASON_BYTES, fmt, ap);
	va_end(ap);
	_exit(EXIT_SKIP);
}

int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (ts.tv_sec * 1000ll + ts.tv_nsec / 1000000) / slowness;
}

void nap_ms(unsigned int ms)
{
	poll(NULL, 0, (int)ms);
}

size_t working_set(size_t len)
{
	size_t less = len / slowness & ~(BLOCK - 1);

	return less ? less : BLOCK;
}

/* ---- running one */

static pid_t start(const struct test *test)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	setpgid(0, 0);
	test_row = test->row;
	test->run();
	_exit(0);
}

/* Its wait status, or -1 after its time is up. */
static int await_end(pid_t pid, unsigned int seconds)
{
	int64_t end = now_ms() + seconds * 1000ll;
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (now_ms() > end)
			return -1;
		nap_ms(2);
	}
	return status;
}

/*
 * Whoever loses its parent becomes a child of ours, so a group is gone when we have no child of it.
 * The test's exit and the end of its own children are two things.
 */
static bool end_group(pid_t pgid)
{
	int64_t end = now_ms() + KILL_MS;

	do {
		pid_t pid;

		kill(-pgid, SIGKILL);
		do
			pid = waitpid(-1, NULL, WNOHANG);
		while (pid > 0);
		if (kill(-pgid, 0) && errno == ESRCH)
			return true;
		nap_ms(1);
	} while (now_ms() < end);
	return false;
}

/* What it does at this moment, before it is killed: a hang is often one in the kernel. */
static void show_group(pid_t pgid)
{
	char buf[2048], *line, *save;

	for (pid_t pid = 2; pid < 32768; pid++) {
		if (getpgid(pid) != pgid)
			continue;
		note("process %d:", (int)pid);
		if (proc_read(pid, "stack", buf, sizeof(buf)) <= 0)
			continue;
		for (line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
			note("  %s", line);
	}
}

static bool explain(int status)
{
	if (WIFSIGNALED(status))
		note("killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else if (WEXITSTATUS(status) > 1 && WEXITSTATUS(status) != EXIT_SKIP)
		note("exit status %d", WEXITSTATUS(status));
	return WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == EXIT_SKIP);
}

bool harness_verdict(bool good, const char *name)
{
	harness.count++;
	harness.failed += !good;
	say("%s %u - %s%s%s", good ? "ok" : "not ok", harness.count, name,
	    harness.skip_reason[0] ? " # SKIP " : "", harness.skip_reason);
	harness.skip_reason[0] = '\0';
	return good;
}

static void run_one(const struct test *test)
{
	unsigned int seconds = test->seconds ? test->seconds : DEFAULT_SECONDS;
	bool good;
	pid_t pid;
	int status;

	log_mark(test->name);
	pid = start(test);
	if (pid < 0) {
		note("fork: %s", strerror(errno));
		harness_verdict(false, test->name);
		return;
	}
	setpgid(pid, pid); /* whoever of both comes first */
	status = await_end(pid, seconds);
	if (status == -1) {
		note("it hangs: nothing for %u s", seconds);
		show_group(pid);
		/* What is running has no stack to be shown by others; the console gets it. */
		file_write("/proc/sysrq-trigger", "l");
		good = false;
	} else {
		good = explain(status);
	}
	if (!end_group(pid)) {
		note("what it left can't be killed:");
		show_group(pid);
		harness.stuck = true;
		good = false;
	}
	if (log_trouble())
		good = false;
	harness_verdict(good, test->name);
}

/* ---- running all */

/* "a,b": a name, or a subject with all of its tests. */
static bool selected(const struct test *test, const char *select)
{
	size_t subject = strcspn(test->name, "/");

	if (!*select)
		return !test->by_name;
	for (;;) {
		size_t n = strcspn(select, ",");

		if (strlen(test->name) == n && !memcmp(select, test->name, n))
			return true;
		if (subject == n && !memcmp(select, test->name, n) && !test->by_name)
			return true;
		if (!select[n])
			return false;
		select += n + 1;
	}
}

void harness_run(const struct test *table, const char *select)
{
	for (; table->name && !harness.stuck; table++)
		if (selected(table, select))
			run_one(table);
}

void harness_open(int tap)
{
	harness.tap = tap;
	harness.skip_reason = mmap(NULL, REASON_BYTES, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

unsigned int harness_failed(void)
{
	return harness.failed;
}

unsigned int harness_count(void)
{
	return harness.count;
}

bool harness_stuck(void)
{
	return harness.stuck;
}
