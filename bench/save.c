// SPDX-License-Identifier: MIT
/*
 * What does it cost a program to save its memory while it works?
 *
 * The baseline forks, and the child saves. Ours saves by ferry_snapshot in a thread. Both hand what
 * they save to the same sink, which looks at every byte and takes them at a rate, as a disk or a
 * network would. Writers change the memory meanwhile: "local" ones work in a MiB for a while and
 * then in another, others change pages anywhere. Small pages and huge ones.
 *
 *     save [--quick] [--rounds N] [small_local|small_anywhere|huge_local|huge_anywhere]...
 *
 * stop: the call of ferry_snapshot_begin, of fork. extra: memory at the peak, beside that of the
 * program. lost: writes in a window of 10 s, which holds the whole and what comes after, for which
 * writers came too late, plus one, so that two nothings compare. p99, max: of a write in the
 * window.
 */
#include <pthread.h>
#include <sys/wait.h>

#include <pageferry.h>

#include "bench/report.h"
#include "bench/writers.h"

#define LEN          (1ull << 30)
#define LEN_QUICK    (32ull << 20)
#define RATE         256e6  /* bytes a second */
#define WINDOW       10000u /* slots */
#define WINDOW_QUICK 500u
#define BEFORE_NS    500000000ll /* of the window, until it begins to save */
#define BUFFER_NS    1000000     /* that the sink takes at once */

struct bench {
	struct report report;
	uint64_t len;
	bool *seen;     /* pages that the sink has had */
	uint64_t *news; /* a child's, shared: its memory at the end */
};

struct figures {
	struct series stop, extra, lost, p99, max;
};

struct target {
	const char *name;
	bool huge, local, wanted;
	struct figures fork, ours;
	struct series size;
};

/* ---- the sink */

struct sink {
	struct bench *b;
	const char *what;
	uint64_t seed, had;
	int64_t start;
	struct writers_sums sums;
};

static void sink_open(struct sink *s, struct bench *b, const char *what, uint64_t seed)
{
	*s = (struct sink){.b = b, .what = what, .seed = seed, .start = bench_now()};
	memset(b->seen, 0, b->len / BENCH_PAGE);
}

