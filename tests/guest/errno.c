// SPDX-License-Identifier: MIT
/*
 * Every errno of include/linux/pageferry.h, as a table: four pages, something that is wrong with
 * the call, or with the third page. Whatever happens, each page is in exactly one place afterwards.
 * Where there is a cure, the rest moves after it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "harness.h"
#include "lib/uffd_abi.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"

#define NPAGES 4
#define LEN    (NPAGES * PAGE)
/* The third page. */
#define BAD     (2 * PAGE)

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define WP      UFFDIO_REGISTER_MODE_WP

struct scene {
	struct end giver, taker;
	struct pageferry_move move;
	uint64_t done;   /* bytes, in all calls */
	uint64_t holes;  /* bit i: the giver's page i has gone elsewhere */
	bool giver_gone; /* it, or what was there to be looked at; the end of the test ends it */
	bool taker_gone;
	pid_t child; /* of the giver */
	int thread;
};

struct row {
	void (*prepare)(struct scene *s);
	int want;
	uint64_t moved; /* pages, before that */
	void (*cure)(struct scene *s);
	uint64_t features; /* of the userfaultfds */
};

static struct end scene_end(bool filled, uint64_t features)
{
	struct end e = {.peer = peer_start(), .len = LEN};

	e.addr = peer_map(e.peer, 0, LEN, MAP_4K);
	e.uffd = peer_uffd(e.peer, features);
	if (filled)
		peer_fill(e.peer, e.addr, LEN, e.addr / PAGE, SEED);
	check_is(uffd_register(e.uffd, e.addr, LEN, MISSING), 0);
	return e;
}

static struct scene scene_make(const struct row *row)
{
	struct scene s = {
		.giver = scene_end(true, row->features),
		.taker = scene_end(false, row->features),
	};

	s.move = (struct pageferry_move){
		.size = sizeof(s.move),
		.dst_uffd = s.taker.uffd,
		.src_uffd = s.giver.uffd,
		.dst = s.taker.addr,
		.src = s.giver.addr,
		.len = LEN,
	};
	return s;
}

/* To the end, or until it says why not. */
static int move_on(int pf, struct scene *s)
{
	struct pageferry_move *m = &s->move;
	int ret;

	do {
		m->moved = ~0ull;
		ret = pf_ioctl(pf, PAGEFERRY_IOC_MOVE, m);
		check(m->moved <= m->len && m->moved % PAGE == 0);
		check(ret || m->moved == m->len);
		s->done += m->moved;
		m->dst += m->moved;
		m->src += m->moved;
		m->len -= m->moved;
	} while (ret == -EAGAIN && m->moved);
	return ret;
}

/* Each page is where it must be, and nowhere else. */
static void verify(const struct scene *s)
{
	for (uint64_t at = 0; at < LEN; at += PAGE) {
		bool hole = s->holes >> (at / PAGE) & 1, moved = at < s->done;
		uint64_t src = s->giver.addr + at, dst = s->taker.addr + at;

		if (!s->giver_gone) {
			check_is(count_holes(peer_pid(s->giver.peer), src, PAGE), hole || moved);
			if (!hole && !moved)
				end_verify(&s->giver, src, src, PAGE);
		}
		if (!s->taker_gone && moved) {
			check_is(count_holes(peer_pid(s->taker.peer), dst, PAGE), hole);
			if (!hole)
				end_verify(&s->taker, dst, src, PAGE);
		}
	}
}

static void run_row(void)
{
	const struct row *row = test_row;
	struct scene s = scene_make(row);
	int pf = pf_open();

	row->prepare(&s);
	check_is(move_on(pf, &s), row->want);
	check_is(s.done, row->moved * PAGE);
	verify(&s);
	if (row->cure) {
		row->cure(&s);
		check_is(move_on(pf, &s), 0);
		check_is(s.done, LEN);
		verify(&s);
	}
	if (!s.giver_gone)
		peer_end(s.giver.peer);
	if (!s.taker_gone)
		peer_end(s.taker.peer);
}

