// SPDX-License-Identifier: MIT
/* A process to be snapshotted, the command, and the file that it makes; see subject.h. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/lib/subject.h"

/* ---- the target */

size_t ledger_len = 64ul << 20;
static struct target *self; /* in the target */

static void went_wrong(int line)
{
	self->shared->error = errno;
	self->shared->failed = (uint64_t)line;
}

/* Waits with a timeout: nothing but the timeout may end them. */
static void *sleep_on(void *arg)
{
	(void)arg;
	for (;;) {
		struct timespec t = {.tv_nsec = 300000000};
		if (nanosleep(&t, NULL))
			went_wrong(__LINE__);
		self->shared->slept++;
	}
	return NULL;
}

static void *poll_on(void *arg)
{
	int *pipe_end = arg;

	for (;;) {
		struct pollfd fd = {.fd = *pipe_end, .events = POLLIN};
		if (poll(&fd, 1, 200) != 0)
			went_wrong(__LINE__);
		self->shared->polled++;
	}
	return NULL;
}

/* Kernel code that writes into memory that may be protected. */
static void *read_on(void *arg)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	(void)arg;
	for (uint64_t at = 0;; at = (at + PAGE) % (EXTRA_LEN / 4)) {
		if (read(fd, self->extra + at, 100) != 100)
			went_wrong(__LINE__);
		self->shared->read++;
		if (usleep(200))
			went_wrong(__LINE__);
	}
	return NULL;
}

void pin(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(sched_getcpu(), &set);
	check_equal(sched_setaffinity(0, sizeof(set), &set), 0);
}

