// SPDX-License-Identifier: MIT
/* A snapshot of frozen memory: begin, end, and the order in which its blocks come. See snapshot.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/map_lazily.h"
#include "lib/options.h"
#include "lib/snapshot_arm.h"

#define LEARN_STEP  (256ull << 20)
#define CALM_NS     5000000 /* without a fault for so long, large blocks are no trouble */
#define WINDOW_BUSY (256ull << 10)
#define EXTRA_LEAST (16ull << 20)
#define EXTRA_MOST  (256ull << 20)

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void destroy(struct ferry_snapshot *s)
{
	close_fd(&s->target.uffd);
	close_fd(&s->target.pagemap);
	close_fd(&s->target.mem);
	close_fd(&s->stop_fd);
	pool_fini(&s->pool);
	pages_fini(&s->pages);
	rangeset_free(&s->now);
	if (s->window)
		munmap(s->window, SNAPSHOT_WINDOW);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->room);
	munmap(s, sizeof(*s));
}

static struct ferry_snapshot *create(const struct snapshot_target *target)
{
	struct ferry_snapshot *s = map_lazily(sizeof(*s));

	if (!s)
		return NULL;
	s->target = *target;
	s->stop_fd = -1;
	s->report.size = sizeof(s->report);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->room, NULL);
	return s;
}

static uint64_t extra_of(const struct ferry_snapshot *s, const struct ferry_snapshot_opts *opts)
{
	uint64_t part = s->pages.npages * FERRY_PAGE / 64;

	if (opts->max_extra)
		return opts->max_extra;
	return part < EXTRA_LEAST ? EXTRA_LEAST : part > EXTRA_MOST ? EXTRA_MOST : part;
}

static int prepare(struct ferry_snapshot *s, const struct ferry_span *spans, size_t n,
		   const struct ferry_snapshot_opts *opts)
{
	int ret = pages_init(&s->pages, spans, n);

	if (ret)
		return ret;
	/* Every interval, and twice as many again before more memory is needed. */
	if (rangeset_reserve(&s->now, n + 64))
		return -ENOMEM;
	for (size_t i = 0; i < s->pages.n; i++) {
		const struct page_range *r = &s->pages.v[i];
		rangeset_insert(&s->now, (struct range){r->start, r->end, NULL, r->start});
	}
	s->report.total = s->pages.npages * FERRY_PAGE;
	s->window = map_lazily(SNAPSHOT_WINDOW);
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->stop_fd < 0)
		return -errno;
	ret = pool_init(&s->pool, extra_of(s, opts) / FERRY_PAGE * FERRY_PAGE - SNAPSHOT_WINDOW);
	return s->window ? ret : -ENOMEM;
}

int snapshot_arm(struct ferry_snapshot **out, const struct snapshot_target *target,
		 const struct ferry_span *spans, size_t n, const struct ferry_snapshot_opts *opts)
{
	struct ferry_snapshot *s = create(target);
	int64_t begin = clock_ns();

	if (!s) {
		close(target->uffd);
		close(target->pagemap);
		close(target->mem);
		return -ENOMEM;
	}
	int ret = prepare(s, spans, n, opts);
	if (!ret)
		ret = snapshot_protect(&s->pages, s->target.uffd, opts->threads);
	if (ret) {
		destroy(s);
		return ret;
	}
	s->report.arm_ns = (uint64_t)(clock_ns() - begin);
	*out = s;
	return 0;
}

int snapshot_serve(struct ferry_snapshot *s)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	int ret = pthread_create(&s->thread, NULL, snapshot_thread, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	s->serving = !ret;
	return -ret;
}

static void kick(struct ferry_snapshot *s)
{
	uint64_t one = 1;
	ssize_t ignored = write(s->stop_fd, &one, sizeof(one));

	(void)ignored;
}

/* Everything is saved, or nothing more can be: let go of the memory. */
static void release(struct ferry_snapshot *s)
{
	if (s->released)
		return;
	s->released = true;
	pthread_mutex_lock(&s->lock);
	s->stopping = true;
	pthread_cond_broadcast(&s->room);
	kick(s);
	pthread_mutex_unlock(&s->lock);
	if (s->serving)
		pthread_join(s->thread, NULL);
	/* The kernel takes what is left of the protection away, and wakes who waits. */
	close_fd(&s->target.uffd);
}

