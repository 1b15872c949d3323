// SPDX-License-Identifier: MIT
/* Somebody wants it to end: nothing is left then, and it ends by the signal, as its parent expects.
 */
#include <signal.h>

#include "tools/snap.h"

volatile int snap_interrupted;

static void interrupt(int number)
{
	snap_interrupted = number;
}

void snap_catch_signals(void)
{
	static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action = {.sa_handler = interrupt}, before;

	for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++)
		if (!sigaction(ending[i], NULL, &before) && before.sa_handler != SIG_IGN)
			sigaction(ending[i], &action, NULL);
}

void snap_end_by_signal(void)
{
	if (!snap_interrupted)
		return;
	signal(snap_interrupted, SIG_DFL);
	raise(snap_interrupted);
}
