/* SPDX-License-Identifier: MIT */
#include <stdbool.h>
#include <string.h>

#include "tools/tool.h"

static const struct option_text run_options[] = {
	{"NAME", "letters, digits and . _ - after a letter or digit"},
	{"QEMU ARGUMENT...", "a QEMU command as it would be without pageferry"},
	{NULL, NULL},
};

static const struct option_text upgrade_options[] = {
	{"--qemu PATH", "the new QEMU's program; default: the path of the present one"},
	{"--way WAY", "how pages travel: auto (default), copy, module, or stage: keep huge pages or fail"},
	{"--strict", "fail rather than copy a page; needs pageferry.ko"},
	{"--cpu CPU", "which answers faults: follow: the waiting thread's (default), any, or N"},
	{"--timeout SECONDS", "for each step that waits for a QEMU, until the commit; default: 30"},
	{"--json", "print the result, or why it failed, as one JSON object"},
	{NULL, NULL},
};

static const struct option_text list_options[] = {
	{"--json", "print a JSON array"},
	{NULL, NULL},
};

static const struct option_text status_options[] = {
	{"--json", "print one JSON object"},
	{NULL, NULL},
};

static const struct command commands[] = {
	{"run", cmd_vm_run, "NAME -- QEMU ARGUMENT...", "start a VM and stay as its keeper",
	 run_options},
	{"upgrade", cmd_vm_upgrade,
	 "[--qemu PATH] [--way auto|copy|stage|module] [--cpu N|follow|any] [--timeout SECONDS] "
	 "[--strict] [--json] NAME",
	 "replace the QEMU under a running guest", upgrade_options},
	{"list", cmd_vm_list, "[--json]", "show all VMs of this user", list_options},
	{"status", cmd_vm_status, "[--json] NAME", "show one VM", status_options},
	{"stop", cmd_vm_stop, "NAME", "end a VM, or remove what a dead one has left", NULL},
};

#define NCOMMANDS (sizeof(commands) / sizeof(commands[0]))
#define PREFIX    "pageferry vm"

static bool is_help(const char *word)
{
	return !strcmp(word, "--help") || !strcmp(word, "-h");
}

int cmd_vm(int argc, char **argv)
{
	for (size_t i = 0; i < NCOMMANDS && argc > 2 && is_help(argv[2]); i++) {
		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		command_usage(stdout, &commands[i], 1, PREFIX);
		return 0;
	}
	return command_run(commands, NCOMMANDS, PREFIX, argc, argv);
}
