// SPDX-License-Identifier: MIT
/* Interval arithmetic against a model that keeps every page by itself. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/rangeset.h"
#include "tests/lib/test.h"

#define PAGES  96u
#define BASE   (0x7f0000000000ull)
#define ROUNDS 100000

static struct ferry_source sources[3];

/* The library's own allocations fail when this says so. */
static int fail_after = -1;

void *reallocarray(void *p, size_t n, size_t size)
{
	size_t bytes;

	if (fail_after >= 0 && fail_after-- == 0)
		return NULL;
	return __builtin_mul_overflow(n, size, &bytes) ? NULL : realloc(p, bytes);
}

struct model {
	struct ferry_source *src[PAGES];
	uint64_t offset[PAGES];
};

static uint64_t at(unsigned int page)
{
	return BASE + page * PAGE;
}

static struct ferry_source *source(unsigned int i)
{
	return i == 3 ? ferry_source_zero() : &sources[i];
}

/* What of the set holds at page @i must be what the model says. */
static void compare_page(const struct rangeset *set, const struct model *m, unsigned int i)
{
	const struct range *r = rangeset_find(set, at(i) + PAGE / 2);

	assert_ptr_equal(r ? r->src : NULL, m->src[i]);
	if (r && r->src != ferry_source_zero())
		assert_int_equal(r->offset + at(i) - r->start, m->offset[i]);
}

static bool continues(const struct range *a, const struct range *b)
{
	return a->end == b->start && a->src == b->src &&
	       (a->src == ferry_source_zero() || a->offset + (a->end - a->start) == b->offset);
}

static void compare(const struct rangeset *set, const struct model *m)
{
	for (unsigned int i = 0; i < PAGES; i++)
		compare_page(set, m, i);
	for (size_t i = 0; i < set->n; i++) {
		assert_true(set->v[i].start < set->v[i].end);
		assert_int_equal(rangeset_from(set, set->v[i].start), i);
		assert_int_equal(rangeset_from(set, set->v[i].end - 1), i);
		assert_int_equal(rangeset_from(set, set->v[i].end), i + 1);
		if (!i)
			continue;
		assert_true(set->v[i - 1].end <= set->v[i].start);
		/* Never more intervals than are needed to say it. */
		assert_false(continues(&set->v[i - 1], &set->v[i]));
	}
	assert_null(rangeset_find(set, BASE - 1));
	assert_null(rangeset_find(set, at(PAGES)));
}

struct op {
	unsigned int kind, from, len, to, src;
	uint64_t offset;
};

static struct op random_op(uint64_t *seed)
{
	struct op op = {.kind = (unsigned int)(next_random(seed) % 4)};

	op.len = 1 + (unsigned int)(next_random(seed) % 24);
	op.from = (unsigned int)(next_random(seed) % (PAGES - op.len + 1));
	op.to = (unsigned int)(next_random(seed) % (PAGES - op.len + 1));
	op.src = (unsigned int)(next_random(seed) % 4);
	/* Few different offsets, so that neighbours often continue each other. */
	op.offset = next_random(seed) % 2 ? at(op.from) - BASE : next_random(seed) % 8 * PAGE;
	return op;
}

static bool overlaps(const struct model *m, const struct op *op)
{
	for (unsigned int i = op->from; i < op->from + op->len; i++)
		if (m->src[i])
			return true;
	return false;
}

static void model_shift(struct model *m, const struct op *op)
{
	struct model before = *m;

	for (unsigned int i = 0; i < op->len; i++)
		m->src[op->from + i] = NULL;
	for (unsigned int i = 0; i < op->len; i++) {
		m->src[op->to + i] = before.src[op->from + i];
		m->offset[op->to + i] = before.offset[op->from + i];
	}
}

static void model_apply(struct model *m, const struct op *op)
{
	if (op->kind == 3) {
		model_shift(m, op);
		return;
	}
	for (unsigned int i = op->from; i < op->from + op->len; i++) {
		switch (op->kind) {
		case 0:
			m->src[i] = source(op->src);
			m->offset[i] = op->offset + (i - op->from) * PAGE;
			break;
		case 1:
			m->src[i] = NULL;
			break;
		default:
			if (m->src[i])
				m->src[i] = source(op->src);
		}
	}
}

