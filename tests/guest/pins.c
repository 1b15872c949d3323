// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest/pattern.h"
#include "harness.h"
#include "peer.h"
#include "pf.h"
#include "pins.h"
#include "proc.h"
#include "stress.h"
#include "swapspace.h"

#define PAGES_MAX 2048u
#define RUN_MAX   32u /* pages of one transfer */
#define WRITTEN   (PATTERN_WORDS / 2)
#define HURRY     8u /* of so many rounds one looks at all it has */

/* What all processes have in common. */
struct common {
	atomic_bool stop;
	atomic_ulong rounds, violations;
	atomic_uint pinned[PAGES_MAX]; /* as the giver knows: it certainly is while this isn't 0 */
	atomic_ulong tables;
	struct tally out, back;
};
static struct common *all;

/* The test's own. */
static struct {
	struct end giver, taker;
	int pf;
	unsigned int pages, step;
	bool tables;
	bool taken[PAGES_MAX];
	pthread_rwlock_t lock; /* read: pages leave; write: they come back */
	void (*before_return)(bool begin);
} run;

/* ---- the giver's threads: each has pages that only it writes to */

struct pinner {
	uint64_t addr; /* of the giver's first page */
	unsigned int first, n;
	uint64_t random;
	uint64_t *generation; /* what each page holds */
	uint8_t *bounce;      /* memory that stays */
};

static uint8_t *page_at(const struct pinner *p, unsigned int page)
{
	return (uint8_t *)(p->addr + page * PAGE);
}

static void expect(const void *page, unsigned int id, uint64_t generation, const char *where)
{
	struct pattern_fault fault;

	if (pattern_holds(page, id, generation))
		return;
	fault = pattern_explain(page, id, generation);
	test_failed(__FILE__, __LINE__, "page %u, %s, is %s: wanted %llu, found %llu, %llu", id,
		    where, pattern_kind_name(fault.kind), (unsigned long long)generation,
		    (unsigned long long)fault.page, (unsigned long long)fault.generation);
}

static void write_pages(struct pinner *p, void *at, unsigned int first, unsigned int n)
{
	for (unsigned int i = first; i < first + n; i++)
		pattern_write((uint64_t *)((uint8_t *)at + (i - first) * PAGE), i,
			      ++p->generation[i - p->first]);
}

static void expect_pages(struct pinner *p, const void *at, unsigned int first, unsigned int n,
			 const char *where)
{
	for (unsigned int i = first; i < first + n; i++)
		expect((const uint8_t *)at + (i - first) * PAGE, i, p->generation[i - p->first],
		       where);
}

static void declare(unsigned int first, unsigned int n, int pinned)
{
	for (unsigned int i = first; i < first + n; i++)
		all->pinned[i] += (unsigned int)pinned;
}

static unsigned int choose(struct pinner *p, unsigned int *n)
{
	*n = 1 + (unsigned int)below(&p->random, RUN_MAX);
	return p->first + (unsigned int)below(&p->random, p->n - *n);
}

static struct pinner pinner_make(const uint64_t *arg)
{
	struct pinner p = {
		.addr = arg[0],
		.first = (unsigned int)arg[1],
		.n = (unsigned int)arg[2],
		.random = arg[1] << 32,
	};

	p.generation = shared(p.n * sizeof(uint64_t));
	p.bounce = shared(RUN_MAX * PAGE);
	for (unsigned int i = 0; i < p.n; i++)
		p.generation[i] = SEED;
	return p;
}

static int64_t pinner_end(struct pinner *p)
{
	expect_pages(p, page_at(p, p->first), p->first, p->n, "at the end");
	return 0;
}

/* ---- io_uring, without a library */

struct ring {
	int fd;
	unsigned int *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
};

static uint8_t *map_ring(int fd, size_t len, off_t what)
{
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, what);

	check(at != MAP_FAILED);
	return at;
}

static struct ring ring_make(void)
{
	struct io_uring_params params = {0};
	struct ring r = {.fd = (int)syscall(SYS_io_uring_setup, 4, &params)};
	uint8_t *sq, *cq;

