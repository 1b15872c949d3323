// SPDX-License-Identifier: MIT
/*
 * What trials change in the machine, and who puts it back: this process in the end, or, when it has
 * been killed, the guard, from a list that both see. Everything is in the list before it is done,
 * so that there is no moment at which a kill would leave it behind; undoing what wasn't done is no
 * error.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/uffd.h"
#include "tools/proc.h"
#include "tools/setting.h"
#include "tools/snap_file.h"
#include "tools/snap_io.h"
#include "tools/trial.h"
#include "tools/trial_machine.h"

#define ZRAM_ADD    "/sys/class/zram-control/hot_add"
#define ZRAM_REMOVE "/sys/class/zram-control/hot_remove"
#define MIB         (1ull << 20)
#define LOCK_MS     100000u /* either command needs less than that */
#define DESCRIPTORS 16      /* a trial needs less than that */

enum change_kind { CHANGE_SETTING, CHANGE_ZRAM, CHANGE_FILE };

struct change {
	enum change_kind kind;
	char path[96];
	char before[96]; /* of a setting */
	atomic_int zram; /* the device's number; ADDING: it isn't known yet; or -errno */
};

#define ADDING INT32_MIN

static struct machine {
	atomic_int group; /* of the trial that runs, or 0 */
	atomic_uint n;
	struct change changes[64];
} * machine;
static pid_t guard;
static int lock = -1;

void trial_group_begins(pid_t group)
{
	if (!machine)
		return;
	machine->group = group;
	/* What gets stuck there must not keep others out. */
	close(lock);
}

void trial_group_ends(void)
{
	if (machine)
		machine->group = 0;
}

/* ---- settings */

static int write_and_close(int fd, const char *value)
{
	int ret = write(fd, value, strlen(value)) < 0 ? -errno : 0;

	close(fd);
	return ret;
}

static int setting_write(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd < 0 ? -errno : write_and_close(fd, value);
}

/* The next change is filled in by the caller, and counts from change_begins() on. */
static struct change *change_new(enum change_kind kind, const char *path)
{
	struct change *c = &machine->changes[machine->n];

	if (machine->n == sizeof(machine->changes) / sizeof(*c))
		return NULL;
	*c = (struct change){.kind = kind};
	return snprintf(c->path, sizeof(c->path), "%s", path) < (int)sizeof(c->path) ? c : NULL;
}

static void change_begins(void)
{
	machine->n++;
}

int trial_setting(const char *path, const char *value)
{
	struct change *c = change_new(CHANGE_SETTING, path);
	int ret = c ? setting_read(path, c->before, sizeof(c->before)) : -ENOSPC, fd;

	if (ret)
		return ret;
	setting_keep_chosen(c->before);
	if (!strcmp(c->before, value))
		return 0;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	change_begins();
	ret = write_and_close(fd, value);
	/* What can't be changed can't be put back either: it would be refused again. */
	if (ret)
		machine->n--;
	return ret;
}

/* The kernel raises min_free_kbytes whenever the other one is set, and doesn't lower it again. */
void trial_huge_pages(void)
{
	static const char reserve[] = "/proc/sys/vm/min_free_kbytes";
	struct change *c = change_new(CHANGE_SETTING, reserve);

	if (c && !access(reserve, W_OK) && !setting_read(reserve, c->before, sizeof(c->before)))
		change_begins();
	trial_setting("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
}

/* ---- swap */

/* What mkswap writes: a version, the last page's number, and a magic word at the end of the page.
 */
static int make_swap(int fd, uint64_t bytes)
{
	static const char magic[] = {'S', 'W', 'A', 'P', 'S', 'P', 'A', 'C', 'E', '2'};
	char page[FERRY_PAGE] = "";
	uint32_t head[] = {1, (uint32_t)(bytes / FERRY_PAGE - 1)};
	int ret;

	memcpy(page + 1024, head, sizeof(head));
	memcpy(page + sizeof(page) - sizeof(magic), magic, sizeof(magic));
	ret = io_write(fd, 0, page, sizeof(page));
	return ret ? ret : fsync(fd) ? -errno : 0;
}

static int swap_on(const char *path, uint64_t bytes)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret = fd < 0 ? -errno : make_swap(fd, bytes);

	if (fd >= 0)
		close(fd);
	if (!ret && swapon(path, 0))
		ret = -errno;
	return ret;
}

