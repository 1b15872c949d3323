/* SPDX-License-Identifier: MIT */
/* Swap spaces of the guest; a test makes its own and ends it with swapoff(). */
#ifndef GUEST_SWAPSPACE_H
#define GUEST_SWAPSPACE_H

/* In memory: a page is read straight into the process. */
#define ZRAM "/dev/zram0"
/* With a delay: its neighbours come with it, into the swap cache. */
#define DISK "/dev/vda"

/* On one of both, 128 MiB; what a failed test has left is ended first. */
void swap_on(const char *path);

#endif
