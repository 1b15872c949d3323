// SPDX-License-Identifier: MIT
/*
 * How long does a thread wait for a missing page that the library serves?
 *
 * One thread touches missing pages of its own process, one after the other, and looks at the clock
 * before and after each; another thread serves them. The baseline is the shortest loop that can:
 * poll, read, ioctl. Where the serving thread runs matters most, so each place is its own case.
 */
#include <poll.h>
#include <pthread.h>

#include "bench/memory.h"
#include "bench/raw.h"
#include "bench/report.h"
#include "pageferry.h"

#define FAULTS       4096u /* of each way in each round */
#define FAULTS_QUICK 256u

enum place {
	PLACE_SAME,        /* bound to the CPU of the faulting thread, which is bound, too */
	PLACE_OTHER,       /* bound to another one */
	PLACE_FREE,        /* neither thread is bound */
	PLACE_FOLLOW,      /* FERRY_CPU_FOLLOW; the faulting thread is bound */
	PLACE_FOLLOW_FREE, /* FERRY_CPU_FOLLOW; the faulting thread is not bound */
};

/* One way to have faults served, and its figures. */
struct way {
	const char *what;
	bool ours, move;
	enum place place;
	struct series p50, p99, p999; /* us, one for each round */
	uint64_t *all;                /* ns, of all rounds */
	uint64_t nall;
};

struct bench {
	struct report report;
	uint64_t faults;
	unsigned int *order;
	cpu_set_t allowed;
	int cpu, other; /* other is -1 where there is one CPU only */
};

/* ---- serving */

struct server {
	int uffd;
	char *mem, *from;
	uint64_t len;
	bool move;
	int cpu; /* -1: not bound; baseline only */
	struct ferry_loop *loop;
	struct ferry_source *src;
	pthread_t thread;
};

/* Knows how many faults will come, so that nothing but the userfaultfd needs polling. */
static void *serve_bare(void *arg)
{
	const struct server *s = arg;

	if (s->cpu >= 0)
		cpu_bind(s->cpu);
	for (uint64_t left = s->len / BENCH_PAGE; left; left--) {
		struct pollfd fd = {.fd = s->uffd, .events = POLLIN};
		struct uffd_msg msg;
		must(poll(&fd, 1, -1), "poll");
		must(read(s->uffd, &msg, sizeof(msg)), "reading the userfaultfd");
		uint64_t at = msg.arg.pagefault.address & ~(BENCH_PAGE - 1);
		const char *from = s->from + (at - (uintptr_t)s->mem);
		if (s->move)
			raw_move(s->uffd, (void *)(uintptr_t)at, from, BENCH_PAGE);
		else
			raw_copy(s->uffd, at, from, BENCH_PAGE);
	}
	return NULL;
}

static void *serve_ours(void *arg)
{
	const struct server *s = arg;

	must_ferry(ferry_loop_run(s->loop), "ferry_loop_run");
	return NULL;
}

/* A source of our own: the page is moved out of another range. */
struct move_source {
	struct ferry_source src;
	const char *from;
};

static int answer_move(struct ferry_source *src, const struct ferry_fault *fault,
		       struct ferry_answer *answer)
{
	answer->kind = FERRY_ANSWER_MOVE;
	answer->from = ((struct move_source *)src)->from + fault->offset;
	return 0;
}

static void free_move(struct ferry_source *src)
{
	free(src);
}

static struct ferry_source *move_source(const char *from)
{
	struct move_source *m = calloc(1, sizeof(*m));

	if (!m)
		bench_fail("no memory");
	*m = (struct move_source){{.answer = answer_move, .free = free_move}, from};
	return &m->src;
}

static void start_ours(struct server *s, int cpu)
{
	struct ferry_loop_opts opts = FERRY_LOOP_OPTS_INIT;
	uint64_t need = UFFD_FEATURE_THREAD_ID | (s->move ? UFFD_FEATURE_MOVE : 0);

	opts.cpu = cpu;
	s->uffd = must_ferry(ferry_uffd_open(need, 0), "ferry_uffd_open");
	raw_register(s->uffd, s->mem, s->len, UFFDIO_REGISTER_MODE_MISSING);
	must_ferry(ferry_loop_new(&s->loop, &opts), "ferry_loop_new");
	if (s->move)
		s->src = move_source(s->from);
	else
		must_ferry(ferry_source_memory(&s->src, s->from, s->len), "ferry_source_memory");
	must_ferry(ferry_loop_watch(s->loop, s->uffd, (uintptr_t)s->mem, s->len, s->src, 0),
		   "ferry_loop_watch");
}

