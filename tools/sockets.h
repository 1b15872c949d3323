/* SPDX-License-Identifier: MIT */
/*
 * The addresses at which a QEMU listens: monitor, display, serial ports, forwarded ports. Its
 * successor has the same command line, so it binds them while the old QEMU still has them.
 *
 * A port can be had by both if both sockets say so (SO_REUSEPORT); the old one's are made to here,
 * the new one's by the preloaded library, which is told the old one's addresses and changes no
 * others. The path of a UNIX socket is simply taken over: QEMU
 * unlinks it. So a second link is kept aside, to be put back if the upgrade fails; see asides.h.
 */
#ifndef PAGEFERRY_SOCKETS_H
#define PAGEFERRY_SOCKETS_H

#include <stddef.h>
#include <sys/types.h>

#include "tools/asides.h"

struct sockets {
	const char *except;
	struct asides asides;
	int *ports;            /* duplicates of the old QEMU's descriptors */
	size_t nports;
	char *words; /* their addresses, as in preload/port.h; NULL: none */
};

/**
 * Let another QEMU listen where the process @pid, behind @pidfd, does; sockets in the directory
 * @except are left alone. The asides are only planned. Returns 0 or -errno.
 */
int sockets_share(struct sockets *sockets, int pidfd, pid_t pid, const char *except);

/** Make the asides. Returns the first one that can't be made, with @err; or NULL. */
const struct aside *sockets_set_aside(struct sockets *sockets, int *err);

/** The other QEMU is gone: everything as it was. */
void sockets_restore(struct sockets *sockets);

/** The first QEMU is gone. */
void sockets_release(struct sockets *sockets);

#endif
