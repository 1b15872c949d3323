/* SPDX-License-Identifier: MIT */
/* What the kernel says of single pages. */
#ifndef PAGEFERRY_PAGEMAP_H
#define PAGEFERRY_PAGEMAP_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PAGEMAP_PRESENT   (1ull << 63)
#define PAGEMAP_SWAPPED   (1ull << 62)
#define PAGEMAP_UFFD_WP   (1ull << 57)
#define PAGEMAP_EXCLUSIVE (1ull << 56)
#define PAGEMAP_NUMBER    ((1ull << 55) - 1) /* of a page that is present; 0 but for root */

/** A descriptor of the page map of @owner, 0: of this process; or -errno. */
int pagemap_open(pid_t owner);
/** The entries of @n pages from @first on. 0 or -errno. */
int pagemap_read(pid_t owner, const void *first, size_t n, uint64_t *entries);
/** That of one; 0 if it can't be read. */
uint64_t pagemap_entry(pid_t owner, const void *page);
/** What /proc/kpageflags has of the page with this number. 0 or -errno: needs root. */
int pagemap_flags(uint64_t number, uint64_t *flags);

#endif