static void start(const struct bench *b, const struct way *way, struct server *s)
{
	if (way->ours) {
		const int cpu[] = {b->cpu, b->other, FERRY_CPU_ANY, FERRY_CPU_FOLLOW,
				   FERRY_CPU_FOLLOW};
		start_ours(s, cpu[way->place]);
	} else {
		const int cpu[] = {b->cpu, b->other, -1, b->cpu, -1};
		s->cpu = cpu[way->place];
		s->uffd = raw_uffd(s->move ? UFFD_FEATURE_MOVE : 0);
		raw_register(s->uffd, s->mem, s->len, UFFDIO_REGISTER_MODE_MISSING);
	}
	if (pthread_create(&s->thread, NULL, way->ours ? serve_ours : serve_bare, s))
		bench_fail("no thread");
}

static void stop(struct server *s)
{
	if (s->loop)
		ferry_loop_stop(s->loop);
	pthread_join(s->thread, NULL);
	ferry_loop_free(s->loop);
	ferry_source_free(s->src);
	close(s->uffd);
}

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

static void touch_all(const struct bench *b, const char *mem, uint64_t *took)
{
	for (uint64_t i = 0; i < b->faults; i++) {
		const volatile char *p = mem + b->order[i] * BENCH_PAGE;
		int64_t before = bench_now();
		(void)*p;
		took[i] = (uint64_t)(bench_now() - before);
	}
}

static void turn(struct bench *b, struct way *way, uint64_t seed)
{
	struct server s = {.len = b->faults * BENCH_PAGE, .move = way->move};
	uint64_t *took = way->all + way->nall;
	bool bound = way->place != PLACE_FREE && way->place != PLACE_FOLLOW_FREE;

	s.mem = memory_map(s.len, MADV_NOHUGEPAGE);
	s.from = memory_map(s.len, MADV_NOHUGEPAGE);
	memory_fill(s.from, s.len, seed);
	start(b, way, &s);
	if (bound)
		cpu_bind(b->cpu);
	touch_all(b, s.mem, took);
	must(sched_setaffinity(0, sizeof(b->allowed), &b->allowed), "sched_setaffinity");
	stop(&s);
	memory_check(s.mem, s.len, seed, way->what);
	munmap(s.mem, s.len);
	munmap(s.from, s.len);
	way->nall += b->faults;
	qsort(took, b->faults, sizeof(*took), compare_u64);
	series_add(&way->p50, rank(took, b->faults, 500));
	series_add(&way->p99, rank(took, b->faults, 990));
	series_add(&way->p999, rank(took, b->faults, 999));
}

/* ---- ferry_move: no fault, one call */

struct mover {
	const char *what;
	bool ours;
	uint64_t pages; /* a call */
	struct series p50, p99;
};

static void move_ours(int uffd, const char *to, const char *from, uint64_t len)
{
	struct ferry_move move = {.size = sizeof(move),
				  .uffd = uffd,
				  .flags = FERRY_MOVE_STRICT,
				  .dst = (uintptr_t)to,
				  .src = (uintptr_t)from,
				  .len = len};
	must_ferry(ferry_move(&move), "ferry_move");
}

