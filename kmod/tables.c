// SPDX-License-Identifier: GPL-2.0-only
/* Page tables of two address spaces: what isn't needed at each page, see tables.h. */
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <asm/pgalloc.h>

#include "tables.h"

pmd_t *pf_find_pmd(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud;
	unsigned long table;

	if (!pgd_present(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	if (!p4d_present(*p4d))
		return NULL;
	pud = pud_offset(p4d, addr);
	/* Not a huge page: what is larger than a PMD maps only files. */
	table = pud_val(*pud);
	return table & _PAGE_PRESENT ? (pmd_t *)__va(table & PTE_PFN_MASK) + pmd_index(addr) : NULL;
}

/* Flat, since each level is a few instructions, and the calls between them would be as many again. */
void __flatten pf_find_pmds(struct pf_op *op)
{
	op->dst.pmd = pf_find_pmd(op->dst.mm, op->dst.addr);
	op->src.pmd = pf_find_pmd(op->src.mm, op->src.addr);
}

pmd_t *pf_alloc_pmd(struct mm_struct *mm, unsigned long addr)
{
	p4d_t *p4d = p4d_alloc(mm, pgd_offset(mm, addr), addr);
	pud_t *pud = p4d ? pud_alloc(mm, p4d, addr) : NULL;

	return pud ? pmd_alloc(mm, pud, addr) : NULL;
}

/* The first one is locked and the second is not to be had: each is waited for alone, the other one tried. */
void pf_lock_second(spinlock_t *a, spinlock_t *b)
{
	do {
		spin_unlock(a);
		swap(a, b);
		spin_lock(a);
	} while (!spin_trylock(b));
}

/* False. The kernel's own look tells of an entry that is broken, and clears it: it would be there for ever. */
bool pf_map_none(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd)
{
	pte_t *dst = pte_offset_map(dst_pmd, op->dst.addr);
	pte_t *src = pte_offset_map(src_pmd, op->src.addr);

	if (src)
		pte_unmap(src);
	if (dst)
		pte_unmap(dst);
	rcu_read_unlock();
	return false;
}
