// SPDX-License-Identifier: MIT
/*
 * What does it cost a Redis server that it is saved?
 *
 * The baseline is its own BGSAVE, for which it forks; ours is `pageferry snapshot`, without a limit
 * of the rate. A server of its own with 512 MiB in it is asked to replace values, at random, by
 * connections that each wait for their answer and ask again, as redis-benchmark does.
 *
 *     redis [--quick] [--rounds N]
 *
 * In a window of 40 s, which holds the whole and what comes after: requests a second, and how long
 * an answer took at the client. Also, in turn, of a server that isn't saved. stop: latest_fork_usec
 * of the server, and what the command says. extra: rdb_last_cow_size of the server; the command's
 * peak of resident memory, libraries included, and by how much the server's grew. total: until the
 * file is there; the server compresses its own.
 *
 * In either file a value is found that was set before, and gdb opens ours.
 */
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "bench/command.h"
#include "bench/writers.h"

#define KEYS        (1u << 19)
#define KEYS_QUICK  (1u << 14)
#define VALUE       960u /* bytes; with what Redis adds 1 KiB */
#define CONNECTIONS 8u
#define PIPELINE    64u /* to fill it */
#define WINDOW_MS   40000
#define BEFORE_MS   1000 /* of the window, until it begins to save */
#define MOST_US     10000000u
#define MARKER      "a value that is found again: 5dc1b4a7e2f90836"

struct figures {
	struct series stop, extra, total, rps, p99, max;
};

struct bench {
	struct report report;
	struct command c;
	unsigned int keys;
	int64_t window_ms, before_ms;
	pid_t server;
	int control; /* a connection */
	char socket[300], rdb[300];
	struct figures none, bgsave, ours;
	struct series size;
};

/* How many answers took so many us: a mapping, of which only what is used is ever there. */
struct load {
	pthread_t thread;
	const struct bench *b;
	uint64_t random, n;
	int64_t start, until;
	uint32_t *took_us;
};

static struct load load;

/* ---- what the server is told */

static int connect_to(const struct bench *b)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = (int)must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");

	if (strlen(b->socket) >= sizeof(addr.sun_path))
		bench_cannot("%s: too long for a socket: set TMPDIR", b->socket);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", b->socket);
	if (!connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return fd;
	close(fd);
	return -1;
}

/* The answer up to its last line, ended by @end. */
static void ask(const struct bench *b, const char *command, const char *end, char *answer,
		size_t size)
{
	size_t had = 0, len = strlen(end);

	must(send(b->control, command, strlen(command), MSG_NOSIGNAL), "asking the server");
	do {
		ssize_t n = recv(b->control, answer + had, size - 1 - had, 0);
		if (n <= 0)
			bench_fail("redis-server is gone, or says too much");
		had += (size_t)n;
		answer[had] = 0;
	} while (had < len || strcmp(answer + had - len, end) != 0);
	if (answer[0] == '-')
		bench_fail("redis-server: %.*s", (int)strcspn(answer, "\r"), answer);
}

static double info(const struct bench *b, const char *section, const char *key)
{
	char command[64], answer[16384];

	snprintf(command, sizeof(command), "INFO %s\r\n", section);
	ask(b, command, "\r\n\r\n", answer, sizeof(answer));
	const char *at = strstr(answer, key);
	if (!at)
		bench_cannot("redis-server says nothing of %s", key);
	return strtod(at + strlen(key) + 1, NULL);
}

/* ---- load */

/* Nothing that can be compressed. */
static size_t set_command(char *to, unsigned int key, uint64_t *random)
{
	size_t len = (size_t)sprintf(to, "*3\r\n$3\r\nSET\r\n$12\r\nkey:%08x\r\n$%u\r\n", key,
				     VALUE);

	for (size_t i = 0; i < VALUE; i += 8, len += 8) {
		uint64_t word = writers_random(random);
		memcpy(to + len, &word, 8);
	}
	to[len++] = '\r';
	to[len++] = '\n';
	return len;
}

static void send_all(int fd, const char *data, size_t len)
{
	for (size_t done = 0; done < len;)
		done += (size_t)must(send(fd, data + done, len - done, MSG_NOSIGNAL),
				     "asking the server");
}

/* Any answer but this is an error. */
static void expect_ok(int fd, unsigned int times)
{
	char answer[5 * PIPELINE];

	for (size_t had = 0, want = 5ul * times; had < want;) {
		ssize_t n = recv(fd, answer + had, want - had, 0);
		if (n <= 0)
			bench_fail("redis-server is gone");
		had += (size_t)n;
		if (answer[0] != '+')
			bench_fail("redis-server: %.*s", (int)strcspn(answer, "\r"), answer);
	}
}

