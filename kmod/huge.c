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
#include "tables.h"
#include "trace.h"

static bool pf_refuse_huge(struct pf_op *op, const char *why)
{
	trace_pageferry_refuse(op->src.mm, op->src.addr, -EBUSY, why);
	return pf_fail(op, -EBUSY);
}

/* Only tried, under a spinlock: whoever waited for it would do so with a reference, which is in the way
 * of others who want to split it. */
static bool pf_lock_huge(struct pf_op *op, struct folio *folio)
{
	if (!folio_test_anon(folio) || !PageAnonExclusive(&folio->page))
		return pf_refuse_huge(op, "shared");
	/* Could not be split when that was found. Each page for itself, and the broken one stays. */
	if (folio_test_has_hwpoisoned(folio))
		return pf_stop_at(op, PF_STOP_SPLIT, folio);
	if (!folio_trylock(folio))
		return pf_stop(op, PF_STOP_BUSY);
	if (pf_is_in_use(folio) && !pf_skips_early()) {
		if (folio_maybe_dma_pinned(folio))
			pf_refuse_huge(op, "pinned");
		else
			pf_stop(op, PF_STOP_IN_USE);
	} else if (!pf_memcg_differs(op, folio) || pf_memcg_ready(op, folio)) {
		return true;
	}
	folio_unlock(folio);
	return false;
}

static pmd_t pf_moved_pmd(struct vm_area_struct *vma, struct folio *folio)
{
	pmd_t pmd = pmd_mkhuge(mk_pmd(&folio->page, vma->vm_page_prot));

	/* Writable, and no shadow stack; dirty as after mremap. */
	return pmd_mksoft_dirty(pmd_mkdirty(pmd_mkwrite_novma(pmd)));
}

/* The table in reserve, for a later split, goes along. */
static void pf_install_huge(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd, struct folio *folio)
{
	pgtable_t table = pgtable_trans_huge_withdraw(op->src.mm, src_pmd);

	pf_set_rmap(folio, op->dst.vma, linear_page_index(op->dst.vma, op->dst.addr));
	pgtable_trans_huge_deposit(op->dst.mm, dst_pmd, table);
	set_pmd_at(op->dst.mm, op->dst.addr, dst_pmd, pf_moved_pmd(op->dst.vma, folio));
	mm_dec_nr_ptes(op->src.mm);
	mm_inc_nr_ptes(op->dst.mm);
	op->anon_pages += HPAGE_PMD_NR;
}

/* Clear, flush, look again, install or put back. */
static bool pf_move_locked(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd, struct folio *folio)
{
	pmd_t was;

	pf_park_before_clear();
	was = pmdp_huge_clear_flush(op->src.vma, op->src.addr, src_pmd);
	trace_pageferry_flush(op->src.mm, op->src.addr, HPAGE_PMD_SIZE, 1);
	pf_park_after_clear();
	if ((!pf_is_in_use(folio) || pf_skips_recheck()) &&
	    (!pf_memcg_differs(op, folio) || pf_memcg_isolate(folio))) {
		if (pf_memcg_differs(op, folio))
			pf_memcg_take(op, folio);
		pf_install_huge(op, dst_pmd, src_pmd, folio);
		return true;
	}
	set_pmd_at(op->src.mm, op->src.addr, src_pmd, was);
	pf_count_put_back(HPAGE_PMD_NR);
	return pf_stop(op, PF_STOP_IN_USE);
}

static bool pf_move_pmd(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd)
{
	pmd_t src = pmdp_get_lockless(src_pmd);
	struct folio *folio;
	bool moved;

	if (is_pmd_migration_entry(src))
		return pf_stop(op, PF_STOP_MIGRATES);
	if (!pmd_none(pmdp_get_lockless(dst_pmd)) || !pmd_trans_huge(src) || is_huge_zero_pmd(src))
		return pf_stop(op, PF_STOP_RETRY);
	folio = pmd_folio(src);
	if (!pf_lock_huge(op, folio))
		return false;
	moved = pf_only_checks(op) || pf_move_locked(op, dst_pmd, src_pmd, folio);
	folio_unlock(folio);
	return moved;
}

unsigned int pf_move_huge(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd)
{
	spinlock_t *dst_ptl = pmd_lockptr(op->dst.mm, dst_pmd);
	spinlock_t *src_ptl = pmd_lockptr(op->src.mm, src_pmd);
	struct anon_vma *anon_vma = op->src.vma->anon_vma;
	struct mmu_notifier_range range __uninitialized;
	bool moved, told;

	if (!anon_vma)
		return pf_stop(op, PF_STOP_RETRY);
	rcu_read_lock();
	pf_memcg_begin(op);
	rcu_read_unlock();
	told = pf_tell_start(op, &range, HPAGE_PMD_SIZE);
	/* split_huge_page() and folio_referenced() walk it without the folio's lock. */
	anon_vma_lock_write(anon_vma);
	pf_lock_tables(dst_ptl, src_ptl);
	moved = pf_move_pmd(op, dst_pmd, src_pmd);
	pf_unlock_tables(dst_ptl, src_ptl);
	anon_vma_unlock_write(anon_vma);
	if (told)
		mmu_notifier_invalidate_range_end(&range);
	return moved ? HPAGE_PMD_NR : 0;
}
