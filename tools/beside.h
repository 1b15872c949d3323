/* SPDX-License-Identifier: MIT */
/* Files that belong to this command: built beside it, or installed. */
#ifndef PAGEFERRY_BESIDE_H
#define PAGEFERRY_BESIDE_H

#include <stdbool.h>
#include <stddef.h>

struct beside {
	const char *built; /* in the folder of the command */
	const char *moved; /* beside the bin that it is in: an installed tree may have been moved */
	const char *installed; /* where it was installed */
};

/** The @i-th place where it may be. False: there are no more. @path is empty if there is none at
 * @i. */
bool beside_place(unsigned int i, char *path, size_t size, const struct beside *file);

#endif
