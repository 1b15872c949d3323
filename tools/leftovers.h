/* SPDX-License-Identifier: MIT */
/* What a keeper that was killed in an upgrade has left outside of the VM's directory. */
#ifndef PAGEFERRY_LEFTOVERS_H
#define PAGEFERRY_LEFTOVERS_H

#include "tools/state.h"

/** Put the VM's sockets in order, as far as is certain who has them. Needs the lock. */
void leftovers_clear(const struct state_dir *dir);

#endif
