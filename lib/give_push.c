// SPDX-License-Identifier: MIT
/*
 * Push what nobody has asked for yet, block by block. One thread serves faults and pushes, in turn,
 * so that a page is never pushed from a state that an event, read meanwhile, has ended. To let
 * faults go first the chunks are small as long as faults come, and what lies next to them goes
 * before the rest.
 */
#include <errno.h>
#include <string.h>

#include "lib/clock.h"
#include "lib/give.h"
#include "lib/park.h"

/* A fault may have to wait for one chunk: 20 us while they come, 0.7 ms when they have ceased. */
#define CHUNK_BUSY (16 * FERRY_PAGE)
#define BUSY_NS	   2000000
/*
 * A program that has just been taken over asks for its working set, page after page. Until it has been
 * quiet for so long, and at most for so long after it began, nothing is pushed: this thread sleeps
 * on the CPU of the one that asks, so that each answer costs two switches and no interrupt. Awake it
 * would keep that thread from its CPU; from another one it would have to wake an idle CPU each time,
 * which costs more than the answer.
 */
#define QUIET_NS  5000000
#define SETTLE_NS 30000000
/* A look for zero misses the cache once a page; so many pages ahead the miss is hidden. */
#define AHEAD 16

void push_init(struct ferry_give *give)
{
	give->push = (struct pusher){.cursor_range = give->ranges};
}

static bool is_closed(const struct give_range *gr, uint64_t block)
{
	return gr->closed[block / 64] >> block % 64 & 1;
}

static bool same_block(const struct push_block *b, const struct give_range *gr, uint64_t block)
{
	return b->range == gr && b->block == block;
}

void push_hint(struct give_range *gr, uint64_t offset)
{
	struct pusher *p = &gr->give->push;
	uint64_t block = give_block_of(gr, offset / FERRY_PAGE);

	p->asked_at = gr->give->loop->drained_ns;
	if (is_closed(gr, block))
		return;
	if (same_block(&p->now, gr, block)) {
		p->now.from = offset / FERRY_PAGE + 1;
		return;
	}
	if (p->nhot == HOT_BLOCKS) {
		memmove(&p->hot[0], &p->hot[1], sizeof(p->hot) - sizeof(p->hot[0]));
		p->nhot--;
	}
	p->hot[p->nhot].range = gr;
	p->hot[p->nhot].page = offset / FERRY_PAGE + 1;
	p->hot[p->nhot++].block = block;
}

static bool next_hot(struct pusher *p, struct give_range **gr, uint64_t *block, uint64_t *from)
{
	while (p->nhot) {
		p->nhot--;
		*gr = p->hot[p->nhot].range;
		*block = p->hot[p->nhot].block;
		*from = p->hot[p->nhot].page;
		if (!is_closed(*gr, *block))
			return true;
	}
	return false;
}

static bool next_in_order(struct ferry_give *give, struct give_range **gr, uint64_t *block)
{
	struct pusher *p = &give->push;
	struct give_range *end = give->ranges + give->nranges;

	for (; p->cursor_range < end; p->cursor_range++, p->cursor_block = 0) {
		for (; p->cursor_block < p->cursor_range->nblocks; p->cursor_block++) {
			if (is_closed(p->cursor_range, p->cursor_block))
				continue;
			*gr = p->cursor_range;
			*block = p->cursor_block;
			return true;
		}
	}
	return false;
}

/* Once, before it is pushed: the giver's program stands still. */
static void look_at_block(const struct ferry_give *give, struct push_block *b)
{
	b->huge = scan_pages(&give->scan, b->range->r.addr + b->first * FERRY_PAGE,
			     b->end - b->first, b->populated);
	b->assumed = false;
}

