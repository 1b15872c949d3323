// SPDX-License-Identifier: MIT
#include <errno.h>

#include "harness.h"
#include "proc.h"
#include "scene.h"

static struct end scene_end(bool filled, uint64_t features)
{
	struct end e = {.peer = peer_start(), .len = LEN};

	e.addr = peer_map(e.peer, 0, LEN, MAP_4K);
	e.uffd = peer_uffd(e.peer, features);
	if (filled)
		peer_fill(e.peer, e.addr, LEN, e.addr / PAGE, SEED);
	check_is(uffd_register(e.uffd, e.addr, LEN, MISSING), 0);
	return e;
}

struct scene scene_make(const struct row *row)
{
	struct scene s = {
		.giver = scene_end(true, row->features),
		.taker = scene_end(false, row->features),
	};

	s.move = (struct pageferry_move){
		.size = sizeof(s.move),
		.dst_uffd = s.taker.uffd,
		.src_uffd = s.giver.uffd,
		.dst = s.taker.addr,
		.src = s.giver.addr,
		.len = LEN,
	};
	return s;
}

/* To the end, or until it says why not. */
static int move_on(int pf, struct scene *s)
{
	struct pageferry_move *m = &s->move;
	int ret;

	m->moved = ~0ull;
	ret = pf_ioctl(pf, PAGEFERRY_IOC_MOVE, m);
	check(m->moved <= m->len && m->moved % PAGE == 0);
	check(ret || m->moved == m->len);
	s->done += m->moved;
	m->dst += m->moved;
	m->src += m->moved;
	m->len -= m->moved;
	return ret;
}

void scene_verify(const struct scene *s)
{
	for (uint64_t at = 0; at < LEN; at += PAGE) {
		bool hole = s->holes >> (at / PAGE) & 1, moved = at < s->done;
		uint64_t src = s->giver.addr + at, dst = s->taker.addr + at;

		if (!s->giver_gone) {
			check_is(count_holes(peer_pid(s->giver.peer), src, PAGE), hole || moved);
			if (!hole && !moved)
				end_verify(&s->giver, src, src, PAGE);
		}
		if (!s->taker_gone && moved) {
			check_is(count_holes(peer_pid(s->taker.peer), dst, PAGE), hole);
			if (!hole)
				end_verify(&s->taker, dst, src, PAGE);
		}
	}
}

void run_row(void)
{
	const struct row *row = test_row;
	struct scene s = scene_make(row);
	int pf = pf_open();

	row->prepare(&s);
	check_is(move_on(pf, &s), row->want);
	check_is(s.done, row->moved * PAGE);
	scene_verify(&s);
	if (row->cure) {
		row->cure(&s);
		check_is(move_on(pf, &s), 0);
		check_is(s.done, LEN);
		scene_verify(&s);
	}
	if (!s.giver_gone)
		peer_end(s.giver.peer);
	if (!s.taker_gone)
		peer_end(s.taker.peer);
}
