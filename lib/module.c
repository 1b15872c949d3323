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

/* The rest of @move is filled in; what isn't told about stays 0. */
static int request(int module, struct pageferry_move *move)
{
	move->size = sizeof(*move);
	return ioctl(module, PAGEFERRY_IOC_MOVE, move) < 0 ? -errno : 0;
}

static struct pageferry_move out_of_here(int dst_uffd, uint64_t dst, const void *src, uint64_t len)
{
	return (struct pageferry_move){
		.dst_uffd = dst_uffd,
		.src_uffd = PAGEFERRY_SELF,
		.dst = dst,
		.src = (uintptr_t)src,
		.len = len,
	};
}

int module_move(int module, int dst_uffd, uint64_t dst, const void *src, uint64_t len,
		uint64_t *done, uint64_t *tables)
{
	struct pageferry_move move = out_of_here(dst_uffd, dst, src, len);

	move.mode = tables ? PAGEFERRY_MOVE_TABLES : 0;
	int ret = request(module, &move);
	*done = move.moved;
	if (tables)
		*tables = move.tables;
	return ret;
}

struct module_tables module_move_tables(int module, int dst_uffd, uint64_t dst, const void *src,
					uint64_t len, bool may_have_holes)
{
	struct pageferry_move move = out_of_here(dst_uffd, dst, src, len);

	move.mode = PAGEFERRY_MOVE_TABLES | PAGEFERRY_MOVE_TABLES_ONLY |
		    (may_have_holes ? PAGEFERRY_MOVE_ALLOW_SRC_HOLES : 0);
	int ret = request(module, &move);
	return (struct module_tables){ret, move.moved, (unsigned int)move.why};
}

int module_fetch(int module, int dst_uffd, void *dst, int src_uffd, uint64_t src, uint64_t len,
		 uint64_t *done)
{
	struct pageferry_move move = {
		.dst_uffd = dst_uffd,
		.src_uffd = src_uffd,
		.dst = (uintptr_t)dst,
		.src = src,
		.len = len,
	};
	int ret = request(module, &move);

	*done = move.moved;
	return ret;
}

/* A hole is no hindrance: its page is zero at the other side. */
int module_check(int module, int dst_uffd, uint64_t dst, const void *src, uint64_t len,
		 uint64_t *done)
{
	struct pageferry_move move = out_of_here(dst_uffd, dst, src, len);

	move.mode = PAGEFERRY_MOVE_CHECK | PAGEFERRY_MOVE_ALLOW_SRC_HOLES;
	int ret = request(module, &move);
	*done = move.moved;
	return ret;
}
