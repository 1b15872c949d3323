// SPDX-License-Identifier: MIT
/*
 * The files that are mapped. What the process hasn't changed of a private mapping is what its file
 * has, and need not be copied while the process stands still; if nobody could write to the file
 * then, and it is told afterwards whether somebody has.
 *
 * Opened as what is mapped there, not by the name, behind which another file may be by now: that
 * takes root. Without them nothing is missing, but more is copied.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "tools/snap.h"

#define FILES_MOST 256u /* a process may have 1024 descriptors, as usual */
#define FDS_LEFT   32u  /* for all else */

/* ---- before it stands still */

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

/*
 * By now another may be mapped there. On overlayfs, where a file that is written to is copied up,
 * it is the one below that stays mapped, and the one above that is opened. And on Btrfs two files
 * may look the same in the list of mappings, but not here: of those none passes.
 */
static bool is_mapped(const struct snap_backing *b, const struct statfs *fs)
{
	struct stat st;

	return !fstat(b->fd, &st) && st.st_ino == b->inode &&
	       ((uint64_t)major(st.st_dev) << 32 | minor(st.st_dev)) == b->dev &&
	       fs->f_type != OVERLAYFS_SUPER_MAGIC;
}

/* Of one that can't be read later it is still known where it is. */
static bool open_mapped(struct snap_backing *b, const struct snap_target *target,
			const struct snap_map *m)
{
	struct statfs fs;
	char path[80];

	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, (int)target->pid,
		 m->start, m->end);
	*b = (struct snap_backing){.dev = m->dev, .inode = m->inode, .fd = open_regular(path)};
	if (b->fd < 0)
		return false;
	if (fstatfs(b->fd, &fs) < 0) {
		close(b->fd);
		return false;
	}
	b->asked = !is_mapped(b, &fs);
	b->served = fs.f_type == TMPFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC;
	b->is_here = fs.f_type == TMPFS_MAGIC || fs.f_type == BTRFS_SUPER_MAGIC ||
		     fs.f_type == OVERLAYFS_SUPER_MAGIC;
	return true;
}

static bool may_be_copied(const struct snap_target *target, const struct snap_map *m)
{
	struct ferry_span own;

	return m->inode && m->perms[3] == 'p' && m->end - m->start <= SNAP_COPY_ALL &&
	       (m->perms[1] == 'w' || snap_next_own(target, m->start, m->end, &own));
}

static struct snap_backing *find(const struct snap_job *job, const struct snap_map *m)
{
	for (size_t i = 0; i < job->nbacking; i++)
		if (job->backing[i].inode == m->inode && job->backing[i].dev == m->dev)
			return &job->backing[i];
	return NULL;
}

/* The lowest number is given out, so those above are free. */
static bool is_scarce(int fd)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_NOFILE, &limit) < 0 || (rlim_t)fd + FDS_LEFT >= limit.rlim_cur;
}

/* One that isn't kept open can't be read later, but it is known where it is. */
static void keep_open(struct snap_backing *b)
{
	if (!b->asked && !is_scarce(b->fd))
		return;
	close(b->fd);
	b->fd = -1;
	b->asked = true;
}

void snap_backing_open(struct snap_job *job)
{
	/* By which is told that somebody wants to write to one of them, see has_writer(). */
	signal(SIGIO, SIG_IGN);
	job->backing = reallocarray(NULL, FILES_MOST, sizeof(*job->backing));
	for (size_t i = 0; job->backing && i < job->flags.n && job->nbacking < FILES_MOST; i++) {
		const struct snap_map *m = &job->flags.v[i];
		struct snap_backing *b = &job->backing[job->nbacking];
		if (!may_be_copied(&job->target, m) || find(job, m) ||
		    !open_mapped(b, &job->target, m))
			continue;
		keep_open(b);
		job->nbacking++;
	}
}

/* ---- while it stands still */

/* Has somebody opened it to write to it, or mapped it so? Then there is no lease for readers. */
static bool has_writer(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
		return true;
	fcntl(fd, F_SETLEASE, F_UNLCK);
	return false;
}

/* What is written in the same tick of the kernel's clock may have the same time. */
static bool is_past(const struct timespec *t)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return t->tv_sec + 1 < now.tv_sec;
}

/* In this order: who opens it afterwards gives it a later time. No server is asked. */
static bool will_tell(struct snap_backing *b)
{
	struct statx st;

	if (statx(b->fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_CTIME, &st) < 0)
		return false;
	b->changed = (struct timespec){st.stx_ctime.tv_sec, st.stx_ctime.tv_nsec};
	return is_past(&b->changed) && !has_writer(b->fd);
}

const struct snap_backing *snap_backing(const struct snap_job *job, const struct snap_map *m)
{
	struct snap_backing *b = find(job, m);

	if (b && !b->asked) {
		b->asked = true;
		b->tells = will_tell(b);
	}
	return b && b->tells ? b : NULL;
}

bool snap_backing_is_here(const struct snap_job *job, const struct snap_map *m)
{
	const struct snap_backing *b = find(job, m);
	/* Those of a disk have its number, others one that says nothing. */
	return m->dev >> 32 || (b && b->is_here);
}

int snap_backing_add(struct snap_job *job, const struct snap_backing *file, uint64_t offset,
		     uint64_t addr, uint64_t len)
{
	/* Grows in powers of two. */
	if (!(job->nunchanged & (job->nunchanged - 1))) {
		struct snap_unchanged *v = reallocarray(job->unchanged, 2 * job->nunchanged + 1,
							sizeof(*v));
		if (!v)
			return -ENOMEM;
		job->unchanged = v;
	}
	job->unchanged[job->nunchanged++] = (struct snap_unchanged){{addr, len}, offset, file};
	return 0;
}

/* ---- it runs again */

size_t snap_backing_read(const struct snap_backing *b, uint64_t offset, void *to, size_t len)
{
	struct stat st;
	ssize_t n = 1;
	size_t done;

	for (done = 0; n > 0 && done<len; done += n> 0 ? (size_t)n : 0)
		n = pread(b->fd, (char *)to + done, len - done, (off_t)(offset + done));
	/* Asked afterwards, so that it holds for what was read. */
	return n < 0 || fstat(b->fd, &st) < 0 || st.st_ctim.tv_sec != b->changed.tv_sec ||
			       st.st_ctim.tv_nsec != b->changed.tv_nsec
		       ? 0
		       : done;
}

void snap_backing_close(struct snap_job *job)
{
	for (size_t i = 0; i < job->nbacking; i++)
		if (job->backing[i].fd >= 0)
			close(job->backing[i].fd);
	free(job->backing);
	free(job->unchanged);
}
