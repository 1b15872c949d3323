// SPDX-License-Identifier: MIT
/* Files that appear when they are whole, see snap_file.h. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/park.h"
#include "tools/snap_file.h"

/* To be freed. NULL: no memory. */
static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
}

static int open_folder(const char *path, int flags)
{
	char *folder = folder_of(path);

	if (!folder)
		return -ENOMEM;
	int fd = open(folder, flags | O_CLOEXEC, 0600);
	int ret = fd < 0 ? -errno : fd;
	free(folder);
	return ret;
}

/* What file systems and kernels say that have no files without a name. */
static bool needs_name(int error)
{
	return error == -EOPNOTSUPP || error == -EISDIR || error == -EINVAL || error == -ENOSYS;
}

static int create_named(const char *aside)
{
	int fd = open(aside, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? -errno : fd;
}

int file_create(const char *aside, bool *named)
{
	int fd = open_folder(aside, O_TMPFILE | O_RDWR);

	*named = false;
	if (!needs_name(fd))
		return fd;
	fd = create_named(aside);
	*named = fd >= 0;
	return fd;
}

int file_scratch(const char *aside)
{
	int fd = open_folder(aside, O_TMPFILE | O_RDWR | O_EXCL);

	if (!needs_name(fd))
		return fd;
	char *name;
	if (asprintf(&name, "%s.scratch", aside) < 0)
		return -ENOMEM;
	fd = create_named(name);
	if (fd >= 0)
		unlink(name);
	free(name);
	return fd;
}

static int give_name(int fd, const char *name)
{
	char self[32];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, self, AT_FDCWD, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

/* A link doesn't replace a file, so over one it is first linked aside. */
static int replace(int fd, const char *aside, bool *named, const char *path)
{
	int ret = *named ? 0 : give_name(fd, path);

	if (!*named && ret != -EEXIST)
		return ret;
	ret = *named ? 0 : give_name(fd, aside);
	if (ret)
		return ret;
	*named = true;
	park("snapshot.linked");
	if (rename(aside, path) < 0)
		return -errno;
	*named = false;
	return 0;
}

/* One that may not be read is synced by its file, as far as the file system does that. */
static int sync_folder(const char *path, int file)
{
	int fd = open_folder(path, O_RDONLY | O_DIRECTORY);

	if (fd < 0)
		return fsync(file) < 0 ? -errno : 0;
	/* Some file systems have nothing to do for it, and say so. */
	int ret = fsync(fd) < 0 && errno != EINVAL && errno != EROFS ? -errno : 0;
	close(fd);
	return ret;
}

int file_name(int fd, const char *aside, bool *named, const char *path)
{
	if (fsync(fd) < 0)
		return -errno;
	park("snapshot.synced");
	int ret = replace(fd, aside, named, path);
	return ret ? ret : sync_folder(path, fd);
}

void file_limits_are_errors(void)
{
	signal(SIGXFSZ, SIG_IGN);
}
