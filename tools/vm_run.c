/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "pageferry.h"
#include "tools/beside.h"
#include "tools/keeper.h"
#include "tools/leftovers.h"
#include "tools/proc.h"
#include "tools/strings.h"

#define PRELOAD "libpageferry-preload.so"

static int preload_try(const char *path, struct why *why)
{
	if (access(path, R_OK))
		return why_set(
			why, -errno,
			"%s: %s: install pageferry, or set PAGEFERRY_PRELOAD to the path of " PRELOAD,
			path, strerror(errno));
	/* The dynamic linker splits LD_PRELOAD there. */
	if (path[0] != '/' || strpbrk(path, " :"))
		return why_set(why, -EINVAL,
			       "%s: the dynamic linker needs an absolute path without spaces and "
			       "colons: set PAGEFERRY_PRELOAD",
			       path);
	return 0;
}

/* Beside the command in a build tree, else where it was installed. */
static int preload_find(char *path, size_t size, struct why *why)
{
	static const struct beside preload = {PRELOAD, "lib/" PRELOAD,
					      PAGEFERRY_LIBDIR "/" PRELOAD};
	const char *own = getenv("PAGEFERRY_PRELOAD");
	int err = -ENOENT;

	if (own && own[0]) {
		if ((size_t)snprintf(path, size, "%s", own) >= size)
			return why_set(why, -ENAMETOOLONG, "PAGEFERRY_PRELOAD is too long");
		return preload_try(path, why);
	}
	for (unsigned int i = 0; err == -ENOENT && beside_place(i, path, size, &preload); i++)
		if (path[0])
			err = preload_try(path, why);
	return err;
}

/* Does a QEMU still run whose keeper is gone? */
static int check_left_over(struct state_dir *dir, struct why *why)
{
	struct state state;
	int err = 0;

	if (state_read(dir, &state))
		return 0;
	for (unsigned int i = 0; i < state.nprocesses && !err; i++) {
		int fd = state_process_open(&state, i);

		if (fd < 0)
			continue;
		close(fd);
		err = why_set(why, -EBUSY,
			      "%s: its keeper is gone but its QEMU (process %d) still runs: "
			      "'pageferry vm stop %s' first",
			      dir->name, (int)state.process[i].pid, dir->name);
	}
	state_free(&state);
	return err;
}

static int claim(struct state_dir *dir, const char *name, struct why *why)
{
	int err;

	do {
		err = state_dir_open(dir, name, true, why);
		if (err)
			return err;
		err = state_dir_lock(dir);
		if (err)
			state_dir_close(dir);
	} while (err == -ESTALE);
	if (err == -EWOULDBLOCK)
		return why_set(why, err,
			       "%s: a VM of that name runs: choose another name, or end it with "
			       "'pageferry vm stop %s'",
			       name, name);
	if (err)
		return why_set(why, err, "%s: can't be locked: %s", name, strerror(-err));
	err = check_left_over(dir, why);
	if (err) {
		state_dir_close(dir);
		return err;
	}
	leftovers_clear(dir);
	state_dir_clear(dir);
	return 0;
}

static int make_ram_file(struct keeper *keeper, struct why *why)
{
	int fd = openat(keeper->dir.fd, "ram", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	/* Over the limit of a file's size, an error is wanted, not the signal. */
	void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
	int err = fd < 0 || ftruncate(fd, (off_t)keeper->args.ram) ? -errno : 0;

	signal(SIGXFSZ, before);
	if (fd >= 0)
		close(fd);
	return err ? why_set(why, err,
			     "%s/ram: a sparse file of %" PRIu64
			     " bytes can't be made: %s: check 'ulimit -f' and the size given with "
			     "-m",
			     keeper->dir.path, keeper->args.ram, strerror(-err))
		   : 0;
}

static int watch_signals(struct keeper *keeper, struct why *why)
{
	static const int stopping[] = {SIGTERM, SIGINT, SIGHUP};
	struct sigaction action;
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(stopping) / sizeof(stopping[0]); i++) {
		/* nohup and shells that start something in the background ignore them on purpose.
		 */
		sigaction(stopping[i], NULL, &action);
		if (action.sa_handler != SIG_IGN)
			sigaddset(&set, stopping[i]);
	}
	sigaction(SIGPIPE, NULL, &action);
	keeper->sigpipe_default = action.sa_handler != SIG_IGN;
	signal(SIGPIPE, SIG_IGN);
	sigprocmask(SIG_BLOCK, &set, &keeper->mask);
	keeper->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return keeper->signals < 0 ? why_set(why, -errno, "signalfd: %s", strerror(errno)) : 0;
}

