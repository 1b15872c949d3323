// SPDX-License-Identifier: MIT
/* The histogram against the sorted values themselves. */
#include <stdlib.h>
#include <string.h>

#include "lib/hist.h"
#include "tests/lib/test.h"

#define VALUES 5000u

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

/* Not below the true one, at most 1/16 above it, and never more than the largest. */
static void assert_close(uint64_t got, uint64_t want, uint64_t max)
{
	assert_true(got >= want);
	assert_true(got - want <= want / 16);
	assert_true(got <= max);
}

static void test_random(void **state)
{
	static uint64_t v[VALUES];
	static struct hist h;
	uint64_t seed = 3;

	(void)state;
	for (unsigned int bits = 1; bits <= 64; bits += 7) {
		memset(&h, 0, sizeof(h));
		for (unsigned int i = 0; i < VALUES; i++) {
			v[i] = next_random(&seed) >> (64 - bits) >> next_random(&seed) % 8;
			hist_add(&h, v[i]);
		}
		qsort(v, VALUES, sizeof(v[0]), by_size);
		assert_int_equal(h.count, VALUES);
		assert_true(h.max == v[VALUES - 1]);
		static const unsigned int permilles[] = {1, 10, 500, 900, 990, 999, 1000};
		for (unsigned int i = 0; i < COUNT(permilles); i++) {
			unsigned int rank = (VALUES * permilles[i] + 999) / 1000;
			assert_close(hist_permille(&h, permilles[i]), v[rank - 1], v[VALUES - 1]);
		}
	}
}

static void test_single_values(void **state)
{
	static struct hist h;

	(void)state;
	assert_true(hist_permille(&h, 500) == 0);
	for (unsigned int bit = 0; bit < 64; bit++) {
		for (int d = -1; d <= 1; d++) {
			uint64_t value = (1ull << bit) + (uint64_t)d;
			memset(&h, 0, sizeof(h));
			hist_add(&h, value);
			for (unsigned int p = 0; p <= 1000; p += 250)
				assert_true(hist_permille(&h, p) == value);
		}
	}
	memset(&h, 0, sizeof(h));
	hist_add(&h, UINT64_MAX);
	hist_add(&h, 0);
	assert_true(hist_permille(&h, 500) == 0);
	assert_true(hist_permille(&h, 501) == UINT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_random), TEST(test_single_values)};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("hist", tests, NULL, NULL);
}
