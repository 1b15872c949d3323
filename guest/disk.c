// SPDX-License-Identifier: MIT
/*
 * Keeps /dev/vda busy: writes 4 KiB records past the page cache, reads each back, and once more
 * some time later. A record is the page pattern with the slot as page number and a sequence number
 * as generation. What the device has acknowledged must be there for as long as the guest runs.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "guest.h"
#include "pattern.h"

#define DISK_PATH    "/dev/vda"
#define DISK_SLOTS   1024
#define DISK_PACE_US 2000
#define DISK_SAY_MAX 32

static struct {
	int fd;
	uint32_t slots;
	uint64_t *out;                     /* what is written */
	uint64_t *in;                      /* what is read back */
	uint64_t acknowledged[DISK_SLOTS]; /* sequence number; 0 was never written */
} disk;

static _Atomic uint64_t records;
static _Atomic uint64_t bad;

static void report_errno(const char *what, uint32_t slot, ssize_t n)
{
	if (++bad <= DISK_SAY_MAX)
		say("DISK slot=%u %s: %s", slot, what, n < 0 ? strerror(errno) : "short");
}

static void report_record(uint32_t slot, uint64_t seq)
{
	struct pattern_fault fault = pattern_explain(disk.in, slot, seq);

	if (++bad <= DISK_SAY_MAX)
		say("DISK slot=%u kind=%s seq=%" PRIu64 " found_slot=%" PRIu64 " found_seq=%" PRIu64
		    " bad_words=%u first_bad_word=%u",
		    slot, pattern_kind_name(fault.kind), seq, fault.page, fault.generation,
		    fault.bad_words, fault.first_bad_word);
}

static void check_slot(uint32_t slot)
{
	uint64_t seq = disk.acknowledged[slot];
	ssize_t n;

	if (!seq)
		return;
	n = pread(disk.fd, disk.in, PATTERN_BYTES, (off_t)slot * PATTERN_BYTES);
	if (n != PATTERN_BYTES)
		report_errno("read", slot, n);
	else if (!pattern_holds(disk.in, slot, seq))
		report_record(slot, seq);
}

static void write_slot(uint32_t slot, uint64_t seq)
{
	ssize_t n;

	pattern_write(disk.out, slot, seq);
	n = pwrite(disk.fd, disk.out, PATTERN_BYTES, (off_t)slot * PATTERN_BYTES);
	if (n != PATTERN_BYTES) {
		report_errno("write", slot, n);
		return;
	}
	disk.acknowledged[slot] = seq;
	records++;
}

static void *disk_run(void *arg)
{
	(void)arg;
	for (uint64_t seq = 1;; seq++) {
		uint32_t slot = (uint32_t)(seq % disk.slots);
		uint32_t older = (uint32_t)(mix64(seq) % disk.slots);

		pthread_rwlock_rdlock(&state_lock);
		write_slot(slot, seq);
		check_slot(slot);
		check_slot(older);
		pthread_rwlock_unlock(&state_lock);
		nap_us(DISK_PACE_US);
	}
	return NULL;
}

void disk_start(void)
{
	uint64_t bytes = 0;

	/* The driver may still be busy with the device when its module has been loaded. */
	for (int tries = 0; tries < 500; tries++) {
		disk.fd = open(DISK_PATH, O_RDWR | O_DIRECT | O_CLOEXEC);
		if (disk.fd >= 0 || errno != ENOENT)
			break;
		nap_us(10000);
	}
	if (disk.fd < 0 || ioctl(disk.fd, BLKGETSIZE64, &bytes))
		fail("%s: %s", DISK_PATH, strerror(errno));
	if (bytes < PATTERN_BYTES)
		fail("%s: smaller than one record", DISK_PATH);
	bytes /= PATTERN_BYTES;
	disk.slots = bytes < DISK_SLOTS ? (uint32_t)bytes : DISK_SLOTS;
	disk.out = aligned_alloc(PATTERN_BYTES, PATTERN_BYTES);
	disk.in = aligned_alloc(PATTERN_BYTES, PATTERN_BYTES);
	if (!disk.out || !disk.in)
		fail("no memory for the disk's buffers");
	thread_start(disk_run, NULL, 0);
}

void disk_check(void)
{
	for (uint32_t slot = 0; slot < disk.slots; slot++)
		check_slot(slot);
}

struct disk_counts disk_counts(void)
{
	return (struct disk_counts){.records = records, .bad = bad};
}
