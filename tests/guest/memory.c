// SPDX-License-Identifier: MIT
/* The memory of peers, and its userfaultfds; see peer.h. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guest/pattern.h"
#include "harness.h"
#include "lib/uffd_abi.h"
#include "peer.h"
#include "proc.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

/* ---- mappings */

static void *map_at(void *at, size_t len, int prot, int flags)
{
	void *got = mmap(at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);

	if (got == MAP_FAILED)
		test_failed(__FILE__, __LINE__, "mmap of %zu at %p: %s", len, at, strerror(errno));
	return got;
}

/*
 * Within a reserve that no access is allowed to: this keeps neighbours away for good. No two
 * processes use the same addresses, as they would by themselves: whatever mixes them up is to show.
 */
static uintptr_t find_place(size_t len)
{
	uintptr_t hint = (uintptr_t)getpid() % 4096 * (8ul << 30) + (1ul << 40);
	uintptr_t all = (uintptr_t)map_at((void *)hint, len + 2 * BLOCK, PROT_NONE, 0);

	return (all + BLOCK) & ~(BLOCK - 1);
}

static int64_t map(const uint64_t *arg)
{
	uint64_t at = arg[0], len = arg[1], how = arg[2];
	int prot = how & MAP_RDONLY ? PROT_READ : PROT_READ | PROT_WRITE;
	void *addr;

	if (how & MAP_AT)
		addr = map_at((void *)at, len, prot, MAP_FIXED_NOREPLACE);
	else
		addr = map_at((void *)find_place(len), len, prot, MAP_FIXED);
	if (how & MAP_4K)
		check_call(madvise(addr, len, MADV_NOHUGEPAGE));
	if (how & MAP_HUGE)
		check_call(madvise(addr, len, MADV_HUGEPAGE));
	return (int64_t)(uintptr_t)addr;
}

uint64_t peer_map(struct peer *p, uint64_t at, size_t len, unsigned int how)
{
	return (uint64_t)peer_do(p, map, at, len, how);
}

void peer_unmap(struct peer *p, uint64_t addr, size_t len)
{
	check_is(peer_syscall(p, SYS_munmap, addr, len), 0);
}

int peer_madvise(struct peer *p, uint64_t addr, size_t len, int advice)
{
	return (int)peer_syscall(p, SYS_madvise, addr, len, (uint64_t)advice);
}

int peer_mprotect(struct peer *p, uint64_t addr, size_t len, int prot)
{
	return (int)peer_syscall(p, SYS_mprotect, addr, len, (uint64_t)prot);
}

/* Reclaim may find a page busy for a moment. */
void peer_page_out(struct peer *p, uint64_t addr, size_t len)
{
	int64_t end = now_ms() + 20000;

	while (count_pages(peer_pid(p), addr, len, PM_SWAPPED) < len / PAGE) {
		check_is(peer_madvise(p, addr, len, MADV_PAGEOUT), 0);
		if (now_ms() > end)
			test_failed(__FILE__, __LINE__, "of %zu pages only %zu go to swap",
				    len / PAGE, count_pages(peer_pid(p), addr, len, PM_SWAPPED));
	}
}

/* ---- contents */

static int64_t fill(const uint64_t *arg)
{
	for (uint64_t i = 0; i < arg[1] / PAGE; i++)
		pattern_write((uint64_t *)(arg[0] + i * PAGE), arg[2] + i, arg[3]);
	return 0;
}

void peer_fill(struct peer *p, uint64_t addr, size_t len, uint64_t id, uint64_t seed)
{
	peer_do(p, fill, addr, len, id, seed);
}

static _Noreturn void wrong_page(const uint64_t *page, uint64_t id, uint64_t seed)
{
	struct pattern_fault fault = pattern_explain(page, id, seed);

	test_failed(__FILE__, __LINE__,
		    "page at %p is %s: wanted %" PRIu64 ", %" PRIu64 ", found %" PRIu64 ", %" PRIu64
		    ", %u words wrong from %u on",
		    (const void *)page, pattern_kind_name(fault.kind), id, seed, fault.page,
		    fault.generation, fault.bad_words, fault.first_bad_word);
}

int64_t peer_run_verify(const uint64_t *arg)
{
	for (uint64_t i = 0; i < arg[1] / PAGE; i++) {
		const uint64_t *page = (const uint64_t *)(arg[0] + i * PAGE);

		if (!pattern_holds(page, arg[2] + i, arg[3]))
			wrong_page(page, arg[2] + i, arg[3]);
	}
	return 0;
}

void peer_verify(struct peer *p, uint64_t addr, size_t len, uint64_t id, uint64_t seed)
{
	peer_do(p, peer_run_verify, addr, len, id, seed);
}

static int64_t verify_zero(const uint64_t *arg)
{
	for (uint64_t at = arg[0]; at < arg[0] + arg[1]; at += sizeof(uint64_t))
		if (*(const uint64_t *)at)
			test_failed(__FILE__, __LINE__, "0x%" PRIx64 " is %" PRIx64 ", not 0", at,
				    *(const uint64_t *)at);
	return 0;
}

void peer_verify_zero(struct peer *p, uint64_t addr, size_t len)
{
	peer_do(p, verify_zero, addr, len);
}

