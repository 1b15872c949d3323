// SPDX-License-Identifier: MIT
/*
 * Whole page tables: which move so, which don't and why, and that the result is the same in either
 * case. Whether the kernel still finds who maps a page is the subject of rmap.c.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "group.h"
#include "harness.h"
#include "hold.h"
#include "lib/uffd_abi.h"
#include "peer.h"
#include "pf.h"
#include "proc.h"
#include "swapspace.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define SUBJECT "tables"

#define LEN     (16 * MIB)
#define BLOCKS  4ul
#define SHORT   (BLOCKS * BLOCK)
#define HOLES   PAGEFERRY_MOVE_ALLOW_SRC_HOLES
#define ONLY    PAGEFERRY_MOVE_TABLES_ONLY

static void has_all(const struct end *to, const struct end *from)
{
	giver_is_empty(from);
	end_verify(to, to->addr, from->addr, from->len);
}

/* Counters that are wrong are told by the kernel when a process ends. */
static void stop_both(struct end *a, struct end *b)
{
	end_stop(a);
	end_stop(b);
}

/* ---- all of it */

/* Not one page is another afterwards, and everything is counted where it is. */
static void all(unsigned int how)
{
	struct end giver = giver_start(LEN, how), taker = taker_start(LEN, how);
	pid_t from = peer_pid(giver.peer), to = peer_pid(taker.peer);
	uint64_t first = page_frame(from, giver.addr),
		 last = page_frame(from, giver.addr + LEN - PAGE);
	uint64_t rss = status_kb(to, "RssAnon"), giver_rss = status_kb(from, "RssAnon");
	uint64_t tables = status_kb(to, "VmPTE"), giver_tables = status_kb(from, "VmPTE");

	pf_move_all_tables(pf_open_with(PAGEFERRY_FEATURE_TABLES), &taker, &giver);
	check_is(page_frame(to, taker.addr), first);
	check_is(page_frame(to, taker.addr + LEN - PAGE), last);
	check(near_kb(status_kb(to, "RssAnon"), rss + LEN / 1024, 256));
	check(near_kb(status_kb(from, "RssAnon"), giver_rss - LEN / 1024, 256));
	check(near_kb(status_kb(to, "VmPTE"), tables + LEN / BLOCK * 4, 8));
	check(near_kb(status_kb(from, "VmPTE"), giver_tables - LEN / BLOCK * 4, 8));
	check_is(smaps_kb(to, taker.addr, LEN, "AnonHugePages"), how == MAP_HUGE ? LEN / 1024 : 0);
	has_all(&taker, &giver);
	stop_both(&giver, &taker);
}

static void small(void)
{
	all(MAP_4K);
}

static void huge(void)
{
	all(MAP_HUGE);
}

/* The giver ends first, and so does the taker; each with what it wrote since. */
static void written_since(void)
{
	struct end giver = giver_start(LEN, MAP_4K), taker = taker_start(LEN, MAP_4K);

	pf_move_all_tables(pf_open(), &taker, &giver);
	check_is(uffd_unregister(giver.uffd, giver.addr, LEN), 0);
	peer_fill(giver.peer, giver.addr, LEN, 1, SEED + 1);
	peer_fill(taker.peer, taker.addr, LEN, 2, SEED + 2);
	peer_verify(giver.peer, giver.addr, LEN, 1, SEED + 1);
	end_stop(&giver);
	peer_verify(taker.peer, taker.addr, LEN, 2, SEED + 2);
	end_stop(&taker);
}

/* Of the mixed ones: huge, with holes and with pages in swap, all zero pages but one, empty, small
 */
enum { IS_HUGE, HAS_HOLES, IN_SWAP, HAS_ZERO, IS_EMPTY, IS_SMALL, MIXED };

static uint64_t block(const struct end *e, unsigned int i)
{
	return e->addr + i * BLOCK;
}

static struct end mixed_giver(void)
{
	struct end e = giver_start(MIXED * BLOCK, MAP_4K);

