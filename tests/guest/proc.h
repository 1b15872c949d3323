/* SPDX-License-Identifier: MIT */
/* What the kernel says about a process, its memory and its pages. */
#ifndef GUEST_PROC_H
#define GUEST_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* /proc/@pid/@name, or /proc/@name with no pid; bytes read, ended by a 0, or -errno. */
ssize_t proc_read(pid_t pid, const char *name, char *buf, size_t n);
/* Write a text to a file, as echo does; 0 or -errno. */
int file_write(const char *path, const char *text);
/* For reading, or the test fails. */
FILE *file_open(const char *path);
/* The first number in a file; the test fails if there is none. */
uint64_t file_number(const char *path);
/* KiB of a line of /proc/@pid/status: "RssAnon", "VmSwap", "VmPTE". */
uint64_t status_kb(pid_t pid, const char *field);
/* KiB of a line of /proc/meminfo. */
uint64_t meminfo_kb(const char *field);
/* Sum of a field of smaps in KiB over the mappings that touch the range. */
uint64_t smaps_kb(pid_t pid, uint64_t addr, size_t len, const char *field);
/* The kernel's counters are not exact. */
bool near_kb(uint64_t is, uint64_t want, uint64_t slack);
/* Is all that is mapped of the range MADV_MERGEABLE? */
bool smaps_mergeable(pid_t pid, uint64_t addr, size_t len);
/* How many mappings touch the range. */
unsigned int smaps_mappings(pid_t pid, uint64_t addr, size_t len);

/* ---- pages; a pid of 0 is this process */

#define PM_SOFT_DIRTY (1ull << 55)
#define PM_EXCLUSIVE  (1ull << 56)
#define PM_UFFD_WP    (1ull << 57)
#define PM_SWAPPED    (1ull << 62)
#define PM_PRESENT    (1ull << 63)
/* Not from pagemap: a page of a huge page that is mapped whole, see page_state(). */
#define PM_HUGE (1ull << 60)

/* The entry of the page, with PM_HUGE, and without its frame. */
uint64_t page_state(pid_t pid, uint64_t addr);
/* How many pages of the range have all of these bits. */
size_t count_pages(pid_t pid, uint64_t addr, size_t len, uint64_t bits);
/* How many are neither present nor swapped out. */
size_t count_holes(pid_t pid, uint64_t addr, size_t len);
/* The same page by page. */
void find_holes(pid_t pid, uint64_t addr, bool *holes, size_t npages);
/* Its frame number, or 0. */
uint64_t page_frame(pid_t pid, uint64_t addr);
/* How many pages of both are one and the same: present, and in the same frame. */
size_t count_same(pid_t pid, uint64_t addr, pid_t other, uint64_t there, size_t len);
/* KPF_* of linux/kernel-page-flags.h; 0 for one that is not present. */
uint64_t page_kflags(pid_t pid, uint64_t addr);

#endif
