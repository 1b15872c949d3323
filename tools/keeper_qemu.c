/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/keeper.h"
#include "tools/proc.h"
#include "tools/strings.h"

#define LOG_TAIL     400
#define LOG_SHOW_MAX (1 << 20)

extern char **environ;

static bool is_program(const char *path, struct why *why)
{
	struct stat st;

	if (stat(path, &st))
		why_set(why, -errno, "%s: %s: give the path of a QEMU", path, strerror(errno));
	else if (!S_ISREG(st.st_mode) || access(path, X_OK))
		why_set(why, -EACCES, "%s: not a program: give the path of a QEMU", path);
	else
		return true;
	return false;
}

static int find_in_path(const char *program, char *path, size_t size, struct why *why)
{
	const char *list = getenv("PATH");

	for (; list && *list; list += strcspn(list, ":"), list += *list == ':') {
		int len = (int)strcspn(list, ":");

		if (!len || snprintf(path, size, "%.*s/%s", len, list, program) >= (int)size)
			continue;
		if (path[0] == '/' && is_program(path, why))
			return 0;
	}
	return why_set(why, -ENOENT, "%s: not found in PATH: install it or give its path", program);
}

int qemu_find(const char *program, char *path, size_t size, struct why *why)
{
	char here[PATH_MAX];
	int len;

	if (!strchr(program, '/'))
		return find_in_path(program, path, size, why);
	while (!strncmp(program, "./", 2))
		program += 2;
	if (program[0] != '/' && !getcwd(here, sizeof(here)))
		return why_set(why, -errno, "the current directory: %s", strerror(errno));
	if (program[0] == '/')
		len = snprintf(path, size, "%s", program);
	else
		len = snprintf(path, size, "%s/%s", here, program);
	if (len < 0 || (size_t)len >= size)
		return why_set(why, -ENAMETOOLONG, "%s: the path is too long", program);
	return is_program(path, why) ? 0 : -ENOENT;
}

/* The descriptors that a new QEMU gets besides those of the keeper's own start. */
struct handed {
	int control;
	int take;   /* -1: none */
	const char *ports;
	int log;    /* -1: none; else its stderr for now */
	int stderr; /* -1: none; else what is to be its stderr later */
};

static int build_argv(struct keeper *keeper, const char *path, uint32_t generation, bool take,
		      struct strings *argv)
{
	const struct args_paths paths = {.dir = keeper->dir.path, .generation = generation};
	char *added[ARGS_ADDED_MAX];
	int n = args_added(&keeper->args, &paths, added);
	int err = n < 0 ? n : strings_add(argv, path);

	for (char **arg = keeper->state.argv; !err && *arg; arg++)
		err = strings_add(argv, *arg);
	for (int i = 0; i < n; i++) {
		if (!err)
			err = strings_add(argv, added[i]);
		free(added[i]);
	}
	if (!err && take) {
		static const char *const incoming[] = {"-S", "-incoming", "defer"};

		for (size_t i = 0; !err && i < 3; i++)
			err = strings_add(argv, incoming[i]);
	}
	return err;
}

static bool is_own_variable(const char *variable)
{
	static const char *const own[] = {CONTROL_ENV_FD,   CONTROL_ENV_RAM,   CONTROL_ENV_QMP,
					  CONTROL_ENV_TAKE, CONTROL_ENV_PORTS, CONTROL_ENV_STDERR,
					  "LD_PRELOAD"};

	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
		size_t len = strlen(own[i]);

		if (!strncmp(variable, own[i], len) && variable[len] == '=')
			return true;
	}
	return false;
}

static int build_env(struct keeper *keeper, uint32_t generation, const struct handed *handed,
		     struct strings *env)
{
	const char *preloads = getenv("LD_PRELOAD");
	int err = 0;

