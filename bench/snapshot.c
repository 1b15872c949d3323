// SPDX-License-Identifier: MIT
/*
 * What does it cost a program that somebody else saves it?
 *
 * The command `pageferry snapshot` beside two baselines: gcore, as it is, and a program that forks
 * for its child to save it. Writers change the program's memory meanwhile: "local" ones work in a
 * MiB for a while and then in another, others change pages anywhere. Small pages and huge ones.
 *
 *     snapshot [--quick] [--rounds N] [small_local|small_anywhere|huge_local|huge_anywhere]...
 *              [sync|async|auto]...
 *
 * With the name of a way the command is given it with --way; with several they take turns, too.
 *
 * In the window of 10 s, which holds the whole and what comes after, the command (--limit-rate) and
 * the child write at the same rate to the same folder: TMPDIR, or /dev/shm, or where that is small
 * /tmp. Then, beside gcore, the command once more without a limit.
 *
 * stop: the longest that a thread of the program didn't get to look at the clock, which it does
 * each 0.1 ms, while the program was being saved; for fork, too, where the same thread calls it
 * between two looks (bench/program.h). So up to 0.1 ms may have been added to the command's.
 * stop_told: what the command says, beside the call of fork. extra: the command's peak of resident
 * memory, libraries included, and by how much the program's grew; of fork, what the child didn't
 * share with the program. lost: writes in the window for which writers came too late, plus one, so
 * that two nothings compare. p99, max: of a write in the window. total: from start to end, without
 * a limit.
 *
 * Every image is checked, and that the same check finds an image out that is of two moments.
 */
#include "bench/command.h"
#include "bench/program.h"

#define LEN          (1ull << 30)
#define LEN_QUICK    (32ull << 20)
#define RATE         "256000000" /* bytes a second */
#define WINDOW       10000u      /* slots */
#define WINDOW_QUICK 1000u
#define BEFORE_NS    500000000ll /* of the window, until it begins to save */
#define PATIENCE_NS  30000000000ll

struct bench {
	struct report report;
	uint64_t len, turns;
	bool gcore;
	struct command c;
};

struct figures {
	struct series stop, told, extra, lost, p99, max, total;
};

struct way {
	const char *name; /* NULL: the command decides */
	bool wanted;
};

static struct way ways[] = {{NULL, false}, {"sync", false}, {"async", false}, {"auto", false}};

#define WAYS (sizeof(ways) / sizeof(ways[0]))

struct target {
	const char *name;
	bool huge, local, wanted;
	struct figures fork, gcore, paced[WAYS], free[WAYS];
	struct series size;
};

static struct target targets[] = {
	{.name = "small_local", .local = true},
	{.name = "small_anywhere"},
	{.name = "huge_local", .huge = true, .local = true},
	{.name = "huge_anywhere", .huge = true},
};

#define TARGETS (sizeof(targets) / sizeof(targets[0]))

/* ---- commands */

static struct outcome run_gcore(const struct bench *b, const struct program *p)
{
	char prefix[300], made[320], pid[16];
	const char *argv[] = {"gcore", "-o", prefix, pid, NULL};

	snprintf(prefix, sizeof(prefix), "%.256s/gcore", b->c.dir);
	snprintf(pid, sizeof(pid), "%d", (int)p->pid);
	snprintf(made, sizeof(made), "%s.%s", prefix, pid);
	struct outcome o = command_run(&b->c, argv);
	if (o.status || rename(made, b->c.file))
		bench_fail("gcore failed (wait status %#x)", (unsigned int)o.status);
	return o;
}

/* ---- turns */

