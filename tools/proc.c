/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tools/proc.h"

static ssize_t read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t len;

	if (fd < 0)
		return -errno;
	len = read(fd, text, size - 1);
	if (len < 0)
		len = -errno;
	close(fd);
	text[len > 0 ? len : 0] = '\0';
	return len;
}

int proc_start_time(pid_t pid, uint64_t *start)
{
	char path[64], text[1024];
	char *field;
	ssize_t len;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	len = read_text(path, text, sizeof(text));
	if (len < 0)
		return (int)len;
	/* The name is in brackets and may itself hold spaces and brackets. What follows the last
	 * one is field 3; the start time is field 22. */
	field = strrchr(text, ')');
	for (int i = 2; field && i < 22; i++)
		field = strchr(field + 1, ' ');
	if (!field)
		return -EPROTO;
	*start = strtoull(field, NULL, 10);
	return 0;
}

int proc_open(pid_t pid, uint64_t start)
{
	uint64_t now;
	int fd;

	if (pid <= 0)
		return -ESRCH;
	fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		return -errno;
	/* Looked at after the pidfd was had: it can't become another process's any more. */
	if (!proc_start_time(pid, &now) && now == start && proc_wait(fd, 0))
		return fd;
	close(fd);
	return -ESRCH;
}

int proc_signal(int pidfd, int signal)
{
	return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) ? -errno : 0;
}

int proc_wait(int pidfd, int timeout_ms)
{
	struct pollfd poller = {.fd = pidfd, .events = POLLIN};
	int n;

	do {
		n = poll(&poller, 1, timeout_ms);
	} while (n < 0 && errno == EINTR);
	return n > 0 ? 0 : -ETIMEDOUT;
}

static uint64_t status_field(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

int proc_memory(pid_t pid, uint64_t *kib)
{
	char path[64], text[4096];
	ssize_t len;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	len = read_text(path, text, sizeof(text));
	if (len < 0)
		return (int)len;
	*kib = status_field(text, "\nRssAnon:") + status_field(text, "\nRssShmem:");
	return 0;
}

void proc_boot_id(char *id, size_t size)
{
	if (read_text("/proc/sys/kernel/random/boot_id", id, size) < 0)
		id[0] = '\0';
	id[strcspn(id, "\n")] = '\0';
}
