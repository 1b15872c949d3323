// SPDX-License-Identifier: GPL-2.0-only
/* The test build's parameters: /sys/module/pageferry/parameters/, see park.h. */
#include "park.h"

#ifdef PAGEFERRY_PARK
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/minmax.h>
#include <linux/module.h>

static unsigned int before_clear_us, after_clear_us;
module_param(before_clear_us, uint, 0600);
module_param(after_clear_us, uint, 0600);

static bool skip_early, skip_recheck, skip_notifier, skip_rmap;
module_param(skip_early, bool, 0600);
module_param(skip_recheck, bool, 0600);
module_param(skip_notifier, bool, 0600);
module_param(skip_rmap, bool, 0600);

static atomic_long_t pf_put_backs;

static int put_backs_get(char *buf, const struct kernel_param *kp)
{
	return sprintf(buf, "%ld\n", atomic_long_read(&pf_put_backs));
}

static const struct kernel_param_ops put_backs_ops = { .get = put_backs_get };
module_param_cb(put_backs, &put_backs_ops, NULL, 0400);

/* Under spinlocks, so it is kept short. */
static void pf_delay(unsigned int us)
{
	for (us = min(us, 10000u); us; us--)
		udelay(1);
}

void pf_park_before_clear(void)
{
	pf_delay(READ_ONCE(before_clear_us));
}

void pf_park_after_clear(void)
{
	pf_delay(READ_ONCE(after_clear_us));
}

bool pf_skips_early(void)
{
	return READ_ONCE(skip_early);
}

bool pf_skips_recheck(void)
{
	return READ_ONCE(skip_recheck);
}

bool pf_skips_notifier(void)
{
	return READ_ONCE(skip_notifier);
}

bool pf_skips_rmap(void)
{
	return READ_ONCE(skip_rmap);
}

void pf_count_put_back(unsigned int pages)
{
	atomic_long_add(pages, &pf_put_backs);
}

#endif
