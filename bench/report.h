/* SPDX-License-Identifier: MIT */
/*
 * From figures to the report: one JSON object on stdout, one line for a person on stderr.
 *
 * Baseline and ours run in turn in one run, and each turn gives one figure of each. What counts is
 * the ratio of the medians; its spread is that of the ratios of the single rounds.
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <json-c/json.h>
#include <math.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include "bench/bench.h"
#include "bench/histogram.h"

/* A figure is called noisy when the rounds' ratios lie so far apart ... */
#define NOISY_RATIO 0.05
/* ... and the whole run when other processes used so much of the CPUs meanwhile. */
#define NOISY_OTHERS 0.05

/* One figure for each round. */
struct series {
	double v[BENCH_ROUNDS];
	unsigned int n;
};

static inline void series_add(struct series *s, double value)
{
	if (s->n < BENCH_ROUNDS)
		s->v[s->n++] = value;
}

static inline int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static inline struct series series_sorted(const struct series *s)
{
	struct series sorted = *s;
	qsort(sorted.v, sorted.n, sizeof(sorted.v[0]), compare_doubles);
	return sorted;
}

static inline double series_median(const struct series *s)
{
	struct series sorted = series_sorted(s);

	if (!sorted.n)
		return 0;
	return (sorted.v[(sorted.n - 1) / 2] + sorted.v[sorted.n / 2]) / 2;
}

/* Median of the distances from the median: a spread that single outliers don't touch. */
static inline double series_mad(const struct series *s)
{
	struct series d = *s;
	double median = series_median(s);

	for (unsigned int i = 0; i < d.n; i++)
		d.v[i] = fabs(d.v[i] - median);
	return series_median(&d);
}

/* One baseline beside ours. */
struct comparison {
	const char *name;
	const char *unit;
	const char *base_what, *ours_what;
	const struct series *base, *ours;
	bool more_is_better;
	double limit; /* of the ratio ours to baseline; 0: this one is for information */
	/* A point of a curve, all of whose points have this name and come in the order of x. */
	const char *curve;  /* NULL: of none */
	const char *x_what; /* what x counts */
	double x;
};

/* All samples of one way, of all rounds. Those of one group are for one picture. */
struct distribution {
	const char *name;
	const char *what;
	const char *group;
	bool ours;
	const struct histogram *h;
};

struct report {
	struct bench_options o;
	struct json_object *root, *results;
	struct json_object *histograms; /* NULL: none so far */
	int64_t started;
	double load, busy; /* at the start: load average; CPU seconds used by everybody */
	bool noisy;
	char line[2048];
};

/* ---- the host */

/* Seconds that the CPUs were busy since boot, for anybody, time stolen by other guests included. */
static inline double host_busy(void)
{
	unsigned long long user, nice, sys, idle, wait, irq, soft, steal;
	FILE *f = fopen("/proc/stat", "re");
	int n = f ? fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &sys,
			   &idle, &wait, &irq, &soft, &steal)
		  : 0;

	if (f)
		fclose(f);
	if (n != 8)
		return 0;
	return (double)(user + nice + sys + irq + soft + steal) / (double)sysconf(_SC_CLK_TCK);
}

static inline double seconds(struct timeval tv)
{
	return (double)tv.tv_sec + (double)tv.tv_usec / 1e6;
}

static inline double own_busy(void)
{
	struct rusage self, children;

	getrusage(RUSAGE_SELF, &self);
	getrusage(RUSAGE_CHILDREN, &children);
	return seconds(self.ru_utime) + seconds(self.ru_stime) + seconds(children.ru_utime) +
	       seconds(children.ru_stime);
}

/* What @file has after @key, up to the end of the line; "" if nothing. */
static inline void host_line(const char *file, const char *key, char *value, size_t size)
{
	char line[512];
	FILE *f = fopen(file, "re");

	value[0] = 0;
	while (f && !value[0] && fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, strlen(key)) != 0)
			continue;
		char *from = line + strlen(key) + strspn(line + strlen(key), "\t :");
		from[strcspn(from, "\n")] = 0;
		snprintf(value, size, "%s", from);
	}
	if (f)
		fclose(f);
}

static inline void put_text(struct json_object *o, const char *key, const char *value)
{
	json_object_object_add(o, key, json_object_new_string(value));
}

