/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdio.h>
#include <json-c/json.h>

#include "tools/upgrade.h"

static void add_int(struct json_object *object, const char *key, int64_t value)
{
	json_object_object_add(object, key, json_object_new_int64(value));
}

static void add_string(struct json_object *object, const char *key, const char *value)
{
	json_object_object_add(object, key, value ? json_object_new_string(value) : NULL);
}

/* Rounded to what can be told apart, so that no digits are shown that mean nothing. */
static void add_fraction(struct json_object *object, const char *key, double value)
{
	char text[32];

	snprintf(text, sizeof(text), "%.3f", value);
	json_object_object_add(object, key, json_object_new_double_s(value, text));
}

static struct json_object *new_event(const char *event)
{
	struct json_object *object = json_object_new_object();

	add_string(object, "event", event);
	return object;
}

static void tell(struct upgrade *up, struct json_object *message)
{
	if (up->client)
		client_send(up->client, message);
	else
		json_object_put(message);
}

void upgrade_note(struct upgrade *up, const char *format, ...)
{
	char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args); /* NOLINT(clang-analyzer-valist.Uninitialized) */
	va_end(args);
	json_object_array_add(up->notes, json_object_new_string(text));
	say("%s: %s", up->keeper->state.name, text);
}

void upgrade_tell_phase(struct upgrade *up, const char *phase)
{
	struct json_object *event = new_event("phase");

	up->phase = phase;
	add_string(event, "phase", phase);
	tell(up, event);
}

void upgrade_tell_progress(struct upgrade *up)
{
	const struct said *said = &up->old->said;
	struct json_object *event;

	if (said->reports == up->reports_sent || said->phase < FERRY_PHASE_COMMITTED)
		return;
	up->reports_sent = said->reports;
	event = new_event("progress");
	add_int(event, "total_bytes", (int64_t)said->report.total);
	add_int(event, "left_bytes", (int64_t)said->report.left);
	tell(up, event);
}

static struct json_object *faults_to_json(const struct ferry_report *report)
{
	struct json_object *faults = json_object_new_object();

	add_int(faults, "count", (int64_t)report->faults);
	add_fraction(faults, "p50_us", (double)report->fault_p50_ns / 1e3);
	add_fraction(faults, "p99_us", (double)report->fault_p99_ns / 1e3);
	add_fraction(faults, "max_us", (double)report->fault_max_ns / 1e3);
	return faults;
}

static struct json_object *bytes_to_json(const struct ferry_report *report)
{
	struct json_object *bytes = json_object_new_object();

	for (unsigned int way = 0; way < FERRY_WAYS; way++)
		add_int(bytes, ferry_way_name(way), (int64_t)report->bytes[way]);
	return bytes;
}

static void add_downtime(struct json_object *object, const struct upgrade *up)
{
	int64_t stop = up->old->told.stop_us, resume = up->new->told.resume_us;

	/* A guest that was paused before had none. */
	if (up->running && stop && resume)
		add_fraction(object, "downtime_ms", (double)(resume - stop) / 1e3);
	else
		json_object_object_add(object, "downtime_ms", NULL);
}

static void add_process(struct json_object *object, const struct qemu *qemu, const char *version,
			const char *side)
{
	char key[32];

	snprintf(key, sizeof(key), "%s_pid", side);
	add_int(object, key, qemu->pid);
	snprintf(key, sizeof(key), "%s_qemu", side);
	add_string(object, key, qemu->path);
	snprintf(key, sizeof(key), "%s_version", side);
	add_string(object, key, version[0] ? version : NULL);
}

static void add_success(struct json_object *result, const struct upgrade *up)
{
	const struct ferry_report *report = &up->old->said.report;
	int64_t extra = (int64_t)up->peak_kib - (int64_t)up->base_kib;

	add_downtime(result, up);
	add_fraction(result, "shadow_ms", (double)report->shadow_ns / 1e6);
	add_fraction(result, "drain_ms", (double)report->drain_ns / 1e6);
	json_object_object_add(result, "faults", faults_to_json(report));
	json_object_object_add(result, "bytes", bytes_to_json(report));
	add_int(result, "total_bytes", (int64_t)report->total);
	add_int(result, "removed_bytes", (int64_t)report->removed);
	add_int(result, "refused_bytes", (int64_t)report->refused);
	add_string(result, "not_by_tables", report->why ? ferry_why_name(report->why) : NULL);
	json_object_object_add(result, "stage_used",
			       json_object_new_boolean(report->stage_used != 0));
	add_int(result, "base_kib", (int64_t)up->base_kib);
	add_int(result, "peak_kib", (int64_t)up->peak_kib);
	add_int(result, "extra_kib", extra > 0 ? extra : 0);
}

static void tell_keeper(const struct upgrade *up, int err)
{
	const struct qemu *now = up->keeper->now;
	const char *name = up->keeper->state.name;

	if (err)
		say("%s: the upgrade failed: %s", name, up->why.text);
	else
		say("%s: upgraded to generation %u: %s %s (process %d)", name, now->generation,
		    now->path, up->new_version, (int)now->pid);
}

static const char *where_vm_is(const struct upgrade *up)
{
	if (up->keeper->stop)
		return "ended";
	if (up->committed)
		return up->new->ended ? "ended" : "new";
	return up->old->ended ? "ended" : "old";
}

void upgrade_tell_result(struct upgrade *up, int err)
{
	struct json_object *result = json_object_new_object();

	add_string(result, "result", err ? "failed" : "upgraded");
	add_string(result, "name", up->keeper->state.name);
	add_int(result, "generation", up->keeper->state.generation);
	if (err) {
		add_string(result, "error", up->why.text);
		add_string(result, "vm", where_vm_is(up));
	}
	add_process(result, up->old, up->old_version, "old");
	if (up->new)
		add_process(result, up->new, up->new_version, "new");
	if (up->new && up->committed)
		add_success(result, up);
	add_fraction(result, "total_ms", (double)(up->end_ns - up->begin_ns) / 1e6);
	json_object_object_add(result, "notes", json_object_get(up->notes));
	tell_keeper(up, err);
	tell(up, result);
}
