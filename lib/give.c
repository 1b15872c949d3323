// SPDX-License-Identifier: MIT
/* The giving side of a hand-over: its phases and messages. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "include/linux/pageferry.h"
#include "lib/clock.h"
#include "lib/give.h"
#include "lib/module.h"
#include "lib/options.h"
#include "lib/park.h"

#ifndef PR_SET_PTRACER
#define PR_SET_PTRACER 0x59616d61
#endif

#define WAYS_KNOWN ((1u << FERRY_WAYS) - 1)
#define GIVE_FLAGS (FERRY_GIVE_STRICT | FERRY_GIVE_TABLES)

/* ---- open: offer */

static int check_options(const struct ferry_give_opts *opts)
{
	/* ZERO, COPY and CONTINUE are what a single page goes by; only the ways beside them differ. */
	uint32_t useful = FERRY_WAY_BIT(FERRY_WAY_COPY) | FERRY_WAY_BIT(FERRY_WAY_STAGE) |
			  FERRY_WAY_BIT(FERRY_WAY_CONTINUE) | FERRY_WAY_BIT(FERRY_WAY_MODULE);

	if ((opts->flags & ~GIVE_FLAGS) || (opts->ways & ~WAYS_KNOWN))
		return -EINVAL;
	return opts->ways && !(opts->ways & useful) ? -EOPNOTSUPP : 0;
}

static int copy_ranges(struct ferry_give *give, const struct ferry_offer *offer)
{
	give->ranges = calloc(offer->nranges, sizeof(*give->ranges));
	if (!give->ranges)
		return -ENOMEM;
	for (unsigned int i = 0; i < offer->nranges; i++) {
		give->nranges = i + 1;
		int ret = give_range_init(&give->ranges[i], give, &offer->ranges[i]);
		if (ret)
			return ret;
		give->report.total += offer->ranges[i].len;
	}
	return 0;
}

/* Build the message and let the receiver's own check judge it: a bad range is found here. */
static int build_offer(struct ferry_give *give, const struct ferry_offer *offer, struct wire_msg *msg)
{
	struct wire_offer head = { offer->nranges, (uint32_t)offer->blob_len,
				   (uintptr_t)give->token, { 0 } };
	size_t ranges_len = offer->nranges * sizeof(struct wire_range);

	msg->type = WIRE_OFFER;
	msg->len = (uint32_t)(sizeof(head) + ranges_len + offer->blob_len);
	msg->payload = calloc(1, msg->len + 1);
	if (!msg->payload)
		return -ENOMEM;
	memcpy(head.token, give->token, sizeof(head.token));
	memcpy(msg->payload, &head, sizeof(head));
	struct wire_range *out = (void *)(msg->payload + sizeof(head));
	for (unsigned int i = 0; i < offer->nranges; i++) {
		const struct ferry_range *r = &offer->ranges[i];
		bool shared = r->flags & FERRY_RANGE_SHARED;
		out[i] = (struct wire_range){ r->addr, r->len, r->id, shared ? r->fd_offset : 0,
					      r->flags, 0 };
		if (shared && msg->nfds == WIRE_FDS)
			return -E2BIG;
		if (shared)
			msg->fds[msg->nfds++] = r->fd;
	}
	if (offer->blob_len)
		memcpy(msg->payload + sizeof(head) + ranges_len, offer->blob, offer->blob_len);
	return wire_check_payload(msg) ? -EINVAL : 0;
}

static int send_offer(struct ferry_give *give, const struct ferry_offer *offer)
{
	struct wire_msg msg = { 0 };

	if (getrandom(give->token, sizeof(give->token), 0) != sizeof(give->token))
		return -EIO;
	int ret = build_offer(give, offer, &msg);
	if (!ret)
		ret = wire_send(give->sock, WIRE_OFFER, msg.payload, msg.len, NULL, 0, msg.fds,
				msg.nfds, give_deadline(give));
	free(msg.payload); /* the descriptors in it are the caller's */
	return ret;
}

