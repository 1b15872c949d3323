/* SPDX-License-Identifier: MIT */
/* A process that does to its memory what it is told, and nothing else. */
#ifndef SCENE_H
#define SCENE_H

#include "tests/lib/subject.h"

#define SCENE_LEN      (24ul << 20)
#define SCENE_PART_LEN (SCENE_LEN / 8)

struct scene {
	char *mem;
	volatile uint32_t step, done;
	volatile bool write, written; /* by another process, which has the same memory */
	bool huge;
};

/* What it can do: these are numbered, ... */
#define SCENE_STEPS 8u
/* ... in the last of them it writes all; others are nothing, but for: */
#define SCENE_ZERO 11u /* memory that isn't zero becomes it */
#define SCENE_GROW 12u /* heap, stack and a mapping */
/* Of these ->written says whether that can be done here. */
#define SCENE_GUARD     20u
#define SCENE_MERGE     21u
#define SCENE_PIN       22u
#define SCENE_DONT_DUMP 23u
#define SCENE_DO_DUMP   24u
#define SCENE_SHARE     25u /* with a process that writes when ->write says so */
#define SCENE_DISCARD   26u /* as much as a page table stands for */
/* It replaces some of its memory by what it protects itself, as one who is told of writes, or as
 * one who has the kernel note them, and then writes. Is that still so? */
#define SCENE_PROTECT      27u
#define SCENE_IS_PROTECTED 28u
#define SCENE_TRACK        29u
#define SCENE_IS_TRACKED   30u

/* One of the eight parts of its memory. */
char *scene_part(const struct scene *s, unsigned int i);
struct scene *scene_start(bool huge, pid_t *pid);
void scene_act(struct scene *s, uint32_t step);
void scene_stop(pid_t pid);
void scene_end(struct scene *s, pid_t pid);

#endif
