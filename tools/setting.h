/* SPDX-License-Identifier: MIT */
/* Settings of the kernel: small files of one line. */
#ifndef PAGEFERRY_SETTING_H
#define PAGEFERRY_SETTING_H

#include <stdbool.h>
#include <stddef.h>

/** Its line, or what of it fits into @size bytes. 0, or -errno with "". */
int setting_read(const char *path, char *value, size_t size);
/** "always [madvise] never" becomes "madvise". False: nothing is chosen, and it stays as it is. */
bool setting_keep_chosen(char *value);

#endif
