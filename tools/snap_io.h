/* SPDX-License-Identifier: MIT */
/* All of it, or an error. */
#ifndef PAGEFERRY_SNAP_IO_H
#define PAGEFERRY_SNAP_IO_H

#include <stddef.h>
#include <stdint.h>

/** 0 or -errno. */
int io_write(int fd, uint64_t at, const void *data, size_t len);
/** 0, -errno; -ENODATA: the file ends before. */
int io_read(int fd, uint64_t at, void *data, size_t len);

#endif
