// SPDX-License-Identifier: MIT
/*
 * The taker's own thread. It listens to the giver while every thread of the program may be waiting
 * for a page, moves staged pages into place, and, should the giver die, sees to it that nobody waits
 * for ever and nobody reads a zero that was never there.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/park.h"
#include "lib/take.h"

void take_set_phase(struct ferry_take *take, enum ferry_phase phase)
{
	pthread_mutex_lock(&take->lock);
	take->phase = phase;
	pthread_cond_broadcast(&take->changed);
	pthread_mutex_unlock(&take->lock);
}

/* ---- messages */

static int reply(struct ferry_take *take, enum wire_type type, int error, uint64_t done)
{
	struct wire_result result = { .error = error, .done = done };
	return wire_send(take->sock, type, &result, sizeof(result), NULL, 0, NULL, 0,
			 wire_deadline(take->timeout_ms));
}

static int shadow(struct ferry_take *take, const struct wire_msg *msg)
{
	const struct wire_shadow *s = (const void *)msg->payload;

	if (take->phase != FERRY_PHASE_ATTACHED || take->fds)
		return -EPROTO;
	take->want_fds = s->nfds;
	take->fds = calloc(s->nfds ? s->nfds : 1, sizeof(int));
	if (!take->fds)
		return -ENOMEM;
	if (!s->nfds)
		take_set_phase(take, FERRY_PHASE_SHADOW);
	return 0;
}

static int more_fds(struct ferry_take *take, struct wire_msg *msg)
{
	if (take->phase != FERRY_PHASE_ATTACHED || msg->nfds > take->want_fds - take->nfds)
		return -EPROTO;
	memcpy(take->fds + take->nfds, msg->fds, msg->nfds * sizeof(int));
	take->nfds += msg->nfds;
	msg->nfds = 0;
	if (take->nfds == take->want_fds)
		take_set_phase(take, FERRY_PHASE_SHADOW);
	return 0;
}

/*
 * The giver lets go. It counts as taken over only if somebody still waits for it here and the
 * answer gets through: a giver that has stopped waiting has shut its socket, and the send fails.
 */
static int commit(struct ferry_take *take, const struct wire_commit *how)
{
	int ret = -ECANCELED;

	if (how->tables && !take->tables)
		return -EPROTO;
	park("take.commit");
	pthread_mutex_lock(&take->lock);
	if (take->may_commit)
		ret = wire_send(take->sock, WIRE_COMMITTED, NULL, 0, NULL, 0, NULL, 0,
				wire_deadline(take->timeout_ms));
	if (!ret) {
		park("take.committed");
		take->phase = FERRY_PHASE_COMMITTED;
		take->arriving = how->tables;
		pthread_cond_broadcast(&take->changed);
	}
	pthread_mutex_unlock(&take->lock);
	return ret;
}

static int arrived(struct ferry_take *take)
{
	pthread_mutex_lock(&take->lock);
	bool expected = take->arriving;
	take->arriving = false;
	pthread_cond_broadcast(&take->changed);
	pthread_mutex_unlock(&take->lock);
	return expected ? 0 : -EPROTO;
}

static int handle(struct ferry_take *take, struct wire_msg *msg)
{
	const struct wire_block *block = (const void *)msg->payload;
	bool ours = take->phase == FERRY_PHASE_COMMITTED;
	uint64_t done;
	int ret;

	switch (msg->type) {
	case WIRE_SHADOW:
		return shadow(take, msg);
	case WIRE_FDS_MORE:
		return more_fds(take, msg);
	case WIRE_COMMIT:
		return take->phase == FERRY_PHASE_SHADOW ? commit(take, (const void *)msg->payload) : -EPROTO;
	case WIRE_ARRIVED:
		return arrived(take);
	case WIRE_STAGE:
		return ours ? reply(take, WIRE_STAGED, stage_fill(&take->stage, block->src), 0) : -EPROTO;
	case WIRE_PLACE:
		if (!ours)
			return -EPROTO;
		park("take.place");
		ret = stage_place(&take->stage, take->uffd, block->dst, &done);
		return reply(take, WIRE_PLACED, ret, done);
	case WIRE_DONE:
		take->moved = ((const struct wire_done *)(const void *)msg->payload)->moved;
		return ours ? 1 : -EPROTO;
	case WIRE_ABORT:
		memcpy(take->reason, msg->payload, msg->len);
		return -ECANCELED;
	default:
		return -EPROTO;
	}
}

static int listen_once(struct ferry_take *take)
{
	struct pollfd fds[2] = { { .fd = take->sock, .events = POLLIN },
				 { .fd = take->stop_fd, .events = POLLIN } };
	struct wire_msg msg;

	if (poll(fds, 2, -1) < 0)
		return errno == EINTR ? 0 : -errno;
	if (fds[1].revents)
		return -ECANCELED;
	/* Once a message has begun the rest of it must follow. */
	int ret = wire_recv(take->sock, &msg, wire_deadline(take->timeout_ms));
	if (ret)
		return ret == -EPROTONOSUPPORT ? -EPROTO : ret;
	ret = handle(take, &msg);
	wire_msg_free(&msg);
	return ret;
}

/* The giver need not wait for its deadline; it has everything. */
static void say_why(struct ferry_take *take, int error)
{
	pthread_mutex_lock(&take->lock);
	const char *why = take->why;
	pthread_mutex_unlock(&take->lock);
	wire_abort(take->sock, why ? why : strerror(-error));
}

static void *take_thread(void *arg)
{
	struct ferry_take *take = arg;
	int ret = 0;

	while (!ret)
		ret = listen_once(take);
	stage_close(&take->stage);
	/* It may have died between its last page and its last word; where they are it alone knew. */
	if (ret == -EPIPE && take->phase == FERRY_PHASE_COMMITTED && take_has_all(take)) {
		take->moved = true;
		ret = 1;
	}
	if (ret > 0) {
		take_release(take, take->moved);
		/* The giver needs it only to know that it may leave; it has nothing of ours. */
		wire_send(take->sock, WIRE_FINISHED, NULL, 0, NULL, 0, NULL, 0,
			  wire_deadline(take->timeout_ms));
		take_set_phase(take, FERRY_PHASE_DONE);
		return NULL;
	}
	if (take->phase == FERRY_PHASE_COMMITTED)
		ret = -EOWNERDEAD;
	else
		say_why(take, ret);
	take_lose(take, ret);
	pthread_mutex_lock(&take->lock);
	take->error = ret;
	pthread_cond_broadcast(&take->changed);
	pthread_mutex_unlock(&take->lock);
	return NULL;
}

int take_thread_start(struct ferry_take *take)
{
	sigset_t all, old;

	take->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (take->stop_fd < 0)
		return -errno;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int ret = pthread_create(&take->thread, NULL, take_thread, take);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret)
		return -ret;
	pthread_setname_np(take->thread, "ferry-take");
	take->has_thread = true;
	return 0;
}

void take_thread_stop(struct ferry_take *take)
{
	uint64_t one = 1;

	if (!take->has_thread)
		return;
	pthread_mutex_lock(&take->lock);
	take->may_commit = false;
	take->closing = true;
	bool ours = take->phase >= FERRY_PHASE_COMMITTED;
	pthread_mutex_unlock(&take->lock);
	/* Pages are never given up: what is ours is waited for. */
	ssize_t written = ours ? 0 : write(take->stop_fd, &one, sizeof(one));
	(void)written; /* can't fail: the counter is empty */
	pthread_join(take->thread, NULL);
	take->has_thread = false;
}
