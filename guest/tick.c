// SPDX-License-Identifier: MIT
/*
 * A tick every millisecond, and each is a byte on an I/O port, where an observer outside of the VM
 * (guest/watch.c) sees it in real time.
 *
 * The guest can't time its own standstill: while a VM is stopped, so is its clock, and a gap of
 * seconds looks like one tick that was a little late. What the guest sees here is only good for
 * the stalls that it lives through, such as a page fault that takes long to be answered.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/io.h>
#include <time.h>

#include "guest.h"

#define TICK_PORT      0x402
#define TICK_PERIOD_NS 1000000
#define TICK_PRIORITY  99

static _Atomic uint64_t ticks;
static _Atomic uint64_t max_gap_ns;
static pthread_barrier_t ready;

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static void sleep_until(int64_t ns)
{
	struct timespec ts = {ns / 1000000000, ns % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

static void *tick_run(void *arg)
{
	int64_t last = now_ns();
	int64_t next = last;

	(void)arg;
	if (ioperm(TICK_PORT, 1, 1))
		fail("ioperm of port 0x%x: %s", TICK_PORT, strerror(errno));
	for (uint64_t count = 1;; count++) {
		int64_t now;

		/* After a long gap go on in step with the clock: a burst of late ticks would
		 * make the gap look shorter on average. */
		next += TICK_PERIOD_NS;
		if (next <= last)
			next += (last - next) / TICK_PERIOD_NS * TICK_PERIOD_NS + TICK_PERIOD_NS;
		sleep_until(next);
		outb((unsigned char)count, TICK_PORT);
		now = now_ns();
		if ((uint64_t)(now - last) > max_gap_ns)
			max_gap_ns = (uint64_t)(now - last);
		last = now;
		ticks = count;
		if (count == 1)
			pthread_barrier_wait(&ready);
	}
	return NULL;
}

/* Returns after the first tick: from then on an observer sees nothing but ticks. */
void tick_start(void)
{
	pthread_barrier_init(&ready, NULL, 2);
	thread_start(tick_run, NULL, TICK_PRIORITY);
	pthread_barrier_wait(&ready);
}

uint64_t tick_count(void)
{
	return ticks;
}

uint64_t tick_max_gap_us(void)
{
	return max_gap_ns / 1000;
}