static void sleep_until(int64_t ns)
{
	const struct timespec at = {ns / 1000000000, ns % 1000000000};

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

static struct program *begin(struct bench *b, const struct target *t)
{
	unsigned int slots = b->report.o.quick ? WINDOW_QUICK : WINDOW;
	struct program *p = program_new(slots);

	command_warm_up(&b->c, b->len);
	p->len = b->len;
	p->seed = ++b->turns;
	p->huge = t->huge;
	p->local = t->local;
	p->rate = strtod(RATE, NULL);
	snprintf(p->path, sizeof(p->path), "%s", b->c.file);
	program_start(p);
	sleep_until(p->w.start + (b->report.o.quick ? BEFORE_NS / 5 : BEFORE_NS));
	p->watch = true;
	return p;
}

static int64_t window_end(const struct program *p)
{
	return p->w.start + (int64_t)p->w.slots * SLOT_NS;
}

/* In the quick mode it doesn't matter: nothing is judged. */
static bool in_window(const struct bench *b, const struct program *p, const char *what)
{
	bool late = bench_now() > window_end(p);

	if (late && !b->report.o.quick)
		bench_fail("%s: saving took longer than the window", what);
	return !late;
}

/* @torn: was there so much to do afterwards that an image that is half of then must be found out?
 */
static void check(const struct bench *b, const struct program *p, const char *what, bool torn)
{
	static const char own[] = "the program's own memory";
	struct image_sums now = image_of_process(p->pid, p->w.mem, b->len, p->seed, own);
	struct image_sums file = image_of_file(b->c.file, p->w.mem, b->len, p->seed, what);

	if (!image_balanced(&now.even, &now.odd))
		bench_fail("%s: wrong contents: a write was lost", own);
	if (!image_balanced(&file.even, &file.odd))
		bench_fail("%s: wrong contents: of more than one moment", what);
	if (torn && image_balanced(&file.even, &now.odd))
		bench_fail("%s: the check doesn't find out what is of two moments", what);
}

static void end(const struct bench *b, struct program *p, struct figures *f, const char *what,
		bool torn)
{
	series_add(&f->stop, (double)p->gap / 1e3);
	program_wait(p, &p->ended, INT64_MAX);
	check(b, p, what, torn);
	program_end(p);
}

static void add_writes(struct program *p, struct figures *f)
{
	program_wait(p, &p->ended, INT64_MAX);
	struct writers_figures of = writers_figures(&p->w);

	series_add(&f->p99, of.p99_us);
	series_add(&f->max, of.max_us);
	series_add(&f->lost, of.lost + 1);
}

static void turn_fork(struct bench *b, struct target *t)
{
	struct program *p = begin(b, t);

	p->fork = true;
	program_wait(p, &p->saved, window_end(p) + PATIENCE_NS);
	p->watch = false;
	bool torn = in_window(b, p, "bare fork");
	if (p->failed)
		bench_fail("bare fork: the child can't write %s", b->c.file);
	series_add(&t->fork.told, (double)p->call / 1e3);
	series_add(&t->fork.extra, (double)p->news / (1 << 20));
	add_writes(p, &t->fork);
	end(b, p, &t->fork, "bare fork", torn);
}

static void stop_work(struct program *p)
{
	p->watch = false;
	p->w.enough = true;
}

static void turn_gcore(struct bench *b, struct target *t)
{
	struct program *p = begin(b, t);

	series_add(&t->gcore.total, run_gcore(b, p).ms);
	stop_work(p);
	end(b, p, &t->gcore, "gcore", false);
}

static void turn_paced(struct bench *b, struct target *t, unsigned int way)
{
	struct program *p = begin(b, t);
	struct figures *f = &t->paced[way];

	command_reset_peak(p->pid);
	uint64_t before = command_memory_of(p->pid, "VmRSS");
	struct outcome o = command_snapshot(&b->c, p->pid, ways[way].name, RATE);
	p->watch = false;
	uint64_t after = command_memory_of(p->pid, "VmHWM");
	bool torn = in_window(b, p, "ferry");
	uint64_t grown = after > before ? after - before : 0;
	series_add(&f->told, command_stop_us(&b->c));
	series_add(&f->extra, (double)(o.peak + grown) / (1 << 20));
	add_writes(p, f);
	end(b, p, f, "ferry", torn);
}

static void turn_free(struct bench *b, struct target *t, unsigned int way)
{
	struct program *p = begin(b, t);

	series_add(&t->free[way].total, command_snapshot(&b->c, p->pid, ways[way].name, NULL).ms);
	stop_work(p);
	end(b, p, &t->free[way], "ferry", false);
}

static void turns(struct bench *b, struct target *t)
{
	turn_fork(b, t);
	if (b->gcore)
		turn_gcore(b, t);
	for (unsigned int i = 0; i < WAYS; i++) {
		if (!ways[i].wanted)
			continue;
		turn_paced(b, t, i);
		if (b->gcore)
			turn_free(b, t, i);
	}
}

/* ---- the report */

struct name {
	char text[64];
};

static struct name name_of(const struct target *t, const struct way *way, const char *what)
{
	struct name name;

	snprintf(name.text, sizeof(name.text), "%s%s%s_%s", t->name, way->name ? "_" : "",
		 way->name ? way->name : "", what);
	return name;
}

struct pair {
	const char *what, *unit, *base_what;
	const struct series *base, *ours;
	double limit;
};

static void compare(struct bench *b, const struct target *t, const struct way *way,
		    const struct pair *p)
{
	struct name name = name_of(t, way, p->what);

	report_add(&b->report, &(struct comparison){.name = name.text,
						    .unit = p->unit,
						    .base_what = p->base_what,
						    .ours_what = "pageferry snapshot",
						    .base = p->base,
						    .ours = p->ours,
						    .limit = p->limit});
}

static void report_gcore(struct bench *b, const struct target *t, unsigned int way)
{
	const struct pair pairs[] = {
		{"stop_of_gcore", "us", "gcore", &t->gcore.stop, &t->free[way].stop, 0.01},
		{"total", "ms", "gcore", &t->gcore.total, &t->free[way].total, 1.2},
	};

	for (unsigned int i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		if (b->gcore)
			compare(b, t, &ways[way], &pairs[i]);
		else
			report_skip(&b->report, name_of(t, &ways[way], pairs[i].what).text,
				    "there is no gcore: install gdb");
	}
}

static void report_way(struct bench *b, struct target *t, unsigned int way)
{
	static const char fork_what[] = "fork, the child saves";
	const struct figures *f = &t->paced[way];
	const struct pair pairs[] = {
		{"stop", "us", fork_what, &t->fork.stop, &f->stop, 1},
		{"stop_told", "us", "the call of fork", &t->fork.told, &f->told, 0},
		{"extra_of_size", "MiB", "the memory that is saved", &t->size, &f->extra, 0.02},
		{"extra", "MiB", fork_what, &t->fork.extra, &f->extra, 0},
		{"lost", "writes", fork_what, &t->fork.lost, &f->lost, 1},
		{"p99", "us", fork_what, &t->fork.p99, &f->p99, 2},
		{"max", "us", fork_what, &t->fork.max, &f->max, 0},
	};

	for (unsigned int i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
		compare(b, t, &ways[way], &pairs[i]);
	report_gcore(b, t, way);
}

static void report_target(struct bench *b, struct target *t)
{
	for (unsigned int i = 0; i < t->fork.stop.n; i++)
		series_add(&t->size, (double)b->len / (1 << 20));
	for (unsigned int i = 0; i < WAYS; i++)
		if (ways[i].wanted)
			report_way(b, t, i);
}

/* ---- */

static bool choose_one(const char *name, bool *any_target, bool *any_way)
{
	for (unsigned int i = 0; i < TARGETS; i++)
		if (!strcmp(name, targets[i].name))
			return *any_target = targets[i].wanted = true;
	for (unsigned int i = 1; i < WAYS; i++)
		if (!strcmp(name, ways[i].name))
			return *any_way = ways[i].wanted = true;
	return false;
}

/* Take the names out of the arguments; without any, all targets are meant, and the usual way. */
static void choose(int *argc, char **argv)
{
	bool any_target = false, any_way = false;
	int left = 0;

	for (int i = 0; i < *argc; i++)
		if (!choose_one(argv[i], &any_target, &any_way))
			argv[left++] = argv[i];
	argv[ *argc = left] = NULL;
	for (unsigned int i = 0; i < TARGETS; i++)
		targets[i].wanted |= !any_target;
	ways[0].wanted = !any_way;
}

static bool gives_huge(uint64_t len)
{
	pid_t pid = (pid_t)must(fork(), "fork");
	int status;

	if (!pid) {
		char *mem = memory_map(len, MADV_HUGEPAGE);
		memset(mem, 1, len);
		_exit(memory_huge(mem, len) == len ? 0 : 1);
	}
	must(waitpid(pid, &status, 0), "waitpid");
	return !status;
}

static bool has_gcore(const struct command *c)
{
	/* Without arguments it says how it is used. */
	const char *const argv[] = {"gcore", NULL};
	int status = command_run(c, argv).status;

	return WIFEXITED(status) && WEXITSTATUS(status) == 2;
}

static struct bench bench;

int main(int argc, char **argv)
{
	choose(&argc, argv);
	report_open(&bench.report, argc, argv,
		    "What does it cost a program that somebody else saves it?", 3);
	bench.len = bench.report.o.quick ? LEN_QUICK : LEN;
	command_init(&bench.c, bench.len);
	bench.gcore = has_gcore(&bench.c);
	bool huge = gives_huge(bench.len);
	for (unsigned int round = 0; round < bench.report.o.rounds; round++)
		for (unsigned int i = 0; i < TARGETS; i++)
			if (targets[i].wanted && (huge || !targets[i].huge))
				turns(&bench, &targets[i]);
	for (unsigned int i = 0; i < TARGETS; i++) {
		if (targets[i].wanted && targets[i].fork.stop.n)
			report_target(&bench, &targets[i]);
		else if (targets[i].wanted)
			report_skip(&bench.report, targets[i].name,
				    "the kernel gives no huge pages, or not enough of them");
	}
	json_object_object_add(bench.report.root, "bytes",
			       json_object_new_int64((int64_t)bench.len));
	return report_close(&bench.report);
}
