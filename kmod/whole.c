// SPDX-License-Identifier: GPL-2.0-only
/*
 * Whole page tables, with whatever is in them: no entry and no folio is touched, and so a page
 * costs hardly anything. Huge pages go beside them in the same way.
 *
 * A folio says where it is mapped by an anon_vma and an index. That stays true only where the
 * receiver's mapping hangs on all anon_vmas that the giver's hangs on, and has the page at the same
 * index. So the receiver's is made what a child's would be after fork, but for the address; rmap
 * never asks for more.
 *
 * Nobody sees what happens in between: both mmap locks are held for writing, and so are the
 * mappings' own, which keeps out faults, page-table walks, ksmd, khugepaged and the OOM reaper; and
 * so is the lock of the anon_vmas' root, which keeps out all that comes from the folio: reclaim,
 * migration, splitting. Only lock-less pinning is left, and the CPU's own walk. Both end with the
 * flush.
 */
#include <linux/ksm.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/mmu_notifier.h>
#include <linux/rmap.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <asm/pgalloc.h>

#include "compat/compat.h"
#include "move.h"
#include "park.h"
#include "plan.h"
#include "tables.h"
#include "trace.h"

/* At once, with one flush: 128 MiB. The locks are given up in between. */
#define PF_TABLES 64

struct pf_sums {
	long anon_pages, swapped;
};

/* Consecutive entries on either side in one table of PMDs, from op->dst.pmd and op->src.pmd on. */
struct pf_batch {
	unsigned int n;
	struct pf_sums sums;
	pmd_t was[PF_TABLES];	/* the source's */
	pmd_t empty[PF_TABLES]; /* the destination's: none, or a table that goes the other way */
};

static enum pageferry_why pf_stays(struct pf_op *op, enum pageferry_why why)
{
	if (!op->why)
		op->why = why;
	return why;
}

/* ---- the mappings */

static bool pf_hangs_on(const struct vm_area_struct *vma, const struct anon_vma *anon_vma)
{
	const struct anon_vma_chain *avc;

	list_for_each_entry(avc, &vma->anon_vma_chain, same_vma)
		if (avc->anon_vma == anon_vma)
			return true;
	return false;
}

/* Whichever anon_vma of the source's a folio may have, rmap finds the destination by it. */
static bool pf_is_child(const struct pf_op *op)
{
	struct vm_area_struct *dst = op->dst.vma, *src = op->src.vma;
	const struct anon_vma_chain *avc;

	if (linear_page_index(dst, op->dst.addr) != linear_page_index(src, op->src.addr))
		return false;
	list_for_each_entry(avc, &src->anon_vma_chain, same_vma)
		if (!pf_hangs_on(dst, avc->anon_vma) && !pf_skips_rmap())
			return false;
	return true;
}

static bool pf_is_empty_table(pmd_t pmd, unsigned long addr, unsigned long end)
{
	const pte_t *pte = pf_pte(pmd_val(pmd), addr);

	for (; addr < end; addr += PAGE_SIZE, pte++)
		if (!pte_none(READ_ONCE(*pte)))
			return false;
	return true;
}

static bool pf_has_no_entry(const struct vm_area_struct *vma)
{
	unsigned long addr = vma->vm_start, next;

	for (; addr < vma->vm_end; addr = next) {
		pmd_t *pmd = pf_find_pmd(vma->vm_mm, addr), was;

		next = pmd ? pmd_addr_end(addr, vma->vm_end) : pud_addr_end(addr, vma->vm_end);
		if (!pmd)
			continue;
		was = pmdp_get_lockless(pmd);
		if (pmd_none(was))
			continue;
		cond_resched();
		if (!pf_is_table(pmd_val(was)) || !pf_is_empty_table(was, addr, next))
			return false;
	}
	return true;
}

/*
 * No page, and no entry of one that is elsewhere. There may be tables: who waits for a page has one
 * already. While reclaim exchanges an entry for another there is none for a moment, which the
 * anon_vmas' lock keeps from us.
 */
static bool pf_is_empty(const struct vm_area_struct *vma)
{
	bool empty;

	anon_vma_lock_write(vma->anon_vma);
	empty = pf_has_no_entry(vma);
	anon_vma_unlock_write(vma->anon_vma);
	return empty;
}

/*
 * A mapping that has no page may have any offset: no folio has an index by it, and it is in no
 * tree. One that would begin before the offset 0 can't be had.
 */
static enum pageferry_why pf_make_child(const struct pf_op *op)
{
	struct vm_area_struct *dst = op->dst.vma;
	pgoff_t index = linear_page_index(op->src.vma, op->src.addr);
	pgoff_t before = (op->dst.addr - dst->vm_start) >> PAGE_SHIFT;