static inline void put_number(struct json_object *o, const char *key, double value)
{
	char text[32];

	/* As after a division by a time that was too short for the clock: JSON has no word for it. */
	if (!isfinite(value)) {
		json_object_object_add(o, key, NULL);
		return;
	}
	/* Four digits say all that is known; json-c would print seventeen. */
	snprintf(text, sizeof(text), "%.*f",
		 fabs(value) < 10     ? 4
		 : fabs(value) < 1000 ? 2
				      : 0,
		 value);
	json_object_object_add(o, key, json_object_new_double_s(value, text));
}

static inline struct json_object *report_host(struct report *r, double others)
{
	struct json_object *host = json_object_new_object();
	struct utsname uts;
	char text[256];

	uname(&uts);
	put_text(host, "kernel", uts.release);
	put_text(host, "machine", uts.machine);
	host_line("/proc/cpuinfo", "model name", text, sizeof(text));
	put_text(host, "cpu", text);
	json_object_object_add(host, "cpus", json_object_new_int64(sysconf(_SC_NPROCESSORS_ONLN)));
	host_line("/proc/meminfo", "MemTotal", text, sizeof(text));
	put_text(host, "memory", text);
	host_line("/sys/kernel/mm/transparent_hugepage/enabled", "", text, sizeof(text));
	put_text(host, "transparent_hugepage", text);
	put_number(host, "load_average_at_start", r->load);
	put_number(host, "cpu_used_by_others", others);
	return host;
}

/* ---- the report */

static inline void report_open(struct report *r, int argc, char **argv, const char *question,
			       unsigned int rounds)
{
	*r = (struct report){.o = bench_parse(argc, argv, rounds)};
	r->root = json_object_new_object();
	r->results = json_object_new_array();
	put_text(r->root, "bench", program_invocation_short_name);
	put_text(r->root, "question", question);
	if (getloadavg(&r->load, 1) != 1)
		r->load = 0;
	r->started = bench_now();
	r->busy = host_busy() - own_busy();
}

static inline struct json_object *report_side(const char *what, const struct series *s)
{
	struct json_object *side = json_object_new_object();
	struct series sorted = series_sorted(s);

	put_text(side, "what", what);
	put_number(side, "median", series_median(s));
	put_number(side, "min", sorted.v[0]);
	put_number(side, "max", sorted.v[sorted.n - 1]);
	put_number(side, "mad", series_mad(s));
	return side;
}

static inline struct series series_ratios(const struct series *ours, const struct series *base)
{
	struct series ratios = {0};

	for (unsigned int i = 0; i < ours->n && i < base->n; i++)
		series_add(&ratios, ours->v[i] / base->v[i]);
	return ratios;
}

static inline void report_limit(struct report *r, struct json_object *result,
				const struct comparison *c, double ratio)
{
	struct json_object *required = json_object_new_object();
	bool reached = c->more_is_better ? ratio >= c->limit : ratio <= c->limit;
	size_t len = strlen(r->line);

	put_number(required, c->more_is_better ? "at_least" : "at_most", c->limit);
	json_object_object_add(required, "reached", json_object_new_boolean(reached));
	json_object_object_add(result, "required", required);
	snprintf(r->line + len, sizeof(r->line) - len, "%s%s %.3f (%s %.2f%s)", len ? ", " : "",
		 c->name, ratio, c->more_is_better ? "at least" : "at most", c->limit,
		 reached ? "" : ": missed");
}

static inline void report_point(struct json_object *result, const struct comparison *c)
{
	struct json_object *curve = json_object_new_object();
	char x[32];

	snprintf(x, sizeof(x), "%.15g", c->x);
	put_text(curve, "name", c->curve);
	json_object_object_add(curve, "x", json_object_new_double_s(c->x, x));
	put_text(curve, "x_what", c->x_what);
	json_object_object_add(result, "curve", curve);
}

static inline void report_add(struct report *r, const struct comparison *c)
{
	struct json_object *result = json_object_new_object();
	struct series ratios = series_ratios(c->ours, c->base);
	double ratio = series_median(c->ours) / series_median(c->base);
	bool noisy = series_mad(&ratios) > NOISY_RATIO * series_median(&ratios);

	put_text(result, "name", c->name);
	put_text(result, "unit", c->unit);
	json_object_object_add(result, "more_is_better",
			       json_object_new_boolean(c->more_is_better));
	json_object_object_add(result, "baseline", report_side(c->base_what, c->base));
	json_object_object_add(result, "ours", report_side(c->ours_what, c->ours));
	struct json_object *side = report_side("ours to baseline, of each round", &ratios);
	put_number(side, "of_medians", ratio);
	json_object_object_add(result, "ratio", side);
	json_object_object_add(result, "noisy", json_object_new_boolean(noisy));
	if (c->curve)
		report_point(result, c);
	if (c->limit > 0) {
		report_limit(r, result, c, ratio);
		r->noisy |= noisy;
	}
	json_object_array_add(r->results, result);
}

