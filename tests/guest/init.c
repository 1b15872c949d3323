// SPDX-License-Identifier: MIT
/*
 * PID 1 of the guest in which the kernel module is tested. On the kernel's command line:
 *
 *	pf.test=NAME,...	run these only, or all of a subject
 *	pf.module=NAME		the module under test; none: it isn't unloaded
 *	pf.program=PATH		for user/program
 *	pf.mode=N		added to the mode of each move that a test asks for
 *	pf.slow=N		a kernel that is so many times slower: N times the time, less memory
 *
 * Its last line, "# verdict: ok", says that it came to its end and found nothing wrong. The console
 * is the kernel's; TAP goes to the second serial port.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "guest/boot.h"
#include "harness.h"
#include "log.h"
#include "pf.h"
#include "proc.h"

#define TESTS_OF(name) name##_tests,
static const struct test *const subjects[] = {SUBJECTS(TESTS_OF)};

void fail(const char *fmt, ...)
{
	char line[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	note("the guest can't start: %s", line);
	power_off();
}

/* The value of a parameter, or "". */
static const char *param(char *buf, size_t n, const char *name)
{
	char line[4096], *word, *save;
	size_t len = strlen(name);

	buf[0] = '\0';
	if (proc_read(0, "cmdline", line, sizeof(line)) <= 0)
		fail("/proc/cmdline can't be read");
	for (word = strtok_r(line, " \n", &save); word; word = strtok_r(NULL, " \n", &save))
		if (!strncmp(word, name, len) && word[len] == '=')
			snprintf(buf, n, "%s", word + len + 1);
	return buf;
}

static void open_tap(void)
{
	int fd = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		fail("/dev/ttyS1: %s", strerror(errno));
	make_raw(fd);
	/* Where power_off() waits until all of it has been sent, and every peer has it open. */
	if (dup2(fd, STDOUT_FILENO) < 0)
		fail("dup: %s", strerror(errno));
	close(fd);
	harness_open(STDOUT_FILENO);
}

/*
 * KVM changes the scheduler's code when the first virtual machine is made, and when the last one ends:
 * under emulation another CPU can run into that, see guest/README.md. So the first is made before there
 * is another CPU, and stays.
 */
static void hold_kvm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		return;
	if (ioctl(kvm, KVM_CREATE_VM, 0) < 0)
		note("KVM: %s", strerror(errno));
	close(kvm);
}

static void prepare(void)
{
	mount_one("devtmpfs", "/dev");
	mount_one("proc", "/proc");
	mount_one("sysfs", "/sys");
	mount_one("tmpfs", "/tmp");
	open_tap();
	if (mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL))
		fail("cgroup2: %s", strerror(errno));
	log_begin();
	load_modules();
	hold_kvm();
	start_cpus();
}

/* ---- the module's own end */

static int unload(const char *module)
{
	return syscall(SYS_delete_module, module, O_NONBLOCK) ? -errno : 0;
}

static bool reload(const char *module)
{
	char file[80];
	int ret;

	snprintf(file, sizeof(file), "%s.ko", module);
	ret = load_module(file);
	if (ret)
		note("%s: %s", file, strerror(-ret));
	return !ret;
}

static bool unloads(const char *module)
{
	int ret = unload(module);

	if (ret)
		note("rmmod %s: %s", module, strerror(-ret));
	return !ret;
}

/* While somebody has it open it has to stay. */
static bool stays(const char *module)
{
	int fd = open("/dev/pageferry", O_RDWR | O_CLOEXEC);
	int ret = fd < 0 ? -errno : unload(module);

	close(fd);
	if (ret != -EWOULDBLOCK)
		note("open device and rmmod %s: %s", module, strerror(-ret));
	return ret == -EWOULDBLOCK;
}

/* Only with nothing left behind by any test it can be unloaded. */
static void end_module(const char *module)
{
	if (!strcmp(module, "pageferry"))
		harness_verdict(stays(module), "module/stays_while_open");
	harness_verdict(unloads(module), "module/unload");
	harness_verdict(reload(module) && unloads(module), "module/load_again");
}

static void judge(void)
{
	unsigned long taint = taint_of_trouble();
	unsigned int lines = log_trouble();

	if (taint)
		note("the kernel is tainted: 0x%lx", taint);
	harness_verdict(!taint && !lines, "kernel_log");
	note("verdict: %s", harness_failed() ? "failed" : "ok");
}

int main(void)
{
	char select[512], module[64], slow[16], mode[16], program[128];

	/* A test has its peer exec something, and there is nothing else. */
	if (getpid() != 1)
		return 0;
	prepare();
	if (*param(slow, sizeof(slow), "pf.slow"))
		slowness = (unsigned int)atoi(slow);
	if (!slowness)
		fail("pf.slow=%s", slow);
	pf_always = (uint32_t)atoi(param(mode, sizeof(mode), "pf.mode"));
	setenv("PF_PROGRAM", param(program, sizeof(program), "pf.program"), 1);
	param(select, sizeof(select), "pf.test");
	param(module, sizeof(module), "pf.module");
	for (size_t i = 0; i < COUNT(subjects); i++)
		harness_run(subjects[i], select);
	if (!harness_count()) {
		note("no test is called %s", select);
		harness_verdict(false, "selection");
	}
	if (*module && !harness_stuck())
		end_module(module);
	judge();
	power_off();
}
