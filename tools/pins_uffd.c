// SPDX-License-Identifier: MIT
/* What userfaultfd, and the module, do to a page. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/module.h"
#include "tools/pins.h"
#include "tools/pins_act.h"

static int open_uffd(struct scene *s, uint64_t features)
{
	const bool by_kernel = s->pin && s->pin->kind->by_address;

	/* One for faults of the program alone would give an error to whoever else looks there. */
	s->uffd = uffd_open_best(&features, by_kernel ? FERRY_UFFD_KERNEL_FAULTS : 0);
	return s->uffd < 0 ? scene_note(s, s->uffd, "userfaultfd") : 0;
}

static void *map_page(void)
{
	void *at = mmap(NULL, FERRY_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);

	return at == MAP_FAILED ? NULL : at;
}

static int begin(struct scene *s, uint64_t features, const void *page, uint64_t mode)
{
	int ret = page ? open_uffd(s, features) : scene_note(s, -ENOMEM, "mmap");

	if (ret)
		return ret;
	ret = uffd_register(s->uffd, (uintptr_t)page, FERRY_PAGE, mode, NULL);
	return ret ? scene_note(s, ret, "UFFDIO_REGISTER") : 0;
}

/* ---- COPY */

int begin_missing(struct scene *s)
{
	return begin(s, 0, s->page, UFFDIO_REGISTER_MODE_MISSING);
}

int act_copy(struct scene *s)
{
	uint32_t *other = map_page();
	uint64_t done;

	if (!other)
		return -ENOMEM;
	*other = WORD_OTHER;
	return uffd_copy(s->uffd, (uintptr_t)s->page, other, FERRY_PAGE, 0, &done);
}

/* ---- WRITEPROTECT */

/* Whoever writes and is seen to may go on. */
static void *let_write(void *arg)
{
	struct scene *s = arg;
	struct pollfd fd = {.fd = s->uffd, .events = POLLIN};
	struct uffd_msg msg;

	while (poll(&fd, 1, -1) >= 0 || errno == EINTR)
		if (read(s->uffd, &msg, sizeof(msg)) == sizeof(msg)) {
			s->events++;
			uffd_writeprotect(s->uffd, (uintptr_t)s->page, FERRY_PAGE, 0);
		}
	return NULL;
}

int begin_protect(struct scene *s)
{
	pthread_t thread;
	int ret = begin(s, UFFD_FEATURE_PAGEFAULT_FLAG_WP, s->page, UFFDIO_REGISTER_MODE_WP);

	if (ret)
		return ret;
	ret = pthread_create(&thread, NULL, let_write, s);
	return ret ? scene_note(s, -ret, "pthread_create") : 0;
}

int act_protect(struct scene *s)
{
	s->watched = true;
	return uffd_writeprotect(s->uffd, (uintptr_t)s->page, FERRY_PAGE,
				 UFFDIO_WRITEPROTECT_MODE_WP);
}

/* ---- MOVE */

int begin_move(struct scene *s)
{
	s->target = map_page();
	return begin(s, UFFD_FEATURE_MOVE, s->target, UFFDIO_REGISTER_MODE_MISSING);
}

int act_move(struct scene *s)
{
	uint64_t done;
	int ret, tries = 20;

	/* A page that somebody holds for a moment only is no answer. */
	do
		ret = uffd_move(s->uffd, (uintptr_t)s->target, (uintptr_t)s->page, FERRY_PAGE, 0,
				&done);
	while (ret == -EAGAIN && --tries);
	if (ret)
		return ret;
	s->page = s->target;
	s->acted = true;
	return 0;
}

/* ---- the module's MOVE, to another process */

struct peer {
	uint64_t addr;
	int uffd; /* or -errno */
};

/* What arrives here is nobody's any more: a page that did isn't looked at. */
static _Noreturn void be_peer(struct peer *peer, int ready)
{
	uint64_t features = 0;
	void *page = map_page();
	int ret;

	peer->addr = (uintptr_t)page;
	peer->uffd = page ? uffd_open_best(&features, 0) : -ENOMEM;
	if (peer->uffd >= 0) {
		ret = uffd_register(peer->uffd, peer->addr, FERRY_PAGE,
				    UFFDIO_REGISTER_MODE_MISSING, NULL);
		peer->uffd = ret ? ret : peer->uffd;
	}
	if (write(ready, "", 1) != 1)
		_exit(EXIT_FAILURE);
	for (;;)
		pause();
}

int prepare_module(struct scene *s)
{
	int ends[2];
	char byte;
	pid_t pid;

	s->module = module_open(0);
	if (s->module < 0)
		return scene_note(s, s->module, "/dev/pageferry");
	s->peer = mmap(NULL, sizeof(*s->peer), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	if (s->peer == MAP_FAILED || pipe2(ends, O_CLOEXEC))
		return scene_note(s, -errno, "another process");
	pid = scene_fork_with_files();
	if (pid < 0)
		return scene_note(s, -errno, "fork");
	if (!pid)
		be_peer(s->peer, ends[1]);
	if (read(ends[0], &byte, 1) != 1)
		return scene_note(s, -EIO, "another process");
	return s->peer->uffd < 0 ? scene_note(s, s->peer->uffd, "userfaultfd") : 0;
}

int act_module(struct scene *s)
{
	uint64_t done;
	int ret = module_move(s->module, s->peer->uffd, s->peer->addr, s->page, FERRY_PAGE, &done, NULL);

	s->acted = !ret;
	if (!ret)
		s->gone = "it is the other process' now";
	return ret;
}
