/* SPDX-License-Identifier: MIT */
/* The kernel module, pageferry.ko, see include/linux/pageferry.h. */
#ifndef FERRY_MODULE_H
#define FERRY_MODULE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A descriptor of it, close-on-exec, for the caller to close. @features: PAGEFERRY_FEATURE_* that it must have
 * besides MOVE. -ENODEV: there is something else; -EPROTO: it has another ABI; -EOPNOTSUPP: it hasn't these.
 */
int module_open(uint64_t features);

/*
 * Move [@src, @src + @len) of this process to @dst of the process behind @dst_uffd. 0 or -errno; *done
 * bytes have moved in any case. @tables: NULL, or whole page tables may go; *tables bytes did.
 */
int module_move(int module, int dst_uffd, uint64_t dst, const void *src, uint64_t len,
		uint64_t *done, uint64_t *tables);
/* The same, and nothing moves: could it? */
int module_check(int module, int dst_uffd, uint64_t dst, const void *src, uint64_t len,
		 uint64_t *done);

/* Nothing but whole page tables; all three are multiples of 2 MiB. @may_have_holes: they may have empty pages. */
struct module_tables {
	int error;	   /* 0 or -errno; -EOPNOTSUPP: the one behind @moved doesn't */
	uint64_t moved;	   /* bytes */
	unsigned int why; /* enum pageferry_why */
};
struct module_tables module_move_tables(int module, int dst_uffd, uint64_t dst, const void *src,
					uint64_t len, bool may_have_holes);

/* Out of the process behind @src_uffd to @dst of this one, where it is registered with @dst_uffd. */
int module_fetch(int module, int dst_uffd, void *dst, int src_uffd, uint64_t src, uint64_t len,
		 uint64_t *done);

#endif
