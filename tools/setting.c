// SPDX-License-Identifier: MIT
/* See setting.h. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "tools/setting.h"

int setting_read(const char *path, char *value, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, value, size - 1);
	int ret = n < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	value[n > 0 ? n : 0] = '\0';
	value[strcspn(value, "\n")] = '\0';
	return ret;
}

bool setting_keep_chosen(char *value)
{
	char *begin = strchr(value, '['), *end = begin ? strchr(begin, ']') : NULL;

	if (!end)
		return false;
	*end = '\0';
	memmove(value, begin + 1, (size_t)(end - begin));
	return true;
}
