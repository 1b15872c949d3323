/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "tools/tool.h"

static const struct command commands[] = {
	{"run", cmd_vm_run, "NAME -- QEMU ARGUMENT...", "start a VM and stay as its keeper"},
	{"upgrade", cmd_vm_upgrade,
	 "[--qemu PATH] [--way auto|copy|stage|module] [--cpu N|follow|any] [--timeout SECONDS] "
	 "[--json] NAME",
	 "replace the QEMU under a running guest"},
	{"list", cmd_vm_list, "[--json]", "show all VMs of this user"},
	{"status", cmd_vm_status, "[--json] NAME", "show one VM"},
	{"stop", cmd_vm_stop, "NAME", "end a VM, or remove what a dead one has left"},
};

int cmd_vm(int argc, char **argv)
{
	/* "pageferry vm COMMAND --help" shows the same as "pageferry vm --help". */
	if (argc > 2 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h")))
		argc = 2, argv[1] = argv[2];
	return command_run(commands, sizeof(commands) / sizeof(commands[0]), "pageferry vm", argc,
			   argv);
}
