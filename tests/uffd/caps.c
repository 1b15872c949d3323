// SPDX-License-Identifier: MIT
/* ferry_caps_probe: its answers are true, under every restriction, and it leaves nothing behind. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "lib/uffd.h"
#include "tests/lib/forbid.h"

#define NOBODY       65534
#define DEADLINE_S   20
#define NOT_RETURNED 1000

static struct ferry_caps here; /* the answers without any restriction */

static void require(int condition, const char *reason)
{
	if (condition)
		return;
	print_message("# skipped: %s\n", reason);
	skip();
}

/* Wait for the end of a child; kill it when it hangs. Its alarm would not do: the probe blocks
 * signals. */
static int end_of(pid_t pid)
{
	struct pollfd ended = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
	int status;

	if (ended.fd >= 0 && poll(&ended, 1, DEADLINE_S * 1000) == 0) {
		print_message("# the child hangs\n");
		kill(pid, SIGKILL);
	}
	if (ended.fd >= 0)
		close(ended.fd);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* Probe in a child, after @setup. */
static int probe_after(void (*setup)(void), struct ferry_caps *caps)
{
	struct {
		struct ferry_caps caps;
		int ret;
	} *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			 -1, 0);

	assert_ptr_not_equal(shared, MAP_FAILED);
	shared->ret = NOT_RETURNED;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		setup();
		shared->caps.size = sizeof(shared->caps);
		shared->ret = ferry_caps_probe(&shared->caps);
		_exit(0);
	}
	int status = end_of(pid);
	*caps = shared->caps;
	int ret = shared->ret;
	munmap(shared, sizeof(*shared));
	if (status)
		print_message("# the child ended with status %#x\n", (unsigned int)status);
	return status ? NOT_RETURNED : ret;
}

static void must(int ok)
{
	if (!ok)
		_exit(99);
}

