/* SPDX-License-Identifier: MIT */
/* The module's device: its ioctls, which return 0 or -errno here. */
#ifndef GUEST_PF_H
#define GUEST_PF_H

#include <linux/pageferry.h>
#include <stdint.h>

/* Opens /dev/pageferry, or fails the test. */
int pf_open(void);
/* Opens it, or skips the test where the module has not all of these: PAGEFERRY_FEATURE_*. */
int pf_open_with(uint64_t features);
int pf_ioctl(int fd, unsigned long request, void *arg);
/* @moved may be NULL. */
int pf_move(int fd, uint32_t mode, int dst_uffd, int src_uffd, uint64_t dst, uint64_t src,
	    uint64_t len, uint64_t *moved);
struct end;
/* What PAGEFERRY_MOVE_TABLES answers. */
struct pf_answer {
	int ret;
	uint64_t moved, tables, why;
};
struct pf_answer pf_move_tables(int fd, uint32_t mode, const struct end *to, const struct end *from);
/* All that @from has, as whole page tables; or the test fails. */
void pf_move_all_tables(int fd, const struct end *to, const struct end *from);
/* Added to the mode of every move, but for questions: so are tests run in another mode. */
extern uint32_t pf_always;
/* All that @from has, to the start of @to, in one call; or the test fails. */
void pf_move_all(int fd, const struct end *to, const struct end *from);

#endif
