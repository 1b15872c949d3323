/* SPDX-License-Identifier: MIT */
/* A histogram of durations: 16 buckets for each power of two, so that a value is off by 6 % at most. */
#ifndef FERRY_HIST_H
#define FERRY_HIST_H

#include <stdint.h>

struct hist {
	uint32_t bucket[64 * 16];
	uint64_t count;
	uint64_t max;
};

void hist_add(struct hist *h, uint64_t value);
/* The value that @permille of all values don't exceed; 0 when there are none. */
uint64_t hist_permille(const struct hist *h, unsigned int permille);

#endif
