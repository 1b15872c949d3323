/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <json-c/json.h>

#include "include/linux/pageferry.h"
#include "lib/clock.h"
#include "lib/module.h"
#include "tools/json_get.h"
#include "tools/proc.h"
#include "tools/upgrade.h"

#define TIMEOUT_MAX_MS   86400000
#define OLD_END_MS       10000 /* it has nothing left to do */
#define LIBRARY_GRACE_MS 5000
#define LAST_WORDS_MS    2000

const char *upgrade_phase(const struct upgrade *up)
{
	return up ? up->phase : NULL;
}

void upgrade_client_gone(struct upgrade *up, const struct client *client)
{
	if (up && up->client == client)
		up->client = NULL;
}

int upgrade_request(struct keeper *keeper, struct client *client, struct json_object *request,
		    struct why *why)
{
	const char *qemu = json_get_string(request, "qemu");
	int64_t ways = 0, cpu = FERRY_CPU_FOLLOW, timeout = FERRY_TIMEOUT_MS;
	struct json_object *strict = NULL;
	struct upgrade *up;

	if (keeper->upgrade)
		return why_set(why, -EBUSY, "an upgrade is under way: wait for its end");
	if (keeper->stop)
		return why_set(why, -ESHUTDOWN, "the VM is being stopped");
	if ((json_object_object_get_ex(request, "qemu", NULL) && !qemu) ||
	    (qemu && (qemu[0] != '/' || strlen(qemu) >= PATH_MAX)) ||
	    !json_get_int(request, "ways", 0, UINT32_MAX, &ways) ||
	    !json_get_int(request, "cpu", INT32_MIN, INT32_MAX, &cpu) ||
	    !json_get_int(request, "timeout_ms", 1, TIMEOUT_MAX_MS, &timeout) ||
	    (json_object_object_get_ex(request, "strict", &strict) &&
	     !json_object_is_type(strict, json_type_boolean)))
		return why_set(why, -EINVAL, "not a request for an upgrade");
	up = calloc(1, sizeof(*up));
	if (!up)
		return why_set(why, -ENOMEM, "out of memory");
	up->keeper = keeper;
	up->old = keeper->now;
	up->client = client;
	up->ways = (uint32_t)ways;
	up->cpu = (int32_t)cpu;
	up->timeout_ms = (uint32_t)timeout;
	up->strict = json_object_get_boolean(strict);
	up->notes = json_object_new_array();
	up->begin_ns = clock_ns();
	up->phase = "beginning";
	snprintf(up->qemu, sizeof(up->qemu), "%s", qemu ? qemu : keeper->now->path);
	keeper->upgrade = up;
	return 0;
}

/* The states from which QEMU can migrate and come out as it was. */
static bool status_fits(const char *status)
{
	static const char *const fit[] = {"running",   "paused",   "prelaunch",      "shutdown",
					  "suspended", "io-error", "guest-panicked", "watchdog"};

	for (size_t i = 0; i < sizeof(fit) / sizeof(fit[0]); i++)
		if (!strcmp(status, fit[i]))
			return true;
	return false;
}

static bool is_there(const struct upgrade *up)
{
	return up->old->hello;
}

/* The VM may have been started a moment ago. */
static int check_library(struct upgrade *up)
{
	int err = up->old->control < 0 ? -ENOTCONN
				       : upgrade_wait(up, is_there, "the start of the VM's QEMU");

	if (err != -ENOTCONN && err != -ETIMEDOUT)
		return err;
	return why_set(&up->why, -ENOTCONN,
		       "the library preloaded into the VM's QEMU does not answer: stop the VM and "
		       "run it again");
}

/* Said here, since the old QEMU would only refuse, when the new one was started already. */
static int check_ways(struct upgrade *up)
{
	bool needed = up->strict || up->ways == FERRY_WAY_BIT(FERRY_WAY_MODULE);
	int module = needed ? module_open(up->strict ? PAGEFERRY_FEATURE_CHECK : 0) : 0;

	if (module < 0)
		return why_set(&up->why, module, "%s: pageferry.ko can't be used: %s: see pageferry probe",
			       up->strict ? "--strict" : "--way module", strerror(-module));
	if (module > 0)
		close(module);
	return 0;
}