	if (index < before)
		return PAGEFERRY_WHY_ALIGNMENT;
	dst->vm_pgoff = index - before;
	if (pf_skips_rmap() ? anon_vma_prepare(dst) : anon_vma_fork(dst, op->src.vma))
		return PAGEFERRY_WHY_NO_MEMORY;
	return PAGEFERRY_WHY_NONE;
}

/*
 * What holds for all of the range. The entries keep their protection by userfaultfd, which is the
 * source's.
 */
static enum pageferry_why pf_share(const struct pf_op *op)
{
	struct vm_area_struct *dst = op->dst.vma, *src = op->src.vma;

	/* A stack couldn't grow below the offset that it would get. */
	if ((src->vm_flags & VM_UFFD_WP) || (dst->vm_flags & VM_GROWSDOWN))
		return PAGEFERRY_WHY_MAPPING;
	if (!src->anon_vma)
		return PAGEFERRY_WHY_NO_PAGES;
	if (dst->anon_vma) {
		if (pf_is_child(op))
			return PAGEFERRY_WHY_NONE;
		if (!pf_is_empty(dst))
			return PAGEFERRY_WHY_OWN_PAGES;
		/* What it had is gone; so what that was found by may go, as when it is unmapped. */
		unlink_anon_vmas(dst);
	}
	return pf_make_child(op);
}

/* ---- what is in a table */

static const pte_t *pf_table(pmd_t pmd)
{
	return pf_pte(pmd_val(pmd), 0);
}

/* KSM finds whom it has merged by address, and never lets him write. */
static bool pf_is_merged(pte_t pte)
{
	return !pte_write(pte) && folio_test_ksm(page_folio(pte_page(pte)));
}

/* With anything else in it than pages that can be written to, each entry is looked at for what it is. */
static enum pageferry_why pf_count_each(const struct pf_op *op, const pte_t *table,
					struct pf_sums *sums)
{
	for (unsigned int i = 0; i < PTRS_PER_PTE; i++) {
		pte_t pte = READ_ONCE(table[i]);

		if (pte_none(pte)) {
			if (!(op->mode & PAGEFERRY_MOVE_ALLOW_SRC_HOLES))
				return PAGEFERRY_WHY_HOLE;
		} else if (!pte_present(pte)) {
			if (non_swap_entry(pte_to_swp_entry(pte)))
				return PAGEFERRY_WHY_OTHER;
			if (!pte_swp_exclusive(pte) && pf_is_cached_merged(pte_to_swp_entry(pte)))
				return PAGEFERRY_WHY_MERGED;
			sums->swapped++;
		} else if (pte_special(pte)) {
			if (!is_zero_pfn(pte_pfn(pte)))
				return PAGEFERRY_WHY_OTHER;
			if (is_ksm_zero_pte(pte))
				return PAGEFERRY_WHY_MERGED;
		} else if (pf_is_merged(pte)) {
			return PAGEFERRY_WHY_MERGED;
		} else {
			sums->anon_pages++;
		}
	}
	return PAGEFERRY_WHY_NONE;
}

/* A page that is there, and isn't merged, has two bits and not the third: then nothing has to be counted. */
static enum pageferry_why pf_count_table(const struct pf_op *op, const pte_t *table,
					 struct pf_sums *sums)
{
	const unsigned long plain = _PAGE_PRESENT | _PAGE_RW;
	unsigned long all = ~0UL, any = 0;

#pragma GCC unroll 16
	for (unsigned int i = 0; i < PTRS_PER_PTE; i++) {
		unsigned long pte = READ_ONCE(table[i].pte);

		all &= pte;
		any |= pte;
	}
	if (unlikely((all & plain) != plain || (any & _PAGE_SPECIAL)))
		return pf_count_each(op, table, sums);
	sums->anon_pages += PTRS_PER_PTE;
	return PAGEFERRY_WHY_NONE;
}

static enum pageferry_why pf_count_entry(const struct pf_op *op, pmd_t pmd, struct pf_sums *sums)
{
	if (pmd_none(pmd))
		return op->mode & PAGEFERRY_MOVE_ALLOW_SRC_HOLES ? PAGEFERRY_WHY_NONE
								  : PAGEFERRY_WHY_HOLE;
	if (pf_is_table(pmd_val(pmd)))
		return pf_count_table(op, pf_table(pmd), sums);
	/*
	 * The huge zero page is counted for each process that has it; and of one that is broken the
	 * good pages go alone.
	 */
	if (!pmd_trans_huge(pmd) || is_huge_zero_pmd(pmd) ||
	    folio_test_has_hwpoisoned(pmd_folio(pmd)))
		return PAGEFERRY_WHY_OTHER;
	sums->anon_pages += HPAGE_PMD_NR;
	return PAGEFERRY_WHY_NONE;
}

