// SPDX-License-Identifier: MIT
/* The settings of the host and of this process that explain what the probe found. */
#include <string.h>
#include <sys/prctl.h>

#include "tools/probe.h"
#include "tools/setting.h"

#define THP_DIR "/sys/kernel/mm/transparent_hugepage/"

/* The chosen word, or "". */
static void read_choice(const char *path, char *word, size_t size)
{
	char line[128];

	if (setting_read(path, line, sizeof(line)) || !setting_keep_chosen(line) ||
	    strlen(line) >= size)
		line[0] = '\0';
	memcpy(word, line, strlen(line) + 1);
}

void probe_host_read(struct probe_host *host)
{
	/* Where even the question is forbidden there is a filter. */
	host->filtered = prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0;
	host->thp_disabled = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) > 0;
	read_choice(THP_DIR "enabled", host->thp, sizeof(host->thp));
	read_choice(THP_DIR "hugepages-2048kB/enabled", host->thp_2m, sizeof(host->thp_2m));
	setting_read("/sys/kernel/mm/ksm/run", host->ksm, sizeof(host->ksm));
	setting_read("/proc/sys/kernel/yama/ptrace_scope", host->yama, sizeof(host->yama));
}

bool probe_host_thp_off(const struct probe_host *host)
{
	if (!strcmp(host->thp_2m, "inherit") || !host->thp_2m[0])
		return !strcmp(host->thp, "never");
	return !strcmp(host->thp_2m, "never");
}
