// SPDX-License-Identifier: MIT
/* timeout: 300 */
/*
 * A program that snapshots itself: every byte of the image is of the moment of the begin, whatever
 * the program does meanwhile, with no more memory than allowed.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "lib/scan.h"
#include "lib/snapshot.h"
#include "tests/lib/bank.h"

/* ---- an image, put together again */

struct image {
	uint64_t base, len;
	char *mem;
	bool *seen; /* for each page */
	uint64_t data, zero, lost;
};

static void image_new(struct image *image, const void *base, uint64_t len)
{
	*image = (struct image){.base = (uintptr_t)base, .len = len};
	image->mem = map_memory(len, 0);
	image->seen = allocate(len / PAGE);
}

static void image_free(struct image *image)
{
	unmap(image->mem, image->len);
	free(image->seen);
}

static void image_add(struct image *image, const struct ferry_block *block)
{
	assert_true(block->addr >= image->base && block->len &&
		    block->addr + block->len <= image->base + image->len);
	for (uint64_t at = block->addr - image->base; at < block->addr - image->base + block->len;
	     at += PAGE) {
		assert_false(image->seen[at / PAGE]);
		image->seen[at / PAGE] = true;
	}
	if (block->kind == FERRY_BLOCK_DATA) {
		memcpy(image->mem + (block->addr - image->base), block->data, block->len);
		image->data += block->len;
	} else if (block->kind == FERRY_BLOCK_ZERO) {
		image->zero += block->len;
	} else {
		assert_int_equal(block->kind, FERRY_BLOCK_LOST);
		image->lost += block->len;
	}
}

/* Iterate to the end; @pause_us after each block. */
static void collect(struct ferry_snapshot *snap, struct image *image, unsigned int pause_us)
{
	struct ferry_block block = {.size = sizeof(block)};
	int ret;

	while ((ret = ferry_snapshot_next(snap, &block)) == 1) {
		image_add(image, &block);
		if (pause_us)
			usleep(pause_us);
	}
	assert_int_equal(ret, 0);
	for (uint64_t i = 0; i < image->len / PAGE; i++)
		assert_true(image->seen[i]);
}

static struct ferry_snapshot *begin(const void *mem, uint64_t len, uint64_t max_extra)
{
	const struct ferry_span span = {(uintptr_t)mem, len};
	struct ferry_snapshot_opts opts = FERRY_SNAPSHOT_OPTS_INIT;
	struct ferry_snapshot *snap;

	opts.max_extra = max_extra;
	int ret = ferry_snapshot_begin(&snap, &span, 1, &opts);
	if (ret == -EOPNOTSUPP)
		SKIP("this kernel has no PAGEMAP_SCAN (Linux 6.7)");
	if (ret == -EPERM)
		SKIP("this user may not have a userfaultfd that catches kernel code");
	assert_int_equal(ret, 0);
	return snap;
}

static struct ferry_snapshot_report report_of(struct ferry_snapshot *snap)
{
	struct ferry_snapshot_report report = {.size = sizeof(report)};

	assert_int_equal(ferry_snapshot_report(snap, &report), 0);
	return report;
}

static void fill(char *mem, uint64_t npages, uint64_t seed)
{
	for (uint64_t i = 0; i < npages; i++)
		fill_page(mem + i * PAGE, seed + i);
}

static void assert_filled(const char *mem, uint64_t npages, uint64_t seed)
{
	for (uint64_t i = 0; i < npages; i++)
		if (!page_has(mem + i * PAGE, seed + i))
			fail_msg("page %llu is not what it was", (unsigned long long)i);
}

/* The memory is filled, and its image begun. */
static struct ferry_snapshot *freeze(struct image *image, char *mem, uint64_t npages, uint64_t seed,
				     uint64_t max_extra)
{
	fill(mem, npages, seed);
	image_new(image, mem, npages * PAGE);
	return begin(mem, npages * PAGE, max_extra);
}

/* ---- writers that change every page, each in its own order */

struct writer {
	pthread_t thread;
	char *mem;
	uint64_t npages, order;
	atomic_bool done;
};

static void *write_all(void *arg)
{
	struct writer *w = arg;

	for (uint64_t i = 0; i < w->npages; i++) {
		uint64_t page = w->order == 1   ? i
				: w->order == 2 ? w->npages - 1 - i
						: (i * w->order) % w->npages;
		*(volatile uint64_t *)(void *)(w->mem + page * PAGE + 8 * w->order) = ~0ull;
	}
	atomic_store(&w->done, true);
	return NULL;
}

