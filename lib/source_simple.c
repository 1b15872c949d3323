// SPDX-License-Identifier: MIT
/* Sources without state of their own: nothing but zeros, and shared memory's own page cache. */
#include "pageferry.h"

/*
 * What the memory holds by itself. Empty anonymous memory and a hole in a shared file are zero;
 * a MINOR fault means that the page cache has the page, also after MADV_DONTNEED, which only unmaps
 * shared memory.
 */
static int answer_natural(struct ferry_source *src, const struct ferry_fault *fault,
			  struct ferry_answer *answer)
{
	static const uint32_t kinds[] = { [FERRY_FAULT_MISSING] = FERRY_ANSWER_ZERO,
					  [FERRY_FAULT_WP] = FERRY_ANSWER_UNPROTECT,
					  [FERRY_FAULT_MINOR] = FERRY_ANSWER_CONTINUE };
	(void)src;
	answer->kind = kinds[fault->kind];
	return 0;
}

struct ferry_source *ferry_source_zero(void)
{
	static struct ferry_source zero = { .answer = answer_natural };
	return &zero;
}

struct ferry_source *ferry_source_shared(void)
{
	static struct ferry_source shared = { .answer = answer_natural };
	return &shared;
}

void ferry_source_free(struct ferry_source *src)
{
	if (src && src->free)
		src->free(src);
}
