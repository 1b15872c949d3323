/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tools/state.h"

#define COUNT(a)     (sizeof(a) / sizeof((a)[0]))
#define LONGEST_FILE "/self-4294967295.sock"

static const char *const known_files[] = {
	"vm.json",      "vm.json.new", "ram",         "keeper.sock",
	"migrate.sock", "qmp-*.sock",  "self-*.sock", "qemu-*.log",
};

bool state_file_known(const char *file)
{
	for (size_t i = 0; i < COUNT(known_files); i++)
		if (!fnmatch(known_files[i], file, 0))
			return true;
	return false;
}

static bool is_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool state_name_valid(const char *name)
{
	size_t len = strlen(name);

	if (!len || len > STATE_NAME_MAX || !is_alnum(name[0]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!is_alnum(name[i]) && !strchr("._-", name[i]))
			return false;
	return true;
}

static int base_path(char *path, size_t size, struct why *why)
{
	const char *own = getenv("PAGEFERRY_STATE_DIR");
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	int len;

	if (own && own[0])
		len = snprintf(path, size, "%s", own);
	else if (!geteuid())
		len = snprintf(path, size, "/run/pageferry");
	else if (runtime && runtime[0])
		len = snprintf(path, size, "%s/pageferry", runtime);
	else
		return why_set(why, -EINVAL,
			       "no place for the state of VMs: set XDG_RUNTIME_DIR "
			       "or PAGEFERRY_STATE_DIR to a directory of yours");
	if (len < 0 || (size_t)len >= size)
		return why_set(why, -ENAMETOOLONG,
			       "the path of the state directory is too long: "
			       "set PAGEFERRY_STATE_DIR to a shorter one");
	return 0;
}

/* Whoever could write there could make the VM's sockets and files theirs. */
static int check_owner(int fd, mode_t forbidden, const char *path, struct why *why)
{
	struct stat st;

	if (fstat(fd, &st))
		return why_set(why, -errno, "%s: %s", path, strerror(errno));
	if (st.st_uid != geteuid())
		return why_set(why, -EPERM,
			       "%s: belongs to user %u, not to you: set PAGEFERRY_STATE_DIR to a "
			       "directory of yours",
			       path, (unsigned int)st.st_uid);
	if (st.st_mode & forbidden)
		return why_set(why, -EPERM, "%s: others may use it (mode %03o): chmod 700 it", path,
			       (unsigned int)st.st_mode & 0777);
	return 0;
}

static int open_checked(int at, const char *file, bool create, mode_t forbidden, const char *shown,
			struct why *why)
{
	int fd, err;

	if (create && mkdirat(at, file, 0700) && errno != EEXIST)
		return why_set(why, -errno,
			       "%s: can't make it: %s: set PAGEFERRY_STATE_DIR to a directory of "
			       "yours",
			       shown, strerror(errno));
	fd = openat(at, file, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return why_set(why, -errno, "%s: %s", shown,
			       errno == ELOOP || errno == ENOTDIR ? "is no directory: remove it"
								  : strerror(errno));
	err = check_owner(fd, forbidden, shown, why);
	if (err) {
		close(fd);
		return err;
	}
	return fd;
}

int state_base_open(bool create, struct why *why)
{
	char path[PATH_MAX];
	int err = base_path(path, sizeof(path), why);

	return err ? err : open_checked(AT_FDCWD, path, create, 022, path, why);
}

/* The path as QEMU is to be told: absolute, and fit for a socket's address and its options. */
static int find_path(struct state_dir *dir, struct why *why)
{
	char link[64], base[PATH_MAX];
	ssize_t len;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", dir->base);
	len = readlink(link, base, sizeof(base) - 1);
	if (len < 0)
		return why_set(why, -errno, "%s: %s: is /proc mounted?", link, strerror(errno));
	base[len] = '\0';
	len = snprintf(dir->path, sizeof(dir->path), "%s/%s", base, dir->name);
	if ((size_t)len + sizeof(LONGEST_FILE) > sizeof(((struct sockaddr_un *)0)->sun_path))
		return why_set(
			why, -ENAMETOOLONG,
			"%s: too long for the path of a socket: choose a shorter name or set "
			"PAGEFERRY_STATE_DIR to a shorter path",
			dir->path);
	if (strpbrk(dir->path, ",\n"))
		return why_set(why, -EINVAL,
			       "%s: QEMU can't use a path with a comma: set PAGEFERRY_STATE_DIR",
			       dir->path);
	return 0;
}

int state_dir_open(struct state_dir *dir, const char *name, bool create, struct why *why)
{
	int err;

	memset(dir, 0, sizeof(*dir));
	if (!state_name_valid(name))
		return why_set(why, -EINVAL,
			       "%s: not a name: use up to %d letters, digits and . _ - after a "
			       "letter or digit",
			       name, STATE_NAME_MAX);
	snprintf(dir->name, sizeof(dir->name), "%s", name);
	dir->base = state_base_open(create, why);
	if (dir->base < 0)
		return dir->base;
	dir->fd = -1;
	err = find_path(dir, why);
	if (!err) {
		dir->fd = open_checked(dir->base, name, create, 077, name, why);
		err = dir->fd < 0 ? dir->fd : 0;
	}
	if (err)
		state_dir_close(dir);
	return err;
}

void state_dir_close(struct state_dir *dir)
{
	if (dir->fd >= 0)
		close(dir->fd);
	close(dir->base);
	dir->fd = dir->base = -1;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

int state_dir_lock(struct state_dir *dir)
{
	struct stat held, there;

	if (flock(dir->fd, LOCK_EX | LOCK_NB))
		return -errno;
	/* The one who had the lock may have removed the directory before it was ours. */
	if (fstat(dir->fd, &held) || fstatat(dir->base, dir->name, &there, AT_SYMLINK_NOFOLLOW) ||
	    !same_file(&held, &there)) {
		flock(dir->fd, LOCK_UN);
		return -ESTALE;
	}
	return 0;
}

void state_dir_clear(struct state_dir *dir)
{
	int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!list) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((entry = readdir(list)))
		if (state_file_known(entry->d_name))
			unlinkat(dir->fd, entry->d_name, 0);
	closedir(list);
}

int state_dir_remove(struct state_dir *dir)
{
	state_dir_clear(dir);
	return unlinkat(dir->base, dir->name, AT_REMOVEDIR) ? -errno : 0;
}