static void move_turn(const struct bench *b, struct mover *m, uint64_t seed)
{
	uint64_t len = b->faults * BENCH_PAGE, step = m->pages * BENCH_PAGE, n = len / step;
	char *to = memory_map(len, MADV_NOHUGEPAGE), *from = memory_map(len, MADV_NOHUGEPAGE);
	uint64_t *took = calloc(n, sizeof(*took));
	int uffd = raw_uffd(UFFD_FEATURE_MOVE);

	if (!took)
		bench_fail("no memory");
	raw_register(uffd, to, len, UFFDIO_REGISTER_MODE_MISSING);
	memory_fill(from, len, seed);
	for (uint64_t i = 0; i < n; i++) {
		int64_t before = bench_now();
		if (m->ours)
			move_ours(uffd, to + i * step, from + i * step, step);
		else
			raw_move(uffd, to + i * step, from + i * step, step);
		took[i] = (uint64_t)(bench_now() - before);
	}
	memory_check(to, len, seed, m->what);
	qsort(took, n, sizeof(*took), compare_u64);
	series_add(&m->p50, rank(took, n, 500));
	series_add(&m->p99, rank(took, n, 990));
	free(took);
	close(uffd);
	munmap(to, len);
	munmap(from, len);
}

/* ---- what is compared with what */

enum {
	BARE_SAME,
	OURS_FOLLOW,
	OURS_SAME,
	BARE_OTHER,
	OURS_OTHER,
	BARE_FREE,
	OURS_FREE,
	OURS_FOLLOW_FREE,
	BARE_MOVE,
	OURS_MOVE,
	WAYS
};

static struct way ways[WAYS] = {
	[BARE_SAME] = {.what = "bare loop, poll+read+COPY, on the faulting thread's CPU",
		       .place = PLACE_SAME},
	[OURS_FOLLOW] = {.what = "ferry_loop_run, source of memory, FERRY_CPU_FOLLOW (the default)",
			 .ours = true,
			 .place = PLACE_FOLLOW},
	[OURS_SAME] = {.what = "ferry_loop_run, source of memory, cpu of the faulting thread",
		       .ours = true,
		       .place = PLACE_SAME},
	[BARE_OTHER] = {.what = "bare loop, poll+read+COPY, on another CPU", .place = PLACE_OTHER},
	[OURS_OTHER] = {.what = "ferry_loop_run, source of memory, another cpu",
			.ours = true,
			.place = PLACE_OTHER},
	[BARE_FREE] = {.what = "bare loop, poll+read+COPY, no thread bound", .place = PLACE_FREE},
	[OURS_FREE] = {.what = "ferry_loop_run, source of memory, FERRY_CPU_ANY, no thread bound",
		       .ours = true,
		       .place = PLACE_FREE},
	[OURS_FOLLOW_FREE] =
		{.what = "ferry_loop_run, source of memory, FERRY_CPU_FOLLOW, faulting "
			 "thread not bound",
		 .ours = true,
		 .place = PLACE_FOLLOW_FREE},
	[BARE_MOVE] = {.what = "bare loop, poll+read+MOVE, on the faulting thread's CPU",
		       .move = true,
		       .place = PLACE_SAME},
	[OURS_MOVE] = {.what = "ferry_loop_run, source that answers MOVE, FERRY_CPU_FOLLOW",
		       .ours = true,
		       .move = true,
		       .place = PLACE_FOLLOW},
};

static const struct pairing {
	const char *name;
	int base, ours;
	double limit50, limit99;
} pairings[] = {
	{"copy_same_cpu", BARE_SAME, OURS_FOLLOW, 1.05, 1.1},
	{"copy_same_cpu_fixed", BARE_SAME, OURS_SAME, 0, 0},
	{"copy_other_cpu", BARE_OTHER, OURS_OTHER, 0, 0},
	{"copy_unplaced", BARE_FREE, OURS_FREE, 0, 0},
	{"copy_unplaced_follow", BARE_FREE, OURS_FOLLOW_FREE, 0, 0},
	{"move_same_cpu", BARE_MOVE, OURS_MOVE, 0, 0},
};

static struct mover movers[] = {
	{.what = "bare UFFDIO_MOVE, 1 page a call", .pages = 1},
	{.what = "ferry_move, strict, 1 page a call", .ours = true, .pages = 1},
	{.what = "bare UFFDIO_MOVE, 64 pages a call", .pages = 64},
	{.what = "ferry_move, strict, 64 pages a call", .ours = true, .pages = 64},
};

