// SPDX-License-Identifier: MIT
/*
 * Huge pages that arrive as huge pages. UFFDIO_COPY never makes one, so the taker reads the
 * giver's block into a huge page of its own beside, and the kernel moves that page into place whole.
 *
 * The taker reads, the giver doesn't write: all that a wrong process at the other end could do is to
 * hand out its own contents. A token, which the giver chose and keeps in its memory, shows that the
 * process we read from is the one that we talk to.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/take.h"
#include "lib/uffd.h"

static int read_giver(const struct stage *stage, void *to, uint64_t from, size_t len)
{
	while (len) {
		struct iovec local = { to, len }, remote = { (void *)(uintptr_t)from, len };
		ssize_t n = process_vm_readv(stage->giver, &local, 1, &remote, 1, 0);
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EFAULT;
		to = (char *)to + n;
		from += (size_t)n;
		len -= (size_t)n;
	}
	return 0;
}

static bool see_in_proc(pid_t giver, uint8_t *seen, size_t len, uint64_t addr)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)giver);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	bool ok = pread(fd, seen, len, (off_t)addr) == (ssize_t)len;
	close(fd);
	return ok;
}

/*
 * process_vm_readv() pins what it reads, which the kernel never forgets: whoever moves page tables out of such
 * a process has to look at each page. So the token is read in another way, if that can be had; a call that reads
 * nothing tells whether the first one is allowed.
 */
static int check_token(const struct stage *stage, uint64_t addr, const uint8_t token[16])
{
	struct iovec nothing = { NULL, 0 };
	uint8_t seen[16];

	if (see_in_proc(stage->giver, seen, sizeof(seen), addr) && !memcmp(seen, token, sizeof(seen)))
		return process_vm_readv(stage->giver, &nothing, 1, &nothing, 1, 0) < 0 ? -errno : 0;
	int ret = read_giver(stage, seen, addr, sizeof(seen));
	if (!ret && memcmp(seen, token, sizeof(seen)) != 0)
		ret = -ESRCH;
	return ret;
}

int stage_open(struct stage *stage, pid_t giver, uint64_t token_addr, const uint8_t token[16],
	       uint64_t features)
{
	*stage = (struct stage){ .giver = giver };
	if (!(features & UFFD_FEATURE_MOVE))
		return -EOPNOTSUPP;
	if (giver <= 0)
		return -ESRCH;
	int ret = check_token(stage, token_addr, token);
	if (ret)
		return ret;
	void *map = mmap(NULL, 2 * FERRY_HUGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return -ENOMEM;
	stage->map = map;
	stage->page = (void *)(((uintptr_t)map + FERRY_HUGE - 1) & ~(FERRY_HUGE - 1));
	/* Without huge pages it still works, page by page. */
	madvise(stage->page, FERRY_HUGE, MADV_HUGEPAGE);
	madvise(map, 2 * FERRY_HUGE, MADV_DONTFORK);
	return 0;
}

void stage_close(struct stage *stage)
{
	if (stage->map)
		munmap(stage->map, 2 * FERRY_HUGE);
	stage->map = NULL;
}

int stage_fill(struct stage *stage, uint64_t src)
{
	int ret = stage->map ? read_giver(stage, stage->page, src, FERRY_HUGE) : -ENOSYS;

	stage->full = !ret;
	return ret;
}

int stage_place(struct stage *stage, int uffd, uint64_t dst, uint64_t *done)
{
	struct ferry_move move = { .size = sizeof(move),
				   .uffd = uffd,
				   .flags = FERRY_MOVE_STRICT | (stage->full ? FERRY_MOVE_FULL : 0),
				   .dst = dst,
				   .src = (uintptr_t)stage->page,
				   .len = FERRY_HUGE };
	int ret = stage->map ? ferry_move(&move) : -ENOSYS;

	stage->full = false;
	*done = move.done;
	/* What is left of a page that went in part would keep the next one from being huge. */
	if (ret && stage->map)
		madvise(stage->page, FERRY_HUGE, MADV_DONTNEED);
	return ret;
}
