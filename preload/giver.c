// SPDX-License-Identifier: MIT
/* The old QEMU: hand guest RAM to a successor, as the keeper says; go on if it doesn't come to it. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "preload/vm.h"

#define PROGRESS_NS 50000000

/* Wait for the keeper's next packet, serving the hand-over meanwhile. */
static int next_command(struct vm *vm, struct ferry_give *give, enum ferry_phase until,
			struct control_msg *msg)
{
	int fd = -1;

	for (;;) {
		int ret = ferry_give_wait(give, until, vm->control);
		if (ret <= 0)
			return ret;
		ret = control_recv(vm, msg, &fd);
		if (fd >= 0)
			close(fd);
		if (ret != -EAGAIN)
			return ret ? ret : 1;
	}
}

/* 0: the keeper says @type; else why not. */
static int expect(struct vm *vm, struct ferry_give *give, enum ferry_phase until,
		  enum control_type type)
{
	struct control_msg msg = { 0 };

	int ret = next_command(vm, give, until, &msg);
	if (ret < 0)
		return ret;
	return ret == 1 && msg.type == type ? 0 : -ECANCELED;
}

static int reach(struct vm *vm, struct ferry_give *give, enum ferry_phase phase)
{
	struct control_msg msg = { 0 };

	int ret = next_command(vm, give, phase, &msg);
	if (ret)
		return ret < 0 ? ret : -ECANCELED;
	control_phase(vm, phase, NULL);
	return 0;
}

static int offer(struct vm *vm, struct ferry_give **give, int sock, const struct control_msg *cmd)
{
	struct vm_blob blob = { VM_BLOB_VERSION, (cmd->flags & CONTROL_GIVE_RUNNING) != 0 };
	/* QEMU keeps guest RAM out of its children itself, for good. */
	struct ferry_range range = { .addr = (uintptr_t)vm->ram,
				     .len = vm->ram_len,
				     .flags = FERRY_RANGE_DONTFORK };
	struct ferry_offer what = { &range, 1, &blob, sizeof(blob) };
	struct ferry_give_opts opts = FERRY_GIVE_OPTS_INIT;

	opts.ways = cmd->ways;
	opts.timeout_ms = cmd->timeout_ms;
	opts.cpu = cmd->cpu;
	opts.flags = FERRY_GIVE_TABLES;
	if (cmd->flags & CONTROL_GIVE_STRICT)
		opts.flags |= FERRY_GIVE_STRICT;
	return ferry_give_open(give, sock, &what, &opts);
}

/* From the offer to the commit; on error the VM is still ours. */
static int until_commit(struct vm *vm, struct ferry_give *give)
{
	int ret = reach(vm, give, FERRY_PHASE_ATTACHED);
	if (!ret)
		ret = expect(vm, give, FERRY_PHASE_READY, CONTROL_SHADOW);
	if (!ret)
		ret = ferry_give_shadow(give, NULL, 0);
	if (ret)
		return ret;
	control_phase(vm, FERRY_PHASE_SHADOW, NULL);
	ret = reach(vm, give, FERRY_PHASE_READY);
	if (!ret)
		ret = expect(vm, give, FERRY_PHASE_COMMITTED, CONTROL_COMMIT);
	if (!ret)
		ret = ferry_give_commit(give);
	return ret;
}

static void progress(const struct vm *vm, const struct ferry_give *give, int timer)
{
	struct control_msg msg = { .type = CONTROL_PROGRESS };
	uint64_t ticks;

	if (read(timer, &ticks, sizeof(ticks)) != sizeof(ticks))
		return;
	msg.report.size = sizeof(msg.report);
	ferry_give_report(give, &msg.report);
	control_send(vm, &msg);
}

/* Nothing but telling the keeper can go wrong here: without a timer there is no progress bar. */
static int progress_timer(void)
{
	struct itimerspec every = { { 0, PROGRESS_NS }, { 0, PROGRESS_NS } };
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

	if (timer >= 0)
		timerfd_settime(timer, 0, &every, NULL);
	return timer;
}

static int drain(struct vm *vm, struct ferry_give *give)
{
	int timer = progress_timer(), ret;

	for (;;) {
		ret = ferry_give_wait(give, FERRY_PHASE_DONE, timer);
		if (ret == 1) {
			progress(vm, give, timer);
		} else if (ret == -ENOMEM) {
			/* Memory is short; all that is left is still here. */
			poll(NULL, 0, 10);
		} else {
			break;
		}
	}
	if (timer >= 0)
		close(timer);
	return ret;
}

/*
 * The VM is the new QEMU's. This process ends here and now: its exit handlers would unlink sockets
 * that the new one has made under the same names.
 */
static void leave(struct vm *vm, struct ferry_give *give, int sock)
{
	struct ferry_report report = { .size = sizeof(report) };

	ferry_give_report(give, &report);
	control_phase(vm, FERRY_PHASE_COMMITTED, &report);
	cut_visitors(vm, sock);
	int ret = drain(vm, give);
	ferry_give_report(give, &report);
	/* Strict: all has arrived, though not as it was to; the report has the figure. */
	if (ret == -EBUSY && report.phase == FERRY_PHASE_DONE)
		ret = 0;
	if (ret) {
		control_failed(vm, ret, "the new QEMU is gone, and the VM with it");
		_exit(1);
	}
	control_phase(vm, FERRY_PHASE_DONE, &report);
	_exit(0);
}

static int run_again(const struct vm *vm, bool running)
{
	struct self_qmp *qmp = NULL;

	int ret = self_qmp_open(&qmp, vm->qmp_path);
	if (!ret)
		ret = self_qmp_cancel(qmp);
	if (!ret && running)
		ret = self_qmp_run(qmp);
	self_qmp_close(qmp);
	return ret;
}

/* It didn't come to it: whatever the migration has done so far is undone here. */
static void carry_on(struct vm *vm, int why, bool running)
{
	struct control_msg resumed = { .type = CONTROL_RESUMED };
	char text[128];

	snprintf(text, sizeof(text), "not handed over: %s",
		 why == -EBUSY ? "--strict: a page of guest memory can't move: it is pinned or shared"
			       : strerror(-why));
	control_failed(vm, why, text);
	int ret = run_again(vm, running);
	if (ret)
		control_failed(vm, ret, "the old QEMU can't let its VM run again: try QMP cont");
	else
		control_send(vm, &resumed);
}

static void hand_over(struct vm *vm, int sock, const struct control_msg *cmd)
{
	struct ferry_give *give = NULL;

	int ret = offer(vm, &give, sock, cmd);
	if (!ret)
		ret = until_commit(vm, give);
	if (!ret)
		leave(vm, give, sock);
	ferry_give_close(give, NULL);
	carry_on(vm, ret, cmd->flags & CONTROL_GIVE_RUNNING);
}

void giver_serve(struct vm *vm)
{
	for (;;) {
		struct pollfd p = { .fd = vm->control, .events = POLLIN };
		struct control_msg msg = { 0 };
		int fd = -1;

		if (poll(&p, 1, -1) < 0)
			continue;
		int ret = control_recv(vm, &msg, &fd);
		if (ret == -EPIPE)
			return;
		if (!ret && msg.type == CONTROL_GIVE && fd >= 0)
			hand_over(vm, fd, &msg);
		else if (fd >= 0)
			close(fd);
	}
}
