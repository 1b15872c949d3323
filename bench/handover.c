// SPDX-License-Identifier: MIT
/*
 * What does it cost to give memory to another process, by each way?
 *
 * Ours is a hand-over by the ways that the library chooses. The others are what a program would do
 * with bare calls, 2 MiB at a time: write into the other process or read from it, or send through
 * a pipe of 1 MiB, by copying or by reference. The giver releases what has gone, as in a hand-over;
 * in one way it keeps it, and needs memory twice: where the host of a virtual machine takes free
 * pages back, that mostly shows how fast it gives new ones. Least of all costs memory that both map
 * from the start: then only the taker's page tables are filled, as it touches each page.
 *
 * The clock runs from when the taker has empty memory until every page is there, as the taker sees
 * it; it compares the contents afterwards. A third process looks each millisecond how much memory
 * the two have: pages that both map count once, what is in a pipe doesn't count.
 */
#include <poll.h>

#include "bench/report.h"
#include "bench/transfer.h"

#define LEN       (1ull << 30)
#define LEN_QUICK (32ull << 20)
#define PIPE_SIZE (1 << 20)

struct turn;

/* The library's, or one with bare calls. */
struct method {
	const char *name, *what;
	bool keep;   /* nothing is released */
	bool shared; /* the memory is a file that both map */
	bool piped;
	/* NULL: the library does both. */
	void (*send)(const struct turn *t, const struct pair *pair, uint64_t dst);
	void (*receive)(const struct turn *t, int sock, char *mem);
};

struct way {
	const struct method *method;
	bool huge;
	const char *skipped;
	struct series rate;       /* GB/s */
	struct series cpu, both;  /* ns of the giver's processor time, of both, for a page */
	struct series peak;       /* most memory of both, share of the size */
	struct series arrive;     /* huge only: share of the bytes in huge pages at the taker */
	double bytes[FERRY_WAYS]; /* of the library's, in all rounds */
};

/* One turn, as both processes know it. */
struct turn {
	struct transfer transfer;
	const struct method *method;
	int fd;      /* of the shared memory */
	int pipe[2]; /* to read from, to write to */
};

static void send_number(int sock, uint64_t number)
{
	must(send(sock, &number, sizeof(number), MSG_NOSIGNAL), "send");
}

static uint64_t recv_number(int sock)
{
	uint64_t number;

	if (recv(sock, &number, sizeof(number), MSG_WAITALL) != sizeof(number))
		bench_fail("the other process is gone");
	return number;
}

/* ---- the most memory that both have together */

struct watched {
	pid_t giver, taker;
};

/* Bytes of its own pages; 0 when it is gone. */
static uint64_t own_memory(pid_t pid)
{
	unsigned long long resident, shared;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	FILE *f = fopen(path, "re");
	int n = f ? fscanf(f, "%*u %llu %llu", &resident, &shared) : 0;
	if (f)
		fclose(f);
	return n == 2 ? (resident - shared) * BENCH_PAGE : 0;
}

/* Says in the end how much more they had than in the beginning. */
static void watch(int sock, struct pair_news *news, const void *arg)
{
	const struct watched *w = arg;
	uint64_t first = own_memory(w->giver) + own_memory(w->taker), most = first;
	struct pollfd fd = {.fd = sock, .events = POLLIN};
	bool told;

	(void)news;
	raw_send_byte(sock);
	do {
		told = poll(&fd, 1, 1) != 0;
		uint64_t now = own_memory(w->giver) + own_memory(w->taker);
		most = now > most ? now : most;
	} while (!told);
	send_number(sock, most - first);
}

struct clocks {
	struct watched watched;
	struct pair watcher;
	int64_t start, cpu;
};

static void clocks_start(struct clocks *c, const struct pair *pair)
{
	c->watched = (struct watched){getpid(), pair->taker};
	c->watcher = pair_start(watch, &c->watched);
	raw_recv_bytes(c->watcher.sock, 1);
	c->cpu = bench_cpu_now();
	c->start = bench_now();
}

/* What a turn cost, but for what the taker has yet to say. */
struct cost {
	double start, cpu, extra;
};

static struct cost clocks_stop(struct clocks *c)
{
	struct cost cost = {.start = (double)c->start, .cpu = (double)(bench_cpu_now() - c->cpu)};