/* ---- this process */

static int open_own(struct snapshot_target *t)
{
	uint64_t features = SNAPSHOT_FEATURES;

	*t = (struct snapshot_target){.uffd = -1, .pagemap = -1, .mem = -1, .pid = getpid()};
	t->uffd = uffd_open_best(&features, FERRY_UFFD_KERNEL_FAULTS);
	if (t->uffd < 0)
		return t->uffd;
	t->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int ret = t->pagemap < 0 ? -errno : snapshot_can_scan(t->pagemap);
	if (!ret) {
		t->mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
		ret = t->mem < 0 ? -errno : 0;
	}
	if (!ret)
		return 0;
	close_fd(&t->uffd);
	close_fd(&t->pagemap);
	return ret;
}

static int check_opts(struct ferry_snapshot_opts *mine, const struct ferry_snapshot_opts *user)
{
	*mine = (struct ferry_snapshot_opts)FERRY_SNAPSHOT_OPTS_INIT;
	int ret = options_copy(mine, sizeof(*mine), user);

	if (ret)
		return ret;
	if (mine->flags || (mine->max_extra && mine->max_extra < FERRY_SNAPSHOT_EXTRA_MIN))
		return -EINVAL;
	return mine->max_extra > SIZE_MAX / 2 ? -EINVAL : 0;
}

int ferry_snapshot_begin(struct ferry_snapshot **out, const struct ferry_span *spans, size_t n,
			 const struct ferry_snapshot_opts *user)
{
	struct ferry_snapshot_opts opts;
	struct snapshot_target target;
	int ret = check_opts(&opts, user);

	*out = NULL;
	if (!ret)
		ret = snapshot_check_own(spans, n);
	if (!ret)
		ret = open_own(&target);
	if (!ret)
		ret = snapshot_arm(out, &target, spans, n, &opts);
	if (ret)
		return ret;
	ret = snapshot_serve(*out);
	if (ret) {
		destroy(*out);
		*out = NULL;
	}
	return ret;
}

void ferry_snapshot_end(struct ferry_snapshot *s)
{
	if (!s)
		return;
	release(s);
	destroy(s);
}

/* ---- block by block */

static int give(struct ferry_block *user, uint32_t kind, const struct ferry_span *span,
		const char *data)
{
	struct ferry_block block = {.size = sizeof(block),
				    .kind = kind,
				    .addr = span->addr,
				    .len = span->len,
				    .data = data};
	options_report(user, &block, sizeof(block));
	return 1;
}

/* What was given out last is free again, and somebody may wait for it. */
static void take_back(struct ferry_snapshot *s)
{
	if (s->holding) {
		pool_drop(&s->pool);
		pthread_cond_signal(&s->room);
		if (s->npending)
			kick(s);
	}
	s->holding = false;
}

static int give_saved(struct ferry_snapshot *s, struct ferry_block *block)
{
	const struct saved *saved = pool_oldest(&s->pool);
	struct ferry_span span = {saved->addr, saved->len};

	s->holding = true;
	s->report.data += saved->len;
	return give(block, FERRY_BLOCK_DATA, &span, s->pool.mem + saved->at);
}

static int give_run(struct ferry_snapshot *s, struct ferry_block *block)
{
	const struct snapshot_run *run = &s->runs[s->run++];

	s->report.data += run->span.len;
	return give(block, FERRY_BLOCK_DATA, &run->span, run->data);
}

static uint64_t end_of(const struct ferry_snapshot *s)
{
	return s->pages.v[s->pages.n - 1].end;
}

static int learn_more(struct ferry_snapshot *s)
{
	const struct page_range *r = pages_range(&s->pages, s->learned);

	if (s->learned < r->start)
		s->learned = r->start;
	uint64_t to = r->end - s->learned > LEARN_STEP ? s->learned + LEARN_STEP : r->end;
	int ret = snapshot_learn(s, s->learned, to);
	if (!ret)
		s->learned = to;
	return ret;
}

