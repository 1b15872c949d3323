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

bool pf_memcg_differs(const struct pf_op *op, const struct folio *folio)
{
	return op->memcg && folio_memcg((struct folio *)folio) != op->memcg;
}

/* No OOM killer: to be refused is better than to have somebody killed for it. */
int pf_memcg_charge(struct pf_op *op, unsigned int pages)
{
	int err = 0;

	if (op->charged >= pages)
		return 0;
	pages -= op->charged;
	if (!mem_cgroup_is_root(op->memcg))
		err = try_charge_memcg(op->memcg, GFP_KERNEL | __GFP_NORETRY, pages);
	if (!err)
		op->charged += pages;
	return err;
}

/* At the end of a call: what was charged and not needed, and the reference. */
void pf_memcg_settle(struct pf_op *op)
{
	if (!op->memcg)
		return;
	if (op->charged)
		mem_cgroup_cancel_charge(op->memcg, op->charged);
	mem_cgroup_put(op->memcg);
}

static void pf_mod_both(struct lruvec *from, struct lruvec *to, enum node_stat_item item, int nr)
{
	__mod_lruvec_state(from, item, -nr);
	__mod_lruvec_state(to, item, nr);
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
 * reference to it from there, so the queue is left with the references frozen: two, or three with
 * the one of the isolation.
 */
static bool pf_leave_split_queue(struct folio *folio)
{
	int refs = folio_ref_count(folio);

	if (!folio_test_large(folio) || data_race(list_empty(&folio->_deferred_list)))
		return true;
	if (!folio_ref_freeze(folio, refs))
		return false;
	__folio_unqueue_deferred_split(folio);
	folio_ref_unfreeze(folio, refs);
	return true;
}

/*
 * The folio is locked, its entry is cleared, and both table locks are held, so it can't be mapped,
 * unmapped or written back meanwhile. It comes off the LRU list, which is its cgroup's, and the caller
 * puts it on the new one's. False: it isn't on the list, so somebody else has it.
 */
bool pf_memcg_take(struct pf_op *op, struct folio *folio)
{
	struct mem_cgroup *from = folio_memcg(folio), *to = op->memcg;
	int nr = folio_nr_pages(folio);

	if (!folio_isolate_lru(folio))
		return false;
	if (!pf_leave_split_queue(folio)) {
		folio_putback_lru(folio);
		return false;
	}
	pf_move_state(folio, from, to);
	/* Whoever sees the new cgroup sees its state, too. */
	smp_mb();
	css_get(&to->css);
	WRITE_ONCE(folio->memcg_data, (unsigned long)to);
	op->charged -= nr;
	mem_cgroup_cancel_charge(from, nr);
	css_put(&from->css);
	return true;
}

/* The swap slot's charge. 0 or -ENOMEM. Under both table locks, and the entry is ours alone. */
int pf_memcg_take_swap(struct pf_op *op, swp_entry_t entry)
{
	struct mem_cgroup *to = op->memcg, *from;
	struct page_counter *counter;
	unsigned short id;

	id = to ? lookup_swap_cgroup_id(entry) : 0;
	/* Not charged at all; or the receiver's cgroup is on its way out and can take none. */
	if (!id || id == mem_cgroup_id(to) || !refcount_inc_not_zero(&to->id.ref))
		return 0;
	if (!mem_cgroup_is_root(to) && !page_counter_try_charge(&to->swap, 1, &counter)) {
		mem_cgroup_id_put_many(to, 1);
		return -ENOMEM;
	}
	swap_cgroup_record(entry, mem_cgroup_id(to), 1);
	mod_memcg_state(to, MEMCG_SWAP, 1);
	rcu_read_lock();
	from = mem_cgroup_from_id(id);
	if (from) {
		if (!mem_cgroup_is_root(from))
			page_counter_uncharge(&from->swap, 1);
		mod_memcg_state(from, MEMCG_SWAP, -1);
		mem_cgroup_id_put_many(from, 1);
	}
	rcu_read_unlock();
	return 0;
}

#else

bool pf_memcg_differs(const struct pf_op *op, const struct folio *folio)
{
	return false;
}

int pf_memcg_charge(struct pf_op *op, unsigned int pages)
{
	return 0;
}

void pf_memcg_settle(struct pf_op *op)
{
}

bool pf_memcg_take(struct pf_op *op, struct folio *folio)
{
	return false;
}

int pf_memcg_take_swap(struct pf_op *op, swp_entry_t entry)
{
	return 0;
}

#endif
