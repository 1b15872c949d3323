// SPDX-License-Identifier: MIT
/*
 * What does an operation cost for each page, by the number of pages in a call?
 *
 * Each call enters the kernel once and flushes the TLB once, if it has to; that is shared by all of
 * its pages. A second thread, which reads its own memory on another CPU, makes such a flush dearer:
 * it has to interrupt that CPU.
 *
 * The baseline is the bare ioctl. The library has a call of its own for MOVE. COPY, ZEROPAGE,
 * CONTINUE and taking the protection away are what its loop does for a source, so there it is a
 * fault, from the access until the thread goes on, answered with so many pages. It protects when it
 * begins a snapshot: of so many pages.
 */
#include <stdatomic.h>

#include "bench/report.h"
#include "bench/serve.h"

#define LEN             (16ull << 20)
#define LEN_QUICK       (2ull << 20)
#define LEN_HUGE        (64ull << 20)
#define SNAPSHOTS       64u /* of each size in each turn: one takes as long as a thousand pages */
#define SNAPSHOTS_QUICK 8u
#define SPIN_WORDS      8192u

struct bench {
	struct report report;
	uint64_t seed;
	int cpu, other; /* other is -1 where there is one CPU only */
};

/* Returns ns a page; @s->answer bytes a call. */
typedef double timed_fn(const struct bench *b, struct server *s);

/* ---- the second thread */

struct spinner {
	pthread_t thread;
	int cpu;
	/* Not volatile: that gcc's undefined-behaviour sanitizer reads only once. */
	atomic_bool runs, stop;
	volatile uint64_t sum;
	uint64_t words[SPIN_WORDS];
};

static void *spin(void *arg)
{
	struct spinner *s = arg;

	cpu_bind(s->cpu);
	while (!s->stop) {
		for (unsigned int i = 0; i < SPIN_WORDS; i++)
			s->sum += s->words[i];
		s->runs = true;
	}
	return NULL;
}

static void spinner_start(struct spinner *s, int cpu)
{
	s->cpu = cpu;
	s->runs = s->stop = false;
	if (pthread_create(&s->thread, NULL, spin, s))
		bench_fail("no thread");
	while (!s->runs)
		sched_yield();
}

static void spinner_stop(struct spinner *s)
{
	s->stop = true;
	pthread_join(s->thread, NULL);
}

/* ---- one turn of each way */

static double per_page(int64_t ns, uint64_t bytes)
{
	return (double)ns / ((double)bytes / BENCH_PAGE);
}

static double time_raw(const struct bench *b, struct server *s)
{
	(void)b;
	serve_open(s);
	int64_t begin = bench_now();
	for (uint64_t at = 0; at < s->len; at += s->answer)
		serve_raw(s, at, s->answer);
	int64_t took = bench_now() - begin;
	close(s->uffd);
	return per_page(took, s->len);
}

static double time_move(const struct bench *b, struct server *s)
{
	(void)b;
	serve_open(s);
	int64_t begin = bench_now();
	for (uint64_t at = 0; at < s->len; at += s->answer)
		serve_move(s->uffd, s->mem + at, s->from + at, s->answer);
	int64_t took = bench_now() - begin;
	close(s->uffd);
	return per_page(took, s->len);
}

/* The source stays mapped, as it does when pages are moved out of it. */
static double time_mremap(const struct bench *b, struct server *s)
{
	const int flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;

	(void)b;
	int64_t begin = bench_now();
	for (uint64_t at = 0; at < s->len; at += s->answer)
		if (mremap(s->from + at, s->answer, s->answer, flags, s->mem + at) == MAP_FAILED)
			bench_fail("mremap failed: %s", strerror(errno));
	return per_page(bench_now() - begin, s->len);
}

/* Writes where there is protection, what is there already. */
static void touch(const struct server *s, uint64_t step)
{
	for (uint64_t at = 0; at < s->len; at += step) {
		volatile char *p = s->mem + at;
		char is = *p;
		if (s->kind == SERVE_UNPROTECT)
			*p = is;
	}
}

