// SPDX-License-Identifier: GPL-2.0-only
/*
 * A page that isn't there: its entry moves, and nothing is read in. Where the contents are still or
 * already in the swap cache, that folio is told where it will be mapped next.
 */
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "compat/compat.h"
#include "move.h"
#include "tables.h"
#include "trace.h"

struct pf_swapped {
	pte_t pte;
	swp_entry_t entry;
	struct swap_info_struct *si;
	struct folio *folio; /* in the swap cache: locked, with a reference of ours; or NULL */
};

void pf_join_mmlist(struct mm_struct *mm)
{
	if (!list_empty(&mm->mmlist))
		return;
	spin_lock(&mmlist_lock);
	if (list_empty(&mm->mmlist))
		list_add(&mm->mmlist, &init_mm.mmlist);
	spin_unlock(&mmlist_lock);
}

static bool pf_read_entry(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd, struct pf_swapped *s)
{
	struct pf_tables t;
	bool populated;

	if (!pf_map_both(op, &t, dst_pmd, src_pmd))
		return pf_stop(op, PF_STOP_RETRY);
	populated = !pte_none(ptep_get(t.dst));
	s->pte = ptep_get(t.src);
	pf_unmap_both(&t);
	if (populated)
		return pf_fail(op, -EEXIST);
	return !pte_none(s->pte) && !pte_present(s->pte) ? true : pf_stop(op, PF_STOP_RETRY);
}

/* An empty page of which its process wants to know the first write: there is nothing to be moved. */
static bool pf_is_protected_hole(pte_t pte)
{
	swp_entry_t entry = pte_to_swp_entry(pte);

	return is_pte_marker_entry(entry) && pte_marker_get(entry) == PTE_MARKER_UFFD_WP;
}

static bool pf_check_entry(struct pf_op *op, struct pf_swapped *s)
{
	s->entry = pte_to_swp_entry(s->pte);
	if (is_migration_entry(s->entry))
		return pf_stop(op, PF_STOP_MIGRATES);
	if (non_swap_entry(s->entry)) {
		trace_pageferry_refuse(op->src.mm, op->src.addr, -EFAULT, "no memory");
		return pf_fail(op, -EFAULT);
	}
	if (!pte_swp_exclusive(s->pte)) {
		trace_pageferry_refuse(op->src.mm, op->src.addr, -EBUSY, "shared");
		return pf_fail(op, -EBUSY);
	}
	s->si = get_swap_device(s->entry);
	return s->si ? true : pf_stop(op, PF_STOP_RETRY);
}

/* NULL or an error: it isn't in the swap cache. */
static struct folio *pf_get_cached(swp_entry_t entry)
{
	unsigned long offset = swp_offset(entry);
	struct address_space *space = &swapper_spaces[swp_type(entry)][offset >> PF_SWAP_SPACE_SHIFT];

	return filemap_get_folio(space, offset & ((1UL << PF_SWAP_SPACE_SHIFT) - 1));
}

/*
 * Once a page is out of the swap cache it isn't KSM's any more, and what is read in again isn't either. The device
 * stays as long as the entry does.
 */
bool pf_is_cached_merged(swp_entry_t entry)
{
	struct folio *folio = pf_get_cached(entry);
	bool merged;

	if (IS_ERR_OR_NULL(folio))
		return false;
	merged = folio_test_ksm(folio);
	folio_put(folio);
	return merged;
}

static bool pf_lock_cached(struct pf_op *op, struct pf_swapped *s)
{
	struct folio *folio = pf_get_cached(s->entry);

	if (IS_ERR_OR_NULL(folio))
		return true;
	if (!folio_test_large(folio) && folio_trylock(folio)) {
		s->folio = folio;
		return true;
	}
	if (folio_test_large(folio)) {
		/* The kernel can't split what is mapped nowhere. */
		folio_put(folio);
		return pf_stop(op, PF_STOP_IN_USE);
	}
	op->folio = folio;
	return pf_stop(op, PF_STOP_LOCKED);
}