/* A question that this host can't be asked. */
static inline void report_skip(struct report *r, const char *name, const char *why)
{
	struct json_object *result = json_object_new_object();

	put_text(result, "name", name);
	put_text(result, "skipped", why);
	json_object_array_add(r->results, result);
}

/* To the nanosecond, or the edges of two slots might look the same. */
static inline struct json_object *report_us(uint64_t ns)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu.%03llu", (unsigned long long)ns / 1000,
		 (unsigned long long)ns % 1000);
	return json_object_new_double_s((double)ns / 1000, text);
}

/* On one line: there are thousands, and each number would get its own. */
static inline int report_on_one_line(struct json_object *array, struct printbuf *to, int level,
				     int flags)
{
	size_t n = json_object_array_length(array);

	(void)level;
	(void)flags;
	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(array, i);
		sprintbuf(to, "%s%s", i ? "," : "[",
			  json_object_to_json_string_ext(item, JSON_C_TO_STRING_PLAIN));
	}
	return sprintbuf(to, n ? "]" : "[]");
}

static inline struct json_object *report_slots(const struct histogram *h)
{
	struct json_object *slots = json_object_new_array();

	json_object_set_serializer(slots, report_on_one_line, NULL, NULL);
	for (unsigned int i = 0; i < HISTOGRAM_SLOTS; i++) {
		if (!h->slot[i])
			continue;
		struct json_object *slot = json_object_new_array_ext(2);
		json_object_array_add(slot, report_us(histogram_edge(i)));
		json_object_array_add(slot, json_object_new_int64((int64_t)h->slot[i]));
		json_object_array_add(slots, slot);
	}
	return slots;
}

static inline void report_histogram(struct report *r, const struct distribution *d)
{
	struct json_object *o = json_object_new_object();

	put_text(o, "name", d->name);
	put_text(o, "what", d->what);
	put_text(o, "group", d->group);
	put_text(o, "side", d->ours ? "ours" : "baseline");
	put_text(o, "unit", "us");
	json_object_object_add(o, "count", json_object_new_int64((int64_t)d->h->count));
	json_object_object_add(o, "p50", report_us(histogram_permille(d->h, 500)));
	json_object_object_add(o, "p90", report_us(histogram_permille(d->h, 900)));
	json_object_object_add(o, "p99", report_us(histogram_permille(d->h, 990)));
	json_object_object_add(o, "p999", report_us(histogram_permille(d->h, 999)));
	json_object_object_add(o, "max", report_us(d->h->max));
	json_object_object_add(o, "buckets", report_slots(d->h));
	if (!r->histograms)
		r->histograms = json_object_new_array();
	json_object_array_add(r->histograms, o);
}

static inline int report_close(struct report *r)
{
	double wall = (double)(bench_now() - r->started) / 1e9;
	double cpus = (double)sysconf(_SC_NPROCESSORS_ONLN);
	double others = (host_busy() - own_busy() - r->busy) / (wall * cpus);

	/* The kernel counts in ticks: a short run may seem to use less than nothing. */
	others = others < 0 ? 0 : others;
	r->noisy |= others > NOISY_OTHERS;
	json_object_object_add(r->root, "quick", json_object_new_boolean(r->o.quick));
	json_object_object_add(r->root, "rounds", json_object_new_int64(r->o.rounds));
	put_number(r->root, "seconds", wall);
	json_object_object_add(r->root, "noisy", json_object_new_boolean(r->noisy));
	json_object_object_add(r->root, "host", report_host(r, others));
	json_object_object_add(r->root, "results", r->results);
	if (r->histograms)
		json_object_object_add(r->root, "histograms", r->histograms);
	puts(json_object_to_json_string_ext(r->root, JSON_C_TO_STRING_PRETTY));
	json_object_put(r->root);
	fprintf(stderr, "%s: ours to baseline: %s; %s, %u rounds, contents right\n",
		program_invocation_short_name, r->line[0] ? r->line : "nothing is required",
		r->noisy ? "noisy" : "quiet", r->o.rounds);
	return 0;
}

#endif
