// SPDX-License-Identifier: MIT
/* Somebody wants it to end: nothing is left then, and it ends by the signal, as its parent expects.
 */
#include <signal.h>

#include "tools/signals.h"
#include "tools/snap.h"

volatile int snap_interrupted;

static void interrupt(int number)
{
	snap_interrupted = number;
}

void snap_catch_signals(void)
{
	signals_catch(interrupt);
}

void snap_end_by_signal(void)
{
	if (!snap_interrupted)
		return;
	signal(snap_interrupted, SIG_DFL);
	raise(snap_interrupted);
}
