// SPDX-License-Identifier: GPL-2.0-only
/* A huge page that goes as one: its PMD entry and the page table that is deposited with it. */
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "compat/compat.h"
#include "move.h"
#include "park.h"
#include "trace.h"

/* The folio at @src_pmd, locked and with a reference of ours; NULL: op->stop says why not. */
static struct folio *pf_huge_folio(struct pf_op *op, pmd_t *src_pmd)
{
	spinlock_t *ptl = pmd_lock(op->src.mm, src_pmd);
	struct folio *folio = NULL;
	pmd_t pmd = *src_pmd;

	if (is_pmd_migration_entry(pmd)) {
		spin_unlock(ptl);
		pmd_migration_entry_wait(op->src.mm, src_pmd);
		pf_stop(op, PF_STOP_RETRY);
		return NULL;
	}
	pf_stop(op, PF_STOP_RETRY);
	if (pmd_trans_huge(pmd) && !is_huge_zero_pmd(pmd)) {
		folio = pmd_folio(pmd);
		if (!folio_test_anon(folio) || !PageAnonExclusive(pmd_page(pmd)) ||
		    (folio_maybe_dma_pinned(folio) && !pf_skips_early())) {
			trace_pageferry_refuse(op->src.mm, op->src.addr, -EBUSY, "huge");
			pf_fail(op, -EBUSY);
			folio = NULL;
		}
	}
	if (folio)
		folio_get(folio);
	spin_unlock(ptl);
	if (folio)
		folio_lock(folio);
	return folio;
}

static pmd_t pf_moved_pmd(struct vm_area_struct *vma, struct folio *folio)
{
	pmd_t pmd = pmd_mkhuge(mk_pmd(&folio->page, vma->vm_page_prot));

	/* Dirty as after mremap. */
	return pmd_mksoft_dirty(pmd_mkwrite(pmd_mkdirty(pmd), vma));
}

/* The table in reserve, for a later split, goes along. */
static void pf_install_huge(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd, struct folio *folio)
{
	pgtable_t table = pgtable_trans_huge_withdraw(op->src.mm, src_pmd);

	folio_move_anon_rmap(folio, op->dst.vma);
	folio->index = linear_page_index(op->dst.vma, op->dst.addr);
	pgtable_trans_huge_deposit(op->dst.mm, dst_pmd, table);
	set_pmd_at(op->dst.mm, op->dst.addr, dst_pmd, pf_moved_pmd(op->dst.vma, folio));
	mm_dec_nr_ptes(op->src.mm);
	mm_inc_nr_ptes(op->dst.mm);
	add_mm_counter(op->src.mm, MM_ANONPAGES, -HPAGE_PMD_NR);
	add_mm_counter(op->dst.mm, MM_ANONPAGES, HPAGE_PMD_NR);
}

/* Under both locks: clear, flush, look again, install or put back. */
static bool pf_commit_huge(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd, struct folio *folio,
			   bool *isolated)
{
	pmd_t was;

	if (!pmd_none(*dst_pmd) || !pmd_trans_huge(*src_pmd) || pmd_folio(*src_pmd) != folio)
		return pf_stop(op, PF_STOP_RETRY);
	if (!PageAnonExclusive(&folio->page))
		return pf_fail(op, -EBUSY);
	if (pf_is_in_use(folio) && !pf_skips_early())
		return pf_stop(op, PF_STOP_IN_USE);
	pf_park_before_clear();
	was = pmdp_huge_clear_flush(op->src.vma, op->src.addr, src_pmd);
	trace_pageferry_flush(op->src.mm, op->src.addr, HPAGE_PMD_SIZE, 1);
	pf_park_after_clear();
	if (!pf_is_in_use(folio) || pf_skips_recheck()) {
		*isolated = pf_memcg_differs(op, folio) && pf_memcg_take(op, folio);
		if (*isolated || !pf_memcg_differs(op, folio)) {
			pf_install_huge(op, dst_pmd, src_pmd, folio);
			return true;
		}
	}
	set_pmd_at(op->src.mm, op->src.addr, src_pmd, was);
	pf_count_put_back(HPAGE_PMD_NR);
	return pf_stop(op, PF_STOP_IN_USE);
}

static bool pf_huge_is_charged(struct pf_op *op, struct folio *folio)
{
	if (!pf_memcg_differs(op, folio) || op->charged >= HPAGE_PMD_NR)
		return true;
	op->wanted = HPAGE_PMD_NR;
	return pf_stop(op, PF_STOP_CHARGE);
}

static bool pf_move_huge_folio(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd,
			       struct folio *folio, bool *isolated)
{
	spinlock_t *dst_ptl = pmd_lockptr(op->dst.mm, dst_pmd);
	spinlock_t *src_ptl = pmd_lockptr(op->src.mm, src_pmd);
	struct anon_vma *anon_vma;
	bool moved;

	if (!pf_huge_is_charged(op, folio))
		return false;
	/* split_huge_page() walks it without the folio's lock. */
	anon_vma = folio_get_anon_vma(folio);
	if (!anon_vma)
		return pf_stop(op, PF_STOP_RETRY);
	anon_vma_lock_write(anon_vma);
	pf_lock_tables(dst_ptl, src_ptl);
	moved = pf_commit_huge(op, dst_pmd, src_pmd, folio, isolated);
	pf_unlock_tables(dst_ptl, src_ptl);
	anon_vma_unlock_write(anon_vma);
	put_anon_vma(anon_vma);
	return moved;
}

unsigned int pf_move_huge(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd)
{
	struct mmu_notifier_range range;
	struct folio *folio = pf_huge_folio(op, src_pmd);
	bool moved, isolated = false;

	if (!folio)
		return 0;
	op->stop = PF_STOP_NONE;
	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, op->src.mm, op->src.addr,
				op->src.addr + HPAGE_PMD_SIZE);
	mmu_notifier_invalidate_range_start(&range);
	moved = pf_move_huge_folio(op, dst_pmd, src_pmd, folio, &isolated);
	mmu_notifier_invalidate_range_end(&range);
	if (isolated)
		folio_putback_lru(folio);
	folio_unlock(folio);
	/* Only now, without our lock and in its new cgroup, may it be queued to be split. */
	if (isolated)
		deferred_split_folio(folio, false);
	folio_put(folio);
	return moved ? HPAGE_PMD_NR : 0;
}
