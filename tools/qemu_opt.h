/* SPDX-License-Identifier: MIT */
/* QEMU's command line, read as QEMU reads it: options, their values, and the fields in a value. */
#ifndef PAGEFERRY_QEMU_OPT_H
#define PAGEFERRY_QEMU_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct qemu_opt {
	const char *name;  /* without its dashes; NULL: a disk image without an option */
	const char *value; /* NULL: the option takes none, or the command line ends */
};

/** The next option from @argv on; returns how many arguments it has, 0 at the end. */
int qemu_opt_next(char *const *argv, struct qemu_opt *opt);

/**
 * The field @key of "value,key=x,other=y", or of the same as a JSON object. @implied is the key
 * of a first field that has none. As in QEMU the last one counts, ",," is a comma and "key" alone
 * means "on". Returns false if it isn't there or doesn't fit.
 */
bool qemu_opt_field(const char *value, const char *implied, const char *key, char *out,
		    size_t size);

/** Is it one of the words that mean yes? */
bool qemu_opt_true(const char *word);

/** A size as -m takes it, in MiB if it ends in a digit. Returns 0 or -EINVAL. */
int qemu_opt_size(const char *text, uint64_t *bytes);

/** Write @text with its commas doubled. Returns 0 or -ENAMETOOLONG. */
int qemu_opt_escape(const char *text, char *out, size_t size);

#endif