/* Reading the file makes the device: that and writing down its number must not be torn apart by a
 * kill, which doesn't reach a process in a session of its own. */
static void add_zram(struct change *c)
{
	char number[16];
	pid_t pid = fork();
	int ret;

	if (!pid) {
		setsid();
		ret = setting_read(ZRAM_ADD, number, sizeof(number));
		c->zram = ret ? ret : atoi(number);
		_exit(EXIT_SUCCESS);
	}
	if (pid < 0)
		c->zram = -errno;
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static int swap_zram(unsigned int mib)
{
	struct change *c = change_new(CHANGE_ZRAM, "");
	char size[32], path[64];
	int ret;

	if (!c)
		return -ENOSPC;
	c->zram = ADDING;
	change_begins();
	add_zram(c);
	if (c->zram < 0)
		return c->zram;
	snprintf(size, sizeof(size), "%uM", mib);
	snprintf(path, sizeof(path), "/sys/block/zram%d/disksize", c->zram);
	ret = setting_write(path, size);
	snprintf(path, sizeof(path), "/dev/zram%d", c->zram);
	return ret ? ret : swap_on(path, mib * MIB);
}

static int swap_file(unsigned int mib)
{
	struct change *c;
	uint64_t random;
	char path[64];
	int fd, ret;

	/* Whoever could tell the name could put a link to the machine's own swap there. */
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return -errno;
	snprintf(path, sizeof(path), "/var/tmp/pageferry-swap.%016" PRIx64, random);
	c = change_new(CHANGE_FILE, path);
	if (!c)
		return -ENOSPC;
	/* Nothing is there: it is asked only whether this user may. */
	if (swapoff(path) && errno == EPERM)
		return -EPERM;
	change_begins();
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	ret = -posix_fallocate(fd, 0, (off_t)(mib * MIB));
	close(fd);
	return ret ? ret : swap_on(path, mib * MIB);
}

int trial_swap(unsigned int mib)
{
	if (!access(ZRAM_ADD, R_OK) && !swap_zram(mib))
		return 0;
	return swap_file(mib);
}

/* ---- undo */

/*
 * When memory is short while swap is taken away, the kernel kills the process that does so before
 * all others, however little it has: it must not be one that has more to put back.
 */
static int swap_off(const char *path)
{
	for (unsigned int tries = 0; tries < 50; tries++) {
		int status;
		pid_t pid = fork();

		if (!pid)
			_exit(swapoff(path) ? errno : 0);
		if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status))
			return -WEXITSTATUS(status);
		poll(NULL, 0, 100);
	}
	return -ENOMEM;
}

static int undo_zram(struct change *c)
{
	char reset[64], number[16];
	int ret = 0;

	for (unsigned int tries = 0; c->zram == ADDING && tries < 200; tries++)
		poll(NULL, 0, 10);
	if (c->zram < 0)
		return 0;
	snprintf(c->path, sizeof(c->path), "/dev/zram%d", c->zram);
	swap_off(c->path);
	snprintf(reset, sizeof(reset), "/sys/block/zram%d/reset", c->zram);
	snprintf(number, sizeof(number), "%d", c->zram);
	/* Who watches for new devices, as udev, has it open for a moment. */
	for (unsigned int tries = 0; tries < 200; tries++) {
		setting_write(reset, "1");
		ret = setting_write(ZRAM_REMOVE, number);
		if (ret != -EBUSY)
			break;
		poll(NULL, 0, 10);
	}
	/* The one who was killed has done it already. */
	return access(c->path, F_OK) ? 0 : ret;
}

static int undo_file(const struct change *c)
{
	int ret = swap_off(c->path);

	/* EINVAL: it isn't swap yet. */
	if (ret && ret != -EINVAL && ret != -ENOENT)
		return ret;
	return unlink(c->path) && errno != ENOENT ? -errno : 0;
}

