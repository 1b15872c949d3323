/* SPDX-License-Identifier: MIT */
/*
 * The two programs of a hand-over, each in a process of its own, and what they saw. A plan says
 * what the memory is made of and where each side is to be disturbed; both sides know it, so that
 * each page can be checked at either end.
 */
#ifndef TEST_HANDOVER_H
#define TEST_HANDOVER_H

#include <stdatomic.h>

#include "pageferry.h"
#include "tests/lib/test.h"

enum kind {
	KIND_DATA,
	KIND_HOLE,      /* never touched */
	KIND_ZERO_PAGE, /* only read */
	KIND_ZEROS,     /* written with zeros */
	KIND_SWAPPED,   /* written, then paged out if there is swap */
	KIND_FILE,      /* shared memory: in the file, never mapped by the giver */
	KIND_PUNCHED,   /* shared memory: written, then punched out of the file */
	KINDS
};
#define KIND_BIT(kind) (1u << (kind))
/* What private memory may be made of. */
#define KINDS_ANY                                                                                  \
	(KIND_BIT(KIND_DATA) | KIND_BIT(KIND_HOLE) | KIND_BIT(KIND_ZERO_PAGE) |                    \
	 KIND_BIT(KIND_ZEROS) | KIND_BIT(KIND_SWAPPED))
#define KINDS_SHARED                                                                               \
	(KIND_BIT(KIND_DATA) | KIND_BIT(KIND_HOLE) | KIND_BIT(KIND_ZEROS) | KIND_BIT(KIND_FILE) |  \
	 KIND_BIT(KIND_PUNCHED))

#define PARTS_MAX 6u

/* One range. */
struct part {
	size_t npages;
	size_t skip;    /* bytes behind a multiple of 2 MiB */
	uint32_t kinds; /* KIND_BIT(...): chosen page by page */
	uint32_t flags; /* FERRY_RANGE_* */
	bool huge;      /* of huge pages; kinds is not used: every third one holds zeros only */
	bool sparse;    /* every third 2 MiB is a hole */
	size_t fd_offset;
};

/* The call that a side was in when it ended; in order. */
enum call {
	CALL_OPEN,
	CALL_MAP, /* taker only */
	CALL_ATTACH,
	CALL_SHADOW,
	CALL_READY, /* giver only */
	CALL_COMMIT,
	CALL_DONE,
	CALL_CLOSE,
};

/* Shared by all three processes. */
struct outcome {
	atomic_int give_call, give_ret;
	atomic_int take_call, take_ret;
	atomic_bool give_intact;  /* checked after the giver's failure: it has everything */
	atomic_bool take_checked; /* every page was right at the taker */
	atomic_uint take_poisoned, take_right; /* after a failure: pages of each kind */
	atomic_uint waiting, woken_by_bus;
	atomic_int lost_error, lost_calls;
	atomic_ullong lost_left;
	atomic_uint step; /* for the tests' own use */
	struct ferry_report report;
	char reason[256], give_reason[256]; /* what the taker, the giver was told */
};

struct taker;
struct giver;

struct plan {
	struct part parts[PARTS_MAX];
	unsigned int nparts;
	uint32_t ways;
	uint32_t give_timeout, take_timeout;
	const char *give_park, *take_park;
	unsigned int nfds;
	size_t blob_len;
	size_t taker_skip;    /* the taker maps so many bytes further */
	bool idle;            /* the taker touches nothing by itself before the end */
	unsigned int waiters; /* threads of the taker that wait for a page from before the shadow */
	const char *refuse;   /* the taker gives up in the shadow and says this */
	/* Hooks: called in the process of that side. */
	void (*in_shadow)(struct taker *taker);
	void (*after_commit)(struct taker *taker);
	void (*after_done)(struct taker *taker);
	void (*giver_after_done)(struct giver *giver);
	/* Instead of checking each page at the end: the program has changed its memory. */
	bool own_check;
	struct outcome *out;
};

struct giver {
	const struct plan *plan;
	struct ferry_give *give;
	char *mem[PARTS_MAX];
	int memfd[PARTS_MAX];
};

struct taker {
	const struct plan *plan;
	struct ferry_take *take;
	char *mem[PARTS_MAX];
	const int *fds;
	unsigned int nfds;
};

/* What page @page of part @part is made of, and whether it reads as zero. */
enum kind page_kind(const struct plan *plan, unsigned int part, size_t page);
uint64_t page_seed(unsigned int part, size_t page);
bool page_right(const struct plan *plan, unsigned int part, size_t page, const void *where);

int giver_run(const struct plan *plan, int sock);
int taker_run(const struct plan *plan, int sock);

struct handover {
	pid_t giver, taker;
};

/* Skips the test where this user or kernel can't. Allocates plan->out. */
void handover_prepare(struct plan *plan);
struct handover handover_start(struct plan *plan);
/* Both ended by themselves and found nothing wrong. */
void handover_wait(const struct handover *h);
void handover_fini(struct plan *plan);

/* The report says where every byte has gone. */
void assert_adds_up(const struct ferry_report *report);

#endif
