// SPDX-License-Identifier: MIT
#include "tools/pins.h"

void exec_try(struct trial_cell *cell, const struct pin_kind *kind)
{
	(void)kind;
	trial_set(cell, NOT_HERE, "later");
}
