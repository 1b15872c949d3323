/* SPDX-License-Identifier: MIT */
/* The kernel module, pageferry.ko, see include/linux/pageferry.h. */
#ifndef FERRY_MODULE_H
#define FERRY_MODULE_H

#include <stdint.h>

/* A descriptor of it, close-on-exec, for the caller to close; -ENODEV: there is something else. */
int module_open(void);

/*
 * Move [@src, @src + @len) of this process to @dst of the process behind @dst_uffd. 0 or -errno; *done
 * bytes have moved in any case.
 */
int module_move(int module, int dst_uffd, uint64_t dst, const void *src, uint64_t len,
		uint64_t *done);

#endif
