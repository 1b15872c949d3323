// SPDX-License-Identifier: MIT
/* Source: a file, read on demand. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/uffd.h"

struct file_source {
	struct ferry_source src;
	int fd;
	uint64_t start;
	char page[FERRY_PAGE];
};

/* A page of the file; what is beyond its end is zero. */
static int read_page(struct file_source *f, uint64_t at)
{
	size_t got = 0;

	while (got < FERRY_PAGE) {
		ssize_t n = pread(f->fd, f->page + got, FERRY_PAGE - got, (off_t)(at + got));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		got += (size_t)n;
	}
	memset(f->page + got, 0, FERRY_PAGE - got);
	return got != 0;
}

static int answer_file(struct ferry_source *src, const struct ferry_fault *fault,
		       struct ferry_answer *answer)
{
	struct file_source *f = (struct file_source *)src;

	/* What is there already may have been written to since. */
	if (fault->kind != FERRY_FAULT_MISSING)
		return ferry_source_shared()->answer(src, fault, answer);
	if (fault->offset > INT64_MAX - f->start - FERRY_PAGE)
		return -ERANGE;
	int ret = read_page(f, f->start + fault->offset);
	if (ret < 0)
		return ret;
	answer->kind = ret ? FERRY_ANSWER_COPY : FERRY_ANSWER_ZERO;
	answer->from = f->page;
	return 0;
}

static void free_file(struct ferry_source *src)
{
	free(src);
}

int ferry_source_file(struct ferry_source **src, int fd, uint64_t start)
{
	if (start % FERRY_PAGE || start > INT64_MAX)
		return -EINVAL;
	struct file_source *f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->src = (struct ferry_source){ .answer = answer_file, .free = free_file };
	f->fd = fd;
	f->start = start;
	*src = (struct ferry_source *)f;
	return 0;
}