static int undo_setting(const struct change *c)
{
	char now[sizeof(c->before)];

	if (!setting_read(c->path, now, sizeof(now))) {
		setting_keep_chosen(now);
		if (!strcmp(now, c->before))
			return 0;
	}
	return setting_write(c->path, c->before);
}

static int undo_one(struct change *c)
{
	static const char *const what[] = {"a setting", "a swap device", "a swap file"};
	int ret;

	if (c->kind == CHANGE_SETTING)
		ret = undo_setting(c);
	else
		ret = c->kind == CHANGE_ZRAM ? undo_zram(c) : undo_file(c);
	if (ret)
		say("%s could not be put back: %s %s: %s", what[c->kind], c->path, c->before,
		    strerror(-ret));
	return ret;
}

/* The last first: what was set twice is in the end what it was before the first time. Each stays in
 * the list until it is undone. */
static int undo_all(void)
{
	int ret = 0;

	while (machine->n) {
		int one = undo_one(&machine->changes[machine->n - 1]);

		ret = ret ? ret : one;
		machine->n--;
	}
	return ret;
}

/* ---- the guard */

/* They are somebody else's children now, who may be slow to wait for them. */
static void end_trial(void)
{
	pid_t group = machine->group;

	for (unsigned int tries = 0; group && !kill(-group, SIGKILL) && tries < 300; tries++)
		poll(NULL, 0, 10);
}

/* In a session of its own, since whoever ends the command may end its group. It keeps standard
 * error, and the lock. */
static _Noreturn void be_guard(int whom)
{
	struct pollfd fd = {.fd = whom, .events = POLLIN};

	setsid();
	while (poll(&fd, 1, -1) < 0 && errno == EINTR)
		;
	end_trial();
	_exit(undo_all() ? EXIT_FAILURE : EXIT_SUCCESS);
}

/*
 * Two at once would take each other's settings for the machine's. Only who may change them can open
 * this file, so nobody else can hold the lock. It is freed when the command and the guard have
 * closed it: the guard lives for longer than a command that is killed.
 */
static int lock_machine(void)
{
	int ret = 0;

	lock = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	for (unsigned int ms = 0; lock >= 0 && flock(lock, LOCK_EX | LOCK_NB); ms += 50) {
		ret = errno == EWOULDBLOCK && ms < LOCK_MS ? 0 : -errno;
		if (ret)
			break;
		poll(NULL, 0, 50);
	}
	if (ret == -EWOULDBLOCK) {
		say("another pageferry changes this machine's settings (/proc/kpageflags is locked): "
		    "wait until it has ended");
		ret = -EBUSY;
	}
	return ret;
}

/* Where a trial itself has none left it would see errors that aren't the kernel's answer. */
static int check_descriptors(void)
{
	int fds[DESCRIPTORS], n = 0, ret = 0;

	while (n < DESCRIPTORS && !ret) {
		fds[n] = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
		if (fds[n] < 0)
			ret = -errno;
		else
			n++;
	}
	while (n)
		close(fds[--n]);
	return ret;
}

/* What may be inherited, and would make of an answer another one. */
static int check_surroundings(void)
{
	/* Children that nobody can wait for, nor ask how they have ended */
	signal(SIGCHLD, SIG_DFL);
	file_limits_are_errors();
	return check_descriptors();
}

int trial_guard(void)
{
	int whom, ret = check_surroundings();
	void *shared;

	if (ret)
		return ret;
	whom = (int)syscall(SYS_pidfd_open, getpid(), 0);
	ret = whom < 0 ? -errno : lock_machine();
	if (ret)
		return ret;
	shared = mmap(NULL, sizeof(*machine), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		return -errno;
	machine = shared;
	fflush(NULL);
	guard = fork();
	if (!guard)
		be_guard(whom);
	ret = guard < 0 ? -errno : 0;
	close(whom);
	return ret;
}

/* When this process is killed in the middle, the guard goes on with what is left. */
int trial_restore(void)
{
	int ret = undo_all();

	kill(guard, SIGKILL);
	while (waitpid(guard, NULL, 0) < 0 && errno == EINTR)
		;
	return ret;
}
