/* SPDX-License-Identifier: MIT */
/*
 * Pages and whoever brings them to the thread that waits: a bare loop, which is the shortest that
 * can, or the library's; in a thread of the process that has the faults, or in another process.
 */
#ifndef BENCH_SERVE_H
#define BENCH_SERVE_H

#include <poll.h>
#include <pthread.h>

#include "bench/memory.h"
#include "bench/pair.h"
#include "bench/raw.h"
#include "pageferry.h"

enum serve_kind {
	SERVE_COPY,
	SERVE_MOVE,
	SERVE_ZEROPAGE,
	SERVE_CONTINUE,
	SERVE_PROTECT, /* nobody waits for that */
	SERVE_UNPROTECT,
};

struct server {
	enum serve_kind kind;
	bool ours;
	bool process; /* it is another one */
	bool huge;    /* private memory in huge pages */
	int cpu;      /* FERRY_CPU_* or a number; the bare loop isn't bound unless it is a number */
	uint64_t len; /* of the memory */
	uint64_t answer; /* bytes that each answer brings */
	uint64_t seed;
	const char *what;

	char *mem, *from; /* where the faults are; what is brought, if anything is */
	int uffd;
	uint64_t answers; /* of a source of our own */
	struct ferry_loop *loop;
	struct ferry_source *src;
	pthread_t thread;
	struct pair pair;
};

static const struct serve_need {
	const char *call; /* the name of its ioctl, short */
	uint32_t answer;  /* of a source of the library */
	uint64_t features, mode;
	const char *lacking;
} serve_needs[] = {
	[SERVE_COPY] = {"COPY", FERRY_ANSWER_COPY, 0, UFFDIO_REGISTER_MODE_MISSING, NULL},
	[SERVE_MOVE] = {"MOVE", FERRY_ANSWER_MOVE, UFFD_FEATURE_MOVE, UFFDIO_REGISTER_MODE_MISSING,
			"the kernel has no UFFDIO_MOVE"},
	[SERVE_ZEROPAGE] = {"ZEROPAGE", FERRY_ANSWER_ZERO, 0, UFFDIO_REGISTER_MODE_MISSING, NULL},
	[SERVE_CONTINUE] = {"CONTINUE", FERRY_ANSWER_CONTINUE, UFFD_FEATURE_MINOR_SHMEM,
			    UFFDIO_REGISTER_MODE_MINOR,
			    "the kernel has no MINOR faults for shared memory"},
	[SERVE_PROTECT] = {"WRITEPROTECT", 0, UFFD_FEATURE_PAGEFAULT_FLAG_WP,
			   UFFDIO_REGISTER_MODE_WP, "the kernel has no UFFDIO_WRITEPROTECT"},
	[SERVE_UNPROTECT] = {"WRITEPROTECT", FERRY_ANSWER_UNPROTECT, UFFD_FEATURE_PAGEFAULT_FLAG_WP,
			     UFFDIO_REGISTER_MODE_WP, "the kernel has no UFFDIO_WRITEPROTECT"},
};

/* Can this kernel do it? NULL: yes. */
static inline const char *serve_why_not(enum serve_kind kind)
{
	uint64_t need = serve_needs[kind].features;
	return (raw_features() & need) == need ? NULL : serve_needs[kind].lacking;
}

/* ---- memory */

static inline bool serve_is_protection(const struct server *s)
{
	return s->kind == SERVE_PROTECT || s->kind == SERVE_UNPROTECT;
}

static inline void serve_map(struct server *s)
{
	int advice = s->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;

	if (s->kind == SERVE_CONTINUE) {
		int fd = memory_file(s->len);
		s->mem = memory_map_file(fd, s->len);
		s->from = memory_map_file(fd, s->len);
		close(fd);
	} else {
		s->mem = memory_map(s->len, advice);
		if (s->kind == SERVE_COPY || s->kind == SERVE_MOVE)
			s->from = memory_map(s->len, advice);
	}
	if (s->from || serve_is_protection(s))
		memory_fill(s->from ? s->from : s->mem, s->len, s->seed);
}

static inline void serve_check(const struct server *s)
{
	if (s->kind == SERVE_ZEROPAGE)
		memory_check_zero(s->mem, s->len, s->what);
	else
		memory_check(s->mem, s->len, s->seed, s->what);
}

static inline void serve_unmap(struct server *s)
{
	munmap(s->mem, s->len);
	if (s->from)
		munmap(s->from, s->len);
}

/* ---- bare */

static inline void serve_raw(const struct server *s, uint64_t offset, uint64_t len)
{
	const char *from = s->from ? s->from + offset : NULL;
	uint64_t at = (uintptr_t)s->mem + offset;

	switch (s->kind) {
	case SERVE_COPY:
		raw_copy(s->uffd, at, from, len);
		break;
	case SERVE_MOVE:
		raw_move(s->uffd, s->mem + offset, from, len);
		break;
	case SERVE_ZEROPAGE:
		raw_zeropage(s->uffd, at, len);
		break;
	case SERVE_CONTINUE:
		raw_continue(s->uffd, at, len);
		break;
	default:
		raw_protect(s->uffd, at, len, s->kind == SERVE_PROTECT);
	}
}

