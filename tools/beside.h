/* SPDX-License-Identifier: MIT */
/* Files that belong to this command: built beside it, or installed. */
#ifndef PAGEFERRY_BESIDE_H
#define PAGEFERRY_BESIDE_H

#include <stdbool.h>
#include <stddef.h>

/**
 * The @i-th place where it may be: @built in the folder of the command, @installed in the lib
 * beside the bin that it is in (an installed tree may have been moved), and where it was installed.
 * False: there are no more. @path is empty if there is none at @i.
 */
bool beside_place(unsigned int i, char *path, size_t size, const char *built,
		  const char *installed);

#endif
