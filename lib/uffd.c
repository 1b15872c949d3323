// SPDX-License-Identifier: MIT
/* Open /dev/userfaultfd or call userfaultfd(2), shake hands, register, and the raw ioctls. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/uffd.h"

static int open_device(void)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return -errno;
	int fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	int ret = fd < 0 ? -errno : fd;
	close(dev);
	return ret;
}

static int open_syscall(int flags)
{
	long fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);
	return fd < 0 ? -errno : (int)fd;
}

int uffd_open_door(enum ferry_door door)
{
	switch (door) {
	case FERRY_DOOR_DEVICE:
		return open_device();
	case FERRY_DOOR_SYSCALL:
		return open_syscall(0);
	case FERRY_DOOR_USER_MODE:
		return open_syscall(UFFD_USER_MODE_ONLY);
	case FERRY_DOOR_NONE:
		break;
	}
	return -EINVAL;
}

int uffd_api(int uffd, uint64_t *features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = *features };

	if (ioctl(uffd, UFFDIO_API, &api) < 0)
		/* The kernel says EINVAL for a feature bit that it doesn't have. */
		return errno == EINVAL ? -EOPNOTSUPP : -errno;
	*features = api.features;
	return 0;
}

int uffd_open_best(uint64_t *features, unsigned int flags)
{
	static const enum ferry_door doors[] = { FERRY_DOOR_DEVICE, FERRY_DOOR_SYSCALL,
						 FERRY_DOOR_USER_MODE };
	bool forbidden = false;

	if (flags & ~FERRY_UFFD_KERNEL_FAULTS)
		return -EINVAL;
	for (unsigned int i = 0; i < sizeof(doors) / sizeof(doors[0]); i++) {
		if (doors[i] == FERRY_DOOR_USER_MODE && (flags & FERRY_UFFD_KERNEL_FAULTS))
			break;
		int fd = uffd_open_door(doors[i]);
		if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM)
			return fd;
		if (fd == -EPERM || fd == -EACCES)
			forbidden = true;
		if (fd < 0)
			continue;
		int ret = uffd_api(fd, features);
		if (ret == 0)
			return fd;
		close(fd);
		return ret;
	}
	return forbidden ? -EPERM : -ENOSYS;
}

int ferry_uffd_open(uint64_t features, unsigned int flags)
{
	return uffd_open_best(&features, flags);
}

int uffd_register(int uffd, uint64_t addr, uint64_t len, uint64_t mode, uint64_t *ioctls)
{
	struct uffdio_register reg = { .range = { addr, len }, .mode = mode };

	if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		return -errno;
	if (ioctls)
		*ioctls = reg.ioctls;
	return 0;
}

int uffd_unregister(int uffd, uint64_t addr, uint64_t len)
{
	struct uffdio_range range = { addr, len };
	return ioctl(uffd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

int uffd_wake(int uffd, uint64_t addr, uint64_t len)
{
	struct uffdio_range range = { addr, len };
	return ioctl(uffd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

/* The kernel's way to report: the out field is a byte count, or -errno when nothing was done. */
static int result(int ret, int64_t out, uint64_t *done)
{
	*done = out > 0 ? (uint64_t)out : 0;
	return ret < 0 ? -errno : 0;
}

int uffd_copy(int uffd, uint64_t dst, const void *src, uint64_t len, uint64_t mode, uint64_t *done)
{
	struct uffdio_copy arg = { .dst = dst, .src = (uintptr_t)src, .len = len, .mode = mode };
	int ret = ioctl(uffd, UFFDIO_COPY, &arg);
	return result(ret, arg.copy, done);
}

int uffd_zeropage(int uffd, uint64_t dst, uint64_t len, uint64_t mode, uint64_t *done)
{
	struct uffdio_zeropage arg = { .range = { dst, len }, .mode = mode };
	int ret = ioctl(uffd, UFFDIO_ZEROPAGE, &arg);
	return result(ret, arg.zeropage, done);
}

int uffd_move(int uffd, uint64_t dst, uint64_t src, uint64_t len, uint64_t mode, uint64_t *done)
{
	struct uffdio_move arg = { .dst = dst, .src = src, .len = len, .mode = mode };
	int ret = ioctl(uffd, UFFDIO_MOVE, &arg);
	return result(ret, arg.move, done);
}

int uffd_continue(int uffd, uint64_t dst, uint64_t len, uint64_t mode, uint64_t *done)
{
	struct uffdio_continue arg = { .range = { dst, len }, .mode = mode };
	int ret = ioctl(uffd, UFFDIO_CONTINUE, &arg);
	return result(ret, arg.mapped, done);
}

int uffd_poison(int uffd, uint64_t dst, uint64_t len, uint64_t *done)
{
	struct uffdio_poison arg = { .range = { dst, len } };
	int ret = ioctl(uffd, UFFDIO_POISON, &arg);
	return result(ret, arg.updated, done);
}

int uffd_writeprotect(int uffd, uint64_t addr, uint64_t len, uint64_t mode)
{
	struct uffdio_writeprotect arg = { .range = { addr, len }, .mode = mode };
	return ioctl(uffd, UFFDIO_WRITEPROTECT, &arg) < 0 ? -errno : 0;
}

bool uffd_is(int fd)
{
	static const char want[] = "anon_inode:[userfaultfd]";
	char path[32], name[sizeof(want)];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return readlink(path, name, sizeof(name)) == sizeof(want) - 1 &&
	       !memcmp(name, want, sizeof(want) - 1);
}

bool uffd_tells_forks(int fd)
{
	unsigned long long features = UFFD_FEATURE_EVENT_FORK;
	char path[40], line[128];

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	FILE *f = fopen(path, "re");
	if (!f)
		return true;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "API: %*x:%llx:", &features) == 1)
			break;
	fclose(f);
	return features & UFFD_FEATURE_EVENT_FORK;
}

bool range_valid(uint64_t addr, uint64_t len)
{
	return len && !((addr | len) % FERRY_PAGE) && addr + len > addr;
}
