// SPDX-License-Identifier: MIT
/* See undo.h. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/lib/test.h"
#include "tests/lib/undo.h"

/* In a session of its own, since a test is killed with its process group. Children of the test may
 * hold its end of the socket for longer than it lives. */
static _Noreturn void guard(int sock, int whom, const char *command)
{
	struct pollfd fds[] = {{.fd = sock, .events = POLLIN}, {.fd = whom, .events = POLLIN}};

	setsid();
	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	_exit(system(command) != 0); /* NOLINT(cert-env33-c) */
}

int undo_later(const char *command)
{
	int pair[2], whom = (int)syscall(SYS_pidfd_open, getpid(), 0);

	if (whom < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		check_failed(__FILE__, __LINE__, "pidfd_open(), socketpair()", errno);
	fflush(NULL);
	pid_t pid = fork();
	if (pid < 0)
		check_failed(__FILE__, __LINE__, "fork()", errno);
	if (!pid) {
		close(pair[0]);
		if (fork() == 0)
			guard(pair[1], whom, command);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	close(whom);
	close(pair[1]);
	return pair[0];
}

void undo(int what)
{
	char byte;

	shutdown(what, SHUT_WR);
	while (read(what, &byte, 1) < 0 && errno == EINTR)
		;
	close(what);
}
