// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "boot.h"

#define NAME_BYTES 256

_Noreturn void power_off(void)
{
	tcdrain(STDOUT_FILENO);
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

FILE *open_for_reading(const char *path)
{
	FILE *f = fopen(path, "re");

	if (!f)
		fail("%s: %s", path, strerror(errno));
	return f;
}

void mount_one(const char *type, const char *path)
{
	mkdir(path, 0755);
	if (mount(type, path, type, 0, NULL) && errno != EBUSY)
		fail("mount of %s: %s", path, strerror(errno));
}

void make_raw(int fd)
{
	struct termios tio;

	if (tcgetattr(fd, &tio))
		fail("terminal: %s", strerror(errno));
	cfmakeraw(&tio);
	tio.c_iflag |= ICRNL;
	tcsetattr(fd, TCSANOW, &tio);
}

int load_module(const char *name)
{
	char path[NAME_BYTES + 16];
	int fd, ret = 0;

	snprintf(path, sizeof(path), "/modules/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (syscall(SYS_finit_module, fd, "", 0))
		ret = -errno;
	close(fd);
	return ret;
}

/*
 * The file names the modules one a line, each after those it needs. One for hardware that isn't there
 * (KVM on another maker's CPU) has nothing to do.
 */
void load_modules(void)
{
	FILE *f = open_for_reading("/modules/order");
	char line[NAME_BYTES];

	while (fgets(line, sizeof(line), f)) {
		int ret = 0;

		line[strcspn(line, "\n")] = '\0';
		if (line[0])
			ret = load_module(line);
		if (ret && ret != -EEXIST && ret != -EOPNOTSUPP)
			fail("module %s: %s", line, strerror(-ret));
	}
	fclose(f);
}

/*
 * The kernel is booted with one CPU, see guest/README.md. Whoever boots it with all of them finds
 * them online already, which is no error.
 */
void start_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_CONF);

	for (long i = 1; i < n; i++) {
		char path[64];
		int fd;

		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%ld/online", i);
		fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, "1", 1) != 1)
			fail("cpu%ld: %s", i, strerror(errno));
		close(fd);
	}
}