/* ---- the request */

static void nothing(struct scene *s)
{
	(void)s;
}

static void unknown_mode(struct scene *s)
{
	s->move.mode = 1u << 31;
}

static void next_mode(struct scene *s)
{
	s->move.mode = PAGEFERRY_MOVE_DONTWAKE << 1;
}

static void no_mode(struct scene *s)
{
	s->move.mode = 0;
}

static void dst_unaligned(struct scene *s)
{
	s->move.dst += 8;
}

static void dst_aligned(struct scene *s)
{
	s->move.dst -= 8;
}

static void src_unaligned(struct scene *s)
{
	s->move.src++;
}

static void len_unaligned(struct scene *s)
{
	s->move.len -= 512;
}

static void len_zero(struct scene *s)
{
	s->move.len = 0;
}

static void len_wraps(struct scene *s)
{
	s->move.len = -s->move.dst;
}

static void len_wraps_far(struct scene *s)
{
	s->move.len = ~0ull & ~(PAGE - 1);
}

static void src_in_kernel(struct scene *s)
{
	s->move.src = 0xffff888000000000;
}

static void dst_in_kernel(struct scene *s)
{
	s->move.dst = 0xffffffff81000000;
}

static void src_not_canonical(struct scene *s)
{
	s->move.src = 1ull << 63;
}

static void src_at_the_end(struct scene *s)
{
	s->move.src = 0x7fffffffe000;
}

/* ---- descriptors */

static void dst_closed(struct scene *s)
{
	s->move.dst_uffd = 1000;
}

static void src_closed(struct scene *s)
{
	s->move.src_uffd = 1000;
}

static void src_negative(struct scene *s)
{
	s->move.src_uffd = -2;
}

static void dst_self(struct scene *s)
{
	s->move.dst_uffd = PAGEFERRY_SELF;
}

static void dst_is_socket(struct scene *s)
{
	s->move.dst_uffd = s->giver.peer->sock;
}

static void src_is_file(struct scene *s)
{
	s->move.src_uffd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
}

static void src_is_path(struct scene *s)
{
	s->move.src_uffd = open("/tmp", O_PATH | O_CLOEXEC);
}

static void giver_gone(struct scene *s)
{
	peer_kill(s->giver.peer);
	s->giver_gone = true;
}

static void taker_gone(struct scene *s)
{
	peer_kill(s->taker.peer);
	s->taker_gone = true;
}

/* ---- consent */

static void src_not_registered(struct scene *s)
{
	check_is(uffd_unregister(s->giver.uffd, s->giver.addr, LEN), 0);
}

static void register_src(struct scene *s)
{
	check_is(uffd_register(s->giver.uffd, s->giver.addr, LEN, MISSING), 0);
}

static void dst_not_registered(struct scene *s)
{
	check_is(uffd_unregister(s->taker.uffd, s->taker.addr, LEN), 0);
}

static void register_dst(struct scene *s)
{
	check_is(uffd_register(s->taker.uffd, s->taker.addr, LEN, MISSING), 0);
}

/* In one that wasn't given. */
static void src_elsewhere(struct scene *s)
{
	s->move.src_uffd = peer_uffd(s->giver.peer, 0);
}

static void dst_elsewhere(struct scene *s)
{
	s->move.dst_uffd = peer_uffd(s->taker.peer, 0);
}

static void src_only_wp(struct scene *s)
{
	src_not_registered(s);
	check_is(uffd_register(s->giver.uffd, s->giver.addr, LEN, WP), 0);
}

static void dst_only_wp(struct scene *s)
{
	dst_not_registered(s);
	check_is(uffd_register(s->taker.uffd, s->taker.addr, LEN, WP), 0);
}

/* Somebody who has memory there too, and a userfaultfd, has not agreed to anything. */
static int third_process(uint64_t addr)
{
	struct peer *p = peer_start();

	peer_syscall(p, SYS_munmap, addr, LEN);
	peer_map(p, addr, LEN, MAP_4K | MAP_AT);
	return peer_uffd(p, 0);
}

