/* SPDX-License-Identifier: MIT */
/* What the files of the pageferry command share: the tables of subcommands, and how they speak. */
#ifndef PAGEFERRY_TOOL_H
#define PAGEFERRY_TOOL_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define EXIT_USAGE 2

struct option_text {
	const char *option;
	const char *description;
};

struct command {
	const char *name;
	int (*run)(int argc, char **argv); /* argv[0] is the subcommand's name */
	const char *arguments;
	const char *description;
	const struct option_text *options; /* ends in an empty one; NULL: they are told elsewhere */
};

/** Print how the commands of @table are used. */
void command_usage(FILE *out, const struct command *table, size_t n, const char *prefix);

/** Run the subcommand that argv[1] names; @prefix is what comes before it on the command line. */
int command_run(const struct command *table, size_t n, const char *prefix, int argc, char **argv);

int cmd_bench(int argc, char **argv);
int cmd_pins(int argc, char **argv);
int cmd_probe(int argc, char **argv);
int cmd_conform(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_vm(int argc, char **argv);

int cmd_vm_run(int argc, char **argv);
int cmd_vm_upgrade(int argc, char **argv);
int cmd_vm_list(int argc, char **argv);
int cmd_vm_status(int argc, char **argv);
int cmd_vm_stop(int argc, char **argv);

/** Why something failed, for a person: what went wrong and what to do, in one line. */
struct why {
	char text[768];
};

/** Set @why and return @error, so that a function can end with it. */
int why_set(struct why *why, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/** Of another program's or a file's words: they must neither break the line nor steer the terminal. */
void say_plain(char *text);

/** Print "pageferry: ..." as one line on stderr; control characters are made visible. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** The same for a wrong command line: adds where to read more; returns EXIT_USAGE. */
int say_usage(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
