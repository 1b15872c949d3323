/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <json-c/json.h>

#include "tools/json_get.h"
#include "tools/proc.h"
#include "tools/state.h"

#define FORMAT       1
#define FILE_MAX     (4 << 20)
#define STRINGS_MAX  65536
#define FLAGS_PRETTY (JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE)

static struct json_object *strings_to_json(char *const *strings)
{
	struct json_object *array = json_object_new_array();

	for (; strings && *strings; strings++)
		json_object_array_add(array, json_object_new_string(*strings));
	return array;
}

static struct json_object *process_to_json(const struct state_process *process)
{
	struct json_object *object = json_object_new_object();

	json_object_object_add(object, "generation", json_object_new_int64(process->generation));
	json_object_object_add(object, "pid", json_object_new_int64(process->pid));
	json_object_object_add(object, "start", json_object_new_int64((int64_t)process->start));
	json_object_object_add(object, "qemu", json_object_new_string(process->qemu));
	return object;
}

static struct json_object *asides_to_json(const struct asides *asides)
{
	struct json_object *array = json_object_new_array();

	for (unsigned int i = 0; i < asides->n; i++) {
		const struct aside *aside = &asides->items[i];
		struct json_object *object = json_object_new_object();

		json_object_object_add(object, "name", json_object_new_string(aside->name));
		json_object_object_add(object, "dev", json_object_new_int64((int64_t)aside->dev));
		json_object_object_add(object, "ino", json_object_new_int64((int64_t)aside->ino));
		json_object_array_add(array, object);
	}
	return array;
}

struct json_object *state_to_json(const struct state *state)
{
	struct json_object *root = json_object_new_object();
	struct json_object *processes = json_object_new_array();

	for (unsigned int i = 0; i < state->nprocesses; i++)
		json_object_array_add(processes, process_to_json(&state->process[i]));
	json_object_object_add(root, "format", json_object_new_int(FORMAT));
	json_object_object_add(root, "name", json_object_new_string(state->name));
	json_object_object_add(root, "boot", json_object_new_string(state->boot));
	json_object_object_add(root, "keeper", json_object_new_int64(state->keeper));
	json_object_object_add(root, "keeper_start",
			       json_object_new_int64((int64_t)state->keeper_start));
	json_object_object_add(root, "generation", json_object_new_int64(state->generation));
	json_object_object_add(root, "processes", processes);
	json_object_object_add(root, "ram_bytes", json_object_new_int64((int64_t)state->ram));
	json_object_object_add(root, "started", json_object_new_int64(state->started));
	json_object_object_add(root, "upgraded", json_object_new_int64(state->upgraded));
	json_object_object_add(root, "argv", strings_to_json(state->argv));
	json_object_object_add(root, "added", strings_to_json(state->added));
	if (state->asides.n)
		json_object_object_add(root, "asides", asides_to_json(&state->asides));
	return root;
}

static void free_strings(char **strings)
{
	for (char **s = strings; s && *s; s++)
		free(*s);
	free(strings);
}

static char **strings_from_json(struct json_object *array)
{
	size_t n = array ? json_object_array_length(array) : STRINGS_MAX + 1;
	char **strings;

	if (n > STRINGS_MAX)
		return NULL;
	strings = calloc(n + 1, sizeof(*strings));
	for (size_t i = 0; strings && i < n; i++) {
		strings[i] = json_copy_string(json_object_array_get_idx(array, i));
		if (!strings[i]) {
			free_strings(strings);
			return NULL;
		}
	}
	return strings;
}

static bool copy_string(struct json_object *object, const char *key, char *out, size_t size)
{
	const char *text = json_get_string(object, key);
	int len = text ? snprintf(out, size, "%s", text) : -1;

	return len >= 0 && (size_t)len < size;
}

static bool process_from_json(struct json_object *object, struct state_process *process)
{
	int64_t generation, pid, start;

	if (!json_get_int(object, "generation", 1, UINT32_MAX, &generation) ||
	    !json_get_int(object, "pid", 1, INT32_MAX, &pid) ||
	    !json_get_int(object, "start", 0, INT64_MAX, &start))
		return false;
	process->generation = (uint32_t)generation;
	process->pid = (pid_t)pid;
	process->start = (uint64_t)start;
	process->qemu = json_copy_string(json_get(object, "qemu", json_type_string));
	return process->qemu;
}

static bool processes_from_json(struct json_object *root, struct state *state)
{
	struct json_object *array = json_get(root, "processes", json_type_array);
	size_t n = array ? json_object_array_length(array) : 0;

	if (!array || n > STATE_PROCESSES)
		return false;
	for (size_t i = 0; i < n; i++, state->nprocesses++)
		if (!process_from_json(json_object_array_get_idx(array, i), &state->process[i]))
			return false;
	return true;
}

