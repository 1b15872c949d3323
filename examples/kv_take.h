/* SPDX-License-Identifier: MIT */
/* The new version's side of an upgrade of kv.c. */
#ifndef KV_TAKE_H
#define KV_TAKE_H

#include <pageferry.h>

#include "kv_client.h"

static struct ferry_take *take; /* while memory is still on its way to us */

/* Without the rest of its memory this process can't go on, and nobody else can. */
static void lost(void *arg, int error, uint64_t left)
{
	(void)arg;
	fprintf(stderr, "kv: the old version is gone, %llu bytes are lost: %s\n",
		(unsigned long long)left, strerror(-error));
	_exit(1);
}

/* Is it what we can work with? */
static bool suits(const struct ferry_offer *offer)
{
	return offer->blob_len == sizeof(KV_LAYOUT) &&
	       !memcmp(offer->blob, KV_LAYOUT, sizeof(KV_LAYOUT)) && offer->nranges == 1 &&
	       offer->ranges[0].addr == (uintptr_t)arena && offer->ranges[0].len == ARENA_LEN;
}

static void adopt_sockets(const int *fds)
{
	listener = *fds++;
	for (struct client *c = arena->clients; c < arena->clients + CLIENTS; c++) {
		if (!c->used)
			continue;
		c->fd = *fds++;
		client_watch(c, EPOLL_CTL_ADD);
	}
}

/*
 * Needs the arena mapped and untouched. Returns 0 when it is ours: from then on clients are served,
 * and a page that has not come yet is fetched when it is touched.
 */
static int take_over(int sock)
{
	struct ferry_take_opts opts = FERRY_TAKE_OPTS_INIT;
	const int *fds = NULL;
	unsigned int n = 0;

	opts.lost = lost;
	int ret = ferry_take_open(&take, sock, &opts);
	if (!ret && !suits(ferry_take_offer(take)))
		ret = -ENOTSUP;
	if (!ret)
		ret = ferry_take_map(take, 0, arena);
	if (!ret)
		ret = ferry_take_attach(take);
	if (!ret)
		ret = ferry_take_shadow(take, &fds, &n);
	if (!ret && n != arena->nclients + 1)
		ret = -EPROTO;
	if (!ret)
		ret = ferry_take_commit(take);
	if (ret)
		return ret;
	adopt_sockets(fds);
	arena->upgrades++;
	return 0;
}

#endif