static void be_nobody(void)
{
	must(!setgroups(0, NULL) && !setresgid(NOBODY, NOBODY, NOBODY) &&
	     !setresuid(NOBODY, NOBODY, NOBODY));
	/* Changing the user took this away; an exec would give it back. */
	must(!prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
}

static int unprivileged_sysctl(void)
{
	char c = '1';
	int fd = open("/proc/sys/vm/unprivileged_userfaultfd", O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		assert_int_equal(read(fd, &c, 1), 1);
		close(fd);
	}
	return c - '0';
}

static int count_entries(const char *path)
{
	int n = 0;
	DIR *dir = opendir(path);

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* In pages. The number of mappings would not tell, since the kernel joins neighbours. */
static unsigned long mapped(void)
{
	unsigned long pages = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%lu", &pages), 1);
	fclose(file);
	return pages;
}

/* ---- the call itself */

static void test_sizes(void **state)
{
	struct {
		struct ferry_caps caps;
		uint64_t later;
	} large = {.caps.size = sizeof(large)};
	struct ferry_caps caps = {.size = sizeof(size_t)};

	(void)state;
	assert_int_equal(ferry_caps_probe(&caps), -EINVAL);
	caps.size = 0;
	assert_int_equal(ferry_caps_probe(&caps), -EINVAL);
	large.later = 1;
	assert_int_equal(ferry_caps_probe(&large.caps), -E2BIG);
	large.later = 0;
	assert_int_equal(ferry_caps_probe(&large.caps), 0);
	assert_int_equal(large.caps.size, sizeof(large));
	assert_int_equal(large.caps.features, here.features);
}

static void test_old_caller(void **state)
{
	struct ferry_caps caps;

	(void)state;
	memset(&caps, 0x55, sizeof(caps));
	caps.size = offsetof(struct ferry_caps, move_error);
	assert_int_equal(ferry_caps_probe(&caps), 0);
	assert_int_equal(caps.size, offsetof(struct ferry_caps, move_error));
	assert_int_equal(caps.features, here.features);
	assert_int_equal(caps.move_error, 0x55555555);
}

/* ---- the answers */

static void test_doors(void **state)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int device_error = device < 0 ? -errno : 0;
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	int syscall_error = uffd < 0 ? -errno : 0;

	(void)state;
	assert_int_equal(here.device_error, device_error);
	assert_int_equal(here.syscall_error, syscall_error);
	if (!device_error)
		assert_int_equal(here.door, FERRY_DOOR_DEVICE);
	else if (!syscall_error)
		assert_int_equal(here.door, FERRY_DOOR_SYSCALL);
	if (device >= 0)
		close(device);
	if (uffd >= 0)
		close(uffd);
}

static void check_bit(uint64_t bit, int error)
{
	if (here.features & bit)
		assert_int_equal(error, 0);
	else
		assert_int_equal(error, -EOPNOTSUPP);
}

/* Found by trying, the answers must still agree with what the kernel says of itself. */
static void test_features(void **state)
{
	(void)state;
	require(here.door != FERRY_DOOR_NONE, "no userfaultfd here");
	assert_true(here.ioctls & (1ull << _UFFDIO_COPY));
	check_bit(UFFD_FEATURE_MOVE, here.move_error);
	check_bit(UFFD_FEATURE_PAGEFAULT_FLAG_WP, here.wp_error);
	check_bit(UFFD_FEATURE_MINOR_SHMEM, here.minor_error);
	check_bit(UFFD_FEATURE_POISON, here.poison_error);
	check_bit(UFFD_FEATURE_WP_ASYNC, here.wp_async_error);
	if (here.features & UFFD_FEATURE_WP_ASYNC)
		assert_int_equal(here.scan_error, 0);
}

static void test_unprivileged(void **state)
{
	struct ferry_caps caps;
	struct stat st;

	(void)state;
	require(geteuid() == 0, "needs root");
	require(here.syscall_error != -ENOSYS, "no userfaultfd here");
	assert_int_equal(probe_after(be_nobody, &caps), 0);
	if (!stat("/dev/userfaultfd", &st) && !(st.st_mode & 06))
		assert_int_equal(caps.device_error, -EACCES);
	if (!unprivileged_sysctl()) {
		assert_int_equal(caps.syscall_error, -EPERM);
		if (caps.device_error) {
			assert_int_equal(caps.door, FERRY_DOOR_USER_MODE);
			assert_int_equal(caps.door_error, caps.device_error);
		}
	}
	assert_int_equal(caps.fork_error, -EPERM);
	assert_int_equal(caps.features, here.features);
	assert_int_equal(caps.move_error, here.move_error);
	assert_int_equal(caps.wp_error, here.wp_error);
	assert_int_equal(caps.wp_async_error, here.wp_async_error);
	assert_int_equal(caps.minor_error, here.minor_error);
	assert_int_equal(caps.poison_error, here.poison_error);
}

static void be_undumpable(void)
{
	be_nobody();
	must(!prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
}

static void test_undumpable(void **state)
{
	struct ferry_caps caps;

	(void)state;
	require(geteuid() == 0, "needs root");
	assert_int_equal(probe_after(be_undumpable, &caps), 0);
	assert_true(caps.peer_read_error == -EPERM || caps.peer_read_error == -EACCES);
	assert_true(caps.scan_error < 0);
}

static void filter_errno(void)
{
	must(!forbid_syscall(SYS_userfaultfd, SECCOMP_RET_ERRNO | EPERM));
}

static void filter_kill(void)
{
	must(!forbid_syscall(SYS_userfaultfd, SECCOMP_RET_KILL_PROCESS));
}

static void filter_kill_nobody(void)
{
	be_nobody();
	filter_kill();
}

static void filter_kill_readv(void)
{
	must(!forbid_syscall(SYS_process_vm_readv, SECCOMP_RET_KILL_PROCESS));
}

static void check_filtered(void (*setup)(void))
{
	struct ferry_caps caps;

	assert_int_equal(probe_after(setup, &caps), 0);
	assert_int_equal(caps.syscall_error, -EPERM);
	assert_int_equal(caps.device_error, here.device_error);
	assert_int_equal(caps.door, here.device_error ? FERRY_DOOR_NONE : FERRY_DOOR_DEVICE);
}

static void test_filter(void **state)
{
	(void)state;
	check_filtered(filter_errno);
	check_filtered(filter_kill);
}

static void test_no_door(void **state)
{
	struct ferry_caps caps;

	(void)state;
	require(geteuid() == 0 && here.device_error == 0, "needs root and /dev/userfaultfd");
	assert_int_equal(probe_after(filter_kill_nobody, &caps), 0);
	require(caps.device_error != 0, "/dev/userfaultfd is open to all");
	assert_int_equal(caps.door, FERRY_DOOR_NONE);
	assert_int_equal(caps.door_error, caps.device_error);
	assert_int_equal(caps.move_error, caps.door_error);
	assert_int_equal(caps.wp_error, caps.door_error);
	assert_int_equal(caps.wp_async_error, caps.door_error);
	assert_int_equal(caps.minor_error, caps.door_error);
	assert_int_equal(caps.poison_error, caps.door_error);
	assert_int_equal(caps.fork_error, caps.door_error);
	assert_int_equal(caps.features, 0);
}

static void test_filter_peer_read(void **state)
{
	struct ferry_caps caps;

	(void)state;
	assert_int_equal(probe_after(filter_kill_readv, &caps), 0);
	assert_int_equal(caps.peer_read_error, -EPERM);
	assert_int_equal(caps.features, here.features);
}

static rlim_t descriptors;

static void limit_descriptors(void)
{
	struct rlimit limit = {descriptors, descriptors};
	must(!setrlimit(RLIMIT_NOFILE, &limit));
}

static void test_few_descriptors(void **state)
{
	struct ferry_caps caps;

	(void)state;
	for (descriptors = 0; descriptors < 8; descriptors++)
		assert_int_equal(probe_after(limit_descriptors, &caps), 0);
	descriptors = 0;
	assert_int_equal(probe_after(limit_descriptors, &caps), 0);
	assert_int_equal(caps.door, FERRY_DOOR_NONE);
	if (!here.device_error)
		assert_int_equal(caps.door_error, -EMFILE);
	if (!here.scan_error)
		assert_int_equal(caps.scan_error, -EMFILE);
}

static void limit_processes(void)
{
	struct rlimit limit = {0, 0};

	be_nobody();
	must(!setrlimit(RLIMIT_NPROC, &limit));
}

static void test_no_processes(void **state)
{
	struct ferry_caps caps, nobody;

	(void)state;
	require(geteuid() == 0, "needs root");
	assert_int_equal(probe_after(be_nobody, &nobody), 0);
	assert_int_equal(probe_after(limit_processes, &caps), 0);
	assert_int_equal(caps.peer_read_error, -EAGAIN);
	assert_int_equal(caps.door, nobody.door);
	assert_int_equal(caps.syscall_error, nobody.syscall_error);
}

static void limit_memory(void)
{
	struct rlimit limit = {0, 0};
	must(!setrlimit(RLIMIT_AS, &limit));
}

static void test_no_memory(void **state)
{
	struct ferry_caps caps;

	(void)state;
	assert_int_equal(probe_after(limit_memory, &caps), -ENOMEM);
}

static void lock_memory(void)
{
	must(!mlockall(MCL_CURRENT | MCL_FUTURE));
}

/* New memory then comes filled and locked. */
static void test_locked_memory(void **state)
{
	struct ferry_caps caps;

	(void)state;
	require(geteuid() == 0, "needs root");
	assert_int_equal(probe_after(lock_memory, &caps), 0);
	assert_int_equal(caps.move_error, here.move_error);
	assert_int_equal(caps.wp_error, here.wp_error);
	assert_int_equal(caps.wp_async_error, here.wp_async_error);
	assert_int_equal(caps.minor_error, here.minor_error);
	assert_int_equal(caps.poison_error, here.poison_error);
	assert_int_equal(caps.scan_error, here.scan_error);
}

static void disable_thp(void)
{
	must(!prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
}

static void test_thp_disabled(void **state)
{
	struct ferry_caps caps;

	(void)state;
	require(here.thp_error == 0, "no huge pages here");
	assert_int_equal(probe_after(disable_thp, &caps), 0);
	assert_int_equal(caps.thp_error, -ENOENT);
}

/* ---- what it must not do */

static void test_leaves_nothing(void **state)
{
	struct ferry_caps caps = {.size = sizeof(caps)};
	int fds = count_entries("/proc/self/fd");
	unsigned long pages = mapped();

	(void)state;
	for (int i = 0; i < 50; i++)
		assert_int_equal(ferry_caps_probe(&caps), 0);
	assert_int_equal(count_entries("/proc/self/fd"), fds);
	/* A sanitizer maps a little, a leak would be at least two pages each time. */
	assert_true(mapped() < pages + 100);
	assert_int_equal(waitpid(-1, NULL, __WALL), -1);
	assert_int_equal(errno, ECHILD);
}

static volatile sig_atomic_t sigchld;

static void count_sigchld(int number)
{
	(void)number;
	sigchld++;
}

static void test_no_sigchld(void **state)
{
	struct sigaction counting = {.sa_handler = count_sigchld}, old;
	struct ferry_caps caps = {.size = sizeof(caps)};

	(void)state;
	assert_int_equal(sigaction(SIGCHLD, &counting, &old), 0);
	assert_int_equal(ferry_caps_probe(&caps), 0);
	assert_int_equal(sigaction(SIGCHLD, &old, NULL), 0);
	assert_int_equal(sigchld, 0);
	assert_int_equal(caps.peer_read_error, here.peer_read_error);
}

static void ignore_sigchld(void)
{
	must(signal(SIGCHLD, SIG_IGN) != SIG_ERR);
}

static void test_sigchld_ignored(void **state)
{
	struct ferry_caps caps;

	(void)state;
	assert_int_equal(probe_after(ignore_sigchld, &caps), 0);
	assert_int_equal(caps.peer_read_error, here.peer_read_error);
	assert_int_equal(caps.syscall_error, here.syscall_error);
}

/* A fork would leave our pages marked as shared, and kernel MOVE would refuse them with EBUSY. */
static void test_pages_stay_movable(void **state)
{
	struct ferry_caps caps = {.size = sizeof(caps)};
	uint64_t done, addr;

	(void)state;
	require(here.move_error == 0, "no kernel MOVE here");
	char *page = mmap(NULL, 2 * FERRY_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	assert_ptr_not_equal(page, MAP_FAILED);
	addr = (uintptr_t)page;
	memset(page, 7, FERRY_PAGE);
	assert_int_equal(ferry_caps_probe(&caps), 0);

	int uffd = ferry_uffd_open(UFFD_FEATURE_MOVE, 0);
	assert_true(uffd >= 0);
	assert_int_equal(uffd_register(uffd, addr + FERRY_PAGE, FERRY_PAGE,
				       UFFDIO_REGISTER_MODE_MISSING, NULL),
			 0);
	assert_int_equal(uffd_move(uffd, addr + FERRY_PAGE, addr, FERRY_PAGE, 0, &done), 0);
	close(uffd);
	munmap(page, 2 * FERRY_PAGE);
}

/* A fork would wait for someone to read its event. */
static void watch_forks(void)
{
	int uffd = ferry_uffd_open(UFFD_FEATURE_EVENT_FORK, 0);
	char *page = mmap(NULL, FERRY_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			  0);

	must(uffd >= 0 && page != MAP_FAILED);
	must(!uffd_register(uffd, (uintptr_t)page, FERRY_PAGE, UFFDIO_REGISTER_MODE_MISSING, NULL));
}

static void test_watched_forks(void **state)
{
	struct ferry_caps caps;

	(void)state;
	require(here.fork_error == 0, "no EVENT_FORK here");
	assert_int_equal(probe_after(watch_forks, &caps), 0);
	assert_int_equal(caps.peer_read_error, here.peer_read_error);
}

/* But for huge pages: whether one is free may differ from one moment to the next. */
static bool same_answers(const struct ferry_caps *a, const struct ferry_caps *b)
{
	return a->door == b->door && a->door_error == b->door_error &&
	       a->device_error == b->device_error && a->syscall_error == b->syscall_error &&
	       a->features == b->features && a->ioctls == b->ioctls &&
	       a->move_error == b->move_error && a->wp_error == b->wp_error &&
	       a->wp_async_error == b->wp_async_error && a->minor_error == b->minor_error &&
	       a->poison_error == b->poison_error && a->scan_error == b->scan_error &&
	       a->fork_error == b->fork_error && a->ksm_error == b->ksm_error &&
	       a->peer_read_error == b->peer_read_error && a->module_error == b->module_error;
}

static atomic_bool enough;

static void *probe_often(void *arg)
{
	struct ferry_caps caps = {.size = sizeof(caps)};

	while (!atomic_load(&enough))
		if (ferry_caps_probe(&caps) || !same_answers(&caps, &here))
			return arg;
	return NULL;
}

/* Other threads probe, and this one forks children that inherit whatever is open just now. */
static void test_threads(void **state)
{
	pthread_t threads[4];
	pid_t children[64];
	void *failed;

	(void)state;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, probe_often, threads), 0);
	for (int i = 0; i < 64; i++) {
		children[i] = fork();
		if (children[i] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
	}
	atomic_store(&enough, true);
	int bad = 0;
	for (int i = 0; i < 4; i++)
		bad += pthread_join(threads[i], &failed) || failed;
	for (int i = 0; i < 64; i++)
		bad += children[i] < 0 || kill(children[i], SIGKILL) ||
		       waitpid(children[i], NULL, 0) != children[i];
	assert_int_equal(bad, 0);
}

static const struct timespec millisecond = {.tv_nsec = 1000000};

/* Orphans come to us; all must end by themselves. */
static void reap_all(void)
{
	time_t end = time(NULL) + DEADLINE_S;
	pid_t pid;

	while ((pid = waitpid(-1, NULL, __WALL | WNOHANG)) >= 0) {
		assert_true(time(NULL) < end);
		if (pid == 0)
			nanosleep(&millisecond, NULL);
	}
	assert_int_equal(errno, ECHILD);
}

/* Is the only child of @pid asleep? */
static int child_sleeps(pid_t pid)
{
	char path[64], state = '?';
	int child = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	FILE *file = fopen(path, "re");
	require(file != NULL, "the kernel was built without CONFIG_PROC_CHILDREN");
	assert_int_equal(fscanf(file, "%d", &child), 1);
	fclose(file);
	snprintf(path, sizeof(path), "/proc/%d/stat", child);
	file = fopen(path, "re");
	assert_non_null(file);
	assert_int_equal(fscanf(file, "%*d (%*[^)]) %c", &state), 1);
	fclose(file);
	return state == 'S';
}

/* Killed while its own child waits to be read. */
static void test_killed(void **state)
{
	int status;

	(void)state;
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct ferry_caps caps = {.size = sizeof(caps)};
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setenv("PAGEFERRY_PARK", "caps.child", 1);
		ferry_caps_probe(&caps);
		_exit(99);
	}
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
	for (time_t end = time(NULL) + DEADLINE_S; !child_sleeps(pid);) {
		assert_true(time(NULL) < end);
		nanosleep(&millisecond, NULL);
	}
	assert_int_equal(kill(pid, SIGKILL), 0);
	reap_all();
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_old_caller),
		cmocka_unit_test(test_doors),
		cmocka_unit_test(test_features),
		cmocka_unit_test(test_unprivileged),
		cmocka_unit_test(test_undumpable),
		cmocka_unit_test(test_filter),
		cmocka_unit_test(test_no_door),
		cmocka_unit_test(test_filter_peer_read),
		cmocka_unit_test(test_few_descriptors),
		cmocka_unit_test(test_no_processes),
		cmocka_unit_test(test_no_memory),
		cmocka_unit_test(test_locked_memory),
		cmocka_unit_test(test_thp_disabled),
		cmocka_unit_test(test_leaves_nothing),
		cmocka_unit_test(test_no_sigchld),
		cmocka_unit_test(test_sigchld_ignored),
		cmocka_unit_test(test_pages_stay_movable),
		cmocka_unit_test(test_watched_forks),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_killed),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	here.size = sizeof(here);
	if (ferry_caps_probe(&here)) {
		puts("Bail out! ferry_caps_probe failed");
		return 1;
	}
	return cmocka_run_group_tests_name("caps", tests, NULL, NULL);
}
