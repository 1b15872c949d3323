// SPDX-License-Identifier: MIT
/* The errnos of include/linux/pageferry.h that say what is the matter with a page: see scene.h. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "hold.h"
#include "proc.h"
#include "scene.h"

/* ---- the third page */

static void dst_populated(struct scene *s)
{
	struct uffdio_zeropage zero = {.range = {s->taker.addr + BAD, PAGE}};

	check_call(ioctl(s->taker.uffd, UFFDIO_ZEROPAGE, &zero));
}

static void dst_written(struct scene *s)
{
	dst_populated(s);
	peer_poke(s->taker.peer, s->taker.addr + BAD, 1);
}

static void empty_dst(struct scene *s)
{
	check_is(peer_madvise(s->taker.peer, s->taker.addr + BAD, PAGE, MADV_DONTNEED), 0);
}

static void poison(int uffd, uint64_t addr)
{
	struct uffdio_poison arg = {.range = {addr, PAGE}};

	check_call(ioctl(uffd, UFFDIO_POISON, &arg));
}

static void dst_poisoned(struct scene *s)
{
	poison(s->taker.uffd, s->taker.addr + BAD);
}

static void src_hole(struct scene *s)
{
	check_is(peer_madvise(s->giver.peer, s->giver.addr + BAD, PAGE, MADV_DONTNEED), 0);
	s->holes = 1 << (BAD / PAGE);
}

static void allow_holes(struct scene *s)
{
	s->move.mode = PAGEFERRY_MOVE_ALLOW_SRC_HOLES;
}

static void src_hole_allowed(struct scene *s)
{
	src_hole(s);
	allow_holes(s);
}

static void src_all_holes(struct scene *s)
{
	check_is(peer_madvise(s->giver.peer, s->giver.addr, LEN, MADV_DONTNEED), 0);
	s->holes = (1 << NPAGES) - 1;
}

static void src_all_holes_allowed(struct scene *s)
{
	src_all_holes(s);
	allow_holes(s);
}

/* Nothing has ever been there, so there is no page table either. */
static void src_untouched(struct scene *s)
{
	struct end e = taker_start(2 * BLOCK, MAP_4K);

	s->move.src_uffd = e.uffd;
	s->move.src = e.addr;
	s->holes = 0;
}

/* A marker that isn't memory. */
static void src_poisoned(struct scene *s)
{
	src_hole(s);
	s->holes = 0;
	poison(s->giver.uffd, s->giver.addr + BAD);
	s->giver_gone = true;
}

/* ---- the third page is in use */

/* Writing to it makes it the giver's own. */
static void bad_page_written(struct scene *s)
{
	uint64_t bad = s->giver.addr + BAD;

	peer_fill(s->giver.peer, bad, PAGE, bad / PAGE, SEED);
}

static void fork_shared(struct scene *s)
{
	s->child = peer_fork(s->giver.peer);
}

static void fork_over(struct scene *s)
{
	peer_end_child(s->giver.peer, s->child);
	peer_fill(s->giver.peer, s->giver.addr, LEN, s->giver.addr / PAGE, SEED);
}

/* All but the third page are the giver's own again. */
static void third_page_shared(struct scene *s)
{
	fork_shared(s);
	peer_fill(s->giver.peer, s->giver.addr, BAD, s->giver.addr / PAGE, SEED);
	peer_fill(s->giver.peer, s->giver.addr + BAD + PAGE, LEN - BAD - PAGE,
		  s->giver.addr / PAGE + 3, SEED);
}

static void third_page_own(struct scene *s)
{
	peer_end_child(s->giver.peer, s->child);
	bad_page_written(s);
}

static int pipe_in_peer[2] = {-1, -1};

static int64_t splice_page(const uint64_t *arg)
{
	struct iovec iov = {(void *)arg[0], PAGE};

	check_call(pipe(pipe_in_peer));
	check_is(vmsplice(pipe_in_peer[1], &iov, 1, 0), PAGE);
	return 0;
}

static int64_t close_pipe(const uint64_t *arg)
{
	(void)arg;
	close(pipe_in_peer[0]);
	close(pipe_in_peer[1]);
	return 0;
}

