// SPDX-License-Identifier: MIT
/*
 * What is copied while the process stands still: what it has changed since it was saved before, and
 * what it has changed of mappings of files.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/uffd.h"
#include "tools/snap.h"

#define BATCH 512u

/* ---- room for it */

/* In huge pages: what has to be touched while the process waits takes fewer faults then. */
static size_t whole(uint64_t len)
{
	return len ? (len + FERRY_HUGE - 1) / FERRY_HUGE * FERRY_HUGE : FERRY_HUGE;
}

static char *map_room(size_t len)
{
	void *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		return NULL;
	madvise(mem, len, MADV_HUGEPAGE);
	return mem;
}

static void free_room(struct snap_room *room)
{
	if (room->mem)
		munmap(room->mem, room->len);
	*room = (struct snap_room){0};
}

void snap_room_make(struct snap_room *room, uint64_t len)
{
	if (room->len >= len)
		return;
	free_room(room);
	room->mem = map_room(whole(len));
	if (!room->mem)
		return;
	room->len = whole(len);
	/* Touched now, since the process runs now. */
	for (size_t at = 0; at < room->len; at += FERRY_PAGE)
		*(volatile char *)(room->mem + at) = 0;
}

static char *find_room(struct snap_room *room, struct snap_copies *c)
{
	if (room->len - room->used < c->bytes) {
		c->mapped = whole(c->bytes);
		return map_room(c->mapped);
	}
	room->used += c->bytes;
	return room->mem + room->used - c->bytes;
}

/* ---- read */

/* Slower, but it also reads what its owner may not. */
static int read_by_file(const struct snap_target *t, struct ferry_span span, char *to,
			snap_unread *unread, void *arg)
{
	int ret = 0;

	if (pread(t->mem, to, span.len, (off_t)span.addr) == (ssize_t)span.len)
		return 0;
	for (uint64_t at = 0; !ret && at < span.len; at += FERRY_PAGE) {
		if (pread(t->mem, to + at, FERRY_PAGE, (off_t)(span.addr + at)) == FERRY_PAGE)
			continue;
		memset(to + at, 0, FERRY_PAGE);
		ret = unread(arg, span.addr + at);
	}
	return ret;
}

static int read_batch(const struct snap_target *t, const struct ferry_span *spans, size_t n,
		      char *to, uint64_t *len, snap_unread *unread, void *arg)
{
	struct iovec remote[BATCH], local = {to, 0};
	int ret = 0;

	for (size_t i = 0; i < n; i++) {
		remote[i] = (struct iovec){(void *)(uintptr_t)spans[i].addr, spans[i].len};
		local.iov_len += spans[i].len;
	}
	*len = local.iov_len;
	if (process_vm_readv(t->pid, &local, 1, remote, n, 0) == (ssize_t)local.iov_len)
		return 0;
	for (size_t i = 0; !ret && i < n; to += spans[i++].len)
		ret = read_by_file(t, spans[i], to, unread, arg);
	return ret;
}

int snap_read(const struct snap_target *t, const struct ferry_span *spans, size_t n, char *to,
	      snap_unread *unread, void *arg)
{
	uint64_t len;
	int ret = 0;

	for (size_t i = 0, some; !ret && i < n; i += some, to += len) {
		some = n - i < BATCH ? n - i : BATCH;
		ret = read_batch(t, spans + i, some, to, &len, unread, arg);
	}
	return ret;
}

/* It stands still, and this is populated: nobody can read it, the process itself included. */
static int is_absent(void *arg, uint64_t addr)
{
	struct snap_job *job = arg;
	return snap_core_absent(&job->core, addr, FERRY_PAGE);
}

int snap_copy_changed(struct snap_job *job)
{
	const struct snap_changes *c = &job->changes;

	job->changed = (struct snap_copies){c->changed, c->nchanged, c->changed_bytes, NULL, 0};
	char *to = job->changed.data = find_room(&job->room, &job->changed);
	return to ? snap_read(&job->target, c->changed, c->nchanged, to, is_absent, job) : -ENOMEM;
}

/* ---- mappings of files */

static int add_copy(struct snap_copies *c, uint64_t addr, uint64_t len)
{
	c->bytes += len;
	return snap_span_add(&c->spans, &c->n, addr, len);
}

/* As its file has it. Of a large mapping debuggers find it there. */
static int add_unchanged(struct snap_job *job, const struct snap_map *m,
			 const struct snap_backing *file, uint64_t addr, uint64_t len)
{
	if (!file)
		return snap_core_absent(&job->core, addr, len);
	return snap_backing_add(job, file, m->offset + (addr - m->start), addr, len);
}

typedef bool next_run(const struct snap_target *target, uint64_t from, uint64_t to,
		      struct ferry_span *run);

static int add_runs(struct snap_job *job, const struct snap_map *m, const struct snap_backing *file,
		    next_run *next)
{
	struct ferry_span run;
	uint64_t at = m->start;
	int ret = 0;

	while (!ret && next(&job->target, at, m->end, &run)) {
		if (run.addr > at)
			ret = add_unchanged(job, m, file, at, run.addr - at);
		if (!ret)
			ret = add_copy(&job->own, run.addr, run.len);
		at = run.addr + run.len;
	}
	if (!ret && at < m->end)
		ret = add_unchanged(job, m, file, at, m->end - at);
	return ret;
}

/* If its file isn't here only what is in memory: by whom it is served may be standing still. */
static int add_map(struct snap_job *job, const struct snap_map *m, const struct snap_backing *file)
{
	if (m->end - m->start > SNAP_COPY_ALL)
		return add_runs(job, m, NULL, snap_next_own);
	if (file)
		return add_runs(job, m, file, snap_next_own);
	return snap_backing_is_here(job, m) ? add_copy(&job->own, m->start, m->end - m->start)
					    : add_runs(job, m, NULL, snap_next_there);
}

/* Those for which nobody waits, or the others. */
static int add_maps(struct snap_job *job, bool at_once)
{
	int ret = 0;

	for (size_t i = 0; !ret && i < job->maps.n; i++) {
		const struct snap_map *m = &job->maps.v[i];
		if (m->way != SNAP_COPIED)
			continue;
		const struct snap_backing *file = snap_backing(job, m);
		if (at_once == (file && !file->served))
			ret = add_map(job, m, file);
	}
	return ret;
}

/*
 * Some of it may be in the hands of a userfaultfd that is served by the process, which stands
 * still. Who reads it by its file is refused then, and needn't wait.
 */
int snap_copy_own(struct snap_job *job)
{
	struct snap_copies *own = &job->own;
	int ret = add_maps(job, true);
	size_t i = own->n;
	uint64_t len = own->bytes;

	if (!ret)
		ret = add_maps(job, false);
	if (ret)
		return ret;
	own->data = find_room(&job->room, own);
	if (!own->data)
		return -ENOMEM;
	ret = snap_read(&job->target, own->spans, i, own->data, is_absent, job);
	for (char *to = own->data + len; !ret && i < own->n; to += own->spans[i++].len)
		ret = read_by_file(&job->target, own->spans[i], to, is_absent, job);
	return ret;
}

static void free_copies(struct snap_copies *c)
{
	if (c->mapped && c->data)
		munmap(c->data, c->mapped);
}

void snap_copies_free(struct snap_job *job)
{
	free_copies(&job->changed);
	free_copies(&job->own);
	free(job->own.spans);
	free_room(&job->room);
}