static void src_of_third(struct scene *s)
{
	s->move.src_uffd = third_process(s->giver.addr);
}

static void dst_of_third(struct scene *s)
{
	s->move.dst_uffd = third_process(s->taker.addr);
}

/* ---- mappings */

static void same_process(struct scene *s)
{
	struct end other = taker_make(s->giver.peer, LEN, MAP_4K);

	s->move.dst_uffd = other.uffd;
	s->move.dst = other.addr;
}

/* By the same descriptor. */
static void same_uffd(struct scene *s)
{
	uint64_t other = peer_map(s->giver.peer, 0, LEN, MAP_4K);

	check_is(uffd_register(s->giver.uffd, other, LEN, MISSING), 0);
	s->move.dst_uffd = s->giver.uffd;
	s->move.dst = other;
}

static void self_to_self(struct scene *s)
{
	struct end own = taker_make(NULL, LEN, MAP_4K);

	s->move.dst_uffd = own.uffd;
	s->move.dst = own.addr;
	s->move.src_uffd = PAGEFERRY_SELF;
	s->move.src = peer_map(NULL, 0, LEN, MAP_4K);
}

static void src_not_mapped(struct scene *s)
{
	s->move.src = 0x10000;
}

static void dst_not_mapped(struct scene *s)
{
	s->move.dst = 0x10000;
}

static void src_unmapped(struct scene *s)
{
	peer_unmap(s->giver.peer, s->giver.addr, LEN);
	s->giver_gone = true;
}

/* The same access rights and the same userfaultfd, but two mappings. */
static void src_split(struct scene *s)
{
	check_is(peer_madvise(s->giver.peer, s->giver.addr + BAD, LEN - BAD, MADV_DONTDUMP), 0);
}

static void join_src(struct scene *s)
{
	check_is(peer_madvise(s->giver.peer, s->giver.addr + BAD, LEN - BAD, MADV_DODUMP), 0);
}

static void dst_split(struct scene *s)
{
	check_is(peer_madvise(s->taker.peer, s->taker.addr + BAD, LEN - BAD, MADV_DONTDUMP), 0);
}

static void join_dst(struct scene *s)
{
	check_is(peer_madvise(s->taker.peer, s->taker.addr + BAD, LEN - BAD, MADV_DODUMP), 0);
}

/* Behind it there is memory that nobody may access. */
static void src_too_long(struct scene *s)
{
	s->move.src += PAGE;
}

static void dst_too_long(struct scene *s)
{
	s->move.dst += BAD;
}

static void partly_registered(struct scene *s)
{
	check_is(uffd_unregister(s->taker.uffd, s->taker.addr + BAD, LEN - BAD), 0);
}

/* ---- kinds of memory: another mapping takes the place of one of them */

static int64_t map_instead(const uint64_t *arg)
{
	uint64_t addr = arg[0], len = arg[1];
	int flags = (int)arg[2], fd = -1;
	void *got;

	if (!(flags & MAP_ANONYMOUS)) {
		fd = memfd_create("test", MFD_CLOEXEC);
		check_call(fd);
		check_call(ftruncate(fd, (off_t)len));
	}
	got = mmap((void *)addr, len, PROT_READ | PROT_WRITE, flags | (addr ? MAP_FIXED : 0), fd,
		   0);
	if (got == MAP_FAILED)
		test_failed(__FILE__, __LINE__, "mmap: %s", strerror(errno));
	if (arg[3])
		memset(got, 1, len);
	return (int64_t)(uintptr_t)got;
}

/* @addr 0: anywhere */
static uint64_t instead(struct end *e, uint64_t addr, size_t len, int flags, bool fill)
{
	addr = (uint64_t)peer_do(e->peer, map_instead, addr, len, (uint64_t)flags, fill);
	check_is(uffd_register(e->uffd, addr, len, MISSING), 0);
	return addr;
}

