// SPDX-License-Identifier: GPL-2.0-only
/* From the first page to the last: choose the way of each step, and wait where one has to wait. */
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <asm/pgalloc.h>

#include "compat/compat.h"
#include "move.h"
#include "plan.h"
#include "tables.h"
#include "trace.h"

/* ---- one step */

static unsigned int pf_skip_hole(struct pf_op *op, pmd_t *dst_pmd, const struct pf_step *step)
{
	if (!pmd_none(pmdp_get_lockless(dst_pmd)))
		return pf_stop(op, PF_STOP_RETRY);
	return pf_pass_hole(op) ? step->len / PAGE_SIZE : 0;
}

/*
 * A huge page at the source. It goes as one where it is covered whole and the other side has no table
 * there; else its PMD is split, and then the folio itself, by the way of small pages.
 */
static unsigned int pf_step_huge(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd,
				 const struct pf_step *step)
{
	pmd_t src = pmdp_get_lockless(src_pmd);

	if (step->whole && pmd_none(pmdp_get_lockless(dst_pmd)) && !is_huge_zero_pmd(src))
		return pf_move_huge(op, dst_pmd, src_pmd);
	__split_huge_pmd(op->src.vma, src_pmd, op->src.addr, false, NULL);
	return pf_stop(op, PF_STOP_RETRY);
}

/* How many entries at once: as many as there is room to remember. */
static unsigned int pf_batch(const struct pf_op *op, const struct pf_step *step)
{
	return min_t(unsigned int, step->len / PAGE_SIZE, op->nwas);
}

static bool pf_is_huge(pmd_t pmd)
{
	return pmd_trans_huge(pmd) || is_pmd_migration_entry(pmd);
}

/* There isn't a page table on both sides, or not yet. */
static unsigned int pf_do_other_step(struct pf_op *op, const struct pf_step *step)
{
	struct pf_side *dst = &op->dst, *src = &op->src;
	pmd_t was = __pmd(0);

	if (src->pmd)
		was = pmdp_get_lockless(src->pmd);
	if (!dst->pmd)
		dst->pmd = pf_alloc_pmd(dst->mm, dst->addr);
	if (!dst->pmd)
		return pf_fail(op, -ENOMEM);
	if (pf_is_huge(pmdp_get_lockless(dst->pmd)))
		return pf_fail(op, -EEXIST);
	if (pmd_none(was) && pmd_none(pmdp_get_lockless(dst->pmd)))
		return pf_skip_hole(op, dst->pmd, step);
	if (pf_is_huge(was))
		return pf_step_huge(op, dst->pmd, src->pmd, step);
	if (pte_alloc(dst->mm, dst->pmd))
		return pf_fail(op, -ENOMEM);
	/* So that it need not be asked for at each page; it is empty, and its holes are holes. */
	if (!src->pmd)
		src->pmd = pf_alloc_pmd(src->mm, src->addr);
	if (!src->pmd || (pmd_none(was) && pte_alloc(src->mm, src->pmd)))
		return pf_fail(op, -ENOMEM);
	return pf_move_ptes(op, dst->pmd, src->pmd, pf_batch(op, step));
}

static unsigned int pf_do_step(struct pf_op *op)
{
	struct pf_step step = pf_plan_step(op->dst.addr, op->src.addr, op->left);

	pf_find_pmds(op);
	if (likely(op->dst.pmd && op->src.pmd && pf_has_table(op->dst.pmd) && pf_has_table(op->src.pmd)))
		return pf_move_ptes(op, op->dst.pmd, op->src.pmd, pf_batch(op, &step));
	return pf_do_other_step(op, &step);
}

/* ---- what a step had to leave */

static void pf_split(struct pf_op *op)
{
	int err;

	if (!folio_trylock(op->folio)) {
		/* Not waited for with our reference on it, which would keep others from splitting it. */
		folio_put(op->folio);
		op->folio = NULL;
		cond_resched();
		return;
	}
	err = split_huge_page_to_list_to_order(&op->folio->page, NULL, 0);
	folio_unlock(op->folio);
	if (err == -EBUSY || err == -EAGAIN)
		pf_stop(op, PF_STOP_IN_USE);
	else if (err)
		pf_fail(op, err);
}

/*
 * Each CPU holds references to pages that it is about to put on a list. They would be there for ever if
 * nothing else happened, so they are driven out, once a call; what is left then is somebody's.
 */
static void pf_drain(struct pf_op *op)
{
	if (op->drained) {
		trace_pageferry_refuse(op->src.mm, op->src.addr, -EBUSY, "referenced");
		pf_fail(op, -EBUSY);
		return;
	}
	lru_add_drain_all();
	op->drained = true;
}

