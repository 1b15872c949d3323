// SPDX-License-Identifier: MIT
/* The logical move: what arrives, what stays, how it is counted, and how it goes on after an error.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/uffd.h"
#include "tests/lib/serve.h"

#define NPAGES 16u

/* Two places: every page of src is filled, dst is empty and registered. */
struct places {
	int uffd;
	char *dst, *src;
	size_t len;
};

static void places_init(struct places *p, size_t len, size_t skip)
{
	*p = (struct places){.uffd = open_uffd(UFFD_FEATURE_MOVE), .len = len};
	p->dst = map_memory(len, skip);
	p->src = map_memory(len, skip);
	for (size_t i = 0; i < len / PAGE; i++)
		fill_page(p->src + i * PAGE, i);
	assert_int_equal(
		uffd_register(p->uffd, (uintptr_t)p->dst, len, UFFDIO_REGISTER_MODE_MISSING, NULL),
		0);
}

static void places_fini(struct places *p)
{
	close(p->uffd);
	unmap(p->dst, p->len);
	unmap(p->src, p->len);
}

static struct ferry_move move_of(const struct places *p, uint32_t flags)
{
	return (struct ferry_move){.size = sizeof(struct ferry_move),
				   .uffd = p->uffd,
				   .flags = flags,
				   .dst = (uintptr_t)p->dst,
				   .src = (uintptr_t)p->src,
				   .len = p->len};
}

/* Not read at the source: that would put the zero page there. */
static void assert_moved(const struct places *p, size_t first, size_t n)
{
	for (size_t i = first; i < first + n; i++) {
		assert_true(page_has(p->dst + i * PAGE, i));
		assert_false(page_present(p->src + i * PAGE));
	}
}

static void test_plain(void **state)
{
	(void)state;
	for (uint32_t flags = 0; flags <= FERRY_MOVE_STRICT; flags++) {
		struct places p;
		places_init(&p, NPAGES * PAGE, 3 * PAGE);
		struct ferry_move m = move_of(&p, flags);
		/* The counters are added to, done is not. */
		m.bytes[FERRY_WAY_MOVE] = 7;
		m.holes = 9;
		m.done = 12345;
		assert_int_equal(ferry_move(&m), 0);
		assert_int_equal(m.done, p.len);
		assert_int_equal(m.bytes[FERRY_WAY_MOVE], p.len + 7);
		assert_int_equal(m.bytes[FERRY_WAY_COPY], 0);
		assert_int_equal(m.holes, 9);
		assert_moved(&p, 0, NPAGES);
		places_fini(&p);
	}
}

static void test_arguments(void **state)
{
	struct places p;

	(void)state;
	places_init(&p, NPAGES * PAGE, 0);
	for (unsigned int i = 0; i < 14; i++) {
		struct ferry_move m = move_of(&p, i % 2 ? FERRY_MOVE_STRICT : 0);
		m.done = 55;
		switch (i) {
		case 0:
			m.dst++;
			break;
		case 1:
			m.src++;
			break;
		case 2:
			m.len--;
			break;
		case 3:
			m.len = 0;
			break;
		case 4:
			m.flags |= 16;
			break;
		case 5:
			m.flags = ~0u;
			break;
		case 6:
			m.dst = 0 - PAGE;
			break;
		case 7:
			m.src = 0 - PAGE;
			break;
		case 8:
			m.len = 0 - PAGE;
			break;
		case 9:
			m.dst = m.src;
			break;
		case 10:
			m.dst = m.src + (NPAGES - 1) * PAGE;
			break;
		case 11:
			m.dst = m.src - (NPAGES - 1) * PAGE;
			break;
		case 12:
			m.len = UINT64_MAX;
			break;
		case 13:
			m.flags |= FERRY_MOVE_FULL | FERRY_MOVE_ALLOW_HOLES;
			break;
		}
		assert_int_equal(ferry_move(&m), -EINVAL);
		assert_int_equal(m.done, 0);
	}
	for (unsigned int i = 0; i < NPAGES; i++) {
		assert_true(page_has(p.src + i * PAGE, i));
		assert_false(page_present(p.dst + i * PAGE));
	}
	places_fini(&p);
}

static void drop(char *page)
{
	assert_int_equal(madvise(page, PAGE, MADV_DONTNEED), 0);
}