static int check(struct upgrade *up)
{
	char path[PATH_MAX], status[32];
	int err = qemu_find(up->qemu, path, sizeof(path), &up->why);

	if (!err)
		err = check_ways(up);
	if (!err)
		err = check_library(up);
	if (err)
		return err;
	qemu_begin_upgrade(up->old, ++up->keeper->serial);
	proc_memory(up->old->pid, &up->base_kib);
	err = qemu_qmp_open(up->keeper, up->old, &up->why);
	if (!err)
		err = upgrade_ask_status(up, up->old, status, sizeof(status));
	if (!err && !status_fits(status))
		err = why_set(&up->why, -EBUSY, "the VM is in QEMU's state '%s': %s", status,
			      strcmp(status, "postmigrate") ? "wait for its end"
							    : "let it run first (QMP cont)");
	if (!err)
		err = upgrade_ask_version(up, up->old, up->old_version, sizeof(up->old_version));
	up->running = !err && !strcmp(status, "running");
	return err;
}

static int record(struct upgrade *up)
{
	struct keeper *keeper = up->keeper;
	int err = keeper_write_state(keeper);

	return err ? why_set(&up->why, err, "%s/vm.json: can't be written: %s", keeper->dir.path,
			     strerror(-err))
		   : 0;
}

static bool attached(const struct upgrade *up)
{
	return up->old->said.phase >= FERRY_PHASE_ATTACHED;
}

static int give(struct upgrade *up, int sock)
{
	const struct control_msg msg = {
		.version = CONTROL_VERSION,
		.type = CONTROL_GIVE,
		.flags = (up->running ? CONTROL_GIVE_RUNNING : 0) |
			 (up->strict ? CONTROL_GIVE_STRICT : 0),
		.ways = up->ways,
		/* The keeper's own deadlines come first: it knows better what was waited for. */
		.timeout_ms = up->timeout_ms + LIBRARY_GRACE_MS,
		.cpu = up->cpu,
		.serial = up->old->serial,
	};
	int err = qemu_control_send(up->old, &msg, sock);

	up->given = !err;
	return err ? why_set(&up->why, err, "the library in the VM's QEMU does not listen: %s",
			     strerror(-err))
		   : 0;
}

static int start(struct upgrade *up)
{
	struct keeper *keeper = up->keeper;
	struct succession succession;
	int pair[2], err;

	upgrade_tell_phase(up, "starting");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return why_set(&up->why, -errno, "socketpair: %s", strerror(errno));
	upgrade_remove_files(keeper, up->old->generation + 1);
	upgrade_share_sockets(up);
	succession = (struct succession){.sock = pair[1], .ports = up->sockets.words};
	err = qemu_start(keeper, up->qemu, up->old->generation + 1, &succession, &up->new,
			 &up->why);
	keeper->next = up->new;
	close(pair[1]);
	if (!err)
		err = record(up);
	if (!err)
		err = give(up, pair[0]);
	close(pair[0]);
	return err ? err : upgrade_wait(up, attached, "the start of the new QEMU");
}

static int prepare(struct upgrade *up)
{
	int err;

	upgrade_tell_phase(up, "attached");
	err = qemu_qmp_open(up->keeper, up->new, &up->why);
	if (!err)
		err = upgrade_ask_version(up, up->new, up->new_version, sizeof(up->new_version));
	return err ? err : upgrade_set_capabilities(up);
}

static struct json_object *uri(const struct upgrade *up)
{
	struct json_object *arguments = json_object_new_object();
	char text[PATH_MAX + 32];

	snprintf(text, sizeof(text), "unix:%s/migrate.sock", up->keeper->dir.path);
	json_object_object_add(arguments, "uri", json_object_new_string(text));
	return arguments;
}

static bool stands_still(const struct upgrade *up)
{
	return !strcmp(up->old->told.migration, "pre-switchover");
}

