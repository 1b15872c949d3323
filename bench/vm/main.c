// SPDX-License-Identifier: MIT
/*
 * What does a guest notice when the QEMU under it is replaced?
 *
 * pageferry beside QEMU's own local migration, pre-copy and with RAM in a memfd: the same guest,
 * by turns. See vm.h.
 */
#include "bench/vm/vm.h"

#define RAM_MIN  256
#define RAM_MAX  65536
#define RUNS_MAX 100

static const char usage[] =
	"usage: vm [--ram MIB,...] [--way pageferry,precopy,memfd] [--runs N] [--json FILE]\n"
	"          [--qemu PATH] [--scale] [--quick]\n"
	"\n"
	"  --scale  does the gap grow with RAM? the same as --way pageferry --ram 512,8192\n"
	"  --quick  once: does it work at all?\n";

static unsigned int number(const char *option, const char *text, unsigned int min, unsigned int max)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || n < min || n > max)
		bench_cannot("%s %s: needs a number from %u to %u", option, text, min, max);
	return (unsigned int)n;
}

static void read_rams(struct options *o, char *list)
{
	char *save, *word;

	o->nrams = 0;
	for (word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		if (o->nrams == RAMS_MAX)
			bench_cannot("--ram: at most %d sizes", RAMS_MAX);
		o->ram_mib[o->nrams++] = number("--ram", word, RAM_MIN, RAM_MAX);
	}
}

static void read_ways(struct options *o, char *list)
{
	char *save, *word;

	memset(o->way, 0, sizeof(o->way));
	for (word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		int way = 0;

		while (way < WAYS && strcmp(ways[way]->name, word) != 0)
			way++;
		if (way == WAYS)
			bench_cannot("--way %s: the ways are pageferry, precopy and memfd", word);
		o->way[way] = true;
	}
}

static void read_value(struct options *o, const char *option, char *value)
{
	if (!value)
		bench_cannot("%s needs a value", option);
	if (!strcmp(option, "--ram"))
		read_rams(o, value);
	else if (!strcmp(option, "--way"))
		read_ways(o, value);
	else if (!strcmp(option, "--runs"))
		o->runs = number(option, value, 1, RUNS_MAX);
	else if (!strcmp(option, "--json"))
		o->json = value;
	else if (!strcmp(option, "--qemu"))
		o->qemu = value;
	else
		bench_cannot("%s: unknown option: see --help", option);
}

static void set_scale(struct options *o)
{
	memset(o->way, 0, sizeof(o->way));
	o->way[WAY_PAGEFERRY] = true;
	o->nrams = 2;
	o->ram_mib[0] = 512;
	o->ram_mib[1] = 8192;
}

static void set_quick(struct options *o)
{
	o->quick = true;
	o->runs = 1;
}

static struct options read_options(char **argv)
{
	struct options o = {
		.way = {true, true, true},
		.runs = 3,
		.nrams = 1,
		.ram_mib = {512},
		.qemu = "qemu-system-x86_64",
	};

	while (*++argv) {
		if (!strcmp(*argv, "--help")) {
			fputs(usage, stdout);
			exit(0);
		} else if (!strcmp(*argv, "--quick")) {
			set_quick(&o);
		} else if (!strcmp(*argv, "--scale")) {
			set_scale(&o);
		} else {
			read_value(&o, argv[0], argv[1]);
			argv++;
		}
	}
	if (!o.nrams)
		bench_cannot("--ram needs a size");
	return o;
}

static unsigned int plan(const struct options *o, struct results *results)
{
	unsigned int n = 0;

	for (unsigned int ram = 0; ram < o->nrams; ram++) {
		for (int way = 0; way < WAYS; way++) {
			if (!o->way[way])
				continue;
			results[n].way = ways[way];
			results[n++].ram_mib = o->ram_mib[ram];
		}
	}
	return n;
}

static void measure(const struct summary *s, struct results *r, unsigned int round)
{
	struct run run;
	char label[64];

	snprintf(label, sizeof(label), "%u/%u  %-15s", round, s->options->runs, r->way->title);
	printf("%sbooting a guest with %u MiB\n", label, r->ram_mib);
	fflush(stdout);
	run = vm_measure(s->place, s->options, r->way, r->ram_mib);
	if (run.lost)
		printf("%sprocess %d -> %d, GUEST LOST: %s\n", label, (int)run.old, (int)run.new,
		       run.lost);
	else
		printf("%sprocess %d -> %d in %.0f ms, largest gap %.1f ms, memory %s\n", label,
		       (int)run.old, (int)run.new, run.total_ms, run.gap_ms,
		       run.intact ? "intact" : "DAMAGED");
	fflush(stdout);
	results_add(r, &run);
}

/* Damage by a way that is known for it is shown, but nothing here can be done about it. */
static bool any_damage(const struct summary *s)
{
	for (unsigned int i = 0; i < s->n; i++)
		if (!s->results[i].intact && !s->results[i].way->may_damage)
			return true;
	return false;
}

static void print_guest(const struct summary *s)
{
	printf("QEMU   %s, accelerator tcg, %d CPU\n", s->place->qemu, GUEST_CPUS);
	printf("guest  Linux %s, %d %% of its RAM in a checked pattern, written to all the time\n\n",
	       s->place->version, FILL);
}

int main(int argc, char **argv)
{
	static struct results results[WAYS * RAMS_MAX];
	static struct options options;
	static struct place place;
	static struct summary s = {.place = &place, .options = &options, .results = results};

	(void)argc;
	options = read_options(argv);
	s.n = plan(&options, results);
	loop_catch_signals();
	summary_begin(&s);
	place_make(&place, &options);
	console_listen(&place);
	watch_start(&place);
	print_guest(&s);
	for (unsigned int round = 1; round <= options.runs; round++)
		for (unsigned int i = 0; i < s.n; i++)
			measure(&s, &results[i], round);
	watch_end();
	summary_table(&s);
	if (options.json)
		summary_json(&s);
	return any_damage(&s) ? BENCH_EXIT_FAIL : 0;
}
