/* SPDX-License-Identifier: MIT */
/*
 * A new QEMU listens on the ports of the old one, which still does. The keeper has allowed that
 * for the old one's sockets (SO_REUSEPORT) and says which they are; here it is allowed for the new
 * one's. Any other port is bound as anywhere: somebody else's, who is in the middle of an upgrade
 * too, must not be shared. Nobody else's socket can get in between: the kernel wants the option on
 * both sides, from the same user.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload/port.h"
#include "preload/vm.h"

static char *ports; /* the words of the old QEMU's; NULL: nobody's are taken over */
static _Atomic bool taking;
static int *shared; /* our sockets there */
static size_t nshared;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static bool is_listed(const char *word)
{
	size_t len = strlen(word), n;

	for (const char *at = ports; *at; at += n) {
		at += strspn(at, " ");
		n = strcspn(at, " ");
		if (n == len && !memcmp(at, word, len))
			return true;
	}
	return false;
}

static bool is_old_port(int fd, const struct sockaddr *addr, socklen_t len)
{
	char word[PORT_WORD_MAX];
	int type = 0;

	return addr && len >= sizeof(sa_family_t) &&
	       !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){sizeof(type)}) &&
	       port_word(type, addr, len, word) && is_listed(word);
}

static void set_reuse(int fd, int on)
{
	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
}

static bool has_reuse(int fd)
{
	int on = 0;

	return !getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, &(socklen_t){sizeof(on)}) && on;
}

/* One that can't be remembered isn't shared: it would stay so. */
static void share_port(int fd)
{
	int *more = realloc(shared, (nshared + 1) * sizeof(*shared));

	if (!more)
		return;
	shared = more;
	shared[nshared++] = fd;
	set_reuse(fd, 1);
}

/* The descriptor may be another socket's by now. */
static void end_sharing(int fd)
{
	struct sockaddr_storage addr = {0};
	socklen_t len = sizeof(addr);

	if (!getsockname(fd, (struct sockaddr *)&addr, &len) &&
	    is_old_port(fd, (struct sockaddr *)&addr, len))
		set_reuse(fd, 0);
}

/*
 * Only what is bound while the old QEMU still has the ports is shared, for as long as it has them:
 * never what the VM is given later, and with nobody who comes later.
 */
void bind_alone(void)
{
	pthread_mutex_lock(&lock);
	taking = false;
	for (size_t i = 0; i < nshared; i++)
		end_sharing(shared[i]);
	free(shared);
	free(ports);
	shared = NULL;
	ports = NULL;
	nshared = 0;
	pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void bind_init(void)
{
	const char *words = getenv(CONTROL_ENV_PORTS);

	ports = words ? strdup(words) : NULL;
	taking = ports;
}

static int real_bind(int fd, const struct sockaddr *addr, socklen_t len)
{
	return (int)syscall(SYS_bind, fd, addr, len);
}

/* Up to the system call, so that a socket can't be bound as shared after all others have ceased to
 * be. */
static int bind_taking(int fd, const struct sockaddr *addr, socklen_t len)
{
	int saved = errno, ret;

	pthread_mutex_lock(&lock);
	if (taking && is_old_port(fd, addr, len) && !has_reuse(fd))
		share_port(fd);
	errno = saved;
	ret = real_bind(fd, addr, len);
	pthread_mutex_unlock(&lock);
	return ret;
}

__attribute__((visibility("default"))) int bind(int fd, __CONST_SOCKADDR_ARG arg, socklen_t len)
{
	const struct sockaddr *addr = arg.__sockaddr__;

	return taking ? bind_taking(fd, addr, len) : real_bind(fd, addr, len);
}
