// SPDX-License-Identifier: MIT
/*
 * A program that needs nothing of the module: a test of the library or of the command, which can't
 * run on the machine outside, see tests/guest/run. Here it finds about what it would find there.
 * Each line that it prints is a comment that begins with "| "; the exit status follows.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define SUBJECT "user"

#define TOP     "/pageferry" /* the folder that the source is in */

static void loopback_up(void)
{
	struct ifreq req = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	check_call(sock);
	check_call(ioctl(sock, SIOCSIFFLAGS, &req));
	close(sock);
}

static void mount_at(const char *type, const char *path)
{
	mkdir(path, 0755);
	check_call(mount(type, path, type, 0, NULL));
}

/* What an init makes that isn't made for tests. */
static void prepare(void)
{
	mount_at("devpts", "/dev/pts");
	mount_at("tmpfs", "/dev/shm");
	check_call(symlink("/proc/self/fd", "/dev/fd"));
	check_call(chmod("/tmp", 01777));
	mkdir("/var", 0755);
	check_call(symlink("/tmp", "/var/tmp"));
	loopback_up();
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/tmp", 1);
	setenv("B", "build", 1);
}

static pid_t start(const char *path, int out)
{
	pid_t pid = fork();

	check_call(pid);
	if (pid)
		return pid;
	check_call(chdir(TOP));
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	check_call(dup2(null, STDIN_FILENO));
	check_call(dup2(out, STDOUT_FILENO));
	check_call(dup2(out, STDERR_FILENO));
	execl(path, path, (char *)NULL);
	dprintf(out, "Bail out! %s: %s\n", path, strerror(errno));
	_exit(126);
}

static void program(void)
{
	const char *path = getenv("PF_PROGRAM");
	char line[400];
	int out[2], status;

	if (!path || !*path)
		test_skip("no program: see tests/guest/run");
	prepare();
	check_call(pipe2(out, O_CLOEXEC));
	pid_t pid = start(path, out[1]);
	close(out[1]);
	FILE *f = fdopen(out[0], "r");
	check(f);
	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		note("| %s", line);
	}
	if (f)
		fclose(f);
	check_is(waitpid(pid, &status, 0), pid);
	note("status %d", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

const struct test user_tests[] = {
	TEST(program, .by_name = true, .seconds = 3600),
	{.name = NULL},
};
