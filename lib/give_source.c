// SPDX-License-Identifier: MIT
/* Who has which page: the giver's own memory as a source for the taker's faults. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "lib/clock.h"
#include "lib/give.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

static struct give_range *range_of(struct ferry_source *src)
{
	return (struct give_range *)src;
}

bool give_is_left(const struct give_range *gr, uint64_t page)
{
	return gr->left[page / 64] >> page % 64 & 1;
}

/* @flip: all ones to look for the bits that aren't set. */
static uint64_t next_bit(const struct give_range *gr, uint64_t first, uint64_t end, uint64_t flip)
{
	while (first < end) {
		uint64_t word = (gr->left[first / 64] ^ flip) >> first % 64;
		if (word) {
			first += (uint64_t)__builtin_ctzll(word);
			return first < end ? first : end;
		}
		first = (first / 64 + 1) * 64;
	}
	return end;
}

uint64_t give_next_left(const struct give_range *gr, uint64_t first, uint64_t end)
{
	return next_bit(gr, first, end, 0);
}

uint64_t give_next_given(const struct give_range *gr, uint64_t first, uint64_t end)
{
	return next_bit(gr, first, end, ~0ull);
}

/* Returns how many have changed. */
static uint64_t set_left(struct give_range *gr, uint64_t first, uint64_t n, bool left)
{
	uint64_t changed = 0, end = first + n;

	while (first < end) {
		uint64_t *word = &gr->left[first / 64], count = 64 - first % 64;
		if (count > end - first)
			count = end - first;
		uint64_t mask = ~0ull >> (64 - count) << first % 64;
		uint64_t now = left ? *word | mask : *word & ~mask;
		changed += (uint64_t)__builtin_popcountll(*word ^ now);
		*word = now;
		first += count;
	}
	return changed;
}

uint64_t give_mark(struct give_range *gr, uint64_t first, uint64_t n)
{
	uint64_t fresh = set_left(gr, first, n, false);

	gr->give->pages_left -= fresh;
	return fresh;
}

void give_unmark(struct give_range *gr, uint64_t first, uint64_t n)
{
	gr->give->pages_left += set_left(gr, first, n, true);
}

uint64_t give_block_of(const struct give_range *gr, uint64_t page)
{
	return (gr->r.addr + page * FERRY_PAGE) / FERRY_HUGE - gr->r.addr / FERRY_HUGE;
}

void give_close_block(struct give_range *gr, uint64_t block)
{
	gr->closed[block / 64] |= 1ull << block % 64;
}

bool give_locate(const struct give_range *gr, uint64_t page, uint64_t *addr, uint64_t *len)
{
	const struct ferry_give *give = gr->give;
	const struct space *space = loop_space(give->loop, give->uffd);

	return space && space_locate(space, &gr->src, page * FERRY_PAGE, addr, len);
}

/*
 * Give the memory back to the system, now that it is the taker's. Shared memory is the file's, not
 * ours. Locked memory needs its own call; where even that fails, it stays until the giver exits.
 */
void give_release(const struct give_range *gr, uint64_t first, uint64_t n)
{
	void *addr = (void *)(uintptr_t)(gr->r.addr + first * FERRY_PAGE);

	if (gr->r.flags & FERRY_RANGE_SHARED)
		return;
	if (madvise(addr, n * FERRY_PAGE, MADV_DONTNEED) < 0)
		madvise(addr, n * FERRY_PAGE, MADV_DONTNEED_LOCKED);
}

enum ferry_way give_way(uint32_t answer_kind)
{
	switch (answer_kind) {
	case FERRY_ANSWER_ZERO:
		return FERRY_WAY_ZERO;
	case FERRY_ANSWER_CONTINUE:
		return FERRY_WAY_CONTINUE;
	case ANSWER_MODULE:
		return FERRY_WAY_MODULE;
	default:
		return FERRY_WAY_COPY;
	}
}

