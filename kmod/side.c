// SPDX-License-Identifier: GPL-2.0-only
/* Whose memory takes part, whether it may, and its locks. */
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>

#include "compat/compat.h"
#include "move.h"

int pf_side_open(struct pf_side *side, int uffd)
{
	side->file = fdget(uffd);
	if (fd_empty(side->file) || fd_file(side->file)->f_op != &userfaultfd_fops)
		return -EBADF;
	/* The file holds the context, and that holds the mm_struct, though not what is mapped in it. */
	side->ctx = fd_file(side->file)->private_data;
	if (!mmget_not_zero(side->ctx->mm))
		return -ESRCH;
	side->mm = side->ctx->mm;
	return 0;
}

/* ---- what may move */

#define PF_VM_NEVER (VM_SHARED | VM_PFNMAP | VM_IO | VM_HUGETLB | VM_MIXEDMAP | VM_SHADOW_STACK)
#define PF_VM_EQUAL (VM_ACCESS_FLAGS | VM_LOCKED)

static __always_inline int pf_check_side(const struct pf_side *side, unsigned long len)
{
	const struct vm_area_struct *vma = side->vma;

	if (len > vma->vm_end - side->addr)
		return -EINVAL;
	if (!vma_is_anonymous((struct vm_area_struct *)vma) || (vma->vm_flags & PF_VM_NEVER) ||
	    !(vma->vm_flags & VM_WRITE))
		return -EINVAL;
	/* Consent covers what is registered in this very descriptor, so that a hole is trapped. */
	if (side->ctx && (vma->vm_userfaultfd_ctx.ctx != side->ctx || !(vma->vm_flags & VM_UFFD_MISSING)))
		return -EPERM;
	return 0;
}

static int pf_check_both(const struct pf_op *op)
{
	const struct vm_area_struct *dst = op->dst.vma, *src = op->src.vma;
	int err = pf_check_side(&op->dst, op->left);

	if (!err)
		err = pf_check_side(&op->src, op->left);
	if (err)
		return err;
	if (((dst->vm_flags ^ src->vm_flags) & PF_VM_EQUAL) ||
	    pgprot_val(dst->vm_page_prot) != pgprot_val(src->vm_page_prot))
		return -EINVAL;
	return 0;
}

/* ---- locks */

/*
 * Both are only tried: to wait for a VMA while holding another process' one could, with a mover in the
 * other direction and a writer waiting for each, go round in a circle.
 */
static bool pf_lock_vmas(struct pf_op *op)
{
	op->dst.vma = lock_vma_under_rcu(op->dst.mm, op->dst.addr);
	if (!op->dst.vma)
		return false;
	/* It takes the mmap lock to give it one. */
	if (op->dst.vma->anon_vma) {
		op->src.vma = lock_vma_under_rcu(op->src.mm, op->src.addr);
		if (op->src.vma)
			return true;
	}
	vma_end_read(op->dst.vma);
	return false;
}

/* In the order of addresses: a mover in the other direction does the same. */
static int pf_lock_mmaps(struct pf_op *op)
{
	struct mm_struct *first = op->dst.mm, *second = op->src.mm;

	if (first > second)
		swap(first, second);
	if (mmap_read_lock_killable(first))
		return -EINTR;
	if (down_read_killable_nested(&second->mmap_lock, SINGLE_DEPTH_NESTING)) {
		mmap_read_unlock(first);
		return -EINTR;
	}
	op->mmap_locked = true;
	return 0;
}

static int pf_find_vmas(struct pf_op *op)
{
	op->dst.vma = vma_lookup(op->dst.mm, op->dst.addr);
	op->src.vma = vma_lookup(op->src.mm, op->src.addr);
	if (!op->dst.vma || !op->src.vma)
		return -ENOENT;
	/* Only what is anonymous may have one. */
	if (!vma_is_anonymous(op->dst.vma))
		return -EINVAL;
	return anon_vma_prepare(op->dst.vma) ? -ENOMEM : 0;
}

