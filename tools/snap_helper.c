// SPDX-License-Identifier: MIT
/*
 * What the new thread in the target does. Its first call gives it an empty descriptor table of its
 * own, so that nothing it opens is ever seen by the program, or left there.
 *
 * /dev/userfaultfd is opened by us, with our rights, and sent to it: the target's own may be too
 * few, and a userfaultfd for user mode only would make its system calls fail.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/park.h"
#include "lib/uffd.h"
#include "tools/snap.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

struct helper {
	const struct snap_target *target;
	const struct snap_call *call;
	uint64_t data;
	int pidfd; /* of this one thread: its table is not its process's */
};

/* The result of a call in it: >= 0, or -errno. */
static long in_it(const struct helper *h, long number, uint64_t a, uint64_t b, uint64_t c,
		  uint64_t d)
{
	const uint64_t args[6] = {a, b, c, d};
	long result;
	int ret = snap_call(h->call, number, args, &result);

	return ret ? (ret > 0 ? -EPROTO : ret) : result;
}

static int fetch(const struct helper *h, long fd)
{
	int ours = (int)syscall(SYS_pidfd_getfd, h->pidfd, (int)fd, 0);
	return ours < 0 ? -errno : ours;
}

static bool put(const struct helper *h, uint64_t addr, const void *from, size_t len)
{
	return pwrite(h->target->mem, from, len, (off_t)addr) == (ssize_t)len;
}

static bool get(const struct helper *h, uint64_t addr, void *to, size_t len)
{
	return pread(h->target->mem, to, len, (off_t)addr) == (ssize_t)len;
}

static int send_fd(int sock, int fd)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {.head = {.cmsg_level = SOL_SOCKET,
			      .cmsg_type = SCM_RIGHTS,
			      .cmsg_len = CMSG_LEN(sizeof(int))}};
	char byte = 0;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};

	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	return sendmsg(sock, &msg, MSG_NOSIGNAL) == 1 ? 0 : -errno;
}

/* Let it receive the descriptor that was sent: its number there, or -errno. */
static long receive_there(const struct helper *h, long sock)
{
	uint64_t iov = h->data + 64, byte = h->data + 80, control = h->data + 96;
	struct iovec v = {(void *)(uintptr_t)byte, 1};
	struct msghdr msg = {.msg_iov = (void *)(uintptr_t)iov,
			     .msg_iovlen = 1,
			     .msg_control = (void *)(uintptr_t)control,
			     .msg_controllen = CMSG_SPACE(sizeof(int))};
	int fd;

	if (!put(h, h->data, &msg, sizeof(msg)) || !put(h, iov, &v, sizeof(v)))
		return -EFAULT;
	long n = in_it(h, SYS_recvmsg, (uint64_t)sock, h->data, MSG_DONTWAIT | MSG_CMSG_CLOEXEC, 0);
	if (n != 1)
		return n < 0 ? n : -EPROTO;
	return get(h, control + CMSG_LEN(0), &fd, sizeof(fd)) ? fd : -EFAULT;
}

static long pass(const struct helper *h, int fd)
{
	int pair[2];
	long ret = in_it(h, SYS_socketpair, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, h->data);

	if (ret < 0)
		return ret;
	if (!get(h, h->data, pair, sizeof(pair)))
		return -EFAULT;
	int sock = fetch(h, pair[1]);
	if (sock < 0)
		return sock;
	ret = send_fd(sock, fd);
	close(sock);
	return ret ? ret : receive_there(h, pair[0]);
}

bool snap_has_device(void)
{
	return !access("/dev/userfaultfd", R_OK | W_OK);
}

static long by_device(const struct helper *h)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	long ret = dev < 0 ? -errno : pass(h, dev);

	if (dev >= 0)
		close(dev);
	if (ret < 0)
		return ret;
	return in_it(h, SYS_ioctl, (uint64_t)ret, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK, 0);
}

static int make(const struct helper *h, struct why *why)
{
	long fd = in_it(h, SYS_close_range, 0, ~0u, SNAP_UNSHARE_TABLE, 0);

	if (fd < 0)
		return why_set(why, (int)fd, "close_range(2) in process %d: %s",
			       (int)h->target->pid, strerror((int)-fd));
	park("snapshot.alone");
	/* Not the one after the other: the seccomp filter was asked for one of them. */
	if (snap_has_device())
		fd = by_device(h);
	else
		fd = in_it(h, SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK, 0, 0, 0);
	if (fd < 0)
		return why_set(
			why, (int)fd,
			"there is no userfaultfd for process %d: %s: /dev/userfaultfd must be "
			"open to you, or vm.unprivileged_userfaultfd be 1",
			(int)h->target->pid, strerror((int)-fd));
	park("snapshot.made");
	int ours = fetch(h, fd);
	return ours >= 0 ? ours
			 : why_set(why, ours, "the userfaultfd can't be fetched: %s",
				   strerror(-ours));
}

int snap_helper_uffd(const struct snap_target *target, const struct snap_call *call, uint64_t data,
		     struct why *why)
{
	struct helper h = {target, call, data,
			   (int)syscall(SYS_pidfd_open, call->tid, PIDFD_THREAD)};

	if (h.pidfd < 0)
		return why_set(why, -errno,
			       "this kernel has no descriptors of threads: Linux 6.9 has");
	int ret = make(&h, why);
	close(h.pidfd);
	return ret;
}
