/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <json-c/json.h>

#include "tools/json_get.h"
#include "tools/proc.h"
#include "tools/qmp.h"
#include "tools/vm_client.h"
#include "tools/vm_info.h"

#define ANSWER_MS 3000

static void ask_keeper(const struct state_dir *dir, struct vm_info *info)
{
	struct json_object *answer = NULL;
	const char *phase;
	int fd = keeper_connect(dir->path);

	if (fd < 0)
		return;
	info->has_keeper = true;
	if (!keeper_ask(fd, keeper_request("status")) && !keeper_receive(fd, ANSWER_MS, &answer)) {
		phase = json_get_string(answer, "upgrade");
		if (phase)
			snprintf(info->phase, sizeof(info->phase), "%s", phase);
		json_object_put(answer);
	}
	close(fd);
}

static bool is_alive(const struct vm_info *info, unsigned int i)
{
	int fd = state_process_open(&info->state, i);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static void ask_qemu(const struct state_dir *dir, const struct state_process *process, char *status,
		     size_t size)
{
	struct json_object *value = NULL;
	char path[PATH_MAX + 32];
	struct qmp *qmp = NULL;
	const char *text = NULL;
	struct why why = {""};

	snprintf(path, sizeof(path), "%s/qmp-%u.sock", dir->path, process->generation);
	if (!qmp_open(&qmp, path, ANSWER_MS) &&
	    !qmp_call(qmp, "query-status", NULL, ANSWER_MS, &value, &why))
		text = json_get_string(value, "status");
	snprintf(status, size, "%s", text ? text : "unresponsive");
	json_object_put(value);
	qmp_close(qmp);
}

/* While an upgrade is under way, or was when the keeper was killed, there are two. One of them is
 * still to get the VM, or has given it away. */
static bool has_vm(const char *status)
{
	return strcmp(status, "inmigrate") != 0 && strcmp(status, "finish-migrate") != 0 &&
	       strcmp(status, "postmigrate") != 0;
}

static void ask_processes(const struct state_dir *dir, struct vm_info *info)
{
	for (unsigned int i = 0; i < info->state.nprocesses; i++) {
		const struct state_process *process = &info->state.process[i];
		char status[32];

		if (!is_alive(info, i))
			continue;
		ask_qemu(dir, process, status, sizeof(status));
		if (info->process && !has_vm(status))
			continue;
		info->process = process;
		snprintf(info->status, sizeof(info->status), "%s", status);
		if (has_vm(status))
			break;
	}
}

void vm_info_get(const struct state_dir *dir, struct vm_info *info)
{
	memset(info, 0, sizeof(*info));
	snprintf(info->status, sizeof(info->status), "dead");
	ask_keeper(dir, info);
	if (info->has_keeper)
		snprintf(info->status, sizeof(info->status), "starting");
	if (state_read(dir, &info->state))
		return;
	if (info->phase[0]) {
		/* The keeper has QEMU's QMP for itself now. Its own QEMU stands first. */
		info->process = info->state.nprocesses ? &info->state.process[0] : NULL;
		snprintf(info->status, sizeof(info->status), "upgrading");
	} else {
		ask_processes(dir, info);
	}
	if (info->process)
		proc_memory(info->process->pid, &info->memory_kib);
}

void vm_info_free(struct vm_info *info)
{
	state_free(&info->state);
}

static struct json_object *string_or_null(const char *text)
{
	return text && text[0] ? json_object_new_string(text) : NULL;
}

static struct json_object *int_or_null(int64_t value, bool there)
{
	return there ? json_object_new_int64(value) : NULL;
}

struct json_object *vm_info_to_json(const struct state_dir *dir, const struct vm_info *info)
{
	const struct state *state = &info->state;
	const struct state_process *process = info->process;
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "name", json_object_new_string(dir->name));
	json_object_object_add(o, "state", json_object_new_string(info->status));
	json_object_object_add(o, "phase", string_or_null(info->phase));
	json_object_object_add(o, "generation", json_object_new_int64(state->generation));
	json_object_object_add(o, "pid", int_or_null(process ? process->pid : 0, process));
	json_object_object_add(o, "qemu", string_or_null(process ? process->qemu : NULL));
	json_object_object_add(o, "keeper_pid", int_or_null(state->keeper, info->has_keeper));
	json_object_object_add(o, "ram_bytes", json_object_new_int64((int64_t)state->ram));
	json_object_object_add(o, "memory_kib", int_or_null((int64_t)info->memory_kib, process));
	json_object_object_add(o, "started", json_object_new_int64(state->started));
	json_object_object_add(o, "upgraded", int_or_null(state->upgraded, state->upgraded));
	json_object_object_add(o, "uptime_s", int_or_null(time(NULL) - state->started, process));
	json_object_object_add(o, "directory", json_object_new_string(dir->path));
	return o;
}
