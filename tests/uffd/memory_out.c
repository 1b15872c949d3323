// SPDX-License-Identifier: MIT
/* Without memory to remember a fault by, its thread must not be forgotten. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "lib/uffd.h"
#include "tests/lib/serve.h"

/* The library's lists grow by this; it fails when it is told to. */
static atomic_int fail_next;

void *reallocarray(void *p, size_t n, size_t size)
{
	size_t bytes;

	if (fail_next > 0) {
		fail_next--;
		return NULL;
	}
	return __builtin_mul_overflow(n, size, &bytes) ? NULL : realloc(p, bytes);
}

static void test_fault_not_forgotten(void **state)
{
	struct pattern_source src;
	struct reader reader;

	(void)state;
	int uffd = open_uffd(0);
	char *mem = map_memory(PAGE, 0);
	struct ferry_loop *loop = new_loop();
	pattern_init(&src, 7, 1);
	assert_int_equal(
		uffd_register(uffd, (uintptr_t)mem, PAGE, UFFDIO_REGISTER_MODE_MISSING, NULL), 0);
	assert_int_equal(ferry_loop_watch(loop, uffd, (uintptr_t)mem, PAGE, &src.src, 0), 0);
	reader_start(&reader, mem);
	wait_readable(uffd);
	/* The list of descriptors is made first, the list of faults second. */
	assert_int_equal(ferry_loop_step(loop, 0) >= 0, 1);
	reader_join(&reader);
	assert_int_equal(madvise(mem, PAGE, MADV_DONTNEED), 0);
	reader_start(&reader, mem);
	wait_readable(uffd);
	fail_next = 1;
	while (!reader.done)
		assert_true(ferry_loop_step(loop, 100) >= 0);
	assert_int_equal(fail_next, 0);
	reader_join(&reader);
	assert_int_equal(reader.signal, 0);
	assert_true(page_has(mem, 7));
	ferry_loop_free(loop);
	pattern_fini(&src);
	close(uffd);
	unmap(mem, PAGE);
}

static void test_watch(void **state)
{
	(void)state;
	int uffd = open_uffd(0);
	struct ferry_loop *loop = new_loop();
	for (int i = 0; i < 2; i++) {
		fail_next = 1;
		assert_int_equal(ferry_loop_watch(loop, uffd, BLOCK, PAGE, ferry_source_zero(), 0),
				 -ENOMEM);
		assert_int_equal(fail_next, 0);
	}
	assert_int_equal(ferry_loop_watch(loop, uffd, BLOCK, PAGE, ferry_source_zero(), 0), 0);
	fail_next = 1;
	assert_int_equal(ferry_loop_step(loop, 0), -ENOMEM);
	assert_int_equal(ferry_loop_step(loop, 0), 0);
	ferry_loop_free(loop);
	close(uffd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_fault_not_forgotten), TEST(test_watch)};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("memory_out", tests, NULL, NULL);
}
