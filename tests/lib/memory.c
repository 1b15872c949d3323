// SPDX-License-Identifier: MIT
/* Memory of tests: mapping it, filling it, looking at it; see test.h. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "pageferry.h"
#include "tests/lib/test.h"
#include "tests/lib/undo.h"

char *map_memory(size_t len, size_t skip)
{
	size_t room = len + skip + BLOCK;
	char *all = mmap(NULL, room, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (all == MAP_FAILED)
		check_failed(__FILE__, __LINE__, "mmap()", errno);
	char *start = (char *)(((uintptr_t)all + BLOCK - 1) & ~(BLOCK - 1)) + skip;
	char *end = start + len;

	if (start > all)
		munmap(all, (size_t)(start - all));
	if (end < all + room)
		munmap(end, (size_t)(all + room - end));
	return start;
}

void unmap(void *addr, size_t len)
{
	if (munmap(addr, len) < 0)
		check_failed(__FILE__, __LINE__, "munmap()", errno);
}

void fill_page(void *page, uint64_t seed)
{
	uint64_t *word = page, state = seed * 0x9e3779b97f4a7c15ull | 1;

	for (size_t i = 0; i < PAGE / sizeof(*word); i++)
		word[i] = next_random(&state);
}

bool page_has(const void *page, uint64_t seed)
{
	const uint64_t *word = page;
	uint64_t state = seed * 0x9e3779b97f4a7c15ull | 1;

	for (size_t i = 0; i < PAGE / sizeof(*word); i++)
		if (word[i] != next_random(&state))
			return false;
	return true;
}

bool page_is_zero(const void *page)
{
	const uint64_t *word = page;

	for (size_t i = 0; i < PAGE / sizeof(*word); i++)
		if (word[i])
			return false;
	return true;
}

/* ---- accesses that may fail */

static _Thread_local sigjmp_buf back;
static _Thread_local volatile sig_atomic_t armed;

static void on_fault(int sig)
{
	if (armed) {
		armed = 0;
		siglongjmp(back, sig);
	}
	signal(sig, SIG_DFL);
}

/* cmocka sets its own handlers before each test, so look each time. */
static void catch_signal(int sig)
{
	struct sigaction now, want = {.sa_handler = on_fault};

	sigaction(sig, NULL, &now);
	if (now.sa_handler != on_fault)
		sigaction(sig, &want, NULL);
}

static int access_word(volatile uint64_t *word, uint64_t *value, bool write)
{
	catch_signal(SIGBUS);
	catch_signal(SIGSEGV);
	int sig = sigsetjmp(back, 1);
	if (sig)
		return sig;
	armed = 1;
	if (write)
		*word = *value;
	else
		*value = *word;
	armed = 0;
	return 0;
}

int peek(const void *addr, uint64_t *value)
{
	return access_word((volatile uint64_t *)(uintptr_t)addr, value, false);
}

int poke(void *addr, uint64_t value)
{
	return access_word(addr, &value, true);
}

/* ---- what the kernel says of a mapping */

struct look {
	uintptr_t from, to;
	const char *field;
	uint64_t bytes;
	bool flag;
};

static void look_at_line(struct look *look, const char *line, bool *inside)
{
	uintptr_t start, end;
	size_t n = strlen(look->field);

	if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &start, &end) == 2)
		*inside = start < look->to && look->from < end;
	else if (*inside && !strncmp(line, look->field, n) && line[n] == ':')
		look->bytes += strtoull(line + n + 1, NULL, 10) * 1024;
	else if (*inside && !strncmp(line, "VmFlags:", 8))
		look->flag |= strstr(line, look->field) != NULL;
}

static struct look smaps(const void *addr, size_t len, const char *field)
{
	struct look look = {.from = (uintptr_t)addr, .to = (uintptr_t)addr + len, .field = field};
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[1024];
	bool inside = false;

