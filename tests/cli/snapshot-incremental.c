// SPDX-License-Identifier: MIT
/* timeout: 600 */
/* needs: userfaultfd */
/* Increments: added to their base they are what a full snapshot is, whatever the process did. */
#include <elf.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "tests/lib/subject.h"

#define SCENE_LEN (24ul << 20)
#define PART_LEN  (SCENE_LEN / 8)
#define HOLE      (64 * PAGE)

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

/* ---- a process that does what it is told */

struct scene {
	char *mem;
	volatile uint32_t step, done;
	volatile bool write, written; /* by another process, which has the same memory */
	bool huge;
};

static char *part(const struct scene *s, unsigned int i)
{
	return s->mem + i * PART_LEN;
}

static void fill(char *at, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len; i += PAGE)
		fill_page(at + i, seed + i);
}

static void move(struct scene *s)
{
	char *to = map_memory(PART_LEN, 0);

	/* Beside what is moved from elsewhere lies what was there before. */
	check(mremap(part(s, 3), PART_LEN / 2, PART_LEN / 2, MREMAP_MAYMOVE | MREMAP_FIXED, to) ==
	      to);
	check(mmap(part(s, 3), PART_LEN / 2, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == part(s, 3));
	fill(part(s, 3), PAGE, 31);
	/* From there to where something else, unchanged, is in the base. */
	check(mremap(to, HOLE, HOLE, MREMAP_MAYMOVE | MREMAP_FIXED, part(s, 4)) == part(s, 4));
}

/* A page that had been changed, one that hadn't, and one that was empty. */
static int write_beside(void *arg)
{
	struct scene *s = arg;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!s->write)
		usleep(1000);
	part(s, 0)[1] = part(s, 1)[1] = part(s, 2)[PART_LEN - PAGE] = 5;
	s->written = true;
	_exit(0);
}

static void share(struct scene *s)
{
	static char stack[16 * PAGE] __attribute__((aligned(PAGE)));

	check(clone(write_beside, stack + sizeof(stack), CLONE_VM | SIGCHLD, s) > 0);
	part(s, 0)[0] ^= 1;
}

static bool pin_part(struct scene *s)
{
	struct io_uring_params params = {0};
	struct iovec buffer = {part(s, 0), HOLE};
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	return ring >= 0 &&
	       !syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1);
}

enum { GUARD = 20, DONT_DUMP, DO_DUMP, SHARE, MERGE, PIN };