static void writer_start(struct writer *w, char *mem, uint64_t npages, uint64_t order)
{
	*w = (struct writer){.mem = mem, .npages = npages, .order = order};
	assert_int_equal(pthread_create(&w->thread, NULL, write_all, w), 0);
}

#define NPAGES 8192ul /* 32 MiB */
#define EXTRA  (8ul << 20)

/* Forwards, backwards, and all over the place. */
static void test_written(void **state)
{
	char *mem = map_memory(NPAGES * PAGE, 3 * PAGE);
	static const uint64_t orders[] = {1, 2, 101, 37};
	struct writer w[COUNT(orders)];
	struct image image;

	(void)state;
	struct ferry_snapshot *snap = freeze(&image, mem, NPAGES, 7, EXTRA);
	for (unsigned int i = 0; i < COUNT(w); i++)
		writer_start(&w[i], mem, NPAGES, orders[i]);
	collect(snap, &image, 0);
	struct ferry_snapshot_report report = report_of(snap);
	for (unsigned int i = 0; i < COUNT(w); i++)
		pthread_join(w[i].thread, NULL);
	ferry_snapshot_end(snap);
	assert_filled(image.mem, NPAGES, 7);
	assert_int_equal(image.data, NPAGES * PAGE);
	assert_int_equal(report.data, image.data);
	assert_int_equal(report.total, image.data);
	assert_int_equal(report.lost + report.left + report.zero, 0);
	assert_true(report.faults > 0 && report.pooled > 0);
	assert_true(report.extra_peak <= EXTRA);
	image_free(&image);
	unmap(mem, NPAGES * PAGE);
}

/* Where a kernel has none (some hypervisors forbid it), what was only read is a page of its own. */
static bool kernel_has_zero_page(void)
{
	char *mem = map_memory(PAGE, 0);
	struct scan scan;
	uint64_t value;
	bool populated = true;

	assert_int_equal(peek(mem, &value), 0);
	scan_open(&scan);
	scan_pages(&scan, (uintptr_t)mem, 1, &populated);
	scan_close(&scan);
	unmap(mem, PAGE);
	return !populated;
}

/* Holes, pages that were only read, and pages with zeros; written or not meanwhile. */
static void test_sparse(void **state)
{
	char *mem = map_memory(NPAGES * PAGE, 0);
	struct image image;
	struct writer w;
	uint64_t value;

	(void)state;
	for (uint64_t i = 0; i < NPAGES; i += 4) {
		fill_page(mem + i * PAGE, i);
		assert_int_equal(peek(mem + (i + 1) * PAGE, &value), 0);
	}
	image_new(&image, mem, NPAGES * PAGE);
	struct ferry_snapshot *snap = begin(mem, NPAGES * PAGE, EXTRA);
	writer_start(&w, mem, NPAGES, 101);
	collect(snap, &image, 10);
	pthread_join(w.thread, NULL);
	ferry_snapshot_end(snap);
	for (uint64_t i = 0; i < NPAGES; i++)
		assert_true(i % 4 ? page_is_zero(image.mem + i * PAGE)
				  : page_has(image.mem + i * PAGE, i));
	uint64_t data = NPAGES / 4 * (kernel_has_zero_page() ? PAGE : 2 * PAGE);
	assert_int_equal(image.data, data);
	assert_int_equal(image.zero, NPAGES * PAGE - data);
	image_free(&image);
	unmap(mem, NPAGES * PAGE);
}

/* Memory of which little was ever touched costs what was touched. */
static void test_vast(void **state)
{
#ifdef __SANITIZE_THREAD__
	uint64_t len = 1ull << 36, touched = 60; /* as much as it leaves room for */
#else
	uint64_t len = 1ull << 40, touched = 1000;
#endif
	char *mem = map_memory(len, 0);
	struct ferry_block block = {.size = sizeof(block)};
	uint64_t data = 0, zero = 0;
	int64_t start = now_ms();

	(void)state;
	for (uint64_t i = 0; i < touched; i++)
		fill_page(mem + i * (1ull << 30), i);
	struct ferry_snapshot *snap = begin(mem, len, 0);
	while (ferry_snapshot_next(snap, &block) == 1) {
		if (block.kind == FERRY_BLOCK_DATA)
			assert_true(page_has(block.data, (block.addr - (uintptr_t)mem) >> 30));
		*(block.kind == FERRY_BLOCK_DATA ? &data : &zero) += block.len;
	}
	ferry_snapshot_end(snap);
	assert_int_equal(data, touched * PAGE);
	assert_int_equal(data + zero, len);
	assert_true(now_ms() - start < 10000);
	unmap(mem, len);
}

