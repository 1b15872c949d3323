/* SPDX-License-Identifier: MIT */
/*
 * kv.c saves its store while it serves. What is saved is the store as it was between two requests:
 * either a child of fork has it, or a thread reads it from a frozen image.
 */
#ifndef KV_SAVE_H
#define KV_SAVE_H

#include <fcntl.h>
#include <pageferry.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "kv_give.h"
#include "kv_take.h"

static struct {
	char *file; /* "": nothing can be saved */
	char aside[PATH_MAX];
	bool running;
	int fd, news[2]; /* news: how it ended; nothing if the child was killed */
	size_t len;
	pid_t child; /* 0: it is the thread */
	pthread_t thread;
} saving;

/* ---- in the child, or in the thread */

static int save_bytes(const void *from, size_t len, size_t at)
{
	while (len) {
		ssize_t n = pwrite(saving.fd, from, len, (off_t)at);
		if (n < 0)
			return -errno;
		from = (const char *)from + n;
		at += (size_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* The file is the old one or the new one, never a part. */
static void save_end(int ret)
{
	if (!ret && (fsync(saving.fd) < 0 || rename(saving.aside, saving.file) < 0))
		ret = -errno;
	ssize_t ignored = write(saving.news[1], &ret, sizeof(ret));
	(void)ignored;
	close(saving.news[1]);
}

/* ---- with fork: the child has a copy of the memory */

static int save_by_fork(void)
{
	int fds[CLIENTS + 1];
	pid_t server = getpid();

	saving.child = fork();
	if (saving.child < 0)
		return -errno;
	if (saving.child) {
		close(saving.news[1]);
		return 0;
	}
	/* Else it might still write to the file when the next server does. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != server)
		_exit(1);
	/* A client that the server disconnects must not stay connected through its child. */
	for (unsigned int n = all_sockets(fds); n;)
		close(fds[--n]);
	save_end(save_bytes(&arena->store, saving.len, 0));
	_exit(0);
}

/* ---- with ferry_snapshot: a thread is given the memory block by block */

static void *save_blocks(void *snap)
{
	struct ferry_block block = {.size = sizeof(block)};
	int ret;

	while ((ret = ferry_snapshot_next(snap, &block)) == 1) {
		size_t at = (size_t)(block.addr - (uintptr_t)&arena->store);
		if (block.kind == FERRY_BLOCK_DATA)
			ret = save_bytes(block.data, block.len, at);
		else if (block.kind == FERRY_BLOCK_LOST)
			ret = -EIO;
		if (ret < 0)
			break;
	}
	ferry_snapshot_end(snap);
	save_end(ret);
	return NULL;
}

static int save_by_snapshot(void)
{
	struct ferry_span span = {(uintptr_t)&arena->store, saving.len};
	struct ferry_snapshot *snap;

	saving.child = 0;
	int ret = ferry_snapshot_begin(&snap, &span, 1, NULL);
	if (!ret)
		ret = -pthread_create(&saving.thread, NULL, save_blocks, snap);
	if (ret)
		ferry_snapshot_end(snap);
	return ret;
}

/* ---- in the server's loop, for both */

/* Up to the last entry in use, in whole pages. */
static size_t save_len(const struct store *store)
{
	size_t used = offsetof(struct store, entries) + store->nentries * sizeof(struct entry);
	return (used + 4095) / 4096 * 4096;
}

static int save_prepare(void)
{
	if (!*saving.file || strlen(saving.file) > PATH_MAX - sizeof(".new"))
		return -ENOENT;
	if (saving.running || successor || take)
		return -EBUSY;
	sprintf(saving.aside, "%s.new", saving.file);
	saving.len = save_len(&arena->store);
	saving.fd = open(saving.aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (saving.fd < 0)
		return -errno;
	if (ftruncate(saving.fd, (off_t)saving.len) == 0 && pipe2(saving.news, O_CLOEXEC) == 0)
		return 0;
	int ret = -errno;
	close(saving.fd);
	return ret;
}

static void save(struct client *c, const char *way)
{
	bool forks = !strcmp(way, "fork");

	if (!forks && strcmp(way, "snapshot") != 0) {
		reply(c, "error: save fork or save snapshot\n");
		return;
	}
	int ret = save_prepare();
	if (!ret) {
		ret = forks ? save_by_fork() : save_by_snapshot();
		if (ret) {
			close(saving.fd);
			close(saving.news[0]);
			close(saving.news[1]);
		}
	}
	if (ret) {
		reply(c, "error: %s\n", strerror(-ret));
		return;
	}
	saving.running = true;
	watch(EPOLL_CTL_ADD, saving.news[0], EPOLLIN, ID_SAVE);
	reply(c, "saving\n");
}

static void save_finish(void)
{
	int ret = -ECHILD;

	watch(EPOLL_CTL_DEL, saving.news[0], 0, 0);
	if (read(saving.news[0], &ret, sizeof(ret)) != sizeof(ret) || ret) {
		fprintf(stderr, "kv: %s is not saved: %s\n", saving.file, strerror(-ret));
		unlink(saving.aside);
		arena->unsaved++;
	} else {
		arena->saved++;
	}
	if (saving.child)
		waitpid(saving.child, NULL, 0);
	else
		pthread_join(saving.thread, NULL);
	close(saving.news[0]);
	close(saving.fd);
	saving.running = false;
}

#endif
