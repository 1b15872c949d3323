// SPDX-License-Identifier: MIT
/*
 * Somebody is killed while pages move: whoever moves them, gives or takes. Each page that is left
 * is in one place and right, and the counters of those who have ended are, which the kernel says if
 * not.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"

#define SUBJECT "kill"

#define LEN     (16 * MIB)
#define ROUNDS  12

static int64_t run_move(const uint64_t *arg)
{
	return pf_move((int)arg[0], 0, (int)arg[1], (int)arg[2], arg[3], arg[4], arg[5], NULL);
}

/* A process that is neither of both, and is moving. */
static struct peer *start_moving(const struct end *to, const struct end *from)
{
	struct peer *mover = peer_start();
	int pf = pf_open();
	uint64_t fd = (uint64_t)peer_give_fd(mover, pf);
	uint64_t dst_uffd = (uint64_t)peer_give_fd(mover, to->uffd);
	uint64_t src_uffd = (uint64_t)peer_give_fd(mover, from->uffd);

	close(pf);
	peer_begin(mover, run_move, fd, dst_uffd, src_uffd, to->addr, from->addr, LEN);
	return mover;
}

/* Another moment in each round. */
static void wait_a_little(int round)
{
	usleep((useconds_t)round * 700);
}

/* What has arrived is a beginning, and the rest is where it was. */
static size_t verify_both(const struct end *to, const struct end *from)
{
	size_t done = LEN - count_holes(peer_pid(to->peer), to->addr, LEN) * PAGE;

	end_verify(to, to->addr, from->addr, done);
	check_is(count_holes(peer_pid(from->peer), from->addr, LEN), done / PAGE);
	check_is(count_holes(peer_pid(from->peer), from->addr, done), done / PAGE);
	end_verify(from, from->addr + done, from->addr + done, LEN - done);
	return done;
}

static void mover_dies(unsigned int how)
{
	unsigned int halfway = 0;
	int pf = pf_open();

	for (int i = 0; i < ROUNDS; i++) {
		struct end giver = giver_start(LEN, how), taker = taker_start(LEN, how);
		struct peer *mover = start_moving(&taker, &giver);
		size_t done;

		wait_a_little(i);
		peer_kill(mover);
		done = verify_both(&taker, &giver);
		halfway += done && done < LEN;
		if (done < LEN)
			check_is(pf_move(pf, 0, taker.uffd, giver.uffd, taker.addr + done,
					 giver.addr + done, LEN - done, NULL),
				 0);
		end_verify(&taker, taker.addr, giver.addr, LEN);
		end_stop(&giver);
		end_stop(&taker);
	}
	note("halfway in %u of %d rounds", halfway, ROUNDS);
}

static void mover(void)
{
	mover_dies(MAP_4K);
}

static void mover_huge(void)
{
	mover_dies(MAP_HUGE);
}

/* Each table is in one place, as a page is. */
static void mover_tables(void)
{
	pf_always = PAGEFERRY_MOVE_TABLES;
	mover_dies(MAP_4K);
}

/* The mover comes to its end, or finds that there is nobody left. */
static void giver(void)
{
	for (int i = 0; i < ROUNDS; i++) {
		struct end from = giver_start(LEN, MAP_4K), to = taker_start(LEN, MAP_4K);
		struct peer *mover = start_moving(&to, &from);
		int64_t ret;
		size_t done;

		wait_a_little(i);
		peer_kill(from.peer);
		ret = peer_finish(mover);
		if (ret != -ESRCH && ret != -ENOENT)
			check_is(ret, 0);
		done = LEN - count_holes(peer_pid(to.peer), to.addr, LEN) * PAGE;
		end_verify(&to, to.addr, from.addr, done);
		peer_end(mover);
		close(from.uffd);
		end_stop(&to);
	}
}