static void test_holes(void **state)
{
	struct places p;

	(void)state;
	for (uint32_t strict = 0; strict <= FERRY_MOVE_STRICT; strict++) {
		places_init(&p, NPAGES * PAGE, 0);
		drop(p.src + 3 * PAGE);
		drop(p.src + 4 * PAGE);
		drop(p.src + 15 * PAGE);
		struct ferry_move m = move_of(&p, strict);
		assert_int_equal(ferry_move(&m), -ENOENT);
		assert_int_equal(m.done, 3 * PAGE);
		assert_int_equal(m.bytes[FERRY_WAY_MOVE], 3 * PAGE);
		/* The rest, holes allowed: done says where to go on. */
		m.dst += m.done;
		m.src += m.done;
		m.len -= m.done;
		m.flags |= FERRY_MOVE_ALLOW_HOLES;
		assert_int_equal(ferry_move(&m), 0);
		assert_int_equal(m.done, m.len);
		assert_int_equal(m.bytes[FERRY_WAY_MOVE], (NPAGES - 3) * PAGE);
		assert_int_equal(m.holes, 3 * PAGE);
		for (unsigned int i = 0; i < NPAGES; i++)
			if (i == 3 || i == 4 || i == 15)
				assert_false(page_present(p.dst + i * PAGE));
			else
				assert_moved(&p, i, 1);
		places_fini(&p);
	}
}

/* Nothing but holes, and the zero page, which is none. */
static void test_all_holes(void **state)
{
	struct places p;

	(void)state;
	places_init(&p, NPAGES * PAGE, 0);
	assert_int_equal(madvise(p.src, p.len, MADV_DONTNEED), 0);
	struct ferry_move m = move_of(&p, FERRY_MOVE_ALLOW_HOLES);
	assert_int_equal(ferry_move(&m), 0);
	assert_int_equal(m.holes, p.len);
	assert_int_equal(m.bytes[FERRY_WAY_MOVE], 0);
	for (unsigned int i = 0; i < NPAGES; i++)
		assert_true(page_is_zero(p.src + i * PAGE));
	m = move_of(&p, FERRY_MOVE_ALLOW_HOLES | FERRY_MOVE_STRICT);
	assert_int_equal(ferry_move(&m), 0);
	assert_int_equal(m.holes, 0);
	assert_int_equal(m.bytes[FERRY_WAY_MOVE], p.len);
	for (unsigned int i = 0; i < NPAGES; i++) {
		assert_true(page_present(p.dst + i * PAGE));
		assert_true(page_is_zero(p.dst + i * PAGE));
	}
	places_fini(&p);
}

/* More than is looked at at once, from an odd page on, with holes on both sides of each border. */
static void test_many_holes(void **state)
{
	struct places p;
	size_t npages = 11 * BLOCK / PAGE, holes = 0;

	(void)state;
	places_init(&p, npages * PAGE, BLOCK - 3 * PAGE);
	for (size_t i = 3; i < npages; i += BLOCK / PAGE) {
		drop(p.src + (i - 1) * PAGE);
		drop(p.src + i * PAGE);
		holes += 2;
	}
	struct ferry_move m = move_of(&p, FERRY_MOVE_ALLOW_HOLES | FERRY_MOVE_STRICT);
	assert_int_equal(ferry_move(&m), 0);
	assert_int_equal(m.done, p.len);
	assert_int_equal(m.holes, holes * PAGE);
	assert_int_equal(m.bytes[FERRY_WAY_MOVE], p.len - m.holes);
	for (size_t i = 0; i < npages; i++)
		if ((i + 1) % (BLOCK / PAGE) == 3 || i % (BLOCK / PAGE) == 3)
			assert_false(page_present(p.dst + i * PAGE));
		else
			assert_moved(&p, i, 1);
	places_fini(&p);
}

/* A populated page in the way: what was moved before it stays moved, and the rest can follow. */
static void test_restart(void **state)
{
	struct places p;
	uint64_t done;

	(void)state;
	places_init(&p, NPAGES * PAGE, 0);
	assert_int_equal(uffd_zeropage(p.uffd, (uintptr_t)p.dst + 7 * PAGE, PAGE, 0, &done), 0);
	struct ferry_move m = move_of(&p, 0);
	for (int again = 0; again < 3; again++) {
		assert_int_equal(ferry_move(&m), -EEXIST);
		assert_int_equal(m.done, again ? 0 : 7 * PAGE);
		m.dst += m.done;
		m.src += m.done;
		m.len -= m.done;
	}
	assert_moved(&p, 0, 7);
	assert_true(page_has(p.src + 7 * PAGE, 7));
	assert_true(page_is_zero(p.dst + 7 * PAGE));
	drop(p.dst + 7 * PAGE);
	assert_int_equal(ferry_move(&m), 0);
	assert_int_equal(m.bytes[FERRY_WAY_MOVE], p.len);
	assert_moved(&p, 0, NPAGES);
	places_fini(&p);
}

static void move_waking(uint32_t flags)
{
	struct places p;
	struct reader reader;

	places_init(&p, PAGE, 0);
	reader_start(&reader, p.dst);
	wait_readable(p.uffd);
	struct ferry_move m = move_of(&p, flags);
	assert_int_equal(ferry_move(&m), 0);
	if (flags & FERRY_MOVE_DONTWAKE) {
		assert_false(reader.done);
		assert_int_equal(uffd_wake(p.uffd, (uintptr_t)p.dst, PAGE), 0);
	}
	reader_join(&reader);
	assert_true(page_has(p.dst, 0));
	assert_int_equal(reader.value, *(uint64_t *)p.dst);
	places_fini(&p);
}

