// SPDX-License-Identifier: MIT
/*
 * Memory across exec: a process replaces its own program twice and keeps its process id and
 * its anonymous memory.
 *
 *     cc -D_GNU_SOURCE -O2 -pthread -o exec exec.c -lpageferry && ./exec
 *
 * execve(2) drops all memory. So a child, made by fork(2), holds it meanwhile; the pages are
 * shared, not copied. The new program runs at once and gets them from the child, which then exits.
 * Should the new program fail to take over, the child still has everything. It only says so here;
 * a program with work to do would carry on in its place.
 */
#include <errno.h>
#include <fcntl.h>
#include <pageferry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS    (8u << 20)
#define PROGRAMS 3u

struct memory {
	uint64_t programs; /* that have run on it */
	uint64_t words[WORDS];
};
#define MEMORY_LEN ((sizeof(struct memory) + 4095) & ~4095ull)

static struct memory *const memory = (void *)0x200000000000;

static uint64_t pattern(uint64_t i)
{
	return (i + memory->programs) * 0x9e3779b97f4a7c15ull;
}

static int give(int sock)
{
	struct ferry_range range = {.addr = (uintptr_t)memory, .len = MEMORY_LEN};
	struct ferry_offer offer = {.ranges = &range, .nranges = 1};
	struct ferry_give *give = NULL;

	int ret = ferry_give_open(&give, sock, &offer, NULL);
	if (!ret)
		ret = ferry_give_wait(give, FERRY_PHASE_ATTACHED, -1);
	if (!ret)
		ret = ferry_give_shadow(give, NULL, 0);
	if (!ret)
		ret = ferry_give_wait(give, FERRY_PHASE_READY, -1);
	if (!ret)
		ret = ferry_give_commit(give);
	if (ret) {
		ferry_give_close(give, strerror(-ret));
		return ret;
	}
	ret = ferry_give_wait(give, FERRY_PHASE_DONE, -1);
	ferry_give_close(give, NULL);
	_exit(ret ? 1 : 0);
}

static int take(struct ferry_take **take, int sock)
{
	int ret = ferry_take_open(take, sock, NULL);
	if (!ret && (ferry_take_offer(*take)->nranges != 1 ||
		     ferry_take_offer(*take)->ranges[0].len != MEMORY_LEN))
		ret = -EPROTO;
	if (!ret)
		ret = ferry_take_map(*take, 0, memory);
	if (!ret)
		ret = ferry_take_attach(*take);
	if (!ret)
		ret = ferry_take_shadow(*take, NULL, NULL);
	return ret ? ret : ferry_take_commit(*take);
}

/* Check what the program before has left, page by page as it comes, and leave something else. */
static void work(void)
{
	unsigned int wrong = 0;

	for (uint64_t i = 0; memory->programs && i < WORDS; i++)
		wrong += memory->words[i] != pattern(i);
	printf("pid %d, program %llu: %u of %u words are wrong\n", getpid(),
	       (unsigned long long)memory->programs + 1, wrong, memory->programs ? WORDS : 0);
	if (wrong || fflush(stdout))
		exit(1);
	memory->programs++;
	for (uint64_t i = 0; i < WORDS; i++)
		memory->words[i] = pattern(i);
}

/* Returns -errno in the process that still has the memory, if the new program doesn't get it. */
static int replace_program(char *path)
{
	int pair[2], ret;
	char fd[16];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return -errno;
	pid_t child = fork();
	if (child == 0) {
		close(pair[1]);
		return give(pair[0]);
	}
	close(pair[0]);
	snprintf(fd, sizeof(fd), "%d", pair[1]);
	if (child > 0)
		execl(path, path, fd, NULL);
	ret = -errno;
	close(pair[1]); /* from which the child knows */
	return ret;
}

int main(int argc, char **argv)
{
	struct ferry_take *taken = NULL;
	int ret = 0;

	if (mmap(memory, MEMORY_LEN, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
		ret = -errno;
	if (!ret && argc == 2)
		ret = take(&taken, atoi(argv[1]));
	if (!ret)
		work();
	if (!ret && taken)
		ret = ferry_take_done(taken, -1);
	ferry_take_close(taken);
	if (taken)
		wait(NULL); /* for the child that held the memory */
	while (!ret && memory->programs < PROGRAMS)
		ret = replace_program("/proc/self/exe");
	if (ret)
		fprintf(stderr, "exec: %s%s\n", strerror(-ret),
			ret == -EPERM ? ": no userfaultfd? see pageferry probe" : "");
	return ret ? 1 : 0;
}
