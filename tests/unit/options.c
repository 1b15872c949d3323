// SPDX-License-Identifier: MIT
/* Structures that carry their size: older, newer and broken callers. */
#include <errno.h>
#include <string.h>

#include "lib/options.h"
#include "pageferry.h"
#include "tests/lib/test.h"

struct known {
	size_t size;
	uint32_t a, b;
};

/* A caller that was compiled against a later header. */
struct newer {
	struct known known;
	uint64_t c;
	uint8_t d[8];
};

static const struct known defaults = {sizeof(struct known), 11, 22};

static void test_null_keeps_defaults(void **state)
{
	struct known mine = defaults;

	(void)state;
	assert_int_equal(options_copy(&mine, sizeof(mine), NULL), 0);
	assert_memory_equal(&mine, &defaults, sizeof(mine));
}

static void test_sizes(void **state)
{
	(void)state;
	for (size_t size = 0; size <= sizeof(struct newer); size++) {
		struct newer user = {.known = {size, 1, 2}};
		struct known mine = defaults, want = defaults;
		int ret = options_copy(&mine, sizeof(mine), &user);
		if (size <= sizeof(size_t)) {
			assert_int_equal(ret, -EINVAL);
			assert_memory_equal(&mine, &defaults, sizeof(mine));
			continue;
		}
		assert_int_equal(ret, 0);
		memcpy(&want, &user, size < sizeof(want) ? size : sizeof(want));
		want.size = sizeof(want);
		assert_memory_equal(&mine, &want, sizeof(mine));
	}
}

/* Each single byte of the unknown tail counts; a tail of zeros is what this library does anyway. */
static void test_unknown_tail(void **state)
{
	(void)state;
	for (size_t i = sizeof(struct known); i < sizeof(struct newer); i++) {
		struct newer user = {.known = {sizeof(user), 1, 2}};
		struct known mine = defaults;
		((char *)&user)[i] = (char)0x80;
		assert_int_equal(options_copy(&mine, sizeof(mine), &user), -E2BIG);
		assert_memory_equal(&mine, &defaults, sizeof(mine));
	}
}

static void test_report(void **state)
{
	struct known mine = {sizeof(mine), 33, 44};

	(void)state;
	for (size_t size = 0; size <= sizeof(struct newer); size++) {
		struct newer user, before;
		memset(&user, 0xff, sizeof(user));
		user.known.size = size;
		before = user;
		int ret = options_report(&user, &mine, sizeof(mine));
		assert_int_equal(user.known.size, size);
		if (size <= sizeof(size_t)) {
			assert_int_equal(ret, -EINVAL);
			assert_memory_equal(&user, &before, sizeof(user));
			continue;
		}
		assert_int_equal(ret, 0);
		for (size_t i = sizeof(size_t); i < sizeof(user); i++) {
			char want = 0;
			if (i >= size)
				want = (char)0xff;
			else if (i < sizeof(mine))
				want = ((char *)&mine)[i];
			assert_int_equal(((char *)&user)[i], want);
		}
	}
}

/* The public calls use it: one sample of each kind, with no kernel feature needed. */
static void test_public_calls(void **state)
{
	struct {
		struct ferry_loop_opts opts;
		uint64_t later;
	} big = {{.size = sizeof(big), .cpu = FERRY_CPU_ANY}, 0};
	struct ferry_loop *loop = NULL;
	struct ferry_move move = {.size = 3};

	(void)state;
	assert_int_equal(ferry_loop_new(&loop, &big.opts), 0);
	struct ferry_loop_stats stats = {.size = 4};
	assert_int_equal(ferry_loop_stats(loop, &stats), -EINVAL);
	stats.size = offsetof(struct ferry_loop_stats, poisoned);
	stats.poisoned = 99;
	assert_int_equal(ferry_loop_stats(loop, &stats), 0);
	assert_int_equal(stats.poisoned, 99);
	ferry_loop_free(loop);
	loop = NULL;
	big.later = 1;
	assert_int_equal(ferry_loop_new(&loop, &big.opts), -E2BIG);
	big.later = 0;
	big.opts.flags = 1;
	assert_int_equal(ferry_loop_new(&loop, &big.opts), -EINVAL);
	assert_null(loop);
	assert_int_equal(ferry_move(&move), -EINVAL);
	ferry_loop_free(NULL);
	ferry_give_close(NULL, NULL);
	ferry_take_close(NULL);
	ferry_source_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_null_keeps_defaults), TEST(test_sizes),
		TEST(test_unknown_tail),        TEST(test_report),
		TEST(test_public_calls),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