	raw_send_byte(c->watcher.sock);
	cost.extra = (double)recv_number(c->watcher.sock);
	close(c->watcher.sock);
	pair_end(&c->watcher);
	return cost;
}

/* ---- bare: what each way does at either side */

static void send_writev(const struct turn *t, const struct pair *pair, uint64_t dst)
{
	const struct transfer *tr = &t->transfer;

	for (uint64_t at = 0; at < tr->len; at += BENCH_HUGE) {
		struct iovec local = {tr->mem + at, BENCH_HUGE};
		struct iovec remote = {(void *)(uintptr_t)(dst + at), BENCH_HUGE};
		long n = must(process_vm_writev(pair->taker, &local, 1, &remote, 1, 0),
			      "process_vm_writev");
		if (n != (long)BENCH_HUGE)
			bench_fail("process_vm_writev stopped at %ld bytes", n);
		transfer_release(tr, at, BENCH_HUGE);
	}
	raw_send_byte(pair->sock);
}

/* It is all there when the giver says so. */
static void receive_nothing(const struct turn *t, int sock, char *mem)
{
	(void)t;
	(void)mem;
	raw_recv_bytes(sock, 1);
}

static void send_readv(const struct turn *t, const struct pair *pair, uint64_t dst)
{
	(void)dst;
	transfer_let_read(pair->taker);
	raw_send_byte(pair->sock);
	transfer_release_as_read(&t->transfer, pair->sock);
}

static void receive_readv(const struct turn *t, int sock, char *mem)
{
	const struct transfer *tr = &t->transfer;

	raw_recv_bytes(sock, 1);
	for (uint64_t at = 0; at < tr->len; at += BENCH_HUGE) {
		transfer_read(tr, mem + at, at, BENCH_HUGE);
		if (tr->release)
			raw_send_byte(sock);
	}
}

static void send_pipe(const struct turn *t, const struct pair *pair, uint64_t dst)
{
	const struct transfer *tr = &t->transfer;

	(void)pair;
	(void)dst;
	for (uint64_t at = 0; at < tr->len; at += BENCH_HUGE) {
		for (uint64_t sent = 0; sent < BENCH_HUGE;)
			sent += (uint64_t)must(
				write(t->pipe[1], tr->mem + at + sent, BENCH_HUGE - sent), "write");
		transfer_release(tr, at, BENCH_HUGE);
	}
}

/* The pipe refers to pages that the giver no longer has, and nobody writes to them. */
static void send_vmsplice(const struct turn *t, const struct pair *pair, uint64_t dst)
{
	const struct transfer *tr = &t->transfer;

	(void)pair;
	(void)dst;
	for (uint64_t at = 0; at < tr->len; at += BENCH_HUGE) {
		struct iovec left = {tr->mem + at, BENCH_HUGE};
		while (left.iov_len) {
			size_t n = (size_t)must(vmsplice(t->pipe[1], &left, 1, 0), "vmsplice");
			left = (struct iovec){(char *)left.iov_base + n, left.iov_len - n};
		}
		transfer_release(tr, at, BENCH_HUGE);
	}
}

static void receive_pipe(const struct turn *t, int sock, char *mem)
{
	(void)sock;
	for (uint64_t at = 0; at < t->transfer.len;) {
		long n = must(read(t->pipe[0], mem + at, t->transfer.len - at), "read");
		if (!n)
			bench_fail("the other process is gone");
		at += (uint64_t)n;
	}
}

static void send_nothing(const struct turn *t, const struct pair *pair, uint64_t dst)
{
	(void)t;
	(void)dst;
	raw_send_byte(pair->sock);
}

static void receive_shared(const struct turn *t, int sock, char *mem)
{
	raw_recv_bytes(sock, 1);
	for (uint64_t at = 0; at < t->transfer.len; at += BENCH_PAGE)
		(void)*(const volatile char *)(mem + at);
}

/* ---- a turn */

static void bare_take(int sock, struct pair_news *news, const void *arg)
{
	const struct turn *t = arg;
	const struct method *m = t->method;
	char *mem = m->shared ? memory_map_file(t->fd, t->transfer.len)
			      : transfer_map(&t->transfer);

	if (m->piped)
		close(t->pipe[1]);
	send_number(sock, (uintptr_t)mem);
	m->receive(t, sock, mem);
	pair_has_all(news);
	raw_send_byte(sock);
	transfer_check(&t->transfer, mem, news);
}

