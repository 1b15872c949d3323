// SPDX-License-Identifier: MIT
/* The giving side, and starting both; see handover.h. The taking side is in handover_take.c. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "lib/uffd.h"
#include "tests/lib/handover.h"

enum kind page_kind(const struct plan *plan, unsigned int part, size_t page)
{
	const struct part *p = &plan->parts[part];
	uint64_t state = page * 0x9e3779b97f4a7c15ull + part + 1;

	if (p->huge)
		return page / (BLOCK / PAGE) % 3 == 2 ? KIND_ZEROS : KIND_DATA;
	if (p->sparse && page / (BLOCK / PAGE) % 3 == 1)
		return KIND_HOLE;
	/* Whoever waits for a page of data must find one. */
	if (!page && (p->kinds & KIND_BIT(KIND_DATA)))
		return KIND_DATA;
	/* Runs of a kind, and single pages. */
	if (page % 64 < 40)
		state = page / 8 * 0x9e3779b97f4a7c15ull + part + 1;
	for (;;) {
		unsigned int kind = (unsigned int)(next_random(&state) >> 20) % KINDS;
		if (p->kinds & KIND_BIT(kind))
			return kind;
	}
}

uint64_t page_seed(unsigned int part, size_t page)
{
	return ((uint64_t)part + 1) << 32 | page;
}

static bool reads_as_zero(enum kind kind)
{
	return kind == KIND_HOLE || kind == KIND_ZERO_PAGE || kind == KIND_ZEROS ||
	       kind == KIND_PUNCHED;
}

bool page_right(const struct plan *plan, unsigned int part, size_t page, const void *where)
{
	if (reads_as_zero(page_kind(plan, part, page)))
		return page_is_zero(where);
	return page_has(where, page_seed(part, page));
}

/* ---- the giver's memory */

static void fill_private(const struct plan *plan, unsigned int part, char *mem)
{
	for (size_t i = 0; i < plan->parts[part].npages; i++) {
		char *page = mem + i * PAGE;
		switch (page_kind(plan, part, i)) {
		case KIND_ZERO_PAGE:
			check(page_is_zero(page));
			break;
		case KIND_ZEROS:
			memset(page, 0, PAGE);
			break;
		case KIND_DATA:
			fill_page(page, page_seed(part, i));
			break;
		case KIND_SWAPPED:
			fill_page(page, page_seed(part, i));
			madvise(page, PAGE, 21 /* MADV_PAGEOUT */);
			break;
		default:
			break;
		}
	}
}

static void fill_shared(const struct plan *plan, unsigned int part, char *mem, int fd)
{
	const struct part *p = &plan->parts[part];
	char page[PAGE];

	for (size_t i = 0; i < p->npages; i++) {
		switch (page_kind(plan, part, i)) {
		case KIND_ZEROS:
			memset(mem + i * PAGE, 0, PAGE);
			break;
		case KIND_DATA:
			fill_page(mem + i * PAGE, page_seed(part, i));
			break;
		case KIND_FILE:
			fill_page(page, page_seed(part, i));
			check_equal(pwrite(fd, page, PAGE, (off_t)(p->fd_offset + i * PAGE)), PAGE);
			break;
		case KIND_PUNCHED:
			fill_page(mem + i * PAGE, page_seed(part, i));
			check_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					      (off_t)(p->fd_offset + i * PAGE), PAGE),
				    0);
			break;
		default:
			break;
		}
	}
}

static void make_memory(struct giver *g, unsigned int i)
{
	const struct part *p = &g->plan->parts[i];
	size_t len = p->npages * PAGE;

	g->memfd[i] = -1;
	g->mem[i] = map_memory(len, p->skip);
	if (p->flags & FERRY_RANGE_SHARED) {
		g->memfd[i] = memfd_create("part", MFD_CLOEXEC);
		check(ftruncate(g->memfd[i], (off_t)(p->fd_offset + len)) == 0);
		check(mmap(g->mem[i], len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			   g->memfd[i], (off_t)p->fd_offset) != MAP_FAILED);
		fill_shared(g->plan, i, g->mem[i], g->memfd[i]);
		return;
	}
	if (p->huge)
		madvise(g->mem[i], len, MADV_HUGEPAGE);
	fill_private(g->plan, i, g->mem[i]);
}

static bool memory_intact(const struct giver *g)
{
	for (unsigned int i = 0; i < g->plan->nparts; i++)
		for (size_t page = 0; page < g->plan->parts[i].npages; page++)
			if (!page_right(g->plan, i, page, g->mem[i] + page * PAGE))
				return false;
	return true;
}

/* ---- the giver's calls */

static int give_open(struct giver *g, int sock)
{
	const struct plan *plan = g->plan;
	struct ferry_range ranges[PARTS_MAX];
	struct ferry_give_opts opts = FERRY_GIVE_OPTS_INIT;
	char *blob = allocate(plan->blob_len + 1);

	for (unsigned int i = 0; i < plan->nparts; i++)
		ranges[i] = (struct ferry_range){.addr = (uintptr_t)g->mem[i],
						 .len = plan->parts[i].npages * PAGE,
						 .id = 100 + i,
						 .flags = plan->parts[i].flags,
						 .fd = g->memfd[i],
						 .fd_offset = plan->parts[i].fd_offset};
	for (size_t i = 0; i < plan->blob_len; i++)
		blob[i] = (char)(i * 7);
	struct ferry_offer offer = {ranges, plan->nparts, blob, plan->blob_len};
	opts.ways = plan->ways;
	opts.timeout_ms = plan->give_timeout;
	opts.cpu = FERRY_CPU_ANY;
	int ret = ferry_give_open(&g->give, sock, &offer, &opts);
	free(blob);
	return ret;
}