	if (r.fd < 0 && errno == ENOSYS)
		test_skip("no io_uring");
	check_call(r.fd);
	sq = map_ring(r.fd, params.sq_off.array + params.sq_entries * sizeof(unsigned int),
		      IORING_OFF_SQ_RING);
	cq = map_ring(r.fd, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
		      IORING_OFF_CQ_RING);
	r.sqes = (struct io_uring_sqe *)map_ring(
		r.fd, params.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	r.sq_tail = (unsigned int *)(sq + params.sq_off.tail);
	r.sq_mask = (unsigned int *)(sq + params.sq_off.ring_mask);
	r.sq_array = (unsigned int *)(sq + params.sq_off.array);
	r.cq_head = (unsigned int *)(cq + params.cq_off.head);
	r.cq_tail = (unsigned int *)(cq + params.cq_off.tail);
	r.cq_mask = (unsigned int *)(cq + params.cq_off.ring_mask);
	r.cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
	return r;
}

/* One transfer between the fixed buffer and the start of a file, and its end. */
static void ring_transfer(struct ring *r, uint8_t opcode, int file, void *at, size_t len)
{
	unsigned int tail = *r->sq_tail, slot = tail & *r->sq_mask, head;

	r->sqes[slot] = (struct io_uring_sqe){
		.opcode = opcode,
		.fd = file,
		.addr = (uintptr_t)at,
		.len = (unsigned int)len,
	};
	r->sq_array[slot] = slot;
	__atomic_store_n(r->sq_tail, tail + 1, __ATOMIC_RELEASE);
	check_is(syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0), 1);
	head = *r->cq_head;
	check(head != __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE));
	check_is(r->cqes[head & *r->cq_mask].res, len);
	__atomic_store_n(r->cq_head, head + 1, __ATOMIC_RELEASE);
}

static void ring_round(struct pinner *p, struct ring *r, int file)
{
	unsigned int n, first = choose(p, &n);
	uint8_t *at = page_at(p, first);
	struct iovec iov = {at, n * PAGE};

	check_call(syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_BUFFERS, &iov, 1));
	declare(first, n, 1);
	write_pages(p, p->bounce, first, n);
	check_is(pwrite(file, p->bounce, iov.iov_len, 0), iov.iov_len);
	ring_transfer(r, IORING_OP_READ_FIXED, file, at, iov.iov_len);
	expect_pages(p, at, first, n, "read by io_uring");
	write_pages(p, at, first, n);
	ring_transfer(r, IORING_OP_WRITE_FIXED, file, at, iov.iov_len);
	check_is(pread(file, p->bounce, iov.iov_len, 0), iov.iov_len);
	expect_pages(p, p->bounce, first, n, "written by io_uring");
	declare(first, n, -1);
	check_call(syscall(SYS_io_uring_register, r->fd, IORING_UNREGISTER_BUFFERS, NULL, 0));
}

static int64_t pin_by_uring(const uint64_t *arg)
{
	struct pinner p = pinner_make(arg);
	struct ring r = ring_make();
	int file = memfd_create("transfer", MFD_CLOEXEC);

	check_call(file);
	for (; !all->stop; all->rounds++)
		ring_round(&p, &r, file);
	return pinner_end(&p);
}

/* ---- O_DIRECT */

static void direct_round(struct pinner *p, int disk)
{
	unsigned int n, first = choose(p, &n);
	uint8_t *at = page_at(p, first);
	const ssize_t len = (ssize_t)(n * PAGE);
	const off_t where = (off_t)(first * PAGE);

	if (below(&p->random, HURRY)) {
		check_is(pwrite(disk, at, (size_t)len, where), len);
		check_is(pread(disk, at, (size_t)len, where), len);
		return;
	}
	write_pages(p, at, first, n);
	check_is(pwrite(disk, at, (size_t)len, where), len);
	check_is(pread(disk, p->bounce, (size_t)len, where), len);
	expect_pages(p, p->bounce, first, n, "written to the disk");
	write_pages(p, p->bounce, first, n);
	check_is(pwrite(disk, p->bounce, (size_t)len, where), len);
	check_is(pread(disk, at, (size_t)len, where), len);
	expect_pages(p, at, first, n, "read from the disk");
}

static int64_t pin_by_direct(const uint64_t *arg)
{
	struct pinner p = pinner_make(arg);
	int disk = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);

	check_call(disk);
	for (; !all->stop; all->rounds++)
		direct_round(&p, disk);
	return pinner_end(&p);
}

/* ---- vmsplice */

static void splice_round(struct pinner *p, const int *pipe)
{
	unsigned int n, first = choose(p, &n);
	uint8_t *at = page_at(p, first);
	struct iovec iov = {at, n * PAGE};
	bool look = !below(&p->random, HURRY);

	/* A pipe has sixteen slots. */
	if (n > 16)
		n = 16;
	iov.iov_len = n * PAGE;
	check_is(vmsplice(pipe[1], &iov, 1, 0), iov.iov_len);
	declare(first, n, 1);
	if (look)
		write_pages(p, at, first, n);
	else if (below(&p->random, 2))
		nap_ms(1);
	declare(first, n, -1);
	check_is(read(pipe[0], p->bounce, iov.iov_len), iov.iov_len);
	if (!look)
		return;
	expect_pages(p, p->bounce, first, n, "in the pipe");
	expect_pages(p, at, first, n, "after the pipe");
}

