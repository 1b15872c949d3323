/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page tables of two address spaces: find, allocate, lock.
 *
 * What always happens is inline, since a call that moves one page is to cost little more than the page;
 * what happens now and then is in tables.c.
 */
#ifndef PAGEFERRY_TABLES_H
#define PAGEFERRY_TABLES_H

#include <linux/mm.h>
#include <linux/pgtable.h>

#include "move.h"

/*
 * What the entry found holds may change at any time: a fault may put a huge page there, khugepaged or
 * MADV_DONTNEED may take a table away. Whoever uses it looks again under the table's lock.
 */
void pf_find_pmds(struct pf_op *op);
/* NULL: there is nothing in all that a table of PMDs would map. */
pmd_t *pf_find_pmd(struct mm_struct *mm, unsigned long addr);
pmd_t *pf_alloc_pmd(struct mm_struct *mm, unsigned long addr);

static inline unsigned long pf_read_pmd(pmd_t *pmd)
{
	return pmd_val(pmdp_get_lockless(pmd));
}

/* Neither empty nor a huge page, as far as can be said without its lock. */
static inline bool pf_has_table(pmd_t *pmd)
{
	return (pf_read_pmd(pmd) & (_PAGE_PRESENT | _PAGE_PSE)) == _PAGE_PRESENT;
}

/*
 * The same, and not broken: what isn't pmd_bad(). That one, and pte_offset_kernel(), ask first whether
 * it is a huge page, of which the frame's number has fewer bits. A table's has all of them, and the bit that
 * makes it a huge page is one of those that are compared.
 */
static inline bool pf_is_table(unsigned long pmd)
{
	const unsigned long either = _PAGE_USER | _PAGE_ACCESSED;

	return (pmd & PTE_FLAGS_MASK & ~either) == (_KERNPG_TABLE & ~either);
}

static inline pte_t *pf_pte(unsigned long pmd, unsigned long addr)
{
	return (pte_t *)__va(pmd & PTE_PFN_MASK) + pte_index(addr);
}

/* ---- locks */

void pf_lock_second(spinlock_t *a, spinlock_t *b);

/*
 * In the order of their addresses, since another mover may go the other way. But mremap() has no such
 * order: it locks two tables of one process, the old one first, and needs neither of our VMAs for that.
 * With two movers it could be a circle, so the second one is only tried.
 */
static inline void pf_lock_tables(spinlock_t *a, spinlock_t *b)
{
	if (a > b)
		swap(a, b);
	spin_lock(a);
	if (a != b && unlikely(!spin_trylock(b)))
		pf_lock_second(a, b);
}

static inline void pf_unlock_tables(spinlock_t *a, spinlock_t *b)
{
	spin_unlock(a);
	if (a != b)
		spin_unlock(b);
}

/* ---- the page tables of both sides, mapped and locked */

struct pf_tables {
	pte_t *dst, *src;
	spinlock_t *dst_ptl, *src_ptl;
};

bool pf_map_none(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd);

static inline void pf_unmap_both(struct pf_tables *t)
{
	pf_unlock_tables(t->dst_ptl, t->src_ptl);
	rcu_read_unlock();
}

/*
 * False: there is no page table on one of the sides, or not any more. Empty entries look the same in a
 * table that was just taken away, so it is the PMD entries that are compared under the locks. Until then
 * RCU keeps the tables from being freed: as pte_offset_map() does for each, but once for both.
 */
static inline bool pf_map_both(struct pf_op *op, struct pf_tables *t, pmd_t *dst_pmd, pmd_t *src_pmd)
{
	unsigned long dst, src;

	rcu_read_lock();
	dst = pf_read_pmd(dst_pmd);
	src = pf_read_pmd(src_pmd);
	if (unlikely(!pf_is_table(dst) || !pf_is_table(src)))
		return pf_map_none(op, dst_pmd, src_pmd);
	t->dst = pf_pte(dst, op->dst.addr);
	t->src = pf_pte(src, op->src.addr);
	t->dst_ptl = ptep_lockptr(op->dst.mm, t->dst);
	t->src_ptl = ptep_lockptr(op->src.mm, t->src);
	pf_lock_tables(t->dst_ptl, t->src_ptl);
	if (likely(dst == pf_read_pmd(dst_pmd) && src == pf_read_pmd(src_pmd)))
		return true;
	pf_unmap_both(t);
	return false;
}

#endif