static void taker(void)
{
	for (int i = 0; i < ROUNDS; i++) {
		struct end from = giver_start(LEN, MAP_4K), to = taker_start(LEN, MAP_4K);
		struct peer *mover = start_moving(&to, &from);
		int64_t ret;
		size_t gone;

		wait_a_little(i);
		peer_kill(to.peer);
		ret = peer_finish(mover);
		if (ret != -ESRCH && ret != -ENOENT)
			check_is(ret, 0);
		gone = count_holes(peer_pid(from.peer), from.addr, LEN) * PAGE;
		end_verify(&from, from.addr + gone, from.addr + gone, LEN - gone);
		peer_end(mover);
		close(to.uffd);
		end_stop(&from);
	}
}

static void giver_tables(void)
{
	pf_always = PAGEFERRY_MOVE_TABLES;
	giver();
}

static void taker_tables(void)
{
	pf_always = PAGEFERRY_MOVE_TABLES;
	taker();
}

static int64_t open_there(const uint64_t *arg)
{
	(void)arg;
	return pf_open();
}

/* The device outlives whoever opened it first. */
static void opener(void)
{
	struct end from = giver_start(PAGE, MAP_4K), to = taker_start(PAGE, MAP_4K);
	struct peer *p = peer_start();
	int fd = peer_take_fd(p, (int)peer_do(p, open_there, 0));

	peer_kill(p);
	pf_move_all(fd, &to, &from);
	end_verify(&to, to.addr, from.addr, PAGE);
	end_stop(&from);
	end_stop(&to);
}

/* ---- memory that is dropped before its process has ended, as the kernel does when there is none left */

static int64_t stay_on_cpu0(const uint64_t *arg)
{
	cpu_set_t cpu0;

	(void)arg;
	CPU_ZERO(&cpu0);
	CPU_SET(0, &cpu0);
	check_call(sched_setaffinity(0, sizeof(cpu0), &cpu0));
	return 0;
}

/* Whoever is killed doesn't come to its end while this process runs and both have one CPU. */
static void kill_and_drop(struct peer *p)
{
	const struct sched_param first = {.sched_priority = 1};
	int pidfd = (int)syscall(SYS_pidfd_open, peer_pid(p), 0);

	check_call(pidfd);
	peer_do(p, stay_on_cpu0, 0);
	stay_on_cpu0(NULL);
	check_call(sched_setscheduler(0, SCHED_FIFO, &first));
	check_call(syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0));
	check_call(syscall(SYS_process_mrelease, pidfd, 0));
}

static void drop(bool giver, unsigned int how)
{
	struct end from = giver_start(4 * BLOCK, how), to = taker_start(4 * BLOCK, how);
	int pf = pf_open();
	uint64_t moved;

	kill_and_drop(giver ? from.peer : to.peer);
	check_is(pf_move(pf, PAGEFERRY_MOVE_ALLOW_SRC_HOLES, to.uffd, from.uffd, to.addr, from.addr,
			 from.len, &moved),
		 -ESRCH);
	check_is(moved, 0);
}

/* What was dropped is not a hole that may be passed over: there were pages. */
static void giver_dropped(void)
{
	drop(true, MAP_4K);
}

static void giver_dropped_huge(void)
{
	drop(true, MAP_HUGE);
}

static void giver_dropped_tables(void)
{
	pf_always = PAGEFERRY_MOVE_TABLES;
	drop(true, MAP_4K);
}

/* Nothing goes to where it would be lost. */
static void taker_dropped(void)
{
	drop(false, MAP_4K);
}

/* clang-format off */
const struct test kill_tests[] = {
	TEST(mover, .seconds = 90),
	TEST(mover_huge, .seconds = 90),
	TEST(giver, .seconds = 60),
	TEST(taker, .seconds = 60),
	TEST(opener),
	TEST(giver_dropped),
	TEST(giver_dropped_huge),
	TEST(taker_dropped),
	TEST(mover_tables, .seconds = 90),
	TEST(giver_tables, .seconds = 60),
	TEST(taker_tables, .seconds = 60),
	TEST(giver_dropped_tables),
	{.name = NULL},
};
