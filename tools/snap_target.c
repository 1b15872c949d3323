// SPDX-License-Identifier: MIT
/* Who is to be snapshotted, and can it be? */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/snapshot.h"
#include "tools/snap.h"

char *snap_read_proc(pid_t pid, const char *name, size_t *len)
{
	char path[64], *text = NULL;
	size_t size = 0, cap = 0;
	ssize_t n = 1;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	while (n > 0) {
		if (cap - size < 4096) {
			char *more = realloc(text, cap = cap * 2 + 65536);
			if (!more) {
				n = -1;
				break;
			}
			text = more;
		}
		n = read(fd, text + size, cap - size - 1);
		size += n > 0 ? (size_t)n : 0;
	}
	close(fd);
	/* Half a list looks like a whole one. */
	if (n < 0) {
		free(text);
		return NULL;
	}
	text[size] = 0;
	if (len)
		*len = size;
	return text;
}

/* The number behind @key in a status file; -1: it isn't there. */
static long status_number(const char *status, const char *key)
{
	const char *line = strstr(status, key);
	return line ? strtol(line + strlen(key), NULL, 10) : -1;
}

long snap_status(pid_t tid, const char *key)
{
	char *status = snap_read_proc(tid, "status", NULL);
	long number = status ? status_number(status, key) : -1;

	free(status);
	return number;
}

static int refuse_by_status(pid_t pid, const char *status, struct why *why)
{
	const char *state = strstr(status, "\nState:\t");
	long tgid = status_number(status, "\nTgid:\t");
	pid_t tracer = snap_tracer(pid);

	if (tgid != pid)
		return why_set(why, -EINVAL, "%d is a thread: snapshot its process, %ld", (int)pid,
			       tgid);
	if (state && (state[8] == 'Z' || state[8] == 'X') && !strstr(status, "\nVmSize:"))
		return why_set(why, -ESRCH, "process %d has ended: it is a zombie", (int)pid);
	if (!strstr(status, "\nVmSize:"))
		return why_set(why, -EINVAL, "%d is a kernel thread: it has no memory of its own",
			       (int)pid);
	if (tracer > 0)
		return why_set(why, -EBUSY,
			       "process %d is being traced by process %d: end that first", (int)pid,
			       (int)tracer);
	if (snap_is_frozen(pid))
		return why_set(why, -EAGAIN,
			       "process %d is frozen by its cgroup: thaw it, and try again",
			       (int)pid);
	if (strstr(status, "x86_Thread_features:\tshstk"))
		return why_set(why, -EOPNOTSUPP, "process %d has a shadow stack: not supported",
			       (int)pid);
	return 0;
}

static int check_class(pid_t pid, struct why *why)
{
	unsigned char ident[20] = {0};
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return why_set(why, -errno,
			       "process %d can't be looked at: %s: run as its user or as root",
			       (int)pid, strerror(errno));
	ssize_t n = read(fd, ident, sizeof(ident));
	close(fd);
	if (n != sizeof(ident) || ident[EI_CLASS] != ELFCLASS64 || ident[18] != EM_X86_64)
		return why_set(why, -EOPNOTSUPP,
			       "process %d is no 64-bit x86 program: not supported", (int)pid);
	return 0;
}

static int open_memory(struct snap_target *t, struct why *why)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)t->pid);
	t->mem = open(path, O_RDWR | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)t->pid);
	t->pagemap = t->mem < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	if (t->pagemap < 0)
		return why_set(
			why, -errno,
			"the memory of process %d can't be opened: %s: run as its user or as "
			"root, see ptrace(2)",
			(int)t->pid, strerror(errno));
	if (snapshot_can_scan(t->pagemap))
		return why_set(why, -EOPNOTSUPP, "this kernel has no PAGEMAP_SCAN: Linux 6.7 has");
	return 0;
}

/*
 * Two at once would take each other's protection for the process' own. The lock is of its memory's
 * file, so that nobody can hold it who may not look at that.
 */
static int lock(struct snap_target *t, struct why *why)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)t->pid);
	t->lock = open(path, O_RDONLY | O_CLOEXEC);
	if (t->lock >= 0 && !flock(t->lock, LOCK_EX | LOCK_NB))
		return 0;
	return errno == EWOULDBLOCK
		       ? why_set(why, -EBUSY,
				 "another snapshot of process %d is under way: try again when it has "
				 "ended",
				 (int)t->pid)
		       : why_set(why, -errno, "%s can't be locked: %s", path, strerror(errno));
}

static void read_filter(struct snap_target *t)
{
	char *text = snap_read_proc(t->pid, "coredump_filter", NULL);

	t->filter = text ? (unsigned int)strtoul(text, NULL, 16) : 0x33;
	free(text);
}

static int look(struct snap_target *t, struct why *why)
{
	char *status = snap_read_proc(t->pid, "status", NULL);

	if (!status)
		return why_set(why, -ESRCH, "there is no process %d", (int)t->pid);
	int ret = refuse_by_status(t->pid, status, why);
	free(status);
	return ret ? ret : check_class(t->pid, why);
}

int snap_open(struct snap_target *t, pid_t pid, struct why *why)
{
	*t = (struct snap_target){.pid = pid, .pidfd = -1, .mem = -1, .pagemap = -1, .lock = -1};
	if (pid == getpid())
		return why_set(why, -EINVAL, "%d is this command itself", (int)pid);
	/* First, so that whoever has this number afterwards is the one that is looked at. */
	t->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (t->pidfd < 0 && errno != EINVAL && errno != ENOENT)
		return why_set(why, -errno, errno == ESRCH ? "there is no process %d" : "%d: %m",
			       (int)pid);
	int ret = look(t, why);
	if (!ret && t->pidfd < 0)
		ret = why_set(why, -ESRCH, "there is no process %d", (int)pid);
	if (!ret)
		ret = open_memory(t, why);
	if (!ret)
		ret = lock(t, why);
	if (!ret && snap_has_ended(t))
		ret = why_set(why, -ESRCH, "process %d has ended", (int)pid);
	if (!ret)
		read_filter(t);
	return ret;
}

/* Until it was stopped it may have become another program, whose memory this isn't. */
int snap_reopen(struct snap_target *t, struct why *why)
{
	if (snap_has_ended(t))
		return why_set(why, -ESRCH, "process %d has ended", (int)t->pid);
	close(t->mem);
	close(t->pagemap);
	t->mem = t->pagemap = -1;
	int ret = open_memory(t, why);
	if (!ret)
		read_filter(t);
	return ret;
}

bool snap_has_filter(pid_t pid, pid_t tid)
{
	char name[64];

	snprintf(name, sizeof(name), "task/%d/status", (int)tid);
	char *status = snap_read_proc(pid, name, NULL);
	/* If it isn't known: a filter that isn't there does no harm. */
	bool filter = !status || status_number(status, "\nSeccomp:\t") != 0;
	free(status);
	return filter;
}

void snap_close(struct snap_target *t)
{
	if (t->pidfd >= 0)
		close(t->pidfd);
	if (t->mem >= 0)
		close(t->mem);
	if (t->pagemap >= 0)
		close(t->pagemap);
	/* A holder that has only just been forked has the descriptor, too, until it closes what it was left. */
	if (t->lock >= 0) {
		flock(t->lock, LOCK_UN);
		close(t->lock);
	}
}

bool snap_has_ended(const struct snap_target *t)
{
	struct pollfd fd = {.fd = t->pidfd, .events = POLLIN};
	return poll(&fd, 1, 0) > 0;
}