/* Nothing is given up before the commit. */
static bool may_move(const struct ferry_give *give)
{
	return give->module >= 0 && give->phase >= FERRY_PHASE_COMMITTED;
}

static int answer(struct ferry_source *src, const struct ferry_fault *fault,
		  struct ferry_answer *ans)
{
	struct give_range *gr = range_of(src);
	const char *from = (const char *)(uintptr_t)(gr->r.addr + fault->offset);

	/* Before the giver's program stands still its memory must not be seen. */
	if (gr->give->phase < FERRY_PHASE_SHADOW) {
		ans->kind = FERRY_ANSWER_LATER;
		return 0;
	}
	/*
	 * What was given may be released here already: never copy it again. Mostly it is there, and
	 * the message was overtaken. If not it is empty, and nobody has told us: the kernel has
	 * dropped what our program had freed with MADV_FREE, or a hole was punched in a file.
	 * Shared memory is not ours to release, and the kernel may have unmapped a page of it since
	 * it was given.
	 */
	if (fault->kind == FERRY_FAULT_MINOR) {
		ans->kind = FERRY_ANSWER_CONTINUE;
	} else if (!give_is_left(gr, fault->offset / FERRY_PAGE) ||
		   scan_is_zero(from, FERRY_PAGE)) {
		ans->kind = FERRY_ANSWER_ZERO;
	} else if (may_move(gr->give) && push_whole(gr, fault->offset)) {
		/* The move of the whole wakes the thread. */
		ans->kind = FERRY_ANSWER_LATER;
	} else {
		ans->kind = may_move(gr->give) ? ANSWER_MODULE : FERRY_ANSWER_COPY;
		ans->from = from;
	}
	return 0;
}

void give_asked(struct ferry_give *give)
{
	hist_add(&give->latency, (uint64_t)(clock_ns() - give->loop->drained_ns));
	give->report.faults++;
}

static void installed(struct ferry_source *src, uint64_t offset, uint64_t len)
{
	struct give_range *gr = range_of(src);
	struct ferry_give *give = gr->give;
	uint64_t fresh = give_mark(gr, offset / FERRY_PAGE, len / FERRY_PAGE);

	give_asked(give);
	give->report.bytes[give_way(give->loop->resolved)] += fresh * FERRY_PAGE;
	gr->bytes[give_way(give->loop->resolved)] += fresh * FERRY_PAGE;
	push_hint(gr, offset);
}

/* The taker's program has discarded it: nobody will ask for it again, and it need not travel. */
static void removed(struct ferry_source *src, uint64_t offset, uint64_t len)
{
	struct give_range *gr = range_of(src);
	uint64_t fresh = give_mark(gr, offset / FERRY_PAGE, len / FERRY_PAGE);

	gr->give->report.removed += fresh * FERRY_PAGE;
	gr->discarded = true;
}

int give_range_init(struct give_range *gr, struct ferry_give *give, const struct ferry_range *r)
{
	*gr = (struct give_range){
		.src = {.answer = answer, .installed = installed, .removed = removed},
		.give = give,
		.r = *r,
		.npages = r->len / FERRY_PAGE,
	};
	/* Blocks are aligned to the giver's addresses: the first and the last may be smaller. */
	gr->nblocks = (r->addr + r->len - 1) / FERRY_HUGE - r->addr / FERRY_HUGE + 1;
	gr->left = calloc(gr->npages / 64 + 1, sizeof(*gr->left));
	gr->closed = calloc(gr->nblocks / 64 + 1, sizeof(*gr->closed));
	gr->unmerged = calloc(gr->nblocks / 64 + 1, sizeof(*gr->unmerged));
	if (!gr->left || !gr->closed || !gr->unmerged)
		return -ENOMEM;
	for (uint64_t i = 0; i < gr->npages; i++)
		gr->left[i / 64] |= 1ull << i % 64;
	give->pages_left += gr->npages;
	return 0;
}

void give_range_fini(struct give_range *gr)
{
	free(gr->left);
	free(gr->closed);
	free(gr->unmerged);
}
