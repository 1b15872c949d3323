// SPDX-License-Identifier: MIT
/*
 * pageferry vm, where the module is loaded: a small VM, which is emulated inside of this guest,
 * changes its QEMU, and its memory moves. What runs in it (rom.S) writes to all of its memory in
 * rounds: each word depends on its address and on the round, and has to have the value of the round
 * before. After each round a letter is sent, which goes to a file.
 *
 * Needs QEMU and pageferry in the initramfs: see upgrade.sh.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "proc.h"
#include "rom.h"

#define SUBJECT   "vm"

#define PAGEFERRY "/pageferry/pageferry"
#define QEMU      "/usr/bin/qemu-system-x86_64"
#define ROM       "/tmp/rom"
#define TICKS     "/tmp/ticks"
#define CHARDEV   "file,id=ticks,append=on,path=/tmp/ticks"
#define OUT       "/tmp/out"
#define LOG       "/tmp/log"
/* Nothing here is fast: a QEMU takes seconds to start. */
#define SECONDS "100"
#define WAIT_MS 100000
/* So much of the memory may be copied: what QEMU touches before the commit is its own affair. */
#define STRAY MIB

/* ---- programs */

static pid_t start(char *const *argv, const char *out)
{
	pid_t pid = fork();
	int fd;

	check_call(pid);
	if (pid)
		return pid;
	fd = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	check_call(fd);
	check_call(dup2(fd, STDOUT_FILENO));
	check_call(dup2(fd, STDERR_FILENO));
	execv(argv[0], argv);
	test_failed(__FILE__, __LINE__, "%s: %s", argv[0], strerror(errno));
}

static void show(const char *path)
{
	char line[300];
	FILE *f = fopen(path, "re");

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		note("%s: %s", path, line);
	}
	if (f)
		fclose(f);
}

static void ends_well(pid_t pid, const char *out)
{
	int status;

	check_is(waitpid(pid, &status, 0), pid);
	if (!status)
		return;
	show(out);
	show(LOG);
	test_failed(__FILE__, __LINE__, "it ends with status 0x%x", (unsigned int)status);
}

/* Runs pageferry with these arguments; it prints to OUT. */
#define pageferry(...) ends_well(start((char *const[]){PAGEFERRY, __VA_ARGS__, NULL}, OUT), OUT)

/* What it printed, for the caller to free. */
static char *printed(void)
{
	char *text = calloc(1, 65536);
	int fd = open(OUT, O_RDONLY | O_CLOEXEC);

	check(text);
	check_call(fd);
	check_call(read(fd, text, 65535));
	close(fd);
	return text;
}

/* The number of a key of JSON; the test fails if there is none. */
static double number(const char *json, const char *key)
{
	char quoted[64];
	const char *at;
	double value;

	snprintf(quoted, sizeof(quoted), "\"%s\":", key);
	at = strstr(json, quoted);
	if (!at || sscanf(at + strlen(quoted), "%lf", &value) != 1)
		test_failed(__FILE__, __LINE__, "no number %s in %s", key, json);
	return value;
}

/* ---- the VM */

static void write_rom(void)
{
	int fd = open(ROM, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	check_call(fd);
	check_is(write(fd, rom, ROM_BYTES), ROM_BYTES);
	close(fd);
}

/* How many letters have come; the test fails if not each is the one after the last. */
static size_t ticks(void)
{
	FILE *f = fopen(TICKS, "re");
	size_t n = 0;
	int c;

	while (f && (c = getc(f)) != EOF) {
		if (c == ROM_WRONG)
			test_failed(__FILE__, __LINE__, "the VM's memory is wrong after %zu rounds",
				    n);
		check_is(c, ROM_FIRST_TICK + n++ % ROM_TICKS);
	}
	if (f)
		fclose(f);
	return n;
}

static void goes_on(void)
{
	size_t before = ticks();

	await(WAIT_MS, ticks() >= before + 3);
}

#define RAM (64 * MIB)

/* Where that QEMU has the VM's memory. */
static uint64_t ram_of(pid_t pid)
{
	uint64_t start, end;
	char path[64], line[512];

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	FILE *f = file_open(path);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx rw-p 00000000 00:00 0", &start, &end) == 2 &&
		    end - start == RAM) {
			fclose(f);
			return start;
		}
	test_failed(__FILE__, __LINE__, "process %d has no RAM of a VM", (int)pid);
}