static double time_loop(const struct bench *b, struct server *s)
{
	s->cpu = b->cpu;
	serve_start(s);
	int64_t begin = bench_now();
	touch(s, s->answer);
	int64_t took = bench_now() - begin;
	/* A page that an answer has left out is one more fault. Its contents may be right all the
	 * same: zeros and pages of a file come from the kernel when nobody serves any more. */
	touch(s, BENCH_PAGE);
	serve_stop(s);
	/* None: each answer was one page, by a source of the library. */
	if (s->answers && s->answers != s->len / s->answer)
		bench_fail("%s: %llu faults, not %llu", s->what, (unsigned long long)s->answers,
			   (unsigned long long)(s->len / s->answer));
	return per_page(took, s->len);
}

static double time_snapshot(const struct bench *b, struct server *s)
{
	const uint64_t most = b->report.o.quick ? SNAPSHOTS_QUICK : SNAPSHOTS;
	const struct ferry_snapshot_opts opts = {.size = sizeof(opts), .threads = 1};
	uint64_t at = 0;
	int64_t took = 0;

	for (; at < s->len && at / s->answer < most; at += s->answer) {
		struct ferry_span span = {(uintptr_t)s->mem + at, s->answer};
		struct ferry_snapshot *snap;
		int64_t begin = bench_now();
		must_ferry(ferry_snapshot_begin(&snap, &span, 1, &opts), "ferry_snapshot_begin");
		took += bench_now() - begin;
		ferry_snapshot_end(snap);
	}
	return per_page(took, at);
}

/* ---- what is compared with what */

struct operation {
	const char *name;
	enum serve_kind kind;
	bool huge;
	timed_fn *bare, *ours;
	const char *bare_what, *ours_what;
};

#define BY_LOOP "ferry_loop_run: a fault, answered with so many pages"

static const struct operation operations[] = {
	{"move", SERVE_MOVE, false, time_raw, time_move, "bare UFFDIO_MOVE", "ferry_move, strict"},
	{"move_huge", SERVE_MOVE, true, time_raw, time_move, "bare UFFDIO_MOVE of huge pages",
	 "ferry_move, strict, of huge pages"},
	{"move_beside_mremap", SERVE_MOVE, false, time_mremap, time_move,
	 "bare mremap, which moves page tables where it can", "ferry_move, strict"},
	{"copy", SERVE_COPY, false, time_raw, time_loop, "bare UFFDIO_COPY", BY_LOOP},
	{"zeropage", SERVE_ZEROPAGE, false, time_raw, time_loop, "bare UFFDIO_ZEROPAGE", BY_LOOP},
	{"continue", SERVE_CONTINUE, false, time_raw, time_loop, "bare UFFDIO_CONTINUE", BY_LOOP},
	{"protect", SERVE_PROTECT, false, time_raw, time_snapshot, "bare UFFDIO_WRITEPROTECT",
	 "ferry_snapshot_begin of so many pages"},
	{"unprotect", SERVE_UNPROTECT, false, time_raw, time_loop,
	 "bare UFFDIO_WRITEPROTECT that takes the protection away", BY_LOOP},
};
#define OPERATIONS (sizeof(operations) / sizeof(operations[0]))

/* Pages a call; huge pages begin at the one that is their size. */
static const uint64_t sizes[] = {1, 8, 64, 512, 4096};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

/* Of one operation, with one or two threads. */
struct curve {
	char name[40];
	const struct operation *op;
	unsigned int threads;
	uint64_t len;
	const char *skipped;
	struct series bare[SIZES], ours[SIZES];
};

static struct curve curves[2 * OPERATIONS];
static struct spinner spinner;

static bool has_size(const struct curve *c, unsigned int i)
{
	uint64_t bytes = sizes[i] * BENCH_PAGE;
	return bytes <= c->len && (!c->op->huge || bytes >= BENCH_HUGE);
}

