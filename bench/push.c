// SPDX-License-Identifier: MIT
/*
 * How fast does a hand-over push private memory into another process?
 *
 * Copied: 4 KiB pages, by UFFDIO_COPY from the giver. The baseline is a bare loop of UFFDIO_COPY in
 * calls of 2 MiB into a userfaultfd of the other process. After each call it gives its memory back
 * to the system, as the hand-over does; a second baseline keeps it.
 *
 * Huge: 2 MiB pages that shall arrive as such. The baseline is a bare loop in the taker:
 * process_vm_readv into a huge page beside, then UFFDIO_MOVE into place. In the one that releases,
 * the giver gives each page back on a byte from the taker; a second baseline keeps them.
 *
 * The baselines that keep need the memory twice. In a virtual machine whose host takes free pages
 * back they mostly show how fast the host gives new ones, so the limit is set for the others.
 */
#include "bench/report.h"
#include "bench/transfer.h"

#define LEN       (1ull << 30)
#define LEN_QUICK (32ull << 20)

struct bench {
	struct report report;
	uint64_t len;
};

struct way {
	const char *what;
	bool ours, huge, release;
	struct series rate;   /* GB/s */
	struct series cpu;    /* ns of the giver's processor time for a page */
	struct series arrive; /* huge only: share of the bytes in huge pages at the taker */
};

/* What one turn cost the giver, ns. */
struct cost {
	double wall, cpu;
};

static struct cost cost_since(int64_t wall, int64_t cpu)
{
	return (struct cost){(double)(bench_now() - wall), (double)(bench_cpu_now() - cpu)};
}

/* ---- the library */

static struct cost ours_give(const struct transfer *t, struct pair *pair)
{
	uint32_t allowed = t->huge ? FERRY_WAY_AUTO : FERRY_WAY_BIT(FERRY_WAY_COPY);
	struct ferry_give *give = transfer_give(t, pair, allowed);
	int64_t cpu = bench_cpu_now();
	struct ferry_report r = give_commit_and_drain(give);

	/* The figure must be about what it says it is about. */
	if (!t->huge && r.bytes[FERRY_WAY_COPY] != t->len)
		bench_fail("%s: only %llu of %llu bytes were copied", t->what,
			   (unsigned long long)r.bytes[FERRY_WAY_COPY], (unsigned long long)t->len);
	return (struct cost){(double)r.drain_ns, (double)(bench_cpu_now() - cpu)};
}

/* ---- bare, copied */

static void copy_take(int sock, struct pair_news *news, const void *arg)
{
	const struct transfer *t = arg;
	char *mem = transfer_map(t);
	int uffd = raw_uffd(0);

	raw_register(uffd, mem, t->len, UFFDIO_REGISTER_MODE_MISSING);
	raw_send_fd(sock, uffd, (uintptr_t)mem);
	raw_recv_bytes(sock, 1);
	transfer_check(t, mem, news);
}

static struct cost copy_give(const struct transfer *t, struct pair *pair)
{
	uint64_t dst;
	int uffd = raw_recv_fd(pair->sock, &dst);
	int64_t start = bench_now(), cpu = bench_cpu_now();

	for (uint64_t at = 0; at < t->len; at += BENCH_HUGE) {
		raw_copy(uffd, dst + at, t->mem + at, BENCH_HUGE);
		transfer_release(t, at, BENCH_HUGE);
	}
	struct cost cost = cost_since(start, cpu);
	raw_send_byte(pair->sock);
	close(uffd);
	close(pair->sock);
	return cost;
}

/* ---- bare, huge */

static void stage_take(int sock, struct pair_news *news, const void *arg)
{
	const struct transfer *t = arg;
	char *mem = transfer_map(t), *stage = memory_map(BENCH_HUGE, MADV_HUGEPAGE);
	int uffd = raw_uffd(UFFD_FEATURE_MOVE);

	raw_register(uffd, mem, t->len, UFFDIO_REGISTER_MODE_MISSING);
	raw_recv_bytes(sock, 1);
	for (uint64_t at = 0; at < t->len; at += BENCH_HUGE) {
		transfer_read(t, stage, at, BENCH_HUGE);
		raw_move(uffd, mem + at, stage, BENCH_HUGE);
		if (t->release)
			raw_send_byte(sock);
	}
	raw_send_byte(sock);
	transfer_check(t, mem, news);
}

static struct cost stage_give(const struct transfer *t, struct pair *pair)
{
	transfer_let_read(pair->taker);
	int64_t start = bench_now(), cpu = bench_cpu_now();

	raw_send_byte(pair->sock);
	transfer_release_as_read(t, pair->sock);
	raw_recv_bytes(pair->sock, 1);
	struct cost cost = cost_since(start, cpu);
	transfer_let_read(0);
	close(pair->sock);
	return cost;
}

