// SPDX-License-Identifier: MIT
/*
 * The kernel module's plan of a move: which requests are well formed, and the steps that one falls
 * into. What is let through here is not asked again in the module.
 */
#include <string.h>

#include "tests/lib/test.h"

#include "kmod/plan.h"

#define TABLE  PF_TABLE_SIZE
#define END    PF_TASK_SIZE
#define ROUNDS 200000

/* As in the ABI, by themselves: plan.h must not be the measure of what it is measured by. */
#define KNOWN_MODES 0x1fu
#define EXCLUSIVE   0xcu /* a question, and page tables */
#define TABLES_MODE 0x8u
#define ONLY_MODE   0x10u /* page tables and nothing else */
#define USER_END    0x7ffffffff000ull

static struct pageferry_move good_move(void)
{
	return (struct pageferry_move){.size = sizeof(struct pageferry_move),
				       .dst_uffd = 3,
				       .src_uffd = PAGEFERRY_SELF,
				       .dst = TABLE,
				       .src = 5 * TABLE,
				       .len = 2 * PAGE};
}

static int check_range(uint64_t dst, uint64_t src, uint64_t len)
{
	struct pageferry_move move = good_move();

	move.dst = dst;
	move.src = src;
	move.len = len;
	return pf_plan_check(&move);
}

/* A range that is refused as one side must be refused as the other. */
static void expect(uint64_t start, uint64_t len, int want)
{
	assert_int_equal(check_range(start, PAGE, len), want);
	assert_int_equal(check_range(PAGE, start, len), want);
}

/* ---- the request */

static void test_modes(void **state)
{
	(void)state;
	for (unsigned int bit = 0; bit < 32; bit++) {
		struct pageferry_move move = good_move();

		move.mode = 1u << bit;
		assert_int_equal(pf_plan_check(&move), bit < 4 ? 0 : -EINVAL);
		/* Nor does a known one beside it make an unknown one good. */
		move.mode |= 0x3;
		assert_int_equal(pf_plan_check(&move), bit < 4 ? 0 : -EINVAL);
	}
}

static void test_exclusive(void **state)
{
	struct pageferry_move move = good_move();

	(void)state;
	move.mode = PAGEFERRY_MOVE_CHECK | PAGEFERRY_MOVE_TABLES;
	assert_int_equal(pf_plan_check(&move), -EINVAL);
	move.mode |= PAGEFERRY_MOVE_DONTWAKE;
	assert_int_equal(pf_plan_check(&move), -EINVAL);
}

/* Only page tables: that needs to be asked for in both ways, and whole ones. */
static void test_only_tables(void **state)
{
	const uint64_t good[] = {TABLE, 5 * TABLE, 2 * TABLE};

	(void)state;
	for (uint64_t bit = PAGE; bit <= TABLE; bit <<= 1) {
		for (int i = 0; i < 3; i++) {
			struct pageferry_move move = good_move();

			move.dst = good[0] + (i == 0 ? bit : 0);
			move.src = good[1] + (i == 1 ? bit : 0);
			move.len = good[2] + (i == 2 ? bit : 0);
			move.mode = ONLY_MODE;
			assert_int_equal(pf_plan_check(&move), -EINVAL);
			move.mode |= TABLES_MODE;
			assert_int_equal(pf_plan_check(&move), bit < TABLE ? -EINVAL : 0);
			move.mode = TABLES_MODE;
			assert_int_equal(pf_plan_check(&move), 0);
		}
	}
}

/* Each bit below the page size, in each of the three. */
static void test_alignment(void **state)
{
	(void)state;
	for (uint64_t bit = 1; bit < 64 * PAGE; bit <<= 1) {
		int want = bit < PAGE ? -EINVAL : 0;

		assert_int_equal(check_range(TABLE + bit, 5 * TABLE, PAGE), want);
		assert_int_equal(check_range(TABLE, 5 * TABLE + bit, PAGE), want);
		assert_int_equal(check_range(TABLE, 5 * TABLE, TABLE + bit), want);
		/* The same in all of them, which cancels out in a sum. */
		assert_int_equal(check_range(TABLE + bit, TABLE - bit, TABLE), want);
		assert_int_equal(check_range(TABLE + bit, 5 * TABLE + bit, TABLE + bit), want);
	}
}

