// SPDX-License-Identifier: MIT
/*
 * How long does a thread wait for a missing page that the library serves?
 *
 * One thread touches missing pages of its own process, one after the other, and looks at the clock
 * before and after each; another thread serves them, of the same process or of another one. The
 * baseline is the shortest loop that can: poll, read, ioctl. Where the serving thread runs matters
 * most, so each place is its own case.
 */
#include "bench/report.h"
#include "bench/serve.h"

#define FAULTS       4096u /* of each way in each round ... */
#define FAULTS_MORE  1024u /* ... and of those of which nothing is required: they are many */
#define FAULTS_QUICK 256u

/* Where the serving thread runs. */
enum place {
	PLACE_SAME,   /* bound to the CPU of the faulting thread */
	PLACE_OTHER,  /* bound to another one */
	PLACE_ANY,    /* not bound */
	PLACE_FOLLOW, /* FERRY_CPU_FOLLOW */
};

/* Where both threads run. */
struct placing {
	const char *name, *bare_where, *ours_where;
	enum place bare, ours;
	bool bound; /* the faulting thread is */
	bool few;   /* another way to place ours: one kind of page will do */
};

static const struct placing placings[] = {
	{"same_cpu", "on the faulting thread's CPU", "FERRY_CPU_FOLLOW (the default)", PLACE_SAME,
	 PLACE_FOLLOW, true, false},
	{"same_cpu_fixed", "on the faulting thread's CPU", "cpu of the faulting thread", PLACE_SAME,
	 PLACE_SAME, true, true},
	{"other_cpu", "on another CPU", "another cpu", PLACE_OTHER, PLACE_OTHER, true, false},
	{"unplaced", "no thread bound", "FERRY_CPU_ANY, no thread bound", PLACE_ANY, PLACE_ANY,
	 false, false},
	{"unplaced_follow", "no thread bound", "FERRY_CPU_FOLLOW, faulting thread not bound",
	 PLACE_ANY, PLACE_FOLLOW, false, true},
};
#define PLACINGS (sizeof(placings) / sizeof(placings[0]))