/* The new QEMU took its time to start: whether its guest is to run was said before. */
static int same_status(struct upgrade *up)
{
	char status[32];
	int err = upgrade_ask_status(up, up->old, status, sizeof(status));

	if (!err && up->running != !strcmp(status, "running"))
		err = why_set(&up->why, -EBUSY, "the guest is '%s' since the upgrade began: upgrade again",
			      status);
	return err;
}

static int migrate(struct upgrade *up)
{
	int err;

	upgrade_tell_phase(up, "migrating");
	err = same_status(up);
	memset(&up->old->told, 0, sizeof(up->old->told));
	up->migrating = true;
	if (!err)
		err = upgrade_ask(up, up->new, "migrate-incoming", uri(up), NULL);
	if (!err)
		err = upgrade_ask(up, up->old, "migrate", uri(up), NULL);
	return err ? err : upgrade_wait(up, stands_still, "the stop of the guest");
}

static int send_plain(struct upgrade *up, enum control_type type)
{
	const struct control_msg msg = {.version = CONTROL_VERSION, .type = type};
	int err = qemu_control_send(up->old, &msg, -1);

	return err ? why_set(&up->why, err, "the library in the VM's QEMU does not listen: %s",
			     strerror(-err))
		   : 0;
}

/*
 * Not waited for: the guest stands still already, and a page that the new QEMU asks for too early
 * waits at the old one.
 */
static int shadow(struct upgrade *up)
{
	return send_plain(up, CONTROL_SHADOW);
}

static bool ready(const struct upgrade *up)
{
	return up->old->said.phase >= FERRY_PHASE_READY &&
	       !strcmp(up->old->told.migration, "completed") &&
	       !strcmp(up->new->told.migration, "completed");
}

static int switch_over(struct upgrade *up)
{
	struct json_object *arguments = json_object_new_object();
	int err;

	json_object_object_add(arguments, "state", json_object_new_string("pre-switchover"));
	err = upgrade_ask(up, up->old, "migrate-continue", arguments, NULL);
	upgrade_tell_phase(up, "shadow");
	return err ? err : upgrade_wait(up, ready, "the loading of the device state");
}

static bool committed(const struct upgrade *up)
{
	return up->old->said.phase >= FERRY_PHASE_COMMITTED ||
	       up->new->said.phase >= FERRY_PHASE_COMMITTED || up->new->said.resumed;
}

static int commit(struct upgrade *up)
{
	int err;

	upgrade_tell_phase(up, "committing");
	/* The last moment at which the client's wish counts. */
	if (!up->client)
		return why_set(&up->why, -ECANCELED, "the command that asked for it has ended");
	err = send_plain(up, CONTROL_COMMIT);
	if (err)
		return err;
	up->committing = true;
	err = upgrade_wait(up, committed, "the commit");
	up->committing = up->committed = !err;
	return err;
}

/* From here on the VM is the new QEMU's, whatever else happens. */
static void take_over(struct upgrade *up)
{
	struct keeper *keeper = up->keeper;
	int err;

	keeper->now = up->new;
	keeper->next = up->old;
	keeper->state.upgraded = time(NULL);
	err = keeper_write_state(keeper);
	if (err)
		upgrade_note(up, "vm.json can't be written: %s", strerror(-err));
}

static bool runs(const struct upgrade *up)
{
	return up->new->said.resumed || up->new->said.failed;
}

static int resume(struct upgrade *up)
{
	int err;

	upgrade_tell_phase(up, "committed");
	if (!up->running)
		return 0;
	err = upgrade_wait(up, runs, "the start of the guest in the new QEMU");
	if (!err && up->new->said.failed)
		err = why_set(&up->why, -EREMOTEIO, "the new QEMU: %s", up->new->said.text);
	return err;
}

static bool is_drained(const struct upgrade *up)
{
	return up->old->said.phase == FERRY_PHASE_DONE || up->new->said.phase == FERRY_PHASE_DONE;
}

/* No deadline: while pages are still at the old QEMU it must not be touched, however long it
 * takes. It ends with the first of: all pages are across, the old QEMU dies, the VM ends. */
