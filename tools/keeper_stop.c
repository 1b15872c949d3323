/* SPDX-License-Identifier: MIT */
#include <signal.h>

#include "lib/clock.h"
#include "tools/keeper.h"
#include "tools/proc.h"

#define QUIT_MS 10000 /* QEMU writes its disks back before it ends */
#define TERM_MS 5000
#define LAST_MS 500 /* until an end that shows already is one */

/* Did it hear? */
static bool quit(struct keeper *keeper, struct qemu *qemu, int64_t deadline)
{
	struct why why = {""};

	if (!qemu->qmp && qemu_qmp_open(keeper, qemu, &why))
		return false;
	while (!qemu->ended && !qemu->qmp_error && !qmp_ready(qemu->qmp) && clock_ns() < deadline)
		keeper_step(keeper, 10);
	return !qemu->qmp_error && qmp_ready(qemu->qmp) && !qmp_send(qemu->qmp, "quit", NULL);
}

static bool end_by_signal(struct keeper *keeper, struct qemu *qemu, int signal)
{
	if (!qemu->ended)
		proc_signal(qemu->pidfd, signal);
	return keeper_wait_end(keeper, qemu, TERM_MS);
}

void keeper_stop(struct keeper *keeper)
{
	struct qemu *qemu = keeper->now;

	/* Where the terminal's signal has reached QEMU as well, it is on its way and may not listen. */
	if (keeper_wait_end(keeper, qemu, quit(keeper, qemu, clock_ns() + QUIT_MS * 1000000LL) ? QUIT_MS
										       : LAST_MS))
		return;
	say("%s: QEMU (process %d) does not end when asked: sending it SIGTERM", keeper->state.name,
	    (int)qemu->pid);
	if (!end_by_signal(keeper, qemu, SIGTERM))
		end_by_signal(keeper, qemu, SIGKILL);
}
