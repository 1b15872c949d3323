/* SPDX-License-Identifier: MIT */
/*
 * A test of one answer: four pages are to move, and something is wrong with the call, or with the
 * third page. Whatever happens, each page is in exactly one place afterwards. Where there is a
 * cure, the rest moves after it: a call that failed has not broken anything.
 */
#ifndef GUEST_SCENE_H
#define GUEST_SCENE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/uffd_abi.h"
#include "peer.h"
#include "pf.h"

#define NPAGES 4
#define LEN    (NPAGES * PAGE)
/* The third page. */
#define BAD     (2 * PAGE)

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define WP      UFFDIO_REGISTER_MODE_WP

struct scene {
	struct end giver, taker;
	struct pageferry_move move;
	uint64_t done;   /* bytes, in all calls */
	uint64_t holes;  /* bit i: the giver's page i has gone elsewhere */
	bool giver_gone; /* it, or what was there to be looked at; the end of the test ends it */
	bool taker_gone;
	pid_t child; /* of the giver */
	int thread;
};

struct row {
	void (*prepare)(struct scene *s);
	int want;
	uint64_t moved; /* pages, before that */
	void (*cure)(struct scene *s);
	uint64_t features; /* of the userfaultfds */
};

struct scene scene_make(const struct row *row);
/* Each page is where it must be, and nowhere else. */
void scene_verify(const struct scene *s);
void run_row(void);

/* A line of a table; the test has the name of @prepare. */
#define ROW(fn, error, ...)                                                                        \
	{                                                                                          \
		.name = "errno/" #fn, .run = run_row,                                              \
		.row = &(const struct row){.prepare = fn, .want = error, __VA_ARGS__},             \
	}

#endif
