// SPDX-License-Identifier: MIT
/* What a message may hold: every type, every limit, every field. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/wire.h"
#include "tests/lib/test.h"

/* What the protocol allows, said a second time. */
static const struct {
	uint32_t min, max, fds;
} limits[] = {
	[WIRE_HELLO] = {0, 0, 0},
	[WIRE_OFFER] = {32, 32 + 1024 * 40 + (1 << 20), 128},
	[WIRE_ATTACH] = {8, 8 + 1024 * 8, 1},
	[WIRE_SHADOW] = {8, 8, 0},
	[WIRE_FDS_MORE] = {0, 0, 128},
	[WIRE_READY] = {0, 0, 0},
	[WIRE_COMMIT] = {8, 8, 0},
	[WIRE_COMMITTED] = {0, 0, 0},
	[WIRE_ARRIVED] = {0, 0, 0},
	[WIRE_STAGE] = {16, 16, 0},
	[WIRE_STAGED] = {16, 16, 0},
	[WIRE_PLACE] = {16, 16, 0},
	[WIRE_PLACED] = {16, 16, 0},
	[WIRE_DONE] = {8, 8, 0},
	[WIRE_FINISHED] = {0, 0, 0},
	/* A NUL has to fit behind it where it is kept. */
	[WIRE_ABORT] = {0, WIRE_REASON - 1, 0},
};

static int check_header(unsigned int type, uint32_t len, uint32_t nfds)
{
	struct wire_header h = {WIRE_MAGIC, WIRE_VERSION, (uint16_t)type, len, nfds};
	return wire_check_header(&h);
}

static void test_header_limits(void **state)
{
	(void)state;
	for (unsigned int type = WIRE_HELLO; type <= WIRE_ABORT; type++) {
		uint32_t min = limits[type].min, max = limits[type].max, fds = limits[type].fds;
		assert_int_equal(check_header(type, min, 0), 0);
		assert_int_equal(check_header(type, max, fds), 0);
		assert_int_equal(check_header(type, max + 1, 0), -EPROTO);
		assert_int_equal(check_header(type, UINT32_MAX, 0), -EPROTO);
		assert_int_equal(check_header(type, min, fds + 1), -EPROTO);
		assert_int_equal(check_header(type, min, UINT32_MAX), -EPROTO);
		if (min)
			assert_int_equal(check_header(type, min - 1, 0), -EPROTO);
	}
}

static void test_header_fields(void **state)
{
	(void)state;
	for (unsigned int type = 0; type <= UINT16_MAX; type++)
		if (type < WIRE_HELLO || type > WIRE_ABORT)
			assert_int_equal(check_header(type, 0, 0), -EPROTO);
	for (unsigned int bit = 0; bit < 32; bit++) {
		struct wire_header h = {WIRE_MAGIC ^ 1u << bit, WIRE_VERSION, WIRE_HELLO, 0, 0};
		assert_int_equal(wire_check_header(&h), -EPROTO);
	}
	for (unsigned int version = 0; version <= UINT16_MAX; version++) {
		struct wire_header h = {WIRE_MAGIC, (uint16_t)version, WIRE_HELLO, 0, 0};
		assert_int_equal(wire_check_header(&h), version == 2 ? 0 : -EPROTONOSUPPORT);
	}
}

/* ---- payloads: each lies at the very end of its allocation, so that reading on is noticed */

static int check_payload(uint16_t type, const void *payload, uint32_t len, unsigned int nfds)
{
	struct wire_msg msg = {.type = type, .len = len, .nfds = nfds};

	msg.payload = allocate(len + 1);
	if (len)
		memcpy(msg.payload, payload, len);
	msg.payload[len] = 0;
	int ret = wire_check_payload(&msg);
	free(msg.payload);
	return ret;
}

struct offer {
	struct wire_offer head;
	struct wire_range r[3];
	char blob[5];
};

static struct offer good_offer(void)
{
	struct offer o = {.head = {.nranges = 3, .blob_len = sizeof(o.blob)}};

	o.r[0] = (struct wire_range){.addr = 0x10000, .len = 0x4000, .id = 1};
	o.r[1] = (struct wire_range){.addr = 0x14000,
				     .len = 0x1000,
				     .id = 2,
				     .flags = FERRY_RANGE_MERGEABLE | FERRY_RANGE_DONTFORK};
	o.r[2] = (struct wire_range){.addr = 0x8000,
				     .len = 0x8000,
				     .id = 0,
				     .fd_offset = 0x3000,
				     .flags = FERRY_RANGE_SHARED};
	return o;
}

