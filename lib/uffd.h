/* SPDX-License-Identifier: MIT */
/*
 * Raw userfaultfd calls. Each returns 0 or -errno and leaves errno to its owner's fate; *done, where
 * there is one, is the number of bytes dealt with before the call stopped, also on error.
 */
#ifndef FERRY_UFFD_H
#define FERRY_UFFD_H

#include <stdint.h>

#include "lib/uffd_abi.h"
#include "pageferry.h"

#define FERRY_PAGE	4096ull
#define FERRY_HUGE	(2ull << 20)
#define FERRY_HUGE_PAGES (FERRY_HUGE / FERRY_PAGE)

/* Open one particular door; no API handshake yet. Close-on-exec, non-blocking. */
int uffd_open_door(enum ferry_door door);
/* The handshake. In: features that must be there; out: all that the kernel has. */
int uffd_api(int uffd, uint64_t *features);
/* As ferry_uffd_open; *features as for uffd_api. */
int uffd_open_best(uint64_t *features, unsigned int flags);

int uffd_register(int uffd, uint64_t addr, uint64_t len, uint64_t mode, uint64_t *ioctls);
int uffd_unregister(int uffd, uint64_t addr, uint64_t len);
int uffd_wake(int uffd, uint64_t addr, uint64_t len);
int uffd_copy(int uffd, uint64_t dst, const void *src, uint64_t len, uint64_t mode, uint64_t *done);
int uffd_zeropage(int uffd, uint64_t dst, uint64_t len, uint64_t mode, uint64_t *done);
int uffd_move(int uffd, uint64_t dst, uint64_t src, uint64_t len, uint64_t mode, uint64_t *done);
int uffd_continue(int uffd, uint64_t dst, uint64_t len, uint64_t mode, uint64_t *done);
int uffd_poison(int uffd, uint64_t dst, uint64_t len, uint64_t *done);
int uffd_writeprotect(int uffd, uint64_t addr, uint64_t len, uint64_t mode);

/* Is @fd a userfaultfd, and nothing that only answers like one? */
bool uffd_is(int fd);

/* May it report forks? What the kernel doesn't tell counts as yes. */
bool uffd_tells_forks(int fd);

/* Is [@addr, @addr + @len) page-aligned, not empty, and without wrap-around? */
bool range_valid(uint64_t addr, uint64_t len);

#endif