static double turn(struct bench *b, struct curve *c, uint64_t pages, bool ours)
{
	struct server s = {.kind = c->op->kind,
			   .ours = ours,
			   .huge = c->op->huge,
			   .len = c->len,
			   .answer = pages * BENCH_PAGE,
			   .seed = b->seed++,
			   .what = ours ? c->op->ours_what : c->op->bare_what};

	serve_map(&s);
	if (c->threads > 1)
		spinner_start(&spinner, b->other);
	double took = ours ? c->op->ours(b, &s) : c->op->bare(b, &s);
	if (c->threads > 1)
		spinner_stop(&spinner);
	/* The figure must be about what it says it is about. */
	if (s.huge && memory_huge(s.mem, s.len) != s.len)
		c->skipped = "the kernel gave no huge pages any more";
	serve_check(&s);
	serve_unmap(&s);
	return took;
}

static void report_curve(struct bench *b, const struct curve *c)
{
	char name[64];

	if (c->skipped)
		report_skip(&b->report, c->name, c->skipped);
	for (unsigned int i = 0; i < SIZES && !c->skipped; i++) {
		if (!has_size(c, i))
			continue;
		snprintf(name, sizeof(name), "%.40s_%u_pages", c->name, (unsigned int)sizes[i]);
		report_add(&b->report, &(struct comparison){.name = name,
							    .unit = "ns/page",
							    .base_what = c->op->bare_what,
							    .ours_what = c->op->ours_what,
							    .base = &c->bare[i],
							    .ours = &c->ours[i],
							    .curve = c->name,
							    .x_what = "pages a call",
							    .x = (double)sizes[i]});
	}
}

static const char *why_not(const struct bench *b, const struct curve *c)
{
	const char *lacking = serve_why_not(c->op->kind);
	struct ferry_caps caps = {.size = sizeof(caps)};

	if (lacking)
		return lacking;
	if (c->threads > 1 && b->other < 0)
		return "there is one CPU only";
	if (c->op->huge)
		return memory_why_not_huge(c->len);
	if (c->op->kind != SERVE_PROTECT)
		return NULL;
	must_ferry(ferry_caps_probe(&caps), "ferry_caps_probe");
	return caps.scan_error ? "the kernel has no PAGEMAP_SCAN, which a snapshot needs" : NULL;
}

static void prepare(struct bench *b)
{
	const bool quick = b->report.o.quick;
	cpu_set_t allowed;

	must(sched_getaffinity(0, sizeof(allowed), &allowed), "sched_getaffinity");
	b->cpu = cpu_besides(&allowed, -1);
	b->other = cpu_besides(&allowed, b->cpu);
	for (unsigned int i = 0; i < 2 * OPERATIONS; i++) {
		struct curve *c = &curves[i];
		c->op = &operations[i / 2];
		c->threads = 1 + i % 2;
		c->len = quick ? LEN_QUICK : c->op->huge ? LEN_HUGE : LEN;
		snprintf(c->name, sizeof(c->name), "%s_%u_thread%s", c->op->name, c->threads,
			 c->threads > 1 ? "s" : "");
		c->skipped = why_not(b, c);
	}
	/* Whatever serves shares this one: nothing else of the process runs elsewhere. */
	cpu_bind(b->cpu);
}

static void run_curve(struct bench *b, struct curve *c)
{
	for (unsigned int i = 0; i < SIZES && !c->skipped; i++) {
		if (!has_size(c, i))
			continue;
		series_add(&c->bare[i], turn(b, c, sizes[i], false));
		series_add(&c->ours[i], turn(b, c, sizes[i], true));
	}
}

int main(int argc, char **argv)
{
	static struct bench b;

	report_open(&b.report, argc, argv,
		    "What does an operation cost for each page, by the number of pages in a call?",
		    21);
	prepare(&b);
	for (unsigned int round = 0; round < b.report.o.rounds; round++)
		for (unsigned int i = 0; i < 2 * OPERATIONS; i++)
			run_curve(&b, &curves[i]);
	for (unsigned int i = 0; i < 2 * OPERATIONS; i++)
		report_curve(&b, &curves[i]);
	return report_close(&b.report);
}
