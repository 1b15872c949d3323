// SPDX-License-Identifier: MIT
#include "pattern.h"

#define HEADER_WORDS 3

/*
 * Words are a sequence with a start and a step of the page's own. That costs one addition a word,
 * which matters under emulation, and still no two pages or generations share a word but by chance.
 */
struct sequence {
	uint64_t start;
	uint64_t step;
	uint64_t checksum;
};

uint64_t mix64(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static struct sequence sequence_of(uint64_t page, uint64_t generation)
{
	uint64_t start = mix64(mix64(page + 0x9e3779b97f4a7c15u) + generation);
	uint64_t step = mix64(start + 0x9e3779b97f4a7c15u) | 1;
	uint64_t n = PATTERN_WORDS - HEADER_WORDS;
	uint64_t sum = n * start + step * (n * (n - 1) / 2);

	return (struct sequence){start, step, mix64(sum)};
}

void pattern_write(uint64_t *words, uint64_t page, uint64_t generation)
{
	struct sequence seq = sequence_of(page, generation);
	uint64_t word = seq.start;

	words[0] = page;
	words[1] = generation;
	words[2] = seq.checksum;
	for (int i = HEADER_WORDS; i < PATTERN_WORDS; i++, word += seq.step)
		words[i] = word;
}

bool pattern_holds(const uint64_t *words, uint64_t page, uint64_t generation)
{
	struct sequence seq = sequence_of(page, generation);
	uint64_t word = seq.start;
	uint64_t diff;

	diff = (words[0] ^ page) | (words[1] ^ generation) | (words[2] ^ seq.checksum);
	for (int i = HEADER_WORDS; i < PATTERN_WORDS; i++, word += seq.step)
		diff |= words[i] ^ word;
	return !diff;
}

static bool all_zero(const uint64_t *words)
{
	uint64_t any = 0;

	for (int i = 0; i < PATTERN_WORDS; i++)
		any |= words[i];
	return !any;
}

struct pattern_fault pattern_explain(const uint64_t *words, uint64_t page, uint64_t generation)
{
	struct pattern_fault fault = {
		.kind = PATTERN_TORN, .page = words[0], .generation = words[1]};
	uint64_t expected[PATTERN_WORDS];

	pattern_write(expected, page, generation);
	for (int i = PATTERN_WORDS - 1; i >= 0; i--) {
		if (words[i] == expected[i])
			continue;
		fault.bad_words++;
		fault.first_bad_word = (uint32_t)i;
	}
	if (!fault.bad_words)
		fault.kind = PATTERN_OK;
	else if (all_zero(words))
		fault.kind = PATTERN_ZERO;
	else if (!pattern_holds(words, fault.page, fault.generation))
		fault.kind = PATTERN_TORN;
	else if (fault.page != page)
		fault.kind = PATTERN_MOVED;
	else
		fault.kind = fault.generation < generation ? PATTERN_STALE : PATTERN_FUTURE;
	return fault;
}

const char *pattern_kind_name(enum pattern_kind kind)
{
	static const char *const names[] = {
		[PATTERN_OK] = "ok",         [PATTERN_ZERO] = "zero",   [PATTERN_STALE] = "stale",
		[PATTERN_FUTURE] = "future", [PATTERN_MOVED] = "moved", [PATTERN_TORN] = "torn",
	};

	return names[kind];
}
