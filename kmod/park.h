/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Only in the test build (make kmod PARK=1): the moment in which somebody may get at a page that is
 * just leaving is a few instructions long. Here it can be made as long as a test needs, and what
 * guards it can be left out, so that the test shows that it would notice.
 */
#ifndef PAGEFERRY_PARK_H
#define PAGEFERRY_PARK_H

#include <linux/types.h>

#ifdef PAGEFERRY_PARK

void pf_park_before_clear(void);
void pf_park_after_clear(void);
/* The look at a page's references before its entry is cleared, and the one after that. */
bool pf_skips_early(void);
bool pf_skips_recheck(void);
/* The calls that tell KVM and its like; not to be changed during a move. */
bool pf_skips_notifier(void);
/* That both mappings share the anon_vma of pages that move with their table; the receiver's has its own then. */
bool pf_skips_rmap(void);
/* Pages whose entries were cleared and set again. */
void pf_count_put_back(unsigned int pages);

#else

static inline void pf_park_before_clear(void)
{
}

static inline void pf_park_after_clear(void)
{
}

static inline bool pf_skips_early(void)
{
	return false;
}

static inline bool pf_skips_recheck(void)
{
	return false;
}

static inline bool pf_skips_notifier(void)
{
	return false;
}

static inline bool pf_skips_rmap(void)
{
	return false;
}

static inline void pf_count_put_back(unsigned int pages)
{
}

#endif
#endif