static void test_empty(void **state)
{
	(void)state;
	expect(PAGE, 0, -EINVAL);
	expect(0, 0, -EINVAL);
	expect(END, 0, -EINVAL);
	expect(0, PAGE, 0);
}

static void test_limits(void **state)
{
	(void)state;
	assert_int_equal(END, USER_END);
	expect(END - PAGE, PAGE, 0);
	expect(END - PAGE, 2 * PAGE, -EINVAL);
	expect(END, PAGE, -EINVAL);
	expect(END + PAGE, PAGE, -EINVAL);
	expect(END - TABLE, TABLE, 0);
	expect(END - TABLE + PAGE, TABLE, -EINVAL);
	assert_int_equal(check_range(0, 0, END), 0);
	assert_int_equal(check_range(0, 0, END + PAGE), -EINVAL);
	assert_int_equal(check_range(PAGE, 0, END), -EINVAL);
	assert_int_equal(check_range(0, PAGE, END), -EINVAL);
}

/* Sums of start and length that come out small, whatever is added first. */
static void test_wrap(void **state)
{
	const uint64_t last = -(uint64_t)PAGE;

	(void)state;
	expect(PAGE, last, -EINVAL);
	expect(2 * PAGE, last, -EINVAL);
	expect(TABLE, -TABLE, -EINVAL);
	expect(END - PAGE, -(END - PAGE), -EINVAL);
	expect(END - PAGE, -(END - PAGE) + PAGE, -EINVAL);
	expect(last, PAGE, -EINVAL);
	expect(last, 2 * PAGE, -EINVAL);
	expect(last, last, -EINVAL);
	/* Not user space's, though nothing wraps: the kernel's half, and what isn't an address. */
	expect(1ull << 47, PAGE, -EINVAL);
	expect(1ull << 63, PAGE, -EINVAL);
	expect(0xffff888000000000ull, PAGE, -EINVAL);
	expect(0, 1ull << 63, -EINVAL);
}

/* The rest is looked at by others: descriptors that aren't any, one range onto itself. */
static void test_leaves_the_rest(void **state)
{
	struct pageferry_move move = good_move(), before;

	(void)state;
	move.dst_uffd = move.src_uffd = -9;
	move.size = 0;
	move.dst = move.src;
	move.moved = 12345;
	before = move;
	assert_int_equal(pf_plan_check(&move), 0);
	assert_memory_equal(&move, &before, sizeof(move));
}

/* ---- a naive model: page by page, with numbers that don't wrap */

__extension__ typedef unsigned __int128 wide;

static int model_check(const struct pageferry_move *m)
{
	if (m->mode != (m->mode & KNOWN_MODES) || (m->mode & EXCLUSIVE) == EXCLUSIVE)
		return -EINVAL;
	if ((m->mode & ONLY_MODE) &&
	    (!(m->mode & TABLES_MODE) || m->dst % TABLE || m->src % TABLE || m->len % TABLE))
		return -EINVAL;
	if (m->dst % PAGE || m->src % PAGE || m->len % PAGE || m->len == 0)
		return -EINVAL;
	if ((wide)m->dst + m->len > USER_END || (wide)m->src + m->len > USER_END)
		return -EINVAL;
	return 0;
}

static uint64_t table_of(uint64_t addr)
{
	return addr >> 21;
}

/* As many pages as stay in the tables of the first. */
static struct pf_step model_step(uint64_t dst, uint64_t src, uint64_t left)
{
	struct pf_step step = {0};

	while (step.len < left && table_of(dst + step.len) == table_of(dst) &&
	       table_of(src + step.len) == table_of(src))
		step.len += PAGE;
	step.whole = dst % BLOCK == 0 && src % BLOCK == 0 && left >= BLOCK;
	return step;
}

static void compare_step(uint64_t dst, uint64_t src, uint64_t left)
{
	struct pf_step is = pf_plan_step(dst, src, left), want = model_step(dst, src, left);

	assert_int_equal(is.len, want.len);
	assert_int_equal(is.whole, want.whole);
}

