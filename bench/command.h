/* SPDX-License-Identifier: MIT */
/* `pageferry snapshot` and others that make a file of a process, in a folder for them. */
#ifndef BENCH_COMMAND_H
#define BENCH_COMMAND_H

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "bench/report.h"

extern char **environ;

struct command {
	char path[512]; /* of pageferry */
	char dir[256];
	char file[300], said[300]; /* what is made there, and what it says on its standard output */
};

struct outcome {
	int status;
	double ms;
	uint64_t peak; /* of its resident memory */
};

/* TMPDIR, or /dev/shm: a disk that can't keep up would be what is measured. */
static inline const char *command_folder(uint64_t len)
{
	const char *tmp = getenv("TMPDIR");
	struct statvfs v;

	if (tmp)
		return tmp;
	return !statvfs("/dev/shm", &v) && v.f_bavail * v.f_frsize > 2 * len ? "/dev/shm" : "/tmp";
}

/* The command that asks, or else the one that was built with this bench. */
static inline void command_find(char *path, size_t size)
{
	const char *asking = getenv("PAGEFERRY_COMMAND");
	if (asking && (size_t)snprintf(path, size, "%s", asking) < size)
		return;
	ssize_t n = readlink("/proc/self/exe", path, size - 32);

	path[n > 0 ? n : 0] = 0;
	for (int i = 0; i < 2; i++)
		if (strrchr(path, '/'))
			*strrchr(path, '/') = 0;
	size_t end = strlen(path);
	snprintf(path + end, size - end, "/pageferry");
}

static inline void command_remove_dir(const char *path)
{
	DIR *dir = opendir(path);

	for (const struct dirent *e; dir && (e = readdir(dir));)
		unlinkat(dirfd(dir), e->d_name, 0);
	if (dir)
		closedir(dir);
	rmdir(path);
}

/* Of the process that removes the folder. */
static pid_t command_keeper, command_owner;
static char command_dir[256];

/* Children that end in the same way leave it alone; some may still have the other end. */
static inline void command_leave(void)
{
	if (getpid() != command_owner)
		return;
	kill(command_keeper, SIGKILL);
	waitpid(command_keeper, NULL, 0);
	command_remove_dir(command_dir);
}

/* Until nobody has the other end any more, whatever ended them: a killed bench may have left GiB. */
static inline void command_keep(const char *dir, int end)
{
	char byte;

	/* What is meant for the bench isn't meant for this. */
	setsid();
	while (read(end, &byte, 1) < 0 && errno == EINTR)
		;
	command_remove_dir(dir);
	_exit(0);
}

/* It is there until this process ends, in whatever way. */
static inline void command_make_dir(char *dir, size_t size, const char *where)
{
	int ends[2];

	snprintf(dir, size, "%.200s/pageferry-bench-XXXXXX", where);
	must(pipe2(ends, O_CLOEXEC), "pipe");
	if (!mkdtemp(dir))
		bench_cannot("%s: %s", dir, strerror(errno));
	command_owner = getpid();
	snprintf(command_dir, sizeof(command_dir), "%s", dir);
	command_keeper = (pid_t)must(fork(), "fork");
	if (!command_keeper) {
		close(ends[1]);
		command_keep(dir, ends[0]);
	}
	close(ends[0]);
	atexit(command_leave);
}

/* With room for files of so many bytes. */
static inline void command_init(struct command *c, uint64_t len)
{
	command_find(c->path, sizeof(c->path));
	command_make_dir(c->dir, sizeof(c->dir), command_folder(len));
	snprintf(c->file, sizeof(c->file), "%s/core", c->dir);
	snprintf(c->said, sizeof(c->said), "%s/said", c->dir);
}

/* Its own memory counts from that of who starts it: this one must stay small. */
static inline struct outcome command_run(const struct command *c, const char *const *argv)
{
	posix_spawn_file_actions_t files;
	struct outcome o = {.status = -1};
	struct rusage used = {0};
	pid_t pid;

	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, c->said,
					 O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (argv[0] != c->path)
		posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
	int64_t begin = bench_now();
	if (!posix_spawnp(&pid, argv[0], &files, NULL, (char **)(uintptr_t)argv, environ)) {
		must(wait4(pid, &o.status, 0, &used), "wait4");
		o.ms = (double)(bench_now() - begin) / 1e6;
		o.peak = (uint64_t)used.ru_maxrss << 10;
	}
	posix_spawn_file_actions_destroy(&files);
	return o;
}

/* @way, @rate: NULL for the usual. */
static inline struct outcome command_snapshot(const struct command *c, pid_t pid, const char *way,
					      const char *rate)
{
	const char *argv[16] = {c->path, "snapshot", "--json", "-o", c->file, "--pid"};
	unsigned int n = 6;
	char number[16];

	snprintf(number, sizeof(number), "%d", (int)pid);
	argv[n++] = number;
	if (rate) {
		argv[n++] = "--limit-rate";
		argv[n++] = rate;
	}
	if (way) {
		argv[n++] = "--way";
		argv[n++] = way;
	}
	struct outcome o = command_run(c, argv);
	if (o.status)
		bench_cannot("%s snapshot can't be run here: see what it said", c->path);
	return o;
}

/* How long the process stood still, as the command says. */
static inline double command_stop_us(const struct command *c)
{
	struct json_object *said = json_object_from_file(c->said), *ms;

	if (!json_object_object_get_ex(said, "stop_ms", &ms))
		bench_fail("%s: no report", c->path);
	double us = json_object_get_double(ms) * 1e3;
	json_object_put(said);
	return us;
}

/*
 * Where the host takes free pages back, getting new ones would cost more than all the rest, and no
 * two commands the same. And what the last one wrote must not be in the way of the next.
 */
static inline void command_warm_up(const struct command *c, uint64_t len)
{
	int dir = (int)must(open(c->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), c->dir);

	unlink(c->file);
	syncfs(dir);
	close(dir);
	pid_t pid = (pid_t)must(fork(), "fork");
	if (!pid) {
		void *mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		_exit(mem == MAP_FAILED);
	}
	must(waitpid(pid, NULL, 0), "waitpid");
}

/* ---- memory of a process, bytes */

static inline uint64_t command_memory(pid_t pid, const char *file, const char *key)
{
	char path[64], text[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	host_line(path, key, text, sizeof(text));
	return strtoull(text, NULL, 10) << 10;
}

static inline void command_reset_peak(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/clear_refs", (int)pid);
	FILE *f = fopen(path, "we");
	if (!f || fputs("5", f) == EOF || fclose(f) == EOF)
		bench_cannot("%s can't be written: %s", path, strerror(errno));
}

/* What is in memory, by the name of its key, and the tables for it. */
static inline uint64_t command_memory_of(pid_t pid, const char *key)
{
	return command_memory(pid, "status", key) + command_memory(pid, "status", "VmPTE");
}

#endif
