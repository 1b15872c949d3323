// SPDX-License-Identifier: MIT
/*
 * The end of taking, good or bad: afterwards nothing of the program's memory is registered any
 * more, and if pages were lost, each of them is poisoned, wherever the program has moved it
 * meanwhile.
 *
 * The events that tell where a range is now were read by the giver. When there were any, or when
 * the giver is gone, the kernel is asked instead which mappings are registered with our
 * userfaultfd.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/resolve.h"
#include "lib/scan.h"
#include "lib/take.h"
#include "lib/uffd.h"

#define ROUNDS_MAX 64

/* A mapping, or a part of one, that is registered with our userfaultfd. */
struct piece {
	uint64_t start, end;
	bool shared; /* registered MINOR; else MISSING */
};

typedef void (*piece_fn)(struct ferry_take *take, const struct piece *piece, void *arg);

/*
 * Read the events that are left, so that no thread of the program waits for ever for somebody to
 * read them. True: there was one, or one is about to come, so mappings may have changed.
 */
static bool read_events(struct ferry_take *take)
{
	struct uffd_msg msgs[16];
	bool any = false;

	for (;;) {
		ssize_t n = read(take->uffd, msgs, sizeof(msgs));
		for (ssize_t i = 0; i < n / (ssize_t)sizeof(msgs[0]); i++)
			any |= msgs[i].event != UFFD_EVENT_PAGEFAULT;
		if (n > 0)
			continue;
		if (!resolve_is_blocked(take->uffd))
			return any;
		any = true;
		poll(NULL, 0, 1);
	}
}

/* ---- the pieces */

/* The offered range that @addr lay in at first, or NULL; *end is cut to where the answer changes.
 */
static const struct ferry_range *range_at(const struct ferry_take *take, uint64_t addr,
					  uint64_t *end)
{
	for (unsigned int i = 0; i < take->offer.nranges; i++) {
		uint64_t start = take->addrs[i], stop = start + take->ranges[i].len;
		if (!start)
			continue;
		if (addr >= start && addr < stop) {
			if (*end > stop)
				*end = stop;
			return &take->ranges[i];
		}
		if (start > addr && *end > start)
			*end = start;
	}
	return NULL;
}

/* What a piece that was moved away has of the flags: we can't tell which range it came from. */
static uint32_t moved_flags(const struct ferry_take *take)
{
	uint32_t any = 0, all = ~0u;

	for (unsigned int i = 0; i < take->offer.nranges; i++) {
		any |= take->ranges[i].flags;
		all &= take->ranges[i].flags;
	}
	return (any & FERRY_RANGE_DONTFORK) | (all & FERRY_RANGE_MERGEABLE);
}

static void release(struct ferry_take *take, const struct piece *piece, void *arg)
{
	(void)arg;
	for (uint64_t at = piece->start, end; at < piece->end; at = end) {
		end = piece->end;
		const struct ferry_range *r = range_at(take, at, &end);
		uint32_t flags = r ? r->flags : moved_flags(take);
		void *addr = (void *)(uintptr_t)at;
		uffd_unregister(take->uffd, at, end - at);
		if (!(flags & FERRY_RANGE_DONTFORK))
			madvise(addr, end - at, MADV_DOFORK);
		if (flags & FERRY_RANGE_MERGEABLE)
			madvise(addr, end - at, MADV_MERGEABLE);
	}
}

/* Where the ranges were mapped at first. */
static void each_range(struct ferry_take *take, piece_fn fn, void *arg)
{
	for (unsigned int i = 0; i < take->offer.nranges; i++) {
		const struct ferry_range *r = &take->ranges[i];
		struct piece piece = {take->addrs[i], take->addrs[i] + r->len,
				      r->flags & FERRY_RANGE_SHARED};
		if (take->addrs[i])
			fn(take, &piece, arg);
	}
}

/* The VmFlags line of smaps ends the entry of a mapping. */
static bool is_registered(const char *line, struct piece *piece)
{
	piece->shared = strstr(line, " ui ") != NULL;
	return piece->shared || strstr(line, " um ");
}

/*
 * Registering again what is registered with us changes nothing; what is another's is refused. As
 * long as no event is in the way the piece is still where we have just seen it, and nothing else is
 * there; else it can't be said: -EAGAIN.
 */
static int is_ours(const struct ferry_take *take, const struct piece *piece)
{
	uint64_t mode = piece->shared ? UFFDIO_REGISTER_MODE_MINOR : UFFDIO_REGISTER_MODE_MISSING;

	if (resolve_is_blocked(take->uffd))
		return -EAGAIN;
	int ret = uffd_register(take->uffd, piece->start, piece->end - piece->start, mode, NULL);
	return ret && ret != -EBUSY ? -EAGAIN : !ret;
}

/*
 * Returns how many there were, or -errno; -EAGAIN: an event was in the way of one, which was left
 * out. A line that is cut by its length never begins an entry.
 */
