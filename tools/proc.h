/* SPDX-License-Identifier: MIT */
/* Processes that may be somebody else's by now: a pid counts only with its start time. */
#ifndef PAGEFERRY_PROC_H
#define PAGEFERRY_PROC_H

#include <stdint.h>
#include <sys/types.h>

/** When @pid was started, in clock ticks since the system was. Returns 0 or -errno. */
int proc_start_time(pid_t pid, uint64_t *start);

/** A pidfd of the process @pid that was started at @start and still runs; else -ESRCH. */
int proc_open(pid_t pid, uint64_t start);

int proc_signal(int pidfd, int signal);

/** Wait until it has ended. Returns 0 or -ETIMEDOUT. */
int proc_wait(int pidfd, int timeout_ms);

/** Memory that is the process's own: anonymous and shared anonymous, in KiB. 0 or -errno. */
int proc_memory(pid_t pid, uint64_t *kib);

/** Which start of the machine this is; an empty string if the kernel doesn't say. */
void proc_boot_id(char *id, size_t size);

#endif
