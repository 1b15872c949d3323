// SPDX-License-Identifier: MIT
/*
 * QEMU's own two ways to move a VM into a new process on one host: a local migration, either of all
 * RAM (pre-copy) or, where RAM is a file that both processes map, of device state alone.
 */
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <dirent.h>

#include "bench/vm/vm.h"
#include "tools/json_get.h"

/* QEMU's default is 128 MiB/s, made for networks: locally it would only make pre-copy slow. */
#define MAX_BANDWIDTH (16ll << 30)
#define CONNECT_S     20
#define ANSWER_S      20
#define END_S         60

static void take_event(struct link *link, const struct qmp_event *event)
{
	const char *status = json_get_string(event->data, "status");

	if (!event->name)
		return;
	if (!strcmp(event->name, "STOP"))
		link->stop_us = event->time_us;
	if (!strcmp(event->name, "RESUME"))
		link->resume_us = event->time_us;
	if (!strcmp(event->name, "MIGRATION") && status) {
		link->completed |= !strcmp(status, "completed");
		link->failed |= !strcmp(status, "failed");
	}
}

static void link_read(void *arg)
{
	struct link *link = arg;
	struct qmp_event event;
	int fd = qmp_fd(link->qmp);

	link->broken = qmp_handle(link->qmp) != 0;
	while (qmp_next_event(link->qmp, &event))
		take_event(link, &event);
	if (link->broken)
		loop_remove(fd);
}

static void link_close(struct link *link)
{
	if (!link->qmp)
		return;
	loop_remove(qmp_fd(link->qmp));
	qmp_close(link->qmp);
	*link = (struct link){0};
}

static void qmp_path(const struct vm *vm, const struct link *link, char *path, size_t size)
{
	snprintf(path, size, "%s/qmp-%s", vm->place->dir, link == &vm->old_link ? "old" : "new");
}

static void link_open(struct vm *vm, struct link *link)
{
	const struct child *qemu = link == &vm->old_link ? &vm->old : &vm->new;
	int64_t deadline = bench_now() + CONNECT_S * 1000000000ll;
	char path[128];

	qmp_path(vm, link, path, sizeof(path));
	while (qmp_open(&link->qmp, path, 0)) {
		if (qemu->ended || bench_now() > deadline)
			vm_fail(vm, "QEMU doesn't listen on its QMP socket");
		loop_step(1);
		if (vm->sampling)
			memory_sample(vm);
	}
	loop_add(qmp_fd(link->qmp), link_read, link);
}

static bool old_ready(struct vm *vm)
{
	return vm->old_link.broken || qmp_ready(vm->old_link.qmp);
}

static bool new_ready(struct vm *vm)
{
	return vm->new_link.broken || qmp_ready(vm->new_link.qmp);
}

static bool old_answered(struct vm *vm)
{
	return vm->old_link.broken || qmp_has_answer(vm->old_link.qmp);
}

static bool new_answered(struct vm *vm)
{
	return vm->new_link.broken || qmp_has_answer(vm->new_link.qmp);
}

static void ask(struct vm *vm, struct link *link, const char *command,
		struct json_object *arguments)
{
	bool old = link == &vm->old_link;
	struct why why;

	vm_wait(vm, old ? old_ready : new_ready, ANSWER_S, command);
	qmp_send(link->qmp, command, arguments);
	vm_wait(vm, old ? old_answered : new_answered, ANSWER_S, command);
	if (link->broken || qmp_answer(link->qmp, NULL, &why) != 1)
		vm_fail(vm, "%s: %s", command,
			link->broken ? "QEMU has closed its QMP socket" : why.text);
}

static void start_qemu(struct vm *vm, struct child *child, struct arguments *a)
{
	const struct link *link = child == &vm->old ? &vm->old_link : &vm->new_link;
	char path[128];

	qmp_path(vm, link, path, sizeof(path));
	unlink(path);
	arguments_add(a, "-qmp");
	arguments_add(a, "unix:%s,server=on,wait=off", path);
	child_start(child, "QEMU", a->v, (struct child_io){-1, vm->place->log, vm->place->log},
		    SIGKILL);
	arguments_free(a);
}

static void begin_arguments(struct vm *vm, struct arguments *a)
{
	*a = (struct arguments){0};
	arguments_add(a, "%s", vm->options->qemu);
	arguments_add_guest(a, vm);
}

static void add_backend(struct vm *vm, struct arguments *a, const char *backend)
{
	arguments_add(a, "-object");
	arguments_add(a, "%s,id=ram0,size=%uM,share=on", backend, vm->ram_mib);
	arguments_add(a, "-machine");
	arguments_add(a, "memory-backend=ram0");
}

static void start_precopy(struct vm *vm)
{
	struct arguments a;

	begin_arguments(vm, &a);
	start_qemu(vm, &vm->old, &a);
	link_open(vm, &vm->old_link);
}

static void start_memfd(struct vm *vm)
{
	struct arguments a;

	begin_arguments(vm, &a);
	add_backend(vm, &a, "memory-backend-memfd");
	start_qemu(vm, &vm->old, &a);
	link_open(vm, &vm->old_link);
}

static void ready_precopy(struct vm *vm)
{
	(void)vm;
}