static void act(struct scene *s, uint32_t step)
{
	switch (step) {
	case GUARD:
		s->written = !madvise(part(s, 0), PAGE, MADV_GUARD_INSTALL);
		part(s, 0)[PAGE] ^= 1;
		break;
	case DONT_DUMP:
		madvise(part(s, 0), PART_LEN, MADV_DONTDUMP);
		break;
	case DO_DUMP:
		madvise(part(s, 0), PART_LEN, MADV_DODUMP);
		break;
	case PIN:
		s->written = pin_part(s);
		break;
	case MERGE:
		for (size_t i = 0; i < HOLE; i += PAGE)
			fill_page(part(s, 0) + i, 5);
		s->written = !madvise(part(s, 0), HOLE, MADV_MERGEABLE);
		break;
	case SHARE:
		share(s);
		break;
	case 1: /* write, here and there */
		for (size_t i = 0; i < PART_LEN; i += 16 * PAGE)
			part(s, 0)[i + i / 16 % PAGE] ^= 1;
		break;
	case 2:
		munmap(part(s, 1), PART_LEN / 2);
		break;
	case 3: /* discard, and touch again: by a read, by a write */
		madvise(part(s, 2), PART_LEN / 2, MADV_DONTNEED);
		check_equal(part(s, 2)[PAGE], 0);
		fill(part(s, 2) + 2 * PAGE, PAGE, 77);
		break;
	case 4:
		move(s);
		break;
	case 5: /* where something was unmapped there is something new, and elsewhere as well */
		check(mmap(part(s, 1), HOLE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == part(s, 1));
		fill(part(s, 1), HOLE / 2, 12);
		fill(map_memory(HOLE, 0), HOLE, 13);
		break;
	case 6: /* can't be read by itself; written by kernel code; shared with a child for a while
		 */
		fill(part(s, 5), PAGE, 55);
		check_equal(mprotect(part(s, 5), 2 * PAGE, PROT_NONE), 0);
		int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
		check_equal(read(fd, part(s, 6), 3 * PAGE), 3 * PAGE);
		close(fd);
		pid_t child = fork();
		if (!child)
			_exit(part(s, 7)[0] = 1);
		waitpid(child, NULL, 0);
		fill(part(s, 7) + PAGE, PAGE, 70);
		break;
	case 7: /* every other page: more pieces than the kernel tells at once, three times */
		for (size_t i = 2 * PAGE; i < 2 * PART_LEN + PART_LEN / 10; i += 2 * PAGE)
			part(s, 5)[i] ^= 3;
		break;
	case 8: /* all of it, more than is copied while it stands still */
		fill(part(s, 5) + 2 * PAGE, 3 * PART_LEN - 2 * PAGE, 99);
		fill(part(s, 4), PART_LEN, 98);
		break;
	}
}

#define STEPS 8u

__attribute__((noreturn)) static int run_scene(void *arg)
{
	struct scene *s = arg;

	alarm(300);
	pin();
	if (s->huge)
		make_huge(s->mem, SCENE_LEN);
	else
		madvise(s->mem, SCENE_LEN, MADV_NOHUGEPAGE);
	/* Some of it is empty. */
	for (unsigned int i = 0; i < 8; i++)
		fill(part(s, i), PART_LEN - HOLE, 1000ul * i);
	for (;;) {
		uint32_t step = s->step;
		if (step && s->done != step) {
			act(s, step);
			s->done = step;
		} else {
			usleep(1000);
		}
	}
}

static struct scene *scene_start(bool huge, pid_t *pid)
{
	struct scene *s = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			       0);

	s->mem = map_memory(SCENE_LEN, 0);
	s->huge = huge;
	*pid = spawn(run_scene, s);
	/* It has begun when it does nothing. */
	s->step = STEPS + 1;
	while (s->done != s->step)
		usleep(1000);
	return s;
}

static void scene_act(struct scene *s, uint32_t step)
{
	s->step = step;
	for (int64_t until = now_ms() + 10000; s->done != step;) {
		assert_true(now_ms() < until);
		usleep(500);
	}
}

static void stop(pid_t pid)
{
	kill(pid, SIGSTOP);
	wait_stopped(pid);
}

static void scene_end(struct scene *s, pid_t pid)
{
	kill_and_reap(pid);
	unmap(s->mem, SCENE_LEN);
	unmap(s, PAGE);
}

/* ---- the command */

static const char *limits = ""; /* for the shell that runs it */

