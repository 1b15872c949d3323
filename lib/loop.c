// SPDX-License-Identifier: MIT
/*
 * Poll, drain, dispatch. In one round all messages of a process are read, then the events are
 * applied, then the faults are resolved: an event that is still queued makes every resolving ioctl
 * fail with EAGAIN, and a fault must never be answered from a state that an event has ended.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/loop.h"
#include "lib/options.h"
#include "lib/park.h"
#include "lib/clock.h"

#define BATCH 32

int ferry_loop_new(struct ferry_loop **out, const struct ferry_loop_opts *user)
{
	struct ferry_loop_opts opts = FERRY_LOOP_OPTS_INIT;
	int ret = options_copy(&opts, sizeof(opts), user);

	if (ret)
		return ret;
	if (opts.flags)
		return -EINVAL;
	struct ferry_loop *loop = calloc(1, sizeof(*loop));
	if (!loop)
		return -ENOMEM;
	loop->module = -1;
	ret = placement_init(&loop->placement, opts.cpu);
	if (!ret) {
		loop->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (loop->stop_fd < 0)
			ret = -errno;
	}
	if (ret) {
		free(loop);
		return ret;
	}
	*out = loop;
	return 0;
}

void ferry_loop_free(struct ferry_loop *loop)
{
	if (!loop)
		return;
	placement_leave(&loop->placement);
	for (size_t i = 0; i < loop->nspaces; i++) {
		space_fini(loop->spaces[i]);
		free(loop->spaces[i]);
	}
	if (loop->child)
		space_fini(loop->child);
	free(loop->child);
	free(loop->spaces);
	free(loop->fds);
	close(loop->stop_fd);
	free(loop);
}

struct space *loop_space(const struct ferry_loop *loop, int uffd)
{
	for (size_t i = 0; i < loop->nspaces; i++)
		if (loop->spaces[i]->uffd == uffd)
			return loop->spaces[i];
	return NULL;
}

static int reserve_spaces(struct ferry_loop *loop)
{
	size_t cap = loop->cap_spaces * 2 + 4;

	if (loop->nspaces < loop->cap_spaces)
		return 0;
	struct space **v = reallocarray(loop->spaces, cap, sizeof(struct space *));
	if (!v)
		return -ENOMEM;
	loop->spaces = v;
	loop->cap_spaces = cap;
	return 0;
}

static struct space *new_space(void)
{
	struct space *space = reallocarray(NULL, 1, sizeof(*space));
	if (space)
		space_init(space, -1, false);
	return space;
}

/* A read that blocks would hold up every other process's faults. */
static int set_nonblock(int uffd)
{
	int flags = fcntl(uffd, F_GETFL);
	return flags < 0 || fcntl(uffd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

static int add_space(struct ferry_loop *loop, int uffd, struct space **out)
{
	/*
	 * It may come from another process. A message from anything but the kernel could name any
	 * descriptor of ours as that of a child.
	 */
	if (!uffd_is(uffd))
		return -EINVAL;
	int ret = set_nonblock(uffd);
	if (ret)
		return ret;
	if (reserve_spaces(loop))
		return -ENOMEM;
	struct space *space = new_space();
	if (!space)
		return -ENOMEM;
	space->uffd = uffd;
	space->forks = uffd_tells_forks(uffd);
	loop->spaces[loop->nspaces++] = space;
	*out = space;
	return 0;
}

void loop_add_child(struct ferry_loop *loop, const struct space *parent, int uffd)
{
	struct space *child = loop->child;

	loop->child = NULL;
	child->uffd = uffd;
	child->owned = child->forks = true;
	set_nonblock(uffd);
	rangeset_clone(&child->regions, &parent->regions);
	loop->spaces[loop->nspaces++] = child;
}

static int reserve_child(struct ferry_loop *loop, const struct space *parent)
{
	if (!loop->child)
		loop->child = new_space();
	if (!loop->child || reserve_spaces(loop))
		return -ENOMEM;
	return rangeset_reserve_clone(&loop->child->regions, &parent->regions);
}

/* What @n messages may need, whatever they are. */
static int reserve_for(struct ferry_loop *loop, struct space *space, size_t n)
{
	int ret = rangeset_reserve(&space->regions, n);
	return !ret && space->forks ? reserve_child(loop, space) : ret;
}

int ferry_loop_watch(struct ferry_loop *loop, int uffd, uint64_t addr, uint64_t len,
		     struct ferry_source *src, uint64_t offset)
{
	if (!range_valid(addr, len) || offset % FERRY_PAGE || offset + len < offset || !src)
		return -EINVAL;
	struct space *space = loop_space(loop, uffd);
	if (!space) {
		int ret = add_space(loop, uffd, &space);
		if (ret)
			return ret;
	}
	return rangeset_insert(&space->regions, (struct range){ addr, addr + len, src, offset });
}

static void count(struct ferry_loop *loop, enum resolved r, bool poison)
{
	switch (r) {
	case RESOLVED_INSTALLED:
		if (poison)
			loop->stats.poisoned++;
		else
			loop->stats.installed++;
		break;
	case RESOLVED_ALREADY:
		loop->stats.already++;
		break;
	case RESOLVED_DEFERRED:
		loop->stats.deferred++;
		break;
	default:
		loop->stats.discarded++;
	}
}

/* The source can't say, or the kernel can't do: SIGBUS is better than a wrong page or a hang. */
static int give_up(struct ferry_loop *loop, struct space *space, const struct ferry_fault *fault,
		   int why)
{
	struct ferry_answer poison = { .kind = FERRY_ANSWER_POISON };
	struct resolve_at at = { .uffd = space->uffd, .module = -1 };
	uint64_t done;
	int error;

	switch (resolve(at, fault, &poison, &done, &error)) {
	case RESOLVED_INSTALLED:
		loop->stats.poisoned++;
		return 0;
	case RESOLVED_DEFERRED:
		space_defer(space, fault, false);
		return 0;
	case RESOLVED_FAILED:
		return why;
	default:
		return 0;
	}
}

static int resolve_fault(struct ferry_loop *loop, struct space *space, struct ferry_fault fault)
{
	const struct range *r = rangeset_find(&space->regions, fault.addr);
	/*
	 * A registered page that nobody watches: the program made the range longer with mremap, and
	 * what it added is empty.
	 */
	struct ferry_source *src = r ? r->src : ferry_source_zero();
	uint64_t start = r ? r->start : fault.addr, end = r ? r->end : fault.addr + FERRY_PAGE;
	struct ferry_answer answer = { 0 };
	uint64_t done;
	int error;

	fault.offset = (r ? r->offset : 0) + (fault.addr - start);
	fault.left = end - fault.addr;
	int ret = src->answer(src, &fault, &answer);
	if (ret < 0)
		return give_up(loop, space, &fault, ret);
	if (answer.kind == FERRY_ANSWER_LATER) {
		loop->stats.deferred++;
		space_defer(space, &fault, true);
		return 0;
	}
	answer.len = answer.len < FERRY_PAGE ? FERRY_PAGE : answer.len / FERRY_PAGE * FERRY_PAGE;
	if (answer.len > fault.left)
		answer.len = fault.left;
	park("loop.resolve");
	struct resolve_at at = { .uffd = space->uffd, .module = loop->module, .refusals = loop->refusals };
	enum resolved res = resolve(at, &fault, &answer, &done, &error);
	loop->resolved = answer.kind;
	bool poison = answer.kind == FERRY_ANSWER_POISON;
	count(loop, res, poison);
	if (res == RESOLVED_INSTALLED && !poison && src->installed)
		src->installed(src, fault.offset, done);
	if (res == RESOLVED_DEFERRED)
		space_defer(space, &fault, false);
	if (res == RESOLVED_GONE)
		space->gone = true;
	if (res == RESOLVED_FAILED)
		return give_up(loop, space, &fault, error);
	return 0;
}

static struct ferry_fault fault_of(const struct uffd_msg *msg)
{
	uint64_t flags = msg->arg.pagefault.flags;

	return (struct ferry_fault){
		.addr = msg->arg.pagefault.address & ~(FERRY_PAGE - 1),
		.kind = flags & UFFD_PAGEFAULT_FLAG_WP	    ? FERRY_FAULT_WP
			: flags & UFFD_PAGEFAULT_FLAG_MINOR ? FERRY_FAULT_MINOR
							    : FERRY_FAULT_MISSING,
		.tid = msg->arg.pagefault.feat.ptid,
		.write = flags & UFFD_PAGEFAULT_FLAG_WRITE,
	};
}

static int retry_deferred(struct ferry_loop *loop, struct space *space)
{
	struct deferred *v = space->deferred;
	size_t n = space->ndeferred, cap = space->cap_deferred;
	int ret = 0;

	/* What is put off again goes into the other list. */
	space->deferred = space->spare;
	space->cap_deferred = space->cap_spare;
	space->ndeferred = 0;
	for (size_t i = 0; i < n; i++) {
		/* After an error the others are kept: their threads still wait. */
		if (ret || (v[i].by_source && !loop->retrying))
			space_defer(space, &v[i].fault, v[i].by_source);
		else
			ret = resolve_fault(loop, space, v[i].fault);
	}
	space->spare = v;
	space->cap_spare = cap;
	return ret;
}

static void follow(struct ferry_loop *loop, struct space *space, const struct uffd_msg *msg)
{
	if (msg->event != UFFD_EVENT_PAGEFAULT) {
		event_apply(loop, space, msg);
		return;
	}
	struct ferry_fault fault = fault_of(msg);
	loop->stats.faults++;
	space_defer(space, &fault, false);
}

/*
 * Read until empty; events take effect at once, in order, faults are collected. Without the memory
 * to follow what may come nothing is read: it waits in the kernel, and nothing is resolved meanwhile.
 */
static int drain(struct ferry_loop *loop, struct space *space)
{
	/* A fork may need as much memory as all there is so far: one at a time. */
	size_t batch = space->forks ? 1 : BATCH;
	struct uffd_msg msgs[BATCH];
	int handled = 0;

	for (;;) {
		int ret = reserve_for(loop, space, batch);
		if (ret)
			return ret;
		ssize_t got = read(space->uffd, msgs, batch * sizeof(msgs[0]));
		if (got < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		size_t n = got < 0 ? 0 : (size_t)got / sizeof(msgs[0]);
		if (n && loop->timed)
			loop->drained_ns = clock_ns();
		for (size_t i = 0; i < n; i++)
			follow(loop, space, &msgs[i]);
		handled += (int)n;
		if (n < batch)
			return handled;
	}
}

static int serve(struct ferry_loop *loop, struct space *space, short revents, bool waited)
{
	int handled = 0;

	if (revents & POLLIN) {
		handled = drain(loop, space);
		if (handled < 0)
			return handled;
		if (waited && space->ndeferred)
			placement_follow(&loop->placement, space->deferred[0].fault.tid);
	} else if (revents & (POLLERR | POLLHUP | POLLNVAL)) {
		space->gone = true;
	}
	int ret = retry_deferred(loop, space);
	return ret ? ret : handled;
}

static int prepare_poll(struct ferry_loop *loop, const struct pollfd *extra, unsigned int n)
{
	size_t want = loop->nspaces + 1 + n;

	if (want > loop->cap_fds) {
		struct pollfd *v = reallocarray(loop->fds, want, sizeof(*v));
		if (!v)
			return -ENOMEM;
		loop->fds = v;
		loop->cap_fds = want;
	}
	for (size_t i = 0; i < loop->nspaces; i++) {
		struct space *s = loop->spaces[i];
		loop->fds[i] = (struct pollfd){ .fd = s->gone ? -1 : s->uffd, .events = POLLIN };
	}
	loop->fds[loop->nspaces] = (struct pollfd){ .fd = loop->stop_fd, .events = POLLIN };
	if (n)
		memcpy(&loop->fds[loop->nspaces + 1], extra, n * sizeof(*extra));
	return 0;
}

/* Children that have exited; the processes that the caller watches stay known as gone. */
static bool sweep(struct ferry_loop *loop)
{
	size_t alive = 0;

	for (size_t i = 0; i < loop->nspaces; i++) {
		struct space *s = loop->spaces[i];
		if (!s->gone) {
			alive++;
		} else if (s->owned) {
			space_fini(s);
			free(s);
			loop->spaces[i--] = loop->spaces[--loop->nspaces];
		}
	}
	return alive != 0;
}

/*
 * A fault that met EAGAIN has no message any more. The event in its way is either still queued,
 * then poll wakes us, or was just read and its thread has yet to pass: look again very soon.
 */
static bool must_look_again(const struct ferry_loop *loop)
{
	for (size_t i = 0; i < loop->nspaces; i++)
		for (size_t j = 0; j < loop->spaces[i]->ndeferred; j++)
			if (!loop->spaces[i]->deferred[j].by_source || loop->retry)
				return true;
	return false;
}

int loop_step(struct ferry_loop *loop, struct pollfd *extra, unsigned int n, int timeout_ms)
{
	int handled = 0;
	bool again = must_look_again(loop);
	int ret = prepare_poll(loop, extra, n);

	if (ret)
		return ret;
	placement_enter(&loop->placement);
	ret = poll(loop->fds, loop->nspaces + 1 + n, again && timeout_ms ? 1 : timeout_ms);
	if (ret < 0 && errno != EINTR)
		return -errno;
	if (ret < 0)
		return 0;
	size_t spaces = loop->nspaces; /* a fork adds to the end, to be polled next time */
	if (n)
		memcpy(extra, &loop->fds[spaces + 1], n * sizeof(*extra));
	if (loop->fds[spaces].revents) {
		uint64_t value;
		if (read(loop->stop_fd, &value, sizeof(value)) < 0 && errno != EAGAIN)
			return -errno;
		loop->stopped = true;
		return 0;
	}
	/* A source may ask for the next retry while it is told of this round's pages. */
	loop->retrying = loop->retry;
	loop->retry = false;
	for (size_t i = 0; (ret > 0 || again) && i < spaces; i++) {
		int done = serve(loop, loop->spaces[i], loop->fds[i].revents, timeout_ms != 0);
		if (done < 0) {
			loop->retry |= loop->retrying;
			return done;
		}
		handled += done;
	}
	return sweep(loop) ? handled : -ESRCH;
}

int ferry_loop_step(struct ferry_loop *loop, int timeout_ms)
{
	return loop_step(loop, NULL, 0, timeout_ms);
}

int ferry_loop_run(struct ferry_loop *loop)
{
	int ret = 0;

	/* A stop that came before us is still in its descriptor. */
	loop->stopped = false;
	while (ret >= 0 && !loop->stopped)
		ret = ferry_loop_step(loop, -1);
	placement_leave(&loop->placement);
	return ret == -ESRCH || ret > 0 ? 0 : ret;
}

void ferry_loop_stop(struct ferry_loop *loop)
{
	uint64_t one = 1;

	/* Fails only when the counter is full, and then a stop is pending anyway. */
	ssize_t ignored = write(loop->stop_fd, &one, sizeof(one));
	(void)ignored;
}

void ferry_loop_retry(struct ferry_loop *loop)
{
	loop->retry = true;
}

int ferry_loop_stats(const struct ferry_loop *loop, struct ferry_loop_stats *stats)
{
	return options_report(stats, &loop->stats, sizeof(loop->stats));
}
