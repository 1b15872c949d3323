// SPDX-License-Identifier: MIT
/*
 * The program changes its address space while one of its threads waits for a page of it: no page is
 * lost, none is invented, and what was discarded reads as zero, ever after. The handler has read
 * the thread's fault and stands between its source's answer, which was right a moment ago, and the
 * ioctl; or it hasn't read anything, and fault and event both wait for it. Each of it for every
 * kind of fault.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "lib/resolve.h"
#include "lib/take.h"
#include "lib/uffd.h"
#include "tests/lib/handover.h"
#include "tests/lib/serve.h"

#define NPAGES 16u
#define VICTIM 5u
#define EVENTS (UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMAP)

/* ---- a program and a handler, each in a process of its own */

enum kind_of_fault { MISSING, MISSING_SHARED, MINOR, PROTECTED, PROTECTED_SHARED };

static const struct fault_kind {
	const char *name;
	uint64_t mode, feature;
	bool shared;
} kinds_of_fault[] = {
	[MISSING] = {"missing", UFFDIO_REGISTER_MODE_MISSING, 0, false},
	[MISSING_SHARED] = {"missing shared", UFFDIO_REGISTER_MODE_MISSING,
			    UFFD_FEATURE_MISSING_SHMEM, true},
	[MINOR] = {"minor", UFFDIO_REGISTER_MODE_MINOR, UFFD_FEATURE_MINOR_SHMEM, true},
	[PROTECTED] = {"protected", UFFDIO_REGISTER_MODE_WP, UFFD_FEATURE_PAGEFAULT_FLAG_WP, false},
	[PROTECTED_SHARED] = {"protected shared", UFFDIO_REGISTER_MODE_WP,
			      UFFD_FEATURE_WP_HUGETLBFS_SHMEM, true},
};

/* Where the handler stands when the program's event comes. */
enum moment { RESOLVING, FAULT_FIRST, EVENT_FIRST };

static const char *const moments[] = {
	[RESOLVING] = "resolving",
	[FAULT_FIRST] = "fault first",
	[EVENT_FIRST] = "event first",
};

struct stage_play;

/* The thread that waits for the page. */
struct toucher {
	pthread_t thread;
	const struct stage_play *play;
	atomic_bool go;
	uint64_t value;
	int signal;
};

struct act {
	const char *name;
	/* Run in a thread; its call waits until the event has been read. */
	void *(*change)(void *play);
	void (*after)(const struct stage_play *p, const struct toucher *toucher);
	uint64_t feature; /* besides EVENTS */
	unsigned int kinds, moments;
};

struct stage_play {
	const struct act *act;
	const struct fault_kind *kind;
	enum moment moment;
	char name[80];
	int sock[2];
	char *mem, *to; /* the same addresses in both */
	struct shared {
		atomic_uint step;
		atomic_uint asked[NPAGES]; /* the source, for each of its pages */
		atomic_ullong removed;     /* bytes of which it was told so */
	} * shared;
};

#define WRITTEN 0x6e657474697277ull

static bool writes(const struct stage_play *p)
{
	return p->kind->mode == UFFDIO_REGISTER_MODE_WP;
}

static void *touch(void *arg)
{
	struct toucher *t = arg;
	char *page = t->play->mem + VICTIM * PAGE;

	while (!t->go)
		sched_yield();
	t->signal = writes(t->play) ? poke(page, WRITTEN) : peek(page, &t->value);
	return NULL;
}

/* Page @i as it was, but for the word that was written to it. */
static bool page_kept(const char *page, unsigned int i, bool written)
{
	uint64_t want[PAGE / sizeof(uint64_t)];

	fill_page(want, i + 1);
	if (written)
		want[0] = WRITTEN;
	return !memcmp(page, want, PAGE);
}

/* Empty, whether the word was written before that or after. */
static bool page_emptied(const char *page)
{
	const uint64_t *word = (const uint64_t *)page;

	for (size_t i = 1; i < PAGE / sizeof(*word); i++)
		if (word[i])
			return false;
	return !word[0] || word[0] == WRITTEN;
}

