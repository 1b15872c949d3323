/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tools/leftovers.h"

/* Of the two QEMUs of an upgrade, the one from which the VM was to go. */
static bool is_old(const struct state *state, unsigned int i)
{
	for (unsigned int j = 0; j < state->nprocesses; j++)
		if (state->process[j].generation < state->process[i].generation)
			return false;
	return true;
}

static void find_alive(const struct state *state, bool *old, bool *new)
{
	*old = *new = false;
	for (unsigned int i = 0; i < state->nprocesses; i++) {
		int fd = state_process_open(state, i);

		if (fd < 0)
			continue;
		close(fd);
		*(is_old(state, i) ? old : new) = true;
	}
}

/* Where somebody listens it refuses nobody. Whoever that is, it isn't the QEMU that has died. */
static bool is_dead(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd, err = 0;

	if (strlen(path) >= sizeof(addr.sun_path))
		return false;
	memcpy(addr.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		err = errno;
	close(fd);
	return err == ECONNREFUSED;
}

/* The old QEMU gets its PATH back, unless that is somebody else's now. */
static void give_back(const struct aside *aside)
{
	char path[PATH_MAX];
	struct stat st = {0};

	if (!aside_path(aside, path) || (lstat(path, &st) && errno != ENOENT))
		return;
	if (!st.st_ino || (st.st_dev == aside->dev && st.st_ino == aside->ino) ||
	    (S_ISSOCK(st.st_mode) && is_dead(path)))
		aside_restore(aside);
}

void leftovers_clear(const struct state_dir *dir)
{
	struct state state;
	bool old, new;

	if (state_read(dir, &state))
		return;
	find_alive(&state, &old, &new);
	/* With both of them there the VM is about to be in one: which one is for them to decide. */
	for (unsigned int i = 0; i < state.asides.n && !(old && new); i++) {
		if (old)
			give_back(&state.asides.items[i]);
		else
			aside_remove(&state.asides.items[i]);
	}
	state_free(&state);
}
