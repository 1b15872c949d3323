/* SPDX-License-Identifier: MIT */
/* The old version's side of an upgrade of kv.c: start the new one, give it arena and sockets. */
#ifndef KV_GIVE_H
#define KV_GIVE_H

#include <fcntl.h>
#include <pageferry.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include "kv_client.h"

#ifndef UPGRADE_SECONDS
#define UPGRADE_SECONDS 5
#endif

extern char **environ;

static pid_t successor; /* 0: no upgrade is under way */
static int successor_sock;

/* One round of the event loop, in kv.c. */
static void serve(int timeout_ms);

static void upgrade_failed(int error)
{
	fprintf(stderr, "kv: upgrade failed: %s: pid %d carries on\n", strerror(error), getpid());
}

/* The new version speaks first: its event calls upgrade_finish, also if it dies without a word. */
static void upgrade_start(char *program, char *port, char *file)
{
	int pair[2];
	char fd[16];
	char *argv[] = {program, port, file, fd, NULL};

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0) {
		upgrade_failed(errno);
		return;
	}
	fcntl(pair[0], F_SETFD, FD_CLOEXEC);
	snprintf(fd, sizeof(fd), "%d", pair[1]);
	int error = posix_spawnp(&successor, program, NULL, NULL, argv, environ);
	close(pair[1]);
	if (error) {
		close(pair[0]);
		successor = 0;
		upgrade_failed(error);
		return;
	}
	successor_sock = pair[0];
	watch(EPOLL_CTL_ADD, successor_sock, EPOLLIN, ID_SUCCESSOR);
	alarm(UPGRADE_SECONDS);
}

static unsigned int all_sockets(int *fds)
{
	unsigned int n = 0;

	fds[n++] = listener;
	for (unsigned int i = 0; i < CLIENTS; i++)
		if (arena->clients[i].used)
			fds[n++] = arena->clients[i].fd;
	return n;
}

/* Returns -errno, and only if the successor has not taken over. */
static int hand_over(struct ferry_give **give)
{
	struct ferry_range range = {.addr = (uintptr_t)arena, .len = ARENA_LEN};
	struct ferry_offer offer = {&range, 1, KV_LAYOUT, sizeof(KV_LAYOUT)};
	struct ferry_give_opts opts = FERRY_GIVE_OPTS_INIT;
	int fds[CLIENTS + 1];

	opts.timeout_ms = UPGRADE_SECONDS * 1000;
	int ret = ferry_give_open(give, successor_sock, &offer, &opts);
	while (!ret && (ret = ferry_give_wait(*give, FERRY_PHASE_ATTACHED, epoll_fd)) == 1) {
		serve(0);
		ret = 0;
	}
	if (ret)
		return ret;
	/* From here on nothing in the arena changes. */
	unsigned int n = all_sockets(fds);
	ret = ferry_give_shadow(*give, fds, n);
	if (!ret)
		ret = ferry_give_wait(*give, FERRY_PHASE_READY, -1);
	if (!ret)
		ret = ferry_give_commit(*give);
	if (ret)
		return ret;
	/* A client that the successor disconnects must not stay connected through us. */
	while (n)
		close(fds[--n]);
	ret = ferry_give_wait(*give, FERRY_PHASE_DONE, -1);
	ferry_give_close(*give, NULL);
	exit(ret ? 1 : 0);
}

static void upgrade_finish(void)
{
	struct ferry_give *give = NULL;

	watch(EPOLL_CTL_DEL, successor_sock, 0, 0);
	int ret = hand_over(&give);
	ferry_give_close(give, strerror(-ret));
	alarm(0);
	kill(successor, SIGKILL);
	waitpid(successor, NULL, 0);
	successor = 0;
	upgrade_failed(-ret);
}

#endif
