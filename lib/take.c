// SPDX-License-Identifier: MIT
/* The taking side of a hand-over: its calls. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/options.h"
#include "lib/park.h"
#include "lib/scan.h"
#include "lib/take.h"
#include "lib/uffd.h"

static int64_t take_deadline(const struct ferry_take *take)
{
	return wire_deadline(take->timeout_ms);
}

/* ---- open: the offer */

static int read_offer(struct ferry_take *take)
{
	const struct wire_offer *head = (const void *)take->offer_msg.payload;
	const struct wire_range *in = wire_offer_ranges(&take->offer_msg);
	unsigned int fd = 0;

	take->ranges = calloc(head->nranges, sizeof(*take->ranges));
	take->addrs = calloc(head->nranges, sizeof(*take->addrs));
	if (!take->ranges || !take->addrs)
		return -ENOMEM;
	for (uint32_t i = 0; i < head->nranges; i++) {
		bool is_shared = in[i].flags & FERRY_RANGE_SHARED;
		take->ranges[i] = (struct ferry_range){
			.addr = in[i].addr,
			.len = in[i].len,
			.id = in[i].id,
			.flags = in[i].flags,
			.fd = is_shared ? take->offer_msg.fds[fd++] : -1,
			.fd_offset = in[i].fd_offset,
		};
	}
	take->offer = (struct ferry_offer){ take->ranges, head->nranges,
					    wire_offer_blob(&take->offer_msg), head->blob_len };
	return 0;
}

static int meet(struct ferry_take *take)
{
	int ret = wire_prepare(take->sock);
	if (!ret)
		ret = wire_send(take->sock, WIRE_HELLO, NULL, 0, NULL, 0, NULL, 0,
				take_deadline(take));
	if (!ret)
		ret = wire_recv(take->sock, &take->offer_msg, take_deadline(take));
	if (ret)
		return ret == -EPROTONOSUPPORT ? -EPROTO : ret;
	if (take->offer_msg.type == WIRE_ABORT) {
		memcpy(take->reason, take->offer_msg.payload, take->offer_msg.len);
		return -ECANCELED;
	}
	return take->offer_msg.type == WIRE_OFFER ? read_offer(take) : -EPROTO;
}

/*
 * REMOVE, UNMAP and REMAP, because a range that the program discards or moves while pages are
 * outstanding must not come back. FORK would need a capability; ranges are kept out of children
 * instead (MADV_DONTFORK), where missing pages would silently be zero.
 */
static int open_uffd(struct ferry_take *take)
{
	uint64_t features = UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |
			    UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_THREAD_ID;

	for (unsigned int i = 0; i < take->offer.nranges; i++)
		if (take->ranges[i].flags & FERRY_RANGE_SHARED)
			features |= UFFD_FEATURE_MINOR_SHMEM;
	take->uffd = uffd_open_best(&features, FERRY_UFFD_KERNEL_FAULTS);
	take->features = features;
	return take->uffd < 0 ? take->uffd : 0;
}

int ferry_take_open(struct ferry_take **out, int sock, const struct ferry_take_opts *user)
{
	struct ferry_take_opts opts = FERRY_TAKE_OPTS_INIT;
	int ret = options_copy(&opts, sizeof(opts), user);
	struct ferry_take *take = calloc(1, sizeof(*take));

	*out = NULL;
	if (!take) {
		close(sock);
		return -ENOMEM;
	}
	pthread_mutex_init(&take->lock, NULL);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&take->changed, &attr);
	pthread_condattr_destroy(&attr);
	take->sock = sock;
	take->uffd = take->stop_fd = -1;
	take->timeout_ms = opts.timeout_ms ? opts.timeout_ms : FERRY_TIMEOUT_MS;
	take->lost = opts.lost;
	take->arg = opts.arg;
	take->tables = opts.flags & FERRY_TAKE_TABLES;
	if (!ret && (opts.flags & ~FERRY_TAKE_TABLES))
		ret = -EINVAL;
	if (!ret)
		ret = meet(take);
	if (!ret)
		ret = open_uffd(take);
	if (ret) {
		ferry_take_abort(take, strerror(-ret));
		return ret;
	}
	park("take.offer");
	*out = take;
	return 0;
}

const struct ferry_offer *ferry_take_offer(const struct ferry_take *take)
{
	return &take->offer;
}

const char *ferry_take_reason(const struct ferry_take *take)
{
	/* The thread writes it before it ends, and never again. */
	pthread_mutex_t *lock = (pthread_mutex_t *)(uintptr_t)&take->lock;
	pthread_mutex_lock(lock);
	bool ended = take->error != 0;
	pthread_mutex_unlock(lock);
	return ended ? take->reason : "";
}

/* ---- map and attach */

static bool is_taken(const struct ferry_take *take, uint64_t addr, uint64_t len)
{
	for (unsigned int i = 0; i < take->offer.nranges; i++)
		if (take->addrs[i] && addr < take->addrs[i] + take->ranges[i].len &&
		    take->addrs[i] < addr + len)
			return true;
	return false;
}

int ferry_take_map(struct ferry_take *take, unsigned int i, void *addr)
{
	struct scan scan;
	uint64_t at = (uintptr_t)addr;

	if (i >= take->offer.nranges || !range_valid(at, take->ranges[i].len))
		return -EINVAL;
	if (take->addrs[i])
		return -EALREADY;
	uint64_t len = take->ranges[i].len;
	if (is_taken(take, at, len))
		return -EINVAL;
	bool is_shared = take->ranges[i].flags & FERRY_RANGE_SHARED;
	int ret = uffd_register(take->uffd, at, len,
				is_shared ? UFFDIO_REGISTER_MODE_MINOR : UFFDIO_REGISTER_MODE_MISSING,
				NULL);
	if (ret)
		return ret;
	/* Looked at after registering: nothing can creep in any more. */
	scan_open(&scan);
	if (!is_shared && scan.pagemap >= 0 && scan_holes(&scan, at, len) != len)
		ret = -EEXIST;
	scan_close(&scan);
	if (!ret && madvise(addr, len, MADV_DONTFORK) < 0)
		ret = -errno;
	if (ret)
		uffd_unregister(take->uffd, at, len);
	else
		take->addrs[i] = at;
	return ret;
}

