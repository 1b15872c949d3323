/* SPDX-License-Identifier: MIT */
/* How a VM is at this moment, found out from outside: its keeper may be gone. */
#ifndef PAGEFERRY_VM_INFO_H
#define PAGEFERRY_VM_INFO_H

#include "tools/state.h"

struct vm_info {
	struct state state; /* empty if vm.json can't be read */
	char status[32];    /* as QEMU calls it, or "upgrading", "dead", "unresponsive" */
	char phase[32];     /* of the upgrade */
	bool has_keeper;
	const struct state_process *process; /* the one that has the VM; NULL: none */
	uint64_t memory_kib;                 /* its own */
};

/** Find out. End it with vm_info_free. */
void vm_info_get(const struct state_dir *dir, struct vm_info *info);
void vm_info_free(struct vm_info *info);

struct json_object *vm_info_to_json(const struct state_dir *dir, const struct vm_info *info);

#endif
