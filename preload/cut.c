// SPDX-License-Identifier: MIT
/*
 * From the commit on nobody may speak to the old QEMU any more: a QMP `cont` would let it run a guest
 * whose memory is leaving, and a connection to a port that both QEMUs listen on for a moment would
 * end with it. Its sockets are shut, and a terminal that it shares with the new QEMU is left to that.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "preload/vm.h"

/* Sockets that QEMU was started with are the new one's, too: it is the same socket in both. */
static ino_t *inherited;
static size_t ninherited;
static bool all_known;

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

static bool cut(int fd, const void *arg)
{
	const int *own = arg;
	ino_t inode;

	if (is_socket(fd, &inode)) {
		if (fd != *own && !is_inherited(inode))
			shutdown(fd, SHUT_RDWR);
	} else if (fd != STDOUT_FILENO && fd != STDERR_FILENO && isatty(fd)) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		if (null >= 0) {
			dup3(null, fd, O_CLOEXEC);
			close(null);
		}
	}
	return true;
}

void cut_visitors(int own)
{
	if (all_known)
		each_descriptor(cut, &own);
}