/* The pid of its QEMU. */
static pid_t qemu_now(void)
{
	pageferry("vm", "status", "--json", "v");
	char *json = printed();
	pid_t pid = (pid_t)number(json, "pid");

	free(json);
	return pid;
}

/* As QEMU does it by itself, unless it is told not to (mem-merge=off): in each new one anew. */
static void is_mergeable(void)
{
	pid_t pid = qemu_now();

	check(smaps_mergeable(pid, ram_of(pid), RAM));
}

/* Returns its keeper. */
static pid_t start_vm(void)
{
	char *const argv[] = {
		PAGEFERRY,
		"vm",
		"run",
		"v",
		"--",
		QEMU,
		"-accel",
		"tcg",
		"-nodefaults",
		"-display",
		"none",
		"-m",
		"64",
		"-bios",
		ROM,
		"-chardev",
		CHARDEV,
		"-device",
		"isa-debugcon,iobase=0x402,chardev=ticks",
		NULL,
	};
	int64_t begin = now_ms();
	pid_t keeper;

	write_rom();
	keeper = start(argv, LOG);
	goes_on();
	note("the VM runs after %lld ms", (long long)(now_ms() - begin));
	is_mergeable();
	return keeper;
}

static void upgrade(char *way, char *more)
{
	double tables, module, copy;
	char *json;

	pageferry("vm", "upgrade", more, "--timeout", SECONDS, "--way", way, "v", "--json");
	json = printed();
	check(strstr(json, "\"upgraded\""));
	tables = number(json, "tables");
	module = number(json, "module");
	copy = number(json, "copy");
	note("%s: %.0f KiB by tables, %.0f by pages, %.0f copied, %.0f faults, %.0f ms down, %.0f ms in all",
	     way, tables / 1024, module / 1024, copy / 1024, number(json, "count"),
	     number(json, "downtime_ms"), number(json, "total_ms"));
	check(strstr(json, "\"not_by_tables\": null"));
	check(tables >= ROM_LEN);
	check_is((uint64_t)module, 0);
	check_is((uint64_t)copy, 0);
	free(json);
	is_mergeable();
	goes_on();
}

/* ---- a page of the VM that can't move */

/* A system call in the stopped thread: its program stands right behind one, and is put back there. */
static long call_there(pid_t pid, long number, uint64_t a, uint64_t b, uint64_t c)
{
	struct user_regs_struct was, regs;
	int status;

	check_call(ptrace(PTRACE_GETREGS, pid, NULL, &was));
	regs = was;
	regs.rip -= 2; /* the SYSCALL instruction */
	check_is(ptrace(PTRACE_PEEKTEXT, pid, regs.rip, NULL) & 0xffff, 0x050f);
	regs.orig_rax = (unsigned long long)-1; /* nothing to be restarted */
	regs.rax = (unsigned long long)number;
	regs.rdi = a;
	regs.rsi = b;
	regs.rdx = c;
	regs.r10 = 0;
	check_call(ptrace(PTRACE_SETREGS, pid, NULL, &regs));
	check_call(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL));
	check_is(waitpid(pid, &status, __WALL), pid);
	check(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
	check_call(ptrace(PTRACE_GETREGS, pid, NULL, &regs));
	check_call(ptrace(PTRACE_SETREGS, pid, NULL, &was));
	return (long)regs.rax;
}

