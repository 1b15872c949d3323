// SPDX-License-Identifier: MIT
/*
 * A hostile peer: it plays the taker against a real giver and the giver against a real taker,
 * mostly by the protocol, so that it gets far, and then not. Every call must return by its
 * deadline, no descriptor may be left, and nothing may crash.
 *
 * build/tests/fuzz/peer [SECONDS [SEED]]
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include "lib/uffd.h"
#include "lib/wire.h"
#include "tests/lib/test.h"

#define TIMEOUT_MS 15u
#define HANG_MS    10000
#define RANGES     3u
#define LEN        (BLOCK + 5 * PAGE)
#define SPACING    (4 * BLOCK) /* from one range to the next */

/* Each thread has a generator of its own, so that a seed tells all. */
struct hostile {
	pthread_t thread;
	uint64_t seed;
	int sock;
	char *mem;      /* memory that it describes */
	char *readable; /* memory that doesn't wait for anybody */
	int uffd;
	atomic_bool stop;
};

static uint64_t any(struct hostile *h, uint64_t below)
{
	return (next_random(&h->seed) >> 11) % below;
}

static int null_fd;

/* ---- messages */

static void raw(struct hostile *h, const void *data, size_t size, int fd, unsigned int nfds)
{
	union {
		char buf[CMSG_SPACE(253 * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {(void *)(uintptr_t)data, size};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

	memset(&control, 0, sizeof(control));
	if (nfds) {
		mh.msg_control = control.buf;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		for (unsigned int i = 0; i < nfds; i++)
			memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(int));
	}
	/* Whatever becomes of it. */
	if (sendmsg(h->sock, &mh, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		h->stop = errno == EPIPE;
}

/* A header and a payload, of which now and then a byte is wrong. */
static void message(struct hostile *h, uint16_t type, const void *payload, uint32_t len, int fd,
		    unsigned int nfds)
{
	struct wire_header head = {WIRE_MAGIC, WIRE_VERSION, type, len, nfds};
	uint8_t *m = allocate(sizeof(head) + len);

	memcpy(m, &head, sizeof(head));
	if (len)
		memcpy(m + sizeof(head), payload, len);
	if (any(h, 12) == 0)
		m[any(h, sizeof(head) + len)] ^= (uint8_t)(1u << any(h, 8));
	size_t cut = any(h, 20) ? sizeof(head) + len : any(h, sizeof(head) + len);
	if (any(h, 25) == 0)
		nfds = (unsigned int)any(h, 254);
	if (cut)
		raw(h, m, cut, fd, nfds);
	free(m);
}

static void offer(struct hostile *h)
{
	struct {
		struct wire_offer head;
		struct wire_range r[RANGES];
	} o = {{.nranges = 1 + (uint32_t)any(h, RANGES)}, {{0}}};

	if (any(h, 2)) {
		/* Its own memory may be read: so staging is possible. */
		o.head.token_addr = (uintptr_t)h->readable;
		memcpy(o.head.token, h->readable, sizeof(o.head.token));
	}
	for (uint32_t i = 0; i < RANGES; i++)
		o.r[i] = (struct wire_range){.addr = (uintptr_t)h->mem + i * SPACING,
					     .len = LEN,
					     .id = i,
					     .flags = any(h, 3) ? 0 : FERRY_RANGE_MERGEABLE};
	message(h, WIRE_OFFER, &o, (uint32_t)(sizeof(o.head) + o.head.nranges * sizeof(o.r[0])), -1,
		0);
}

static void attach(struct hostile *h)
{
	struct {
		struct wire_attach head;
		uint64_t addr[RANGES];
	} a = {{.nranges = RANGES - (any(h, 15) == 0), .flags = (uint32_t)any(h, 4)}, {0}};

	for (uint32_t i = 0; i < RANGES; i++)
		a.addr[i] = (uintptr_t)h->mem + i * SPACING;
	if (any(h, 15) == 0)
		a.addr[any(h, RANGES)] += any(h, 2) ? 1 : BLOCK * any(h, 8);
	message(h, WIRE_ATTACH, &a, (uint32_t)(sizeof(a.head) + a.head.nranges * sizeof(a.addr[0])),
		any(h, 15) ? h->uffd : null_fd, 1);
}

static void block(struct hostile *h, uint16_t type)
{
	uint64_t at = ((uintptr_t)h->mem + BLOCK * any(h, 12)) & ~(BLOCK - 1);
	struct wire_block b = {at, at};
	message(h, type, &b, sizeof(b), -1, 0);
}

static void result(struct hostile *h, uint16_t type)
{
	static const int32_t errors[] = {0, 0, 0, -EAGAIN, -EEXIST, -EPERM, -EFAULT};
	struct wire_result r = {.error = errors[any(h, COUNT(errors))], .done = any(h, 513) * PAGE};
	message(h, type, &r, sizeof(r), -1, 0);
}

static void say(struct hostile *h, uint16_t type)
{
	struct wire_shadow shadow = {.nfds = (uint32_t)any(h, 4)};
	struct wire_commit commit = {.tables = (uint32_t)any(h, 2)};
	struct wire_done done = {.moved = (uint32_t)any(h, 2)};

	switch (type) {
	case WIRE_OFFER:
		offer(h);
		break;
	case WIRE_ATTACH:
		attach(h);
		break;
	case WIRE_SHADOW:
		message(h, type, &shadow, sizeof(shadow), -1, 0);
		if (shadow.nfds)
			message(h, WIRE_FDS_MORE, NULL, 0, null_fd, shadow.nfds);
		break;
	case WIRE_FDS_MORE:
		message(h, type, NULL, 0, null_fd, 1 + (unsigned int)any(h, 3));
		break;
	case WIRE_COMMIT:
		message(h, type, &commit, sizeof(commit), -1, 0);
		break;
	case WIRE_STAGE:
	case WIRE_PLACE:
		block(h, type);
		break;
	case WIRE_STAGED:
	case WIRE_PLACED:
		result(h, type);
		break;
	case WIRE_DONE:
		message(h, type, &done, sizeof(done), -1, 0);
		break;
	case WIRE_ABORT:
		message(h, type, "because", 7, -1, 0);
		break;
	default:
		message(h, type, NULL, 0, -1, 0);
	}
}

/* Take what has come, so that the other side doesn't block for long; sometimes wait for it. */
static void listen_a_little(struct hostile *h)
{
	struct wire_msg msg;
	int ret = wire_recv(h->sock, &msg, wire_deadline((unsigned int)any(h, 4) ? 3 : 0));

	if (!ret)
		wire_msg_free(&msg);
	else if (ret == -EPIPE)
		h->stop = true;
}

static void play(struct hostile *h, const uint16_t *script, size_t n)
{
	size_t far = any(h, 3) ? n : any(h, n + 1);

	for (size_t i = 0; i < far && !h->stop; i++) {
		listen_a_little(h);
		if (any(h, 12) == 0)
			say(h, (uint16_t)(1 + any(h, WIRE_ABORT)));
		if (any(h, 25))
			say(h, script[i]);
	}
	/* Having come so far: anything, for a while. */
	for (uint64_t i = any(h, 20); i && !h->stop; i--) {
		say(h, (uint16_t)(1 + any(h, WIRE_ABORT)));
		listen_a_little(h);
	}
	close(h->sock);
}

static void *play_taker(void *arg)
{
	static const uint16_t script[] = {WIRE_HELLO,  WIRE_ATTACH, WIRE_READY,   WIRE_COMMITTED,
					  WIRE_STAGED, WIRE_PLACED, WIRE_STAGED,  WIRE_PLACED,
					  WIRE_STAGED, WIRE_PLACED, WIRE_FINISHED};

	play(arg, script, COUNT(script));
	return NULL;
}

static void *play_giver(void *arg)
{
	static const uint16_t script[] = {WIRE_OFFER, WIRE_SHADOW, WIRE_COMMIT, WIRE_ARRIVED, WIRE_STAGE,
					  WIRE_PLACE, WIRE_STAGE,  WIRE_PLACE,  WIRE_DONE};

	play(arg, script, COUNT(script));
	return NULL;
}

/* ---- the real sides */

static unsigned int reached[FERRY_PHASES + 1][2];

static void check_reason(const char *text)
{
	check(strlen(text) < WIRE_REASON);
	for (; *text; text++)
		check((unsigned char)*text >= ' ' && *text != 127);
}

static void real_giver(int sock, char *mem)
{
	struct ferry_range r[RANGES];
	struct ferry_offer o = {r, RANGES, "x", 1};
	struct ferry_give_opts opts = {
		.size = sizeof(opts), .timeout_ms = TIMEOUT_MS, .cpu = FERRY_CPU_ANY, .flags = FERRY_GIVE_TABLES};
	struct ferry_give *give = NULL;
	unsigned int far = 0;

	for (unsigned int i = 0; i < RANGES; i++)
		r[i] = (struct ferry_range){
			.addr = (uintptr_t)mem + i * SPACING, .len = LEN, .id = i};
	if (!ferry_give_open(&give, sock, &o, &opts)) {
		far = 1;
		if (!ferry_give_wait(give, FERRY_PHASE_ATTACHED, -1) &&
		    !ferry_give_shadow(give, &null_fd, 1)) {
			far = 3;
			if (!ferry_give_wait(give, FERRY_PHASE_READY, -1))
				far = 4;
			if (far == 4 && !ferry_give_commit(give))
				far = 5;
			if (far == 5 && !ferry_give_wait(give, FERRY_PHASE_DONE, -1))
				far = 6;
		}
		struct ferry_report report = {.size = sizeof(report)};
		check(ferry_give_report(give, &report) == 0);
		check_reason(ferry_give_reason(give));
	}
	ferry_give_close(give, "no");
	reached[far][0]++;
}

static void real_taker(int sock, char *mem)
{
	struct ferry_take_opts opts = {
		.size = sizeof(opts), .timeout_ms = TIMEOUT_MS, .flags = FERRY_TAKE_TABLES};
	struct ferry_take *take = NULL;
	unsigned int far = 0, n;
	const int *fds;

	if (ferry_take_open(&take, sock, &opts)) {
		reached[0][1]++;
		return;
	}
	far = 1;
	const struct ferry_offer *o = ferry_take_offer(take);
	int ret = 0;
	for (unsigned int i = 0; !ret && i < o->nranges; i++)
		ret = o->nranges > RANGES || o->ranges[i].len > LEN
			      ? -E2BIG
			      : ferry_take_map(take, i, mem + i * SPACING);
	if (!ret && !ferry_take_attach(take))
		far = 2;
	if (far == 2 && !ferry_take_shadow(take, &fds, &n)) {
		for (unsigned int i = 0; i < n; i++)
			close(fds[i]);
		far = 3;
	}
	if (far == 3 && !ferry_take_commit(take))
		far = 5;
	if (far == 5 && !ferry_take_done(take, -1))
		far = 6;
	check_reason(ferry_take_reason(take));
	ferry_take_abort(take, "no");
	reached[far][1]++;
}

/* ---- */

static void one(uint64_t seed, bool giver)
{
	size_t room = RANGES * SPACING;
	char *src = map_memory(room, 0), *dst = map_memory(room, 0);
	struct hostile h = {.seed = seed | 1, .uffd = -1, .readable = src};
	unsigned int before = count_fds();
	int fd[2];

	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) == 0);
	check(wire_prepare(fd[1]) == 0);
	h.sock = fd[1];
	for (unsigned int i = 0; i < RANGES; i++) {
		if (any(&h, 2))
			madvise(src + i * SPACING, LEN, MADV_HUGEPAGE);
		for (size_t n = 0; n < LEN; n += PAGE * (1 + any(&h, 3)))
			src[i * SPACING + n] = (char)any(&h, 3);
	}
	if (giver) {
		h.mem = dst;
		h.uffd = ferry_uffd_open(any(&h, 4) ? 0 : UFFD_FEATURE_EVENT_REMOVE, 0);
		check(h.uffd >= 0);
		for (unsigned int i = 0; i < RANGES; i++)
			check(uffd_register(h.uffd, (uintptr_t)dst + i * SPACING, LEN,
					    UFFDIO_REGISTER_MODE_MISSING, NULL) == 0);
	} else {
		h.mem = src;
	}
	check(pthread_create(&h.thread, NULL, giver ? play_taker : play_giver, &h) == 0);
	if (giver)
		real_giver(fd[0], src);
	else
		real_taker(fd[0], dst);
	h.stop = true;
	pthread_join(h.thread, NULL);
	if (h.uffd >= 0)
		close(h.uffd);
	check(count_fds() == before);
	unmap(src, room);
	unmap(dst, room);
}

/* A call that never returns: say which run it was, and end. */
static void *watch(void *arg)
{
	const atomic_ullong *run = arg;
	unsigned long long last = *run;
	int64_t since = now_ms();

	for (;;) {
		usleep(100000);
		if (*run != last) {
			last = *run;
			since = now_ms();
		}
		if (now_ms() - since > HANG_MS) {
			printf("not ok 1 - run %llu hangs\n", last);
			fflush(stdout);
			_exit(1);
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int64_t until = now_ms() + (argc > 1 ? atoi(argv[1]) : 4) * 1000l;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL) * 2654435761u;
	static atomic_ullong run;
	pthread_t watcher;

	printf("1..1\n# seed %llu\n", (unsigned long long)(seed | 1));
	fflush(stdout);
	seed |= 1;
	int uffd = ferry_uffd_open(0, FERRY_UFFD_KERNEL_FAULTS);
	if (uffd < 0) {
		printf("ok 1 # SKIP no userfaultfd with all faults for this user: %s\n",
		       strerror(-uffd));
		return 0;
	}
	close(uffd);
	null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	check(pthread_create(&watcher, NULL, watch, &run) == 0);
	for (; now_ms() < until; run++)
		one(next_random(&seed), run % 2);
	printf("# %llu runs; phases reached by the giver, the taker:\n", (unsigned long long)run);
	for (unsigned int i = 0; i <= FERRY_PHASES; i++)
		printf("# %s: %u, %u\n", i ? ferry_phase_name(i - 1) : "none", reached[i][0],
		       reached[i][1]);
	printf("ok 1 - hostile peers\n");
	return 0;
}