/* To the first page of which on all of a table is to move, page by page. */
static uint64_t model_to_table(uint64_t dst, uint64_t src, uint64_t left)
{
	for (uint64_t at = 0; at < left; at += PAGE)
		if ((dst + at) % BLOCK == 0 && (src + at) % BLOCK == 0 && left - at >= BLOCK)
			return at;
	return left;
}

/* ---- the steps */

static void expect_step(uint64_t dst, uint64_t src, uint64_t left, uint64_t len, bool whole)
{
	struct pf_step step = pf_plan_step(dst, src, left);

	assert_int_equal(step.len, len);
	assert_int_equal(step.whole, whole);
	compare_step(dst, src, left);
}

static void test_steps(void **state)
{
	(void)state;
	expect_step(0, 0, PAGE, PAGE, false);
	expect_step(0, TABLE, TABLE - PAGE, TABLE - PAGE, false);
	expect_step(0, TABLE, TABLE, TABLE, true);
	expect_step(0, TABLE, TABLE + PAGE, TABLE, true);
	expect_step(0, TABLE, END - TABLE, TABLE, true);
	/* As long as a table, though it is none on one of the sides, or on both. */
	expect_step(PAGE, TABLE, TABLE, TABLE - PAGE, false);
	expect_step(TABLE, PAGE, TABLE, TABLE - PAGE, false);
	expect_step(PAGE, PAGE, TABLE, TABLE - PAGE, false);
	expect_step(PAGE, TABLE - PAGE, TABLE, PAGE, false);
	expect_step(TABLE - PAGE, 2 * PAGE, TABLE, PAGE, false);
	/* The last pages that there are. */
	expect_step(END - PAGE, END - PAGE, PAGE, PAGE, false);
	expect_step(END - PAGE, 0, PAGE, PAGE, false);
}

/* Each start within a table, against some on the other side. */
static void test_all_starts(void **state)
{
	static const uint64_t other[] = {0, PAGE, TABLE / 2, TABLE - PAGE};
	static const uint64_t left[] = {PAGE, TABLE - PAGE, TABLE, TABLE + PAGE, 3 * TABLE};

	(void)state;
	for (uint64_t at = 0; at < TABLE; at += PAGE)
		for (unsigned int i = 0; i < COUNT(other) * COUNT(left); i++) {
			uint64_t o = other[i / COUNT(left)], l = left[i % COUNT(left)];

			compare_step(3 * TABLE + at, o, l);
			compare_step(o, 3 * TABLE + at, l);
		}
}

/*
 * From the first step to the last: they end exactly with the range, none crosses a table on either
 * side, and each whole table that both sides have in common is one.
 */
static void walk(uint64_t dst, uint64_t src, uint64_t len)
{
	uint64_t end = dst + len, left = len, whole = 0, want = 0;

	if (dst % BLOCK == src % BLOCK) {
		uint64_t head = -dst % BLOCK;

		want = len > head ? (len - head) / BLOCK : 0;
	}
	while (left) {
		struct pf_step step = pf_plan_step(dst, src, left);

		assert_true(step.len && step.len <= left && step.len % PAGE == 0);
		assert_int_equal(table_of(dst), table_of(dst + step.len - 1));
		assert_int_equal(table_of(src), table_of(src + step.len - 1));
		whole += step.whole;
		dst += step.len;
		src += step.len;
		left -= step.len;
	}
	assert_int_equal(dst, end);
	assert_int_equal(whole, want);
}

static void test_walks(void **state)
{
	uint64_t seed = 20, a, b, len;

	(void)state;
	walk(0, 0, 4 * TABLE);
	walk(PAGE, PAGE, 4 * TABLE);
	walk(TABLE - PAGE, 2 * TABLE - PAGE, 2 * PAGE + TABLE);
	walk(PAGE, 2 * PAGE, 4 * TABLE);
	walk(END - 3 * TABLE, 0, 3 * TABLE);
	walk(END - 3 * TABLE, END - 3 * TABLE, 3 * TABLE);
	for (unsigned int i = 0; i < ROUNDS / 10; i++) {
		a = next_random(&seed) % 2048 * PAGE;
		/* By chance both would hardly ever have the same offset. */
		b = next_random(&seed) % 2 ? next_random(&seed) % 2048 * PAGE
					   : a + next_random(&seed) % 8 * TABLE;
		len = (1 + next_random(&seed) % 4096) * PAGE;
		walk(a, b, len);
	}
}

