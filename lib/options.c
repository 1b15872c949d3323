// SPDX-License-Identifier: MIT
/* Structures that carry their size, see options.h. */
#include <errno.h>
#include <string.h>

#include "lib/options.h"

static size_t size_of(const void *user)
{
	size_t size;
	memcpy(&size, user, sizeof(size));
	return size;
}

int options_copy(void *mine, size_t size, const void *user)
{
	if (!user)
		return 0;
	size_t have = size_of(user);
	if (have <= sizeof(size_t))
		return -EINVAL;
	for (size_t i = size; i < have; i++)
		if (((const char *)user)[i])
			return -E2BIG;
	memcpy(mine, user, have < size ? have : size);
	memcpy(mine, &size, sizeof(size));
	return 0;
}

int options_report(void *user, const void *mine, size_t size)
{
	size_t have = size_of(user);

	if (have <= sizeof(size_t))
		return -EINVAL;
	memcpy(user, mine, have < size ? have : size);
	if (have > size)
		memset((char *)user + size, 0, have - size);
	memcpy(user, &have, sizeof(have));
	return 0;
}
