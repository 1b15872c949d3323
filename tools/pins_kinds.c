// SPDX-License-Identifier: MIT
/* The columns: how each pin is taken, and what can be done through it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tools/pins.h"

int pin_error(struct pin *pin, const char *what, int error)
{
	snprintf(pin->what, sizeof(pin->what), "%s", what);
	return error;
}

/* A pipe has a plain reference to the page, no pin: nobody is told that it will be read later. */
static int splice_take(struct pin *pin)
{
	struct iovec iov = {pin->page, FERRY_PAGE};

	if (pipe2(pin->pipe, O_CLOEXEC))
		return pin_error(pin, "pipe", -errno);
	if (vmsplice(pin->pipe[1], &iov, 1, 0) != (ssize_t)FERRY_PAGE)
		return pin_error(pin, "vmsplice", -errno);
	return 0;
}

static int splice_read(struct pin *pin, uint32_t *word)
{
	if (read(pin->pipe[0], word, sizeof(*word)) != sizeof(*word))
		return pin_error(pin, "pipe", -errno);
	return 0;
}

const struct pin_kind pin_kinds[] = {
	{
		.name = "io_uring buffer",
		.take = uring_take,
		.adopt = uring_adopt,
		.write = uring_write,
		.read = uring_read,
	},
	{
		.name = "O_DIRECT read",
		.prepare = direct_prepare,
		.take = direct_take_read,
		.write = direct_write,
		.in_flight = true,
	},
	{
		.name = "O_DIRECT write",
		.prepare = direct_prepare,
		.take = direct_take_write,
		.read = direct_read,
		.in_flight = true,
	},
	{
		.name = "vmsplice",
		.take = splice_take,
		.read = splice_read,
	},
	{
		.name = "KVM guest",
		.take = kvm_take,
		.write = kvm_write,
		.read = kvm_read,
		.by_address = true,
	},
	{.name = NULL},
};