static int apply(struct rangeset *set, const struct op *op)
{
	uint64_t start = at(op->from), end = at(op->from + op->len);

	switch (op->kind) {
	case 0:
		return rangeset_insert(set,
				       (struct range){start, end, source(op->src), op->offset});
	case 1:
		return rangeset_cut(set, start, end);
	case 2:
		return rangeset_replace(set, start, end, source(op->src));
	default:
		return rangeset_shift(set, start, at(op->to), end - start);
	}
}

/*
 * mremap doesn't accept places that overlap. What was zero has no offsets, so it can't become
 * anything else.
 */
static bool possible(const struct op *op, const struct model *m)
{
	if (op->kind == 3)
		return op->from + op->len <= op->to || op->to + op->len <= op->from;
	for (unsigned int i = op->from; op->kind == 2 && i < op->from + op->len; i++)
		if (m->src[i] == ferry_source_zero())
			return op->src == 3;
	return true;
}

static void one_round(struct rangeset *set, struct model *m, const struct op *op)
{
	int want = op->kind == 0 && overlaps(m, op) ? -EEXIST : 0;

	assert_int_equal(apply(set, op), want);
	if (!want)
		model_apply(m, op);
	compare(set, m);
}

static void test_random(void **state)
{
	uint64_t seed = 20261121;

	(void)state;
	for (int start = 0; start < 10; start++) {
		struct rangeset set = {0};
		struct model m = {0};
		for (int i = 0; i < ROUNDS / 10; i++) {
			struct op op = random_op(&seed);
			if (possible(&op, &m))
				one_round(&set, &m, &op);
		}
		rangeset_free(&set);
		assert_int_equal(set.n, 0);
	}
}

/* Every operation at every allocation that it makes: what is served stays what it was. */
static void test_no_memory(void **state)
{
	uint64_t seed = 77;
	struct model m = {0};
	struct rangeset full = {0};
	unsigned int failed = 0;

	(void)state;
	for (int i = 0; i < 3000; i++) {
		struct op op = random_op(&seed);
		if (!possible(&op, &m))
			continue;
		/* An exact copy has no spare room. */
		struct rangeset tight = {calloc(full.n + 1, sizeof(struct range)), full.n, full.n};
		if (full.n)
			memcpy(tight.v, full.v, full.n * sizeof(struct range));
		fail_after = i % 2;
		int ret = apply(&tight, &op);
		fail_after = -1;
		if (ret == -ENOMEM) {
			failed++;
			for (unsigned int page = 0; page < PAGES; page++)
				compare_page(&tight, &m, page);
		}
		rangeset_free(&tight);
		one_round(&full, &m, &op);
	}
	rangeset_free(&full);
	assert_true(failed > 500);
}

/* With exactly the room that was asked for, as many changes as it was asked for can't fail. */
static void test_reserved(void **state)
{
	uint64_t seed = 4711;

	(void)state;
	for (size_t round = 0; round < 3000; round++) {
		size_t changes = round % 5;
		struct rangeset set = {0};
		struct model m = {0};
		for (size_t i = 0; i < round % 40; i++) {
			struct op op = random_op(&seed);
			if (possible(&op, &m))
				one_round(&set, &m, &op);
		}
		assert_int_equal(rangeset_reserve(&set, changes), 0);
		assert_true(set.cap - set.n >= changes * RANGESET_SLOTS);
		set.cap = set.n + changes * RANGESET_SLOTS;
		fail_after = 0;
		for (size_t done = 0; done < changes;) {
			struct op op = random_op(&seed);
			if (!possible(&op, &m) || (op.kind == 0 && overlaps(&m, &op)))
				continue;
			one_round(&set, &m, &op);
			assert_true(set.n <= set.cap);
			done++;
		}
		fail_after = -1;
		rangeset_free(&set);
	}
}