static void src_shared(struct scene *s)
{
	instead(&s->giver, s->giver.addr, LEN, MAP_SHARED | MAP_ANONYMOUS, true);
	s->giver_gone = true;
}

static void dst_shared(struct scene *s)
{
	instead(&s->taker, s->taker.addr, LEN, MAP_SHARED | MAP_ANONYMOUS, false);
}

/* Its pages are anonymous ones, since they were written; the mapping isn't. */
static void src_private_file(struct scene *s)
{
	instead(&s->giver, s->giver.addr, LEN, MAP_PRIVATE, true);
	s->giver_gone = true;
}

static void dst_private_file(struct scene *s)
{
	instead(&s->taker, s->taker.addr, LEN, MAP_PRIVATE, false);
}

static void reserve_hugetlb(void)
{
	check_is(file_write("/proc/sys/vm/nr_hugepages", "2"), 0);
	if (!file_number("/proc/sys/vm/nr_hugepages"))
		test_skip("no memory for hugetlb");
}

static void src_hugetlb(struct scene *s)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;

	reserve_hugetlb();
	s->move.src = instead(&s->giver, 0, BLOCK, flags, true);
}

static void dst_hugetlb(struct scene *s)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;

	reserve_hugetlb();
	s->move.dst = instead(&s->taker, 0, BLOCK, flags, false);
}

/* ---- rights */

static void src_read_only(struct scene *s)
{
	check_is(peer_mprotect(s->giver.peer, s->giver.addr, LEN, PROT_READ), 0);
}

static void src_writable(struct scene *s)
{
	check_is(peer_mprotect(s->giver.peer, s->giver.addr, LEN, PROT_READ | PROT_WRITE), 0);
}

static void dst_read_only(struct scene *s)
{
	check_is(peer_mprotect(s->taker.peer, s->taker.addr, LEN, PROT_READ), 0);
}

static void dst_writable(struct scene *s)
{
	check_is(peer_mprotect(s->taker.peer, s->taker.addr, LEN, PROT_READ | PROT_WRITE), 0);
}

static void both_read_only(struct scene *s)
{
	src_read_only(s);
	dst_read_only(s);
}

static void both_writable(struct scene *s)
{
	src_writable(s);
	dst_writable(s);
}

static void src_executable(struct scene *s)
{
	check_is(peer_mprotect(s->giver.peer, s->giver.addr, LEN,
			       PROT_READ | PROT_WRITE | PROT_EXEC),
		 0);
}

static void dst_executable(struct scene *s)
{
	check_is(peer_mprotect(s->taker.peer, s->taker.addr, LEN,
			       PROT_READ | PROT_WRITE | PROT_EXEC),
		 0);
}

/* Not all of it at once: the taker's would be missing, and waited for. */
static void lock_range(const struct end *e)
{
	check_is(peer_syscall(e->peer, SYS_mlock2, e->addr, LEN, MLOCK_ONFAULT), 0);
}

static void src_locked(struct scene *s)
{
	lock_range(&s->giver);
}

static void src_unlocked(struct scene *s)
{
	check_is(peer_syscall(s->giver.peer, SYS_munlock, s->giver.addr, LEN), 0);
}

static void dst_locked(struct scene *s)
{
	lock_range(&s->taker);
}

static void dst_unlocked(struct scene *s)
{
	check_is(peer_syscall(s->taker.peer, SYS_munlock, s->taker.addr, LEN), 0);
}

static void both_locked(struct scene *s)
{
	lock_range(&s->giver);
	lock_range(&s->taker);
}

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

static void fork_giver(struct scene *s)
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
	fork_giver(s);
	peer_fill(s->giver.peer, s->giver.addr, BAD, s->giver.addr / PAGE, SEED);
	peer_fill(s->giver.peer, s->giver.addr + BAD + PAGE, LEN - BAD - PAGE,
		  s->giver.addr / PAGE + 3, SEED);
}

