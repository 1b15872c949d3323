// SPDX-License-Identifier: MIT
/*
 * Serve memory from a file, page by page, as it is touched: counts the lines of FILE.
 *
 *     cc -D_GNU_SOURCE -O2 -pthread -o serve serve.c -lpageferry && ./serve FILE
 */
#include <err.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pageferry.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

static void *run(void *loop)
{
	if (ferry_loop_run(loop) < 0)
		errx(1, "cannot serve page faults");
	return NULL;
}

int main(int argc, char **argv)
{
	struct ferry_source *source;
	struct ferry_loop *loop;
	struct stat st;
	pthread_t thread;

	int file = argc == 2 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
	if (file < 0 || fstat(file, &st) || !S_ISREG(st.st_mode) || !st.st_size)
		errx(1, "give me the name of a file that is not empty");
	size_t len = ((size_t)st.st_size + 4095) & ~4095ul, lines = 0;
	char *mem = mmap(NULL, len, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	int uffd = ferry_uffd_open(UFFD_FEATURE_THREAD_ID, 0);
	struct uffdio_register reg = {{(uintptr_t)mem, len}, UFFDIO_REGISTER_MODE_MISSING, 0};
	if (mem == MAP_FAILED || uffd < 0 || ioctl(uffd, UFFDIO_REGISTER, &reg))
		errx(1, "no userfaultfd for this user: pageferry probe says why");

	if (ferry_source_file(&source, file, 0) || ferry_loop_new(&loop, NULL) ||
	    ferry_loop_watch(loop, uffd, reg.range.start, len, source, 0) ||
	    pthread_create(&thread, NULL, run, loop))
		errx(1, "out of memory or descriptors");
	for (off_t i = 0; i < st.st_size; i++)
		lines += mem[i] == '\n'; /* each page comes when it is touched first */
	ferry_loop_stop(loop);
	pthread_join(thread, NULL);
	ferry_loop_free(loop);
	ferry_source_free(source);
	printf("%zu\n", lines);
}