static void say_added(struct keeper *keeper)
{
	const struct args_paths paths = {.dir = keeper->dir.path, .generation = 1};
	char *added[ARGS_ADDED_MAX];
	int n = args_added(&keeper->args, &paths, added);

	for (unsigned int i = 0; i < keeper->args.nnotes; i++)
		say("%s", keeper->args.note[i].text);
	for (int i = 0; i + 1 < n; i += 2)
		say("adds %s %s", added[i], added[i + 1]);
	for (int i = 0; i < n; i++)
		free(added[i]);
	say("adds LD_PRELOAD=%s to its environment", keeper->preload);
}

/* Better known now than when it is wanted: a new QEMU can't take RAM over without one. */
static void warn_of_upgrade(void)
{
	int uffd = ferry_uffd_open(0, FERRY_UFFD_KERNEL_FAULTS);

	if (uffd >= 0)
		close(uffd);
	else
		say("note: this VM can't be upgraded: no userfaultfd that catches the kernel's own "
		    "accesses: %s: see 'pageferry probe'",
		    strerror(-uffd));
}

static void describe(struct keeper *keeper, char **argv)
{
	struct state *state = &keeper->state;

	snprintf(state->name, sizeof(state->name), "%s", keeper->dir.name);
	proc_boot_id(state->boot, sizeof(state->boot));
	state->keeper = getpid();
	proc_start_time(state->keeper, &state->keeper_start);
	state->ram = keeper->args.ram;
	state->started = time(NULL);
	state->argv = argv;
}

static int prepare(struct keeper *keeper, const char *program, struct why *why)
{
	char path[PATH_MAX];
	int err = qemu_find(program, path, sizeof(path), why);

	if (!err)
		err = make_ram_file(keeper, why);
	if (!err)
		err = watch_signals(keeper, why);
	if (!err)
		err = clients_listen(keeper, why);
	if (err)
		return err;
	tty_save(keeper);
	say_added(keeper);
	warn_of_upgrade();
	err = qemu_start(keeper, path, 1, NULL, &keeper->now, why);
	if (err)
		return err;
	err = keeper_write_state(keeper);
	if (err)
		say("%s/vm.json: can't be written: %s: this VM can't be managed", keeper->dir.path,
		    strerror(-err));
	return 0;
}

static int run(struct keeper *keeper, const char *program)
{
	struct why why = {""};
	int status = EXIT_FAILURE;

	if (prepare(keeper, program, &why)) {
		say("%s", why.text);
	} else {
		status = keeper_run(keeper);
		if (!status && qemu_was_none(keeper->now))
			status = EXIT_FAILURE;
		tty_restore(keeper);
	}
	if (state_dir_remove(&keeper->dir))
		say("%s: some files there are not pageferry's: remove them", keeper->dir.path);
	clients_end(keeper);
	qemu_free(keeper->now);
	state_dir_close(&keeper->dir);
	return status;
}

int cmd_vm_run(int argc, char **argv)
{
	static struct keeper keeper = {.listener = -1, .signals = -1};
	static char preload[PATH_MAX];
	struct why why = {""};

	if (argc < 4 || strcmp(argv[2], "--") != 0)
		return say_usage("pageferry vm", "run needs a name, '--' and a QEMU command");
	if (args_read(argv + 4, &keeper.args, &why)) {
		say("%s", why.text);
		return EXIT_USAGE;
	}
	if (preload_find(preload, sizeof(preload), &why) || claim(&keeper.dir, argv[1], &why)) {
		say("%s", why.text);
		return state_name_valid(argv[1]) ? EXIT_FAILURE : EXIT_USAGE;
	}
	keeper.preload = preload;
	describe(&keeper, argv + 4);
	return run(&keeper, argv[3]);
}
