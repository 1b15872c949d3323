/* SPDX-License-Identifier: MIT */
/* What the files of the upgrade share; preload/control.h shows the order of it all. */
#ifndef PAGEFERRY_UPGRADE_H
#define PAGEFERRY_UPGRADE_H

#include "tools/keeper_upgrade.h"
#include "tools/sockets.h"

struct upgrade {
	struct keeper *keeper;
	struct qemu *old;
	struct qemu *new;      /* NULL before it is started, and after it was given up */
	struct client *client; /* NULL once it is gone */

	/* asked for */
	char qemu[PATH_MAX];
	uint32_t ways;
	int32_t cpu;
	uint32_t timeout_ms; /* for each wait */
	bool strict;	     /* a page that can't move is an error */

	/* how far it is */
	const char *phase;
	bool running;    /* the guest was */
	bool given;      /* the old library knows that there is an upgrade */
	bool migrating;  /* what the old QEMU tells of a migration is of this one */
	bool committing; /* COMMIT is out: from here only the two libraries decide */
	bool committed;  /* the VM is the new QEMU's */
	bool aborting;
	struct qemu *asked; /* whose QMP is waited for */
	struct why why;     /* the first thing that went wrong */

	/* to put back, see upgrade_qmp.c */
	struct json_object *old_capabilities;
	struct json_object *new_capabilities;
	struct json_object *old_parameters;
	struct sockets sockets;

	/* to report */
	char old_version[64];
	char new_version[64];
	int64_t begin_ns, end_ns;
	uint64_t base_kib, peak_kib;
	int64_t sampled_ns; /* when memory was last looked at */
	unsigned int reports_sent;
	struct json_object *notes;
};

/* upgrade_wait.c */

/**
 * Wait until @reached says so. Whatever else makes waiting pointless ends it: the end of a
 * QEMU, a failure that one of them reports, the client's leaving, a wish to stop, the deadline.
 * Returns 0 or -errno with up->why set.
 */
int upgrade_wait(struct upgrade *up, bool (*reached)(const struct upgrade *up), const char *what);

/** Wait a little, take a sample of the memory used and tell the client how it goes. */
void upgrade_step(struct upgrade *up);

/* upgrade_qmp.c */

/** Ask @qemu. @value may be NULL. Returns 0 or -errno with up->why set. */
int upgrade_ask(struct upgrade *up, struct qemu *qemu, const char *command,
		struct json_object *arguments, struct json_object **value);
int upgrade_ask_status(struct upgrade *up, struct qemu *qemu, char *status, size_t size);
int upgrade_ask_version(struct upgrade *up, struct qemu *qemu, char *version, size_t size);

/** Prepare both for a migration of device state alone, and put back what was there before. */
int upgrade_set_capabilities(struct upgrade *up);
void upgrade_restore_capabilities(struct upgrade *up, struct qemu *qemu);

/* upgrade_sockets.c */

void upgrade_share_sockets(struct upgrade *up);

/** One of the QEMUs is gone: its addresses are the other one's alone. */
void upgrade_end_sockets(struct upgrade *up);

/* upgrade_abort.c */

/** Give up before the commit: the guest goes on in the old QEMU. */
void upgrade_abort(struct upgrade *up);

/** Remove the new QEMU's files from the VM's directory. */
void upgrade_remove_files(struct keeper *keeper, uint32_t generation);

/* upgrade_report.c */

void upgrade_note(struct upgrade *up, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void upgrade_tell_phase(struct upgrade *up, const char *phase);
void upgrade_tell_progress(struct upgrade *up);

/** The result for the client and one line for the keeper's stderr. @err: 0 or why it failed. */
void upgrade_tell_result(struct upgrade *up, int err);

#endif
