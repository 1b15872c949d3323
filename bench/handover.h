/* SPDX-License-Identifier: MIT */
/* The library's side of the benches with two processes: one range from giver to taker. */
#ifndef BENCH_HANDOVER_H
#define BENCH_HANDOVER_H

#include "bench/bench.h"
#include "pageferry.h"

/* Everything up to READY; what follows is what is measured. */
static inline struct ferry_give *give_until_ready(int sock, const struct ferry_range *range,
						  uint32_t ways)
{
	struct ferry_give_opts opts = FERRY_GIVE_OPTS_INIT;
	struct ferry_offer offer = {.ranges = range, .nranges = 1};
	struct ferry_give *give;

	opts.ways = ways;
	must_ferry(ferry_give_open(&give, sock, &offer, &opts), "ferry_give_open");
	must_ferry(ferry_give_wait(give, FERRY_PHASE_ATTACHED, -1), "ferry_give_wait, attached");
	must_ferry(ferry_give_shadow(give, NULL, 0), "ferry_give_shadow");
	must_ferry(ferry_give_wait(give, FERRY_PHASE_READY, -1), "ferry_give_wait, ready");
	return give;
}

static inline struct ferry_report give_commit_and_drain(struct ferry_give *give)
{
	struct ferry_report report = {.size = sizeof(report)};

	must_ferry(ferry_give_commit(give), "ferry_give_commit");
	must_ferry(ferry_give_wait(give, FERRY_PHASE_DONE, -1), "ferry_give_wait, done");
	must_ferry(ferry_give_report(give, &report), "ferry_give_report");
	ferry_give_close(give, NULL);
	return report;
}

static inline struct ferry_take *take_open(int sock)
{
	struct ferry_take *take;

	must_ferry(ferry_take_open(&take, sock, NULL), "ferry_take_open");
	return take;
}

/* @mem: memory for the one range of the offer. Returns when the memory is the taker's. */
static inline void take_until_committed(struct ferry_take *take, void *mem)
{
	must_ferry(ferry_take_map(take, 0, mem), "ferry_take_map");
	must_ferry(ferry_take_attach(take), "ferry_take_attach");
	must_ferry(ferry_take_shadow(take, NULL, NULL), "ferry_take_shadow");
	must_ferry(ferry_take_commit(take), "ferry_take_commit");
}

static inline void take_done(struct ferry_take *take)
{
	must_ferry(ferry_take_done(take, -1), "ferry_take_done");
}

#endif
