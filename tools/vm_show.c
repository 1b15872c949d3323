/* SPDX-License-Identifier: MIT */
/* pageferry vm list and pageferry vm status */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <json-c/json.h>

#include "tools/vm_info.h"

#define PRETTY (JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE)

static void print_json(struct json_object *object)
{
	puts(json_object_to_json_string_ext(object, PRETTY));
	json_object_put(object);
}

static const char *age(const struct vm_info *info, char *text, size_t size)
{
	long long s = time(NULL) - info->state.started;

	if (!info->process)
		snprintf(text, size, "-");
	else if (s < 60)
		snprintf(text, size, "%llds", s);
	else if (s < 3600)
		snprintf(text, size, "%lldm%02llds", s / 60, s % 60);
	else if (s < 86400)
		snprintf(text, size, "%lldh%02lldm", s / 3600, s / 60 % 60);
	else
		snprintf(text, size, "%lldd%02lldh", s / 86400, s / 3600 % 24);
	return text;
}

static void print_row(const struct state_dir *dir, const struct vm_info *info)
{
	char pid[16] = "-", up[32];

	if (info->process)
		snprintf(pid, sizeof(pid), "%d", (int)info->process->pid);
	printf("%-20s %-14s %8s %4u %8.0f %8.0f %8s%s\n", dir->name, info->status, pid,
	       info->state.generation, (double)info->state.ram / 1048576,
	       (double)info->memory_kib / 1024, age(info, up, sizeof(up)),
	       info->process && !info->has_keeper ? "  (keeper gone)" : "");
}

static void print_details(const struct state_dir *dir, const struct vm_info *info)
{
	const struct state *state = &info->state;
	char up[32];

	printf("name        %s\n", dir->name);
	printf("state       %s%s%s\n", info->status, info->phase[0] ? ": " : "", info->phase);
	printf("directory   %s\n", dir->path);
	if (!state->generation)
		return;
	printf("generation  %u\n", state->generation);
	if (info->process)
		printf("qemu        %s (process %d)\n", info->process->qemu,
		       (int)info->process->pid);
	if (info->has_keeper)
		printf("keeper      process %d\n", (int)state->keeper);
	else if (info->process)
		printf("keeper      gone: this VM can be stopped, but not upgraded\n");
	printf("ram         %.1f MiB; QEMU has %.1f MiB of memory of its own\n",
	       (double)state->ram / 1048576, (double)info->memory_kib / 1024);
	printf("uptime      %s\n", age(info, up, sizeof(up)));
}

static int open_vm(struct state_dir *dir, const char *name)
{
	struct why why = {""};
	int err = state_dir_open(dir, name, false, &why);

	if (err == -ENOENT)
		say("%s: there is no VM of that name: see 'pageferry vm list'", name);
	else if (err)
		say("%s", why.text);
	return err;
}

/* "[--json] [NAME]", as both commands take it. */
static bool read_options(int argc, char **argv, bool *json, const char **name)
{
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--json"))
			*json = true;
		else if (argv[i][0] == '-' || *name)
			return false;
		else
			*name = argv[i];
	}
	return true;
}

int cmd_vm_status(int argc, char **argv)
{
	const char *name = NULL;
	struct state_dir dir;
	struct vm_info info;
	bool json = false;

	if (!read_options(argc, argv, &json, &name) || !name)
		return say_usage("pageferry vm", "status needs the name of one VM");
	if (open_vm(&dir, name))
		return EXIT_FAILURE;
	vm_info_get(&dir, &info);
	if (json)
		print_json(vm_info_to_json(&dir, &info));
	else
		print_details(&dir, &info);
	vm_info_free(&info);
	state_dir_close(&dir);
	return EXIT_SUCCESS;
}

static int is_vm(const struct dirent *entry)
{
	return state_name_valid(entry->d_name);
}

static void print_header(void)
{
	printf("%-20s %-14s %8s %4s %8s %8s %8s\n", "NAME", "STATE", "PID", "GEN", "RAM/MiB",
	       "USED/MiB", "UPTIME");
}

/* @array: where it goes, or NULL: it is printed, as the @shown-th. Returns whether it is a VM. */
static bool show(const char *name, struct json_object *array, unsigned int shown)
{
	struct state_dir dir;
	struct vm_info info;
	struct why why = {""};

	/* It may have gone since, or not be a VM's directory at all. */
	if (state_dir_open(&dir, name, false, &why))
		return false;
	vm_info_get(&dir, &info);
	if (array) {
		json_object_array_add(array, vm_info_to_json(&dir, &info));
	} else {
		if (!shown)
			print_header();
		print_row(&dir, &info);
	}
	vm_info_free(&info);
	state_dir_close(&dir);
	return true;
}

/* Returns how many, or -errno. Without a state directory there are none. */
static int show_all(struct json_object *array, struct why *why)
{
	struct dirent **entries = NULL;
	int shown = 0, n, base = state_base_open(false, why);

	if (base < 0)
		return base == -ENOENT ? 0 : base;
	n = scandirat(base, ".", &entries, is_vm, alphasort);
	if (n < 0)
		shown = why_set(why, -errno, "the state directory: %s", strerror(errno));
	for (int i = 0; i < n; i++) {
		shown += show(entries[i]->d_name, array, (unsigned int)shown);
		free(entries[i]);
	}
	free(entries);
	close(base);
	return shown;
}

int cmd_vm_list(int argc, char **argv)
{
	struct json_object *array;
	const char *name = NULL;
	bool json = false;
	struct why why = {""};
	int shown;

	if (!read_options(argc, argv, &json, &name) || name)
		return say_usage("pageferry vm", "list takes no name, and no option but --json");
	array = json ? json_object_new_array() : NULL;
	shown = show_all(array, &why);
	if (shown < 0) {
		say("%s", why.text);
		json_object_put(array);
		return EXIT_FAILURE;
	}
	/* Not on stdout: who reads the rows finds none there. */
	if (!json && !shown)
		say("no VMs");
	if (json)
		print_json(array);
	return EXIT_SUCCESS;
}
