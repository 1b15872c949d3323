// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "harness.h"
#include "lib/uffd_abi.h"
#include "proc.h"

static int open_proc(pid_t pid, const char *name)
{
	char path[128];

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	else
		snprintf(path, sizeof(path), "/proc/%s", name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

ssize_t proc_read(pid_t pid, const char *name, char *buf, size_t n)
{
	size_t have = 0;
	ssize_t got = 0;
	int fd = open_proc(pid, name);

	if (fd < 0)
		return -errno;
	while (have < n - 1 && (got = read(fd, buf + have, n - 1 - have)) > 0)
		have += (size_t)got;
	close(fd);
	if (got < 0)
		return -errno;
	buf[have] = '\0';
	return (ssize_t)have;
}

int file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

FILE *file_open(const char *path)
{
	FILE *f = fopen(path, "re");

	if (!f)
		test_failed(__FILE__, __LINE__, "%s: %s", path, strerror(errno));
	return f;
}

uint64_t file_number(const char *path)
{
	char buf[64] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, buf, sizeof(buf) - 1) <= 0)
		test_failed(__FILE__, __LINE__, "%s: %s", path, strerror(errno));
	close(fd);
	return strtoull(buf, NULL, 10);
}

static uint64_t field_kb(pid_t pid, const char *file, const char *field)
{
	char buf[16384], *line, *save;
	size_t n = strlen(field);

	if (proc_read(pid, file, buf, sizeof(buf)) < 0)
		test_failed(__FILE__, __LINE__, "/proc/%d/%s: can't be read", (int)pid, file);
	for (line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (!strncmp(line, field, n) && line[n] == ':')
			return strtoull(line + n + 1, NULL, 10);
	test_failed(__FILE__, __LINE__, "/proc/%d/%s: no %s", (int)pid, file, field);
}

uint64_t status_kb(pid_t pid, const char *field)
{
	return field_kb(pid ? pid : getpid(), "status", field);
}

uint64_t meminfo_kb(const char *field)
{
	return field_kb(0, "meminfo", field);
}

bool near_kb(uint64_t is, uint64_t want, uint64_t slack)
{
	bool good = is + slack >= want && is <= want + slack;

	if (!good)
		note("%" PRIu64 " KiB, not %" PRIu64, is, want);
	return good;
}

struct look {
	uint64_t from, to;
	const char *field;
	const char *flag;
	uint64_t kb;
	unsigned int mappings, flagged;
	bool inside;
};

static void look_at_line(struct look *look, const char *line)
{
	uint64_t start, end;
	size_t n = strlen(look->field);

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2) {
		look->inside = start < look->to && look->from < end;
		look->mappings += look->inside;
	} else if (look->inside && !strncmp(line, look->field, n) && line[n] == ':') {
		look->kb += strtoull(line + n + 1, NULL, 10);
	} else if (look->inside && look->flag && !strncmp(line, "VmFlags:", 8)) {
		look->flagged += strstr(line, look->flag) != NULL;
	}
}

static struct look smaps(pid_t pid, uint64_t addr, size_t len, const char *field,
			 const char *flag)
{
	struct look look = {.from = addr, .to = addr + len, .field = field, .flag = flag};
	char path[64], line[1024];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)(pid ? pid : getpid()));
	f = file_open(path);
	while (fgets(line, sizeof(line), f))
		look_at_line(&look, line);
	fclose(f);
	return look;
}

uint64_t smaps_kb(pid_t pid, uint64_t addr, size_t len, const char *field)
{
	return smaps(pid, addr, len, field, NULL).kb;
}

unsigned int smaps_mappings(pid_t pid, uint64_t addr, size_t len)
{
	return smaps(pid, addr, len, "Rss", NULL).mappings;
}

bool smaps_mergeable(pid_t pid, uint64_t addr, size_t len)
{
	struct look look = smaps(pid, addr, len, "Rss", " mg");

	return look.mappings && look.flagged == look.mappings;
}

/* ---- pages */

#define FRAME ((1ull << 55) - 1)

static void read_pagemap(int fd, uint64_t addr, uint64_t *entries, size_t npages)
{
	ssize_t n = pread(fd, entries, npages * 8, (off_t)(addr / PAGE * 8));

	if (n != (ssize_t)(npages * 8))
		test_failed(__FILE__, __LINE__, "pagemap at 0x%" PRIx64 ": %s", addr,
			    n < 0 ? strerror(errno) : "short");
}

