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
	r->anonymous &= run->anonymous;
}

static const struct results *find(const struct summary *s, enum way_id way, unsigned int ram_mib)
{
	for (unsigned int i = 0; i < s->n; i++)
		if (s->results[i].way == ways[way] && s->results[i].ram_mib == ram_mib)
			return &s->results[i];
	return NULL;
}

/* ---- what is required */

static void require(struct requirements *list, double value, double limit, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static void require(struct requirements *list, double value, double limit, const char *fmt, ...)
{
	struct requirement *r = &list->v[list->n];
	va_list ap;

	/* No guest of the other side has lived to be compared with. */
	if (list->n == REQUIREMENTS_MAX || !isfinite(value))
		return;
	va_start(ap, fmt);
	vsnprintf(r->name, sizeof(r->name), fmt, ap);
	va_end(ap);
	r->value = value;
	r->limit = limit;
	list->n++;
}

static double median_ratio(const struct series *a, const struct series *b)
{
	return series_median(a) / series_median(b);
}

static void require_size(const struct summary *s, unsigned int ram_mib, struct requirements *list)
{
	const struct results *ours = find(s, WAY_PAGEFERRY, ram_mib);
	const struct results *memfd = find(s, WAY_MEMFD, ram_mib);
	const struct results *precopy = find(s, WAY_PRECOPY, ram_mib);

	if (!ours)
		return;
	if (memfd)
		require(list, median_ratio(&ours->gap, &memfd->gap), 1.2,
			"%u MiB: largest gap, pageferry to QEMU memfd", ram_mib);
	if (precopy)
		require(list, median_ratio(&ours->gap, &precopy->gap), 0.5,
			"%u MiB: largest gap, pageferry to QEMU pre-copy", ram_mib);
	require(list, series_median(&ours->extra) / ram_mib, 0.05,
		"%u MiB: peak extra memory with pageferry, to RAM", ram_mib);
}

struct requirements summary_requirements(const struct summary *s)
{
	const struct options *o = s->options;
	unsigned int last = o->ram_mib[o->nrams - 1];
	const struct results *small = find(s, WAY_PAGEFERRY, o->ram_mib[0]);
	const struct results *large = find(s, WAY_PAGEFERRY, last);
	struct requirements list = {.n = 0};

	for (unsigned int i = 0; i < o->nrams; i++)
		require_size(s, o->ram_mib[i], &list);
	if (o->nrams > 1 && small && large)
		require(&list, median_ratio(&large->gap, &small->gap), 1.5,
			"largest gap with pageferry, %u MiB to %u MiB", last, o->ram_mib[0]);
	return list;
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

static struct json_object *requirements_to_json(const struct summary *s)
{
	struct requirements list = summary_requirements(s);
	struct json_object *array = json_object_new_array();

	for (unsigned int i = 0; i < list.n; i++) {
		struct json_object *o = json_object_new_object();
		const struct requirement *r = &list.v[i];

		put_text(o, "name", r->name);
		put_number(o, "ratio", r->value);
		put_number(o, "at_most", r->limit);
		json_object_object_add(o, "reached", json_object_new_boolean(r->value <= r->limit));
		json_object_array_add(array, o);
	}
	return array;
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
	struct json_object *root = json_object_new_object(), *results = json_object_new_array();
	double wall = (double)(bench_now() - s->report.started) / 1e9;

	for (unsigned int i = 0; i < s->n; i++)
		json_object_array_add(results, results_to_json(&s->results[i]));
	put_text(root, "bench", program_invocation_short_name);
	put_text(root, "question", "what does a guest notice when the QEMU under it is replaced?");
	json_object_object_add(root, "quick", json_object_new_boolean(s->options->quick));
	json_object_object_add(root, "rounds", json_object_new_int64(s->options->runs));
	put_number(root, "seconds", wall);
	json_object_object_add(root, "host", report_host(&s->report, used_by_others(s)));
	json_object_object_add(root, "guest", guest_to_json(s));
	put_methods(root);
	json_object_object_add(root, "results", results);
	json_object_object_add(root, "required", requirements_to_json(s));
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
		const struct results *r = find(s, way, ram_mib);

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
	struct requirements list = summary_requirements(s);

	for (unsigned int i = 0; i < s->options->nrams; i++) {
		putchar('\n');
		table(s, s->options->ram_mib[i]);
	}
	explain_damage(s);
	if (used_by_others(s) > NOISY_OTHERS)
		printf("other processes used %.0f %% of the CPUs meanwhile: every gap is larger for it\n",
		       used_by_others(s) * 100);
	if (list.n)
		putchar('\n');
	for (unsigned int i = 0; i < list.n; i++)
		printf("%-58s %.2f (at most %.2f%s)\n", list.v[i].name, list.v[i].value,
		       list.v[i].limit, list.v[i].value <= list.v[i].limit ? "" : ": missed");
}
