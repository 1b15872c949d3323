// SPDX-License-Identifier: MIT
/* pageferry pins: the table of what a pin keeps, found by trying each cell, see pins.h. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "tools/json_add.h"
#include "tools/pins.h"

#define COMMAND      "pageferry pins"
#define EXIT_DIFFERS 1
#define SWAP_MIB     64
#define CHANCES      6
#define KINDS_MAX    8u
#define ROWS_MAX     32u

struct options {
	bool json, help;
	const char *expected;
};

struct cell {
	const struct operation *operation;
	const struct pin_kind *kind;
	const char *expected; /* NULL: nothing is */
	struct trial_cell found;
};

struct table {
	struct utsname kernel;
	struct trial_expected *expected;
	size_t ncells, nkinds;
	struct trial_cell alone[KINDS_MAX]; /* what is seen of each pin if nothing is done */
	struct cell cells[ROWS_MAX * KINDS_MAX];
};

static const char help[] =
	"usage: pageferry pins [--json] [--expected FILE]\n"
	"\n"
	"Say what ties a pin of memory to the memory that it was taken of, and what breaks that, on this\n"
	"kernel, found by trying. Everything that is changed on the host is put back.\n"
	"\n"
	"  --json           print it for programs\n"
	"  --expected FILE  compare with these answers, not with those known of this kernel's series\n"
	"\n"
	"Exit status: 0: as expected, or nothing is; 1: something differs; 2: usage or other error.\n";

/* ---- what a cell is */

static bool not_tried(const struct cell *c)
{
	return !strcmp(c->found.verdict, NOT_HERE);
}

static bool differs(const struct cell *c)
{
	return c->expected && !not_tried(c) && strcmp(c->expected, c->found.verdict) != 0;
}

