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

static int pf_ioctl_info(union pf_request *req)
{
	req->info.abi = PAGEFERRY_ABI;
	req->info.features = PF_FEATURES;
	return 0;
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

static int pf_ioctl_move(union pf_request *req)
{
	struct pageferry_move *m = &req->move;
	struct pf_op op = { .left = m->len, .mode = m->mode };
	pte_t few[PF_FEW];
	int err;

	m->moved = 0;
	err = pf_plan_check(m);
	if (err)
		return err;
	err = pf_get_sides(&op, m);
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

/* What the first version had, up to @last, has to be there; the answer begins with @first. */
struct pf_ioctl {
	size_t size, min_size, out;
	int (*run)(union pf_request *req);
};

#define PF_IOCTL(cmd, type, last, first, fn) \
	[_IOC_NR(cmd)] = { sizeof(struct type), offsetofend(struct type, last), \
			   offsetof(struct type, first), fn }

static const struct pf_ioctl pf_ioctls[] = {
	PF_IOCTL(PAGEFERRY_IOC_INFO, pageferry_info, features, abi, pf_ioctl_info),
	PF_IOCTL(PAGEFERRY_IOC_MOVE, pageferry_move, moved, moved, pf_ioctl_move),
};

static int pf_run(const struct pf_ioctl *ioctl, void __user *arg)
{
	union pf_request req = {};
	u32 size;
	int err;

	if (get_user(size, (u32 __user *)arg))
		return -EFAULT;
	if (size < ioctl->min_size || size > PAGE_SIZE)
		return size > PAGE_SIZE ? -E2BIG : -EINVAL;
	err = copy_struct_from_user(&req, ioctl->size, arg, size);
	if (err)
		return err;
	err = ioctl->run(&req);
	/* The answer tells of progress on failure, too. */
	if (copy_to_user(arg + ioctl->out, (char *)&req + ioctl->out,
			 min_t(size_t, size, ioctl->size) - ioctl->out))
		return -EFAULT;
	return err;
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
