// SPDX-License-Identifier: MIT
/*
 * The thread that serves: a writer that meets a frozen page waits until its block has been put into
 * the pool. How large a block is, it shows by where it writes next.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/snapshot.h"

#define PAGE_SHIFT   12u
#define SHIFT_FIRST  16u /* 64 KiB: where nothing is known of the writer */
#define SHIFT_MAX    21u
#define SHIFT_SCARCE 14u
/* Left for the thread that drains the pool, which must not wait for itself. */
#define SPARE (1u << 20)
/* Left for single pages: one of them is enough for a writer to go on. */
#define SPARE_PART 4

int snapshot_pool(struct ferry_snapshot *s, uint64_t from, uint64_t to, size_t spare)
{
	struct snapshot_run runs[SNAPSHOT_RUNS];
	struct ferry_span todo;
	uint64_t bytes = 0;
	size_t n;

	for (uint64_t at = from; pages_next(&s->pages, PAGES_TODO, at, to, &todo);
	     at = todo.addr + todo.len)
		bytes += todo.len;
	char *room = pool_room(&s->pool, bytes, spare);
	if (!room)
		return -ENOSPC;
	int ret = snapshot_take(s, from, to, room, runs, &n);
	for (size_t i = 0; i < n; i++) {
		pool_add(&s->pool, runs[i].span.addr, runs[i].data, runs[i].span.len);
		s->report.pooled += runs[i].span.len;
	}
	return ret;
}

/* ---- how much at once */

static struct snapshot_stream *stream_of(struct ferry_snapshot *s, uint64_t now)
{
	struct snapshot_stream *oldest = &s->streams[0];

	for (unsigned int i = 0; i < SNAPSHOT_STREAMS; i++) {
		struct snapshot_stream *st = &s->streams[i];
		uint64_t near = st->end - st->start;
		if (st->used && now + near >= st->start && now < st->end + near) {
			if (st->shift < SHIFT_MAX)
				st->shift++;
			return st;
		}
		if (st->used < oldest->used)
			oldest = st;
	}
	oldest->shift = SHIFT_FIRST;
	return oldest;
}

static unsigned int shift_allowed(const struct ferry_snapshot *s)
{
	return s->pool.used > s->pool.size / 2 ? SHIFT_SCARCE : SHIFT_MAX;
}

/* The block around @now, within the interval @r. A part of a huge page would split it. */
static struct ferry_span block_around(struct ferry_snapshot *s, const struct range *r, uint64_t now)
{
	struct snapshot_stream *st = stream_of(s, now);
	unsigned int most = shift_allowed(s), shift = st->shift < most ? st->shift : most;

	if (pages_is_huge(&s->pages, r->offset + (now - r->start)))
		shift = SHIFT_MAX;
	uint64_t start = now >> shift << shift, end = start + (1ull << shift);
	st->start = start < r->start ? r->start : start;
	st->end = end > r->end ? r->end : end;
	st->used = ++s->clock;
	return (struct ferry_span){st->start, st->end - st->start};
}

/* ---- faults */

/* A page that isn't to be saved: it is zero, or the message was overtaken. */
static int pass(struct ferry_snapshot *s, uint64_t now, uint64_t len)
{
	uint64_t done;
	return snapshot_unprotect(s, now, len, &done);
}

static size_t spare_for(const struct ferry_snapshot *s, const struct snapshot_fault *f)
{
	return f->tid && f->tid == s->iterator ? 0 : SPARE;
}

/* Where little room is left only the one page: that may split a huge one, but nobody waits. */
static int save_block(struct ferry_snapshot *s, const struct range *r,
		      const struct snapshot_fault *f)
{
	struct ferry_span block = block_around(s, r, f->addr);
	uint64_t from = r->offset + (block.addr - r->start);
	int ret = snapshot_pool(s, from, from + block.len, s->pool.size / SPARE_PART);

	if (ret == -ENOSPC) {
		from = r->offset + (f->addr - r->start);
		ret = snapshot_pool(s, from, from + FERRY_PAGE, spare_for(s, f));
	}
	return ret;
}

static int learn_around(struct ferry_snapshot *s, const struct range *r, uint64_t now)
{
	uint64_t start = now / FERRY_HUGE * FERRY_HUGE, end = start + FERRY_HUGE;

	start = start < r->start ? r->start : start;
	end = end > r->end ? r->end : end;
	return snapshot_learn(s, r->offset + (start - r->start), r->offset + (end - r->start));
}

/*
 * What lies around a page that isn't to be saved: all of a huge one, as a part would split it, else
 * zero pages that a writer fills one after the other, up to the next page that is to be saved.
 */
