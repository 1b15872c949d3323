// SPDX-License-Identifier: MIT
/* The settings of the host and of this process that explain what the probe found. */
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "tools/probe.h"

#define THP_DIR "/sys/kernel/mm/transparent_hugepage/"

/* The first line of a small file, or "". */
static void read_line(const char *path, char *line, size_t size)
{
	line[0] = '\0';
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t n = read(fd, line, size - 1);
	close(fd);
	line[n > 0 ? n : 0] = '\0';
	line[strcspn(line, "\n")] = '\0';
}

/* From "always [madvise] never" the word in brackets. */
static void read_choice(const char *path, char *word, size_t size)
{
	char line[128];

	word[0] = '\0';
	read_line(path, line, sizeof(line));
	const char *start = strchr(line, '[');
	if (!start)
		return;
	size_t len = strcspn(start + 1, "]");
	if (len >= size)
		return;
	memcpy(word, start + 1, len);
	word[len] = '\0';
}

void probe_host_read(struct probe_host *host)
{
	/* Where even the question is forbidden there is a filter. */
	host->filtered = prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0;
	host->thp_disabled = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) > 0;
	read_choice(THP_DIR "enabled", host->thp, sizeof(host->thp));
	read_choice(THP_DIR "hugepages-2048kB/enabled", host->thp_2m, sizeof(host->thp_2m));
	read_line("/sys/kernel/mm/ksm/run", host->ksm, sizeof(host->ksm));
	read_line("/proc/sys/kernel/yama/ptrace_scope", host->yama, sizeof(host->yama));
}

bool probe_host_thp_off(const struct probe_host *host)
{
	if (!strcmp(host->thp_2m, "inherit") || !host->thp_2m[0])
		return !strcmp(host->thp, "never");
	return !strcmp(host->thp_2m, "never");
}
