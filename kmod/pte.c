// SPDX-License-Identifier: GPL-2.0-only
/*
 * Small pages, up to a whole page table of them at once.
 *
 * What makes a single page's move expensive is what many can share: the notifier call, the lock of the
 * anon_vma, the table locks, and above all the TLB flush with its interrupts. So a batch is collected
 * first, each folio locked and referenced; then all entries are cleared, flushed once, looked at again
 * and set at the other side. Whatever doesn't fit ends the batch before it.
 */
#include <linux/ksm.h>
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

/* ---- collect, under the source's table lock */

static bool pf_stop_at(struct pf_op *op, enum pf_stop stop, struct folio *folio)
{
	folio_get(folio);
	if (op->folio)
		folio_put(op->folio);
	op->folio = folio;
	return pf_stop(op, stop);
}

static bool pf_refuse(struct pf_op *op, int error, const char *why)
{
	trace_pageferry_refuse(op->src.mm, op->src.addr, error, why);
	return pf_fail(op, error);
}

/* All folios of a batch hang on one anon_vma, so that one lock does for all. */
static bool pf_collect_folio(struct pf_op *op, struct pf_slot *slot, unsigned long addr,
			     struct folio *first)
{
	struct page *page = vm_normal_page(op->src.vma, addr, slot->pte);
	struct folio *folio;

	if (!page || !PageAnon(page) || PageHWPoison(page))
		return pf_refuse(op, -EFAULT, "no memory");
	folio = page_folio(page);
	if (!PageAnonExclusive(page))
		return pf_refuse(op, -EBUSY, "shared");
	if (folio_maybe_dma_pinned(folio) && !pf_skips_early())
		return pf_refuse(op, -EBUSY, "pinned");
	if (folio_test_large(folio))
		return pf_stop_at(op, PF_STOP_SPLIT, folio);
	if (!folio_trylock(folio))
		return pf_stop_at(op, PF_STOP_LOCKED, folio);
	folio_get(folio);
	if (first && folio->mapping != first->mapping)
		op->stop = PF_STOP_RETRY;
	else if (folio_test_writeback(folio) && pf_memcg_differs(op, folio))
		pf_stop_at(op, PF_STOP_LOCKED, folio);
	else if (pf_is_in_use(folio) && !pf_skips_early())
		op->stop = PF_STOP_IN_USE;
	else
		slot->folio = folio;
	if (slot->folio)
		return true;
	folio_unlock(folio);
	folio_put(folio);
	return false;
}

static bool pf_collect_one(struct pf_op *op, struct pf_slot *slot, unsigned long addr, pte_t pte,
			   struct folio *first)
{
	*slot = (struct pf_slot){ .pte = pte };
	if (pte_none(pte))
		return (op->mode & PAGEFERRY_MOVE_ALLOW_SRC_HOLES) || pf_fail(op, -ENOENT);
	if (!pte_present(pte))
		return pf_stop(op, PF_STOP_SWAPPED);
	if (!is_zero_pfn(pte_pfn(pte)))
		return pf_collect_folio(op, slot, addr, first);
	/* ksmd's zero pages are counted apart. */
	return !is_ksm_zero_pte(pte) || pf_refuse(op, -EBUSY, "KSM");
}

/* Returns how many; *first is one of their folios, or NULL. */
static unsigned int pf_collect(struct pf_op *op, pmd_t *src_pmd, unsigned int n,
			       struct folio **first)
{
	spinlock_t *ptl;
	pte_t *pte = pte_offset_map_lock(op->src.mm, src_pmd, op->src.addr, &ptl);
	unsigned int i;

	*first = NULL;
	if (!pte)
		return pf_stop(op, PF_STOP_RETRY);
	for (i = 0; i < n; i++) {
		if (!pf_collect_one(op, &op->slots[i], op->src.addr + i * PAGE_SIZE,
				    ptep_get(pte + i), *first))
			break;
		if (!*first)
			*first = op->slots[i].folio;
	}
	pte_unmap_unlock(pte, ptl);
	return i;
}

