/* SPDX-License-Identifier: MIT */
/*
 * A client of QEMU's machine protocol. It never blocks by itself: its owner polls qmp_fd() for
 * qmp_poll_events() together with everything else, and calls qmp_handle() when there is something.
 * Commands go one at a time; events are queued. What comes is bounded and may be garbage.
 */
#ifndef PAGEFERRY_QMP_H
#define PAGEFERRY_QMP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <json-c/json.h>

#include "tools/tool.h"

struct qmp;

struct qmp_event {
	const char *name;
	struct json_object *data; /* may be NULL */
	int64_t time_us;          /* since 1970, QEMU's clock */
};

/**
 * Connect. QEMU serves one client and lets one more wait; for a place there this waits @wait_ms.
 * Returns 0; -ECONNREFUSED, -ENOENT: nobody there; -EAGAIN: no place; -errno.
 */
int qmp_open(struct qmp **qmp, const char *path, int wait_ms);
void qmp_close(struct qmp *qmp);

int qmp_fd(const struct qmp *qmp);
short qmp_poll_events(const struct qmp *qmp);

/** Read and write what can be without waiting. Returns 0; -EPIPE: it has ended; -EPROTO: garbage.
 */
int qmp_handle(struct qmp *qmp);

/** Pid of the process that listens at the other end; 0: not known. */
pid_t qmp_peer(const struct qmp *qmp);

/** May a command be sent? Not before the greeting, nor before the answer to the last one. */
bool qmp_ready(const struct qmp *qmp);

/** Send a command. @arguments may be NULL; its reference is taken over. Returns 0 or -errno. */
int qmp_send(struct qmp *qmp, const char *command, struct json_object *arguments);

/**
 * The answer to the last command. Returns 1 and @value, which is the caller's then and may be
 * NULL; 0: not yet; -EREMOTEIO: QEMU refused, @why says how it put it.
 */
int qmp_answer(struct qmp *qmp, struct json_object **value, struct why *why);

/** Would qmp_answer() have something? */
bool qmp_has_answer(const struct qmp *qmp);

/** Take the oldest event; its contents are good until the next call. Returns false: none. */
bool qmp_next_event(struct qmp *qmp, struct qmp_event *event);

/** Send a command and wait for its answer, for callers that have nothing else to wait for. */
int qmp_call(struct qmp *qmp, const char *command, struct json_object *arguments, int timeout_ms,
	     struct json_object **value, struct why *why);

#endif
