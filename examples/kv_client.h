/* SPDX-License-Identifier: MIT */
/* The clients of kv.c: read requests, execute them, send the answers. An ordinary server. */
#ifndef KV_CLIENT_H
#define KV_CLIENT_H

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "kv_store.h"

/* Whose event it is; below CLIENTS: that client's. */
enum { ID_LISTENER = CLIENTS, ID_SIGNALS, ID_SUCCESSOR, ID_SAVE };

static int epoll_fd, listener;

static void watch(int op, int fd, uint32_t events, uint32_t id)
{
	struct epoll_event event = {.events = events, .data.u32 = id};

	if (epoll_ctl(epoll_fd, op, fd, &event) < 0) {
		perror("kv: epoll_ctl");
		exit(1);
	}
}

/* An answer that is not sent yet comes first: a client that doesn't read isn't read from. */
static void client_watch(const struct client *c, int op)
{
	watch(op, c->fd, c->out_len ? EPOLLOUT : EPOLLIN, (uint32_t)(c - arena->clients));
}

static void client_accept(void)
{
	struct client *c = arena->clients;
	int on = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	while (c < arena->clients + CLIENTS && c->used)
		c++;
	if (c == arena->clients + CLIENTS) {
		close(fd);
		return;
	}
	*c = (struct client){.used = true, .fd = fd};
	arena->nclients++;
	client_watch(c, EPOLL_CTL_ADD);
}

static void client_drop(struct client *c)
{
	/* The other version may hold the socket, too: closing it alone wouldn't end the watch. */
	watch(EPOLL_CTL_DEL, c->fd, 0, 0);
	close(c->fd);
	c->used = false;
	arena->nclients--;
}

/* False: the client is at its end, or broken, or its line is too long. */
static bool client_read(struct client *c)
{
	ssize_t n = recv(c->fd, c->in + c->in_len, sizeof(c->in) - c->in_len, MSG_DONTWAIT);

	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == EINTR);
	c->in_len += (unsigned int)n;
	return true;
}

static bool client_write(struct client *c)
{
	ssize_t n = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	c->out_len -= (unsigned int)n;
	memmove(c->out, c->out + n, c->out_len);
	return true;
}

/* Execute the complete lines for whose answers there is room. Returns whether there were any. */
static bool client_execute(struct client *c)
{
	char *line = c->in, *end = c->in + c->in_len, *newline;

	while (sizeof(c->out) - c->out_len >= REPLY_ROOM &&
	       (newline = memchr(line, '\n', (size_t)(end - line)))) {
		*newline = 0;
		execute(c, line);
		line = newline + 1;
	}
	bool any = line != c->in;
	c->in_len = (unsigned int)(end - line);
	memmove(c->in, line, c->in_len);
	return any;
}

static void client_serve(struct client *c)
{
	bool had_answers = c->out_len, alive = had_answers || client_read(c);

	while (alive && (c->out_len || client_execute(c))) {
		alive = client_write(c);
		if (c->out_len)
			break;
	}
	if (!alive)
		client_drop(c);
	else if (had_answers != (c->out_len != 0))
		client_watch(c, EPOLL_CTL_MOD);
}

#endif
