// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <string.h>
#include <sys/swap.h>
#include <unistd.h>

#include "harness.h"
#include "proc.h"
#include "swapspace.h"

#define SIZE (128 * MIB)

/* What mkswap writes. */
static void make_swap(const char *path)
{
	static const char magic[] = {'S', 'W', 'A', 'P', 'S', 'P', 'A', 'C', 'E', '2'};
	static char page[PAGE];
	uint32_t *head = (uint32_t *)(page + 1024);
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	check_call(fd);
	head[0] = 1;
	head[1] = SIZE / PAGE - 1;
	memcpy(page + PAGE - sizeof(magic), magic, sizeof(magic));
	check_is(write(fd, page, PAGE), PAGE);
	check_call(fsync(fd));
	close(fd);
}

void swap_on(const char *path)
{
	/* A test that has failed has left its own. */
	swapoff(ZRAM);
	swapoff(DISK);
	if (!strcmp(path, ZRAM)) {
		check_is(file_write("/sys/block/zram0/reset", "1"), 0);
		check_is(file_write("/sys/block/zram0/disksize", "128M"), 0);
	}
	make_swap(path);
	check_call(swapon(path, 0));
}
