// SPDX-License-Identifier: MIT
/*
 * exec: the memory is gone with the program, and so is whoever had the pin. What is left of the pin
 * is seen by another process that has the same descriptors.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/pins.h"

#define SHELL   "/bin/sh"
#define SOON_MS 300u  /* nothing keeps exec from going on */
#define LATE_MS 3000u /* it has what it was waiting for */

/* Both have it. */
struct both {
	struct pin pin;
	struct trial_cell *cell;
	pid_t whose;         /* the process that goes on to another program */
	volatile int error;  /* of it: it doesn't */
	char self[PATH_MAX]; /* its program until then */
};

static bool has_gone_on(const struct both *b)
{
	char path[48], exe[PATH_MAX];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/exe", b->whose);
	n = readlink(path, exe, sizeof(exe) - 1);
	if (n < 0)
		return false;
	exe[n] = '\0';
	return strcmp(exe, b->self) != 0;
}

static bool goes_on(const struct both *b, unsigned int ms)
{
	for (unsigned int i = 0; i < ms && !b->error; i++) {
		if (has_gone_on(b))
			return true;
		poll(NULL, 0, 1);
	}
	return false;
}

static void look_at_rest(struct both *b)
{
	const struct pin_kind *kind = b->pin.kind;
	uint32_t word = 0;
	int ret = kind->adopt ? kind->adopt(&b->pin) : 0;

	if (!ret && kind->read)
		ret = kind->read(&b->pin, &word);
	if (ret)
		trial_set(b->cell, "tie broken", "the memory is gone; %s: %s", b->pin.what,
			  pins_errno(ret));
	else
		trial_set(b->cell, "tie broken", "the memory is gone; through the pin %s",
			  word == WORD_FIRST ? "what it held is still read"
					     : "something else is read");
}

static void look_at_wait(struct both *b)
{
	uint32_t word;
	int ret = direct_answer(&b->pin, WORD_OTHER, &word);

	if (ret)
		pins_not_here(b->cell, b->pin.what, ret);
	else if (goes_on(b, LATE_MS))
		trial_set(b->cell, "waits", "exec goes on only when the I/O has ended");
	else
		trial_set(b->cell, "hangs", "exec doesn't go on when the I/O has ended");
}

static _Noreturn void watch(struct both *b, int ready)
{
	char byte;

	/* Nothing: it could not be begun. */
	if (read(ready, &byte, 1) != 1 || byte)
		_exit(EXIT_SUCCESS);
	if (goes_on(b, b->pin.kind->in_flight ? SOON_MS : LATE_MS))
		look_at_rest(b);
	else if (b->error)
		pins_not_here(b->cell, SHELL, b->error);
	else if (b->pin.kind->in_flight)
		look_at_wait(b);
	else
		trial_set(b->cell, "hangs", "exec doesn't go on");
	_exit(EXIT_SUCCESS);
}

static int begin(struct both *b)
{
	struct scene s = {.operation = &operation_nothing};
	int ret = scene_memory(&s);

	if (ret)
		return pin_error(&b->pin, s.note, ret);
	b->pin.page = s.page;
	return b->pin.kind->take(&b->pin);
}

static struct both *make_both(struct trial_cell *cell, const struct pin_kind *kind)
{
	struct both *b = mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			      -1, 0);

	if (b == MAP_FAILED)
		return NULL;
	b->pin.kind = kind;
	b->cell = cell;
	b->whose = getpid();
	return readlink("/proc/self/exe", b->self, sizeof(b->self) - 1) < 0 ? NULL : b;
}

/* The shell lasts until the other process has ended, which has the pipe's other end. */
static _Noreturn void go_on(struct both *b, int in)
{
	dup2(in, STDIN_FILENO);
	execl(SHELL, SHELL, "-c", "read x; exit 0", (char *)NULL);
	b->error = -errno;
	for (;;)
		pause();
}

void exec_try(struct trial_cell *cell, const struct pin_kind *kind)
{
	struct both *b = make_both(cell, kind);
	int ready[2], in[2] = {-1, -1}, ret;
	pid_t watcher;
	bool failed;

	if (!b) {
		pins_not_here(cell, "exec", -errno);
		return;
	}
	if (kind->in_flight)
		b->pin.direct.sent = true;
	ret = kind->prepare ? kind->prepare(&b->pin) : 0;
	/* After that: what it starts must not have the pipe's other end. */
	if (!ret && (pipe2(ready, O_CLOEXEC) || pipe2(in, O_CLOEXEC)))
		ret = pin_error(&b->pin, "pipe", -errno);
	if (ret) {
		pins_not_here(cell, b->pin.what, ret);
		return;
	}
	watcher = scene_fork_with_files();
	if (watcher < 0) {
		pins_not_here(cell, "fork", -errno);
		return;
	}
	if (!watcher)
		watch(b, ready[0]);
	ret = begin(b);
	failed = ret != 0;
	if (ret)
		pins_not_here(cell, b->pin.what, ret);
	if (write(ready[1], &failed, 1) == 1 && !failed)
		go_on(b, in[0]);
}
