/* SPDX-License-Identifier: MIT */
/* The inside of a giver: give.c (phases), give_source.c (who has which page), give_push.c. */
#ifndef FERRY_GIVE_H
#define FERRY_GIVE_H

#include "lib/hist.h"
#include "lib/loop.h"
#include "lib/scan.h"
#include "lib/wire.h"

/* One range on its way. Pages are counted from its start; a block is an aligned 2 MiB of the giver. */
struct give_range {
	struct ferry_source src; /* first: what the loop knows of it */
	struct ferry_give *give;
	struct ferry_range r;
	uint64_t dst;	     /* where the taker mapped it */
	uint64_t npages;
	uint64_t *left;	     /* a bit for each page that the taker does not have yet */
	uint64_t nblocks;
	uint64_t *closed;    /* a bit for each block that is dealt with: given and released */
	uint64_t *unmerged;  /* a bit for each block that had pages of KSM's, see give_merged.c */
	bool stageable;	     /* both sides have the same offset within 2 MiB */
	bool discarded;	     /* the taker's program has discarded some of it */
	bool ready;	     /* to go by page tables: the taker has nothing of it */
	uint64_t bytes[FERRY_WAYS]; /* of what the taker has asked for */
};

/* The block that is being pushed. */
struct push_block {
	struct give_range *range; /* NULL: none */
	uint64_t block;
	uint64_t first, end; /* its pages */
	uint64_t from;	     /* where to begin: just behind the page that was asked for */
	bool huge;	     /* one huge page here */
	bool assumed;	     /* shared memory: taken to be populated, until the kernel says no */
	bool may_stage;
	bool populated[FERRY_HUGE_PAGES];
};

enum stage_state {
	STAGE_IDLE,
	STAGE_FILLING, /* the taker reads; the block may still be asked for page by page */
	STAGE_FULL,    /* the taker has read it */
};

#define HOT_BLOCKS 16u

struct pusher {
	struct push_block now;
	struct give_range *cursor_range;
	uint64_t cursor_block;
	int64_t asked_at; /* when a page was last asked for, or the memory changed hands */
	bool waits;	/* an event is in the way */
	bool urgent;	/* now is a huge page that somebody waits for */
	struct {
		struct give_range *range;
		uint64_t block, page;
	} hot[HOT_BLOCKS]; /* neighbours of what was asked for: likely to be asked for next */
	unsigned int nhot;
	enum stage_state stage;
	struct push_block staged;
	int stage_error;
};

struct ferry_give {
	int sock;
	int uffd;
	pid_t peer;
	bool stage; /* the taker can stage and we may */
	bool stage_all;
	bool tracer_set;
	bool passed_over; /* COMMIT was sent */
	bool told;	  /* DONE was sent */
	bool deaf;	  /* our receiving side is shut: see last_look */
	uint32_t timeout_ms;
	int64_t due; /* by when the taker must have done its next step */
	enum ferry_phase phase;
	struct ferry_loop *loop;
	struct scan scan;
	struct give_range *ranges;
	unsigned int nranges;
	uint64_t pages_left;
	int module;	   /* the kernel module; -1: pages are copied */
	bool strict;	   /* and that is an error */
	bool tables;	   /* page tables may move whole: we may, and since attached the taker has agreed */
	int own_uffd;	   /* for that: of this process' own memory; -1: can't be had */
	bool pushing;	   /* nobody waits for the page */
	struct refusals refusals;
	struct pusher push;
	struct hist latency;
	int64_t shadow_at, committed_at;
	int64_t runs_at; /* the taker's program, as far as we keep it from that */
	struct ferry_report report;
	uint8_t token[16];
	char reason[WIRE_REASON]; /* what the taker said with ABORT */
};

static inline int64_t give_deadline(const struct ferry_give *give)
{
	return wire_deadline(give->timeout_ms);
}

/* give_source.c */
int give_range_init(struct give_range *gr, struct ferry_give *give, const struct ferry_range *r);
void give_range_fini(struct give_range *gr);
bool give_is_left(const struct give_range *gr, uint64_t page);
/* First page that is left in [@first, @end), or @end. */
uint64_t give_next_left(const struct give_range *gr, uint64_t first, uint64_t end);
/* The taker has [@first, @first + @n) now; returns how many of them it didn't have before. */
uint64_t give_mark(struct give_range *gr, uint64_t first, uint64_t n);
/* The opposite: it has them no more. */
void give_unmark(struct give_range *gr, uint64_t first, uint64_t n);
/* First page that isn't left in [@first, @end), or @end. */
uint64_t give_next_given(const struct give_range *gr, uint64_t first, uint64_t end);
/* The block that @page is in; and that it is dealt with. */
uint64_t give_block_of(const struct give_range *gr, uint64_t page);
void give_close_block(struct give_range *gr, uint64_t block);
/* A page that was asked for is in place: count it. */
void give_asked(struct ferry_give *give);
enum ferry_way give_way(uint32_t answer_kind);
/* Where the taker has @page now, and how many bytes go on from there. False: it unmapped it. */
bool give_locate(const struct give_range *gr, uint64_t page, uint64_t *addr, uint64_t *len);
void give_release(const struct give_range *gr, uint64_t first, uint64_t n);

/* give_strict.c */
/* How far the look at what is left has come, see strict_step. */
struct strict_cursor {
	unsigned int range;
	uint64_t page;
};
/* Patience with what is in use; to begin with, and again after the commit. */
void strict_begin(struct ferry_give *give);
/* One more look, before the commit. 1: there is more; 0: all can move; -EBUSY: one page can't; -errno. */
int strict_step(struct ferry_give *give, struct strict_cursor *at);

/* give_tables.c */
/* Can it be done? Then tables is set. */
void tables_open(struct ferry_give *give);
void tables_close(struct ferry_give *give);
/* The memory is the taker's: what can goes now, and then the taker is told. */
void tables_go(struct ferry_give *give);

/* give_merged.c */
/* The memory is the taker's: from now on merged pages are unmerged where that is needed. */
void merged_begin(struct ferry_give *give);
/* Had the block merged pages? It has none any more then, and may have many of zeros. */
bool merged_was(const struct give_range *gr, uint64_t block);

/* give_push.c */
void push_init(struct ferry_give *give);
/* The page at @offset was asked for: its block goes next. */
void push_hint(struct give_range *gr, uint64_t offset);
/* Does it lie in a huge page that can still move whole? Then that goes at once, and true is returned. */
bool push_whole(struct give_range *gr, uint64_t offset);
/* When pushing may begin, CLOCK_MONOTONIC: until then faults alone are served. */
int64_t push_not_before(const struct ferry_give *give);
bool push_settles(const struct ferry_give *give);
/* Push up to one chunk. 1: there may be more; 0: nothing to do until a message comes; -errno. */
int push_some(struct ferry_give *give);
/* STAGED came. */
void push_staged(struct ferry_give *give, const struct wire_result *result);

#endif
