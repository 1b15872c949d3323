// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include "harness.h"
#include "peer.h"
#include "pf.h"

uint32_t pf_always;

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
	if (!(mode & PAGEFERRY_MOVE_CHECK))
		move.mode |= pf_always;
	int ret = pf_ioctl(fd, PAGEFERRY_IOC_MOVE, &move);

	if (moved)
		*moved = move.moved;
	return ret;
}

struct pf_answer pf_move_tables(int fd, uint32_t mode, const struct end *to, const struct end *from)
{
	struct pageferry_move move = {
		.size = sizeof(move),
		.mode = mode | PAGEFERRY_MOVE_TABLES,
		.dst_uffd = to->uffd,
		.src_uffd = from->uffd,
		.dst = to->addr,
		.src = from->addr,
		.len = from->len,
		.moved = ~0ull,
		.tables = ~0ull,
		.why = ~0ull,
	};
	int ret = pf_ioctl(fd, PAGEFERRY_IOC_MOVE, &move);

	return (struct pf_answer){ret, move.moved, move.tables, move.why};
}

void pf_move_all_tables(int fd, const struct end *to, const struct end *from)
{
	struct pf_answer answer = pf_move_tables(fd, 0, to, from);

	check_is(answer.ret, 0);
	check_is(answer.why, PAGEFERRY_WHY_NONE);
	check_is(answer.moved, from->len);
	check_is(answer.tables, from->len);
}

void pf_move_all(int fd, const struct end *to, const struct end *from)
{
	uint64_t moved;

	check_is(pf_move(fd, 0, to->uffd, from->uffd, to->addr, from->addr, from->len, &moved), 0);
	check_is(moved, from->len);
}