static int64_t pin_by_splice(const uint64_t *arg)
{
	struct pinner p = pinner_make(arg);
	int ends[2];

	check_call(pipe2(ends, O_CLOEXEC));
	for (; !all->stop; all->rounds++)
		splice_round(&p, ends);
	return pinner_end(&p);
}

/* ---- plain writes */

/* In a page that is taken away meanwhile they go on for as long as the TLB knows it. */
static int64_t write_only(const uint64_t *arg)
{
	struct pinner p = pinner_make(arg);

	stay_on_cpu(p.first ? 1 : 0);
	for (; !all->stop; all->rounds++) {
		unsigned int n, page = choose(&p, &n);
		volatile uint64_t *word = (uint64_t *)page_at(&p, page) + WRITTEN;

		for (unsigned int i = 0; i < 20000; i++)
			(*word)++;
		p.generation[page - p.first] += 20000;
	}
	for (unsigned int i = 0; i < p.n; i++) {
		uint64_t *page = (uint64_t *)page_at(&p, p.first + i), right[PATTERN_WORDS];

		pattern_write(right, p.first + i, SEED);
		check_is(page[WRITTEN] - right[WRITTEN], p.generation[i] - SEED);
		page[WRITTEN] = right[WRITTEN];
		expect(page, p.first + i, SEED, "at the end");
	}
	return 0;
}

/* ---- the movers */

static const int out_answers[] = {EBUSY, EEXIST, ENOENT, EAGAIN, 0};
static const int back_answers[] = {EBUSY, EAGAIN, 0};

/* The first ones are told; where they are wanted, all are alike. */
static void violation(unsigned int page, const char *what)
{
	if (all->violations++ < 3)
		note("page %u %s", page, what);
}

static void expect_unpinned(unsigned int first, unsigned int n)
{
	for (unsigned int i = first; i < first + n; i++)
		if (all->pinned[i])
			violation(i, "was taken from who has it pinned");
}

static uint64_t sum_of(unsigned int first, unsigned int n)
{
	const volatile uint64_t *at = (const uint64_t *)(run.taker.addr + first * PAGE);
	uint64_t sum = 0;

	for (unsigned int i = 0; i < n; i++, at += PAGE / sizeof(*at))
		sum = mix64(sum ^ at[1] ^ at[WRITTEN] ^ at[PATTERN_WORDS - 1]);
	return sum;
}

/* What has arrived is nobody else's: nothing changes it any more. */
static void take(unsigned int first, unsigned int n, bool wait)
{
	struct end from = run.giver, to = run.taker;
	struct pf_answer answer = {0};
	uint64_t sum;

	from.addr += first * PAGE;
	to.addr += first * PAGE;
	from.len = n * PAGE;
	if (run.tables)
		answer = pf_move_tables(run.pf, 0, &to, &from);
	else
		answer.ret = pf_move(run.pf, 0, to.uffd, from.uffd, to.addr, from.addr, from.len, &answer.moved);
	tally_add(&all->out, answer.ret, answer.moved, out_answers);
	all->tables += answer.tables / BLOCK;
	n = (unsigned int)(answer.moved / PAGE);
	for (unsigned int i = first; i < first + n; i++)
		run.taken[i] = true;
	sum = sum_of(first, n);
	if (n && wait)
		nap_ms(1);
	if (sum_of(first, n) != sum)
		violation(first, "or one behind it has changed after it was taken");
	expect_unpinned(first, n);
}

static void give(unsigned int first, unsigned int n)
{
	int64_t end = now_ms() + 10000;
	uint64_t moved;

	expect_unpinned(first, n);
	while (n) {
		int ret = pf_move(run.pf, 0, run.giver.uffd, run.taker.uffd,
				  run.giver.addr + first * PAGE, run.taker.addr + first * PAGE,
				  n * PAGE, &moved);

		tally_add(&all->back, ret, moved, back_answers);
		for (; moved; moved -= PAGE, n--)
			run.taken[first++] = false;
		if (ret && now_ms() > end)
			test_failed(__FILE__, __LINE__, "page %u can't be given back: %s", first,
				    strerrorname_np(-ret));
	}
}

static void give_all(void)
{
	if (run.before_return)
		run.before_return(true);
	for (unsigned int first = 0, end; first < run.pages; first = end + 1) {
		for (end = first; end < run.pages && run.taken[end]; end++)
			;
		if (end > first)
			give(first, end - first);
	}
	if (run.before_return)
		run.before_return(false);
}

