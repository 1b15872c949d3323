// SPDX-License-Identifier: MIT
/* From the runs to the report, as JSON and as a table. */
#include "bench/vm/vm.h"

static struct json_object *run_to_json(const struct run *run)
{
	struct json_object *o = json_object_new_object();

	if (run->lost) {
		put_text(o, "lost", run->lost);
		json_object_put(run->details);
		return o;
	}
	put_number(o, "gap_ms", run->gap_ms);
	put_number(o, "gap_at_ms", run->gap_at_ms);
	put_number(o, "baseline_gap_ms", run->baseline_gap_ms);
	put_number(o, "window_ms", run->window_ms);
	put_number(o, "total_ms", run->total_ms);
	put_number(o, "before_mib", run->base_mib);
	put_number(o, "peak_mib", run->peak_mib);
	put_number(o, "extra_mib", run->extra_mib);
	json_object_object_add(o, "samples", json_object_new_int64(run->samples));
	json_object_object_add(o, "ram_anonymous", json_object_new_boolean(run->anonymous));
	json_object_object_add(o, "intact", json_object_new_boolean(run->intact));
	json_object_object_add(o, "filled_mib", json_object_new_int64((int64_t)run->filled_mib));
	json_object_object_add(o, "page_writes", json_object_new_int64((int64_t)run->writes));
	json_object_object_add(o, "corrupt_pages", json_object_new_int64((int64_t)run->corrupt));
	json_object_object_add(o, "ticks_lost", json_object_new_int64(run->skips));
	json_object_object_add(o, "told", run->details);
	return o;
}

void results_add(struct results *r, const struct run *run)
{
	if (!r->runs) {
		r->runs = json_object_new_array();
		r->anonymous = r->intact = true;
	}
	r->intact &= run->intact;
	json_object_array_add(r->runs, run_to_json(run));
	if (run->lost) {
		r->lost++;
		return;
	}
	series_add(&r->gap, run->gap_ms);
	series_add(&r->baseline, run->baseline_gap_ms);
	series_add(&r->total, run->total_ms);
	series_add(&r->peak, run->peak_mib);
	series_add(&r->extra, run->extra_mib);
	series_add(&r->ram, r->ram_mib);
	r->anonymous &= run->anonymous;
}

/* ---- JSON */

static void put_series(struct json_object *o, const char *key, const struct series *s)
{
	struct json_object *v = json_object_new_object();
	struct series sorted = series_sorted(s);

	put_number(v, "median", series_median(s));
	put_number(v, "min", sorted.v[0]);
	put_number(v, "max", sorted.v[sorted.n - 1]);
	json_object_object_add(o, key, v);
}

static void put_figures(struct json_object *o, const struct results *r)
{
	put_series(o, "gap_ms", &r->gap);
	put_series(o, "baseline_gap_ms", &r->baseline);
	put_series(o, "total_ms", &r->total);
	put_series(o, "peak_mib", &r->peak);
	put_series(o, "extra_mib", &r->extra);
	put_number(o, "extra_percent_of_ram", series_median(&r->extra) / r->ram_mib * 100);
	json_object_object_add(o, "ram_anonymous", json_object_new_boolean(r->anonymous));
}

static struct json_object *results_to_json(const struct results *r)
{
	struct json_object *o = json_object_new_object();

	put_text(o, "way", r->way->name);
	json_object_object_add(o, "ram_mib", json_object_new_int64(r->ram_mib));
	json_object_object_add(o, "guests_lost", json_object_new_int64(r->lost));
	if (r->gap.n)
		put_figures(o, r);
	json_object_object_add(o, "intact", json_object_new_boolean(r->intact));
	if (!r->intact && r->way->may_damage)
		put_text(o, "why_damaged", r->way->may_damage);
	json_object_object_add(o, "runs", r->runs);
	return o;
}

static struct json_object *guest_to_json(const struct summary *s)
{
	struct json_object *o = json_object_new_object();

	put_text(o, "kernel", s->place->version);
	put_text(o, "qemu", s->place->qemu);
	put_text(o, "accelerator", "tcg");
	json_object_object_add(o, "cpus", json_object_new_int64(GUEST_CPUS));
	json_object_object_add(o, "filled_percent", json_object_new_int64(FILL));
	json_object_object_add(o, "writers", json_object_new_int64(WRITERS));
	json_object_object_add(o, "pace_us", json_object_new_int64(PACE_US));
	return o;
}

