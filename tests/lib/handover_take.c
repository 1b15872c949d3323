// SPDX-License-Identifier: MIT
/* The taking side, see handover.h. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/lib/handover.h"

/* ---- threads of the taker's program */

struct worker {
	pthread_t thread;
	struct taker *taker;
	uint64_t seed;
	const char *page;
	unsigned int part;
	size_t index;
};

/* Touches every page, in an order of its own, while others are on their way. */
static void *touch_pages(void *arg)
{
	struct worker *w = arg;
	const struct plan *plan = w->taker->plan;

	for (unsigned int part = 0; part < plan->nparts; part++) {
		size_t n = plan->parts[part].npages;
		size_t at = next_random(&w->seed) % n;
		for (size_t i = 0; i < n; i++) {
			at = (at + 1 + (i % 16 ? 0 : next_random(&w->seed) % n)) % n;
			check(page_right(plan, part, at, w->taker->mem[part] + at * PAGE));
		}
	}
	return NULL;
}

/* A page with data, since a wrong zero can be told from it. */
static void choose_page(struct worker *w, unsigned int nth)
{
	const struct plan *plan = w->taker->plan;

	w->part = nth % plan->nparts;
	w->index = nth * 13ul % plan->parts[w->part].npages;
	while (page_kind(plan, w->part, w->index) != KIND_DATA)
		w->index = (w->index + 1) % plan->parts[w->part].npages;
	w->page = w->taker->mem[w->part] + w->index * PAGE;
}

/* Waits for one page from the first moment on: it comes, or the thread gets SIGBUS. */
static void *wait_for_page(void *arg)
{
	struct worker *w = arg;
	struct outcome *out = w->taker->plan->out;
	uint64_t value;

	out->waiting++;
	int sig = peek(w->page, &value);
	if (sig == SIGBUS)
		out->woken_by_bus++;
	else
		check_equal(sig, 0);
	if (!sig)
		check(page_right(w->taker->plan, w->part, w->index, w->page));
	return NULL;
}

static void start_waiters(struct taker *t, struct worker *w)
{
	for (unsigned int i = 0; i < t->plan->waiters; i++) {
		w[i].taker = t;
		choose_page(&w[i], i);
		check_equal(pthread_create(&w[i].thread, NULL, wait_for_page, &w[i]), 0);
	}
}

/* ---- calls */

static void lost(void *arg, int error, uint64_t left)
{
	struct outcome *out = arg;

	out->lost_error = error;
	out->lost_left = left;
	out->lost_calls++;
}

static void check_offer(const struct taker *t)
{
	const struct ferry_offer *offer = ferry_take_offer(t->take);
	const struct plan *plan = t->plan;

	check_equal(offer->nranges, plan->nparts);
	check_equal(offer->blob_len, plan->blob_len);
	for (size_t i = 0; i < plan->blob_len; i++)
		check(((const char *)offer->blob)[i] == (char)(i * 7));
	for (unsigned int i = 0; i < plan->nparts; i++) {
		check_equal(offer->ranges[i].id, 100 + i);
		check_equal(offer->ranges[i].len, plan->parts[i].npages * PAGE);
		check_equal(offer->ranges[i].flags, plan->parts[i].flags);
	}
}

static int take_map(struct taker *t)
{
	const struct ferry_offer *offer = ferry_take_offer(t->take);
	int ret = 0;

	for (unsigned int i = 0; !ret && i < t->plan->nparts; i++) {
		const struct part *p = &t->plan->parts[i];
		size_t len = p->npages * PAGE;
		t->mem[i] = map_memory(len, p->skip + t->plan->taker_skip);
		if (p->huge)
			check_equal(madvise(t->mem[i], len, MADV_HUGEPAGE), 0);
		if (p->flags & FERRY_RANGE_SHARED)
			check(mmap(t->mem[i], len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
				   offer->ranges[i].fd,
				   (off_t)offer->ranges[i].fd_offset) != MAP_FAILED);
		ret = ferry_take_map(t->take, i, t->mem[i]);
	}
	return ret;
}

static void check_fds(struct taker *t)
{
	check_equal(t->nfds, t->plan->nfds);
	for (unsigned int i = 0; i < t->nfds; i++) {
		unsigned int number;
		check_equal(fcntl(t->fds[i], F_GETFD), FD_CLOEXEC);
		check_equal(read(t->fds[i], &number, sizeof(number)), sizeof(number));
		check_equal(number, i);
		close(t->fds[i]);
	}
}

