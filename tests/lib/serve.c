// SPDX-License-Identifier: MIT
/* See serve.h. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/wire.h"
#include "tests/lib/serve.h"

struct ferry_loop *new_loop(void)
{
	struct ferry_loop_opts opts = {.size = sizeof(opts), .cpu = FERRY_CPU_ANY};
	struct ferry_loop *loop;

	check_equal(ferry_loop_new(&loop, &opts), 0);
	return loop;
}

static void *serve(void *arg)
{
	check_equal(ferry_loop_run(arg), 0);
	return NULL;
}

void server_start(struct server *server, struct ferry_loop *loop)
{
	server->loop = loop;
	check_equal(pthread_create(&server->thread, NULL, serve, loop), 0);
}

void server_stop(struct server *server)
{
	ferry_loop_stop(server->loop);
	pthread_join(server->thread, NULL);
}

/* ---- a source */

static int answer_pattern(struct ferry_source *src, const struct ferry_fault *fault,
			  struct ferry_answer *answer)
{
	struct pattern_source *p = (struct pattern_source *)src;

	p->asked++;
	if (fault->kind != FERRY_FAULT_MISSING)
		return ferry_source_zero()->answer(src, fault, answer);
	if (fault->offset / PAGE >= p->npages)
		return -ERANGE;
	answer->kind = FERRY_ANSWER_COPY;
	answer->from = p->pages + fault->offset;
	answer->len = p->len;
	return 0;
}

static void installed_pattern(struct ferry_source *src, uint64_t offset, uint64_t len)
{
	struct pattern_source *p = (struct pattern_source *)src;

	check(offset + len <= p->npages * PAGE);
	p->installed += (unsigned int)(len / PAGE);
}

static void removed_pattern(struct ferry_source *src, uint64_t offset, uint64_t len)
{
	struct pattern_source *p = (struct pattern_source *)src;

	p->last_removed_offset = offset;
	p->last_removed_len = len;
	p->removed_bytes += len;
	p->removed_calls++;
}

void pattern_init(struct pattern_source *p, uint64_t seed, uint64_t npages)
{
	memset(p, 0, sizeof(*p));
	p->src = (struct ferry_source){.answer = answer_pattern,
				       .installed = installed_pattern,
				       .removed = removed_pattern};
	p->seed = seed;
	p->npages = npages;
	p->pages = map_memory(npages * PAGE, 0);
	for (uint64_t i = 0; i < npages; i++)
		fill_page(p->pages + i * PAGE, seed + i);
}

void pattern_fini(struct pattern_source *p)
{
	unmap(p->pages, p->npages * PAGE);
}

/* ---- threads */

static void *read_word(void *arg)
{
	struct reader *r = arg;

	r->signal = peek(r->addr, &r->value);
	r->done = true;
	return NULL;
}

void reader_start(struct reader *r, const void *addr)
{
	*r = (struct reader){.addr = addr};
	check_equal(pthread_create(&r->thread, NULL, read_word, r), 0);
}

void reader_join(struct reader *r)
{
	pthread_join(r->thread, NULL);
}

static void *advise(void *arg)
{
	struct adviser *a = arg;

	check_equal(madvise(a->addr, a->len, a->advice), 0);
	a->done = true;
	return NULL;
}

void adviser_start(struct adviser *a, void *addr, size_t len, int advice)
{
	*a = (struct adviser){.addr = addr, .len = len, .advice = advice};
	check_equal(pthread_create(&a->thread, NULL, advise, a), 0);
}

void adviser_join(struct adviser *a)
{
	pthread_join(a->thread, NULL);
}

/* ---- descriptors */

void wait_readable(int uffd)
{
	struct pollfd fd = {.fd = uffd, .events = POLLIN};

	while (poll(&fd, 1, -1) < 0)
		check_equal(errno, EINTR);
	check_equal(fd.revents, POLLIN);
}

/* Without malloc(): a thread that forks holds its locks until its event is read. */
void wait_pending(int uffd, unsigned int faults)
{
	char path[40], text[256];
	unsigned int now;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", uffd);
	do {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		check(fd >= 0);
		ssize_t n = read(fd, text, sizeof(text) - 1);
		check(n > 0);
		close(fd);
		text[n] = 0;
		const char *at = strstr(text, "pending:");
		check(at && sscanf(at, "pending: %u", &now) == 1);
		sched_yield();
	} while (now < faults);
}

void send_fd(int sock, int fd)
{
	check_equal(wire_send(sock, WIRE_FDS_MORE, NULL, 0, NULL, 0, &fd, 1, WIRE_FOREVER), 0);
}

int receive_fd(int sock)
{
	struct wire_msg msg;

	check_equal(wire_recv(sock, &msg, WIRE_FOREVER), 0);
	check_equal(msg.nfds, 1);
	int fd = msg.fds[0];
	msg.nfds = 0;
	wire_msg_free(&msg);
	return fd;
}
