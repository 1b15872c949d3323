// SPDX-License-Identifier: MIT
/*
 * How fast is a hand-over of shared memory, until the taker has touched every page?
 *
 * The memory is a memfd, full, mapped by both; a page "goes" by UFFDIO_CONTINUE, which maps what is
 * in the page cache already. The baseline is a bare loop of UFFDIO_CONTINUE in calls of 2 MiB by
 * the giver, into a userfaultfd of the taker, which touches the pages in the same way. The clock
 * runs from the giver's start to the taker's last touch.
 */
#include "bench/handover.h"
#include "bench/memory.h"
#include "bench/pair.h"
#include "bench/raw.h"
#include "bench/report.h"

#define LEN       (1ull << 30)
#define LEN_QUICK (32ull << 20)
#define SEED      1

struct bench {
	struct report report;
	uint64_t len;
	int fd;
	char *mem;
};

struct way {
	const char *what;
	bool ours;
	bool at_once;       /* the taker touches while pages still come; else when all are there */
	struct series took; /* ms */
};

/* One turn, as both processes know it. */
struct turn {
	const struct way *way;
	uint64_t len;
	int fd; /* the library passes its own copy along; the bare taker has this one */
};

static void touch_all(const struct turn *t, const char *mem, struct pair_news *news)
{
	for (uint64_t at = 0; at < t->len; at += BENCH_PAGE)
		(void)*(const volatile char *)(mem + at);
	news->end_ns = bench_now();
}

/* ---- the library */

static void ours_take(int sock, struct pair_news *news, const void *arg)
{
	const struct turn *t = arg;
	struct ferry_take *take = take_open(sock);
	const struct ferry_range *r = &ferry_take_offer(take)->ranges[0];
	char *mem = memory_map_file(r->fd, r->len);

	take_until_committed(take, mem);
	if (t->way->at_once)
		touch_all(t, mem, news);
	take_done(take);
	if (!t->way->at_once)
		touch_all(t, mem, news);
	memory_check(mem, t->len, SEED, t->way->what);
	ferry_take_close(take);
}

static int64_t ours_give(const struct bench *b, struct pair *pair)
{
	struct ferry_range range = {.addr = (uintptr_t)b->mem,
				    .len = b->len,
				    .id = 1,
				    .flags = FERRY_RANGE_SHARED,
				    .fd = b->fd};
	struct ferry_give *give = give_until_ready(pair->sock, &range, FERRY_WAY_AUTO);
	int64_t start = bench_now();
	struct ferry_report r = give_commit_and_drain(give);

	/* The figure must be about what it says it is about. */
	if (r.bytes[FERRY_WAY_CONTINUE] != b->len)
		bench_fail("only %llu of %llu bytes were continued",
			   (unsigned long long)r.bytes[FERRY_WAY_CONTINUE],
			   (unsigned long long)b->len);
	return start;
}

/* ---- bare */

static void bare_take(int sock, struct pair_news *news, const void *arg)
{
	const struct turn *t = arg;
	char *mem = memory_map_file(t->fd, t->len);
	int uffd = raw_uffd(UFFD_FEATURE_MINOR_SHMEM);

	raw_register(uffd, mem, t->len, UFFDIO_REGISTER_MODE_MINOR);
	raw_send_fd(sock, uffd, (uintptr_t)mem);
	raw_recv_bytes(sock, 1);
	touch_all(t, mem, news);
	memory_check(mem, t->len, SEED, t->way->what);
}

/* Nobody reads the faults: CONTINUE wakes who waits for the pages that it maps. */
static int64_t bare_give(const struct bench *b, const struct way *way, struct pair *pair)
{
	uint64_t dst;
	int uffd = raw_recv_fd(pair->sock, &dst);
	int64_t start = bench_now();

	if (way->at_once)
		raw_send_byte(pair->sock);
	for (uint64_t at = 0; at < b->len; at += BENCH_HUGE)
		raw_continue(uffd, dst + at, BENCH_HUGE);
	if (!way->at_once)
		raw_send_byte(pair->sock);
	close(uffd);
	close(pair->sock);
	return start;
}

/* ---- turns */

static void turn(const struct bench *b, struct way *way)
{
	struct turn t = {.way = way, .len = b->len, .fd = b->fd};
	struct pair pair = pair_start(way->ours ? ours_take : bare_take, &t);
	int64_t start = way->ours ? ours_give(b, &pair) : bare_give(b, way, &pair);
	struct pair_news news = pair_end(&pair);

	series_add(&way->took, (double)(news.end_ns - start) / 1e6);
}

enum {
	BARE_AFTER,
	OURS_AFTER,
	BARE_AT_ONCE,
	OURS_AT_ONCE,
	WAYS,
};

static struct way ways[WAYS] = {
	[BARE_AFTER] = {.what = "bare UFFDIO_CONTINUE in 2 MiB calls, then every page touched"},
	[OURS_AFTER] = {.what = "ferry_give_commit to done, then every page touched", .ours = true},
	[BARE_AT_ONCE] =
		{.what = "bare UFFDIO_CONTINUE in 2 MiB calls, every page touched in order "
			 "meanwhile",
		 .at_once = true},
	[OURS_AT_ONCE] =
		{.what = "ferry_give_commit to done, every page touched in order meanwhile",
		 .ours = true,
		 .at_once = true},
};

static void report_pairing(struct bench *b, const char *name, const struct way *base,
			   const struct way *ours, double limit)
{
	report_add(&b->report, &(struct comparison){.name = name,
						    .unit = "ms",
						    .base_what = base->what,
						    .ours_what = ours->what,
						    .base = &base->took,
						    .ours = &ours->took,
						    .limit = limit});
}

static void prepare(struct bench *b)
{
	b->len = b->report.o.quick ? LEN_QUICK : LEN;
	if (!(raw_features() & UFFD_FEATURE_MINOR_SHMEM))
		bench_cannot("the kernel has no userfaultfd MINOR faults for shared memory: "
			     "Linux 5.14 or newer is needed");
	b->fd = memory_file(b->len);
	b->mem = memory_map_file(b->fd, b->len);
	must(madvise(b->mem, b->len, MADV_DONTFORK), "MADV_DONTFORK");
	memory_fill(b->mem, b->len, SEED);
}

int main(int argc, char **argv)
{
	static struct bench b;

	report_open(
		&b.report, argc, argv,
		"How fast is a hand-over of shared memory, until the taker has touched every page?",
		15);
	prepare(&b);
	for (unsigned int round = 0; round < b.report.o.rounds; round++)
		for (unsigned int i = 0; i < WAYS; i++)
			turn(&b, &ways[i]);
	report_pairing(&b, "continue_then_touch", &ways[BARE_AFTER], &ways[OURS_AFTER], 1.1);
	report_pairing(&b, "continue_touched_at_once", &ways[BARE_AT_ONCE], &ways[OURS_AT_ONCE], 0);
	json_object_object_add(b.report.root, "bytes", json_object_new_int64((int64_t)b.len));
	return report_close(&b.report);
}