/* ---- pins */

static bool pf_is_page_pinned(pte_t pte)
{
	return pte_present(pte) && !pte_special(pte) &&
	       folio_maybe_dma_pinned(page_folio(pte_page(pte)));
}

/* What is mapped in the plain way, as mostly, needs fewer questions. */
static bool pf_is_any_pinned(const pte_t *table)
{
	for (unsigned int i = 0; i < PTRS_PER_PTE; i++) {
		pte_t pte = READ_ONCE(table[i]);

		if (likely((pte.pte & (_PAGE_PRESENT | _PAGE_SPECIAL)) == _PAGE_PRESENT)) {
			struct page *page = pfn_to_page((pte_val(pte) & PTE_PFN_MASK) >> PAGE_SHIFT);

			if (folio_maybe_dma_pinned(page_folio(page)))
				return true;
		} else if (pf_is_page_pinned(pte)) {
			return true;
		}
	}
	return false;
}

/*
 * Whoever pins a page of the process says so at its mm before he looks at any page table, once and
 * for all; so of most processes it is known that nothing is pinned.
 */
static bool pf_is_pinned(const struct pf_op *op, pmd_t pmd)
{
	if (likely(!test_bit(MMF_HAS_PINNED, &op->src.mm->flags)) || pmd_none(pmd))
		return false;
	if (pmd_trans_huge(pmd))
		return folio_maybe_dma_pinned(pmd_folio(pmd));
	return pf_is_any_pinned(pf_table(pmd));
}

/* ---- a batch */

/*
 * As far as one table of PMDs goes on either side. Both are made where they are missing, since
 * memory can't be had under the anon_vmas' lock: reclaim wants to have it, too.
 */
static bool pf_begin_batch(struct pf_op *op, struct pf_batch *b)
{
	unsigned int dst_room = PTRS_PER_PMD - pmd_index(op->dst.addr);
	unsigned int src_room = PTRS_PER_PMD - pmd_index(op->src.addr);

	b->n = min3(min_t(unsigned long, op->left / PMD_SIZE, PF_TABLES), dst_room, src_room);
	b->sums = (struct pf_sums){};
	op->dst.pmd = pf_alloc_pmd(op->dst.mm, op->dst.addr);
	op->src.pmd = pf_alloc_pmd(op->src.mm, op->src.addr);
	return op->dst.pmd && op->src.pmd;
}

/* Who waits for a page at the destination has made a table for it. */
static bool pf_has_room(pmd_t dst)
{
	return pmd_none(dst) || (pf_is_table(pmd_val(dst)) && pf_is_empty_table(dst, 0, PMD_SIZE));
}

static enum pageferry_why pf_check_entry(struct pf_op *op, struct pf_batch *b, unsigned int i)
{
	pmd_t src = pmdp_get_lockless(op->src.pmd + i), dst = pmdp_get_lockless(op->dst.pmd + i);
	struct pf_sums sums = {};
	enum pageferry_why why;

	if (!pf_has_room(dst))
		return PAGEFERRY_WHY_POPULATED;
	why = pf_count_entry(op, src, &sums);
	if (!why && pf_is_pinned(op, src) && !pf_skips_early())
		why = PAGEFERRY_WHY_PINNED;
	if (why)
		return why;
	b->was[i] = src;
	b->empty[i] = pmd_none(src) ? __pmd(0) : dst;
	b->sums.anon_pages += sums.anon_pages;
	b->sums.swapped += sums.swapped;
	return PAGEFERRY_WHY_NONE;
}

/* How many from the first on can move. The anon_vmas' lock keeps their entries what they are. */
static unsigned int pf_check_batch(struct pf_op *op, struct pf_batch *b)
{
	for (unsigned int i = 0; i < b->n; i++)
		if (pf_stays(op, pf_check_entry(op, b, i)))
			return i;
	return b->n;
}

static unsigned int pf_clear_source(struct pf_op *op, struct pf_batch *b, unsigned int n)
{
	unsigned long addr = op->src.addr;
	unsigned int cleared = 0;

	for (unsigned int i = 0; i < n; i++, addr += PMD_SIZE) {
		if (pmd_none(b->was[i]))
			continue;
		/* The CPU may have noted an access since it was read. */
		if (pmd_trans_huge(b->was[i]))
			b->was[i] = pmdp_huge_get_and_clear(op->src.mm, addr, op->src.pmd + i);
		else
			pmd_clear(op->src.pmd + i);
		cleared++;
	}
	return cleared;
}

