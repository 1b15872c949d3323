/* SPDX-License-Identifier: MIT */
/*
 * Structures that carry their size, so that they can grow. The first member of each is size_t size.
 */
#ifndef FERRY_OPTIONS_H
#define FERRY_OPTIONS_H

#include <stddef.h>

/*
 * Into @mine, which holds the defaults and is @size long, from the caller's structure (NULL: keep
 * the defaults). -EINVAL: impossibly small; -E2BIG: it has something that we don't know.
 */
int options_copy(void *mine, size_t size, const void *user);

/* The way back: fill the caller's structure, as much as it can hold, and keep its size. */
int options_report(void *user, const void *mine, size_t size);

#endif
