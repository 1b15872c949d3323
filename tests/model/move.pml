/* SPDX-License-Identifier: MIT */
/*
 * The move of a page by the kernel module, against all that may get at the page, at its entry or at its
 * page table meanwhile. tests/model/run.sh has every order searched in which their steps can fall, and
 * shows what each safeguard is for: without it, or with steps in another order, a fault must be found.
 *
 * What stands here for what of kmod/, in the order of mover():
 *
 *	lock_mmaps()		pf_lock_vmas() or pf_lock_mmaps() of side.c: both mappings are locked for
 *				reading. A VMA's lock keeps the same writers out as the mmap lock.
 *	alloc_table()		pf_do_step() of move.c: there is a table to move to
 *	lock_tables()		pf_map_both() and pf_lock_tables() of tables.h: both tables are found, then
 *				locked, then compared with what the PMDs have now
 *	MAY_LEAVE, IN_USE	pf_check() of pte.c: empty there, and exclusive and not in use here
 *	pte[] = NONE, flush()	pf_clear()
 *	IN_USE			pf_recheck()
 *	set_pte()		pf_put_back() or pf_install()
 *	unlock_tables()		pf_unmap_both()
 *
 * pf_move_locked() and pf_move_pmd() of huge.c do the same with PMD entries, under the locks of the PMDs.
 *
 * Not here: the folio's lock and the anon_vma's, which are about those who come from the folio; swap; memory
 * cgroups; and the order of memory accesses, since on x86 each step that somebody without a lock relies on
 * is a locked instruction.
 *
 * One page of process 0 moves to process 1.
 */

#define LOCKS 2
#include "memory.pml"

byte refs = 1; /* to the page: of entries, of pins, and of pins that are given back */
bool tlb[2];   /* the page is in the TLB of a CPU that runs this process */
byte in_rcu;

/* ---- what must never be */

/* In an entry, also of a table that khugepaged has just taken out, or in a TLB. */
#define IN_0 (pte[1] == PAGE || pte[1] == SHARED || tlb[0])
#define IN_1 (pte[2] == PAGE || pte[3] == PAGE || pte[4] == PAGE || tlb[1])

inline look()
{
	/* In both: a write through one would be seen through the other. */
	assert(!(IN_0 && IN_1));
	assert(!(child && IN_1));
	/* What a device reads and writes belongs to who has pinned it. */
	assert(!(pinned[0] && (IN_1 || child)));
	assert(!(pinned[1] && IN_0))
}

inline set_pte(table, value)
{
	d_step {
		assert(!freed[table]);
		/* What is there would be lost. */
		assert(pte[table] == NONE);
		pte[table] = value;
		look()
	}
}

/* When all have ended. The page is in one place that can be got at, and so is the other one. */
inline look_at_the_end()
{
	byte found, i, t;

	d_step {
		for (i : 0 .. 1) {
			t = pmd[i];
			if
			:: IS_TABLE(t) ->
				assert(!freed[t]);
				if
				:: pte[t] == PAGE || pte[t] == SHARED -> found++
				:: pte[t] == OTHER -> filled = false
				:: else
				fi
			:: else
			fi
		}
		assert(found + copied + dropped == 1);
		assert(refs == found + child);
		assert(!filled || unfilled);
		for (i : 1 .. TABLES - 1) {
			assert(!ptl[i])
		}
	}
}

/* ---- locks */

/* pf_lock_tables(): whichever is the source, the one with the lower address comes first. */
inline lock_tables(a, b)
{
#if defined(TABLES_BY_SIDE)
	lock_table(a); lock_table(b)
#elif defined(WITHOUT_DST_LOCK)
	lock_table(b)
#elif defined(WITHOUT_SRC_LOCK)
	lock_table(a)
#else
	if
	:: a < b -> lock_table(a); lock_table(b)
	:: else -> lock_table(b); lock_table(a)
	fi
#endif
}

inline unlock_tables(a, b)
{
#ifndef WITHOUT_DST_LOCK
	unlock_table(a);
#endif
#ifndef WITHOUT_SRC_LOCK
	unlock_table(b);
#endif
	skip
}

/*
 * flush_tlb_mm_range(): an interrupt to each CPU of the process, and an answer. So no TLB has the entry any
 * more, and whoever had read it with interrupts off has come to his end.
 */
inline flush(m)
{
	atomic { !irqs_off[m] -> tlb[m] = false }
}

/* Whoever looks at a table that he hasn't locked keeps it by either. */
inline free_table(t)
{
	atomic { in_rcu == 0 && !irqs_off[0] && !irqs_off[1] -> freed[t] = true }
}

/* ---- the mover: pf_move() */

/* pf_lock_mmaps(): in the order of addresses, since another may move the other way. */
inline lock_mmaps(d, s)
{
#if defined(WITHOUT_MMAP_LOCK)
	skip
#elif defined(MMAPS_BY_SIDE)
	read_lock(d); read_lock(s)
#else
	read_lock(0); read_lock(1)
#endif
}