static bool runs_here(const struct bench *b, const struct way *w)
{
	return (w->place != PLACE_OTHER || b->other >= 0) &&
	       (!w->move || (raw_features() & UFFD_FEATURE_MOVE));
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

static void report_pairing(struct bench *b, const struct pairing *p)
{
	const struct way *base = &ways[p->base], *ours = &ways[p->ours];

	if (!base->nall || !ours->nall) {
		report_skip(&b->report, p->name,
			    base->move ? "the kernel has no UFFDIO_MOVE" : "there is one CPU only");
		return;
	}
	compare(b, p->name, "p50", "us", base->what, &base->p50, ours->what, &ours->p50,
		p->limit50);
	compare(b, p->name, "p99", "us", base->what, &base->p99, ours->what, &ours->p99,
		p->limit99);
	compare(b, p->name, "p99.9", "us", base->what, &base->p999, ours->what, &ours->p999, 0);
}

static void report_all_samples(struct bench *b)
{
	struct json_object *list = json_object_new_array();

	for (int i = 0; i < WAYS; i++) {
		struct way *w = &ways[i];
		if (!w->nall)
			continue;
		struct json_object *o = json_object_new_object();
		qsort(w->all, w->nall, sizeof(*w->all), compare_u64);
		put_text(o, "what", w->what);
		put_text(o, "unit", "us");
		json_object_object_add(o, "faults", json_object_new_int64((int64_t)w->nall));
		put_number(o, "p50", rank(w->all, w->nall, 500));
		put_number(o, "p99", rank(w->all, w->nall, 990));
		put_number(o, "p99.9", rank(w->all, w->nall, 999));
		put_number(o, "max", rank(w->all, w->nall, 1000));
		json_object_array_add(list, o);
	}
	json_object_object_add(b->report.root, "all_rounds", list);
}

/* Pages are touched in no order: neither loop may profit from a pattern. */
static void shuffle(struct bench *b)
{
	uint64_t state = 88172645463325252ull;

	for (unsigned int i = 0; i < b->faults; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		unsigned int j = (unsigned int)(state % (i + 1ull));
		b->order[i] = b->order[j];
		b->order[j] = i;
	}
}

static void prepare(struct bench *b)
{
	b->faults = b->report.o.quick ? FAULTS_QUICK : FAULTS;
	must(sched_getaffinity(0, sizeof(b->allowed), &b->allowed), "sched_getaffinity");
	b->cpu = cpu_besides(&b->allowed, -1);
	b->other = cpu_besides(&b->allowed, b->cpu);
	b->order = calloc(b->faults, sizeof(*b->order));
	for (int i = 0; i < WAYS; i++) {
		ways[i].all = calloc(b->faults * b->report.o.rounds, sizeof(*ways[i].all));
		if (!ways[i].all || !b->order)
			bench_fail("no memory");
	}
	shuffle(b);
}

int main(int argc, char **argv)
{
	static struct bench b;
	const unsigned int nmovers = sizeof(movers) / sizeof(movers[0]);

	report_open(&b.report, argc, argv,
		    "How long does a thread wait for a missing page that the library serves?", 15);
	prepare(&b);
	for (unsigned int round = 0; round < b.report.o.rounds; round++) {
		for (int i = 0; i < WAYS; i++)
			if (runs_here(&b, &ways[i]))
				turn(&b, &ways[i], round * WAYS + (unsigned int)i);
		for (unsigned int i = 0; i < nmovers && raw_features() & UFFD_FEATURE_MOVE; i++)
			move_turn(&b, &movers[i], round * nmovers + i);
	}
	for (unsigned int i = 0; i < sizeof(pairings) / sizeof(pairings[0]); i++)
		report_pairing(&b, &pairings[i]);
	for (unsigned int i = 0; i < nmovers && movers[i].p50.n; i += 2) {
		const struct mover *base = &movers[i], *ours = &movers[i + 1];
		const char *name = i ? "ferry_move_64_pages" : "ferry_move_1_page";
		compare(&b, name, "p50", "us", base->what, &base->p50, ours->what, &ours->p50, 0);
		compare(&b, name, "p99", "us", base->what, &base->p99, ours->what, &ours->p99, 0);
	}
	report_all_samples(&b);
	for (int i = 0; i < WAYS; i++)
		free(ways[i].all);
	free(b.order);
	return report_close(&b.report);
}