/* ---- consistency: the sum of all accounts */

static void one_audit(struct bank *bank, bool spoil)
{
	uint64_t len = bank->n * PAGE;
	struct image image;

	image_new(&image, bank->account, len);
	pthread_rwlock_wrlock(&bank->open);
	struct ferry_snapshot *snap = begin(bank->account, len, EXTRA);
	pthread_rwlock_unlock(&bank->open);
	collect(snap, &image, 0);
	ferry_snapshot_end(snap);
	assert_int_equal(image.lost, 0);
	int64_t sum = bank_sum(image.mem, bank->n);
	if (!spoil && sum != (int64_t)bank->n * BANK_EACH)
		fail_msg("torn: the sum is off by %lld",
			 (long long)(sum - (int64_t)bank->n * BANK_EACH));
	image_free(&image);
}

static void test_balance(void **state)
{
	char *mem = map_memory(NPAGES * PAGE, 0);
	struct bank bank;
	unsigned int images = 0;
	int64_t until = now_ms() + 10000;

	(void)state;
	bank_open(&bank, mem, NPAGES * PAGE);
	/* A slow machine takes its time for the first few. */
	while (images < 10 || (images < 100 && now_ms() < until)) {
		one_audit(&bank, false);
		images++;
	}
	bank_close(&bank);
	print_message("# %u images, %llu moves\n", images, (unsigned long long)bank.moves);
	unmap(mem, NPAGES * PAGE);
}

/* The clerks are at work: a sanitizer shall see that this is meant. */
static void copy_accounts(char *to, char *from, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		*(int64_t *)(void *)(to + i * PAGE) =
			atomic_load((_Atomic int64_t *)(void *)(from + i * PAGE));
}

/* The same check sees it when nothing is protected: an image that is copied while the clerks work.
 */
static void test_balance_unprotected(void **state)
{
	char *mem = map_memory(NPAGES * PAGE, 0);
	char *copy = map_memory(NPAGES * PAGE, 0);
	unsigned int torn = 0;
	struct bank bank;

	(void)state;
	bank_open(&bank, mem, NPAGES * PAGE);
	for (unsigned int i = 0; i < 20; i++) {
		unsigned long long moves = bank.moves;
		for (uint64_t at = 0; at < NPAGES * PAGE; at += 256 * PAGE) {
			copy_accounts(copy + at, mem + at, 256);
			while (bank.moves == moves)
				sched_yield();
			moves = bank.moves;
		}
		torn += bank_sum(copy, bank.n) != (int64_t)bank.n * BANK_EACH;
	}
	bank_close(&bank);
	print_message("# %u of 20 are torn\n", torn);
	assert_true(torn > 10);
	unmap(mem, NPAGES * PAGE);
	unmap(copy, NPAGES * PAGE);
}

/* Protection that is taken away behind its back leaves no page that only looks right. */
static void test_unprotected(void **state)
{
	char *mem = map_memory(NPAGES * PAGE, 0);
	struct image image;

	(void)state;
	struct ferry_snapshot *snap = freeze(&image, mem, NPAGES, 9, EXTRA);
	pthread_mutex_lock(&snap->lock);
	assert_int_equal(snapshot_learn(snap, (uintptr_t)mem, (uintptr_t)mem + NPAGES * PAGE), 0);
	snap->learned = (uintptr_t)mem + NPAGES * PAGE;
	pthread_mutex_unlock(&snap->lock);
	assert_int_equal(
		uffd_writeprotect(snap->target.uffd, (uintptr_t)mem + 100 * PAGE, 1000 * PAGE, 0),
		0);
	memset(mem + 100 * PAGE, 1, 1000 * PAGE);
	collect(snap, &image, 0);
	ferry_snapshot_end(snap);
	assert_int_equal(image.lost, 1000 * PAGE);
	assert_filled(image.mem, 100, 9);
	assert_filled(image.mem + 1100 * PAGE, NPAGES - 1100, 9 + 1100);
	image_free(&image);
	unmap(mem, NPAGES * PAGE);
}

