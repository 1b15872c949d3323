// SPDX-License-Identifier: MIT
/* Log-linear histogram, see hist.h. */
#include "lib/hist.h"

static unsigned int index_of(uint64_t v)
{
	if (v < 16)
		return (unsigned int)v;
	unsigned int log = 63 - (unsigned int)__builtin_clzll(v);
	return (log - 3) * 16 + (unsigned int)(v >> (log - 4)) % 16;
}

/* The largest value that falls into the bucket. */
static uint64_t value_of(unsigned int i)
{
	if (i < 16)
		return i;
	unsigned int log = i / 16 + 3;
	return ((16ull + i % 16 + 1) << (log - 4)) - 1;
}

void hist_add(struct hist *h, uint64_t value)
{
	h->bucket[index_of(value)]++;
	h->count++;
	if (value > h->max)
		h->max = value;
}

uint64_t hist_permille(const struct hist *h, unsigned int permille)
{
	uint64_t want = (h->count * permille + 999) / 1000, seen = 0;

	if (!h->count)
		return 0;
	for (unsigned int i = 0; i < sizeof(h->bucket) / sizeof(h->bucket[0]); i++) {
		seen += h->bucket[i];
		if (seen >= want && seen)
			return value_of(i) < h->max ? value_of(i) : h->max;
	}
	return h->max;
}
