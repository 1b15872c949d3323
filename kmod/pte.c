// SPDX-License-Identifier: GPL-2.0-only
/*
 * Small pages, up to a whole page table of them at once.
 *
 * What makes a single page's move expensive is what many can share: the notifier call, the lock of the
 * anon_vma, the table locks, and above all the TLB flush with its interrupts. So a batch is gone through
 * three times with both tables locked: each entry is checked and its folio locked, all are cleared and
 * flushed once, and for each the references are looked at again and the entry is set at the other side.
 * Whatever doesn't fit ends the batch before it.
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
#include "tables.h"
#include "trace.h"

static bool pf_refuse(struct pf_op *op, int error, const char *why)
{
	trace_pageferry_refuse(op->src.mm, op->src.addr, error, why);
	return pf_fail(op, error);
}

/* Of what has been checked: neither a hole nor the zero page, which is the only special one. */
static bool pf_has_folio(pte_t pte)
{
	return !pte_none(pte) && !pte_special(pte);
}

/* Of what has been checked: none is part of a larger one. */
static struct folio *pf_folio(pte_t pte)
{
	return (struct folio *)pte_page(pte);
}

/* ---- check and lock */

/* Only tried: the locks of many are held at once, and under a spinlock. */
static bool pf_lock_folio(struct pf_op *op, pte_t pte)
{
	struct page *page = pte_page(pte);
	struct folio *folio = page_folio(page);

	if (!folio_test_anon(folio) || PageHWPoison(page))
		return pf_refuse(op, -EFAULT, "no memory");
	if (!PageAnonExclusive(page))
		return pf_refuse(op, -EBUSY, "shared");
	if (folio_test_large(folio))
		return folio_maybe_dma_pinned(folio) ? pf_refuse(op, -EBUSY, "pinned")
						     : pf_stop_at(op, PF_STOP_SPLIT, folio);
	if (!folio_trylock(folio))
		return pf_stop_at(op, PF_STOP_LOCKED, folio);
	if (unlikely(pf_is_in_use(folio)) && !pf_skips_early()) {
		if (folio_maybe_dma_pinned(folio))
			pf_refuse(op, -EBUSY, "pinned");
		else
			pf_stop(op, PF_STOP_IN_USE);
	} else if (!pf_memcg_differs(op, folio) || pf_memcg_ready(op, folio)) {
		return true;
	}
	folio_unlock(folio);
	return false;
}

static bool pf_check(struct pf_op *op, pte_t dst, pte_t src)
{
	if (!pte_none(dst))
		return pf_fail(op, -EEXIST);
	if (pte_none(src))
		return pf_pass_hole(op);
	if (!pte_present(src))
		return pf_stop(op, PF_STOP_SWAPPED);
	if (!pte_special(src))
		return pf_lock_folio(op, src);
	if (!is_zero_pfn(pte_pfn(src)))
		return pf_refuse(op, -EFAULT, "no memory");
	/* ksmd's zero pages are counted apart. */
	return !is_ksm_zero_pte(src) || pf_refuse(op, -EBUSY, "KSM");
}

/* Its owner can unmerge it before it is to move. */
static bool pf_passes_merged(pte_t src)
{
	if (!pte_present(src))
		return false;
	return pte_special(src) ? is_ksm_zero_pte(src) : folio_test_ksm(page_folio(pte_page(src)));
}

/* Returns how many from the first on can move; their folios are locked. */
static unsigned int pf_check_all(struct pf_op *op, const struct pf_tables *t, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		pte_t src = ptep_get(t->src + i);

		op->was[i] = src;
		if (!pf_check(op, ptep_get(t->dst + i), src))
			return i;
	}
	return n;
}

/* What nobody needs locked, since nothing is done with it. */
static unsigned int pf_only_check(struct pf_op *op, const struct pf_tables *t, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		pte_t dst = ptep_get(t->dst + i), src = ptep_get(t->src + i);

		if (pte_none(dst) && pf_passes_merged(src))
			continue;
		if (!pf_check(op, dst, src))
			return i;
		if (pf_has_folio(src))
			folio_unlock(pf_folio(src));
	}
	return n;
}

/* ---- clear and flush */

static void pf_clear(struct pf_op *op, const struct pf_tables *t, unsigned int n)
{
	unsigned long start = op->src.addr, addr = start;
	unsigned int cleared = 0;

	for (unsigned int i = 0; i < n; i++, addr += PAGE_SIZE) {
		if (pte_none(op->was[i]))
			continue;
		/* Accessed and dirty may have been set since it was read. */
		op->was[i] = ptep_get_and_clear(op->src.mm, addr, t->src + i);
		cleared++;
	}
	if (!cleared)
		return;
	flush_tlb_mm_range(op->src.mm, start, addr, PAGE_SHIFT, false);
	trace_pageferry_flush(op->src.mm, start, addr - start, cleared);
}

/* ---- look again */

/* The entry is cleared and flushed: who has a reference now keeps it, and the page stays. */
static bool pf_recheck(struct pf_op *op, struct folio *folio)
{
	if (unlikely(pf_is_in_use(folio)) && !pf_skips_recheck())
		return pf_stop(op, PF_STOP_IN_USE);
	if (likely(!pf_memcg_differs(op, folio)))
		return true;
	if (!pf_memcg_isolate(folio))
		return pf_stop(op, PF_STOP_IN_USE);
	pf_memcg_take(op, folio);
	return true;
}