/* ---- turns */

static void turn(struct bench *b, struct way *way, uint64_t seed)
{
	struct transfer t = {.what = way->what,
			     .huge = way->huge,
			     .release = way->release,
			     .len = b->len,
			     .seed = seed};
	taker_fn *take = way->ours ? transfer_take : way->huge ? stage_take : copy_take;

	transfer_open(&t);
	struct pair pair = pair_start(take, &t);
	struct cost cost = way->ours   ? ours_give(&t, &pair)
			   : way->huge ? stage_give(&t, &pair)
				       : copy_give(&t, &pair);
	struct pair_news news = pair_end(&pair);
	munmap(t.mem, t.len);
	series_add(&way->rate, (double)b->len / cost.wall);
	series_add(&way->cpu, cost.cpu / ((double)b->len / BENCH_PAGE));
	series_add(&way->arrive, (double)news.huge / (double)b->len);
}

enum {
	COPY_RELEASE,
	COPY_OURS,
	COPY_KEEP,
	HUGE_RELEASE,
	HUGE_OURS,
	HUGE_KEEP,
	WAYS,
};

static struct way ways[WAYS] = {
	[COPY_RELEASE] = {.what = "bare UFFDIO_COPY in 2 MiB calls, each then MADV_DONTNEEDed",
			  .release = true},
	[COPY_OURS] = {.what = "ferry_give to ferry_take, ways = COPY, drain_ns", .ours = true},
	[COPY_KEEP] = {.what = "bare UFFDIO_COPY in 2 MiB calls, nothing released"},
	[HUGE_RELEASE] =
		{.what = "bare process_vm_readv and UFFDIO_MOVE of 2 MiB, each released by "
			 "the giver",
		 .huge = true,
		 .release = true},
	[HUGE_OURS] = {.what = "ferry_give to ferry_take, ways = AUTO, drain_ns",
		       .ours = true,
		       .huge = true},
	[HUGE_KEEP] = {.what = "bare process_vm_readv and UFFDIO_MOVE of 2 MiB, nothing released",
		       .huge = true},
};

static const struct pairing {
	const char *name;
	int base, ours;
	double limit;
} pairings[] = {
	{"push_copy", COPY_RELEASE, COPY_OURS, 0.95},
	{"push_copy_kept", COPY_KEEP, COPY_OURS, 0},
	{"push_huge", HUGE_RELEASE, HUGE_OURS, 0},
	{"push_huge_kept", HUGE_KEEP, HUGE_OURS, 0},
};

static void compare(struct bench *b, const struct pairing *p, const char *what, const char *unit,
		    const struct series *base, const struct series *ours, double limit)
{
	char name[64];

	snprintf(name, sizeof(name), "%s%s", p->name, what);
	report_add(&b->report, &(struct comparison){.name = name,
						    .unit = unit,
						    .base_what = ways[p->base].what,
						    .ours_what = ways[p->ours].what,
						    .base = base,
						    .ours = ours,
						    .more_is_better = base != &ways[p->base].cpu,
						    .limit = limit});
}

static void report_pairing(struct bench *b, const struct pairing *p)
{
	const struct way *base = &ways[p->base], *ours = &ways[p->ours];

	compare(b, p, "", "GB/s", &base->rate, &ours->rate, p->limit);
	compare(b, p, "_giver_cpu", "ns/page", &base->cpu, &ours->cpu, 0);
	if (ours->huge)
		compare(b, p, "_arrived_huge", "share of the bytes", &base->arrive, &ours->arrive,
			0);
}

/* Can this host give us huge pages, and move them? NULL: yes. */
static const char *why_not_huge(const struct bench *b)
{
	if (!(raw_features() & UFFD_FEATURE_MOVE))
		return "the kernel has no UFFDIO_MOVE";
	return memory_why_not_huge(b->len);
}

int main(int argc, char **argv)
{
	static struct bench b;

	report_open(&b.report, argc, argv,
		    "How fast does a hand-over push private memory into another process?", 7);
	b.len = b.report.o.quick ? LEN_QUICK : LEN;
	const char *why = why_not_huge(&b);
	for (unsigned int round = 0; round < b.report.o.rounds; round++)
		for (unsigned int i = 0; i < WAYS; i++)
			if (!ways[i].huge || !why)
				turn(&b, &ways[i], round * WAYS + i);
	for (unsigned int i = 0; i < sizeof(pairings) / sizeof(pairings[0]); i++) {
		if (ways[pairings[i].base].huge && why)
			report_skip(&b.report, pairings[i].name, why);
		else
			report_pairing(&b, &pairings[i]);
	}
	json_object_object_add(b.report.root, "bytes", json_object_new_int64((int64_t)b.len));
	return report_close(&b.report);
}
