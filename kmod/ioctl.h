/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef PAGEFERRY_IOCTL_H
#define PAGEFERRY_IOCTL_H

struct file;

long pf_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* count.c */
extern const struct attribute_group *pf_groups[];

#endif