static struct ferry_span saved_around(const struct ferry_snapshot *s, const struct range *r,
				      uint64_t now)
{
	uint64_t from = r->offset + (now - r->start), start = now / FERRY_HUGE * FERRY_HUGE;
	uint64_t most = r->end - now < 1u << SHIFT_FIRST ? r->end - now : 1u << SHIFT_FIRST;
	struct ferry_span run;

	if (pages_is_huge(&s->pages, from) && start >= r->start && start + FERRY_HUGE <= r->end &&
	    !pages_next(&s->pages, PAGES_TODO, from - (now - start),
			from - (now - start) + FERRY_HUGE, &run))
		return (struct ferry_span){start, FERRY_HUGE};
	if (pages_next_without(&s->pages, PAGES_TODO, from, from + most, &run) && run.addr == from)
		return (struct ferry_span){now, run.len};
	return (struct ferry_span){now, FERRY_PAGE};
}

/* Returns 0: the thread is awake; -EAGAIN, -ENOSPC: not yet; -ESRCH. */
static int serve_fault(struct ferry_snapshot *s, const struct snapshot_fault *f)
{
	const struct range *r = rangeset_find(&s->now, f->addr);
	int ret = 0;

	if (!r)
		return pass(s, f->addr, FERRY_PAGE);
	uint64_t from = r->offset + (f->addr - r->start);
	if (from >= s->learned)
		ret = learn_around(s, r, f->addr);
	if (ret)
		return ret;
	if (pages_has(&s->pages, PAGES_TODO, from))
		return save_block(s, r, f);
	struct ferry_span around = saved_around(s, r, f->addr);
	return pass(s, around.addr, around.len);
}

static void add_pending(struct ferry_snapshot *s, const struct snapshot_fault *f)
{
	if (s->npending < SNAPSHOT_PENDING)
		s->pending[s->npending++] = *f;
	else
		/* Not forgotten: it faults again. */
		uffd_wake(s->target.uffd, f->addr, FERRY_PAGE);
}

/* Returns whether some are left that wait for an event to pass. */
static bool retry_pending(struct ferry_snapshot *s)
{
	size_t n = s->npending;
	bool blocked = false;

	s->npending = 0;
	for (size_t i = 0; i < n; i++) {
		struct snapshot_fault f = s->pending[i];
		int ret = s->error ? s->error : serve_fault(s, &f);
		if (ret == -EAGAIN || ret == -ENOSPC)
			s->pending[s->npending++] = f;
		else if (ret)
			s->error = ret;
		blocked |= ret == -EAGAIN;
	}
	return blocked;
}

static void take_fault(struct ferry_snapshot *s, const struct uffd_msg *msg)
{
	struct snapshot_fault f = {msg->arg.pagefault.address & ~(FERRY_PAGE - 1),
				   msg->arg.pagefault.feat.ptid};
	int ret;

	s->report.faults++;
	s->last_fault_ns = clock_ns();
	ret = s->error ? s->error : serve_fault(s, &f);
	if (ret == -ENOSPC)
		s->report.throttled++;
	if (ret == -EAGAIN || ret == -ENOSPC)
		add_pending(s, &f);
	else if (ret)
		s->error = ret;
}

/* Whatever it is that comes next; false: nothing more for now. */
static bool serve_one(struct ferry_snapshot *s)
{
	struct uffd_msg msg;

	if (snapshot_blocked(s)) {
		int ret = snapshot_save_doomed(s);
		if (ret == -ENOSPC && !s->stopping) {
			s->report.throttled++;
			pthread_cond_wait(&s->room, &s->lock);
			return true;
		}
		if (ret == -ESRCH)
			s->error = ret;
	}
	/* One event is room for three intervals. Without it, it waits in the kernel. */
	if (rangeset_reserve(&s->now, 1) ||
	    read(s->target.uffd, &msg, sizeof(msg)) != (ssize_t)sizeof(msg))
		return false;
	if (msg.event == UFFD_EVENT_PAGEFAULT)
		take_fault(s, &msg);
	else
		snapshot_event(s, &msg);
	return true;
}

void *snapshot_thread(void *arg)
{
	struct ferry_snapshot *s = arg;
	struct pollfd fds[] = {{.fd = s->target.uffd, .events = POLLIN},
			       {.fd = s->stop_fd, .events = POLLIN}};
	bool soon = false;

	for (;;) {
		poll(fds, 2, soon ? 1 : -1);
		pthread_mutex_lock(&s->lock);
		while (!s->stopping && serve_one(s))
			;
		/* An event that was just read has yet to pass in the kernel: look again very soon.
		 */
		soon = retry_pending(s);
		bool stop = s->stopping;
		if (fds[1].revents && !stop) {
			uint64_t value;
			soon |= read(s->stop_fd, &value, sizeof(value)) < 0 && errno != EAGAIN;
		}
		pthread_mutex_unlock(&s->lock);
		if (stop)
			return NULL;
	}
}