static int64_t read_pages(const uint64_t *arg)
{
	for (uint64_t at = arg[0]; at < arg[0] + arg[1]; at += PAGE)
		(void)*(volatile uint64_t *)at;
	return 0;
}

void peer_read_pages(struct peer *p, uint64_t addr, size_t len)
{
	peer_do(p, read_pages, addr, len);
}

void peer_read(struct peer *p, uint64_t addr, void *buf, size_t len)
{
	struct iovec to = {buf, len}, from = {(void *)addr, len};

	check_is(process_vm_readv(peer_pid(p), &to, 1, &from, 1, 0), len);
}

int64_t peer_run_peek(const uint64_t *arg)
{
	return (int64_t) * (volatile uint64_t *)arg[0];
}

uint64_t peer_peek(struct peer *p, uint64_t addr)
{
	return (uint64_t)peer_do(p, peer_run_peek, addr);
}

static int64_t poke(const uint64_t *arg)
{
	*(volatile uint64_t *)arg[0] = arg[1];
	return 0;
}

void peer_poke(struct peer *p, uint64_t addr, uint64_t value)
{
	peer_do(p, poke, addr, value);
}

/* ---- userfaultfd */

static int64_t open_uffd(const uint64_t *arg)
{
	struct uffdio_api api = {.api = UFFD_API, .features = arg[0]};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	check_call(fd);
	check_call(ioctl(fd, UFFDIO_API, &api));
	return fd;
}

int peer_uffd(struct peer *p, uint64_t features)
{
	return peer_take_fd(p, (int)peer_do(p, open_uffd, features));
}

static int result(int ret)
{
	return ret < 0 ? -errno : 0;
}

int uffd_register(int uffd, uint64_t addr, size_t len, uint64_t mode)
{
	struct uffdio_register reg = {.range = {addr, len}, .mode = mode};

	return result(ioctl(uffd, UFFDIO_REGISTER, &reg));
}

int uffd_unregister(int uffd, uint64_t addr, size_t len)
{
	struct uffdio_range range = {addr, len};

	return result(ioctl(uffd, UFFDIO_UNREGISTER, &range));
}

int uffd_wake(int uffd, uint64_t addr, size_t len)
{
	struct uffdio_range range = {addr, len};

	return result(ioctl(uffd, UFFDIO_WAKE, &range));
}

int uffd_writeprotect(int uffd, uint64_t addr, size_t len, bool protect)
{
	struct uffdio_writeprotect wp = {
		.range = {addr, len},
		.mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return result(ioctl(uffd, UFFDIO_WRITEPROTECT, &wp));
}

bool uffd_read(int uffd, struct uffd_msg *msg, unsigned int ms)
{
	struct pollfd pfd = {.fd = uffd, .events = POLLIN};

	return poll(&pfd, 1, (int)(ms * slowness)) > 0 &&
	       read(uffd, msg, sizeof(*msg)) == sizeof(*msg);
}

uint64_t uffd_fault(int uffd)
{
	struct uffd_msg msg;

	check(uffd_read(uffd, &msg, 10000));
	check_is(msg.event, UFFD_EVENT_PAGEFAULT);
	return msg.arg.pagefault.address & ~(PAGE - 1);
}

/* ---- both ends of a move */

static struct end make(struct peer *p, size_t len, unsigned int how, bool filled)
{
	struct end e = {.peer = p, .len = len};

	e.addr = peer_map(p, 0, len, how);
	e.uffd = peer_uffd(p, 0);
	if (filled)
		peer_fill(p, e.addr, len, e.addr / PAGE, SEED);
	check_is(uffd_register(e.uffd, e.addr, len, UFFDIO_REGISTER_MODE_MISSING), 0);
	return e;
}

struct end giver_make(struct peer *p, size_t len, unsigned int how)
{
	return make(p, len, how, true);
}

struct end taker_make(struct peer *p, size_t len, unsigned int how)
{
	return make(p, len, how, false);
}

struct end giver_start(size_t len, unsigned int how)
{
	return giver_make(peer_start(), len, how);
}

struct end taker_start(size_t len, unsigned int how)
{
	return taker_make(peer_start(), len, how);
}

void taker_renew(const struct end *e, unsigned int how)
{
	peer_unmap(e->peer, e->addr, e->len);
	check_is(peer_map(e->peer, e->addr, e->len, how | MAP_AT), e->addr);
	check_is(uffd_register(e->uffd, e->addr, e->len, UFFDIO_REGISTER_MODE_MISSING), 0);
}

void end_stop(struct end *e)
{
	close(e->uffd);
	if (e->peer)
		peer_end(e->peer);
}

void end_verify(const struct end *e, uint64_t at, uint64_t from, size_t len)
{
	peer_verify(e->peer, at, len, from / PAGE, SEED);
}

void giver_keeps(const struct end *e)
{
	check_is(count_holes(peer_pid(e->peer), e->addr, e->len), 0);
	end_verify(e, e->addr, e->addr, e->len);
}

void giver_is_empty(const struct end *e)
{
	check_is(count_holes(peer_pid(e->peer), e->addr, e->len), e->len / PAGE);
}