static void test_reserved_clone(void **state)
{
	struct rangeset set = {0}, copy = {0};

	(void)state;
	for (unsigned int i = 0; i < PAGES; i += 2)
		assert_int_equal(
			rangeset_insert(&set, (struct range){at(i), at(i + 1), source(0), 0}), 0);
	fail_after = 0;
	assert_int_equal(rangeset_clone(&copy, &set), -ENOMEM);
	assert_int_equal(rangeset_reserve_clone(&copy, &set), 0);
	fail_after = 0;
	assert_int_equal(rangeset_clone(&copy, &set), 0);
	fail_after = -1;
	assert_int_equal(copy.n, set.n);
	assert_memory_equal(copy.v, set.v, set.n * sizeof(*set.v));
	rangeset_free(&copy);
	rangeset_free(&set);
}

/* A program that discards page after page, in any order, must not make the array grow for ever. */
static void test_merge_bound(void **state)
{
	struct rangeset set = {0};
	unsigned int order[PAGES], peak = 0;
	uint64_t seed = 5;

	(void)state;
	assert_int_equal(rangeset_insert(&set, (struct range){at(0), at(PAGES), source(0), 0}), 0);
	for (unsigned int i = 0; i < PAGES; i++)
		order[i] = i;
	for (unsigned int i = PAGES - 1; i > 0; i--) {
		unsigned int j = (unsigned int)(next_random(&seed) % (i + 1)), t = order[i];
		order[i] = order[j];
		order[j] = t;
	}
	for (unsigned int i = 0; i < PAGES; i++) {
		uint64_t start = at(order[i]);
		assert_int_equal(rangeset_replace(&set, start, start + PAGE, ferry_source_zero()),
				 0);
		if (set.n > peak)
			peak = (unsigned int)set.n;
	}
	assert_true(peak <= PAGES);
	assert_int_equal(set.n, 1);
	for (int i = 0; i < 100000; i++)
		assert_int_equal(rangeset_replace(&set, at(3), at(9), ferry_source_zero()), 0);
	assert_int_equal(set.n, 1);
	assert_true(set.cap < 4ul * PAGES);
	rangeset_free(&set);
}

static void test_clone(void **state)
{
	uint64_t seed = 9;
	struct rangeset set = {0}, copy = {0}, empty = {0};
	struct model m = {0}, then;

	(void)state;
	for (int i = 0; i < 200; i++) {
		struct op op = random_op(&seed);
		if (possible(&op, &m))
			one_round(&set, &m, &op);
	}
	assert_int_equal(rangeset_clone(&copy, &set), 0);
	then = m;
	for (int i = 0; i < 50; i++) {
		struct op op = random_op(&seed);
		if (possible(&op, &m))
			one_round(&set, &m, &op);
	}
	compare(&copy, &then);
	rangeset_free(&copy);
	rangeset_free(&set);
	assert_int_equal(rangeset_clone(&copy, &empty), 0);
	assert_int_equal(copy.n, 0);
	fail_after = 0;
	set = (struct rangeset){0};
	assert_int_equal(rangeset_insert(&set, (struct range){at(0), at(1), source(0), 0}),
			 -ENOMEM);
	rangeset_free(&copy);
	rangeset_free(&set);
}

/* Intervals at both ends of the address space: nothing may wrap around. */
static void test_ends(void **state)
{
	struct rangeset set = {0};
	uint64_t top = UINT64_MAX - PAGE + 1;

	(void)state;
	assert_int_equal(rangeset_insert(&set, (struct range){0, PAGE, source(0), 0}), 0);
	assert_int_equal(
		rangeset_insert(&set, (struct range){top - 2 * PAGE, top, source(1), 7 * PAGE}), 0);
	assert_ptr_equal(rangeset_find(&set, 0)->src, source(0));
	assert_ptr_equal(rangeset_find(&set, top - 1)->src, source(1));
	assert_null(rangeset_find(&set, top));
	assert_null(rangeset_find(&set, UINT64_MAX));
	assert_int_equal(rangeset_cut(&set, top - PAGE, top), 0);
	assert_null(rangeset_find(&set, top - 1));
	assert_int_equal(rangeset_find(&set, top - 2 * PAGE)->offset, 7 * PAGE);
	assert_int_equal(rangeset_cut(&set, 0, top), 0);
	assert_int_equal(set.n, 0);
	rangeset_free(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_random),         TEST(test_no_memory),   TEST(test_reserved),
		TEST(test_reserved_clone), TEST(test_merge_bound), TEST(test_clone),
		TEST(test_ends),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("rangeset", tests, NULL, NULL);
}
