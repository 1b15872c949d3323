// SPDX-License-Identifier: MIT
/*
 * Pages go to and fro between two processes while everything else that can happen to memory happens
 * to it. Whatever it is, each page is at one side at most, with its contents, and nothing hangs.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/boot.h"
#include "guest/pattern.h"
#include "harness.h"
#include "lib/uffd_abi.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"
#include "stress.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define SUBJECT   "churn"

#define RUN_MS    3000
#define PAGES_MAX 2048u
#define MOVERS    4u /* half of them in either direction */

/* What all processes have in common. */
struct common {
	atomic_bool stop;
	struct tally moves;
};
static struct common *all;

static struct {
	struct end side[2];
	unsigned int pages;
	int pf;
} run;

/* What a mapping that changes under its pages may be answered with, besides. */
static const int answers[] = {EBUSY, EEXIST, ENOENT, EAGAIN, EINVAL, EPERM, ESRCH, EBADF, 0};

/* ---- the movers: all of them on the same two ranges */

/* What can't go is passed over. */
static void move_range(unsigned int to, unsigned int first, unsigned int n)
{
	const struct end *dst = &run.side[to], *src = &run.side[!to];
	unsigned int end = first + n;

	while (first < end && !all->stop) {
		uint64_t moved;
		int ret = pf_move(run.pf, 0, dst->uffd, src->uffd, dst->addr + first * PAGE,
				  src->addr + first * PAGE, (end - first) * PAGE, &moved);

		/* Not even the device is open any more. */
		if (moved == ~0ull)
			moved = 0;
		tally_add(&all->moves, ret, moved, answers);
		first += (unsigned int)(moved / PAGE) + (ret && !moved);
	}
}

/* arg: number of the mover */
static int64_t move_about(const uint64_t *arg)
{
	uint64_t random = arg[0] << 32;

	stay_on_cpu((unsigned int)arg[0] / 2);
	while (!all->stop) {
		unsigned int first = (unsigned int)below(&random, run.pages);
		unsigned int n = 1 + (unsigned int)below(&random, run.pages - first);

		move_range(arg[0] % 2, first, n);
	}
	return 0;
}

/* ---- begin and end */

static void start(unsigned int pages, unsigned int how)
{
	all = shared(sizeof(*all));
	run.pages = pages;
	run.pf = pf_open();
	run.side[0] = giver_start(pages * PAGE, how);
	run.side[1] = taker_start(pages * PAGE, how);
	/* So that each page tells its number within the range. */
	peer_fill(run.side[0].peer, run.side[0].addr, pages * PAGE, 0, SEED);
}

static void move_for(unsigned int ms)
{
	int movers[MOVERS];

	for (unsigned int i = 0; i < MOVERS; i++)
		movers[i] = peer_thread(NULL, move_about, i);
	nap_ms(ms);
	all->stop = true;
	for (unsigned int i = 0; i < MOVERS; i++)
		peer_join(NULL, movers[i], 20000);
}

/* Which pages are there. */
static void look_at(unsigned int s, bool *here)
{
	const struct end *e = &run.side[s];

	find_holes(peer_pid(e->peer), e->addr, here, run.pages);
	for (unsigned int i = 0; i < run.pages; i++)
		here[i] = !here[i];
}

/* What is there has its contents. */
static void verify_side(unsigned int s, const bool *here)
{
	const struct end *e = &run.side[s];
	unsigned int n;

	for (unsigned int i = 0; i < run.pages; i += n + 1) {
		for (n = 0; i + n < run.pages && here[i + n]; n++)
			;
		if (n)
			peer_verify(e->peer, e->addr + i * PAGE, n * PAGE, i, SEED);
	}
}

/* Each page has its contents at one side, or, if it @may_be_gone, at none. */
static void check_pages(bool may_be_gone)
{
	bool here[2][PAGES_MAX];
	unsigned int gone = 0;

	for (unsigned int s = 0; s < 2; s++)
		look_at(s, here[s]);
	for (unsigned int i = 0; i < run.pages; i++) {
		gone += !here[0][i] && !here[1][i];
		if (here[0][i] && here[1][i])
			test_failed(__FILE__, __LINE__, "page %u is at both sides", i);
	}
	for (unsigned int s = 0; s < 2; s++)
		verify_side(s, here[s]);
	if (may_be_gone)
		note("%u pages are gone", gone);
	else
		check_is(gone, 0);
}

