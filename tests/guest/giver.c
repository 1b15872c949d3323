// SPDX-License-Identifier: MIT
#include <stddef.h>

#include "giver.h"
#include "handover.h"
#include "pageferry.h"

enum { ARG_SOCK, ARG_WAYS, ARG_ADDR, ARG_LEN, ARG_ADDR2, ARG_LEN2 };

/* In the giver's memory. */
static struct ferry_report report;

int64_t giver_run(const uint64_t *arg)
{
	struct ferry_range ranges[] = {
		{.addr = arg[ARG_ADDR], .len = arg[ARG_LEN]},
		{.addr = arg[ARG_ADDR2], .len = arg[ARG_LEN2], .id = 1},
	};
	struct ferry_offer offer = {ranges, arg[ARG_LEN2] ? 2 : 1, NULL, 0};
	struct ferry_give_opts opts = FERRY_GIVE_OPTS_INIT;
	struct ferry_give *g;

	report = (struct ferry_report){.size = sizeof(report)};
	opts.ways = (uint32_t)arg[ARG_WAYS];
	int err = ferry_give_open(&g, (int)arg[ARG_SOCK], &offer, &opts);
	if (!err)
		err = giving_until_done(g, &(struct giving){0});
	if (!err)
		err = ferry_give_report(g, &report);
	ferry_give_close(g, NULL);
	return err;
}

int64_t giver_bytes(const uint64_t *arg)
{
	return (int64_t)report.bytes[arg[0]];
}

int64_t giver_faults(const uint64_t *arg)
{
	(void)arg;
	return (int64_t)report.faults;
}
