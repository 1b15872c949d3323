// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "include/linux/pageferry.h"
#include "lib/module.h"

static int check(int fd, uint64_t features)
{
	struct pageferry_info info = { .size = sizeof(info) };
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	/* Whatever else has this name does not know the request. */
	if (!S_ISCHR(st.st_mode) || ioctl(fd, PAGEFERRY_IOC_INFO, &info) < 0)
		return -ENODEV;
	if (info.abi != PAGEFERRY_ABI || !(info.features & PAGEFERRY_FEATURE_MOVE))
		return -EPROTO;
	return features & ~info.features ? -EOPNOTSUPP : 0;
}

int module_open(uint64_t features)
{
	int fd = open("/dev/pageferry", O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return -errno;
	int ret = check(fd, features);
	if (!ret)
		return fd;
	close(fd);
	return ret;
}

static int request(int module, uint32_t mode, int dst_uffd, uint64_t dst, const void *src,
		   uint64_t len, uint64_t *done)
{
	struct pageferry_move move = {
		.size = sizeof(move),
		.mode = mode,
		.dst_uffd = dst_uffd,
		.src_uffd = PAGEFERRY_SELF,
		.dst = dst,
		.src = (uintptr_t)src,
		.len = len,
	};

	int ret = ioctl(module, PAGEFERRY_IOC_MOVE, &move) < 0 ? -errno : 0;
	*done = move.moved;
	return ret;
}

int module_move(int module, int dst_uffd, uint64_t dst, const void *src, uint64_t len,
		uint64_t *done)
{
	return request(module, 0, dst_uffd, dst, src, len, done);
}

/* A hole is no hindrance: its page is zero at the other side. */
int module_check(int module, int dst_uffd, uint64_t dst, const void *src, uint64_t len,
		 uint64_t *done)
{
	return request(module, PAGEFERRY_MOVE_CHECK | PAGEFERRY_MOVE_ALLOW_SRC_HOLES, dst_uffd, dst,
		       src, len, done);
}
