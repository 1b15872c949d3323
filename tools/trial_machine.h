/* SPDX-License-Identifier: MIT */
/* What trial.c tells the guard of trial_machine.c. */
#ifndef PAGEFERRY_TRIAL_MACHINE_H
#define PAGEFERRY_TRIAL_MACHINE_H

#include <sys/types.h>

/** By the trial itself, when it is a process group and has started nothing yet. */
void trial_group_begins(pid_t group);
/** When nothing of it is left. */
void trial_group_ends(void);

#endif
