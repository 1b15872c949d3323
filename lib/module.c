// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "include/linux/pageferry.h"
#include "lib/module.h"

static int check(int fd)
{
	struct pageferry_info info = { .size = sizeof(info) };
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	/* Whatever else has this name does not know the request. */
	if (!S_ISCHR(st.st_mode) || ioctl(fd, PAGEFERRY_IOC_INFO, &info) < 0)
		return -ENODEV;
	return info.abi == PAGEFERRY_ABI && (info.features & PAGEFERRY_FEATURE_MOVE) ? 0
										     : -EPROTO;
}

int module_open(void)
{
	int fd = open("/dev/pageferry", O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return -errno;
	int ret = check(fd);
	if (!ret)
		return fd;
	close(fd);
	return ret;
}

int module_move(int module, int dst_uffd, uint64_t dst, const void *src, uint64_t len,
		uint64_t *done)
{
	struct pageferry_move move = {
		.size = sizeof(move),
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