#define OFFER_LEN (sizeof(struct wire_offer) + 3 * sizeof(struct wire_range) + 5)

static int check_offer(const struct offer *o)
{
	return check_payload(WIRE_OFFER, o, OFFER_LEN, 1);
}

static void test_offer(void **state)
{
	struct offer o = good_offer();

	(void)state;
	assert_int_equal(check_offer(&o), 0);
	/* Every truncation, and a byte too much. */
	for (uint32_t len = sizeof(o.head); len < OFFER_LEN; len++)
		assert_int_equal(check_payload(WIRE_OFFER, &o, len, 1), -EPROTO);
	assert_int_equal(check_payload(WIRE_OFFER, &o, OFFER_LEN + 1, 1), -EPROTO);
	/* A descriptor for each shared range, no more, no less. */
	assert_int_equal(check_payload(WIRE_OFFER, &o, OFFER_LEN, 0), -EPROTO);
	assert_int_equal(check_payload(WIRE_OFFER, &o, OFFER_LEN, 2), -EPROTO);
}

static void test_offer_counts(void **state)
{
	static const uint32_t bad[] = {0, 1, 2, 4, 1025, 0x7fffffff, 0x80000000, UINT32_MAX};

	(void)state;
	for (unsigned int i = 0; i < COUNT(bad); i++) {
		struct offer o = good_offer();
		o.head.nranges = bad[i];
		assert_int_equal(check_offer(&o), -EPROTO);
		o = good_offer();
		o.head.blob_len = bad[i] == 5 ? 6 : bad[i];
		assert_int_equal(check_offer(&o), -EPROTO);
	}
	/* Sums that are right only modulo 2^32. */
	struct offer o = good_offer();
	o.head.nranges = 3 + (uint32_t)(0x100000000ull / 8);
	assert_int_equal(check_offer(&o), -EPROTO);
}

static void test_offer_ranges(void **state)
{
	static const struct {
		unsigned int i;
		struct wire_range r;
	} bad[] = {
		{0, {.addr = 0x10001, .len = 0x4000, .id = 1}},
		{0, {.addr = 0x10000, .len = 0x3fff, .id = 1}},
		{0, {.addr = 0x10000, .len = 0, .id = 1}},
		{0, {.addr = 0x10000, .len = UINT64_MAX - 0xfff, .id = 1}},
		{0, {.addr = UINT64_MAX - 0xfff, .len = 0x1000, .id = 1}},
		{0, {.addr = UINT64_MAX - 0x1fff, .len = 0x2000, .id = 1}},
		/* Overlaps: by one page at either end, inside, outside, the same. */
		{0, {.addr = 0x10000, .len = 0x5000, .id = 1}},
		{0, {.addr = 0xf000, .len = 0x4000, .id = 1}},
		{0, {.addr = 0x9000, .len = 0x1000, .id = 1}},
		{0, {.addr = 0x1000, .len = 0x20000, .id = 1}},
		{0, {.addr = 0x14000, .len = 0x1000, .id = 1}},
		/* An id that is taken. */
		{0, {.addr = 0x10000, .len = 0x4000, .id = 2}},
		{0, {.addr = 0x10000, .len = 0x4000, .id = 0}},
		/* What nobody has defined. */
		{0, {.addr = 0x10000, .len = 0x4000, .id = 1, .flags = 8}},
		{0, {.addr = 0x10000, .len = 0x4000, .id = 1, .flags = 1u << 31}},
		{0, {.addr = 0x10000, .len = 0x4000, .id = 1, .pad = 1}},
		/* Offsets into a file. */
		{0, {.addr = 0x10000, .len = 0x4000, .id = 1, .fd_offset = 0x1000}},
		{2, {.addr = 0x8000, .len = 0x8000, .flags = 1, .fd_offset = 1}},
		{2, {.addr = 0x8000, .len = 0x8000, .flags = 1, .fd_offset = 1ull << 63}},
		{2, {.addr = 0x8000, .len = 0x8000, .flags = 1, .fd_offset = INT64_MAX - 0x7ffe}},
		{2, {.addr = 0x8000, .len = 0x8000, .flags = 1, .fd_offset = INT64_MAX - 0x6fff}},
		{2, {.addr = 0x8000, .len = 0x8000, .flags = 1, .fd_offset = UINT64_MAX - 0xfff}},
		/* Shared without its flag: one descriptor too many. */
		{2, {.addr = 0x8000, .len = 0x8000}},
	};

	(void)state;
	for (unsigned int i = 0; i < COUNT(bad); i++) {
		struct offer o = good_offer();
		o.r[bad[i].i] = bad[i].r;
		if (check_offer(&o) != -EPROTO)
			fail_msg("bad range %u was accepted", i);
	}
}

