/* SPDX-License-Identifier: MIT */
/* What every PID 1 of a guest does first, and last. What it can't do without ends in fail(). */
#ifndef GUEST_BOOT_H
#define GUEST_BOOT_H

#include <stdio.h>

/* Of whoever uses this: say why on whatever channel is heard outside, then power off. */
_Noreturn void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

FILE *open_for_reading(const char *path); /* or fails */
void mount_one(const char *type, const char *path);
/* Else a terminal would echo what is sent to it and end lines with CR LF. */
void make_raw(int fd);
/* Those of /modules/order. */
void load_modules(void);
/* Loads /modules/@name; 0, or -errno. */
int load_module(const char *name);
void start_cpus(void);
_Noreturn void power_off(void);

#endif
