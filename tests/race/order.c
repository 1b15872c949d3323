// SPDX-License-Identifier: MIT
/*
 * A page is being resolved, with an answer that was right a moment ago, while the program does away
 * with it. The handler is stopped between its source's answer and the ioctl; it goes on when the
 * program's event is queued. What was discarded reads as zero then, and ever after.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "lib/take.h"
#include "lib/uffd.h"
#include "tests/lib/handover.h"
#include "tests/lib/serve.h"

#define NPAGES 16u
#define VICTIM 5u
#define EVENTS (UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMAP)

/* ---- a program and a handler, each in a process of its own */

struct act;

struct stage_play {
	const struct act *act;
	int sock[2];
	char *mem, *to; /* the same addresses in both */
	struct shared {
		atomic_uint step;
	} * shared;
};

struct act {
	const char *name;
	void (*run)(struct stage_play *p, struct reader *reader);
	/* Run in a thread; its call waits until the event has been read. */
	void *(*change)(void *play);
	uint64_t feature; /* besides EVENTS */
};

static void *discard(void *arg)
{
	struct stage_play *p = arg;

	check_equal(madvise(p->mem + VICTIM * PAGE, PAGE, MADV_DONTNEED), 0);
	return NULL;
}

static void after_discard(struct stage_play *p, struct reader *reader)
{
	/* Its access may have been before or after; if it saw anything, it was the old page. */
	check_equal(reader->signal, 0);
	for (int again = 0; again < 3; again++)
		check(page_is_zero(p->mem + VICTIM * PAGE));
	check(page_has(p->mem + (VICTIM + 1) * PAGE, VICTIM + 2));
}

static void *discard_all(void *arg)
{
	struct stage_play *p = arg;

	check_equal(madvise(p->mem, NPAGES * PAGE, MADV_DONTNEED), 0);
	return NULL;
}

static void after_discard_all(struct stage_play *p, struct reader *reader)
{
	check_equal(reader->signal, 0);
	for (unsigned int i = 0; i < NPAGES; i++)
		check(page_is_zero(p->mem + i * PAGE));
}

static void *unmap_it(void *arg)
{
	struct stage_play *p = arg;

	check_equal(munmap(p->mem + VICTIM * PAGE, PAGE), 0);
	return NULL;
}

