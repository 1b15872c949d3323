/* SPDX-License-Identifier: MIT */
/*
 * pageferry bench: the benches one after the other, and their figures as text, JSON and HTML.
 *
 * From a bench comes one JSON object (bench/report.h); a file of this command has those of all that
 * were asked: {"version", "date", "quick", "questions": [...]}. All that shows or compares figures
 * reads them from there, so that it is the same of figures of today and of somebody else's.
 */
#ifndef PAGEFERRY_BENCH_H
#define PAGEFERRY_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "tools/json_get.h"
#include "tools/tool.h"

/* ---- the questions, bench_questions.c */

enum bench_home {
	BENCH_INSTALLED, /* a program that is installed, too */
	/* They need the source tree, since they boot a guest; and print a table, and JSON to a
	   file. */
	BENCH_TREE,
	BENCH_SCRIPT, /* that lies there */
};

struct bench_question {
	const char *name, *about;
	const char *quick[8], *full[8]; /* arguments, beside --quick */
	enum bench_home home;
	unsigned int quick_s, full_s; /* about as long as it takes */
	bool by_name; /* in the quick mode only if it is named: it takes too long for that */
};

extern const struct bench_question bench_questions[];
extern const size_t bench_nquestions;

/** NULL: there is none of that name. */
const struct bench_question *bench_question(const char *name);

/**
 * Ask it; @answer is to be put. -EOPNOTSUPP: it can't be asked here; -ENOENT: it isn't there;
 * -EINTR: bench_stop() was called; other errors: it has failed.
 */
int bench_ask(const struct bench_question *q, bool quick, struct json_object **answer,
	      struct why *why);

/** A signal handler: what is being asked is to end, and nothing more is to be asked. */
void bench_stop(int signal);
/** The signal, or 0. */
int bench_stopped(void);

/* ---- figures, bench_figures.c */

/* Of several rounds. What isn't known is NAN. */
struct bench_side {
	const char *what;
	double median, min, max;
};

struct bench_result {
	const char *name, *unit;
	const char *skipped; /* why there is none; then nothing else counts */
	bool more_is_better, noisy;
	bool has_base; /* else only ours */
	struct bench_side base, ours;
	struct bench_side ratio; /* of each round; the median is that of the medians */
	bool has_limit, limit_of_ours, at_least, reached;
	double limit;
	const char *curve, *x_what; /* the picture that it is a point of; NULL: of none */
	double x;
};

/** Strings belong to @object. False: it is none. */
bool bench_result_read(struct json_object *object, struct bench_result *r);

/** How many there are, and the one at @i; false as above. */
size_t bench_results(struct json_object *question);
bool bench_result_at(struct json_object *question, size_t i, struct bench_result *r);

/** All of a file: to be put. NULL: @why says why not. */
struct json_object *bench_load(const char *path, struct why *why);
/** The questions that it has. */
struct json_object *bench_all(struct json_object *file);
const char *bench_name(struct json_object *question);
bool bench_is_noisy(struct json_object *question);
/** Not to be judged. */
bool bench_is_quick(struct json_object *question);
/** Of one round: how far apart two would lie isn't known. */
bool bench_is_single(struct json_object *question);

/** What files say, for a terminal. */
void bench_plain(char *text, size_t size, const char *from);

/** A figure with as many digits as are known. */
void bench_number(char *text, size_t size, double value);

/* ---- shown */

/** As a table, bench_text.c. */
void bench_print(struct json_object *question);

/** As a page, bench_page.c. Returns 0 or -errno. */
int bench_page(FILE *out, struct json_object *file, struct why *why);

/** Is there a gnuplot? 0 or -errno. */
int bench_plot_check(struct why *why);

/**
 * Pictures, bench_plot.c. Each is written to @out as an <svg> that takes its colours from the page.
 * Returns 0 or -errno: -ENOENT if there is no gnuplot.
 */
int bench_plot_curve(FILE *out, struct json_object *question, const char *curve, struct why *why);
int bench_plot_histograms(FILE *out, struct json_object *question, const char *group,
			  struct why *why);

/** What has changed between two files, bench_compare.c. Returns how many have got worse. */
size_t bench_compare(struct json_object *before, struct json_object *after);

#endif
