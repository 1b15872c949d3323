// SPDX-License-Identifier: MIT
/* Figures as the benches write them, see bench.h. They may come from anybody. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/bench.h"
#include "tools/snap_io.h"

#define FILE_MAX      (64u << 20)
#define QUESTIONS_MAX 100u

static double number(struct json_object *object, const char *key)
{
	struct json_object *field = NULL;

	if (json_object_is_type(object, json_type_object))
		json_object_object_get_ex(object, key, &field);
	return json_number(field);
}

static bool flag(struct json_object *object, const char *key)
{
	return json_object_get_boolean(json_get(object, key, json_type_boolean));
}

static const char *text(struct json_object *object, const char *key)
{
	const char *s = json_get_string(object, key);
	return s ? s : "";
}

/* ---- one result */

static bool read_side(struct json_object *result, const char *key, struct bench_side *side)
{
	struct json_object *o = json_get(result, key, json_type_object);

	*side = (struct bench_side){
		.what = text(o, "what"),
		.median = number(o, "median"),
		.min = number(o, "min"),
		.max = number(o, "max"),
	};
	return isfinite(side->median);
}

static void read_limit(struct json_object *result, struct bench_result *r)
{
	static const struct {
		const char *key;
		bool of_ours, at_least;
	} kinds[] = {
		{"at_most", false, false},
		{"at_least", false, true},
		{"ours_at_most", true, false},
		{"ours_at_least", true, true},
	};
	struct json_object *o = json_get(result, "required", json_type_object);

	for (size_t i = 0; o && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		double limit = number(o, kinds[i].key);
		if (!isfinite(limit))
			continue;
		r->has_limit = true;
		r->limit = limit;
		r->limit_of_ours = kinds[i].of_ours;
		r->at_least = kinds[i].at_least;
		r->reached = flag(o, "reached");
	}
}

static void read_curve(struct json_object *result, struct bench_result *r)
{
	struct json_object *o = json_get(result, "curve", json_type_object);
	double x = number(o, "x");

	if (!o || !json_get_string(o, "name") || !isfinite(x))
		return;
	r->curve = json_get_string(o, "name");
	r->x_what = text(o, "x_what");
	r->x = x;
}

bool bench_result_read(struct json_object *object, struct bench_result *r)
{
	*r = (struct bench_result){
		.name = json_get_string(object, "name"),
		.skipped = json_get_string(object, "skipped"),
		.unit = text(object, "unit"),
		.more_is_better = flag(object, "more_is_better"),
		.noisy = flag(object, "noisy"),
	};
	if (!r->name || r->skipped)
		return r->name;
	if (!read_side(object, "ours", &r->ours))
		return false;
	r->has_base = read_side(object, "baseline", &r->base);
	read_side(object, "ratio", &r->ratio);
	r->ratio.median = number(json_get(object, "ratio", json_type_object), "of_medians");
	read_limit(object, r);
	read_curve(object, r);
	return true;
}

size_t bench_results(struct json_object *question)
{
	struct json_object *all = json_get(question, "results", json_type_array);
	return all ? json_object_array_length(all) : 0;
}

bool bench_result_at(struct json_object *question, size_t i, struct bench_result *r)
{
	struct json_object *all = json_get(question, "results", json_type_array);
	return bench_result_read(json_object_array_get_idx(all, i), r);
}

/* ---- a file */

struct json_object *bench_all(struct json_object *file)
{
	return json_get(file, "questions", json_type_array);
}

const char *bench_name(struct json_object *question)
{
	return text(question, "bench");
}

bool bench_is_noisy(struct json_object *question)
{
	return flag(question, "noisy");
}

bool bench_is_quick(struct json_object *question)
{
	return flag(question, "quick");
}

bool bench_is_single(struct json_object *question)
{
	int64_t rounds;
	return json_get_int(question, "rounds", 1, 1, &rounds);
}

static struct json_object *parse(int fd, size_t size)
{
	char *all = malloc(size);
	struct json_object *object = all && !io_read(fd, 0, all, size) ? json_read_object(all, size)
								       : NULL;

	free(all);
	return object;
}

/* One object of a bench, as a file of one question. */
static struct json_object *as_file(struct json_object *object)
{
	if (!object || bench_all(object) || !json_get(object, "results", json_type_array))
		return object;
	struct json_object *file = json_object_new_object(), *all = json_object_new_array();

	json_object_array_add(all, object);
	json_object_object_add(file, "questions", all);
	return file;
}

struct json_object *bench_load(const char *path, struct why *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0) {
		why_set(why, -errno, "%s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	struct json_object *file = NULL;
	if (S_ISREG(st.st_mode) && st.st_size > 0 && st.st_size <= FILE_MAX)
		file = as_file(parse(fd, (size_t)st.st_size));
	close(fd);
	if (file && bench_all(file) && json_object_array_length(bench_all(file)) <= QUESTIONS_MAX)
		return file;
	json_object_put(file);
	why_set(why, -EINVAL, "%s is no file of figures: pageferry bench --json makes one", path);
	return NULL;
}

/* ---- */

void bench_number(char *text, size_t size, double value)
{
	double most = fabs(value);

	if (!isfinite(value))
		snprintf(text, size, "-");
	else
		snprintf(text, size, "%.*f",
			 most < 0.1    ? 4
			 : most < 1    ? 3
			 : most < 100  ? 2
			 : most < 1000 ? 1
				       : 0,
			 value);
}