static void test_offer_largest(void **state)
{
	uint32_t len = sizeof(struct wire_offer) + FERRY_RANGES_MAX * sizeof(struct wire_range) +
		       FERRY_BLOB_MAX;
	uint8_t *payload = allocate(len);
	struct wire_offer *head = (void *)payload;
	struct wire_range *r = (void *)(head + 1);

	(void)state;
	*head = (struct wire_offer){.nranges = FERRY_RANGES_MAX, .blob_len = FERRY_BLOB_MAX};
	for (uint64_t i = 0; i < FERRY_RANGES_MAX; i++)
		r[i] = (struct wire_range){.addr = (i + 1) << 32, .len = 1ull << 32, .id = i};
	assert_int_equal(check_payload(WIRE_OFFER, payload, len, 0), 0);
	/* The last one overlaps the first. */
	r[FERRY_RANGES_MAX - 1].addr = r[0].addr + 0x1000;
	assert_int_equal(check_payload(WIRE_OFFER, payload, len, 0), -EPROTO);
	/* More bytes altogether than can be counted. */
	r[0] = (struct wire_range){.addr = 0, .len = 1ull << 63, .id = 0};
	r[1] = (struct wire_range){.addr = 1ull << 63, .len = (1ull << 63) - 0x1000, .id = 1};
	head->nranges = 2;
	head->blob_len = 0;
	assert_int_equal(check_payload(WIRE_OFFER, payload, 32 + 80, 0), 0);
	free(payload);
}

static void test_attach(void **state)
{
	struct {
		struct wire_attach head;
		uint64_t addr[3];
	} a = {{3, 1}, {0x1000, 0x2000, 0x3000}};

	(void)state;
	assert_int_equal(check_payload(WIRE_ATTACH, &a, sizeof(a), 1), 0);
	assert_int_equal(check_payload(WIRE_ATTACH, &a, sizeof(a), 0), -EPROTO);
	for (uint32_t len = sizeof(a.head); len < sizeof(a); len++)
		assert_int_equal(check_payload(WIRE_ATTACH, &a, len, 1), -EPROTO);
	static const uint32_t bad[] = {0, 2, 4, 1025, UINT32_MAX, 3 + (1u << 29)};
	for (unsigned int i = 0; i < COUNT(bad); i++) {
		a.head.nranges = bad[i];
		assert_int_equal(check_payload(WIRE_ATTACH, &a, sizeof(a), 1), -EPROTO);
	}
	for (unsigned int bit = 0; bit < 32; bit++) {
		a.head = (struct wire_attach){3, 1u << bit};
		assert_int_equal(check_payload(WIRE_ATTACH, &a, sizeof(a), 1), bit < 2 ? 0 : -EPROTO);
	}
	a.head.flags = WIRE_CAN_STAGE | WIRE_TAKES_TABLES;
	assert_int_equal(check_payload(WIRE_ATTACH, &a, sizeof(a), 1), 0);
	a.head.flags = UINT32_MAX;
	assert_int_equal(check_payload(WIRE_ATTACH, &a, sizeof(a), 1), -EPROTO);
}

static int check_shadow(uint32_t nfds, uint32_t pad)
{
	struct wire_shadow s = {nfds, pad};
	return check_payload(WIRE_SHADOW, &s, sizeof(s), 0);
}

static int check_block(uint16_t type, uint64_t src, uint64_t dst)
{
	struct wire_block b = {src, dst};
	return check_payload(type, &b, sizeof(b), 0);
}

static int check_result(int32_t error, uint32_t pad, uint64_t done)
{
	struct wire_result r = {error, pad, done};
	int ret = check_payload(WIRE_STAGED, &r, sizeof(r), 0);

	assert_int_equal(check_payload(WIRE_PLACED, &r, sizeof(r), 0), ret);
	return ret;
}

