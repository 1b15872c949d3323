/* SPDX-License-Identifier: MIT */
/*
 * Carry out an answer. The only caller of COPY, ZEROPAGE, MOVE, CONTINUE, WRITEPROTECT, POISON and
 * WAKE, so that what their errors mean is written once.
 */
#ifndef FERRY_RESOLVE_H
#define FERRY_RESOLVE_H

#include <stdbool.h>
#include <stdint.h>

#include "pageferry.h"

/*
 * One more than the public answers, for the hand-over: move it from answer->from, memory of this process,
 * into the other one by the kernel module. What can't move is copied, and the answer is changed to
 * FERRY_ANSWER_COPY to say so.
 */
#define ANSWER_MODULE (FERRY_ANSWER_HERE + 1u)

enum resolved {
	RESOLVED_INSTALLED, /* the page, and *done bytes from it on, are in place */
	RESOLVED_ALREADY,   /* somebody was faster, or the message was overtaken; the thread is woken */
	RESOLVED_DEFERRED,  /* an event is in the way: drain the messages, then try again */
	RESOLVED_DISCARDED, /* nothing is mapped there any more; the thread is woken to find out */
	RESOLVED_GONE,	    /* the process has exited */
	RESOLVED_FAILED,    /* *error says why; the thread is still asleep */
};

/*
 * Of the pages that the module was to move: how patient to be with one that is in use, and how many had to
 * be copied. Who waits keeps the faults of other pages waiting, so there is an end to it.
 */
struct refusals {
	unsigned int waits; /* of 1 ms, in all; 0: a page that is in use is copied at once */
	uint64_t pages;
	/* Before that: can the one who has it make the page at @from movable? It is tried again then. */
	bool (*mend)(void *arg, const void *from);
	void *arg;
};

/* Where an answer is carried out. */
struct resolve_at {
	int uffd;
	int module; /* a descriptor of the kernel module; used with ANSWER_MODULE only */
	struct refusals *refusals; /* the same; NULL: not counted */
	uint64_t *tables; /* the same: NULL, or page tables may move whole, and so many bytes did */
};

/* A page is in use: wait, since that may be over soon? @waited: for this one so far. */
bool refusals_wait(struct refusals *refusals, unsigned int *waited);

/* @done: bytes dealt with from fault->addr on; @error: -errno with FAILED. */
enum resolved resolve(struct resolve_at at, const struct ferry_fault *fault,
		      struct ferry_answer *answer, uint64_t *done, int *error);

/* The same for pages that nobody waits for (yet): @len bytes at @addr, MISSING or MINOR. */
enum resolved resolve_push(struct resolve_at at, uint64_t addr, struct ferry_answer *answer,
			   uint64_t *done, int *error);

/* Poison what is empty in [@addr, @addr + @len); pages that are there, and holes, are skipped. */
enum resolved resolve_poison(int uffd, uint64_t addr, uint64_t len, uint64_t *poisoned, int *error);

/* Has the process behind @uffd exited? No page of it is touched. */
bool resolve_is_gone(int uffd);

/* Is an event in the way, queued or about to be? */
bool resolve_is_blocked(int uffd);

/* What an errno of a resolving ioctl means; @error is negative. */
enum resolved resolved_from(int error, uint64_t done);

#endif
