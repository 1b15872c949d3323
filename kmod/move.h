/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The way of a move: ioctl.c reads and checks the request, side.c finds out whose memory it is and
 * locks it, move.c goes through it step by step, pte.c, swap.c and huge.c move what is there, memcg.c
 * lets the charge follow, wake.c tells those who wait. Where whole page tables are to move, whole.c does
 * what it can before move.c does the rest.
 */
#ifndef PAGEFERRY_MOVE_H
#define PAGEFERRY_MOVE_H

#include <linux/file.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/rmap.h>
#include <linux/sched/coredump.h>
#include <linux/sched/mm.h>
#include <linux/pageferry.h>
#include <linux/swap.h>
#include <linux/userfaultfd_k.h>

#include "park.h"

/* One of the two address spaces. */
struct pf_side {
	struct fd file; /* its userfaultfd; empty: the caller's own memory */
	struct userfaultfd_ctx *ctx;
	struct mm_struct *mm;
	struct vm_area_struct *vma; /* while locked */
	unsigned long addr;	    /* of the next page */
	pmd_t *pmd;		    /* for it, in a step; NULL: there is no table for that either */
};

/* Why a step could not go on: what has to be done without any spinlock before it is tried again. */
enum pf_stop {
	PF_STOP_NONE,
	PF_STOP_ERROR,	  /* nothing helps: see error */
	PF_STOP_RETRY,	  /* something has changed: look again */
	PF_STOP_LOCKED,	  /* a folio is locked by somebody else, or is being written out */
	PF_STOP_BUSY,	  /* a huge page is: it isn't waited for, only looked at again */
	PF_STOP_SPLIT,	  /* a large folio: split it */
	PF_STOP_MIGRATES, /* its migration has to end first */
	PF_STOP_SWAPPED,  /* a swap entry: swap.c moves it */
	PF_STOP_IN_USE,	  /* a reference that isn't the mapping's: may be the kernel's own, for a while */
	PF_STOP_CHARGE,   /* the receiver's memory cgroup is to be charged for more pages */
};

struct pf_op {
	struct pf_side dst, src;
	unsigned long left;
	unsigned long moved;
	u32 mode;
	bool mmap_locked; /* both mmap locks are held, instead of both VMA locks */
	bool drained;	  /* per-CPU batches were drained for this call already */
	struct mem_cgroup *memcg;   /* the receiver's, as soon as there is a page to compare with */
	struct mem_cgroup *charging; /* the same with a reference, once it is charged */
	unsigned int charged;	    /* pages that are charged to it beforehand */
	unsigned int promised;	    /* of those, for folios of this batch that are locked already */
	unsigned int wanted;	    /* CHARGE: how many would do */
	long anon_pages;	    /* that have moved and are not yet counted in either mm */
	unsigned long tables;	    /* bytes that went as whole page tables */
	unsigned long whole_from;   /* from this address of the destination on these are tried again */
	enum pageferry_why why;	    /* the first one that was tried didn't */
	pte_t *was;		    /* the entries of a batch as they were found */
	unsigned int nwas;
	enum pf_stop stop;
	int error;
	struct folio *folio; /* LOCKED, SPLIT: which, with a reference of ours */
};

/* side.c */
int pf_side_open(struct pf_side *side, int uffd);
/* The caller's own memory is his as long as he is in this call: it needs no reference. */
static inline int pf_side_get(struct pf_side *side, int uffd, unsigned long addr)
{
	side->addr = addr;
	if (uffd != PAGEFERRY_SELF)
		return pf_side_open(side, uffd);
	side->mm = current->mm;
	return 0;
}
static inline void pf_side_put(struct pf_side *side)
{
	if (side->ctx && side->mm)
		mmput(side->mm);
	fdput(side->file);
}
/* Lock both mappings and check that the rest may move between them. 0 or -errno. */
int pf_lock(struct pf_op *op);
void pf_unlock(struct pf_op *op);
/* The same, and nobody else of either process changes, walks or fills its page tables. */
int pf_lock_alone(struct pf_op *op);
void pf_unlock_alone(struct pf_op *op);
/* Somebody is killed for want of memory, and while he may not yet have ended his pages are being dropped. */
static inline bool pf_is_dropped(const struct pf_side *side)
{
	return test_bit(MMF_UNSTABLE, &side->mm->flags);
}

/* move.c */
int pf_move(struct pf_op *op);
void pf_advance(struct pf_op *op, unsigned long len);
/* Is it only asked whether the pages could move? */
static inline bool pf_only_checks(const struct pf_op *op)
{
	return op->mode & PAGEFERRY_MOVE_CHECK;
}
static inline int pf_stop(struct pf_op *op, enum pf_stop stop)
{
	op->stop = stop;
	return 0;
}
static inline int pf_fail(struct pf_op *op, int error)
{
	op->stop = PF_STOP_ERROR;
	op->error = error;
	return 0;
}
/* May an empty page of the source be passed over? Not if it was dropped, of which it is told before. */
static inline bool pf_pass_hole(struct pf_op *op)
{
	smp_rmb();
	if (pf_is_dropped(&op->src))
		return pf_fail(op, -ESRCH);
	return (op->mode & PAGEFERRY_MOVE_ALLOW_SRC_HOLES) || pf_fail(op, -ENOENT);
}
/* @folio: what it is about; with a reference, which pf_overcome() gives back. */
static inline int pf_stop_at(struct pf_op *op, enum pf_stop stop, struct folio *folio)
{
	folio_get(folio);
	op->folio = folio;
	return pf_stop(op, stop);
}

