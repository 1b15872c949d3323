// SPDX-License-Identifier: MIT
/*
 * The figures as a page: one file that refers to nothing else, for light and for dark. What is in
 * it may come from anybody's file, so no text gets in but by put_text().
 */
#include <math.h>
#include <string.h>

#include "tools/bench.h"

#define NAMES_MAX 64u

static void put_text(FILE *out, const char *text)
{
	for (; *text; text++) {
		switch (*text) {
		case '<':
			fputs("&lt;", out);
			break;
		case '>':
			fputs("&gt;", out);
			break;
		case '&':
			fputs("&amp;", out);
			break;
		case '"':
			fputs("&quot;", out);
			break;
		case '\'':
			fputs("&#39;", out);
			break;
		default:
			putc((unsigned char)*text < 0x20 ? ' ' : *text, out);
		}
	}
}

static void put_element(FILE *out, const char *element, const char *text)
{
	fprintf(out, "<%s>", element);
	put_text(out, text);
	fprintf(out, "</%.*s>", (int)strcspn(element, " "), element);
}

static const char head[] =
	"<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
	"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
	"<title>pageferry: figures</title>\n<style>\n"
	":root { color-scheme: light dark; --line: #8884; --soft: #777; --bad: #c0392b; --good: #22863a }\n"
	"@media (prefers-color-scheme: dark) { :root { --soft: #aaa; --bad: #ff7b6b; --good: #6fcf82 } }\n"
	"body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }\n"
	"h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid var(--line);"
	" padding-top: 1rem }\n"
	".wide { overflow-x: auto } table { border-collapse: collapse; font-size: .88rem }\n"
	"th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line);"
	" vertical-align: top }\n"
	"td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }\n"
	".soft { color: var(--soft) } .bad { color: var(--bad) } .good { color: var(--good) }\n"
	"svg { width: 100%; max-width: 780px; height: auto; display: block; margin: 1rem 0 }\n"
	"</style>\n</head>\n<body>\n<h1>pageferry: figures</h1>\n";

static const char explanation[] =
	"<p>Each figure of ours stands beside that of the plain way to do the same, measured in turn in the same "
	"run: absolute times are of this machine, the ratio is what counts. A figure is the median of the rounds, "
	"in parentheses their least and greatest; the ratio is that of the medians, with the ratios of the single "
	"rounds. <em>Noisy</em>: the rounds differ so much that the ratio is not to be trusted. The contents of all "
	"memory that was moved were compared; wrong ones end a bench without figures.</p>\n";

/* ---- numbers */

static void put_side(FILE *out, const struct bench_side *s, bool there)
{
	char median[24], min[24], max[24];

	bench_number(median, sizeof(median), there ? s->median : NAN);
	fprintf(out, "<td class=n>%s</td><td class=\"n soft\">", median);
	if (there && s->min < s->max) {
		bench_number(min, sizeof(min), s->min);
		bench_number(max, sizeof(max), s->max);
		fprintf(out, "(%s to %s)", min, max);
	}
	fputs("</td>", out);
}

static void put_limit(FILE *out, const struct bench_result *r, bool quick)
{
	char limit[24];

	fputs("<td>", out);
	if (r->has_limit) {
		bench_number(limit, sizeof(limit), r->limit);
		if (!quick)
			fputs(r->reached ? "<span class=good>reached</span> "
					 : "<span class=bad>missed</span> ",
			      out);
		fprintf(out, "at %s %s%s", r->at_least ? "least" : "most", limit,
			r->limit_of_ours ? " (ours)" : "");
	}
	fprintf(out, "%s</td>", r->noisy ? " <span class=soft>noisy</span>" : "");
}

static void put_result(FILE *out, const struct bench_result *r, bool quick)
{
	fputs("<tr><td title=\"", out);
	if (!r->skipped) {
		put_text(out, r->ours.what);
		fputs(" beside ", out);
		put_text(out, r->base.what);
	}
	fputs("\">", out);
	put_text(out, r->name);
	fputs("</td>", out);
	if (r->skipped) {
		put_element(out, "td colspan=8 class=soft", r->skipped);
	} else {
		put_element(out, "td", r->unit);
		put_side(out, &r->base, r->has_base);
		put_side(out, &r->ours, true);
		put_side(out, &r->ratio, r->has_base);
		put_limit(out, r, quick);
	}
	fputs("</tr>\n", out);
}

static void put_table(FILE *out, struct json_object *question)
{
	struct bench_result r;

	fputs("<div class=wide><table>\n<tr><th>figure</th><th>unit</th><th class=n colspan=2>baseline</th>"
	      "<th class=n colspan=2>ours</th><th class=n colspan=2>ratio</th><th>wanted</th></tr>\n",
	      out);
	for (size_t i = 0; i < bench_results(question); i++)
		if (bench_result_at(question, i, &r))
			put_result(out, &r, bench_is_quick(question));
	fputs("</table></div>\n", out);
}

/* ---- pictures */

struct names {
	struct name {
		const char *name;
		double x; /* of the first */
		bool two; /* there is another x */
	} v[NAMES_MAX];
	size_t n;
};

