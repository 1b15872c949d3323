/* SPDX-License-Identifier: MIT */
/*
 * The move of a whole page table by the kernel module, against all that may get at its page, at its entry
 * or at the table itself meanwhile: as move.pml is for a page.
 *
 * What stands here for what of kmod/, in the order of mover():
 *
 *	lock_mmaps()	pf_lock_alone() of side.c: both mmap locks for writing, one waited for, one tried
 *	lock_vmas()	vma_start_write() there: whoever is in a fault has come to his end
 *	share()		pf_share() of whole.c: what finds the source's mapping finds the destination's, too
 *	tell_start()	pf_tell_start(), for KVM
 *	lock_root()	the root of the anon_vmas, by pf_move_batch()
 *	HAS_ROOM	pf_check_batch(): an empty table at the destination goes the other way; none is freed
 *	IS_PINNED	the same, of the source. That it has holes is allowed: without, less moves.
 *	pmd[] = NONE	pf_clear_batch(), with
 *	flush_tlb()	flush_tlb_mm_range() and
 *	sync()		tlb_remove_table_sync_one()
 *	IS_PINNED	pf_recheck_batch()
 *	set_pmd()	pf_install_batch(): pf_install_entry() or pf_put_back_entry(), of both tables
 *
 * Not here: the PMDs' locks, since whoever else takes one is kept out by the mappings' or the root's;
 * batches, whose tables have nothing to do with each other; huge pages, which go as tables do; counters; and
 * the order of memory accesses, as in move.pml. What others do under a table's lock is one step where nobody
 * could tell.
 *
 * One table with a page of process 0 moves to process 1.
 */

#define LOCKS 4
#include "memory.pml"

/* ---- what else an entry holds */
#define LATER	 4 /* a page that the giver gets afterwards */
#define AWAY	 5 /* the page is in swap */
#define MIGRATES 6 /* the page, or the other one, is being copied elsewhere */

#define IS_PAGE(x)  ((x) == PAGE || (x) == SHARED)
#define BY_FAULT(m) ((m) == 0 -> LATER : OTHER)

/* A table of the receiver's mapping that takes no part. */
#define BESIDE 4

/* ---- a CPU of each process */
byte walk[2]; /* the table that it remembers the PMD to have */
byte tlb[2];  /* the entry that it remembers */

bool has_pinned[2]; /* MMF_HAS_PINNED */

/* ---- KVM, which maps for a guest what a process has */
bool guest[2];	 /* the page is mapped */
byte telling[2]; /* notifier calls between their start and their end */
bool told[2];	 /* since it began to look */

/* ---- a mapping's own lock: for writing it can be had with the mmap lock only, and as long */
byte vma_readers[2];
bool vma_writer[2];

/*
 * ---- anon_vmas: which of them a mapping hangs on, and which one its new pages get
 *
 * The giver's and the receiver's first ones are roots; a child's has the giver's.
 */
#define GIVERS	    1
#define RECEIVERS   2
#define CHILDS(m)   (4 << (m))
#define ROOT(x)	    ((x) == RECEIVERS -> 3 : 2) /* its lock */
#define ANON_VMA(x) ((x) == PAGE -> GIVERS : RECEIVERS)

byte hangs[2], own[2];
bool indexed[2]; /* the page would be at its index in this mapping */

bool folio_locked; /* the page's, or in its scene the other's */
bool child_runs;
bool came, went; /* LATER came; it was dropped */
byte kept[2];	 /* the table in reserve for a huge page */

/* ---- what must never be */

#define SEES(m, x) (pte[pmd[m]] == x || pte[walk[m]] == x || tlb[m] == x)
#define HAS(m)	   (SEES(m, PAGE) || SEES(m, SHARED))

inline look()
{
	/* In both: a write through one would be seen through the other. */
	assert(!(HAS(0) && HAS(1)));
	assert(!(SEES(0, OTHER) && SEES(1, OTHER)));
	assert(!(SEES(0, LATER) && SEES(1, LATER)));
	assert(!(guest[0] && (HAS(1) || child_runs)));
	assert(!(guest[1] && HAS(0)));
	assert(!(child_runs && (SEES(0, PAGE) || SEES(1, PAGE))));
	/* What a device reads and writes belongs to who has pinned it. */
	assert(!(pinned[0] && (HAS(1) || child)));
	assert(!(pinned[1] && HAS(0)))
}

inline set_pmd(m, t)
{
	d_step {
		assert(!freed[t]);
		/* What is there would be lost. */
		assert(pmd[m] == NONE);
		pmd[m] = t;
		look()
	}
}

