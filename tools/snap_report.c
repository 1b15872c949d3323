// SPDX-License-Identifier: MIT
/* How a snapshot went, for people and for programs. */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "tools/json_add.h"
#include "tools/snap.h"

#define PRETTY (JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE)

static void add_int(struct json_object *o, const char *key, uint64_t value)
{
	json_add_int(o, key, (int64_t)value);
}

static void add_ms(struct json_object *o, const char *key, uint64_t ns)
{
	char text[32];

	snprintf(text, sizeof(text), "%.3f", (double)ns / 1e6);
	json_object_object_add(o, key, json_object_new_double_s((double)ns / 1e6, text));
}

static struct json_object *live_to_json(const struct snap_maps *maps)
{
	struct json_object *list = json_object_new_array();
	char hex[32];

	for (size_t i = 0; i < maps->n; i++) {
		const struct snap_map *m = &maps->v[i];
		if (m->way != SNAP_LIVE)
			continue;
		struct json_object *o = json_object_new_object();
		snprintf(hex, sizeof(hex), "0x%" PRIx64, m->start);
		json_add_text(o, "start", hex);
		add_int(o, "bytes", m->end - m->start);
		json_add_text(o, "name", m->name);
		json_add_text(o, "why", m->why);
		json_object_array_add(list, o);
	}
	return list;
}

static void add_rounds(struct json_object *o, const struct snap_async *a)
{
	struct json_object *list = json_object_new_array();

	for (unsigned int i = 0; i < a->nrounds; i++) {
		struct json_object *one = json_object_new_object();
		add_int(one, "bytes", a->rounds[i].bytes);
		add_ms(one, "ms", a->rounds[i].ns);
		json_object_array_add(list, one);
	}
	json_object_object_add(o, "rounds", list);
}

static void add_way(struct json_object *o, const struct snap_result *r)
{
	if (!r->way)
		return;
	json_add_text(o, "way", r->way);
	json_add_text(o, "way_reason", r->way_reason);
	if (!r->async)
		return;
	add_ms(o, "first_stop_ms", r->first_stop_ns);
	add_rounds(o, r->async);
	add_int(o, "left_bytes", r->changed);
}

static struct json_object *to_json(const struct snap_options *options, const struct snap_result *r)
{
	struct json_object *o = json_object_new_object();

	json_add_text(o, "result", r->report.lost ? "incomplete" : "complete");
	add_int(o, "pid", (uint64_t)options->pid);
	json_add_text(o, "file", options->path);
	add_ms(o, "stop_ms", r->stop_ns);
	add_ms(o, "arm_ms", r->report.arm_ns);
	add_ms(o, "total_ms", r->total_ns);
	add_int(o, "threads", r->nthreads);
	add_way(o, r);
	if (r->track_stop_ns)
		add_ms(o, "track_stop_ms", r->track_stop_ns);
	if (options->base) {
		add_int(o, "changed_bytes", r->changed);
		add_int(o, "same_bytes", r->same);
	}
	if (r->holder)
		add_int(o, "holder", (uint64_t)r->holder);
	add_int(o, "frozen_bytes", r->report.data);
	add_int(o, "copied_bytes", r->copied);
	add_int(o, "constant_bytes", r->constant);
	add_int(o, "live_bytes", r->live);
	add_int(o, "lost_bytes", r->report.lost);
	add_int(o, "written_bytes", r->written);
	add_int(o, "faults", r->report.faults);
	add_int(o, "fault_bytes", r->report.pooled);
	add_int(o, "throttled", r->report.throttled);
	add_int(o, "extra_peak_bytes", r->extra_peak);
	json_object_object_add(o, "live", live_to_json(r->maps));
	return o;
}

static void print_json(struct json_object *o)
{
	puts(json_object_to_json_string_ext(o, PRETTY));
	json_object_put(o);
}

static double mib(uint64_t bytes)
{
	return (double)bytes / 1048576;
}

static uint64_t saved(const struct snap_result *r)
{
	uint64_t others = r->copied + r->constant + r->live + (r->async ? r->same : 0);
	return others + (r->report.data ? r->report.data : r->changed);
}

static void print_way(const struct snap_result *r)
{
	printf("way      %s: %s\n", r->way, r->way_reason);
	if (!r->async)
		return;
	printf("rounds  ");
	for (unsigned int i = 0; i < r->async->nrounds; i++)
		printf(" %.1f", mib(r->async->rounds[i].bytes));
	printf(" MiB; %.1f MiB were left\n", mib(r->changed));
}

/* In their order; the file is of the one that comes always. */
static void print_stops(const struct snap_result *r)
{
	printf("it stood still for ");
	if (r->first_stop_ns)
		printf("%.1f and ", (double)r->first_stop_ns / 1e6);
	printf("%.1f", (double)r->stop_ns / 1e6);
	if (r->track_stop_ns)
		printf(" and %.1f", (double)r->track_stop_ns / 1e6);
	printf(" ms\n");
}

static void print_text(const struct snap_options *options, const struct snap_result *r)
{
	printf("%s: process %d, %zu thread%s, %.1f MiB in %.0f ms; ", options->path,
	       (int)options->pid, r->nthreads, r->nthreads == 1 ? "" : "s", mib(saved(r)),
	       (double)r->total_ns / 1e6);
	print_stops(r);
	if (r->way)
		print_way(r);
	if (options->base)
		printf("changed  %.1f MiB; %.1f MiB are as in %s\n", mib(r->changed), mib(r->same),
		       options->base);
	if (r->holder)
		printf("holder   process %d, until process %d ends or --untrack\n", (int)r->holder,
		       (int)options->pid);
	printf("faults   %" PRIu64 ", for which %.1f MiB were saved first; %" PRIu64
	       " had to wait for memory\n",
	       r->report.faults, mib(r->report.pooled), r->report.throttled);
	printf("memory   at most %.1f MiB extra\n", mib(r->extra_peak));
	if (r->live)
		printf("live     %.1f MiB, not of the same moment: shared, or in the hands of a userfaultfd (--json lists it)\n",
		       mib(r->live));
}

void snap_print(const struct snap_options *options, const struct snap_result *result)
{
	if (options->json)
		print_json(to_json(options, result));
	else
		print_text(options, result);
}

void snap_print_failure(const struct snap_options *options, const struct why *why)
{
	if (options->json) {
		struct json_object *o = json_object_new_object();
		json_add_text(o, "result", "failed");
		add_int(o, "pid", (uint64_t)options->pid);
		json_add_text(o, "error", why->text);
		print_json(o);
	}
	say("%s", why->text);
}