/* In the folder of the files; returns the exit status. */
__attribute__((format(printf, 1, 2))) static int ferry(const char *format, ...)
{
	const char *build = getenv("B");
	char args[600], command[1200], cwd[256];
	va_list ap;

	va_start(ap, format);
	vsnprintf(args, sizeof(args), format, ap);
	va_end(ap);
	assert_non_null(getcwd(cwd, sizeof(cwd)));
	snprintf(command, sizeof(command),
		 "%scd ${0%%/*} && %s/%s/park/pageferry snapshot %s >%s 2>%s", limits, cwd,
		 build ? build : "build", args, report, errors);
	char *argv[] = {"sh", "-c", command, core, NULL};
	pid_t pid = fork();
	if (!pid) {
		execv("/bin/sh", argv);
		_exit(99);
	}
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* To a list of files. */
static void append(char all[256], const char *name)
{
	size_t len = strlen(all);
	snprintf(all + len, 256 - len, " %s", name);
}

static void assert_done(int status)
{
	if (status)
		said(errors, "nothing like it");
	assert_int_equal(status, 0);
}

static char *in_dir(const char *name)
{
	static char paths[4][96];
	static unsigned int turn;
	char *path = paths[turn++ % 4];

	snprintf(path, sizeof(paths[0]), "%.*s%s", (int)(strrchr(core, '/') + 1 - core), core,
		 name);
	return path;
}

static struct elf open_core(const char *name)
{
	char before[sizeof(core)];

	memcpy(before, core, sizeof(core));
	snprintf(core, sizeof(core), "%s", in_dir(name));
	struct elf e = elf_open();
	memcpy(core, before, sizeof(core));
	return e;
}

/* Is everything that @a has in @b, too? */
static void assert_has_all(const struct elf *a, const struct elf *b)
{
	const Elf64_Ehdr *head = (const void *)a->data;
	const Elf64_Phdr *p = (const void *)(a->data + head->e_phoff);

	for (unsigned int i = 0; i < head->e_phnum; i++) {
		for (uint64_t at = 0; p[i].p_type == PT_LOAD && at < p[i].p_filesz; at += PAGE) {
			const void *addr = (const void *)(uintptr_t)(p[i].p_vaddr + at);
			const char *there = elf_at(b, addr, PAGE);
			if (!there)
				fail_msg("%p is missing", addr);
			else if (memcmp(a->data + p[i].p_offset + at, there, PAGE) != 0)
				fail_msg("%p differs", addr);
		}
	}
}

static void assert_same(const char *x, const char *y)
{
	struct elf a = open_core(x), b = open_core(y);

	assert_has_all(&a, &b);
	assert_has_all(&b, &a);
	munmap((void *)(uintptr_t)a.data, a.len);
	munmap((void *)(uintptr_t)b.data, b.len);
}

static bool is_tracked(pid_t pid)
{
	return file_has(pid, "smaps", "VmFlags.* u[wmi]");
}

static unsigned int holder_of(void)
{
	char command[256], text[32] = "";

	snprintf(command, sizeof(command), "sed -n 's/.*\"holder\": //p' %s", report);
	FILE *f = popen(command, "re");
	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	pclose(f);
	return (unsigned int)atoi(text);
}

static bool exists(unsigned int pid)
{
	return !kill((pid_t)pid, 0);
}

static void assert_ends(unsigned int pid)
{
	for (int64_t until = now_ms() + 5000; exists(pid) && now_ms() < until;)
		usleep(1000);
	assert_false(exists(pid));
}

static int base(pid_t pid, const char *more)
{
	return ferry("--json --pid %d -o base --track %s", (int)pid, more);
}

static int increment(pid_t pid, const char *from, const char *to, const char *more)
{
	return ferry("--json --pid %d -o %s --incremental %s %s", (int)pid, to, from, more);
}

static void refused(int status, const char *why)
{
	assert_int_equal(status, 1);
	assert_true(said(errors, why));
	assert_int_not_equal(access(in_dir("merged"), F_OK), 0);
}

/* ---- contents */

#define FEW "--max-extra-memory 8M" /* to be copied */

static void whatever_it_does(bool huge, const char *more)
{
	pid_t pid;
	struct scene *s = scene_start(huge, &pid);
	char from[16] = "base", to[16], all[256] = "base";

	assert_done(base(pid, more));
	assert_true(is_tracked(pid));
	for (unsigned int step = 1; step <= STEPS + 1; step++) {
		scene_act(s, step);
		if (step == STEPS + 1)
			stop(pid);
		snprintf(to, sizeof(to), "i%u", step);
		assert_done(increment(pid, from, to, step % 2 ? FEW : more));
		/* Little is copied, much is frozen. */
		assert_true(said(report,
				 step == STEPS ? "frozen_bytes\": [1-9]" : "frozen_bytes\": 0"));
		memcpy(from, to, sizeof(to));
		append(all, to);
	}
	assert_true(said(report, "changed_bytes\": \\([0-9]\\|[0-9]*[0-9]\\{1,5\\}\\),"));
	assert_done(ferry("--pid %d --untrack", (int)pid));
	assert_false(is_tracked(pid));
	assert_done(ferry("--pid %d -o full", (int)pid));
	assert_done(ferry("merge %s -o merged", all));
	assert_same("full", "merged");
	/* What was merged is a base like any other. */
	assert_done(ferry("merge base i1 i2 i3 -o some --compress"));
	assert_done(ferry("merge some i4 i5 i6 i7 i8 i9 -o merged"));
	assert_same("full", "merged");
	scene_end(s, pid);
}

static void test_small_pages(void **state)
{
	(void)state;
	whatever_it_does(false, FEW);
}

static void test_huge_pages(void **state)
{
	(void)state;
	whatever_it_does(true, FEW);
}

static void test_compressed(void **state)
{
	(void)state;
	whatever_it_does(false, FEW " --compress");
}

/* While the first is saved, and when so much has changed that it is frozen. */
static void test_meanwhile(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		struct command c = {.option = i ? "--incremental" : "--track",
				    .value = i ? in_dir("base") : NULL,
				    .rate = "15M",
				    .pid = pid};
		pid_t command = spawn(run_command, &c);
		usleep(300000);
		for (unsigned int step = 1; step <= (i ? 3 : 6); step++)
			scene_act(s, step);
		assert_int_equal(waitpid(command, NULL, WNOHANG), 0);
		/* Some of what was unmapped was not saved. */
		assert_true(wait_exit(command) % 3 == 0);
		assert_int_equal(rename(core, in_dir(i ? "i1" : "base")), 0);
		scene_act(s, i ? 10 : 8);
	}
	stop(pid);
	assert_done(increment(pid, "i1", "i2", ""));
	assert_true(said(report, "frozen_bytes\": 0"));
	assert_done(ferry("merge base i1 i2 -o merged"));
	assert_done(ferry("--pid %d --untrack", (int)pid));
	assert_done(ferry("--pid %d -o full", (int)pid));
	assert_same("full", "merged");
	scene_end(s, pid);
}