/* ---- random values, of which many lie close to where something changes */

static uint64_t random_value(uint64_t *seed)
{
	static const uint64_t special[] = {0, TABLE, END, END / 2, 1ull << 63, -TABLE};
	uint64_t value = special[next_random(seed) % COUNT(special)];

	switch (next_random(seed) % 4) {
	case 0:
		return next_random(seed) >> next_random(seed) % 64;
	case 1:
		value += next_random(seed) % 64 - 32;
		break;
	default:
		value += (next_random(seed) % 64 - 32) * PAGE;
	}
	return value;
}

static void test_random_requests(void **state)
{
	uint64_t seed = 21;
	unsigned int good = 0;

	(void)state;
	for (unsigned int i = 0; i < ROUNDS; i++) {
		struct pageferry_move move = good_move();

		move.dst = random_value(&seed);
		move.src = random_value(&seed);
		move.len = random_value(&seed);
		if (next_random(&seed) % 2)
			move.len %= 4 * TABLE;
		if (next_random(&seed) % 2) {
			move.dst &= ~(PAGE - 1);
			move.src &= ~(PAGE - 1);
			move.len &= ~(PAGE - 1);
		}
		if (next_random(&seed) % 8 == 0)
			move.mode = (uint32_t)next_random(&seed) >> next_random(&seed) % 32;
		assert_int_equal(pf_plan_check(&move), model_check(&move));
		good += !pf_plan_check(&move);
	}
	/* Else it were a test of one answer. */
	assert_true(good > ROUNDS / 50 && good < ROUNDS / 2);
}

static void test_random_steps(void **state)
{
	uint64_t seed = 22, dst, src, left;

	(void)state;
	for (unsigned int i = 0; i < ROUNDS; i++) {
		dst = random_value(&seed) % (END / 2) & ~(PAGE - 1);
		src = random_value(&seed) % (END / 2) & ~(PAGE - 1);
		left = (1 + next_random(&seed) % 1100) * PAGE;
		if (next_random(&seed) % 2)
			dst &= ~(BLOCK - 1);
		if (next_random(&seed) % 2)
			src = dst % BLOCK + (src & ~(BLOCK - 1));
		compare_step(dst, src, left);
		assert_int_equal(pf_plan_to_table(dst, src, left), model_to_table(dst, src, left));
	}
}

static void test_to_table(void **state)
{
	(void)state;
	assert_int_equal(pf_plan_to_table(0, TABLE, TABLE), 0);
	assert_int_equal(pf_plan_to_table(0, TABLE, TABLE - PAGE), TABLE - PAGE);
	assert_int_equal(pf_plan_to_table(PAGE, TABLE + PAGE, 2 * TABLE), TABLE - PAGE);
	assert_int_equal(pf_plan_to_table(PAGE, TABLE + PAGE, 2 * TABLE - PAGE), TABLE - PAGE);
	assert_int_equal(pf_plan_to_table(PAGE, TABLE + PAGE, 2 * TABLE - 2 * PAGE), 2 * TABLE - 2 * PAGE);
	assert_int_equal(pf_plan_to_table(0, PAGE, 4 * TABLE), 4 * TABLE);
	assert_int_equal(pf_plan_to_table(END - TABLE + PAGE, TABLE + PAGE, PAGE), PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_modes),           TEST(test_alignment),    TEST(test_empty),
		TEST(test_limits),          TEST(test_wrap),         TEST(test_leaves_the_rest),
		TEST(test_steps),           TEST(test_all_starts),   TEST(test_walks),
		TEST(test_random_requests), TEST(test_random_steps), TEST(test_to_table),
		TEST(test_exclusive),       TEST(test_only_tables),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
