/* SPDX-License-Identifier: MIT */
/*
 * A peer is another process that does what the test tells it to. It is a fork of the test, so a
 * function of the test is there too, and can be run in it:
 *
 *	static int64_t add(const uint64_t *arg) { return arg[0] + arg[1]; }
 *	check_is(peer_do(p, add, 2, 3), 5);
 *
 * A peer of NULL is the test's own process. Whatever fails in a peer fails the test.
 */
#ifndef GUEST_PEER_H
#define GUEST_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PEER_ARGS 8

typedef int64_t (*peer_fn)(const uint64_t *arg);

struct peer {
	pid_t pid;
	int sock;
	uint64_t out; /* of the last peer_do(), see peer_out */
};

struct peer *peer_start(void);
/* Ends by itself, and is waited for; its memory has been freed then. */
void peer_end(struct peer *p);
void peer_kill(struct peer *p);
pid_t peer_pid(const struct peer *p);

/* Runs @fn with up to PEER_ARGS arguments, and returns what it returns. */
#define peer_do(p, fn, ...) peer_call(p, fn, (const uint64_t[PEER_ARGS]){__VA_ARGS__})
int64_t peer_call(struct peer *p, peer_fn fn, const uint64_t *arg);
/* What such a function has to say besides; the caller finds it in @out of the peer. */
extern uint64_t peer_out;
/* Both halves of it, for whatever would not end until the test does something else. */
#define peer_begin(p, fn, ...) peer_send(p, fn, (const uint64_t[PEER_ARGS]){__VA_ARGS__}, -1)
void peer_send(struct peer *p, peer_fn fn, const uint64_t *arg, int fd);
int64_t peer_finish(struct peer *p);

/* A system call: what it returns, or -errno. */
#define peer_syscall(p, ...) peer_do(p, peer_run_syscall, __VA_ARGS__)
int64_t peer_run_syscall(const uint64_t *arg);

/* Runs @fn in a thread of the peer. */
#define peer_thread(p, fn, ...)                                                                    \
	peer_call_thread(p, fn, (const uint64_t[PEER_ARGS - 1]){__VA_ARGS__})
int peer_call_thread(struct peer *p, peer_fn fn, const uint64_t *arg);
/* Has it ended? @result may be NULL. */
bool peer_thread_ended(struct peer *p, int thread, int64_t *result);
/* Until it has ended, or the test fails after @ms. */
int64_t peer_join(struct peer *p, int thread, unsigned int ms);

/* A descriptor of ours, in the peer; returns its number there. */
int peer_give_fd(struct peer *p, int fd);
/* One of the peer's, which is closed there; returns its number here. */
int peer_take_fd(struct peer *p, int fd);

/* ---- memory; addresses are numbers, since most of them are another process' */

#define MAP_4K     0x1 /* never huge pages */
#define MAP_HUGE   0x2 /* huge pages; not touched, so they come with the first access */
#define MAP_RDONLY 0x4
#define MAP_AT     0x8 /* at this address, which is free; else anywhere, 2 MiB aligned */

/*
 * Private anonymous memory with no neighbour that it could become one mapping with, unless it is
 * MAP_AT.
 */
uint64_t peer_map(struct peer *p, uint64_t at, size_t len, unsigned int how);
void peer_unmap(struct peer *p, uint64_t addr, size_t len);
/* Returns 0 or -errno, as the two below. */
int peer_madvise(struct peer *p, uint64_t addr, size_t len, int advice);
int peer_mprotect(struct peer *p, uint64_t addr, size_t len, int prot);

/* Page i of the range gets contents that tell (@id + i, @seed) from every other. */
void peer_fill(struct peer *p, uint64_t addr, size_t len, uint64_t id, uint64_t seed);
/* It has those, or the test fails, saying what it has instead. */
void peer_verify(struct peer *p, uint64_t addr, size_t len, uint64_t id, uint64_t seed);
/* For peer_thread(): addr, len, id, seed. */
int64_t peer_run_verify(const uint64_t *arg);
void peer_verify_zero(struct peer *p, uint64_t addr, size_t len);
/* Reads a word of each page. */
void peer_read_pages(struct peer *p, uint64_t addr, size_t len);
/* Its memory, of which nothing may be missing, without asking it. */
void peer_read(struct peer *p, uint64_t addr, void *buf, size_t len);
uint64_t peer_peek(struct peer *p, uint64_t addr);
void peer_poke(struct peer *p, uint64_t addr, uint64_t value);
/* For peer_thread(): addr; returns the word. */
int64_t peer_run_peek(const uint64_t *arg);
/* MADV_PAGEOUT until all of the range is in swap; the test fails if it doesn't go there. */
void peer_page_out(struct peer *p, uint64_t addr, size_t len);

/* ---- userfaultfd */

/* One for the peer's memory, all faults, which only the test has open. */
int peer_uffd(struct peer *p, uint64_t features);
/* @mode: UFFDIO_REGISTER_MODE_*; 0 or -errno, as the others. */
int uffd_register(int uffd, uint64_t addr, size_t len, uint64_t mode);
int uffd_unregister(int uffd, uint64_t addr, size_t len);
int uffd_wake(int uffd, uint64_t addr, size_t len);
int uffd_writeprotect(int uffd, uint64_t addr, size_t len, bool protect);
struct uffd_msg;
/* The next message, waiting for up to @ms; false: none. */
bool uffd_read(int uffd, struct uffd_msg *msg, unsigned int ms);
/* The page address of the next fault; the test fails if something else or nothing comes. */
uint64_t uffd_fault(int uffd);

/* ---- processes */

/* A child of the peer that does nothing until it is ended. */
pid_t peer_fork(struct peer *p);
void peer_end_child(struct peer *p, pid_t child);

/* ---- both ends of a move. Make them in new peers, or before a peer is forked: it would share the
 * pages. */

#define SEED 7

struct end {
	struct peer *peer;
	uint64_t addr;
	size_t len;
	int uffd;
};

/* Memory that is filled (by peer_fill(), id: number of the page, seed: SEED), then registered
 * MISSING. */
struct end giver_make(struct peer *p, size_t len, unsigned int how);
/* Empty memory that is registered MISSING. */
struct end taker_make(struct peer *p, size_t len, unsigned int how);
/* The same in a new peer. */
struct end giver_start(size_t len, unsigned int how);
struct end taker_start(size_t len, unsigned int how);
void end_stop(struct end *e);
/* An empty end is mapped anew, as if nothing had ever been in it. */
void taker_renew(const struct end *e, unsigned int how);
/* @e has at @at what giver_make() has put at @from. */
void end_verify(const struct end *e, uint64_t at, uint64_t from, size_t len);
/* All of it is still there, or all of it is gone. */
void giver_keeps(const struct end *e);
void giver_is_empty(const struct end *e);

#endif
