/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <json-c/json.h>

#include "tools/json_get.h"
#include "tools/upgrade.h"

/* Device state is small; what else is RAM to QEMU, such as video memory, is sent with it. */
#define MAX_BANDWIDTH     (16LL << 30)
#define DOWNTIME_LIMIT_MS 2000

/* The answer to a command that was given up may still come. */
static bool asked_free(const struct upgrade *up)
{
	const struct qmp *qmp = up->asked->qmp;

	return !up->asked->qmp_error && (qmp_ready(qmp) || qmp_has_answer(qmp));
}

static bool asked_answered(const struct upgrade *up)
{
	return !up->asked->qmp_error && qmp_has_answer(up->asked->qmp);
}

static int ask(struct upgrade *up, struct qemu *qemu, const char *command,
	       struct json_object *arguments, struct json_object **value)
{
	struct why why = {""};
	int err = upgrade_wait(up, asked_free, "QEMU's greeting on its QMP socket");
	if (err) {
		json_object_put(arguments);
		return err;
	}
	if (qmp_has_answer(qemu->qmp))
		qmp_answer(qemu->qmp, NULL, &why);
	err = qmp_send(qemu->qmp, command, arguments);
	if (err)
		return why_set(&up->why, err, "%s: %s", command, strerror(-err));
	err = upgrade_wait(up, asked_answered, command);
	if (err)
		return err;
	err = qmp_answer(qemu->qmp, value, &why);
	return err < 0 ? why_set(&up->why, err, "%s: %s", command, why.text) : 0;
}

int upgrade_ask(struct upgrade *up, struct qemu *qemu, const char *command,
		struct json_object *arguments, struct json_object **value)
{
	int err;

	up->asked = qemu;
	err = ask(up, qemu, command, arguments, value);
	up->asked = NULL;
	return err;
}

int upgrade_ask_status(struct upgrade *up, struct qemu *qemu, char *status, size_t size)
{
	struct json_object *value = NULL;
	const char *text;
	int err = upgrade_ask(up, qemu, "query-status", NULL, &value);

	if (err)
		return err;
	text = json_get_string(value, "status");
	snprintf(status, size, "%s", text ? text : "?");
	json_object_put(value);
	return 0;
}

int upgrade_ask_version(struct upgrade *up, struct qemu *qemu, char *version, size_t size)
{
	struct json_object *value = NULL, *numbers;
	int64_t major = 0, minor = 0, micro = 0;
	int err = upgrade_ask(up, qemu, "query-version", NULL, &value);

	if (err)
		return err;
	numbers = json_get(value, "qemu", json_type_object);
	json_get_int(numbers, "major", 0, 9999, &major);
	json_get_int(numbers, "minor", 0, 9999, &minor);
	json_get_int(numbers, "micro", 0, 9999, &micro);
	snprintf(version, size, "%d.%d.%d", (int)major, (int)minor, (int)micro);
	json_object_put(value);
	return 0;
}

static bool is_needed(const char *capability, bool source)
{
	return !strcmp(capability, "x-ignore-shared") || !strcmp(capability, "events") ||
	       (source && !strcmp(capability, "pause-before-switchover"));
}

static void add_capability(struct json_object *list, const char *name, bool state)
{
	struct json_object *item = json_object_new_object();

	json_object_object_add(item, "capability", json_object_new_string(name));
	json_object_object_add(item, "state", json_object_new_boolean(state));
	json_object_array_add(list, item);
}

/* Compare what there is with what is needed: nothing but the few above may be on, since others,
 * multifd for one, would change how device state travels. */
static void plan_capabilities(struct json_object *now, bool source, struct json_object *wanted,
			      struct json_object *before)
{
	size_t n = json_object_is_type(now, json_type_array) ? json_object_array_length(now) : 0;

	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(now, i);
		struct json_object *state = json_get(item, "state", json_type_boolean);
		const char *name = json_get_string(item, "capability");
		bool on = json_object_get_boolean(state);

		if (!name || on == is_needed(name, source))
			continue;
		add_capability(wanted, name, !on);
		add_capability(before, name, on);
	}
}

static struct json_object *with_key(const char *key, struct json_object *value)
{
	struct json_object *object = json_object_new_object();

	json_object_object_add(object, key, value);
	return object;
}

static int set_capabilities(struct upgrade *up, struct qemu *qemu, bool source,
			    struct json_object **before)
{
	struct json_object *now = NULL, *wanted;
	int err = upgrade_ask(up, qemu, "query-migrate-capabilities", NULL, &now);

	if (err)
		return err;
	wanted = json_object_new_array();
	*before = json_object_new_array();
	plan_capabilities(now, source, wanted, *before);
	json_object_put(now);
	return upgrade_ask(up, qemu, "migrate-set-capabilities", with_key("capabilities", wanted),
			   NULL);
}

static int set_parameters(struct upgrade *up)
{
	struct json_object *now = NULL, *wanted = json_object_new_object();
	int64_t bandwidth = 0, downtime = 0;
	int err = upgrade_ask(up, up->old, "query-migrate-parameters", NULL, &now);

	if (err) {
		json_object_put(wanted);
		return err;
	}
	json_get_int(now, "max-bandwidth", 0, INT64_MAX, &bandwidth);
	json_get_int(now, "downtime-limit", 0, INT64_MAX, &downtime);
	json_object_put(now);
	up->old_parameters = json_object_new_object();
	json_object_object_add(up->old_parameters, "max-bandwidth",
			       json_object_new_int64(bandwidth));
	json_object_object_add(up->old_parameters, "downtime-limit",
			       json_object_new_int64(downtime));
	json_object_object_add(wanted, "max-bandwidth", json_object_new_int64(MAX_BANDWIDTH));
	json_object_object_add(wanted, "downtime-limit", json_object_new_int64(DOWNTIME_LIMIT_MS));
	return upgrade_ask(up, up->old, "migrate-set-parameters", wanted, NULL);
}

int upgrade_set_capabilities(struct upgrade *up)
{
	int err = set_capabilities(up, up->old, true, &up->old_capabilities);

	if (!err)
		err = set_parameters(up);
	if (!err)
		err = set_capabilities(up, up->new, false, &up->new_capabilities);
	return err;
}

/* What fails here is no reason to fail the upgrade: the guest runs. */
void upgrade_restore_capabilities(struct upgrade *up, struct qemu *qemu)
{
	struct json_object **before = qemu == up->old ? &up->old_capabilities
						      : &up->new_capabilities;
	struct why first = up->why;
	int err = 0;

	if (*before) {
		err = upgrade_ask(up, qemu, "migrate-set-capabilities",
				  with_key("capabilities", json_object_get(*before)), NULL);
		json_object_put(*before);
		*before = NULL;
	}
	if (!err && qemu == up->old && up->old_parameters) {
		err = upgrade_ask(up, qemu, "migrate-set-parameters",
				  json_object_get(up->old_parameters), NULL);
	}
	if (err)
		upgrade_note(up, "QEMU's migration settings were not put back: %s", up->why.text);
	up->why = first;
}