	for (char **variable = environ; !err && *variable; variable++)
		if (!is_own_variable(*variable))
			err = strings_add(env, *variable);
	if (!err)
		err = strings_addf(env, "LD_PRELOAD=%s%s%s", keeper->preload, preloads ? ":" : "",
				   preloads ? preloads : "");
	if (!err)
		err = strings_addf(env, CONTROL_ENV_FD "=%d", handed->control);
	if (!err)
		err = strings_addf(env, CONTROL_ENV_RAM "=%s/ram", keeper->dir.path);
	if (!err)
		err = strings_addf(env, CONTROL_ENV_QMP "=%s/self-%u.sock", keeper->dir.path,
				   generation);
	if (!err && handed->take >= 0)
		err = strings_addf(env, CONTROL_ENV_TAKE "=%d", handed->take);
	if (!err && handed->ports)
		err = strings_addf(env, CONTROL_ENV_PORTS "=%s", handed->ports);
	if (!err && handed->stderr >= 0)
		err = strings_addf(env, CONTROL_ENV_STDERR "=%d", handed->stderr);
	return err;
}

/* In the child a descriptor that is duplicated onto itself loses close-on-exec. */
static int keep_open(posix_spawn_file_actions_t *actions, int fd)
{
	return fd < 0 ? 0 : posix_spawn_file_actions_adddup2(actions, fd, fd);
}

static int spawn(struct keeper *keeper, struct qemu *qemu, const struct handed *handed,
		 struct strings *argv, struct strings *env)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t defaults;
	int err;

	sigemptyset(&defaults);
	if (keeper->sigpipe_default)
		sigaddset(&defaults, SIGPIPE);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attributes, &keeper->mask);
	posix_spawnattr_setsigdefault(&attributes, &defaults);
	err = keep_open(&actions, handed->control);
	if (!err)
		err = keep_open(&actions, handed->take);
	if (!err)
		err = keep_open(&actions, handed->stderr);
	if (!err && handed->log >= 0)
		err = posix_spawn_file_actions_adddup2(&actions, handed->log, STDERR_FILENO);
	if (!err)
		err = posix_spawn(&qemu->pid, qemu->path, &actions, &attributes, argv->items,
				  env->items);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	return -err;
}

static int spawn_with(struct keeper *keeper, struct qemu *qemu, const struct handed *handed)
{
	struct strings argv = {0}, env = {0};
	int err = build_argv(keeper, qemu->path, qemu->generation, handed->take >= 0, &argv);

	if (!err)
		err = build_env(keeper, qemu->generation, handed, &env);
	if (!err)
		err = spawn(keeper, qemu, handed, &argv, &env);
	strings_free(&argv);
	strings_free(&env);
	if (err)
		return err;
	/* Our own child, not yet waited for: the pid can't be another's. */
	qemu->pidfd = (int)syscall(SYS_pidfd_open, qemu->pid, 0);
	if (qemu->pidfd < 0 || proc_start_time(qemu->pid, &qemu->start)) {
		kill(qemu->pid, SIGKILL);
		waitpid(qemu->pid, NULL, 0);
		return -ESRCH;
	}
	return 0;
}

static int open_log(struct keeper *keeper, struct qemu *qemu, struct handed *handed)
{
	char file[32];

	snprintf(file, sizeof(file), "qemu-%u.log", qemu->generation);
	unlinkat(keeper->dir.fd, file, 0);
	qemu->log = openat(keeper->dir.fd, file,
			   O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (qemu->log < 0)
		return -errno;
	handed->log = qemu->log;
	handed->stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	return 0;
}

static struct qemu *new_qemu(const char *path, uint32_t generation)
{
	struct qemu *qemu = calloc(1, sizeof(*qemu));

	if (!qemu)
		return NULL;
	qemu->generation = generation;
	qemu->pidfd = qemu->control = qemu->log = -1;
	qemu->path = strdup(path);
	qemu_clear_said(qemu);
	if (qemu->path)
		return qemu;
	qemu_free(qemu);
	return NULL;
}

int qemu_start(struct keeper *keeper, const char *path, uint32_t generation,
	       const struct succession *succession, struct qemu **out, struct why *why)
{
	struct handed handed = {.control = -1, .take = -1, .log = -1, .stderr = -1};
	struct qemu *qemu;
	int pair[2];
	int err = 0;

	qemu = new_qemu(path, generation);
	if (!qemu)
		return why_set(why, -ENOMEM, "out of memory");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		err = -errno;
		goto out;
	}
	qemu->control = pair[0];
	handed.control = pair[1];
	if (succession) {
		handed.take = succession->sock;
		handed.ports = succession->ports;
		err = open_log(keeper, qemu, &handed);
	}
	if (!err)
		err = spawn_with(keeper, qemu, &handed);
	close(pair[1]);
	if (handed.stderr >= 0)
		close(handed.stderr);
out:
	if (err) {
		qemu_free(qemu);
		return why_set(why, err, "%s: can't be started: %s", path, strerror(-err));
	}
	*out = qemu;
	return 0;
}

