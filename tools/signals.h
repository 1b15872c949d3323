/* SPDX-License-Identifier: MIT */
/* The signals by which somebody wants a command to end. */
#ifndef PAGEFERRY_SIGNALS_H
#define PAGEFERRY_SIGNALS_H

/** From now on they go to @handler, or SIG_DFL; but not those that are ignored, as under nohup(1). */
void signals_catch(void (*handler)(int number));

#endif