static void fill(const struct bench *b)
{
	static char commands[PIPELINE * (VALUE + 64)];
	uint64_t random = 88172645463325252ull;

	for (unsigned int key = 0; key < b->keys; key += PIPELINE) {
		size_t len = 0;
		for (unsigned int i = 0; i < PIPELINE; i++)
			len += set_command(commands + len, key + i, &random);
		send_all(b->control, commands, len);
		expect_ok(b->control, PIPELINE);
	}
}

static int64_t send_one(struct load *l, int fd)
{
	char command[VALUE + 64];
	unsigned int key = (unsigned int)(writers_random(&l->random) >> 20) % l->b->keys;
	size_t len = set_command(command, key, &l->random);
	int64_t now = bench_now();

	send_all(fd, command, len);
	return now;
}

static void note(struct load *l, int64_t since)
{
	int64_t now = bench_now(), us = (now - since) / 1000;

	if (since < l->start || now > l->until)
		return;
	l->took_us[us < MOST_US ? us : MOST_US - 1]++;
	l->n++;
}

static void *work(void *arg)
{
	struct load *l = arg;
	struct pollfd fd[CONNECTIONS];
	int64_t since[CONNECTIONS];

	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		fd[i] = (struct pollfd){.fd = connect_to(l->b), .events = POLLIN};
		must(fd[i].fd, "connecting to the server");
		since[i] = send_one(l, fd[i].fd);
	}
	while (bench_now() < l->until) {
		must(poll(fd, CONNECTIONS, 1000), "poll");
		for (unsigned int i = 0; i < CONNECTIONS; i++) {
			if (!fd[i].revents)
				continue;
			expect_ok(fd[i].fd, 1);
			note(l, since[i]);
			since[i] = send_one(l, fd[i].fd);
		}
	}
	for (unsigned int i = 0; i < CONNECTIONS; i++)
		close(fd[i].fd);
	return NULL;
}

static void load_start(struct bench *b)
{
	load.took_us = mmap(NULL, MOST_US * sizeof(*load.took_us), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (load.took_us == MAP_FAILED)
		bench_fail("no memory");
	load.b = b;
	load.n = 0;
	load.random = 2685821657736338717ull;
	load.start = bench_now() + b->before_ms * 500000;
	load.until = load.start + b->window_ms * 1000000;
	if (pthread_create(&load.thread, NULL, work, &load))
		bench_fail("no thread can be had");
	usleep((useconds_t)b->before_ms * 1000);
}

static void load_end(struct bench *b, struct figures *f, const char *what)
{
	uint64_t seen = 0, max = 0, p99 = 0;

	if (bench_now() > load.until && !b->report.o.quick)
		bench_fail("%s: saving took longer than the window", what);
	pthread_join(load.thread, NULL);
	if (!load.n)
		bench_fail("no request was answered");
	for (uint64_t us = 0; us < MOST_US; us++) {
		seen += load.took_us[us];
		max = load.took_us[us] ? us : max;
		p99 = seen * 100 <= load.n * 99 ? us + 1 : p99;
	}
	munmap(load.took_us, MOST_US * sizeof(*load.took_us));
	series_add(&f->rps, (double)load.n * 1e3 / (double)b->window_ms);
	series_add(&f->p99, (double)p99);
	series_add(&f->max, (double)max);
}

/* ---- turns */

static void find_marker(const struct bench *b, const char *path, const char *what)
{
	const char *argv[] = {"grep", "-qaF", MARKER, path, NULL};

	if (command_run(&b->c, argv).status)
		bench_fail("%s: wrong contents: a value is not in the file", what);
}

static void open_with_gdb(const struct bench *b)
{
	static const char script[] = "! command -v gdb >/dev/null || gdb -nx -batch -ex bt "
				     "\"$(command -v redis-server)\" \"$0\" 2>&1 | grep -q '^#1 '";
	const char *argv[] = {"sh", "-c", script, b->c.file, NULL};

	if (command_run(&b->c, argv).status)
		bench_fail("ferry: gdb finds no backtrace in the file");
}

static void turn_none(struct bench *b)
{
	load_start(b);
	load_end(b, &b->none, "not saved");
}

static void turn_bgsave(struct bench *b)
{
	char answer[256];

	command_warm_up(&b->c, (uint64_t)b->keys << 11);
	load_start(b);
	int64_t begin = bench_now();
	ask(b, "BGSAVE\r\n", "\r\n", answer, sizeof(answer));
	while (info(b, "persistence", "rdb_bgsave_in_progress") > 0)
		usleep(20000);
	series_add(&b->bgsave.total, (double)(bench_now() - begin) / 1e6);
	series_add(&b->bgsave.stop, info(b, "stats", "latest_fork_usec"));
	series_add(&b->bgsave.extra, info(b, "persistence", "rdb_last_cow_size") / (1 << 20));
	load_end(b, &b->bgsave, "bare BGSAVE");
	find_marker(b, b->rdb, "bare BGSAVE");
	unlink(b->rdb);
}

static void turn_ours(struct bench *b)
{
	command_warm_up(&b->c, (uint64_t)b->keys << 11);
	load_start(b);
	command_reset_peak(b->server);
	uint64_t before = command_memory_of(b->server, "VmRSS");
	struct outcome o = command_snapshot(&b->c, b->server, NULL, NULL);
	uint64_t after = command_memory_of(b->server, "VmHWM");
	series_add(&b->ours.total, o.ms);
	series_add(&b->ours.stop, command_stop_us(&b->c));
	series_add(&b->ours.extra,
		   (double)(o.peak + (after > before ? after - before : 0)) / (1 << 20));
	series_add(&b->size, (double)before / (1 << 20));
	load_end(b, &b->ours, "ferry");
	find_marker(b, b->c.file, "ferry");
	open_with_gdb(b);
}

/* ---- the server */

static void become_server(const struct bench *b)
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(null, STDOUT_FILENO);
	execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", b->socket, "--save",
	       "", "--dir", b->c.dir, "--dbfilename", "rdb", (char *)NULL);
	_exit(127);
}

