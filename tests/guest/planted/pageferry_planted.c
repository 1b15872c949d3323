// SPDX-License-Identifier: GPL-2.0-only
/*
 * Errors of each kind that a debug kernel is there to report: were one of them not reported, its silence
 * about pageferry.ko would mean nothing. Writing a name to /sys/module/pageferry_planted/parameters/plant
 * commits the error of that name.
 */
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/page_table_check.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

static void out_of_bounds(void)
{
	char *p = kmalloc(24, GFP_KERNEL);

	if (!p)
		return;
	OPTIMIZER_HIDE_VAR(p);
	p[24] = 1;
	kfree(p);
}

static DEFINE_SPINLOCK(one);
static DEFINE_SPINLOCK(other);

static void inverted_locks(void)
{
	spin_lock(&one);
	spin_lock(&other);
	spin_unlock(&other);
	spin_unlock(&one);
	spin_lock(&other);
	spin_lock(&one);
	spin_unlock(&one);
	spin_unlock(&other);
}

static void sleep_in_atomic(void)
{
	spin_lock(&one);
	might_sleep();
	spin_unlock(&one);
}

static void broken_list(void)
{
	static LIST_HEAD(list);
	static struct list_head entry;

	list_add(&entry, &list);
	list_add(&entry, &list);
}

/* A reference to a page that nobody has. */
static void dead_page(void)
{
	struct page *page = alloc_page(GFP_KERNEL);

	if (!page)
		return;
	put_page(page);
	get_page(page);
}

/* An entry of a page table is gone that never was there. */
static void unmapped_page(void)
{
	struct page *page = alloc_page(GFP_KERNEL);

	if (!page)
		return;
	page_table_check_pte_clear(current->mm, mk_pte(page, PAGE_SHARED));
	__free_page(page);
}

static unsigned long counter;

static int count(void *unused)
{
	while (!kthread_should_stop()) {
		counter++;
		cond_resched();
	}
	return 0;
}

static void racing_counter(void)
{
	struct task_struct *a = kthread_run(count, NULL, "planted");
	struct task_struct *b = kthread_run(count, NULL, "planted");

	msleep(3000);
	if (!IS_ERR(a))
		kthread_stop(a);
	if (!IS_ERR(b))
		kthread_stop(b);
}

static const struct {
	const char *name;
	void (*commit)(void);
} errors[] = {
	{ "inverted_locks", inverted_locks },
	{ "sleep_in_atomic", sleep_in_atomic },
	{ "broken_list", broken_list },
	{ "out_of_bounds", out_of_bounds },
	{ "dead_page", dead_page },
	{ "unmapped_page", unmapped_page },
	{ "racing_counter", racing_counter },
};

static int plant(const char *name, const struct kernel_param *param)
{
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		if (!sysfs_streq(name, errors[i].name))
			continue;
		errors[i].commit();
		return 0;
	}
	return -EINVAL;
}

static const struct kernel_param_ops plant_ops = { .set = plant };
module_param_cb(plant, &plant_ops, NULL, 0200);

static int __init planted_init(void)
{
	return 0;
}

static void __exit planted_exit(void)
{
}

module_init(planted_init);
module_exit(planted_exit);

MODULE_DESCRIPTION("Errors for a debug kernel to report");
MODULE_LICENSE("GPL");