static int take_to_commit(struct taker *t, int sock, struct worker *waiters)
{
	struct outcome *out = t->plan->out;
	struct ferry_take_opts opts = FERRY_TAKE_OPTS_INIT;

	opts.timeout_ms = t->plan->take_timeout;
	opts.lost = lost;
	opts.arg = out;
	out->take_call = CALL_OPEN;
	int ret = ferry_take_open(&t->take, sock, &opts);
	if (ret)
		return ret;
	check_offer(t);
	out->take_call = CALL_MAP;
	ret = take_map(t);
	if (ret)
		return ret;
	start_waiters(t, waiters);
	out->take_call = CALL_ATTACH;
	ret = ferry_take_attach(t->take);
	if (ret)
		return ret;
	out->take_call = CALL_SHADOW;
	ret = ferry_take_shadow(t->take, &t->fds, &t->nfds);
	if (ret)
		return ret;
	check_fds(t);
	if (t->plan->in_shadow)
		t->plan->in_shadow(t);
	if (t->plan->refuse)
		return -ECANCELED;
	out->take_call = CALL_COMMIT;
	return ferry_take_commit(t->take);
}

static int take_rest(struct taker *t)
{
	struct worker touchers[2];
	unsigned int n = t->plan->idle ? 0 : COUNT(touchers);

	t->plan->out->take_call = CALL_DONE;
	for (unsigned int i = 0; i < n; i++) {
		touchers[i] = (struct worker){.taker = t, .seed = 5 + i};
		check_equal(pthread_create(&touchers[i].thread, NULL, touch_pages, &touchers[i]),
			    0);
	}
	if (t->plan->after_commit)
		t->plan->after_commit(t);
	int ret = ferry_take_done(t->take, -1);
	for (unsigned int i = 0; i < n; i++)
		pthread_join(touchers[i].thread, NULL);
	if (!ret)
		t->plan->out->take_call = CALL_CLOSE;
	return ret;
}

/* ---- the end */

static void check_all(const struct taker *t)
{
	for (unsigned int part = 0; part < t->plan->nparts; part++)
		for (size_t i = 0; i < t->plan->parts[part].npages; i++)
			check(page_right(t->plan, part, i, t->mem[part] + i * PAGE));
	t->plan->out->take_checked = true;
}

/* Nothing is watched any more: new pages come by themselves, and children get the memory. */
static void check_plain(const struct taker *t)
{
	for (unsigned int i = 0; i < t->plan->nparts; i++) {
		const struct part *p = &t->plan->parts[i];
		size_t len = p->npages * PAGE;
		check(!smaps_flag(t->mem[i], len, "um"));
		check(!smaps_flag(t->mem[i], len, "ui"));
		check_equal(smaps_flag(t->mem[i], len, "dc"),
			    (p->flags & FERRY_RANGE_DONTFORK) != 0);
		check_equal(smaps_flag(t->mem[i], len, "mg"),
			    (p->flags & FERRY_RANGE_MERGEABLE) != 0);
	}
}

/* After a failure: a page is right or it is SIGBUS, and never a zero that was not there. */
static void count_what_is_left(const struct taker *t)
{
	struct outcome *out = t->plan->out;

	for (unsigned int part = 0; part < t->plan->nparts; part++) {
		for (size_t i = 0; t->mem[part] && i < t->plan->parts[part].npages; i++) {
			uint64_t value;
			char *page = t->mem[part] + i * PAGE;
			int sig = peek(page, &value);
			if (sig) {
				check_equal(sig, SIGBUS);
				out->take_poisoned++;
				continue;
			}
			check(page_right(t->plan, part, i, page));
			out->take_right++;
		}
	}
}

int taker_run(const struct plan *plan, int sock)
{
	struct taker t = {.plan = plan};
	struct worker waiters[8] = {{0}};
	struct outcome *out = plan->out;
	unsigned int fds = count_fds() - 1;

	check(plan->waiters <= COUNT(waiters));
	if (plan->take_park)
		setenv("PAGEFERRY_PARK", plan->take_park, 1);
	int ret = take_to_commit(&t, sock, waiters);
	if (!ret)
		ret = take_rest(&t);
	bool mapped = out->take_call > CALL_MAP;
	/* Our own deadline has passed: the pages are given up when we close. */
	bool later = ret == -ETIMEDOUT || out->take_call == CALL_ATTACH || plan->refuse;
	if (t.take)
		snprintf(out->reason, sizeof(out->reason), "%s", ferry_take_reason(t.take));
	if (ret) {
		if (mapped && !later)
			count_what_is_left(&t);
		ferry_take_abort(t.take, plan->refuse);
		if (mapped && later)
			count_what_is_left(&t);
	} else {
		if (plan->own_check)
			plan->after_done(&t);
		else
			check_all(&t);
		if (!plan->own_check && plan->after_done)
			plan->after_done(&t);
		if (!plan->own_check)
			check_plain(&t);
		ferry_take_close(t.take);
	}
	for (unsigned int i = 0; mapped && i < plan->waiters; i++)
		pthread_join(waiters[i].thread, NULL);
	out->take_ret = ret;
	check_equal(count_fds(), fds);
	return 0;
}