/* The old QEMU's memfd, which has no name by which the new one could open it. */
static int find_memfd(pid_t pid, char *path, size_t size)
{
	/* It may have others: from its libraries, or inherited. */
	static const char memfd[] = "/memfd:memory-backend-memfd";
	char dir[64], target[PATH_MAX];
	struct dirent *entry;
	DIR *list;

	snprintf(dir, sizeof(dir), "/proc/%d/fd", (int)pid);
	list = opendir(dir);
	while (list && (entry = readdir(list))) {
		ssize_t n = readlinkat(dirfd(list), entry->d_name, target, sizeof(target) - 1);

		target[n > 0 ? n : 0] = '\0';
		if (strncmp(target, memfd, strlen(memfd)) != 0)
			continue;
		snprintf(path, size, "%s/%d", dir, atoi(entry->d_name));
		closedir(list);
		return open(path, O_RDONLY | O_CLOEXEC);
	}
	bench_fail("QEMU (process %d) has no memfd", (int)pid);
}

static void ready_memfd(struct vm *vm)
{
	char path[128];

	vm->ram_file = (int)must(find_memfd(vm->old.pid, path, sizeof(path)), "opening the memfd");
}

static struct json_object *capability(const char *name)
{
	struct json_object *list = json_object_new_array(), *item = json_object_new_object();
	struct json_object *arguments = json_object_new_object();

	put_text(item, "capability", name);
	json_object_object_add(item, "state", json_object_new_boolean(true));
	json_object_array_add(list, item);
	json_object_object_add(arguments, "capabilities", list);
	return arguments;
}

static void prepare(struct vm *vm, struct link *link)
{
	ask(vm, link, "migrate-set-capabilities", capability("events"));
	if (vm->ram_file >= 0)
		ask(vm, link, "migrate-set-capabilities", capability("x-ignore-shared"));
}

static struct json_object *uri(const struct vm *vm)
{
	struct json_object *arguments = json_object_new_object();
	char text[128];

	snprintf(text, sizeof(text), "unix:%s/migrate", vm->place->dir);
	put_text(arguments, "uri", text);
	return arguments;
}

static bool is_across(struct vm *vm)
{
	if (vm->old_link.failed || vm->new_link.failed || vm->new.ended)
		vm_fail(vm, "the migration failed");
	return vm->old_link.completed && vm->new_link.completed && vm->new_link.resume_us;
}

static bool old_is_gone(struct vm *vm)
{
	return vm->old.ended;
}

/* The new QEMU lets the guest run by itself once it has all. */
static void migrate(struct vm *vm)
{
	struct json_object *parameters = json_object_new_object();
	struct link *old = &vm->old_link, *new = &vm->new_link;

	link_open(vm, new);
	prepare(vm, old);
	prepare(vm, new);
	json_object_object_add(parameters, "max-bandwidth", json_object_new_int64(MAX_BANDWIDTH));
	ask(vm, old, "migrate-set-parameters", parameters);
	ask(vm, new, "migrate-incoming", uri(vm));
	vm->migrating = true;
	ask(vm, old, "migrate", uri(vm));
	vm_wait(vm, is_across, vm_patience(vm), "the migration");
	vm->details = json_object_new_object();
	put_number(vm->details, "stop_to_resume_ms", (double)(new->resume_us - old->stop_us) / 1e3);
	qmp_send(old->qmp, "quit", NULL);
	vm_wait(vm, old_is_gone, END_S, "the end of the old QEMU");
}

static void upgrade_precopy(struct vm *vm)
{
	struct arguments a;

	begin_arguments(vm, &a);
	arguments_add(&a, "-incoming");
	arguments_add(&a, "defer");
	start_qemu(vm, &vm->new, &a);
	migrate(vm);
}

static void upgrade_memfd(struct vm *vm)
{
	char path[128], backend[256];
	struct arguments a;

	close(find_memfd(vm->old.pid, path, sizeof(path)));
	snprintf(backend, sizeof(backend), "memory-backend-file,mem-path=%s", path);
	begin_arguments(vm, &a);
	add_backend(vm, &a, backend);
	arguments_add(&a, "-incoming");
	arguments_add(&a, "defer");
	start_qemu(vm, &vm->new, &a);
	migrate(vm);
}

static void stop(struct vm *vm)
{
	link_close(&vm->old_link);
	link_close(&vm->new_link);
	child_end(&vm->old, 0);
	child_end(&vm->new, 0);
	if (vm->ram_file >= 0)
		close(vm->ram_file);
}

const struct way way_precopy = {
	.name = "precopy",
	.title = "QEMU pre-copy",
	/*
	 * An emulated CPU notes a page as written only where its TLB says so, and QEMU clears the
	 * notes without always telling the TLB (in part mended by its commit 03bfc2188f).
	 */
	.may_damage = "a known fault of QEMU's emulator: it can miss writes during pre-copy",
	.start = start_precopy,
	.ready = ready_precopy,
	.upgrade = upgrade_precopy,
	.stop = stop,
};

const struct way way_memfd = {
	.name = "memfd",
	.title = "QEMU memfd",
	.start = start_memfd,
	.ready = ready_memfd,
	.upgrade = upgrade_memfd,
	.stop = stop,
};
