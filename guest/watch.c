// SPDX-License-Identifier: MIT
/*
 * Sees the guest's ticks from outside: watch FIFO
 *
 * Every byte that QEMU's isa-debugcon writes into the FIFO is one tick, and its value counts the
 * ticks, modulo 256. Lines on stdin ask for figures; each is answered with one line of JSON:
 *
 *   mark   a new window begins          {"marked":true}
 *   read   the window so far            {"ticks":...,"max_gap_us":...,...}
 *
 * The end of stdin ends the program. A gap is the time from one tick to the next as they arrive
 * here; one that is still open when "read" comes counts for the largest gap, so that a VM which
 * has stopped for good doesn't look well.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Gaps are counted in buckets that are 1/32 of a power of two wide: at most 3 % off. */
#define SUB_BITS 5
#define BUCKETS  ((64 - SUB_BITS + 1) << SUB_BITS)

struct window {
	int64_t start;
	uint64_t ticks;
	uint64_t gaps;
	int64_t max_gap;
	int64_t max_gap_at; /* when it began */
	uint64_t skips;     /* a tick's number wasn't the one after the last */
	uint64_t histogram[BUCKETS];
};

static struct window window;
static int64_t last_tick; /* 0 before the first one; kept when a window begins */
static uint8_t last_number;

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static unsigned int bucket_of(uint64_t ns)
{
	unsigned int shift;

	if (ns < 1u << SUB_BITS)
		return (unsigned int)ns;
	shift = 63 - SUB_BITS - (unsigned int)__builtin_clzll(ns);
	return ((shift + 1) << SUB_BITS) + (unsigned int)((ns >> shift) - (1u << SUB_BITS));
}

static uint64_t bucket_floor(unsigned int bucket)
{
	unsigned int shift = bucket >> SUB_BITS;
	uint64_t sub = bucket & ((1u << SUB_BITS) - 1);

	return shift ? (sub + (1u << SUB_BITS)) << (shift - 1) : sub;
}

static uint64_t percentile_ns(unsigned int percent)
{
	uint64_t rank = (window.gaps * percent + 99) / 100;
	uint64_t seen = 0;

	for (unsigned int i = 0; i < BUCKETS; i++) {
		seen += window.histogram[i];
		if (seen >= rank && seen)
			return bucket_floor(i);
	}
	return 0;
}

static void count_gap(int64_t gap, int64_t began)
{
	window.gaps++;
	window.histogram[bucket_of((uint64_t)gap)]++;
	if (gap > window.max_gap) {
		window.max_gap = gap;
		window.max_gap_at = began;
	}
}

/* Ticks that come in one batch arrived together: between them the gap is nothing. */
static void count_ticks(const uint8_t *numbers, size_t n, int64_t now)
{
	for (size_t i = 0; i < n; i++) {
		if (last_tick) {
			count_gap(now - last_tick, last_tick);
			window.skips += numbers[i] != (uint8_t)(last_number + 1);
		}
		last_tick = now;
		last_number = numbers[i];
		window.ticks++;
	}
}

static int drain_fifo(int fd)
{
	uint8_t numbers[4096];

	for (;;) {
		/* Never an end of file: see open_fifo(). */
		ssize_t n = read(fd, numbers, sizeof(numbers));

		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		count_ticks(numbers, (size_t)n, now_ns());
	}
}

static void print_window(void)
{
	int64_t now = now_ns();
	int64_t max_gap = window.max_gap, max_gap_at = window.max_gap_at;

	if (last_tick && now - last_tick > max_gap) {
		max_gap = now - last_tick;
		max_gap_at = last_tick;
	}
	printf("{\"ticks\":%" PRIu64 ",\"max_gap_us\":%" PRId64 ",\"max_gap_at_us\":%" PRId64
	       ",\"p50_us\":%" PRIu64 ",\"p99_us\":%" PRIu64 ",\"skips\":%" PRIu64
	       ",\"window_us\":%" PRId64 "}\n",
	       window.ticks, max_gap / 1000, max_gap ? (max_gap_at - window.start) / 1000 : 0,
	       percentile_ns(50) / 1000, percentile_ns(99) / 1000, window.skips,
	       (now - window.start) / 1000);
}

static void obey(const char *command)
{
	if (!strcmp(command, "mark")) {
		memset(&window, 0, sizeof(window));
		window.start = now_ns();
		printf("{\"marked\":true}\n");
	} else if (!strcmp(command, "read")) {
		print_window();
	} else {
		printf("{\"error\":\"unknown command\"}\n");
	}
	fflush(stdout);
}

/* Returns false at the end of input. */
static bool serve_stdin(void)
{
	static char line[32];
	static size_t len;
	char input[256];
	ssize_t n = read(STDIN_FILENO, input, sizeof(input));

	for (ssize_t i = 0; i < n; i++) {
		if (input[i] != '\n') {
			/* What is too long for any command stays too long. */
			if (len < sizeof(line) - 1)
				line[len++] = input[i];
			continue;
		}
		line[len] = '\0';
		len = 0;
		obey(line);
	}
	return n > 0 || (n < 0 && errno == EINTR);
}

static int open_fifo(const char *path)
{
	struct stat st;
	/* Also open for writing: else the end of a QEMU would be an end of file that poll keeps
	 * reporting. */
	int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (!fstat(fd, &st) && S_ISFIFO(st.st_mode))
		return fd;
	close(fd);
	return -EINVAL;
}

static void lower_latency(void)
{
	struct sched_param param = {.sched_priority = 50};

	/* Best effort: without the permission the figures only get a little coarser. */
	(void)sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param);
	(void)mlockall(MCL_CURRENT);
}

int main(int argc, char **argv)
{
	struct pollfd fds[2] = {{.events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
	int rc = 0;

	if (argc != 2) {
		fprintf(stderr, "watch: one argument is needed: the FIFO that QEMU writes to\n");
		return 2;
	}
	fds[0].fd = open_fifo(argv[1]);
	if (fds[0].fd < 0) {
		fprintf(stderr, "watch: %s: %s: make it with mkfifo\n", argv[1],
			fds[0].fd == -EINVAL ? "not a FIFO" : strerror(-fds[0].fd));
		return 1;
	}
	lower_latency();
	window.start = now_ns();
	while (!rc) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			rc = -errno;
		else if (fds[0].revents)
			rc = drain_fifo(fds[0].fd);
		if (!rc && fds[1].revents && !serve_stdin())
			return 0;
	}
	fprintf(stderr, "watch: %s: %s\n", argv[1], strerror(-rc));
	return 1;
}
