// SPDX-License-Identifier: MIT
/*
 * A key-value server that replaces its own program under load, with its clients connected, and
 * saves its store while it serves.
 *
 *     cc -D_GNU_SOURCE -O2 -pthread -o kv kv.c -lpageferry
 *     ./kv 7000 FILE   and in another terminal: nc 127.0.0.1 7000 (of
 *                       netcat-openbsd), then "set a 1", "incr a"
 *     save snapshot    the store goes to FILE, from which the next ./kv loads it;
 *     save fork         the same by fork(); "info" counts what is saved
 *     kill -USR2 PID   starts what ./kv is now, gives it memory and sockets, and exits
 *
 * Should the new program refuse or die before it has taken over, the old one carries on.
 *
 * kv_save.h, kv_give.h and kv_take.h show the use of the library; the rest is any server's.
 */
#include <arpa/inet.h>
#include <sys/mman.h>
#include <sys/signalfd.h>

#include "kv_load.h"

static int signals;
static bool upgrade_wanted, successor_speaks;

static void on_signals(void)
{
	struct signalfd_siginfo info;

	while (read(signals, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGUSR2)
			upgrade_wanted = true;
		else if (info.ssi_signo == SIGALRM && successor)
			kill(successor, SIGKILL); /* it is late; its socket will tell */
		else if (info.ssi_signo == SIGTERM)
			exit(0);
	}
}

static void serve(int timeout_ms)
{
	struct epoll_event events[64];
	int n = epoll_wait(epoll_fd, events, 64, timeout_ms);

	for (int i = 0; i < n; i++) {
		uint32_t id = events[i].data.u32;
		if (id < CLIENTS)
			client_serve(&arena->clients[id]);
		else if (id == ID_SIGNALS)
			on_signals();
		else if (id == ID_SUCCESSOR)
			successor_speaks = true; /* handled when no event is left over */
		else if (id == ID_SAVE)
			save_finish();
		else
			client_accept();
	}
}

static int listen_on(uint16_t port)
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_port = htons(port),
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	int on = 1;

	listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(listener, (struct sockaddr *)&addr, len) < 0 || listen(listener, 128) < 0 ||
	    getsockname(listener, (struct sockaddr *)&addr, &len) < 0)
		return -errno;
	printf("port %u pid %d\n", ntohs(addr.sin_port), getpid());
	return fflush(stdout) ? -errno : 0;
}

static int prepare(void)
{
	sigset_t mask;

	/* In the hand-over they wait until we are back in the loop, or until nobody needs us. */
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR2);
	sigaddset(&mask, SIGALRM);
	sigaddset(&mask, SIGTERM);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	signals = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	void *mem = mmap(ARENA_ADDR, ARENA_LEN, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	return signals < 0 || epoll_fd < 0 || mem == MAP_FAILED ? -errno : 0;
}

static bool number(const char *text, long max, int *n)
{
	char *end;
	long value = strtol(text, &end, 10);

	*n = (int)value;
	return *text >= '0' && *text <= '9' && !*end && value <= max;
}

static int start(uint16_t port, int sock)
{
	int ret = prepare();

	if (!ret && sock >= 0)
		return take_over(sock);
	if (!ret && *saving.file)
		ret = load(saving.file);
	return ret ? ret : listen_on(port);
}

int main(int argc, char **argv)
{
	int port = 0, sock = -1;

	if (argc < 2 || argc > 4 || !number(argv[1], UINT16_MAX, &port) ||
	    (argc == 4 && !number(argv[3], INT_MAX, &sock))) {
		fprintf(stderr,
			"kv: wrong arguments: use kv PORT [FILE]; kv itself adds another\n");
		return 2;
	}
	saving.file = argc > 2 ? argv[2] : "";
	int ret = start((uint16_t)port, sock);
	if (ret) {
		fprintf(stderr, "kv: cannot start: %s\n", strerror(-ret));
		ferry_take_close(take);
		return 1;
	}
	watch(EPOLL_CTL_ADD, signals, EPOLLIN, ID_SIGNALS);
	watch(EPOLL_CTL_ADD, listener, EPOLLIN, ID_LISTENER);
	for (;;) {
		serve(take ? 20 : -1);
		if (take && ferry_take_done(take, 0) == 0) {
			ferry_take_close(take);
			take = NULL;
		}
		if (successor_speaks) {
			successor_speaks = false;
			upgrade_finish();
		}
		if (upgrade_wanted && !successor && !take && !saving.running) {
			upgrade_wanted = false;
			upgrade_start(argv[0], argv[1], saving.file);
		}
	}
}