static void end_with_same(struct scene *s, pid_t pid, const char *files)
{
	assert_done(ferry("merge %s -o merged", files));
	assert_done(ferry("--pid %d --untrack", (int)pid));
	assert_done(ferry("--pid %d -o full", (int)pid));
	assert_same("full", "merged");
	scene_end(s, pid);
}

/* Guard pages are populated, and can't be read. */
static void test_guard(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	assert_done(base(pid, ""));
	scene_act(s, GUARD);
	if (!s->written)
		SKIP("this kernel has no guard pages in the page table: Linux 6.13 has");
	assert_done(increment(pid, "base", "i1", ""));
	assert_done(increment(pid, "i1", "i2", ""));
	assert_done(ferry("merge base i1 i2 -o merged"));
	struct elf e = open_core("merged");
	assert_null(elf_at(&e, part(s, 0), PAGE));
	const char *beside = elf_at(&e, part(s, 0) + PAGE, PAGE);
	assert_non_null(beside);
	assert_false(page_has(beside, PAGE) || page_is_zero(beside));
	munmap((void *)(uintptr_t)e.data, e.len);
	scene_end(s, pid);
}

/* What was in no increment for a while can't be the same as in the one before. */
static void test_left_out(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	assert_done(base(pid, ""));
	scene_act(s, DONT_DUMP);
	assert_done(increment(pid, "base", "i1", ""));
	scene_act(s, DO_DUMP);
	stop(pid);
	assert_done(increment(pid, "i1", "i2", ""));
	end_with_same(s, pid, "base i1 i2");
}

/* KSM takes the protection away. Then nobody would know whether a frozen page was written to. */
static void test_merged_memory(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	unlink(in_dir("merged"));
	scene_act(s, MERGE);
	if (!s->written || !ksm_begin())
		SKIP("the kernel has no KSM, or this user can't switch it on");
	refused(ferry("--pid %d -o merged", (int)pid), "has memory that KSM may merge");
	ksm_end();
	assert_done(base(pid, ""));
	assert_true(ksm_begin());
	for (int64_t until = now_ms() + 8000;
	     !file_has(pid, "ksm_merging_pages", "[1-9]") && now_ms() < until;)
		usleep(10000);
	scene_act(s, 1);
	stop(pid);
	assert_done(increment(pid, "base", "i1", ""));
	ksm_end();
	end_with_same(s, pid, "base i1");
}