int ferry_take_attach(struct ferry_take *take)
{
	const struct wire_offer *head = (const void *)take->offer_msg.payload;
	struct wire_attach attach = { .nranges = take->offer.nranges };

	if (take->phase != FERRY_PHASE_OFFER)
		return -EINVAL;
	for (unsigned int i = 0; i < take->offer.nranges; i++)
		if (!take->addrs[i])
			return -EINVAL;
	if (!stage_open(&take->stage, take->offer_msg.pid, head->token_addr, head->token, take->features))
		attach.flags |= WIRE_CAN_STAGE;
	if (take->tables)
		attach.flags |= WIRE_TAKES_TABLES;
	int ret = wire_send(take->sock, WIRE_ATTACH, &attach, sizeof(attach), take->addrs,
			    attach.nranges * sizeof(take->addrs[0]), &take->uffd, 1,
			    take_deadline(take));
	if (ret)
		return ret;
	take->phase = FERRY_PHASE_ATTACHED;
	park("take.attach");
	return take_thread_start(take);
}

/* ---- waiting for the giver */

/* With the lock held, as those below. False: the deadline has passed. */
static bool wait_change(struct ferry_take *take, int64_t deadline)
{
	struct timespec until = { deadline / 1000000000, deadline % 1000000000 };

	if (deadline == WIRE_FOREVER)
		return !pthread_cond_wait(&take->changed, &take->lock);
	return !pthread_cond_timedwait(&take->changed, &take->lock, &until);
}

/* Until @phase, an error, or the deadline. */
static int wait_phase(struct ferry_take *take, enum ferry_phase phase, int64_t deadline)
{
	while (take->phase < phase && !take->error)
		if (!wait_change(take, deadline))
			return take->phase < phase && !take->error ? -ETIMEDOUT : take->error;
	return take->phase >= phase ? 0 : take->error;
}

/* It is ours in any case: if the giver takes too long the program may as well begin. */
static void wait_arrival(struct ferry_take *take, int64_t deadline)
{
	while (take->arriving && !take->error && wait_change(take, deadline))
		;
}

int ferry_take_shadow(struct ferry_take *take, const int **fds, unsigned int *nfds)
{
	if (!take->has_thread)
		return -EINVAL;
	pthread_mutex_lock(&take->lock);
	int ret = wait_phase(take, FERRY_PHASE_SHADOW, take_deadline(take));
	pthread_mutex_unlock(&take->lock);
	if (ret)
		return ret;
	park("take.shadow");
	if (fds && nfds) {
		*fds = take->fds;
		*nfds = take->nfds;
		take->nfds = 0; /* they are the caller's now */
	}
	return 0;
}

int ferry_take_commit(struct ferry_take *take)
{
	int64_t deadline = take_deadline(take);

	if (!take->has_thread)
		return -EINVAL;
	pthread_mutex_lock(&take->lock);
	int ret = take->error;
	if (!ret && take->phase != FERRY_PHASE_SHADOW)
		ret = -EINVAL;
	if (!ret) {
		take->may_commit = true;
		ret = wire_send(take->sock, WIRE_READY, NULL, 0, NULL, 0, NULL, 0, deadline);
	}
	if (!ret) {
		park("take.ready");
		ret = wait_phase(take, FERRY_PHASE_COMMITTED, deadline);
	}
	if (!ret)
		wait_arrival(take, deadline);
	/* A COMMIT that comes after this is refused: see commit() in take_thread.c. */
	take->may_commit = false;
	pthread_mutex_unlock(&take->lock);
	return ret;
}

int ferry_take_done(struct ferry_take *take, int timeout_ms)
{
	int64_t deadline = timeout_ms < 0 ? WIRE_FOREVER : wire_deadline((unsigned int)timeout_ms);

	if (!take->has_thread)
		return -EINVAL;
	pthread_mutex_lock(&take->lock);
	int ret = wait_phase(take, FERRY_PHASE_DONE, deadline);
	pthread_mutex_unlock(&take->lock);
	return ret;
}

void ferry_take_close(struct ferry_take *take)
{
	ferry_take_abort(take, NULL);
}

void ferry_take_abort(struct ferry_take *take, const char *why)
{
	if (!take)
		return;
	/* A thread says it by itself, and may be about to do so for a reason of its own. */
	bool silent = !take->has_thread;
	pthread_mutex_lock(&take->lock);
	take->why = why ? why : "the taker gave up";
	pthread_mutex_unlock(&take->lock);
	take_thread_stop(take);
	if (take->uffd >= 0) {
		/* There never was a thread. What is mapped is empty, and nobody will fill it. */
		take->closing = true;
		take_lose(take, -ECANCELED);
	}
	if (silent)
		wire_abort(take->sock, take->why);
	close(take->sock);
	if (take->stop_fd >= 0)
		close(take->stop_fd);
	for (unsigned int i = 0; i < take->nfds; i++)
		close(take->fds[i]);
	free(take->fds);
	stage_close(&take->stage);
	wire_msg_free(&take->offer_msg);
	free(take->ranges);
	free(take->addrs);
	pthread_cond_destroy(&take->changed);
	pthread_mutex_destroy(&take->lock);
	free(take);
}
