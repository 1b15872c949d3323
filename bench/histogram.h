/* SPDX-License-Identifier: MIT */
/*
 * How long something took, each time: a histogram that keeps three significant digits of every
 * value, as Gil Tene's HdrHistogram does. Each power of two is cut into 1024 slots of the same
 * width, so that a slot is never wider than a thousandth of what is in it; below 2048 ns each value
 * has its own. It has the same size whatever comes, and nothing that comes is left out.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_CUT  1024u
#define HISTOGRAM_MOST 3600000000000ull /* an hour, in ns: what took longer counts as that */
/* One power of two for each of the values' 42 bits but the first ten, which share theirs. */
#define HISTOGRAM_SLOTS (33u * HISTOGRAM_CUT)

struct histogram {
	uint64_t count;
	uint64_t max; /* exact */
	uint64_t slot[HISTOGRAM_SLOTS];
};

/* How often a value must be halved until it is less than twice HISTOGRAM_CUT. */
static inline unsigned int histogram_shift(uint64_t ns)
{
	unsigned int bits = 64 - (unsigned int)__builtin_clzll(ns | 1);
	return bits > 11 ? bits - 11 : 0;
}

static inline unsigned int histogram_slot(uint64_t ns)
{
	unsigned int shift = histogram_shift(ns);
	return shift * HISTOGRAM_CUT + (unsigned int)(ns >> shift);
}

/* The largest value that falls into it. */
static inline uint64_t histogram_edge(unsigned int slot)
{
	unsigned int shift = slot < HISTOGRAM_CUT ? 0 : slot / HISTOGRAM_CUT - 1;
	return ((slot - shift * HISTOGRAM_CUT + 1ull) << shift) - 1;
}

static inline void histogram_add(struct histogram *h, uint64_t ns)
{
	if (ns > HISTOGRAM_MOST)
		ns = HISTOGRAM_MOST;
	h->slot[histogram_slot(ns)]++;
	h->count++;
	if (ns > h->max)
		h->max = ns;
}

/* The value that @permille of all values don't exceed (nearest rank); 0 when there are none. */
static inline uint64_t histogram_permille(const struct histogram *h, unsigned int permille)
{
	uint64_t rank = (h->count * permille + 999) / 1000, seen = 0;

	for (unsigned int i = 0; i < HISTOGRAM_SLOTS; i++) {
		seen += h->slot[i];
		if (seen && seen >= rank)
			return histogram_edge(i) < h->max ? histogram_edge(i) : h->max;
	}
	return 0;
}

#endif
