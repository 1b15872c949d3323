// SPDX-License-Identifier: MIT
/*
 * What is written into a process's memory without its page table, which is where it would be
 * noticed: transfers of devices into memory that was looked up, and pinned, before it was
 * protected.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/snap.h"

bool snap_has_pins(pid_t pid)
{
	return snap_status(pid, "\nVmPin:") > 0;
}

int snap_why_pinned(pid_t pid, const char *advice, struct why *why)
{
	return why_set(why, -EBUSY,
		       "process %d has pinned memory (VmPin in /proc/%d/status), and what a device "
		       "writes there is not found: %s",
		       (int)pid, (int)pid, advice);
}

/* io_setup(2) maps its ring. */
static bool has_aio(pid_t pid)
{
	char *maps = snap_read_proc(pid, "maps", NULL);
	bool has = !maps || strstr(maps, " /[aio]");

	free(maps);
	return has;
}

/* A ring, a device that was given to it, or a file that is read past the cache. */
static bool is_direct(pid_t pid, const char *fd)
{
	char path[64], link[64] = "";

	snprintf(path, sizeof(path), "/proc/%d/fd/%.20s", (int)pid, fd);
	if (readlink(path, link, sizeof(link) - 1) > 0 &&
	    (strstr(link, "[io_uring]") || !strncmp(link, "/dev/vfio", 9)))
		return true;
	snprintf(path, sizeof(path), "fdinfo/%.20s", fd);
	char *info = snap_read_proc(pid, path, NULL);
	const char *flags = info ? strstr(info, "flags:\t") : NULL;
	bool direct = flags && (strtoul(flags + 7, NULL, 8) & O_DIRECT);
	free(info);
	return direct;
}

bool snap_may_be_written_aside(pid_t pid)
{
	char path[64];
	bool may = snap_has_pins(pid) || has_aio(pid);

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	DIR *dir = opendir(path);
	for (const struct dirent *e; dir && !may && (e = readdir(dir));)
		may = e->d_name[0] != '.' && is_direct(pid, e->d_name);
	if (dir)
		closedir(dir);
	return may;
}
