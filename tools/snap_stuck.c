// SPDX-License-Identifier: MIT
/* Why a thread doesn't stop, or doesn't do what it is told: its cgroup, its child, or its tracer.
 */
#include <errno.h>
#include <linux/sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tools/snap.h"

/* ---- frozen */

/* The freezers of cgroup v1 and v2: by what they are known, and who says that it is frozen. */
static const struct freezer {
	const char *type, *controller, *file, *frozen;
} freezers[] = {
	{"cgroup2", "", "cgroup.events", "frozen 1"},
	{"cgroup", "freezer", "freezer.state", "FR"},
};

/* Is this word one of a list with commas? */
static bool is_listed(const char *list, size_t len, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = list, *end = list + len; at <= end; at += strcspn(at, ",") + 1) {
		size_t item = strcspn(at, ",");
		item = item < (size_t)(end - at) ? item : (size_t)(end - at);
		if (item == n && !strncmp(at, word, n))
			return true;
	}
	return false;
}

/* Where in this hierarchy the thread is, "4:freezer:/path"; to be freed. */
static char *path_in(const struct freezer *f, pid_t tid)
{
	char *text = snap_read_proc(tid, "cgroup", NULL), *path = NULL, *rest;

	for (char *line = text ? strtok_r(text, "\n", &rest) : NULL; line && !path;
	     line = strtok_r(NULL, "\n", &rest)) {
		const char *list = strchr(line, ':');
		const char *at = list ? strchr(list + 1, ':') : NULL;
		if (at && is_listed(list + 1, (size_t)(at - list - 1), f->controller))
			path = strdup(at + 1);
	}
	free(text);
	return path;
}

/* "36 35 98:0 ROOT PLACE OPTIONS - TYPE SOURCE OPTIONS" */
static bool is_mount_of(const struct freezer *f, const char *line, char root[512], char place[512])
{
	char type[32], options[256];
	const char *rest = strstr(line, " - ");

	if (!rest || sscanf(rest, " - %31s %*s %255s", type, options) != 2 ||
	    sscanf(line, "%*s %*s %*s %511s %511s", root, place) != 2)
		return false;
	return !strcmp(type, f->type) &&
	       (!*f->controller || is_listed(options, strlen(options), f->controller));
}

/* The file of that cgroup; to be freed. NULL: it can't be seen from here. */
static char *find_file(const struct freezer *f, const char *path)
{
	char *text = snap_read_proc(getpid(), "mountinfo", NULL), *file = NULL, *rest;
	char root[512], place[512];

	for (char *line = text ? strtok_r(text, "\n", &rest) : NULL; line && !file;
	     line = strtok_r(NULL, "\n", &rest)) {
		if (!is_mount_of(f, line, root, place))
			continue;
		size_t skip = strcmp(root, "/") != 0 ? strlen(root) : 0;
		if (!strncmp(path, root, skip) &&
		    asprintf(&file, "%s%s/%s", place, path + skip, f->file) < 0)
			file = NULL;
	}
	free(text);
	return file;
}

static bool says(const char *file, const char *what)
{
	char text[256] = "";
	FILE *f = fopen(file, "re");

	if (!f)
		return false;
	size_t n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = 0;
	return strstr(text, what);
}

bool snap_is_frozen(pid_t tid)
{
	bool frozen = false;

	for (size_t i = 0; !frozen && i < sizeof(freezers) / sizeof(freezers[0]); i++) {
		char *path = path_in(&freezers[i], tid);
		char *file = path ? find_file(&freezers[i], path) : NULL;
		frozen = file && says(file, freezers[i].frozen);
		free(file);
		free(path);
	}
	return frozen;
}

/* ---- waiting, or traced */

char snap_state(pid_t tid)
{
	char *text = snap_read_proc(tid, "stat", NULL);
	const char *rest = text ? strrchr(text, ')') : NULL;
	char state = 'X';

	if (rest && rest[1])
		state = rest[2];
	free(text);
	return state;
}

static bool is_in_vfork(const struct snap_target *target, pid_t tid)
{
	char *text = snap_read_proc(tid, "syscall", NULL);
	long number = -1;
	uint64_t flags = 0;

	if (text && sscanf(text, "%ld %lx", &number, &flags) < 2)
		number = -1;
	free(text);
	if (number == SYS_clone3 &&
	    pread(target->mem, &flags, sizeof(flags), (off_t)flags) != sizeof(flags))
		return false;
	return number == SYS_vfork ||
	       ((number == SYS_clone || number == SYS_clone3) && (flags & CLONE_VFORK));
}

pid_t snap_tracer(pid_t tid)
{
	long tracer = snap_status(tid, "\nTracerPid:");
	return tracer > 0 ? (pid_t)tracer : 0;
}

int snap_why_stuck(const struct snap_target *target, pid_t tid, struct why *why)
{
	int pid = (int)target->pid;

	if (snap_is_frozen(tid))
		return why_set(why, -EAGAIN,
			       "process %d is frozen by its cgroup: thaw it, and try again", pid);
	if (is_in_vfork(target, tid))
		return why_set(why, -EAGAIN,
			       "thread %d of process %d waits for its vfork()ed child: try again",
			       (int)tid, pid);
	if (snap_state(tid) == 'R')
		return why_set(why, -EAGAIN,
			       "thread %d of process %d doesn't get a CPU: try again when there is "
			       "less to do",
			       (int)tid, pid);
	return why_set(why, -EAGAIN,
		       "thread %d of process %d doesn't stop: it waits for a device or a file "
		       "system, see /proc/%d/stack: try again",
		       (int)tid, pid, (int)tid);
}
