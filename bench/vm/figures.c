// SPDX-License-Identifier: MIT
/* What is compared, and what is required of it. */
#include "bench/vm/vm.h"

const struct results *results_of(const struct summary *s, enum way_id way, unsigned int ram_mib)
{
	for (unsigned int i = 0; i < s->n; i++)
		if (s->results[i].way == ways[way] && s->results[i].ram_mib == ram_mib)
			return &s->results[i];
	return NULL;
}

static void add(struct figures *list, struct comparison c, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* @fmt: the name for people. */
static void add(struct figures *list, struct comparison c, const char *fmt, ...)
{
	struct figure *f = &list->v[list->n];
	va_list ap;

	/* No guest of one of the sides has lived to be compared. */
	if (list->n == FIGURES_MAX || !c.base->n || !c.ours->n)
		return;
	va_start(ap, fmt);
	vsnprintf(f->title, sizeof(f->title), fmt, ap);
	va_end(ap);
	snprintf(f->name, sizeof(f->name), "%s", c.name);
	f->c = c;
	f->c.name = f->name;
	list->n++;
}

static void add_gaps(const struct summary *s, const struct results *ours, struct figures *list)
{
	static const struct {
		enum way_id way;
		const char *name, *title;
		double limit;
	} others[] = {
		{WAY_MEMFD, "memfd", "QEMU memfd", 1.2},
		{WAY_PRECOPY, "precopy", "QEMU pre-copy", 0.5},
	};

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		const struct results *base = results_of(s, others[i].way, ours->ram_mib);
		char name[FIGURE_NAME];
		if (!base)
			continue;
		snprintf(name, sizeof(name), "gap_to_%s_%u_mib", others[i].name, ours->ram_mib);
		add(list,
		    (struct comparison){.name = name,
					.unit = "ms",
					.base_what = base->way->title,
					.ours_what = "pageferry",
					.base = &base->gap,
					.ours = &ours->gap,
					.limit = others[i].limit},
		    "%u MiB: largest gap, pageferry to %s", ours->ram_mib, others[i].title);
	}
}

static void add_size(const struct summary *s, const struct results *ours, struct figures *list)
{
	char name[FIGURE_NAME];

	add_gaps(s, ours, list);
	snprintf(name, sizeof(name), "extra_of_ram_%u_mib", ours->ram_mib);
	add(list,
	    (struct comparison){.name = name,
				.unit = "MiB",
				.base_what = "the guest's RAM",
				.ours_what = "peak extra memory",
				.base = &ours->ram,
				.ours = &ours->extra,
				.limit = 0.05},
	    "%u MiB: peak extra memory with pageferry, to RAM", ours->ram_mib);
	snprintf(name, sizeof(name), "gap_%u_mib", ours->ram_mib);
	add(list,
	    (struct comparison){.name = name,
				.unit = "ms",
				.base_what = "largest gap as long without an upgrade",
				.ours_what = "largest gap in an upgrade by pageferry",
				.base = &ours->baseline,
				.ours = &ours->gap,
				.curve = "gap",
				.x_what = "MiB of guest RAM",
				.x = ours->ram_mib},
	    "%u MiB: largest gap, with and without an upgrade", ours->ram_mib);
}

static void add_growth(const struct results *small, const struct results *large,
		       struct figures *list)
{
	char name[FIGURE_NAME];

	snprintf(name, sizeof(name), "gap_%u_to_%u_mib", large->ram_mib, small->ram_mib);
	add(list,
	    (struct comparison){.name = name,
				.unit = "ms",
				.base_what = "the small guest",
				.ours_what = "the large guest",
				.base = &small->gap,
				.ours = &large->gap,
				.limit = 1.5},
	    "largest gap with pageferry, %u MiB to %u MiB", large->ram_mib, small->ram_mib);
}

void figures_find(struct figures *list, const struct summary *s)
{
	const struct options *o = s->options;
	const struct results *small = results_of(s, WAY_PAGEFERRY, o->ram_mib[0]);
	const struct results *large = results_of(s, WAY_PAGEFERRY, o->ram_mib[o->nrams - 1]);

	list->n = 0;
	for (unsigned int i = 0; i < o->nrams; i++) {
		const struct results *ours = results_of(s, WAY_PAGEFERRY, o->ram_mib[i]);
		if (ours)
			add_size(s, ours, list);
	}
	if (o->nrams > 1 && small && large)
		add_growth(small, large, list);
}

double figure_ratio(const struct figure *f)
{
	return series_median(f->c.ours) / series_median(f->c.base);
}
