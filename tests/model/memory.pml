/* SPDX-License-Identifier: MIT */
/*
 * What both models have: the memory of two processes, of each one address and so one page table, and the
 * locks of it. What a process has is an array over both.
 *
 * LOCKS is how many can be locked for reading or for writing. The first two are the mmap locks.
 */

#define NONE 0

/* ---- what an entry holds */
#define PAGE   1 /* the page, writable: the mapping's alone */
#define SHARED 2 /* the page, read-only since fork */
#define OTHER  3 /* another page, which the receiver has from elsewhere */

/* ---- what a PMD holds: NONE, a table, or a huge page */
#define TABLES 5 /* 1: the giver's, 2: the receiver's, others: what is allocated later */
#define HUGE   TABLES
#define IS_TABLE(x) ((x) != NONE && (x) != HUGE)

byte pmd[2];
byte pte[TABLES + 1]; /* nothing where the PMD has no table */
bool ptl[TABLES]; /* the lock, which is gone with its table */
bool freed[TABLES];
byte next_table = 3;

byte pins;	  /* of the page, and those that are given back */
bool pinned[2];	  /* the pin of this process stands */
bool irqs_off[2]; /* on the CPU that pins */

bool vma[2] = true;
byte readers[LOCKS];
bool writer[LOCKS], writer_waits[LOCKS];

bool child;	       /* of process 0: it has the page, too */
bool copied;	       /* into a huge page */
bool dropped;	       /* by whose it was */
bool filled, unfilled; /* OTHER came; it was dropped */

/* A writer that waits keeps new readers out, as rwsems do. */
inline read_lock(l)
{
	atomic { !writer[l] && !writer_waits[l] -> readers[l]++ }
}

inline read_unlock(l)
{
	readers[l]--
}

inline write_lock(l)
{
	writer_waits[l] = true;
	atomic { !writer[l] && readers[l] == 0 -> writer[l] = true; writer_waits[l] = false }
}

inline write_unlock(l)
{
	writer[l] = false
}

inline lock_table(t)
{
	atomic { !ptl[t] -> assert(!freed[t]); ptl[t] = true }
}

inline unlock_table(t)
{
	d_step { assert(!freed[t]); ptl[t] = false }
}

/* pte_alloc(), under the PMD's lock */
inline alloc_table(m)
{
	atomic {
		if
		:: pmd[m] == NONE -> next_table < TABLES; pmd[m] = next_table; next_table++
		:: else
		fi
	}
}