/* The window that begins at @from: aligned where the pages are now, for the huge ones. */
static uint64_t window_end(const struct ferry_snapshot *s, uint64_t from, uint64_t now,
			   uint64_t len)
{
	bool calm = clock_ns() - s->last_fault_ns > CALM_NS;
	uint64_t size = calm || pages_is_huge(&s->pages, from) ? SNAPSHOT_WINDOW : WINDOW_BUSY;
	uint64_t most = (now / size + 1) * size - now;

	return from + (most < len ? most : len);
}

#define STEP_OVER 2 /* there is nothing more to save */

/* Save the next window. 0, STEP_OVER or -errno. */
static int save_more(struct ferry_snapshot *s)
{
	uint64_t now, len;
	struct ferry_span run;

	if (!pages_next(&s->pages, PAGES_TODO, s->bulk, end_of(s), &run))
		return STEP_OVER;
	s->bulk = run.addr;
	if (!snapshot_where(s, run.addr, &now, &len))
		return -EFAULT;
	s->run = 0;
	s->leave = s->keep;
	int ret = snapshot_take(s, run.addr, window_end(s, run.addr, now, len), s->window, s->runs,
				&s->nruns);
	s->leave = false;
	return ret;
}

/* A step towards the next block. 0, STEP_OVER or -errno. */
static int step(struct ferry_snapshot *s)
{
	s->nruns = s->run = 0;
	int ret = s->learned < end_of(s) ? learn_more(s) : save_more(s);
	if (ret != -EAGAIN)
		return ret;
	/* An event is in the way: let it be read. */
	pthread_mutex_unlock(&s->lock);
	usleep(50);
	pthread_mutex_lock(&s->lock);
	return 0;
}

/* 1: a block; 0: there are no more. Lost ones first: the sooner it is known the better. */
static int give_rest(struct ferry_snapshot *s, struct ferry_block *block)
{
	struct ferry_span run;

	if (pages_next(&s->pages, PAGES_LOST, s->told_lost, end_of(s), &run)) {
		s->told_lost = run.addr + run.len;
		return give(block, FERRY_BLOCK_LOST, &run, NULL);
	}
	s->told_lost = end_of(s);
	if (!pages_next_without(&s->pages, PAGES_HAD, s->told_zero, end_of(s), &run))
		return 0;
	s->told_zero = run.addr + run.len;
	s->report.zero += run.len;
	return give(block, FERRY_BLOCK_ZERO, &run, NULL);
}

/* As ferry_snapshot_next; STEP_OVER: all is saved and given out. */
static int next(struct ferry_snapshot *s, struct ferry_block *block)
{
	int ret = 0;

	take_back(s);
	s->iterator = (uint32_t)gettid();
	while (!ret && !s->error) {
		if (pool_oldest(&s->pool))
			return give_saved(s, block);
		if (s->run < s->nruns)
			return give_run(s, block);
		ret = step(s);
	}
	if (ret < 0)
		s->error = ret;
	return s->error ? s->error : ret;
}

int ferry_snapshot_next(struct ferry_snapshot *s, struct ferry_block *block)
{
	if (block->size <= sizeof(block->size))
		return -EINVAL;
	if (!s->released) {
		pthread_mutex_lock(&s->lock);
		int ret = next(s, block);
		pthread_mutex_unlock(&s->lock);
		if (ret != STEP_OVER)
			return ret;
		if (!s->keep)
			release(s);
	}
	pthread_mutex_lock(&s->lock);
	/* Until it ended, the serving thread may have put some more there. */
	take_back(s);
	int ret = s->error                ? s->error
		  : pool_oldest(&s->pool) ? give_saved(s, block)
					  : give_rest(s, block);
	pthread_mutex_unlock(&s->lock);
	return ret;
}

int ferry_snapshot_report(struct ferry_snapshot *s, struct ferry_snapshot_report *report)
{
	pthread_mutex_lock(&s->lock);
	s->report.lost = s->pages.count[PAGES_LOST] * FERRY_PAGE;
	s->report.left = s->pages.count[PAGES_TODO] * FERRY_PAGE;
	s->report.extra_peak = s->pool.peak + SNAPSHOT_WINDOW;
	struct ferry_snapshot_report mine = s->report;
	pthread_mutex_unlock(&s->lock);
	return options_report(report, &mine, sizeof(mine));
}
