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

enum change { SAME, BETTER, WORSE, UNKNOWN };

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
	double by = b->median / a->median;

	if (before->skipped || after->skipped || before->has_base != after->has_base ||
	    !isfinite(by) || by <= 0)
		return UNKNOWN;
	/* Without a spread it is a count that doesn't vary. */
	bool far = isfinite(a->min) && isfinite(b->min)
			   ? outside(a->median, b) && outside(b->median, a)
			   : true;
	if (!far || fabs(by - 1) < CHANGE_LEAST)
		return SAME;
	return (by > 1) == after->more_is_better ? BETTER : WORSE;
}

static struct json_object *same_question(struct json_object *file, const char *name)
{
	struct json_object *all = bench_all(file);

	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *q = json_object_array_get_idx(all, i);
		if (!strcmp(bench_name(q), name))
			return q;
	}
	return NULL;
}

static bool same_result(struct json_object *question, const char *name, struct bench_result *r)
{
	for (size_t i = 0; i < bench_results(question); i++)
		if (bench_result_at(question, i, r) && !strcmp(r->name, name))
			return true;
	return false;
}

static void show(const char *question, const struct bench_result *before,
		 const struct bench_result *after, enum change change)
{
	static const char *const words[] = {"", "better", "WORSE", ""};
	char a[24], b[24], by[24], of[16], name[48];

	bench_plain(of, sizeof(of), question);
	bench_plain(name, sizeof(name), after->name);
	bench_number(a, sizeof(a), judged(before)->median);
	bench_number(b, sizeof(b), judged(after)->median);
	bench_number(by, sizeof(by), judged(after)->median / judged(before)->median);
	printf("%-6s  %-12s %-32s %10s -> %-10s x %s%s\n", words[change], of, name, a, b, by,
	       before->noisy || after->noisy ? "  (noisy)" : "");
}

/* Shows those that have changed like @wanted; how many. */
static size_t each(struct json_object *before, struct json_object *after, enum change wanted)
{
	struct bench_result a, b;
	size_t n = 0;

	for (size_t i = 0; i < bench_results(after); i++) {
		if (!bench_result_at(after, i, &b))
			continue;
		if ((same_result(before, b.name, &a) ? change_of(&a, &b) : UNKNOWN) != wanted)
			continue;
		if (wanted == BETTER || wanted == WORSE)
			show(bench_name(after), &a, &b, wanted);
		n++;
	}
	return n;
}

static size_t all_questions(struct json_object *before, struct json_object *after,
			    enum change wanted)
{
	struct json_object *all = bench_all(after);
	size_t n = 0;

	for (size_t i = 0; i < json_object_array_length(all); i++) {
		struct json_object *q = json_object_array_get_idx(all, i);
		n += each(same_question(before, bench_name(q)), q, wanted);
	}
	return n;
}

size_t bench_compare(struct json_object *before, struct json_object *after)
{
	size_t worse = all_questions(before, after, WORSE);
	size_t better = all_questions(before, after, BETTER);
	size_t same = all_questions(before, after, SAME);
	size_t unknown = all_questions(before, after, UNKNOWN);

	printf("%zu worse, %zu better, %zu within the noise, %zu only in one of the two\n", worse,
	       better, same, unknown);
	return worse;
}
