/* SPDX-License-Identifier: MIT */
/*
 * What does this kernel do? Found by doing it: a trial runs in a process of its own, and what came of
 * it is the verdict of a cell of a table. Verdicts are few words, the same whenever the same has come
 * of it, so that they can be compared with what is expected of a kernel.
 */
#ifndef PAGEFERRY_TRIAL_H
#define PAGEFERRY_TRIAL_H

#include <stdbool.h>
#include <stddef.h>

#include "tools/tool.h"

struct trial_cell {
	char verdict[48];
	char why[160]; /* for a person: "", or what else there is to say */
};

/** Set both; for the process of the trial. */
void trial_set(struct trial_cell *cell, const char *verdict, const char *why, ...)
	__attribute__((format(printf, 3, 4)));

/**
 * Run @try in a process of its own, and wait. It and all that it started are killed when it returns,
 * after @limit_ms, and when this process ends, however that comes. The verdict is what it has set, or
 * "died" or "hangs". 0 or -errno: there is no such process.
 */
int trial_run(struct trial_cell *cell, void (*try)(struct trial_cell *cell, const void *arg),
	      const void *arg, unsigned int limit_ms);

/* ---- the machine, trial_machine.c: all is undone by trial_restore(), and when this process is
 * killed. Before the first trial. */

/** From here on something may be changed. 0 or -errno. */
int trial_guard(void);
/** Write a setting. What it was is written back in the end. 0 or -errno. */
int trial_setting(const char *path, const char *value);
/** Set huge pages to "madvise"; what the kernel changes by that is put back as well. */
void trial_huge_pages(void);
/** Have swap of @mib MiB: zram, or a file. 0 or -errno. */
int trial_swap(unsigned int mib);
/** All is as it was. 0; -errno: something isn't, which was said. */
int trial_restore(void);

/* ---- what is expected, trial_expected.c */

/** Lines of "row | column | verdict", see share/expected/README. */
struct trial_expected;

/**
 * Of this kernel's series ("6.12"), for the table @name; or from the file @path, if that isn't NULL.
 * 0 with *expected == NULL: nothing is known of this series. -errno with @why.
 */
int trial_expected_read(struct trial_expected **expected, const char *name, const char *path,
			struct why *why);
/** The same for a table that is no series': the file @file of the folder with what is expected. */
int trial_expected_known(struct trial_expected **expected, const char *file, struct why *why);
/** The verdict; NULL: nothing is expected there. */
const char *trial_expected_find(const struct trial_expected *expected, const char *row,
				const char *column);
/** How many answers it has. @expected may be NULL. */
size_t trial_expected_count(const struct trial_expected *expected);
void trial_expected_free(struct trial_expected *expected);

#endif
