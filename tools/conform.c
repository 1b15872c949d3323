// SPDX-License-Identifier: MIT
/* pageferry conform: the table, and what in it is news. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "lib/clock.h"
#include "lib/module.h"
#include "tools/conform.h"
#include "tools/json_add.h"

#define EXIT_DIFFERS 1
#define LIMIT_MS     4000u  /* of a trial */
#define LONG_MS      10000u /* of one that waits for KSM or swap, up to 8 s */
#define ROOM         192u
#define COMMAND      "pageferry conform"

enum { OPT_JSON = 256, OPT_WAY, OPT_EXPECTED };

struct options {
	bool json, by_module;
	const char *expected;
};

struct cell {
	const struct conform_kind *kind;
	enum conform_call call;
	struct trial_cell seen;
	bool in_vain;                  /* it wasn't tried, after a long time */
	const char *manual, *expected; /* NULL: nothing is said of it */
};

struct table {
	struct options options;
	struct utsname kernel;
	struct trial_expected *manual, *expected;
	size_t ncells;
	struct cell cells[ROOM];
};

static const char help[] =
	"usage: " COMMAND " [--json] [--way kernel|module] [--expected FILE]\n"
	"\n"
	"Say what the calls of userfaultfd answer for each kind of memory, found by trying; what the manual\n"
	"says of it; and what differs. Everything that is changed on the host is put back.\n"
	"\n"
	"  --json           print it for programs\n"
	"  --way WAY        kernel: what the kernel has; module: the MOVE of the kernel module\n"
	"  --expected FILE  compare with these answers, not with those known of this kernel's series\n"
	"\n"
	"Exit status: 0: as expected; 1: something isn't, or contents were wrong; 2: usage or other error.\n";

/* ---- what a cell is */

static bool tried(const struct cell *c)
{
	return strcmp(c->seen.verdict, "not here");
}

/* Whatever is expected */
static bool contents_wrong(const struct cell *c)
{
	return !strncmp(c->seen.verdict, "wrong", 5);
}

static bool is_wrong(const struct cell *c)
{
	return contents_wrong(c) || !strcmp(c->seen.verdict, "died");
}

static bool is_news(const struct cell *c)
{
	if (c->expected && !contents_wrong(c))
		return tried(c) && strcmp(c->expected, c->seen.verdict) != 0;
	return is_wrong(c);
}

/* The manual doesn't tell whether a huge page stays one. */
static bool defies_manual(const struct cell *c)
{
	size_t len = c->manual ? strlen(c->manual) : 0;

	if (!c->manual || !strcmp(c->manual, "silent") || !tried(c))
		return false;
	return strncmp(c->manual, c->seen.verdict, len) != 0 ||
	       (c->seen.verdict[len] && c->seen.verdict[len] != ',');
}

static bool is_expected(const struct cell *c)
{
	return c->expected;
}

static unsigned int count(const struct table *t, bool (*is)(const struct cell *c))
{
	unsigned int n = 0;

	for (size_t i = 0; i < t->ncells; i++)
		n += is(&t->cells[i]);
	return n;
}

/* ---- finding it out */

/* Memory that has been waited for in vain isn't waited for again; that of CONTINUE is other memory.
 */
static const struct cell *missed_before(const struct table *t, const struct conform_kind *kind)
{
	for (size_t i = 0; i < t->ncells; i++) {
		const struct cell *c = &t->cells[i];

		if (c->kind == kind && c->in_vain && c->call != CONFORM_CONTINUE)
			return c;
	}
	return NULL;
}

static int try_cell(struct table *t, const struct conform_kind *kind, enum conform_call call)
{
	const struct conform_trial trial = {kind, call, t->options.by_module};
	const struct cell *missed = missed_before(t, kind);
	struct cell *c = &t->cells[t->ncells++];
	int64_t begin = clock_ns();
	int ret;

	c->kind = kind;
	c->call = call;
	c->manual = trial_expected_find(t->manual, kind->name, conform_call_name(call));
	c->expected = trial_expected_find(t->expected, kind->name, conform_call_name(call));
	if (missed) {
		c->seen = missed->seen;
		c->in_vain = true;
		return 0;
	}
	ret = trial_run(&c->seen, conform_try, &trial, kind->root ? LONG_MS : LIMIT_MS);
	c->in_vain = !ret && !tried(c) && clock_ns() - begin > CONFORM_WAIT_NS;
	return ret;
}