/* As vma_end_read() does for each, but once for both: RCU keeps the locks there until they are given up. */
static inline void pf_unlock_vmas(struct pf_op *op)
{
	if (op->mmap_locked) {
		mmap_read_unlock(op->src.mm);
		mmap_read_unlock(op->dst.mm);
		op->mmap_locked = false;
	} else {
		rcu_read_lock();
		up_read(&op->src.vma->vm_lock->lock);
		up_read(&op->dst.vma->vm_lock->lock);
		rcu_read_unlock();
	}
}

/*
 * Nothing may be resolved while an event of the process is unread. By addresses, too: readers of both
 * with a writer waiting at each would block each other.
 */
static void pf_lock_contexts(struct pf_op *op)
{
	struct userfaultfd_ctx *first = op->dst.ctx, *second = op->src.ctx;

	if (second && first > second)
		swap(first, second);
	down_read(&first->map_changing_lock);
	if (second && second != first)
		down_read_nested(&second->map_changing_lock, SINGLE_DEPTH_NESTING);
}

static void pf_unlock_contexts(struct pf_op *op)
{
	if (op->src.ctx && op->src.ctx != op->dst.ctx)
		up_read(&op->src.ctx->map_changing_lock);
	up_read(&op->dst.ctx->map_changing_lock);
}

static bool pf_is_changing(const struct pf_side *side)
{
	return side->ctx && atomic_read(&side->ctx->mmap_changing);
}

static int pf_check_locked(const struct pf_op *op)
{
	if (pf_is_changing(&op->dst) || pf_is_changing(&op->src))
		return -EAGAIN;
	if (pf_is_dropped(&op->dst) || pf_is_dropped(&op->src))
		return -ESRCH;
	return pf_check_both(op);
}

int pf_lock(struct pf_op *op)
{
	int err;

	if (!pf_lock_vmas(op)) {
		err = pf_lock_mmaps(op);
		if (err)
			return err;
		err = pf_find_vmas(op);
		if (err) {
			pf_unlock_vmas(op);
			return err;
		}
	}
	pf_lock_contexts(op);
	err = pf_check_locked(op);
	if (err)
		pf_unlock(op);
	return err;
}

void pf_unlock(struct pf_op *op)
{
	pf_unlock_contexts(op);
	pf_unlock_vmas(op);
}

/* ---- both address spaces for oneself */

/*
 * Each is waited for with the other one free, so that nobody halts one process by what he does in another,
 * and movers in opposite directions can't block each other.
 */
static int pf_lock_mmaps_alone(struct pf_op *op)
{
	struct mm_struct *first = op->dst.mm, *second = op->src.mm;

	for (;;) {
		if (mmap_write_lock_killable(first))
			return -EINTR;
		if (pf_mmap_write_trylock(second))
			return 0;
		mmap_write_unlock(first);
		swap(first, second);
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
}

static void pf_unlock_mmaps_alone(struct pf_op *op)
{
	mmap_write_unlock(op->src.mm);
	mmap_write_unlock(op->dst.mm);
}

static int pf_find_vmas_alone(struct pf_op *op)
{
	op->dst.vma = vma_lookup(op->dst.mm, op->dst.addr);
	op->src.vma = vma_lookup(op->src.mm, op->src.addr);
	if (!op->dst.vma || !op->src.vma)
		return -ENOENT;
	/* Whoever faults in one of them has its lock, but waits for nothing that we have. */
	if (pf_vma_start_write(op->dst.vma))
		return -EINTR;
	return pf_vma_start_write(op->src.vma);
}

int pf_lock_alone(struct pf_op *op)
{
	int err = pf_lock_mmaps_alone(op);

	if (err)
		return err;
	err = pf_find_vmas_alone(op);
	if (err) {
		pf_unlock_mmaps_alone(op);
		return err;
	}
	pf_lock_contexts(op);
	err = pf_check_locked(op);
	if (err)
		pf_unlock_alone(op);
	return err;
}

void pf_unlock_alone(struct pf_op *op)
{
	pf_unlock_contexts(op);
	pf_unlock_mmaps_alone(op);
}