static void third_page_own(struct scene *s)
{
	uint64_t bad = s->giver.addr + BAD;

	peer_end_child(s->giver.peer, s->child);
	peer_fill(s->giver.peer, bad, PAGE, bad / PAGE, SEED);
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

static int ring = -1;

static int64_t pin_page(const uint64_t *arg)
{
	struct io_uring_params params = {0};
	struct iovec iov = {(void *)arg[0], PAGE};

	ring = (int)syscall(SYS_io_uring_setup, 2, &params);
	check_call(ring);
	check_call(syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1));
	return 0;
}

static int64_t unpin_page(const uint64_t *arg)
{
	(void)arg;
	check_call(syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0));
	close(ring);
	return 0;
}

static void pinned(struct scene *s)
{
	peer_do(s->giver.peer, pin_page, s->giver.addr + BAD);
}

static void unpinned(struct scene *s)
{
	peer_do(s->giver.peer, unpin_page, 0);
}

/* ---- KSM */

#define KSM "/sys/kernel/mm/ksm/"

static void ksm_run(void)
{
	check_is(file_write(KSM "sleep_millisecs", "1"), 0);
	check_is(file_write(KSM "pages_to_scan", "1000"), 0);
	check_is(file_write(KSM "run", "1"), 0);
}

static uint64_t ksm_twin;

/* Not by KPF_KSM: Linux 6.12 tells it of all anonymous pages. */
static bool is_merged(const struct scene *s)
{
	pid_t pid = peer_pid(s->giver.peer);

	return page_frame(pid, s->giver.addr + BAD) == page_frame(pid, ksm_twin);
}

/* The third page and one of the same contents beside. */
static void merged(struct scene *s)
{
	ksm_twin = peer_map(s->giver.peer, 0, PAGE, MAP_4K);
	peer_fill(s->giver.peer, ksm_twin, PAGE, (s->giver.addr + BAD) / PAGE, SEED);
	check_is(peer_madvise(s->giver.peer, ksm_twin, PAGE, MADV_MERGEABLE), 0);
	check_is(peer_madvise(s->giver.peer, s->giver.addr, LEN, MADV_MERGEABLE), 0);
	ksm_run();
	await(15000, is_merged(s));
	check_is(file_write(KSM "run", "0"), 0);
}

/* Each has a page of its own again. */
static void unmerged(struct scene *s)
{
	check_is(file_write(KSM "run", "2"), 0);
	check(!is_merged(s));
	check_is(file_write(KSM "run", "0"), 0);
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

/* ---- what isn't a row */

static void info(void)
{
	struct pageferry_info answer = {.size = sizeof(answer)};

	check_is(pf_ioctl(pf_open(), PAGEFERRY_IOC_INFO, &answer), 0);
	check_is(answer.size, sizeof(answer));
	check_is(answer.abi, PAGEFERRY_ABI);
	check(answer.features & PAGEFERRY_FEATURE_MOVE);
	note("features 0x%llx", (unsigned long long)answer.features);
}

static void info_sizes(void)
{
	struct {
		struct pageferry_info info;
		uint64_t more[4];
	} arg = {.info.size = sizeof(arg)};
	int pf = pf_open();

	check_is(pf_ioctl(pf, PAGEFERRY_IOC_INFO, &arg), 0);
	check_is(arg.info.abi, PAGEFERRY_ABI);
	arg.more[3] = 1ull << 63;
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_INFO, &arg), -E2BIG);
	arg.info.size = sizeof(arg.info) - 1;
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_INFO, &arg), -EINVAL);
	arg.info.size = 4;
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_INFO, &arg), -EINVAL);
	arg.info.size = 0;
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_INFO, &arg), -EINVAL);
}