static int each_piece(struct ferry_take *take, piece_fn fn, void *arg)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	struct piece piece = {0};
	char line[512];
	bool begins = true, skipped = false;
	int found = 0, ours;

	if (!f)
		return -errno;
	for (; fgets(line, sizeof(line), f); begins = strchr(line, '\n') != NULL) {
		unsigned long long start, end;
		if (!begins)
			continue;
		if (sscanf(line, "%llx-%llx ", &start, &end) == 2) {
			piece.start = start;
			piece.end = end;
		} else if (!strncmp(line, "VmFlags:", 8) && is_registered(line, &piece)) {
			ours = is_ours(take, &piece);
			skipped |= ours < 0;
			found += ours > 0;
			if (ours > 0)
				fn(take, &piece, arg);
		}
	}
	bool failed = ferror(f);
	fclose(f);
	return failed ? -EIO : skipped ? -EAGAIN : found;
}

/* Until there are none, since the program goes on moving them about. */
static void each_piece_ends(struct ferry_take *take, piece_fn fn)
{
	for (int round = 0; round < ROUNDS_MAX; round++) {
		bool changed = read_events(take);
		int found = each_piece(take, fn, NULL);
		if (found == -EAGAIN)
			continue;
		if (found < 0)
			each_range(take, fn, NULL);
		if (found <= 0 && !changed && !resolve_is_blocked(take->uffd))
			return;
	}
}

/* The last descriptor of ours; the giver may hold another. */
static void close_uffd(struct ferry_take *take)
{
	close(take->uffd);
	take->uffd = -1;
}

void take_release(struct ferry_take *take, bool moved)
{
	if (!moved && !read_events(take))
		each_range(take, release, NULL);
	else
		moved = true;
	if (moved || read_events(take))
		each_piece_ends(take, release);
	close_uffd(take);
}

/* ---- what is missing */

struct count {
	uint64_t missing;
	bool is_enough; /* that something is missing; how much doesn't matter */
};

/* What the kernel doesn't tell of counts as missing. The file has all of shared memory. */
static void count_missing(struct ferry_take *take, const struct piece *piece, void *arg)
{
	struct scan scan;
	struct count *count = arg;
	uint64_t holes, len = piece->end - piece->start;

	(void)take;
	if (piece->shared || (count->missing && count->is_enough))
		return;
	scan_open(&scan);
	count->missing += scan_holes_sure(&scan, piece->start, len, &holes) ? len : holes;
	scan_close(&scan);
}

/*
 * Without its giver a hole may be a page that never came or one that the program has discarded:
 * only the giver has read of that. It counts as missing, since a loss that is none is an error that
 * is seen, and a zero that was never there is not.
 *
 * Nor may a piece be overlooked that the program has moved, during the look, to where the look had
 * been already. Its mremap waits until we have read of it, so that it can't stay unnoticed.
 */
bool take_has_all(struct ferry_take *take)
{
	for (int round = 0; round < ROUNDS_MAX; round++) {
		struct count count = {.is_enough = true};
		read_events(take);
		int found = each_piece(take, count_missing, &count);
		if (count.missing || (found < 0 && found != -EAGAIN))
			return false;
		if (!read_events(take) && found >= 0)
			return true;
	}
	return false;
}

static uint64_t bytes_missing(struct ferry_take *take)
{
	struct count count = {0};
	int found = each_piece(take, count_missing, &count);

	if (found < 0 && found != -EAGAIN) {
		count.missing = 0;
		each_range(take, count_missing, &count);
	}
	return count.missing;
}

/* ---- loss */

/*
 * A kernel without POISON (before 6.6): no access, so that a lost page is a SIGSEGV and never a
 * zero. Should there be too many mappings to forbid single pages, the rest is forbidden whole.
 */
static void forbid_missing(uint64_t addr, uint64_t len)
{
	struct scan scan;
	uint64_t holes;

	scan_open(&scan);
	for (uint64_t at = addr; at < addr + len; at += FERRY_PAGE) {
		if (!scan_holes_sure(&scan, at, FERRY_PAGE, &holes) && !holes)
			continue;
		if (mprotect((void *)(uintptr_t)at, FERRY_PAGE, PROT_NONE) < 0) {
			mprotect((void *)(uintptr_t)at, addr + len - at, PROT_NONE);
			break;
		}
	}
	scan_close(&scan);
}

static void give_up(struct ferry_take *take, const struct piece *piece, void *arg)
{
	uint64_t poisoned = 0, len = piece->end - piece->start;
	enum resolved r = RESOLVED_INSTALLED;
	int error;

	/* An unread event is in the way. */
	while (!piece->shared && (r = resolve_poison(take->uffd, piece->start, len, &poisoned,
						     &error)) == RESOLVED_DEFERRED)
		read_events(take);
	if (r == RESOLVED_FAILED)
		forbid_missing(piece->start, len);
	uffd_wake(take->uffd, piece->start, len);
	release(take, piece, arg);
}

void take_lose(struct ferry_take *take, int error)
{
	pthread_mutex_lock(&take->lock);
	bool tell = take->lost && !take->closing;
	pthread_mutex_unlock(&take->lock);
	if (tell)
		take->lost(take->arg, error, bytes_missing(take));
	each_piece_ends(take, give_up);
	close_uffd(take);
}
