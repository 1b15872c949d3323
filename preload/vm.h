/* SPDX-License-Identifier: MIT */
/*
 * What is loaded into an unmodified QEMU. preload.c turns the mapping of the file that stands for
 * guest RAM into private anonymous memory; giver.c hands that memory to a successor, taker.c gets
 * it from a predecessor; both talk to the keeper (control.c) and to QEMU itself (self_qmp.c).
 */
#ifndef PAGEFERRY_VM_H
#define PAGEFERRY_VM_H

#include <stdbool.h>
#include <stddef.h>

#include "preload/control.h"

struct vm {
	int control;	/* socket to the keeper */
	char *qmp_path; /* QEMU's own QMP socket for us */
	int stderr_fd;	/* taker: what is to be QEMU's stderr once it owns the VM; -1: as it is */
	void *ram;
	size_t ram_len;
	struct ferry_take *take; /* in a new QEMU, until it has everything */
	bool running;		 /* taker: the VM was running when it was given */
	uint32_t serial;	 /* of the last GIVE; 0: none so far */
};

/* The blob of the offer. */
struct vm_blob {
	uint32_t version;
	uint32_t running;
};
#define VM_BLOB_VERSION 1u

/* control.c: a keeper that is gone is not an error for anyone who only has something to tell it. */
void control_send(const struct vm *vm, const struct control_msg *msg);
void control_phase(const struct vm *vm, enum ferry_phase phase, const struct ferry_report *report);
void control_failed(const struct vm *vm, int error, const char *what);
/* 0: a message (with *fd, or -1); -EAGAIN: none yet; -EPIPE: the keeper is gone; -EPROTO. */
int control_recv(struct vm *vm, struct control_msg *msg, int *fd);

/* self_qmp.c */
struct self_qmp;
int self_qmp_open(struct self_qmp **q, const char *path);
void self_qmp_close(struct self_qmp *q);
/* Let the VM run; retried for a while, since its disks may still be locked by another QEMU. */
int self_qmp_run(struct self_qmp *q);
/* End a migration that is under way, and wait until it has ended. */
int self_qmp_cancel(struct self_qmp *q);

/* bind.c: the old QEMU's ports are ours alone now; from now on ports are bound as anywhere. */
void bind_alone(void);

/* cut.c: nobody can speak to this QEMU any more, but for the other end of @sock and the keeper. */
void cut_visitors(const struct vm *vm, int sock);

/* giver.c: serve the keeper's commands; returns only when the keeper is gone. */
void giver_serve(struct vm *vm);

/* taker.c */
/* Meet the giver at the other end of @sock; before QEMU's main. Exits on failure. */
void taker_open(struct vm *vm, int sock);
/* RAM is mapped: register and attach. Exits on failure. */
void taker_map(struct vm *vm);
/* The thread's part: from shadow until everything is here. Exits on failure. */
void taker_run(struct vm *vm);

#endif