/* What the kernel counts for a process is what is mapped there. */
static void check_rss(void)
{
	for (unsigned int s = 0; s < 2; s++) {
		struct end *e = &run.side[s];
		pid_t pid = peer_pid(e->peer);
		uint64_t before = status_kb(pid, "RssAnon");
		uint64_t here = smaps_kb(pid, e->addr, e->len, "Anonymous"), after;

		check_is(here, 4 * count_pages(pid, e->addr, e->len, PM_PRESENT));
		check_is(peer_madvise(e->peer, e->addr, e->len, MADV_DONTNEED), 0);
		after = status_kb(pid, "RssAnon");
		/* Each CPU may have counted some pages by itself. */
		check(near_kb(before, after + here, 512));
	}
}

static void end(bool may_be_gone)
{
	check_pages(may_be_gone);
	tally_note(&all->moves, "moves");
	check(all->moves.pages > 0);
	check_rss();
	end_stop(&run.side[0]);
	end_stop(&run.side[1]);
}

static void start_at_both(peer_fn fn, int *threads)
{
	for (unsigned int s = 0; s < 2; s++)
		threads[s] = peer_thread(run.side[s].peer, fn, run.side[s].addr, run.side[s].len,
					 s);
}

static void join_both(const int *threads)
{
	for (unsigned int s = 0; s < 2; s++)
		peer_join(run.side[s].peer, threads[s], 20000);
}

/* ---- other changes to both address spaces; each fn has address, length, side */

/* Mappings come and go, beside the pages and of the pages themselves. */
static int64_t churn_mappings(const uint64_t *arg)
{
	uint64_t random = arg[2];

	while (!all->stop) {
		uint64_t at = arg[0] + below(&random, arg[1] / PAGE) * PAGE;
		void *other = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				   -1, 0);

		check(other != MAP_FAILED);
		memset(other, 1, 4 * PAGE);
		check_call(mprotect((void *)at, PAGE, PROT_READ));
		check_call(madvise(other, BLOCK, MADV_DONTNEED));
		check_call(mprotect((void *)arg[0], arg[1], PROT_READ | PROT_WRITE));
		check_call(munmap(other, BLOCK));
		/* Else one could hardly ever see it whole. */
		nap_ms(1);
	}
	return 0;
}

static void mappings(void)
{
	int threads[2];

	start(256, MAP_4K);
	start_at_both(churn_mappings, threads);
	move_for(RUN_MS);
	join_both(threads);
	end(false);
}

static int64_t drop_pages(const uint64_t *arg)
{
	uint64_t random = arg[2];

	while (!all->stop) {
		uint64_t at = arg[0] + below(&random, arg[1] / PAGE) * PAGE;

		check_call(madvise((void *)at, PAGE, MADV_DONTNEED));
		nap_ms(20);
	}
	return 0;
}

static void dontneed(void)
{
	int threads[2];

	start(512, MAP_4K);
	start_at_both(drop_pages, threads);
	move_for(RUN_MS);
	join_both(threads);
	end(true);
}

/* ---- huge pages are made of the pages that move */

#define KHUGEPAGED "/sys/kernel/mm/transparent_hugepage/khugepaged/"

static int64_t collapse(const uint64_t *arg)
{
	unsigned long done = 0;

	for (; !all->stop; nap_ms(1))
		for (uint64_t at = arg[0]; at < arg[0] + arg[1]; at += BLOCK)
			done += !madvise((void *)at, BLOCK, MADV_COLLAPSE);
	return (int64_t)done;
}

static void khugepaged_at_full_speed(bool on)
{
	write_file(KHUGEPAGED "scan_sleep_millisecs", "%u", on ? 0 : 10000);
	write_file(KHUGEPAGED "alloc_sleep_millisecs", "%u", on ? 0 : 60000);
	write_file(KHUGEPAGED "pages_to_scan", "%u", on ? 65536 : 4096);
	write_file(KHUGEPAGED "defrag", "%u", 1);
}

/* All at one side for a moment, or there would be nothing to make a huge page of. */
static int64_t move_and_gather(const uint64_t *arg)
{
	uint64_t random = arg[0];

	for (unsigned int to = 0; !all->stop; to = !to) {
		for (int i = 0; i < 10; i++)
			move_range((unsigned int)below(&random, 2),
				   (unsigned int)below(&random, run.pages - 16),
				   1 + (unsigned int)below(&random, 16));
		move_range(to, 0, run.pages);
		nap_ms(5);
	}
	return 0;
}