/* ---- bounded memory */

/* Nobody drains for a while: the writer waits instead of the pool growing. */
static void test_throttled(void **state)
{
	char *mem = map_memory(NPAGES * PAGE, 0);
	struct image image;
	struct writer w;

	(void)state;
	struct ferry_snapshot *snap = freeze(&image, mem, NPAGES, 3, EXTRA);
	writer_start(&w, mem, NPAGES, 1);
	while (!report_of(snap).throttled)
		usleep(1000);
	usleep(50000);
	assert_false(w.done);
	struct ferry_snapshot_report report = report_of(snap);
	assert_true(report.extra_peak <= EXTRA && report.pooled <= EXTRA);
	collect(snap, &image, 100);
	pthread_join(w.thread, NULL);
	report = report_of(snap);
	assert_true(report.extra_peak <= EXTRA);
	ferry_snapshot_end(snap);
	assert_filled(image.mem, NPAGES, 3);
	image_free(&image);
	unmap(mem, NPAGES * PAGE);
}

/* The iterating thread may write, too, even when the pool is full: it would wait for itself. */
static void test_iterator_writes(void **state)
{
	char *mem = map_memory(NPAGES * PAGE, 0);
	struct ferry_block block = {.size = sizeof(block)};
	struct image image;
	struct writer w;

	(void)state;
	struct ferry_snapshot *snap = freeze(&image, mem, NPAGES, 5, EXTRA);
	assert_int_equal(ferry_snapshot_next(snap, &block), 1);
	image_add(&image, &block);
	writer_start(&w, mem, NPAGES / 2, 1);
	while (!report_of(snap).throttled)
		usleep(1000);
	for (uint64_t i = 0; i < 100; i++)
		*(volatile char *)(mem + (NPAGES - 1 - i) * PAGE) = 1;
	collect(snap, &image, 0);
	pthread_join(w.thread, NULL);
	assert_true(report_of(snap).extra_peak <= EXTRA);
	ferry_snapshot_end(snap);
	assert_filled(image.mem, NPAGES, 5);
	image_free(&image);
	unmap(mem, NPAGES * PAGE);
}

/* Given up while writers wait: they go on. */
static void test_end_early(void **state)
{
	char *mem = map_memory(NPAGES * PAGE, 0);
	struct ferry_block block = {.size = sizeof(block)};
	struct writer w;

	(void)state;
	for (unsigned int blocks = 0; blocks < 4; blocks++) {
		fill(mem, NPAGES, 3);
		struct ferry_snapshot *snap = begin(mem, NPAGES * PAGE, EXTRA);
		writer_start(&w, mem, NPAGES, 1);
		while (!report_of(snap).throttled)
			usleep(1000);
		for (unsigned int i = 0; i < blocks; i++)
			assert_int_equal(ferry_snapshot_next(snap, &block), 1);
		ferry_snapshot_end(snap);
		pthread_join(w.thread, NULL);
	}
	assert_false(smaps_flag(mem, NPAGES * PAGE, "uw"));
	ferry_snapshot_end(NULL);
	unmap(mem, NPAGES * PAGE);
}

/* A writer that goes forward pays for few of its pages. */
static void test_adapts(void **state)
{
	char *mem = map_memory(NPAGES * PAGE, 0);
	struct writer w;

	(void)state;
	fill(mem, NPAGES, 3);
	struct ferry_snapshot *snap = begin(mem, NPAGES * PAGE, 256ul << 20);
	writer_start(&w, mem, NPAGES, 1);
	pthread_join(w.thread, NULL);
	uint64_t faults = report_of(snap).faults;
	ferry_snapshot_end(snap);
	print_message("# %llu faults for %lu pages\n", (unsigned long long)faults, NPAGES);
	assert_in_range(faults, 1, NPAGES / 100);
	unmap(mem, NPAGES * PAGE);
}

