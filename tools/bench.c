// SPDX-License-Identifier: MIT
/* pageferry bench: asks, tells, and writes down, see bench.h. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tools/bench.h"
#include "tools/json_add.h"
#include "tools/signals.h"
#include "tools/snap_file.h"

#define COMMAND     "pageferry bench"
#define EXIT_FAILED 1

struct options {
	bool help, full;
	const char *json, *html, *from;
	char **names;
	int nnames;
};

static void print_help(void)
{
	puts("usage: pageferry bench [--quick | --full] [--json FILE] [--html FILE] [QUESTION ...]\n"
	     "       pageferry bench --from FILE [--html FILE]\n"
	     "       pageferry bench compare BEFORE AFTER\n"
	     "\n"
	     "Measure what pageferry does, each figure beside that of the plain way in the same run.\n"
	     "\n"
	     "  --quick      does it work at all? a minute; the default\n"
	     "  --full       figures that can be judged: a quarter of an hour\n"
	     "  --json FILE  keep all figures\n"
	     "  --html FILE  the same as a page with pictures (needs gnuplot)\n"
	     "  --from FILE  measure nothing: show the figures of this file\n"
	     "\n"
	     "Questions (all of them, if none is named; module only with --full):");
	for (size_t i = 0; i < bench_nquestions; i++)
		printf("  %-11s  %s%s\n", bench_questions[i].name, bench_questions[i].about,
		       bench_questions[i].home == BENCH_INSTALLED ? "" : " [source tree]");
	puts("\n"
	     "Exit status: 0: all went well; 1: wrong contents, a failure, or (compare) something got\n"
	     "worse; 2: usage or other error.");
}

/* ---- the command line */

static int check_names(const struct options *o)
{
	for (int i = 0; i < o->nnames; i++)
		if (!bench_question(o->names[i]))
			return say_usage(COMMAND, "%s: there is no such question", o->names[i]);
	if (o->from && o->nnames)
		return say_usage(COMMAND, "--from measures nothing: name no questions");
	if (o->json && o->html && !strcmp(o->json, o->html))
		return say_usage(COMMAND, "--json and --html: one file can't be both");
	return o->from && o->json
		       ? say_usage(COMMAND, "--from and --json: there is nothing new to keep")
		       : 0;
}

