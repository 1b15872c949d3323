// SPDX-License-Identifier: MIT
/* What an errno of a resolving ioctl means. The whole table, since every ordering rule hangs on it.
 */
#include <errno.h>

#include "lib/resolve.h"
#include "tests/lib/test.h"

static void test_table(void **state)
{
	static const struct {
		int error;
		enum resolved want;
	} table[] = {
		{0, RESOLVED_INSTALLED},       {-EEXIST, RESOLVED_ALREADY},
		{-EAGAIN, RESOLVED_DEFERRED},  {-ENOMEM, RESOLVED_DEFERRED},
		{-ENOENT, RESOLVED_DISCARDED}, {-ESRCH, RESOLVED_GONE},
		{-EFAULT, RESOLVED_FAILED},    {-EINVAL, RESOLVED_FAILED},
		{-EPERM, RESOLVED_FAILED},     {-EBUSY, RESOLVED_FAILED},
		{-ENOSPC, RESOLVED_FAILED},    {-EIO, RESOLVED_FAILED},
		{-EBADF, RESOLVED_FAILED},     {-ENOTTY, RESOLVED_FAILED},
	};

	(void)state;
	for (unsigned int i = 0; i < COUNT(table); i++) {
		assert_int_equal(resolved_from(table[i].error, 0), table[i].want);
		/* What is in place is in place, whatever stopped the call then. */
		assert_int_equal(resolved_from(table[i].error, PAGE), RESOLVED_INSTALLED);
	}
}

/* Without a userfaultfd each kind fails cleanly, except the one that needs no ioctl. */
static void test_no_uffd(void **state)
{
	(void)state;
	for (uint32_t kind = 0; kind <= FERRY_ANSWER_HERE + 3; kind++) {
		static char page[PAGE];
		struct ferry_answer answer = {.kind = kind, .from = page};
		struct ferry_fault fault = {.addr = PAGE};
		uint64_t done = 99;
		int error = 99;
		struct resolve_at at = {.uffd = -1, .module = -1};
		enum resolved got = resolve(at, &fault, &answer, &done, &error);
		assert_int_equal(done, 0);
		if (kind == FERRY_ANSWER_HERE) {
			assert_int_equal(got, RESOLVED_ALREADY);
			continue;
		}
		assert_int_equal(got, RESOLVED_FAILED);
		assert_int_equal(error, kind == FERRY_ANSWER_LATER || kind > FERRY_ANSWER_HERE
						? -EINVAL
						: -EBADF);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_table), TEST(test_no_uffd)};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("resolve", tests, NULL, NULL);
}
