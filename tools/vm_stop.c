/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/leftovers.h"
#include "tools/proc.h"
#include "tools/qmp.h"
#include "tools/state.h"
#include "tools/vm_client.h"

#define KEEPER_MS 45000 /* the keeper's own deadlines fit into it */
#define QUIT_MS   10000
#define TERM_MS   5000

/* Returns 0: the keeper has ended the VM; -ECONNREFUSED: there is no keeper. */
static int ask_keeper(const struct state_dir *dir)
{
	struct json_object *answer = NULL;
	int fd = keeper_connect(dir->path);
	int err;

	if (fd < 0)
		return -ECONNREFUSED;
	err = keeper_ask(fd, keeper_request("stop"));
	if (!err)
		err = keeper_receive(fd, KEEPER_MS, &answer);
	close(fd);
	json_object_put(answer);
	if (err == -ETIMEDOUT)
		say("%s: its keeper does not answer: kill the process of 'pageferry vm run', then "
		    "try again",
		    dir->name);
	else if (err == -EPIPE)
		return -ECONNREFUSED; /* it was killed meanwhile */
	return err;
}

static void quit(const struct state_dir *dir, const struct state_process *process)
{
	char path[PATH_MAX + 32];
	struct qmp *qmp;
	struct why why = {""};

	snprintf(path, sizeof(path), "%s/qmp-%u.sock", dir->path, process->generation);
	if (qmp_open(&qmp, path, QUIT_MS))
		return;
	qmp_call(qmp, "quit", NULL, QUIT_MS, NULL, &why);
	qmp_close(qmp);
}

static bool end_process(const struct state_dir *dir, const struct state *state, unsigned int i)
{
	int fd = state_process_open(state, i);
	bool ended;

	if (fd < 0)
		return true;
	quit(dir, &state->process[i]);
	ended = !proc_wait(fd, QUIT_MS);
	for (int hard = 0; !ended && hard < 2; hard++) {
		proc_signal(fd, hard ? SIGKILL : SIGTERM);
		ended = !proc_wait(fd, TERM_MS);
	}
	close(fd);
	return ended;
}

static int end_processes(const struct state_dir *dir)
{
	struct state state;
	int err = 0;

	if (state_read(dir, &state))
		return 0;
	for (unsigned int i = 0; i < state.nprocesses; i++) {
		if (end_process(dir, &state, i))
			continue;
		say("%s: QEMU (process %d) can't be killed", dir->name, (int)state.process[i].pid);
		err = -EBUSY;
	}
	state_free(&state);
	return err;
}

/* No keeper: do what it would have done. */
static int stop_alone(struct state_dir *dir)
{
	int err = state_dir_lock(dir);

	if (err == -ESTALE)
		return 0;
	if (err) {
		say("%s: a keeper is just starting or ending: try again", dir->name);
		return err;
	}
	err = end_processes(dir);
	if (!err) {
		leftovers_clear(dir);
		err = state_dir_remove(dir);
	}
	if (err == -ENOTEMPTY)
		say("%s: some files there are not pageferry's: remove them", dir->path);
	return err;
}

int cmd_vm_stop(int argc, char **argv)
{
	struct state_dir dir;
	struct why why = {""};
	int err;

	if (argc != 2 || argv[1][0] == '-')
		return say_usage("pageferry vm", "stop needs the name of one VM");
	err = state_dir_open(&dir, argv[1], false, &why);
	if (err) {
		if (err == -ENOENT)
			say("%s: there is no VM of that name: see 'pageferry vm list'", argv[1]);
		else
			say("%s", why.text);
		return EXIT_FAILURE;
	}
	err = ask_keeper(&dir);
	if (err == -ECONNREFUSED)
		err = stop_alone(&dir);
	state_dir_close(&dir);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
