// SPDX-License-Identifier: MIT
/*
 * Any bytes as messages of a hand-over: through the checks, and through a socket, with descriptors.
 *
 * As it is: build/tests/fuzz/wire [SECONDS [SEED]] runs mutations of valid messages.
 * For libFuzzer: make B=/tmp/fuzz CC=clang SAN=-fsanitize=fuzzer,address CPPFLAGS=-DLIBFUZZER
 * /tmp/fuzz/tests/fuzz/wire
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "lib/wire.h"

#define INPUT_MAX 60000u /* what a socket takes at once */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "failed: %s\n", what);
	abort();
}

static volatile uint64_t looked_at;

/* What the library would do with an accepted message: look at every byte of it. */
static void use(const struct wire_msg *msg)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < msg->len; i++)
		sum += msg->payload[i];
	must(msg->payload[msg->len] == 0, "a NUL follows");
	if (msg->type == WIRE_OFFER) {
		const struct wire_offer *head = (const void *)msg->payload;
		const struct wire_range *r = wire_offer_ranges(msg);
		unsigned int shared = 0;
		for (uint32_t i = 0; i < head->nranges; i++) {
			must(r[i].len && r[i].addr + r[i].len > r[i].addr, "no range wraps around");
			shared += r[i].flags & FERRY_RANGE_SHARED;
		}
		must(shared == msg->nfds, "a descriptor for each shared range");
		for (uint32_t i = 0; i < head->blob_len; i++)
			sum += wire_offer_blob(msg)[i];
	}
	looked_at = sum;
	if (msg->type == WIRE_ATTACH)
		must(msg->nfds == 1, "one userfaultfd");
	if (msg->type == WIRE_ABORT)
		must(strlen((const char *)msg->payload) < WIRE_REASON, "the reason ends");
	for (uint32_t i = 0; msg->type == WIRE_ABORT && i < msg->len; i++)
		must(msg->payload[i] >= ' ' && msg->payload[i] != 127, "it can be shown");
}

/* The checks alone: what is behind the payload must not be looked at. */
static void check_only(const uint8_t *data, size_t size)
{
	struct wire_header h;

	if (size < sizeof(h) + 1)
		return;
	memcpy(&h, data, sizeof(h));
	h.len = (uint32_t)(size - sizeof(h) - 1);
	h.nfds %= WIRE_FDS + 1;
	if (wire_check_header(&h))
		return;
	struct wire_msg msg = {.type = h.type, .len = h.len, .nfds = h.nfds};
	msg.payload = malloc(h.len + 1);
	must(msg.payload != NULL, "memory");
	memcpy(msg.payload, data + sizeof(h), h.len);
	msg.payload[h.len] = 0;
	if (!wire_check_payload(&msg))
		use(&msg);
	free(msg.payload);
}

/* Not a socket: the kernel would look for cycles of them at each close. */
static int some_fd(void)
{
	static int fd = -1;

	if (fd < 0)
		fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return fd;
}

static void send_with(int sock, const uint8_t *data, size_t size, unsigned int nfds)
{
	int fd = some_fd();
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
	must(sendmsg(sock, &mh, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size, "sendmsg()");
}

static int lowest_free_fd(void)
{
	int fd = dup(some_fd());
	close(fd);
	return fd;
}

/* The last byte says how the rest is sent: in one piece or two, with how many descriptors. */
static void through_socket(const uint8_t *data, size_t size)
{
	struct wire_msg msg;
	int fd[2], ret;

	if (size < 2 || size > INPUT_MAX)
		return;
	uint8_t how = data[--size];
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, fd) == 0, "socketpair()");
	must(wire_prepare(fd[1]) == 0, "wire_prepare()");
	int free_fd = lowest_free_fd();
	size_t first = how & 1 ? size : size / 2;
	if (first)
		send_with(fd[0], data, first, how & 2 ? how % 254 : 0);
	if (size > first)
		send_with(fd[0], data + first, size - first, how & 4 ? 1 : 0);
	shutdown(fd[0], SHUT_WR);
	while (!(ret = wire_recv(fd[1], &msg, wire_deadline(10000)))) {
		use(&msg);
		wire_msg_free(&msg);
	}
	must(ret == -EPIPE || ret == -EPROTO || ret == -EPROTONOSUPPORT, "the errno of the header");
	must(lowest_free_fd() == free_fd, "no descriptor is left");
	close(fd[0]);
	close(fd[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check_only(data, size);
	through_socket(data, size);
	return 0;
}

#ifndef LIBFUZZER
/* ---- without libFuzzer: mutations of valid messages for some seconds */

static uint64_t state;

static uint64_t any(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 11) % below;
}