/* Knows how many faults will come, so that nothing but the userfaultfd needs polling. */
static inline void *serve_bare(void *arg)
{
	const struct server *s = arg;

	if (s->cpu >= 0)
		cpu_bind(s->cpu);
	for (uint64_t left = s->len / s->answer; left; left--) {
		struct pollfd fd = {.fd = s->uffd, .events = POLLIN};
		struct uffd_msg msg;
		must(poll(&fd, 1, -1), "poll");
		must(read(s->uffd, &msg, sizeof(msg)), "reading the userfaultfd");
		uint64_t at = msg.arg.pagefault.address & ~(BENCH_PAGE - 1);
		serve_raw(s, at - (uintptr_t)s->mem, s->answer);
	}
	return NULL;
}

/* ---- the library */

/* A source of our own, for what none of the library's answers. */
struct serve_source {
	struct ferry_source src;
	struct server *server;
};

static inline int serve_answer(struct ferry_source *src, const struct ferry_fault *fault,
			       struct ferry_answer *answer)
{
	struct server *s = ((struct serve_source *)src)->server;

	s->answers++;
	answer->kind = serve_needs[s->kind].answer;
	answer->len = s->answer;
	answer->from = s->from ? s->from + fault->offset : NULL;
	return 0;
}

static inline void serve_free(struct ferry_source *src)
{
	free(src);
}

static inline struct ferry_source *serve_source(struct server *s)
{
	struct ferry_source *memory;
	struct serve_source *own;

	if (s->answer == BENCH_PAGE && s->kind == SERVE_ZEROPAGE)
		return ferry_source_zero();
	if (s->answer == BENCH_PAGE && s->kind == SERVE_CONTINUE)
		return ferry_source_shared();
	if (s->answer == BENCH_PAGE && s->kind == SERVE_COPY) {
		must_ferry(ferry_source_memory(&memory, s->from, s->len), "ferry_source_memory");
		return memory;
	}
	own = calloc(1, sizeof(*own));
	if (!own)
		bench_fail("no memory");
	*own = (struct serve_source){{.answer = serve_answer, .free = serve_free}, s};
	return &own->src;
}

static inline void serve_new_loop(struct server *s)
{
	struct ferry_loop_opts opts = FERRY_LOOP_OPTS_INIT;

	opts.cpu = s->cpu;
	s->src = serve_source(s);
	must_ferry(ferry_loop_new(&s->loop, &opts), "ferry_loop_new");
	must_ferry(ferry_loop_watch(s->loop, s->uffd, (uintptr_t)s->mem, s->len, s->src, 0),
		   "ferry_loop_watch");
}

static inline void *serve_ours(void *arg)
{
	const struct server *s = arg;

	must_ferry(ferry_loop_run(s->loop), "ferry_loop_run");
	return NULL;
}

static inline void serve_free_loop(struct server *s)
{
	ferry_loop_free(s->loop);
	ferry_source_free(s->src);
}

/* ferry_move, strict. */
static inline void serve_move(int uffd, const char *to, const char *from, uint64_t len)
{
	struct ferry_move move = {.size = sizeof(move),
				  .uffd = uffd,
				  .flags = FERRY_MOVE_STRICT | FERRY_MOVE_FULL,
				  .dst = (uintptr_t)to,
				  .src = (uintptr_t)from,
				  .len = len};

	must_ferry(ferry_move(&move), "ferry_move");
}

/* ---- in another process */

struct serve_told {
	int sock;
	struct ferry_loop *loop;
};

static inline void *serve_until_told(void *arg)
{
	const struct serve_told *told = arg;

	raw_recv_bytes(told->sock, 1);
	ferry_loop_stop(told->loop);
	return NULL;
}

static inline void serve_there(int sock, struct pair_news *news, const void *arg)
{
	struct server s = *(const struct server *)arg;
	pthread_t thread;

	(void)news;
	if (!s.ours) {
		serve_bare(&s);
		return;
	}
	serve_new_loop(&s);
	struct serve_told told = {sock, s.loop};
	if (pthread_create(&thread, NULL, serve_until_told, &told))
		bench_fail("no thread");
	serve_ours(&s);
	pthread_join(thread, NULL);
	serve_free_loop(&s);
}

/* ---- all of it */

/* A userfaultfd for it, with the memory registered; nobody serves yet. */
static inline void serve_open(struct server *s)
{
	const struct serve_need *need = &serve_needs[s->kind];
	uint64_t features = need->features | UFFD_FEATURE_THREAD_ID;

	s->uffd = s->ours ? must_ferry(ferry_uffd_open(features, 0), "ferry_uffd_open")
			  : raw_uffd(need->features);
	raw_register(s->uffd, s->mem, s->len, need->mode);
	if (s->kind == SERVE_UNPROTECT)
		raw_protect(s->uffd, (uintptr_t)s->mem, s->len, true);
}

static inline void serve_start(struct server *s)
{
	serve_open(s);
	if (s->process) {
		s->pair = pair_start(serve_there, s);
		/* If it fails, what is missing shall be wrong contents here, not a thread that
		 * waits. */
		close(s->uffd);
		return;
	}
	if (s->ours)
		serve_new_loop(s);
	if (pthread_create(&s->thread, NULL, s->ours ? serve_ours : serve_bare, s))
		bench_fail("no thread");
}

/* When every fault has been served. */
static inline void serve_stop(struct server *s)
{
	if (s->process) {
		if (s->ours)
			raw_send_byte(s->pair.sock);
		pair_end(&s->pair);
		close(s->pair.sock);
		return;
	}
	if (s->ours)
		ferry_loop_stop(s->loop);
	pthread_join(s->thread, NULL);
	serve_free_loop(s);
	close(s->uffd);
}

#endif