static const struct page_kind {
	enum serve_kind kind;
	const char *name, *source;
} kinds[] = {
	{SERVE_COPY, "copy", "source of memory"},
	{SERVE_MOVE, "move", "source that answers MOVE"},
	{SERVE_ZEROPAGE, "zeropage", "source of zeros"},
	{SERVE_CONTINUE, "continue", "source of shared memory"},
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* Who serves, bare or ours, and the figures. */
struct way {
	char what[128];
	bool ours;
	struct series p50, p99, p999; /* us, one for each round */
	struct histogram all;         /* of all rounds */
};

/* What is compared. */
struct pairing {
	char name[64];
	const struct page_kind *page;
	const struct placing *placing;
	bool process; /* served by another one */
	uint64_t faults;
	const char *skipped;
	struct way bare, ours;
};

struct bench {
	struct report report;
	uint64_t faults, seed;
	unsigned int *order;
	uint64_t *took; /* ns, of one turn */
	cpu_set_t allowed;
	int cpu, other; /* other is -1 where there is one CPU only */
	struct pairing pairings[2 * KINDS * PLACINGS];
	unsigned int n;
};

/* ---- faulting */

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

/* Nearest rank of sorted samples: a value that was really measured. In microseconds. */
static double rank(const uint64_t *sorted, uint64_t n, unsigned int permille)
{
	uint64_t i = (n * permille + 999) / 1000;
	return (double)sorted[i ? i - 1 : 0] / 1000;
}

/* Pages are touched in no order: neither loop may profit from a pattern. */
static void shuffle(struct bench *b, uint64_t faults)
{
	uint64_t state = 88172645463325252ull;

	for (unsigned int i = 0; i < faults; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		unsigned int j = (unsigned int)(state % (i + 1ull));
		b->order[i] = b->order[j];
		b->order[j] = i;
	}
}

static void touch_all(const struct bench *b, const char *mem, uint64_t faults)
{
	for (uint64_t i = 0; i < faults; i++) {
		const volatile char *p = mem + b->order[i] * BENCH_PAGE;
		int64_t before = bench_now();
		(void)*p;
		b->took[i] = (uint64_t)(bench_now() - before);
	}
}

static void count(const struct bench *b, struct way *way, uint64_t faults)
{
	qsort(b->took, faults, sizeof(*b->took), compare_u64);
	series_add(&way->p50, rank(b->took, faults, 500));
	series_add(&way->p99, rank(b->took, faults, 990));
	series_add(&way->p999, rank(b->took, faults, 999));
	for (uint64_t i = 0; i < faults; i++)
		histogram_add(&way->all, b->took[i]);
}

static void turn(struct bench *b, const struct pairing *p, struct way *way)
{
	const int cpu[] = {b->cpu, b->other, FERRY_CPU_ANY, FERRY_CPU_FOLLOW};
	struct server s = {.kind = p->page->kind,
			   .ours = way->ours,
			   .process = p->process,
			   .cpu = cpu[way->ours ? p->placing->ours : p->placing->bare],
			   .len = p->faults * BENCH_PAGE,
			   .answer = BENCH_PAGE,
			   .seed = b->seed++,
			   .what = way->what};

	shuffle(b, p->faults);
	serve_map(&s);
	serve_start(&s);
	if (p->placing->bound)
		cpu_bind(b->cpu);
	touch_all(b, s.mem, p->faults);
	must(sched_setaffinity(0, sizeof(b->allowed), &b->allowed), "sched_setaffinity");
	serve_stop(&s);
	serve_check(&s);
	serve_unmap(&s);
	count(b, way, p->faults);
}

/* ---- ferry_move: no fault, one call */

struct mover {
	const char *what;
	bool ours;
	uint64_t pages; /* a call */
	struct series p50, p99;
};

static void move_turn(struct bench *b, struct mover *m)
{
	uint64_t len = b->faults * BENCH_PAGE, step = m->pages * BENCH_PAGE, n = len / step;
	char *to = memory_map(len, MADV_NOHUGEPAGE), *from = memory_map(len, MADV_NOHUGEPAGE);
	uint64_t *took = b->took, seed = b->seed++;
	int uffd = raw_uffd(UFFD_FEATURE_MOVE);

	raw_register(uffd, to, len, UFFDIO_REGISTER_MODE_MISSING);
	memory_fill(from, len, seed);
	for (uint64_t i = 0; i < n; i++) {
		int64_t before = bench_now();
		if (m->ours)
			serve_move(uffd, to + i * step, from + i * step, step);
		else
			raw_move(uffd, to + i * step, from + i * step, step);
		took[i] = (uint64_t)(bench_now() - before);
	}
	memory_check(to, len, seed, m->what);
	qsort(took, n, sizeof(*took), compare_u64);
	series_add(&m->p50, rank(took, n, 500));
	series_add(&m->p99, rank(took, n, 990));
	close(uffd);
	munmap(to, len);
	munmap(from, len);
}

static struct mover movers[] = {
	{.what = "bare UFFDIO_MOVE, 1 page a call", .pages = 1},
	{.what = "ferry_move, strict, 1 page a call", .ours = true, .pages = 1},
	{.what = "bare UFFDIO_MOVE, 64 pages a call", .pages = 64},
	{.what = "ferry_move, strict, 64 pages a call", .ours = true, .pages = 64},
};

/* ---- what is compared with what */

static const char *why_not(const struct bench *b, const struct pairing *p)
{
	const char *lacking = serve_why_not(p->page->kind);

	if (lacking)
		return lacking;
	return p->placing->bare == PLACE_OTHER && b->other < 0 ? "there is one CPU only" : NULL;
}

static void add_pairing(struct bench *b, const struct page_kind *page,
			const struct placing *placing, bool process)
{
	const char *call = serve_needs[page->kind].call, *of = process ? " of another process" : "";
	struct pairing *p = &b->pairings[b->n++];

	p->page = page;
	p->placing = placing;
	p->process = process;
	p->skipped = why_not(b, p);
	p->faults = b->faults;
	if (!b->report.o.quick && (page->kind != SERVE_COPY || process))
		p->faults = FAULTS_MORE;
	snprintf(p->name, sizeof(p->name), "%s%s_%s", page->name, process ? "_by_process" : "",
		 placing->name);
	snprintf(p->bare.what, sizeof(p->bare.what), "bare loop%s, poll+read+%s, %s", of, call,
		 placing->bare_where);
	snprintf(p->ours.what, sizeof(p->ours.what), "ferry_loop_run%s, %s, %s", of, page->source,
		 placing->ours_where);
	p->ours.ours = true;
}

static void add_kind(struct bench *b, const struct page_kind *page, bool process)
{
	for (unsigned int i = 0; i < PLACINGS; i++)
		if (!placings[i].few || (page->kind == SERVE_COPY && !process))
			add_pairing(b, page, &placings[i], process);
}

static void add_pairings(struct bench *b)
{
	for (unsigned int i = 0; i < KINDS; i++)
		add_kind(b, &kinds[i], false);
	for (unsigned int i = 0; i < KINDS; i++)
		if (kinds[i].kind != SERVE_MOVE)
			add_kind(b, &kinds[i], true);
}

static void compare(struct bench *b, const char *name, const char *what, const char *unit,
		    const char *base_what, const struct series *base, const char *ours_what,
		    const struct series *ours, double limit)
{
	char full[64];

	snprintf(full, sizeof(full), "%s_%s", name, what);
	report_add(&b->report, &(struct comparison){.name = full,
						    .unit = unit,
						    .base_what = base_what,
						    .ours_what = ours_what,
						    .base = base,
						    .ours = ours,
						    .limit = limit});
}

static void distribute(struct bench *b, const struct pairing *p, const struct way *w)
{
	char group[64];

	/* One picture for each kind; where ours is placed in other ways is another. */
	snprintf(group, sizeof(group), "%s%s", p->page->name,
		 p->process        ? "_by_process"
		 : p->placing->few ? "_placed"
				   : "");
	report_histogram(&b->report, &(struct distribution){.name = p->name,
							    .what = w->what,
							    .group = group,
							    .ours = w->ours,
							    .h = &w->all});
}

static void report_pairing(struct bench *b, const struct pairing *p)
{
	const struct way *bare = &p->bare, *ours = &p->ours;
	/* What is required is required of the default. */
	bool required = p == b->pairings;

	if (p->skipped) {
		report_skip(&b->report, p->name, p->skipped);
		return;
	}
	compare(b, p->name, "p50", "us", bare->what, &bare->p50, ours->what, &ours->p50,
		required ? 1.05 : 0);
	compare(b, p->name, "p99", "us", bare->what, &bare->p99, ours->what, &ours->p99,
		required ? 1.1 : 0);
	compare(b, p->name, "p99.9", "us", bare->what, &bare->p999, ours->what, &ours->p999, 0);
	distribute(b, p, bare);
	distribute(b, p, ours);
}

static void report_mover(struct bench *b, const char *name, const struct mover *base,
			 const struct mover *ours)
{
	compare(b, name, "p50", "us", base->what, &base->p50, ours->what, &ours->p50, 0);
	compare(b, name, "p99", "us", base->what, &base->p99, ours->what, &ours->p99, 0);
}

static void report_all(struct bench *b)
{
	for (unsigned int i = 0; i < b->n; i++)
		report_pairing(b, &b->pairings[i]);
	report_skip(&b->report, "move_by_process",
		    "UFFDIO_MOVE moves within the calling process only, on a stock kernel");
	if (movers[0].p50.n) {
		report_mover(b, "ferry_move_1_page", &movers[0], &movers[1]);
		report_mover(b, "ferry_move_64_pages", &movers[2], &movers[3]);
	}
}

static void prepare(struct bench *b)
{
	b->faults = b->report.o.quick ? FAULTS_QUICK : FAULTS;
	must(sched_getaffinity(0, sizeof(b->allowed), &b->allowed), "sched_getaffinity");
	b->cpu = cpu_besides(&b->allowed, -1);
	b->other = cpu_besides(&b->allowed, b->cpu);
	b->order = calloc(b->faults, sizeof(*b->order));
	b->took = calloc(b->faults, sizeof(*b->took));
	if (!b->order || !b->took)
		bench_fail("no memory");
	add_pairings(b);
}

int main(int argc, char **argv)
{
	static struct bench b;
	const unsigned int nmovers = sizeof(movers) / sizeof(movers[0]);

	report_open(&b.report, argc, argv,
		    "How long does a thread wait for a missing page that the library serves?", 15);
	prepare(&b);
	for (unsigned int round = 0; round < b.report.o.rounds; round++) {
		for (unsigned int i = 0; i < b.n; i++) {
			struct pairing *p = &b.pairings[i];
			if (p->skipped)
				continue;
			turn(&b, p, &p->bare);
			turn(&b, p, &p->ours);
		}
		for (unsigned int i = 0; i < nmovers && !serve_why_not(SERVE_MOVE); i++)
			move_turn(&b, &movers[i]);
	}
	report_all(&b);
	free(b.order);
	free(b.took);
	return report_close(&b.report);
}
