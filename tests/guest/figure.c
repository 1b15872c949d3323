// SPDX-License-Identifier: MIT
#include <stdlib.h>

#include "figure.h"
#include "harness.h"

static int by_value(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

void figure(const char *name, uint64_t *values, size_t n, uint64_t units)
{
	const size_t middle = n / 2;

	qsort(values, n, sizeof(*values), by_value);
	note("figure {\"name\":\"%s\",\"median\":%.1f,\"min\":%.1f,\"max\":%.1f}", name,
	     (double)values[middle] / (double)units, (double)values[0] / (double)units,
	     (double)values[n - 1] / (double)units);
}