static void test_huge(void **state)
{
	uint64_t len = 16 * BLOCK;
	char *mem = map_memory(len, 0);
	struct image image;
	struct writer w;

	(void)state;
	if (!make_huge(mem, len))
		SKIP("no huge pages are given here");
	struct ferry_snapshot *snap = freeze(&image, mem, len / PAGE, 21, 2 * len);
	writer_start(&w, mem, len / PAGE, 101);
	collect(snap, &image, 0);
	pthread_join(w.thread, NULL);
	struct ferry_snapshot_report report = report_of(snap);
	ferry_snapshot_end(snap);
	assert_filled(image.mem, len / PAGE, 21);
	assert_true(report.faults <= 64);
	/* None was split. */
	assert_int_equal(smaps_bytes(mem, len, "AnonHugePages"), len);
	image_free(&image);
	unmap(mem, len);
}

/* Nobody drains: a block for each of these writes would fill the pool soon, single pages do not. */
static void scattered_writes(char *mem, uint64_t npages, uint64_t step)
{
	struct image image;
	struct ferry_snapshot *snap = freeze(&image, mem, npages, 23, EXTRA);

	for (uint64_t i = step / 2; i < npages; i += step)
		*(volatile char *)(mem + i * PAGE) = 1;
	assert_int_equal(report_of(snap).throttled, 0);
	collect(snap, &image, 0);
	ferry_snapshot_end(snap);
	assert_filled(image.mem, npages, 23);
	image_free(&image);
}

static void test_scattered(void **state)
{
	char *mem = map_memory(NPAGES * PAGE, 0);

	(void)state;
	scattered_writes(mem, NPAGES, 32);
	unmap(mem, NPAGES * PAGE);
}

/* To split a huge page is better than to let a writer wait. */
static void test_scattered_huge(void **state)
{
	uint64_t len = 16 * BLOCK;
	char *mem = map_memory(len, 0);

	(void)state;
	if (!make_huge(mem, len))
		SKIP("no huge pages are given here");
	scattered_writes(mem, len / PAGE, BLOCK / PAGE);
	/* As long as there was room, none was. */
	assert_in_range(smaps_bytes(mem, len, "AnonHugePages"), 2 * BLOCK, len - BLOCK);
	unmap(mem, len);
}

/* ---- the program's own calls */

/* A system call that writes to frozen memory does what it always does. */
static void test_read(void **state)
{
	char *mem = map_memory(64 * PAGE, 0);
	struct image image;
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	(void)state;
	struct ferry_snapshot *snap = freeze(&image, mem, 64, 30, 0);
	assert_int_equal(read(fd, mem, 64 * PAGE), 64 * PAGE);
	collect(snap, &image, 0);
	ferry_snapshot_end(snap);
	assert_filled(image.mem, 64, 30);
	assert_true(page_is_zero(mem + 63 * PAGE));
	close(fd);
	image_free(&image);
	unmap(mem, 64 * PAGE);
}

struct discard {
	pthread_t thread;
	char *mem;
	uint64_t len;
	int advice;
};

static void *discard(void *arg)
{
	const struct discard *d = arg;

	check_equal(madvise(d->mem, d->len, d->advice), 0);
	return NULL;
}

/* Discarded by several threads at once, more than the pool holds: the image has it, the program
 * hasn't. */
static void test_discarded(void **state)
{
	static const int advice[] = {MADV_DONTNEED, MADV_DONTNEED, MADV_FREE, MADV_DONTNEED};
	char *mem = map_memory(NPAGES * PAGE, 0);
	struct discard d[COUNT(advice)];
	uint64_t part = NPAGES / COUNT(d);
	struct image image;

	(void)state;
	struct ferry_snapshot *snap = freeze(&image, mem, NPAGES, 3, EXTRA);
	for (unsigned int i = 0; i < COUNT(d); i++) {
		d[i] = (struct discard){
			.mem = mem + i * part * PAGE, .len = part * PAGE, .advice = advice[i]};
		pthread_create(&d[i].thread, NULL, discard, &d[i]);
	}
	usleep(1000);
	collect(snap, &image, 0);
	struct ferry_snapshot_report report = report_of(snap);
	for (unsigned int i = 0; i < COUNT(d); i++)
		pthread_join(d[i].thread, NULL);
	ferry_snapshot_end(snap);
	print_message("# %llu lost, %llu removes\n", (unsigned long long)report.lost,
		      (unsigned long long)report.removes);
	assert_int_equal(image.lost, 0);
	assert_filled(image.mem, NPAGES, 3);
	assert_true(page_is_zero(mem) && page_is_zero(mem + (NPAGES - 1) * PAGE));
	image_free(&image);
	unmap(mem, NPAGES * PAGE);
}