static void move_sizes(void)
{
	const struct row none = {0};
	struct scene s = scene_make(&none);
	struct {
		struct pageferry_move move;
		uint64_t more[4];
	} arg = {.move = s.move};
	int pf = pf_open();

	arg.move.size = sizeof(arg.move) - 1;
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_MOVE, &arg), -EINVAL);
	arg.move.size = 0;
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_MOVE, &arg), -EINVAL);
	arg.move.size = sizeof(arg);
	arg.more[0] = 1;
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_MOVE, &arg), -E2BIG);
	verify(&s);
	/* Zeros mean what they always have. */
	arg.more[0] = 0;
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_MOVE, &arg), 0);
	check_is(arg.move.moved, LEN);
	s.done = LEN;
	verify(&s);
}

static void unknown_ioctls(void)
{
	struct pageferry_info arg = {.size = sizeof(arg)};
	int pf = pf_open();

	check_is(pf_ioctl(pf, _IO('F' | 0x80, 0x7f), &arg), -ENOTTY);
	check_is(pf_ioctl(pf, _IO('F' | 0x80, 0x02), &arg), -ENOTTY);
	check_is(pf_ioctl(pf, UFFDIO_API, &arg), -ENOTTY);
	check_is(pf_ioctl(pf, 0, &arg), -ENOTTY);
}

static void bad_pointers(void)
{
	struct pageferry_move *edge = (struct pageferry_move *)(peer_map(NULL, 0, PAGE, MAP_4K) +
								PAGE - sizeof(*edge) / 2);
	int pf = pf_open();

	check_is(pf_ioctl(pf, PAGEFERRY_IOC_INFO, NULL), -EFAULT);
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_MOVE, NULL), -EFAULT);
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_MOVE, (void *)0xffff888000000000), -EFAULT);
	/* Its first half can be read. */
	edge->size = sizeof(*edge);
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_MOVE, edge), -EFAULT);
}

static void answer_not_writable(void)
{
	struct pageferry_info *arg = (void *)peer_map(NULL, 0, PAGE, MAP_4K);

	arg->size = sizeof(*arg);
	check_is(peer_mprotect(NULL, (uintptr_t)arg, PAGE, PROT_READ), 0);
	check_is(pf_ioctl(pf_open(), PAGEFERRY_IOC_INFO, arg), -EFAULT);
}

#define ROW(title, ...)                                                                            \
	{                                                                                          \
		"errno/" title, run_row, .row = &(const struct row)                                \
		{                                                                                  \
			__VA_ARGS__                                                                \
		}                                                                                  \
	}

