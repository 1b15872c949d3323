/* SPDX-License-Identifier: MIT */
/* The user's QEMU command line: can such a VM be handed over, and what does that need besides? */
#ifndef PAGEFERRY_ARGS_H
#define PAGEFERRY_ARGS_H

#include <stddef.h>
#include <stdint.h>

#include "tools/tool.h"

#define ARGS_NOTES_MAX 8
#define ARGS_ADDED_MAX 24

struct args {
	uint64_t ram;           /* bytes of main memory */
	const char *monitor[2]; /* option and value that keep QEMU's default monitor; or NULL */
	struct why note[ARGS_NOTES_MAX]; /* what the user should know though it is accepted */
	unsigned int nnotes;
};

/**
 * Read @argv, a QEMU command without the program itself, up to its NULL.
 * Returns 0; -EINVAL: not a VM that can be handed over, @why says what to do.
 */
int args_read(char *const *argv, struct args *args, struct why *why);

/** Where the files of a VM are, as its QEMU is told. */
struct args_paths {
	const char *dir;
	uint32_t generation;
};

/**
 * What every QEMU of the VM gets besides @args, each element of @added by malloc.
 * Returns the number of elements, -ENOMEM or -ENAMETOOLONG.
 */
int args_added(const struct args *args, const struct args_paths *paths,
	       char *added[ARGS_ADDED_MAX]);

#endif