/* What is unmapped is gone before anybody is told: it is counted, and nothing else is lost. */
static void test_unmapped(void **state)
{
	char *mem = map_memory(NPAGES * PAGE, 0);
	struct ferry_block block = {.size = sizeof(block)};
	struct image image;

	(void)state;
	struct ferry_snapshot *snap = freeze(&image, mem, NPAGES, 3, EXTRA);
	assert_int_equal(ferry_snapshot_next(snap, &block), 1);
	image_add(&image, &block);
	assert_true(block.len <= BLOCK);
	unmap(mem + 4096 * PAGE, 1000 * PAGE);
	char *again = mmap(mem + 4096 * PAGE, 1000 * PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE, -1, 0);
	assert_ptr_equal(again, mem + 4096 * PAGE);
	collect(snap, &image, 0);
	assert_int_equal(report_of(snap).unmaps, 1);
	assert_int_equal(report_of(snap).lost, 1000 * PAGE);
	ferry_snapshot_end(snap);
	assert_int_equal(image.lost, 1000 * PAGE);
	assert_filled(image.mem, 4096, 3);
	assert_filled(image.mem + 5096 * PAGE, NPAGES - 5096, 3 + 5096);
	image_free(&image);
	unmap(mem, NPAGES * PAGE);
}

/* Moved pages are found where they went, written there or not. */
static void test_moved(void **state)
{
	char *mem = map_memory(NPAGES * PAGE, 0), *to = map_memory(3000 * PAGE, PAGE);
	struct ferry_block block = {.size = sizeof(block)};
	struct image image;

	(void)state;
	struct ferry_snapshot *snap = freeze(&image, mem, NPAGES, 3, EXTRA);
	assert_int_equal(ferry_snapshot_next(snap, &block), 1);
	image_add(&image, &block);
	assert_ptr_equal(mremap(mem + 2001 * PAGE, 3000 * PAGE, 3000 * PAGE,
				MREMAP_MAYMOVE | MREMAP_FIXED, to),
			 to);
	memset(to + 500 * PAGE, 1, 10 * PAGE);
	collect(snap, &image, 0);
	assert_int_equal(report_of(snap).remaps, 1);
	ferry_snapshot_end(snap);
	assert_int_equal(image.lost, 0);
	assert_filled(image.mem, NPAGES, 3);
	image_free(&image);
	unmap(to, 3000 * PAGE);
	unmap(mem, 2001 * PAGE);
	unmap(mem + 5001 * PAGE, (NPAGES - 5001) * PAGE);
}

/* Made unreadable for everybody, it is still part of the image. */
static void test_unreadable(void **state)
{
	char *mem = map_memory(64 * PAGE, 0);
	struct image image;

	(void)state;
	fill(mem, 64, 40);
	image_new(&image, mem, 64 * PAGE);
	assert_int_equal(mprotect(mem, 8 * PAGE, PROT_NONE), 0);
	struct ferry_snapshot *snap = begin(mem, 64 * PAGE, 0);
	assert_int_equal(mprotect(mem + 16 * PAGE, 8 * PAGE, PROT_NONE), 0);
	collect(snap, &image, 0);
	ferry_snapshot_end(snap);
	assert_int_equal(image.lost, 0);
	assert_filled(image.mem, 64, 40);
	image_free(&image);
	unmap(mem, 64 * PAGE);
}

static int write_everywhere(void *arg)
{
	char *mem = arg;

	for (uint64_t i = 0; i < 64; i++)
		mem[i * PAGE] = 1;
	return 0;
}

/* A child has its own memory, and nobody has to serve it. */
static void test_forked(void **state)
{
	char *mem = map_memory(64 * PAGE, 0);
	struct image image;

	(void)state;
	struct ferry_snapshot *snap = freeze(&image, mem, 64, 50, 0);
	pid_t child = spawn(write_everywhere, mem);
	assert_int_equal(wait_exit(child), 0);
	mem[5 * PAGE] = 1;
	collect(snap, &image, 0);
	ferry_snapshot_end(snap);
	assert_filled(image.mem, 64, 50);
	image_free(&image);
	unmap(mem, 64 * PAGE);
}

/* ---- refused */

