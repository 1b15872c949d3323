// SPDX-License-Identifier: MIT
/*
 * What the program does with its mappings meanwhile. mremap takes the pages along. Discarding
 * (MADV_DONTNEED and its like) waits until its event has been read, so what it will discard is
 * saved before: which that is stands in the arguments of its system call. munmap tells when it is
 * over: what was not saved is lost, and counted.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/snapshot.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

/* [@at, ...) as it lies now: the part of it, up to @end, that is one interval of ours. */
static bool piece(const struct ferry_snapshot *s, uint64_t *at, uint64_t end, uint64_t *from,
		  uint64_t *len)
{
	size_t i = rangeset_from(&s->now, *at);

	if (*at >= end || i == s->now.n || s->now.v[i].start >= end)
		return false;
	const struct range *r = &s->now.v[i];
	if (*at < r->start)
		*at = r->start;
	*from = r->offset + (*at - r->start);
	*len = (end < r->end ? end : r->end) - *at;
	*at += *len;
	return true;
}

/* Of what nothing is known yet all may have been there. */
static void lose(struct ferry_snapshot *s, uint64_t start, uint64_t end)
{
	struct ferry_span run;
	uint64_t from, len;

	while (piece(s, &start, end, &from, &len)) {
		if (from + len > s->learned)
			snapshot_unknown(s, from > s->learned ? from : s->learned, from + len);
		for (uint64_t at = from; pages_next(&s->pages, PAGES_TODO, at, from + len, &run);
		     at = run.addr + run.len) {
			pages_remove(&s->pages, PAGES_TODO, run.addr, run.len);
			pages_add(&s->pages, PAGES_LOST, run.addr, run.len);
		}
	}
}

void snapshot_event(struct ferry_snapshot *s, const struct uffd_msg *msg)
{
	uint64_t start = msg->arg.remove.start, end = msg->arg.remove.end;

	switch (msg->event) {
	case UFFD_EVENT_REMAP:
		s->report.remaps++;
		rangeset_shift(&s->now, msg->arg.remap.from, msg->arg.remap.to, msg->arg.remap.len);
		break;
	case UFFD_EVENT_REMOVE:
		s->report.removes++;
		/* Only what came between the look at its caller and the read. */
		lose(s, start, end);
		break;
	case UFFD_EVENT_UNMAP:
		s->report.unmaps++;
		lose(s, start, end);
		rangeset_cut(&s->now, start, end);
		break;
	}
}

/* ---- before an event is read */

static bool discards(uint64_t advice)
{
	return advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_REMOVE ||
	       advice == MADV_DONTNEED_LOCKED;
}

/* Is this thread in an madvise that discards? */
static bool read_doomed(int dir, const char *tid, uint64_t *start, uint64_t *end)
{
	uint64_t len, advice;
	char path[64], text[256];
	long number;

	snprintf(path, sizeof(path), "%.16s/syscall", tid);
	int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	if (sscanf(text, "%ld %" SCNx64 " %" SCNx64 " %" SCNx64, &number, start, &len, &advice) !=
	    4)
		return false;
	*end = *start + (len + FERRY_PAGE - 1) / FERRY_PAGE * FERRY_PAGE;
	return number == SYS_madvise && discards(advice) && *end > *start;
}

static int save_part(struct ferry_snapshot *s, uint64_t from, uint64_t len)
{
	struct ferry_span run;
	int ret = 0;

	if (from + len > s->learned)
		ret = snapshot_learn(s, from, from + len);
	if (ret)
		return ret;
	for (uint64_t at = from; pages_next(&s->pages, PAGES_TODO, at, from + len, &run);
	     at = run.addr + run.len) {
		if (run.len > SNAPSHOT_WINDOW)
			run.len = SNAPSHOT_WINDOW;
		ret = snapshot_pool(s, run.addr, run.addr + run.len, 0);
		if (ret)
			return ret;
	}
	return 0;
}

static int save_range(struct ferry_snapshot *s, uint64_t start, uint64_t end)
{
	uint64_t from, len;
	int ret = 0;

	while (!ret && piece(s, &start, end, &from, &len))
		ret = save_part(s, from, len);
	return ret;
}

int snapshot_save_doomed(struct ferry_snapshot *s)
{
	char path[64];
	int ret = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)s->target.pid);
	DIR *dir = opendir(path);
	if (!dir)
		return 0;
	const struct dirent *entry;
	s->read_only = true;
	while (!ret && (entry = readdir(dir))) {
		uint64_t start, end;
		if (entry->d_name[0] != '.' && read_doomed(dirfd(dir), entry->d_name, &start, &end))
			ret = save_range(s, start, end);
	}
	s->read_only = false;
	closedir(dir);
	return ret;
}
