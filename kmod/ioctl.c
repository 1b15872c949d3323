// SPDX-License-Identifier: GPL-2.0-only
/* The requests: their sizes, in and out of user space. */
#include <linux/fs.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "compat/compat.h"
#include "ioctl.h"
#include "move.h"
#include "plan.h"
#include "trace.h"

#define PF_FEATURES (PAGEFERRY_FEATURE_MOVE | PAGEFERRY_FEATURE_THP | PAGEFERRY_FEATURE_SWAP | \
		     PAGEFERRY_FEATURE_MEMCG | PAGEFERRY_FEATURE_CHECK | PAGEFERRY_FEATURE_TABLES)

union pf_request {
	struct pageferry_info info;
	struct pageferry_move move;
	u64 words[sizeof(struct pageferry_move) / sizeof(u64)];
};

static int pf_ioctl_info(union pf_request *req, void __user *arg)
{
	struct pageferry_info __user *to = arg;

	return put_user(PAGEFERRY_ABI, &to->abi) || put_user(PF_FEATURES, &to->features) ? -EFAULT
											  : 0;
}

static int pf_get_sides(struct pf_op *op, const struct pageferry_move *m)
{
	int err;

	if (m->dst_uffd == PAGEFERRY_SELF)
		return -EBADF;
	err = pf_side_get(&op->dst, m->dst_uffd, m->dst);
	if (!err)
		err = pf_side_get(&op->src, m->src_uffd, m->src);
	if (err)
		return err;
	return op->dst.mm == op->src.mm ? -EINVAL : 0;
}

/* In a short call the allocation would cost as much as the move. */
#define PF_FEW 16

static int pf_get_room(struct pf_op *op, pte_t *few)
{
	unsigned long pages = op->left / PAGE_SIZE;

	op->nwas = min_t(unsigned long, pages, PTRS_PER_PTE);
	op->was = few;
	if (op->nwas > PF_FEW)
		op->was = kmalloc_array(op->nwas, sizeof(*op->was), GFP_KERNEL);
	return op->was ? 0 : -ENOMEM;
}

static __always_inline int pf_run_move(struct pageferry_move *m)
{
	struct pf_op op = { .left = m->len, .mode = m->mode };
	/* Each is written before it is read. */
	pte_t few[PF_FEW] __uninitialized;
	int err = pf_get_sides(&op, m);

	if (!err)
		err = pf_get_room(&op, few);
	if (!err) {
		err = pf_move(&op);
		pf_memcg_end(&op);
	}
	if (op.was != few)
		kfree(op.was);
	pf_side_put(&op.src);
	pf_side_put(&op.dst);
	m->moved = op.moved;
	m->tables = op.tables;
	m->why = op.why;
	trace_pageferry_move(m, err);
	return err;
}

static int pf_answer_tables(const struct pageferry_move *m, struct pageferry_move __user *to)
{
	if (m->size < sizeof(*m))
		return 0;
	return put_user(m->tables, &to->tables) || put_user(m->why, &to->why) ? -EFAULT : 0;
}

/* Progress is told on failure, too. */
static int pf_ioctl_move(union pf_request *req, void __user *arg)
{
	struct pageferry_move __user *to = arg;
	int err = pf_plan_check(&req->move);

	req->move.moved = 0;
	req->move.tables = 0;
	req->move.why = PAGEFERRY_WHY_NONE;
	if (!err)
		err = pf_run_move(&req->move);
	if (put_user(req->move.moved, &to->moved) || pf_answer_tables(&req->move, to))
		return -EFAULT;
	return err;
}

struct pf_ioctl {
	size_t size;	 /* known here */
	size_t min_size; /* of the first version */
	int (*run)(union pf_request *req, void __user *arg);
};

#define PF_IOCTL(cmd, type, last, fn) \
	[_IOC_NR(cmd)] = { sizeof(struct type) + PF_IN_WORDS(struct type, last), \
			   offsetofend(struct type, last), fn }
/* 0; what can't be copied word by word doesn't compile. */
#define PF_IN_WORDS(type, last) BUILD_BUG_ON_ZERO(offsetofend(type, last) % sizeof(u64))

static const struct pf_ioctl pf_ioctls[] = {
	PF_IOCTL(PAGEFERRY_IOC_INFO, pageferry_info, features, pf_ioctl_info),
	PF_IOCTL(PAGEFERRY_IOC_MOVE, pageferry_move, moved, pf_ioctl_move),
};

/* Whoever knows more than we do may only mean by it what we would do without it. */
static int pf_check_tail(const struct pf_ioctl *ioctl, void __user *arg, size_t size)
{
	int zero;

	if (size <= ioctl->size)
		return 0;
	if (size > PAGE_SIZE)
		return -E2BIG;
	zero = check_zeroed_user(arg + ioctl->size, size - ioctl->size);
	return zero < 0 ? zero : zero ? 0 : -E2BIG;
}

/*
 * The first version of each, as what was added to it later is only answered.
 *
 * Word by word, since all are made of a few of them: copy_from_user() with a size that the compiler doesn't
 * know has to check it first, against the object that it goes to.
 */
static int pf_copy_in(union pf_request *req, const u64 __user *from, size_t size)
{
	if (!user_read_access_begin(from, size))
		return -EFAULT;
	for (size_t i = 0; i < size / sizeof(*from); i++)
		unsafe_get_user(req->words[i], from + i, fault);
	user_read_access_end();
	return 0;
fault:
	user_read_access_end();
	return -EFAULT;
}

/* The size is the first member of each. It is looked at once: another thread may be changing it. */
static int pf_run(const struct pf_ioctl *ioctl, void __user *arg)
{
	union pf_request req __uninitialized;
	size_t size;
	int err;

	if (pf_copy_in(&req, arg, ioctl->min_size))
		return -EFAULT;
	size = req.info.size;
	if (size < ioctl->min_size)
		return -EINVAL;
	err = pf_check_tail(ioctl, arg, size);
	if (err)
		return err;
	return ioctl->run(&req, arg);
}

long pf_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	/* All have the first one's type, size and direction, and count up from it. */
	unsigned int nr = cmd - PAGEFERRY_IOC_INFO;
	int err = -ENOTTY;

	if (nr < ARRAY_SIZE(pf_ioctls)) {
		nr = array_index_nospec(nr, ARRAY_SIZE(pf_ioctls));
		err = pf_run(&pf_ioctls[nr], (void __user *)arg);
	}
	pf_count(err);
	return err;
}
