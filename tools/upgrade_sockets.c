/* SPDX-License-Identifier: MIT */
/* Both QEMUs listen at the same addresses for a while; see sockets.h. */
#include <errno.h>
#include <string.h>

#include "tools/upgrade.h"

/* Before they are made, so that those of a killed keeper are found. */
static int record(struct upgrade *up)
{
	struct keeper *keeper = up->keeper;
	int err;

	if (!up->sockets.asides.n)
		return 0;
	keeper->state.asides = up->sockets.asides;
	err = keeper_write_state(keeper);
	if (err)
		upgrade_note(up, "%s/vm.json: can't be written: %s", keeper->dir.path,
			     strerror(-err));
	return err;
}

static void set_aside(struct upgrade *up)
{
	int err = 0;
	const struct aside *failed = sockets_set_aside(&up->sockets, &err);

	if (failed && err == -EEXIST)
		upgrade_note(up,
			     "%s is in the way: remove it; a failed upgrade can't put back the "
			     "socket beside it",
			     failed->name);
	else if (failed)
		upgrade_note(up, "%s: %s: a failed upgrade can't put back the socket beside it",
			     failed->name, strerror(-err));
}

/* What fails here is no reason to fail the upgrade: the new QEMU will say what it misses. */
void upgrade_share_sockets(struct upgrade *up)
{
	int err = sockets_share(&up->sockets, up->old->pidfd, up->old->pid, up->keeper->dir.path);

	if (err)
		upgrade_note(up, "QEMU's listening sockets can't be shared with a new QEMU: %s",
			     strerror(-err));
	if (!record(up))
		set_aside(up);
}

void upgrade_end_sockets(struct upgrade *up)
{
	if (up->committed)
		sockets_release(&up->sockets);
	else
		sockets_restore(&up->sockets);
	up->keeper->state.asides = (struct asides){0};
}
