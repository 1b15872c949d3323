/* SPDX-License-Identifier: MIT */
/* Memory cgroups, each by its path below GROUPS. */
#ifndef GUEST_GROUP_H
#define GUEST_GROUP_H

#include <stdint.h>

#define GROUPS "/sys/fs/cgroup"
/* Each CPU charges ahead, and what the kernel keeps about a process is charged, too. */
#define SLACK_KB 1024

struct peer;

/* Skips the test where there are none. */
void group_make(const char *group);
/* Waits until nothing is charged to it; the test fails if something stays. */
void group_end(const char *group);
/* A new peer, which is in it before it does anything. */
struct peer *group_peer(const char *group);

void group_set(const char *group, const char *file, const char *value);
uint64_t group_kb(const char *group, const char *file);
/* A line of memory.stat or memory.events. */
uint64_t group_line(const char *group, const char *file, const char *name);

#endif
