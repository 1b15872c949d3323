// SPDX-License-Identifier: MIT
/*
 * What has changed between two runs. Each figure is a ratio to the baseline of its own run, so that
 * another machine, or another day, is not what is seen; and a ratio has changed only if neither
 * median lies within the spread of the other run.
 */
#include <math.h>
#include <string.h>

#include "tools/bench.h"

/* Smaller ones are nobody's concern, however quiet the machine. */
#define CHANGE_LEAST 0.02

enum change {
	SAME,
	BETTER,
	WORSE,
	UNJUDGED, /* in both, but one of them decides nothing, or they don't measure the same */
	ALONE,    /* in one of them only */
};

static bool outside(double value, const struct bench_side *of)
{
	return value < of->min || value > of->max;
}

/* Of a figure without a baseline its own spread counts. */
static const struct bench_side *judged(const struct bench_result *r)
{
	return r->has_base ? &r->ratio : &r->ours;
}

static enum change change_of(const struct bench_result *before, const struct bench_result *after)
{
	const struct bench_side *a = judged(before), *b = judged(after);
	double by = b->median - a->median;

	if (before->has_base != after->has_base || !isfinite(by))
		return UNJUDGED;
	/* Without a spread it is a count that doesn't vary. */
	bool far = isfinite(a->min) && isfinite(b->min)
			   ? outside(a->median, b) && outside(b->median, a)
			   : true;
	if (!far || fabs(by) <= CHANGE_LEAST * fabs(a->median))
		return SAME;
	return (by > 0) == after->more_is_better ? BETTER : WORSE;
}

/* Small sizes are another question, and one round has no spread. */
static bool comparable(struct json_object *before, struct json_object *after)
{
	return bench_is_quick(before) == bench_is_quick(after) && !bench_is_single(before) &&
	       !bench_is_single(after);
}

/* ---- by name, so that a file of many is compared as fast as it is read */

/* To be put; of two of the same name the first. */
static struct json_object *index_of(struct json_object *array, const char *key)
{
	struct json_object *index = json_object_new_object();

	for (size_t i = 0; array && i < json_object_array_length(array); i++) {
		struct json_object *item = json_object_array_get_idx(array, i);
		const char *name = json_get_string(item, key);
		if (name && !json_object_object_get_ex(index, name, NULL))
			json_object_object_add(index, name, json_object_get(item));
	}
	return index;
}

static struct json_object *index_of_results(struct json_object *question)
{
	return index_of(json_get(question, "results", json_type_array), "name");
}

/* False: it isn't there, or has no figure. */
static bool figure_of(struct json_object *index, const char *name, struct bench_result *r)
{
	struct json_object *item;

	return json_object_object_get_ex(index, name, &item) && bench_result_read(item, r) &&
	       !r->skipped;
}

/* ---- two questions */

struct comparing {
	struct json_object *before, *after; /* the questions; NULL: it isn't there */
	struct json_object *results[2];     /* of them, by name */
	enum change wanted;
};

static void show(const struct comparing *c, const struct bench_result *before,
		 const struct bench_result *after)
{
	char a[24], b[24], by[24], of[16], name[48];
	bool noisy = before->noisy || after->noisy || bench_is_noisy(c->before) ||
		     bench_is_noisy(c->after);

	bench_plain(of, sizeof(of), bench_name(c->after));
	bench_plain(name, sizeof(name), after->name);
	bench_number(a, sizeof(a), judged(before)->median);
	bench_number(b, sizeof(b), judged(after)->median);
	bench_number(by, sizeof(by), judged(after)->median / judged(before)->median);
	printf("%-6s  %-12s %-32s %10s -> %-10s x %s%s\n", c->wanted == WORSE ? "WORSE" : "better",
	       of, name, a, b, by, noisy ? "  (noisy)" : "");
}

/* Shows those in both that have changed as wanted; how many. */
static size_t in_both(const struct comparing *c)
{
	struct bench_result a, b;
	size_t n = 0;

	json_object_object_foreach(c->results[1], name, item)
	{
		if (!figure_of(c->results[0], name, &a) || !figure_of(c->results[1], name, &b))
			continue;
		enum change change = comparable(c->before, c->after) ? change_of(&a, &b) : UNJUDGED;
		if (change != c->wanted)
			continue;
		if (change == BETTER || change == WORSE)
			show(c, &a, &b);
		n++;
	}
	return n;
}

/* Figures of @one that @other has not. */
static size_t in_one(struct json_object *one, struct json_object *other)
{
	struct bench_result r;
	size_t n = 0;

	json_object_object_foreach(one, name, item)
	{
		(void)item;
		n += figure_of(one, name, &r) && !figure_of(other, name, &r);
	}
	return n;
}

/* What has been answered before, and why it isn't now: it may have failed. */
static void show_why(const struct comparing *c)
{
	const char *skipped = json_get_string(c->after, "skipped");
	char of[16], why[256];

	if (!skipped || !json_object_object_length(c->results[0]))
		return;
	bench_plain(of, sizeof(of), bench_name(c->after));
	bench_plain(why, sizeof(why), skipped);
	printf("%-6s  %-12s %s\n", "gone", of, why);
}

static size_t each(struct json_object *before, struct json_object *after, enum change wanted)
{
	struct comparing c = {.before = before,
			      .after = after,
			      .results = {index_of_results(before), index_of_results(after)},
			      .wanted = wanted};
	size_t n;

	if (wanted == ALONE) {
		show_why(&c);
		n = in_one(c.results[0], c.results[1]) + in_one(c.results[1], c.results[0]);
	} else {
		n = in_both(&c);
	}
	json_object_put(c.results[0]);
	json_object_put(c.results[1]);
	return n;
}

/* ---- two files */

/* @before, @after: the questions by name. */
static size_t all_questions(struct json_object *before, struct json_object *after,
			    enum change wanted)
{
	struct json_object *other;
	size_t n = 0;

	json_object_object_foreach(after, name, question)
	{
		json_object_object_get_ex(before, name, &other);
		n += each(other, question, wanted);
	}
	json_object_object_foreach(before, old, gone)
	{
		if (!json_object_object_get_ex(after, old, NULL))
			n += each(gone, NULL, wanted);
	}
	return n;
}

size_t bench_compare(struct json_object *before, struct json_object *after)
{
	struct json_object *a = index_of(bench_all(before), "bench"),
			   *b = index_of(bench_all(after), "bench");
	size_t worse = all_questions(a, b, WORSE);
	size_t better = all_questions(a, b, BETTER);
	size_t alone = all_questions(a, b, ALONE);

	printf("%zu worse, %zu better, %zu within the noise, %zu only in one of the two", worse,
	       better, all_questions(a, b, SAME), alone);
	size_t unjudged = all_questions(a, b, UNJUDGED);
	if (unjudged)
		printf(", %zu can't be judged: of one round, or --quick beside --full", unjudged);
	putchar('\n');
	json_object_put(a);
	json_object_put(b);
	return worse;
}
