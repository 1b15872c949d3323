// SPDX-License-Identifier: MIT
/* What the ready sources answer. None of them needs a kernel feature for it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/give.h"
#include "lib/loop.h"
#include "lib/resolve.h"
#include "tests/lib/test.h"

static struct ferry_answer ask(struct ferry_source *src, uint32_t kind, uint64_t offset, int want)
{
	struct ferry_fault fault = {
		.addr = offset + BLOCK, .offset = offset, .left = PAGE, .kind = kind};
	struct ferry_answer answer = {.kind = 77};

	assert_int_equal(src->answer(src, &fault, &answer), want);
	return answer;
}

/* What the memory holds by itself. */
static void test_natural(void **state)
{
	struct ferry_source *both[] = {ferry_source_zero(), ferry_source_shared()};

	(void)state;
	assert_ptr_not_equal(both[0], both[1]);
	for (unsigned int i = 0; i < COUNT(both); i++) {
		for (uint64_t offset = 0; offset < 1ull << 62; offset = offset * 2 + PAGE) {
			assert_int_equal(ask(both[i], FERRY_FAULT_MISSING, offset, 0).kind,
					 FERRY_ANSWER_ZERO);
			assert_int_equal(ask(both[i], FERRY_FAULT_WP, offset, 0).kind,
					 FERRY_ANSWER_UNPROTECT);
			assert_int_equal(ask(both[i], FERRY_FAULT_MINOR, offset, 0).kind,
					 FERRY_ANSWER_CONTINUE);
		}
		ferry_source_free(both[i]);
	}
}

static void test_memory(void **state)
{
	static char memory[3 * PAGE + 100];
	struct ferry_source *src = NULL;

	(void)state;
	assert_int_equal(ferry_source_memory(&src, memory, sizeof(memory)), 0);
	for (unsigned int i = 0; i < 3; i++) {
		struct ferry_answer a = ask(src, FERRY_FAULT_MISSING, i * PAGE, 0);
		assert_int_equal(a.kind, FERRY_ANSWER_COPY);
		assert_ptr_equal(a.from, memory + i * PAGE);
	}
	assert_int_equal(ask(src, FERRY_FAULT_WP, 0, 0).kind, FERRY_ANSWER_UNPROTECT);
	assert_int_equal(ask(src, FERRY_FAULT_MINOR, 0, 0).kind, FERRY_ANSWER_CONTINUE);
	/* A page that isn't all there, one that isn't there, and sums that wrap around. */
	ask(src, FERRY_FAULT_MISSING, 3 * PAGE, -ERANGE);
	ask(src, FERRY_FAULT_MISSING, 4 * PAGE, -ERANGE);
	ask(src, FERRY_FAULT_MISSING, UINT64_MAX - PAGE + 1, -ERANGE);
	ferry_source_free(src);
}

