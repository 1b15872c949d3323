// SPDX-License-Identifier: GPL-2.0-only
/* The device. An open file keeps the module loaded, and so does every call under way. */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>

#include "compat/compat.h"
#include "ioctl.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

static const struct file_operations pf_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = pf_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice pf_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "pageferry",
	.mode = 0600,
	.fops = &pf_fops,
	.groups = pf_groups,
};

module_misc_device(pf_device);

MODULE_DESCRIPTION("Move anonymous pages between processes");
MODULE_AUTHOR("the pageferry developers");
MODULE_LICENSE("GPL");
MODULE_VERSION(PAGEFERRY_VERSION);
/* For the relocations against the kernel's own symbols; nothing is patched. */
MODULE_INFO(livepatch, "Y");
