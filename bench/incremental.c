// SPDX-License-Identifier: MIT
/*
 * What does an increment cost, when so many pages have been written since its base?
 *
 * A process of 1 GiB of small pages stands still but for what it is told to write, at random. The
 * baseline is a full snapshot of it in the same round, by the same command to the same folder
 * (TMPDIR, or /dev/shm, as in command.h); each is timed from the start of the command to its end. Above some 16 MiB the
 * increment isn't copied while the process stands still, but frozen, which is dearer.
 *
 * Each increment is merged with its base, and compared with the memory.
 */
#include <elf.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "bench/command.h"

#define LEN       (1ull << 30)
#define LEN_QUICK (64ull << 20)
#define PART      (1u << 20)

/* A part of a thousand of the pages is written. */
struct share {
	const char *name;
	unsigned int permille;
	double limit;
	struct series full, increment;
};

static struct share shares[] = {
	{.name = "dirtied_0.1_percent", .permille = 1},
	{.name = "dirtied_1_percent", .permille = 10, .limit = 0.05},
	{.name = "dirtied_10_percent", .permille = 100},
};
#define NSHARES (sizeof(shares) / sizeof(shares[0]))

struct bench {
	struct report report;
	uint64_t len;
	char *mem; /* at the same address in the process */
	pid_t pid;
	int order, done;
	char command[512], dir[256];
};

/* ---- the process */

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void fill(const struct bench *b)
{
	uint64_t seed = 88172645463325252ull, *word = (void *)b->mem;

	must(madvise(b->mem, b->len, MADV_NOHUGEPAGE), "MADV_NOHUGEPAGE");
	for (uint64_t i = 0; i < b->len / sizeof(*word); i++)
		word[i] = next_random(&seed);
}

__attribute__((noreturn)) static void obey(const struct bench *b, int order, int done)
{
	uint64_t seed = 42, pages;
	char byte = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fill(b);
	must(write(done, &byte, 1), "write()");
	while (read(order, &pages, sizeof(pages)) == sizeof(pages)) {
		while (pages--)
			b->mem[next_random(&seed) % (b->len / BENCH_PAGE) * BENCH_PAGE]++;
		must(write(done, &byte, 1), "write()");
	}
	_exit(0);
}

static void wait_done(const struct bench *b)
{
	char byte;

	if (read(b->done, &byte, 1) != 1)
		bench_fail("the process has ended");
}

static void start_process(struct bench *b)
{
	int order[2], done[2];

	must(pipe2(order, O_CLOEXEC), "pipe()");
	must(pipe2(done, O_CLOEXEC), "pipe()");
	b->mem = mmap(NULL, b->len, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (b->mem == MAP_FAILED)
		bench_cannot("there is no room for %llu bytes", (unsigned long long)b->len);
	b->pid = (pid_t)must(fork(), "fork()");
	if (!b->pid)
		obey(b, order[0], done[1]);
	b->order = order[1];
	b->done = done[0];
	close(order[0]);
	close(done[1]);
	wait_done(b);
}

static void dirty(const struct bench *b, unsigned int permille)
{
	uint64_t pages = b->len / BENCH_PAGE * permille / 1000;

	must(write(b->order, &pages, sizeof(pages)), "write()");
	wait_done(b);
}

/* ---- the command */

static void become_command(const struct bench *b, char *const *argv)
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	dup2(null, STDOUT_FILENO);
	if (chdir(b->dir) == 0)
		execv(b->command, argv);
	_exit(127);
}

/*
 * Where the host takes free pages back, getting new ones would cost more than all the rest, and no
 * two commands the same.
 */
static void warm_up(const struct bench *b)
{
	uint64_t len = b->len / 4;
	void *mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (mem != MAP_FAILED)
		munmap(mem, len);
}

/* ms from its start to its end. */
static double run(const struct bench *b, const char *name, const char *const *args)
{
	const char *argv[12] = {b->command, "snapshot"};
	int status;

	for (unsigned int i = 0; args[i]; i++)
		argv[2 + i] = args[i];
	/* What the last one wrote must not be in the way of this one. */
	sync();
	warm_up(b);
	int64_t begin = bench_now();
	pid_t pid = (pid_t)must(fork(), "fork()");
	if (!pid)
		become_command(b, (char **)(uintptr_t)argv);
	must(waitpid(pid, &status, 0), "waitpid()");
	double ms = (double)(bench_now() - begin) / 1e6;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		bench_cannot("%s: %s can't be run here: see what it said", name, b->command);
	return ms;
}