/* When all have ended. Each page is in one place that can be got at, and so is each table. */
inline look_at_the_end()
{
	byte found, i, t;

	d_step {
		for (i : 0 .. 1) {
			t = pte[pmd[i]];
			assert(t != MIGRATES);
			if
			:: vma[i] && (IS_PAGE(t) || t == AWAY) -> found++
			:: vma[i] && t == OTHER -> filled = false
			:: vma[i] && t == LATER -> came = false
			:: else
			fi
		}
		assert(found + copied + dropped == 1);
		assert((!filled || unfilled) && (!came || went));
		for (i : 1 .. next_table - 1) {
			t = (pmd[0] == i) + (pmd[1] == i) + (kept[0] == i) + (kept[1] == i);
			assert(freed[i] + t == 1);
			assert(!ptl[i])
		}
		assert(!telling[0] && !telling[1])
	}
}

/* ---- locks, and what is told to whom */

/* vma_start_write(): who reads is waited for, who comes is turned away until the mmap lock is given up. */
inline lock_vma(m)
{
	atomic { vma_readers[m] == 0 -> vma_writer[m] = true }
}

/* Not as write_lock(): whom a writer that waits would keep out has nothing yet that somebody waits for. */
inline lock_mmap(m)
{
	atomic { !writer[m] && readers[m] == 0 -> writer[m] = true }
}

inline lock_alone(m)
{
	lock_mmap(m);
	lock_vma(m)
}

inline unlock_alone(m)
{
	d_step { vma_writer[m] = false; writer[m] = false }
}

/* A page fault, and UFFDIO_COPY: with the mapping's own lock if that is to be had. */
inline fault_lock(m, by_vma)
{
	if
	:: d_step { !vma_writer[m] -> vma_readers[m]++; by_vma = true }
	:: else -> read_lock(m)
	fi
}

inline fault_unlock(m, by_vma)
{
	if
	:: by_vma -> vma_readers[m]--
	:: else -> read_unlock(m)
	fi
}

/* mmu_notifier_invalidate_range_start(): what KVM has is dropped, and it waits with more. */
inline tell_start(m)
{
	d_step { telling[m]++; told[m] = true; guest[m] = false }
}

inline tell_end(m)
{
	telling[m]--
}

/* With all that the CPU remembers. A hypervisor does this without an interrupt. */
inline flush_tlb(m)
{
	d_step {
		tlb[m] = NONE;
#ifndef FLUSH_PAGES_ONLY
		walk[m] = NONE
#endif
	}
}

/* An interrupt to all, and an answer: who had read something with interrupts off has come to his end. */
inline sync()
{
	!irqs_off[0] && !irqs_off[1]
}

/* Both, as others do it. */
inline flush(m)
{
	atomic { !irqs_off[m] -> tlb[m] = NONE; walk[m] = NONE }
}

/* ---- the mover: pf_move_whole() */

/* Each is waited for with the other one free. */
inline lock_mmaps(d, s)
{
#if defined(WITHOUT_MMAP_LOCK)
	skip
#elif defined(MMAPS_BY_SIDE)
	lock_mmap(d); lock_mmap(s)
#elif defined(MMAPS_BY_ADDRESS)
	lock_mmap(0); lock_mmap(1)
#else
	do
	:: lock_mmap(d);
		if
		:: d_step { !writer[s] && readers[s] == 0 -> writer[s] = true } break
		:: else -> write_unlock(d)
		fi
	:: lock_mmap(s);
		if
		:: d_step { !writer[d] && readers[d] == 0 -> writer[d] = true } break
		:: else -> write_unlock(s)
		fi
	od
#endif
}

inline unlock_mmaps()
{
#ifdef WITHOUT_MMAP_LOCK
	d_step { vma_writer[0] = false; vma_writer[1] = false }
#else
	unlock_alone(0);
	unlock_alone(1)
#endif
}

inline lock_vmas(d, s)
{
#ifndef WITHOUT_DST_VMA_LOCK
	lock_vma(d);
#endif
#ifndef WITHOUT_SRC_VMA_LOCK
	lock_vma(s);
#endif
	skip
}

#ifdef WITHOUT_OFFSET
#define SET_INDEX(d)
#else
#define SET_INDEX(d) indexed[d] = true
#endif

#define IS_CHILD(d, s) (indexed[d] && (hangs[d] & hangs[s]) == hangs[s])

#define HAS_ROOM(t) (t != HUGE && pte[t] == NONE)

