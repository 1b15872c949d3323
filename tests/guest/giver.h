/* SPDX-License-Identifier: MIT */
/* The giving side of the library's hand-over, in a peer. */
#ifndef GUEST_GIVER_H
#define GUEST_GIVER_H

#include <stdint.h>

/*
 * For peer_begin(): socket, ways, then address and length of one range or of two. From its first
 * word to its last; returns 0 or -errno.
 */
int64_t giver_run(const uint64_t *arg);
/* For peer_do(), afterwards: the bytes that went by this way, of enum ferry_way. */
int64_t giver_bytes(const uint64_t *arg);
/* The same: pages that were asked for before they came. */
int64_t giver_faults(const uint64_t *arg);

#endif