/* The taker speaks first, so that we know who it is and can let it read our memory, and only it. */
static int meet(struct ferry_give *give)
{
	struct wire_msg msg;

	int ret = wire_prepare(give->sock);
	if (!ret)
		ret = wire_recv(give->sock, &msg, give_deadline(give));
	if (ret)
		return ret == -EPROTONOSUPPORT ? -EPROTO : ret;
	if (msg.type != WIRE_HELLO)
		ret = -EPROTO;
	give->peer = msg.pid;
	wire_msg_free(&msg);
	/* Matters only under Yama; elsewhere the call doesn't exist and nothing needs allowing. */
	if (!ret && give->stage && give->peer > 0)
		give->tracer_set = prctl(PR_SET_PTRACER, (unsigned long)give->peer, 0, 0, 0) == 0;
	return ret;
}

/* Found out now, not by a crash after the commit. MS_ASYNC does nothing but look for holes. */
static bool is_memory(const struct ferry_range *r)
{
	return range_valid(r->addr, r->len) &&
	       msync((void *)(uintptr_t)r->addr, r->len, MS_ASYNC) == 0;
}

static bool has_private(const struct ferry_offer *offer)
{
	for (unsigned int i = 0; i < offer->nranges; i++)
		if (!(offer->ranges[i].flags & FERRY_RANGE_SHARED))
			return true;
	return false;
}

/* Where it is the only way that is wanted it has to be there. */
static int open_module(struct ferry_give *give, const struct ferry_offer *offer, uint32_t ways)
{
	uint32_t others = FERRY_WAY_BIT(FERRY_WAY_COPY) | FERRY_WAY_BIT(FERRY_WAY_STAGE) |
			  FERRY_WAY_BIT(FERRY_WAY_CONTINUE);
	bool only = ways && !(ways & others);

	if (!ways || (ways & FERRY_WAY_BIT(FERRY_WAY_MODULE)))
		give->module = module_open(give->strict ? PAGEFERRY_FEATURE_CHECK : 0);
	if (give->module >= 0)
		return 0;
	give->module = -1;
	return only || (give->strict && has_private(offer)) ? -EOPNOTSUPP : 0;
}

static int give_init(struct ferry_give *give, const struct ferry_offer *offer,
		     const struct ferry_give_opts *opts)
{
	struct ferry_loop_opts loop_opts = { .size = sizeof(loop_opts), .cpu = opts->cpu };

	give->timeout_ms = opts->timeout_ms ? opts->timeout_ms : FERRY_TIMEOUT_MS;
	give->stage = !opts->ways || (opts->ways & FERRY_WAY_BIT(FERRY_WAY_STAGE));
	give->stage_all = opts->ways && !(opts->ways & FERRY_WAY_BIT(FERRY_WAY_COPY)) && give->stage;
	give->strict = opts->flags & FERRY_GIVE_STRICT;
	give->tables = opts->flags & FERRY_GIVE_TABLES;
	int ret = check_options(opts);
	if (ret)
		return ret;
	if (!offer->nranges || offer->nranges > FERRY_RANGES_MAX || offer->blob_len > FERRY_BLOB_MAX ||
	    (offer->blob_len && !offer->blob))
		return -EINVAL;
	for (unsigned int i = 0; i < offer->nranges; i++)
		if (!is_memory(&offer->ranges[i]))
			return -EINVAL;
	ret = open_module(give, offer, opts->ways);
	if (!ret)
		tables_open(give);
	if (!ret)
		ret = copy_ranges(give, offer);
	if (!ret)
		ret = ferry_loop_new(&give->loop, &loop_opts);
	if (!ret) {
		give->loop->timed = true;
		give->loop->module = give->module;
		give->loop->refusals = &give->refusals;
	}
	return ret;
}

int ferry_give_open(struct ferry_give **out, int sock, const struct ferry_offer *offer,
		    const struct ferry_give_opts *user)
{
	struct ferry_give_opts opts = FERRY_GIVE_OPTS_INIT;
	int ret = options_copy(&opts, sizeof(opts), user);
	struct ferry_give *give = calloc(1, sizeof(*give));

	*out = NULL;
	if (!give) {
		close(sock);
		return -ENOMEM;
	}
	give->sock = sock;
	give->uffd = give->own_uffd = give->module = -1;
	give->report.size = sizeof(give->report);
	scan_open(&give->scan);
	if (!ret)
		ret = give_init(give, offer, &opts);
	if (!ret)
		ret = meet(give);
	if (!ret)
		ret = send_offer(give, offer);
	if (ret) {
		ferry_give_close(give, strerror(-ret));
		return ret;
	}
	push_init(give);
	give->due = give_deadline(give);
	park("give.offer");
	*out = give;
	return 0;
}