static int parse(struct options *o, int argc, char **argv)
{
	static const struct option known[] = {
		{"quick", no_argument, NULL, 'q'},
		{"full", no_argument, NULL, 'f'},
		{"json", required_argument, NULL, 'j'},
		{"html", required_argument, NULL, 'w'},
		{"from", required_argument, NULL, 'r'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	bool quick = false;

	opterr = 0;
	for (int c; (c = getopt_long(argc, argv, ":h", known, NULL)) >= 0;) {
		switch (c) {
		case 'q':
			quick = true;
			break;
		case 'f':
			o->full = true;
			break;
		case 'j':
			o->json = optarg;
			break;
		case 'w':
			o->html = optarg;
			break;
		case 'r':
			o->from = optarg;
			break;
		case 'h':
			o->help = true;
			return 0;
		case ':':
			return say_usage(COMMAND, "%s needs a value", argv[optind - 1]);
		default:
			return say_usage(COMMAND, "%s: there is no such option", argv[optind - 1]);
		}
	}
	if (quick && o->full)
		return say_usage(COMMAND, "--quick and --full: one of them");
	o->names = argv + optind;
	o->nnames = argc - optind;
	return check_names(o);
}

/* ---- files: they appear when they are whole */

struct sheet {
	const char *path;
	char *aside;
	FILE *file;
	bool named;
};

/* Before anything is measured: nobody shall wait a quarter of an hour to read this. */
static int sheet_open(struct sheet *s, const char *path)
{
	struct stat st;

	*s = (struct sheet){.path = path};
	if (!path)
		return 0;
	if (!stat(path, &st) && !S_ISREG(st.st_mode)) {
		say("%s: not a regular file", path);
		return EXIT_USAGE;
	}
	int fd = asprintf(&s->aside, "%s.part", path) < 0 ? -ENOMEM
							  : file_create(s->aside, &s->named);
	s->file = fd < 0 ? NULL : fdopen(fd, "w");
	if (s->file)
		return 0;
	say("%s: %s", path, strerror(fd < 0 ? -fd : ENOMEM));
	return EXIT_USAGE;
}

static int sheet_keep(struct sheet *s)
{
	int ret = fflush(s->file) || ferror(s->file) ? -errno : 0;

	fchmod(fileno(s->file), 0644);
	if (!ret)
		ret = file_name(fileno(s->file), s->aside, &s->named, s->path);
	if (ret)
		say("%s: %s", s->path, strerror(-ret));
	return ret ? EXIT_USAGE : 0;
}

static void sheet_close(struct sheet *s)
{
	if (s->file)
		fclose(s->file);
	if (s->named)
		unlink(s->aside);
	free(s->aside);
}

/* ---- asking */

static struct json_object *new_file(bool full)
{
	struct json_object *file = json_object_new_object();
	char date[32];
	time_t now = time(NULL);
	struct tm tm;

	strftime(date, sizeof(date), "%Y-%m-%d %H:%M UTC", gmtime_r(&now, &tm));
	json_add_text(file, "version", PAGEFERRY_VERSION);
	json_add_text(file, "date", date);
	json_add_flag(file, "quick", !full);
	json_object_object_add(file, "questions", json_object_new_array());
	return file;
}

/* Why there is no answer is one as well. */
static struct json_object *no_answer(const struct bench_question *q, const struct why *why)
{
	struct json_object *o = json_object_new_object();

	json_add_text(o, "bench", q->name);
	json_add_text(o, "question", q->about);
	json_add_text(o, "skipped", why->text);
	return o;
}

/* What this machine hasn't isn't a failure; what was to be built or installed is. */
static bool may_be_missing(const struct bench_question *q, int error)
{
	return error == -EOPNOTSUPP || (error == -ENOENT && q->home != BENCH_INSTALLED);
}

static int ask(const struct options *o, const struct bench_question *q, struct json_object *all)
{
	struct json_object *answer;
	struct why why = {.text = ""};

	/* Both may go to the same place. */
	fflush(stdout);
	say("%s: about %u s", q->name, o->full ? q->full_s : q->quick_s);
	int ret = bench_ask(q, !o->full, &answer, &why);
	if (ret)
		answer = no_answer(q, &why);
	json_object_array_add(all, answer);
	if (ret)
		say("%s: %s", q->name, why.text);
	bench_print(answer);
	return ret && !may_be_missing(q, ret) ? EXIT_FAILED : 0;
}

static bool is_asked(const struct options *o, const struct bench_question *q)
{
	for (int i = 0; i < o->nnames; i++)
		if (!strcmp(o->names[i], q->name))
			return true;
	return !o->nnames && (o->full || !q->by_name);
}

static int ask_all(const struct options *o, struct json_object *file)
{
	int status = 0;

	for (size_t i = 0; i < bench_nquestions && !bench_stopped(); i++)
		if (is_asked(o, &bench_questions[i]))
			status |= ask(o, &bench_questions[i], bench_all(file));
	return status;
}

static void print_all(struct json_object *file)
{
	struct json_object *all = bench_all(file);

	for (size_t i = 0; i < json_object_array_length(all); i++)
		bench_print(json_object_array_get_idx(all, i));
}

/* ---- telling */

/* A question in a line: a distribution has thousands of numbers. */
static void put_file(FILE *out, struct json_object *file)
{
	struct json_object *all = bench_all(file);
	const int flags = JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE;

	putc('{', out);
	json_object_object_foreach(file, key, value)
	{
		if (value != all)
			fprintf(out, "\"%s\": %s,\n", key,
				json_object_to_json_string_ext(value, flags));
	}
	fputs("\"questions\": [", out);
	for (size_t i = 0; i < json_object_array_length(all); i++)
		fprintf(out, "%s\n%s", i ? "," : "",
			json_object_to_json_string_ext(json_object_array_get_idx(all, i), flags));
	fputs("\n]}\n", out);
}

static int write_json(struct sheet *s, struct json_object *file)
{
	if (!s->file)
		return 0;
	put_file(s->file, file);
	return sheet_keep(s);
}

static int write_page(struct sheet *s, struct json_object *file)
{
	struct why why = {.text = ""};

	if (!s->file)
		return 0;
	if (!bench_page(s->file, file, &why))
		return sheet_keep(s);
	say("%s: %s", s->path, why.text);
	return EXIT_USAGE;
}

static int tell(const struct options *o, struct json_object *file, struct sheet *json,
		struct sheet *html)
{
	int status = 0;

	if (o->from)
		print_all(file);
	else
		status = ask_all(o, file);
	int json_status = write_json(json, file), html_status = write_page(html, file);
	if (bench_stopped())
		say("interrupted: what was found out before is told");
	return bench_stopped() ? 128 + bench_stopped()
	       : json_status   ? json_status
	       : html_status   ? html_status
			       : status;
}

static int with_file(const struct options *o, struct json_object *file)
{
	struct sheet json = {0}, html = {0};
	struct why why = {.text = ""};
	int status = sheet_open(&json, o->json);

	if (!status)
		status = sheet_open(&html, o->html);
	if (!status && o->html && bench_plot_check(&why)) {
		say("%s", why.text);
		status = EXIT_USAGE;
	}
	if (!status)
		status = tell(o, file, &json, &html);
	sheet_close(&json);
	sheet_close(&html);
	return status;
}

/* ---- two files */

static int compare(int argc, char **argv)
{
	struct why why = {.text = ""};

	if (argc != 3)
		return say_usage(COMMAND, "compare needs two files");
	struct json_object *before = bench_load(argv[1], &why);
	struct json_object *after = before ? bench_load(argv[2], &why) : NULL;
	int status = EXIT_USAGE;
	if (after)
		status = bench_compare(before, after) ? EXIT_FAILED : 0;
	else
		say("%s", why.text);
	json_object_put(before);
	json_object_put(after);
	return status;
}

int cmd_bench(int argc, char **argv)
{
	struct options o = {0};
	struct why why = {.text = ""};

	if (argc > 1 && !strcmp(argv[1], "compare"))
		return compare(argc - 1, argv + 1);
	int status = parse(&o, argc, argv);
	if (status)
		return status;
	if (o.help) {
		print_help();
		return 0;
	}
	struct json_object *file = o.from ? bench_load(o.from, &why) : new_file(o.full);
	if (!file) {
		say("%s", why.text);
		return EXIT_USAGE;
	}
	if (!o.from)
		signals_catch(bench_stop);
	status = with_file(&o, file);
	json_object_put(file);
	return status;
}
