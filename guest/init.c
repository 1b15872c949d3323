// SPDX-License-Identifier: MIT
/*
 * PID 1 of the test guest: mounts, loads modules, starts what is to be kept busy, and answers
 * commands on the console until it is told to power off.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "boot.h"
#include "guest.h"

#define STACK_BYTES (128 << 10)

pthread_rwlock_t state_lock = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;

static void __attribute__((format(printf, 2, 0)))
vsay(const char *verdict, const char *fmt, va_list ap)
{
	char line[256];
	int n = snprintf(line, sizeof(line), "ferry: %s", verdict);
	int room = (int)sizeof(line) - n - 1;
	int more = vsnprintf(line + n, (size_t)room, fmt, ap);

	n += more < room ? more : room - 1;
	line[n++] = '\n';
	if (write(STDOUT_FILENO, line, (size_t)n) < 0)
		return; /* there is no other place to say so */
}

void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsay("", fmt, ap);
	va_end(ap);
}

void fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsay("FAIL ", fmt, ap);
	va_end(ap);
	power_off();
}

void nap_us(uint32_t us)
{
	struct timespec ts = {us / 1000000, us % 1000000 * 1000l};

	nanosleep(&ts, NULL);
}

void thread_start(void *(*run)(void *), void *arg, int fifo_priority)
{
	struct sched_param param = {.sched_priority = fifo_priority};
	pthread_attr_t attr;
	pthread_t thread;
	int rc;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	if (fifo_priority) {
		pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
		pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
		pthread_attr_setschedparam(&attr, &param);
	}
	rc = pthread_create(&thread, &attr, run, arg);
	if (rc)
		fail("thread: %s", strerror(rc));
	pthread_attr_destroy(&attr);
}

struct param_desc {
	const char *name;
	uint32_t *value;
	uint32_t min, max;
};

static void parse_param(const struct param_desc *table, size_t n, const char *word)
{
	size_t len = strcspn(word, "=");

	for (size_t i = 0; i < n; i++) {
		unsigned long value;
		char *end;

		if (strlen(table[i].name) != len || memcmp(table[i].name, word, len) != 0)
			continue;
		errno = 0;
		value = strtoul(word + len + (word[len] == '='), &end, 10);
		if (errno || *end || end == word + len + 1 || !word[len] || value < table[i].min ||
		    value > table[i].max)
			fail("ferry.%s: a number from %u to %u is needed", word, table[i].min,
			     table[i].max);
		*table[i].value = (uint32_t)value;
		return;
	}
	fail("ferry.%s: no such parameter", word);
}

static void parse_cmdline(struct params *p)
{
	const struct param_desc table[] = {
		{"fill", &p->fill, 1, 100},       {"fill_mib", &p->fill_mib, 0, 1 << 20},
		{"writers", &p->writers, 0, 64},  {"pace_us", &p->pace_us, 0, 60000000},
		{"disk", &p->disk, 0, 1},         {"thp", &p->thp, 0, 1},
		{"selftest", &p->selftest, 0, 1},
	};
	char line[4096] = "";
	char *save, *word;
	FILE *f = open_for_reading("/proc/cmdline");

	if (!fgets(line, sizeof(line), f))
		fail("/proc/cmdline: %s", strerror(errno));
	fclose(f);
	for (word = strtok_r(line, " \n", &save); word; word = strtok_r(NULL, " \n", &save))
		if (!strncmp(word, "ferry.", 6))
			parse_param(table, sizeof(table) / sizeof(table[0]), word + 6);
}

static void say_counts(const char *verdict)
{
	struct memory_counts mem = memory_counts();
	struct disk_counts disk = disk_counts();

	say("%s pages=%" PRIu64 " writes=%" PRIu64 " disk=%" PRIu64 " gap_us=%" PRIu64
	    " ticks=%" PRIu64 " corrupt=%" PRIu64 " disk_bad=%" PRIu64,
	    verdict, mem.pages, mem.writes, disk.records, tick_max_gap_us(), tick_count(),
	    mem.corrupt, disk.bad);
}

/* Whatever was wrong at any time keeps the verdict bad. */
static void check(void)
{
	pthread_rwlock_wrlock(&state_lock);
	memory_check();
	disk_check();
	pthread_rwlock_unlock(&state_lock);
	say_counts(memory_counts().corrupt || disk_counts().bad ? "CHECK bad" : "CHECK ok");
}

static void obey(const char *command)
{
	if (!strcmp(command, "check"))
		check();
	else if (!strcmp(command, "stats"))
		say_counts("STATS");
	else if (!strcmp(command, "poweroff"))
		power_off();
	else
		say("UNKNOWN");
}

static _Noreturn void serve_console(void)
{
	char line[64];
	size_t len = 0;
	char c;

	for (;;) {
		ssize_t n = read(STDIN_FILENO, &c, 1);

		if (n == 0 || (n < 0 && errno != EINTR))
			nap_us(100000); /* the console was hung up; it may come back */
		if (n != 1)
			continue;
		if (c != '\n') {
			/* What is too long for any command stays too long. */
			if (len < sizeof(line) - 1)
				line[len++] = c;
			continue;
		}
		line[len] = '\0';
		if (len)
			obey(line);
		len = 0;
	}
}

int main(void)
{
	struct params params = {.fill = 80, .writers = 1, .pace_us = 200, .thp = 1};

	mount_one("devtmpfs", "/dev");
	mount_one("proc", "/proc");
	mount_one("sysfs", "/sys");
	make_raw(STDIN_FILENO);
	parse_cmdline(&params);
	load_modules();
	start_cpus();
	memory_fill(&params);
	if (params.selftest)
		memory_selftest();
	memory_start_writers(&params);
	if (params.disk)
		disk_start();
	tick_start();
	say("READY fill_pages=%" PRIu64 " wanted_pages=%" PRIu64, memory_counts().pages,
	    memory_counts().wanted);
	serve_console();
}
