// SPDX-License-Identifier: MIT
/*
 * Pages that KSM has merged are not this process' own, and can't move. MADV_UNMERGEABLE gives each
 * of them a page to itself, which then can. That costs a page and a copy, as does copying it to the
 * taker: the memory that merging has saved is spent either way, until ksmd merges again at the
 * other side. But the copy is made within one call for a whole block, and all of the block can go
 * in a few calls more, where the other way takes three calls for each merged page. See
 * doc/module.md.
 *
 * It is done block by block, when the first page of one has been refused: so never more than a
 * block is there that is neither merged nor moved yet. For one page that somebody waits for it
 * would take too long, and that is copied; unless copies are an error.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/give.h"

/* Where that can't be found out, each refused block pays for an attempt. */
static bool may_be_merged(void)
{
	char text[32] = "";
	int fd = open("/proc/self/ksm_merging_pages", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return true;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	return n <= 0 || strtoul(text, NULL, 10) != 0;
}

static struct give_range *range_of(struct ferry_give *give, uint64_t addr)
{
	for (unsigned int i = 0; i < give->nranges; i++) {
		struct give_range *gr = &give->ranges[i];
		if (addr >= gr->r.addr && addr - gr->r.addr < gr->r.len)
			return gr;
	}
	return NULL;
}

bool merged_was(const struct give_range *gr, uint64_t block)
{
	return gr->unmerged[block / 64] >> block % 64 & 1;
}

static void unmerge(const struct give_range *gr, uint64_t addr)
{
	uint64_t start = addr & ~(FERRY_HUGE - 1), end = start + FERRY_HUGE;

	if (start < gr->r.addr)
		start = gr->r.addr;
	if (end > gr->r.addr + gr->r.len)
		end = gr->r.addr + gr->r.len;
	/* A signal ends it half-way, too. Out of memory what it hasn't come to is copied. */
	while (madvise((void *)(uintptr_t)start, end - start, MADV_UNMERGEABLE) < 0 && errno == EINTR)
		;
}

static bool mend(void *arg, const void *from)
{
	struct ferry_give *give = arg;
	uint64_t addr = (uintptr_t)from;
	struct give_range *gr = range_of(give, addr);

	if (!gr || !(give->pushing || give->strict))
		return false;
	uint64_t block = addr / FERRY_HUGE - gr->r.addr / FERRY_HUGE;
	if (merged_was(gr, block))
		return false;
	gr->unmerged[block / 64] |= 1ull << block % 64;
	unmerge(gr, addr);
	return true;
}

void merged_begin(struct ferry_give *give)
{
	give->refusals.arg = give;
	/* Where copies are an error, also what ksmd merges only from now on. */
	give->refusals.mend = give->strict || may_be_merged() ? mend : NULL;
}