/* How each figure came to be, for the reader of the file. */
static void put_methods(struct json_object *root)
{
	struct json_object *o = json_object_new_object();

	put_text(o, "gap_ms",
		 "largest time between two of the guest's 1 ms ticks as a process outside sees "
		 "them, from just before the upgrade to a second after its end");
	put_text(o, "baseline_gap_ms", "the same in as long a window without an upgrade");
	put_text(o, "total_ms",
		 "from before the new QEMU is started until the old process is gone");
	put_text(o, "peak_mib",
		 "RssAnon of both QEMUs, and what the file holds that both map, once; every 5 ms");
	put_text(o, "extra_mib", "peak_mib without what the old QEMU had before");
	put_text(o, "ram_anonymous", "from smaps of the new QEMU");
	put_text(o, "intact", "the guest compares every filled page with what it must hold");
	put_text(o, "guests_lost",
		 "guests that ended or stood still before they could be asked: not in the figures");
	put_text(o, "precopy", "QEMU's defaults, but max-bandwidth is 16 GiB/s");
	put_text(o, "memfd",
		 "memory-backend-memfd,share=on; the new QEMU opens the same memfd as "
		 "memory-backend-file; x-ignore-shared; max-bandwidth as above");
	json_object_object_add(root, "methods", o);
}

void summary_begin(struct summary *s)
{
	s->report.started = bench_now();
	s->report.busy = host_busy() - own_busy();
	if (getloadavg(&s->report.load, 1) != 1)
		s->report.load = 0;
}

/* Part of the host's CPU time that had nothing to do with the bench. */
static double used_by_others(const struct summary *s)
{
	double wall = (double)(bench_now() - s->report.started) / 1e9;
	double busy = host_busy() - own_busy() - s->report.busy;

	return busy > 0 ? busy / wall / (double)sysconf(_SC_NPROCESSORS_ONLN) : 0;
}

void summary_json(struct summary *s)
{
	struct json_object *root = json_object_new_object(), *all = json_object_new_array();
	struct report *report = &s->report;
	static struct figures figures;
	double wall = (double)(bench_now() - s->report.started) / 1e9;

	for (unsigned int i = 0; i < s->n; i++)
		json_object_array_add(all, results_to_json(&s->results[i]));
	report->results = json_object_new_array();
	figures_find(&figures, s);
	for (unsigned int i = 0; i < figures.n; i++)
		report_add(report, &figures.v[i].c);
	put_text(root, "bench", program_invocation_short_name);
	put_text(root, "question", "what does a guest notice when the QEMU under it is replaced?");
	json_object_object_add(root, "quick", json_object_new_boolean(s->options->quick));
	json_object_object_add(root, "rounds", json_object_new_int64(s->options->runs));
	put_number(root, "seconds", wall);
	json_object_object_add(root, "host", report_host(&s->report, used_by_others(s)));
	json_object_object_add(root, "guest", guest_to_json(s));
	put_methods(root);
	json_object_object_add(root, "noisy",
			       json_object_new_boolean(report->noisy ||
						       used_by_others(s) > NOISY_OTHERS));
	json_object_object_add(root, "results", report->results);
	json_object_object_add(root, "ways", all);
	if (json_object_to_file_ext(s->options->json, root, JSON_C_TO_STRING_PRETTY))
		bench_fail("%s: can't be written: %s", s->options->json, json_util_get_last_err());
	json_object_put(root);
}

/* ---- the table */

#define LABEL "%-38s"
#define CELL  "%19s"

typedef void cell_fn(const struct results *r, char *text, size_t size);

static void format(char *text, size_t size, double value, const char *unit)
{
	snprintf(text, size, value < 100 ? "%.1f %s" : "%.0f %s", value, unit);
}

static void cell_gap(const struct results *r, char *text, size_t size)
{
	format(text, size, series_median(&r->gap), "ms");
}

static void cell_gap_range(const struct results *r, char *text, size_t size)
{
	struct series s = series_sorted(&r->gap);

	snprintf(text, size, "%.1f to %.1f ms", s.v[0], s.v[s.n - 1]);
}

