/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */
/*
 * pageferry.ko: move pages of private anonymous memory from one process to another.
 *
 * Linux' own UFFDIO_MOVE does that within one process. Here the source and the destination are two
 * address spaces. A page that has moved is gone at the source and is there at the destination; at no
 * instant is it mapped in both, and nothing is copied.
 *
 * The device is /dev/pageferry. It gives no right of its own: each address space takes part by a
 * userfaultfd(2) which that process made itself and handed over (SCM_RIGHTS, EVENT_FORK), and only
 * with the ranges that are registered in it. The caller's own memory, as a source, needs none.
 *
 * Whoever has the descriptor can also register with it (UFFDIO_REGISTER asks nobody else), so to hand it
 * over is to consent to all private anonymous memory of the process. By itself a userfaultfd lets its
 * holder change such memory, and not read it; together with this device, it does both.
 *
 * Structures are extensible: size tells which version of one the caller knows. What the kernel does
 * not know must be zero, else the answer is E2BIG.
 */
#ifndef _LINUX_PAGEFERRY_H
#define _LINUX_PAGEFERRY_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * Counts up when the meaning of something changes, which a program has to know; what is only added
 * shows as a feature bit.
 */
#define PAGEFERRY_ABI 1

#define PAGEFERRY_FEATURE_MOVE	(1ULL << 0) /* PAGEFERRY_IOC_MOVE */
#define PAGEFERRY_FEATURE_THP	(1ULL << 1) /* a huge page that is covered whole stays one */
#define PAGEFERRY_FEATURE_SWAP	(1ULL << 2) /* swapped-out pages move without being read in */
#define PAGEFERRY_FEATURE_MEMCG	(1ULL << 3) /* the memory cgroup's charge follows the page */
#define PAGEFERRY_FEATURE_CHECK	(1ULL << 4) /* PAGEFERRY_MOVE_CHECK */
#define PAGEFERRY_FEATURE_TABLES (1ULL << 5) /* PAGEFERRY_MOVE_TABLES */

/**
 * struct pageferry_info - what the module can do (PAGEFERRY_IOC_INFO)
 * @size: in: sizeof(struct pageferry_info)
 * @abi: out: PAGEFERRY_ABI
 * @features: out: PAGEFERRY_FEATURE_*
 */
struct pageferry_info {
	__u32 size;
	__u32 abi;
	__u64 features;
};

/* An empty source page is passed over and its destination stays empty; else it is ENOENT. */
#define PAGEFERRY_MOVE_ALLOW_SRC_HOLES (1U << 0)
/* Threads that wait for the destination's pages are not woken. */
#define PAGEFERRY_MOVE_DONTWAKE	       (1U << 1)
/*
 * Nothing moves and nobody is woken: the answer, and @moved, are what a move would have given just now. It can
 * be another one a moment later. Two differences: a page that KSM has merged passes, since its owner can
 * have it to himself again (MADV_UNMERGEABLE); and a charge that would be refused isn't seen, since nobody is
 * charged. A huge page that could not move whole is split, as for a move.
 */
#define PAGEFERRY_MOVE_CHECK	       (1U << 2)
/*
 * Page tables move whole, with all that is in them, wherever one of the source is covered by the range and
 * lies in the same way on both sides; the rest moves page by page as without it. It costs a few instructions
 * a page, and is for two processes that trust each other, as two versions of one program do:
 *
 * - Both mappings share the lock by which the kernel finds who maps a page, as parent and child do, until the
 *   one that receives is unmapped.
 * - The memory cgroup's charge for what has moved in this way stays with the giver until the page is freed.
 * - References that aren't pins are not looked for, and pages that the giver shares with its own children move,
 *   too, and stay shared with them.
 * - All of the destination's mapping counts as soft-dirty, until that is cleared.
 *
 * The destination's mapping has to be empty at first; when page tables of the same mapping of the source have come it
 * may have other pages, too. But for what moves nevertheless, see above, the errno and the order are those of a
 * move page by page. Not together with PAGEFERRY_MOVE_CHECK.
 */
#define PAGEFERRY_MOVE_TABLES	       (1U << 3)
/*
 * With PAGEFERRY_MOVE_TABLES: and nothing else. The first page table that doesn't move whole ends the call with
 * EOPNOTSUPP, and @why is about that one. All three of @dst, @src and @len are multiples of 2 MiB.
 */
#define PAGEFERRY_MOVE_TABLES_ONLY     (1U << 4)