/* A buffer of io_uring is written to without the page table. */
static void test_pinned(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	unlink(in_dir("merged"));
	assert_done(base(pid, ""));
	scene_act(s, PIN);
	if (!s->written)
		SKIP("this kernel has no io_uring");
	refused(increment(pid, "base", "merged", ""), "has pinned memory");
	assert_done(ferry("--pid %d --untrack", (int)pid));
	refused(ferry("--pid %d -o merged --track", (int)pid), "has pinned memory");
	assert_done(ferry("--pid %d -o full", (int)pid));
	scene_end(s, pid);
}

/* What isn't stopped writes while it is found out what has changed. */
static void test_shared_memory(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);
	struct command c = {.park = "snapshot.tracked",
			    .option = "--incremental",
			    .value = in_dir("base"),
			    .pid = pid};

	(void)state;
	assert_done(base(pid, ""));
	scene_act(s, SHARE);
	pid_t command = spawn(run_command, &c);
	wait_stopped(command);
	s->write = true;
	while (!s->written)
		usleep(1000);
	kill(command, SIGCONT);
	assert_int_equal(wait_exit(command), 0);
	assert_int_equal(rename(core, in_dir("i1")), 0);
	stop(pid);
	assert_done(increment(pid, "i1", "i2", ""));
	end_with_same(s, pid, "base i1 i2");
}

/* ---- a target that never stands still */

static void test_under_load(void **state)
{
	struct target t;
	char all[256] = "base", from[16] = "base", to[16];

	(void)state;
	target_start(&t, NULL);
	assert_done(base(t.pid, ""));
	for (unsigned int i = 0; i < 8; i++) {
		snprintf(to, sizeof(to), "i%u", i);
		/* In turn frozen, and copied. */
		assert_done(increment(t.pid, from, to,
				      i % 2 ? "--max-extra-memory 1G" : "--max-extra-memory 8M"));
		memcpy(from, to, sizeof(to));
		append(all, to);
		assert_done(ferry("merge %s -o %s", all, core));
		assert_int_equal(missing_in_core(&t), 0);
	}
	assert_done(ferry("--pid %d --untrack", (int)t.pid));
	assert_unharmed(&t);
	target_end(&t);
}

/* ---- it ends in the middle */

/* How it is when nothing is tracked: the process is as it was, and that is said. */
static void assert_untracked(struct target *t)
{
	for (int64_t until = now_ms() + 5000; is_tracked(t->pid) && now_ms() < until;)
		usleep(1000);
	assert_unharmed(t);
	assert_int_equal(increment(t->pid, "base", "next", ""), 1);
	assert_true(said(errors, "not, or no longer, tracked"));
	assert_int_not_equal(access(in_dir("next"), F_OK), 0);
}

static void kill_at(const char *park, pid_t pid, const char *option, const char *value)
{
	struct command c = {.park = park, .option = option, .value = value, .pid = pid};
	pid_t command = spawn(run_command, &c);

	wait_stopped(command);
	kill_and_reap(command);
}

static void test_killed(void **state)
{
	static const char *const first[] = {"snapshot.frozen", "snapshot.running",
					    "snapshot.saving", "snapshot.tracked",
					    "snapshot.named"};
	static const char *const next[] = {"snapshot.stopped", "snapshot.tracked",
					   "snapshot.frozen", "snapshot.running", "snapshot.named"};
	struct target t;

	(void)state;
	unlink(core);
	target_start(&t, NULL);
	for (unsigned int i = 0; i < COUNT(first); i++) {
		kill_at(first[i], t.pid, "--track", NULL);
		/* Its last name is all that a whole file waits for. */
		assert_int_equal(!access(core, F_OK), i == COUNT(first) - 1);
		assert_unharmed(&t);
	}
	unlink(core);
	for (unsigned int i = 0; i < COUNT(next); i++) {
		assert_done(base(t.pid, ""));
		unsigned int holder = holder_of();
		kill_at(next[i], t.pid, "--incremental", in_dir("base"));
		/* Nobody knows what has changed since when. */
		assert_ends(holder);
		assert_untracked(&t);
		unlink(core);
	}
	target_end(&t);
	remove_files();
}