static void pf_release(struct pf_op *op, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		struct pf_slot *slot = &op->slots[i];

		if (!slot->folio)
			continue;
		if (slot->isolated)
			folio_putback_lru(slot->folio);
		folio_unlock(slot->folio);
		folio_put(slot->folio);
	}
}

/* ---- commit, under both table locks */

static bool pf_is_same(const struct pf_slot *slot, pte_t now)
{
	if (pte_none(slot->pte))
		return pte_none(now);
	/* Accessed and dirty may have been set meanwhile. */
	if (!pte_present(now) || pte_pfn(now) != pte_pfn(slot->pte))
		return false;
	if (!slot->folio)
		return !is_ksm_zero_pte(now);
	return PageAnonExclusive(&slot->folio->page);
}

/* Whatever was done without the lock is looked at again. Returns how many are as they were. */
static unsigned int pf_verify(struct pf_op *op, const struct pf_tables *t, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		if (!pte_none(ptep_get(t->dst + i))) {
			pf_fail(op, -EEXIST);
			return i;
		}
		if (!pf_is_same(&op->slots[i], ptep_get(t->src + i))) {
			pf_stop(op, PF_STOP_RETRY);
			return i;
		}
	}
	return n;
}

static void pf_clear(struct pf_op *op, const struct pf_tables *t, unsigned int n)
{
	unsigned long start = op->src.addr, addr = start;
	unsigned int cleared = 0;

	for (unsigned int i = 0; i < n; i++, addr += PAGE_SIZE) {
		struct pf_slot *slot = &op->slots[i];

		if (pte_none(slot->pte))
			continue;
		slot->pte = ptep_get_and_clear(op->src.mm, addr, t->src + i);
		cleared++;
	}
	if (!cleared)
		return;
	flush_tlb_mm_range(op->src.mm, start, addr, PAGE_SHIFT, false);
	trace_pageferry_flush(op->src.mm, start, addr - start, cleared);
}

/* Nobody may change the entry in between: the table is locked, and it was flushed. */
static void pf_put_back(struct pf_op *op, const struct pf_tables *t, unsigned int first,
			unsigned int n)
{
	for (unsigned int i = first; i < n; i++)
		if (!pte_none(op->slots[i].pte))
			set_pte_at(op->src.mm, op->src.addr + i * PAGE_SIZE, t->src + i,
				   op->slots[i].pte);
}

static pte_t pf_zero_pte(const struct vm_area_struct *vma, unsigned long addr)
{
	return pte_mkspecial(pfn_pte(my_zero_pfn(addr), vma->vm_page_prot));
}

/* Dirty if it was; soft-dirty always, so that whoever tracks changes at the destination sees it. */
static pte_t pf_moved_pte(struct vm_area_struct *vma, struct folio *folio, pte_t was)
{
	pte_t pte = pte_mksoft_dirty(mk_pte(&folio->page, vma->vm_page_prot));

	if (pte_dirty(was))
		pte = pte_mkdirty(pte);
	return pte_mkwrite(pte, vma);
}

static void pf_install(struct pf_op *op, const struct pf_tables *t, unsigned int n)
{
	struct vm_area_struct *vma = op->dst.vma;
	unsigned long addr = op->dst.addr;
	int folios = 0;

	for (unsigned int i = 0; i < n; i++, addr += PAGE_SIZE) {
		const struct pf_slot *slot = &op->slots[i];

		if (pte_none(slot->pte))
			continue;
		if (!slot->folio) {
			set_pte_at(op->dst.mm, addr, t->dst + i, pf_zero_pte(vma, addr));
			continue;
		}
		folio_move_anon_rmap(slot->folio, vma);
		slot->folio->index = linear_page_index(vma, addr);
		set_pte_at(op->dst.mm, addr, t->dst + i, pf_moved_pte(vma, slot->folio, slot->pte));
		folios++;
	}
	add_mm_counter(op->src.mm, MM_ANONPAGES, -folios);
	add_mm_counter(op->dst.mm, MM_ANONPAGES, folios);
}

