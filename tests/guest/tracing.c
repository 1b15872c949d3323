// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "harness.h"
#include "proc.h"
#include "tracing.h"

#define TRACING "/sys/kernel/tracing"

void tracing_open(void)
{
	if (mount("tracefs", TRACING, "tracefs", 0, NULL) && errno != EBUSY)
		test_skip("no tracefs");
}

void tracing_write(const char *file, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), TRACING "/%s", file);
	int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	check_call(fd);
	check_call(write(fd, text, strlen(text)));
	close(fd);
}

unsigned int tracing_count(const char *word)
{
	unsigned int n = 0;
	char line[512];
	FILE *f = file_open(TRACING "/trace");

	while (fgets(line, sizeof(line), f))
		n += strstr(line, word) && line[0] != '#';
	fclose(f);
	return n;
}
