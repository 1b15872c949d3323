// SPDX-License-Identifier: MIT
/*
 * From the commit on nobody may speak to the old QEMU any more: a QMP `cont` would let it run a guest
 * whose memory is leaving, and a connection to a port that both QEMUs listen on for a moment would
 * end with it. Its sockets are shut; those and the input that it shares with the new QEMU are left to that.
 *
 * QEMU itself must neither mind nor fight it. It closes a connection that has ended; at a listening
 * socket that is shut its threads would accept without end. A connection that it has to have it makes
 * again, at a server that may be waiting for the new QEMU. And the threads of some of its libraries
 * speak to each other by pairs of sockets, and abort QEMU when one ends.
 */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "preload/vm.h"

/* Sockets that QEMU was started with are the new one's, too: it is the same socket in both, and isn't shut. */
static ino_t *inherited;
static size_t ninherited;
static bool all_known;
static _Atomic bool is_cut;

static bool is_socket(int fd, ino_t *inode)
{
	struct stat st;

	if (fstat(fd, &st) || !S_ISSOCK(st.st_mode))
		return false;
	*inode = st.st_ino;
	return true;
}

/* Call @fn for each descriptor of this process until it returns false; was it true for all? */
static bool each_descriptor(bool (*fn)(int fd, const void *arg), const void *arg)
{
	DIR *list = opendir("/proc/self/fd");
	struct dirent *entry;
	bool ok = list;

	while (ok && (entry = readdir(list))) {
		char *end;
		long fd = strtol(entry->d_name, &end, 10);

		if (end != entry->d_name && fd != dirfd(list))
			ok = fn((int)fd, arg);
	}
	if (list)
		closedir(list);
	return ok;
}

static bool remember(int fd, const void *arg)
{
	ino_t inode, *more;

	(void)arg;
	if (!is_socket(fd, &inode))
		return true;
	more = realloc(inherited, (ninherited + 1) * sizeof(*more));
	if (!more)
		return false;
	inherited = more;
	inherited[ninherited++] = inode;
	return true;
}

/* Before QEMU's main, which opens its own. */
__attribute__((constructor)) static void cut_init(void)
{
	if (getenv(CONTROL_ENV_FD))
		all_known = each_descriptor(remember, NULL);
}

static bool is_inherited(ino_t inode)
{
	for (size_t i = 0; i < ninherited; i++)
		if (inherited[i] == inode)
			return true;
	return false;
}

/* Neither end has a name: nobody has come to it from outside. */
static bool is_pair(int fd)
{
	struct sockaddr_un own = { 0 }, peer = { 0 };
	socklen_t own_len = sizeof(own), peer_len = sizeof(peer);

	return !getsockname(fd, (struct sockaddr *)&own, &own_len) && own.sun_family == AF_UNIX &&
	       !getpeername(fd, (struct sockaddr *)&peer, &peer_len) &&
	       own_len == sizeof(own.sun_family) && peer_len == sizeof(peer.sun_family);
}

/* Its end can be read from it, and will be. */
static bool is_connection(int fd)
{
	int type = 0;

	return !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){sizeof(type)}) &&
	       type == SOCK_STREAM &&
	       !getpeername(fd, &(struct sockaddr){0}, &(socklen_t){sizeof(struct sockaddr)});
}

static void replace(int fd, int by)
{
	if (by < 0)
		return;
	dup3(by, fd, O_CLOEXEC);
	close(by);
}

/* Nothing ever comes from what is there then, nor an end. */
static void silence(int fd)
{
	replace(fd, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

static void cut_socket(int fd)
{
	int was = -1;

	if (!is_connection(fd)) {
		was = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		silence(fd);
	}
	/* Whoever waits for it just now does so for what it was. */
	shutdown(was < 0 ? fd : was, SHUT_RDWR);
	if (was >= 0)
		close(was);
}

struct needed {
	int control, sock;
};

static bool cut(int fd, const void *arg)
{
	const struct needed *needed = arg;
	ino_t inode;

	if (fd == STDOUT_FILENO || fd == STDERR_FILENO || fd == needed->control || fd == needed->sock)
		return true;
	if (fd == STDIN_FILENO || isatty(fd))
		replace(fd, open("/dev/null", O_RDWR | O_CLOEXEC));
	else if (is_socket(fd, &inode) && is_inherited(inode))
		silence(fd);
	else if (is_socket(fd, &inode) && !is_pair(fd))
		cut_socket(fd);
	return true;
}

void cut_visitors(const struct vm *vm, int sock)
{
	const struct needed needed = {vm->control, sock};

	if (!all_known)
		return;
	is_cut = true;
	/* Once more for who came in meanwhile. */
	each_descriptor(cut, &needed);
	each_descriptor(cut, &needed);
}

/* Who wants to connect now waits until this process ends; an error would be told to the user. */
static int connect_unless_cut(int fd, const struct sockaddr *addr, socklen_t len)
{
	while (is_cut)
		poll(NULL, 0, -1);
	return (int)syscall(SYS_connect, fd, addr, len);
}

__attribute__((visibility("default"))) int connect(int fd, __CONST_SOCKADDR_ARG arg, socklen_t len)
{
	return connect_unless_cut(fd, arg.__sockaddr__, len);
}