/* 1: ours; 1: the swap cache's. Whoever has another one would go on having it. */
static bool pf_cached_is_in_use(const struct folio *folio)
{
	return folio_ref_count(folio) != 2 || folio_maybe_dma_pinned((struct folio *)folio);
}

static bool pf_is_as_read(struct pf_op *op, const struct pf_tables *t, const struct pf_swapped *s)
{
	if (!pte_none(ptep_get(t->dst)) || !pte_same(ptep_get(t->src), s->pte))
		return false;
	if (s->folio)
		return folio_test_swapcache(s->folio) && s->folio->swap.val == s->entry.val;
	/*
	 * It may have come into the cache since we looked, and even have gone out again. Both take the
	 * lock of the table that we hold, so the mark in the swap map tells; where it is only on its
	 * way there, we look once more for nothing.
	 */
	return !(READ_ONCE(s->si->swap_map[swp_offset(s->entry)]) & SWAP_HAS_CACHE);
}

static void pf_move_entry(struct pf_op *op, const struct pf_tables *t, const struct pf_swapped *s)
{
	pte_t pte = ptep_get_and_clear(op->src.mm, op->src.addr, t->src);

	if (s->folio) {
		/* Reclaim flushes later what it unmaps, so the source might still reach the page. */
		flush_tlb_batched_pending(op->src.mm);
		pf_set_rmap(s->folio, op->dst.vma, linear_page_index(op->dst.vma, op->dst.addr));
	}
	/* The protection is the source's, see pf_moved_pte(); UFFDIO_MOVE would let it through here. */
	pte = pte_swp_clear_uffd_wp(pte_swp_mksoft_dirty(pte));
	set_pte_at(op->dst.mm, op->dst.addr, t->dst, pte);
	add_mm_counter(op->src.mm, MM_SWAPENTS, -1);
	add_mm_counter(op->dst.mm, MM_SWAPENTS, 1);
}

/* Both charges or none: what may be refused comes first. */
static bool pf_take_charges(struct pf_op *op, struct pf_swapped *s)
{
	bool differs = s->folio && pf_memcg_differs(op, s->folio);

	if (differs && !pf_memcg_isolate(s->folio))
		return pf_stop(op, PF_STOP_IN_USE);
	if (pf_memcg_take_swap(op, s->entry)) {
		if (differs)
			folio_putback_lru(s->folio);
		return pf_fail(op, -ENOMEM);
	}
	if (differs)
		pf_memcg_take(op, s->folio);
	return true;
}

static unsigned int pf_commit_swapped(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd,
				      struct pf_swapped *s)
{
	unsigned int done = 0;
	struct pf_tables t;

	pf_join_mmlist(op->dst.mm);
	if (!pf_map_both(op, &t, dst_pmd, src_pmd))
		return pf_stop(op, PF_STOP_RETRY);
	if (!pf_is_as_read(op, &t, s)) {
		pf_stop(op, PF_STOP_RETRY);
	} else if (s->folio && pf_cached_is_in_use(s->folio)) {
		pf_stop(op, PF_STOP_IN_USE);
	} else if (pf_only_checks(op)) {
		done = 1;
	} else if (pf_take_charges(op, s)) {
		pf_move_entry(op, &t, s);
		done = 1;
	}
	pf_unmap_both(&t);
	return done;
}

/* A page in the cache is memory, and is charged as such. */
static bool pf_cached_is_charged(struct pf_op *op, const struct pf_swapped *s)
{
	return !s->folio || !pf_memcg_differs(op, s->folio) || pf_memcg_ready(op, s->folio);
}

unsigned int pf_move_swapped(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd)
{
	struct pf_swapped s = {};
	unsigned int done = 0;

	if (!pf_read_entry(op, dst_pmd, src_pmd, &s))
		return 0;
	if (pf_is_protected_hole(s.pte))
		return pf_pass_hole(op);
	if (!pf_check_entry(op, &s))
		return 0;
	if (pf_lock_cached(op, &s) && pf_cached_is_charged(op, &s))
		done = pf_commit_swapped(op, dst_pmd, src_pmd, &s);
	if (s.folio) {
		folio_unlock(s.folio);
		folio_put(s.folio);
	}
	put_swap_device(s.si);
	return done;
}
