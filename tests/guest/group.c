// SPDX-License-Identifier: MIT
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "group.h"
#include "harness.h"
#include "peer.h"
#include "proc.h"

void group_set(const char *group, const char *file, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), GROUPS "/%s/%s", group, file);
	check_is(file_write(path, value), 0);
}

uint64_t group_kb(const char *group, const char *file)
{
	char path[128];

	snprintf(path, sizeof(path), GROUPS "/%s/%s", group, file);
	return file_number(path) / 1024;
}

uint64_t group_line(const char *group, const char *file, const char *name)
{
	char path[128], line[128];
	size_t n = strlen(name);
	uint64_t value = 0;
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), GROUPS "/%s/%s", group, file);
	f = file_open(path);
	while (fgets(line, sizeof(line), f) && !found) {
		found = !strncmp(line, name, n) && line[n] == ' ';
		value = strtoull(line + n, NULL, 10);
	}
	fclose(f);
	if (!found)
		test_failed(__FILE__, __LINE__, "%s: no %s", path, name);
	return value;
}

void group_make(const char *group)
{
	char path[128];

	if (file_write(GROUPS "/cgroup.subtree_control", "+memory"))
		test_skip("no memory cgroups");
	snprintf(path, sizeof(path), GROUPS "/%s", group);
	/* A test that has failed has left it. */
	rmdir(path);
	check_call(mkdir(path, 0755));
}

void group_end(const char *group)
{
	char path[128];

	/* Small changes are added up every other second. */
	await(6000, group_line(group, "memory.stat", "anon") == 0);
	check_is(group_line(group, "memory.stat", "anon_thp"), 0);
	check_is(group_line(group, "memory.events", "oom_kill"), 0);
	check(near_kb(group_kb(group, "memory.current"), 0, SLACK_KB));
	snprintf(path, sizeof(path), GROUPS "/%s", group);
	await(5000, rmdir(path) == 0);
}

struct peer *group_peer(const char *group)
{
	struct peer *p = peer_start();
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", (int)peer_pid(p));
	group_set(group, "cgroup.procs", pid);
	return p;
}
