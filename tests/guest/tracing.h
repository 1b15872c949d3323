/* SPDX-License-Identifier: MIT */
/* The kernel's tracing, see Documentation/trace/events.rst of Linux. */
#ifndef GUEST_TRACING_H
#define GUEST_TRACING_H

/* Skips the test where there is none. */
void tracing_open(void);
/* To a file below /sys/kernel/tracing; or the test fails. */
void tracing_write(const char *file, const char *text);
/* How many events of the trace have @word in their line. */
unsigned int tracing_count(const char *word);

#endif