/* pf_is_empty() */
inline has_no_entry(d, none)
{
#ifndef WITHOUT_OWN_LOCK
	write_lock(ROOT(own[d]));
#endif
	none = HAS_ROOM(pmd[d]) && pte[BESIDE] == NONE;
#ifndef WITHOUT_OWN_LOCK
	write_unlock(ROOT(own[d]));
#endif
#ifdef WITHOUT_OWN_CHECK
	none = true
#endif
}

/* What it hung on is given up: nothing of it is left to be found by. */
inline share(d, s, ready)
{
	ready = true;
#ifndef WITHOUT_SHARING
	if
	:: IS_CHILD(d, s)
	:: else ->
		if
		:: own[d] -> has_no_entry(d, ready)
		:: else
		fi;
		if
		:: ready -> d_step { own[d] = CHILDS(d); hangs[d] = hangs[s] | CHILDS(d); SET_INDEX(d) }
		:: else
		fi
	fi
#endif
}

inline lock_root(s)
{
#if defined(ROOT_FOR_READING)
	read_lock(ROOT(own[s]));
#elif !defined(WITHOUT_ROOT_LOCK)
	write_lock(ROOT(own[s]));
#endif
	skip
}

inline unlock_root(s)
{
#if defined(ROOT_FOR_READING)
	read_unlock(ROOT(own[s]));
#elif !defined(WITHOUT_ROOT_LOCK)
	write_unlock(ROOT(own[s]));
#endif
	skip
}

/* pf_is_pinned() */
#define IS_PINNED(m, t) (has_pinned[m] && IS_PAGE(pte[t]) && pins)

proctype mover(byte d, s)
{
	byte td, ts;
	bool ready;

#ifdef ROOT_FIRST
	lock_root(s);
#endif
	lock_mmaps(d, s);
	lock_vmas(d, s);
	if
	:: !vma[d] || !vma[s] -> goto unlock
	:: else
	fi;
	share(d, s, ready);
	if
	:: !ready -> goto unlock
	:: else
	fi;
#ifndef WITHOUT_NOTIFIER
	tell_start(s);
#endif
#ifndef ROOT_FIRST
	lock_root(s);
#endif

	/* pf_check_entry() */
	td = pmd[d];
	if
#ifndef WITHOUT_DST_CHECK
	:: !HAS_ROOM(td) -> goto told_all
#endif
	:: else
	fi;
	ts = pmd[s];
	if
	:: !IS_TABLE(ts) -> goto told_all
#ifndef MIGRATION_MOVES
	:: pte[ts] == MIGRATES -> goto told_all
#endif
#ifndef WITHOUT_EARLY_CHECK
	:: IS_PINNED(s, ts) -> goto told_all
#endif
	:: else
	fi;

#ifdef INSTALL_FIRST
	d_step { pmd[d] = ts; look() }
#endif
	/* pf_clear_batch() */
#ifdef FLUSH_FIRST
	flush_tlb(d);
	flush_tlb(s);
	sync();
#endif
	pmd[s] = NONE;
	pmd[d] = NONE;
#ifdef RECHECK_FIRST
	if
	:: IS_PINNED(s, ts) -> goto put_back
	:: else
	fi;
#endif
#ifndef FLUSH_FIRST
#ifndef WITHOUT_DST_FLUSH
	if
	:: td != NONE -> flush_tlb(d)
	:: else
	fi;
#endif
#ifndef WITHOUT_SRC_FLUSH
	flush_tlb(s);
#endif
#ifndef WITHOUT_INTERRUPT
	sync();
#endif
#endif
	/* pf_recheck_batch() */
#if !defined(WITHOUT_RECHECK) && !defined(RECHECK_FIRST)
	if
	:: IS_PINNED(s, ts) -> goto put_back
	:: else
	fi;
#endif
	/* pf_install_entry() */
	set_pmd(d, ts);
	if
	:: td != NONE ->
		/* What goes the other way is empty. */
		assert(pte[td] == NONE);
		set_pmd(s, td)
	:: else
	fi;
	goto told_all;
put_back:
	skip;
#ifndef WITHOUT_PUT_BACK
	set_pmd(s, ts);
#endif
#ifndef WITHOUT_DST_PUT_BACK
	if
	:: td != NONE -> set_pmd(d, td)
	:: else
	fi;
#endif
told_all:
#ifndef ROOT_FIRST
	unlock_root(s);
#endif
#ifndef WITHOUT_NOTIFIER
	tell_end(s);
#endif
unlock:
	unlock_mmaps();
#ifdef ROOT_FIRST
	unlock_root(s)
#endif
}

/* ---- the others */

/*
 * A thread that reads or writes. Its CPU asks the PMD only if it doesn't remember the table, and that only if
 * it doesn't remember the entry.
 */
