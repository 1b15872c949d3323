// SPDX-License-Identifier: MIT
/* What a message may hold. No system calls here: this is what the fuzzer feeds. */
#include <errno.h>

#include "lib/uffd.h"
#include "lib/wire.h"

#define OFFER_MAX (sizeof(struct wire_offer) + FERRY_RANGES_MAX * sizeof(struct wire_range) + FERRY_BLOB_MAX)

/* The fixed part of each type's payload, what may follow it, and how many descriptors may come. */
static const struct {
	uint32_t min, max, fds;
} limits[] = {
	[WIRE_HELLO] = { 0, 0, 0 },
	[WIRE_OFFER] = { sizeof(struct wire_offer), OFFER_MAX, WIRE_FDS },
	[WIRE_ATTACH] = { sizeof(struct wire_attach),
			  sizeof(struct wire_attach) + FERRY_RANGES_MAX * sizeof(uint64_t), 1 },
	[WIRE_SHADOW] = { sizeof(struct wire_shadow), sizeof(struct wire_shadow), 0 },
	[WIRE_FDS_MORE] = { 0, 0, WIRE_FDS },
	[WIRE_READY] = { 0, 0, 0 },
	[WIRE_COMMIT] = { sizeof(struct wire_commit), sizeof(struct wire_commit), 0 },
	[WIRE_COMMITTED] = { 0, 0, 0 },
	[WIRE_ARRIVED] = { 0, 0, 0 },
	[WIRE_STAGE] = { sizeof(struct wire_block), sizeof(struct wire_block), 0 },
	[WIRE_STAGED] = { sizeof(struct wire_result), sizeof(struct wire_result), 0 },
	[WIRE_PLACE] = { sizeof(struct wire_block), sizeof(struct wire_block), 0 },
	[WIRE_PLACED] = { sizeof(struct wire_result), sizeof(struct wire_result), 0 },
	[WIRE_DONE] = { sizeof(struct wire_done), sizeof(struct wire_done), 0 },
	[WIRE_FINISHED] = { 0, 0, 0 },
	/* One less: a NUL goes behind it where it is kept. */
	[WIRE_ABORT] = { 0, WIRE_REASON - 1, 0 },
};

int wire_check_header(const struct wire_header *h)
{
	if (h->magic != WIRE_MAGIC)
		return -EPROTO;
	if (h->version != WIRE_VERSION)
		return -EPROTONOSUPPORT;
	if (h->type < WIRE_HELLO || h->type > WIRE_ABORT)
		return -EPROTO;
	if (h->len < limits[h->type].min || h->len > limits[h->type].max ||
	    h->nfds > limits[h->type].fds)
		return -EPROTO;
	return 0;
}

const struct wire_range *wire_offer_ranges(const struct wire_msg *msg)
{
	return (const void *)(msg->payload + sizeof(struct wire_offer));
}

const uint8_t *wire_offer_blob(const struct wire_msg *msg)
{
	const struct wire_offer *offer = (const void *)msg->payload;
	return msg->payload + sizeof(*offer) + offer->nranges * sizeof(struct wire_range);
}

static int overlap(const struct wire_range *a, const struct wire_range *b)
{
	return a->addr < b->addr + b->len && b->addr < a->addr + a->len;
}

static int check_range(const struct wire_range *r)
{
	uint32_t known = FERRY_RANGE_SHARED | FERRY_RANGE_MERGEABLE | FERRY_RANGE_DONTFORK;

	if (!range_valid(r->addr, r->len) || (r->flags & ~known) || r->pad)
		return -EPROTO;
	if (!(r->flags & FERRY_RANGE_SHARED))
		return r->fd_offset ? -EPROTO : 0;
	if (r->fd_offset % FERRY_PAGE || r->fd_offset > (uint64_t)INT64_MAX - r->len)
		return -EPROTO;
	return 0;
}

