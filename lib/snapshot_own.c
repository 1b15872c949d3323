// SPDX-License-Identifier: MIT
/* Which memory of this process is private and anonymous: elsewhere an empty page need not be zero.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/snapshot_arm.h"

/* How much of @span is covered from its start on, with what this line of the map adds. */
static void cover(const char *line, const struct ferry_span *span, uint64_t *covered)
{
	uint64_t start, end, inode;
	char perms[8];

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %*x %*x:%*x %" SCNu64, &start, &end, perms,
		   &inode) != 4)
		return;
	if (perms[3] == 'p' && !inode && start <= *covered && end > *covered)
		*covered = end;
	if (*covered > span->addr + span->len)
		*covered = span->addr + span->len;
}

static int check_one(FILE *f, const struct ferry_span *span)
{
	uint64_t covered = span->addr;
	char *line = NULL;
	size_t size = 0;

	rewind(f);
	while (covered < span->addr + span->len && getline(&line, &size, f) > 0)
		cover(line, span, &covered);
	free(line);
	return covered == span->addr + span->len ? 0 : -EINVAL;
}

int snapshot_check_own(const struct ferry_span *spans, size_t n)
{
	FILE *f = fopen("/proc/self/maps", "re");
	int ret = 0;

	if (!f)
		return -errno;
	for (size_t i = 0; !ret && i < n; i++)
		ret = check_one(f, &spans[i]);
	fclose(f);
	return ret;
}
