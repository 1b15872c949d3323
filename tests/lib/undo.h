/* SPDX-License-Identifier: MIT */
/*
 * What a test changes in the machine: put back when the test says so, and also when it is killed.
 */
#ifndef UNDO_H
#define UNDO_H

/** From now on @command, for the shell, is run by undo(), or when this process dies. */
int undo_later(const char *command);
/** Run it, and wait until it is done. */
void undo(int what);

#endif
