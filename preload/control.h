/* SPDX-License-Identifier: MIT */
/*
 * What the keeper of a VM (pageferry vm run) and the library preloaded into its QEMU say to each
 * other, over a SOCK_SEQPACKET pair that QEMU inherits: one struct control_msg a packet.
 *
 * Both ends come from the same build of pageferry: a keeper starts its QEMUs with the library that
 * was installed beside it. Yet a packet of another size or version is refused, because an upgrade
 * of the package in between is exactly what this project is used for.
 *
 * The order in an upgrade, old QEMU on the left, new QEMU on the right:
 *
 *   keeper > old   GIVE + socket       new is started with PAGEFERRY_TAKE, the socket's other end
 *   old > keeper   PHASE attached      RAM is mapped in the new QEMU; nothing is served yet
 *                                      keeper: QMP migrate; waits for pre-switchover
 *   keeper > old   SHADOW              the VM stands still
 *   old > keeper   PHASE shadow        keeper: QMP migrate-continue; device state is loaded
 *   old > keeper   PHASE ready
 *   keeper > old   COMMIT              once QMP says "completed" on both sides
 *   old > keeper   PHASE committed     new > keeper  RESUMED (the new QEMU lets its VM run itself)
 *   old > keeper   PROGRESS ...
 *   old > keeper   PHASE done          new > keeper  PHASE done; the old QEMU exits by itself
 *
 * Until COMMIT the keeper may send CANCEL, die, or lose the new QEMU: the old QEMU lets its own VM
 * run again, through a QMP socket of its own, and says RESUMED (or FAILED if it can't).
 *
 * The keeper doesn't wait for that for ever, and may begin another upgrade. So each GIVE has a
 * serial number, and what the library says afterwards has the same: by that the keeper knows an
 * answer that is late. Before its first GIVE, so also while a new QEMU takes over, it is 0.
 */
#ifndef PAGEFERRY_CONTROL_H
#define PAGEFERRY_CONTROL_H

#include <stdint.h>

#include "pageferry.h"

#define CONTROL_VERSION 4u

/* Environment of a QEMU under a keeper. */
#define CONTROL_ENV_FD	 "PAGEFERRY_CONTROL" /* descriptor of the control socket */
#define CONTROL_ENV_RAM	 "PAGEFERRY_RAM"     /* the file that stands for guest RAM: its path */
#define CONTROL_ENV_QMP	 "PAGEFERRY_QMP"     /* path of a QMP socket for the library's own use */
#define CONTROL_ENV_TAKE "PAGEFERRY_TAKE"    /* new QEMU only: descriptor of the hand-over socket */
/* New QEMU only: where the old one listens, as in port.h, with spaces between. */
#define CONTROL_ENV_PORTS "PAGEFERRY_PORTS"
/* New QEMU only: a descriptor that becomes its stderr, by dup2(), once it owns the VM and before it
 * says RESUMED. Until then its stderr is a file, so that the keeper can say why it failed. */
#define CONTROL_ENV_STDERR "PAGEFERRY_STDERR"

enum control_type {
	/* library > keeper */
	CONTROL_HELLO = 1, /* RAM is mapped; report.total says how much */
	CONTROL_PHASE,	   /* phase is reached; report is filled in */
	CONTROL_PROGRESS,  /* report is filled in; at most 20 a second */
	CONTROL_RESUMED,   /* the VM runs again, here */
	CONTROL_FAILED,	   /* error, text; an old QEMU carries on and says RESUMED next */
	/* keeper > library */
	CONTROL_GIVE = 64, /* with one descriptor: the hand-over socket; give, flags */
	CONTROL_SHADOW,
	CONTROL_COMMIT,
	CONTROL_CANCEL,
};

#define CONTROL_GIVE_RUNNING 0x1u /* the VM was running: let it run again afterwards */
#define CONTROL_GIVE_STRICT  0x2u /* FERRY_GIVE_STRICT */

struct control_msg {
	uint32_t version; /* CONTROL_VERSION */
	uint32_t type;	  /* enum control_type */
	uint32_t flags;	  /* CONTROL_GIVE_* */
	uint32_t phase;	  /* enum ferry_phase */
	int32_t error;	  /* -errno */
	uint32_t ways;	  /* GIVE: as in struct ferry_give_opts */
	uint32_t timeout_ms;
	int32_t cpu;
	uint32_t serial; /* GIVE: of this hand-over, not 0; from the library: of the last GIVE */
	struct ferry_report report;
	char text[256]; /* always ends in a NUL */
};

#endif