/* Nobody may have set the entry in between: the table is locked. */
static void pf_put_back(struct pf_op *op, const struct pf_tables *t, unsigned int first,
			unsigned int n)
{
	for (unsigned int i = first; i < n; i++) {
		if (!pte_none(op->was[i]))
			set_pte_at(op->src.mm, op->src.addr + i * PAGE_SIZE, t->src + i, op->was[i]);
		if (pf_has_folio(op->was[i]))
			folio_unlock(pf_folio(op->was[i]));
	}
	pf_count_put_back(n - first);
}

/* ---- set at the other side */

/*
 * Without its frame: writable, as the source was made exclusive for, and no shadow stack; soft-dirty
 * always, and not protected by userfaultfd, so that whoever tracks changes at the destination sees it.
 * Only bits, no entry yet: as one it would be of frame 0, which is something else to Xen, or nothing.
 */
static pte_t pf_moved_pte(const struct vm_area_struct *vma)
{
	return pte_mkwrite_novma(pte_mksoft_dirty(native_make_pte(pgprot_val(vma->vm_page_prot))));
}

static void pf_install_zero(struct pf_op *op, unsigned long addr, pte_t *ptep)
{
	pte_t pte = pfn_pte(my_zero_pfn(addr), op->dst.vma->vm_page_prot);

	set_pte_at(op->dst.mm, addr, ptep, pte_mkspecial(pte));
}

/*
 * Looks at each again and sets it at the other side; how many from the first on. Those behind one that
 * has to stay do so, too, since progress is told as a length.
 */
static unsigned int pf_install(struct pf_op *op, const struct pf_tables *t, unsigned int n)
{
	const pte_t moved = pf_moved_pte(op->dst.vma);
	const unsigned long clean = native_pte_val(moved), dirty = native_pte_val(pte_mkdirty(moved));
	pgoff_t index = linear_page_index(op->dst.vma, op->dst.addr);
	unsigned long addr = op->dst.addr;
	unsigned int i;

	for (i = 0; i < n; i++, addr += PAGE_SIZE) {
		pte_t was = op->was[i];
		struct folio *folio;
		unsigned long pfn;

		if (pte_none(was))
			continue;
		if (pte_special(was)) {
			pf_install_zero(op, addr, t->dst + i);
			continue;
		}
		pfn = pte_pfn(was);
		folio = (struct folio *)pfn_to_page(pfn);
		if (!pf_recheck(op, folio))
			break;
		pf_set_rmap(folio, op->dst.vma, index + i);
		/* As pfn_pte(), whose rules for entries that aren't present don't apply to a mapping's. */
		set_pte_at(op->dst.mm, addr, t->dst + i,
			   __pte(pfn << PAGE_SHIFT | (pte_dirty(was) ? dirty : clean)));
		op->anon_pages++;
		folio_unlock(folio);
	}
	return i;
}

/* ---- the whole of it */

static unsigned int pf_move_locked(struct pf_op *op, const struct pf_tables *t, unsigned int n)
{
	unsigned int locked, done;

	/* As long as the tables are mapped this is an RCU reader. */
	pf_memcg_begin(op);
	if (pf_only_checks(op))
		return pf_only_check(op, t, n);
	locked = pf_check_all(op, t, n);
	pf_park_before_clear();
	pf_clear(op, t, locked);
	pf_park_after_clear();
	done = pf_install(op, t, locked);
	if (unlikely(done < locked))
		pf_put_back(op, t, done, locked);
	return done;
}

/*
 * folio_referenced() walks the anon_vma's mappings without the folio's lock: it must not see a folio
 * half in one place and half in the other. All that hang on the source's mapping have one root, whose
 * lock this is. Without an anon_vma there are none, only zero pages. No memory is allocated under it:
 * reclaim would want to have it, too.
 */
static unsigned int pf_move_tables(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd,
				   unsigned int n)
{
	struct anon_vma *anon_vma = READ_ONCE(op->src.vma->anon_vma);
	struct pf_tables t __uninitialized;
	unsigned int done = 0;

	if (anon_vma)
		anon_vma_lock_write(anon_vma);
	pf_stop(op, PF_STOP_RETRY);
	if (pf_map_both(op, &t, dst_pmd, src_pmd)) {
		/* The mapping's very first fault may have come since; what it brought is seen only now. */
		if (anon_vma == READ_ONCE(op->src.vma->anon_vma)) {
			pf_stop(op, PF_STOP_NONE);
			done = pf_move_locked(op, &t, n);
		}
		pf_unmap_both(&t);
	}
	if (anon_vma)
		anon_vma_unlock_write(anon_vma);
	return done;
}

unsigned int pf_move_ptes(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd, unsigned int n)
{
	struct mmu_notifier_range range __uninitialized;
	bool told = pf_tell_start(op, &range, n * PAGE_SIZE);
	unsigned int done = pf_move_tables(op, dst_pmd, src_pmd, n);

	if (told)
		mmu_notifier_invalidate_range_end(&range);
	return done;
}