/* Descriptor i is a pipe from which the number i can be read. */
static int give_shadow(struct giver *g)
{
	unsigned int n = g->plan->nfds;
	int *fds = allocate((n + 1) * sizeof(*fds));

	for (unsigned int i = 0; i < n; i++) {
		int fd[2];
		check_equal(pipe2(fd, O_CLOEXEC), 0);
		check_equal(write(fd[1], &i, sizeof(i)), sizeof(i));
		close(fd[1]);
		fds[i] = fd[0];
	}
	int ret = ferry_give_shadow(g->give, fds, n);
	for (unsigned int i = 0; i < n; i++)
		close(fds[i]);
	free(fds);
	return ret;
}

static int give_steps(struct giver *g, int sock)
{
	struct outcome *out = g->plan->out;
	int ret;

	out->give_call = CALL_OPEN;
	ret = give_open(g, sock);
	if (!ret) {
		out->give_call = CALL_ATTACH;
		ret = ferry_give_wait(g->give, FERRY_PHASE_ATTACHED, -1);
	}
	if (!ret) {
		out->give_call = CALL_SHADOW;
		ret = give_shadow(g);
	}
	if (!ret) {
		out->give_call = CALL_READY;
		ret = ferry_give_wait(g->give, FERRY_PHASE_READY, -1);
	}
	if (!ret) {
		out->give_call = CALL_COMMIT;
		ret = ferry_give_commit(g->give);
	}
	if (!ret) {
		out->give_call = CALL_DONE;
		ret = ferry_give_wait(g->give, FERRY_PHASE_DONE, -1);
	}
	if (!ret)
		out->give_call = CALL_CLOSE;
	return ret;
}

static void check_released(const struct giver *g)
{
	for (unsigned int i = 0; i < g->plan->nparts; i++)
		if (!(g->plan->parts[i].flags & FERRY_RANGE_SHARED))
			check_equal(pages_present(g->mem[i], g->plan->parts[i].npages), 0);
}

int giver_run(const struct plan *plan, int sock)
{
	struct giver g = {.plan = plan};
	struct outcome *out = plan->out;
	unsigned int fds = count_fds() - 1; /* without the socket */

	if (plan->give_park)
		setenv("PAGEFERRY_PARK", plan->give_park, 1);
	for (unsigned int i = 0; i < plan->nparts; i++)
		make_memory(&g, i);
	int ret = give_steps(&g, sock);
	if (g.give) {
		out->report.size = sizeof(out->report);
		check_equal(ferry_give_report(g.give, &out->report), 0);
		snprintf(out->give_reason, sizeof(out->give_reason), "%s",
			 ferry_give_reason(g.give));
	}
	if (ret && out->give_call <= CALL_COMMIT) {
		check(memory_intact(&g));
		out->give_intact = true;
	}
	if (!ret)
		check_released(&g);
	if (plan->giver_after_done && !ret)
		plan->giver_after_done(&g);
	ferry_give_close(g.give, "as planned");
	for (unsigned int i = 0; i < plan->nparts; i++)
		if (g.memfd[i] >= 0)
			close(g.memfd[i]);
	check_equal(count_fds(), fds);
	out->give_ret = ret;
	return 0;
}

/* ---- both */

struct side {
	struct plan *plan;
	int sock[2];
};

static int run_giver(void *arg)
{
	struct side *s = arg;

	close(s->sock[1]);
	return giver_run(s->plan, s->sock[0]);
}

static int run_taker(void *arg)
{
	struct side *s = arg;

	close(s->sock[0]);
	return taker_run(s->plan, s->sock[1]);
}

void handover_prepare(struct plan *plan)
{
	close(open_uffd_kernel(UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |
			       UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_THREAD_ID |
			       UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_POISON));
	plan->out = mmap(NULL, sizeof(*plan->out), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(plan->out, MAP_FAILED);
	plan->out->give_ret = plan->out->take_ret = INT32_MAX;
}

struct handover handover_start(struct plan *plan)
{
	struct side side = {.plan = plan};
	struct handover h;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, side.sock), 0);
	h.giver = spawn(run_giver, &side);
	h.taker = spawn(run_taker, &side);
	close(side.sock[0]);
	close(side.sock[1]);
	return h;
}

void handover_wait(const struct handover *h)
{
	assert_int_equal(wait_exit(h->taker), 0);
	assert_int_equal(wait_exit(h->giver), 0);
}

void handover_fini(struct plan *plan)
{
	munmap(plan->out, sizeof(*plan->out));
	plan->out = NULL;
}

void assert_adds_up(const struct ferry_report *report)
{
	uint64_t sum = report->removed + report->left;

	for (unsigned int i = 0; i < FERRY_WAYS; i++)
		sum += report->bytes[i];
	if (sum != report->total)
		for (unsigned int i = 0; i < FERRY_WAYS; i++)
			print_message("# %s: %llu\n", ferry_way_name(i),
				      (unsigned long long)report->bytes[i]);
	assert_int_equal(sum, report->total);
}