/* Returns when so much can have gone at this rate, but for what a buffer on the way holds. */
static void sink_add(struct sink *s, uint64_t at, const char *data, uint64_t len)
{
	writers_check(data, at, len, s->seed, s->what, &s->sums);
	for (uint64_t page = at / BENCH_PAGE; page < (at + len) / BENCH_PAGE; page++) {
		if (s->b->seen[page])
			bench_fail("%s: page %llu came twice", s->what, (unsigned long long)page);
		s->b->seen[page] = true;
	}
	s->had += len;
	int64_t due = s->start + (int64_t)((double)s->had / RATE * 1e9);
	if (due < bench_now() + BUFFER_NS)
		return;
	struct timespec until = {due / 1000000000, due % 1000000000};
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

static void sink_close(const struct sink *s)
{
	if (s->had != s->b->len)
		bench_fail("%s: %llu bytes are missing", s->what,
			   (unsigned long long)(s->b->len - s->had));
	if (!writers_balanced(&s->sums))
		bench_fail("%s: wrong contents: of more than one moment", s->what);
}

/* ---- memory of a process, bytes */

static uint64_t own_memory(const char *file, const char *key)
{
	char text[64];

	host_line(file, key, text, sizeof(text));
	return strtoull(text, NULL, 10) << 10;
}

static uint64_t tables(void)
{
	return own_memory("/proc/self/status", "VmPTE");
}

static void reset_peak(void)
{
	FILE *f = fopen("/proc/self/clear_refs", "we");

	if (!f || fputs("5", f) == EOF || fclose(f) == EOF)
		bench_cannot("/proc/self/clear_refs can't be written: %s", strerror(errno));
}

/* ---- the two ways; each returns the extra memory, and how long the program stood still */

static uint64_t save_by_fork(struct bench *b, struct writers *w, uint64_t seed, int64_t *stop)
{
	const char *what = "bare fork";
	struct sink sink;
	int status;

	pthread_rwlock_wrlock(&w->open);
	int64_t since = bench_now();
	pid_t child = (pid_t)must(fork(), "fork");
	*stop = bench_now() - since;
	if (!child) {
		sink_open(&sink, b, what, seed);
		for (uint64_t at = 0; at < b->len; at += BENCH_HUGE)
			sink_add(&sink, at, w->mem + at, BENCH_HUGE);
		sink_close(&sink);
		/* What it doesn't share with the program: each page that was changed. */
		*b->news = own_memory("/proc/self/smaps_rollup", "Private_Dirty:") +
			   own_memory("/proc/self/smaps_rollup", "Private_Clean:") + tables();
		_exit(0);
	}
	pthread_rwlock_unlock(&w->open);
	must(waitpid(child, &status, 0), "waitpid");
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		bench_fail("bare fork: the child failed (wait status %#x)", (unsigned int)status);
	return *b->news;
}

static uint64_t save_by_snapshot(struct bench *b, struct writers *w, uint64_t seed, int64_t *stop)
{
	const struct ferry_span span = {(uintptr_t)w->mem, w->len};
	struct ferry_block block = {.size = sizeof(block)};
	struct ferry_snapshot *snap;
	struct sink sink;

	reset_peak();
	uint64_t before = own_memory("/proc/self/status", "VmRSS") + tables();
	pthread_rwlock_wrlock(&w->open);
	int64_t since = bench_now();
	int ret = ferry_snapshot_begin(&snap, &span, 1, NULL);
	*stop = bench_now() - since;
	pthread_rwlock_unlock(&w->open);
	must_ferry(ret, "ferry_snapshot_begin");
	sink_open(&sink, b, "ferry_snapshot", seed);
	while (must_ferry(ferry_snapshot_next(snap, &block), "ferry_snapshot_next") == 1) {
		if (block.kind != FERRY_BLOCK_DATA)
			bench_fail("ferry_snapshot: wrong contents: a block of another kind");
		sink_add(&sink, block.addr - span.addr, block.data, block.len);
	}
	uint64_t peak = own_memory("/proc/self/status", "VmHWM") + tables();
	ferry_snapshot_end(snap);
	sink_close(&sink);
	return peak > before ? peak - before : 0;
}

/* ---- turns */

static void add_writes(struct figures *f, const struct writers *w)
{
	struct writers_figures of = writers_figures(w);

	series_add(&f->p99, of.p99_us);
	series_add(&f->max, of.max_us);
	series_add(&f->lost, of.lost + 1);
}

static void turn(struct bench *b, struct target *t, bool ours, uint64_t seed)
{
	struct figures *f = ours ? &t->ours : &t->fork;
	char *mem = memory_map(b->len, t->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	struct writers_sums sums = {0};
	struct writers w;
	int64_t stop = 0;

	writers_fill(mem, b->len, seed);
	writers_init(&w, b->report.o.quick ? WINDOW_QUICK : WINDOW);
	writers_start(&w, mem, b->len, t->local);
	int64_t begin = w.start + (b->report.o.quick ? BEFORE_NS / 5 : BEFORE_NS);
	struct timespec at = {begin / 1000000000, begin % 1000000000};
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
	uint64_t extra = (ours ? save_by_snapshot : save_by_fork)(b, &w, seed, &stop);
	if (!b->report.o.quick && bench_now() > w.start + (int64_t)w.slots * SLOT_NS)
		bench_fail("saving took longer than the window: the sink is too slow");
	writers_join(&w);
	writers_check(mem, 0, b->len, seed, "the program's own memory", &sums);
	if (!writers_balanced(&sums))
		bench_fail("the program's own memory: wrong contents: a write was lost");
	series_add(&f->stop, (double)stop / 1e3);
	series_add(&f->extra, (double)extra / (1 << 20));
	add_writes(f, &w);
	writers_fini(&w);
	munmap(mem, b->len);
}

/* ---- the report */

static void compare(struct bench *b, const struct target *t, const char *what, const char *unit,
		    const struct series *base, const struct series *ours, double limit)
{
	char name[64];

	snprintf(name, sizeof(name), "%s_%s", t->name, what);
	report_add(&b->report,
		   &(struct comparison){.name = name,
					.unit = unit,
					.base_what = base == &t->size ? "the memory that is saved"
								      : "fork, the child saves",
					.ours_what = "ferry_snapshot, a thread saves",
					.base = base,
					.ours = ours,
					.limit = limit});
}

static void report_target(struct bench *b, struct target *t)
{
	for (unsigned int i = 0; i < t->ours.extra.n; i++)
		series_add(&t->size, (double)b->len / (1 << 20));
	compare(b, t, "stop", "us", &t->fork.stop, &t->ours.stop, 1);
	compare(b, t, "extra_of_size", "MiB", &t->size, &t->ours.extra, 0.02);
	compare(b, t, "extra", "MiB", &t->fork.extra, &t->ours.extra, 0);
	compare(b, t, "lost", "writes", &t->fork.lost, &t->ours.lost, 1);
	compare(b, t, "p99", "us", &t->fork.p99, &t->ours.p99, 2);
	compare(b, t, "max", "us", &t->fork.max, &t->ours.max, 0);
}

static struct target targets[] = {
	{.name = "small_local", .local = true},
	{.name = "small_anywhere"},
	{.name = "huge_local", .huge = true, .local = true},
	{.name = "huge_anywhere", .huge = true},
};

#define TARGETS (sizeof(targets) / sizeof(targets[0]))

/* Take the names of targets out of the arguments; without any, all are meant. */
static void choose(int *argc, char **argv)
{
	int left = 0;
	bool any = false;

	for (int i = 0; i < *argc; i++) {
		struct target *t = targets;
		while (t < targets + TARGETS && strcmp(argv[i], t->name) != 0)
			t++;
		if (t < targets + TARGETS)
			t->wanted = any = true;
		else
			argv[left++] = argv[i];
	}
	argv[ *argc = left] = NULL;
	for (unsigned int i = 0; i < TARGETS; i++)
		targets[i].wanted |= !any;
}

static bool gives_huge(const struct bench *b)
{
	char *mem = memory_map(b->len, MADV_HUGEPAGE);

	memory_fill(mem, b->len, 0);
	uint64_t huge = memory_huge(mem, b->len);
	munmap(mem, b->len);
	return huge == b->len;
}

static void can_snapshot(void)
{
	char *mem = memory_map(BENCH_HUGE, MADV_NOHUGEPAGE);
	const struct ferry_span span = {(uintptr_t)mem, BENCH_HUGE};
	struct ferry_snapshot *snap;
	int ret = ferry_snapshot_begin(&snap, &span, 1, NULL);

	if (ret)
		bench_cannot("ferry_snapshot can't be had here: %s", strerror(-ret));
	ferry_snapshot_end(snap);
	munmap(mem, BENCH_HUGE);
}

static void prepare(struct bench *b)
{
	uint64_t fits = own_memory("/proc/meminfo", "MemAvailable") / 3;

	can_snapshot();
	b->len = b->report.o.quick || fits < LEN_QUICK ? LEN_QUICK : LEN;
	while (b->len > fits && b->len > LEN_QUICK)
		b->len /= 2;
	b->seen = malloc(b->len / BENCH_PAGE);
	b->news = mmap(NULL, BENCH_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!b->seen || b->news == MAP_FAILED)
		bench_fail("no memory");
	memset(b->seen, 0, b->len / BENCH_PAGE);
}

int main(int argc, char **argv)
{
	static struct bench b;

	choose(&argc, argv);
	report_open(&b.report, argc, argv,
		    "What does it cost a program to save its memory while it works?", 3);
	prepare(&b);
	bool huge = gives_huge(&b);
	for (uint64_t round = 0; round < b.report.o.rounds; round++)
		for (unsigned int i = 0; i < 2 * TARGETS; i++)
			if (targets[i / 2].wanted && (huge || !targets[i / 2].huge))
				turn(&b, &targets[i / 2], i % 2, round * 2 * TARGETS + i + 1);
	for (unsigned int i = 0; i < TARGETS; i++) {
		if (targets[i].wanted && targets[i].fork.stop.n)
			report_target(&b, &targets[i]);
		else if (targets[i].wanted)
			report_skip(&b.report, targets[i].name,
				    "the kernel gives no huge pages, or not enough of them");
	}
	json_object_object_add(b.report.root, "bytes", json_object_new_int64((int64_t)b.len));
	free(b.seen);
	munmap(b.news, BENCH_PAGE);
	return report_close(&b.report);
}