static int64_t move_about(const uint64_t *arg)
{
	uint64_t random = arg[0];

	stay_on_cpu((unsigned int)arg[0]);
	while (!all->stop) {
		unsigned int steps = run.pages / run.step;
		unsigned int first = (unsigned int)below(&random, steps);
		unsigned int n = 1 + (unsigned int)below(&random, steps - first);

		pthread_rwlock_rdlock(&run.lock);
		take(first * run.step, n * run.step, !below(&random, 8));
		pthread_rwlock_unlock(&run.lock);
		if (below(&random, 2))
			continue;
		pthread_rwlock_wrlock(&run.lock);
		give_all();
		pthread_rwlock_unlock(&run.lock);
	}
	return 0;
}

/* ---- all of it */

static const peer_fn pinners[] = {
	[PINS_URING] = pin_by_uring,
	[PINS_DIRECT] = pin_by_direct,
	[PINS_SPLICE] = pin_by_splice,
	[PINS_NONE] = write_only,
};

static void make_ends(const struct pins_row *row)
{
	run.tables = row->tables;
	run.pages = row->huge || row->tables ? 4 * BLOCK / PAGE : 96;
	run.step = row->huge || row->tables ? BLOCK / PAGE : 1;
	run.giver = giver_start(run.pages * PAGE, row->huge ? MAP_HUGE : MAP_4K);
	run.taker = taker_make(NULL, run.pages * PAGE, row->huge ? MAP_HUGE : MAP_4K);
	/* So that each page tells its number within the range. */
	peer_fill(run.giver.peer, run.giver.addr, run.giver.len, 0, SEED);
}

/* Two threads with half of the pages each. */
static void start_pinners(const struct pins_row *row, int *threads)
{
	const uint64_t half = run.pages / 2;

	for (unsigned int i = 0; i < 2; i++)
		threads[i] = peer_thread(run.giver.peer, pinners[row->kind], run.giver.addr,
					 i * half, half);
}

static void end_threads(const int *movers, const int *threads)
{
	all->stop = true;
	for (int i = 0; i < 2; i++)
		peer_join(NULL, movers[i], 20000);
	/* Who waits for a page gets it now. */
	give_all();
	for (int i = 0; i < 2; i++)
		peer_join(run.giver.peer, threads[i], 20000);
}

struct pins_result pins_run(const struct pins_row *row, unsigned int ms,
			    void (*before_return)(bool begin))
{
	int movers[2], threads[2];

	all = shared(sizeof(*all));
	memset(&run, 0, sizeof(run));
	pthread_rwlock_init(&run.lock, NULL);
	run.before_return = before_return;
	run.pf = pf_open();
	make_ends(row);
	start_pinners(row, threads);
	for (unsigned int i = 0; i < 2; i++)
		movers[i] = peer_thread(NULL, move_about, i);
	nap_ms(ms);
	end_threads(movers, threads);
	check_is(count_holes(peer_pid(run.giver.peer), run.giver.addr, run.giver.len), 0);
	giver_is_empty(&run.taker);
	end_stop(&run.giver);
	close(run.taker.uffd);
	tally_note(&all->out, "out");
	tally_note(&all->back, "back");
	note("%lu rounds, %lu violations", all->rounds, all->violations);
	if (run.tables)
		note("%lu whole page tables", all->tables);
	return (struct pins_result){all->rounds, all->violations, all->out.pages,
				    all->out.answers[EBUSY], all->tables};
}

static void stay(void)
{
	const struct pins_row *row = test_row;
	struct pins_result result = pins_run(row, 2500, NULL);

	check_is(result.violations, 0);
	check(result.rounds > 0);
	check(result.moved > 0);
	check(result.busy > 0 || row->kind == PINS_NONE);
	check(result.tables > 0 || !row->tables);
}

#define ROW(what, ...)                                                                             \
	{                                                                                          \
		.name = "pins/" #what, .run = stay, .seconds = 60,                                 \
		.row = &(const struct pins_row){__VA_ARGS__},                                      \
	}

const struct test pins_tests[] = {
	ROW(none, .kind = PINS_NONE),
	ROW(none_huge, .kind = PINS_NONE, .huge = true),
	ROW(uring, .kind = PINS_URING),
	ROW(direct, .kind = PINS_DIRECT),
	ROW(splice, .kind = PINS_SPLICE),
	ROW(uring_huge, .kind = PINS_URING, .huge = true),
	ROW(direct_huge, .kind = PINS_DIRECT, .huge = true),
	ROW(splice_huge, .kind = PINS_SPLICE, .huge = true),
	ROW(none_tables, .kind = PINS_NONE, .tables = true),
	ROW(uring_tables, .kind = PINS_URING, .tables = true),
	ROW(direct_tables, .kind = PINS_DIRECT, .tables = true),
	{0},
};
