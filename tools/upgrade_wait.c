/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "lib/clock.h"
#include "tools/proc.h"
#include "tools/upgrade.h"

#define STEP_MS  5   /* the peak of memory must not pass unseen */
#define GRACE_MS 500 /* for the cause to be seen after its symptom */

static void sample_memory(struct upgrade *up)
{
	uint64_t old_kib = 0, new_kib = 0;
	int64_t now = clock_ns();

	/* Not with every message: the guest may be standing still for the answer to it. */
	if (now - up->sampled_ns < STEP_MS * 1000000LL)
		return;
	up->sampled_ns = now;
	if (!up->old->ended)
		proc_memory(up->old->pid, &old_kib);
	if (up->new && !up->new->ended)
		proc_memory(up->new->pid, &new_kib);
	if (old_kib + new_kib > up->peak_kib)
		up->peak_kib = old_kib + new_kib;
}

void upgrade_step(struct upgrade *up)
{
	keeper_step(up->keeper, STEP_MS);
	sample_memory(up);
	upgrade_tell_progress(up);
}

static int new_ended(struct upgrade *up)
{
	char end[96], log[700];

	/* What its library said is the cause; what QEMU printed may be. */
	if (up->new->said.failed)
		return why_set(&up->why, -EREMOTEIO, "the new QEMU: %s", up->new->said.text);
	if (qemu_was_none(up->new))
		return why_set(&up->why, -ECHILD, "%s " QEMU_NONE_TEXT, up->new->path);
	qemu_end_text(up->new, end, sizeof(end));
	qemu_log_tail(up->new, log, sizeof(log));
	return why_set(&up->why, -ECHILD, "the new QEMU %s%s%s", end, log[0] ? ": " : "", log);
}

static int old_ended(struct upgrade *up)
{
	char end[96];

	qemu_end_text(up->old, end, sizeof(end));
	return why_set(&up->why, -ECHILD, "the VM's QEMU %s", end);
}

static bool migration_failed(const struct qemu *qemu)
{
	const char *status = qemu ? qemu->told.migration : "";

	return !strcmp(status, "failed") || !strcmp(status, "cancelled") ||
	       !strcmp(status, "cancelling");
}

static bool migration_failed_here(const struct upgrade *up)
{
	return up->migrating && (migration_failed(up->old) || migration_failed(up->new));
}

/* Signs that something is wrong, which may come before the word or the end of the one that is. */
static bool has_symptom(const struct upgrade *up)
{
	return up->old->said.failed || up->old->qmp_error || migration_failed_here(up) ||
	       (up->new && (up->new->said.failed || up->new->qmp_error));
}

static int name_symptom(struct upgrade *up)
{
	const struct qemu *old = up->old, *new = up->new;

	if (new &&new->said.failed)
		return why_set(&up->why, -EREMOTEIO, "the new QEMU: %s", new->said.text);
	if (old->said.failed)
		return why_set(&up->why, -EREMOTEIO, "the old QEMU: %s", old->said.text);
	if (migration_failed_here(up))
		return why_set(&up->why, -EREMOTEIO, "the device state did not get across");
	return why_set(&up->why, -EPROTO, "a QEMU has closed its QMP socket or sends nonsense");
}

/* Somebody else has let the guest run, through a QMP socket of his own: what was copied is stale. */
static bool runs_too_early(const struct upgrade *up)
{
	const struct qemu *old = up->old;

	return (up->new && up->new->told.resume_us) ||
	       (up->migrating && old->told.stop_us && old->told.resume_us > old->told.stop_us);
}

static int broken_before_commit(struct upgrade *up)
{
	if (up->old->ended)
		return old_ended(up);
	if (up->new && up->new->ended)
		return new_ended(up);
	if (has_symptom(up)) {
		if (up->new && !up->new->said.failed)
			keeper_wait_end(up->keeper, up->new, GRACE_MS);
		if (up->old->ended)
			return old_ended(up);
		return up->new && up->new->ended ? new_ended(up) : name_symptom(up);
	}
	if (runs_too_early(up))
		return why_set(&up->why, -EBUSY,
			       "somebody let the guest run in the middle: upgrade again");
	if (up->keeper->stop)
		return why_set(&up->why, -ECANCELED, "the VM is being stopped");
	if (!up->client)
		return why_set(&up->why, -ECANCELED, "the command that asked for it has ended");
	return 0;
}

/* COMMIT is out. The old library answers with committed or FAILED; if it dies meanwhile, the new
 * one knows, or ends. Nobody else may decide any more. */
static int broken_in_commit(struct upgrade *up)
{
	if (up->new->ended)
		return new_ended(up);
	if (up->new->said.failed || up->old->said.failed)
		return name_symptom(up);
	return 0;
}

static int broken(struct upgrade *up)
{
	if (!up->committing && !up->aborting)
		return broken_before_commit(up);
	if (up->committing && !up->committed)
		return broken_in_commit(up);
	if (up->aborting && up->old->ended)
		return old_ended(up);
	if (up->committed && up->new->ended)
		return new_ended(up);
	if (up->committed && up->keeper->stop)
		return why_set(&up->why, -ECANCELED, "the VM is being stopped");
	if (up->asked && up->asked->qmp_error)
		return why_set(&up->why, up->asked->qmp_error, "QEMU has closed its QMP socket");
	return 0;
}

int upgrade_wait(struct upgrade *up, bool (*reached)(const struct upgrade *up), const char *what)
{
	int64_t deadline = clock_ns() + up->timeout_ms * 1000000LL;
	int err;

	for (;;) {
		if (reached(up))
			return 0;
		err = broken(up);
		if (err)
			return err;
		if (clock_ns() >= deadline && !up->committing)
			return why_set(&up->why, -ETIMEDOUT,
				       "%s took longer than %u s: give more with --timeout", what,
				       up->timeout_ms / 1000);
		upgrade_step(up);
	}
}