inline remember_table(m)
{
	if
	:: walk[m] == NONE && IS_TABLE(pmd[m]) -> walk[m] = pmd[m]
	:: else
	fi
}

proctype toucher(byte m)
{
	d_step { remember_table(m) }
	d_step {
		remember_table(m);
		assert(!freed[walk[m]]);
		if
		:: tlb[m] == NONE && pte[walk[m]] < AWAY -> tlb[m] = pte[walk[m]]
		:: else
		fi;
		look()
	}
}

/* gup_fast(), for a pin to write. That there are pins is said first, once and for all. */
proctype pinner(byte m)
{
	byte t;

#ifndef PIN_TELLS_LATE
	has_pinned[m] = true;
#endif
	irqs_off[m] = true;
	t = pmd[m];
	if
	:: d_step { IS_TABLE(t) && pte[t] == PAGE -> assert(!freed[t]) }
	:: else -> goto out
	fi;
	pins++;
	if
#ifdef PIN_WITHOUT_REREAD
	:: d_step { true -> pinned[m] = true; look() }
#else
	:: d_step { pmd[m] == t && pte[t] == PAGE -> pinned[m] = true; look() }
	:: else -> pins--
#endif
	fi;
out:
	irqs_off[m] = false;
#ifdef PIN_TELLS_LATE
	has_pinned[m] = true;
#endif
	if
	:: d_step { pinned[m] -> pinned[m] = false; pins-- }
	:: else
	fi
}

/* kvm_mmu_faultin_pfn(): the page is looked for with nothing locked, and mapped if nothing was told since. */
proctype kvm(byte m)
{
	if
	:: d_step { telling[m] == 0 -> told[m] = false }
	:: else -> goto out
	fi;
	if
	:: pte[pmd[m]] == PAGE
	:: else -> goto out
	fi;
	if
	:: d_step { !told[m] -> guest[m] = true; look() }
	:: else
	fi;
out:
	skip
}

/* dup_mmap(), and copy_present_ptes() as in move.pml */
proctype forker()
{
	byte t;

	lock_alone(0);
	tell_start(0);
	t = pmd[0];
	if
	:: d_step { pte[t] == PAGE && pins == 0 -> pte[t] = SHARED; child = true }
	:: else
	fi;
	flush(0);
	tell_end(0);
	d_step { child_runs = child; look() }
	unlock_alone(0)
}

/* collapse_huge_page(), as in move.pml */
proctype khugepaged(byte m)
{
	byte t;

	lock_alone(m);
	t = pmd[m];
	if
	:: !vma[m] || !IS_TABLE(t) -> goto out
	:: else
	fi;
	tell_start(m);
	pmd[m] = NONE;
	flush(m);
	tell_end(m);
	if
	:: d_step { pte[t] == PAGE && pins == 0 -> pte[t] = NONE; copied = true }
		d_step { assert(pmd[m] == NONE); pmd[m] = HUGE; kept[m] = t }
	:: else -> set_pmd(m, t)
	fi;
out:
	unlock_alone(m)
}

/* munmap() */
proctype unmapper(byte m)
{
	byte t;

	lock_alone(m);
	vma[m] = false;
	tell_start(m);
	t = pmd[m];
	if
	:: IS_TABLE(t) ->
		d_step {
			assert(!freed[t]);
			if
			:: IS_PAGE(pte[t]) || pte[t] == AWAY -> dropped = true
			:: pte[t] == OTHER -> unfilled = true
			:: pte[t] == LATER -> went = true
			:: else
			fi;
			pte[t] = NONE
		}
		pmd[m] = NONE;
		flush(m);
		sync();
		freed[t] = true
	:: else
	fi;
	tell_end(m);
	unlock_alone(m)
}

/*
 * A page fault where there is nothing, or UFFDIO_COPY. Where a userfaultfd has to be asked for the page there
 * is no more than a table when the locks are given up.
 */
proctype filler(byte m)
{
	byte t;
	bool by_vma;

	fault_lock(m, by_vma);
	if
	:: !vma[m] || pmd[m] == HUGE -> goto out
	:: else
	fi;
	alloc_table(m);
	t = pmd[m];
	if
	:: true
	:: d_step {
		IS_TABLE(t) && pmd[m] == t && pte[t] == NONE ->
		assert(!freed[t]);
		pte[t] = BY_FAULT(m);
		if
		:: m == 0 -> came = true
		:: else -> filled = true
		fi;
		/* anon_vma_prepare() */
		if
		:: own[m] == 0 -> own[m] = RECEIVERS; hangs[m] = RECEIVERS
		:: else
		fi;
		look()
	   }
	fi;
out:
	fault_unlock(m, by_vma)
}

