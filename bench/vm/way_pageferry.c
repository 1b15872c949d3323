// SPDX-License-Identifier: MIT
/* The command itself, as its user runs it. */
#include <signal.h>

#include "bench/vm/vm.h"
#include "tools/json_get.h"

#define UPGRADE_S 600
#define KEEPER_MS 30000
#define CHILDREN  4

static struct child command;

static void add_command(const struct vm *vm, struct arguments *a, const char *subcommand)
{
	*a = (struct arguments){0};
	arguments_add(a, "%s/pageferry", vm->place->build);
	arguments_add(a, "vm");
	arguments_add(a, "%s", subcommand);
}

static void start(struct vm *vm)
{
	struct arguments a;

	add_command(vm, &a, "run");
	arguments_add(&a, "%s", VM_NAME);
	arguments_add(&a, "--");
	arguments_add(&a, "%s", vm->options->qemu);
	arguments_add_guest(&a, vm);
	child_start(&vm->keeper, "pageferry vm run", a.v,
		    (struct child_io){-1, vm->place->log, vm->place->log}, SIGTERM);
	arguments_free(&a);
}

/* Not as the command tells it: what is measured is what the system has. */
static void find_new(struct vm *vm)
{
	pid_t pids[CHILDREN];
	unsigned int n = child_list(vm->keeper.pid, pids, CHILDREN);

	for (unsigned int i = 0; i < n && !vm->new.pid; i++)
		if (pids[i] != vm->old.pid)
			child_watch(&vm->new, "the new QEMU", pids[i]);
}

static void ready(struct vm *vm)
{
	pid_t pids[CHILDREN];

	if (child_list(vm->keeper.pid, pids, CHILDREN) != 1)
		bench_fail("pageferry: the keeper should have one child now, its QEMU");
	child_watch(&vm->old, "the old QEMU", pids[0]);
}

static bool is_done(struct vm *vm)
{
	if (!vm->new.pid)
		find_new(vm);
	return command.ended && (vm->old.ended || command.status);
}

static void upgrade(struct vm *vm)
{
	int out = place_create(vm->place, "upgrade");
	struct arguments a;
	char *text;

	add_command(vm, &a, "upgrade");
	arguments_add(&a, "--json");
	arguments_add(&a, "%s", VM_NAME);
	child_start(
		&command, "pageferry vm upgrade", a.v,
		(struct child_io){-1, out, isatty(STDERR_FILENO) ? STDERR_FILENO : vm->place->log},
		SIGTERM);
	arguments_free(&a);
	close(out);
	vm_wait(vm, is_done, UPGRADE_S, "pageferry vm upgrade");
	child_finish(&command, 0);
	if (!vm->new.pid)
		bench_fail("pageferry: the keeper has no new QEMU");
	text = place_read(vm->place, "upgrade");
	vm->details = json_read_object(text, strlen(text));
	if (!vm->details)
		bench_fail("pageferry vm upgrade --json prints no JSON: %s", text);
	free(text);
}

static void stop(struct vm *vm)
{
	child_end(&vm->keeper, KEEPER_MS);
	child_end(&vm->old, 0);
	child_end(&vm->new, 0);
}

const struct way way_pageferry = {
	.name = "pageferry",
	.title = "pageferry",
	.start = start,
	.ready = ready,
	.upgrade = upgrade,
	.stop = stop,
};
