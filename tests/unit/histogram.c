// SPDX-License-Identifier: MIT
/* The histogram of the benches against the sorted values themselves. */
#include <stdlib.h>
#include <string.h>

#include "bench/histogram.h"
#include "tests/lib/test.h"

#define VALUES 5000u

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

/* Not below the true one, less than a thousandth above it. */
static void assert_close(uint64_t got, uint64_t want)
{
	assert_true(got >= want);
	assert_true((got - want) * 1000 <= want);
}

/* Each slot begins where the one before it ends: no value has two, none has none. */
static void test_slots(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < HISTOGRAM_SLOTS; i++) {
		uint64_t edge = histogram_edge(i);
		assert_int_equal(histogram_slot(edge), i);
		assert_int_equal(histogram_slot(edge + 1), i + 1);
		uint64_t first = i ? histogram_edge(i - 1) + 1 : 0;
		assert_true((edge - first) * 1000 <= first);
	}
	assert_true(histogram_slot(HISTOGRAM_MOST) < HISTOGRAM_SLOTS);
}

static void test_percentiles(void **state)
{
	static const unsigned int permilles[] = {0, 1, 10, 500, 900, 990, 999, 1000};
	static uint64_t v[VALUES];
	static struct histogram h;
	uint64_t seed = 3;

	(void)state;
	for (unsigned int bits = 1; bits <= 41; bits++) {
		memset(&h, 0, sizeof(h));
		for (unsigned int i = 0; i < VALUES; i++) {
			v[i] = next_random(&seed) >> (64 - bits) >> next_random(&seed) % 8;
			histogram_add(&h, v[i]);
		}
		qsort(v, VALUES, sizeof(v[0]), by_size);
		assert_int_equal(h.count, VALUES);
		assert_true(h.max == v[VALUES - 1]);
		for (unsigned int i = 0; i < COUNT(permilles); i++) {
			unsigned int rank = (VALUES * permilles[i] + 999) / 1000;
			uint64_t got = histogram_permille(&h, permilles[i]);
			assert_close(got, v[rank ? rank - 1 : 0]);
			assert_true(got <= h.max);
		}
	}
}

static void test_counts(void **state)
{
	static struct histogram h;
	uint64_t seed = 5, sum = 0, below = 0;
	const uint64_t border = histogram_edge(10 * HISTOGRAM_CUT);

	(void)state;
	for (unsigned int i = 0; i < VALUES; i++) {
		uint64_t value = next_random(&seed) % 2000000;
		below += value <= border;
		histogram_add(&h, value);
	}
	for (unsigned int i = 0; i < HISTOGRAM_SLOTS; i++) {
		sum += h.slot[i];
		if (histogram_edge(i) == border)
			assert_int_equal(sum, below);
	}
	assert_int_equal(sum, VALUES);
}

static void test_ends(void **state)
{
	static struct histogram h;

	(void)state;
	assert_int_equal(histogram_permille(&h, 500), 0);
	histogram_add(&h, UINT64_MAX);
	histogram_add(&h, HISTOGRAM_MOST + 1);
	assert_true(h.max == HISTOGRAM_MOST);
	assert_true(histogram_permille(&h, 500) == HISTOGRAM_MOST);
	histogram_add(&h, 0);
	histogram_add(&h, 1);
	assert_int_equal(histogram_permille(&h, 250), 0);
	assert_int_equal(histogram_permille(&h, 500), 1);
	assert_true(histogram_permille(&h, 501) == HISTOGRAM_MOST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_slots), TEST(test_percentiles),
					   TEST(test_counts), TEST(test_ends)};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("histogram", tests, NULL, NULL);
}