/* ---- messages of the taker */

static int attached(struct ferry_give *give, struct wire_msg *msg)
{
	const struct wire_attach *attach = (const void *)msg->payload;
	const uint64_t *addrs = (const void *)(attach + 1);

	if (give->phase != FERRY_PHASE_OFFER || give->uffd >= 0 || attach->nranges != give->nranges)
		return -EPROTO;
	give->uffd = msg->fds[0];
	msg->nfds = 0;
	for (unsigned int i = 0; i < give->nranges; i++) {
		struct give_range *gr = &give->ranges[i];
		gr->dst = addrs[i];
		gr->stageable = (gr->dst ^ gr->r.addr) % FERRY_HUGE == 0 &&
				!(gr->r.flags & FERRY_RANGE_SHARED);
		int ret = ferry_loop_watch(give->loop, give->uffd, gr->dst, gr->r.len, &gr->src, 0);
		if (ret)
			return ret == -ENOMEM ? ret : -EPROTO;
	}
	bool can_stage = attach->flags & WIRE_CAN_STAGE;
	if (give->stage_all && !can_stage)
		return -EOPNOTSUPP;
	give->stage = give->stage && can_stage;
	if (give->tables && !(attach->flags & WIRE_TAKES_TABLES)) {
		give->tables = false;
		give->report.why = FERRY_WHY_TAKER;
	}
	give->phase = FERRY_PHASE_ATTACHED;
	park("give.attached");
	return 0;
}

/* Only after the taker's word the memory is its own. */
static int acknowledged(struct ferry_give *give)
{
	if (!give->passed_over)
		return -EPROTO;
	give->phase = FERRY_PHASE_COMMITTED;
	give->committed_at = give->runs_at = give->push.asked_at = clock_ns();
	give->report.shadow_ns = (uint64_t)(give->committed_at - give->shadow_at);
	strict_begin(give);
	merged_begin(give);
	park("give.committed");
	if (give->tables)
		tables_go(give);
	return 0;
}

static void finished(struct ferry_give *give)
{
	give->phase = FERRY_PHASE_DONE;
	give->report.drain_ns = (uint64_t)(clock_ns() - give->committed_at);
}

static int handle(struct ferry_give *give, struct wire_msg *msg)
{
	switch (msg->type) {
	case WIRE_ATTACH:
		return attached(give, msg);
	case WIRE_READY:
		if (give->phase != FERRY_PHASE_SHADOW)
			return -EPROTO;
		give->phase = FERRY_PHASE_READY;
		park("give.ready");
		return 0;
	case WIRE_COMMITTED:
		return give->phase == FERRY_PHASE_READY ? acknowledged(give) : -EPROTO;
	case WIRE_STAGED:
		if (give->push.stage != STAGE_FILLING)
			return -EPROTO;
		push_staged(give, (const void *)msg->payload);
		return 0;
	case WIRE_FINISHED:
		if (give->phase != FERRY_PHASE_COMMITTED || give->pages_left)
			return -EPROTO;
		finished(give);
		return 0;
	case WIRE_ABORT:
		memcpy(give->reason, msg->payload, msg->len + 1);
		return -ECANCELED;
	default:
		return -EPROTO;
	}
}

static int receive(struct ferry_give *give)
{
	struct wire_msg msg;

	int ret = wire_recv(give->sock, &msg, give_deadline(give));
	if (ret)
		return ret == -EPROTONOSUPPORT ? -EPROTO : ret;
	ret = handle(give, &msg);
	wire_msg_free(&msg);
	return ret;
}

/* ---- serving */

