// SPDX-License-Identifier: MIT
/* One upgrade, measured the same for every way. */
#include <inttypes.h>

#include "bench/vm/vm.h"

#define READY_S 600 /* a large RAM takes long to fill */

const struct way *const ways[WAYS] = {
	[WAY_PAGEFERRY] = &way_pageferry,
	[WAY_PRECOPY] = &way_precopy,
	[WAY_MEMFD] = &way_memfd,
};

void arguments_add(struct arguments *a, const char *fmt, ...)
{
	va_list ap;

	if (a->n == ARGUMENTS_MAX)
		bench_fail("too many arguments");
	va_start(ap, fmt);
	if (vasprintf(&a->v[a->n], fmt, ap) < 0)
		bench_fail("no memory");
	va_end(ap);
	a->v[++a->n] = NULL;
}

void arguments_free(struct arguments *a)
{
	for (unsigned int i = 0; i < a->n; i++)
		free(a->v[i]);
	a->n = 0;
}

/*
 * One CPU for the guest: emulated, it keeps a CPU of the host busy, and the observer, QEMU's own
 * threads and those of pageferry need another one, or they would be measured waiting for it.
 */
void arguments_add_guest(struct arguments *a, const struct vm *vm)
{
	const char *dir = vm->place->dir;
	static const char *const fixed[] = {
		"-accel", "tcg", "-nodefaults", "-display", "none", "-no-reboot",
	};

	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		arguments_add(a, "%s", fixed[i]);
	arguments_add(a, "-smp");
	arguments_add(a, "%d", GUEST_CPUS);
	arguments_add(a, "-m");
	arguments_add(a, "%u", vm->ram_mib);
	arguments_add(a, "-kernel");
	arguments_add(a, "%s/vmlinuz", vm->place->kernel);
	arguments_add(a, "-initrd");
	arguments_add(a, "%s", vm->place->initrd);
	arguments_add(a, "-append");
	arguments_add(a,
		      "console=ttyS0 quiet panic=-1 tsc=reliable ferry.fill=%d ferry.writers=%d "
		      "ferry.pace_us=%d",
		      FILL, WRITERS, PACE_US);
	arguments_add(a, "-chardev");
	arguments_add(a, "socket,id=console,path=%s/console", dir);
	arguments_add(a, "-serial");
	arguments_add(a, "chardev:console");
	arguments_add(a, "-chardev");
	arguments_add(a, "file,id=ticks,path=%s/ticks,append=on", dir);
	arguments_add(a, "-device");
	arguments_add(a, "isa-debugcon,iobase=0x402,chardev=ticks");
}

void vm_fail(struct vm *vm, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(vm->lost, sizeof(vm->lost), fmt, ap);
	va_end(ap);
	if (vm->migrating && vm->way->may_damage)
		longjmp(vm->given_up, 1);
	bench_fail("%s: %s", vm->way->name, vm->lost);
}

int vm_patience(const struct vm *vm)
{
	return 60 + (int)vm->ram_mib / 16;
}

static void check_alive(struct vm *vm, const char *what)
{
	if (vm->keeper.pid && vm->keeper.ended)
		vm_fail(vm, "the keeper of the VM ended during %s", what);
	if (vm->old.ended && (!vm->new.pid || vm->new.ended))
		vm_fail(vm, "QEMU ended during %s", what);
	if (console_heard("FAIL"))
		vm_fail(vm, "the guest says: %s", console_heard("FAIL"));
}

void vm_wait(struct vm *vm, bool (*reached)(struct vm *vm), int timeout_s, const char *what)
{
	int64_t deadline = bench_now() + timeout_s * 1000000000ll;

	while (!reached(vm)) {
		check_alive(vm, what);
		if (bench_now() > deadline)
			vm_fail(vm, "%s takes longer than %d s", what, timeout_s);
		loop_step(SAMPLE_NS / 1000000);
		if (vm->sampling)
			memory_sample(vm);
	}
}

static bool is_ready(struct vm *vm)
{
	(void)vm;
	return console_heard("READY");
}

static bool is_checked(struct vm *vm)
{
	(void)vm;
	return console_heard("CHECK");
}

static void stay(struct vm *vm, int64_t ns)
{
	int64_t until = bench_now() + ns;

	for (int64_t now; (now = bench_now()) < until;) {
		check_alive(vm, "the measurement");
		loop_step((int)((until - now) / 1000000) + 1);
	}
}

static void boot(struct vm *vm, struct run *run)
{
	const char *ready;

	vm->way->start(vm);
	vm_wait(vm, is_ready, READY_S, "the start of the guest");
	ready = console_heard("READY");
	run->filled_mib = console_number(ready, "fill_pages") * BENCH_PAGE / MIB;
	if (console_number(ready, "fill_pages") < console_number(ready, "wanted_pages"))
		bench_cannot("%d %% of %u MiB would leave the guest's kernel too little: take a "
			     "larger --ram",
			     FILL, vm->ram_mib);
	vm->way->ready(vm);
	stay(vm, SETTLE_NS);
}

static void upgrade(struct vm *vm, struct run *run)
{
	struct window window, quiet;
	int64_t begin;

	vm->base_kib = vm->peak_kib = memory_now(vm);
	vm->sampling = true;
	watch_mark();
	begin = bench_now();
	vm->way->upgrade(vm);
	vm->sampling = false;
	stay(vm, SETTLE_NS);
	window = watch_read();
	watch_mark();
	stay(vm, (int64_t)(window.length_ms * 1e6));
	quiet = watch_read();
	if (!quiet.ticks)
		vm_fail(vm, "the guest stands still");

	run->total_ms = (double)(vm->old.ended_ns - begin) / 1e6;
	run->window_ms = window.length_ms;
	run->gap_ms = window.gap_ms;
	run->gap_at_ms = window.gap_at_ms;
	run->skips = window.skips;
	run->baseline_gap_ms = quiet.gap_ms;
	run->base_mib = (double)vm->base_kib / 1024;
	run->peak_mib = (double)vm->peak_kib / 1024;
	run->extra_mib = run->peak_mib - run->base_mib;
	run->samples = vm->samples;
}

static void check(struct vm *vm, struct run *run)
{
	const char *verdict;

	console_forget();
	if (!console_say("check"))
		vm_fail(vm, "the guest's console is gone");
	vm_wait(vm, is_checked, vm_patience(vm), "the guest's check of its memory");
	verdict = console_heard("CHECK");
	run->intact = !strncmp(verdict, "CHECK ok ", 9);
	run->writes = console_number(verdict, "writes");
	run->corrupt = console_number(verdict, "corrupt");
	if (!run->intact && !vm->way->may_damage)
		console_show();
	/* Only now has the guest touched all of it. */
	run->anonymous = memory_is_anonymous(vm, vm->new.pid);
}

static void measure(struct vm *vm, struct run *run)
{
	boot(vm, run);
	upgrade(vm, run);
	check(vm, run);
}

struct run vm_measure(const struct place *place, const struct options *options,
		      const struct way *way, unsigned int ram_mib)
{
	/* Its children are known to the exit handler of child.c; and both outlive a longjmp(). */
	static struct vm vm;
	static struct run run;

	run = (struct run){0};
	vm = (struct vm){
		.place = place,
		.options = options,
		.way = way,
		.ram_mib = ram_mib,
		.ram_file = -1,
	};
	console_reset();
	if (!setjmp(vm.given_up))
		measure(&vm, &run);
	else
		run = (struct run){.lost = vm.lost};
	run.old = vm.old.pid;
	run.new = vm.new.pid;
	run.details = vm.details;
	vm.way->stop(&vm);
	return run;
}
