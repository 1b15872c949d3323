// SPDX-License-Identifier: MIT
/*
 * The files that are mapped. What the process hasn't changed of a private mapping is what its file
 * has, and need not be copied while the process stands still.
 *
 * Opened as what is mapped there, not by the name, behind which another file may be by now: that
 * takes root. Without them nothing is missing, but more is copied.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/snap.h"

#define FILES_MOST 256u /* a process may have 1024 descriptors, as usual */

/* Anything else, opened, may do something. */
static int open_regular(const char *path)
{
	int ret = -1, fd = open(path, O_PATH | O_CLOEXEC);
	char name[32];
	struct stat st;

	if (fd < 0)
		return -1;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	if (!fstat(fd, &st) && S_ISREG(st.st_mode))
		ret = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	close(fd);
	return ret;
}

static int open_mapped(const struct snap_target *target, const struct snap_map *m)
{
	char path[80];

	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, (int)target->pid,
		 m->start, m->end);
	return open_regular(path);
}

static bool may_be_copied(const struct snap_target *target, const struct snap_map *m)
{
	struct ferry_span own;

	return m->inode && m->perms[3] == 'p' && m->end - m->start <= SNAP_COPY_ALL &&
	       (m->perms[1] == 'w' || snap_next_own(target, m->start, m->end, &own));
}

int snap_backing(const struct snap_job *job, const struct snap_map *m)
{
	for (size_t i = 0; i < job->nbacking; i++)
		if (job->backing[i].inode == m->inode && job->backing[i].dev == m->dev)
			return job->backing[i].fd;
	return -1;
}

void snap_backing_open(struct snap_job *job)
{
	job->backing = reallocarray(NULL, FILES_MOST, sizeof(*job->backing));
	for (size_t i = 0; job->backing && i < job->flags.n && job->nbacking < FILES_MOST; i++) {
		const struct snap_map *m = &job->flags.v[i];
		if (!may_be_copied(&job->target, m) || snap_backing(job, m) >= 0)
			continue;
		int fd = open_mapped(&job->target, m);
		if (fd >= 0)
			job->backing[job->nbacking++] = (struct snap_backing){m->dev, m->inode, fd};
	}
}

int snap_backing_add(struct snap_job *job, int fd, uint64_t offset, uint64_t addr, uint64_t len)
{
	/* Grows in powers of two. */
	if (!(job->nunchanged & (job->nunchanged - 1))) {
		struct snap_unchanged *v = reallocarray(job->unchanged, 2 * job->nunchanged + 1,
							sizeof(*v));
		if (!v)
			return -ENOMEM;
		job->unchanged = v;
	}
	job->unchanged[job->nunchanged++] = (struct snap_unchanged){{addr, len}, offset, fd};
	return 0;
}

void snap_backing_close(struct snap_job *job)
{
	for (size_t i = 0; i < job->nbacking; i++)
		close(job->backing[i].fd);
	free(job->backing);
	free(job->unchanged);
}
