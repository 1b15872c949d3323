/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The only place that knows kernel versions, and the declarations that modules are not meant to see.
 * What they declare is reached by livepatch relocations, see compat/symbols.
 */
#ifndef PAGEFERRY_COMPAT_H
#define PAGEFERRY_COMPAT_H

#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0) || LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
#error "pageferry supports Linux 6.12 only: build it for such a kernel"
#endif
#ifndef CONFIG_X86_64
#error "pageferry supports x86-64 only"
#endif
#if !defined(CONFIG_LIVEPATCH) || !defined(CONFIG_USERFAULTFD) || \
	!defined(CONFIG_TRANSPARENT_HUGEPAGE) || !defined(CONFIG_PER_VMA_LOCK) || \
	!defined(CONFIG_SWAP) || !defined(CONFIG_MMU_NOTIFIER)
#error "pageferry needs LIVEPATCH, USERFAULTFD, TRANSPARENT_HUGEPAGE, PER_VMA_LOCK, SWAP, MMU_NOTIFIER"
#endif
#ifdef CONFIG_MEMCG_V1
#error "pageferry does not know how to move charges of cgroup v1: a kernel without MEMCG_V1 is needed"
#endif

#include <linux/fs.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/seqlock.h>
#include <linux/swap.h>
#include <linux/userfaultfd_k.h>

/* fs/userfaultfd.c */
extern const struct file_operations userfaultfd_fops;

/* The key of a userfaultfd's wait queues, as its wake function reads it. */
struct pf_wake_range {
	unsigned long start;
	unsigned long len;
};

/* arch/x86/mm/tlb.c; asm/tlbflush.h hides it from modules */
void flush_tlb_mm_range(struct mm_struct *mm, unsigned long start, unsigned long end,
			unsigned int stride_shift, bool freed_tables);

/*
 * As mmap_write_lock(), of which linux/mmap_lock.h has no such form. What it counts, so that a mapping's lock can
 * be taken without it, became a seqcount in a stable release of 6.12; before, giving it up was enough.
 */
static inline bool pf_mmap_write_trylock(struct mm_struct *mm)
{
	if (!down_write_trylock(&mm->mmap_lock))
		return false;
	if (__builtin_types_compatible_p(typeof(mm->mm_lock_seq), seqcount_t))
		do_raw_write_seqcount_begin((seqcount_t *)&mm->mm_lock_seq);
	return true;
}

/* As vma_start_write(), which can't be killed. */
static inline int pf_vma_start_write(struct vm_area_struct *vma)
{
	unsigned int seq;

	if (__is_vma_write_locked(vma, &seq))
		return 0;
	if (down_write_killable(&vma->vm_lock->lock))
		return -EINTR;
	/* lock_vma_under_rcu() looks at it without the lock, as a hint. */
	WRITE_ONCE(vma->vm_lock_seq, seq);
	up_write(&vma->vm_lock->lock);
	return 0;
}

/* asm-generic/tlb.h, which needs what modules aren't meant to see */
#ifdef CONFIG_MMU_GATHER_RCU_TABLE_FREE
void tlb_remove_table_sync_one(void);
#else
/* The flush itself interrupts whoever walks tables without a lock. */
static inline void tlb_remove_table_sync_one(void)
{
}
#endif

/* mm/swap.h */
extern struct address_space *swapper_spaces[];
#define PF_SWAP_SPACE_SHIFT 14

/* mm/internal.h */
void flush_tlb_batched_pending(struct mm_struct *mm);
bool folio_isolate_lru(struct folio *folio);
void folio_putback_lru(struct folio *folio);
bool __folio_unqueue_deferred_split(struct folio *folio);

#ifdef CONFIG_MEMCG
/* mm/memcontrol-v1.h */
int try_charge_memcg(struct mem_cgroup *memcg, gfp_t gfp, unsigned int nr_pages);
void mem_cgroup_id_put_many(struct mem_cgroup *memcg, unsigned int n);
#endif

#endif
