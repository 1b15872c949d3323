// SPDX-License-Identifier: MIT
/* What a snapshot is made of, without a kernel: the bits for its pages, against plain arrays; the
 * pool. */
#include <errno.h>
#include <string.h>

#include "lib/snapshot_pages.h"
#include "lib/snapshot_pool.h"
#include "lib/uffd.h"
#include "tests/lib/test.h"

#define BASE 0x7f0000000000ull

static const struct ferry_span spans[] = {
	{BASE + 40 * BLOCK, 3 * PAGE},
	{BASE + 3 * PAGE, 3 * BLOCK + 5 * PAGE},
	/* Right behind the one before: still a range of its own. */
	{BASE + 8 * PAGE + 3 * BLOCK, 600 * PAGE},
};

static bool inside(uint64_t addr)
{
	for (size_t i = 0; i < COUNT(spans); i++)
		if (addr >= spans[i].addr && addr - spans[i].addr < spans[i].len)
			return true;
	return false;
}

/* ---- against a model: one bool for each page from BASE on */

#define MODEL_PAGES (41ull * 512)

static bool model[PAGE_SETS][MODEL_PAGES];

static uint64_t any_page(uint64_t *seed)
{
	const struct ferry_span *s = &spans[next_random(seed) % COUNT(spans)];
	return s->addr + next_random(seed) % (s->len / PAGE) * PAGE;
}

static void change_both(struct pages *pages, uint64_t *seed)
{
	enum page_set set = next_random(seed) % PAGE_SETS;
	uint64_t addr = any_page(seed), len = (next_random(seed) % 700 + 1) * PAGE;
	bool on = next_random(seed) % 3 != 0;

	(on ? pages_add : pages_remove)(pages, set, addr, len);
	for (uint64_t at = addr; at < addr + len; at += PAGE)
		if (inside(at))
			model[set][(at - BASE) / PAGE] = on;
}

static void walk(const struct pages *pages, enum page_set set, bool want)
{
	bool seen[MODEL_PAGES] = {0};
	struct ferry_span run = {0};
	uint64_t at = 0;

	while ((want ? pages_next : pages_next_without)(pages, set, at, UINT64_MAX, &run)) {
		assert_true(run.addr >= at && run.len);
		for (at = run.addr; at < run.addr + run.len; at += PAGE)
			seen[(at - BASE) / PAGE] = true;
	}
	for (uint64_t i = 0; i < MODEL_PAGES; i++)
		assert_int_equal(seen[i], inside(BASE + i * PAGE) && model[set][i] == want);
}

static void test_pages(void **state)
{
	uint64_t seed = (uint64_t)now_ms() | 1, count;
	struct pages pages;

	(void)state;
	print_message("# seed %llu\n", (unsigned long long)seed);
	memset(model, 0, sizeof(model));
	assert_int_equal(pages_init(&pages, spans, COUNT(spans)), 0);
	assert_int_equal(pages.npages, 3 * 512 + 608);
	for (unsigned int round = 0; round < 100; round++) {
		for (unsigned int i = 0; i < 5; i++)
			change_both(&pages, &seed);
		for (enum page_set set = 0; set < PAGE_SETS; set++) {
			walk(&pages, set, true);
			walk(&pages, set, false);
			count = 0;
			for (uint64_t i = 0; i < MODEL_PAGES; i++)
				count += model[set][i];
			assert_int_equal(pages.count[set], count);
		}
	}
	pages_fini(&pages);
}

