/* SPDX-License-Identifier: MIT */
#ifndef TESTS_FORBID_H
#define TESTS_FORBID_H

#include <stdint.h>

/*
 * From now on, for this process and what it executes, system call @number is answered with @action:
 * SECCOMP_RET_KILL_PROCESS, or SECCOMP_RET_ERRNO | number of the error. Returns 0 or -errno.
 */
int forbid_syscall(long number, uint32_t action);

/* The same as on a file system that has no files without a name. */
int forbid_tmpfile(void);

#endif