/* One round. 0, 1: @wake_fd is readable, or -errno. */
static int give_round(struct ferry_give *give, int wake_fd, bool *busy, int64_t deadline)
{
	struct pollfd fds[2] = { { .fd = give->deaf ? -1 : give->sock, .events = POLLIN },
				 { .fd = wake_fd, .events = POLLIN } };
	bool late = false;
	int timeout = 0;

	if (!*busy && deadline == WIRE_FOREVER) {
		timeout = -1;
	} else if (!*busy) {
		int64_t left = deadline - clock_ns();
		/* Look all the same: it may have been us who were not running. */
		late = left <= 0;
		timeout = late ? 0 : (int)(left / 1000000 + 1);
	} else if (give->push.waits) {
		timeout = 1;
	}
	int ret = loop_step(give->loop, fds, 2, timeout);
	if (ret < 0 && ret != -ESRCH)
		return ret;
	/* A taker that is gone may have said why. */
	if (fds[0].revents)
		return receive(give);
	/* Without an attached taker there is nobody to be gone. */
	if (ret == -ESRCH && give->uffd >= 0)
		return -EPIPE;
	if (fds[1].revents)
		return 1;
	return late ? -ETIMEDOUT : 0;
}

static int send_done(struct ferry_give *give)
{
	const struct ferry_loop_stats *stats = &give->loop->stats;
	struct wire_done done = { .moved = stats->remaps || stats->unmaps };
	int ret = wire_send(give->sock, WIRE_DONE, &done, sizeof(done), NULL, 0, NULL, 0,
			    give_deadline(give));
	/* A taker that we can't hear can't answer; it has everything. */
	if (!ret && give->deaf)
		finished(give);
	return ret;
}

/* Only faults are served, until it is time to push. */
static int settle_round(struct ferry_give *give, int wake_fd)
{
	bool idle = false;
	int ret = give_round(give, wake_fd, &idle, push_not_before(give));

	return ret == -ETIMEDOUT ? 0 : ret;
}

static int drain(struct ferry_give *give, int wake_fd)
{
	bool busy = true;

	while (give->phase != FERRY_PHASE_DONE) {
		bool settling = !give->told && push_settles(give);
		int woken = settling ? settle_round(give, wake_fd)
				     : give_round(give, wake_fd, &busy, WIRE_FOREVER);
		if (woken < 0)
			return woken;
		/* A caller that is woken all the time must not keep the pages from going. */
		int ret = give->told ? 0 : settling ? 1 : push_some(give);
		if (ret < 0)
			return ret;
		busy = ret == 1;
		if (!give->told && !busy && !give->pages_left && give->push.stage == STAGE_IDLE) {
			park("give.all");
			ret = send_done(give);
			if (ret)
				return ret;
			give->told = true;
			park("give.done");
		}
		if (woken)
			return woken;
	}
	return 0;
}

/* Does the next step towards @phase lie with the taker? Then it has a deadline. */
static bool taker_is_due(const struct ferry_give *give, enum ferry_phase phase)
{
	return give->phase == FERRY_PHASE_OFFER ||
	       (give->phase == FERRY_PHASE_SHADOW && phase >= FERRY_PHASE_READY);
}

int ferry_give_wait(struct ferry_give *give, enum ferry_phase phase, int wake_fd)
{
	bool idle = false;
	int64_t deadline = taker_is_due(give, phase) ? give->due : WIRE_FOREVER;

	if (phase >= FERRY_PHASES)
		return -EINVAL;
	if (phase == FERRY_PHASE_DONE && give->phase >= FERRY_PHASE_COMMITTED) {
		int ret = drain(give, wake_fd);
		return !ret && give->strict && give->refusals.pages ? -EBUSY : ret;
	}
	/* What only our own calls can bring needs something else that ends the waiting. */
	if (give->phase < phase && !taker_is_due(give, phase) && wake_fd < 0)
		return -EINVAL;
	while (give->phase < phase) {
		int ret = give_round(give, wake_fd, &idle, deadline);
		if (ret)
			return ret;
	}
	return 0;
}

/* Nothing can be sent to it any more: has it said why? */
static int last_word(struct ferry_give *give, int error)
{
	return error == -EPIPE && receive(give) == -ECANCELED ? -ECANCELED : error;
}