static bool aside_from_json(struct json_object *object, struct aside *aside)
{
	int64_t dev, ino;

	if (!json_get_int(object, "dev", INT64_MIN, INT64_MAX, &dev) ||
	    !json_get_int(object, "ino", INT64_MIN, INT64_MAX, &ino))
		return false;
	aside->dev = (uint64_t)dev;
	aside->ino = (uint64_t)ino;
	aside->name = json_copy_string(json_get(object, "name", json_type_string));
	return aside->name;
}

static bool asides_from_json(struct json_object *root, struct asides *asides)
{
	struct json_object *array = json_get(root, "asides", json_type_array);
	size_t n = array ? json_object_array_length(array) : 0;

	if (n > STRINGS_MAX)
		return false;
	asides->items = calloc(n + 1, sizeof(*asides->items));
	for (size_t i = 0; asides->items && i < n; i++, asides->n++)
		if (!aside_from_json(json_object_array_get_idx(array, i), &asides->items[i]))
			return false;
	return asides->items;
}

int state_from_json(struct json_object *root, struct state *state)
{
	int64_t format, keeper, start, generation, ram;

	memset(state, 0, sizeof(*state));
	if (!json_get_int(root, "format", FORMAT, FORMAT, &format) ||
	    !json_get_int(root, "keeper", 1, INT32_MAX, &keeper) ||
	    !json_get_int(root, "keeper_start", 0, INT64_MAX, &start) ||
	    !json_get_int(root, "generation", 1, UINT32_MAX, &generation) ||
	    !json_get_int(root, "ram_bytes", 1, INT64_MAX, &ram) ||
	    !json_get_int(root, "started", 0, INT64_MAX, &state->started) ||
	    !json_get_int(root, "upgraded", 0, INT64_MAX, &state->upgraded))
		return -EPROTO;
	state->keeper = (pid_t)keeper;
	state->keeper_start = (uint64_t)start;
	state->generation = (uint32_t)generation;
	state->ram = (uint64_t)ram;
	state->argv = strings_from_json(json_get(root, "argv", json_type_array));
	state->added = strings_from_json(json_get(root, "added", json_type_array));
	if (state->argv && state->added && processes_from_json(root, state) &&
	    asides_from_json(root, &state->asides) &&
	    copy_string(root, "name", state->name, sizeof(state->name)) &&
	    copy_string(root, "boot", state->boot, sizeof(state->boot)) &&
	    state_name_valid(state->name))
		return 0;
	state_free(state);
	return -EPROTO;
}

void state_free(struct state *state)
{
	for (unsigned int i = 0; i < STATE_PROCESSES; i++)
		free(state->process[i].qemu);
	free_strings(state->argv);
	free_strings(state->added);
	for (unsigned int i = 0; i < state->asides.n; i++)
		free(state->asides.items[i].name);
	free(state->asides.items);
	memset(state, 0, sizeof(*state));
}

static int write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

static int write_aside(const struct state_dir *dir, const char *text, size_t len)
{
	int fd = openat(dir->fd, "vm.json.new",
			O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	int err;

	if (fd < 0)
		return -errno;
	err = write_all(fd, text, len);
	if (!err && fsync(fd))
		err = -errno;
	close(fd);
	return err;
}

int state_write(const struct state_dir *dir, const struct state *state)
{
	struct json_object *root = state_to_json(state);
	size_t len;
	const char *text = json_object_to_json_string_length(root, FLAGS_PRETTY, &len);
	int err = text ? write_aside(dir, text, len) : -ENOMEM;

	/* Renamed only once it is on the disk, so that there is always one whole file. */
	if (!err && renameat(dir->fd, "vm.json.new", dir->fd, "vm.json"))
		err = -errno;
	if (!err && fsync(dir->fd))
		err = -errno;
	json_object_put(root);
	return err;
}

static int read_file(const struct state_dir *dir, char **text, size_t *len)
{
	int fd = openat(dir->fd, "vm.json", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	ssize_t n = -1;

	if (fd < 0)
		return -errno;
	*text = NULL;
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size <= FILE_MAX) {
		*text = malloc((size_t)st.st_size + 1);
		n = *text ? read(fd, *text, (size_t)st.st_size) : -1;
	}
	close(fd);
	if (n >= 0) {
		*len = (size_t)n;
		return 0;
	}
	free(*text);
	return -EPROTO;
}

int state_read(const struct state_dir *dir, struct state *state)
{
	struct json_object *root;
	size_t len = 0;
	char *text = NULL;
	int err = read_file(dir, &text, &len);

	if (err)
		return err;
	root = json_read_object(text, len);
	free(text);
	if (!root)
		return -EPROTO;
	err = state_from_json(root, state);
	json_object_put(root);
	return err;
}

int state_process_open(const struct state *state, unsigned int i)
{
	char boot[sizeof(state->boot)];

	proc_boot_id(boot, sizeof(boot));
	if (strcmp(boot, state->boot) != 0)
		return -ESRCH;
	return proc_open(state->process[i].pid, state->process[i].start);
}