/* do_swap_page(): the folio's lock, and the end of a migration, are waited for with the mapping locked. */
proctype swapper(byte m)
{
	byte t;
	bool by_vma;

	fault_lock(m, by_vma);
	t = pmd[m];
	if
	:: pte[t] == AWAY || pte[t] == MIGRATES ->
		atomic {
			!folio_locked && !ptl[t] ->
			if
			:: d_step { pmd[m] == t && pte[t] == AWAY -> pte[t] = PAGE; look() }
			:: else
			fi
		}
	:: else
	fi;
	fault_unlock(m, by_vma)
}

/* ---- from the folio, which tells only its anon_vma and its index */

#define IS_MAPPED(x) (pte[1] == x || pte[2] == x || pte[3] == x || pte[BESIDE] == x)

/* rmap_walk(): the entry of the page in one of the mappings that are found by its anon_vma and index. */
inline find_entry(x, m, t)
{
	t = NONE;
	if
	:: (hangs[m] & ANON_VMA(x)) && (x == OTHER || indexed[m]) -> t = (x == OTHER -> BESIDE : pmd[m])
	:: else
	fi
}

/* ptep_clear_flush(), and what comes instead */
inline take_out(m, t, x, instead)
{
	lock_table(t);
	if
	:: pte[t] == x ->
		pte[t] = NONE;
		flush(m);
		pte[t] = instead
	:: else
	fi;
	unlock_table(t)
}

/* try_to_unmap(), or try_to_migrate() and with the same lock again remove_migration_ptes() */
proctype from_folio(byte x, instead)
{
	byte m, t;

	atomic { !folio_locked -> folio_locked = true }
	if
	:: !IS_MAPPED(x) -> goto out
	:: else
	fi;
	read_lock(ROOT(ANON_VMA(x)));
	for (m : 0 .. 1) {
		find_entry(x, m, t);
		if
		:: IS_TABLE(t) -> take_out(m, t, x, instead)
		:: else
		fi
	}
	read_unlock(ROOT(ANON_VMA(x)));
	d_step {
		/* What is mapped is found. */
		assert(!IS_MAPPED(x));
		/* What isn't mapped any more is free, or somewhere else. */
		assert(tlb[0] != x && tlb[1] != x)
	}
	if
	:: instead == MIGRATES ->
		read_lock(ROOT(ANON_VMA(x)));
		for (m : 0 .. 1) {
			find_entry(x, m, t);
			atomic {
				!ptl[t] ->
				if
				:: pte[t] == MIGRATES -> pte[t] = x
				:: else
				fi
			}
		}
		read_unlock(ROOT(ANON_VMA(x)));
		assert(!IS_MAPPED(MIGRATES))
	:: else
	fi;
out:
	folio_locked = false
}

/* MADV_DONTNEED of the receiver's other table */
proctype discarder()
{
	read_lock(1);
	if
	:: d_step { pte[BESIDE] == OTHER -> pte[BESIDE] = NONE }
	:: else
	fi;
	read_unlock(1)
}

init
{
	atomic {
		pmd[0] = 1;
		pte[1] = PAGE;
		hangs[0] = GIVERS;
		own[0] = GIVERS;
		indexed[0] = true;
		if
		:: pmd[1] = 2; own[1] = RECEIVERS; hangs[1] = RECEIVERS
#ifndef OWN_PAGES
		:: pmd[1] = 2; own[1] = CHILDS(1); hangs[1] = GIVERS | CHILDS(1); indexed[1] = true
		:: next_table = 2
#endif
		fi;
		run mover(1, 0);
#ifdef AT_SOURCE
		run pinner(0);
		run toucher(0);
		run toucher(1);
		run kvm(0);
#ifndef WITHOUT_FORK
		run forker();
#endif
#ifndef WITHOUT_KHUGEPAGED
		run khugepaged(0);
#endif
#endif
#ifdef AT_DESTINATION
		run toucher(1);
		run filler(1);
		run filler(0);
		run khugepaged(1);
		run unmapper(1);
		run kvm(1);
#endif
#ifdef FROM_FOLIO
		run from_folio(PAGE, AWAY);
		run from_folio(PAGE, MIGRATES);
		run toucher(1);
		run swapper(0);
		run swapper(1);
#endif
#ifdef OWN_PAGES
		pte[BESIDE] = OTHER;
		run from_folio(OTHER, MIGRATES);
		run discarder();
#endif
#ifdef BOTH_WAYS
		run mover(0, 1);
		run pinner(0);
		run pinner(1);
		run toucher(0);
		run toucher(1);
#endif
	}
	_nr_pr == 1;
	look_at_the_end()
}