static unsigned int pf_clear_destination(struct pf_op *op, const struct pf_batch *b, unsigned int n)
{
	unsigned int cleared = 0;

	for (unsigned int i = 0; i < n; i++) {
		if (pmd_none(b->empty[i]))
			continue;
		pmd_clear(op->dst.pmd + i);
		cleared++;
	}
	return cleared;
}

/*
 * With all that CPUs keep of the tables themselves, as a table that goes the other way would still be walked
 * at the destination. Lock-less pinning runs with interrupts off: whoever has seen an entry before it
 * was cleared has come to his end after the flush, but where a hypervisor does that, and sends no interrupt;
 * hence one more.
 */
static void pf_flush_batch(struct pf_op *op, unsigned long len, unsigned int src, unsigned int dst)
{
	if (dst)
		flush_tlb_mm_range(op->dst.mm, op->dst.addr, op->dst.addr + len, PAGE_SHIFT, true);
	if (!src)
		return;
	flush_tlb_mm_range(op->src.mm, op->src.addr, op->src.addr + len, PAGE_SHIFT, true);
	tlb_remove_table_sync_one();
	trace_pageferry_flush(op->src.mm, op->src.addr, len, src);
}

static void pf_clear_batch(struct pf_op *op, struct pf_batch *b, unsigned int n)
{
	spinlock_t *dst_ptl = pmd_lockptr(op->dst.mm, op->dst.pmd);
	spinlock_t *src_ptl = pmd_lockptr(op->src.mm, op->src.pmd);
	unsigned int src, dst;

	pf_lock_tables(dst_ptl, src_ptl);
	src = pf_clear_source(op, b, n);
	dst = pf_clear_destination(op, b, n);
	pf_unlock_tables(dst_ptl, src_ptl);
	pf_flush_batch(op, n * PMD_SIZE, src, dst);
}

/* What was pinned since the first look stays; so do those behind it, as progress is a length. */
static unsigned int pf_recheck_batch(struct pf_op *op, struct pf_batch *b, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		if (pf_is_pinned(op, b->was[i]) && !pf_skips_recheck()) {
			pf_stays(op, PAGEFERRY_WHY_PINNED);
			return i;
		}
	return n;
}

static void pf_put_table(struct mm_struct *mm, pmd_t *pmd, pmd_t table)
{
	if (!pmd_none(table))
		pmd_populate(mm, pmd, pmd_pgtable(table));
}

/* Counted as before: of a huge page it may have turned out meanwhile that it is broken. */
static struct pf_sums pf_count_again(const struct pf_op *op, pmd_t was)
{
	struct pf_sums sums = {};

	if (pmd_trans_huge(was))
		sums.anon_pages = HPAGE_PMD_NR;
	else
		pf_count_table(op, pf_table(was), &sums);
	return sums;
}

static void pf_put_back_entry(struct pf_op *op, struct pf_batch *b, unsigned int i)
{
	pmd_t was = b->was[i];
	struct pf_sums sums;

	if (pmd_none(was))
		return;
	if (pmd_trans_huge(was))
		set_pmd_at(op->src.mm, op->src.addr + i * PMD_SIZE, op->src.pmd + i, was);
	else
		pf_put_table(op->src.mm, op->src.pmd + i, was);
	pf_put_table(op->dst.mm, op->dst.pmd + i, b->empty[i]);
	sums = pf_count_again(op, was);
	b->sums.anon_pages -= sums.anon_pages;
	b->sums.swapped -= sums.swapped;
	pf_count_put_back(HPAGE_PMD_NR);
}

/* A huge page has a table in reserve, which goes along, and is counted as such. */
static void pf_install_entry(struct pf_op *op, struct pf_batch *b, unsigned int i)
{
	pmd_t *dst = op->dst.pmd + i, *src = op->src.pmd + i;
	pmd_t was = b->was[i];

	if (pmd_none(was))
		return;
	if (pmd_trans_huge(was)) {
		pgtable_trans_huge_deposit(op->dst.mm, dst,
					   pgtable_trans_huge_withdraw(op->src.mm, src));
		set_pmd_at(op->dst.mm, op->dst.addr + i * PMD_SIZE, dst, was);
	} else {
		pf_put_table(op->dst.mm, dst, was);
	}
	pf_put_table(op->src.mm, src, b->empty[i]);
	if (pmd_none(b->empty[i])) {
		mm_dec_nr_ptes(op->src.mm);
		mm_inc_nr_ptes(op->dst.mm);
	}
	op->tables += PMD_SIZE;
}