static void test_holder_killed(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, NULL);
	assert_done(base(t.pid, ""));
	unsigned int holder = holder_of();
	assert_true(exists(holder) && is_tracked(t.pid));
	kill((pid_t)holder, SIGKILL);
	assert_ends(holder);
	assert_untracked(&t);
	assert_int_equal(ferry("--pid %d --untrack", (int)t.pid), 1);
	assert_true(said(errors, "is not tracked"));
	/* It ends with its process. */
	assert_done(base(t.pid, ""));
	holder = holder_of();
	target_end(&t);
	assert_ends(holder);
}

/* What was interrupted is as if it had never been. */
static void test_interrupted(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	unlink(core);
	assert_done(base(pid, ""));
	scene_act(s, 1);
	for (unsigned int i = 0; i < 3; i++) {
		struct command c = {.park = i == 1 ? "snapshot.stopped" : "snapshot.running",
				    .option = "--incremental",
				    .value = in_dir("base"),
				    .pid = pid};
		pid_t command = spawn(run_command, &c);
		wait_stopped(command);
		kill(command, SIGINT);
		kill(command, SIGCONT);
		assert_int_equal(wait_exit(command), 128 + SIGINT);
		assert_int_not_equal(access(core, F_OK), 0);
		scene_act(s, i + 3);
	}
	assert_done(increment(pid, "base", "i1", ""));
	stop(pid);
	assert_done(increment(pid, "i1", "i2", ""));
	assert_done(ferry("merge base i1 i2 -o merged"));
	assert_done(ferry("--pid %d --untrack", (int)pid));
	assert_done(ferry("--pid %d -o full", (int)pid));
	assert_same("full", "merged");
	scene_end(s, pid);
}

/* One who didn't wait until another had come to an end has no effect when it has. */
static void test_two_at_once(void **state)
{
	struct target t;

	(void)state;
	unlink(core);
	target_start(&t, NULL);
	assert_done(base(t.pid, ""));
	struct command c = {.park = "snapshot.running",
			    .option = "--incremental",
			    .value = in_dir("base"),
			    .pid = t.pid};
	pid_t command = spawn(run_command, &c);
	wait_stopped(command);
	assert_int_equal(increment(t.pid, "base", "i2", ""), 1);
	assert_true(said(errors, "another snapshot of process"));
	assert_int_equal(ferry("--pid %d --untrack", (int)t.pid), 1);
	assert_true(said(errors, "is under way"));
	kill(command, SIGCONT);
	assert_int_equal(wait_exit(command), 0);
	assert_int_equal(rename(core, in_dir("i1")), 0);
	assert_done(increment(t.pid, "i1", "i2", ""));
	assert_done(ferry("--pid %d --untrack", (int)t.pid));
	assert_unharmed(&t);
	target_end(&t);
}

/* When --untrack says so it is over, even if the holder doesn't get a CPU any more. */
static void test_untracked(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, NULL);
	struct command c = {.park = "snapshot.untracked", .option = "--track"};
	assert_int_equal(snapshot_with(&t, c), 0);
	unsigned int holder = holder_of();
	assert_done(ferry("--pid %d --untrack", (int)t.pid));
	assert_done(ferry("--pid %d -o full", (int)t.pid));
	kill((pid_t)holder, SIGCONT);
	assert_ends(holder);
	assert_unharmed(&t);
	target_end(&t);
	remove_files();
}

static void test_execs(void **state)
{
	struct target t;

	(void)state;
	target_start(&t, NULL);
	assert_done(base(t.pid, ""));
	unsigned int holder = holder_of();
	t.shared->order = EXEC;
	while (!file_has(t.pid, "comm", "sleep"))
		usleep(1000);
	assert_int_equal(increment(t.pid, "base", "next", ""), 1);
	assert_true(said(errors, "has become another program"));
	assert_ends(holder);
	kill_and_reap(t.pid);
	unmap(t.shared, PAGE);
}

