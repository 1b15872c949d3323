/* SPDX-License-Identifier: MIT */
/*
 * Pages that are pinned while they are asked to move. The giver's threads pin pages in some way,
 * write through the pin and look through the mapping, and the other way round. Two threads of the
 * test move the same pages to the taker meanwhile, and back; what has arrived there must change no
 * more, be it by a pin or by a CPU that has kept the old entry in its TLB.
 */
#ifndef GUEST_PINS_H
#define GUEST_PINS_H

#include <stdbool.h>

enum pins_kind {
	PINS_URING,  /* fixed buffers of io_uring */
	PINS_DIRECT, /* O_DIRECT: for the time of a transfer */
	PINS_SPLICE, /* vmsplice: a reference that is no pin */
	PINS_NONE,   /* they are written to all the time, and may go */
};

struct pins_row {
	enum pins_kind kind;
	bool huge;
	bool tables; /* small ones, that leave as whole page tables */
};

struct pins_result {
	unsigned long rounds;     /* of pinning */
	unsigned long violations; /* a page moved although it was pinned */
	unsigned long moved, busy;
	unsigned long tables; /* of those that moved */
};

/* @before_return, if any: called before pages are moved back, and with false after it. */
struct pins_result pins_run(const struct pins_row *row, unsigned int ms,
			    void (*before_return)(bool begin));

#endif