static void open_block(struct ferry_give *give, struct give_range *gr, uint64_t block)
{
	struct push_block *b = &give->push.now;
	uint64_t skip = gr->r.addr % FERRY_HUGE / FERRY_PAGE;

	b->range = gr;
	b->block = block;
	b->first = block ? block * FERRY_HUGE_PAGES - skip : 0;
	b->end = (block + 1) * FERRY_HUGE_PAGES - skip;
	if (b->end > gr->npages)
		b->end = gr->npages;
	b->from = b->first;
	/* To map what is there takes one call, most of the time; a look before would cost as much. */
	b->huge = false;
	b->assumed = gr->r.flags & FERRY_RANGE_SHARED;
	memset(b->populated, true, sizeof(b->populated));
	if (!b->assumed)
		look_at_block(give, b);
	b->may_stage = give->stage && give->module < 0 && gr->stageable &&
		       b->end - b->first == FERRY_HUGE_PAGES;
}

static void close_block(struct ferry_give *give)
{
	struct push_block *b = &give->push.now;

	give_close_block(b->range, b->block);
	give_release(b->range, b->first, b->end - b->first);
	b->range = NULL;
}

static bool whole_block_left(const struct push_block *b)
{
	for (uint64_t i = b->first; i < b->end; i++)
		if (!give_is_left(b->range, i))
			return false;
	return true;
}

static bool wants_stage(const struct ferry_give *give, const struct push_block *b)
{
	if (!b->may_stage || !whole_block_left(b))
		return false;
	if (!b->huge && (!give->stage_all || memchr(b->populated, 0, FERRY_HUGE_PAGES)))
		return false;
	return !scan_is_zero((void *)(uintptr_t)(b->range->r.addr + b->first * FERRY_PAGE),
			     FERRY_HUGE);
}

/* Somebody has asked for a page just now, and may soon ask for another. */
static bool is_busy(const struct ferry_give *give)
{
	return clock_ns() - give->push.asked_at < BUSY_NS;
}

static uint64_t chunk_of(const struct ferry_give *give)
{
	/* By the module all of it moves in the time of copying a few pages. */
	if (give->module >= 0 || !is_busy(give))
		return FERRY_HUGE;
	/* To map a page costs an eighth of copying it. */
	return give->push.now.range->r.flags & FERRY_RANGE_SHARED ? 8 * CHUNK_BUSY : CHUNK_BUSY;
}

static uint32_t kind_of(const struct ferry_give *give, const struct push_block *b, uint64_t page)
{
	const char *base = (const char *)(uintptr_t)b->range->r.addr;

	if (!b->populated[page - b->first])
		return FERRY_ANSWER_ZERO;
	/* To look at what is in it would cost more than to move it; but what KSM merges is mostly zero. */
	if (give->module >= 0 && !merged_was(b->range, b->block))
		return ANSWER_MODULE;
	__builtin_prefetch(base + (page + AHEAD) * FERRY_PAGE);
	if (scan_is_zero(base + page * FERRY_PAGE, FERRY_PAGE))
		return FERRY_ANSWER_ZERO;
	return give->module >= 0 ? ANSWER_MODULE : FERRY_ANSWER_COPY;
}

/* Pages of the block from @page on that travel the same way, at most a chunk. */
static uint64_t same_way(const struct ferry_give *give, uint64_t page, struct ferry_answer *ans)
{
	const struct push_block *b = &give->push.now;
	const char *base = (const char *)(uintptr_t)b->range->r.addr;
	uint64_t end = page + chunk_of(give) / FERRY_PAGE, i;

	if (end > b->end)
		end = b->end;
	if (b->range->r.flags & FERRY_RANGE_SHARED) {
		ans->kind = b->populated[page - b->first] ? FERRY_ANSWER_CONTINUE
							  : FERRY_ANSWER_HERE;
		for (i = page; i < end && give_is_left(b->range, i); i++)
			if (b->populated[i - b->first] != b->populated[page - b->first])
				break;
		return i - page;
	}
	for (i = page; i < end && give_is_left(b->range, i); i++) {
		uint32_t kind = kind_of(give, b, i);
		if (i == page)
			ans->kind = kind;
		else if (kind != ans->kind)
			break;
	}
	ans->from = base + page * FERRY_PAGE;
	return i - page;
}

