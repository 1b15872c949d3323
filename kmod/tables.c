// SPDX-License-Identifier: GPL-2.0-only
/* Page tables of two address spaces: find, allocate, lock. */
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <asm/pgalloc.h>

#include "move.h"

/*
 * What the entry found holds may change at any time: a fault may put a huge page there, khugepaged or
 * MADV_DONTNEED may take a table away. Whoever uses it looks again under the table's lock.
 */
pmd_t *pf_find_pmd(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud;

	if (!pgd_present(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	if (!p4d_present(*p4d))
		return NULL;
	pud = pud_offset(p4d, addr);
	return pud_present(*pud) ? pmd_offset(pud, addr) : NULL;
}

pmd_t *pf_alloc_pmd(struct mm_struct *mm, unsigned long addr)
{
	p4d_t *p4d = p4d_alloc(mm, pgd_offset(mm, addr), addr);
	pud_t *pud = p4d ? pud_alloc(mm, p4d, addr) : NULL;

	return pud ? pmd_alloc(mm, pud, addr) : NULL;
}

/*
 * In the order of their addresses, since another mover may go the other way. But mremap() has no such
 * order: it locks two tables of one process, the old one first, and needs neither of our VMAs for that.
 * With two movers it could be a circle, so the second one is only tried, and then waited for alone.
 */
void pf_lock_tables(spinlock_t *a, spinlock_t *b)
{
	if (a > b)
		swap(a, b);
	spin_lock(a);
	while (a != b && !spin_trylock(b)) {
		spin_unlock(a);
		swap(a, b);
		spin_lock(a);
	}
}

void pf_unlock_tables(spinlock_t *a, spinlock_t *b)
{
	spin_unlock(a);
	if (a != b)
		spin_unlock(b);
}

void pf_unmap_both(struct pf_tables *t)
{
	pf_unlock_tables(t->dst_ptl, t->src_ptl);
	pte_unmap(t->src);
	pte_unmap(t->dst);
}

/*
 * False: there is no page table on one of the sides, or not any more. Empty entries look the same in a
 * table that was just taken away, so it is the PMD entries that are compared under the locks.
 */
bool pf_map_both(struct pf_op *op, struct pf_tables *t, pmd_t *dst_pmd, pmd_t *src_pmd)
{
	pmd_t dst_val, src_val;

	t->dst_pmd = dst_pmd;
	t->src_pmd = src_pmd;
	t->dst = __pte_offset_map(dst_pmd, op->dst.addr, &dst_val);
	if (!t->dst)
		return false;
	t->src = __pte_offset_map(src_pmd, op->src.addr, &src_val);
	if (!t->src) {
		pte_unmap(t->dst);
		return false;
	}
	t->dst_ptl = pte_lockptr(op->dst.mm, &dst_val);
	t->src_ptl = pte_lockptr(op->src.mm, &src_val);
	pf_lock_tables(t->dst_ptl, t->src_ptl);
	if (pmd_same(dst_val, pmdp_get_lockless(dst_pmd)) &&
	    pmd_same(src_val, pmdp_get_lockless(src_pmd)))
		return true;
	pf_unmap_both(t);
	return false;
}
