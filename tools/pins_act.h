/* SPDX-License-Identifier: MIT */
/* What pins_operations.c lists: see struct operation in pins.h for what each of them returns. */
#ifndef PAGEFERRY_PINS_ACT_H
#define PAGEFERRY_PINS_ACT_H

struct scene;

/* Of the kernel's own accord, or nearly: pins_kernel.c */
int act_free(struct scene *s);
int act_pageout(struct scene *s);
int begin_ksm(struct scene *s);
int act_ksm(struct scene *s);
int begin_collapse(struct scene *s);
int act_collapse(struct scene *s);
int begin_compaction(struct scene *s);
int act_compaction(struct scene *s);
int act_split(struct scene *s);
int act_uprobe(struct scene *s);

/* By userfaultfd: pins_uffd.c */
int begin_missing(struct scene *s);
int act_copy(struct scene *s);
int begin_protect(struct scene *s);
int act_protect(struct scene *s);
int begin_move(struct scene *s);
int act_move(struct scene *s);
int prepare_module(struct scene *s);
int act_module(struct scene *s);

#endif
