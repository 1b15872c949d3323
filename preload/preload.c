// SPDX-License-Identifier: MIT
/*
 * Guest RAM as private anonymous memory, in a QEMU that believes it to be shared. QEMU is told to
 * keep RAM in a file; mapping exactly this file gives anonymous memory instead. So the migration
 * capability x-ignore-shared leaves RAM out of the stream, while KSM, huge pages and the zero page
 * work as for any anonymous memory. Nothing is ever written to the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload/vm.h"

static struct vm vm = { .control = -1, .stderr_fd = -1 };
static struct stat ram_file;
static bool active;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int descriptor_from(const char *name)
{
	const char *text = getenv(name);
	char *end;

	if (!text || !*text)
		return -1;
	long fd = strtol(text, &end, 10);
	if (*end || fd < 3 || fd > INT32_MAX || fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
		return -1;
	return (int)fd;
}

/* Programs that QEMU starts (network scripts) are none of our business. */
static void clean_environment(void)
{
	const char *preload = getenv("LD_PRELOAD");
	const char *rest = preload ? strpbrk(preload, ": ") : NULL;

	/* The keeper has put us first. */
	char *others = rest && rest[1] ? strdup(rest + 1) : NULL;
	if (others)
		setenv("LD_PRELOAD", others, 1);
	else
		unsetenv("LD_PRELOAD");
	free(others);
	unsetenv(CONTROL_ENV_FD);
	unsetenv(CONTROL_ENV_RAM);
	unsetenv(CONTROL_ENV_QMP);
	unsetenv(CONTROL_ENV_TAKE);
	unsetenv(CONTROL_ENV_PORTS);
	unsetenv(CONTROL_ENV_STDERR);
}

__attribute__((constructor)) static void preload_init(void)
{
	const char *ram = getenv(CONTROL_ENV_RAM);

	/* Not under a keeper: behave as if not there. */
	active = ram && getenv(CONTROL_ENV_FD) && getenv(CONTROL_ENV_QMP) &&
		 stat(ram, &ram_file) == 0;
}

/*
 * Not in the constructor: this may be a script that ends with exec of QEMU, which must find the
 * environment and the descriptors as the keeper has made them.
 */
static int begin(void)
{
	const char *qmp = getenv(CONTROL_ENV_QMP);

	vm.control = descriptor_from(CONTROL_ENV_FD);
	vm.qmp_path = qmp ? strdup(qmp) : NULL;
	vm.stderr_fd = descriptor_from(CONTROL_ENV_STDERR);
	int sock = descriptor_from(CONTROL_ENV_TAKE);
	clean_environment();
	if (vm.control < 0 || !vm.qmp_path)
		return -EINVAL;
	if (sock >= 0)
		taker_open(&vm, sock);
	return 0;
}

static void *vm_thread(void *arg)
{
	(void)arg;
	if (vm.take)
		taker_run(&vm);
	giver_serve(&vm);
	return NULL;
}

/* QEMU's signal handling counts on its own threads only. */
static int start_thread(void)
{
	sigset_t all, old;
	pthread_t thread;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int ret = pthread_create(&thread, NULL, vm_thread, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret)
		return -ret;
	pthread_setname_np(thread, "pageferry");
	pthread_detach(thread);
	return 0;
}

static void *real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, offset);
}

static bool is_ram(int fd, int flags)
{
	struct stat st;
	int type = flags & MAP_TYPE, saved = errno;

	if (!active || fd < 0 || (flags & MAP_ANONYMOUS) ||
	    (type != MAP_SHARED && type != MAP_SHARED_VALIDATE))
		return false;
	bool same = fstat(fd, &st) == 0 && st.st_dev == ram_file.st_dev &&
		    st.st_ino == ram_file.st_ino;
	errno = saved;
	return same;
}

static void *refuse(int error)
{
	errno = error;
	return MAP_FAILED;
}

/* NORESERVE: for the short time of a hand-over two processes have mappings of that size. */
static void *map_ram(void *addr, size_t len, int prot, int flags)
{
	int ret = begin();
	if (ret)
		return refuse(-ret);
	flags = (flags & ~(MAP_TYPE | MAP_SYNC)) | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *p = real_mmap(addr, len, prot, flags, -1, 0);
	if (p == MAP_FAILED)
		return p;
	vm.ram = p;
	vm.ram_len = len;
	if (vm.take)
		taker_map(&vm);
	ret = start_thread();
	if (ret) {
		control_failed(&vm, ret, "can't start a thread in QEMU");
		munmap(p, len);
		return refuse(-ret);
	}
	struct control_msg hello = { .type = CONTROL_HELLO, .report = { .total = len } };
	control_send(&vm, &hello);
	return p;
}

static void *mmap_or_ram(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	if (!is_ram(fd, flags))
		return real_mmap(addr, len, prot, flags, fd, offset);
	pthread_mutex_lock(&lock);
	/* Anonymous memory can't be mapped twice: whatever wants that would see other contents. */
	void *p = vm.ram || offset ? refuse(EBUSY) : map_ram(addr, len, prot, flags);
	pthread_mutex_unlock(&lock);
	return p;
}

__attribute__((visibility("default"))) void *mmap(void *addr, size_t len, int prot, int flags,
						  int fd, off_t offset)
{
	return mmap_or_ram(addr, len, prot, flags, fd, offset);
}

__attribute__((visibility("default"))) void *mmap64(void *addr, size_t len, int prot, int flags,
						    int fd, off_t offset)
{
	return mmap_or_ram(addr, len, prot, flags, fd, offset);
}