static struct cost bare_give(const struct turn *t, const struct pair *pair)
{
	uint64_t dst = recv_number(pair->sock);
	struct clocks clocks;

	clocks_start(&clocks, pair);
	t->method->send(t, pair, dst);
	raw_recv_bytes(pair->sock, 1);
	struct cost cost = clocks_stop(&clocks);
	close(pair->sock);
	return cost;
}

static void ours_take(int sock, struct pair_news *news, const void *arg)
{
	transfer_take(sock, news, &((const struct turn *)arg)->transfer);
}

static struct cost ours_give(const struct turn *t, struct pair *pair, struct way *way)
{
	struct ferry_give *give = transfer_give(&t->transfer, pair, FERRY_WAY_AUTO);
	struct clocks clocks;

	clocks_start(&clocks, pair);
	struct ferry_report r = give_commit_and_drain(give);
	struct cost cost = clocks_stop(&clocks);
	for (unsigned int i = 0; i < FERRY_WAYS; i++)
		way->bytes[i] += (double)r.bytes[i];
	return cost;
}

static void open_turn(struct turn *t)
{
	struct transfer *tr = &t->transfer;

	if (t->method->shared) {
		t->fd = memory_file(tr->len);
		tr->mem = memory_map_file(t->fd, tr->len);
		memory_fill(tr->mem, tr->len, tr->seed);
	} else {
		transfer_open(tr);
	}
	if (t->method->piped) {
		must(pipe2(t->pipe, O_CLOEXEC), "pipe2");
		must(fcntl(t->pipe[1], F_SETPIPE_SZ, PIPE_SIZE), "F_SETPIPE_SZ");
	}
}

static void close_turn(const struct turn *t)
{
	munmap(t->transfer.mem, t->transfer.len);
	if (t->method->shared)
		close(t->fd);
	if (t->method->piped)
		close(t->pipe[1]);
}

static struct cost hand_over(const struct turn *t, struct pair *pair, struct way *way)
{
	if (!t->method->send)
		return ours_give(t, pair, way);
	/* Writing shall fail when the taker has gone. */
	if (t->method->piped)
		close(t->pipe[0]);
	return bare_give(t, pair);
}

static void turn(struct way *way, uint64_t len, uint64_t seed)
{
	const struct method *m = way->method;
	struct turn t = {.method = m,
			 .transfer = {.what = m->what,
				      .huge = way->huge,
				      .release = !m->keep,
				      .len = len,
				      .seed = seed}};
	const double size = (double)len, pages = size / BENCH_PAGE;

	open_turn(&t);
	struct pair pair = pair_start(m->send ? bare_take : ours_take, &t);
	struct cost cost = hand_over(&t, &pair, way);
	struct pair_news news = pair_end(&pair);
	close_turn(&t);
	transfer_let_read(0);
	series_add(&way->rate, size / ((double)news.end_ns - cost.start));
	series_add(&way->cpu, cost.cpu / pages);
	series_add(&way->both, (cost.cpu + (double)news.cpu_ns) / pages);
	series_add(&way->peak, (size + cost.extra) / size);
	series_add(&way->arrive, (double)news.huge / size);
}

/* ---- what is compared with what */

static const struct method methods[] = {
	{"", "ferry_give to ferry_take, ways = AUTO", false, false, false, NULL, NULL},
	{"writev", "bare process_vm_writev, 2 MiB a call, then released", false, false, false,
	 send_writev, receive_nothing},
	{"writev_kept", "bare process_vm_writev, 2 MiB a call, nothing released", true, false,
	 false, send_writev, receive_nothing},
	{"readv", "bare process_vm_readv by the taker, 2 MiB a call, then released by the giver",
	 false, false, false, send_readv, receive_readv},
	{"pipe", "bare write to a pipe of 1 MiB, and read; released each 2 MiB", false, false, true,
	 send_pipe, receive_pipe},
	{"vmsplice", "bare vmsplice to a pipe of 1 MiB, and read; released each 2 MiB", false,
	 false, true, send_vmsplice, receive_pipe},
	{"memfd", "bare mapping of a memfd by both: the taker touches every page", true, true,
	 false, send_nothing, receive_shared},
};
#define METHODS (sizeof(methods) / sizeof(methods[0]))

