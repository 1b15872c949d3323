// SPDX-License-Identifier: MIT
/* The rows, and those that a process does to its own memory with one call. */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/pins.h"
#include "tools/pins_act.h"

int scene_note(struct scene *s, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(s->note, sizeof(s->note), format,
		  args); /* NOLINT(clang-analyzer-valist.Uninitialized) */
	va_end(args);
	return error;
}

/* What an operation needs can't be had: that is no answer. */
static int not_done(struct scene *s, const char *what, int error)
{
	s->untold = true;
	return scene_note(s, 0, "%s: %s", what, pins_errno(error));
}

/* ---- fork */

/* The child stays, so that the page goes on to be shared, if it is. */
static int fork_and_write(struct scene *s, bool child)
{
	int ends[2];
	char byte = 0;
	pid_t pid;

	if (pipe(ends))
		return not_done(s, "pipe", -errno);
	pid = fork();
	if (pid < 0)
		return not_done(s, "fork", -errno);
	if (!pid) {
		if (child)
			*s->page = WORD_OTHER;
		if (write(ends[1], &byte, 1) != 1)
			_exit(EXIT_FAILURE);
		for (;;)
			pause();
	}
	while (read(ends[0], &byte, 1) < 0 && errno == EINTR)
		;
	if (!child)
		*s->page = WORD_OTHER;
	return 0;
}

static int act_fork_parent(struct scene *s)
{
	return fork_and_write(s, false);
}

static int act_fork_child(struct scene *s)
{
	return fork_and_write(s, true);
}

/* ---- of the mapping */

static int act_nothing(struct scene *s)
{
	(void)s;
	return 0;
}

static int act_mremap(struct scene *s)
{
	void *to = mmap(NULL, FERRY_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (to == MAP_FAILED)
		return not_done(s, "mmap", -errno);
	to = mremap(s->page, FERRY_PAGE, FERRY_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	if (to == MAP_FAILED)
		return -errno;
	s->page = to;
	return 0;
}

static int act_mprotect(struct scene *s)
{
	if (mprotect(s->page, FERRY_PAGE, PROT_NONE) ||
	    mprotect(s->page, FERRY_PAGE, PROT_READ | PROT_WRITE))
		return -errno;
	return 0;
}

static int act_dontneed(struct scene *s)
{
	return madvise(s->page, FERRY_PAGE, MADV_DONTNEED) ? -errno : 0;
}

static void *dontneed_thread(void *arg)
{
	return (void *)(intptr_t)act_dontneed(arg);
}

static int act_dontneed_thread(struct scene *s)
{
	pthread_t thread;
	void *result;
	int ret = pthread_create(&thread, NULL, dontneed_thread, s);

	if (ret)
		return not_done(s, "pthread_create", -ret);
	pthread_join(thread, &result);
	return (int)(intptr_t)result;
}

const struct operation operation_nothing = {.name = "nothing", .act = act_nothing};

const struct operation operations[] = {
	{.name = "fork, write in parent", .act = act_fork_parent},
	{.name = "fork, write in child", .act = act_fork_child},
	{.name = "mremap", .act = act_mremap},
	{.name = "mprotect", .act = act_mprotect},
	{.name = "MADV_DONTNEED", .act = act_dontneed},
	{.name = "MADV_DONTNEED, thread", .act = act_dontneed_thread},
	{.name = "MADV_FREE", .act = act_free, .control = true},
	{.name = "MADV_PAGEOUT", .act = act_pageout, .control = true},
	{.name = "KSM merge, unmerge", .begin = begin_ksm, .act = act_ksm, .control = true},
	{.name = "MADV_COLLAPSE", .begin = begin_collapse, .act = act_collapse, .control = true},
	{.name = "compaction",
	 .begin = begin_compaction,
	 .act = act_compaction,
	 .control = true,
	 .chance = true},
	{.name = "THP split", .memory = MEMORY_HUGE, .act = act_split, .control = true},
	{.name = "uprobe", .memory = MEMORY_CODE, .act = act_uprobe, .control = true},
	{.name = "exec", .execs = true},
	{.name = "UFFDIO_COPY", .begin = begin_missing, .act = act_copy},
	{.name = "UFFDIO_WRITEPROTECT", .begin = begin_protect, .act = act_protect},
	{.name = "UFFDIO_MOVE", .begin = begin_move, .act = act_move, .control = true},
	{.name = "module MOVE", .prepare = prepare_module, .act = act_module, .control = true},
	{.name = NULL},
};