/* Why the first page table that was covered by the range has not moved whole. */
enum pageferry_why {
	PAGEFERRY_WHY_NONE,	 /* all of them have; or it was not asked for */
	PAGEFERRY_WHY_ALIGNMENT, /* none is covered, or both sides lie in different ways */
	PAGEFERRY_WHY_MAPPING,	 /* source registered for write-protection by userfaultfd, or destination a stack */
	PAGEFERRY_WHY_OWN_PAGES, /* the destination's mapping has other pages */
	PAGEFERRY_WHY_NO_PAGES,	 /* the source's mapping never had any */
	PAGEFERRY_WHY_POPULATED, /* the destination has a page there */
	PAGEFERRY_WHY_HOLE,	 /* an empty page, without PAGEFERRY_MOVE_ALLOW_SRC_HOLES */
	PAGEFERRY_WHY_PINNED,	 /* a page may be pinned */
	PAGEFERRY_WHY_OTHER,	 /* a page that migrates, is poisoned, or the huge zero page */
	PAGEFERRY_WHY_NO_MEMORY,
	PAGEFERRY_WHY_MERGED,	 /* KSM has merged a page */
};

/* As src_uffd: the source is the caller's own memory. */
#define PAGEFERRY_SELF (-1)

/**
 * struct pageferry_move - move a range (PAGEFERRY_IOC_MOVE)
 * @size: in: sizeof(struct pageferry_move)
 * @mode: in: PAGEFERRY_MOVE_*
 * @dst_uffd: in: userfaultfd of the process that receives; @dst.. is registered in it, MISSING
 * @src_uffd: in: userfaultfd of the process that gives, @src.. is registered in it, so that the
 *            holes that are left are trapped and never read as zeros; or PAGEFERRY_SELF
 * @dst: in: address in the receiving process
 * @src: in: address in the giving process
 * @len: in: bytes; all three are multiples of the page size, and each range lies in one mapping
 * @moved: out: bytes from the start that were dealt with, also when the call fails
 * @tables: out: PAGEFERRY_MOVE_TABLES: of those, bytes that went as whole page tables, or as whole huge pages
 *          like them
 * @why: out: PAGEFERRY_WHY_*
 *
 * Whoever only knows the first version, up to @moved, is told no more.
 *
 * Whoever tracks changes of the destination sees each page that has come as changed: its entry is
 * soft-dirty, writable, and never write-protected by userfaultfd, in whatever modes @dst is registered and
 * swapped out or not. (What came with its page table has the entry that it had: there the mapping is what
 * is soft-dirty. UFFDIO_MOVE lets the protection of a swapped-out page through.) At the source nothing
 * is left of a page that has gone, no protection either, as after MADV_DONTNEED: who still wants its old
 * contents has to take them before. An empty page that is write-protected there is a hole and stays
 * protected; one at the destination is EEXIST.
 *
 * Returns 0 when all of @len is dealt with. Otherwise -1 and errno, and @moved says how far it came: the
 * errno is about the page there. Add it to both addresses and call again to go on. (UFFDIO_MOVE says
 * EAGAIN first, and the reason at the next call.)
 *
 * EAGAIN	an event (fork, mremap, ...) of either process waits to be read from its userfaultfd.
 * EBUSY	the page at @moved is in use: pinned for DMA, shared with another process or by KSM, or
 *		something else holds a reference to it. It stays where it was. Stricter than
 *		UFFDIO_MOVE, which lets plain references through: afterwards they would be references
 *		from another process.
 * EEXIST	the destination page at @moved is populated.
 * ENOENT	the source page at @moved is empty; or nothing is mapped at @src or @dst.
 * ENOMEM	no memory, or the receiving process' memory cgroup is full. The page stays.
 * EINVAL	unknown @mode bits, or two that exclude each other; unaligned, empty or wrapping ranges; a range
 *		that isn't within one mapping; memory that isn't private and anonymous, or isn't writable; access rights or
 *		locking (mlock) differ between both; source and destination are one process
 *		(UFFDIO_MOVE does that).
 * EPERM	no consent: the range is not registered in the descriptor given for it.
 * EBADF	a descriptor is not open, or isn't a userfaultfd.
 * ESRCH	the process behind a descriptor has exited, or is about to and its pages are being dropped.
 * EOPNOTSUPP	(PAGEFERRY_MOVE_TABLES_ONLY) the page table at @moved doesn't move whole: @why says for what reason.
 * E2BIG	@size is larger than known here and what is beyond isn't zero.
 * EFAULT	the structure can't be read or written; a page that is poisoned or otherwise no memory.
 * EINTR	a fatal signal.
 */
struct pageferry_move {
	__u32 size;
	__u32 mode;
	__s32 dst_uffd;
	__s32 src_uffd;
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 moved;
	__u64 tables;
	__u64 why;
};

#define PAGEFERRY_IOC_INFO _IO('F' | 0x80, 0x00)
#define PAGEFERRY_IOC_MOVE _IO('F' | 0x80, 0x01)

#endif