/* One page that can't be read here, a memory failure say, must not cost all the others. */
static int poison_page(struct ferry_give *give, uint64_t page, uint64_t dst)
{
	struct ferry_answer poison = { .kind = FERRY_ANSWER_POISON };
	uint64_t done = 0;
	int error = 0;

	struct resolve_at at = { .uffd = give->uffd, .module = -1 };
	enum resolved r = resolve_push(at, dst, &poison, &done, &error);
	if (r == RESOLVED_DEFERRED)
		give->push.waits = true;
	else if (r == RESOLVED_FAILED || r == RESOLVED_GONE)
		return -1;
	else
		give_mark(give->push.now.range, page, 1);
	return 0;
}

static int push_run(struct ferry_give *give, uint64_t page)
{
	struct give_range *gr = give->push.now.range;
	uint64_t dst, room, done = 0, tables = 0;
	struct resolve_at at = {give->uffd, give->module, &give->refusals,
				gr->ready ? &tables : NULL};
	struct ferry_answer ans = {0};
	uint64_t n = same_way(give, page, &ans);
	int error = 0;

	if (!give_locate(gr, page, &dst, &room)) {
		give->report.removed += give_mark(gr, page, 1) * FERRY_PAGE;
		return 1;
	}
	ans.len = n * FERRY_PAGE < room ? n * FERRY_PAGE : room;
	give->pushing = true;
	enum resolved resolved = resolve_push(at, dst, &ans, &done, &error);
	give->pushing = false;
	switch (resolved) {
	case RESOLVED_INSTALLED:
		give->report.bytes[give_way(ans.kind)] +=
			give_mark(gr, page, done / FERRY_PAGE) * FERRY_PAGE - tables;
		give->report.bytes[FERRY_WAY_TABLES] += tables;
		return 1;
	case RESOLVED_ALREADY:
	case RESOLVED_DISCARDED:
		if (give->push.now.assumed) {
			look_at_block(give, &give->push.now);
			return 1;
		}
		/* HERE covers the run: what we have not mapped of shared memory needs nobody. */
		if (ans.kind == FERRY_ANSWER_HERE)
			give->report.bytes[FERRY_WAY_CONTINUE] += give_mark(gr, page, n) *
								  FERRY_PAGE;
		else
			give->report.removed += give_mark(gr, page, 1) * FERRY_PAGE;
		return 1;
	case RESOLVED_DEFERRED:
		give->push.waits = true;
		return 1;
	case RESOLVED_GONE:
		return -EPIPE;
	default:
		return poison_page(give, page, dst) ? error : 1;
	}
}

static int start_stage(struct ferry_give *give)
{
	struct pusher *p = &give->push;
	struct wire_block block = {.src = p->now.range->r.addr + p->now.first * FERRY_PAGE};

	p->staged = p->now;
	p->now.range = NULL;
	p->stage = STAGE_FILLING;
	return wire_send(give->sock, WIRE_STAGE, &block, sizeof(block), NULL, 0, NULL, 0,
			 WIRE_FOREVER);
}

void push_staged(struct ferry_give *give, const struct wire_result *result)
{
	give->push.stage = STAGE_FULL;
	give->push.stage_error = result->error;
}

/*
 * Nothing may be read from the userfaultfd between the look at the block and the taker's move: an
 * event that is still queued makes the move fail, an event that was read might be overtaken by it.
 */
static int place(struct ferry_give *give, struct push_block *b, struct wire_result *result)
{
	struct wire_block block;
	struct wire_msg msg;
	uint64_t room;

	*result = (struct wire_result){.error = -ENOENT};
	if (!give_locate(b->range, b->first, &block.dst, &room) || room < FERRY_HUGE ||
	    block.dst % FERRY_HUGE)
		return 0;
	block.src = 0;
	int ret = wire_send(give->sock, WIRE_PLACE, &block, sizeof(block), NULL, 0, NULL, 0,
			    WIRE_FOREVER);
	if (ret)
		return ret;
	park("give.place");
	/* It is the taker's memory already: as long as it lives there is nothing better to do. */
	ret = wire_recv(give->sock, &msg, WIRE_FOREVER);
	if (ret)
		return ret;
	if (msg.type == WIRE_PLACED)
		memcpy(result, msg.payload, sizeof(*result));
	else
		ret = -EPROTO;
	wire_msg_free(&msg);
	return ret;
}