static void pf_wait_for_folio(struct pf_op *op)
{
	folio_lock(op->folio);
	folio_wait_writeback(op->folio);
	folio_unlock(op->folio);
}

static void pf_wait_for_migration(struct pf_op *op, pmd_t *src_pmd)
{
	if (is_pmd_migration_entry(pmdp_get_lockless(src_pmd)))
		pmd_migration_entry_wait(op->src.mm, src_pmd);
	else
		migration_entry_wait(op->src.mm, src_pmd, op->src.addr);
}

static unsigned int pf_overcome(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd)
{
	enum pf_stop stop = op->stop;
	unsigned int done = 0;

	op->promised = 0;
	/* These two may find that something else has to be done first. */
	if (stop == PF_STOP_SWAPPED || stop == PF_STOP_SPLIT)
		op->stop = PF_STOP_NONE;
	if (stop == PF_STOP_SWAPPED)
		done = pf_move_swapped(op, dst_pmd, src_pmd);
	else if (stop == PF_STOP_SPLIT)
		pf_split(op);
	switch (op->stop) {
	case PF_STOP_LOCKED:
		pf_wait_for_folio(op);
		break;
	case PF_STOP_MIGRATES:
		pf_wait_for_migration(op, src_pmd);
		break;
	case PF_STOP_IN_USE:
		pf_drain(op);
		break;
	case PF_STOP_CHARGE:
		if (pf_memcg_charge(op))
			pf_fail(op, -ENOMEM);
		break;
	default:
		break;
	}
	return done;
}

/* ---- all steps */

void pf_advance(struct pf_op *op, unsigned long len)
{
	op->dst.addr += len;
	op->src.addr += len;
	op->left -= len;
	op->moved += len;
}

/* Once for many: each is a lock and a loop over all CPUs. The mm's are ours to use, so none can end. */
static void pf_count_pages(struct pf_op *op)
{
	if (!op->anon_pages)
		return;
	add_mm_counter(op->src.mm, MM_ANONPAGES, -op->anon_pages);
	add_mm_counter(op->dst.mm, MM_ANONPAGES, op->anon_pages);
	op->anon_pages = 0;
}

static bool pf_is_side_awaited(const struct pf_op *op, const struct pf_side *side)
{
	struct rw_semaphore *lock = &side->vma->vm_lock->lock;

	if (op->mmap_locked)
		lock = &side->mm->mmap_lock;
	return rwsem_is_contended(lock) ||
	       (side->ctx && rwsem_is_contended(&side->ctx->map_changing_lock));
}

/*
 * Does somebody wait for one of our locks? He is most likely about to change the mapping, and has his
 * process' mmap lock, which before long all of its threads wait for.
 */
static bool pf_is_awaited(const struct pf_op *op)
{
	return pf_is_side_awaited(op, &op->dst) || pf_is_side_awaited(op, &op->src);
}

/* 0 or -errno; locked. */
static int pf_steps(struct pf_op *op)
{
	unsigned int done;

	while (op->left) {
		op->stop = PF_STOP_NONE;
		op->promised = 0;
		done = pf_do_step(op);
		/* What stopped a batch behind its first pages is met again at the next step's first page. */
		if (done)
			op->stop = PF_STOP_NONE;
		else
			done = pf_overcome(op, op->dst.pmd, op->src.pmd);
		pf_advance(op, done * PAGE_SIZE);
		if (op->folio)
			folio_put(op->folio);
		op->folio = NULL;
		if (op->stop == PF_STOP_ERROR)
			return op->error;
		/* After the last one the locks are given up anyway. */
		if (!op->left)
			return 0;
		if (fatal_signal_pending(current))
			return -EINTR;
		if (need_resched() || pf_is_awaited(op) || pf_whole_is_due(op))
			return 0;
	}
	return 0;
}

static __always_inline int pf_move_pages(struct pf_op *op)
{
	int err = pf_lock(op);

	if (err)
		return err;
	/* Before it gets smaller, as wherever memory is taken away. */
	update_hiwater_rss(op->src.mm);
	err = pf_steps(op);
	pf_count_pages(op);
	pf_unlock(op);
	return err;
}

/* The locks are given up now and then; whatever has changed meanwhile is checked again. */
int pf_move(struct pf_op *op)
{
	int err = 0;

	while (!err && op->left) {
		unsigned long start = op->dst.addr;

		err = pf_whole_is_due(op) ? pf_move_whole(op) : pf_move_pages(op);
		if (op->dst.addr > start && !(op->mode & PAGEFERRY_MOVE_DONTWAKE) && !pf_only_checks(op))
			pf_wake(op->dst.ctx, start, op->dst.addr - start);
		if (op->left)
			cond_resched();
	}
	return err;
}