static void add_name(struct names *names, const char *name, double x)
{
	for (size_t i = 0; i < names->n; i++) {
		if (strcmp(names->v[i].name, name) != 0)
			continue;
		names->v[i].two |= x < names->v[i].x || x > names->v[i].x;
		return;
	}
	if (names->n < NAMES_MAX)
		names->v[names->n++] = (struct name){.name = name, .x = x};
}

static int put_picture(FILE *out, struct json_object *question, const char *name, struct why *why,
		       int (*plot)(FILE *, struct json_object *, const char *, struct why *))
{
	put_element(out, "h3", name);
	return plot(out, question, name, why);
}

static int put_curves(FILE *out, struct json_object *question, struct why *why)
{
	struct names names = {.n = 0};
	struct bench_result r;
	int ret = 0;

	for (size_t i = 0; i < bench_results(question); i++)
		if (bench_result_at(question, i, &r) && r.curve)
			add_name(&names, r.curve, r.x);
	/* One point is no curve. */
	for (size_t i = 0; !ret && i < names.n; i++)
		if (names.v[i].two)
			ret = put_picture(out, question, names.v[i].name, why, bench_plot_curve);
	return ret;
}

static int put_histograms(FILE *out, struct json_object *question, struct why *why)
{
	struct json_object *all = json_get(question, "histograms", json_type_array);
	struct names names = {.n = 0};
	int ret = 0;

	for (size_t i = 0; all && i < json_object_array_length(all); i++) {
		const char *group = json_get_string(json_object_array_get_idx(all, i), "group");
		if (group)
			add_name(&names, group, 0);
	}
	for (size_t i = 0; !ret && i < names.n; i++)
		ret = put_picture(out, question, names.v[i].name, why, bench_plot_histograms);
	return ret;
}

/* ---- the page */

static void put_facts(FILE *out, struct json_object *object)
{
	if (!object)
		return;
	json_object_object_foreach(object, key, value)
	{
		fputs("<tr>", out);
		put_element(out, "th", key);
		put_element(out, "td", value ? json_object_get_string(value) : "-");
		fputs("</tr>\n", out);
	}
}

static void put_host(FILE *out, struct json_object *file)
{
	struct json_object *all = bench_all(file), *host = NULL;
	const char *date = json_get_string(file, "date"),
		   *version = json_get_string(file, "version");

	for (size_t i = 0; !host && i < json_object_array_length(all); i++)
		host = json_get(json_object_array_get_idx(all, i), "host", json_type_object);
	fputs("<h2>Where and when</h2>\n<div class=wide><table>\n<tr><th>date</th>", out);
	put_element(out, "td", date ? date : "-");
	fputs("</tr>\n<tr><th>pageferry</th>", out);
	put_element(out, "td", version ? version : "-");
	fputs("</tr>\n", out);
	put_facts(out, host);
	fputs("</table></div>\n", out);
}

static void count_limits(struct json_object *file, size_t *all, size_t *reached)
{
	struct json_object *questions = bench_all(file);
	struct bench_result r;

	*all = *reached = 0;
	for (size_t k = 0; k < json_object_array_length(questions); k++) {
		struct json_object *q = json_object_array_get_idx(questions, k);
		for (size_t i = 0; i < bench_results(q); i++) {
			bool counts = bench_result_at(q, i, &r) && !r.skipped && r.has_limit;
			*all += counts;
			*reached += counts && r.reached;
		}
	}
}

static int put_question(FILE *out, struct json_object *question, struct why *why)
{
	const char *about = json_get_string(question, "question");
	const char *skipped = json_get_string(question, "skipped");
	const char *method = json_get_string(question, "method");

	fputs("<section id=\"", out);
	put_text(out, bench_name(question));
	fputs("\">\n", out);
	put_element(out, "h2", bench_name(question));
	put_element(out, "p", about ? about : "");
	if (skipped)
		put_element(out, "p class=soft", skipped);
	else
		put_table(out, question);
	if (method)
		put_element(out, "p class=soft", method);
	int ret = put_curves(out, question, why);
	if (!ret)
		ret = put_histograms(out, question, why);
	fputs("</section>\n", out);
	return ret;
}

int bench_page(FILE *out, struct json_object *file, struct why *why)
{
	struct json_object *all = bench_all(file);
	size_t limits, reached;
	int ret = 0;

	fputs(head, out);
	fputs(explanation, out);
	count_limits(file, &limits, &reached);
	if (json_object_get_boolean(json_get(file, "quick", json_type_boolean)))
		fputs("<p><strong>Of a quick run: small sizes and few rounds, to see whether it "
		      "works; not to be judged.</strong></p>\n",
		      out);
	else
		fprintf(out, "<p>Of %zu limits %zu are reached.</p>\n", limits, reached);
	put_host(out, file);
	for (size_t i = 0; !ret && i < json_object_array_length(all); i++)
		ret = put_question(out, json_object_array_get_idx(all, i), why);
	fputs("</body>\n</html>\n", out);
	return ret;
}
