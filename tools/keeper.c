/* SPDX-License-Identifier: MIT */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/clock.h"
#include "tools/keeper.h"
#include "tools/keeper_upgrade.h"

#define HELLO_MS 15000 /* after which a missing library is worth a note */

enum slot_kind {
	SLOT_SIGNALS,
	SLOT_LISTENER,
	SLOT_PROCESS,
	SLOT_CONTROL,
	SLOT_QMP,
	SLOT_CLIENT,
};

struct slot {
	enum slot_kind kind;
	void *of;
};

#define SLOTS_MAX (2 + 2 * 3 + KEEPER_CLIENTS_MAX)

struct slots {
	struct pollfd poller[SLOTS_MAX];
	struct slot slot[SLOTS_MAX];
	nfds_t n;
};

static void slot_add(struct slots *slots, enum slot_kind kind, void *of, int fd, short events)
{
	if (fd < 0)
		return;
	slots->poller[slots->n] = (struct pollfd){.fd = fd, .events = events};
	slots->slot[slots->n++] = (struct slot){.kind = kind, .of = of};
}

static void slots_add_qemu(struct slots *slots, struct qemu *qemu)
{
	if (!qemu)
		return;
	/* In this order: what it has said counts before its end does. */
	slot_add(slots, SLOT_CONTROL, qemu, qemu->control, POLLIN);
	if (qemu->qmp && !qemu->qmp_error)
		slot_add(slots, SLOT_QMP, qemu, qmp_fd(qemu->qmp), qmp_poll_events(qemu->qmp));
	slot_add(slots, SLOT_PROCESS, qemu, qemu->ended ? -1 : qemu->pidfd, POLLIN);
}

static void read_signals(struct keeper *keeper)
{
	struct signalfd_siginfo info;

	while (read(keeper->signals, &info, sizeof(info)) == sizeof(info))
		keeper->stop = true;
}

static void handle_slot(struct keeper *keeper, const struct slot *slot)
{
	switch (slot->kind) {
	case SLOT_SIGNALS:
		read_signals(keeper);
		break;
	case SLOT_LISTENER:
		clients_accept(keeper);
		break;
	case SLOT_PROCESS:
		qemu_reap(slot->of);
		break;
	case SLOT_CONTROL:
		qemu_control_read(slot->of);
		break;
	case SLOT_QMP:
		qemu_qmp_read(slot->of);
		break;
	case SLOT_CLIENT:
		client_read(keeper, slot->of);
		break;
	}
}

void keeper_step(struct keeper *keeper, int timeout_ms)
{
	struct slots slots = {.n = 0};

	slot_add(&slots, SLOT_SIGNALS, NULL, keeper->signals, POLLIN);
	slots_add_qemu(&slots, keeper->now);
	slots_add_qemu(&slots, keeper->next);
	slot_add(&slots, SLOT_LISTENER, NULL, keeper->listener, POLLIN);
	for (int i = 0; i < KEEPER_CLIENTS_MAX; i++)
		slot_add(&slots, SLOT_CLIENT, &keeper->clients[i], keeper->clients[i].fd, POLLIN);
	if (poll(slots.poller, slots.n, timeout_ms) <= 0)
		return;
	for (nfds_t i = 0; i < slots.n; i++)
		if (slots.poller[i].revents)
			handle_slot(keeper, &slots.slot[i]);
}

bool keeper_wait_end(struct keeper *keeper, struct qemu *qemu, int timeout_ms)
{
	int64_t deadline = clock_ns() + timeout_ms * 1000000LL;

	while (!qemu->ended && clock_ns() < deadline)
		keeper_step(keeper, 10);
	return qemu->ended;
}

static void add_process(struct state *state, const struct qemu *qemu)
{
	if (qemu && !qemu->ended)
		state->process[state->nprocesses++] = (struct state_process){
			.generation = qemu->generation,
			.pid = qemu->pid,
			.start = qemu->start,
			.qemu = qemu->path,
		};
}

int keeper_write_state(struct keeper *keeper)
{
	const struct args_paths paths = {.dir = keeper->dir.path,
					 .generation = keeper->now->generation};
	char *added[ARGS_ADDED_MAX + 1] = {NULL};
	int n = args_added(&keeper->args, &paths, added);
	/* The strings in it stay their owners'. */
	struct state state = keeper->state;
	int err = n;

	state.generation = keeper->state.generation = keeper->now->generation;
	state.nprocesses = 0;
	state.added = added;
	add_process(&state, keeper->now);
	add_process(&state, keeper->next);
	if (n >= 0)
		err = state_write(&keeper->dir, &state);
	for (int i = 0; i < n; i++)
		free(added[i]);
	return err;
}

static int exit_status(const struct qemu *qemu)
{
	return WIFSIGNALED(qemu->status) ? 128 + WTERMSIG(qemu->status) : WEXITSTATUS(qemu->status);
}

/* Its exit status is passed on without a word, as a shell does; a signal leaves no other trace. */
static void say_end(struct keeper *keeper, bool noted)
{
	const struct qemu *qemu = keeper->now;
	char end[96];

	if (WIFSIGNALED(qemu->status)) {
		qemu_end_text(qemu, end, sizeof(end));
		say("%s: QEMU %s", keeper->state.name, end);
	} else if (qemu_was_none(qemu) && !keeper->stop && !noted) {
		say("%s: %s " QEMU_NONE_TEXT, keeper->state.name, qemu->path);
	}
}

/* Only once, and only a note: the VM itself runs well without the library. */
static void note_missing_library(struct keeper *keeper)
{
	if (!keeper->now->hello && !keeper->now->ended)
		say("%s: the preloaded library has not reported: this VM can't be upgraded; is its "
		    "QEMU a static or set-user-id program?",
		    keeper->state.name);
}

int keeper_run(struct keeper *keeper)
{
	int64_t hello_deadline = clock_ns() + HELLO_MS * 1000000LL;

	while (!keeper->now->ended) {
		keeper_step(keeper, hello_deadline ? 1000 : -1);
		if (keeper->upgrade)
			upgrade_run(keeper);
		if (keeper->stop)
			keeper_stop(keeper);
		if (keeper->now->hello || (hello_deadline && clock_ns() > hello_deadline)) {
			note_missing_library(keeper);
			hello_deadline = 0;
		}
	}
	/* Nothing is to be guessed of one that ran for long without the library. */
	say_end(keeper, !hello_deadline);
	return exit_status(keeper->now);
}
