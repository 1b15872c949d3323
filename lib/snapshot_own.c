// SPDX-License-Identifier: MIT
/* Which memory of this process is private and anonymous: elsewhere an empty page need not be zero.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

bool snapshot_ksm_runs(void)
{
	char run = '0';
	int fd = open("/sys/kernel/mm/ksm/run", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	ssize_t n = read(fd, &run, 1);
	close(fd);
	return n == 1 && run == '1';
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

static int check_all(const struct ferry_span *spans, size_t n)
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

static bool overlaps(const struct ferry_span *spans, size_t n, uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < n; i++)
		if (spans[i].addr < end && start < spans[i].addr + spans[i].len)
			return true;
	return false;
}

/* Reading the flags walks all page tables, so nobody does it for nothing. */
static bool may_be_merged(const struct ferry_span *spans, size_t n)
{
	FILE *f = snapshot_ksm_runs() ? fopen("/proc/self/smaps", "re") : NULL;
	uint64_t start = 0, end = 0, from, to;
	bool merged = false;
	char *line = NULL;
	size_t size = 0;

	while (f && !merged && getline(&line, &size, f) > 0) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64, &from, &to) == 2) {
			start = from;
			end = to;
		}
		merged = !strncmp(line, "VmFlags:", 8) && strstr(line, " mg") &&
			 overlaps(spans, n, start, end);
	}
	free(line);
	if (f)
		fclose(f);
	return merged;
}

int snapshot_check_own(const struct ferry_span *spans, size_t n)
{
	int ret = check_all(spans, n);
	return !ret && may_be_merged(spans, n) ? -EBUSY : ret;
}
