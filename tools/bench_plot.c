// SPDX-License-Identifier: MIT
/*
 * Pictures, by gnuplot: it is given the points and says what to draw in SVG. Names come from files
 * of anybody, and gnuplot's language can run programs: of a name only what is harmless is left.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/bench.h"

#define LINES_MAX  24u
#define POINTS_MAX 65536u

extern char **environ;

/* Neither too dark for a dark page nor too light for a light one. */
static const char *const colours[] = {"#3b7dd8", "#d9622b", "#2a9d74", "#a65ad1",
				      "#b58900", "#d0478a", "#5a9fb8", "#7a8f3c"};

#define COLOURS (sizeof(colours) / sizeof(colours[0]))

static void put_name(FILE *out, const char *name)
{
	putc('\'', out);
	for (size_t i = 0; name[i] && i < 110; i++)
		putc(isalnum((unsigned char)name[i]) || strchr(" .,:()/%+-_", name[i]) ? name[i]
										       : ' ',
		     out);
	putc('\'', out);
}

/* ---- gnuplot */

static int run_gnuplot(const char *const *argv, int in, int out)
{
	posix_spawn_file_actions_t files;
	pid_t pid;
	int status = 0;

	posix_spawn_file_actions_init(&files);
	if (in >= 0)
		posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
	int ret = posix_spawnp(&pid, argv[0], &files, NULL, (char **)(uintptr_t)argv, environ);
	posix_spawn_file_actions_destroy(&files);
	if (ret)
		return -ret;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static int why_not(int ret, struct why *why)
{
	return why_set(why, ret,
		       ret == -ENOENT ? "there is no gnuplot to draw with: install gnuplot-nox"
				      : "gnuplot has failed: see above");
}

int bench_plot_check(struct why *why)
{
	static const char *const argv[] = {"gnuplot", "--version", NULL};
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	int ret = null < 0 ? -errno : run_gnuplot(argv, -1, null);

	if (null >= 0)
		close(null);
	return ret ? why_not(ret, why) : 0;
}

/* What is black there has the colour of the text around it; what comes before <svg> isn't wanted.
 */
static void put_svg(FILE *out, const char *svg, const char *end)
{
	static const char *const blacks[] = {"\"black\"", "'black'", "rgb(  0,   0,   0)",
					     "rgb(0,0,0)"};
	const char *at = memmem(svg, (size_t)(end - svg), "<svg", 4);

	while (at && at < end) {
		size_t n = 0;
		for (size_t i = 0; !n && i < sizeof(blacks) / sizeof(blacks[0]); i++)
			if (!strncmp(at, blacks[i], strlen(blacks[i])))
				n = strlen(blacks[i]);
		if (!n) {
			putc(*at++, out);
			continue;
		}
		fputs(*at == '"' || *at == '\'' ? "\"currentColor\"" : "currentColor", out);
		at += n;
	}
}

static int draw(FILE *out, int script, struct why *why)
{
	/* Without what its user has in ~/.gnuplot. */
	static const char *const argv[] = {"gnuplot", "-d", NULL};
	int svg = memfd_create("svg", MFD_CLOEXEC);
	int ret = svg < 0 ? -errno : run_gnuplot(argv, script, svg);
	struct stat st = {0};

	if (!ret && (fstat(svg, &st) || st.st_size <= 0))
		ret = -EIO;
	if (!ret) {
		char *text = mmap(NULL, (size_t)st.st_size + 1, PROT_READ, MAP_PRIVATE, svg, 0);
		ret = text == MAP_FAILED ? -errno : 0;
		if (!ret) {
			put_svg(out, text, text + st.st_size);
			munmap(text, (size_t)st.st_size + 1);
		}
	}
	if (svg >= 0)
		close(svg);
	return ret ? why_not(ret, why) : 0;
}

/* ---- the script */

struct plot {
	FILE *script;
	int fd;
	unsigned int nlines; /* that have points */
};

/* @nlines: each has a line of the legend below. */
static int plot_begin(struct plot *p, size_t nlines, const char *x_what, const char *y_what)
{
	static unsigned int number;

	*p = (struct plot){.fd = memfd_create("gnuplot", MFD_CLOEXEC)};
	int own = p->fd < 0 ? -1 : dup(p->fd);
	p->script = own < 0 ? NULL : fdopen(own, "w");
	if (!p->script) {
		if (own >= 0)
			close(own);
		if (p->fd >= 0)
			close(p->fd);
		return -ENOMEM;
	}
	fprintf(p->script,
		"set terminal svg size 780,%zu dynamic noenhanced font 'sans-serif,13' name 'p%u'\n"
		"set border 3 lc rgb 'black'\nset grid lc rgb '#808080' lw 0.4\n"
		"set tics nomirror\nset key below left Left reverse maxcols 1 samplen 3 font ',11'\nset logscale y\nset format y '%%g'\n"
		"set xlabel ",
		380 + 20 * nlines, ++number);
	put_name(p->script, x_what);
	fputs("\nset ylabel ", p->script);
	put_name(p->script, y_what);
	putc('\n', p->script);
	return 0;
}

static int plot_end(struct plot *p, FILE *out, struct why *why)
{
	bool written = !fflush(p->script) && !ferror(p->script);

	fclose(p->script);
	int ret = !written || lseek(p->fd, 0, SEEK_SET)
			  ? why_set(why, -EIO, "a picture is too large")
		  : p->nlines ? draw(out, p->fd, why)
			      : 0;
	close(p->fd);
	return ret;
}

static void plot_line(struct plot *p, const char *how, const char *what, size_t number, bool dashed)
{
	fprintf(p->script, "%s $line%zu using %s lc rgb '%s'%s lw 1.6 title ",
		p->nlines ? "," : "plot", number, how, colours[number % COLOURS],
		dashed ? " dt 2" : "");
	put_name(p->script, what);
	p->nlines++;
}

/* Has a place on a logarithmic axis; gnuplot gives up on what is near the ends of a double. */
static bool can_be_drawn(double value)
{
	return value > 1e-30 && value < 1e30;
}

/* ---- cost against size */

/* False: there are none. */
static bool put_points(struct plot *p, struct json_object *question, const char *curve,
		       unsigned int number, bool ours)
{
	struct bench_result r;
	bool any = false;

	fprintf(p->script, "$line%u << EOD\n", number);
	for (size_t i = 0; i < bench_results(question); i++) {
		if (!bench_result_at(question, i, &r) || !r.curve || strcmp(r.curve, curve) != 0 ||
		    (!ours && !r.has_base))
			continue;
		const struct bench_side *s = ours ? &r.ours : &r.base;
		if (!can_be_drawn(r.x) || !can_be_drawn(s->median))
			continue;
		fprintf(p->script, "%g %g %g %g\n", r.x, s->median,
			can_be_drawn(s->min) ? s->min : s->median,
			can_be_drawn(s->max) ? s->max : s->median);
		any = true;
	}
	fputs("EOD\n", p->script);
	return any;
}

static bool first_of(struct json_object *question, const char *curve, struct bench_result *r)
{
	for (size_t i = 0; i < bench_results(question); i++)
		if (bench_result_at(question, i, r) && r->curve && !strcmp(r->curve, curve))
			return true;
	return false;
}

int bench_plot_curve(FILE *out, struct json_object *question, const char *curve, struct why *why)
{
	static const char how[] = "1:2:3:4 with yerrorlines pt 7 ps 0.5";
	struct bench_result r;
	struct plot p;

	if (!first_of(question, curve, &r))
		return 0;
	if (plot_begin(&p, 2, r.x_what, r.unit))
		return why_set(why, -ENOMEM, "out of memory");
	fputs("set logscale x 2\n", p.script);
	bool ours = put_points(&p, question, curve, 0, true);
	bool base = put_points(&p, question, curve, 1, false);
	if (ours)
		plot_line(&p, how, r.ours.what, 0, false);
	if (base)
		plot_line(&p, how, r.base.what, 1, true);
	putc('\n', p.script);
	return plot_end(&p, out, why);
}

/* ---- distributions */

static double number_at(struct json_object *pair, size_t i)
{
	return json_object_is_type(pair, json_type_array)
		       ? json_number(json_object_array_get_idx(pair, i))
		       : (double)NAN;
}

/* How many take longer than that. The longest of all has no place on a logarithmic axis. */
static bool put_distribution(struct plot *p, struct json_object *histogram, unsigned int number)
{
	struct json_object *buckets = json_get(histogram, "buckets", json_type_array);
	size_t n = buckets ? json_object_array_length(buckets) : 0;
	double all = 0, below = 0;
	bool any = false;

	n = n < POINTS_MAX ? n : POINTS_MAX;
	for (size_t i = 0; i < n; i++)
		all += number_at(json_object_array_get_idx(buckets, i), 1);
	fprintf(p->script, "$line%u << EOD\n", number);
	for (size_t i = 0; i < n; i++) {
		struct json_object *pair = json_object_array_get_idx(buckets, i);
		double x = number_at(pair, 0), longer;
		below += number_at(pair, 1);
		longer = 1 - below / all;
		if (!can_be_drawn(x) || !can_be_drawn(longer) || longer > 1)
			continue;
		fprintf(p->script, "%g %g\n", x, longer);
		any = true;
	}
	fputs("EOD\n", p->script);
	return any;
}

static bool is_of(struct json_object *histogram, const char *group)
{
	const char *g = json_get_string(histogram, "group");
	return g && !strcmp(g, group);
}

int bench_plot_histograms(FILE *out, struct json_object *question, const char *group,
			  struct why *why)
{
	struct json_object *all = json_get(question, "histograms", json_type_array), *h;
	size_t of[LINES_MAX], n = 0;
	bool has_points[LINES_MAX];
	struct plot p;

	for (size_t i = 0; all && i < json_object_array_length(all) && n < LINES_MAX; i++)
		if (is_of(json_object_array_get_idx(all, i), group))
			of[n++] = i;
	if (!n)
		return 0;
	const char *unit = json_get_string(json_object_array_get_idx(all, of[0]), "unit");
	if (plot_begin(&p, n, unit ? unit : "", "part that takes longer"))
		return why_set(why, -ENOMEM, "out of memory");
	fputs("set logscale x 10\nset yrange [*:1]\n", p.script);
	for (unsigned int i = 0; i < n; i++)
		has_points[i] = put_distribution(&p, json_object_array_get_idx(all, of[i]), i);
	for (size_t i = 0; i < n; i++) {
		if (!has_points[i])
			continue;
		h = json_object_array_get_idx(all, of[i]);
		const char *what = json_get_string(h, "what"), *side = json_get_string(h, "side");
		plot_line(&p, "1:2 with steps", what ? what : "", i,
			  side && !strcmp(side, "baseline"));
	}
	putc('\n', p.script);
	return plot_end(&p, out, why);
}