	check_is(peer_madvise(e.peer, e.addr, e.len, MADV_HUGEPAGE), 0);
	check_is(peer_madvise(e.peer, block(&e, IS_HUGE), BLOCK, MADV_COLLAPSE), 0);
	for (uint64_t at = 0; at < BLOCK; at += 4 * PAGE)
		check_is(peer_madvise(e.peer, block(&e, HAS_HOLES) + at, PAGE, MADV_DONTNEED), 0);
	peer_page_out(e.peer, block(&e, IN_SWAP), BLOCK);
	end_verify(&e, block(&e, IN_SWAP), block(&e, IN_SWAP), 9 * PAGE);
	check_is(peer_madvise(e.peer, block(&e, HAS_ZERO), 2 * BLOCK, MADV_DONTNEED), 0);
	struct uffdio_zeropage zero = {.range = {block(&e, HAS_ZERO), BLOCK - PAGE}};
	check_call(ioctl(e.uffd, UFFDIO_ZEROPAGE, &zero));
	return e;
}

/* All of them in one call. */
static void mixed(void)
{
	struct end giver, taker;
	struct pf_answer answer;

	swap_on(ZRAM);
	giver = mixed_giver();
	taker = taker_start(giver.len, 0);
	answer = pf_move_tables(pf_open(), HOLES, &taker, &giver);
	check_is(answer.ret, 0);
	check_is(answer.moved, giver.len);
	check_is(answer.why, PAGEFERRY_WHY_NONE);
	/* After MADV_DONTNEED the table is still there, but what was in it isn't. */
	check_is(answer.tables, giver.len);
	giver_is_empty(&giver);
	end_verify(&taker, taker.addr, giver.addr, BLOCK);
	check(page_state(peer_pid(taker.peer), taker.addr) & PM_HUGE);
	for (uint64_t at = 0; at < BLOCK; at += 4 * PAGE) {
		check_is(count_holes(peer_pid(taker.peer), block(&taker, HAS_HOLES) + at, 4 * PAGE),
			 1);
		end_verify(&taker, block(&taker, HAS_HOLES) + at + PAGE,
			   block(&giver, HAS_HOLES) + at + PAGE, 3 * PAGE);
	}
	end_verify(&taker, block(&taker, IN_SWAP), block(&giver, IN_SWAP), BLOCK);
	check_is(count_holes(peer_pid(taker.peer), block(&taker, HAS_ZERO), BLOCK), 1);
	peer_verify_zero(taker.peer, block(&taker, HAS_ZERO), BLOCK - PAGE);
	check_is(count_holes(peer_pid(taker.peer), block(&taker, IS_EMPTY), BLOCK), BLOCK / PAGE);
	end_verify(&taker, block(&taker, IS_SMALL), block(&giver, IS_SMALL), BLOCK);
	stop_both(&giver, &taker);
	check_call(swapoff(ZRAM));
}

/* Where there is no table at all, there is none afterwards. */
static void no_table(void)
{
	struct peer *p = peer_start();
	struct end giver = {.peer = p, .addr = peer_map(p, 0, SHORT, MAP_4K), .len = SHORT};
	struct end taker = taker_start(SHORT, MAP_4K);
	struct pf_answer answer;

	giver.uffd = peer_uffd(p, 0);
	peer_fill(p, block(&giver, 3), BLOCK, block(&giver, 3) / PAGE, SEED);
	check_is(uffd_register(giver.uffd, giver.addr, SHORT, UFFDIO_REGISTER_MODE_MISSING), 0);
	answer = pf_move_tables(pf_open(), 0, &taker, &giver);
	check_is(answer.ret, -ENOENT);
	check_is(answer.why, PAGEFERRY_WHY_HOLE);
	check_is(answer.moved, 0);
	answer = pf_move_tables(pf_open(), HOLES, &taker, &giver);
	check_is(answer.ret, 0);
	check_is(answer.moved, SHORT);
	giver_is_empty(&giver);
	check_is(count_holes(peer_pid(taker.peer), taker.addr, 3 * BLOCK), 3 * BLOCK / PAGE);
	end_verify(&taker, block(&taker, 3), block(&giver, 3), BLOCK);
	stop_both(&giver, &taker);
}

/* Nothing was ever there, so no mapping has to be made ready for it. */
static void no_pages(void)
{
	struct peer *p = peer_start();
	struct end giver = {.peer = p, .addr = peer_map(p, 0, SHORT, MAP_4K), .len = SHORT};
	struct end taker = taker_start(SHORT, MAP_4K);
	struct pf_answer answer;

	giver.uffd = peer_uffd(p, 0);
	check_is(uffd_register(giver.uffd, giver.addr, SHORT, UFFDIO_REGISTER_MODE_MISSING), 0);
	answer = pf_move_tables(pf_open(), HOLES, &taker, &giver);
	check_is(answer.ret, 0);
	check_is(answer.why, PAGEFERRY_WHY_NO_PAGES);
	check_is(answer.moved, SHORT);
	giver_is_empty(&taker);
	stop_both(&giver, &taker);
}