int ferry_give_shadow(struct ferry_give *give, const int *fds, unsigned int nfds)
{
	struct wire_shadow shadow = { .nfds = nfds };

	if (give->phase != FERRY_PHASE_ATTACHED || nfds > FERRY_FDS_MAX || (nfds && !fds))
		return -EINVAL;
	int ret = wire_send(give->sock, WIRE_SHADOW, &shadow, sizeof(shadow), NULL, 0, NULL, 0,
			    give_deadline(give));
	for (unsigned int i = 0; !ret && i < nfds; i += WIRE_FDS) {
		unsigned int n = nfds - i < WIRE_FDS ? nfds - i : WIRE_FDS;
		ret = wire_send(give->sock, WIRE_FDS_MORE, NULL, 0, NULL, 0, fds + i, n,
				give_deadline(give));
	}
	if (ret)
		return last_word(give, ret);
	give->phase = FERRY_PHASE_SHADOW;
	give->shadow_at = clock_ns();
	give->due = give_deadline(give);
	ferry_loop_retry(give->loop);
	park("give.shadow");
	return 0;
}

/*
 * The acknowledgement is late. Shutting our receiving side down decides: what the taker has sent
 * before is still read, and after it the taker's send fails, so that it knows that it has not
 * taken over. The kernel makes the cut atomic; nobody can believe the opposite of the other.
 */
static int last_look(struct ferry_give *give)
{
	shutdown(give->sock, SHUT_RD);
	give->deaf = true;
	give->stage = false;
	while (give->phase == FERRY_PHASE_READY) {
		int ret = receive(give);
		if (ret)
			return ret == -EPIPE ? -ETIMEDOUT : ret;
	}
	return 0;
}

/* Can everything move that is left? The taker is served meanwhile. */
static int check_all(struct ferry_give *give)
{
	struct strict_cursor at = { 0 };
	int64_t deadline = give_deadline(give);
	bool busy = true;
	int ret;

	strict_begin(give);
	while ((ret = strict_step(give, &at)) == 1) {
		ret = give_round(give, -1, &busy, WIRE_FOREVER);
		if (!ret && clock_ns() > deadline)
			ret = -ETIMEDOUT;
		if (ret)
			return ret;
	}
	return ret;
}

int ferry_give_commit(struct ferry_give *give)
{
	bool idle = false;

	if (give->phase != FERRY_PHASE_READY)
		return -EINVAL;
	int ret = give->strict ? check_all(give) : 0;
	if (ret)
		return ret;
	struct wire_commit commit = { .tables = give->tables };
	int64_t deadline = give_deadline(give);
	give->passed_over = true;
	ret = wire_send(give->sock, WIRE_COMMIT, &commit, sizeof(commit), NULL, 0, NULL, 0, deadline);
	if (!ret)
		park("give.commit");
	while (!ret && give->phase == FERRY_PHASE_READY)
		ret = give_round(give, -1, &idle, deadline);
	/*
	 * Whatever went wrong, the taker may have taken over in the same moment: only the cut tells.
	 * With the taker's receiving end gone the memory is its own, and soon nobody's.
	 */
	if (ret && give->phase == FERRY_PHASE_READY) {
		int seen = last_look(give);
		if (!seen || seen == -ECANCELED)
			ret = seen;
	}
	park("give.cut");
	return ret;
}

int ferry_give_report(const struct ferry_give *give, struct ferry_report *report)
{
	struct ferry_report r = give->report;

	r.phase = give->phase;
	r.left = give->pages_left * FERRY_PAGE;
	r.refused = give->refusals.pages * FERRY_PAGE;
	r.fault_p50_ns = hist_permille(&give->latency, 500);
	r.fault_p99_ns = hist_permille(&give->latency, 990);
	r.fault_max_ns = give->latency.max;
	return options_report(report, &r, sizeof(r));
}

const char *ferry_give_reason(const struct ferry_give *give)
{
	return give->reason;
}

void ferry_give_close(struct ferry_give *give, const char *why)
{
	if (!give)
		return;
	if (give->phase < FERRY_PHASE_COMMITTED)
		wire_abort(give->sock, why ? why : "the giver gave up");
	if (give->tracer_set)
		prctl(PR_SET_PTRACER, 0, 0, 0, 0);
	close(give->sock);
	ferry_loop_free(give->loop);
	if (give->uffd >= 0)
		close(give->uffd);
	if (give->module >= 0)
		close(give->module);
	tables_close(give);
	for (unsigned int i = 0; i < give->nranges; i++)
		give_range_fini(&give->ranges[i]);
	free(give->ranges);
	scan_close(&give->scan);
	free(give);
}
