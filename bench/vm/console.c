// SPDX-License-Identifier: MIT
/*
 * The guest's serial console. Every QEMU connects to a socket of the bench, so that an old and a
 * new one never share a line; the newest one gets the commands.
 */
#include <sys/socket.h>
#include <sys/un.h>

#include "bench/vm/vm.h"

#define CONNECTIONS_MAX 4
#define HEARD_MAX       16
#define PREFIX          "ferry: "

static struct lines connections[CONNECTIONS_MAX];
static unsigned int newest;
static char heard[HEARD_MAX][512];
static unsigned int nheard;

static void hear(void *arg, char *text)
{
	const char *from = strstr(text, PREFIX);

	(void)arg;
	if (from)
		snprintf(heard[nheard++ % HEARD_MAX], sizeof(heard[0]), "%s",
			 from + strlen(PREFIX));
}

static void accept_one(void *arg)
{
	int fd = accept4((int)(intptr_t)arg, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	newest = (newest + 1) % CONNECTIONS_MAX;
	lines_close(&connections[newest]);
	lines_open(&connections[newest], fd, hear, NULL);
}

void console_listen(const struct place *place)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = (int)must(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");

	for (int i = 0; i < CONNECTIONS_MAX; i++)
		connections[i].fd = -1;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/console", place->dir);
	must(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), "bind");
	must(listen(fd, CONNECTIONS_MAX), "listen");
	loop_add(fd, accept_one, (void *)(intptr_t)fd);
}

void console_reset(void)
{
	for (int i = 0; i < CONNECTIONS_MAX; i++)
		lines_close(&connections[i]);
	console_forget();
}

void console_forget(void)
{
	memset(heard, 0, sizeof(heard));
}

bool console_say(const char *command)
{
	int fd = connections[newest].fd;

	return fd >= 0 && send(fd, command, strlen(command), MSG_NOSIGNAL) >= 0 &&
	       send(fd, "\n", 1, MSG_NOSIGNAL) >= 0;
}

const char *console_heard(const char *word)
{
	size_t len = strlen(word);

	for (unsigned int i = 1; i <= HEARD_MAX; i++) {
		const char *text = heard[(nheard - i) % HEARD_MAX];

		if (!strncmp(text, word, len) && (text[len] == ' ' || !text[len]))
			return text;
	}
	return NULL;
}

void console_show(void)
{
	for (unsigned int i = HEARD_MAX; i > 0; i--)
		if (heard[(nheard - i) % HEARD_MAX][0])
			fprintf(stderr, "%s: the guest says: %s\n", program_invocation_short_name,
				heard[(nheard - i) % HEARD_MAX]);
}

uint64_t console_number(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	if (!at || at[strlen(key)] != '=')
		bench_fail("the guest says no %s: %s", key, text);
	return strtoull(at + strlen(key) + 1, NULL, 10);
}
