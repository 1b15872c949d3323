// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"
#include "hold.h"
#include "peer.h"
#include "proc.h"

/* ---- pins; in the peer */

static int ring = -1;

void pin_page(uint64_t addr)
{
	struct io_uring_params params = {0};
	struct iovec iov = {(void *)addr, PAGE};

	ring = (int)syscall(SYS_io_uring_setup, 2, &params);
	check_call(ring);
	check_call(syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1));
}

void unpin_page(void)
{
	check_call(syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, NULL, 0));
	close(ring);
}

static int64_t run_pin(const uint64_t *arg)
{
	pin_page(arg[0]);
	return 0;
}

static int64_t run_unpin(const uint64_t *arg)
{
	(void)arg;
	unpin_page();
	return 0;
}

void peer_pin(struct peer *p, uint64_t addr)
{
	peer_do(p, run_pin, addr);
}

void peer_unpin(struct peer *p)
{
	peer_do(p, run_unpin, 0);
}

/* ---- KSM */

#define KSM "/sys/kernel/mm/ksm/"

static const char *const settings[] = {KSM "run", KSM "sleep_millisecs", KSM "pages_to_scan"};
static uint64_t was[COUNT(settings)];

static void set(const char *path, uint64_t value)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	check_is(file_write(path, text), 0);
}

void ksm_begin(void)
{
	if (access(settings[0], W_OK))
		test_skip("no KSM");
	for (size_t i = 0; i < COUNT(settings); i++)
		was[i] = file_number(settings[i]);
	set(settings[1], 1);
	set(settings[2], 1000);
	set(settings[0], 1);
}

void ksm_unmerge_all(void)
{
	set(settings[0], 2);
	set(settings[0], 0);
}

void ksm_end(void)
{
	for (size_t i = 0; i < COUNT(settings); i++)
		set(settings[i], was[i]);
}

uint64_t peer_merge_page(struct peer *p, uint64_t page, uint64_t id)
{
	uint64_t twin = peer_map(p, 0, PAGE, MAP_4K);

	peer_fill(p, twin, PAGE, id, SEED);
	check_is(peer_madvise(p, twin, PAGE, MADV_MERGEABLE), 0);
	ksm_begin();
	await(30000, page_frame(peer_pid(p), page) == page_frame(peer_pid(p), twin));
	ksm_end();
	return twin;
}

/* Not by KPF_KSM: Linux 6.12 tells it of all anonymous pages. */
uint64_t ksm_merged(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ksm_merging_pages", (int)(pid ? pid : getpid()));
	return file_number(path);
}