/* The block is in the taker's staging page; put it in place unless it was touched meanwhile. */
static int finish_stage(struct ferry_give *give)
{
	struct pusher *p = &give->push;
	struct wire_result result = {0};

	p->stage = STAGE_IDLE;
	p->now = p->staged;
	p->now.may_stage = false;
	if (p->stage_error == -EPERM || p->stage_error == -ESRCH || p->stage_error == -ENOSYS)
		give->stage = false;
	if (p->stage_error || !whole_block_left(&p->now))
		return 1;
	int ret = place(give, &p->now, &result);
	if (ret)
		return ret;
	give->report.bytes[FERRY_WAY_STAGE] +=
		give_mark(p->now.range, p->now.first, result.done / FERRY_PAGE) * FERRY_PAGE;
	give->report.stage_used |= result.done != 0;
	return 1;
}

/* The next block in order. 0: there is none, or it has to wait for the staging page. */
static int choose_in_order(struct ferry_give *give)
{
	struct pusher *p = &give->push;
	struct give_range *gr = NULL;
	uint64_t block = 0;

	while (next_in_order(give, &gr, &block)) {
		if (p->stage != STAGE_IDLE && same_block(&p->staged, gr, block))
			return 0;
		open_block(give, gr, block);
		if (!wants_stage(give, &p->now))
			return 1;
		if (p->stage != STAGE_IDLE) {
			p->now.range = NULL;
			return 0;
		}
		int ret = start_stage(give);
		if (ret)
			return ret;
	}
	return 0;
}

/* Whole, and before anything else: give_source.c has found that somebody waits for it. */
bool push_whole(struct give_range *gr, uint64_t offset)
{
	struct ferry_give *give = gr->give;
	struct pusher *p = &give->push;
	uint64_t block = give_block_of(gr, offset / FERRY_PAGE);

	if (!gr->stageable || is_closed(gr, block))
		return false;
	open_block(give, gr, block);
	if (!p->now.huge || p->now.end - p->now.first != FERRY_HUGE_PAGES ||
	    !whole_block_left(&p->now))
		return false;
	p->urgent = true;
	return true;
}

static int choose(struct ferry_give *give)
{
	struct pusher *p = &give->push;
	struct give_range *gr = NULL;
	uint64_t block = 0, from = 0;

	while (next_hot(p, &gr, &block, &from)) {
		if (p->stage != STAGE_IDLE && same_block(&p->staged, gr, block))
			continue; /* finish_stage sees that it was touched */
		open_block(give, gr, block);
		p->now.from = from;
		return 1;
	}
	return choose_in_order(give);
}

int64_t push_not_before(const struct ferry_give *give)
{
	int64_t quiet = give->push.asked_at + QUIET_NS, settled = give->runs_at + SETTLE_NS;

	return quiet < settled ? quiet : settled;
}

/* To map a page of shared memory costs less than to wait whether it is asked for. */
bool push_settles(const struct ferry_give *give)
{
	const struct give_range *next = give->push.cursor_range;

	return give->pages_left && !give->push.urgent && next < give->ranges + give->nranges &&
	       !(next->r.flags & FERRY_RANGE_SHARED) && clock_ns() < push_not_before(give);
}

/* The fault that was put off for it is looked at again afterwards, and finds the page in place. */
static int push_urgent(struct ferry_give *give)
{
	struct pusher *p = &give->push;

	p->urgent = false;
	ferry_loop_retry(give->loop);
	int ret = push_run(give, p->now.first);
	give_asked(give);
	return ret;
}

int push_some(struct ferry_give *give)
{
	struct pusher *p = &give->push;

	p->waits = false;
	if (p->urgent)
		return push_urgent(give);
	placement_apart(&give->loop->placement);
	if (!p->now.range) {
		int ret = p->stage == STAGE_FULL ? finish_stage(give) : choose(give);
		if (ret <= 0 || !p->now.range)
			return ret;
	}
	uint64_t page = give_next_left(p->now.range, p->now.from, p->now.end);
	if (page == p->now.end)
		page = give_next_left(p->now.range, p->now.first, p->now.end);
	if (page == p->now.end) {
		close_block(give);
		return 1;
	}
	return push_run(give, page);
}
