// SPDX-License-Identifier: MIT
/* The errnos of include/linux/pageferry.h that say what is wrong with a call: see scene.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "proc.h"
#include "scene.h"

#define SUBJECT "errno"

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
	s->move.mode = PAGEFERRY_MOVE_TABLES_ONLY << 1;
}

static void question_about_tables(struct scene *s)
{
	s->move.mode = PAGEFERRY_MOVE_CHECK | PAGEFERRY_MOVE_TABLES;
}

/* Of what nobody has asked for */
static void only_tables(struct scene *s)
{
	s->move.mode = PAGEFERRY_MOVE_TABLES_ONLY;
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

#define MOVE_SIZE_1 48 /* of the first version */

/* Who knows only the first version is told nothing behind its end. */
static void first_version(void)
{
	const struct row none = {.want = 0};
	struct scene s = scene_make(&none);

	s.move.size = MOVE_SIZE_1;
	s.move.tables = s.move.why = 12345;
	check_is(pf_ioctl(pf_open(), PAGEFERRY_IOC_MOVE, &s.move), 0);
	check_is(s.move.moved, LEN);
	check_is(s.move.tables, 12345);
	check_is(s.move.why, 12345);
	s.done = LEN;
	scene_verify(&s);
}

static void move_sizes(void)
{
	const struct row none = {.want = 0};
	struct scene s = scene_make(&none);
	struct {
		struct pageferry_move move;
		uint64_t more[4];
	} arg = {.move = s.move};
	int pf = pf_open();

	arg.move.size = MOVE_SIZE_1 - 1;
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_MOVE, &arg), -EINVAL);
	arg.move.size = 0;
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_MOVE, &arg), -EINVAL);
	arg.move.size = sizeof(arg);
	arg.more[0] = 1;
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_MOVE, &arg), -E2BIG);
	scene_verify(&s);
	/* Zeros mean what they always have. */
	arg.more[0] = 0;
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_MOVE, &arg), 0);
	check_is(arg.move.moved, LEN);
	s.done = LEN;
	scene_verify(&s);
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

/* It is read by words: over a border of pages, and right up to a page that can't be read. */
static void odd_pointers(void)
{
	const struct row none = {.want = 0};
	struct scene s = scene_make(&none);
	char *next = (char *)peer_map(NULL, 0, 2 * PAGE, MAP_4K) + PAGE;
	struct pageferry_info info = {.size = sizeof(info)};
	int pf = pf_open();

	memcpy(next - 13, &info, sizeof(info));
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_INFO, next - 13), 0);
	memcpy(&info, next - 13, sizeof(info));
	check_is(info.size, sizeof(info));
	check_is(info.abi, PAGEFERRY_ABI);
	check_is(peer_mprotect(NULL, (uintptr_t)next, PAGE, PROT_NONE), 0);
	memcpy(next - sizeof(s.move), &s.move, sizeof(s.move));
	check_is(pf_ioctl(pf, PAGEFERRY_IOC_MOVE, next - sizeof(s.move)), 0);
	memcpy(&s.move, next - sizeof(s.move), sizeof(s.move));
	check_is(s.move.moved, LEN);
	s.done = LEN;
	scene_verify(&s);
}

static void answer_not_writable(void)
{
	struct pageferry_info *arg = (void *)peer_map(NULL, 0, PAGE, MAP_4K);

	arg->size = sizeof(*arg);
	check_is(peer_mprotect(NULL, (uintptr_t)arg, PAGE, PROT_READ), 0);
	check_is(pf_ioctl(pf_open(), PAGEFERRY_IOC_INFO, arg), -EFAULT);
}

/* clang-format off */
const struct test errno_tests[] = {
	TEST(info),
	TEST(info_sizes),
	TEST(move_sizes),
	TEST(first_version),
	TEST(unknown_ioctls),
	TEST(bad_pointers),
	TEST(odd_pointers),
	TEST(answer_not_writable),
	ROW(nothing, 0, .moved = 4),
	ROW(unknown_mode, -EINVAL, .cure = no_mode),
	ROW(next_mode, -EINVAL, .cure = no_mode),
	ROW(question_about_tables, -EINVAL, .cure = no_mode),
	ROW(only_tables, -EINVAL, .cure = no_mode),
	ROW(dst_unaligned, -EINVAL, .cure = dst_aligned),
	ROW(src_unaligned, -EINVAL),
	ROW(len_unaligned, -EINVAL),
	ROW(len_zero, -EINVAL),
	ROW(len_wraps, -EINVAL),
	ROW(len_wraps_far, -EINVAL),
	ROW(src_in_kernel, -EINVAL),
	ROW(dst_in_kernel, -EINVAL),
	ROW(src_not_canonical, -EINVAL),
	ROW(src_at_the_end, -EINVAL),
	ROW(dst_closed, -EBADF),
	ROW(src_closed, -EBADF),
	ROW(src_negative, -EBADF),
	ROW(dst_self, -EBADF),
	ROW(dst_is_socket, -EBADF),
	ROW(src_is_file, -EBADF),
	ROW(src_is_path, -EBADF),
	ROW(giver_gone, -ESRCH),
	ROW(taker_gone, -ESRCH),
	ROW(src_not_registered, -EPERM, .cure = register_src),
	ROW(dst_not_registered, -EPERM, .cure = register_dst),
	ROW(src_elsewhere, -EPERM),
	ROW(dst_elsewhere, -EPERM),
	ROW(src_only_wp, -EPERM),
	ROW(dst_only_wp, -EPERM),
	ROW(src_of_third, -EPERM),
	ROW(dst_of_third, -EPERM),
	ROW(same_process, -EINVAL),
	ROW(same_uffd, -EINVAL),
	ROW(self_to_self, -EINVAL),
	ROW(src_not_mapped, -ENOENT),
	ROW(dst_not_mapped, -ENOENT),
	ROW(src_unmapped, -ENOENT),
	ROW(src_split, -EINVAL, .cure = join_src),
	ROW(dst_split, -EINVAL, .cure = join_dst),
	ROW(src_too_long, -EINVAL),
	ROW(dst_too_long, -EINVAL),
	ROW(partly_registered, -EINVAL, .cure = register_dst),
	ROW(src_shared, -EINVAL),
	ROW(dst_shared, -EINVAL),
	ROW(src_private_file, -EINVAL),
	ROW(dst_private_file, -EINVAL),
	ROW(src_hugetlb, -EINVAL),
	ROW(dst_hugetlb, -EINVAL),
	ROW(src_read_only, -EINVAL, .cure = src_writable),
	ROW(dst_read_only, -EINVAL, .cure = dst_writable),
	ROW(both_read_only, -EINVAL, .cure = both_writable),
	ROW(src_executable, -EINVAL, .cure = src_writable),
	ROW(dst_executable, -EINVAL, .cure = src_executable),
	ROW(src_locked, -EINVAL, .cure = src_unlocked),
	ROW(dst_locked, -EINVAL, .cure = dst_unlocked),
	ROW(both_locked, 0, .moved = 4),
	{.name = NULL},
};