/* By the module there is a MOVE, and nothing else. */
static bool belongs(const struct table *t, const struct conform_kind *kind, enum conform_call call)
{
	if (!(kind->calls >> call & 1) || t->ncells == ROOM)
		return false;
	if (!t->options.by_module)
		return !kind->one_process;
	return call == CONFORM_MOVE && !kind->foreign;
}

static int try_all(struct table *t)
{
	int ret = 0;

	for (const struct conform_kind *kind = conform_kinds; kind->name; kind++)
		for (unsigned int call = 0; call < CONFORM_CALLS && !ret; call++)
			if (belongs(t, kind, call))
				ret = try_cell(t, kind, call);
	return ret;
}

static int try_on_machine(struct table *t)
{
	int ret = trial_guard();

	if (ret)
		return ret;
	conform_settings();
	ret = try_all(t);
	int undone = trial_restore();
	return ret ? ret : undone;
}

/* ---- text */

static void print_cell(const struct cell *c)
{
	printf("%-12s  %-31s %-27s manual: %-27s", conform_call_name(c->call), c->kind->name,
	       c->seen.verdict, c->manual ? c->manual : "silent");
	if (c->expected && strcmp(c->expected, c->seen.verdict) != 0)
		printf("  expected: %s", c->expected);
	if (c->seen.why[0])
		printf("  (%s)", c->seen.why);
	if (c->kind->root)
		fputs("  [root]", stdout);
	putchar('\n');
}

static void print_some(const struct table *t, const char *title, bool (*is)(const struct cell *c))
{
	if (!count(t, is))
		return;
	printf("\n%s\n", title);
	for (size_t i = 0; i < t->ncells; i++)
		if (is(&t->cells[i]))
			print_cell(&t->cells[i]);
}

static bool any(const struct cell *c)
{
	(void)c;
	return true;
}

static bool not_tried(const struct cell *c)
{
	return !tried(c);
}

static void print_text(const struct table *t)
{
	printf("pageferry %s, %s %s, user %u, %s: %zu cells, %u not tried, %u differ from the manual\n",
	       PAGEFERRY_VERSION, t->kernel.sysname, t->kernel.release, (unsigned int)geteuid(),
	       t->options.by_module ? "the module" : "the kernel", t->ncells, count(t, not_tried),
	       count(t, defies_manual));
	if (!t->expected)
		puts("Nothing is expected: no answers are known of this kernel's series");
	else
		printf("%u differ from what is expected\n", count(t, is_news));
	print_some(t, "Differs from what is expected, or is wrong", is_news);
	print_some(t, "Differs from the manual", defies_manual);
	print_some(t, "All", any);
}

/* ---- JSON */

static struct json_object *json_cell(const struct cell *c)
{
	struct json_object *o = json_object_new_object();

	json_add_text(o, "memory", c->kind->name);
	json_add_text(o, "call", conform_call_name(c->call));
	json_add_text(o, "seen", tried(c) ? c->seen.verdict : NULL);
	json_add_text(o, "manual", c->manual ? c->manual : "silent");
	json_add_text(o, "expected", c->expected);
	json_add_text(o, "why", c->seen.why[0] ? c->seen.why : NULL);
	json_add_flag(o, "differs_from_manual", defies_manual(c));
	json_add_flag(o, "differs_from_expected", is_news(c));
	json_add_flag(o, "needs_root", c->kind->root);
	return o;
}

static unsigned int rank(const struct cell *c)
{
	return is_news(c) ? 0 : defies_manual(c) ? 1 : 2;
}

static struct json_object *json_cells(const struct table *t)
{
	struct json_object *cells = json_object_new_array();