#define RUN(b, name, ...) run(b, name, (const char *const[]){__VA_ARGS__, NULL})

static void remove_files(const struct bench *b)
{
	static const char *const names[] = {"full", "base", "increment", "merged"};
	char path[300];

	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", b->dir, names[i]);
		unlink(path);
	}
}

/* ---- is it right? */

static void compare(const struct bench *b, int fd, const Elf64_Phdr *p)
{
	static char ours[PART], theirs[PART];

	for (uint64_t at = 0; at < p->p_filesz; at += PART) {
		uint64_t len = p->p_filesz - at < PART ? p->p_filesz - at : PART;
		struct iovec local = {theirs, len}, remote = {(char *)p->p_vaddr + at, len};
		must(pread(fd, ours, len, (off_t)(p->p_offset + at)), "reading the merged file");
		must(process_vm_readv(b->pid, &local, 1, &remote, 1, 0), "process_vm_readv");
		if (memcmp(ours, theirs, len) != 0)
			bench_fail("ferry: wrong contents near %#" PRIx64, p->p_vaddr + at);
	}
}

static void check_merged(const struct bench *b)
{
	uint64_t start = (uintptr_t)b->mem, compared = 0;
	char path[300];
	Elf64_Ehdr e;
	Elf64_Phdr p;

	snprintf(path, sizeof(path), "%s/merged", b->dir);
	int fd = (int)must(open(path, O_RDONLY | O_CLOEXEC), path);
	must(pread(fd, &e, sizeof(e), 0), "reading the merged file");
	for (unsigned int i = 0; i < e.e_phnum; i++) {
		must(pread(fd, &p, sizeof(p), (off_t)(e.e_phoff + i * sizeof(p))), "reading it");
		if (p.p_type != PT_LOAD || p.p_vaddr + p.p_filesz <= start ||
		    p.p_vaddr >= start + b->len)
			continue;
		compare(b, fd, &p);
		compared += p.p_filesz;
	}
	close(fd);
	if (compared < b->len)
		bench_fail("ferry: the merged file has %llu bytes of the memory only",
			   (unsigned long long)compared);
}

/* ---- */

static void measure(struct bench *b, struct share *s)
{
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", (int)b->pid);
	series_add(&s->full, RUN(b, "full", "--pid", pid, "-o", "full"));
	RUN(b, "base", "--pid", pid, "-o", "base", "--track");
	dirty(b, s->permille);
	series_add(&s->increment,
		   RUN(b, "increment", "--pid", pid, "-o", "increment", "--incremental", "base"));
	RUN(b, "untrack", "--pid", pid, "--untrack");
	RUN(b, "merge", "merge", "base", "increment", "-o", "merged");
	check_merged(b);
	remove_files(b);
}

static void set_up(struct bench *b)
{
	command_find(b->command, sizeof(b->command));
	b->len = b->report.o.quick ? LEN_QUICK : LEN;
	command_make_dir(b->dir, sizeof(b->dir), command_folder(2 * b->len));
}

static struct bench bench;

static void add(struct report *r, const struct share *s)
{
	struct comparison c = {.name = s->name,
			       .unit = "ms",
			       .base_what = "full snapshot",
			       .ours_what = "increment",
			       .base = &s->full,
			       .ours = &s->increment,
			       .limit = s->limit};
	report_add(r, &c);
}

int main(int argc, char **argv)
{
	report_open(&bench.report, argc, argv,
		    "What does an increment cost beside a full snapshot?", 5);
	set_up(&bench);
	start_process(&bench);
	for (unsigned int i = 0; i < bench.report.o.rounds; i++)
		for (unsigned int k = 0; k < NSHARES; k++)
			measure(&bench, &shares[k]);
	for (unsigned int k = 0; k < NSHARES; k++)
		add(&bench.report, &shares[k]);
	return report_close(&bench.report);
}