static void start_server(struct bench *b)
{
	int64_t until = bench_now() + 20000000000ll;
	char answer[64];

	snprintf(b->socket, sizeof(b->socket), "%s/socket", b->c.dir);
	snprintf(b->rdb, sizeof(b->rdb), "%s/rdb", b->c.dir);
	b->server = (pid_t)must(fork(), "fork");
	if (!b->server)
		become_server(b);
	while ((b->control = connect_to(b)) < 0) {
		int status;
		if (waitpid(b->server, &status, WNOHANG) == b->server) {
			b->server = 0;
			bench_cannot(WEXITSTATUS(status) == 127
					     ? "there is no redis-server: install it"
					     : "redis-server doesn't start");
		}
		if (bench_now() > until)
			bench_fail("redis-server doesn't listen");
		usleep(10000);
	}
	ask(b, "SET marker '" MARKER "'\r\n", "\r\n", answer, sizeof(answer));
	fill(b);
}

static struct bench bench;

static void tidy(void)
{
	if (getpid() != command_owner)
		return;
	if (bench.server > 0) {
		kill(bench.server, SIGKILL);
		waitpid(bench.server, NULL, 0);
	}
}

/* ---- the report */

struct pair {
	const char *name, *unit;
	const struct series *base, *ours;
	double limit;
	bool more;
};

static void report(struct bench *b)
{
	const struct figures *bgsave = &b->bgsave, *ours = &b->ours, *none = &b->none;
	const struct pair pairs[] = {
		{"stop", "us", &bgsave->stop, &ours->stop, 1, false},
		{"extra_of_size", "MiB", &b->size, &ours->extra, 0.02, false},
		{"extra", "MiB", &bgsave->extra, &ours->extra, 0, false},
		{"total", "ms", &bgsave->total, &ours->total, 0, false},
		{"requests", "requests/s", &bgsave->rps, &ours->rps, 1, true},
		{"p99", "us", &bgsave->p99, &ours->p99, 2, false},
		{"max", "us", &bgsave->max, &ours->max, 0, false},
		{"requests_of_unsaved", "requests/s", &none->rps, &ours->rps, 0, true},
		{"p99_of_unsaved", "us", &none->p99, &ours->p99, 0, false},
	};

	for (unsigned int i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		const struct pair *p = &pairs[i];
		const char *base = p->base == &b->size                              ? "the server"
				   : p->base == &none->rps || p->base == &none->p99 ? "not saved"
										    : "BGSAVE";
		report_add(&b->report, &(struct comparison){.name = p->name,
							    .unit = p->unit,
							    .base_what = base,
							    .ours_what = "pageferry snapshot",
							    .base = p->base,
							    .ours = p->ours,
							    .more_is_better = p->more,
							    .limit = p->limit});
	}
}

int main(int argc, char **argv)
{
	report_open(&bench.report, argc, argv, "What does it cost a Redis server that it is saved?",
		    3);
	bench.keys = bench.report.o.quick ? KEYS_QUICK : KEYS;
	bench.window_ms = bench.report.o.quick ? WINDOW_MS / 40 : WINDOW_MS;
	bench.before_ms = bench.report.o.quick ? BEFORE_MS / 10 : BEFORE_MS;
	command_init(&bench.c, (uint64_t)bench.keys << 11);
	atexit(tidy);
	start_server(&bench);
	for (unsigned int i = 0; i < bench.report.o.rounds; i++) {
		turn_none(&bench);
		turn_bgsave(&bench);
		turn_ours(&bench);
	}
	report(&bench);
	return report_close(&bench.report);
}