static void cell_baseline(const struct results *r, char *text, size_t size)
{
	format(text, size, series_median(&r->baseline), "ms");
}

static void cell_total(const struct results *r, char *text, size_t size)
{
	format(text, size, series_median(&r->total), "ms");
}

static void cell_peak(const struct results *r, char *text, size_t size)
{
	format(text, size, series_median(&r->peak), "MiB");
}

static void cell_extra(const struct results *r, char *text, size_t size)
{
	double extra = series_median(&r->extra);

	snprintf(text, size, extra < 100 ? "%.1f MiB (%.1f %%)" : "%.0f MiB (%.0f %%)", extra,
		 extra / r->ram_mib * 100);
}

static void cell_anonymous(const struct results *r, char *text, size_t size)
{
	snprintf(text, size, "%s", r->anonymous ? "yes" : "no");
}

static void cell_intact(const struct results *r, char *text, size_t size)
{
	snprintf(text, size, "%s", r->intact ? "yes" : "NO");
}

static void cell_title(const struct results *r, char *text, size_t size)
{
	snprintf(text, size, "%s", r->way->title);
}

/* @lived: a figure, of which there is none where no guest has lived to be measured. */
static void print_row(const struct summary *s, unsigned int ram_mib, const char *label,
		      cell_fn *cell, bool lived)
{
	char text[32];

	printf(LABEL, label);
	for (int way = 0; way < WAYS; way++) {
		const struct results *r = results_of(s, way, ram_mib);

		if (!r)
			continue;
		if (lived && !r->gap.n)
			snprintf(text, sizeof(text), "-");
		else
			cell(r, text, sizeof(text));
		printf(CELL, text);
	}
	putchar('\n');
}

static void row(const struct summary *s, unsigned int ram_mib, const char *label, cell_fn *cell)
{
	print_row(s, ram_mib, label, cell, false);
}

static void figures(const struct summary *s, unsigned int ram_mib, const char *label, cell_fn *cell)
{
	print_row(s, ram_mib, label, cell, true);
}

static void table(const struct summary *s, unsigned int ram_mib)
{
	char label[64];

	snprintf(label, sizeof(label), "%u MiB, %u upgrade%s each", ram_mib, s->options->runs,
		 s->options->runs > 1 ? "s" : "");
	row(s, ram_mib, label, cell_title);
	figures(s, ram_mib, "largest gap seen by the guest", cell_gap);
	if (s->options->runs > 1)
		figures(s, ram_mib, "  smallest to largest", cell_gap_range);
	figures(s, ram_mib, "  as long, without an upgrade", cell_baseline);
	figures(s, ram_mib, "total time until the old QEMU is gone", cell_total);
	figures(s, ram_mib, "peak memory of both QEMUs together", cell_peak);
	figures(s, ram_mib, "  of that extra (percent of RAM)", cell_extra);
	figures(s, ram_mib, "guest RAM is anonymous", cell_anonymous);
	row(s, ram_mib, "guest memory is intact", cell_intact);
}

static void explain_damage(const struct summary *s)
{
	for (unsigned int i = 0; i < s->n; i++) {
		const struct results *r = &s->results[i];

		if (r->lost)
			printf("%s: %u of %u guests lost: they are in no other figure\n",
			       r->way->title, r->lost, s->options->runs);
		if (!r->intact && r->way->may_damage)
			printf("%s: damaged or lost: %s\n", r->way->title, r->way->may_damage);
	}
}

void summary_table(const struct summary *s)
{
	static struct figures list;

	figures_find(&list, s);
	for (unsigned int i = 0; i < s->options->nrams; i++) {
		putchar('\n');
		table(s, s->options->ram_mib[i]);
	}
	explain_damage(s);
	if (used_by_others(s) > NOISY_OTHERS)
		printf("other processes used %.0f %% of the CPUs meanwhile: every gap is larger for it\n",
		       used_by_others(s) * 100);
	putchar('\n');
	for (unsigned int i = 0; i < list.n; i++) {
		const struct figure *f = &list.v[i];
		double ratio = figure_ratio(f);
		if (f->c.limit > 0)
			printf("%-58s %.2f (at most %.2f%s)\n", f->title, ratio, f->c.limit,
			       ratio <= f->c.limit ? "" : ": missed");
	}
}
