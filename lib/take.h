/* SPDX-License-Identifier: MIT */
/* The inside of a taker: take.c (calls, phases), take_thread.c, take_stage.c, take_end.c. */
#ifndef FERRY_TAKE_H
#define FERRY_TAKE_H

#include <pthread.h>

#include "lib/wire.h"

struct stage {
	void *map; /* of two huge pages, to have an aligned one within */
	void *page;
	bool full; /* all of it has been read, and nothing been taken away */
	pid_t giver;
};

struct ferry_take {
	int sock;
	int uffd;
	uint64_t features;
	uint32_t timeout_ms;
	void (*lost)(void *arg, int error, uint64_t left);
	void *arg;
	struct wire_msg offer_msg; /* what the offer points into */
	struct ferry_range *ranges;
	struct ferry_offer offer;
	uint64_t *addrs; /* where each range is mapped here; 0: not yet */
	bool tables; /* FERRY_TAKE_TABLES */
	struct stage stage;
	bool moved; /* what the giver said with DONE; the thread's own */

	pthread_t thread;
	bool has_thread;
	int stop_fd;

	/* Shared with the thread. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum ferry_phase phase;
	int error;	/* -errno that ended it, 0: none */
	bool closing;	/* by our own side: nobody needs to be told */
	bool may_commit; /* somebody waits in ferry_take_commit */
	bool arriving;	 /* it is ours, and page tables come */
	const char *why; /* what the giver is to be told if we give up; NULL: the error */
	int *fds;
	unsigned int nfds, want_fds;
	char reason[WIRE_REASON];
};

/* take_thread.c */
int take_thread_start(struct ferry_take *take);
void take_thread_stop(struct ferry_take *take);
void take_set_phase(struct ferry_take *take, enum ferry_phase phase);

/* take_end.c */
/* The giver is gone: is nothing missing, for sure? */
bool take_has_all(struct ferry_take *take);
/* Both close the userfaultfd. */
/* Everything has come. @moved: the program has moved or unmapped parts of its ranges. */
void take_release(struct ferry_take *take, bool moved);
/* Give up what has not come: tell, poison, unregister. */
void take_lose(struct ferry_take *take, int error);

/* take_stage.c */
/* Can huge pages come by the staging page? 0 or -errno. */
int stage_open(struct stage *stage, pid_t giver, uint64_t token_addr, const uint8_t token[16],
	       uint64_t features);
void stage_close(struct stage *stage);
int stage_fill(struct stage *stage, uint64_t src);
int stage_place(struct stage *stage, int uffd, uint64_t dst, uint64_t *done);

#endif
