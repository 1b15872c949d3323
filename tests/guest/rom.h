/* SPDX-License-Identifier: MIT */
/* The software of a VM, and what vm.c has to know of it. */
#ifndef GUEST_ROM_H
#define GUEST_ROM_H

#define ROM_BYTES 0x10000

/* The memory that it works on: a word every so many bytes, so that it is each time another one in a
 * page. */
#define ROM_START 0x100000
#define ROM_LEN   0x1000000
#define ROM_STEP  516

/* What it sends: one of these in turn after each round, or that something was wrong. */
#define ROM_FIRST_TICK 'a'
#define ROM_TICKS      26
#define ROM_WRONG      '!'

#ifndef __ASSEMBLER__
extern const char rom[ROM_BYTES];
#endif

#endif
