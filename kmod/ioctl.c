// SPDX-License-Identifier: GPL-2.0-only
/* The requests: their sizes, in and out of user space. */
#include <linux/fs.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "compat/compat.h"
#include "ioctl.h"
#include "move.h"
#include "plan.h"
#include "trace.h"

#define PF_FEATURES (PAGEFERRY_FEATURE_MOVE | PAGEFERRY_FEATURE_THP | PAGEFERRY_FEATURE_SWAP | \
		     PAGEFERRY_FEATURE_MEMCG)

union pf_request {
	struct pageferry_info info;
	struct pageferry_move move;
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

static int pf_run_move(struct pageferry_move *m)
{
	struct pf_op op = { .left = m->len, .mode = m->mode };
	pte_t few[PF_FEW];
	int err = pf_get_sides(&op, m);

	if (!err)
		err = pf_get_room(&op, few);
	if (!err) {
		pf_memcg_begin(&op);
		err = pf_move(&op);
		pf_memcg_end(&op);
	}
	if (op.was != few)
		kfree(op.was);
	pf_side_put(&op.src);
	pf_side_put(&op.dst);
	m->moved = op.moved;
	trace_pageferry_move(m, err);
	return err;
}

/* Progress is told on failure, too. */
static int pf_ioctl_move(union pf_request *req, void __user *arg)
{
	struct pageferry_move __user *to = arg;
	int err = pf_plan_check(&req->move);

	req->move.moved = 0;
	if (!err)
		err = pf_run_move(&req->move);
	return put_user(req->move.moved, &to->moved) ? -EFAULT : err;
}

struct pf_ioctl {
	size_t size;	 /* known here */
	size_t min_size; /* of the first version */
	int (*run)(union pf_request *req, void __user *arg);
};

#define PF_IOCTL(cmd, type, last, fn) \
	[_IOC_NR(cmd)] = { sizeof(struct type), offsetofend(struct type, last), fn }

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

/* The size is the first member of each. It is looked at once: another thread may be changing it. */
static int pf_run(const struct pf_ioctl *ioctl, void __user *arg)
{
	union pf_request req = {};
	size_t size;
	int err;

	if (copy_from_user(&req, arg, ioctl->min_size))
		return -EFAULT;
	size = req.info.size;
	if (size < ioctl->min_size)
		return -EINVAL;
	err = pf_check_tail(ioctl, arg, size);
	if (err)
		return err;
	if (size > ioctl->min_size && ioctl->size > ioctl->min_size &&
	    copy_from_user((char *)&req + ioctl->min_size, arg + ioctl->min_size,
			   min(size, ioctl->size) - ioctl->min_size))
		return -EFAULT;
	return ioctl->run(&req, arg);
}

long pf_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	int err = -ENOTTY;

	if (_IOC_TYPE(cmd) == _IOC_TYPE(PAGEFERRY_IOC_INFO) && !_IOC_SIZE(cmd) &&
	    _IOC_DIR(cmd) == _IOC_NONE && _IOC_NR(cmd) < ARRAY_SIZE(pf_ioctls))
		err = pf_run(&pf_ioctls[_IOC_NR(cmd)], (void __user *)arg);
	pf_count(err);
	return err;
}
