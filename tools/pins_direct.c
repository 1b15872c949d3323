// SPDX-License-Identifier: MIT
/*
 * Direct I/O that is held in flight for as long as it is wanted: to a file of a file system of our
 * own, a FUSE server whose root is that file, which is mounted nowhere, so that nothing has to be
 * unmounted. The kernel pins the pages of a request (FOLL_PIN, since Linux 6.8) before it asks the
 * server for it, and copies from or to them when the server reads the request or answers it; so a
 * request that waits to be read is I/O in flight, and what a write takes from memory is taken when
 * the request is read. One that hasn't been read can still be given up by a thread that is killed,
 * other than with a disk: for that case it is read first. That there is a pin is looked up where
 * the kernel counts them.
 *
 * The server is a process of its own: one that is killed while its own I/O waits would have to wait
 * for itself. When the server ends, the kernel ends the I/O.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tools/pins.h"

#define HELD 1u /* what the server says when it has a request to answer; then which word it was */

/* ---- the server */

struct server {
	int fuse, sock;
	bool opened, held;
	uint32_t word; /* to answer with */
	struct {
		struct fuse_in_header head;
		uint8_t body[65536];
	} in;
};

static void reply(struct server *s, int error, const void *data, size_t len)
{
	struct fuse_out_header head = {
		.len = (uint32_t)(sizeof(head) + len),
		.error = error,
		.unique = s->in.head.unique,
	};
	struct iovec iov[] = {{&head, sizeof(head)}, {(void *)data, len}};

	if (writev(s->fuse, iov, 2) < 0)
		_exit(EXIT_FAILURE);
}

static void tell(struct server *s, uint32_t word)
{
	if (write(s->sock, &word, sizeof(word)) != sizeof(word))
		_exit(EXIT_FAILURE);
}

static void answer_init(struct server *s)
{
	const struct fuse_init_in *in = (const void *)s->in.body;
	const struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = in->minor,
		.max_write = FERRY_PAGE,
		.max_background = 1,
	};

	reply(s, 0, &out, sizeof(out));
}

static void answer_attributes(struct server *s)
{
	const struct fuse_attr_out out = {
		.attr_valid = 3600,
		.attr = {.ino = 1,
			 .size = FERRY_PAGE,
			 .blocks = 8,
			 .mode = S_IFREG | 0600,
			 .nlink = 1,
			 .blksize = FERRY_PAGE},
	};

	reply(s, 0, &out, sizeof(out));
}

/* Whoever ends without any I/O must not be held by what is asked when the file is closed. */
static void answer_open(struct server *s)
{
	const struct fuse_open_out out = {.open_flags = FOPEN_DIRECT_IO | FOPEN_NOFLUSH};

	reply(s, 0, &out, sizeof(out));
	s->opened = true;
}

static void answer_read(struct server *s)
{
	uint32_t words[FERRY_PAGE / sizeof(uint32_t)];

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		words[i] = s->word;
	reply(s, 0, words, sizeof(words));
	tell(s, 0);
}

static void answer_write(struct server *s)
{
	const struct fuse_write_in *in = (const void *)s->in.body;
	const struct fuse_write_out out = {.size = in->size};
	uint32_t word;

	memcpy(&word, in + 1, sizeof(word));
	reply(s, 0, &out, sizeof(out));
	tell(s, word);
}

static void answer(struct server *s)
{
	switch (s->in.head.opcode) {
	case FUSE_INIT:
		return answer_init(s);
	case FUSE_GETATTR:
		return answer_attributes(s);
	case FUSE_OPEN:
		return answer_open(s);
	case FUSE_READ:
		return answer_read(s);
	case FUSE_WRITE:
		return answer_write(s);
	case FUSE_RELEASE:
		return reply(s, 0, NULL, 0);
	case FUSE_FORGET:
	case FUSE_INTERRUPT:
		return; /* no answer is wanted */
	default:
		return reply(s, -ENOSYS, NULL, 0);
	}
}

static void await_request(struct server *s)
{
	struct pollfd fd = {.fd = s->fuse, .events = POLLIN};

	while (poll(&fd, 1, -1) < 0)
		if (errno != EINTR)
			_exit(EXIT_FAILURE);
}

/* Until somebody says that it may go on, and with which word */
static void hold(struct server *s)
{
	s->held = true;
	tell(s, HELD);
	if (read(s->sock, &s->word, sizeof(s->word)) != sizeof(s->word))
		_exit(EXIT_FAILURE);
}

static bool read_request(struct server *s)
{
	if (read(s->fuse, &s->in, sizeof(s->in)) >= 0)
		return true;
	/* ENOENT: who asked has given it up */
	if (errno != EINTR && errno != ENOENT)
		_exit(EXIT_SUCCESS);
	return false;
}

