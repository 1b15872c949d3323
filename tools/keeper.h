/* SPDX-License-Identifier: MIT */
/*
 * The keeper of a VM: the process of pageferry vm run. It is the parent of the VM's QEMU, and
 * later of the QEMUs that replace it, so that a shell or service manager sees one process for the
 * VM's whole life.
 *
 * It has one thread and one place where it waits, keeper_step(): everything that can happen is
 * noticed there and written down in the structures below. Whoever waits for something calls
 * keeper_step() until it sees it there, and sees everything else that ends its waiting too.
 */
#ifndef PAGEFERRY_KEEPER_H
#define PAGEFERRY_KEEPER_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <termios.h>

#include "pageferry.h"
#include "preload/control.h"
#include "tools/args.h"
#include "tools/qmp.h"
#include "tools/state.h"
#include "tools/tool.h"

#define KEEPER_CLIENTS_MAX 8

/* What the library preloaded into a QEMU has said in this upgrade; cleared when one begins. */
struct said {
	int phase; /* enum ferry_phase; -1: none yet */
	bool resumed;
	bool failed;
	int error;
	char text[sizeof(((struct control_msg *)0)->text)];
	struct ferry_report report;
	unsigned int reports; /* how many have come */
};

/* What a QEMU has told of its VM through QMP; cleared when its QMP is opened, and before the
 * migration: a migration that was given up in another upgrade may just come to its end. */
struct told {
	char migration[32]; /* its status */
	int64_t stop_us;    /* when the guest was stopped last; 0: not seen */
	int64_t resume_us;
};

struct qemu {
	uint32_t generation;
	char *path;
	pid_t pid;
	uint64_t start;
	int pidfd;
	bool ended;
	int status; /* as from waitpid, once it has ended */
	int control;
	bool hello;      /* the library is there and has the RAM */
	uint32_t serial; /* of the last GIVE that it was or is to be sent; 0: none */
	struct said said;
	struct qmp *qmp; /* open only while it is needed: QEMU serves one client at a time */
	int qmp_error;
	struct told told;
	int log; /* its stderr until it owns the VM; -1: it has the keeper's */
};

struct client {
	int fd;
	bool asked;
	bool stopping; /* is told when the VM has ended */
};

struct upgrade;

struct keeper {
	struct state_dir dir;
	struct state state;
	struct args args;
	const char *preload;
	struct qemu *now;  /* the one that has the VM */
	struct qemu *next; /* the one that is to take it over; NULL outside of an upgrade */
	int listener;
	int signals;
	sigset_t mask; /* before the keeper began, for its QEMUs */
	bool sigpipe_default;
	int stdin_flags;
	bool tty; /* stdin is one */
	struct termios tty_modes;
	struct client clients[KEEPER_CLIENTS_MAX];
	bool stop;       /* somebody wants the VM to end */
	uint32_t serial; /* of the last upgrade */
	struct upgrade *upgrade;
};

/** Wait up to @timeout_ms (-1: for ever) and write down whatever happens. */
void keeper_step(struct keeper *keeper, int timeout_ms);

/** Step until @qemu has ended, at most for so long. Returns whether it has. */
bool keeper_wait_end(struct keeper *keeper, struct qemu *qemu, int timeout_ms);

/** Keep the VM until it has ended. Returns the exit status for the command. */
int keeper_run(struct keeper *keeper);

/** Write vm.json as things are now. Returns 0 or -errno. */
int keeper_write_state(struct keeper *keeper);

/* keeper_qemu.c: one QEMU process */

/* What a QEMU needs to take the VM over from another one. */
struct succession {
	int sock;          /* for the hand-over */
	const char *ports; /* of the other one, as in preload/port.h */
};

/**
 * Start a QEMU. @succession: NULL for the first one of the VM. Returns 0 or -errno with @why.
 */
int qemu_start(struct keeper *keeper, const char *path, uint32_t generation,
	       const struct succession *succession, struct qemu **qemu, struct why *why);
void qemu_reap(struct qemu *qemu);
void qemu_kill(struct qemu *qemu);
void qemu_free(struct qemu *qemu);

/** Make @path the program's: absolute, found in PATH if it has no slash. 0 or -errno with @why. */
int qemu_find(const char *program, char *path, size_t size, struct why *why);

/** Say how it ended, for a person. */
void qemu_end_text(const struct qemu *qemu, char *text, size_t size);

/** Did it end as if all was well, but without RAM? Then it hardly is a QEMU. */
bool qemu_was_none(const struct qemu *qemu);
#define QEMU_NONE_TEXT "ended with status 0 without ever mapping guest RAM: is it a QEMU?"

/** The last lines of its log in one line; an empty string if it has none. */
void qemu_log_tail(const struct qemu *qemu, char *text, size_t size);

/** Write its log to the keeper's stderr and end it. */
void qemu_log_release(struct keeper *keeper, struct qemu *qemu);

/* keeper_talk.c: with the library in a QEMU, and with QEMU itself */

void qemu_clear_said(struct qemu *qemu);

/** From now on, what it says is of the upgrade @serial; what it says of another one is late. */
void qemu_begin_upgrade(struct qemu *qemu, uint32_t serial);
void qemu_control_read(struct qemu *qemu);

/** @fd: a descriptor to pass along, or -1. Returns 0 or -errno. */
int qemu_control_send(struct qemu *qemu, const struct control_msg *msg, int fd);

int qemu_qmp_open(struct keeper *keeper, struct qemu *qemu, struct why *why);
void qemu_qmp_close(struct qemu *qemu);
void qemu_qmp_read(struct qemu *qemu);

/* keeper_clients.c: the command that asks something of the keeper */

int clients_listen(struct keeper *keeper, struct why *why);
void clients_accept(struct keeper *keeper);
void client_read(struct keeper *keeper, struct client *client);

struct json_object;
/** Send @message, whose reference is taken over. May drop it if the client doesn't read. */
void client_send(struct client *client, struct json_object *message);
void client_close(struct client *client);

/** The VM has ended: tell those who wait for it. */
void clients_end(struct keeper *keeper);

/* keeper_stop.c */

/** End the VM's QEMUs, kindly first. */
void keeper_stop(struct keeper *keeper);

/* keeper_tty.c: every QEMU puts back what it found, and the second one found the first one's */

void tty_save(struct keeper *keeper);
void tty_restore(const struct keeper *keeper);

#endif
