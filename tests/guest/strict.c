// SPDX-License-Identifier: MIT
/* A hand-over in which a page that can't move is an error, and none is lost by it. */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "handover.h"
#include "harness.h"
#include "hold.h"
#include "peer.h"
#include "proc.h"

#define SUBJECT "strict"

#define HELD    (9 * PAGE) /* the page that can't move */

static struct giving strictly(uint64_t addr)
{
	return (struct giving){.addr = addr, .flags = FERRY_GIVE_STRICT};
}

/* As any hand-over, if nothing is in the way. */
static void nothing_held(void)
{
	uint64_t addr;
	struct peer *giver = giver_of(MAP_4K, &addr);
	struct giving how = strictly(addr);

	hand_over(giver, &how, MAP_4K, 0);
	check_given(giver, SHADOWED * PAGE);
	check_is(given_refused(giver), 0);
	peer_end(giver);
}

static void huge_pages(void)
{
	uint64_t addr;
	struct peer *giver = giver_of(MAP_HUGE, &addr);
	struct giving how = strictly(addr);
	uint64_t at = hand_over(giver, &how, MAP_HUGE, 0);

	check(smaps_kb(0, at, GIVEN_LEN, "AnonHugePages") >= (GIVEN_FILLED - 2 * BLOCK) / 1024);
	check_given(giver, SHADOWED * PAGE);
	peer_end(giver);
}

/* The giver has all of it, as if nothing had been. */
static void gives_nothing(struct peer *giver, const struct giving *how)
{
	struct ferry_take *t;
	uint64_t at;
	int sock = giving_begin(giver, how);

	check_is(take_until_commit(&t, sock, MAP_4K, &at), -ECANCELED);
	ferry_take_close(t);
	check_is(peer_finish(giver), -EBUSY);
	check_is(given_by(giver, FERRY_WAY_MODULE), 0);
	check_is(count_holes(peer_pid(giver), how->addr, GIVEN_FILLED), 0);
	peer_verify(giver, how->addr, GIVEN_FILLED, 0, SEED);
}

static void pinned(void)
{
	uint64_t addr;
	struct peer *giver = giver_of(MAP_4K, &addr);
	struct giving how = strictly(addr);

	peer_pin(giver, addr + HELD);
	gives_nothing(giver, &how);
	/* Without the pin the same memory goes. */
	peer_unpin(giver);
	hand_over(giver, &how, MAP_4K, 0);
	check_is(given_refused(giver), 0);
	peer_end(giver);
}

static void pinned_huge(void)
{
	uint64_t addr;
	struct peer *giver = giver_of(MAP_HUGE, &addr);
	struct giving how = strictly(addr);

	peer_pin(giver, addr + BLOCK + HELD);
	gives_nothing(giver, &how);
	peer_end(giver);
}

static void shared_with_a_child(void)
{
	uint64_t addr;
	struct peer *giver = giver_of(MAP_4K, &addr);
	struct giving how = strictly(addr);
	pid_t child = peer_fork(giver);

	gives_nothing(giver, &how);
	peer_end_child(giver, child);
	peer_end(giver);
}

/* ---- at the giver, around the commit */

static bool let_go(enum moment moment, uint64_t addr)
{
	(void)addr;
	if (moment != COMMIT_REFUSED)
		return false;
	unpin_page();
	return true;
}

/* The taker has not been told of the attempt. */
static void commit_again(void)
{
	uint64_t addr;
	struct peer *giver = giver_of(MAP_4K, &addr);
	struct giving how = strictly(addr);

	how.at = let_go;
	peer_pin(giver, addr + HELD);
	hand_over(giver, &how, MAP_4K, 0);
	check_given(giver, SHADOWED * PAGE);
	check_is(given_refused(giver), 0);
	peer_end(giver);
}

static bool pin_late(enum moment moment, uint64_t addr)
{
	if (moment == AFTER_COMMIT)
		pin_page(addr + HELD);
	return false;
}

/* The page arrives, by a copy, and that is said. */
static void too_late_to_refuse(void)
{
	uint64_t addr;
	struct peer *giver = giver_of(MAP_4K, &addr);
	struct giving how = strictly(addr);

	how.at = pin_late;
	hand_over(giver, &how, MAP_4K, -EBUSY);
	check_given(giver, (SHADOWED + 1) * PAGE);
	check_is(given_refused(giver), PAGE);
	peer_end(giver);
}

/* How often the module has said EBUSY so far. */
static unsigned long refusals(void)
{
	FILE *f = file_open("/sys/class/misc/pageferry/answers");
	unsigned long n = 0;
	char line[64];

	while (fgets(line, sizeof(line), f) && sscanf(line, "EBUSY %lu", &n) != 1)
		;
	fclose(f);
	return n;
}

static void *unpin_when_refused(void *arg)
{
	unsigned long before = (unsigned long)arg;

	await(10000, refusals() > before);
	unpin_page();
	return NULL;
}

static bool pin_for_a_moment(enum moment moment, uint64_t addr)
{
	pthread_t thread;

	if (moment != AFTER_COMMIT)
		return false;
	pin_page(addr + HELD);
	check_is(pthread_create(&thread, NULL, unpin_when_refused, (void *)refusals()), 0);
	check_is(pthread_detach(thread), 0);
	return false;
}

/* As the kernel itself holds a page now and then. */
static void held_for_a_moment(void)
{
	uint64_t addr;
	struct peer *giver = giver_of(MAP_4K, &addr);
	struct giving how = strictly(addr);

	how.at = pin_for_a_moment;
	hand_over(giver, &how, MAP_4K, 0);
	check_given(giver, SHADOWED * PAGE);
	check_is(given_refused(giver), 0);
	peer_end(giver);
}

/* It would have to copy. */
static void not_by_copy(void)
{
	uint64_t addr;
	struct peer *giver = giver_of(MAP_4K, &addr);
	struct giving how = strictly(addr);

	how.ways = WAY_COPY;
	int sock = giving_begin(giver, &how);
	check_is(peer_finish(giver), -EOPNOTSUPP);
	close(sock);
	how = strictly(addr);
	how.flags |= 4;
	sock = giving_begin(giver, &how);
	check_is(peer_finish(giver), -EINVAL);
	close(sock);
	peer_end(giver);
}

const struct test strict_tests[] = {
	TEST(nothing_held),       TEST(huge_pages),          TEST(pinned),
	TEST(pinned_huge),        TEST(shared_with_a_child), TEST(commit_again),
	TEST(too_late_to_refuse), TEST(held_for_a_moment),   TEST(not_by_copy),
	{.name = NULL},
};