/* Of each method; the first is ours. */
static struct way small_ways[METHODS], huge_ways[METHODS];

static void compare(struct report *r, const char *name, const char *what, const char *unit,
		    const char *bare_what, const struct series *bare, const char *ours_what,
		    const struct series *ours)
{
	char full[64];

	snprintf(full, sizeof(full), "%s%s", name, what);
	report_add(r, &(struct comparison){.name = full,
					   .unit = unit,
					   .base_what = bare_what,
					   .ours_what = ours_what,
					   .base = bare,
					   .ours = ours,
					   .more_is_better = !strcmp(unit, "GB/s") ||
							     !strcmp(what, "_arrived_huge")});
}

/* With the ways that the library chose. */
static void describe(const struct way *ours, char *what, size_t size)
{
	double all = 0;
	size_t n = (size_t)snprintf(what, size, "%s", ours->method->what);

	for (unsigned int i = 0; i < FERRY_WAYS; i++)
		all += ours->bytes[i];
	for (unsigned int i = 0; i < FERRY_WAYS; i++)
		if (ours->bytes[i] > 0 && n < size)
			n += (size_t)snprintf(what + n, size - n, ", %.0f %% by %s",
					      100 * ours->bytes[i] / all, ferry_way_name(i));
}

static void report_way(struct report *r, const struct way *ours, const struct way *bare)
{
	const char *base = bare->method->what, *share = "share of the size";
	char name[48], what[160];

	snprintf(name, sizeof(name), "%s_%s", bare->huge ? "huge" : "small", bare->method->name);
	if (bare->skipped) {
		report_skip(r, name, bare->skipped);
		return;
	}
	describe(ours, what, sizeof(what));
	compare(r, name, "", "GB/s", base, &bare->rate, what, &ours->rate);
	compare(r, name, "_giver_cpu", "ns/page", base, &bare->cpu, what, &ours->cpu);
	compare(r, name, "_cpu", "ns/page", base, &bare->both, what, &ours->both);
	compare(r, name, "_peak_of_size", share, base, &bare->peak, what, &ours->peak);
	if (bare->huge)
		compare(r, name, "_arrived_huge", share, base, &bare->arrive, what, &ours->arrive);
}

static const char *why_not(const struct way *way, uint64_t len)
{
	if (way->huge && way->method->shared)
		return "huge pages of shared memory are a setting of their own (shmem_enabled)";
	return way->huge ? memory_why_not_huge(len) : NULL;
}

static void prepare(struct way *ways, bool huge, uint64_t len)
{
	for (unsigned int i = 0; i < METHODS; i++) {
		ways[i].method = &methods[i];
		ways[i].huge = huge;
		ways[i].skipped = why_not(&ways[i], len);
	}
}

/* Each round begins with another one, since the first may have to pay for memory that is new. */
static void run_ways(struct way *ways, uint64_t len, unsigned int round)
{
	for (unsigned int i = 0; i < METHODS; i++) {
		struct way *way = &ways[(i + round) % METHODS];
		if (!way->skipped)
			turn(way, len, round * METHODS + i);
	}
}

static void report_ways(struct report *r, const struct way *ways)
{
	for (unsigned int i = 1; i < METHODS; i++)
		report_way(r, &ways[0], &ways[i]);
}

int main(int argc, char **argv)
{
	static struct report r;

	report_open(&r, argc, argv,
		    "What does it cost to give memory to another process, by each way?", 3);
	const uint64_t len = r.o.quick ? LEN_QUICK : LEN;
	signal(SIGPIPE, SIG_IGN);
	prepare(small_ways, false, len);
	prepare(huge_ways, true, len);
	for (unsigned int round = 0; round < r.o.rounds; round++) {
		run_ways(small_ways, len, round);
		run_ways(huge_ways, len, round);
	}
	report_ways(&r, small_ways);
	report_ways(&r, huge_ways);
	json_object_object_add(r.root, "bytes", json_object_new_int64((int64_t)len));
	return report_close(&r);
}