void be_nobody(void)
{
	check_equal(setgid(65534) || setuid(65534), 0);
	prctl(PR_SET_DUMPABLE, 1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static void start(void *(*fn)(void *), void *arg)
{
	pthread_t thread;
	check_equal(pthread_create(&thread, NULL, fn, arg), 0);
}

static void obey(enum order order)
{
	switch (order) {
	case UNMAP:
		munmap(self->extra + EXTRA_LEN / 2, EXTRA_LEN / 4);
		break;
	case DISCARD:
		madvise(self->extra + EXTRA_LEN / 2, EXTRA_LEN / 4, MADV_DONTNEED);
		if (!page_is_zero(self->extra + EXTRA_LEN / 2))
			went_wrong(__LINE__);
		break;
	case EXEC:
		execl("/bin/sleep", "sleep", "1", (char *)NULL);
		break;
	case FORK:
		if (fork() == 0) {
			memset(self->mem + 16 * PAGE, 1, ledger_len - 16 * PAGE);
			_exit(0);
		}
		int status;
		if (wait(&status) < 0 || status)
			went_wrong(__LINE__);
		break;
	case NOTHING:
		break;
	}
}

static int run_target(void *arg)
{
	static int pipe_ends[2];
	self = arg;

	alarm(300);
	check_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
	for (uint64_t i = 0; i < EXTRA_LEN / PAGE; i++)
		fill_page(self->extra + i * PAGE, i);
	if (self->prepare)
		self->prepare();
	ledger_open(self->mem, ledger_len);
	start(sleep_on, NULL);
	start(poll_on, &pipe_ends[0]);
	start(read_on, NULL);
	self->shared->ready = 1;
	while (!self->shared->leave) {
		enum order order = self->shared->order;
		self->shared->order = NOTHING;
		obey(order);
		if (usleep(500))
			went_wrong(__LINE__);
	}
	return self->shared->failed ? 1 : 0;
}

unsigned int count_in(pid_t pid, const char *what)
{
	char command[128], text[32] = "";

	snprintf(command, sizeof(command), "ls /proc/%d/%s | wc -l", (int)pid, what);
	FILE *f = popen(command, "re");
	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	pclose(f);
	return (unsigned int)atoi(text);
}

void target_start(struct target *t, void (*prepare)(void))
{
	*t = (struct target){.prepare = prepare};
	/* The later is mapped below the earlier, and saved before it. */
	t->extra = map_memory(EXTRA_LEN, 0);
	t->mem = map_memory(ledger_len, 0);
	assert_true(t->mem < t->extra);
	t->shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	t->pid = spawn(run_target, t);
	while (!t->shared->ready || !t->shared->read || !t->shared->polled || !t->shared->slept)
		usleep(1000);
	t->fds = count_in(t->pid, "fd");
	t->threads = count_in(t->pid, "task");
}

/* The ledger as it is now, of a process that is stopped or not. */
int64_t missing_now(const struct target *t)
{
	char *copy = map_memory(ledger_len, 0);
	struct iovec local = {copy, ledger_len}, remote = {t->mem, ledger_len};

	assert_int_equal(process_vm_readv(t->pid, &local, 1, &remote, 1, 0), ledger_len);
	int64_t missing = ledger_missing(copy, ledger_len);
	unmap(copy, ledger_len);
	return missing;
}

bool file_has(pid_t pid, const char *name, const char *what)
{
	char command[256];

	snprintf(command, sizeof(command), "grep -q -- '%s' /proc/%d/%s", what, (int)pid, name);
	return system(command) == 0; /* NOLINT(cert-env33-c) */
}

void wait_merged(pid_t pid)
{
	for (int64_t until = now_ms() + 35000; !file_has(pid, "ksm_merging_pages", "[1-9]");) {
		assert_true(now_ms() < until);
		usleep(10000);
	}
}

uint64_t moves_of(const struct target *t)
{
	struct journal j;
	uint64_t moves = 0;

	for (unsigned int i = 0; i < LEDGER_CLERKS; i++) {
		struct iovec local = {&j, sizeof(j)}, remote = {t->mem + i * PAGE, sizeof(j)};
		if (process_vm_readv(t->pid, &local, 1, &remote, 1, 0) == sizeof(j))
			moves += j.moves;
	}
	return moves;
}

/* It is as it was, every thread of it works, and no call of it has failed. */
void assert_unharmed(const struct target *t)
{
	uint64_t moves = moves_of(t), slept = t->shared->slept, polled = t->shared->polled,
		 read = t->shared->read;
	int64_t until = now_ms() + 5000;

	while (now_ms() < until && (moves_of(t) == moves || t->shared->slept == slept ||
				    t->shared->polled == polled || t->shared->read == read))
		usleep(2000);
	assert_true(moves_of(t) > moves);
	assert_true(t->shared->slept > slept && t->shared->polled > polled &&
		    t->shared->read > read);
	if (t->shared->failed)
		fail_msg("line %llu of the target: %s", (unsigned long long)t->shared->failed,
			 strerror(t->shared->error));
	assert_int_equal(count_in(t->pid, "fd"), t->fds);
	/* One that was left in the middle ends when it gets a CPU. */
	while (now_ms() < until && count_in(t->pid, "task") != t->threads)
		usleep(2000);
	assert_int_equal(count_in(t->pid, "task"), t->threads);
	assert_false(file_has(t->pid, "smaps", "VmFlags.* u[wmi]"));
	assert_true(file_has(t->pid, "status", "TracerPid:.0$"));
	/* A thread that was borrowed is back when it has run: that may take its time. */
	while (now_ms() < until && file_has(t->pid, "task/*/status", "SigBlk:.*[1-9a-f]"))
		usleep(2000);
	assert_false(file_has(t->pid, "task/*/status", "SigBlk:.*[1-9a-f]"));
	kill(t->pid, SIGSTOP);
	/* A thread that waits for a CPU may be in the middle of a transfer. */
	while (now_ms() < until + 5000 && file_has(t->pid, "task/*/status", "^State:.[^T]"))
		usleep(1000);
	assert_int_equal(missing_now(t), 0);
	kill(t->pid, SIGCONT);
}

void target_end(struct target *t)
{
	t->shared->leave = 1;
	assert_int_equal(wait_exit(t->pid), 0);
	unmap(t->mem, ledger_len);
	unmap(t->extra, EXTRA_LEN);
	unmap(t->shared, PAGE);
}

/* ---- the command */

char core[64], report[64], errors[64];
static char dir[56];

static bool is_in_series(const struct command *c)
{
	return c->option && (!strcmp(c->option, "--track") || !strcmp(c->option, "--incremental"));
}

const char *parked_pageferry(void)
{
	static char path[256];
	const char *build = getenv("B");

	snprintf(path, sizeof(path), "%s/park/pageferry", build ? build : "build");
	return path;
}

int interrupt(pid_t command)
{
	kill(command, SIGINT);
	kill(command, SIGCONT);
	return wait_exit(command);
}

int run_command(void *arg)
{
	const struct command *c = arg;
	const char *path = parked_pageferry();
	char pid[16];
	const char *args[16] = {path, "snapshot", "--json", "--pid", pid, "-o", core};
	unsigned int n = 7;

	snprintf(pid, sizeof(pid), "%d", (int)c->pid);
	if (c->park)
		setenv("PAGEFERRY_PARK", c->park, 1);
	if (c->option) {
		args[n++] = c->option;
		if (c->value)
			args[n++] = c->value;
	}
	if (!is_in_series(c)) {
		args[n++] = "--way";
		args[n++] = c->way ? c->way : "sync";
	}
	if (c->rate) {
		args[n++] = "--limit-rate";
		args[n++] = c->rate;
	}
	if (!freopen(report, "w", stdout) || !freopen(errors, "w", stderr))
		return 98;
	if (c->prepare)
		c->prepare();
	if (c->uid && (setgid(c->uid) || setuid(c->uid)))
		return 99;
	execv(path, (char **)(uintptr_t)args);
	return 97;
}

int snapshot_with(const struct target *t, struct command c)
{
	c.pid = t->pid;
	return wait_exit(spawn(run_command, &c));
}

bool said(const char *file, const char *what)
{
	char command[256];

	snprintf(command, sizeof(command), "grep -q -- '%s' %s || { sed 's/^/# /' %s; false; }",
		 what, file, file);
	return system(command) == 0; /* NOLINT(cert-env33-c) */
}

int shown(int status)
{
	char command[128];

	snprintf(command, sizeof(command), "sed 's/^/# /' %s", errors);
	if (status && system(command)) /* NOLINT(cert-env33-c) */
		print_message("# %s can't be read\n", errors);
	return status;
}

int snapshot(const struct target *t)
{
	return shown(snapshot_with(t, (struct command){0}));
}

bool nothing_left(void)
{
	char command[128];

	snprintf(command, sizeof(command), "ls -A %s | grep -qE 'core|part'", dir);
	return system(command) != 0; /* NOLINT(cert-env33-c) */
}

/* ---- the core file */

struct elf elf_open(void)
{
	int fd = open(core, O_RDONLY | O_CLOEXEC);
	struct stat st = {0};

	assert_true(fd >= 0 && !fstat(fd, &st));
	struct elf e = {mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0),
			(size_t)st.st_size};
	assert_ptr_not_equal(e.data, MAP_FAILED);
	close(fd);
	assert_memory_equal(e.data, ELFMAG, SELFMAG);
	return e;
}

/* What the file has of @addr: NULL: it is not in a segment, or in one without contents. */
const char *elf_at(const struct elf *e, const void *addr, size_t len)
{
	const Elf64_Ehdr *head = (const void *)e->data;
	const Elf64_Phdr *p = (const void *)(e->data + head->e_phoff);

	for (unsigned int i = 0; i < head->e_phnum; i++) {
		uint64_t off = (uintptr_t)addr - p[i].p_vaddr;
		if (p[i].p_type == PT_LOAD && (uintptr_t)addr >= p[i].p_vaddr &&
		    off + len <= p[i].p_filesz)
			return e->data + p[i].p_offset + off;
	}
	return NULL;
}

int64_t missing_in_core(const struct target *t)
{
	struct elf e = elf_open();
	const char *mem = elf_at(&e, t->mem, ledger_len);

	assert_non_null(mem);
	int64_t missing = ledger_missing(mem, ledger_len);
	munmap((void *)(uintptr_t)e.data, e.len);
	return missing;
}

/* ---- files side by side */

const char *ferry_limits = "";

int ferry(const char *format, ...)
{
	char args[600], command[1600], cwd[256];
	va_list ap;

	va_start(ap, format);
	vsnprintf(args, sizeof(args), format, ap);
	va_end(ap);
	assert_non_null(getcwd(cwd, sizeof(cwd)));
	snprintf(command, sizeof(command), "%scd ${0%%/*} && %s/%s snapshot %s >%s 2>%s",
		 ferry_limits, cwd, parked_pageferry(), args, report, errors);
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

void assert_done(int status)
{
	assert_int_equal(shown(status), 0);
}

char *in_dir(const char *name)
{
	static char paths[4][96];
	static unsigned int turn;
	char *path = paths[turn++ % 4];

	snprintf(path, sizeof(paths[0]), "%.*s%s", (int)(strrchr(core, '/') + 1 - core), core,
		 name);
	return path;
}

struct elf elf_open_in_dir(const char *name)
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

void assert_same(const char *x, const char *y)
{
	struct elf a = elf_open_in_dir(x), b = elf_open_in_dir(y);

	assert_has_all(&a, &b);
	assert_has_all(&b, &a);
	munmap((void *)(uintptr_t)a.data, a.len);
	munmap((void *)(uintptr_t)b.data, b.len);
}

/* In memory if there is enough: what is made is synced each time, which takes its time on a disk.
 */
static const char *place(void)
{
	struct statvfs fs;

	return !statvfs("/dev/shm", &fs) && fs.f_bavail > (2ul << 30) / fs.f_bsize ? "/dev/shm"
										   : "/tmp";
}

bool subject_begin(void)
{
	const char *tmp = getenv("TMPDIR");

	if (!tmp || strlen(tmp) > 20)
		tmp = place();
	snprintf(dir, sizeof(dir), "%s/pageferry-snapshot-XXXXXX", tmp);
	if (!mkdtemp(dir) || chmod(dir, 0777))
		return false;
	snprintf(core, sizeof(core), "%s/core", dir);
	snprintf(report, sizeof(report), "%s/report", dir);
	snprintf(errors, sizeof(errors), "%s/errors", dir);
	/* What it may merge can't be frozen. */
	ksm_off();
	return true;
}

void remove_files(void)
{
	char command[256];

	snprintf(command, sizeof(command), "rm -f %s/.*.part %s", dir, core);
	assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c) */
}

int subject_end(void)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) ? 1 : 0; /* NOLINT(cert-env33-c) */
}
