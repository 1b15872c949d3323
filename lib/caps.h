/* SPDX-License-Identifier: MIT */
/* What ferry_caps_probe is made of. Trials return 0 or -errno; -EIO: it ran, with a wrong result.
 */
#ifndef FERRY_CAPS_H
#define FERRY_CAPS_H

#include "lib/uffd.h"

/* What each door said: 0 or -errno. */
struct caps_doors {
	int device, syscall, user_mode;
};

/* The whole probe, without the checks of the public call. Returns 0 or -ENOMEM. */
int caps_probe(struct ferry_caps *caps, struct caps_doors *doors);

#define CAPS_PAGES 2u /* pages of each kind in the arena */
#define CAPS_STACK (64u << 10)

/* Memory to try things on: fresh for each trial with a userfaultfd. */
struct caps_arena {
	char *anon;   /* CAPS_PAGES of private anonymous memory, empty */
	char *shared; /* CAPS_PAGES of shared memory */
	char *stack;  /* CAPS_STACK bytes for a child that shares our memory */
};

/* Take all pages out of the page table, also under mlockall(MCL_FUTURE). */
void caps_empty(void *mem, size_t len);

/* Trials with a userfaultfd, caps_uffd.c. @door must not be FERRY_DOOR_NONE. */
int caps_try_registered(const struct caps_arena *arena, enum ferry_door door, uint64_t *features,
			uint64_t *ioctls);
int caps_try_move(const struct caps_arena *arena, enum ferry_door door);
int caps_try_wp(const struct caps_arena *arena, enum ferry_door door);
int caps_try_wp_async(const struct caps_arena *arena, enum ferry_door door);
int caps_try_minor(const struct caps_arena *arena, enum ferry_door door);
int caps_try_poison(const struct caps_arena *arena, enum ferry_door door);
int caps_try_fork_event(const struct caps_arena *arena, enum ferry_door door);

/* Trials without, caps_host.c. */
int caps_try_scan(const struct caps_arena *arena);
int caps_try_thp(void);
int caps_try_ksm(const struct caps_arena *arena);
int caps_try_module(void);

/* PAGEMAP_SCAN: does page @i, and no other of the CAPS_PAGES at @pages, have @category? */
int caps_scan_one(const char *pages, unsigned int i, uint64_t category, uint64_t flags);

/* Trials with a child, caps_child.c. */
int caps_try_door(const struct caps_arena *arena, enum ferry_door door);
int caps_try_peer_read(const struct caps_arena *arena);

#endif