/* The access of which the handler is told; the page stays what it is. */
static void use_page(const struct stage_play *p, char *page)
{
	volatile uint64_t *word = (uint64_t *)page + 1;
	uint64_t value = *word;

	if (writes(p))
		*word = value;
}

/* Only the source knew page @i, or that it was written to: it was asked @times times. */
static void check_page(const struct stage_play *p, char *page, unsigned int i, bool written,
		       unsigned int times)
{
	check(page_kept(page, i, written));
	use_page(p, page);
	check(page_kept(page, i, written));
	check(p->shared->asked[i] >= times);
}

/* ---- what the program does */

static void *discard(void *arg)
{
	struct stage_play *p = arg;

	check_equal(madvise(p->mem + VICTIM * PAGE, PAGE, MADV_DONTNEED), 0);
	return NULL;
}

static void *discard_all(void *arg)
{
	struct stage_play *p = arg;

	check_equal(madvise(p->mem, NPAGES * PAGE, MADV_DONTNEED), 0);
	return NULL;
}

static void *punch(void *arg)
{
	struct stage_play *p = arg;

	check_equal(madvise(p->mem + VICTIM * PAGE, PAGE, MADV_REMOVE), 0);
	return NULL;
}

/* However often it is used: the source has nothing to say about it any more. */
static void check_emptied(const struct stage_play *p, char *page)
{
	unsigned int i = (unsigned int)((page - p->mem) / (long)PAGE), asked = p->shared->asked[i];

	for (int again = 0; again < 3; again++) {
		check(page_emptied(page));
		use_page(p, page);
	}
	check_equal(p->shared->asked[i], asked);
}

static void after_punch(const struct stage_play *p, const struct toucher *t)
{
	/* Its access may have been before or after; if it saw anything, it was the old page. */
	check_equal(t->signal, 0);
	check_page(p, p->mem + (VICTIM + 1) * PAGE, VICTIM + 1, false, 1);
	check_emptied(p, p->mem + VICTIM * PAGE);
	check_equal(p->shared->removed, PAGE);
}

/* What the page cache has, MADV_DONTNEED only unmaps. */
static bool survives_discard(const struct stage_play *p)
{
	return p->kind->shared && p->kind->mode != UFFDIO_REGISTER_MODE_MISSING;
}

static void after_discard(const struct stage_play *p, const struct toucher *t)
{
	if (!survives_discard(p)) {
		after_punch(p, t);
		return;
	}
	check_equal(t->signal, 0);
	check_page(p, p->mem + (VICTIM + 1) * PAGE, VICTIM + 1, false, 1);
	check_page(p, p->mem + VICTIM * PAGE, VICTIM, writes(p), 0);
}

static void after_discard_all(const struct stage_play *p, const struct toucher *t)
{
	check_equal(t->signal, 0);
	for (unsigned int i = 0; i < NPAGES; i++) {
		char *page = p->mem + i * PAGE;
		if (survives_discard(p))
			check_page(p, page, i, writes(p) && i == VICTIM, 0);
		else
			check_emptied(p, page);
	}
	check_equal(p->shared->removed, NPAGES * PAGE);
}

static void *unmap_it(void *arg)
{
	struct stage_play *p = arg;

	check_equal(munmap(p->mem + VICTIM * PAGE, PAGE), 0);
	return NULL;
}

