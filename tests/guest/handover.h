/* SPDX-License-Identifier: MIT */
/* A hand-over of the library's, from a peer to the test's own process. */
#ifndef GUEST_HANDOVER_H
#define GUEST_HANDOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pageferry.h"

struct peer;

#define GIVEN_LEN    (16ul << 20)
#define GIVEN_FILLED (GIVEN_LEN / 2) /* the rest is empty */
#define SHADOWED     4ul	     /* pages that are touched before the commit */

#define WAY_MODULE   FERRY_WAY_BIT(FERRY_WAY_MODULE)
#define WAY_COPY     FERRY_WAY_BIT(FERRY_WAY_COPY)

/* Something happens at the giver meanwhile. */
enum moment { BEFORE_COMMIT, COMMIT_REFUSED, AFTER_COMMIT };

struct giving {
	uint64_t addr;
	uint32_t ways, flags, range_flags;
	/* Runs in the giver; after COMMIT_REFUSED true: try again. */
	bool (*at)(enum moment moment, uint64_t addr);
	/* Runs in it, and nothing is served meanwhile, when half of what is filled has gone. */
	void (*half_way)(void);
	size_t len; /* 0: GIVEN_LEN */
};

/* A peer that has memory to give. */
struct peer *giver_of(unsigned int how, uint64_t *addr);
/* Begins to give to whoever has the other end of the socket that is returned. */
int giving_begin(struct peer *giver, const struct giving *g);
/* From the offer's answer to the end, in this process; of @what: what happens meanwhile. 0 or -errno. */
int giving_until_done(struct ferry_give *give, const struct giving *what);
/* The same with the offer. */
int giving_run(int sock, const struct giving *g);
/* The taker, up to the shadow, with its range mapped at @at already. */
struct ferry_take *take_until_shadow(int sock, uint32_t flags, uint64_t at);
/* The same, up to the commit; @at is where it has it. What ferry_take_commit() says. */
int take_until_commit(struct ferry_take **t, int sock, unsigned int how, uint64_t *at);
/* The rest of it, with the contents checked while they come; what the giver says. */
int64_t take_to_the_end(struct ferry_take *t, struct peer *giver, uint64_t at);
/* All of it. Returns where the memory is now; the giver has said @want. */
uint64_t hand_over(struct peer *giver, const struct giving *g, unsigned int how, int64_t want);

/* What the giver's report says: bytes that went this way; and those that were refused. */
uint64_t given_by(struct peer *giver, enum ferry_way way);
uint64_t given_refused(struct peer *giver);
enum ferry_why given_why(struct peer *giver);
uint64_t given_drain_ns(struct peer *giver);
/*
 * @copied bytes at least, and the rest moved. The giver learns of the commit a moment after the taker, and
 * answers a fault in between by a copy as before.
 */
void check_given(struct peer *giver, uint64_t copied);

#endif