	if (!f)
		check_failed(__FILE__, __LINE__, "open smaps", errno);
	while (fgets(line, sizeof(line), f))
		look_at_line(&look, line, &inside);
	fclose(f);
	return look;
}

uint64_t smaps_bytes(const void *addr, size_t len, const char *field)
{
	return smaps(addr, len, field).bytes;
}

bool smaps_flag(const void *addr, size_t len, const char *flag)
{
	char spaced[8];

	snprintf(spaced, sizeof(spaced), " %s ", flag);
	return smaps(addr, len, spaced).flag;
}

static void read_pagemap(int fd, uintptr_t page, size_t n, uint64_t *entries)
{
	size_t len = n * sizeof(*entries);
	off_t at = (off_t)(page / PAGE * sizeof(*entries));

	if (pread(fd, entries, len, at) != (ssize_t)len)
		check_failed(__FILE__, __LINE__, "read pagemap", errno);
}

size_t pages_present(const void *start, size_t npages)
{
	uint64_t entry[512];
	size_t present = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	for (size_t i = 0; i < npages; i += COUNT(entry)) {
		size_t n = npages - i < COUNT(entry) ? npages - i : COUNT(entry);
		read_pagemap(fd, (uintptr_t)start + i * PAGE, n, entry);
		for (size_t j = 0; j < n; j++)
			present += entry[j] >> 62 != 0;
	}
	close(fd);
	return present;
}

bool page_protected(const void *page)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry;

	read_pagemap(fd, (uintptr_t)page, 1, &entry);
	close(fd);
	return entry >> 57 & 1;
}

bool page_present(const void *page)
{
	return pages_present(page, 1) == 1;
}

bool make_huge(void *addr, size_t len)
{
	if (madvise(addr, len, MADV_HUGEPAGE) < 0)
		return false;
	for (size_t i = 0; i < len; i += PAGE)
		*(volatile char *)((char *)addr + i) = 1;
	return smaps_bytes(addr, len, "AnonHugePages") >= len;
}

/* ---- userfaultfd */

static int open_or_skip(uint64_t features, unsigned int flags)
{
	int uffd = ferry_uffd_open(features, flags);

	if (uffd == -EPERM && (flags & FERRY_UFFD_KERNEL_FAULTS))
		SKIP("this user may not handle faults of kernel code: neither by /dev/userfaultfd nor by vm.unprivileged_userfaultfd");
	if (uffd == -EPERM)
		SKIP("this user may not use userfaultfd with the features 0x%llx",
		     (unsigned long long)features);
	if (uffd == -ENOSYS)
		SKIP("the kernel has no userfaultfd");
	if (uffd == -EOPNOTSUPP)
		SKIP("the kernel's userfaultfd lacks a feature of 0x%llx",
		     (unsigned long long)features);
	assert_true(uffd >= 0);
	return uffd;
}

int open_uffd(uint64_t features)
{
	return open_or_skip(features, 0);
}

int open_uffd_kernel(uint64_t features)
{
	return open_or_skip(features, FERRY_UFFD_KERNEL_FAULTS);
}

/* ---- KSM */

#define KSM_RUN "/sys/kernel/mm/ksm/run"

static int ksm_undo;

static bool set_ksm(char run, int *what)
{
	char before = 0, command[64];
	int fd = open(KSM_RUN, O_RDWR | O_CLOEXEC);
	bool known = fd >= 0 && read(fd, &before, 1) == 1;

	if (known) {
		snprintf(command, sizeof(command), "echo %c >" KSM_RUN, before);
		*what = undo_later(command);
	}
	bool set = known && pwrite(fd, &run, 1, 0) == 1;
	if (known && !set)
		undo(*what);
	if (fd >= 0)
		close(fd);
	return set;
}

bool ksm_begin(void)
{
	return set_ksm('1', &ksm_undo);
}

void ksm_off(void)
{
	int until_it_ends;
	set_ksm('0', &until_it_ends);
}

void ksm_end(void)
{
	undo(ksm_undo);
}
