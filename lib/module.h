/* SPDX-License-Identifier: MIT */
/* The kernel module, pageferry.ko, see include/linux/pageferry.h. */
#ifndef FERRY_MODULE_H
#define FERRY_MODULE_H

#include <stdint.h>

/*
 * A descriptor of it, close-on-exec, for the caller to close. @features: PAGEFERRY_FEATURE_* that it must have
 * besides MOVE. -ENODEV: there is something else; -EPROTO: it has another ABI; -EOPNOTSUPP: it hasn't these.
 */
int module_open(uint64_t features);

/*
 * Move [@src, @src + @len) of this process to @dst of the process behind @dst_uffd. 0 or -errno; *done
 * bytes have moved in any case.
 */
int module_move(int module, int dst_uffd, uint64_t dst, const void *src, uint64_t len,
		uint64_t *done);
/* The same, and nothing moves: could it? */
int module_check(int module, int dst_uffd, uint64_t dst, const void *src, uint64_t len,
		 uint64_t *done);

#endif
