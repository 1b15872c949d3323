// SPDX-License-Identifier: MIT
/* Whole reads and writes, see snap_io.h. */
#include <errno.h>
#include <unistd.h>

#include "tools/snap_io.h"

int io_write(int fd, uint64_t at, const void *data, size_t len)
{
	for (const char *p = data; len;) {
		ssize_t n = pwrite(fd, p, len, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		p += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int io_read(int fd, uint64_t at, void *data, size_t len)
{
	for (char *p = data; len;) {
		ssize_t n = pread(fd, p, len, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -ENODATA;
		p += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}