static void khugepaged(void)
{
	int threads[2], mover;
	int64_t collapsed = 0;
	long before;

	start(4 * BLOCK / PAGE, MAP_HUGE);
	khugepaged_at_full_speed(true);
	before = read_number(KHUGEPAGED "pages_collapsed");
	start_at_both(collapse, threads);
	mover = peer_thread(NULL, move_and_gather, 1);
	nap_ms(2 * RUN_MS);
	all->stop = true;
	peer_join(NULL, mover, 20000);
	for (unsigned int s = 0; s < 2; s++)
		collapsed += peer_join(run.side[s].peer, threads[s], 20000);
	khugepaged_at_full_speed(false);
	note("%ld by khugepaged, %lld times advice was taken",
	     read_number(KHUGEPAGED "pages_collapsed") - before, (long long)collapsed);
	check(collapsed > 0);
	end(false);
}

/* ---- fork: what a child has in common with one side can't go, and the child never sees a change
 */

/* The last word of each page is written to all the time. */
#define LAST (PATTERN_WORDS - 1ul)

static _Noreturn void be_child(const uint64_t *arg)
{
	const volatile uint64_t *at = (const uint64_t *)arg[0];
	uint64_t sums[2];

	for (int i = 0; i < 2; i++) {
		sums[i] = 0;
		for (uint64_t page = 0; page < arg[1] / PAGE; page++)
			sums[i] = mix64(sums[i] ^ at[page * PATTERN_WORDS + LAST]);
		nap_ms(5);
	}
	_exit(sums[0] != sums[1]);
}

static int64_t fork_often(const uint64_t *arg)
{
	int64_t children = 0;

	for (; !all->stop; children++) {
		pid_t pid = fork();
		int status;

		check_call(pid);
		if (!pid)
			be_child(arg);
		check_is(waitpid(pid, &status, 0), pid);
		check_is(status, 0);
	}
	return children;
}

/*
 * It also makes a page its parent's alone again. Not by an access, which would wait for a page that
 * isn't there.
 */
static int64_t write_last_words(const uint64_t *arg)
{
	uint64_t random = arg[2], value;
	int mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);

	check_call(mem);
	while (!all->stop) {
		uint64_t at = arg[0] + below(&random, arg[1] / PAGE) * PAGE + LAST * 8;

		value = random;
		if (pwrite(mem, &value, sizeof(value), (off_t)at) < 0)
			check_is(errno, EIO);
	}
	close(mem);
	return 0;
}

/* arg: address, which are there, pages */
static int64_t restore_last_words(const uint64_t *arg)
{
	const bool *here = (const bool *)arg[1];
	uint64_t right[PATTERN_WORDS];

	for (uint64_t i = 0; i < arg[2]; i++) {
		pattern_write(right, i, SEED);
		if (here[i])
			((uint64_t *)arg[0])[i * PATTERN_WORDS + LAST] = right[LAST];
	}
	return 0;
}

static void forks(void)
{
	bool *here = shared(PAGES_MAX);
	int threads[2], writers[2];

	start(64, MAP_4K);
	start_at_both(fork_often, threads);
	start_at_both(write_last_words, writers);
	move_for(2 * RUN_MS);
	join_both(writers);
	for (unsigned int s = 0; s < 2; s++) {
		const struct end *e = &run.side[s];

		note("%lld children", (long long)peer_join(e->peer, threads[s], 20000));
		look_at(s, here);
		peer_do(e->peer, restore_last_words, e->addr, (uintptr_t)here, run.pages);
	}
	end(false);
}

/* ---- mremap: the pages are somewhere else now, and registered there a moment later */

static void remap(unsigned int s, uint64_t to)
{
	struct end *e = &run.side[s];

	check_is(peer_syscall(e->peer, SYS_mremap, e->addr, e->len, e->len,
			      MREMAP_MAYMOVE | MREMAP_FIXED, to),
		 (int64_t)to);
	e->addr = to;
	check_is(uffd_register(e->uffd, to, e->len, UFFDIO_REGISTER_MODE_MISSING), 0);
}

/* Nobody else talks to the peers at this time. */
static int64_t remap_often(const uint64_t *arg)
{
	uint64_t places[2][2], n = 0;

	(void)arg;
	for (unsigned int s = 0; s < 2; s++) {
		places[s][0] = run.side[s].addr;
		places[s][1] = peer_map(run.side[s].peer, 0, run.side[s].len, MAP_4K);
	}
	for (; !all->stop; n++) {
		remap(n % 2, places[n % 2][!(n / 2 % 2)]);
		nap_ms(2);
	}
	return (int64_t)n;
}

static void mremaps(void)
{
	int thread;

	start(256, MAP_4K);
	thread = peer_thread(NULL, remap_often, 0);
	move_for(RUN_MS);
	note("%lld times", (long long)peer_join(NULL, thread, 20000));
	end(false);
}

/* ---- one side ends, or what leads to it, in the middle */

static int64_t exec_self(const uint64_t *arg)
{
	(void)arg;
	/* Which ends at once where it isn't PID 1. */
	execl("/proc/self/exe", "init", (char *)NULL);
	return -errno;
}