void qemu_reap(struct qemu *qemu)
{
	if (!qemu->ended && waitpid(qemu->pid, &qemu->status, WNOHANG) == qemu->pid)
		qemu->ended = true;
}

void qemu_kill(struct qemu *qemu)
{
	if (!qemu->ended)
		proc_signal(qemu->pidfd, SIGKILL);
}

void qemu_free(struct qemu *qemu)
{
	if (!qemu)
		return;
	qmp_close(qemu->qmp);
	if (qemu->pidfd >= 0)
		close(qemu->pidfd);
	if (qemu->control >= 0)
		close(qemu->control);
	if (qemu->log >= 0)
		close(qemu->log);
	free(qemu->path);
	free(qemu);
}

void qemu_end_text(const struct qemu *qemu, char *text, size_t size)
{
	if (WIFSIGNALED(qemu->status))
		snprintf(text, size, "was killed by signal %d (%s)", WTERMSIG(qemu->status),
			 strsignal(WTERMSIG(qemu->status)));
	else
		snprintf(text, size, "ended with status %d", WEXITSTATUS(qemu->status));
}

bool qemu_was_none(const struct qemu *qemu)
{
	return qemu->ended && !qemu->hello && WIFEXITED(qemu->status) &&
	       !WEXITSTATUS(qemu->status);
}

void qemu_log_tail(const struct qemu *qemu, char *text, size_t size)
{
	char tail[LOG_TAIL];
	struct stat st;
	ssize_t len = 0;
	char *start = tail;

	text[0] = '\0';
	if (qemu->log < 0 || fstat(qemu->log, &st))
		return;
	if (st.st_size >= (off_t)sizeof(tail))
		len = pread(qemu->log, tail, sizeof(tail) - 1, st.st_size - LOG_TAIL + 1);
	else
		len = pread(qemu->log, tail, sizeof(tail) - 1, 0);
	if (len <= 0)
		return;
	tail[len] = '\0';
	if (st.st_size >= (off_t)sizeof(tail) && strchr(tail, '\n'))
		start = strchr(tail, '\n') + 1;
	while (len && (tail[len - 1] == '\n' || tail[len - 1] == '\r'))
		tail[--len] = '\0';
	/* One line after the other, for a message of one line. */
	for (char *end; (end = strchr(start, '\n')); start = end + 1) {
		int n = snprintf(text, size, "%.*s; ", (int)(end - start), start);

		n = n < (int)size ? n : (int)size - 1;
		text += n;
		size -= (size_t)n;
	}
	snprintf(text, size, "%s", start);
}

void qemu_log_release(struct keeper *keeper, struct qemu *qemu)
{
	char chunk[4096], file[32];
	off_t at = 0;
	ssize_t len;

	if (qemu->log < 0)
		return;
	while (at < LOG_SHOW_MAX && (len = pread(qemu->log, chunk, sizeof(chunk), at)) > 0) {
		if (write(STDERR_FILENO, chunk, (size_t)len) < 0)
			break;
		at += len;
	}
	snprintf(file, sizeof(file), "qemu-%u.log", qemu->generation);
	unlinkat(keeper->dir.fd, file, 0);
	close(qemu->log);
	qemu->log = -1;
}
