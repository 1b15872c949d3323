/* SPDX-License-Identifier: MIT */
/*
 * The clients of tests/cli/kv.c and kv_save.c. Each owns its keys and knows, byte by byte, what it
 * must be answered. They send up to eight requests at once, often cut in the middle, and reconnect
 * now and then. Accounts are everybody's: the sum of all is always 0.
 */
#ifndef KV_LOAD_H
#define KV_LOAD_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/clock.h"
#include "lib/hist.h"
#include "tests/lib/test.h"

#define LOAD_CLIENTS  50u
#define LOAD_ACCOUNTS 64u
#define LOAD_COUNTERS 3u
#define LOAD_KEYS     5u
#define LOAD_DEADLINE 30000 /* ms */
#define LOAD_VALUE    951u  /* the longest value of examples/kv.c */

struct load_client {
	int fd;
	unsigned int id, batches;
	uint64_t random;
	unsigned long counters[LOAD_COUNTERS];
	unsigned int versions[LOAD_KEYS]; /* of the value that was set last; 0: none */
	char out[1 << 15], want[1 << 15];
	size_t out_len, out_sent, want_len, want_seen;
	int64_t since; /* ns */
};

struct load {
	uint16_t port;
	bool paused;
	struct load_client clients[LOAD_CLIENTS + 1]; /* the last one has the bulk of the data */
	unsigned long answers;
	struct hist took; /* a batch of requests, ns */
	char error[600];  /* what went wrong first */
};

/* @buffer: how much the kernel may keep of what we don't read; 0: its choice. */
static int load_connect(uint16_t port, int buffer)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_port = htons(port),
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_return_code(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)), errno);
	if (buffer)
		assert_return_code(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer)),
				   errno);
	assert_return_code(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), errno);
	return fd;
}

static void load_begin(struct load *load, uint16_t port)
{
	memset(load, 0, sizeof(*load));
	load->port = port;
	for (unsigned int i = 0; i <= LOAD_CLIENTS; i++) {
		struct load_client *c = &load->clients[i];
		c->id = i;
		c->random = i + 1;
		c->fd = load_connect(port, 0);
	}
}

static void load_end(struct load *load)
{
	for (unsigned int i = 0; i <= LOAD_CLIENTS; i++)
		close(load->clients[i].fd);
}

/* A value that no other key and no other version of this one has. */
static void load_value(char *value, uint64_t client, uint64_t key, uint64_t version)
{
	uint64_t random = (client << 40 | key << 16 | version) * 2654435761u + 1;
	size_t len = 1 + next_random(&random) % LOAD_VALUE;

	for (size_t i = 0; i < len; i++)
		value[i] = (char)('!' + next_random(&random) % 90);
	value[len] = 0;
}

static void load_ask(struct load_client *c, const char *want_prefix, const char *want_value,
		     const char *request)
{
	c->want_len += (size_t)snprintf(c->want + c->want_len, sizeof(c->want) - c->want_len,
					"%s%s\n", want_prefix, want_value);
	c->out_len += (size_t)snprintf(c->out + c->out_len, sizeof(c->out) - c->out_len, "%s\n",
				       request);
}

static void load_ask_counter(struct load_client *c, unsigned int i, bool increment)
{
	char request[32], value[24];

	c->counters[i] += increment;
	snprintf(value, sizeof(value), "%lu", c->counters[i]);
	snprintf(request, sizeof(request), "%s c%u-%u", increment ? "incr" : "get", c->id, i);
	load_ask(c, c->counters[i] ? "= " : "none", c->counters[i] ? value : "", request);
}

static void load_ask_key(struct load_client *c, unsigned int i, bool set)
{
	char request[LOAD_VALUE + 32], value[LOAD_VALUE + 1] = "";

	c->versions[i] += set;
	if (c->versions[i])
		load_value(value, c->id, i, c->versions[i]);
	snprintf(request, sizeof(request), set ? "set k%u-%u %s" : "get k%u-%u", c->id, i, value);
	if (set)
		load_ask(c, "ok", "", request);
	else
		load_ask(c, c->versions[i] ? "= " : "none", value, request);
}

static void load_ask_move(struct load_client *c, uint64_t random)
{
	unsigned int from = random % LOAD_ACCOUNTS,
		     to = random / LOAD_ACCOUNTS % (LOAD_ACCOUNTS - 1);
	char request[32];

	snprintf(request, sizeof(request), "move a%u a%u", from, to < from ? to : to + 1);
	load_ask(c, "ok", "", request);
}

static bool load_idle(const struct load_client *c)
{
	return c->want_seen == c->want_len;
}

static void load_start_batch(struct load_client *c)
{
	c->out_len = c->out_sent = c->want_len = c->want_seen = 0;
	c->since = clock_ns();
}

static void load_next_batch(struct load *load, struct load_client *c)
{
	if (++c->batches % 50 == c->id) {
		close(c->fd);
		c->fd = load_connect(load->port, 0);
	}
	load_start_batch(c);
	for (uint64_t n = 1 + next_random(&c->random) % 8; n; n--) {
		uint64_t random = next_random(&c->random);
		if (random % 16 < 4)
			load_ask_move(c, random / 16);
		else if (random & 1)
			load_ask_counter(c, random / 16 % LOAD_COUNTERS, random & 2);
		else
			load_ask_key(c, random / 16 % LOAD_KEYS, random & 2);
	}
}