static void test_wake(void **state)
{
	(void)state;
	move_waking(0);
	move_waking(FERRY_MOVE_STRICT);
	move_waking(FERRY_MOVE_DONTWAKE);
	move_waking(FERRY_MOVE_DONTWAKE | FERRY_MOVE_STRICT);
}

/* ---- huge pages */

/* The first @small bytes are in small pages. */
static void huge_places(struct places *p, size_t len, size_t small)
{
	*p = (struct places){.uffd = open_uffd(UFFD_FEATURE_MOVE), .len = len};
	p->dst = map_memory(len, BLOCK - small);
	p->src = map_memory(len, BLOCK - small);
	/* All of it, so that it stays one mapping, as MOVE wants it. */
	assert_int_equal(madvise(p->src, len, MADV_HUGEPAGE), 0);
	if (!make_huge(p->src + small, len - small))
		SKIP("no huge pages are given here");
	for (size_t i = 0; i < len / PAGE; i++)
		fill_page(p->src + i * PAGE, i);
	assert_int_equal(madvise(p->dst, len, MADV_HUGEPAGE), 0);
	assert_int_equal(
		uffd_register(p->uffd, (uintptr_t)p->dst, len, UFFDIO_REGISTER_MODE_MISSING, NULL),
		0);
}

static void test_huge_whole(void **state)
{
	struct places p;

	(void)state;
	huge_places(&p, 2 * BLOCK, 0);
	struct ferry_move m = move_of(&p, FERRY_MOVE_STRICT);
	assert_int_equal(ferry_move(&m), 0);
	assert_int_equal(m.bytes[FERRY_WAY_MOVE], 2 * BLOCK);
	assert_int_equal(smaps_bytes(p.dst, p.len, "AnonHugePages"), 2 * BLOCK);
	assert_int_equal(smaps_bytes(p.src, p.len, "Rss"), 0);
	assert_moved(&p, 0, p.len / PAGE);
	places_fini(&p);
}

/* Also where holes are looked for, piece by piece: no piece ends within a huge page. */
static void test_huge_many(void **state)
{
	struct places p;

	(void)state;
	huge_places(&p, PAGE + 9 * BLOCK, PAGE);
	struct ferry_move m = move_of(&p, FERRY_MOVE_STRICT | FERRY_MOVE_ALLOW_HOLES);
	assert_int_equal(ferry_move(&m), 0);
	assert_int_equal(m.bytes[FERRY_WAY_MOVE], p.len);
	assert_int_equal(m.holes, 0);
	assert_int_equal(smaps_bytes(p.dst, p.len, "AnonHugePages"), p.len - PAGE);
	assert_moved(&p, 0, p.len / PAGE);
	places_fini(&p);
}

/* A part of a huge page: it is split, and both halves keep their contents. */
static void test_huge_split(void **state)
{
	struct places p;

	(void)state;
	huge_places(&p, BLOCK, 0);
	struct ferry_move m = move_of(&p, FERRY_MOVE_STRICT);
	m.dst += 100 * PAGE;
	m.src += 100 * PAGE;
	m.len = 50 * PAGE;
	assert_int_equal(ferry_move(&m), 0);
	assert_int_equal(m.bytes[FERRY_WAY_MOVE], 50 * PAGE);
	assert_int_equal(smaps_bytes(p.dst, p.len, "AnonHugePages"), 0);
	assert_moved(&p, 100, 50);
	for (unsigned int i = 0; i < BLOCK / PAGE; i++)
		if (i < 100 || i >= 150)
			assert_true(page_has(p.src + i * PAGE, i));
	places_fini(&p);
}

/* To a place with another offset within 2 MiB it can't go whole. */
static void test_huge_unaligned(void **state)
{
	struct places p;

	(void)state;
	huge_places(&p, 2 * BLOCK, 0);
	struct ferry_move m = move_of(&p, FERRY_MOVE_STRICT);
	m.dst += PAGE;
	m.len = BLOCK;
	assert_int_equal(ferry_move(&m), 0);
	for (unsigned int i = 0; i < BLOCK / PAGE; i++) {
		assert_true(page_has(p.dst + (i + 1) * PAGE, i));
		assert_false(page_present(p.src + i * PAGE));
	}
	places_fini(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_plain),      TEST(test_arguments),      TEST(test_holes),
		TEST(test_all_holes),  TEST(test_many_holes),     TEST(test_restart),
		TEST(test_wake),       TEST(test_huge_whole),     TEST(test_huge_many),
		TEST(test_huge_split), TEST(test_huge_unaligned),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("move", tests, NULL, NULL);
}