static size_t put(uint8_t *out, uint16_t type, const void *payload, uint32_t len, uint32_t nfds)
{
	struct wire_header h = {WIRE_MAGIC, WIRE_VERSION, type, len, nfds};

	memcpy(out, &h, sizeof(h));
	if (len)
		memcpy(out + sizeof(h), payload, len);
	return sizeof(h) + len;
}

static size_t put_offer(uint8_t *out)
{
	struct {
		struct wire_offer head;
		struct wire_range r[40];
		char blob[300];
	} o = {0};
	uint32_t n = (uint32_t)(1 + any(40)), blob = (uint32_t)any(300), shared = 0;

	o.head.nranges = n;
	o.head.blob_len = blob;
	for (uint32_t i = 0; i < n; i++) {
		o.r[i] = (struct wire_range){
			.addr = (i + 1) << 24, .len = (1 + any(100)) << 12, .id = i};
		o.r[i].flags = (uint32_t)any(8);
		shared += o.r[i].flags & 1;
	}
	memmove((char *)o.r + n * sizeof(o.r[0]), o.blob, blob);
	return put(out, WIRE_OFFER, &o, (uint32_t)(sizeof(o.head) + n * sizeof(o.r[0]) + blob),
		   shared);
}

static size_t put_message(uint8_t *out)
{
	static const uint32_t lens[] = {
		[WIRE_SHADOW] = 8,  [WIRE_STAGE] = 16, [WIRE_STAGED] = 16, [WIRE_PLACE] = 16,
		[WIRE_PLACED] = 16, [WIRE_DONE] = 8,   [WIRE_ABORT] = 30};
	uint16_t type = (uint16_t)(WIRE_HELLO + any(WIRE_ABORT));
	uint8_t payload[64] = {0};

	if (type == WIRE_OFFER)
		return put_offer(out);
	if (type == WIRE_ATTACH) {
		payload[0] = (uint8_t)any(8);
		return put(out, type, payload, 8 + 8u * payload[0], 1);
	}
	if (type == WIRE_ABORT)
		memset(payload, 'a', sizeof(payload));
	return put(out, type, payload, type < sizeof(lens) / sizeof(lens[0]) ? lens[type] : 0,
		   type == WIRE_FDS_MORE ? 1 + (uint32_t)any(128) : 0);
}

static size_t mutate(uint8_t *data, size_t size)
{
	static const uint32_t special[] = {0,     1,      0x7f,       0x80,       0xff,
					   0xfff, 0x1000, 0x7fffffff, 0x80000000, 0xffffffff};

	for (uint64_t n = any(5); n; n--) {
		size_t at = any(size);
		uint32_t value = special[any(sizeof(special) / sizeof(special[0]))];
		switch (any(5)) {
		case 0:
			data[at] ^= (uint8_t)(1u << any(8));
			break;
		case 1:
			data[at] = (uint8_t)any(256);
			break;
		case 2:
			at &= ~3ull;
			memcpy(data + at, &value, size - at < 4 ? size - at : 4);
			break;
		case 3:
			size = 1 + any(size);
			break;
		default:
			memmove(data + at, data + any(size - at), (size - at) / 2);
		}
	}
	return size;
}

int main(int argc, char **argv)
{
	static uint8_t data[INPUT_MAX];
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 3);
	unsigned long runs = 0;

	state = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL) * 2654435761u;
	state |= 1;
	printf("1..1\n# seed %llu\n", (unsigned long long)state);
	fflush(stdout);
	for (; time(NULL) < end; runs++) {
		size_t size = 0;
		for (uint64_t n = 1 + any(4); n; n--)
			size += put_message(data + size);
		size = mutate(data, size);
		data[size++] = (uint8_t)any(256);
		LLVMFuzzerTestOneInput(data, size);
	}
	printf("# %lu inputs\nok 1 - messages\n", runs);
	return 0;
}
#endif
