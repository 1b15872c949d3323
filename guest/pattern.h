/* SPDX-License-Identifier: MIT */
/*
 * Contents for a 4 KiB page that tell which page it is and how often it was rewritten.
 *
 * All 512 words follow from the page's number and its generation, so a page can be checked in full
 * against a table that holds nothing but generations. The first three words repeat the number, the
 * generation and a checksum in the clear: they are what tells a wrong page from a damaged one.
 */
#ifndef PATTERN_H
#define PATTERN_H

#include <stdbool.h>
#include <stdint.h>

#define PATTERN_WORDS 512
#define PATTERN_BYTES 4096

enum pattern_kind {
	PATTERN_OK,
	PATTERN_ZERO,   /* all words are zero: the page was lost */
	PATTERN_STALE,  /* this page, whole, but an earlier generation: a write was lost */
	PATTERN_FUTURE, /* this page, whole, but a later generation: the table lost a write */
	PATTERN_MOVED,  /* another page, whole */
	PATTERN_TORN,   /* no page's contents: parts of several, or damaged */
};

struct pattern_fault {
	enum pattern_kind kind;
	uint64_t page;       /* as the page itself says */
	uint64_t generation; /* likewise */
	uint32_t bad_words;
	uint32_t first_bad_word;
};

/* A strong mixing function: every bit of x changes half the bits of the result. */
uint64_t mix64(uint64_t x);

void pattern_write(uint64_t *words, uint64_t page, uint64_t generation);
bool pattern_holds(const uint64_t *words, uint64_t page, uint64_t generation);
/* For contents that don't hold: what is wrong with them. */
struct pattern_fault pattern_explain(const uint64_t *words, uint64_t page, uint64_t generation);
const char *pattern_kind_name(enum pattern_kind kind);

#endif
