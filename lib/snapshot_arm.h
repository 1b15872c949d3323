/* SPDX-License-Identifier: MIT */
#ifndef FERRY_SNAPSHOT_ARM_H
#define FERRY_SNAPSHOT_ARM_H

#include "lib/snapshot.h"

/*
 * Register and protect all of @pages, by up to @threads threads (0: one for each CPU). 0 or -errno;
 * closing @uffd undoes what was done.
 */
int snapshot_protect(const struct pages *pages, int uffd, unsigned int threads);

/*
 * Is every byte of @spans private anonymous memory of this process? 0, -EINVAL, -EBUSY: KSM may
 * merge it, or why it isn't known.
 */
int snapshot_check_own(const struct ferry_span *spans, size_t n);

#endif
