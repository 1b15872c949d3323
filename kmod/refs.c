// SPDX-License-Identifier: GPL-2.0-only
/* Who else holds on to a page. */
#include <linux/mm.h>

#include "move.h"

/*
 * Is there any reference besides the mapping's own, ours, and the swap cache's? A pin, a page that was
 * vmspliced into a pipe: after the move it would be a reference from another process, which is
 * what "exclusive" excludes. The folio is locked, mapped once, and order 0 or mapped by one PMD.
 *
 * Before the entry is cleared the answer is only a hint. Once it is cleared and flushed nobody can get
 * at the page by way of the page table any more, lock-less pinning included: that one reads the
 * entry again after it has taken its reference, and gives it back when the entry has changed.
 */
bool pf_is_in_use(const struct folio *folio)
{
	int cache = folio_test_swapcache(folio) ? folio_nr_pages(folio) : 0;

	return folio_ref_count(folio) != 2 + cache ||
	       folio_maybe_dma_pinned((struct folio *)folio);
}