/* ---- files that don't fit */

static void test_wrong_files(void **state)
{
	pid_t pid, other;
	struct scene *s = scene_start(false, &pid), *o = scene_start(false, &other);

	(void)state;
	unlink(in_dir("merged"));
	assert_done(ferry("--pid %d -o plain", (int)pid));
	assert_done(ferry("--pid %d -o other --track", (int)other));
	assert_done(base(pid, ""));
	refused(ferry("--pid %d -o merged", (int)pid), "is tracked");
	refused(ferry("--pid %d -o merged --track", (int)pid), "is tracked");
	refused(increment(pid, "plain", "merged", ""), "no snapshot that was made with --track");
	refused(increment(pid, "other", "merged", ""), "other is not the last snapshot of process");
	refused(increment(other, "base", "merged", ""), "base is not the last snapshot of process");
	refused(increment(pid, "/dev/null", "merged", ""),
		"no snapshot that was made with --track");
	assert_done(increment(pid, "base", "i1", ""));
	assert_done(increment(pid, "i1", "i2", ""));
	refused(increment(pid, "base", "merged", ""), "base is not the last snapshot of process");
	refused(ferry("merge base i2 -o merged"), "i2 is no increment of base");
	refused(ferry("merge base i2 i1 -o merged"), "i2 is no increment of base");
	refused(ferry("merge other i1 -o merged"), "i1 is no increment of other");
	refused(ferry("merge i1 i2 -o merged"), "i1 is an increment");
	refused(ferry("merge base other -o merged"), "other is a full snapshot");
	refused(ferry("merge plain i1 -o merged"), "plain was made without --track");
	refused(ferry("merge base /dev/null -o merged"), "not a regular file");
	refused(ferry("merge base none -o merged"), "none: No such file");
	assert_int_equal(ferry("merge base -o merged"), 2);
	assert_int_equal(ferry("merge base i1"), 2);
	assert_done(ferry("merge base i1 i2 -o merged"));
	unlink(in_dir("merged"));
	limits = "ulimit -f 100; ";
	refused(ferry("merge base i1 i2 -o merged"), "^pageferry: merged: File too large");
	refused(ferry("merge base i1 i2 -o merged --compress"),
		"^pageferry: merged: File too large");
	limits = "";
	assert_true(nothing_left());
	scene_end(s, pid);
	scene_end(o, other);
	unlink(in_dir("merged"));
}

static void test_torn(void **state)
{
	pid_t pid;
	struct scene *s = scene_start(false, &pid);

	(void)state;
	assert_done(base(pid, "--compress"));
	scene_act(s, 1);
	assert_done(increment(pid, "base", "i1", ""));
	struct stat st;
	for (unsigned int i = 0; i < 20; i++) {
		const char *name = i % 2 ? "i1" : "base";
		assert_int_equal(stat(in_dir(name), &st), 0);
		char command[256];
		snprintf(command, sizeof(command), "cp '%s' '%s' && truncate -s %lld '%s'",
			 in_dir(name), in_dir("torn"), (long long)st.st_size * (i / 2) / 10,
			 in_dir("torn"));
		assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c) */
		refused(i % 2 ? ferry("merge base torn -o merged")
			      : ferry("merge torn i1 -o merged"),
			"^pageferry: torn");
	}
	scene_end(s, pid);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_small_pages),   TEST(test_huge_pages),    TEST(test_compressed),
		TEST(test_under_load),    TEST(test_killed),        TEST(test_holder_killed),
		TEST(test_interrupted),   TEST(test_execs),         TEST(test_wrong_files),
		TEST(test_torn),          TEST(test_meanwhile),     TEST(test_guard),
		TEST(test_left_out),      TEST(test_shared_memory), TEST(test_two_at_once),
		TEST(test_merged_memory), TEST(test_pinned),        TEST(test_untracked),
	};

	if (!subject_begin())
		return 1;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	int failed = cmocka_run_group_tests_name("snapshot-incremental", tests, NULL, NULL);
	return subject_end() ? 1 : failed;
}