/* Neither end is at a table's: these go page by page, and don't spoil it for those between. */
static void ends_in_tables(void)
{
	struct end giver = giver_start(SHORT, MAP_4K), taker = taker_start(SHORT, MAP_4K);
	struct end from = giver, to = taker;
	struct pf_answer answer;

	from.addr += 3 * PAGE;
	to.addr += 3 * PAGE;
	from.len -= 10 * PAGE;
	answer = pf_move_tables(pf_open(), 0, &to, &from);
	check_is(answer.ret, 0);
	check_is(answer.moved, from.len);
	check_is(answer.tables, 2 * BLOCK);
	check_is(answer.why, PAGEFERRY_WHY_NONE);
	has_all(&to, &from);
	end_verify(&giver, giver.addr, giver.addr, 3 * PAGE);
	end_verify(&giver, giver.addr + SHORT - 7 * PAGE, giver.addr + SHORT - 7 * PAGE, 7 * PAGE);
	stop_both(&giver, &taker);
}

/* The taker's range is in the middle of its mapping, the giver's at the end. */
static void parts_of_mappings(void)
{
	struct end giver = giver_start(LEN, MAP_4K), taker = taker_start(2 * LEN, MAP_4K);
	struct end from = giver, to = taker;

	from.addr += LEN - SHORT;
	to.addr += BLOCK;
	from.len = SHORT;
	pf_move_all_tables(pf_open(), &to, &from);
	has_all(&to, &from);
	/* And the rest, to where it isn't at the same index. */
	from.addr = giver.addr;
	to.addr = taker.addr + LEN;
	check_is(pf_move_tables(pf_open(), 0, &to, &from).why, PAGEFERRY_WHY_OWN_PAGES);
	has_all(&to, &from);
	stop_both(&giver, &taker);
}

/* More than one batch, over the end of what one table of PMDs maps. */
static void far(void)
{
	const size_t len = working_set(192 * MIB);
	struct end giver = giver_start(len, MAP_HUGE), taker = taker_start(len, MAP_HUGE);

	pf_move_all_tables(pf_open(), &taker, &giver);
	has_all(&taker, &giver);
	stop_both(&giver, &taker);
}

/* The taker has tables already, with nothing in them: they go the other way. */
static void exchanged(unsigned int how)
{
	struct end giver = giver_start(LEN, how), taker = taker_start(LEN, how);
	struct uffdio_zeropage zero = {.range = {taker.addr, LEN}};
	pid_t from = peer_pid(giver.peer), to = peer_pid(taker.peer);
	uint64_t tables, giver_tables = status_kb(from, "VmPTE");

	check_call(ioctl(taker.uffd, UFFDIO_ZEROPAGE, &zero));
	check_is(peer_madvise(taker.peer, taker.addr, LEN, MADV_DONTNEED), 0);
	tables = status_kb(to, "VmPTE");
	pf_move_all_tables(pf_open(), &taker, &giver);
	check_is(status_kb(to, "VmPTE"), tables);
	check_is(status_kb(from, "VmPTE"), giver_tables);
	check_is(smaps_kb(to, taker.addr, LEN, "AnonHugePages"), how == MAP_HUGE ? LEN / 1024 : 0);
	has_all(&taker, &giver);
	/* What each writes is its own. */
	check_is(uffd_unregister(giver.uffd, giver.addr, LEN), 0);
	peer_fill(giver.peer, giver.addr, LEN, 1, SEED + 1);
	peer_verify(giver.peer, giver.addr, LEN, 1, SEED + 1);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	stop_both(&giver, &taker);
}

static void exchanged_small(void)
{
	exchanged(MAP_4K);
}

static void exchanged_huge(void)
{
	exchanged(MAP_HUGE);
}

