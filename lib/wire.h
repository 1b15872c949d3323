/* SPDX-License-Identifier: MIT */
/*
 * The messages of a hand-over. A header of 16 bytes, then the payload; descriptors travel with the
 * header's first byte. Both ends are on one machine, so numbers are in its byte order. Everything
 * that is read from a message is checked here, once: what wire_recv returns 0 for can be used.
 */
#ifndef FERRY_WIRE_H
#define FERRY_WIRE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "pageferry.h"

#define WIRE_MAGIC   0x59524650u /* "PFRY" */
#define WIRE_VERSION 2u
#define WIRE_FDS     128u /* descriptors with one message; the kernel takes 253 */
#define WIRE_REASON  256u

enum wire_type {
	WIRE_HELLO = 1, /* taker: here I am; its credentials come with it */
	WIRE_OFFER,	/* giver: struct wire_offer, ranges, blob; descriptors of SHARED ranges */
	WIRE_ATTACH,	/* taker: struct wire_attach, addresses; the userfaultfd */
	WIRE_SHADOW,	/* giver: struct wire_shadow: so many descriptors follow */
	WIRE_FDS_MORE,	/* giver: up to WIRE_FDS of them */
	WIRE_READY,	/* taker: I can take over */
	WIRE_COMMIT,	/* giver: struct wire_commit: it is yours */
	WIRE_COMMITTED, /* taker: it is mine */
	WIRE_ARRIVED,	/* giver: the page tables that move whole are there */
	WIRE_STAGE,	/* giver: struct wire_block: read this block into the staging page */
	WIRE_STAGED,	/* taker: struct wire_result */
	WIRE_PLACE,	/* giver: struct wire_block: move the staging page there */
	WIRE_PLACED,	/* taker: struct wire_result */
	WIRE_DONE,	/* giver: struct wire_done: that was all */
	WIRE_FINISHED,	/* taker: nothing is registered any more */
	WIRE_ABORT,	/* either: I give up; text */
};

struct wire_header {
	uint32_t magic;
	uint16_t version;
	uint16_t type;
	uint32_t len;
	uint32_t nfds;
};

struct wire_range {
	uint64_t addr, len, id, fd_offset;
	uint32_t flags, pad;
};

struct wire_offer {
	uint32_t nranges;
	uint32_t blob_len;
	uint64_t token_addr; /* where in the giver the token lies too: see take_stage.c */
	uint8_t token[16];
};

#define WIRE_CAN_STAGE	   1u /* the taker can read the giver's memory and move huge pages */
#define WIRE_TAKES_TABLES 2u /* FERRY_TAKE_TABLES */

struct wire_attach {
	uint32_t nranges;
	uint32_t flags;
};

struct wire_shadow {
	uint32_t nfds;
	uint32_t pad;
};

struct wire_commit {
	uint32_t tables; /* 1: the program had better wait until ARRIVED */
	uint32_t pad;
};

struct wire_block {
	uint64_t src; /* STAGE: address in the giver */
	uint64_t dst; /* PLACE: address in the taker */
};

struct wire_result {
	int32_t error; /* -errno or 0 */
	uint32_t pad;
	uint64_t done;
};

struct wire_done {
	uint32_t moved; /* 1: the taker's program has moved or unmapped parts of its ranges */
	uint32_t pad;
};

/* One received message. Descriptors and payload belong to it until wire_msg_free. */
struct wire_msg {
	uint16_t type;
	uint32_t len;
	uint8_t *payload; /* len bytes, then a NUL */
	int fds[WIRE_FDS];
	unsigned int nfds;
	pid_t pid; /* sender, from its credentials; 0: unknown */
};

void wire_msg_free(struct wire_msg *msg);

/* A deadline for the calls below: CLOCK_MONOTONIC nanoseconds; WIRE_FOREVER: none. */
#define WIRE_FOREVER INT64_MAX
int64_t wire_deadline(unsigned int timeout_ms);

/*
 * Send one message; the payload is the two parts one after the other. With HELLO and OFFER go the
 * sender's credentials. -EPIPE, -ETIMEDOUT, -EMSGSIZE.
 */
int wire_send(int sock, enum wire_type type, const void *head, size_t head_len, const void *tail,
	      size_t tail_len, const int *fds, unsigned int nfds, int64_t deadline);

/* Give up, without waiting, and say why: what can't be shown becomes a blank. */
int wire_abort(int sock, const char *why);

/*
 * Receive one message. 0; -ETIMEDOUT; -EPIPE: the peer is gone; -EPROTO: not of this protocol;
 * -EPROTONOSUPPORT: another version; -ENOMEM. On error the message holds nothing.
 */
int wire_recv(int sock, struct wire_msg *msg, int64_t deadline);

/* Checks on the contents of a message, without any system call. 0 or -EPROTO. */
int wire_check_header(const struct wire_header *header);
int wire_check_payload(const struct wire_msg *msg);
/* A reason ends up on terminals: no control characters. What isn't ASCII may be UTF-8. */
bool wire_is_shown(char c);

/* Views into a checked message. */
const struct wire_range *wire_offer_ranges(const struct wire_msg *msg);
const uint8_t *wire_offer_blob(const struct wire_msg *msg);

/* Ask for the peer's credentials with every message. Returns 0 or -errno. */
int wire_prepare(int sock);

#endif
