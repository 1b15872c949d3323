/* SPDX-License-Identifier: MIT */
/*
 * pageferry conform: what the calls of userfaultfd answer for each kind of memory. One cell of the
 * table is one trial: memory of a kind is made in a process of its own, it is shown to be what it
 * claims, the call is made, and each page of it is looked at afterwards.
 */
#ifndef PAGEFERRY_CONFORM_H
#define PAGEFERRY_CONFORM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/uffd.h"
#include "tools/trial.h"

enum conform_call {
	CONFORM_MOVE,
	CONFORM_COPY,
	CONFORM_ZEROPAGE,
	CONFORM_CONTINUE,
	CONFORM_WRITEPROTECT,
	CONFORM_POISON,
	CONFORM_CALLS
};

/* What a page is seen to hold. */
enum conform_page { PAGE_HOLE, PAGE_ZEROS, PAGE_PATTERN, PAGE_BUFFER, PAGE_POISONED, PAGE_OTHER };

#define CONFORM_PAGES  3u /* of which the middle one is special */
#define CONFORM_MIDDLE 1u

#define CONFORM_WAIT_NS 8000000000ll /* for what KSM or swap have to do */

struct conform_range {
	char *addr;
	pid_t owner;                           /* 0: this process */
	unsigned char holds[FERRY_HUGE_PAGES]; /* enum conform_page: before the call */
};

struct conform_scene {
	struct trial_cell *cell;
	const struct conform_kind *kind;
	enum conform_call call;
	bool by_module;
	unsigned int npages;
	struct conform_range memory; /* the source of a MOVE, what any other call is about */
	struct conform_range to;     /* the destination of a MOVE */
	char *buffer;                /* the source of a COPY */
	int uffd, elsewhere, module; /* -1: there is none */
};

struct conform_kind {
	const char *name;
	void (*make)(struct conform_scene *s);
	unsigned int calls;  /* those that it can be tried with, by bit */
	unsigned int npages; /* 0: CONFORM_PAGES */
	bool huge;           /* one huge page: does it stay one? */
	bool root;           /* to be made it needs a user who may change settings of the host */
	/* What is special isn't the memory: */
	bool foreign;      /* the descriptor is another process's */
	bool elsewhere;    /* it is registered with another descriptor */
	bool unregistered; /* nothing is registered */
	bool populated;    /* the destination of a MOVE has a page */
	bool allow_holes;
	bool one_process; /* for the module */
};

/* conform_memory.c; the last one has no name */
extern const struct conform_kind conform_kinds[];

/** Change the settings of the host so that all kinds can be made, if this user may. */
void conform_settings(void);

/* conform_calls.c */

struct conform_trial {
	const struct conform_kind *kind;
	enum conform_call call;
	bool by_module;
};

const char *conform_call_name(enum conform_call call);

/** In a process of its own: @arg is a conform_trial. */
void conform_try(struct trial_cell *cell, const void *arg);

/** This can't be tried here: end of the process. */
_Noreturn void conform_not_here(struct conform_scene *s, const char *why, ...)
	__attribute__((format(printf, 2, 3)));

/* conform_pages.c */

/** Room for @len bytes at a multiple of a huge page, with nothing beside it. NULL: no room. */
char *conform_place(size_t len);

void conform_fill(char *page, enum conform_page what, unsigned int i);

/** Is each of these pages part of a huge page; is it the zero page? False if the kernel doesn't
 * tell. */
bool conform_is_huge(pid_t owner, const char *addr, unsigned int npages);
bool conform_is_zero_page(const char *page);

/** What page @i of @range is now. A page that a userfaultfd waits for must not be asked about. */
enum conform_page conform_look(const struct conform_range *range, unsigned int i);
/** Does an access fail? An empty page gets one by that. */
bool conform_is_poisoned(const struct conform_range *range, unsigned int i);

#endif