/* One with a hole stops those that mustn't have any, and each is asked for by itself then. */
static void only_with_holes(void)
{
	struct end giver = giver_start(SHORT, MAP_4K), taker = taker_start(SHORT, MAP_4K);
	struct end from = giver, to = taker;
	struct pf_answer answer;

	check_is(peer_madvise(giver.peer, block(&giver, 1) + 9 * PAGE, PAGE, MADV_DONTNEED), 0);
	check_is(peer_madvise(giver.peer, block(&giver, 2), BLOCK, MADV_DONTNEED), 0);
	answer = pf_move_tables(pf_open(), ONLY, &to, &from);
	check_is(answer.ret, -EOPNOTSUPP);
	check_is(answer.why, PAGEFERRY_WHY_HOLE);
	check_is(answer.moved, BLOCK);
	check_is(answer.tables, BLOCK);
	from.addr = block(&giver, 1);
	to.addr = block(&taker, 1);
	from.len = 3 * BLOCK;
	answer = pf_move_tables(pf_open(), ONLY | HOLES, &to, &from);
	check_is(answer.ret, 0);
	check_is(answer.moved, 3 * BLOCK);
	check_is(count_holes(peer_pid(taker.peer), taker.addr, SHORT), BLOCK / PAGE + 1);
	end_verify(&taker, taker.addr, giver.addr, BLOCK + 9 * PAGE);
	end_verify(&taker, block(&taker, 3), block(&giver, 3), BLOCK);
	stop_both(&giver, &taker);
}

/* ---- what doesn't, and why */

struct why_scene {
	struct end giver, taker; /* all */
	struct end from, to;     /* what moves */
};

struct why_row {
	void (*prepare)(struct why_scene *s);
	uint32_t mode;
	enum pageferry_why why;
	size_t tables; /* blocks that move whole nevertheless */
	int ret;
	size_t moved; /* bytes, when that isn't 0 */
};

static void run_why(void)
{
	const struct why_row *row = test_row;
	struct why_scene s = {.giver = giver_start(SHORT, MAP_4K),
			      .taker = taker_start(SHORT + BLOCK, MAP_4K)};
	struct pf_answer answer;

	s.from = s.giver;
	s.to = s.taker;
	row->prepare(&s);
	answer = pf_move_tables(pf_open(), row->mode, &s.to, &s.from);
	check_is(answer.ret, row->ret);
	check_is(answer.why, row->why);
	check_is(answer.tables, row->tables * BLOCK);
	check_is(answer.moved, row->ret ? row->moved : s.from.len);
	end_verify(&s.to, s.to.addr, s.from.addr, answer.moved);
	/* Not the one that is told about. */
	if (row->ret && row->mode != ONLY)
		answer.moved += PAGE;
	end_verify(&s.from, s.from.addr + answer.moved, s.from.addr + answer.moved,
		   s.from.len - answer.moved);
	stop_both(&s.giver, &s.taker);
}

static void nothing(struct why_scene *s)
{
	(void)s;
}

static void apart(struct why_scene *s)
{
	s->to.addr += PAGE;
}

static void too_short(struct why_scene *s)
{
	s->from.len = BLOCK - PAGE;
}

static void between_tables(struct why_scene *s)
{
	s->from.addr += PAGE;
	s->to.addr += PAGE;
	s->from.len = 2 * BLOCK - 2 * PAGE;
}

static void giver_mergeable(struct why_scene *s)
{
	check_is(peer_madvise(s->giver.peer, s->giver.addr, SHORT, MADV_MERGEABLE), 0);
}

static void taker_mergeable(struct why_scene *s)
{
	check_is(peer_madvise(s->taker.peer, s->taker.addr, SHORT + BLOCK, MADV_MERGEABLE), 0);
}

static void merged(struct why_scene *s)
{
	uint64_t page = s->giver.addr + 2 * BLOCK + 9 * PAGE;

	giver_mergeable(s);
	peer_merge_page(s->giver.peer, page, page / PAGE);
}

