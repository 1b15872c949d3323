/* SPDX-License-Identifier: MIT */
/*
 * What is known of a VM, in one directory: STATE/NAME. Its files:
 *
 *   vm.json          everything below; always whole, whatever was killed while it was written
 *   ram              sparse, as long as guest RAM; QEMU wants a file, nothing is written to it
 *   keeper.sock      where the keeper listens to this command
 *   qmp-N.sock       QMP of the QEMU of generation N, for the keeper
 *   self-N.sock      the same for the library preloaded into it
 *   migrate.sock     device state goes through here in an upgrade
 *   qemu-N.log       what a new QEMU has to say until it owns the VM
 *
 * The keeper holds a lock on the directory as long as it lives.
 */
#ifndef PAGEFERRY_STATE_H
#define PAGEFERRY_STATE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tools/asides.h"
#include "tools/tool.h"

#define STATE_NAME_MAX  64
#define STATE_PROCESSES 2

/** A VM's directory, open. */
struct state_dir {
	int base;
	int fd;
	char name[STATE_NAME_MAX + 1];
	char path[PATH_MAX];
};

struct state_process {
	uint32_t generation;
	pid_t pid;
	uint64_t start; /* see proc_start_time */
	char *qemu;     /* path of the program */
};

struct state {
	char name[STATE_NAME_MAX + 1];
	char boot[64]; /* pids are from this start of the machine */
	pid_t keeper;
	uint64_t keeper_start;
	uint32_t generation;                           /* of the process that has the VM */
	struct state_process process[STATE_PROCESSES]; /* two during an upgrade */
	unsigned int nprocesses;
	uint64_t ram;
	int64_t started;      /* seconds since 1970 */
	int64_t upgraded;     /* the last time; 0: never */
	char **argv;          /* the user's arguments, without the program */
	char **added;         /* what the keeper gave besides, in the current generation */
	struct asides asides; /* during an upgrade */
};

/** Is it [A-Za-z0-9][A-Za-z0-9._-]*, at most STATE_NAME_MAX characters? */
bool state_name_valid(const char *name);

/** The directory that holds those of all VMs. Returns a descriptor or -errno. */
int state_base_open(bool create, struct why *why);

/** Open the directory of a VM. Returns 0; -ENOENT: there is none; another -errno. */
int state_dir_open(struct state_dir *dir, const char *name, bool create, struct why *why);
void state_dir_close(struct state_dir *dir);

/**
 * Become the one that looks after the VM, until the directory is closed.
 * Returns 0; -EWOULDBLOCK: another one does; -ESTALE: it was removed meanwhile, open it again.
 */
int state_dir_lock(struct state_dir *dir);

/** Remove all files of the VM. Needs the lock. */
void state_dir_clear(struct state_dir *dir);

/** Remove all files of the VM and the directory. Needs the lock. Returns 0 or -errno. */
int state_dir_remove(struct state_dir *dir);

/** Is it a file that this program makes there? */
bool state_file_known(const char *file);

/** Returns 0 or -errno. */
int state_write(const struct state_dir *dir, const struct state *state);

/** Returns 0; -ENOENT; -EPROTO: not such a file. On success end it with state_free. */
int state_read(const struct state_dir *dir, struct state *state);
void state_free(struct state *state);

/** A pidfd of the @i-th process, if that still runs; else -ESRCH. */
int state_process_open(const struct state *state, unsigned int i);

struct json_object;
/** The same as JSON and back; NULL or -errno on failure. */
struct json_object *state_to_json(const struct state *state);
int state_from_json(struct json_object *root, struct state *state);

#endif