static int check_offer(const struct wire_msg *msg)
{
	const struct wire_offer *offer = (const void *)msg->payload;
	const struct wire_range *r = wire_offer_ranges(msg);
	uint64_t total = 0;
	unsigned int shared = 0;

	if (!offer->nranges || offer->nranges > FERRY_RANGES_MAX || offer->blob_len > FERRY_BLOB_MAX)
		return -EPROTO;
	if (msg->len != sizeof(*offer) + offer->nranges * sizeof(*r) + offer->blob_len)
		return -EPROTO;
	for (uint32_t i = 0; i < offer->nranges; i++) {
		if (check_range(&r[i]))
			return -EPROTO;
		total += r[i].len;
		if (total < r[i].len)
			return -EPROTO;
		shared += (r[i].flags & FERRY_RANGE_SHARED) != 0;
		for (uint32_t j = 0; j < i; j++)
			if (r[i].id == r[j].id || overlap(&r[i], &r[j]))
				return -EPROTO;
	}
	return shared == msg->nfds ? 0 : -EPROTO;
}

static int check_attach(const struct wire_msg *msg)
{
	const struct wire_attach *attach = (const void *)msg->payload;

	if (!attach->nranges || attach->nranges > FERRY_RANGES_MAX ||
	    (attach->flags & ~(WIRE_CAN_STAGE | WIRE_TAKES_TABLES)))
		return -EPROTO;
	if (msg->len != sizeof(*attach) + attach->nranges * sizeof(uint64_t))
		return -EPROTO;
	return msg->nfds == 1 ? 0 : -EPROTO;
}

static int check_shadow(const struct wire_msg *msg)
{
	const struct wire_shadow *shadow = (const void *)msg->payload;

	return shadow->nfds > FERRY_FDS_MAX || shadow->pad ? -EPROTO : 0;
}

static int check_commit(const struct wire_msg *msg)
{
	const struct wire_commit *commit = (const void *)msg->payload;

	return commit->tables > 1 || commit->pad ? -EPROTO : 0;
}

static int check_block(const struct wire_msg *msg)
{
	const struct wire_block *block = (const void *)msg->payload;
	uint64_t addr = msg->type == WIRE_STAGE ? block->src : block->dst;

	return addr % FERRY_HUGE || addr + FERRY_HUGE < addr ? -EPROTO : 0;
}

static int check_result(const struct wire_msg *msg)
{
	const struct wire_result *result = (const void *)msg->payload;

	if (result->error > 0 || result->error < -4095 || result->pad)
		return -EPROTO;
	return result->done % FERRY_PAGE || result->done > FERRY_HUGE ? -EPROTO : 0;
}

static int check_done(const struct wire_msg *msg)
{
	const struct wire_done *done = (const void *)msg->payload;

	return done->moved > 1 || done->pad ? -EPROTO : 0;
}

bool wire_is_shown(char c)
{
	return (unsigned char)c >= ' ' && c != 0x7f;
}

static int check_abort(const struct wire_msg *msg)
{
	for (uint32_t i = 0; i < msg->len; i++)
		if (!wire_is_shown((char)msg->payload[i]))
			return -EPROTO;
	return 0;
}

int wire_check_payload(const struct wire_msg *msg)
{
	switch (msg->type) {
	case WIRE_OFFER:
		return check_offer(msg);
	case WIRE_ATTACH:
		return check_attach(msg);
	case WIRE_SHADOW:
		return check_shadow(msg);
	case WIRE_FDS_MORE:
		return msg->nfds ? 0 : -EPROTO;
	case WIRE_COMMIT:
		return check_commit(msg);
	case WIRE_STAGE:
	case WIRE_PLACE:
		return check_block(msg);
	case WIRE_STAGED:
	case WIRE_PLACED:
		return check_result(msg);
	case WIRE_DONE:
		return check_done(msg);
	case WIRE_ABORT:
		return check_abort(msg);
	default:
		return 0;
	}
}