static int drain(struct upgrade *up)
{
	struct keeper *keeper = up->keeper;
	uint64_t left = up->old->said.report.left;
	int64_t moved_ns = clock_ns();

	upgrade_tell_phase(up, "draining");
	while (!is_drained(up) && !up->old->ended && !up->new->ended && !keeper->stop) {
		upgrade_step(up);
		if (up->old->said.report.left != left) {
			left = up->old->said.report.left;
			moved_ns = clock_ns();
		} else if (clock_ns() - moved_ns > up->timeout_ms * 1000000LL) {
			upgrade_note(up,
				     "%llu bytes of guest memory wait in the old QEMU and "
				     "don't move",
				     (unsigned long long)left);
			moved_ns = INT64_MAX;
		}
	}
	if (up->old->ended && !is_drained(up))
		keeper_wait_end(keeper, up->new, LAST_WORDS_MS);
	if (is_drained(up))
		return 0;
	if (keeper->stop)
		return why_set(&up->why, -ECANCELED, "the VM is being stopped");
	const struct qemu *ended = up->new->ended ? up->new : up->old;
	char how[128];
	qemu_end_text(ended, how, sizeof(how));
	return why_set(&up->why, -EOWNERDEAD,
		       "the %s QEMU %s while %llu bytes of guest memory were on their way",
		       ended == up->new ? "new" : "old", how, (unsigned long long)left);
}

/* It ends by itself once it has nothing left to give. */
static void end_old(struct upgrade *up)
{
	struct keeper *keeper = up->keeper;
	int64_t deadline = clock_ns() + OLD_END_MS * 1000000LL;

	if (keeper->stop || up->new->ended)
		qemu_kill(up->old);
	while (!up->old->ended && clock_ns() < deadline)
		upgrade_step(up);
	if (!up->old->ended) {
		upgrade_note(up, "the old QEMU (process %d) did not end by itself and was killed",
			     (int)up->old->pid);
		qemu_kill(up->old);
		keeper_wait_end(keeper, up->old, OLD_END_MS);
	}
}

/* The VM is where it should be and has all of its memory: a failure only of what was asked for. */
static int check_strict(struct upgrade *up)
{
	uint64_t refused = up->old->said.report.refused;

	if (!up->strict || !refused)
		return 0;
	return why_set(&up->why, -EBUSY,
		       "--strict: %llu KiB of guest memory were held by somebody after the commit and had "
		       "to be copied",
		       (unsigned long long)(refused >> 10));
}

static int finish(struct upgrade *up)
{
	struct keeper *keeper = up->keeper;
	int err, drained;

	take_over(up);
	err = resume(up);
	drained = drain(up);
	if (keeper->stop)
		keeper_stop(keeper);
	end_old(up);
	if (!drained)
		drained = check_strict(up);
	upgrade_end_sockets(up);
	up->end_ns = clock_ns();
	keeper->next = NULL;
	if (!up->new->ended)
		upgrade_restore_capabilities(up, up->new);
	qemu_qmp_close(up->new);
	qemu_log_release(keeper, up->new);
	upgrade_remove_files(keeper, up->old->generation);
	if (keeper_write_state(keeper))
		upgrade_note(up, "vm.json can't be written");
	return err ? err : drained;
}

static void upgrade_free(struct upgrade *up)
{
	json_object_put(up->old_capabilities);
	json_object_put(up->new_capabilities);
	json_object_put(up->old_parameters);
	json_object_put(up->notes);
	free(up);
}

void upgrade_run(struct keeper *keeper)
{
	static int (*const steps[])(struct upgrade *) = {check,  start,       prepare, migrate,
							 shadow, switch_over, commit};
	struct upgrade *up = keeper->upgrade;
	int err = 0;

	for (size_t i = 0; !err && i < sizeof(steps) / sizeof(steps[0]); i++)
		err = steps[i](up);
	if (err)
		upgrade_abort(up);
	else
		err = finish(up);
	if (!up->end_ns)
		up->end_ns = clock_ns();
	upgrade_tell_result(up, err);
	if (up->client)
		client_close(up->client);
	keeper->upgrade = NULL;
	if (up->committed)
		qemu_free(up->old);
	else if (keeper_write_state(keeper))
		say("%s: vm.json can't be written", keeper->state.name);
	upgrade_free(up);
}