/* The first request after the file was opened is the I/O. */
static _Noreturn void serve(int fuse, int sock, bool reads_first)
{
	static struct server s;
	bool is_io;

	s.fuse = fuse;
	s.sock = sock;
	for (;;) {
		is_io = s.opened && !s.held;
		if (is_io && !reads_first) {
			await_request(&s);
			hold(&s);
		}
		if (!read_request(&s))
			continue;
		if (is_io && reads_first)
			hold(&s);
		answer(&s);
	}
}

/* ---- the file */

static int configure(int fs, int fuse)
{
	char number[16], mode[16];

	snprintf(number, sizeof(number), "%d", fuse);
	snprintf(mode, sizeof(mode), "%o", S_IFREG | 0600);
	if (fsconfig(fs, FSCONFIG_SET_STRING, "fd", number, 0) ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "rootmode", mode, 0) ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "user_id", "0", 0) ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "group_id", "0", 0) ||
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		return -errno;
	return 0;
}

/* A file system that is mounted nowhere */
static int make_mount(int fuse)
{
	int fs = fsopen("fuse", FSOPEN_CLOEXEC), mount, ret;

	if (fs < 0)
		return -errno;
	ret = configure(fs, fuse);
	mount = ret ? ret : fsmount(fs, FSMOUNT_CLOEXEC, 0);
	ret = mount == -1 ? -errno : mount;
	close(fs);
	return ret;
}

static int open_root(int mount)
{
	char path[48];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", mount);
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int direct_prepare(struct pin *pin)
{
	int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC), mount, pair[2];
	pid_t server;

	if (fuse < 0)
		return pin_error(pin, "/dev/fuse", -errno);
	mount = make_mount(fuse);
	if (mount < 0)
		return pin_error(pin, "a FUSE file system", mount);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return pin_error(pin, "socketpair", -errno);
	server = fork();
	if (server < 0)
		return pin_error(pin, "fork", -errno);
	if (!server) {
		close(pair[0]);
		serve(fuse, pair[1], pin->direct.sent);
	}
	close(pair[1]);
	/* Its last descriptor must be the server's: see above. */
	close(fuse);
	pin->direct.server = pair[0];
	pin->direct.file = open_root(mount);
	return pin->direct.file < 0 ? pin_error(pin, "a file of FUSE", pin->direct.file) : 0;
}

/* ---- the I/O */

static void *transfer(void *arg)
{
	struct pin *pin = arg;
	ssize_t n = pin->direct.writes ? pwrite(pin->direct.file, pin->page, FERRY_PAGE, 0)
				       : pread(pin->direct.file, pin->page, FERRY_PAGE, 0);

	pin->direct.result = n == (ssize_t)FERRY_PAGE ? 0 : n < 0 ? -errno : -EIO;
	return NULL;
}

static uint64_t field(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

/* How many pins have been taken in this machine; 0 where the kernel doesn't count them. How many
 * are left is no measure: some that have ended are given up late. */
static uint64_t count_pins(void)
{
	static char text[16384];
	char byte;
	ssize_t n;
	int fd;

	/* CPUs count for themselves; this adds it up. */
	fd = open("/proc/sys/vm/stat_refresh", O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && read(fd, &byte, 1) >= 0)
		close(fd);
	fd = open("/proc/vmstat", O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	return field(text, "nr_foll_pin_acquired ");
}

static int hear(struct pin *pin, uint32_t *word)
{
	ssize_t n = read(pin->direct.server, word, sizeof(*word));

	if (n != sizeof(*word))
		return pin_error(pin, "the FUSE server", n < 0 ? -errno : -EPIPE);
	return 0;
}

static int take(struct pin *pin)
{
	uint64_t before = count_pins();
	uint32_t held;
	int ret = pthread_create(&pin->direct.thread, NULL, transfer, pin);

	if (ret)
		return pin_error(pin, "pthread_create", -ret);
	ret = hear(pin, &held);
	if (ret)
		return ret;
	if (held != HELD || count_pins() <= before)
		return pin_error(pin, "direct I/O of FUSE doesn't pin (before Linux 6.8)",
				 -EOPNOTSUPP);
	return 0;
}

int direct_take_read(struct pin *pin)
{
	return take(pin);
}

int direct_take_write(struct pin *pin)
{
	pin->direct.writes = true;
	return take(pin);
}

int direct_answer(struct pin *pin, uint32_t give, uint32_t *got)
{
	if (write(pin->direct.server, &give, sizeof(give)) != sizeof(give))
		return pin_error(pin, "the FUSE server", -errno);
	return hear(pin, got);
}

static int finish(struct pin *pin, uint32_t give, uint32_t *got)
{
	int ret = direct_answer(pin, give, got);

	if (ret)
		return ret;
	pthread_join(pin->direct.thread, NULL);
	return pin->direct.result ? pin_error(pin, "direct I/O", pin->direct.result) : 0;
}

int direct_write(struct pin *pin, uint32_t word)
{
	uint32_t nothing;

	return finish(pin, word, &nothing);
}

int direct_read(struct pin *pin, uint32_t *word)
{
	return finish(pin, 0, word);
}
