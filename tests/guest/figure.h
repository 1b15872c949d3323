/* SPDX-License-Identifier: MIT */
/* Figures for a bench: each is a line of JSON in a comment of the TAP. */
#ifndef GUEST_FIGURE_H
#define GUEST_FIGURE_H

#include <stddef.h>
#include <stdint.h>

/* Median, least and most of @n values, each by @units. Sorts them. */
void figure(const char *name, uint64_t *values, size_t n, uint64_t units);

#endif
