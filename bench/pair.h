/* SPDX-License-Identifier: MIT */
/* Two processes and a socket between them: the giver is the bench itself, the taker its child. */
#ifndef BENCH_PAIR_H
#define BENCH_PAIR_H

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "bench/bench.h"

/* What the taker has to say at the end, in memory that both share. */
struct pair_news {
	int64_t end_ns; /* when it had all, by its own clock, which is everybody's */
	int64_t cpu_ns; /* its processor time until then */
	uint64_t huge;  /* bytes in huge pages */
};

struct pair {
	int sock;
	pid_t taker;
	struct pair_news *news;
};

typedef void taker_fn(int sock, struct pair_news *news, const void *arg);

/* Start a taker that runs @fn(@arg). The giver's own memory should be MADV_DONTFORK. */
static inline struct pair pair_start(taker_fn *fn, const void *arg)
{
	struct pair p;
	int sv[2];

	p.news = mmap(NULL, sizeof(*p.news), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (p.news == MAP_FAILED)
		bench_fail("no memory");
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), "socketpair");
	pid_t giver = getpid();
	p.taker = (pid_t)must(fork(), "fork");
	if (!p.taker) {
		/* It may be waiting for a page when the giver fails. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != giver)
			_exit(BENCH_EXIT_FAIL);
		close(sv[0]);
		fn(sv[1], p.news, arg);
		_exit(0);
	}
	close(sv[1]);
	p.sock = sv[0];
	return p;
}

static inline void pair_has_all(struct pair_news *news)
{
	news->end_ns = bench_now();
	news->cpu_ns = bench_cpu_now();
}

/* The taker has checked its memory; a bad word there is a bad exit here. */
static inline struct pair_news pair_end(struct pair *p)
{
	struct pair_news news;
	int status;

	while (waitpid(p->taker, &status, 0) < 0)
		if (errno != EINTR)
			bench_fail("waitpid failed: %s", strerror(errno));
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		bench_fail("the taker failed (wait status %#x)", (unsigned int)status);
	news = *p->news;
	munmap(p->news, sizeof(*p->news));
	return news;
}

#endif
