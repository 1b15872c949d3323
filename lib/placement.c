// SPDX-License-Identifier: MIT
/* Bind the serving thread to a CPU, or let it follow the faulting thread; see placement.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/placement.h"
#include "pageferry.h"

/* Reading where a thread ran last costs about as much as a fault: one look for so many faults. */
#define LOOK_EVERY 256
#define LOOK_APART 16

int placement_init(struct placement *p, int cpu)
{
	*p = (struct placement){ .cpu = cpu, .at = -1 };
	if (cpu < FERRY_CPU_ANY || cpu >= CPU_SETSIZE)
		return -EINVAL;
	if (sched_getaffinity(0, sizeof(p->allowed), &p->allowed) < 0)
		return -errno;
	if (cpu >= 0 && !CPU_ISSET(cpu, &p->allowed))
		return -EINVAL;
	return 0;
}

static void bind_to(struct placement *p, int cpu)
{
	cpu_set_t set;

	if (cpu < 0 || cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &p->allowed))
		return;
	if (cpu == p->at && !p->apart)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	/* Where it is forbidden (a sandbox), faults are served all the same, only later. */
	if (sched_setaffinity(0, sizeof(set), &set) == 0) {
		p->at = cpu;
		p->apart = false;
	}
}

/* Field 39 of /proc/TID/stat. The name in field 2 may hold anything, so count from its end. */
static int last_cpu(uint32_t tid)
{
	char path[32], buf[1024];

	snprintf(path, sizeof(path), "/proc/%u/stat", tid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return -1;
	buf[n] = 0;
	char *p = strrchr(buf, ')');
	for (int field = 2; p && field < 39; field++)
		p = strchr(p + 1, ' ');
	return p ? atoi(p + 1) : -1;
}

void placement_enter(struct placement *p)
{
	if (p->cpu == FERRY_CPU_ANY)
		return;
	static _Thread_local char self;
	if (p->self != &self) {
		placement_leave(p);
		p->self = &self;
		p->thread = gettid();
		if (sched_getaffinity(0, sizeof(p->allowed), &p->allowed) < 0)
			CPU_ZERO(&p->allowed);
	}
	if (p->cpu >= 0)
		bind_to(p, p->cpu);
}

void placement_follow(struct placement *p, uint32_t tid)
{
	if (p->cpu != FERRY_CPU_FOLLOW || !tid)
		return;
	if (p->countdown)
		p->countdown--;
	/* Another thread may be elsewhere, but threads that fault by turns must not make us look always. */
	bool another = tid != p->tid && p->countdown < LOOK_EVERY - LOOK_APART;
	if (p->countdown && !another && !p->apart)
		return;
	p->countdown = LOOK_EVERY;
	p->tid = tid;
	bind_to(p, last_cpu(tid));
}

void placement_apart(struct placement *p)
{
	cpu_set_t others = p->allowed;

	if (p->cpu != FERRY_CPU_FOLLOW || p->at < 0 || p->apart)
		return;
	CPU_CLR(p->at, &others);
	/* Where there is no other CPU they have to share this one. */
	if (CPU_COUNT(&others))
		p->apart = sched_setaffinity(0, sizeof(others), &others) == 0;
}

void placement_leave(struct placement *p)
{
	p->apart = false;
	if (p->at >= 0)
		sched_setaffinity(p->thread, sizeof(p->allowed), &p->allowed);
	p->at = -1;
}
