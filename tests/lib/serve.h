/* SPDX-License-Identifier: MIT */
/* A loop in a thread of its own, sources that tests look into, and descriptors between processes.
 */
#ifndef TEST_SERVE_H
#define TEST_SERVE_H

#include <pthread.h>
#include <stdatomic.h>

#include "pageferry.h"
#include "tests/lib/test.h"

struct server {
	struct ferry_loop *loop;
	pthread_t thread;
};

/* With opts NULL: wherever the scheduler likes. */
struct ferry_loop *new_loop(void);
void server_start(struct server *server, struct ferry_loop *loop);
/* Stops and joins; the loop is left to look into. */
void server_stop(struct server *server);

/* Page i is page_has(seed + i), and what happened is counted. */
struct pattern_source {
	struct ferry_source src;
	uint64_t seed;
	uint64_t len; /* of each answer */
	char *pages;
	uint64_t npages;
	atomic_uint asked, installed, removed_calls;
	atomic_ullong removed_bytes;
	uint64_t last_removed_offset, last_removed_len;
};

void pattern_init(struct pattern_source *p, uint64_t seed, uint64_t npages);
void pattern_fini(struct pattern_source *p);

/* A thread that reads a word and ends; whether it still waits; what it read. */
struct reader {
	pthread_t thread;
	const void *addr;
	uint64_t value;
	int signal;
	atomic_bool done;
};
void reader_start(struct reader *r, const void *addr);
void reader_join(struct reader *r);

/* A thread that calls madvise() and ends. */
struct adviser {
	pthread_t thread;
	void *addr;
	size_t len;
	int advice;
	atomic_bool done;
};
void adviser_start(struct adviser *a, void *addr, size_t len, int advice);
void adviser_join(struct adviser *a);

/* Until a message can be read from @uffd. */
void wait_readable(int uffd);
/* Until so many faults, events aside, lie unread in @uffd, which is this process's own. */
void wait_pending(int uffd, unsigned int faults);

void send_fd(int sock, int fd);
int receive_fd(int sock);

#endif
