// SPDX-License-Identifier: MIT
/* See beside.h. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/beside.h"

/* Without its own name and the slash before; -1: it can't be told. */
static long folder_of_command(char *path, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", path, size);
	char *slash = n > 0 && (size_t)n < size ? memrchr(path, '/', (size_t)n) : NULL;

	return slash ? slash - path : -1;
}

static void join(char *path, size_t size, size_t at, const char *file)
{
	if (at >= size ||
	    (size_t)snprintf(path + at, size - at, "%s%s", at ? "/" : "", file) >= size - at)
		path[0] = 0;
}

bool beside_place(unsigned int i, char *path, size_t size, const struct beside *file)
{
	long at = folder_of_command(path, size);

	if (i == 0 && at >= 0)
		join(path, size, (size_t)at, file->built);
	else if (i == 1 && at >= 4 && !memcmp(path + at - 4, "/bin", 4))
		join(path, size, (size_t)at - 4, file->moved);
	else if (i == 2)
		join(path, size, 0, file->installed);
	else
		path[0] = 0;
	return i <= 2;
}
