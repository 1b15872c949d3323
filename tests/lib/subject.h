/* SPDX-License-Identifier: MIT */
/*
 * A process that is snapshotted by tests: a ledger, and threads whose system calls must never
 * notice it.
 */
#ifndef SUBJECT_H
#define SUBJECT_H

#include "tests/lib/ledger.h"

#define EXTRA_LEN (4ul << 20)

enum order { NOTHING, UNMAP, DISCARD, EXEC, FORK };

/* Between the test and the target. */
struct shared {
	volatile uint64_t ready, leave, slept, polled, read, failed;
	volatile int error;
	volatile enum order order;
};

struct target {
	pid_t pid;
	char *mem, *extra; /* at the same addresses in the target */
	struct shared *shared;
	void (*prepare)(void);
	unsigned int fds, threads;
};

/* How pageferry snapshot is called. */
struct command {
	const char *park;
	const char *option, *value;
	const char *rate;
	const char *way; /* NULL: sync */
	uid_t uid;
	void (*prepare)(void); /* of the process that becomes it */
	pid_t pid;
};

struct elf {
	const char *data;
	size_t len;
};

/* 64 MiB, if nobody says otherwise before a target is started. */
extern size_t ledger_len;

/* Files in a folder of their own. */
extern char core[64], report[64], errors[64];
bool subject_begin(void);
int subject_end(void);
void remove_files(void);

unsigned int count_in(pid_t pid, const char *what);
void target_start(struct target *t, void (*prepare)(void));
/* Stay on this CPU: the kernel writes its number into the memory of every thread (rseq). */
void pin(void);
/* Another user, whom others of it may trace. */
void be_nobody(void);
/* The ledger as it is now, of a process that is stopped or not. */
int64_t missing_now(const struct target *t);
/* How often money has moved; it never pauses. */
uint64_t moves_of(const struct target *t);
bool file_has(pid_t pid, const char *name, const char *what);
/* KSM has merged pages of it; or it fails. */
void wait_merged(pid_t pid);
/* It is as it was, every thread of it works, and no call of it has failed. */
void assert_unharmed(const struct target *t);
void target_end(struct target *t);
/* For spawn(). */
int run_command(void *command);
/* The exit status. */
/* The path of the command that has parking points. */
const char *parked_pageferry(void);
/* SIGINT for one that has stopped there; its exit status. */
int interrupt(pid_t command);
int snapshot_with(const struct target *t, struct command c);
int snapshot(const struct target *t);
/* The status, and if it isn't 0 what the command said. */
int shown(int status);
bool said(const char *file, const char *what);
bool nothing_left(void);
struct elf elf_open(void);
/* Another file in the folder of the files. */
struct elf elf_open_in_dir(const char *name);
/* What the file has of @addr; NULL: it is in no segment, or in one without contents. */
const char *elf_at(const struct elf *e, const void *addr, size_t len);
int64_t missing_in_core(const struct target *t);

/* Run "pageferry snapshot" with arguments, in the folder of the files; the exit status. */
extern const char *ferry_limits; /* for the shell that runs it */
__attribute__((format(printf, 1, 2))) int ferry(const char *format, ...);
/* It is 0. */
void assert_done(int status);
/* The path of a file there; good for four calls. */
char *in_dir(const char *name);
/* Have these two all contents in common? */
void assert_same(const char *x, const char *y);

#endif