inline unlock_mmaps()
{
#ifndef WITHOUT_MMAP_LOCK
	read_unlock(0); read_unlock(1);
#endif
	skip
}

/* pf_is_in_use() */
#define IN_USE (refs != 1)

#ifdef WITHOUT_EXCLUSIVE
#define MAY_LEAVE(p) ((p) == PAGE || (p) == SHARED)
#else
#define MAY_LEAVE(p) ((p) == PAGE)
#endif

proctype mover(byte d, s)
{
	byte td, ts, was;

	lock_mmaps(d, s);
	/* pf_check_both(); pf_do_step(): huge pages go another way, and what has no table has no page */
	if
	:: !vma[d] || !vma[s] || !IS_TABLE(pmd[s]) || pmd[d] == HUGE -> goto unlock_all
	:: else
	fi;
	alloc_table(d);

	/* pf_map_both() begins an RCU reader: what is found isn't freed ... */
#ifndef WITHOUT_RCU
	in_rcu++;
#endif
	td = pmd[d];
	ts = pmd[s];
	if
	:: !IS_TABLE(td) || !IS_TABLE(ts) -> goto unmap
	:: else
	fi;
	lock_tables(td, ts);
#ifndef WITHOUT_PMD_RECHECK
	/* ... but it may be taken away before it is locked. As an empty table it looks no different then. */
	if
	:: pmd[d] != td || pmd[s] != ts -> goto unlock
	:: else
	fi;
#endif

	/* pf_check() */
	d_step { assert(!freed[td] && !freed[ts]); was = pte[ts] }
	if
#ifndef WITHOUT_DST_CHECK
	:: pte[td] != NONE -> goto unlock
#endif
	:: !MAY_LEAVE(was) -> goto unlock
#ifndef WITHOUT_EARLY_CHECK
	:: IN_USE -> goto unlock
#endif
	:: else
	fi;

#ifdef INSTALL_FIRST
	set_pte(td, PAGE);
#endif
#ifdef FLUSH_FIRST
	flush(s);
#endif
	/* pf_clear() */
	d_step { assert(!freed[ts]); pte[ts] = NONE }
#ifdef RECHECK_FIRST
	if
	:: IN_USE -> goto put_back
	:: else
	fi;
#endif
#ifdef UNLOCK_FOR_FLUSH
	unlock_tables(td, ts);
#endif
#if !defined(WITHOUT_FLUSH) && !defined(FLUSH_FIRST)
	flush(s);
#endif
#ifdef UNLOCK_FOR_FLUSH
	lock_tables(td, ts);
#endif
	/* pf_recheck() */
#if !defined(WITHOUT_RECHECK) && !defined(RECHECK_FIRST)
	if
	:: IN_USE -> goto put_back
	:: else
	fi;
#endif
	/* pf_install() */
#ifndef INSTALL_FIRST
	set_pte(td, PAGE);
#endif
	goto unlock;
put_back:
	skip;
#ifndef WITHOUT_PUT_BACK
	set_pte(ts, was);
#endif
unlock:
	unlock_tables(td, ts);
unmap:
	skip;
#ifndef WITHOUT_RCU
	in_rcu--;
#endif
unlock_all:
	unlock_mmaps()
}

/* ---- the others */

/*
 * A thread that reads or writes: from then on its CPU gets at the page without looking at the entry. In
 * process 1 it is the taker.
 */
proctype toucher(byte m)
{
	byte t;

	atomic {
		t = pmd[m];
		if
		:: IS_TABLE(t) && (pte[t] == PAGE || pte[t] == SHARED) ->
			assert(!freed[t]);
			tlb[m] = true;
			look()
		:: else
		fi;
		t = NONE
	}
}

/*
 * gup_fast_pte_range(), for a pin to write: nothing is locked, interrupts are off. The page may have left
 * before its reference is taken, or even be free, which folio_try_get() tells; so the reference is given
 * back if the entry or the PMD has changed.
 */
proctype pinner(byte m)
{
	byte t;

	irqs_off[m] = true;
	t = pmd[m];
	if
	:: !IS_TABLE(t) -> goto out
	:: else
	fi;
	assert(!freed[t]);
	if
	:: pte[t] != PAGE -> goto out
	:: else
	fi;
	if
	:: d_step { refs > 0 -> refs++; pins++ }
	:: else -> goto out
	fi;
	if
#ifdef PIN_WITHOUT_REREAD
	:: d_step { true -> pinned[m] = true; look() }
#else
	:: d_step { pmd[m] == t && pte[t] == PAGE -> pinned[m] = true; look() }
	:: else -> d_step { refs--; pins-- }
#endif
	fi;
out:
	irqs_off[m] = false;
	if
	:: d_step { pinned[m] -> pinned[m] = false; refs--; pins-- }
	:: else
	fi
}

