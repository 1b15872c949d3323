/* SPDX-License-Identifier: MIT */
/* The kernel's log as it is written: lines that tell of a fault of the kernel. */
#ifndef GUEST_LOG_H
#define GUEST_LOG_H

#include <stdbool.h>

/* From here on. Also writes the line by which the console's log is scanned from outside. */
void log_begin(void);
/* A line in the log, to find a test in it. */
void log_mark(const char *name);
/* How many new lines tell of trouble; each is shown as a comment. */
unsigned int log_trouble(void);
/* Trouble that the kernel remembers by itself: a warning, an oops, a bad page, a lockup. */
unsigned long taint_of_trouble(void);

#endif
