/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The way of a move: ioctl.c reads and checks the request, side.c finds out whose memory it is and
 * locks it, move.c goes through it step by step, pte.c, swap.c and huge.c move what is there, memcg.c
 * lets the charge follow, wake.c tells those who wait.
 */
#ifndef PAGEFERRY_MOVE_H
#define PAGEFERRY_MOVE_H

#include <linux/mm.h>
#include <linux/pageferry.h>
#include <linux/swap.h>

struct userfaultfd_ctx;

/* One of the two address spaces. */
struct pf_side {
	struct file *file; /* its userfaultfd; NULL: the caller's own memory */
	struct userfaultfd_ctx *ctx;
	struct mm_struct *mm;
	struct vm_area_struct *vma; /* while locked */
	unsigned long addr;	    /* of the next page */
};

/* A page that is on its way. */
struct pf_slot {
	struct folio *folio; /* locked, with a reference of ours; NULL: a hole or the zero page */
	pte_t pte;	     /* what was found at the source */
	bool isolated;	     /* from the LRU, for its charge to be moved */
};

/* Why a step could not go on: what has to be done without any spinlock before it is tried again. */
enum pf_stop {
	PF_STOP_NONE,
	PF_STOP_ERROR,	  /* nothing helps: see error */
	PF_STOP_RETRY,	  /* something has changed: look again */
	PF_STOP_LOCKED,	  /* a folio is locked by somebody else */
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
	struct mem_cgroup *memcg; /* the receiver's */
	unsigned int charged;	  /* pages that are charged to it beforehand */
	unsigned int wanted;	  /* CHARGE: how many pages are needed */
	struct pf_slot *slots;
	unsigned int nslots;
	struct pf_slot one; /* slots of a call for one page */
	enum pf_stop stop;
	int error;
	struct folio *folio; /* LOCKED, SPLIT: which, with a reference of ours */
};

/* side.c */
int pf_side_get(struct pf_side *side, int uffd, unsigned long addr);
void pf_side_put(struct pf_side *side);
/* Lock both mappings and check that the rest may move between them. 0 or -errno. */
int pf_lock(struct pf_op *op);
void pf_unlock(struct pf_op *op);

/* move.c */
int pf_move(struct pf_op *op);
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

/*
 * Each moves what it can and returns how many pages have been dealt with from the start. Where it is
 * fewer than asked for, op->stop says why.
 */
unsigned int pf_move_ptes(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd, unsigned int n);
unsigned int pf_move_swapped(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd);
unsigned int pf_move_huge(struct pf_op *op, pmd_t *dst_pmd, pmd_t *src_pmd);

/* tables.c */
pmd_t *pf_find_pmd(struct mm_struct *mm, unsigned long addr);
pmd_t *pf_alloc_pmd(struct mm_struct *mm, unsigned long addr);
void pf_lock_tables(spinlock_t *a, spinlock_t *b);
void pf_unlock_tables(spinlock_t *a, spinlock_t *b);

/* The page tables of both sides, mapped and locked. */
struct pf_tables {
	pmd_t *dst_pmd, *src_pmd;
	pte_t *dst, *src;
	spinlock_t *dst_ptl, *src_ptl;
};
bool pf_map_both(struct pf_op *op, struct pf_tables *t, pmd_t *dst_pmd, pmd_t *src_pmd);
void pf_unmap_both(struct pf_tables *t);

/* refs.c */
bool pf_is_in_use(const struct folio *folio);

/* memcg.c */
int pf_memcg_charge(struct pf_op *op, unsigned int pages);
void pf_memcg_settle(struct pf_op *op);
bool pf_memcg_differs(const struct pf_op *op, const struct folio *folio);
bool pf_memcg_take(struct pf_op *op, struct folio *folio);
int pf_memcg_take_swap(struct pf_op *op, swp_entry_t entry);

/* wake.c */
void pf_wake(struct userfaultfd_ctx *ctx, unsigned long start, unsigned long len);

/* count.c */
void pf_count(int error);

#endif
