// SPDX-License-Identifier: MIT
/* timeout: 200 */
/* needs: userfaultfd */
/*
 * All kinds of memory: in the file is what was there at the moment, though the process changes it
 * while it is saved, or it is reported that it is live, or it isn't there at all.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/uffd.h"
#include "tests/lib/subject.h"
#include "tests/lib/undo.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define LEN   (64 * PAGE)
#define GUARD (LEN / 2) /* where the page is that differs, of those kinds that have one */

enum expected { FROZEN, HALF, LIVE, NOT_THERE };

struct kind {
	const char *name;
	enum expected expected;
	char *(*make)(void); /* filled from its beginning on; NULL: not on this machine */
	bool has_guard;
};

/* ---- how they are made, in the target */

static void fill(char *at)
{
	for (size_t i = 0; i < LEN; i += PAGE)
		fill_page(at + i, (uint64_t)i / PAGE);
}

static char *filled(char *at)
{
	if (at == MAP_FAILED)
		return NULL;
	fill(at);
	return at;
}

static char *anonymous(void)
{
	char *at = map_memory(LEN, 0);

	madvise(at, LEN, MADV_NOHUGEPAGE);
	return filled(at);
}

static char *huge(void)
{
	char *at = map_memory(BLOCK, 0);

	return make_huge(at, BLOCK) ? filled(at) : NULL;
}

static char *advised(int advice)
{
	char *at = anonymous();

	return madvise(at, LEN, advice) ? NULL : at;
}

static char *not_dumped(void)
{
	return advised(MADV_DONTDUMP);
}

static char *wiped_on_fork(void)
{
	return advised(MADV_WIPEONFORK);
}

static char *not_forked(void)
{
	return advised(MADV_DONTFORK);
}

static char *locked(void)
{
	char *at = anonymous();

	return mlock(at, LEN) ? NULL : at;
}

static bool is_merged(void)
{
	return file_has(getpid(), "ksm_stat", "ksm_merging_pages [1-9][0-9]\\{1,\\}");
}

/* With one that is the same. */
static char *merged(void)
{
	char *at = advised(MADV_MERGEABLE);
	int64_t until = now_ms() + 15000;

	if (!at || !advised(MADV_MERGEABLE))
		return NULL;
	while (!is_merged() && now_ms() < until)
		usleep(20000);
	return is_merged() ? at : NULL;
}

static bool is_swapped(const char *at)
{
	return smaps_bytes(at, LEN, "Swap") >= LEN / 2;
}

static char *swapped(void)
{
	char *at = anonymous();

	for (unsigned int i = 0; i < 20 && !is_swapped(at); i++) {
		madvise(at, LEN, MADV_PAGEOUT);
		usleep(20000);
	}
	return is_swapped(at) ? at : NULL;
}

/* What is in it was written before. */
static char *with_guard(void)
{
	char *at = anonymous();

	return mprotect(at + GUARD, PAGE, PROT_NONE) ? NULL : at;
}

static char *with_guard_region(void)
{
	char *at = anonymous();

	return madvise(at + GUARD, PAGE, MADV_GUARD_INSTALL) ? NULL : at;
}