static bool as_expected(const struct cell *c)
{
	return !differs(c);
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

static int try_alone(struct table *t)
{
	int ret = 0;

	for (const struct pin_kind *kind = pin_kinds; kind->name && !ret; kind++)
		ret = pins_try(&operation_nothing, kind, &t->alone[t->nkinds++]);
	return ret;
}

static bool is(const struct trial_cell *cell, const char *verdict)
{
	return !strcmp(cell->verdict, verdict);
}

static int try_it(const struct operation *operation, const struct pin_kind *kind,
		  struct trial_cell *found)
{
	unsigned int tries = operation->chance ? CHANCES : 1;
	int ret;

	do
		ret = pins_try(operation, kind, found);
	while (!ret && is(found, NOT_HERE) && --tries);
	return ret;
}

static int try_cell(struct cell *c, const struct trial_cell *alone,
		    const struct trial_cell *control)
{
	if (is(alone, NOT_HERE))
		c->found = *alone;
	else if (!is(alone, "same page"))
		trial_set(&c->found, NOT_HERE, "the pin alone is no tie: %s, %s", alone->verdict,
			  alone->why);
	else if (is(control, NOT_HERE))
		c->found = *control;
	else if (!is(control, ACTS))
		trial_set(&c->found, NOT_HERE, "without a pin: %s %s", control->verdict,
			  control->why);
	else
		return try_it(c->operation, c->kind, &c->found);
	return 0;
}

static int try_row(struct table *t, const struct operation *operation)
{
	struct trial_cell control = {.verdict = ACTS};
	int ret = operation->control ? try_it(operation, NULL, &control) : 0;

	for (size_t i = 0; i < t->nkinds && !ret; i++) {
		struct cell *c = &t->cells[t->ncells++];

		c->operation = operation;
		c->kind = &pin_kinds[i];
		c->expected = trial_expected_find(t->expected, operation->name, c->kind->name);
		ret = try_cell(c, &t->alone[i], &control);
	}
	return ret;
}

/* What can't be had of these shows in the rows that need it: there the operation does nothing. KSM
 * looks at a page twice before it merges it, however seldom it changes, and at all that there is.
 */
static void change_settings(void)
{
	trial_swap(SWAP_MIB);
	trial_huge_pages();
	trial_setting("/sys/kernel/mm/ksm/sleep_millisecs", "1");
	trial_setting("/sys/kernel/mm/ksm/pages_to_scan", "100000");
	trial_setting("/sys/kernel/mm/ksm/smart_scan", "0");
	trial_setting("/sys/kernel/mm/ksm/run", "1");
}

static int try_all(struct table *t)
{
	int ret = try_alone(t);

	for (const struct operation *o = operations; o->name && !ret; o++)
		ret = try_row(t, o);
	return ret;
}

static int try_on_machine(struct table *t)
{
	int ret = trial_guard(), undone;

	if (ret)
		return ret;
	change_settings();
	ret = try_all(t);
	undone = trial_restore();
	return ret ? ret : undone;
}

/* ---- text */

#define NAME_WIDTH 21

static void print_differences(const struct table *t)
{
	if (!count(t, differs))
		return;
	puts("\nDiffers from what is expected");
	for (size_t i = 0; i < t->ncells; i++) {
		const struct cell *c = &t->cells[i];

		if (differs(c))
			printf("  %s, %s: %s; expected: %s%s%s\n", c->operation->name,
			       c->kind->name, c->found.verdict, c->expected,
			       c->found.why[0] ? "; " : "", c->found.why);
	}
}

static int width_of(const struct table *t, size_t kind)
{
	size_t width = strlen(pin_kinds[kind].name);

	for (size_t i = kind; i < t->ncells; i += t->nkinds)
		if (strlen(t->cells[i].found.verdict) > width)
			width = strlen(t->cells[i].found.verdict);
	return (int)width;
}

static void print_table(const struct table *t)
{
	printf("\n%-*s", NAME_WIDTH, "");
	for (size_t k = 0; k < t->nkinds; k++)
		printf("  %-*s", width_of(t, k), pin_kinds[k].name);
	for (size_t row = 0; row < t->ncells; row += t->nkinds) {
		printf("\n%-*s", NAME_WIDTH, t->cells[row].operation->name);
		for (size_t k = 0; k < t->nkinds; k++)
			printf("  %-*s", width_of(t, k), t->cells[row + k].found.verdict);
	}
	putchar('\n');
}

/* The same of several pins is said once. */
static void print_why(const struct cell *row, size_t n, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (!strcmp(row[k].found.why, row[i].found.why))
			return;
	printf("  %s: ", row[i].operation->name);
	for (size_t k = i; k < n; k++)
		if (!strcmp(row[k].found.why, row[i].found.why))
			printf("%s%s", k > i ? ", " : "", row[k].kind->name);
	printf(": %s\n", row[i].found.why);
}

static void print_whys(const struct table *t)
{
	putchar('\n');
	for (size_t row = 0; row < t->ncells; row += t->nkinds)
		for (size_t i = 0; i < t->nkinds; i++)
			if (t->cells[row + i].found.why[0])
				print_why(&t->cells[row], t->nkinds, i);
}

static void print_text(const struct table *t)
{
	printf("pageferry %s, %s %s, user %u: %zu cells, %u not tried", PAGEFERRY_VERSION,
	       t->kernel.sysname, t->kernel.release, (unsigned int)geteuid(), t->ncells,
	       count(t, not_tried));
	if (t->expected)
		printf(", %u differ from what is expected\n", count(t, differs));
	else
		puts("; nothing is expected: no answers are known of this kernel's series");
	print_differences(t);
	print_table(t);
	print_whys(t);
}

/* ---- JSON */

static struct json_object *json_cell(const struct cell *c)
{
	struct json_object *o = json_object_new_object();

	json_add_text(o, "operation", c->operation->name);
	json_add_text(o, "pin", c->kind->name);
	json_add_text(o, "seen", not_tried(c) ? NULL : c->found.verdict);
	json_add_text(o, "expected", c->expected);
	json_add_text(o, "why", c->found.why[0] ? c->found.why : NULL);
	json_add_flag(o, "differs_from_expected", differs(c));
	return o;
}

static void add_cells(struct json_object *cells, const struct table *t,
		      bool (*which)(const struct cell *c))
{
	for (size_t i = 0; i < t->ncells; i++)
		if (which(&t->cells[i]))
			json_object_array_add(cells, json_cell(&t->cells[i]));
}

static void print_json(const struct table *t)
{
	struct json_object *o = json_findings(t->kernel.release), *cells = json_object_new_array();

	json_add_flag(o, "expectation", t->expected);
	json_add_int(o, "not_tried", count(t, not_tried));
	json_add_int(o, "differ_from_expected", count(t, differs));
	add_cells(cells, t, differs);
	add_cells(cells, t, as_expected);
	json_object_object_add(o, "cells", cells);
	json_print(o);
}

/* ---- the command */

static int wrong_option(int c, int argc, char **argv)
{
	const char *last = argv[optind > 1 && optind <= argc ? optind - 1 : 1];

	if (c == ':')
		return say_usage(COMMAND, "%s: a file must follow", last);
	return say_usage(COMMAND, "%s: not an option", last);
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option known[] = {{"json", no_argument, NULL, 'j'},
					      {"expected", required_argument, NULL, 'e'},
					      {"help", no_argument, NULL, 'h'},
					      {0}};
	int c;

	opterr = 0;
	optind = 0;
	while ((c = getopt_long(argc, argv, ":h", known, NULL)) != -1) {
		if (c == 'j')
			o->json = true;
		else if (c == 'e')
			o->expected = optarg;
		else if (c == 'h')
			o->help = true;
		else
			return wrong_option(c, argc, argv);
	}
	if (optind < argc)
		return say_usage(COMMAND, "%s: nothing was expected here", argv[optind]);
	return 0;
}

static int run(const struct options *o)
{
	static struct table t;
	struct why why;
	int ret;

	if (trial_expected_read(&t.expected, "pins", o->expected, &why)) {
		say("%s", why.text);
		return EXIT_USAGE;
	}
	ret = try_on_machine(&t);
	if (!ret && uname(&t.kernel))
		ret = -errno;
	if (ret) {
		say("pins can't be tried: %s", strerror(-ret));
		ret = EXIT_USAGE;
	} else if (o->expected && trial_expected_count(t.expected) && !count(&t, is_expected)) {
		say("%s: it has no answer for any cell of this table", o->expected);
		ret = EXIT_USAGE;
	} else {
		(o->json ? print_json : print_text)(&t);
		ret = count(&t, differs) ? EXIT_DIFFERS : 0;
	}
	trial_expected_free(t.expected);
	return ret;
}

int cmd_pins(int argc, char **argv)
{
	struct options o = {.json = false};
	int ret = parse(argc, argv, &o);

	if (ret)
		return ret;
	if (o.help) {
		fputs(help, stdout);
		return 0;
	}
	return run(&o);
}
