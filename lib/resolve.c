// SPDX-License-Identifier: MIT
/* Carry out an answer, see resolve.h. */
#include <errno.h>
#include <poll.h>

#include "lib/module.h"
#include "lib/resolve.h"
#include "lib/uffd.h"

enum resolved resolved_from(int error, uint64_t done)
{
	/* A call that stopped half-way has put pages in place up to there, whatever stopped it. */
	if (!error || done)
		return RESOLVED_INSTALLED;
	switch (-error) {
	case EEXIST:
		return RESOLVED_ALREADY;
	case EAGAIN:
	/* The process is at its memory limit: the page is needed all the same, and nothing is lost. */
	case ENOMEM:
		return RESOLVED_DEFERRED;
	case ENOENT:
		return RESOLVED_DISCARDED;
	case ESRCH:
		return RESOLVED_GONE;
	default:
		return RESOLVED_FAILED;
	}
}

/* Not about the page or its kind, but about the process or the moment. */
static bool is_passing(int error)
{
	return !error || error == -EAGAIN || error == -EEXIST || error == -ESRCH ||
	       error == -ENOMEM || error == -EINTR;
}

#define WAITS_MAX 20u

bool refusals_wait(struct refusals *refusals, unsigned int *waited)
{
	if (!refusals || !refusals->waits || *waited == WAITS_MAX)
		return false;
	refusals->waits--;
	(*waited)++;
	poll(NULL, 0, 1);
	return true;
}

static int by_module(const struct resolve_at *at, uint64_t addr, const struct ferry_answer *answer,
		     uint64_t len, uint64_t *done)
{
	/* Where a table isn't covered it isn't worth the question. */
	uint64_t *tables = len < FERRY_HUGE ? NULL : at->tables;

	return module_move(at->module, at->uffd, addr, answer->from, len, done, tables);
}

/*
 * In a range one page that can't move (it is pinned, or merged, or another mapping begins) stops those
 * before it from nothing, so only a single page is copied. An empty one is copied, too: it is zero.
 */
static int move_or_copy(const struct resolve_at *at, uint64_t addr, struct ferry_answer *answer,
			uint64_t len, uint64_t *done)
{
	struct refusals *refusals = at->refusals;
	unsigned int waited = 0;
	int ret = by_module(at, addr, answer, len, done);

	if (!*done && ret == -EBUSY && refusals && refusals->mend &&
	    refusals->mend(refusals->arg, answer->from))
		ret = by_module(at, addr, answer, FERRY_PAGE, done);
	/* As a whole: one page of it alone would split what is a huge page. */
	while (!*done && ret == -EBUSY && refusals_wait(refusals, &waited))
		ret = by_module(at, addr, answer, len, done);
	if (!*done && len > FERRY_PAGE && !is_passing(ret))
		ret = by_module(at, addr, answer, FERRY_PAGE, done);
	if (*done || is_passing(ret))
		return ret == -EINTR ? -EAGAIN : ret;
	bool refused = ret != -ENOENT;
	answer->kind = FERRY_ANSWER_COPY;
	ret = uffd_copy(at->uffd, addr, answer->from, FERRY_PAGE, 0, done);
	if (refused && *done && refusals)
		refusals->pages++;
	return ret;
}

static int act(struct resolve_at at, uint64_t addr, struct ferry_answer *answer, uint64_t len,
	       uint64_t *done)
{
	int uffd = at.uffd, ret;

	*done = 0;
	switch (answer->kind) {
	case FERRY_ANSWER_ZERO:
		return uffd_zeropage(uffd, addr, len, 0, done);
	case FERRY_ANSWER_COPY:
		return uffd_copy(uffd, addr, answer->from, len, 0, done);
	case FERRY_ANSWER_MOVE:
		return uffd_move(uffd, addr, (uintptr_t)answer->from, len, 0, done);
	case FERRY_ANSWER_CONTINUE:
		ret = uffd_continue(uffd, addr, len, 0, done);
		/* A hole was punched meanwhile: nothing is lost, the next access makes a new page. */
		return ret == -EFAULT ? -ENOENT : ret;
	case FERRY_ANSWER_POISON:
		return uffd_poison(uffd, addr, len, done);
	case FERRY_ANSWER_UNPROTECT:
		ret = uffd_writeprotect(uffd, addr, len, 0);
		*done = ret ? 0 : len;
		return ret;
	case ANSWER_MODULE:
		/* Without it this is an answer that nobody knows. */
		return at.module < 0 ? -EINVAL : move_or_copy(&at, addr, answer, len, done);
	case FERRY_ANSWER_HERE:
		return -EEXIST;
	default:
		return -EINVAL;
	}
}

enum resolved resolve_push(struct resolve_at at, uint64_t addr, struct ferry_answer *answer,
			   uint64_t *done, int *error)
{
	uint64_t len = answer->len ? answer->len : FERRY_PAGE;

	*error = act(at, addr, answer, len, done);
	/*
	 * The kernel takes no range that crosses from one mapping into the next, and a program splits
	 * its mappings as it likes (mprotect, madvise): only for a single page ENOENT means gone.
	 */
	if (*error == -ENOENT && !*done && len > FERRY_PAGE)
		*error = act(at, addr, answer, FERRY_PAGE, done);
	/*
	 * Since Linux 6.8 the kernel looks for the mapping before it looks whether mappings change: an
	 * mremap() that was under way when we came is ENOENT, though the page only lives elsewhere now.
	 * Its event isn't read yet, and that is what tells.
	 */
	if (*error == -ENOENT && !*done && resolve_is_blocked(at.uffd))
		*error = -EAGAIN;
	return resolved_from(*error, *done);
}

enum resolved resolve(struct resolve_at at, const struct ferry_fault *fault,
		      struct ferry_answer *answer, uint64_t *done, int *error)
{
	enum resolved r = resolve_push(at, fault->addr, answer, done, error);

	/*
	 * In both cases no ioctl has woken the thread. If the page vanishes again in between, the
	 * thread faults again, and there is a new message.
	 */
	if (r == RESOLVED_ALREADY || r == RESOLVED_DISCARDED)
		uffd_wake(at.uffd, fault->addr, FERRY_PAGE);
	return r;
}

enum resolved resolve_poison(int uffd, uint64_t addr, uint64_t len, uint64_t *poisoned, int *error)
{
	struct ferry_answer poison = { .kind = FERRY_ANSWER_POISON };
	struct resolve_at at = { .uffd = uffd, .module = -1 };
	uint64_t end = addr + len, done;

	while (addr < end) {
		/* In pieces, so that a border between mappings costs a few calls, not all of them. */
		poison.len = end - addr < FERRY_HUGE ? end - addr : FERRY_HUGE;
		enum resolved r = resolve_push(at, addr, &poison, &done, error);
		if (r == RESOLVED_INSTALLED)
			*poisoned += done;
		else if (r == RESOLVED_ALREADY || r == RESOLVED_DISCARDED)
			done = FERRY_PAGE;
		else
			return r;
		addr += done;
	}
	return RESOLVED_INSTALLED;
}

/* Nothing is mapped at so low an address: without anything special the answer is ENOENT. */
static int try_nowhere(int uffd)
{
	uint64_t done;
	return uffd_zeropage(uffd, FERRY_PAGE, FERRY_PAGE, 0, &done);
}

bool resolve_is_gone(int uffd)
{
	return try_nowhere(uffd) == -ESRCH;
}

bool resolve_is_blocked(int uffd)
{
	return try_nowhere(uffd) == -EAGAIN;
}
