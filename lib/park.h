/* SPDX-License-Identifier: MIT */
/*
 * Parking points: named places where a test stops the process, so that a race is reproduced instead
 * of hoped for. PAGEFERRY_PARK=NAME stops it with SIGSTOP the first time it comes to that place. Only in
 * the library that the tests link (-DFERRY_PARK).
 */
#ifndef FERRY_PARK_H
#define FERRY_PARK_H

#ifdef FERRY_PARK
void park(const char *name);
#else
static inline void park(const char *name)
{
	(void)name;
}
#endif

#endif