static void pf_install_batch(struct pf_op *op, struct pf_batch *b, unsigned int n, unsigned int all)
{
	spinlock_t *dst_ptl = pmd_lockptr(op->dst.mm, op->dst.pmd);
	spinlock_t *src_ptl = pmd_lockptr(op->src.mm, op->src.pmd);

	pf_lock_tables(dst_ptl, src_ptl);
	for (unsigned int i = 0; i < n; i++)
		pf_install_entry(op, b, i);
	for (unsigned int i = n; i < all; i++)
		pf_put_back_entry(op, b, i);
	pf_unlock_tables(dst_ptl, src_ptl);
}

static void pf_count_batch(struct pf_op *op, const struct pf_batch *b)
{
	const struct pf_sums *sums = &b->sums;

	update_hiwater_rss(op->src.mm);
	add_mm_counter(op->src.mm, MM_ANONPAGES, -sums->anon_pages);
	add_mm_counter(op->dst.mm, MM_ANONPAGES, sums->anon_pages);
	if (!sums->swapped)
		return;
	add_mm_counter(op->src.mm, MM_SWAPENTS, -sums->swapped);
	add_mm_counter(op->dst.mm, MM_SWAPENTS, sums->swapped);
}

/* Returns how many have moved. */
static unsigned int pf_move_locked(struct pf_op *op, struct pf_batch *b)
{
	unsigned int can = pf_check_batch(op, b), done;

	if (!can)
		return 0;
	pf_park_before_clear();
	pf_clear_batch(op, b, can);
	pf_park_after_clear();
	done = pf_recheck_batch(op, b, can);
	if (b->sums.swapped)
		pf_join_mmlist(op->dst.mm);
	/*
	 * The entries keep their marks, so whoever tracks changes at the destination is told that
	 * all of the mapping has changed, as if it were new.
	 */
	vm_flags_set(op->dst.vma, VM_SOFTDIRTY);
	pf_install_batch(op, b, done, can);
	pf_count_batch(op, b);
	return done;
}

static unsigned int pf_move_batch(struct pf_op *op, struct pf_batch *b)
{
	struct anon_vma *anon_vma = op->src.vma->anon_vma;
	struct mmu_notifier_range range __uninitialized;
	unsigned int done;
	bool told;

	told = pf_tell_start(op, &range, b->n * PMD_SIZE);
	anon_vma_lock_write(anon_vma);
	done = pf_move_locked(op, b);
	anon_vma_unlock_write(anon_vma);
	if (told)
		mmu_notifier_invalidate_range_end(&range);
	return done;
}

/* The one that stays goes page by page, or is told about. */
static void pf_move_some(struct pf_op *op)
{
	struct pf_batch b __uninitialized;
	unsigned int done = 0;

	if (pf_begin_batch(op, &b))
		done = pf_move_batch(op, &b);
	else
		pf_stays(op, PAGEFERRY_WHY_NO_MEMORY);
	pf_advance(op, done * PMD_SIZE);
	op->whole_from = op->dst.addr;
	if (done < b.n)
		op->whole_from += PMD_SIZE;
}

/* Nothing else is to be tried. */
static bool pf_gives_up(const struct pf_op *op)
{
	return (op->mode & PAGEFERRY_MOVE_TABLES_ONLY) && !pf_whole_is_due(op);
}

/*
 * Where the range begins within a table the mappings are made ready all the same: the first page
 * that goes alone would be the end of it, as it gives the destination an anon_vma of its own.
 */
int pf_move_whole(struct pf_op *op)
{
	unsigned long ahead = pf_plan_to_table(op->dst.addr, op->src.addr, op->left);
	enum pageferry_why why;
	int err;

	op->whole_from = ULONG_MAX;
	if (ahead == op->left) {
		if (!op->moved)
			pf_stays(op, PAGEFERRY_WHY_ALIGNMENT);
		return 0;
	}
	err = pf_lock_alone(op);
	if (err)
		return err;
	why = pf_stays(op, pf_share(op));
	if (!why && ahead)
		op->whole_from = op->dst.addr + ahead;
	else if (!why)
		pf_move_some(op);
	pf_unlock_alone(op);
	if (!op->left)
		return 0;
	if (fatal_signal_pending(current))
		return -EINTR;
	return pf_gives_up(op) ? -EOPNOTSUPP : 0;
}
