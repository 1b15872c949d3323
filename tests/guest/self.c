// SPDX-License-Identifier: MIT
/* The harness' own: tests that fail, each in another way. selftest.sh asks for them by name. */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "lib/uffd_abi.h"
#include "peer.h"
#include "proc.h"

#define SUBJECT "self"

static void fails(void)
{
	check_is(-EBUSY, 0);
}

static int64_t fail_there(const uint64_t *arg)
{
	check_is(arg[0], 2);
	return 0;
}

static void fails_in_peer(void)
{
	peer_do(peer_start(), fail_there, 1);
}

static void crashes(void)
{
	kill(getpid(), SIGSEGV);
}

/* It has a peer, which has a child, and the peer hangs in a fault that nobody answers. */
static void hangs(void)
{
	struct end e = taker_start(BLOCK, MAP_4K);

	peer_fork(e.peer);
	peer_peek(e.peer, e.addr);
}

static void kernel_bad_page(void)
{
	check_is(file_write("/dev/kmsg", "<1>BUG: Bad page state in process x\n"), 0);
}

static void kernel_panics(void)
{
	check_is(file_write("/proc/sysrq-trigger", "c"), 0);
}

static void guest_ends(void)
{
	check_is(file_write("/proc/sysrq-trigger", "o"), 0);
	nap_ms(20000);
}

/* A kernel that stays where it panicked. */
static void guest_hangs(void)
{
	check_is(file_write("/proc/sys/kernel/panic", "0"), 0);
	check_is(file_write("/proc/sysrq-trigger", "c"), 0);
}

/* What a debug kernel has to report; see planted/pageferry_planted.c. */
static void planted(void)
{
	check_is(file_write("/sys/module/pageferry_planted/parameters/plant", test_row), 0);
}

static void skips(void)
{
	test_skip("as it was told");
}

/* ---- what must work before anything can be said of the module */

static int64_t add(const uint64_t *arg)
{
	return (int64_t)(arg[0] + arg[1]);
}

static void peers(void)
{
	struct peer *a = peer_start(), *b = peer_start();
	uint64_t addr = peer_map(a, 0, BLOCK, MAP_4K);
	int thread;
	pid_t child;

	check_is(peer_do(a, add, 2, 3), 5);
	check_is(peer_do(NULL, add, 2, 3), 5);
	check_is(peer_syscall(a, SYS_getpid), peer_pid(a));
	thread = peer_thread(a, add, 3, 4);
	check_is(peer_join(a, thread, 5000), 7);
	child = peer_fork(a);
	check_is(kill(child, 0), 0);
	peer_end_child(a, child);
	check_is(kill(child, 0), -1);
	peer_poke(a, addr, 42);
	check_is(peer_peek(a, addr), 42);
	check_is(smaps_mappings(peer_pid(a), addr, BLOCK), 1);
	peer_end(a);
	peer_kill(b);
}

static void pages(void)
{
	struct peer *p = peer_start();
	uint64_t addr = peer_map(p, 0, BLOCK, MAP_4K), huge = peer_map(p, 0, BLOCK, MAP_HUGE);
	uint64_t rss = status_kb(peer_pid(p), "RssAnon");

	check_is(count_holes(peer_pid(p), addr, BLOCK), BLOCK / PAGE);
	peer_fill(p, addr, BLOCK, 5, 6);
	peer_verify(p, addr + PAGE, PAGE, 6, 6);
	check_is(count_pages(peer_pid(p), addr, BLOCK, PM_PRESENT | PM_EXCLUSIVE), BLOCK / PAGE);
	check(status_kb(peer_pid(p), "RssAnon") >= rss + 2000);
	check(page_frame(peer_pid(p), addr));
	check(page_kflags(peer_pid(p), addr));
	check(!(page_state(peer_pid(p), addr) & PM_HUGE));
	peer_poke(p, huge, 1);
	check(page_state(peer_pid(p), huge + PAGE) & PM_HUGE);
	check_is(smaps_kb(peer_pid(p), huge, BLOCK, "AnonHugePages"), BLOCK / 1024);
	peer_verify_zero(p, huge + PAGE, PAGE);
	peer_end(p);
}

/* A fault of a peer's thread arrives here, and is answered here. */
static void faults(void)
{
	struct end e = taker_start(BLOCK, MAP_4K);
	uint64_t at = e.addr + 3 * PAGE;
	struct uffdio_zeropage zero = {.range = {at, PAGE}};
	int thread = peer_thread(e.peer, peer_run_peek, at);

	check_is(uffd_fault(e.uffd), at);
	check(!peer_thread_ended(e.peer, thread, NULL));
	check_call(ioctl(e.uffd, UFFDIO_ZEROPAGE, &zero));
	check_is(peer_join(e.peer, thread, 10000), 0);
	end_stop(&e);
}

#define PLANTED(error)                                                                             \
	{                                                                                          \
		.name = SUBJECT "/" #error, .run = planted, .row = #error, .by_name = true         \
	}

/* clang-format off */
const struct test self_tests[] = {
	TEST(peers),
	TEST(pages),
	TEST(faults),
	TEST(skips, .by_name = true),
	TEST(fails, .by_name = true),
	TEST(fails_in_peer, .by_name = true),
	TEST(crashes, .by_name = true),
	TEST(hangs, .by_name = true, .seconds = 3),
	TEST(kernel_bad_page, .by_name = true),
	TEST(kernel_panics, .by_name = true),
	TEST(guest_ends, .by_name = true),
	TEST(guest_hangs, .by_name = true),
	PLANTED(inverted_locks),
	PLANTED(sleep_in_atomic),
	PLANTED(broken_list),
	PLANTED(out_of_bounds),
	PLANTED(dead_page),
	PLANTED(unmapped_page),
	PLANTED(racing_counter),
	{.name = NULL},
};
