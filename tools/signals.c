// SPDX-License-Identifier: MIT
/* See signals.h. */
#include <signal.h>
#include <stddef.h>

#include "tools/signals.h"

void signals_catch(void (*handler)(int number))
{
	static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action = {.sa_handler = handler}, before;

	for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++)
		if (!sigaction(ending[i], NULL, &before) && before.sa_handler != SIG_IGN)
			sigaction(ending[i], &action, NULL);
}