static void after_unmap(struct stage_play *p, struct reader *reader)
{
	uint64_t value;

	check(reader->signal == 0 || reader->signal == SIGSEGV);
	check_equal(peek(p->mem + VICTIM * PAGE, &value), SIGSEGV);
	/* A new mapping in its place is empty. */
	char *again = mmap(p->mem + VICTIM * PAGE, PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	check(page_is_zero(again));
	check(page_has(p->mem + (VICTIM + 1) * PAGE, VICTIM + 2));
}

static void *move_it(void *arg)
{
	struct stage_play *p = arg;

	check(mremap(p->mem, NPAGES * PAGE, NPAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p->to) ==
	      p->to);
	return NULL;
}

static void after_move(struct stage_play *p, struct reader *reader)
{
	check(reader->signal == 0 || reader->signal == SIGSEGV);
	for (unsigned int i = 0; i < NPAGES; i++)
		check(page_has(p->to + i * PAGE, i + 1));
}

/* The child has pages that nobody has installed, and a userfaultfd that only the event tells of. */
static void *fork_it(void *arg)
{
	struct stage_play *p = arg;
	pid_t child = fork();

	check(child >= 0);
	if (!child) {
		for (unsigned int i = 0; i < NPAGES; i++)
			check(page_has(p->mem + i * PAGE, i + 1));
		_exit(0);
	}
	check_equal(wait_exit(child), 0);
	return NULL;
}

static void after_fork(struct stage_play *p, struct reader *reader)
{
	check_equal(reader->signal, 0);
	for (unsigned int i = 0; i < NPAGES; i++)
		check(page_has(p->mem + i * PAGE, i + 1));
}

static const struct act acts[] = {
	{"discarded", after_discard, discard, 0},
	{"all discarded", after_discard_all, discard_all, 0},
	{"unmapped", after_unmap, unmap_it, 0},
	{"moved", after_move, move_it, 0},
	{"forked", after_fork, fork_it, UFFD_FEATURE_EVENT_FORK},
};

static int run_program(void *arg)
{
	struct stage_play *p = arg;
	struct reader reader;
	pthread_t changer;
	int uffd = ferry_uffd_open(EVENTS | p->act->feature, 0);

	check(uffd >= 0);
	check_equal(uffd_register(uffd, (uintptr_t)p->mem, NPAGES * PAGE,
				  UFFDIO_REGISTER_MODE_MISSING, NULL),
		    0);
	send_fd(p->sock[1], uffd);
	reader_start(&reader, p->mem + VICTIM * PAGE);
	/* The handler has taken the fault's message and stands still. */
	while (p->shared->step < 1)
		sched_yield();
	check_equal(pthread_create(&changer, NULL, p->act->change, p), 0);
	wait_readable(uffd);
	p->shared->step = 2;
	pthread_join(changer, NULL);
	reader_join(&reader);
	p->act->run(p, &reader);
	return 0;
}

static int run_handler(void *arg)
{
	struct stage_play *p = arg;
	struct pattern_source src;
	int uffd = receive_fd(p->sock[0]);

	setenv("PAGEFERRY_PARK", "loop.resolve", 1);
	pattern_init(&src, 1, NPAGES);
	struct ferry_loop *loop = new_loop();
	check_equal(ferry_loop_watch(loop, uffd, (uintptr_t)p->mem, NPAGES * PAGE, &src.src, 0), 0);
	/* Until the test ends it; a program that has exited raises no faults. */
	for (;;)
		check(ferry_loop_step(loop, 1000) >= 0);
	return 0;
}

static void run_act(void **state)
{
	struct stage_play p = {.act = *state};

	close(open_uffd(EVENTS | p.act->feature));
	p.mem = map_memory(NPAGES * PAGE, PAGE);
	/* Kept until it is moved over, so that nothing else comes to lie there. */
	p.to = map_memory(NPAGES * PAGE, PAGE);
	p.shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p.sock), 0);
	pid_t handler = spawn(run_handler, &p), program = spawn(run_program, &p);
	wait_stopped(handler);
	p.shared->step = 1;
	while (p.shared->step < 2)
		sched_yield();
	kill(handler, SIGCONT);
	assert_int_equal(wait_exit(program), 0);
	kill_and_reap(handler);
	close(p.sock[0]);
	close(p.sock[1]);
	unmap(p.mem, NPAGES * PAGE);
	unmap(p.to, NPAGES * PAGE);
	munmap(p.shared, PAGE);
}

/* ---- the same within a hand-over, in the shadow: there the giver serves and pushes nothing */

static void discard_while_served(struct taker *t)
{
	struct reader reader;
	struct adviser adviser;
	char *page = t->mem[0] + VICTIM * PAGE;

	/* The giver stops before it resolves this. */
	reader_start(&reader, page);
	while (t->plan->out->step < 1)
		sched_yield();
	adviser_start(&adviser, page, PAGE, MADV_DONTNEED);
	wait_readable(t->take->uffd);
	t->plan->out->step = 2;
	adviser_join(&adviser);
	reader_join(&reader);
	check_equal(reader.signal, 0);
	check(page_is_zero(page));
}

static void find_discarded(struct taker *t)
{
	for (size_t i = 0; i < t->plan->parts[0].npages; i++) {
		const char *page = t->mem[0] + i * PAGE;
		check(i == VICTIM ? page_is_zero(page) : page_right(t->plan, 0, i, page));
	}
}

static void test_handover(void **state)
{
	struct plan plan = {.parts = {{.npages = 3000, .kinds = KIND_BIT(KIND_DATA)}},
			    .nparts = 1,
			    .idle = true,
			    .own_check = true,
			    .give_park = "loop.resolve",
			    .in_shadow = discard_while_served,
			    .after_done = find_discarded};

	(void)state;
	handover_prepare(&plan);
	struct handover h = handover_start(&plan);
	wait_stopped(h.giver);
	plan.out->step = 1;
	while (plan.out->step < 2)
		sched_yield();
	kill(h.giver, SIGCONT);
	handover_wait(&h);
	assert_int_equal(plan.out->give_ret, 0);
	assert_int_equal(plan.out->take_ret, 0);
	assert_adds_up(&plan.out->report);
	handover_fini(&plan);
}

int main(void)
{
	struct CMUnitTest tests[COUNT(acts) + 1];

	for (size_t i = 0; i < COUNT(acts); i++)
		tests[i] = (struct CMUnitTest){acts[i].name, run_act, test_begin, test_end,
					       (void *)(uintptr_t)&acts[i]};
	tests[COUNT(acts)] = (struct CMUnitTest)TEST(test_handover);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("order", tests, NULL, NULL);
}
