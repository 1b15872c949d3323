// SPDX-License-Identifier: MIT
/* The new QEMU: take guest RAM from the old one, then let the VM run. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "preload/vm.h"

/*
 * _exit, not exit: this may be any thread, at any moment, and QEMU's exit handlers would touch
 * memory that never came, and sockets that the old QEMU still uses.
 */
static void die(const struct vm *vm, int error, const char *what)
{
	char text[256];

	snprintf(text, sizeof(text), "%s: %s", what, strerror(-error));
	control_failed(vm, error, text);
	fprintf(stderr, "pageferry: %s\n", text);
	_exit(1);
}

static void lost(void *arg, int error, uint64_t left)
{
	char what[128];

	if (error == -EOWNERDEAD)
		snprintf(what, sizeof(what),
			 "the old QEMU died, %llu MiB of guest memory are lost, the VM can't go on",
			 (unsigned long long)(left >> 20));
	else
		snprintf(what, sizeof(what), "the old QEMU does not hand over");
	die(arg, error, what);
}

static bool blob_valid(const struct ferry_offer *offer, struct vm_blob *blob)
{
	if (offer->nranges != 1 || offer->blob_len != sizeof(*blob))
		return false;
	memcpy(blob, offer->blob, sizeof(*blob));
	return blob->version == VM_BLOB_VERSION && blob->running <= 1;
}

void taker_open(struct vm *vm, int sock)
{
	struct ferry_take_opts opts = FERRY_TAKE_OPTS_INIT;
	struct vm_blob blob;

	opts.lost = lost;
	opts.arg = vm;
	/* Both are the same VM's. */
	opts.flags = FERRY_TAKE_TABLES;
	/* The keeper and the old QEMU have the deadlines; this side ends when they are gone. */
	opts.timeout_ms = 600000;
	int ret = ferry_take_open(&vm->take, sock, &opts);
	if (ret == -EPERM || ret == -ENOSYS)
		die(vm, ret,
		    "no userfaultfd for QEMU (see pageferry probe: access to /dev/userfaultfd, "
		    "CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1)");
	if (ret)
		die(vm, ret, "can't take over guest memory");
	if (!blob_valid(ferry_take_offer(vm->take), &blob))
		die(vm, -EPROTO, "the old QEMU runs another version of pageferry");
	vm->running = blob.running;
}

void taker_map(struct vm *vm)
{
	if (ferry_take_offer(vm->take)->ranges[0].len != vm->ram_len)
		die(vm, -EINVAL, "the new QEMU has another RAM size");
	int ret = ferry_take_map(vm->take, 0, vm->ram);
	if (!ret)
		ret = ferry_take_attach(vm->take);
	if (ret)
		die(vm, ret, "can't register guest memory");
}

/* The connection is made early: the VM stands still from shadow to the answer of this command. */
static void let_run(struct vm *vm, struct self_qmp *qmp)
{
	struct control_msg resumed = { .type = CONTROL_RESUMED };

	int ret = vm->running ? self_qmp_run(qmp) : 0;
	if (ret)
		control_failed(vm, ret, "the new QEMU owns the VM but can't let it run: try QMP cont");
	else
		control_send(vm, &resumed);
}

/* So far it went to a file, so that the keeper could say why the new QEMU failed. */
static void adopt_stderr(struct vm *vm)
{
	if (vm->stderr_fd < 0)
		return;
	dup2(vm->stderr_fd, STDERR_FILENO);
	close(vm->stderr_fd);
	vm->stderr_fd = -1;
}

void taker_run(struct vm *vm)
{
	struct self_qmp *qmp = NULL;

	int ret = self_qmp_open(&qmp, vm->qmp_path);
	if (ret)
		die(vm, ret, "can't reach QMP of the new QEMU");
	ret = ferry_take_shadow(vm->take, NULL, NULL);
	if (!ret)
		ret = ferry_take_commit(vm->take);
	if (ret)
		die(vm, ret, "the old QEMU does not hand over");
	adopt_stderr(vm);
	bind_alone();
	let_run(vm, qmp);
	self_qmp_close(qmp);
	ret = ferry_take_done(vm->take, -1);
	if (ret)
		die(vm, ret, "the old QEMU died before all memory had come");
	ferry_take_close(vm->take);
	vm->take = NULL;
	control_phase(vm, FERRY_PHASE_DONE, NULL);
}