static void kill_side(unsigned int s)
{
	check_call(kill(peer_pid(run.side[s].peer), SIGKILL));
}

static void exec_side(unsigned int s)
{
	peer_begin(run.side[s].peer, exec_self, 0);
}

static void close_uffd(unsigned int s)
{
	check_call(close(run.side[s].uffd));
	run.side[s].uffd = -1;
}

static void close_device(unsigned int s)
{
	(void)s;
	check_call(close(run.pf));
	run.pf = -1;
}

static const struct {
	void (*fn)(unsigned int side);
	unsigned int side;
	bool survives; /* the side itself does */
} accidents[] = {
	{.fn = kill_side, .side = 0},
	{.fn = kill_side, .side = 1},
	{.fn = exec_side, .side = 0},
	{.fn = exec_side, .side = 1},
	{.fn = close_uffd, .side = 0, .survives = true},
	{.fn = close_uffd, .side = 1, .survives = true},
	{.fn = close_device, .survives = true},
};

static void verify_survivor(unsigned int s)
{
	bool here[PAGES_MAX];

	look_at(s, here);
	verify_side(s, here);
}

static unsigned long have_accident(unsigned int which, unsigned int ms)
{
	unsigned int s = accidents[which].side;
	int movers[MOVERS];

	start(128, which % 2 ? MAP_4K : MAP_HUGE);
	for (unsigned int i = 0; i < MOVERS; i++)
		movers[i] = peer_thread(NULL, move_about, i);
	nap_ms(ms);
	accidents[which].fn(s);
	nap_ms(5);
	all->stop = true;
	for (unsigned int i = 0; i < MOVERS; i++)
		peer_join(NULL, movers[i], 10000);
	if (accidents[which].survives)
		check_pages(false);
	else
		verify_survivor(!s);
	for (s = 0; s < 2; s++) {
		close(run.side[s].uffd);
		peer_kill(run.side[s].peer);
	}
	close(run.pf);
	return all->moves.pages;
}

static void accident(void)
{
	const unsigned int rounds = 5 * COUNT(accidents);
	unsigned long moved = 0;

	for (unsigned int i = 0; i < rounds; i++)
		moved += have_accident(i % COUNT(accidents), i % 9);
	note("%lu pages moved", moved);
	check(moved > 0);
}

/* ---- the module is to be unloaded while it works */

static atomic_bool move_ended;

/* arg: bytes. Its descriptor is closed meanwhile. */
static int64_t move_long(const uint64_t *arg)
{
	const struct end *dst = &run.side[1], *src = &run.side[0];
	uint64_t moved;
	int ret = pf_move(run.pf, 0, dst->uffd, src->uffd, dst->addr, src->addr, arg[0], &moved);

	move_ended = true;
	check_is(ret, 0);
	check_is(moved, arg[0]);
	return 0;
}

/* True if the call was certainly running when the module was to be unloaded. */
static bool unload_meanwhile(size_t len)
{
	const struct end *e = &run.side[0];
	int thread, ret;
	bool running;

	move_ended = false;
	thread = peer_thread(NULL, move_long, len);
	while (!count_holes(peer_pid(e->peer), e->addr, PAGE))
		;
	check_call(close(run.pf));
	ret = (int)syscall(SYS_delete_module, "pageferry", O_NONBLOCK) ? -errno : 0;
	running = !move_ended && count_holes(peer_pid(e->peer), e->addr + e->len - PAGE, PAGE) == 0;
	peer_join(NULL, thread, 20000);
	if (!ret)
		check_is(load_module("pageferry.ko"), 0);
	if (running)
		check_is(ret, -EWOULDBLOCK);
	run.pf = pf_open();
	return running;
}

static void unload(void)
{
	const size_t len = working_set(64 * MIB);

	for (int i = 0; i < 10; i++) {
		bool running;

		start(len / PAGE, MAP_4K);
		running = unload_meanwhile(len);
		check_is(count_holes(peer_pid(run.side[0].peer), run.side[0].addr, len),
			 len / PAGE);
		end_stop(&run.side[0]);
		end_stop(&run.side[1]);
		close(run.pf);
		if (running)
			return;
	}
	test_skip("the module was never seen at work");
}

const struct test churn_tests[] = {
	TEST(mappings, .seconds = 60),
	TEST(dontneed, .seconds = 60),
	TEST(khugepaged, .seconds = 60),
	TEST(forks, .seconds = 60),
	TEST(mremaps, .seconds = 60),
	TEST(accident, .seconds = 60),
	TEST(unload, .seconds = 60),
	{0},
};
