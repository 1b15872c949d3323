// SPDX-License-Identifier: MIT
/* Parking points of the test build, see park.h. */
#include "lib/park.h"

#ifdef FERRY_PARK
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

void park(const char *name)
{
	static atomic_flag parked = ATOMIC_FLAG_INIT;
	const char *wanted = getenv("PAGEFERRY_PARK");

	if (wanted && !strcmp(wanted, name) && !atomic_flag_test_and_set(&parked))
		raise(SIGSTOP);
}
#endif