static int temporary_file(void)
{
	int fd = memfd_create("source", MFD_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void test_file(void **state)
{
	char page[PAGE], tail[100];
	struct ferry_source *src = NULL;
	int fd = temporary_file();

	(void)state;
	fill_page(page, 1);
	assert_int_equal(pwrite(fd, page, PAGE, PAGE), PAGE);
	memset(tail, 'x', sizeof(tail));
	assert_int_equal(pwrite(fd, tail, sizeof(tail), 2 * PAGE), sizeof(tail));
	assert_int_equal(ferry_source_file(&src, fd, PAGE), 0);
	struct ferry_answer a = ask(src, FERRY_FAULT_MISSING, 0, 0);
	assert_int_equal(a.kind, FERRY_ANSWER_COPY);
	assert_true(page_has(a.from, 1));
	a = ask(src, FERRY_FAULT_MISSING, PAGE, 0);
	assert_int_equal(a.kind, FERRY_ANSWER_COPY);
	assert_memory_equal(a.from, tail, sizeof(tail));
	for (size_t i = sizeof(tail); i < PAGE; i++)
		assert_int_equal(((const char *)a.from)[i], 0);
	assert_int_equal(ask(src, FERRY_FAULT_MISSING, 2 * PAGE, 0).kind, FERRY_ANSWER_ZERO);
	assert_int_equal(ask(src, FERRY_FAULT_WP, 0, 0).kind, FERRY_ANSWER_UNPROTECT);
	assert_int_equal(ask(src, FERRY_FAULT_MINOR, 0, 0).kind, FERRY_ANSWER_CONTINUE);
	ask(src, FERRY_FAULT_MISSING, (uint64_t)INT64_MAX / PAGE * PAGE, -ERANGE);
	ask(src, FERRY_FAULT_MISSING, UINT64_MAX - PAGE + 1, -ERANGE);
	/* The file stays the caller's; when it's gone, reading it fails and nothing is made up. */
	close(fd);
	ask(src, FERRY_FAULT_MISSING, 0, -EBADF);
	ferry_source_free(src);
}

static void test_file_arguments(void **state)
{
	struct ferry_source *src = NULL;

	(void)state;
	assert_int_equal(ferry_source_file(&src, 0, 1), -EINVAL);
	assert_int_equal(ferry_source_file(&src, 0, PAGE - 1), -EINVAL);
	assert_int_equal(ferry_source_file(&src, 0, 1ull << 63), -EINVAL);
	assert_null(src);
}

/* ---- the giver's own memory as a source */

struct giver {
	struct ferry_give give;
	struct give_range range;
	struct ferry_loop loop;
	char *memory;
};

static struct giver *make_giver(size_t len, uint32_t flags)
{
	struct giver *g = allocate(sizeof(*g));

	g->memory = map_memory(len, 5 * PAGE);
	struct ferry_range r = {.addr = (uintptr_t)g->memory, .len = len, .flags = flags, .fd = -1};
	g->give.loop = &g->loop;
	g->give.module = -1;
	g->give.ranges = &g->range;
	g->give.nranges = 1;
	assert_int_equal(give_range_init(&g->range, &g->give, &r), 0);
	push_init(&g->give);
	return g;
}

static void free_giver(struct giver *g)
{
	unmap(g->memory, g->range.r.len);
	give_range_fini(&g->range);
	free(g);
}

/* What is given is never copied again: by then the giver may have released it. It is there, or empty. */
static void test_giver(void **state)
{
	struct giver *g = make_giver(4 * PAGE, 0);
	struct ferry_source *src = &g->range.src;

	(void)state;
	fill_page(g->memory, 1);
	memset(g->memory + PAGE, 0, PAGE);
	for (g->give.phase = FERRY_PHASE_OFFER; g->give.phase < FERRY_PHASE_SHADOW; g->give.phase++)
		assert_int_equal(ask(src, FERRY_FAULT_MISSING, 0, 0).kind, FERRY_ANSWER_LATER);
	struct ferry_answer a = ask(src, FERRY_FAULT_MISSING, 0, 0);
	assert_int_equal(a.kind, FERRY_ANSWER_COPY);
	assert_ptr_equal(a.from, g->memory);
	assert_int_equal(ask(src, FERRY_FAULT_MISSING, PAGE, 0).kind, FERRY_ANSWER_ZERO);
	assert_int_equal(ask(src, FERRY_FAULT_MISSING, 2 * PAGE, 0).kind, FERRY_ANSWER_ZERO);
	g->loop.resolved = FERRY_ANSWER_COPY;
	src->installed(src, 0, PAGE);
	assert_int_equal(ask(src, FERRY_FAULT_MISSING, 0, 0).kind, FERRY_ANSWER_ZERO);
	src->removed(src, PAGE, 2 * PAGE);
	assert_int_equal(ask(src, FERRY_FAULT_MISSING, PAGE, 0).kind, FERRY_ANSWER_ZERO);
	assert_int_equal(g->give.pages_left, 1);
	assert_int_equal(g->give.report.removed, 2 * PAGE);
	assert_int_equal(g->give.report.bytes[FERRY_WAY_COPY], PAGE);
	/* Said twice, counted once. */
	src->installed(src, 0, PAGE);
	src->removed(src, 0, 4 * PAGE);
	assert_int_equal(g->give.pages_left, 0);
	assert_int_equal(g->give.report.removed, 3 * PAGE);
	assert_int_equal(g->give.report.bytes[FERRY_WAY_COPY], PAGE);
	free_giver(g);
}

/* With the module nothing is given up before the commit either; after it pages move. */
static void test_giver_moves(void **state)
{
	struct giver *g = make_giver(4 * PAGE, 0);
	struct ferry_source *src = &g->range.src;

	(void)state;
	g->give.module = 99;
	fill_page(g->memory, 1);
	for (g->give.phase = FERRY_PHASE_SHADOW; g->give.phase < FERRY_PHASE_COMMITTED; g->give.phase++)
		assert_int_equal(ask(src, FERRY_FAULT_MISSING, 0, 0).kind, FERRY_ANSWER_COPY);
	struct ferry_answer a = ask(src, FERRY_FAULT_MISSING, 0, 0);
	assert_int_equal(a.kind, ANSWER_MODULE);
	assert_ptr_equal(a.from, g->memory);
	/* An empty page can't move. */
	assert_int_equal(ask(src, FERRY_FAULT_MISSING, PAGE, 0).kind, FERRY_ANSWER_ZERO);
	g->loop.resolved = ANSWER_MODULE;
	src->installed(src, 0, PAGE);
	assert_int_equal(g->give.report.bytes[FERRY_WAY_MODULE], PAGE);
	/* It couldn't, and was copied. */
	g->loop.resolved = FERRY_ANSWER_COPY;
	src->installed(src, PAGE, PAGE);
	assert_int_equal(g->give.report.bytes[FERRY_WAY_COPY], PAGE);
	free_giver(g);
}

/*
 * Shared memory: the page cache has it, before and after it was given. The kernel may take it out
 * of the taker's page table whenever it likes, and the fault that follows must be answered again.
 */
static void test_giver_shared(void **state)
{
	struct giver *g = make_giver(4 * PAGE, FERRY_RANGE_SHARED);
	struct ferry_source *src = &g->range.src;

	(void)state;
	g->give.phase = FERRY_PHASE_COMMITTED;
	assert_int_equal(ask(src, FERRY_FAULT_MINOR, 0, 0).kind, FERRY_ANSWER_CONTINUE);
	src->installed(src, 0, 4 * PAGE);
	assert_int_equal(ask(src, FERRY_FAULT_MINOR, 0, 0).kind, FERRY_ANSWER_CONTINUE);
	free_giver(g);
}

static void test_give_bits(void **state)
{
	struct giver *g = make_giver(3 * BLOCK + 77 * PAGE, 0);
	uint64_t n = 3 * BLOCK / PAGE + 77, seed = 21, left = n;

	(void)state;
	assert_int_equal(g->range.nblocks, 4);
	assert_int_equal(g->give.pages_left, n);
	bool *model = allocate(n);
	for (int round = 0; round < 400; round++) {
		uint64_t first = next_random(&seed) % n, len = next_random(&seed) % 70, fresh = 0;
		if (first + len > n)
			len = n - first;
		for (uint64_t i = first; i < first + len; i++) {
			fresh += !model[i];
			model[i] = true;
		}
		left -= fresh;
		assert_int_equal(give_mark(&g->range, first, len), fresh);
		assert_int_equal(g->give.pages_left, left);
		uint64_t from = next_random(&seed) % n,
			 end = from + next_random(&seed) % (n - from + 1);
		uint64_t want = from;
		while (want < end && model[want])
			want++;
		assert_int_equal(give_next_left(&g->range, from, end), want);
		for (uint64_t i = 0; i < n; i += 37)
			assert_int_equal(give_is_left(&g->range, i), !model[i]);
	}
	free(model);
	free_giver(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_natural),        TEST(test_memory), TEST(test_file),
		TEST(test_file_arguments), TEST(test_giver),  TEST(test_giver_shared),
		TEST(test_give_bits),     TEST(test_giver_moves),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("sources", tests, NULL, NULL);
}