/*
 * Each moves what it can and returns how many pages have been dealt with from the start. Where it is
 * fewer than asked for, op->stop says why.
 */
unsigned int pf_move_ptes(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd, unsigned int n);
unsigned int pf_move_swapped(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd);
unsigned int pf_move_huge(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd);

/* swapoff() looks for entries in the processes of this list only. */
void pf_join_mmlist(struct mm_struct *mm);
/* Would the page be mapped as one of KSM's when it is asked for? Nobody may swap it in meanwhile. */
bool pf_is_cached_merged(swp_entry_t entry);

/*
 * whole.c: as many page tables as move whole from here on, with all locks taken and given back. 0 or -errno.
 * Whichever stays is left to the others: then whole_from says where it is worth another look.
 */
int pf_move_whole(struct pf_op *op);
static inline bool pf_whole_is_due(const struct pf_op *op)
{
	return unlikely(op->mode & PAGEFERRY_MOVE_TABLES) && op->dst.addr >= op->whole_from;
}

/*
 * Is there any reference besides the mapping's own and the swap cache's? A pin, a page that was vmspliced
 * into a pipe: after the move it would be a reference from another process, which is what "exclusive"
 * excludes. The folio is locked, and mapped by one entry of the source, whose table is locked.
 *
 * Before the entry is cleared the answer is only a hint. Once it is cleared and flushed nobody can get
 * at the page by way of the page table any more, lock-less pinning included: that one reads the entry
 * again after it has taken its reference, and gives it back when the entry has changed.
 */
static inline bool pf_is_in_use(const struct folio *folio)
{
	int refs = folio_ref_count(folio);

	/* The mapping's alone, as mostly. */
	if (likely(refs == 1))
		return false;
	return !folio_test_swapcache(folio) || refs != 1 + folio_nr_pages(folio);
}

/*
 * The locked folio is mapped at @index of @vma's anon_vma from now on. Both that and the mark that it is
 * anonymous are one word, so that whoever looks without the lock sees neither alone.
 */
static inline void pf_set_rmap(struct folio *folio, struct vm_area_struct *vma, pgoff_t index)
{
	VM_WARN_ON_ONCE(!folio_test_locked(folio));
	WRITE_ONCE(folio->mapping, (void *)vma->anon_vma + PAGE_MAPPING_ANON);
	folio->index = index;
}

/*
 * Those who use the source's pages by other tables than its own, as KVM does, let go of them until
 * mmu_notifier_invalidate_range_end(). Mostly there is nobody, and none can come meanwhile: to become one he
 * takes all locks of the mm, of which we have one.
 */
static inline bool pf_tell_start(struct pf_op *op, struct mmu_notifier_range *range, unsigned long len)
{
	if (likely(!mm_has_notifiers(op->src.mm)) || pf_skips_notifier())
		return false;
	mmu_notifier_range_init(range, MMU_NOTIFY_CLEAR, 0, op->src.mm, op->src.addr,
				op->src.addr + len);
	mmu_notifier_invalidate_range_start(range);
	return true;
}

/* memcg.c */
static inline bool pf_memcg_differs(const struct pf_op *op, const struct folio *folio)
{
#ifdef CONFIG_MEMCG
	return op->memcg && READ_ONCE(folio->memcg_data) != (unsigned long)op->memcg;
#else
	return false;
#endif
}
/*
 * To compare with, no more: no reference is needed for that, since whatever a page is charged to is there.
 * It is had for what is really charged. Before the first page is looked at, under RCU; then it stays.
 */
static inline void pf_memcg_begin(struct pf_op *op)
{
#ifdef CONFIG_MEMCG
	/* For a question nobody is charged, and no room is made. */
	if (op->memcg || pf_only_checks(op) || mem_cgroup_disabled())
		return;
	op->memcg = mem_cgroup_from_task(rcu_dereference(op->dst.mm->owner));
	if (!op->memcg)
		op->memcg = root_mem_cgroup;
#endif
}
/* Can it be taken, with what is charged? Else op->stop says what to do. The folio is locked. */
bool pf_memcg_ready(struct pf_op *op, struct folio *folio);
int pf_memcg_charge(struct pf_op *op);
bool pf_memcg_isolate(struct folio *folio);
void pf_memcg_take(struct pf_op *op, struct folio *folio);
int pf_memcg_take_swap(struct pf_op *op, swp_entry_t entry);
/* What was charged and not needed, and the reference. */
void pf_memcg_release(struct pf_op *op);
static inline void pf_memcg_end(struct pf_op *op)
{
	if (op->charging)
		pf_memcg_release(op);
}

/* wake.c */
static inline bool pf_somebody_waits(struct userfaultfd_ctx *ctx)
{
	bool waits;
	unsigned int seq;

	/* A message that is being read is on neither queue for a moment. */
	do {
		seq = read_seqcount_begin(&ctx->refile_seq);
		waits = waitqueue_active(&ctx->fault_pending_wqh) ||
			waitqueue_active(&ctx->fault_wqh);
	} while (read_seqcount_retry(&ctx->refile_seq, seq));
	return waits;
}

void pf_wake_all(struct userfaultfd_ctx *ctx, unsigned long start, unsigned long len);
static inline void pf_wake(struct userfaultfd_ctx *ctx, unsigned long start, unsigned long len)
{
	/* The page must be visible before we look for waiters; they queue before they look for it. */
	smp_mb();
	if (pf_somebody_waits(ctx))
		pf_wake_all(ctx, start, len);
}

/* count.c */
void pf_count(int error);

#endif
