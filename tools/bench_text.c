// SPDX-License-Identifier: MIT
/* The figures of a question as a table for a terminal. */

#include "tools/bench.h"

#define CELL 80

void bench_plain(char *to, size_t size, const char *from)
{
	snprintf(to, size, "%s", from);
	say_plain(to);
}

static void spread(char *text, size_t size, const struct bench_side *side)
{
	char median[24], min[24], max[24];

	bench_number(median, sizeof(median), side->median);
	bench_number(min, sizeof(min), side->min);
	bench_number(max, sizeof(max), side->max);
	if (side->min < side->max)
		snprintf(text, size, "%s (%s..%s)", median, min, max);
	else
		snprintf(text, size, "%s", median);
}

static const char *verdict(const struct bench_result *r, bool quick, char *text, size_t size)
{
	char limit[24];

	if (!r->has_limit)
		return r->noisy ? "noisy" : "";
	bench_number(limit, sizeof(limit), r->limit);
	snprintf(text, size, "%s %s%s%s%s", r->at_least ? "at least" : "at most", limit,
		 r->limit_of_ours ? " (ours)" : "", r->reached || quick ? "" : ": missed",
		 r->noisy ? ", noisy" : "");
	return text;
}

static void print_result(const struct bench_result *r, bool quick)
{
	char name[CELL], unit[24], base[CELL], ours[CELL], ratio[CELL], limit[CELL];

	bench_plain(name, sizeof(name), r->name);
	bench_plain(unit, sizeof(unit), r->unit);
	if (r->skipped) {
		char why[256];
		bench_plain(why, sizeof(why), r->skipped);
		printf("  %-32s not here: %s\n", name, why);
		return;
	}
	spread(base, sizeof(base), &r->base);
	spread(ours, sizeof(ours), &r->ours);
	spread(ratio, sizeof(ratio), &r->ratio);
	printf("  %-32s %-8s %24s %24s  %20s  %s\n", name, unit, r->has_base ? base : "-", ours,
	       r->has_base ? ratio : "-", verdict(r, quick, limit, sizeof(limit)));
}

void bench_print(struct json_object *question)
{
	struct bench_result r;
	const char *about = json_get_string(question, "question");
	const char *skipped = json_get_string(question, "skipped");
	char name[CELL], head[256];

	bench_plain(name, sizeof(name), bench_name(question));
	bench_plain(head, sizeof(head), about ? about : "");
	printf("%s: %s%s\n", name, head,
	       bench_is_quick(question)   ? " (quick: not to be judged)"
	       : bench_is_noisy(question) ? " (noisy)"
					  : "");
	if (skipped) {
		bench_plain(head, sizeof(head), skipped);
		printf("  not here: %s\n\n", head);
		return;
	}
	printf("  %-32s %-8s %24s %24s  %20s  %s\n", "", "", "baseline", "ours", "ratio", "wanted");
	for (size_t i = 0; i < bench_results(question); i++)
		if (bench_result_at(question, i, &r))
			print_result(&r, bench_is_quick(question));
	putchar('\n');
}