/*
 * fork(), copy_present_ptes(). To ask for pins and to write-protect the entry is one step here, which is
 * what write_protect_seq makes of it: a pin that comes in between is given back.
 */
proctype forker()
{
	byte t;

	write_lock(0);
	t = pmd[0];
	if
	:: IS_TABLE(t) ->
		lock_table(t);
		if
		/* The child gets a copy of what is pinned. */
		:: d_step {
			pte[t] == PAGE && pins == 0 ->
			pte[t] = SHARED; refs++; child = true;
			look()
		   }
		:: else
		fi;
		unlock_table(t)
	:: else
	fi;
	write_unlock(0)
}

/*
 * collapse_huge_page(), with the mmap lock for writing. The table goes out of the PMD first, and back if a
 * page is in use or, where a userfaultfd waits for it, missing.
 */
proctype khugepaged(byte m)
{
	byte t;

	write_lock(m);
	t = pmd[m];
	if
	:: !vma[m] || !IS_TABLE(t) -> goto out
	:: else
	fi;
	pmd[m] = NONE;
	flush(m);
	lock_table(t);
	if
	:: d_step { pte[t] == PAGE && refs == 1 -> pte[t] = NONE; refs--; copied = true }
		unlock_table(t);
		/* The table is kept, for when the huge page is split. */
		d_step { assert(pmd[m] == NONE); pmd[m] = HUGE }
	:: else ->
		unlock_table(t);
		d_step { assert(pmd[m] == NONE); pmd[m] = t }
	fi;
out:
	write_unlock(m)
}

/* What munmap() and MADV_DONTNEED have in common. */
inline zap(m, t)
{
	lock_table(t);
	d_step {
		if
		:: pte[t] == PAGE || pte[t] == SHARED -> dropped = true; refs--
		:: pte[t] == OTHER -> unfilled = true
		:: else
		fi;
		pte[t] = NONE;
		tlb[m] = false
	}
	unlock_table(t)
}

/*
 * MADV_DONTNEED: nobody is kept out but by the table's lock. Since Linux 6.14 it also frees the table when
 * it is empty then, under the locks of the PMD and of the table only. 6.12 does so with no anonymous memory,
 * but __pte_offset_map() has one rule for all, and the module goes by that.
 */
proctype discarder(byte m)
{
	byte t;

	read_lock(m);
	in_rcu++;
	t = pmd[m];
	if
	:: vma[m] && IS_TABLE(t) ->
		zap(m, t);
		lock_table(t);
		if
		:: d_step { pmd[m] == t && pte[t] == NONE -> pmd[m] = NONE }
			unlock_table(t);
			in_rcu--;
			free_table(t)
		:: else ->
			unlock_table(t);
			in_rcu--
		fi
	:: else -> in_rcu--
	fi;
	read_unlock(m)
}

/* munmap(): the entries go under the table's lock; the table needs none, as its mapping is gone. */
proctype unmapper(byte m)
{
	byte t;

	write_lock(m);
	vma[m] = false;
	t = pmd[m];
	if
	:: IS_TABLE(t) ->
		zap(m, t);
		pmd[m] = NONE;
		free_table(t)
	:: else
	fi;
	write_unlock(m)
}

/* UFFDIO_COPY at the same address: what was there first stays. */
proctype filler(byte m)
{
	byte t;

	read_lock(m);
	if
	:: !vma[m] || pmd[m] == HUGE -> goto out
	:: else
	fi;
	alloc_table(m);
	in_rcu++;
	t = pmd[m];
	if
	:: IS_TABLE(t) ->
		lock_table(t);
		if
		:: d_step { pmd[m] == t && pte[t] == NONE -> pte[t] = OTHER; filled = true }
		:: else
		fi;
		unlock_table(t)
	:: else
	fi;
	in_rcu--;
out:
	read_unlock(m)
}

init
{
	atomic {
		pmd[0] = 1;
		pmd[1] = 2;
		pte[1] = PAGE;
		run mover(1, 0);
#ifdef AT_SOURCE
		run mover(1, 0);
		run pinner(0);
		run toucher(0);
#ifndef WITHOUT_FORK
		run forker();
#endif
		run khugepaged(0);
		run discarder(0);
#endif
#ifdef AT_DESTINATION
		run toucher(1);
		run filler(1);
		run khugepaged(1);
		run discarder(1);
		run unmapper(1);
#endif
#ifdef BOTH_WAYS
		run mover(0, 1);
		run pinner(0);
		run pinner(1);
		run toucher(0);
		run toucher(1);
#ifndef WITHOUT_FORK
		run forker();
#endif
		run unmapper(1);
#endif
	}
	_nr_pr == 1;
	look_at_the_end()
}