/* The page at @addr goes into a pipe, too, and is held by it as by a device. Returns the reading end there. */
static int hold(pid_t pid, uint64_t addr)
{
	struct user_regs_struct regs;
	union {
		int ends[2];
		long word;
	} pipe;
	int status;

	check_call(ptrace(PTRACE_ATTACH, pid, NULL, NULL));
	check_is(waitpid(pid, &status, __WALL), pid);
	check_call(ptrace(PTRACE_GETREGS, pid, NULL, &regs));
	/* Below its stack, and below what a function may use there without asking. */
	uint64_t scratch = (regs.rsp - 1024) & ~15ull;
	check_is(call_there(pid, SYS_pipe, scratch, 0, 0), 0);
	pipe.word = ptrace(PTRACE_PEEKDATA, pid, scratch, NULL);
	check_call(ptrace(PTRACE_POKEDATA, pid, scratch, addr));
	check_call(ptrace(PTRACE_POKEDATA, pid, scratch + 8, PAGE));
	check_is(call_there(pid, SYS_vmsplice, (uint64_t)pipe.ends[1], scratch, 1), PAGE);
	check_call(ptrace(PTRACE_DETACH, pid, NULL, NULL));
	return pipe.ends[0];
}

static void let_go(pid_t pid, int reading_end)
{
	char path[64], page[PAGE];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, reading_end);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	check_call(fd);
	check_is(read(fd, page, PAGE), PAGE);
	close(fd);
}

/* ---- tests */

static void need_programs(void)
{
	if (access(PAGEFERRY, X_OK) || access(QEMU, X_OK))
		test_skip("no QEMU and pageferry in here: see tests/guest/upgrade.sh");
	setenv("PAGEFERRY_STATE_DIR", "/tmp/state", 1);
}

static void probe(void)
{
	char *text, *line;

	need_programs();
	pageferry("probe");
	text = printed();
	line = strstr(text, "pageferry module ");
	if (!line || strncmp(line + strcspn(line, "\n") - 3, "yes", 3) != 0)
		test_failed(__FILE__, __LINE__, "no module: %s", line ? line : text);
	free(text);
}

static void in_a_row(void)
{
	pid_t keeper;

	need_programs();
	keeper = start_vm();
	upgrade("auto", "--json");
	upgrade("module", "--strict");
	upgrade("auto", "--strict");
	pageferry("vm", "stop", "v");
	ends_well(keeper, LOG);
	note("%zu rounds", ticks());
	check_call(unlink(TICKS));
}

static void huge_pages(void)
{
	in_a_row();
}

static void small_pages(void)
{
	/* All QEMUs inherit it. */
	check_call(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	in_a_row();
}

/* The VM goes on in the old QEMU; and once nothing holds the page, in a new one. */
static void strict(void)
{
	int status;

	need_programs();
	pid_t keeper = start_vm(), old = qemu_now();
	int end = hold(old, ram_of(old) + MIB);
	check_is(waitpid(start((char *const[]){PAGEFERRY, "vm", "upgrade", "--strict", "--timeout",
					       SECONDS, "v", NULL},
			       OUT),
			 &status, 0) > 0, 1);
	char *text = printed();
	note("%.*s", (int)strcspn(text, "\n"), text);
	check(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	check(strstr(text, "--strict: a page of guest memory can't move"));
	check(strstr(text, "the VM goes on in the old QEMU"));
	free(text);
	check_is(qemu_now(), old);
	goes_on();
	let_go(old, end);
	upgrade("auto", "--strict");
	check(qemu_now() != old);
	pageferry("vm", "stop", "v");
	ends_well(keeper, LOG);
	check_call(unlink(TICKS));
}

const struct test vm_tests[] = {
	TEST(probe, .by_name = true),
	TEST(huge_pages, .by_name = true, .seconds = 180),
	TEST(small_pages, .by_name = true, .seconds = 180),
	TEST(strict, .by_name = true, .seconds = 180),
	{.name = NULL},
};
