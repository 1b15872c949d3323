// SPDX-License-Identifier: MIT
/*
 * The same as in pins.c, with the test build of the module (make kmod PARK=1), which makes the
 * moment long in which a page gets pinned although nobody had it pinned a moment ago.
 */
#include <stdio.h>
#include <unistd.h>

#include "harness.h"
#include "pins.h"
#include "stress.h"

#define PARAMETERS "/sys/module/pageferry/parameters/"
#define LONG_US    1000
#define RUN_MS     1000
#define RUNS       12 /* at most, until it has happened */

static void set(const char *name, unsigned int value)
{
	char path[96];

	snprintf(path, sizeof(path), PARAMETERS "%s", name);
	write_file(path, "%u", value);
}

static long put_backs(void)
{
	return read_number(PARAMETERS "put_backs");
}

/* Whatever an earlier test has left is set anew. */
static void set_all(unsigned int before_us, unsigned int after_us, bool early, bool recheck)
{
	if (access(PARAMETERS "put_backs", R_OK))
		test_skip("this is not the test build of the module");
	set("before_clear_us", before_us);
	set("after_clear_us", after_us);
	set("skip_early", !early);
	set("skip_recheck", !recheck);
}

static void stays(const struct pins_row *row)
{
	struct pins_result result = pins_run(row, RUN_MS, NULL);

	check_is(result.violations, 0);
	check(result.rounds > 0);
	check(result.moved > 0);
}

static void stays_by_put_back(void)
{
	long before = put_backs();

	for (int i = 0; i < RUNS && put_backs() == before; i++)
		stays(test_row);
	note("%ld pages put back", put_backs() - before);
	check(put_backs() > before);
}

/* Who comes in between finds the page put back, and keeps it. */
static void put_back(void)
{
	set_all(LONG_US, 0, true, true);
	stays_by_put_back();
}

/* Who comes after the entry was cleared waits for it. */
static void after_clear(void)
{
	set_all(0, LONG_US, true, true);
	stays(test_row);
	set_all(LONG_US, LONG_US, true, true);
	stays(test_row);
}

/* The look before is only there to save work: the one after it does alone. */
static void no_early_check(void)
{
	set_all(0, 0, false, true);
	stays_by_put_back();
}

/* Pages that are pinned at the wrong side must come back for the test to go on. */
static void let_back(bool begin)
{
	set("skip_early", begin);
}

/*
 * And without that one, it is seen that pages go astray. (Not with O_DIRECT: its transfer is over
 * before anybody could have a look.)
 */
static void no_recheck(void)
{
	unsigned long violations = 0;

	set_all(LONG_US, 0, true, false);
	for (int i = 0; i < RUNS && !violations; i++)
		violations = pins_run(test_row, RUN_MS, let_back).violations;
	set_all(0, 0, true, true);
	check(violations > 0);
}

#define ROW(fn, what, ...)                                                                         \
	{                                                                                          \
		.name = "park/" #fn "_" #what, .run = fn, .seconds = 60,                           \
		.row = &(const struct pins_row){__VA_ARGS__},                                      \
	}

const struct test park_tests[] = {
	ROW(put_back, uring, .kind = PINS_URING),
	ROW(put_back, direct, .kind = PINS_DIRECT),
	ROW(put_back, splice, .kind = PINS_SPLICE),
	ROW(put_back, uring_huge, .kind = PINS_URING, .huge = true),
	ROW(put_back, splice_huge, .kind = PINS_SPLICE, .huge = true),
	ROW(put_back, uring_tables, .kind = PINS_URING, .tables = true),
	ROW(after_clear, uring, .kind = PINS_URING),
	ROW(after_clear, uring_huge, .kind = PINS_URING, .huge = true),
	ROW(after_clear, uring_tables, .kind = PINS_URING, .tables = true),
	ROW(no_early_check, uring, .kind = PINS_URING),
	ROW(no_early_check, uring_huge, .kind = PINS_URING, .huge = true),
	ROW(no_recheck, uring, .kind = PINS_URING),
	ROW(no_recheck, splice, .kind = PINS_SPLICE),
	ROW(no_recheck, uring_huge, .kind = PINS_URING, .huge = true),
	ROW(no_recheck, uring_tables, .kind = PINS_URING, .tables = true),
	{0},
};