	for (unsigned int r = 0; r < 3; r++)
		for (size_t i = 0; i < t->ncells; i++)
			if (rank(&t->cells[i]) == r)
				json_object_array_add(cells, json_cell(&t->cells[i]));
	return cells;
}

static void print_json(const struct table *t)
{
	struct json_object *o = json_findings(t->kernel.release);

	json_add_text(o, "way", t->options.by_module ? "module" : "kernel");
	json_add_flag(o, "expectation", t->expected);
	json_add_int(o, "not_tried", count(t, not_tried));
	json_add_int(o, "differ_from_manual", count(t, defies_manual));
	json_add_int(o, "differ_from_expected", count(t, is_news));
	json_object_object_add(o, "cells", json_cells(t));
	json_print(o);
}

/* ---- the command */

static int set_way(struct options *o, const char *way)
{
	o->by_module = !strcmp(way, "module");
	if (o->by_module || !strcmp(way, "kernel"))
		return 0;
	return say_usage(COMMAND, "--way %s: there are kernel and module", way);
}

/* Returns 0 to go on, 1 when help was asked for, 2 after an error. */
static int parse(int argc, char **argv, struct options *o)
{
	static const struct option options[] = {{"json", no_argument, NULL, OPT_JSON},
						{"way", required_argument, NULL, OPT_WAY},
						{"expected", required_argument, NULL, OPT_EXPECTED},
						{"help", no_argument, NULL, 'h'},
						{0}};
	int c, ret = 0;

	opterr = 0;
	optind = 0;
	while (!ret && (c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		const char *word = argv[optind > 1 ? optind - 1 : 1];

		if (c == 'h')
			return 1;
		if (c == OPT_JSON)
			o->json = true;
		else if (c == OPT_WAY)
			ret = set_way(o, optarg);
		else if (c == OPT_EXPECTED)
			o->expected = optarg;
		else
			ret = say_usage(COMMAND,
					c == ':' ? "%s needs a value" : "%s: not an option", word);
	}
	if (!ret && optind < argc)
		ret = say_usage(COMMAND, "%s: nothing was expected here", argv[optind]);
	return ret;
}

static int read_tables(struct table *t, struct why *why)
{
	const char *name = t->options.by_module ? "conform-module" : "conform";
	int ret = trial_expected_known(
		&t->manual, t->options.by_module ? "conform-module-manual" : "conform-manual", why);

	return ret ? ret : trial_expected_read(&t->expected, name, t->options.expected, why);
}

static int check_module(const struct options *o)
{
	int fd = o->by_module ? module_open(0) : 0;

	if (fd > 0)
		close(fd);
	return fd < 0 ? fd : 0;
}

static int conform(struct table *t)
{
	struct why why;
	int ret = check_module(&t->options);

	if (ret) {
		say("there is no kernel module to try (%s): load pageferry.ko, or leave out --way",
		    strerror(-ret));
		return EXIT_USAGE;
	}
	if (read_tables(t, &why)) {
		say("%s", why.text);
		return EXIT_USAGE;
	}
	ret = uname(&t->kernel) ? -errno : try_on_machine(t);
	if (ret) {
		say("the table can't be found out: %s", strerror(-ret));
		return EXIT_USAGE;
	}
	if (t->options.expected && trial_expected_count(t->expected) && !count(t, is_expected)) {
		say("%s: it has no answer for any cell of this table", t->options.expected);
		return EXIT_USAGE;
	}
	(t->options.json ? print_json : print_text)(t);
	return count(t, is_news) ? EXIT_DIFFERS : 0;
}

int cmd_conform(int argc, char **argv)
{
	struct options options = {0};
	struct table *t;
	int ret = parse(argc, argv, &options);

	if (ret == 2)
		return ret;
	if (ret == 1) {
		fputs(help, stdout);
		return 0;
	}
	t = calloc(1, sizeof(*t));
	if (!t) {
		say("no memory");
		return EXIT_USAGE;
	}
	t->options = options;
	ret = conform(t);
	trial_expected_free(t->manual);
	trial_expected_free(t->expected);
	free(t);
	return ret;
}
