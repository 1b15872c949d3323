// SPDX-License-Identifier: MIT
/*
 * There and back on the kernel at hand: a child gives its memory to the test, which changes it and
 * gives it back into the place that it came from. With the kernel module: tests/guest/rollback.c.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pageferry.h"
#include "tests/lib/test.h"

#define NPAGES 1500u
#define LEN    (NPAGES * PAGE)
#define FILLED 1000u /* pages; the rest is empty */
#define STEP   7u    /* of so many pages the test changes one */

static int give(int sock, void *mem)
{
	struct ferry_range range = {.addr = (uintptr_t)mem, .len = LEN};
	struct ferry_offer offer = {&range, 1, NULL, 0};
	struct ferry_give *g;

	int ret = ferry_give_open(&g, sock, &offer, NULL);
	if (ret)
		return ret;
	ret = ferry_give_wait(g, FERRY_PHASE_ATTACHED, -1);
	if (!ret)
		ret = ferry_give_shadow(g, NULL, 0);
	if (!ret)
		ret = ferry_give_wait(g, FERRY_PHASE_READY, -1);
	if (!ret)
		ret = ferry_give_commit(g);
	if (!ret)
		ret = ferry_give_wait(g, FERRY_PHASE_DONE, -1);
	ferry_give_close(g, NULL);
	return ret;
}

static int take(int sock, void *mem)
{
	struct ferry_take *t;

	int ret = ferry_take_open(&t, sock, NULL);
	if (ret)
		return ret;
	ret = ferry_take_map(t, 0, mem);
	if (!ret)
		ret = ferry_take_attach(t);
	if (!ret)
		ret = ferry_take_shadow(t, NULL, NULL);
	if (!ret)
		ret = ferry_take_commit(t);
	if (!ret)
		ret = ferry_take_done(t, -1);
	ferry_take_close(t);
	return ret;
}

static unsigned char *map(void)
{
	void *mem = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		abort();
	return mem;
}

/* The contents of page i: of the @generation if it is one that changes. */
static void fill(unsigned char *page, unsigned int i, unsigned int generation)
{
	memset(page, (int)(1 + (i * 31 + generation) % 250), PAGE);
}

/* How many pages are not what they must be after all. */
static unsigned int wrong_pages(const unsigned char *mem)
{
	static unsigned char want[PAGE];
	unsigned int wrong = 0;

	for (unsigned int i = 0; i < NPAGES; i++) {
		memset(want, 0, PAGE);
		if (i % STEP == 0)
			fill(want, i, 1);
		else if (i < FILLED)
			fill(want, i, 0);
		wrong += memcmp(mem + i * PAGE, want, PAGE) != 0;
	}
	return wrong;
}

/* Gives, takes back, looks; its exit status tells in which of these it failed. */
static int old_giver(void *arg)
{
	int *there = arg, *back = there + 2;
	unsigned char *mem = map();

	if (!mem)
		return 1;
	for (unsigned int i = 0; i < FILLED; i++)
		fill(mem + i * PAGE, i, 0);
	close(there[1]);
	close(back[1]);
	if (give(there[0], mem))
		return 2;
	if (take(back[0], mem))
		return 3;
	return wrong_pages(mem) ? 4 : 0;
}

static void test_there_and_back(void **state)
{
	int socks[4], *there = socks, *back = socks + 2;
	unsigned char *mem = map();

	(void)state;
	assert_non_null(mem);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, there), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, back), 0);
	pid_t pid = spawn(old_giver, socks);
	close(there[0]);
	close(back[0]);
	assert_int_equal(take(there[1], mem), 0);
	/* Also pages that were empty. */
	for (unsigned int i = 0; i < NPAGES; i += STEP)
		fill(mem + i * PAGE, i, 1);
	assert_int_equal(give(back[1], mem), 0);
	assert_int_equal(wait_exit(pid), 0);
	munmap(mem, LEN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_there_and_back)};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("rollback", tests, NULL, NULL);
}
