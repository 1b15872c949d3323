// SPDX-License-Identifier: GPL-2.0-only
/* How often each answer was given: /sys/class/misc/pageferry/answers, for root. */
#include <linux/atomic.h>
#include <linux/device.h>
#include <linux/sysfs.h>

#include "ioctl.h"
#include "move.h"

static const struct {
	int error;
	const char *name;
} pf_names[] = {
	{ 0, "ok" },		  { -EAGAIN, "EAGAIN" }, { -EBUSY, "EBUSY" },
	{ -EEXIST, "EEXIST" },	  { -ENOENT, "ENOENT" }, { -ENOMEM, "ENOMEM" },
	{ -EINVAL, "EINVAL" },	  { -EPERM, "EPERM" },	 { -EBADF, "EBADF" },
	{ -ESRCH, "ESRCH" },	  { -E2BIG, "E2BIG" },	 { -EFAULT, "EFAULT" },
	{ -EINTR, "EINTR" },	  { -ENOTTY, "ENOTTY" }, { 1, "other" },
};

static atomic64_t pf_counts[ARRAY_SIZE(pf_names)];

void pf_count(int error)
{
	size_t i = 0;

	while (i < ARRAY_SIZE(pf_names) - 1 && pf_names[i].error != error)
		i++;
	atomic64_inc(&pf_counts[i]);
}

static ssize_t answers_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	ssize_t len = 0;

	for (size_t i = 0; i < ARRAY_SIZE(pf_names); i++)
		len += sysfs_emit_at(buf, len, "%s %lld\n", pf_names[i].name,
				     atomic64_read(&pf_counts[i]));
	return len;
}
static DEVICE_ATTR_ADMIN_RO(answers);

static struct attribute *pf_attrs[] = { &dev_attr_answers.attr, NULL };
static const struct attribute_group pf_group = { .attrs = pf_attrs };
const struct attribute_group *pf_groups[] = { &pf_group, NULL };
