/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/upgrade.h"

#define KILL_MS 30000

static bool old_resumed(const struct upgrade *up)
{
	return up->old->said.resumed;
}

static void end_new(struct upgrade *up)
{
	struct keeper *keeper = up->keeper;

	if (!up->new)
		return;
	/* First, and to its end: it may hold the locks of the disks that the old one wants back. */
	qemu_kill(up->new);
	keeper_wait_end(keeper, up->new, KILL_MS);
	qemu_log_release(keeper, up->new);
	upgrade_remove_files(keeper, up->new->generation);
	keeper->next = NULL;
	qemu_free(up->new);
	up->new = NULL;
}

/* The library in the old QEMU makes its guest run again by itself: that works without a keeper
 * too. It may have begun already, when it saw the new QEMU go. */
static int wait_for_old(struct upgrade *up)
{
	const struct control_msg cancel = {.version = CONTROL_VERSION, .type = CONTROL_CANCEL};

	if (!up->given)
		return 0;
	if (!up->old->said.resumed)
		qemu_control_send(up->old, &cancel, -1);
	return upgrade_wait(up, old_resumed, "the way back");
}

/* Should that have failed, the guest must not stand still for want of one command. */
static void check_old(struct upgrade *up, int err)
{
	char status[32] = "";

	if (up->old->ended || !up->old->qmp)
		return;
	upgrade_restore_capabilities(up, up->old);
	if (upgrade_ask_status(up, up->old, status, sizeof(status)))
		return;
	if (!strcmp(status, "postmigrate") && up->given && !up->running)
		upgrade_note(up, "the guest, which was paused, is now in QEMU's state "
				 "'postmigrate': QMP cont lets it run");
	if (!up->running || !strcmp(status, "running"))
		return;
	upgrade_note(up, "the guest was '%s' after the failed upgrade%s%s", status, err ? ": " : "",
		     err ? up->why.text : "");
	upgrade_ask(up, up->old, "cont", NULL, NULL);
}

void upgrade_abort(struct upgrade *up)
{
	struct why cause = up->why;
	int err;

	up->aborting = true;
	upgrade_tell_phase(up, "cancelling");
	end_new(up);
	upgrade_end_sockets(up);
	err = up->old->ended ? 0 : wait_for_old(up);
	check_old(up, err);
	qemu_qmp_close(up->old);
	up->why = cause;
}

void upgrade_remove_files(struct keeper *keeper, uint32_t generation)
{
	char file[32];

	for (size_t i = 0; i < 2; i++) {
		snprintf(file, sizeof(file), i ? "self-%u.sock" : "qmp-%u.sock", generation);
		unlinkat(keeper->dir.fd, file, 0);
	}
	unlinkat(keeper->dir.fd, "migrate.sock", 0);
}
