// SPDX-License-Identifier: MIT
/* pageferry conform: one trial. The call is made, and every page is looked at afterwards. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "include/linux/pageferry.h"
#include "lib/module.h"
#include "tools/conform.h"
#include "tools/pagemap.h"

#define FEATURES                                                                                   \
	(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_HUGETLBFS |                         \
	 UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_HUGETLBFS | UFFD_FEATURE_MINOR_SHMEM |    \
	 UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_POISON | UFFD_FEATURE_MOVE)

static const struct {
	const char *name;
	uint64_t feature; /* without which there is no such call */
	uint64_t mode;    /* in which its range is registered */
} calls[] = {
	[CONFORM_MOVE] = {"MOVE", UFFD_FEATURE_MOVE, UFFDIO_REGISTER_MODE_MISSING},
	[CONFORM_COPY] = {"COPY", 0, UFFDIO_REGISTER_MODE_MISSING},
	[CONFORM_ZEROPAGE] = {"ZEROPAGE", 0, UFFDIO_REGISTER_MODE_MISSING},
	[CONFORM_CONTINUE] = {"CONTINUE", UFFD_FEATURE_MINOR_SHMEM, UFFDIO_REGISTER_MODE_MINOR},
	[CONFORM_WRITEPROTECT] = {"WRITEPROTECT", UFFD_FEATURE_PAGEFAULT_FLAG_WP,
				  UFFDIO_REGISTER_MODE_WP},
	[CONFORM_POISON] = {"POISON", UFFD_FEATURE_POISON, UFFDIO_REGISTER_MODE_MISSING},
};

const char *conform_call_name(enum conform_call call)
{
	return calls[call].name;
}

void conform_not_here(struct conform_scene *s, const char *why, ...)
{
	char text[sizeof(s->cell->why)];
	va_list args;

	va_start(args, why);
	vsnprintf(text, sizeof(text), why, args); /* NOLINT(clang-analyzer-valist.Uninitialized) */
	va_end(args);
	trial_set(s->cell, "not here", "%s", text);
	_exit(0);
}

static const char *error_name(int error)
{
	const char *name = strerrorname_np(-error);

	return name ? name : "an unknown errno";
}

static size_t length(const struct conform_scene *s)
{
	return s->npages * FERRY_PAGE;
}

/* What the call is to change. */
static struct conform_range *target(struct conform_scene *s)
{
	return s->call == CONFORM_MOVE ? &s->to : &s->memory;
}

/* ---- userfaultfds */

static int open_uffd(struct conform_scene *s)
{
	uint64_t has = 0, wanted;
	int fd = uffd_open_best(&has, 0);

	if (fd < 0)
		conform_not_here(s, "no userfaultfd (%s): see pageferry probe", error_name(fd));
	if (!s->by_module && (calls[s->call].feature & ~has))
		conform_not_here(s, "the kernel has no %s", calls[s->call].name);
	close(fd);
	wanted = has & FEATURES;
	fd = uffd_open_best(&wanted, 0);
	if (fd < 0)
		conform_not_here(s, "no userfaultfd with the features 0x%llx",
				 (unsigned long long)(has & FEATURES));
	return fd;
}

/* A range that can't be registered is the answer. */
static void register_range(struct conform_scene *s, int uffd, const char *addr)
{
	char text[sizeof(s->cell->verdict)];
	int ret = uffd_register(uffd, (uintptr_t)addr, length(s), calls[s->call].mode, NULL);

	if (!ret)
		return;
	snprintf(text, sizeof(text), "REGISTER: %s", error_name(ret));
	trial_set(s->cell, text, "%s", "");
	_exit(0);
}

/* Another process with the same memory and the same descriptors, so that the userfaultfd that it
 * makes is one of ours. It ends with this one. */
static _Noreturn void be_owner(struct conform_scene *s, const char *addr, int tell, pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	int fd = open_uffd(s);
	if (!s->kind->unregistered)
		register_range(s, fd, addr);
	if (write(tell, &fd, sizeof(fd)) == sizeof(fd))
		for (;;)
			pause();
	_exit(1);
}

static pid_t start_owner(struct conform_scene *s, const char *addr)
{
	int pair[2], status;
	pid_t self = getpid();

	if (pipe2(pair, O_CLOEXEC))
		conform_not_here(s, "no pipe: %s", strerror(errno));
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	if (pid < 0)
		conform_not_here(s, "no process can be started: %s", strerror(errno));
	if (!pid)
		be_owner(s, addr, pair[1], self);
	/* It has set the verdict when it ends. */
	struct pollfd ready = {.fd = pair[0], .events = POLLIN};
	while (!poll(&ready, 1, 20))
		if (waitpid(pid, &status, WNOHANG) == pid)
			_exit(0);
	if (read(pair[0], &s->uffd, sizeof(s->uffd)) != sizeof(s->uffd))
		_exit(1);
	close(pair[0]);
	close(pair[1]);
	return pid;
}

