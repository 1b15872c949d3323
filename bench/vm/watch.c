// SPDX-License-Identifier: MIT
/* The observer that sees the guest's ticks from outside, see guest/watch.c. */
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include "bench/vm/vm.h"
#include "tools/json_get.h"

#define ANSWER_NS 5000000000ll

static struct child observer;
static int commands = -1;
static struct lines answers = {.fd = -1};
static struct json_object *answer;

static void answered(void *arg, char *text)
{
	(void)arg;
	json_object_put(answer);
	answer = json_read_object(text, strlen(text));
}

void watch_start(const struct place *place)
{
	char program[600], fifo[80];
	int in[2], out[2];

	snprintf(program, sizeof(program), "%s/guest/watch", place->build);
	snprintf(fifo, sizeof(fifo), "%s/ticks", place->dir);
	must(mkfifo(fifo, 0600), "mkfifo");
	must(pipe2(in, O_CLOEXEC), "pipe");
	must(pipe2(out, O_CLOEXEC), "pipe");
	child_start(&observer, "the observer of the ticks", (char *[]){program, fifo, NULL},
		    (struct child_io){in[0], out[1], STDERR_FILENO}, SIGKILL);
	close(in[0]);
	close(out[1]);
	commands = in[1];
	lines_open(&answers, out[0], answered, NULL);
}

void watch_end(void)
{
	close(commands);
	lines_close(&answers);
	child_end(&observer, 1000);
}

static void ask(const char *command)
{
	int64_t deadline = bench_now() + ANSWER_NS;

	json_object_put(answer);
	answer = NULL;
	if (write(commands, command, strlen(command)) < 0)
		bench_fail("the observer of the ticks has ended");
	while (!answer && !observer.ended && bench_now() < deadline)
		loop_step(10);
	if (!answer)
		bench_fail("the observer of the ticks does not answer");
}

void watch_mark(void)
{
	ask("mark\n");
}

static double figure(const char *key, double divisor)
{
	int64_t value;

	/* The largest gap may have begun before the window. */
	if (!json_get_int(answer, key, INT64_MIN, INT64_MAX, &value))
		bench_fail("the observer of the ticks says no %s", key);
	return (double)value / divisor;
}

struct window watch_read(void)
{
	ask("read\n");
	return (struct window){
		.gap_ms = figure("max_gap_us", 1e3),
		.gap_at_ms = figure("max_gap_at_us", 1e3),
		.length_ms = figure("window_us", 1e3),
		.p99_ms = figure("p99_us", 1e3),
		.ticks = (int64_t)figure("ticks", 1),
		.skips = (int64_t)figure("skips", 1),
	};
}