static void giver_protected(struct why_scene *s)
{
	close(s->giver.uffd);
	s->giver.uffd = peer_uffd(s->giver.peer, UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	check_is(uffd_register(s->giver.uffd, s->giver.addr, SHORT,
			       UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP),
		 0);
	s->from.uffd = s->giver.uffd;
}

static void taker_is_a_stack(struct why_scene *s)
{
	const struct end *e = &s->taker;

	check_is(peer_syscall(e->peer, SYS_mmap, e->addr, e->len, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, (uint64_t)-1, 0),
		 e->addr);
	check_is(uffd_register(e->uffd, e->addr, e->len, UFFDIO_REGISTER_MODE_MISSING), 0);
}

static void zero_page(struct end *e, uint64_t at)
{
	struct uffdio_zeropage zero = {.range = {e->addr + at, PAGE}};

	check_call(ioctl(e->uffd, UFFDIO_ZEROPAGE, &zero));
}

/* Not in the way, but in the same mapping. */
static void taker_has_one_elsewhere(struct why_scene *s)
{
	zero_page(&s->taker, SHORT);
}

/* It is gone again, but its mapping has an anon_vma of its own. */
static void taker_had_a_page(struct why_scene *s)
{
	zero_page(&s->taker, SHORT);
	check_is(peer_madvise(s->taker.peer, s->taker.addr + SHORT, PAGE, MADV_DONTNEED), 0);
}

/* What came before has made it ready, and in the third block there is a page. */
static void taker_has_a_page(struct why_scene *s)
{
	struct end from = s->giver;

	from.len = BLOCK;
	pf_move_all_tables(pf_open(), &s->taker, &from);
	zero_page(&s->taker, 2 * BLOCK + 5 * PAGE);
	s->from.addr += BLOCK;
	s->to.addr += BLOCK;
	s->from.len = 3 * BLOCK;
}

/* And in that of the third block there was one: it has a table, which goes to the giver. */
static void taker_has_a_table(struct why_scene *s)
{
	taker_has_a_page(s);
	check_is(peer_madvise(s->taker.peer, s->taker.addr + 2 * BLOCK, BLOCK, MADV_DONTNEED), 0);
}

static void taker_has_only_a_table(struct why_scene *s)
{
	zero_page(&s->taker, BLOCK + 5 * PAGE);
	check_is(peer_madvise(s->taker.peer, s->taker.addr + BLOCK, BLOCK, MADV_DONTNEED), 0);
}

static void hole(struct why_scene *s)
{
	check_is(peer_madvise(s->giver.peer, s->giver.addr + BLOCK + 9 * PAGE, PAGE, MADV_DONTNEED),
		 0);
}

static void hole_at_the_end(struct why_scene *s)
{
	check_is(peer_madvise(s->giver.peer, s->giver.addr + 2 * BLOCK - PAGE, PAGE, MADV_DONTNEED),
		 0);
}

static void pinned(struct why_scene *s)
{
	peer_pin(s->giver.peer, s->giver.addr + 2 * BLOCK + 5 * PAGE);
}

/* Whoever has pinned once is looked at page by page, but nothing is pinned any more. */
static void was_pinned(struct why_scene *s)
{
	pinned(s);
	peer_unpin(s->giver.peer);
}

static void poisoned(struct why_scene *s)
{
	struct uffdio_poison poison = {.range = {s->giver.addr + BLOCK + 9 * PAGE, PAGE}};

	hole(s);
	check_call(ioctl(s->giver.uffd, UFFDIO_POISON, &poison));
}

/* ---- how it looks from the other side */

/* The entries keep their marks, so it is the mapping that says that they are new. */
static void soft_dirty(void)
{
	struct end giver = giver_start(SHORT, MAP_4K), taker = taker_start(SHORT, MAP_4K);
	char path[64];

	if (!count_pages(peer_pid(taker.peer), taker.addr, SHORT, PM_SOFT_DIRTY))
		test_skip("this kernel doesn't track soft-dirty pages");
	for (int i = 0; i < 2; i++) {
		pid_t pid = peer_pid(i ? giver.peer : taker.peer);

		snprintf(path, sizeof(path), "/proc/%d/clear_refs", (int)pid);
		check_is(file_write(path, "4"), 0);
	}
	check_is(count_pages(peer_pid(giver.peer), giver.addr, SHORT, PM_SOFT_DIRTY), 0);
	check_is(count_pages(peer_pid(taker.peer), taker.addr, SHORT, PM_SOFT_DIRTY), 0);
	pf_move_all_tables(pf_open(), &taker, &giver);
	check_is(count_pages(peer_pid(taker.peer), taker.addr, SHORT, PM_SOFT_DIRTY), SHORT / PAGE);
	snprintf(path, sizeof(path), "/proc/%d/clear_refs", (int)peer_pid(taker.peer));
	check_is(file_write(path, "4"), 0);
	check_is(count_pages(peer_pid(taker.peer), taker.addr, SHORT, PM_SOFT_DIRTY), 0);
	peer_fill(taker.peer, taker.addr + PAGE, PAGE, giver.addr / PAGE + 1, SEED);
	check_is(count_pages(peer_pid(taker.peer), taker.addr, SHORT, PM_SOFT_DIRTY), 1);
	has_all(&taker, &giver);
	stop_both(&giver, &taker);
}

/* For peer_thread(): address */
static int64_t run_poke(const uint64_t *arg)
{
	*(volatile uint64_t *)arg[0] = 1;
	return 0;
}

/* Threads that wait for pages go on. Each has made a table for its own. */
static void wakes(void)
{
	struct end giver = giver_start(SHORT, MAP_4K), taker = taker_start(SHORT, MAP_4K);
	int reads = peer_thread(taker.peer, peer_run_verify, taker.addr + BLOCK, BLOCK,
				(giver.addr + BLOCK) / PAGE, SEED);
	int writes;

	check_is(uffd_fault(taker.uffd), taker.addr + BLOCK);
	writes = peer_thread(taker.peer, run_poke, taker.addr + 3 * BLOCK);
	check_is(uffd_fault(taker.uffd), taker.addr + 3 * BLOCK);
	pf_move_all_tables(pf_open(), &taker, &giver);
	check_is(peer_join(taker.peer, reads, 10000), 0);
	check_is(peer_join(taker.peer, writes, 10000), 0);
	check_is(peer_peek(taker.peer, taker.addr + 3 * BLOCK), 1);
	peer_fill(taker.peer, taker.addr + 3 * BLOCK, PAGE, (giver.addr + 3 * BLOCK) / PAGE, SEED);
	has_all(&taker, &giver);
	stop_both(&giver, &taker);
}

/* The hole that is left is trapped. */
static void leaves_traps(void)
{
	struct end giver = giver_start(SHORT, MAP_4K), taker = taker_start(SHORT, MAP_4K);
	int thread;

	pf_move_all_tables(pf_open(), &taker, &giver);
	thread = peer_thread(giver.peer, peer_run_peek, giver.addr + BLOCK);
	check_is(uffd_fault(giver.uffd), giver.addr + BLOCK);
	check(!peer_thread_ended(giver.peer, thread, NULL));
	zero_page(&giver, BLOCK);
	check_is(peer_join(giver.peer, thread, 10000), 0);
	end_verify(&taker, taker.addr, giver.addr, SHORT);
	stop_both(&giver, &taker);
}

/* What can be done with a mapping can be done with this one. */
static void mapping_changes(void)
{
	struct end giver = giver_start(LEN, MAP_4K), taker = taker_start(LEN, MAP_4K);
	uint64_t room = peer_map(taker.peer, 0, LEN, MAP_4K);

	pf_move_all_tables(pf_open(), &taker, &giver);
	check_is(uffd_unregister(taker.uffd, taker.addr, LEN), 0);
	check_is(peer_mprotect(taker.peer, taker.addr + PAGE, BLOCK, PROT_READ), 0);
	peer_unmap(giver.peer, giver.addr, LEN / 2);
	check_is(peer_mprotect(taker.peer, taker.addr + PAGE, BLOCK, PROT_READ | PROT_WRITE), 0);
	check_is(peer_syscall(taker.peer, SYS_mremap, taker.addr + LEN / 2, LEN / 2, LEN / 2,
			      MREMAP_MAYMOVE | MREMAP_FIXED, room),
		 room);
	peer_unmap(taker.peer, taker.addr, BLOCK);
	end_verify(&taker, taker.addr + BLOCK, giver.addr + BLOCK, LEN / 2 - BLOCK);
	end_verify(&taker, room, giver.addr + LEN / 2, LEN / 2);
	stop_both(&giver, &taker);
}

/* ---- the charge stays where it was, and the cgroup can go nevertheless */

static void charge_stays(void)
{
	struct end giver, taker;
	uint64_t giver_kb, taker_kb;
	char path[64];

	group_make("giver");
	group_make("taker");
	giver = giver_make(group_peer("giver"), LEN, MAP_4K);
	taker = taker_make(group_peer("taker"), LEN, MAP_4K);
	giver_kb = group_kb("giver", "memory.current");
	taker_kb = group_kb("taker", "memory.current");
	pf_move_all_tables(pf_open(), &taker, &giver);
	check(near_kb(group_kb("giver", "memory.current"), giver_kb, SLACK_KB));
	check(near_kb(group_kb("taker", "memory.current"), taker_kb, SLACK_KB));
	end_verify(&taker, taker.addr, giver.addr, LEN);
	end_stop(&giver);
	check(group_kb("giver", "memory.current") >= LEN / 1024);
	snprintf(path, sizeof(path), GROUPS "/giver");
	await(5000, rmdir(path) == 0);
	end_verify(&taker, taker.addr, giver.addr, LEN);
	peer_fill(taker.peer, taker.addr, LEN, 1, SEED);
	peer_verify(taker.peer, taker.addr, LEN, 1, SEED);
	end_stop(&taker);
	group_end("taker");
}

#define WHY(fn, reason, ...)                                                                       \
	{                                                                                          \
		.name = SUBJECT "/why_" #fn, .run = run_why,                                       \
		.row = &(const struct why_row){                                                    \
			.prepare = fn, .why = PAGEFERRY_WHY_##reason, __VA_ARGS__},                \
	}

#define ONLY_WHY(fn, reason, ...)                                                                      \
	{                                                                                          \
		.name = SUBJECT "/only_" #fn, .run = run_why,                                      \
		.row = &(const struct why_row){.prepare = fn,                                      \
					       .mode = ONLY,                                       \
					       .why = PAGEFERRY_WHY_##reason,                      \
					       __VA_ARGS__},                                       \
	}

/* clang-format off */
const struct test tables_tests[] = {
	TEST(small),
	TEST(huge),
	TEST(written_since),
	TEST(mixed, .seconds = 60),
	TEST(no_table),
	TEST(no_pages),
	TEST(ends_in_tables),
	TEST(parts_of_mappings),
	TEST(far, .seconds = 60),
	TEST(exchanged_small),
	TEST(exchanged_huge),
	WHY(nothing, NONE, .tables = BLOCKS),
	WHY(apart, ALIGNMENT, .tables = 0),
	WHY(too_short, ALIGNMENT, .tables = 0),
	WHY(between_tables, ALIGNMENT, .tables = 0),
	WHY(giver_mergeable, NONE, .tables = BLOCKS),
	WHY(taker_mergeable, NONE, .tables = BLOCKS),
	WHY(merged, MERGED, .tables = 2, .ret = -EBUSY, .moved = 2 * BLOCK + 9 * PAGE),
	WHY(giver_protected, MAPPING, .tables = 0),
	WHY(taker_is_a_stack, MAPPING, .tables = 0),
	WHY(taker_has_one_elsewhere, OWN_PAGES, .tables = 0),
	WHY(taker_had_a_page, NONE, .tables = BLOCKS),
	WHY(taker_has_a_page, POPULATED, .tables = 1, .ret = -EEXIST, .moved = BLOCK + 5 * PAGE),
	WHY(taker_has_a_table, NONE, .tables = 3),
	WHY(taker_has_only_a_table, NONE, .tables = BLOCKS),
	WHY(hole, HOLE, .tables = 1, .ret = -ENOENT, .moved = BLOCK + 9 * PAGE),
	WHY(hole_at_the_end, HOLE, .tables = 1, .ret = -ENOENT, .moved = 2 * BLOCK - PAGE),
	WHY(pinned, PINNED, .tables = 2, .ret = -EBUSY, .moved = 2 * BLOCK + 5 * PAGE),
	WHY(was_pinned, NONE, .tables = BLOCKS),
	WHY(poisoned, OTHER, .tables = 1, .ret = -EFAULT, .moved = BLOCK + 9 * PAGE),
	ONLY_WHY(nothing, NONE, .tables = BLOCKS),
	ONLY_WHY(pinned, PINNED, .tables = 2, .ret = -EOPNOTSUPP, .moved = 2 * BLOCK),
	ONLY_WHY(merged, MERGED, .tables = 2, .ret = -EOPNOTSUPP, .moved = 2 * BLOCK),
	ONLY_WHY(taker_has_one_elsewhere, OWN_PAGES, .tables = 0, .ret = -EOPNOTSUPP),
	ONLY_WHY(giver_protected, MAPPING, .tables = 0, .ret = -EOPNOTSUPP),
	ONLY_WHY(apart, NONE, .tables = 0, .ret = -EINVAL),
	ONLY_WHY(too_short, NONE, .tables = 0, .ret = -EINVAL),
	TEST(only_with_holes),
	TEST(soft_dirty),
	TEST(wakes),
	TEST(leaves_traps),
	TEST(mapping_changes),
	TEST(charge_stays, .seconds = 60),
	{.name = NULL},
};
