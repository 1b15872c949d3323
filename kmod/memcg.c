// SPDX-License-Identifier: GPL-2.0-only
/*
 * The memory cgroup's charge follows the page. The receiver's is charged before anything is touched, so
 * that a full cgroup leaves the page where it was; the giver's is uncharged when the page has left.
 */
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/swap.h>
#include <linux/swap_cgroup.h>
#include <linux/swapops.h>

#include "compat/compat.h"
#include "move.h"

#ifdef CONFIG_MEMCG

bool pf_memcg_ready(struct pf_op *op, struct folio *folio)
{
	unsigned int nr = folio_nr_pages(folio);

	/* Its end is told to the cgroup that it was begun in. */
	if (folio_test_writeback(folio))
		return pf_stop_at(op, PF_STOP_LOCKED, folio);
	if (op->charged >= op->promised + nr) {
		op->promised += nr;
		return true;
	}
	op->wanted = nr;
	return pf_stop(op, PF_STOP_CHARGE);
}

static int pf_try_charge(struct pf_op *op, unsigned int pages)
{
	int err = 0;

	/* No OOM killer: to be refused is better than to have somebody killed for it. */
	if (!mem_cgroup_is_root(op->charging))
		err = try_charge_memcg(op->charging, GFP_KERNEL | __GFP_NORETRY, pages);
	if (!err)
		op->charged += pages;
	return err;
}

/* For a whole table's worth at once; or, where there is no room for that, for what is wanted now. */
int pf_memcg_charge(struct pf_op *op)
{
	unsigned int many = min_t(unsigned long, op->left / PAGE_SIZE, PTRS_PER_PTE);

	if (!op->charging) {
		op->charging = get_mem_cgroup_from_mm(op->dst.mm);
		op->memcg = op->charging;
	}
	if (many > op->wanted && !pf_try_charge(op, many))
		return 0;
	return pf_try_charge(op, op->wanted);
}

void pf_memcg_release(struct pf_op *op)
{
	if (op->charged)
		mem_cgroup_cancel_charge(op->charging, op->charged);
	mem_cgroup_put(op->charging);
}

/* With interrupts off: what tells that a cgroup has changed is common to all its counters. */
static void pf_mod_both(struct lruvec *from, struct lruvec *to, enum node_stat_item item, int nr)
{
	unsigned long flags;

	local_irq_save(flags);
	__mod_lruvec_state(from, item, -nr);
	__mod_lruvec_state(to, item, nr);
	local_irq_restore(flags);
}

static void pf_move_state(struct folio *folio, struct mem_cgroup *from, struct mem_cgroup *to)
{
	struct lruvec *a = mem_cgroup_lruvec(from, folio_pgdat(folio));
	struct lruvec *b = mem_cgroup_lruvec(to, folio_pgdat(folio));
	int nr = folio_nr_pages(folio);

	if (folio_mapped(folio)) {
		pf_mod_both(a, b, NR_ANON_MAPPED, nr);
		if (folio_test_pmd_mappable(folio))
			pf_mod_both(a, b, NR_ANON_THPS, nr);
	}
	if (folio_test_swapcache(folio))
		pf_mod_both(a, b, NR_SWAPCACHE, nr);
}

/*
 * A huge page waits in its cgroup's queue to be split should memory be short. The shrinker takes a
 * reference to it from there, so the queue is left with the references frozen: the mapping's and that
 * of the isolation. False: the shrinker has it just now.
 */
static bool pf_leave_split_queue(struct folio *folio)
{
	if (!folio_test_large(folio) || data_race(list_empty(&folio->_deferred_list)))
		return true;
	if (!folio_ref_freeze(folio, 2))
		return false;
	__folio_unqueue_deferred_split(folio);
	folio_ref_unfreeze(folio, 2);
	return true;
}

/*
 * The folio is locked, its entry is cleared, and both table locks are held, so it can't be mapped,
 * unmapped or written back meanwhile. It comes off the lists that are its cgroup's. False: it isn't on the
 * LRU list, so somebody else has it.
 */
bool pf_memcg_isolate(struct folio *folio)
{
	if (!folio_isolate_lru(folio))
		return false;
	if (pf_leave_split_queue(folio))
		return true;
	folio_putback_lru(folio);
	return false;
}

/* What has been isolated; it goes onto the new cgroup's lists. There is enough in op->charged. */
void pf_memcg_take(struct pf_op *op, struct folio *folio)
{
	struct mem_cgroup *from = folio_memcg(folio), *to = op->charging;
	int nr = folio_nr_pages(folio);

	pf_move_state(folio, from, to);
	/* Whoever sees the new cgroup sees its state, too. */
	smp_mb();
	css_get(&to->css);
	WRITE_ONCE(folio->memcg_data, (unsigned long)to);
	op->charged -= nr;
	mem_cgroup_cancel_charge(from, nr);
	css_put(&from->css);
	/*
	 * Should it go back to the swap slot that it still has, it is charged to the slot's cgroup when it is
	 * read again. That one is left as it is where the receiver has no room for it.
	 */
	if (nr == 1 && folio_mapped(folio) && folio_test_swapcache(folio))
		pf_memcg_take_swap(op, folio->swap);
	folio_putback_lru(folio);
	if (folio_test_large(folio))
		deferred_split_folio(folio, false);
}

static void pf_uncharge_swap(unsigned short id)
{
	struct mem_cgroup *from;

	rcu_read_lock();
	from = mem_cgroup_from_id(id);
	if (from) {
		if (!mem_cgroup_is_root(from))
			page_counter_uncharge(&from->swap, 1);
		mod_memcg_state(from, MEMCG_SWAP, -1);
		mem_cgroup_id_put_many(from, 1);
	}
	rcu_read_unlock();
}

static int pf_charge_swap(struct mem_cgroup *to, swp_entry_t entry)
{
	unsigned short id = lookup_swap_cgroup_id(entry);
	struct page_counter *counter;

	/* Not charged at all; or the receiver's cgroup is on its way out and can take none. */
	if (!id || id == mem_cgroup_id(to) || !refcount_inc_not_zero(&to->id.ref))
		return 0;
	if (!mem_cgroup_is_root(to) && !page_counter_try_charge(&to->swap, 1, &counter)) {
		mem_cgroup_id_put_many(to, 1);
		return -ENOMEM;
	}
	swap_cgroup_record(entry, mem_cgroup_id(to), 1);
	mod_memcg_state(to, MEMCG_SWAP, 1);
	pf_uncharge_swap(id);
	return 0;
}

/* The swap slot's charge. 0 or -ENOMEM. Under both table locks, and the entry is the source's alone. */
int pf_memcg_take_swap(struct pf_op *op, swp_entry_t entry)
{
	struct mem_cgroup *to;
	int err;

	if (!op->memcg)
		return 0;
	to = get_mem_cgroup_from_mm(op->dst.mm);
	err = pf_charge_swap(to, entry);
	mem_cgroup_put(to);
	return err;
}

#else

bool pf_memcg_ready(struct pf_op *op, struct folio *folio)
{
	return true;
}

int pf_memcg_charge(struct pf_op *op)
{
	return 0;
}

bool pf_memcg_isolate(struct folio *folio)
{
	return true;
}

void pf_memcg_take(struct pf_op *op, struct folio *folio)
{
}

int pf_memcg_take_swap(struct pf_op *op, swp_entry_t entry)
{
	return 0;
}

void pf_memcg_release(struct pf_op *op)
{
}

#endif