static char *shared(void)
{
	return filled(mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
}

static char *map_file(int fd, int flags)
{
	if (fd < 0 || ftruncate(fd, LEN))
		return NULL;
	char *at = mmap(NULL, LEN, PROT_READ | PROT_WRITE, flags, fd, 0);
	close(fd);
	return at;
}

static char *memfd(void)
{
	return filled(map_file(memfd_create("kind", MFD_CLOEXEC), MAP_SHARED));
}

static char *in_tmpfs(void)
{
	int fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	return fd < 0 ? NULL : filled(map_file(fd, MAP_SHARED));
}

static char *file_changed(void)
{
	int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	return fd < 0 ? NULL : filled(map_file(fd, MAP_PRIVATE));
}

/* Every fifth page is the process's own; the others are as in the file, which has no name. */
static char *file_in_part(void)
{
	int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char *all = fd < 0 ? NULL : filled(map_file(dup(fd), MAP_SHARED));
	char *at = all ? map_file(fd, MAP_PRIVATE) : NULL;

	for (size_t i = 0; at && i < LEN; i += 5 * PAGE)
		*(volatile char *)(at + i) = at[i];
	return at;
}

static char *file_with_guard(void)
{
	char *at = file_in_part();
	return at && !madvise(at + GUARD, PAGE, MADV_GUARD_INSTALL) ? at : NULL;
}

/* Of the other half there is nothing any more. */
static char *file_cut(void)
{
	int fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char *at = fd < 0 ? NULL : filled(map_file(dup(fd), MAP_PRIVATE));

	if (!at || pwrite(fd, at, LEN, 0) != (ssize_t)LEN || madvise(at, LEN, MADV_DONTNEED) ||
	    ftruncate(fd, LEN / 2))
		return NULL;
	close(fd);
	*(volatile char *)at = at[0];
	return at;
}

static char *secret(void)
{
	int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
	return fd < 0 ? NULL : filled(map_file(fd, MAP_SHARED));
}

static char *hugetlb(void)
{
	return filled(mmap(NULL, BLOCK, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
}

/* The page that isn't there would be served by nobody. */
static char *served(void)
{
	uint64_t features = 0, ioctls;
	int uffd = uffd_open_best(&features, 0);
	char *at = anonymous();

	if (uffd < 0 ||
	    uffd_register(uffd, (uintptr_t)at, LEN, UFFDIO_REGISTER_MODE_MISSING, &ioctls))
		return NULL;
	madvise(at + GUARD, PAGE, MADV_DONTNEED);
	return at;
}

static const struct kind kinds[] = {
	{"anonymous", FROZEN, anonymous, false},
	{"huge", FROZEN, huge, false},
	{"wiped on fork", FROZEN, wiped_on_fork, false},
	{"not forked", FROZEN, not_forked, false},
	{"locked", FROZEN, locked, false},
	{"merged by KSM", FROZEN, merged, false},
	{"swapped out", FROZEN, swapped, false},
	{"with PROT_NONE", FROZEN, with_guard, false},
	{"with a guard region", FROZEN, with_guard_region, true},
	{"a changed file", FROZEN, file_changed, false},
	{"a file, changed in part", FROZEN, file_in_part, false},
	{"a file with a guard region", FROZEN, file_with_guard, true},
	{"a file that was cut", HALF, file_cut, false},
	{"shared", LIVE, shared, false},
	{"memfd", LIVE, memfd, false},
	{"tmpfs", LIVE, in_tmpfs, false},
	{"hugetlb", LIVE, hugetlb, false},
	{"of a userfaultfd", LIVE, served, true},
	{"not dumped", NOT_THERE, not_dumped, false},
	{"memfd_secret", NOT_THERE, secret, false},
};

/* ---- the target */

static struct scene {
	char *volatile at[COUNT(kinds)];
	volatile unsigned int ready, change, changed, leave;
} * scene;

static void change(unsigned int i)
{
	size_t len = kinds[i].expected == HALF ? LEN / 2 : LEN;

	for (size_t at = 0; scene->at[i] && at < len; at += PAGE)
		if (at != GUARD)
			memset(scene->at[i] + at, 0xee, PAGE);
}

static int run_scene(void *arg)
{
	(void)arg;
	alarm(120);
	for (unsigned int i = 0; i < COUNT(kinds); i++)
		scene->at[i] = kinds[i].make();
	scene->ready = 1;
	while (!scene->change)
		usleep(1000);
	for (unsigned int i = 0; i < COUNT(kinds); i++)
		change(i);
	scene->changed = 1;
	while (!scene->leave)
		usleep(1000);
	uint64_t value;
	/* The guard is still there. */
	for (unsigned int i = 0; i < COUNT(kinds); i++)
		if (scene->at[i] && kinds[i].make == with_guard_region)
			check_equal(peek(scene->at[i] + GUARD, &value), SIGSEGV);
	return 0;
}

static pid_t scene_start(void)
{
	scene = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid = spawn(run_scene, NULL);
	for (int64_t until = now_ms() + 30000; !scene->ready; usleep(1000))
		assert_true(now_ms() < until);
	return pid;
}

static void scene_end(pid_t pid)
{
	scene->change = 1;
	scene->leave = 1;
	assert_int_equal(wait_exit(pid), 0);
	unmap(scene, PAGE);
}

/* ---- the machine */

#define KSM "/sys/kernel/mm/ksm/"

/* -1: there is no such setting, or it isn't ours to change. */
static int setting(const char *path)
{
	int value = -1;
	FILE *f = access(path, W_OK) ? NULL : fopen(path, "re");

	if (!f)
		return -1;
	if (fscanf(f, "%d", &value) != 1)
		value = -1;
	fclose(f);
	return value;
}

/* As it was; the swap file is used until it is off. */
static int undo_all(const char *swap, int run, int pages, int huge)
{
	char command[512];

	snprintf(command, sizeof(command),
		 "swapoff %s; rm -f %s; [ %d -lt 0 ] || echo %d >" KSM "run; "
		 "[ %d -lt 0 ] || echo %d >" KSM "pages_to_scan; "
		 "[ %d -lt 0 ] || echo %d >/proc/sys/vm/nr_hugepages",
		 swap, swap, run, run, pages, pages, huge, huge);
	return undo_later(command);
}

static int prepare_machine(void)
{
	char swap[64], command[512];
	int huge = setting("/proc/sys/vm/nr_hugepages");

	snprintf(swap, sizeof(swap), "/tmp/pageferry-swap-%d", (int)getpid());
	int what = undo_all(swap, setting(KSM "run"), setting(KSM "pages_to_scan"), huge);
	snprintf(command, sizeof(command),
		 "{ echo 1 >" KSM "run; echo 5000 >" KSM "pages_to_scan; "
		 "echo %d >/proc/sys/vm/nr_hugepages; "
		 "dd if=/dev/zero of=%s bs=1M count=32 && chmod 600 %s && mkswap %s && "
		 "swapon %s; } >/dev/null 2>&1",
		 huge + 1, swap, swap, swap, swap);
	if (system(command)) /* NOLINT(cert-env33-c) */
		print_message("# there is no swap\n");
	return what;
}

/* ---- tests */

static bool is_old(const char *page, size_t i)
{
	return page && page_has(page, i);
}

static void check_frozen(const struct elf *e, const struct kind *k, const char *at)
{
	for (size_t i = 0; i < LEN / PAGE; i++) {
		const char *page = elf_at(e, at + i * PAGE, PAGE);
		if (k->has_guard && i == GUARD / PAGE)
			assert_true(!page || page_is_zero(page));
		else if (k->expected == HALF && i >= LEN / PAGE / 2)
			assert_null(page);
		else if (!is_old(page, i))
			fail_msg("%s: page %zu is %s", k->name, i, page ? "not old" : "missing");
	}
}

static void check_live(const struct elf *e, const struct kind *k, const char *at)
{
	char start[64];

	for (size_t i = 0; i < LEN / PAGE; i++) {
		const char *page = elf_at(e, at + i * PAGE, PAGE);
		if (k->has_guard && i == GUARD / PAGE)
			assert_null(page);
		else if (!page || (!is_old(page, i) && page[7] != (char)0xee))
			fail_msg("%s: page %zu is %s", k->name, i, page ? "wrong" : "missing");
	}
	snprintf(start, sizeof(start), "\"start\": \"%p\"", (const void *)at);
	assert_true(said(report, start));
}

static void check_kind(const struct elf *e, unsigned int i)
{
	const struct kind *k = &kinds[i];
	const char *at = scene->at[i];

	print_message("# %s: %s\n", k->name, at ? "there" : "not on this machine");
	if (!at)
		return;
	if (k->expected == FROZEN || k->expected == HALF)
		check_frozen(e, k, at);
	else if (k->expected == LIVE)
		check_live(e, k, at);
	else
		assert_null(elf_at(e, at, PAGE));
}

/* The process writes to all of it between the moment and the saving. */
static void test_kinds(void **state)
{
	int what = prepare_machine();
	pid_t pid = scene_start();
	struct command c = {.park = "snapshot.running", .pid = pid};

	(void)state;
	/* What is merged stays so; while it is at work a snapshot is refused. */
	if (setting(KSM "run") > 0)
		assert_int_equal(system("echo 0 >" KSM "run"), 0); /* NOLINT(cert-env33-c) */
	pid_t command = spawn(run_command, &c);
	wait_stopped(command);
	scene->change = 1;
	usleep(50000);
	kill(command, SIGCONT);
	assert_int_equal(wait_exit(command), 0);
	struct elf e = elf_open();
	for (unsigned int i = 0; i < COUNT(kinds); i++)
		check_kind(&e, i);
	munmap((void *)(uintptr_t)e.data, e.len);
	scene_end(pid);
	undo(what);
}

/* Nothing is frozen then. */
static void test_filter(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, NULL);
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/coredump_filter", (int)t.pid);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	assert_true(fputs("0x30", f) >= 0);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(snapshot(&t), 0);
	struct elf e = elf_open();
	assert_null(elf_at(&e, t.mem, PAGE));
	assert_null(elf_at(&e, t.extra, PAGE));
	munmap((void *)(uintptr_t)e.data, e.len);
	assert_true(said(report, "frozen_bytes\": 0"));
	assert_unharmed(&t);
	assert_int_equal(snapshot_with(&t, (struct command){.option = "--track"}), 0);
	char base[80];
	snprintf(base, sizeof(base), "%s.base", core);
	assert_int_equal(rename(core, base), 0);
	assert_done(snapshot_with(&t, (struct command){.option = "--incremental", .value = base}));
	assert_true(said(report, "changed_bytes\": 0"));
	char untrack[128];
	snprintf(untrack, sizeof(untrack), "%s snapshot --pid %d --untrack", parked_pageferry(),
		 (int)t.pid);
	assert_int_equal(system(untrack), 0); /* NOLINT(cert-env33-c) */
	assert_unharmed(&t);
	target_end(&t);
}

/* ---- addresses alone */

#define RESERVED (4ul << 40)

static char *volatile *low;

static int run_reserved(void *arg)
{
	char *at = mmap(NULL, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			0);

	(void)arg;
	alarm(120);
	check(at != MAP_FAILED);
	/* Of some of it there is something after all. */
	check_equal(mprotect(at + (1ul << 40), LEN, PROT_READ | PROT_WRITE), 0);
	fill(at + (1ul << 40));
	*low = at;
	return pause();
}

/* They take no place in the file: on many file systems there isn't that much. */
static void test_reserved(void **state)
{
	static const char *const ways[] = {"sync", "async"};
	struct stat st;

	(void)state;
	low = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid = spawn(run_reserved, NULL);
	for (int64_t until = now_ms() + 10000; !*low; usleep(1000))
		assert_true(now_ms() < until);
	for (unsigned int i = 0; i < COUNT(ways); i++) {
		assert_done(ferry("--pid %d -o core --way %s", (int)pid, ways[i]));
		assert_int_equal(stat(core, &st), 0);
		assert_true(st.st_size < (off_t)1 << 30);
		struct elf e = elf_open();
		assert_null(elf_at(&e, *low, PAGE));
		const char *used = elf_at(&e, *low + (1ul << 40), LEN);
		assert_true(used && page_has(used + PAGE, 1));
		munmap((void *)(uintptr_t)e.data, e.len);
	}
	kill_and_reap(pid);
	unmap((void *)(uintptr_t)low, PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_kinds), TEST(test_filter),
					   TEST(test_reserved)};

	if (!subject_begin())
		return 1;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	int failed = cmocka_run_group_tests_name("snapshot-memory", tests, NULL, NULL);
	return subject_end() ? 1 : failed;
}
