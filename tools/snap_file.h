/* SPDX-License-Identifier: MIT */
/*
 * A file that has no name until it is whole and on the disk, so that nothing is left of one that
 * never was, whatever ends the command or the machine. Where the file system has no such files
 * (O_TMPFILE) it has a name aside until then.
 */
#ifndef PAGEFERRY_SNAP_FILE_H
#define PAGEFERRY_SNAP_FILE_H

#include <stdbool.h>

/** In the folder of @aside, which is its name if it has to have one: *named. The descriptor or
 * -errno. */
int file_create(const char *aside, bool *named);
/** The same for one that never gets a name. */
int file_scratch(const char *aside);
/** Put it on the disk and name it @path, over what has that name. 0 or -errno. */
int file_name(int fd, const char *aside, bool *named, const char *path);
/** A write beyond the limit (RLIMIT_FSIZE) is an error like any other. */
void file_limits_are_errors(void);

#endif