static int try_begin(const void *addr, uint64_t len, size_t n, uint64_t max_extra, uint32_t flags)
{
	struct ferry_span spans[2] = {{(uintptr_t)addr, len}, {(uintptr_t)addr, len}};
	struct ferry_snapshot_opts opts = FERRY_SNAPSHOT_OPTS_INIT;
	struct ferry_snapshot *snap = (void *)1;

	opts.max_extra = max_extra;
	opts.flags = flags;
	int ret = ferry_snapshot_begin(&snap, spans, n, &opts);
	if (ret)
		assert_null(snap);
	else
		ferry_snapshot_end(snap);
	return ret;
}

static void test_refused(void **state)
{
	char *mem = map_memory(16 * PAGE, 0);
	char *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	(void)state;
	ferry_snapshot_end(begin(mem, 16 * PAGE, 0));
	assert_int_equal(try_begin(mem, 16 * PAGE, 1, 0, 0), 0);
	assert_int_equal(try_begin(mem, 16 * PAGE, 0, 0, 0), -EINVAL);
	assert_int_equal(try_begin(mem, 16 * PAGE, 2, 0, 0), -EINVAL);
	assert_int_equal(try_begin(mem + 1, PAGE, 1, 0, 0), -EINVAL);
	assert_int_equal(try_begin(mem, 0, 1, 0, 0), -EINVAL);
	assert_int_equal(try_begin(mem, PAGE + 1, 1, 0, 0), -EINVAL);
	assert_int_equal(try_begin((void *)-PAGE, 2 * PAGE, 1, 0, 0), -EINVAL);
	assert_int_equal(try_begin(shared, PAGE, 1, 0, 0), -EINVAL);
	assert_int_equal(try_begin(mem, PAGE, 1, FERRY_SNAPSHOT_EXTRA_MIN - 1, 0), -EINVAL);
	assert_int_equal(try_begin(mem, PAGE, 1, UINT64_MAX, 0), -EINVAL);
	assert_int_equal(try_begin(mem, PAGE, 1, 0, 1), -EINVAL);
	assert_int_equal(munmap(mem + 8 * PAGE, PAGE), 0);
	assert_int_equal(try_begin(mem, 16 * PAGE, 1, 0, 0), -EINVAL);

	int uffd = open_uffd(0);
	assert_int_equal(
		uffd_register(uffd, (uintptr_t)mem, PAGE, UFFDIO_REGISTER_MODE_MISSING, NULL), 0);
	assert_int_equal(try_begin(mem, 2 * PAGE, 1, 0, 0), -EBUSY);
	close(uffd);
	assert_int_equal(try_begin(mem, 2 * PAGE, 1, 0, 0), 0);

	struct ferry_snapshot *snap = begin(mem, PAGE, 0);
	struct ferry_block block = {.size = 0};
	assert_int_equal(ferry_snapshot_next(snap, &block), -EINVAL);
	ferry_snapshot_end(snap);
	unmap(shared, PAGE);
	unmap(mem, 16 * PAGE);
}

/* KSM takes the protection away. */
static void test_mergeable(void **state)
{
	char *mem = map_memory(16 * PAGE, 0);

	(void)state;
	fill_page(mem, 1);
	if (madvise(mem + PAGE, PAGE, MADV_MERGEABLE) || !ksm_begin())
		SKIP("the kernel has no KSM, or this user can't switch it on");
	assert_int_equal(try_begin(mem, 16 * PAGE, 1, 0, 0), -EBUSY);
	assert_int_equal(try_begin(mem + 2 * PAGE, PAGE, 1, 0, 0), 0);
	ksm_end();
	assert_int_equal(try_begin(mem, 16 * PAGE, 1, 0, 0), 0);
	unmap(mem, 16 * PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_written),
		TEST(test_sparse),
		TEST(test_vast),
		TEST(test_balance),
		TEST(test_balance_unprotected),
		TEST(test_unprotected),
		TEST(test_throttled),
		TEST(test_iterator_writes),
		TEST(test_end_early),
		TEST(test_adapts),
		TEST(test_huge),
		TEST(test_scattered),
		TEST(test_scattered_huge),
		TEST(test_read),
		TEST(test_discarded),
		TEST(test_unmapped),
		TEST(test_moved),
		TEST(test_unreadable),
		TEST(test_forked),
		TEST(test_refused),
		TEST(test_mergeable),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("snapshot", tests, NULL, NULL);
}
