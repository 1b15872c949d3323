/* SPDX-License-Identifier: MIT */
/*
 * Where the thread that serves faults runs. A thread that faults goes to sleep, so its CPU is free
 * and awake: a handler on the same CPU needs no interrupt to wake an idle one, nor the page's cache
 * lines to travel. Measured, it halves the latency.
 */
#ifndef FERRY_PLACEMENT_H
#define FERRY_PLACEMENT_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

struct placement {
	int cpu;      /* FERRY_CPU_* or a CPU number: what was asked for */
	int at;	      /* the CPU that the thread is bound to now; -1: not bound */
	uint32_t tid; /* whom it follows */
	const void *self; /* the thread that serves, told apart without a system call */
	pid_t thread;	  /* the same, and what it was allowed before */
	bool apart;		  /* bound to whatever is allowed but that CPU */
	unsigned int countdown; /* faults until the next look */
	cpu_set_t allowed;
};

/* -EINVAL: no such CPU, or not allowed for this thread. */
int placement_init(struct placement *p, int cpu);
/* A thread's fault came in while we were waiting: follow it now and then. */
void placement_follow(struct placement *p, uint32_t tid);
/*
 * There is work besides faults, and the thread that was followed is to run meanwhile: leave its CPU,
 * until the next fault that is waited for.
 */
void placement_apart(struct placement *p);
/* Take up the place; called from the thread that serves, which need not be the one that made it. */
void placement_enter(struct placement *p);
/* Give the thread its old freedom back. */
void placement_leave(struct placement *p);

#endif