/*
 * The entries are cleared and flushed: who has a reference now keeps it, and the page stays. So do
 * the ones behind it, since progress is told as a length.
 */
static unsigned int pf_recheck(struct pf_op *op, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		struct pf_slot *slot = &op->slots[i];

		if (!slot->folio)
			continue;
		if (pf_is_in_use(slot->folio) && !pf_skips_recheck()) {
			pf_stop(op, PF_STOP_IN_USE);
			return i;
		}
		if (!pf_memcg_differs(op, slot->folio))
			continue;
		slot->isolated = pf_memcg_take(op, slot->folio);
		if (!slot->isolated) {
			pf_stop(op, PF_STOP_IN_USE);
			return i;
		}
	}
	return n;
}

static unsigned int pf_commit(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd, unsigned int n)
{
	struct pf_tables t;
	unsigned int same, done;

	if (!pf_map_both(op, &t, dst_pmd, src_pmd))
		return pf_stop(op, PF_STOP_RETRY);
	same = pf_verify(op, &t, n);
	pf_park_before_clear();
	pf_clear(op, &t, same);
	pf_park_after_clear();
	done = pf_recheck(op, same);
	pf_put_back(op, &t, done, same);
	pf_count_put_back(same - done);
	pf_install(op, &t, done);
	pf_unmap_both(&t);
	return done;
}

/* ---- the whole of it */

/* True if the folios' charge is there already. */
static bool pf_is_charged(struct pf_op *op, unsigned int n)
{
	unsigned int wanted = 0;

	for (unsigned int i = 0; i < n; i++)
		wanted += op->slots[i].folio && pf_memcg_differs(op, op->slots[i].folio);
	if (wanted <= op->charged)
		return true;
	op->wanted = wanted;
	return pf_stop(op, PF_STOP_CHARGE);
}

/*
 * folio_referenced() walks the anon_vma's mappings without the folio's lock: it must not see a folio
 * half in one place and half in the other.
 */
static unsigned int pf_commit_locked(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd,
				     unsigned int n, struct folio *first)
{
	struct anon_vma *anon_vma;
	unsigned int done;

	if (!pf_is_charged(op, n))
		return 0;
	if (!first)
		return pf_commit(op, dst_pmd, src_pmd, n);
	anon_vma = folio_get_anon_vma(first);
	if (!anon_vma)
		return pf_stop(op, PF_STOP_RETRY);
	anon_vma_lock_write(anon_vma);
	done = pf_commit(op, dst_pmd, src_pmd, n);
	anon_vma_unlock_write(anon_vma);
	put_anon_vma(anon_vma);
	return done;
}

/* The destination's state is told before the source's, as UFFDIO_MOVE does. */
static bool pf_is_populated(struct pf_op *op, pmd_t *dst_pmd)
{
	pte_t *pte = __pte_offset_map(dst_pmd, op->dst.addr, NULL);
	bool populated = pte && !pte_none(ptep_get_lockless(pte));

	if (pte)
		pte_unmap(pte);
	return populated;
}

unsigned int pf_move_ptes(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd, unsigned int n)
{
	struct mmu_notifier_range range;
	unsigned int found, done = 0;
	struct folio *first;

	if (pf_is_populated(op, dst_pmd))
		return pf_fail(op, -EEXIST);
	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, op->src.mm, op->src.addr,
				op->src.addr + n * PAGE_SIZE);
	mmu_notifier_invalidate_range_start(&range);
	found = pf_collect(op, src_pmd, n, &first);
	if (found)
		done = pf_commit_locked(op, dst_pmd, src_pmd, found, first);
	pf_release(op, found);
	mmu_notifier_invalidate_range_end(&range);
	return done;
}