static int open_pagemap(pid_t pid)
{
	int fd = open_proc(pid ? pid : getpid(), "pagemap");

	if (fd < 0)
		test_failed(__FILE__, __LINE__, "pagemap of %d: %s", (int)pid, strerror(errno));
	return fd;
}

static bool is_huge(int pagemap, uint64_t addr)
{
	struct page_region region;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = addr,
		.end = addr + PAGE,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = PAGE_IS_HUGE,
		.return_mask = PAGE_IS_HUGE,
	};
	int n = ioctl(pagemap, PAGEMAP_SCAN, &arg);

	check_call(n);
	return n > 0;
}

uint64_t page_state(pid_t pid, uint64_t addr)
{
	int fd = open_pagemap(pid);
	uint64_t entry;

	read_pagemap(fd, addr, &entry, 1);
	entry &= ~FRAME;
	if ((entry & PM_PRESENT) && is_huge(fd, addr))
		entry |= PM_HUGE;
	close(fd);
	return entry;
}

/* With @bits 0: those that are neither here nor in swap. */
static size_t count(pid_t pid, uint64_t addr, size_t len, uint64_t bits)
{
	uint64_t entries[512];
	size_t found = 0;
	int fd = open_pagemap(pid);

	for (size_t left = len / PAGE; left;) {
		size_t n = left < COUNT(entries) ? left : COUNT(entries);

		read_pagemap(fd, addr, entries, n);
		for (size_t i = 0; i < n; i++)
			found += bits ? (entries[i] & bits) == bits
				      : !(entries[i] & (PM_PRESENT | PM_SWAPPED));
		addr += n * PAGE;
		left -= n;
	}
	close(fd);
	return found;
}

size_t count_pages(pid_t pid, uint64_t addr, size_t len, uint64_t bits)
{
	return count(pid, addr, len, bits);
}

size_t count_holes(pid_t pid, uint64_t addr, size_t len)
{
	return count(pid, addr, len, 0);
}

void find_holes(pid_t pid, uint64_t addr, bool *holes, size_t npages)
{
	uint64_t entries[512];
	int fd = open_pagemap(pid);

	for (size_t i = 0; i < npages; i++) {
		size_t left = npages - i, at = i % COUNT(entries);

		if (!at)
			read_pagemap(fd, addr + i * PAGE, entries,
				     left < COUNT(entries) ? left : COUNT(entries));
		holes[i] = !(entries[at] & (PM_PRESENT | PM_SWAPPED));
	}
	close(fd);
}

size_t count_same(pid_t pid, uint64_t addr, pid_t other, uint64_t there, size_t len)
{
	int fds[2] = {open_pagemap(pid), open_pagemap(other)};
	uint64_t a[512], b[512];
	size_t same = 0;

	for (size_t done = 0, n; done < len / PAGE; done += n) {
		n = len / PAGE - done < 512 ? len / PAGE - done : 512;
		read_pagemap(fds[0], addr + done * PAGE, a, n);
		read_pagemap(fds[1], there + done * PAGE, b, n);
		for (size_t i = 0; i < n; i++)
			same += (a[i] & PM_PRESENT) && (b[i] & PM_PRESENT) &&
				(a[i] & FRAME) == (b[i] & FRAME);
	}
	close(fds[0]);
	close(fds[1]);
	return same;
}

uint64_t page_frame(pid_t pid, uint64_t addr)
{
	int fd = open_pagemap(pid);
	uint64_t entry;

	read_pagemap(fd, addr, &entry, 1);
	close(fd);
	return entry & PM_PRESENT ? entry & FRAME : 0;
}

uint64_t page_kflags(pid_t pid, uint64_t addr)
{
	uint64_t frame = page_frame(pid, addr), flags = 0;
	int fd;

	if (!frame)
		return 0;
	fd = open_proc(0, "kpageflags");
	check_call(fd);
	if (pread(fd, &flags, sizeof(flags), (off_t)(frame * 8)) != sizeof(flags))
		test_failed(__FILE__, __LINE__, "kpageflags: %s", strerror(errno));
	close(fd);
	return flags;
}