static void after_unmap(const struct stage_play *p, const struct toucher *t)
{
	uint64_t value;

	check(t->signal == 0 || t->signal == SIGSEGV);
	check_equal(peek(p->mem + VICTIM * PAGE, &value), SIGSEGV);
	/* A new mapping in its place is empty. */
	char *again = mmap(p->mem + VICTIM * PAGE, PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	check(page_is_zero(again));
	check_page(p, p->mem + (VICTIM + 1) * PAGE, VICTIM + 1, false, 1);
	check_equal(p->shared->removed, PAGE);
}

static void *move_it(void *arg)
{
	struct stage_play *p = arg;

	check(mremap(p->mem, NPAGES * PAGE, NPAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p->to) ==
	      p->to);
	return NULL;
}

static void after_move(const struct stage_play *p, const struct toucher *t)
{
	check(t->signal == 0 || t->signal == SIGSEGV);
	for (unsigned int i = 0; i < NPAGES; i++)
		check_page(p, p->to + i * PAGE, i, writes(p) && i == VICTIM && !t->signal, 1);
	check_equal(p->shared->removed, 0);
}

/*
 * The child has pages that nobody has installed, and a userfaultfd that only the event tells of.
 * What the parent writes afterwards is none of its own.
 */
static void *fork_it(void *arg)
{
	struct stage_play *p = arg;
	pid_t child = fork();

	check(child >= 0);
	if (!child) {
		for (unsigned int i = 0; i < NPAGES; i++)
			check_page(p, p->mem + i * PAGE, i, false, 1);
		_exit(0);
	}
	check_equal(wait_exit(child), 0);
	return NULL;
}

static void after_fork(const struct stage_play *p, const struct toucher *t)
{
	/* What the child has brought into the page cache isn't missing here. */
	unsigned int times = p->kind == &kinds_of_fault[MISSING_SHARED] ? 1 : 2;

	check_equal(t->signal, 0);
	for (unsigned int i = 0; i < NPAGES; i++)
		check_page(p, p->mem + i * PAGE, i, writes(p) && i == VICTIM, times);
	check_equal(p->shared->removed, 0);
}

#define BIT(n) (1u << (n))
#define ANY    (~0u)
#define SHARED (BIT(MISSING_SHARED) | BIT(MINOR) | BIT(PROTECTED_SHARED))
/* Afterwards there is nothing at that address that could be waited for. */
#define EARLY (BIT(RESOLVING) | BIT(FAULT_FIRST))

static const struct act acts[] = {
	{"discarded", discard, after_discard, 0, ANY, ANY},
	{"all discarded", discard_all, after_discard_all, 0, ANY, ANY},
	{"punched out", punch, after_punch, 0, SHARED, ANY},
	{"unmapped", unmap_it, after_unmap, 0, ANY, EARLY},
	{"moved", move_it, after_move, 0, ANY, EARLY},
	/* A child would see what its parent writes to shared memory. */
	{"forked", fork_it, after_fork, UFFD_FEATURE_EVENT_FORK, ~BIT(PROTECTED_SHARED), ANY},
};

/* ---- the play */

static uint64_t features(const struct stage_play *p)
{
	return EVENTS | p->act->feature | p->kind->feature;
}

static int watch_memory(const struct stage_play *p)
{
	int uffd = ferry_uffd_open(features(p), 0);

	check(uffd >= 0);
	check_equal(uffd_register(uffd, (uintptr_t)p->mem, NPAGES * PAGE, p->kind->mode, NULL), 0);
	if (writes(p))
		check_equal(uffd_writeprotect(uffd, (uintptr_t)p->mem, NPAGES * PAGE,
					      UFFDIO_WRITEPROTECT_MODE_WP),
			    0);
	return uffd;
}

/* Once the change has begun every ioctl meets EAGAIN, until its event is read. */
static void wait_blocked(int uffd)
{
	while (!resolve_is_blocked(uffd))
		sched_yield();
}

static int run_program(void *arg)
{
	struct stage_play *p = arg;
	/* There before a fork, which holds the locks of malloc() until its event is read. */
	struct toucher toucher = {.play = p, .go = p->moment != EVENT_FIRST};
	pthread_t changer;
	int uffd = watch_memory(p);

	check_equal(pthread_create(&toucher.thread, NULL, touch, &toucher), 0);
	send_fd(p->sock[1], uffd);
	/* The handler stands still. */
	while (p->shared->step < 1)
		sched_yield();
	if (p->moment == FAULT_FIRST)
		wait_pending(uffd, 1);
	check_equal(pthread_create(&changer, NULL, p->act->change, p), 0);
	if (p->moment == FAULT_FIRST)
		wait_blocked(uffd);
	else
		wait_readable(uffd);
	if (p->moment == EVENT_FIRST) {
		toucher.go = true;
		wait_pending(uffd, 1);
	}
	p->shared->step = 2;
	pthread_join(changer, NULL);
	pthread_join(toucher.thread, NULL);
	p->act->after(p, &toucher);
	return 0;
}

struct witness {
	struct pattern_source src;
	struct ferry_source pattern;
	struct shared *shared;
};

static int answer_witness(struct ferry_source *src, const struct ferry_fault *fault,
			  struct ferry_answer *answer)
{
	struct witness *w = (struct witness *)src;

	w->shared->asked[fault->offset / PAGE]++;
	return w->pattern.answer(src, fault, answer);
}

static void removed_witness(struct ferry_source *src, uint64_t offset, uint64_t len)
{
	struct witness *w = (struct witness *)src;

	w->shared->removed += len;
	w->pattern.removed(src, offset, len);
}

static int run_handler(void *arg)
{
	struct stage_play *p = arg;
	struct witness w = {.shared = p->shared};
	int uffd = receive_fd(p->sock[0]);

	pattern_init(&w.src, 1, NPAGES);
	w.pattern = w.src.src;
	w.src.src.answer = answer_witness;
	w.src.src.removed = removed_witness;
	struct ferry_loop *loop = new_loop();
	check_equal(ferry_loop_watch(loop, uffd, (uintptr_t)p->mem, NPAGES * PAGE, &w.src.src, 0),
		    0);
	if (p->moment == RESOLVING)
		setenv("PAGEFERRY_PARK", "loop.resolve", 1);
	else
		raise(SIGSTOP);
	/* Until the test ends it; a program that has exited raises no faults. */
	for (;;)
		check(ferry_loop_step(loop, 1000) >= 0);
	return 0;
}

static void prepare(struct stage_play *p)
{
	close(open_uffd(features(p)));
	if (p->kind->shared)
		p->mem = mmap(NULL, NPAGES * PAGE, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	else
		p->mem = map_memory(NPAGES * PAGE, PAGE);
	assert_ptr_not_equal(p->mem, MAP_FAILED);
	/* Shared: in the page cache then, and not mapped in the program. */
	if (p->kind->mode != UFFDIO_REGISTER_MODE_MISSING)
		for (unsigned int i = 0; i < NPAGES; i++)
			fill_page(p->mem + i * PAGE, i + 1);
	/* Kept until it is moved over, so that nothing else comes to lie there. */
	p->to = map_memory(NPAGES * PAGE, PAGE);
	p->shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(p->shared, MAP_FAILED);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p->sock), 0);
}