static void in_a_pipe(struct scene *s)
{
	peer_do(s->giver.peer, splice_page, s->giver.addr + BAD);
}

static void pipe_closed(struct scene *s)
{
	peer_do(s->giver.peer, close_pipe, 0);
}

static void pinned(struct scene *s)
{
	peer_pin(s->giver.peer, s->giver.addr + BAD);
}

static void unpinned(struct scene *s)
{
	peer_unpin(s->giver.peer);
}

/* ---- KSM */

static uint64_t ksm_twin;

static bool is_merged(const struct scene *s)
{
	pid_t pid = peer_pid(s->giver.peer);

	return page_frame(pid, s->giver.addr + BAD) == page_frame(pid, ksm_twin);
}

static void merged(struct scene *s)
{
	uint64_t page = s->giver.addr + BAD;

	check_is(peer_madvise(s->giver.peer, s->giver.addr, LEN, MADV_MERGEABLE), 0);
	ksm_twin = peer_merge_page(s->giver.peer, page, page / PAGE);
}

/* It was mapped twice, and still is KSM's. */
static void merged_alone(struct scene *s)
{
	merged(s);
	peer_unmap(s->giver.peer, ksm_twin, PAGE);
}

/* Each has a page of its own again. */
static void unmerged(struct scene *s)
{
	ksm_unmerge_all();
	check(!is_merged(s));
}

/* ---- events */

static void start_dropping(struct scene *s, const struct end *e)
{
	struct pollfd pfd = {.fd = e->uffd, .events = POLLIN};

	s->thread = peer_thread(e->peer, peer_run_syscall, SYS_madvise, e->addr + BAD, PAGE,
				MADV_DONTNEED);
	check_is(poll(&pfd, 1, 10000), 1);
}

static void read_remove(struct scene *s, const struct end *e)
{
	struct uffd_msg msg;

	check(uffd_read(e->uffd, &msg, 10000));
	check_is(msg.event, UFFD_EVENT_REMOVE);
	check_is(peer_join(e->peer, s->thread, 10000), 0);
}

/* Until the event is read the page is still there. */
static void src_event(struct scene *s)
{
	start_dropping(s, &s->giver);
}

static void read_src_event(struct scene *s)
{
	read_remove(s, &s->giver);
	s->holes = 1 << (BAD / PAGE);
	allow_holes(s);
}

static void dst_event(struct scene *s)
{
	start_dropping(s, &s->taker);
}

static void read_dst_event(struct scene *s)
{
	read_remove(s, &s->taker);
}

/* clang-format off */
const struct test errno_page_tests[] = {
	ROW(dst_populated, -EEXIST, .moved = 2, .cure = empty_dst),
	ROW(dst_written, -EEXIST, .moved = 2, .cure = empty_dst),
	ROW(dst_poisoned, -EEXIST, .moved = 2, .cure = empty_dst),
	ROW(src_hole, -ENOENT, .moved = 2, .cure = allow_holes),
	ROW(src_hole_allowed, 0, .moved = 4),
	ROW(src_all_holes, -ENOENT, .cure = allow_holes),
	ROW(src_all_holes_allowed, 0, .moved = 4),
	ROW(src_untouched, -ENOENT),
	ROW(src_poisoned, -EFAULT, .moved = 2),
	ROW(fork_shared, -EBUSY, .cure = fork_over),
	ROW(third_page_shared, -EBUSY, .moved = 2, .cure = third_page_own),
	ROW(in_a_pipe, -EBUSY, .moved = 2, .cure = pipe_closed),
	ROW(pinned, -EBUSY, .moved = 2, .cure = unpinned),
	ROW(merged, -EBUSY, .moved = 2, .cure = unmerged),
	ROW(merged_alone, -EBUSY, .moved = 2, .cure = bad_page_written),
	ROW(src_event, -EAGAIN, .cure = read_src_event, .features = UFFD_FEATURE_EVENT_REMOVE),
	ROW(dst_event, -EAGAIN, .cure = read_dst_event, .features = UFFD_FEATURE_EVENT_REMOVE),
	{.name = NULL},
};
