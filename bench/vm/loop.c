// SPDX-License-Identifier: MIT
#include <poll.h>
#include <signal.h>

#include "bench/vm/vm.h"

#define SOURCES_MAX 32

static struct {
	int fd[SOURCES_MAX];
	loop_fn *fn[SOURCES_MAX];
	void *arg[SOURCES_MAX];
	unsigned int n;
} loop;

static volatile sig_atomic_t caught;

void loop_add(int fd, loop_fn *fn, void *arg)
{
	if (loop.n == SOURCES_MAX)
		bench_fail("too many descriptors");
	loop.fd[loop.n] = fd;
	loop.fn[loop.n] = fn;
	loop.arg[loop.n++] = arg;
}

static unsigned int find(int fd)
{
	unsigned int i = 0;

	while (i < loop.n && loop.fd[i] != fd)
		i++;
	return i;
}

void loop_remove(int fd)
{
	unsigned int i = find(fd);

	if (i == loop.n)
		return;
	loop.n--;
	loop.fd[i] = loop.fd[loop.n];
	loop.fn[i] = loop.fn[loop.n];
	loop.arg[i] = loop.arg[loop.n];
}

static void dispatch(const struct pollfd *polled, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		unsigned int now = polled[i].revents ? find(polled[i].fd) : loop.n;

		/* One handler may have removed another one's descriptor. */
		if (now < loop.n)
			loop.fn[now](loop.arg[now]);
	}
}

void loop_step(int timeout_ms)
{
	struct pollfd polled[SOURCES_MAX];
	unsigned int n = loop.n;

	for (unsigned int i = 0; i < n; i++)
		polled[i] = (struct pollfd){.fd = loop.fd[i], .events = POLLIN};
	if (!caught && poll(polled, n, timeout_ms) > 0)
		dispatch(polled, n);
	if (caught)
		exit(128 + caught);
}

static void catch (int signal)
{
	caught = signal;
}

void loop_catch_signals(void)
{
	const struct sigaction action = {.sa_handler = catch};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static void split(struct lines *lines)
{
	char *end;

	while ((end = memchr(lines->buf, '\n', lines->len))) {
		size_t used = (size_t)(end - lines->buf) + 1;

		*end = '\0';
		if (end > lines->buf && end[-1] == '\r')
			end[-1] = '\0';
		lines->line(lines->arg, lines->buf);
		lines->len -= used;
		memmove(lines->buf, lines->buf + used, lines->len);
	}
	/* What is too long to be a line that is waited for. */
	if (lines->len == sizeof(lines->buf))
		lines->len = 0;
}

static void lines_read(void *arg)
{
	struct lines *lines = arg;
	ssize_t n = read(lines->fd, lines->buf + lines->len, sizeof(lines->buf) - lines->len);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		lines_close(lines);
		return;
	}
	lines->len += (size_t)n;
	split(lines);
}

void lines_open(struct lines *lines, int fd, void (*line)(void *arg, char *text), void *arg)
{
	lines->fd = fd;
	lines->line = line;
	lines->arg = arg;
	lines->len = 0;
	loop_add(fd, lines_read, lines);
}

void lines_close(struct lines *lines)
{
	if (lines->fd < 0)
		return;
	loop_remove(lines->fd);
	close(lines->fd);
	lines->fd = -1;
}
