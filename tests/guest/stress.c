// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guest/pattern.h"
#include "harness.h"
#include "stress.h"

void *shared(size_t len)
{
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	check(at != MAP_FAILED);
	return at;
}

uint64_t below(uint64_t *state, uint64_t n)
{
	return mix64(++*state) % n;
}

void stay_on_cpu(unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu % (unsigned int)sysconf(_SC_NPROCESSORS_ONLN), &set);
	check_call(sched_setaffinity(0, sizeof(set), &set));
}

/* ---- answers */

void tally_add(struct tally *t, int answer, uint64_t bytes, const int *allowed)
{
	while (answer && *allowed && *allowed != -answer)
		allowed++;
	if (answer && !*allowed)
		test_failed(__FILE__, __LINE__, "the module says %s", strerrorname_np(-answer));
	t->answers[-answer]++;
	t->pages += bytes / PAGE;
}

void tally_note(const struct tally *t, const char *of)
{
	char line[256] = "";
	size_t len = 0;

	for (size_t i = 1; i < COUNT(t->answers); i++)
		if (t->answers[i] && len < sizeof(line))
			len += (size_t)snprintf(line + len, sizeof(line) - len, ", %s %lu",
						strerrorname_np((int)i), t->answers[i]);
	note("%s: %lu pages, done %lu%s", of, t->pages, t->answers[0], line);
}

/* ---- files */

void write_file(const char *path, const char *fmt, ...)
{
	char text[128];
	va_list ap;
	int fd = open(path, O_WRONLY | O_CLOEXEC), n;

	if (fd < 0)
		test_failed(__FILE__, __LINE__, "%s: %s", path, strerror(errno));
	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (write(fd, text, (size_t)n) != n)
		test_failed(__FILE__, __LINE__, "%s: %s: %s", path, text, strerror(errno));
	close(fd);
}

long read_number(const char *path)
{
	char text[32] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		test_failed(__FILE__, __LINE__, "%s: %s", path, strerror(errno));
	close(fd);
	return strtol(text, NULL, 10);
}
