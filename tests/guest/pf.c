// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include "harness.h"
#include "peer.h"
#include "pf.h"

int pf_open(void)
{
	int fd = open("/dev/pageferry", O_RDWR | O_CLOEXEC);

	check_call(fd);
	return fd;
}

int pf_open_with(uint64_t features)
{
	struct pageferry_info info = {.size = sizeof(info)};
	int fd = pf_open();

	check_is(pf_ioctl(fd, PAGEFERRY_IOC_INFO, &info), 0);
	if ((info.features & features) != features)
		test_skip("the module has only features 0x%llx", (unsigned long long)info.features);
	return fd;
}

int pf_ioctl(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg) < 0 ? -errno : 0;
}

int pf_move(int fd, uint32_t mode, int dst_uffd, int src_uffd, uint64_t dst, uint64_t src,
	    uint64_t len, uint64_t *moved)
{
	struct pageferry_move move = {
		.size = sizeof(move),
		.mode = mode,
		.dst_uffd = dst_uffd,
		.src_uffd = src_uffd,
		.dst = dst,
		.src = src,
		.len = len,
		.moved = ~0ull,
	};
	int ret = pf_ioctl(fd, PAGEFERRY_IOC_MOVE, &move);

	if (moved)
		*moved = move.moved;
	return ret;
}

void pf_move_all(int fd, const struct end *to, const struct end *from)
{
	uint64_t moved;

	check_is(pf_move(fd, 0, to->uffd, from->uffd, to->addr, from->addr, from->len, &moved), 0);
	check_is(moved, from->len);
}