static void load_fail(struct load *load, const struct load_client *c, const char *what,
		      const char *got, size_t got_len)
{
	if (load->error[0])
		return;
	snprintf(load->error, sizeof(load->error), "client %u: %s: got '%.*s', due was '%.*s'",
		 c->id, what, got_len < 200 ? (int)got_len : 200, got, 200, c->want + c->want_seen);
}

static void load_send(struct load *load, struct load_client *c)
{
	size_t len = c->out_len - c->out_sent;

	/* The rest follows in the next round: a request that is cut waits at the server. */
	if (len > 1 && next_random(&c->random) % 3 == 0)
		len = 1 + next_random(&c->random) % (len - 1);
	ssize_t n = send(c->fd, c->out + c->out_sent, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN)
		load_fail(load, c, strerror(errno), "", 0);
	c->out_sent += n > 0 ? (size_t)n : 0;
}

static void load_receive(struct load *load, struct load_client *c)
{
	char got[4096];
	ssize_t n = recv(c->fd, got, sizeof(got), MSG_DONTWAIT);

	if (n <= 0) {
		if (n == 0 || errno != EAGAIN)
			load_fail(load, c, n ? strerror(errno) : "disconnected", "", 0);
		return;
	}
	if ((size_t)n > c->want_len - c->want_seen ||
	    memcmp(got, c->want + c->want_seen, (size_t)n) != 0) {
		load_fail(load, c, "wrong answer", got, (size_t)n);
		return;
	}
	c->want_seen += (size_t)n;
	for (ssize_t i = 0; i < n; i++)
		load->answers += got[i] == '\n';
	if (load_idle(c))
		hist_add(&load->took, (uint64_t)(clock_ns() - c->since));
}

static void load_round(struct load *load)
{
	struct pollfd fds[LOAD_CLIENTS + 1];
	bool more = false;

	for (unsigned int i = 0; i <= LOAD_CLIENTS; i++) {
		struct load_client *c = &load->clients[i];
		if (i < LOAD_CLIENTS && !load->paused && load_idle(c))
			load_next_batch(load, c);
		if (c->out_sent < c->out_len)
			load_send(load, c);
		more = more || c->out_sent < c->out_len;
		fds[i] = (struct pollfd){.fd = c->fd, .events = POLLIN};
	}
	if (poll(fds, LOAD_CLIENTS + 1, more ? 0 : 2) <= 0)
		return;
	for (unsigned int i = 0; i <= LOAD_CLIENTS; i++)
		if (fds[i].revents)
			load_receive(load, &load->clients[i]);
}

/* Go on until @done says so. Fails the test on a wrong answer or when it takes too long. */
static void load_until(struct load *load, bool (*done)(void *arg), void *arg, const char *what)
{
	int64_t deadline = now_ms() + LOAD_DEADLINE;

	while (!load->error[0] && !done(arg)) {
		load_round(load);
		if (now_ms() > deadline)
			snprintf(load->error, sizeof(load->error), "too late: %s", what);
	}
	assert_string_equal(load->error, "");
}

static bool load_all_idle(void *arg)
{
	const struct load *load = arg;

	for (unsigned int i = 0; i <= LOAD_CLIENTS; i++)
		if (!load_idle(&load->clients[i]))
			return false;
	return true;
}

/* Wait for all answers that are due, and begin nothing new until load_resume. */
static void load_pause(struct load *load)
{
	load->paused = true;
	load_until(load, load_all_idle, load, "the last answers");
}

static void load_resume(struct load *load)
{
	load->paused = false;
}

/* Set, or get and check, the values of keys @from to @to - 1. Needs the load paused. */
static void load_bulk(struct load *load, unsigned int from, unsigned int to, bool set)
{
	struct load_client *c = &load->clients[LOAD_CLIENTS];
	char request[LOAD_VALUE + 32], value[LOAD_VALUE + 1];

	for (unsigned int i = from; i < to;) {
		load_start_batch(c);
		for (unsigned int end = i + 16; i < to && i < end; i++) {
			load_value(value, c->id, i, 1);
			snprintf(request, sizeof(request), set ? "set b%u %s" : "get b%u", i,
				 value);
			load_ask(c, set ? "ok" : "= ", set ? "" : value, request);
		}
		load_until(load, load_all_idle, load, "answers in bulk");
	}
}

static void load_print_times(struct load *load, const char *what)
{
	print_message("# %s: a batch of requests took %.1f ms (median), %.1f (p99), %.1f (most)\n",
		      what, (double)hist_permille(&load->took, 500) / 1e6,
		      (double)hist_permille(&load->took, 990) / 1e6, (double)load->took.max / 1e6);
	load->took = (struct hist){0};
}

/* Every key of every client has what it was set to last. Needs the load paused. */
static void load_check_all(struct load *load)
{
	for (unsigned int i = 0; i < LOAD_CLIENTS; i++) {
		struct load_client *c = &load->clients[i];
		load_start_batch(c);
		for (unsigned int k = 0; k < LOAD_COUNTERS; k++)
			load_ask_counter(c, k, false);
		for (unsigned int k = 0; k < LOAD_KEYS; k++)
			load_ask_key(c, k, false);
	}
	load_until(load, load_all_idle, load, "the last check");
}

#endif
