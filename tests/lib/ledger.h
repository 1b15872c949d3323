/* SPDX-License-Identifier: MIT */
/*
 * A program that nobody asks to stand still: money goes between accounts all over its memory, and a
 * journal tells what is half done. An image of one moment has all of the money, at whatever
 * instruction.
 */
#ifndef LEDGER_H
#define LEDGER_H

#include "tests/lib/test.h"

#define LEDGER_CLERKS 3u
#define LEDGER_EACH   1000

struct journal {
	volatile uint64_t active, from, to, moves;
	volatile int64_t old_from, old_to;
};

/* For clerks that are started afterwards: to wait after each transfer, to use but the first
 * accounts (0: all). */
extern unsigned int ledger_nap_us;
extern size_t ledger_used;
/* Start the clerks, which never end. @mem: at least 16 pages, to be filled. */
void ledger_open(char *mem, size_t len);
/* How much money is missing in an image; 0 for one that is whole. */
int64_t ledger_missing(const char *mem, size_t len);
uint64_t ledger_moves(const char *mem);

#endif