static void run_play(void **state)
{
	struct stage_play *p = *state;

	prepare(p);
	pid_t handler = spawn(run_handler, p), program = spawn(run_program, p);
	wait_stopped(handler);
	p->shared->step = 1;
	while (p->shared->step < 2)
		sched_yield();
	kill(handler, SIGCONT);
	assert_int_equal(wait_exit(program), 0);
	kill_and_reap(handler);
	close(p->sock[0]);
	close(p->sock[1]);
	unmap(p->mem, NPAGES * PAGE);
	unmap(p->to, NPAGES * PAGE);
	unmap(p->shared, PAGE);
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

#define PLAYS (COUNT(acts) * COUNT(kinds_of_fault) * COUNT(moments))

static size_t list_plays(struct stage_play *plays, struct CMUnitTest *tests)
{
	size_t n = 0;

	for (size_t i = 0; i < PLAYS; i++) {
		const struct act *act = &acts[i % COUNT(acts)];
		size_t kind = i / COUNT(acts) % COUNT(kinds_of_fault);
		size_t moment = i / COUNT(acts) / COUNT(kinds_of_fault);
		struct stage_play *p = &plays[n];
		if (!(act->kinds & BIT(kind)) || !(act->moments & BIT(moment)))
			continue;
		*p = (struct stage_play){
			.act = act, .kind = &kinds_of_fault[kind], .moment = (enum moment)moment};
		snprintf(p->name, sizeof(p->name), "%s, %s: %s", p->kind->name, moments[moment],
			 act->name);
		tests[n++] = (struct CMUnitTest){p->name, run_play, test_begin, test_end, p};
	}
	return n;
}

int main(void)
{
	static struct stage_play plays[PLAYS];
	static struct CMUnitTest tests[PLAYS + 1];
	size_t n = list_plays(plays, tests);

	/* The rest of the table is empty, and is passed over. */
	tests[n] = (struct CMUnitTest)TEST(test_handover);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("order", tests, NULL, NULL);
}