const struct test errno_tests[] = {
	{"errno/info", info},
	{"errno/info_sizes", info_sizes},
	{"errno/move_sizes", move_sizes},
	{"errno/unknown_ioctls", unknown_ioctls},
	{"errno/bad_pointers", bad_pointers},
	{"errno/answer_not_writable", answer_not_writable},

	ROW("none", nothing, 0, 4),
	ROW("unknown_mode", unknown_mode, -EINVAL, 0, no_mode),
	ROW("next_mode", next_mode, -EINVAL, 0, no_mode),
	ROW("dst_unaligned", dst_unaligned, -EINVAL, 0, dst_aligned),
	ROW("src_unaligned", src_unaligned, -EINVAL),
	ROW("len_unaligned", len_unaligned, -EINVAL),
	ROW("len_zero", len_zero, -EINVAL),
	ROW("len_wraps", len_wraps, -EINVAL),
	ROW("len_wraps_far", len_wraps_far, -EINVAL),
	ROW("src_in_kernel", src_in_kernel, -EINVAL),
	ROW("dst_in_kernel", dst_in_kernel, -EINVAL),
	ROW("src_not_canonical", src_not_canonical, -EINVAL),
	ROW("src_at_the_end", src_at_the_end, -EINVAL),

	ROW("dst_closed", dst_closed, -EBADF),
	ROW("src_closed", src_closed, -EBADF),
	ROW("src_negative", src_negative, -EBADF),
	ROW("dst_self", dst_self, -EBADF),
	ROW("dst_is_socket", dst_is_socket, -EBADF),
	ROW("src_is_file", src_is_file, -EBADF),
	ROW("src_is_path", src_is_path, -EBADF),
	ROW("giver_gone", giver_gone, -ESRCH),
	ROW("taker_gone", taker_gone, -ESRCH),

	ROW("src_not_registered", src_not_registered, -EPERM, 0, register_src),
	ROW("dst_not_registered", dst_not_registered, -EPERM, 0, register_dst),
	ROW("src_elsewhere", src_elsewhere, -EPERM),
	ROW("dst_elsewhere", dst_elsewhere, -EPERM),
	ROW("src_only_wp", src_only_wp, -EPERM),
	ROW("dst_only_wp", dst_only_wp, -EPERM),
	ROW("src_of_third", src_of_third, -EPERM),
	ROW("dst_of_third", dst_of_third, -EPERM),

	ROW("same_process", same_process, -EINVAL),
	ROW("same_uffd", same_uffd, -EINVAL),
	ROW("self_to_self", self_to_self, -EINVAL),
	ROW("src_not_mapped", src_not_mapped, -ENOENT),
	ROW("dst_not_mapped", dst_not_mapped, -ENOENT),
	ROW("src_unmapped", src_unmapped, -ENOENT),
	ROW("src_split", src_split, -EINVAL, 0, join_src),
	ROW("dst_split", dst_split, -EINVAL, 0, join_dst),
	ROW("src_too_long", src_too_long, -EINVAL),
	ROW("dst_too_long", dst_too_long, -EINVAL),
	ROW("partly_registered", partly_registered, -EINVAL, 0, register_dst),

	ROW("src_shared", src_shared, -EINVAL),
	ROW("dst_shared", dst_shared, -EINVAL),
	ROW("src_private_file", src_private_file, -EINVAL),
	ROW("dst_private_file", dst_private_file, -EINVAL),
	ROW("src_hugetlb", src_hugetlb, -EINVAL),
	ROW("dst_hugetlb", dst_hugetlb, -EINVAL),
	ROW("src_read_only", src_read_only, -EINVAL, 0, src_writable),
	ROW("dst_read_only", dst_read_only, -EINVAL, 0, dst_writable),
	ROW("both_read_only", both_read_only, -EINVAL, 0, both_writable),
	ROW("src_executable", src_executable, -EINVAL, 0, src_writable),
	ROW("dst_executable", dst_executable, -EINVAL, 0, src_executable),
	ROW("src_locked", src_locked, -EINVAL, 0, src_unlocked),
	ROW("dst_locked", dst_locked, -EINVAL, 0, dst_unlocked),
	ROW("both_locked", both_locked, 0, 4),

	ROW("dst_populated", dst_populated, -EEXIST, 2, empty_dst),
	ROW("dst_written", dst_written, -EEXIST, 2, empty_dst),
	ROW("dst_poisoned", dst_poisoned, -EEXIST, 2, empty_dst),
	ROW("src_hole", src_hole, -ENOENT, 2, allow_holes),
	ROW("src_hole_allowed", src_hole_allowed, 0, 4),
	ROW("src_all_holes", src_all_holes, -ENOENT, 0, allow_holes),
	ROW("src_all_holes_allowed", src_all_holes_allowed, 0, 4),
	ROW("src_untouched", src_untouched, -ENOENT),
	ROW("src_poisoned", src_poisoned, -EFAULT, 2),

	ROW("fork_shared", fork_giver, -EBUSY, 0, fork_over),
	ROW("third_page_shared", third_page_shared, -EBUSY, 2, third_page_own),
	ROW("in_a_pipe", in_a_pipe, -EBUSY, 2, pipe_closed),
	ROW("pinned", pinned, -EBUSY, 2, unpinned),
	ROW("merged", merged, -EBUSY, 2, unmerged),

	ROW("src_event", src_event, -EAGAIN, 0, read_src_event, UFFD_FEATURE_EVENT_REMOVE),
	ROW("dst_event", dst_event, -EAGAIN, 0, read_dst_event, UFFD_FEATURE_EVENT_REMOVE),
	{0},
};
