/* SPDX-License-Identifier: MIT */
/*
 * A new QEMU listens on the ports of the old one, which still does. The keeper has allowed that for
 * the old one's sockets (SO_REUSEPORT); here it is allowed for the new one's. Nobody else's socket
 * can get in between: the kernel wants the option on both sides, from the same user.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload/vm.h"

static bool taking;

/* Only what is bound while the old QEMU still has the ports; never what the VM is given later. */
void bind_alone(void)
{
	taking = false;
}

__attribute__((constructor)) static void bind_init(void)
{
	taking = getenv(CONTROL_ENV_TAKE) != NULL;
}

__attribute__((visibility("default"))) int bind(int fd, __CONST_SOCKADDR_ARG arg, socklen_t len)
{
	const struct sockaddr *addr = arg.__sockaddr__;

	if (taking && addr && len >= sizeof(sa_family_t) &&
	    (addr->sa_family == AF_INET || addr->sa_family == AF_INET6)) {
		int saved = errno;

		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &(int){1}, sizeof(int));
		errno = saved;
	}
	return (int)syscall(SYS_bind, fd, addr, len);
}
