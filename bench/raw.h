/* SPDX-License-Identifier: MIT */
/*
 * The baselines' side: bare system calls, nothing of the library. (lib/uffd_abi.h only declares the
 * kernel's own structures, for build machines whose headers are older than the kernel.)
 */
#ifndef BENCH_RAW_H
#define BENCH_RAW_H

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "bench/bench.h"
#include "lib/uffd_abi.h"

/* Non-blocking, as everybody's who polls. */
static inline int raw_open(void)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd = -1;

	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
	}
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		bench_cannot("no userfaultfd for this user (%s): run as root, or open "
			     "/dev/userfaultfd to the user",
			     strerror(errno));
	return fd;
}

static inline int raw_uffd(uint64_t features)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	int fd = raw_open();

	must(ioctl(fd, UFFDIO_API, &api), "UFFDIO_API");
	return fd;
}

/* The UFFD_FEATURE_* bits of this kernel. */
static inline uint64_t raw_features(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = raw_open();

	must(ioctl(fd, UFFDIO_API, &api), "UFFDIO_API");
	close(fd);
	return api.features;
}

static inline void raw_register(int uffd, const void *mem, uint64_t len, uint64_t mode)
{
	struct uffdio_register reg = {.range = {(uintptr_t)mem, len}, .mode = mode};
	must(ioctl(uffd, UFFDIO_REGISTER, &reg), "UFFDIO_REGISTER");
}

static inline void raw_copy(int uffd, uint64_t dst, const void *src, uint64_t len)
{
	struct uffdio_copy arg = {.dst = dst, .src = (uintptr_t)src, .len = len};
	must(ioctl(uffd, UFFDIO_COPY, &arg), "UFFDIO_COPY");
}

static inline void raw_wake(int uffd, uint64_t dst, uint64_t len)
{
	struct uffdio_range arg = {dst, len};
	must(ioctl(uffd, UFFDIO_WAKE, &arg), "UFFDIO_WAKE");
}

/*
 * A page that the kernel itself is migrating makes it try again. Linux 6.18 forgets after that that
 * it has moved the page, and says EEXIST, or EAGAIN and that it has moved less than it has. Whether
 * what is there is the right page shows when the contents are checked.
 */
static inline void raw_move(int uffd, const void *dst, const void *src, uint64_t len)
{
	for (uint64_t done = 0; done < len;) {
		uint64_t to = (uintptr_t)dst + done;
		struct uffdio_move arg = {
			.dst = to, .src = (uintptr_t)src + done, .len = len - done};
		if (ioctl(uffd, UFFDIO_MOVE, &arg) == 0)
			return;
		if (errno != EAGAIN && errno != EEXIST)
			bench_fail("UFFDIO_MOVE failed: %s", strerror(errno));
		bool there = errno == EEXIST;
		if (there)
			raw_wake(uffd, to, BENCH_PAGE);
		done += there ? BENCH_PAGE : arg.move > 0 ? (uint64_t)arg.move : 0;
	}
}

static inline void raw_continue(int uffd, uint64_t dst, uint64_t len)
{
	struct uffdio_continue arg = {.range = {dst, len}};
	must(ioctl(uffd, UFFDIO_CONTINUE, &arg), "UFFDIO_CONTINUE");
}

static inline void raw_zeropage(int uffd, uint64_t dst, uint64_t len)
{
	struct uffdio_zeropage arg = {.range = {dst, len}};
	must(ioctl(uffd, UFFDIO_ZEROPAGE, &arg), "UFFDIO_ZEROPAGE");
}

static inline void raw_protect(int uffd, uint64_t dst, uint64_t len, bool protect)
{
	struct uffdio_writeprotect arg = {{dst, len}, protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
	must(ioctl(uffd, UFFDIO_WRITEPROTECT, &arg), "UFFDIO_WRITEPROTECT");
}

/* One descriptor and one number to the peer. */
static inline void raw_send_fd(int sock, int fd, uint64_t number)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {&number, sizeof(number)};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control.buf,
			    .msg_controllen = sizeof(control.buf)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&mh);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	must(sendmsg(sock, &mh, MSG_NOSIGNAL), "sending a descriptor");
}

static inline int raw_recv_fd(int sock, uint64_t *number)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {number, sizeof(*number)};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control.buf,
			    .msg_controllen = sizeof(control.buf)};
	int fd;

	if (recvmsg(sock, &mh, MSG_CMSG_CLOEXEC) != sizeof(*number) || !CMSG_FIRSTHDR(&mh))
		bench_fail("the other process is gone");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&mh)), sizeof(fd));
	return fd;
}

static inline void raw_send_byte(int sock)
{
	must(send(sock, "", 1, MSG_NOSIGNAL), "send");
}

/* Up to @most bytes that have come, at least one. */
static inline uint64_t raw_recv_bytes(int sock, uint64_t most)
{
	char buf[64];
	ssize_t n = recv(sock, buf, most < sizeof(buf) ? most : sizeof(buf), 0);

	if (n <= 0)
		bench_fail("the other process is gone");
	return (uint64_t)n;
}

#endif