static void test_small_ones(void **state)
{
	(void)state;
	assert_int_equal(check_shadow(0, 0), 0);
	assert_int_equal(check_shadow(FERRY_FDS_MAX, 0), 0);
	assert_int_equal(check_shadow(FERRY_FDS_MAX + 1, 0), -EPROTO);
	assert_int_equal(check_shadow(UINT32_MAX, 0), -EPROTO);
	assert_int_equal(check_shadow(0, 1), -EPROTO);
	for (uint32_t tables = 0; tables < 4; tables++) {
		struct wire_commit c = {tables, 0};
		assert_int_equal(check_payload(WIRE_COMMIT, &c, sizeof(c), 0),
				 tables < 2 ? 0 : -EPROTO);
		c.pad = 1;
		assert_int_equal(check_payload(WIRE_COMMIT, &c, sizeof(c), 0), -EPROTO);
	}
	for (uint32_t moved = 0; moved < 4; moved++) {
		struct wire_done d = {moved, 0};
		assert_int_equal(check_payload(WIRE_DONE, &d, sizeof(d), 0),
				 moved < 2 ? 0 : -EPROTO);
		d.pad = 1;
		assert_int_equal(check_payload(WIRE_DONE, &d, sizeof(d), 0), -EPROTO);
	}
	assert_int_equal(check_payload(WIRE_FDS_MORE, NULL, 0, 1), 0);
	assert_int_equal(check_payload(WIRE_FDS_MORE, NULL, 0, 0), -EPROTO);

	assert_int_equal(check_block(WIRE_STAGE, BLOCK, 0), 0);
	assert_int_equal(check_block(WIRE_PLACE, 0, BLOCK), 0);
	assert_int_equal(check_block(WIRE_STAGE, BLOCK + PAGE, 0), -EPROTO);
	assert_int_equal(check_block(WIRE_PLACE, 0, BLOCK - PAGE), -EPROTO);
	assert_int_equal(check_block(WIRE_STAGE, 0 - BLOCK, 0), -EPROTO);
	assert_int_equal(check_block(WIRE_PLACE, 0, 0 - BLOCK), -EPROTO);

	assert_int_equal(check_result(0, 0, BLOCK), 0);
	assert_int_equal(check_result(-4095, 0, 0), 0);
	assert_int_equal(check_result(1, 0, 0), -EPROTO);
	assert_int_equal(check_result(-4096, 0, 0), -EPROTO);
	assert_int_equal(check_result(INT32_MIN, 0, 0), -EPROTO);
	assert_int_equal(check_result(0, 1, 0), -EPROTO);
	assert_int_equal(check_result(0, 0, 1), -EPROTO);
	assert_int_equal(check_result(0, 0, BLOCK + PAGE), -EPROTO);
	assert_int_equal(check_result(0, 0, UINT64_MAX), -EPROTO);
}

/* A reason is shown to people. */
static void test_abort(void **state)
{
	char text[WIRE_REASON];

	(void)state;
	memset(text, 'a', sizeof(text));
	assert_int_equal(check_payload(WIRE_ABORT, text, 0, 0), 0);
	assert_int_equal(check_payload(WIRE_ABORT, text, sizeof(text) - 1, 0), 0);
	/* Neither does it end early, nor does it do anything to a terminal. */
	for (int c = 0; c < 256; c++) {
		bool is_control = c < ' ' || c == 127;
		text[7] = (char)c;
		assert_int_equal(check_payload(WIRE_ABORT, text, 8, 0), is_control ? -EPROTO : 0);
		assert_int_equal(check_payload(WIRE_ABORT, text, 7, 0), 0);
	}
}

static void test_views(void **state)
{
	struct offer o = good_offer();
	struct wire_msg msg = {.type = WIRE_OFFER, .len = OFFER_LEN, .payload = (void *)&o};

	(void)state;
	assert_ptr_equal(wire_offer_ranges(&msg), o.r);
	assert_ptr_equal(wire_offer_blob(&msg), o.blob);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_header_limits), TEST(test_header_fields), TEST(test_offer),
		TEST(test_offer_counts),  TEST(test_offer_ranges),  TEST(test_offer_largest),
		TEST(test_attach),        TEST(test_small_ones),    TEST(test_abort),
		TEST(test_views),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("wire_check", tests, NULL, NULL);
}
