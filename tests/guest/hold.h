/* SPDX-License-Identifier: MIT */
/* What keeps a page where it is: a pin, and KSM. */
#ifndef GUEST_HOLD_H
#define GUEST_HOLD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct peer;

/* Pins the peer's page at @addr, as a fixed buffer of io_uring; a peer can have one at a time. */
void peer_pin(struct peer *p, uint64_t addr);
void peer_unpin(struct peer *p);
/* In the peer itself. */
void pin_page(uint64_t addr);
void unpin_page(void);

/* ksmd runs, and fast; until the end of it, with all settings as they were. */
void ksm_begin(void);
void ksm_end(void);
/*
 * The peer's page at @page, which has the contents of @id and is MADV_MERGEABLE, is merged with a new one, whose address
 * is returned.
 */
uint64_t peer_merge_page(struct peer *p, uint64_t page, uint64_t id);
/* What was merged stays so, until each page is made its process' own again. */
void ksm_unmerge_all(void);
/* How many pages of the process are merged. */
uint64_t ksm_merged(pid_t pid);

#endif
