/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "preload/port.h"
#include "tools/sockets.h"

/*
 * The kernel takes 128 KiB for a variable. Listening sockets are opened first and have the lowest
 * descriptors: what is left out in the end are a guest's UDP connections, which nobody binds anew.
 */
#define WORDS_MAX 65536

static int get_int(int fd, int option)
{
	int value = 0;
	socklen_t len = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &len) ? 0 : value;
}

static void set_reuse(int fd, int on)
{
	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
}

static bool is_within(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	return !strncmp(path, dir, len) && path[len] == '/';
}

static int share_path(struct sockets *sockets, int fd)
{
	struct sockaddr_un addr = {0};
	char path[sizeof(addr.sun_path) + 1];
	socklen_t len = sizeof(addr);
	struct stat st;

	/* An abstract name has no file, and one that was removed needs none. */
	if (getsockname(fd, (struct sockaddr *)&addr, &len) || len > sizeof(addr) ||
	    len <= offsetof(struct sockaddr_un, sun_path) || !addr.sun_path[0])
		return 0;
	snprintf(path, sizeof(path), "%.*s", (int)sizeof(addr.sun_path), addr.sun_path);
	if (is_within(path, sockets->except) || lstat(path, &st) || !S_ISSOCK(st.st_mode))
		return 0;
	return asides_add(&sockets->asides, path);
}

/* Where @fd is bound; false: nowhere that another socket could be bound, too. */
static bool get_word(int fd, char word[PORT_WORD_MAX])
{
	struct sockaddr_storage addr = {0};
	socklen_t len = sizeof(addr);

	return !getsockname(fd, (struct sockaddr *)&addr, &len) &&
	       port_word(get_int(fd, SO_TYPE), (struct sockaddr *)&addr, len, word);
}

static bool add_word(struct sockets *sockets, const char *word)
{
	size_t have = sockets->words ? strlen(sockets->words) : 0;
	size_t size = have + strlen(word) + sizeof(" ");
	char *words = size > WORDS_MAX ? NULL : realloc(sockets->words, size);

	if (!words)
		return false;
	snprintf(words + have, size - have, "%s%s", have ? " " : "", word);
	sockets->words = words;
	return true;
}

static int add_port(struct sockets *sockets, int fd)
{
	int *ports = realloc(sockets->ports, (sockets->nports + 1) * sizeof(*ports));

	if (!ports)
		return -ENOMEM;
	sockets->ports = ports;
	ports[sockets->nports++] = fd;
	return 0;
}

/* Takes @fd over. */
static int share_port(struct sockets *sockets, int fd)
{
	char word[PORT_WORD_MAX];
	int err = 0;

	/* What QEMU shares by itself isn't changed. */
	if (!get_word(fd, word) || !add_word(sockets, word) || get_int(fd, SO_REUSEPORT) ||
	    (err = add_port(sockets, fd))) {
		close(fd);
		return err;
	}
	set_reuse(fd, 1);
	return 0;
}

/* Takes @fd over. */
static int share(struct sockets *sockets, int fd)
{
	int domain = get_int(fd, SO_DOMAIN), err = 0;
	bool listens = get_int(fd, SO_ACCEPTCONN);

	if ((domain == AF_INET || domain == AF_INET6) &&
	    (listens || get_int(fd, SO_TYPE) == SOCK_DGRAM))
		return share_port(sockets, fd);
	if (domain == AF_UNIX && listens)
		err = share_path(sockets, fd);
	close(fd);
	return err;
}

static bool is_socket(int dirfd, const char *name)
{
	char target[32];
	ssize_t len = readlinkat(dirfd, name, target, sizeof(target));

	return len > 7 && !memcmp(target, "socket:", 7);
}

int sockets_share(struct sockets *sockets, int pidfd, pid_t pid, const char *except)
{
	char path[64];
	struct dirent *entry;
	DIR *fds;
	int err = 0;

	sockets->except = except;
	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	fds = opendir(path);
	if (!fds)
		return -errno;
	while (!err && (entry = readdir(fds))) {
		int fd;

		if (!isdigit((unsigned char)entry->d_name[0]) ||
		    !is_socket(dirfd(fds), entry->d_name))
			continue;
		fd = (int)syscall(SYS_pidfd_getfd, pidfd, atoi(entry->d_name), 0);
		/* It may have been closed since. */
		if (fd >= 0)
			err = share(sockets, fd);
		else if (errno != EBADF)
			err = -errno;
	}
	closedir(fds);
	return err;
}

const struct aside *sockets_set_aside(struct sockets *sockets, int *err)
{
	const struct aside *failed = NULL;

	for (unsigned int i = 0; i < sockets->asides.n; i++) {
		const struct aside *aside = &sockets->asides.items[i];
		int ret = aside_link(aside);

		if (!ret || failed)
			continue;
		*err = ret;
		failed = aside;
	}
	return failed;
}

static void end(struct sockets *sockets)
{
	for (size_t i = 0; i < sockets->nports; i++)
		close(sockets->ports[i]);
	free(sockets->ports);
	free(sockets->words);
	asides_free(&sockets->asides);
	memset(sockets, 0, sizeof(*sockets));
}

void sockets_restore(struct sockets *sockets)
{
	for (size_t i = 0; i < sockets->nports; i++)
		set_reuse(sockets->ports[i], 0);
	for (unsigned int i = 0; i < sockets->asides.n; i++)
		aside_restore(&sockets->asides.items[i]);
	end(sockets);
}

void sockets_release(struct sockets *sockets)
{
	for (unsigned int i = 0; i < sockets->asides.n; i++)
		aside_remove(&sockets->asides.items[i]);
	end(sockets);
}
