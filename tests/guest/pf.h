/* SPDX-License-Identifier: MIT */
/* The module's device: its ioctls, which return 0 or -errno here. */
#ifndef GUEST_PF_H
#define GUEST_PF_H

#include <linux/pageferry.h>
#include <stdint.h>

/* Opens /dev/pageferry, or fails the test. */
int pf_open(void);
int pf_ioctl(int fd, unsigned long request, void *arg);
/* @moved may be NULL. */
int pf_move(int fd, uint32_t mode, int dst_uffd, int src_uffd, uint64_t dst, uint64_t src,
	    uint64_t len, uint64_t *moved);

#endif