static void test_pages_part(void **state)
{
	struct ferry_span run;
	struct pages pages;
	uint64_t at = spans[1].addr;

	(void)state;
	assert_int_equal(pages_init(&pages, spans, COUNT(spans)), 0);
	pages_add(&pages, PAGES_TODO, at + PAGE, 9 * PAGE);
	assert_true(pages_next(&pages, PAGES_TODO, at, at + 4 * PAGE, &run));
	assert_int_equal(run.addr, at + PAGE);
	assert_int_equal(run.len, 3 * PAGE);
	assert_false(pages_next(&pages, PAGES_TODO, at, at + PAGE, &run));
	assert_true(pages_has(&pages, PAGES_TODO, at + 9 * PAGE));
	assert_false(pages_has(&pages, PAGES_TODO, at + 10 * PAGE));
	assert_false(pages_has(&pages, PAGES_TODO, BASE));
	pages_set_huge(&pages, BASE + BLOCK, BLOCK);
	assert_true(pages_is_huge(&pages, BASE + BLOCK + 5 * PAGE));
	assert_false(pages_is_huge(&pages, BASE + 2 * BLOCK));
	pages_fini(&pages);
}

static void test_pages_refused(void **state)
{
	static const struct ferry_span bad[][2] = {
		{{BASE, PAGE}, {BASE + 1, PAGE}},   {{BASE, PAGE}, {BASE + PAGE, 0}},
		{{BASE, PAGE}, {BASE + PAGE, 100}}, {{BASE, 2 * PAGE}, {BASE + PAGE, PAGE}},
		{{BASE, PAGE}, {-PAGE, PAGE}},      {{BASE + PAGE, PAGE}, {BASE, 8 * PAGE}},
	};
	struct pages pages;

	(void)state;
	for (size_t i = 0; i < COUNT(bad); i++)
		assert_int_equal(pages_init(&pages, bad[i], 2), -EINVAL);
	assert_int_equal(pages_init(&pages, NULL, 0), -EINVAL);
}

/* 16 TiB of which nothing is known cost nothing, and are passed over at once. */
static void test_pages_sparse(void **state)
{
	const struct ferry_span vast = {BASE - (16ull << 40), 16ull << 40};
	int64_t begin = now_ms();
	struct ferry_span run;
	struct pages pages;

	(void)state;
	assert_int_equal(pages_init(&pages, &vast, 1), 0);
	pages_add(&pages, PAGES_HAD, vast.addr + (9ull << 40), PAGE);
	assert_true(pages_next(&pages, PAGES_HAD, 0, UINT64_MAX, &run));
	assert_int_equal(run.addr, vast.addr + (9ull << 40));
	assert_int_equal(run.len, PAGE);
	assert_true(now_ms() - begin < 2000);
	pages_fini(&pages);
}

/* ---- the pool: first in, first out, never larger, and no block is overwritten */

static void put(struct pool *pool, uint64_t id, uint64_t npages)
{
	char *room = pool_room(pool, npages * PAGE, 0);

	if (!room)
		return;
	for (uint64_t i = 0; i < npages; i++)
		fill_page(room + i * PAGE, id + i);
	pool_add(pool, id, room, npages * PAGE);
}

static void test_pool(void **state)
{
	uint64_t seed = (uint64_t)now_ms() | 1, id = 1;
	struct pool pool;

	(void)state;
	print_message("# seed %llu\n", (unsigned long long)seed);
	assert_int_equal(pool_init(&pool, 64 * PAGE), 0);
	for (unsigned int round = 0; round < 3000; round++) {
		if (next_random(&seed) % 2) {
			put(&pool, id, next_random(&seed) % 20 + 1);
			id += 32;
		} else if (pool_oldest(&pool)) {
			const struct saved *s = pool_oldest(&pool);
			for (uint64_t i = 0; i < s->len / PAGE; i++)
				assert_true(page_has(pool.mem + s->at + i * PAGE, s->addr + i));
			pool_drop(&pool);
		}
		assert_true(pool.used <= pool.size && pool.peak <= pool.size);
	}
	while (pool_oldest(&pool))
		pool_drop(&pool);
	assert_int_equal(pool.used, 0);
	/* Empty again, it takes as much as on the first day. */
	assert_non_null(pool_room(&pool, 64 * PAGE, 0));
	assert_null(pool_room(&pool, 64 * PAGE, PAGE));
	pool_fini(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_pages),        TEST(test_pages_part), TEST(test_pages_refused),
		TEST(test_pages_sparse), TEST(test_pool),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("snapshot", tests, NULL, NULL);
}
