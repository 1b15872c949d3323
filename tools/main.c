/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/tool.h"

static const struct command commands[] = {
	{"probe", cmd_probe, "[--json]", "say what this kernel and this user can do", NULL},
	{"conform", cmd_conform, "[--json] [--way kernel|module] [--expected FILE]",
	 "say what the calls answer for each kind of memory, and what differs", NULL},
	{"pins", cmd_pins, "[--json] [--expected FILE]",
	 "say what a pin of memory keeps on this kernel", NULL},
	{"bench", cmd_bench, "[--full] [--json FILE] [--html FILE] [QUESTION ...]",
	 "measure all this beside the plain way", NULL},
	{"snapshot", cmd_snapshot, "--pid PID -o FILE [OPTION ...]",
	 "save a running process as a core file", NULL},
	{"vm", cmd_vm, "COMMAND ...", "run virtual machines whose QEMU can be replaced", NULL},
};

static void print_options(FILE *out, const struct option_text *options)
{
	for (; options && options->option; options++)
		fprintf(out, "      %-19s %s\n", options->option, options->description);
}

void command_usage(FILE *out, const struct command *table, size_t n, const char *prefix)
{
	for (size_t i = 0; i < n; i++)
		fprintf(out, "%s %s %s %s\n", i ? "      " : "usage:", prefix, table[i].name,
			table[i].arguments);
	fputc('\n', out);
	for (size_t i = 0; i < n; i++) {
		fprintf(out, "  %-8s  %s\n", table[i].name, table[i].description);
		print_options(out, table[i].options);
	}
}

int command_run(const struct command *table, size_t n, const char *prefix, int argc, char **argv)
{
	if (argc < 2) {
		command_usage(stderr, table, n, prefix);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		command_usage(stdout, table, n, prefix);
		return 0;
	}
	for (size_t i = 0; i < n; i++)
		if (!strcmp(argv[1], table[i].name))
			return table[i].run(argc - 1, argv + 1);
	return say_usage(prefix, "%s: there is no such command", argv[1]);
}

/* What is opened here must not be taken for what is missing of the first three, by us or by a QEMU. */
static bool fill_standard_descriptors(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDONLY) != fd)
			return false;
	return true;
}

/* Nobody must take lost output for success. */
static int flush(int status)
{
	if (!fflush(stdout) && !ferror(stdout))
		return status;
	say("can't write to standard output: %s", strerror(errno));
	return status ? status : EXIT_USAGE;
}

int main(int argc, char **argv)
{
	if (!fill_standard_descriptors())
		return EXIT_USAGE;
	if (argc > 1 && !strcmp(argv[1], "--version")) {
		puts("pageferry " PAGEFERRY_VERSION);
		return flush(0);
	}
	return flush(command_run(commands, sizeof(commands) / sizeof(commands[0]), "pageferry", argc,
				 argv));
}
