/* SPDX-License-Identifier: MIT */
/* A giver that the test plays itself, message by message, against a real taker. */
#ifndef TEST_GIVER_H
#define TEST_GIVER_H

#include "lib/uffd.h"
#include "lib/wire.h"
#include "tests/lib/serve.h"

#define SHORT  60u
#define NPAGES 8u /* or those of a huge page, where staging is tested */

struct ends {
	struct ferry_take *take;
	int peer;
	char *memory;
	size_t len;
	bool may_read; /* the giver shows the right token */
	uint32_t flags; /* FERRY_TAKE_* */
	bool tables;	/* the giver lets it wait for them */
	int uffd;      /* the taker's, as its giver has it */
};

/* A socket pair and memory; keeps may_read, flags and tables. */
void ends_make(struct ends *e, int *taker_sock);
void ends_hang_up(struct ends *e);
void ends_free(struct ends *e);

void giver_say(const struct ends *e, enum wire_type type, const void *payload, size_t len);
struct wire_msg giver_hear(const struct ends *e, enum wire_type want);
void giver_expect(const struct ends *e, enum wire_type want);

int ends_open(struct ends *e, int sock);
void giver_offer(const struct ends *e);
void giver_say_shadow(const struct ends *e, uint32_t nfds);
void giver_say_commit(const struct ends *e, uint32_t tables);
void giver_say_done(const struct ends *e);

/* From nothing to the taker's HELLO, to its userfaultfd, to the commit. */
void begin_open(struct ends *e);
void begin_attached(struct ends *e);
void begin_committed(struct ends *e);

#endif