/* ---- the scene */

/* The destination of a MOVE is there before the source has pages: what a fork has shared can't be
 * moved. */
static void make_destination(struct conform_scene *s)
{
	char *place = conform_place(length(s));

	if (!place || mmap(place, length(s), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != place)
		conform_not_here(s, "memory can't be mapped: %s", strerror(errno));
	s->to.addr = place;
	if ((s->by_module && !s->kind->one_process) || s->kind->foreign)
		s->to.owner = start_owner(s, place);
}

static void register_own(struct conform_scene *s)
{
	s->uffd = open_uffd(s);
	if (!s->kind->unregistered && (!s->kind->elsewhere || s->call == CONFORM_MOVE))
		register_range(s, s->uffd, target(s)->addr);
}

static void register_elsewhere(struct conform_scene *s)
{
	s->elsewhere = open_uffd(s);
	register_range(s, s->elsewhere, s->memory.addr);
}

static void make_buffer(struct conform_scene *s)
{
	s->buffer = conform_place(length(s));
	if (!s->buffer || mprotect(s->buffer, length(s), PROT_READ | PROT_WRITE))
		conform_not_here(s, "memory can't be mapped: %s", strerror(errno));
	for (unsigned int i = 0; i < s->npages; i++)
		conform_fill(s->buffer + i * FERRY_PAGE, PAGE_BUFFER, i);
}

static void populate_destination(struct conform_scene *s)
{
	size_t at = CONFORM_MIDDLE * FERRY_PAGE;
	uint64_t done;

	if (uffd_copy(s->uffd, (uintptr_t)s->to.addr + at, s->buffer + at, FERRY_PAGE, 0, &done))
		conform_not_here(s, "the destination can't be populated");
	s->to.holds[CONFORM_MIDDLE] = PAGE_BUFFER;
}

static void make_scene(struct conform_scene *s)
{
	make_buffer(s);
	if (s->call == CONFORM_MOVE)
		make_destination(s);
	s->kind->make(s);
	if (s->kind->foreign && s->call != CONFORM_MOVE)
		s->memory.owner = start_owner(s, s->memory.addr);
	else if (!target(s)->owner)
		register_own(s);
	if (s->kind->elsewhere)
		register_elsewhere(s);
	if (s->kind->populated && s->call == CONFORM_MOVE)
		populate_destination(s);
}

/* ---- the call */

static int move_by_module(struct conform_scene *s, size_t at, size_t len, uint64_t *done)
{
	struct pageferry_move move = {
		.size = sizeof(move),
		.mode = s->kind->allow_holes ? PAGEFERRY_MOVE_ALLOW_SRC_HOLES : 0,
		.dst_uffd = s->uffd,
		.src_uffd = PAGEFERRY_SELF,
		.dst = (uintptr_t)s->to.addr + at,
		.src = (uintptr_t)s->memory.addr + at,
		.len = len,
	};
	int ret = ioctl(s->module, PAGEFERRY_IOC_MOVE, &move) < 0 ? -errno : 0;

	*done = move.moved;
	return ret;
}

static int act(struct conform_scene *s, size_t at, size_t len, uint64_t *done)
{
	uint64_t memory = (uintptr_t)s->memory.addr + at;

	switch (s->call) {
	case CONFORM_MOVE:
		if (s->by_module)
			return move_by_module(s, at, len, done);
		return uffd_move(s->uffd, (uintptr_t)s->to.addr + at, memory, len,
				 s->kind->allow_holes ? UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES : 0, done);
	case CONFORM_COPY:
		return uffd_copy(s->uffd, memory, s->buffer + at, len, 0, done);
	case CONFORM_ZEROPAGE:
		return uffd_zeropage(s->uffd, memory, len, 0, done);
	case CONFORM_CONTINUE:
		return uffd_continue(s->uffd, memory, len, 0, done);
	case CONFORM_POISON:
		return uffd_poison(s->uffd, memory, len, done);
	default:
		break;
	}
	int ret = uffd_writeprotect(s->uffd, memory, len, UFFDIO_WRITEPROTECT_MODE_WP);
	*done = ret ? 0 : len;
	return ret;
}

struct answer {
	int ret;
	bool again;        /* EAGAIN, and some of it was done */
	unsigned int done; /* pages */
};

/* EAGAIN with nothing done may be somebody else's lock. */
static struct answer call(struct conform_scene *s)
{
	struct answer a = {0};
	unsigned int tries = 0;

	for (;;) {
		size_t at = a.done * FERRY_PAGE;
		uint64_t done = 0;

		a.ret = act(s, at, length(s) - at, &done);
		a.done += (unsigned int)(done / FERRY_PAGE);
		if (a.ret != -EAGAIN || a.done == s->npages || (!done && ++tries > 20))
			return a;
		a.again = a.again || done;
		if (!done)
			poll(NULL, 0, 2);
	}
}

/* ---- what has come of it */

/* What page @i of the target should hold now, if it was dealt with. */
static enum conform_page after(const struct conform_scene *s, unsigned int i)
{
	switch (s->call) {
	case CONFORM_COPY:
		return PAGE_BUFFER;
	case CONFORM_ZEROPAGE:
		return PAGE_ZEROS;
	case CONFORM_CONTINUE:
		return PAGE_PATTERN;
	case CONFORM_POISON:
		return PAGE_POISONED;
	default:
		return s->memory.holds[i];
	}
}

static const char *const page_names[] = {
	[PAGE_HOLE] = "empty",      [PAGE_ZEROS] = "zeros",       [PAGE_PATTERN] = "its contents",
	[PAGE_BUFFER] = "the copy", [PAGE_POISONED] = "poisoned", [PAGE_OTHER] = "something else",
};

static bool is(struct conform_scene *s, const char *what, const struct conform_range *range,
	       unsigned int i, enum conform_page want)
{
	enum conform_page page = want == PAGE_POISONED && conform_is_poisoned(range, i)
					 ? PAGE_POISONED
					 : conform_look(range, i);

	if (page == want)
		return true;
	trial_set(s->cell, "wrong contents", "page %u of %s is %s and should be %s", i, what,
		  page_names[page], page_names[want]);
	return false;
}

static bool contents_right(struct conform_scene *s, unsigned int done)
{
	for (unsigned int i = 0; i < s->npages; i++) {
		bool now = i < done;

		if (s->call == CONFORM_MOVE &&
		    (!is(s, "the destination", &s->to, i, now ? after(s, i) : s->to.holds[i]) ||
		     !is(s, "the source", &s->memory, i, now ? PAGE_HOLE : s->memory.holds[i])))
			return false;
		if (s->call != CONFORM_MOVE &&
		    !is(s, "the range", &s->memory, i, now ? after(s, i) : s->memory.holds[i]))
			return false;
	}
	return true;
}

/* Before the descriptor is closed, which unprotects all. */
static bool protection_right(struct conform_scene *s, bool ok)
{
	for (unsigned int i = 0; s->call == CONFORM_WRITEPROTECT && i < s->npages; i++) {
		uint64_t entry = pagemap_entry(s->memory.owner, s->memory.addr + i * FERRY_PAGE);
		bool want = ok && s->memory.holds[i] != PAGE_HOLE;
		bool is_so = entry & PAGEMAP_UFFD_WP;

		if (is_so != want) {
			trial_set(s->cell, "wrong protection", "page %u is%s write-protected", i,
				  want ? "n't" : "");
			return false;
		}
	}
	return true;
}

static void set_verdict(struct conform_scene *s, const struct answer *a, bool huge)
{
	char text[sizeof(s->cell->verdict)];

	if (!a->ret)
		snprintf(text, sizeof(text), "ok%s",
			 !s->kind->huge ? ""
			 : huge         ? ", huge"
					: ", split");
	else if (a->done)
		snprintf(text, sizeof(text), "%u of %u, %sthen %s", a->done, s->npages,
			 a->again ? "EAGAIN, " : "", error_name(a->ret));
	else
		snprintf(text, sizeof(text), "%s", error_name(a->ret));
	trial_set(s->cell, text, "%s", "");
}

void conform_try(struct trial_cell *cell, const void *arg)
{
	const struct conform_trial *trial = arg;
	struct conform_scene s = {
		.cell = cell,
		.kind = trial->kind,
		.call = trial->call,
		.by_module = trial->by_module,
		.npages = trial->kind->npages ? trial->kind->npages : CONFORM_PAGES,
		.uffd = -1,
		.elsewhere = -1,
		.module = -1,
	};

	if (s.by_module && (s.module = module_open(0)) < 0)
		conform_not_here(&s, "no kernel module: %s", strerror(-s.module));
	make_scene(&s);
	struct answer a = call(&s);
	bool huge = conform_is_huge(target(&s)->owner, target(&s)->addr, s.npages);
	if (!protection_right(&s, !a.ret))
		return;
	close(s.uffd);
	if (s.elsewhere >= 0)
		close(s.elsewhere);
	if (contents_right(&s, a.done))
		set_verdict(&s, &a, huge);
}
